"""Capture and Distiller on modules with the interfaces of common detectors."""

import copy
import io
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny_detector import TinyDetector
from torch import nn

import frs_kernels as frs
from frs_kernels.integrations.hooks import Capture, Distiller, class_logits, unwrapped

SOURCES = {"feats": "neck", "logits": "bbox_head.cls_logits"}


def criterion(**kwargs) -> frs.FRSDistillationLoss:
    return frs.FRSDistillationLoss(8, 12, 3, warmup_iters=0, feat_weight=1.0, head_weight=1.0, **kwargs)


def test_collects_a_dict_of_levels_and_a_module_called_once_per_level(student, images):
    seen = Capture(student, **SOURCES)
    student(images)
    feats = list(student.neck(images).values())
    assert [x.shape for x in seen["feats"][:3]] == [x.shape for x in feats]
    assert len(seen["logits"]) == 3
    for logits, feat in zip(seen["logits"], feats, strict=True):
        torch.testing.assert_close(logits, student.bbox_head.cls_logits(feat))


def test_a_new_forward_of_the_model_discards_the_tensors_of_the_last(student, images):
    seen = Capture(student, **SOURCES)
    for _ in range(3):
        student(images)
        assert len(seen["logits"]) == 3


def test_pick_chooses_from_the_output(student, images):
    """Heads of detectron2 (logits, deltas) and of MMDetection (cls, reg, ...)."""
    seen = Capture(student, logits=("bbox_head", lambda output: output[0]), feats=("neck", lambda d: d["p1"]))
    student(images)
    assert [x.shape[1] for x in seen["logits"]] == [6, 6, 6]
    assert len(seen["feats"]) == 1


def test_the_captured_tensors_carry_gradients(student, images):
    seen = Capture(student, **SOURCES)
    student(images)
    sum(x.sum() for x in seen["logits"]).backward()
    assert student.neck.stem.weight.grad.abs().sum() > 0


def test_copies_and_pickles_of_the_model_capture_nothing(student, images):
    seen = Capture(student, **SOURCES)
    student(images)
    averaged = copy.deepcopy(student)  # as an EMA does, between forward and backward
    expected = [x.data_ptr() for x in seen["feats"]]
    averaged(images)
    assert [x.data_ptr() for x in seen["feats"]] == expected
    file = io.BytesIO()
    torch.save(student, file)
    file.seek(0)
    torch.load(file, weights_only=False)(images)
    assert [x.data_ptr() for x in seen["feats"]] == expected


def test_remove_takes_every_hook_off(student, images):
    with Capture(student, **SOURCES):
        assert student._forward_pre_hooks and student.neck._forward_hooks
    assert not student._forward_pre_hooks
    assert not any(module._forward_hooks for module in student.modules())


def test_wrong_paths_and_modules_that_were_not_called_raise(student, images):
    with pytest.raises(ValueError, match="no submodule 'bbox_head.cls_logit'.*bbox_head.cls_logits"):
        Capture(student, logits="bbox_head.cls_logit")
    seen = Capture(student, **SOURCES)
    with pytest.raises(RuntimeError, match="'neck' has not been called"):
        seen["feats"]


def test_looks_through_torch_compile(student, images):
    eager = Capture(student, **SOURCES)
    student(images)
    expected = [x.detach().clone() for x in eager["feats"] + eager["logits"]]
    eager.remove()
    compiled = torch.compile(student, backend="eager")
    seen = Capture(compiled, **SOURCES)
    assert unwrapped(compiled) is student
    for _ in range(2):
        compiled(images)
        torch.testing.assert_close([x.detach() for x in seen["feats"] + seen["logits"]], expected)


def test_class_logits_takes_the_classification_of_a_heads_output():
    cls, reg = [torch.zeros(1, 6, 4, 4), torch.zeros(1, 6, 2, 2)], [torch.zeros(1, 4, 4, 4)] * 2
    for output in (cls, (cls, reg), [cls, reg, reg], {"0": cls[0], "1": cls[1]}):
        assert [x.shape for x in class_logits(output)] == [x.shape for x in cls]
    assert len(class_logits(cls[0])) == 1


def test_distiller_is_frs_loss_of_what_was_captured(student, teacher, images):
    distiller = Distiller(student, teacher, criterion(), SOURCES)
    output, loss = distiller(images)
    feats, teacher_feats = ([*m.neck(images).values()] for m in (student, teacher))
    logits, teacher_logits = student.bbox_head(feats)[0], teacher.bbox_head(teacher_feats)[0]
    expected = frs.reference.frs_loss(
        distiller.criterion.adapter(feats),
        teacher_feats,
        student_logits=logits,
        teacher_logits=teacher_logits,
    )
    torch.testing.assert_close(vars(loss), vars(expected))
    assert set(output) == {"cls", "box"}


