"""Compares the installed CPU kernels with eager PyTorch, and prints whether the CUDA library loads.

Needs nothing but torch and the installed package: `make wheel-check` runs it in environments of their own.
"""

import torch

import frs_kernels as frs


def levels(channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.randn(2, channels, size, size + 1).to(dtype) for size in (9, 4)]


for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    torch.manual_seed(0)
    x, y, s, t = levels(16, dtype), levels(16, dtype), levels(12, dtype), levels(12, dtype)
    results = {}
    for backend in ("native", "eager"):
        feats = [v.clone().requires_grad_() for v in x]
        logits = [v.clone().requires_grad_() for v in s]
        loss = frs.frs_loss(feats, y, student_logits=logits, teacher_logits=t, backend=backend)
        loss.total.backward()
        results[backend] = [loss.total.detach()] + [v.grad for v in feats + logits]
    for ours, eager in zip(results["native"], results["eager"], strict=True):
        torch.testing.assert_close(ours, eager)
cuda = frs.library.load_native("cuda") if torch.version.cuda else "torch is a build without CUDA"
print(f"torch {torch.__version__}: CPU kernels agree with eager; CUDA library: {cuda or 'loads'}")
