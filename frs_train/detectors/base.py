"""The interface `Detector` of all families, through which training and evaluation use a detector.

A detector wraps a torchvision model (`.model`, whose weights `export` writes) and runs its parts one by one,
because distillation needs intermediate results that torchvision does not return: the feature pyramid, and the
classification logits from the same run of the head that gives the losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

import frs_kernels as frs
from frs_train.config import DetectorConfig
from frs_train.detectors.canvas import fitted

Target = dict[str, Tensor]  # "boxes" [N, 4] float xyxy in pixels, "labels" [N] int64 in 1..num_classes


@dataclass
class Outputs:
    """The results of one forward pass. Lists are over pyramid levels, finest first."""

    feats: list[Tensor]
    """[B, D, H, W]: the pyramid."""
    cls_logits: list[Tensor]
    """[B, A*K, H, W]: classification logits (RPN objectness for Faster R-CNN), channel-major views. Empty
    without targets if not requested."""
    edge_logits: list[Tensor] = field(default_factory=list)
    """[B, 4*(R+1), H, W]: logits of the distances of the four edges of a box, channel-major views. Empty
    without targets unless requested, and always for a detector without such distributions."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """0-d detection losses by name; empty without targets."""
    masks: list[Tensor] = field(default_factory=list)
    """[B, H, W]: FRS masks of `cls_logits`; empty unless requested."""
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    """(height, width) of each image after resizing, before padding."""
    padded_size: tuple[int, int] = (0, 0)
    """(height, width) of the padded batch, from which H and W of each level follow."""

    def at(self, levels: Sequence[int]) -> Outputs:
        """These results on some of the levels only, in this order. Losses and sizes stay."""
        lists = {name: getattr(self, name) for name in ("feats", "cls_logits", "edge_logits", "masks")}
        return replace(self, **{name: [found[i] for i in levels] for name, found in lists.items() if found})


class Detector(nn.Module):
    """A detector around a torchvision model; each family is a subclass.

    Attributes:
        family: "retinanet", "fcos", "faster-rcnn" or "gfl".
        num_classes: object classes; labels are 1..num_classes, 0 is background.
        num_anchors: A, predictions per location. `cls_logits` has A * K channels.
        feat_channels: D of each level.
        strides: pixels per location of each level.
        model: the torchvision module that holds all parameters.
    """

    family: str
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)

    def __init__(self, config: DetectorConfig, num_classes: int, model: nn.Module, num_anchors: int):
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.model = model
        self.feat_channels: list[int] = [model.backbone.out_channels] * len(self.strides)

    @property
    def logit_channels(self) -> int:
        """Channels of each level of `cls_logits`: A * K."""
        return self.num_anchors * self.num_classes

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        *,
        size: int | None = None,
        logits: bool = True,
        masks: bool = False,
        edges: bool = False,
    ) -> Outputs:
        """Losses (if targets are given), pyramid and classification logits of a batch. The head runs once.

        Without targets, only what distillation needs is computed: no second stage, and no branch of the head
        that is not requested.

        Args:
            images: tensors [3, h, w] in 0..1; their sizes may differ.
            targets: one dictionary per image (see `Target`); boxes have positive width and height.
            size: shorter image side after resizing; None is the last `min_size` of the configuration.
            logits: compute the classification logits without targets, too.
            masks: also compute the FRS mask of each level, and so its logits, right after the head has run on
                the level.
            edges: also compute the edge logits without targets; only for a detector that has them.
        """
        batch, resized = self.prepare(images, targets, size)
        feats = self.features(batch)
        outputs = Outputs(
            feats, [], image_sizes=batch.image_sizes, padded_size=tuple(batch.tensors.shape[-2:])
        )
        if resized is None:
            for feat in feats if logits or masks else ():
                outputs.cls_logits.append(self.classify(feat))
                if masks:
                    outputs.masks.append(frs.frs_mask(outputs.cls_logits[-1]))
            if edges:
                outputs.edge_logits = self.locate(feats)
            return outputs
        self.train_step(batch, resized, outputs)
        if masks:
            outputs.masks = list(frs.frs_mask([level.detach() for level in outputs.cls_logits]))
        return outputs

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of each image [3, h, w]: boxes [N, 4] xyxy in pixels of the image, scores, labels 1..K.

        Raises:
            RuntimeError: the detector is in training mode.
        """
        if self.training:
            raise RuntimeError("detect() needs evaluation mode: call .eval() first")
        return self._detections(self.prepare(images, None, None)[0], images)

    @torch.no_grad()
    def detect_on_canvas(self, image: Tensor, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """`detect` of one image that is padded to a canvas (height, width), and scaled down further than
        usual if it does not fit: what an exported network computes."""
        transform = self.model.transform
        size = fitted(*image.shape[-2:], self.config.min_size[-1], self.config.max_size, canvas)
        tensor = nn.functional.interpolate(transform.normalize(image)[None], size, mode="bilinear")
        tensor = nn.functional.pad(tensor, (0, canvas[1] - size[1], 0, canvas[0] - size[0]))
        return self._detections(ImageList(tensor, [size]), [image])[0]

    def _detections(self, batch: ImageList, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The detections of a prepared batch, in pixels of the images that it was made from."""
        detections = self.postprocess(batch, self.features(batch))
        return self.model.transform.postprocess(
            detections, batch.image_sizes, [tuple(i.shape[-2:]) for i in images]
        )

    def prepare(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None, size: int | None
    ) -> tuple[ImageList, list[Target] | None]:
        """Normalizes, resizes and pads a batch with torchvision's transform; boxes are scaled likewise."""
        transform: GeneralizedRCNNTransform = self.model.transform
        transform.min_size = (size or self.config.min_size[-1],)
        thick = [_thick_enough(image, transform.min_size[0], transform.max_size) for image in images]
        if targets is not None:
            targets = [_stretched_target(*each) for each in zip(targets, images, thick, strict=True)]
        return transform(thick, targets)

    def features(self, batch: ImageList) -> list[Tensor]:
        """The pyramid of a prepared batch: list of [B, D, H, W], finest level first."""
        return list(self.model.backbone(batch.tensors).values())

    def classify(self, feat: Tensor) -> Tensor:
        """Classification logits [B, A*K, H, W] of one level, strided like those of training."""
        raise NotImplementedError

    def locate(self, feats: list[Tensor]) -> list[Tensor]:
        """Edge logits [B, 4*(R+1), H, W] of all levels, strided like those of training."""
        raise NotImplementedError

    def train_step(self, batch: ImageList, targets: list[Target], outputs: Outputs) -> None:
        """Runs the head once on the pyramid of `outputs`, and adds logits and detection losses to it."""
        raise NotImplementedError

    def postprocess(self, batch: ImageList, feats: list[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of a prepared batch, in resized pixels."""
        raise NotImplementedError

    def head_signature(self) -> tuple:
        """A key: the logits of two detectors mean the same, channel by channel, if their keys are equal."""
        anchors = self.anchor_generator
        return self.family, self.num_classes, tuple(anchors.sizes), tuple(anchors.aspect_ratios)

    def edge_signature(self) -> tuple | None:
        """The same for the edge logits; None for a detector without them."""
        return None

    @property
    def anchor_generator(self) -> nn.Module:
        return self.model.anchor_generator


class DenseDetector(Detector):
    """A one-stage detector: its head is a module feats -> {"cls_logits": [B, sum(H*W*A), K], ...}."""

    def classify(self, feat: Tensor) -> Tensor:
        head = self.model.head.classification_head
        return head.cls_logits(head.conv(feat)).contiguous(memory_format=torch.channels_last)

    def train_step(self, batch, targets, outputs):
        feats = outputs.feats
        head = self.run_head(feats)
        sizes = [tuple(feat.shape[-2:]) for feat in feats]
        outputs.cls_logits = frs.split_levels(head["cls_logits"], sizes, self.num_anchors)
        if self.edge_signature():
            outputs.edge_logits = frs.split_levels(head["bbox_regression"], sizes, self.num_anchors)
        targets = [{**target, "labels": target["labels"] - 1} for target in targets]
        anchors = anchors_of(self.anchor_generator, batch, feats)
        outputs.losses = self.losses(targets, head, anchors, sizes)

    def postprocess(self, batch, feats):
        counts = [feat.shape[-2] * feat.shape[-1] * self.num_anchors for feat in feats]
        head = {
            name: list(value.float().split(counts, dim=1)) for name, value in self.run_head(feats).items()
        }
        anchors = [list(a.split(counts)) for a in anchors_of(self.anchor_generator, batch, feats)]
        detections = self.model.postprocess_detections(head, anchors, batch.image_sizes)
        return [{**image, "labels": image["labels"] + 1} for image in detections]

    def class_scores(self, head: dict[str, Tensor]) -> Tensor:
        """The scores [B, sum(H*W*A), K] of the head's outputs, by the formula of `postprocess`."""
        return head["cls_logits"].float().sigmoid()

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """Boxes [N, 4] xyxy from the head's regression at N anchors [N, 4]."""
        return self.model.box_coder.decode_single(regression, anchors)

    def run_head(self, feats: list[Tensor]) -> dict[str, Tensor]:
        """The outputs of the head. Boxes are float32 also under autocast: bfloat16 loses whole pixels."""
        head = self.model.head(feats)
        return {name: value if name == "cls_logits" else value.float() for name, value in head.items()}

    def losses(
        self, targets: list[Target], head: dict[str, Tensor], anchors: list[Tensor], sizes
    ) -> dict[str, Tensor]:
        """The detection losses. The labels of `targets` are 0..K-1 here."""
        return self.model.compute_loss(targets, head, anchors)


def anchors_of(generator: nn.Module, batch: ImageList, feats: list[Tensor]) -> list[Tensor]:
    """The anchors of each image [sum(H*W*A), 4] in float32, also under autocast: the generator uses the dtype
    of the features, and bfloat16 rounds a coordinate of 800 to a multiple of 4."""
    shapes = [feat.new_empty((), dtype=torch.float32).expand(feat.shape) for feat in feats]
    return generator(batch, shapes)


def _thick_enough(image: Tensor, size: int, longest: int) -> Tensor:
    """The image, stretched if it is so thin that resizing, which keeps the aspect ratio, would round its
    shorter side to 0."""
    height, width = image.shape[-2:]
    least = math.ceil(1.001 / min(size / min(height, width), longest / max(height, width)))
    if min(height, width) >= least:
        return image
    return nn.functional.interpolate(image[None], (max(height, least), max(width, least)))[0]


def _stretched_target(target: Target, image: Tensor, stretched: Tensor) -> Target:
    """The target of an image, with boxes scaled to its stretched copy."""
    if stretched is image:
        return target
    down, across = (new / old for new, old in zip(stretched.shape[-2:], image.shape[-2:], strict=True))
    boxes = target["boxes"]
    return {**target, "boxes": boxes * boxes.new_tensor([across, down, across, down])}
