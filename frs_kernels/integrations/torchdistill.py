"""FRS in torchdistill: a mid-level loss and two model wrappers, by YAML alone.

``dependencies: [{name: frs_kernels.integrations.torchdistill}]`` in a configuration registers

- ``FRSLoss``, a mid-level loss of the tensors that forward hooks have stored;
- ``FRSKLLoss``, a mid-level loss of softmax distributions (Hinton's KD, CWD) of such tensors;
- ``FRSStudent``, a student with adapters after its feature pyramid (their path is "adapter");
- ``FRSTeacher``, a teacher in evaluation mode and without gradients: torchdistill itself leaves a teacher in
  the mode in which it was built, which is training mode.

``examples/torchdistill_*.yaml`` are complete configurations for torchvision's RetinaNet and Faster R-CNN.
"""

import torch
from torch import Tensor, nn

from ..contract import Backend, Normalizer, Over
from ..kl import weighted_kl
from ..levels import split_levels
from ..modules import Adapter, FeatureAdapter, resized
from ..ops import frs_loss
from . import configurable, need
from .hooks import class_logits, softmax_logits, tensors_in

need("torchdistill")

from torchdistill.losses.registry import register_mid_level_loss  # noqa: E402
from torchdistill.models.registry import register_auxiliary_model_wrapper  # noqa: E402
from torchdistill.models.util import wrap_if_distributed  # noqa: E402
from torchdistill.models.wrapper import AuxiliaryModelWrapper  # noqa: E402


@register_mid_level_loss(key="FRSLoss")
@configurable
class FRSLoss(nn.Module):
    """The FRS loss of a whole pyramid.

    Features are the output of a pyramid or of the adapters: a dict or a list of levels. Logits are the
    output of torchvision's ``head.classification_head`` ([B, sum(H*W*A), K]) or ``rpn.head``, or a list of
    levels. A hook on ``cls_logits`` is not enough: that convolution is called once per level, and
    torchdistill stores the output of the last call only.

    torchdistill tells a loss nothing of the optimizer. The warm-up therefore counts the calls of the loss;
    ``accumulate`` and ``first_iter`` say how many of them are a step, and where the count starts.

    Args:
        student_features, teacher_features, teacher_logits, student_logits: ``{path: ..., io: output}``;
            without ``student_logits`` there is no head term.
        feat_weight, head_weight, normalizer, backend: as in :func:`frs_kernels.frs_loss`.
        warmup_iters: optimizer steps during which both weights grow linearly from 0.
        first_iter: optimizer steps done before: needed in a resumed run, as torchdistill saves no state of
            losses.
        accumulate: calls per optimizer step, the ``grad_accum_step`` of the optimizer.
        resize: interpolate the student's features to the teacher's sizes.
    """

    def __init__(
        self,
        student_features: dict,
        teacher_features: dict,
        teacher_logits: dict,
        student_logits: dict | None = None,
        *,
        feat_weight: float = 0.005,
        head_weight: float = 0.02,
        warmup_iters: int = 500,
        first_iter: int = 0,
        accumulate: int = 1,
        resize: bool = False,
        normalizer: Normalizer = "mask",
        backend: Backend = "auto",
    ):
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1 call per optimizer step, got {accumulate}")
        self.student_features = student_features
        self.teacher_features = teacher_features
        self.teacher_logits = teacher_logits
        self.student_logits = student_logits
        self.feat_weight = feat_weight
        self.head_weight = head_weight
        self.warmup_iters = warmup_iters
        self.accumulate = accumulate
        self.calls = first_iter * accumulate
        self.resize = resize
        self.normalizer: Normalizer = normalizer
        self.backend: Backend = backend

    def forward(self, student_io_dict: dict, teacher_io_dict: dict, targets=None, *args, **kwargs) -> Tensor:
        teacher_feats = tensors_in(_stored(teacher_io_dict, self.teacher_features))
        student_feats = tensors_in(_stored(student_io_dict, self.student_features))
        if self.resize:
            pairs = zip(student_feats, teacher_feats, strict=True)
            student_feats = [resized(student, teacher.shape[-2:]) for student, teacher in pairs]
        student_logits = None
        if self.student_logits is not None:
            student_logits = _logits(student_io_dict, self.student_logits, teacher_feats)
        step = self.calls // self.accumulate
        factor = min(step / self.warmup_iters, 1.0) if self.warmup_iters > 0 else 1.0
        self.calls += 1
        return frs_loss(
            student_feats,
            teacher_feats,
            student_logits=student_logits,
            teacher_logits=_logits(teacher_io_dict, self.teacher_logits, teacher_feats),
            feat_weight=self.feat_weight * factor,
            head_weight=self.head_weight * factor,
            normalizer=self.normalizer,
            backend=self.backend,
        ).total


