"""The typed configuration of a run, saved as `config.json` in the run folder and inside every checkpoint.

A command line, a recipe, a test and a saved file all create the same `RunConfig`; a value out of range is
refused everywhere. Sizes are in pixels, one iteration is one optimizer step, and probabilities are fractions.
The docstrings of the options are the help texts of `frs-train COMMAND --help`, which wraps them itself: one
line each.
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
Method = Literal["none", "whole-map", "gt-box", "frs-feature", "frs-head", "frs", "ld", "cwd", "kd"]
Precision = Literal["none", "bf16", "fp16"]
Split = Literal["train", "val", "test"]

Count = whole(0, 10**9)
Period = whole(1, 10**9)
Images = whole(1, 10**6)
Side = whole(1, 2**14)
Processes = whole(0, 1024)
Seed = whole(0, 2**32 - 1)
Fraction = real(0, 1)
Decay = real(0, 1, below=True)
Amount = real(0, 1e30)  # float32 holds its product with a batch size
Temperature = real(0, 1000, above=True)

MULTIPLE = 32  # sides of a network's input are multiples of it: a detector pads its images


@dataclass(frozen=True)
class DetectorConfig(Options):
    """Architecture and post-processing of the detector."""

    # A detector resizes its images itself: to min_size[-1] in evaluation. In training, the trainer draws one
    # size of min_size for each step and passes it to Detector.forward(images, targets, size=size), so that
    # teacher and student see the same pixels.

    family: Annotated[Family, tyro.conf.arg(name="detector")] = "retinanet"
    """Detector family: retinanet, fcos and faster-rcnn are torchvision's; gfl is part of this package."""
    backbone: Backbone = "resnet18"
    """Backbone below the FPN. resnet10 has one residual block per stage."""
    weights: Literal["coco", "imagenet"] | None = None
    """Published weights to start from: `coco` (whole detector), `imagenet` (backbone) or None (random)."""
    backbone_width: real(0.125, 8) = 1.0
    """Factor for the number of channels in the backbone (64 to 512 in resnet18); a layer has at least 8."""
    trainable_layers: whole(0, 5) = 5
    """Backbone stages to train, the deepest first; 5 trains all, 3 freezes the stem and stage 1."""
    fpn_width: whole(8, 4096) = 256
    """Channels of each FPN level and of the convolutions in the head."""
    head_convs: whole(0, 4) = 4
    """Number of convolutions in each tower of the head."""
    backbone_norm: Literal["frozen", "batch", "group"] = "batch"
    """Normalization layers of the backbone. `frozen` is batch norm with constant statistics and weights."""
    head_norm: Literal["none", "group"] = "none"
    """Normalization layers in the towers of RetinaNet. FCOS and GFL always use group norm."""
    anchor_size: whole(4, 4096) = 32
    """Anchor side in pixels at the finest level (stride 8; 4 in Faster R-CNN); it doubles at each level."""
    min_size: several(Side, 1) = (800,)
    """Shorter image sides: each training step draws one at random, evaluation uses the last."""
    max_size: Side = 1333
    """Upper limit of the longer image side; a longer image is scaled down further."""
    score_threshold: Fraction = 0.05
    """Detections with a lower score are dropped."""
    nms_threshold: Fraction = 0.5
    """IoU above which, of two boxes of the same class, the one with the lower score is dropped."""
    detections_per_image: whole(1, 10**5) = 100
    """Maximum number of detections per image; those with the highest scores are kept."""

    def check(self) -> None:
        if self.max_size < max(self.min_size):
            raise UserError(
                f"--max-size is {self.max_size}, less than --min-size {max(self.min_size)}. Raise "
                "--max-size or lower --min-size."
            )


@dataclass(frozen=True)
class DataConfig(Options):
    """Training and validation set."""

    folder: Annotated[Path | None, tyro.conf.arg(name="data")] = field(default=None, kw_only=True)
    """Folder of a data set in a layout of COCO, Roboflow or YOLO; the four paths below override its own."""
    train_annotations: Path | None = None
    """Annotation file of the training set (COCO JSON)."""
    train_images: Path | None = None
    """Folder of the training images; each `file_name` is relative to it."""
    val_annotations: Path | None = None
    """Annotation file of the validation set (COCO JSON)."""
    val_images: Path | None = None
    """Folder of the validation images; each `file_name` is relative to it."""
    workers: Processes = 2
    """Data loader processes per training process; 0 loads images in the training process."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip in training. Choose 0 for digits and text."""
    jitter: Fraction = 0.0
    """Strength of the random changes of brightness, contrast and saturation in training; 0 is off."""


