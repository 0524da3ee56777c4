"""Plain PyTorch: captures features and logits of every level in any detector, without a change of its code.

:class:`Capture` collects the outputs of named submodules. :class:`Distiller` combines a student, its teacher
and the loss in one module, which DistributedDataParallel can wrap.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..modules import FRSDistillationLoss
from ..output import FRSLossOutput

# What modules return and take has no type of its own: any nesting of tensors, or a class of the detector.
Source = str | tuple[str, Callable[[Any], Any]]


class Capture:
    """Collects the outputs of submodules while their model runs.

    ::

        seen = Capture(model, feats="backbone.fpn", logits="head.cls_logits")
        model(images)
        seen["feats"], seen["logits"]         # lists with one tensor per level

    A module that returns a list or a dict of levels yields one tensor per level. A module that is called once
    per level (a convolution shared between levels) yields one tensor per call, in the order of the calls.
    Each call of the model discards the tensors of the call before. Copies and pickles of the model (an EMA, a
    checkpoint) capture nothing.

    Args:
        model: any module, or one inside DistributedDataParallel, DataParallel or torch.compile.
        sources: a name for each output to collect, and its source: the path of a submodule as in
            ``model.named_modules()``, or ``(path, pick)``, where ``pick(output)`` selects from its output.

    Raises:
        ValueError: for a path that does not exist in the model.
    """

    def __init__(self, model: nn.Module, **sources: Source) -> None:
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
        """The tensors collected under ``name`` since the model was last called, one per level.

        Raises:
            RuntimeError: if the submodule has not been called since then.
        """
        if not self._seen[name]:
            raise RuntimeError(
                f"{name}: module {self._paths[name]!r} has not been called since the last forward of the "
                "model began; a call of its forward() method itself runs no hooks"
            )
        return list(self._seen[name])

    def clear(self, *_: object) -> None:
        """Releases the tensors, and with them their autograd graphs."""
        for tensors in self._seen.values():
            tensors.clear()

    def remove(self) -> None:
        """Removes the hooks from the model."""
        self.clear()
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


class Distiller(nn.Module):
    """A student, its frozen teacher and the loss in one forward.

    The loss depends on tensors inside the student. DistributedDataParallel has to wrap this module: around
    the student alone, it would not know that these tensors take part in the loss. The teacher is in
    evaluation mode and is not part of ``parameters()`` or ``state_dict()``;
    ``distiller.student.state_dict()`` is a checkpoint of the student alone.

    ::

        distiller = Distiller(student, teacher, criterion, {"feats": "neck", "logits": "head.cls_logits"})
        optimizer = SGD(distiller.parameters(), lr=0.01)
        distiller.criterion.count_steps(optimizer)      # for the warm-up, with or without accumulation
        output, loss = distiller(images)

    Args:
        student, teacher: the detectors.
        criterion: adapters, loss weights and warm-up.
        student_sources, teacher_sources: the sources of ``feats`` and ``logits`` for :class:`Capture`; the
            teacher's default to the student's. Without ``logits`` of the student there is no head term.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        criterion: FRSDistillationLoss,
        student_sources: Mapping[str, Source],
        teacher_sources: Mapping[str, Source] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.criterion = criterion
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple: not a registered submodule
        self._student_outputs = Capture(student, **student_sources)
        self._teacher_outputs = Capture(teacher, **(teacher_sources or student_sources))
        self._has_head_term = "logits" in student_sources

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    def run_teacher(self, *args: Any, **kwargs: Any) -> None:
        """Calls the teacher with the first argument, the images. Override it for other arguments."""
        self.teacher(args[0])

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, FRSLossOutput]:
        """Takes the arguments of the student's forward; returns its output and the distillation loss."""
        with torch.no_grad():
            self.run_teacher(*args, **kwargs)
        output = self.student(*args, **kwargs)
        student, teacher = self._student_outputs, self._teacher_outputs
        loss = self.criterion(
            student["feats"],
            teacher["feats"],
            student_logits=student["logits"] if self._has_head_term else None,
            teacher_logits=teacher["logits"],
        )
        student.clear()
        teacher.clear()
        return output, loss

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        # torch does not annotate it.
        self.teacher._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        super()._apply(fn, recurse)  # pyright: ignore[reportUnknownMemberType]
        return self


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and torch.compile."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(cast(nn.Module, model.module))  # pyright: ignore[reportUnknownMemberType]  # generic
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else unwrapped(compiled)


def tensors_in(output: Any) -> list[Tensor]:
    """All tensors of a module's output, in order: of one tensor, or of nested mappings and sequences."""
    if isinstance(output, Tensor):
        return [output]
    if not isinstance(output, (Mapping, list, tuple)):
        raise TypeError(f"expected tensors, or lists or dicts of them, got {type(output).__name__}")
    parts = cast("Iterable[Any]", output.values() if isinstance(output, Mapping) else output)
    return [tensor for part in parts for tensor in tensors_in(part)]


def class_logits(output: Any) -> list[Tensor]:
    """The classification logits in the output of a head, one tensor per level.

    The output is one tensor, a sequence of levels, or (classification, boxes, ...) with a sequence of levels
    each, as from heads of MMDetection, detectron2 and torchvision's RPN: then the first is taken.
    """
    if isinstance(output, (list, tuple)) and output and not isinstance(output[0], Tensor):
        return tensors_in(cast(Any, output[0]))
    return tensors_in(output)


def softmax_logits(output: Any) -> list[Tensor]:
    """The same for weighted_kl. Logits [N, C] of images or proposals become [N, C, 1], of one location.

    Raises:
        ValueError: for three dimensions, where classes or locations may come first.
    """
    levels = class_logits(output)
    for level, logits in enumerate(levels):
        if logits.dim() == 3:
            raise ValueError(
                f"level {level}: logits {list(logits.shape)} must be [N, C] or [B, C, H, W]; "
                "of three dimensions, the classes may be the second or the last"
            )
    return [logits[..., None] if logits.dim() == 2 else logits for logits in levels]


def _everything(output: Any) -> Any:
    return output


class _Collector:
    def __init__(self, into: list[Tensor], pick: Callable[[Any], Any]) -> None:
        self.into, self.pick = into, pick

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.into.extend(tensors_in(self.pick(output)))


class _Hook:
    """A hook that does nothing in a copy or a pickle of its module."""

    def __init__(self, action: Callable[..., None] | None = None) -> None:
        self.action = action

    def __call__(self, *arguments: Any) -> None:
        if self.action is not None:
            self.action(*arguments)

    def __reduce__(self) -> tuple[type["_Hook"], tuple[()]]:
        return _Hook, ()


def _submodule(root: nn.Module, path: str) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        modules: dict[str, nn.Module] = dict(root.named_modules())  # pyright: ignore[reportUnknownArgumentType]
        similar = difflib.get_close_matches(path, modules, n=3)
        message = f"{type(root).__name__} has no submodule {path!r}; similar paths: {similar}"
        raise ValueError(message) from error
