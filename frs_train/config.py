"""The one typed configuration of a run. It is saved as `config.json` beside the results and inside every
checkpoint.

A command line, a recipe and a test all make the same `RunConfig`. Sizes are pixels, rates are per iteration
(one optimiser step), probabilities are fractions.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Family = Literal["retinanet", "fcos", "faster-rcnn", "gfl"]
Backbone = Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet-v3"]
Method = Literal["none", "whole-map", "gt-box", "frs-feature", "frs-head", "frs"]


@dataclass(frozen=True)
class DetectorConfig:
    """What a detector is. `build_detector(config, num_classes)` needs nothing else.

    A detector resizes its images itself: in evaluation to `min_size[-1]`; in training to one `size` that
    the engine draws from `min_size` each step and passes to `Detector.forward(images, targets, size=size)`,
    so that teacher and student see the same pixels.
    """

    family: Annotated[Family, tyro.conf.arg(name="detector")] = "retinanet"
    backbone: Backbone = "resnet18"
    """resnet10 has one block a stage."""
    weights: str | None = None
    """`coco` (whole detector), `imagenet` (backbone) or nothing: from scratch."""
    backbone_width: float = 1.0
    """Multiplies the backbone's channels (64..512 for resnet18)."""
    trainable_layers: int = 5
    """Backbone stages that train, counted from the top; 5 is all of them, torchvision's 3 keeps stem and
    stage 1."""
    fpn_width: int = 256
    """Channels of the FPN's levels, and of the heads' convolutions."""
    head_convs: int = 4
    """Convolutions in each tower of the head."""
    backbone_norm: Literal["frozen", "batch", "group"] = "batch"
    head_norm: Literal["none", "group"] = "none"
    """FCOS's and GFL's own towers always have group norm."""
    anchor_size: int = 32
    """Anchor side at the finest level (stride 8; 4 for Faster R-CNN); doubles with every level."""
    min_size: tuple[int, ...] = (800,)
    """Shorter image sides to draw from in training; the last is evaluation's."""
    max_size: int = 1333
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections_per_image: int = 100


@dataclass(frozen=True)
class DataConfig:
    """COCO-format files: an annotation JSON and the folder its `file_name`s are relative to."""

    train_annotations: Path | None = None
    train_images: Path | None = None
    val_annotations: Path | None = None
    val_images: Path | None = None
    workers: int = 2
    """Loader processes of each training process; 0 loads in the training process."""
    flip: float = 0.5
    """Probability of a horizontal flip in training (0 for digits and text)."""
    jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter in training."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation."""

    epochs: float = 12.0
    """Passes over the training images; 12 is the schedule called 1x. `iterations` overrides it."""
    iterations: int = 0
    batch_size: int = 16
    """Images of one optimiser step: over all processes and all accumulated parts."""
    accumulate: int = 1
    """Parts that each process's share of the batch is split into."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    lr_batch: int = 0
    """Batch size that `lr` is meant for: the rate is scaled by batch_size / lr_batch. 0 takes `lr` as it
    is."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["steps", "one-cycle"] = "steps"
    lr_steps: tuple[float, ...] = (8 / 12, 11 / 12)
    """Fractions of the run after which `steps` divides the rate by 10."""
    lr_warmup: int = 500
    """Iterations of rising rate: linear from lr / 1000 (`steps`), or a cosine from lr / 25 (`one-cycle`,
    there a quarter of the run at most)."""
    clip: float = 0.0
    """Largest gradient norm; 0 does not clip."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    channels_last: bool = False
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated; 0 keeps
    none."""
    seed: int = 0
    deterministic: bool = True
    """Deterministic kernels, so that a resumed run ends in the weights of an uninterrupted one."""
    device: str = "auto"
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    log_every: int = 20
    eval_every: int = 0
    """Iterations between evaluations; 0 evaluates at the end only."""
    checkpoint_every: int = 500
    keep: int = 2
    """Checkpoints kept."""
    tensorboard: bool = False


@dataclass(frozen=True)
class DistillConfig:
    """The teacher, and what is learnt from it."""

    teacher: str | None = None
    """Run folder or checkpoint of the teacher, or `torchvision:NAME` for torchvision's COCO weights."""
    method: Method = "frs"
    """The paper's loss, its two halves, or a baseline: nothing, every location alike, ground-truth boxes."""
    feat_weight: float = 0.005
    head_weight: float = 0.02
    warmup_iters: int = 500
    """Iterations of linear rise of both weights."""
    adapter: Literal["conv3x3", "conv1x1", "mlp1x1", "identity"] = "conv3x3"
    normalizer: Literal["weight", "weight_channels", "batch", "numel"] = "weight"
    inherit_head: bool = True
    """Start the student's head from the teacher's wherever name and shape agree."""
    teacher_amp: Literal["none", "bf16", "fp16"] = "none"
    teacher_channels_last: bool = False
    teacher_compile: bool = False
    backend: str = "auto"
    """Backend of frs_kernels."""


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made from."""

    out: Path
    """Folder of the run."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig | None = None
    recipe: str | None = None
    """Preset whose values the other options start from; see docs/recipes.md."""
    resume: bool = False
    """Go on from the newest readable checkpoint in `out`, if there is one."""


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON types only (a path becomes a string, a tuple a list)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, tuple):
            return list(value)
        return value

    return plain(config)


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `to_dict`. Raises `KeyError` naming a field this version does not have."""
    hints = typing.get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise KeyError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    return kind(**{name: _restore(hints[name], value) for name, value in values.items()})


def _restore(hint: Any, value: Any) -> Any:
    options = [hint, *typing.get_args(hint)]
    if value is None:
        return None
    if isinstance(value, dict):
        return from_dict(next(o for o in options if dataclasses.is_dataclass(o)), value)
    if isinstance(value, str) and Path in options:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value