@dataclass(frozen=True)
class TrainConfig(Options):
    """Length, optimizer, precision, device, logging and checkpoints of the training."""

    epochs: real(0, 1e6, above=True) = 12.0
    """Passes over the training images (12 is the "1x" schedule). `--iterations` overrides it."""
    iterations: Count = 0
    """Number of optimizer steps; 0 derives it from `--epochs`."""
    batch_size: Images = 16
    """Images per optimizer step, summed over all processes and micro-batches."""
    accumulate: Images = 1
    """Micro-batches per optimizer step; their gradients are accumulated, which saves memory."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer."""
    lr: Amount = 0.01
    """Peak learning rate."""
    lr_batch: whole(0, 10**6) = 0
    """Batch size that `--lr` is meant for; the rate scales with batch_size / lr_batch. 0: no scaling."""
    momentum: Decay = 0.9
    """Momentum of SGD."""
    weight_decay: Amount = 1e-4
    """Weight decay: part of the gradient in SGD, decoupled from it in AdamW."""
    schedule: Literal["steps", "one-cycle"] = "steps"
    """How the learning rate decreases: in steps at `--lr-steps`, or along a cosine to lr / 1000."""
    lr_steps: several(Fraction, 0) = (8 / 12, 11 / 12)
    """Fractions of the run at which the schedule `steps` divides the learning rate by 10."""
    lr_warmup: Count = 500
    """Iterations of learning-rate warm-up, at most a quarter of the run."""
    # steps: linear from lr / 1000; one-cycle: along a cosine from lr / 25
    clip: Amount = 0.0
    """Maximum norm of the gradient; 0 turns clipping off."""
    amp: Precision = "none"
    """Autocast precision of the student; none is float32."""
    channels_last: bool = False
    """Store the student's weights and features in channels_last layout."""
    ema: Decay = 0.0
    """Decay of an exponential moving average of the weights, which is then evaluated; 0 is off."""
    seed: Seed = 0
    """Seed of everything random: initial weights, order of the images, augmentation."""
    deterministic: bool = True
    """Use deterministic kernels, so that a resumed run ends with the weights of an uninterrupted one."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:INDEX`; `auto` uses the GPU of this process if there is one."""
    threads: Processes = 0
    """CPU threads of PyTorch; 0 keeps PyTorch's default."""
    log_every: Period = 20
    """Iterations between two lines of metrics."""
    eval_every: Count = 0
    """Iterations between two evaluations; 0 evaluates only at the end."""
    checkpoint_every: Count = 500
    """Iterations between two checkpoints; 0 saves only before evaluations and when the run stops."""
    keep: Period = 2
    """Number of checkpoints to keep, the newest first."""
    tensorboard: bool = False
    """Also write TensorBoard logs to the run folder."""

    def check(self) -> None:
        if self.batch_size % self.accumulate:
            raise UserError(
                f"--batch-size {self.batch_size} cannot be split into --accumulate {self.accumulate} equal "
                "micro-batches. Choose a multiple of --accumulate."
            )


@dataclass(frozen=True)
class DistillConfig(Options):
    """Teacher and distillation losses."""

    teacher: str | None = None
    """Run folder or checkpoint of the teacher, or `torchvision:NAME` for torchvision's COCO weights."""
    method: Method = "frs"
    """The paper's loss (frs), one of its two terms, a baseline, or ld, cwd or kd; see docs/recipes.md."""
    feat_weight: Amount = 0.005
    """Weight of the feature loss relative to the detector's own losses."""
    head_weight: Amount = 0.02
    """Weight of the head loss (classification logits) relative to the detector's own losses."""
    ld_weight: Amount = 0.25
    """Weight of ld: box edges of a GFL, a softmax over the bins of each edge, weighted by the FRS mask."""
    ld_temperature: Temperature = 10.0
    """Temperature of ld."""
    cwd_weight: Amount = 10.0
    """Weight of cwd: adapted features, a softmax over the locations of each channel, no mask."""
    cwd_temperature: Temperature = 1.0
    """Temperature of cwd."""
    kd_weight: Amount = 0.5
    """Weight of kd: class logits, a softmax over the classes of each anchor, weighted by the FRS mask."""
    kd_temperature: Temperature = 2.0
    """Temperature of kd."""
    warmup_iters: Count = 500
    """Iterations over which these weights rise linearly from 0, at most a quarter of the run."""
    adapter: Literal["conv3x3", "conv1x1", "mlp1x1", "identity"] = "conv3x3"
    """Trained layer that maps the student's features to the teacher's channels, one per level."""
    normalizer: Literal["mask", "mask_channels", "batch", "numel", "mask_all_levels"] = "mask"
    """Divisor per level: sum of the mask, this times channels, images, elements, or the sum of all masks."""
    inherit_head: bool = True
    """Copy the teacher's head to the student before training, if the two fit; also with method none."""
    teacher_amp: Precision = "none"
    """Autocast precision of the teacher; none is float32."""
    teacher_channels_last: bool = False
    """Store the teacher's weights and features in channels_last layout, as on a CPU unless it is compiled."""
    teacher_compile: bool = False
    """Compile the teacher with torch.compile."""
    backend: str = "auto"
    """Backend of frs_kernels; `auto` uses the fastest one available."""


@dataclass(frozen=True)
class RunConfig(Options):
    """The complete configuration of a run."""

    out: Path
    """Run folder: configuration, metrics, checkpoints and result."""
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig | None = None
    recipe: str | None = None
    """Preset that supplies the defaults of the other options; see docs/recipes.md."""
    resume: bool = False
    """Continue from the newest readable checkpoint in `--out`, if there is one."""
