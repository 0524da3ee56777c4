"""Which backend runs, and what is said about the others."""

import pytest
import torch
from cases import tensors

import frs_kernels as frs
from frs_kernels import dispatch
from frs_kernels.backends import native
from frs_kernels.contract import MAX_LEVELS
from frs_kernels.inputs import LossInputs


def test_eager_is_always_available():
    assert "eager" in frs.available_backends()


def test_an_unknown_backend_is_refused(refused):
    message = refused(frs.frs_mask, torch.zeros(1, 2, 3, 3), backend="cuda")
    assert message == "backend 'cuda' is none of ('auto', 'native', 'triton', 'eager')"


def test_the_report_covers_every_backend():
    logits = tensors(6)
    report = frs.explain_backend(student_logits=logits, teacher_logits=logits)
    assert {report.chosen, *report.reasons} == set(dispatch.BACKENDS)
    assert all(len(reason) > 10 for reason in report.reasons.values())
    assert str(report).startswith(f"{report.chosen}: runs\n")


def test_the_report_obeys_the_requested_backend():
    logits = tensors(6)
    report = frs.explain_backend(student_logits=logits, teacher_logits=logits, backend="eager")
    assert report.chosen == "eager" and "eager" not in report.reasons


ORDER = ("native", "triton", "eager")


def test_native_comes_before_triton_and_triton_before_eager():
    assert dispatch.PREFERENCE == {"cpu": ORDER, "cuda": ORDER, "xpu": ORDER[1:]}


def test_auto_takes_the_best_that_runs():
    logits = tensors(6)
    chosen = frs.explain_backend(student_logits=logits, teacher_logits=logits).chosen
    assert chosen == next(name for name in ORDER if name in frs.available_backends())
    assert frs.available_backends() == [name for name in ORDER if name in frs.available_backends()]


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(dispatch.BACKENDS["native"], "load_native", lambda device: "it was not built")
    with pytest.raises(RuntimeError, match="backend 'native' cannot run: it was not built"):
        frs.frs_mask(torch.zeros(1, 2, 3, 3), backend="native")
    assert frs.frs_mask(torch.zeros(1, 2, 3, 3)).shape == (1, 3, 3)


@pytest.mark.parametrize(
    "archs, capability, runs",
    [
        (["9.0"], (9, 0), True),
        (["9.0"], (8, 0), False),
        (["9.0"], (10, 0), False),
        (["8.0"], (8, 9), True),
        (["8.9"], (8, 6), False),
        (["8.0", "12.0+PTX"], (12, 1), True),
        (["8.0+PTX"], (9, 0), True),
        (["9.0+PTX"], (8, 0), False),
        (["9.0a"], (9, 0), True),
        (["10.0a"], (10, 3), False),
        (["9.0a+PTX"], (10, 0), False),
        (["10.0f"], (10, 3), True),
        (["10.0f+PTX"], (12, 0), False),
    ],
)
def test_a_build_covers_the_gpus_that_can_run_its_code(archs, capability, runs):
    assert native.covers(archs, capability) == runs


def test_a_gpu_without_compiled_code_is_left_to_another_backend(monkeypatch):
    """Without this "auto" would end in an error of CUDA's, at the first launch."""
    monkeypatch.setattr(native, "build_info", lambda: {"cuda_archs": ["9.0"]})
    assert native.no_code_for((9, 0)) is None
    message = native.no_code_for((8, 0))
    assert "built for 9.0" in message and "TORCH_CUDA_ARCH_LIST=8.0" in message


def test_fake_gpu_tensors_need_no_gpu():
    with torch._subclasses.FakeTensorMode():
        logits = [torch.empty(1, 6, 4, 4, device="cuda") for _ in range(2)]
        report = frs.explain_backend(student_logits=logits, teacher_logits=logits)
    if native.load_native("cuda") is None:
        assert report.chosen == "native"
    else:
        assert report.chosen in ("triton", "eager")


def test_tensors_on_other_devices_go_to_eager():
    logits = [t.to("meta") for t in tensors(6)]
    assert frs.explain_backend(student_logits=logits, teacher_logits=logits).chosen == "eager"
    assert frs.frs_mask(logits)[0].device.type == "meta"


def test_more_levels_than_the_kernels_take_go_to_eager():
    logits = tensors(3, sizes=[(2, 2)] * (MAX_LEVELS + 1))
    report = frs.explain_backend(student_logits=logits, teacher_logits=logits)
    assert report.chosen == "eager"
    assert f"{MAX_LEVELS + 1} levels" in dispatch.why_not("native", LossInputs(teacher_logits=logits))
    assert len(frs.frs_mask(logits)) == len(logits)


def test_the_kernels_take_the_largest_number_of_levels(target):
    logits = tensors(3, sizes=[(2, 2)] * MAX_LEVELS, device=target.device)
    actual, expected = (
        frs.frs_loss(None, None, student_logits=logits, teacher_logits=logits, backend=backend).total
        for backend in (target.backend, "eager")
    )
    torch.testing.assert_close(actual, expected)
