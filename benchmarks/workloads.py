"""The benchmark cases: shapes of detectors by name, and the tensors and byte counts of one case.

Everything but :func:`make_inputs` is arithmetic on shapes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = ("nchw", "nhwc")
KL_OPS = ("ld", "kd", "cwd")
OPS = ("mask", "imitation", "head", "loss", "loss-masks", *KL_OPS)
MODES = ("forward", "backward", "both")
EDGES, EDGE_BINS = 4, 17  # of a box in GFL: a distribution over 17 distances for each of its edges
TEMPERATURES = {"ld": 10.0, "kd": 2.0, "cwd": 4.0}

# The operations that take features, logits of student and teacher, and one mask per level.
_WITH_FEATS = ("imitation", "loss", "loss-masks", "cwd")
_WITH_LOGITS = ("head", "loss", "loss-masks", "ld", "kd")
_WITH_MASKS = ("imitation", "head", "loss-masks", "ld")


@dataclass(frozen=True)
class Workload:
    """The shapes of a detector's features and logits for one image.

    Attributes:
        sizes: (H, W) of each level, finest first.
        feat_channels: D of each level: the teacher's, to which the adapter maps the student's.
        logit_channels: K, anchors x classes.
        anchors: of a location.
        cold: whether the caches are flushed before every timed call.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    feat_channels: tuple[int, ...]
    logit_channels: int
    anchors: int = 1
    cold: bool = True

    @property
    def locations(self) -> int:
        return sum(h * w for h, w in self.sizes)

    @property
    def feat_elements(self) -> int:
        return sum(h * w * d for (h, w), d in zip(self.sizes, self.feat_channels, strict=True))

    @property
    def logit_elements(self) -> int:
        return self.locations * self.logit_channels


def _fpn(name: str, sizes, feat_channels: int, logit_channels: int, anchors: int = 1) -> Workload:
    return Workload(name, tuple(sizes), (feat_channels,) * len(sizes), logit_channels, anchors)


def _yolo26(scale: str, *feat_channels: int) -> Workload:
    """The inputs of Ultralytics' Detect head at 640 x 640 for a scale of yolo26.yaml; 80 classes."""
    return Workload(f"yolo26{scale}-640", ((80, 80), (40, 40), (20, 20)), feat_channels, 80)


_P3_TO_P7 = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))  # 800 x 1344 pixels, strides 8 to 128
_P2_TO_P6 = ((200, 336), *_P3_TO_P7[:4])

WORKLOADS = {
    workload.name: workload
    for workload in (
        _fpn("retinanet-800x1344", _P3_TO_P7, 256, 720, anchors=9),
        _fpn("fcos-800x1344", _P3_TO_P7, 256, 80),
        _fpn("gfl-800x1344", _P3_TO_P7, 256, 80),
        _fpn("rpn-800x1344", _P2_TO_P6, 256, 3, anchors=3),
        _yolo26("n", 64, 128, 256),
        _yolo26("s", 128, 256, 512),
        _yolo26("m", 256, 512, 512),
        _yolo26("l", 256, 512, 512),
        _yolo26("x", 384, 768, 768),
        _fpn("retinanet-256x256", ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2)), 256, 720, anchors=9),
        _fpn("ragged", ((97, 131), (49, 67), (23, 31), (11, 17), (5, 9)), 100, 91),
        # What a core's caches hold, with rows that are long in the layout of the name; and one location.
        Workload("cached-nchw", ((16, 32),), (46,), 128, cold=False),
        Workload("cached-nhwc", ((8, 12),), (256,), 720, cold=False),
        Workload("one-location", ((1, 1),), (1,), 1, cold=False),
        # So small that its time is the overhead of a call.
        Workload("tiny", ((4, 4), (2, 2), (1, 1)), (8, 8, 8), 8, anchors=2, cold=False),
    )
}

# Bytes of one call as multiples of (C, F, M): a logit tensor, a feature tensor and a float32 mask, each over
# all levels. It is the least that an implementation has to move: arguments once, results once, and T twice
# where gradients need the sum of the mask before T is used again. A backward alone has no such count, because
# the fused one moves nothing.
_TRAFFIC = {
    ("mask", "forward"): (1, 0, 1),
    ("imitation", "forward"): (0, 2, 1),
    ("imitation", "both"): (0, 3, 1),
    ("head", "forward"): (2, 0, 1),
    ("head", "both"): (3, 0, 1),
    ("loss", "forward"): (2, 2, 0),
    ("loss", "both"): (4, 3, 0),
    ("loss-masks", "forward"): (2, 2, 1),
    ("loss-masks", "both"): (3, 3, 1),
    ("ld", "forward"): (2, 0, 1),
    ("ld", "both"): (3, 0, 1),
    ("kd", "forward"): (2, 0, 0),
    ("kd", "both"): (3, 0, 0),
    ("cwd", "forward"): (0, 2, 0),
    ("cwd", "both"): (0, 3, 0),
}


