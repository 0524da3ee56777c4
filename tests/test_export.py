"""torch.export and torch.jit.trace: a recorded module computes what the module does, gradients included."""

import io

import pytest
import torch
from loss_cases import arguments

import frs_kernels as frs

pytestmark = [
    pytest.mark.slow_interpreted,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning"),
]
SIZES = ((5, 7), (3, 4))


class Distillation(torch.nn.Module):
    """A loss with a convolution in front; the result is an FRSLossOutput or its total."""

    def __init__(self, backend, only_total):
        super().__init__()
        self.convolution = torch.nn.Conv2d(8, 8, 1)
        self.backend, self.only_total = backend, only_total

    def forward(self, student_feats, teacher_feats, student_logits, teacher_logits):
        loss = frs.frs_loss(
            [self.convolution(feat) for feat in student_feats], teacher_feats,
            student_logits=student_logits, teacher_logits=teacher_logits, backend=self.backend,
        )  # fmt: skip
        return loss.total if self.only_total else loss


def inputs(target, **options):
    return tuple(arguments(sizes=SIZES, device=target.device, **options).values())


def saved_and_loaded(recorded, save, load):
    file = io.BytesIO()
    save(recorded, file)
    file.seek(0)
    return load(file)


@pytest.mark.parametrize("only_total", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_an_exported_module(target, wanted, strict, only_total):
    for backend in ("auto", "eager") if wanted else (target.backend, "eager"):
        module = Distillation(backend, only_total).to(target.device).requires_grad_(wanted)
        exported = torch.export.export(module, inputs(target), strict=strict)
        again = saved_and_loaded(exported, torch.export.save, torch.export.load)
        expected = module(*inputs(target))
        for program in (exported, again):
            graph = program.module()
            actual = graph(*inputs(target))
            assert type(actual) is type(expected)
            totals = [loss if only_total else loss.total for loss in (actual, expected)]
            torch.testing.assert_close(*totals)
            assert [total.requires_grad for total in totals] == [wanted, wanted]
            if wanted:
                (gradient,) = torch.autograd.grad(totals[0], graph.convolution.weight)
                (exact,) = torch.autograd.grad(totals[1], module.convolution.weight, retain_graph=True)
                torch.testing.assert_close(gradient, exact)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_traced_module(target, wanted):
    for backend in ("auto", "eager"):
        module = Distillation(backend, only_total=True).to(target.device).requires_grad_(wanted)
        traced = torch.jit.trace(module, inputs(target))
        loaded = saved_and_loaded(traced, torch.jit.save, torch.jit.load)
        others = tuple([t + 1 for t in levels] for levels in inputs(target))
        actual, expected = loaded(*others), module(*others)
        torch.testing.assert_close(actual, expected)
        if wanted:
            gradient = torch.autograd.grad(actual, loaded.convolution.weight)
            torch.testing.assert_close(gradient, torch.autograd.grad(expected, module.convolution.weight))


def test_a_graph_without_the_gradients_that_are_wanted_is_refused(target):
    module = Distillation(target.backend, only_total=True).to(target.device)
    message = f"'{target.backend}' cannot run: only eager"
    with pytest.raises(RuntimeError, match=message):
        torch.jit.trace(module, inputs(target))
    for strict in (False, True):
        with pytest.raises(Exception, match=message):
            torch.export.export(module, inputs(target), strict=strict)
        with torch.no_grad():
            exported = torch.export.export(module, inputs(target), strict=strict)
        torch.testing.assert_close(exported.module()(*inputs(target)), module(*inputs(target)))
