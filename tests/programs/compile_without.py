"""Compiles a loss and its backward where torch seems to lack a private name; compares them with eager.

compile_without.py mark|inductor|transforms
"""

import sys

import torch

from frs_kernels import torch_private

missing = sys.argv[1]
if missing == "mark":
    torch_private.mark_constant = lambda function: None
elif missing == "inductor":
    torch_private.inductor = lambda: None
else:
    torch_private._transforms_are_active = None

import frs_kernels as frs  # noqa: E402

torch.manual_seed(0)
x, y, s, t = ([torch.randn(2, channels, 5, 7)] for channels in (4, 4, 6, 6))


def gradients(function) -> list[torch.Tensor]:
    feats, logits = ([tensor.clone().requires_grad_() for tensor in levels] for levels in (x, s))
    total = function(feats, logits)
    (2 * total).backward()
    return [total.detach(), feats[0].grad, logits[0].grad]


def loss(feats, logits):
    return frs.frs_loss(student_feats=feats, teacher_feats=y, student_logits=logits, teacher_logits=t).total


def eager(feats, logits):
    return frs.frs_loss(
        student_feats=feats, teacher_feats=y, student_logits=logits, teacher_logits=t, backend="eager"
    ).total


torch.testing.assert_close(gradients(torch.compile(loss)), gradients(eager))
print("compiled and eager agree")