@dataclass(frozen=True)
class Case:
    """What a provider computes when it is timed."""

    op: str
    mode: str
    workload: str
    batch: int
    dtype: str
    layout: str

    def __str__(self) -> str:
        return f"{self.op}-{self.mode}-{self.workload}-b{self.batch}-{self.dtype}-{self.layout}"

    @property
    def shapes(self) -> Workload:
        return WORKLOADS[self.workload]

    @property
    def kl_options(self) -> dict:
        """The options of weighted_kl that make it the operation: LD, Hinton's KD of class logits, or CWD."""
        groups = {"ld": EDGES, "kd": self.shapes.anchors, "cwd": 1}[self.op]
        over = "locations" if self.op == "cwd" else "channels"
        return {"over": over, "groups": groups, "temperature": TEMPERATURES[self.op]}

    @property
    def logit_channels(self) -> int:
        return EDGES * EDGE_BINS if self.op == "ld" else self.shapes.logit_channels

    @property
    def logit_bytes(self) -> int:
        locations = self.batch * self.shapes.locations
        return locations * self.logit_channels * DTYPES[self.dtype].itemsize

    @property
    def feat_bytes(self) -> int:
        return self.batch * self.shapes.feat_elements * DTYPES[self.dtype].itemsize

    @property
    def mask_bytes(self) -> int:
        return self.batch * self.shapes.locations * 4

    @property
    def bytes_moved(self) -> int | None:
        """The least number of bytes that have to move; None for a backward alone."""
        factors = _TRAFFIC.get((self.op, self.mode))
        if factors is None:
            return None
        sizes = (self.logit_bytes, self.feat_bytes, self.mask_bytes)
        return sum(factor * size for factor, size in zip(factors, sizes, strict=True))

    @property
    def result_bytes(self) -> int:
        """Bytes of what a call returns: the gradients or the masks."""
        if self.op == "mask":
            return self.mask_bytes
        if self.mode == "forward":
            return 0
        feats, logits = self.op in _WITH_FEATS, self.op in _WITH_LOGITS
        return feats * self.feat_bytes + logits * self.logit_bytes


@dataclass
class Inputs:
    """The tensors of one case, each field a list over levels; empty if the operation does not take it."""

    student_feats: list[Tensor] = field(default_factory=list)
    teacher_feats: list[Tensor] = field(default_factory=list)
    student_logits: list[Tensor] = field(default_factory=list)
    teacher_logits: list[Tensor] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    @property
    def lists(self) -> tuple[list[Tensor], ...]:
        return self.student_feats, self.teacher_feats, self.student_logits, self.teacher_logits, self.masks

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that receive gradients."""
        return self.student_feats + self.student_logits


def make_inputs(case: Case, device: str, seed: int = 0) -> Inputs:
    """Random tensors of the case. Logits are distributed as a detector's: most classes are improbable."""
    generator = torch.Generator(device).manual_seed(seed)
    shapes = case.shapes

    def normal(channels: int, size, mean: float, deviation: float) -> Tensor:
        values = torch.randn((case.batch, channels, *size), generator=generator, device=device)
        values = values.mul_(deviation).add_(mean).to(DTYPES[case.dtype])
        return values.contiguous(memory_format=torch.channels_last) if case.layout == "nhwc" else values

    def logits() -> list[Tensor]:
        return [normal(case.logit_channels, size, -4.0, 2.0) for size in shapes.sizes]

    def feats() -> list[Tensor]:
        return [normal(d, size, 0.0, 1.0) for size, d in zip(shapes.sizes, shapes.feat_channels, strict=True)]

    inputs = Inputs()
    if case.op in _WITH_FEATS:
        inputs.student_feats, inputs.teacher_feats = feats(), feats()
    if case.op in _WITH_LOGITS:
        inputs.student_logits = logits()
    if case.op in _WITH_LOGITS or case.op == "mask":
        inputs.teacher_logits = logits()
    if case.op in _WITH_MASKS:
        masks = [torch.randn((case.batch, *s), generator=generator, device=device) for s in shapes.sizes]
        inputs.masks = [values.sub_(2.0).sigmoid_() for values in masks]
    for leaf in inputs.leaves:
        leaf.requires_grad_(case.mode != "forward")
    return inputs
