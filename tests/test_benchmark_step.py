"""The benchmark of training steps: ways that do not fit into memory, what each way trains, the tables."""

import pytest
import torch

from benchmarks import memory, tables

pytest.importorskip("torchvision", reason="a training step needs torchvision")
pytest.importorskip("tyro", reason="a training step needs frs_train, which needs tyro")

from benchmarks import test_step as steps  # noqa: E402

# On a CPU, torch 2.11 leaves parts of the gradient of a bfloat16 convolution of stride 2 uninitialized where
# its input is one location, as level P6 of 64 pixels is.
TINY = steps.Step("resnet18", "resnet10", 4, 128, 128, "bf16", feat_width=64)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_a_shortage_of_memory_is_recognised(error):
    with memory.Shortage() as short:
        raise error
    assert short.happened


def test_other_errors_and_none_are_no_shortage():
    with memory.Shortage() as short:
        pass
    assert not short.happened
    with pytest.raises(RuntimeError, match="size of tensor"), memory.Shortage() as short:
        raise RuntimeError("The size of tensor a (2) must match the size of tensor b (3)")
    assert not short.happened


def test_ways_that_do_not_fit_leave_the_others_and_their_largest_batch(monkeypatch):
    ran = []

    class Training:
        """Fits as long as this way's batch does."""

        def __init__(self, step, way, device):
            self.way, self.batch = way, step.batch

        def __call__(self):
            if self.batch > {"official": 1, "official, bf16 teacher": 0}.get(self.way, 4):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            ran.append((self.way, self.batch))

    monkeypatch.setattr(steps, "Training", Training)
    trainings, peaks = steps._that_fit(TINY, "cpu")
    assert list(trainings) == list(peaks) == ["ours", "no teacher"]
    assert set(ran) == {("ours", 4), ("no teacher", 4)}
    assert steps._largest_batch(TINY, "official", "cpu") == 1
    assert steps._largest_batch(TINY, "official, bf16 teacher", "cpu") == 0


@pytest.mark.parametrize("way", TINY.ways)
def test_a_step_trains_the_student_and_leaves_the_teacher(way):
    training = steps.Training(TINY, way, "cpu")
    training()
    trained = dict(training.learner.named_parameters())
    assert all(parameter.grad is not None for parameter in trained.values())
    assert all(torch.isfinite(parameter.grad).all() for parameter in trained.values())
    if way.startswith("official"):
        teacher = training.learner.teacher
        assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())


def test_the_parts_make_up_a_step():
    training = steps.Training(TINY, "ours", "cpu")
    parts = steps._parts(training, "cpu", rounds=2)
    assert tuple(parts) == steps.PARTS and all(part["median"] > 0 for part in parts.values())
    modules = training.learner.student, training.learner.loss, training.learner.loss.adapter
    assert not any(module._forward_hooks for module in modules)


def test_the_teacher_alone_is_that_of_our_step():
    training = steps.Training(TINY, "ours", "cpu")
    ran = []
    training.learner.teacher.register_forward_hook(lambda module, inputs, output: ran.append(output))
    training()
    training.teach()
    in_step, alone = ran
    assert in_step.masks and not alone.masks
    torch.testing.assert_close(alone.feats + alone.cls_logits, in_step.feats + in_step.cls_logits)
    assert alone.feats[0].dtype == torch.bfloat16 and alone.feats[0].is_inference()


def test_the_tables_show_parts_and_ways_without_memory():
    part = {"median": 0.02, "peak_bytes": 3_000_000}
    turn = {"median": 0.1}

    class Run:
        source = "here"
        steps = [{"step": "S", "turns": {"ours": turn, "no teacher": turn}, "peak_bytes": {"ours": 1e9,
                  "no teacher": 1e9}, "largest_batch": {"official": 4}, "parts": {"loss": part}}]  # fmt: skip

    assert "| S | official | out of memory | largest batch 4 | - |" in tables.steps(Run)
    assert "| S | loss | 20 ms | 100.0% | 3.0 |" in tables.step_parts(Run)
    Run.steps[0].pop("parts")
    Run.steps[0].pop("largest_batch")
    assert "official" not in tables.steps(Run) and tables.step_parts(Run) == ""


def test_the_table_of_the_distillation_shows_what_was_measured():
    medians = {"teacher": 0.3, "student": 0.4, "adapters": 0.02, "loss": 0.01, "backward": 0.8}
    measured = {
        "step": "S",
        "turns": {"ours": {"median": 1.6}, "no teacher": {"median": 1.2}},
        "parts": {part: {"median": median} for part, median in medians.items()},
        "teacher_alone": {"prepared": {"median": 0.32}, "as built": {"median": 0.4}},
    }

    class Run:
        source = "here"
        steps = [measured]

    table = tables.distillation(Run)
    assert "| S | 400.0 | 300.0 | 20.0 | 10.0 | 70.0 | 320.0 (1.25x) | 400.0 (1.00x) |" in table
    Run.steps = [{key: value for key, value in measured.items() if key != "teacher_alone"}]
    table = tables.distillation(Run)
    assert "| S | 400.0 | 300.0 | 20.0 | 10.0 | 70.0 | not measured | not measured |" in table
    Run.steps = [measured | {"turns": {"ours": {"median": 1.6}}}, measured | {"parts": {}}]
    assert tables.distillation(Run) == ""
