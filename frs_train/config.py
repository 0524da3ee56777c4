"""The one typed configuration of a run. It is saved as `config.json` beside the results and inside every
checkpoint.

A command line, a recipe, a test and a saved file all create the same `RunConfig`, and none can create one
with a value out of range. Sizes are pixels, rates are per iteration (one optimiser step), probabilities are
fractions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from frs_train.errors import UserError
from frs_train.options import Options, real, several, whole

Family = Literal["retinanet", "fcos", "faster-rcnn", "gfl"]
Backbone = Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet-v3"]
Method = Literal["none", "whole-map", "gt-box", "frs-feature", "frs-head", "frs"]
Precision = Literal["none", "bf16", "fp16"]

Count = whole(0, 10**9)
Period = whole(1, 10**9)
Images = whole(1, 10**6)
Side = whole(1, 2**14)
Processes = whole(0, 1024)
Seed = whole(0, 2**32 - 1)
Fraction = real(0, 1)
Decay = real(0, 1, below=True)
Amount = real(0, 1e30)  # float32 holds its product with a batch size


@dataclass(frozen=True)
class DetectorConfig(Options):
    """What a detector is. `build_detector(config, num_classes)` needs nothing else.

    A detector resizes its images itself: in evaluation to `min_size[-1]`; in training to one `size` that the
    trainer draws from `min_size` each step and passes to `Detector.forward(images, targets, size=size)`, so
    that teacher and student see the same pixels.
    """

    family: Annotated[Family, tyro.conf.arg(name="detector")] = "retinanet"
    """Detector to train: three of torchvision's, and GFL."""
    backbone: Backbone = "resnet18"
    """Network below the FPN; resnet10 has one block a stage."""
    weights: Literal["coco", "imagenet"] | None = None
    """`coco` (whole detector), `imagenet` (backbone) or nothing: from scratch."""
    backbone_width: real(0.125, 8) = 1.0
    """Multiplies the backbone's channels (64..512 for resnet18; no layer has fewer than 8)."""
    trainable_layers: whole(0, 5) = 5
    """Backbone stages that train, counted from the top; 5 is all of them, torchvision's 3 keeps stem and
    stage 1."""
    fpn_width: whole(8, 4096) = 256
    """Channels of the FPN's levels, and of the heads' convolutions."""
    head_convs: whole(0, 4) = 4
    """Convolutions in each tower of the head."""
    backbone_norm: Literal["frozen", "batch", "group"] = "batch"
    """Normalisation in the backbone; `frozen` keeps the statistics of the published weights."""
    head_norm: Literal["none", "group"] = "none"
    """Normalisation in RetinaNet's towers; FCOS's and GFL's own always have group norm."""
    anchor_size: whole(4, 4096) = 32
    """Anchor side at the finest level (stride 8; 4 for Faster R-CNN); doubles with every level."""
    min_size: several(Side, 1) = (800,)
    """Shorter image sides to draw from in training; the last is evaluation's."""
    max_size: Side = 1333
    """Longer image side at most; an image that would be longer is made smaller."""
    score_threshold: Fraction = 0.05
    """Detections of a lower score are dropped."""
    nms_threshold: Fraction = 0.5
    """Of two boxes of one class that overlap by more (IoU), the one of lower score is dropped."""
    detections_per_image: whole(1, 10**5) = 100
    """Detections of an image that are kept, best first."""

    def check(self) -> None:
        if self.max_size < max(self.min_size):
            raise UserError(
                f"--max-size is {self.max_size}, less than --min-size {max(self.min_size)}. Raise the one or "
                "lower the other."
            )


@dataclass(frozen=True)
class DataConfig(Options):
    """COCO-format files: an annotation JSON and the folder its `file_name`s are relative to."""

    train_annotations: Path | None = None
    """Annotation file of the training set."""
    train_images: Path | None = None
    """Image folder of the training set."""
    val_annotations: Path | None = None
    """Annotation file of the validation set."""
    val_images: Path | None = None
    """Image folder of the validation set."""
    workers: Processes = 2
    """Loader processes of each training process; 0 loads in the training process."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip in training (0 for digits and text)."""
    jitter: Fraction = 0.0
    """Strength of brightness, contrast and saturation jitter in training."""


