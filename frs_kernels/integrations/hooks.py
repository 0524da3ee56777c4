"""Plain PyTorch: take feature pyramids and per-level logits out of any detector, without touching its code.

:class:`Capture` collects what named submodules return; :class:`Distiller` puts a student, its teacher and
the loss into one module, which is what DistributedDataParallel has to wrap.
"""

import difflib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from frs_kernels.modules import FRSDistillationLoss
from frs_kernels.reference import FRSLossOutput

Source = str | tuple[str, Callable]


class Capture:
    """Collects the outputs of submodules while their model runs.

    ::

        seen = Capture(model, feats="backbone.fpn", logits="head.cls_logits")
        model(images)
        seen["feats"], seen["logits"]         # lists of tensors, one a level

    A module that returns a list or a dict of levels gives one tensor each; a module that is called once a
    level (a convolution shared between levels) gives one tensor a call, in the order of the calls. What an
    earlier forward of the model has left is dropped when the model is called again. Copies and pickles of
    the model (an EMA, a checkpoint) capture nothing.

    Args:
        model: any module; wrappers (DistributedDataParallel, DataParallel, torch.compile) are looked through.
        sources: a name for each thing to collect, and where it comes from: the path of a submodule as in
            ``model.named_modules()``, or ``(path, pick)`` where ``pick(output)`` chooses from its output.

    Raises:
        ValueError: for a path that the model does not have.
    """

    def __init__(self, model: nn.Module, **sources: Source):
        root = unwrapped(model)
        self._seen: dict[str, list[Tensor]] = {name: [] for name in sources}
        self._paths: dict[str, str] = {}
        self._handles = [root.register_forward_pre_hook(_Hook(self.clear))]
        for name, source in sources.items():
            path, pick = (source, _everything) if isinstance(source, str) else source
            self._paths[name] = path
            hook = _Hook(_Collector(self._seen[name], pick))
            self._handles.append(_submodule(root, path).register_forward_hook(hook))

    def __getitem__(self, name: str) -> list[Tensor]:
        """The tensors collected under ``name`` since the model was last called, one a level."""
        if not self._seen[name]:
            raise RuntimeError(
                f"{name}: module {self._paths[name]!r} has not been called since the last forward of the "
                "model began; a call of its forward() method itself runs no hooks"
            )
        return list(self._seen[name])

    def clear(self, *_) -> None:
        """Lets go of the tensors (and of the autograd graphs that hang on them)."""
        for tensors in self._seen.values():
            tensors.clear()

    def remove(self) -> None:
        """Takes the hooks off the model."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_) -> None:
        self.remove()


class Distiller(nn.Module):
    """A student, its frozen teacher and the loss in one forward.

    The loss uses tensors from inside the student, which DistributedDataParallel around the student alone
    would not know about; around this module it sees them all. The teacher is in evaluation mode and no
    part of ``parameters()`` or ``state_dict()``; ``distiller.student.state_dict()`` is a checkpoint of the
    student alone.

    Args:
        student, teacher: the detectors.
        criterion: adapters, loss weights and warm-up.
        student_sources, teacher_sources: where :class:`Capture` finds ``feats`` and ``logits``; the teacher's
            default to the student's. Without ``logits`` of the student there is no head term.
        accumulate: forwards that make one optimiser step, where the criterion has not been told.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        criterion: FRSDistillationLoss,
        student_sources: Mapping[str, Source],
        teacher_sources: Mapping[str, Source] | None = None,
        *,
        accumulate: int | None = None,
    ):
        super().__init__()
        self.student = student
        self.criterion = criterion
        if accumulate is not None:
            criterion.count_steps(accumulate)
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple: not a registered submodule
        self._of_student = Capture(student, **student_sources)
        self._of_teacher = Capture(teacher, **(teacher_sources or student_sources))
        self._has_head = "logits" in student_sources

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def run_teacher(self, *args, **kwargs) -> None:
        """Calls the teacher, with the first argument only (the images); override it for another one."""
        self.teacher(args[0])

    def forward(self, *args, **kwargs) -> tuple[object, FRSLossOutput]:
        """Arguments of the student's forward; returns its output and the distillation loss."""
        with torch.no_grad():
            self.run_teacher(*args, **kwargs)
        output = self.student(*args, **kwargs)
        student, teacher = self._of_student, self._of_teacher
        loss = self.criterion(
            student["feats"],
            teacher["feats"],
            teacher["logits"],
            student["logits"] if self._has_head else None,
        )
        student.clear()
        teacher.clear()
        return output, loss

    def _apply(self, fn, recurse=True):
        self.teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and torch.compile."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else unwrapped(compiled)


def tensors_in(output) -> list[Tensor]:
    """The tensors of a module's output, in order: of a tensor, a mapping's values, nested sequences."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = output.values()
    elif not isinstance(output, (list, tuple)):
        raise TypeError(f"expected tensors, or lists or dicts of them, got {type(output).__name__}")
    return [tensor for part in output for tensor in tensors_in(part)]


def class_logits(output) -> list[Tensor]:
    """The levels of classification logits in what a head returns.

    That is one tensor, a sequence of levels, or the (classification, boxes, ...) of levels each that heads
    of MMDetection, detectron2 and torchvision's RPN return: the first is taken.
    """
    if isinstance(output, (list, tuple)) and output and not isinstance(output[0], Tensor):
        output = output[0]
    return tensors_in(output)


def _everything(output):
    return output


class _Collector:
    def __init__(self, into: list[Tensor], pick: Callable):
        self.into, self.pick = into, pick

    def __call__(self, module, inputs, output) -> None:
        self.into.extend(tensors_in(self.pick(output)))


class _Hook:
    """A hook that does nothing any more in a copy or a pickle of its module."""

    def __init__(self, action: Callable | None = None):
        self.action = action

    def __call__(self, *arguments) -> None:
        if self.action is not None:
            self.action(*arguments)

    def __reduce__(self):
        return _Hook, ()


def _submodule(root: nn.Module, path: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        paths = [name for name, _ in root.named_modules()]
        near = difflib.get_close_matches(path, paths, n=3)
        raise ValueError(f"{type(root).__name__} has no submodule {path!r}; near it: {near}") from error