@register_mid_level_loss(key="FRSKLLoss")
@configurable
class FRSKLLoss(nn.Module):
    """The divergence of softmax distributions, of one module or of all levels of a pyramid.

    With ``normalizer="batch"`` it is the soft part of torchdistill's KDLoss, ``temperature``^2 included.

    Args:
        student, teacher: ``{path: ..., io: output}``: logits [N, C] or [B, C, H, W], or features for
            ``over="locations"`` (CWD); or a list or a dict with one such tensor per level.
        over, groups, temperature, normalizer, scale, backend: as in :func:`frs_kernels.weighted_kl`.
    """

    def __init__(
        self,
        student: dict,
        teacher: dict,
        *,
        over: Over = "channels",
        groups: int = 1,
        temperature: float = 1.0,
        normalizer: Normalizer = "mask",
        scale: float = 1.0,
        backend: Backend = "auto",
    ):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.over: Over = over
        self.groups = groups
        self.temperature = temperature
        self.normalizer: Normalizer = normalizer
        self.scale = scale
        self.backend: Backend = backend

    def forward(self, student_io_dict: dict, teacher_io_dict: dict, targets=None, *args, **kwargs) -> Tensor:
        return weighted_kl(
            softmax_logits(_stored(student_io_dict, self.student)),
            softmax_logits(_stored(teacher_io_dict, self.teacher)),
            over=self.over,
            groups=self.groups,
            temperature=self.temperature,
            normalizer=self.normalizer,
            scale=self.scale,
            backend=self.backend,
        )


@register_auxiliary_model_wrapper(key="FRSTeacher")
@configurable
class FRSTeacher(AuxiliaryModelWrapper):
    """A teacher in evaluation mode, called with the images only, without gradients.

    Args:
        teacher_model: the detector; paths of its modules in ``forward_hook`` begin with "teacher_model.".
        device, device_ids, distributed: passed by torchdistill, and not used.
    """

    def __init__(self, teacher_model: nn.Module, device=None, device_ids=None, distributed: bool = False):
        super().__init__()
        self.teacher_model = teacher_model.requires_grad_(False)

    def train(self, mode: bool = True) -> "FRSTeacher":
        return super().train(False)

    def forward(self, images, *args, **kwargs):
        self.train(False)
        with torch.no_grad():
            return self.teacher_model(images)


@register_auxiliary_model_wrapper(key="FRSStudent")
@configurable
class FRSStudent(AuxiliaryModelWrapper):
    """A student with adapters, which run on its stored features after its forward.

    Args:
        student_model: the detector; paths of its modules in ``forward_hook`` begin with "student_model.".
        features: ``{path: student_model.backbone, io: output}``, the student's pyramid.
        student_channels, teacher_channels, num_levels, adapter: as in FRSDistillationLoss.
        device, device_ids, distributed, find_unused_parameters: passed by torchdistill.
    """

    def __init__(
        self,
        student_model: nn.Module,
        features: dict,
        student_channels,
        teacher_channels,
        num_levels: int | None = None,
        *,
        adapter: Adapter = "conv3x3",
        device=None,
        device_ids=None,
        distributed: bool = False,
        find_unused_parameters: bool | None = None,
    ):
        super().__init__()
        placement = device, device_ids, distributed, find_unused_parameters
        self.student_model = wrap_if_distributed(student_model, *placement)
        layers = FeatureAdapter(student_channels, teacher_channels, num_levels, kind=adapter)
        self.adapter = wrap_if_distributed(layers, *placement)
        self.features = features

    def forward(self, *args):
        return self.student_model(*args)

    def secondary_forward(self, io_dict: dict) -> None:
        self.adapter(tensors_in(_stored(io_dict, self.features)))


def _stored(io_dict: dict, source: dict):
    """What a hook has stored; ``source`` is the ``{path, io}`` of the configuration."""
    path, io = source["path"], source.get("io", "output")
    stored = io_dict.get(path, {})
    if io not in stored:
        raise KeyError(f"no {io} of {path!r} was stored: list the path under forward_hook: {io}: [{path}]")
    return stored[io]


def _logits(io_dict: dict, source: dict, feats: list[Tensor]) -> list[Tensor]:
    """The stored logits, one tensor per level of ``feats``."""
    stored = _stored(io_dict, source)
    sizes = [tuple(feat.shape[-2:]) for feat in feats]
    if isinstance(stored, Tensor) and stored.dim() == 3:
        locations = sum(height * width for height, width in sizes)
        return split_levels(stored, sizes, max(stored.shape[1] // max(locations, 1), 1))
    levels = class_logits(stored)
    if len(levels) != len(feats):
        raise ValueError(
            f"{source['path']} gave {len(levels)} level(s) of logits, the features have {len(feats)}. Of a "
            "module called once per level (cls_logits), only the last call is stored: name its parent instead"
        )
    return levels