def test_distiller_without_student_logits_has_no_head_term(student, teacher, images):
    distiller = Distiller(student, teacher, criterion(), {"feats": "neck"}, SOURCES)
    _, loss = distiller(images)
    assert loss.head == 0
    assert loss.feature > 0


def test_the_teacher_stays_frozen_and_out_of_checkpoints(student, teacher, images):
    distiller = Distiller(student, teacher.train(), criterion(), SOURCES).train()
    assert not teacher.training
    assert not any("teacher" in name for name in distiller.state_dict())
    assert all(not p.requires_grad for p in teacher.parameters())
    distiller.double()
    assert next(teacher.parameters()).dtype == torch.float64
    output, loss = distiller(images.double())
    (sum(output.values()) + loss.total).backward()
    assert all(p.grad is not None for p in distiller.parameters())
    fresh = type(student)(8)
    fresh.load_state_dict(distiller.student.state_dict())


def test_activation_checkpointing_does_not_disturb_the_loss(student, teacher, images):
    expected = Distiller(copy.deepcopy(student), teacher, criterion(), SOURCES)
    neck, head = student.neck, student.bbox_head
    student.forward = lambda x: {
        "cls": torch.utils.checkpoint.checkpoint(
            lambda y: sum(z.mean() for z in head([*neck(y).values()])[0]), x, use_reentrant=False
        )
    }
    distiller = Distiller(student, teacher, criterion(), SOURCES)
    distiller.criterion.load_state_dict(expected.criterion.state_dict())
    for model in (expected, distiller):
        model(images)[1].total.backward()
    for ours, theirs in zip(distiller.student.parameters(), expected.student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def warm_distiller() -> Distiller:
    """Both weights reach 1 after four optimizer steps."""
    torch.manual_seed(0)
    loss = frs.FRSDistillationLoss(8, 12, 3, feat_weight=1.0, head_weight=1.0, warmup_iters=4)
    return Distiller(TinyDetector(8), TinyDetector(12), loss, SOURCES)


def factors_of_a_run(distiller: Distiller, images, forwards: int, accumulate: int) -> list[float]:
    """The warm-up factor of every forward, from the loss and that of the same weights at the full ones."""
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-3)
    distiller.criterion.count_steps(optimizer)
    factors = []
    for forward in range(1, forwards + 1):
        _, loss = distiller(images)
        with torch.no_grad():
            full = copy.deepcopy(distiller.criterion)
            full.warmup_iters = 0
            whole = Distiller(distiller.student, distiller.teacher, full, SOURCES)(images)[1]
        factors.append(loss.total.item() / whole.total.item())
        loss.total.backward()
        if forward % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()
    return factors


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_warm_up_counts_optimizer_steps_and_goes_on_in_a_resumed_run(images, accumulate):
    first, resumed = warm_distiller(), warm_distiller()
    factors = factors_of_a_run(first, images, 3 * accumulate, accumulate)
    assert first.criterion.iteration == 3
    resumed.load_state_dict(first.state_dict())
    factors += factors_of_a_run(resumed, images, 2 * accumulate, accumulate)
    expected = [step / 4 for step in (0, 1, 2, 3, 4) for _ in range(accumulate)]
    assert factors == pytest.approx(expected, rel=1e-4)


def test_a_warm_up_that_does_not_know_the_steps_raises_in_training_only(images):
    distiller = warm_distiller()
    with pytest.raises(RuntimeError, match="warm-up of 4 steps .*count_steps.optimizer."):
        distiller(images)
    assert distiller.eval()(images)[1].total == 0


def _train_rank(rank: int, folder: str, options: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    student = TinyDetector(8)
    teacher = TinyDetector(12)
    distiller = Distiller(student, teacher, criterion(), SOURCES)
    model = nn.parallel.DistributedDataParallel(distiller, **options)
    images = torch.randn(4, 3, 48, 64, generator=torch.Generator().manual_seed(2)).chunk(2)[rank]
    for step in range(2):  # a reducer that missed a gradient raises in the second step
        output, loss = model(images)
        assert isinstance(loss, frs.FRSLossOutput) and set(output) == {"cls", "box"}
        assert not loss.feature_levels.requires_grad
        (sum(output.values()) + loss.total).backward()
        if step == 0:
            grads = [p.grad.clone() for p in model.parameters()]
            torch.save(grads, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"find_unused_parameters": True}])
def test_distributed_data_parallel_averages_every_gradient(tmp_path, options):
    mp.spawn(_train_rank, args=(str(tmp_path), options), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)

    torch.manual_seed(0)
    alone = Distiller(TinyDetector(8), TinyDetector(12), criterion(), SOURCES)
    for images in torch.randn(4, 3, 48, 64, generator=torch.Generator().manual_seed(2)).chunk(2):
        output, loss = alone(images)
        ((sum(output.values()) + loss.total) / 2).backward()
    torch.testing.assert_close(one, [p.grad for p in alone.parameters()])