@dataclass(frozen=True)
class TrainConfig(Options):
    """The optimisation."""

    epochs: real(0, 1e6, above=True) = 12.0
    """Passes over the training images; 12 is the schedule called 1x. `iterations` overrides it."""
    iterations: Count = 0
    """Optimiser steps of the run; 0 takes `epochs`."""
    batch_size: Images = 16
    """Images of one optimiser step: over all processes and all accumulated parts."""
    accumulate: Images = 1
    """Parts that each process's share of the batch is split into."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """What takes the steps."""
    lr: Amount = 0.01
    """Highest learning rate of the run."""
    lr_batch: whole(0, 10**6) = 0
    """Batch size that `lr` is meant for: the rate is scaled by batch_size / lr_batch. 0 takes `lr` as it
    is."""
    momentum: Decay = 0.9
    """Momentum of SGD."""
    weight_decay: Amount = 1e-4
    """Pull of the weights to zero: SGD adds it to the gradient, AdamW takes it from the weight."""
    schedule: Literal["steps", "one-cycle"] = "steps"
    """How the rate falls: at `lr_steps`, or along a cosine to lr / 1000."""
    lr_steps: several(Fraction, 0) = (8 / 12, 11 / 12)
    """Fractions of the run after which `steps` divides the rate by 10."""
    lr_warmup: Count = 500
    """Iterations of rising rate, a quarter of the run at most: linear from lr / 1000 (`steps`), or a cosine
    from lr / 25 (`one-cycle`)."""
    clip: Amount = 0.0
    """Largest gradient norm; 0 does not clip."""
    amp: Precision = "none"
    """Half precision of the student's passes (autocast)."""
    channels_last: bool = False
    """Keep the student's weights and features with channels last in memory."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated; 0 keeps
    none."""
    seed: Seed = 0
    """Of every random draw: weights, order of the images, augmentation."""
    deterministic: bool = True
    """Deterministic kernels, so that a resumed run ends in the weights of an uninterrupted one."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` and so on; `auto` takes this process's GPU if there is one."""
    threads: Processes = 0
    """CPU threads of torch; 0 leaves torch's choice."""
    log_every: Period = 20
    """Iterations between lines of metrics."""
    eval_every: Count = 0
    """Iterations between evaluations; 0 evaluates at the end only."""
    checkpoint_every: Count = 500
    """Iterations between checkpoints; 0 saves at the end only, or when the run is stopped."""
    keep: Period = 2
    """Checkpoints kept."""
    tensorboard: bool = False
    """Also write TensorBoard's files."""

    def check(self) -> None:
        if self.batch_size % self.accumulate:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be split into --accumulate {self.accumulate} equal "
                "parts. Choose a multiple of it."
            )


@dataclass(frozen=True)
class DistillConfig(Options):
    """The teacher, and what is learnt from it."""

    teacher: str | None = None
    """Run folder or checkpoint of the teacher, or `torchvision:NAME` for torchvision's COCO weights."""
    method: Method = "frs"
    """The paper's loss, its two halves, or a baseline: nothing, every location alike, ground-truth boxes."""
    feat_weight: Amount = 0.005
    """Amount of the feature loss beside the detector's own."""
    head_weight: Amount = 0.02
    """Amount of the head loss (classification logits) beside the detector's own."""
    warmup_iters: Count = 500
    """Iterations of linear rise of both weights, a quarter of the run at most."""
    adapter: Literal["conv3x3", "conv1x1", "mlp1x1", "identity"] = "conv3x3"
    """What the student's features pass through before they are compared with the teacher's."""
    normalizer: Literal["mask", "mask_channels", "batch", "numel"] = "mask"
    """What both losses are divided by: the mask's sum, that times the channels, the number of images, or that
    of elements."""
    inherit_head: bool = True
    """Start the student's head from the teacher's wherever name and shape agree, with `--method none` too."""
    teacher_amp: Precision = "none"
    """Half precision of the teacher's pass (autocast)."""
    teacher_channels_last: bool = False
    """Keep the teacher's weights and features with channels last in memory."""
    teacher_compile: bool = False
    """Compile the teacher with torch.compile."""
    backend: str = "auto"
    """Backend of frs_kernels; `auto` takes the fastest that can run."""


@dataclass(frozen=True)
class RunConfig(Options):
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
