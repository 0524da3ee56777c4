"""The conversion of a one-stage detector to an ONNX model that contains everything from pixels to detections.

torch exports the network up to the candidates: the best boxes of each level, like torchvision's
post-processing. Its non-maximum suppression loops over the images in Python, so the model gets the operator
of ONNX instead, which takes a whole batch. `SUPPRESSION` is this second part.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

import frs_kernels
from frs_train.detectors.base import DenseDetector, Detector, anchors_of
from frs_train.detectors.onnx_file import BACKGROUND, FORMAT, Description, need
from frs_train.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
LARGEST = 2**31 - 2**24  # bytes of weights: a file of protobuf has less than 2 GiB

# Candidates -> detections. `place` marks what the suppression has kept: (image, candidate). A candidate that
# is not kept gets the score -1, so that the best `most` of each image come first and the rest is padding.
SUPPRESSION = """
<ir_version: 10, opset_import: ["": {opset}]>
suppression (float[batch, {candidates}, 4] candidate_boxes, float[batch, {candidates}] candidate_scores,
             int64[batch, {candidates}] candidate_labels)
  => (float[batch, {most}, 4] boxes, float[batch, {most}] scores, int64[batch, {most}] labels,
      int64[batch] count)
<int64[1] axis_1 = {{1}}, int64[1] axis_2 = {{2}}, int64[2] image_and_candidate = {{0, 2}},
 int64[1] most = {{{most}}}, int64 no_label = {{0}}, float zero = {{0}}, float nothing = {{-1}},
 float iou_threshold = {{{iou}}}, float score_threshold = {{{score}}}>
{{
  all_classes = Constant <value_ints = [{classes}]> ()
  each_class = Unsqueeze(all_classes, axis_1)
  label_row = Unsqueeze(candidate_labels, axis_1)
  of_class = Equal(label_row, each_class)
  score_row = Unsqueeze(candidate_scores, axis_1)
  class_scores = Where(of_class, score_row, nothing)
  kept = NonMaxSuppression(candidate_boxes, class_scores, most, iou_threshold, score_threshold)
  place = Gather <axis = 1> (kept, image_and_candidate)
  kept_scores = GatherND(candidate_scores, place)
  shape = Shape(candidate_scores)
  blank = Expand(nothing, shape)
  ranked = ScatterND(blank, place, kept_scores)
  best, index = TopK <axis = 1> (ranked, most)
  found = GreaterOrEqual(best, zero)
  scores = Where(found, best, zero)
  best_labels = GatherElements <axis = 1> (candidate_labels, index)
  labels = Where(found, best_labels, no_label)
  index_column = Unsqueeze(index, axis_2)
  best_boxes = GatherND <batch_dims = 1> (candidate_boxes, index_column)
  found_column = Unsqueeze(found, axis_2)
  boxes = Where(found_column, best_boxes, zero)
  found_number = Cast <to = 7> (found)
  count = ReduceSum <keepdims = 0> (found_number, axis_1)
}}
"""


class Candidates(nn.Module):
    """A network from pictures on a canvas to the best boxes of each level; a box occurs once per class."""

    def __init__(self, detector: DenseDetector, canvas: tuple[int, int]):
        super().__init__()
        self.detector = detector
        blank = ImageList(torch.zeros(1, 3, *canvas), [canvas])
        feats = detector.features(blank)
        per_location = detector.num_anchors * detector.num_classes
        self.counts = [feat.shape[-2] * feat.shape[-1] * per_location for feat in feats]  # scores per level
        self.most = [min(detector.model.topk_candidates, count) for count in self.counts]
        transform = detector.model.transform
        self.register_buffer("anchors", anchors_of(detector.anchor_generator, blank, feats)[0])
        self.register_buffer("mean", torch.tensor(transform.image_mean)[:, None, None])
        self.register_buffer("std", torch.tensor(transform.image_std)[:, None, None])
        self.register_buffer("rows", torch.arange(canvas[0])[:, None])
        self.register_buffer("columns", torch.arange(canvas[1]))

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures [B, 3, H, W] in 0..1 and their sizes (height, width) [B, 2] -> boxes [B, N, 4] xyxy in
        pixels of the canvas, scores [B, N] and labels 1..K [B, N]."""
        head = self.detector.run_head(self.detector.features(ImageList(self.normalized(images, sizes), [])))
        scores, index = self.best(self.detector.class_scores(head).flatten(1))
        row = torch.div(index, self.detector.num_classes, rounding_mode="floor")
        codes = head["bbox_regression"]
        codes = codes.gather(1, row[..., None].expand(-1, -1, codes.shape[-1]))
        boxes = self.detector.decode(codes.flatten(0, 1), self.anchors[row].flatten(0, 1))
        boxes = boxes.unflatten(0, (-1, row.shape[1]))
        corner = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # width, height, width, height
        labels = index % self.detector.num_classes + 1
        return torch.minimum(boxes.clamp(min=0), corner), scores, labels

    def normalized(self, images: Tensor, sizes: Tensor) -> Tensor:
        """The network's own input. It is 0 outside the pictures, as where torchvision pads them."""
        height, width = (sizes[:, side, None, None, None] for side in (0, 1))
        inside = (self.rows < height) & (self.columns < width)
        return torch.where(inside, (images - self.mean) / self.std, 0.0)

    def best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The highest scores of each level [B, N] and their indices, from the scores [B, sum(H*W*A) * K]."""
        found, start = [], 0
        for level, most in zip(scores.split(self.counts, dim=1), self.most, strict=True):
            values, index = level.topk(most)
            found.append((values, index + start))
            start += level.shape[1]
        values, index = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
        return values, index


@torch.no_grad()
def onnx_model(
    detector: Detector, classes: list[str], canvas: tuple[int, int], batch: int | None = None
) -> bytes:
    """The content of an ONNX file; `OnnxDetector` and docs/export.md describe its inputs and outputs.

    Args:
        detector: a one-stage detector on the CPU, in evaluation mode.
        classes: names of the labels 1..K.
        canvas: (height, width) of the network's input, each a multiple of 32.
        batch: the number of pictures of a run; None leaves it open.

    Raises:
        UserError: a package is missing, the detector has two stages, or its weights need more than 2 GiB.
    """
    need("onnx", "onnxscript", "onnxruntime")
    check_exportable(detector)
    from onnx import checker, compose, helper

    network = Candidates(detector, canvas).eval()
    first = _exported(network, canvas, batch)
    second = _suppression(detector, sum(network.most), first.ir_version)
    names = [output.name for output in first.graph.output]
    model = compose.merge_models(first, second, [(name, name) for name in names])
    helper.set_model_props(model, describe(detector, classes, canvas).to_metadata())
    model.producer_name, model.producer_version = "frs-train", frs_kernels.__version__
    if batch is not None:
        for output in model.graph.output:
            output.type.tensor_type.shape.dim[0].dim_value = batch
    checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def check_exportable(detector: Detector) -> None:
    """Raises `UserError` if a detector cannot become an ONNX model."""
    if not isinstance(detector, DenseDetector):
        raise UserError(
            f"The detector is a {detector.family}, which cannot be exported as ONNX: its second stage takes "
            "the boxes of the first, image by image. Export a retinanet, fcos or gfl."
        )
    size = sum(p.numel() * p.element_size() for p in detector.state_dict().values())
    if size > LARGEST:
        raise UserError(f"The weights take {size / 2**30:.1f} GiB, and an ONNX file holds less than 2 GiB.")


def describe(detector: Detector, classes: list[str], canvas: tuple[int, int]) -> Description:
    """The description of the exported detector."""
    config, transform = detector.config, detector.model.transform
    return Description(
        format=FORMAT,
        version=frs_kernels.__version__,
        family=detector.family,
        classes=[BACKGROUND, *classes],
        height=canvas[0],
        width=canvas[1],
        min_size=config.min_size[-1],
        max_size=config.max_size,
        mean=list(transform.image_mean),
        std=list(transform.image_std),
        score_threshold=config.score_threshold,
        nms_threshold=config.nms_threshold,
        detections_per_image=config.detections_per_image,
    )


def _exported(network: Candidates, canvas: tuple[int, int], batch: int | None) -> ModelProto:
    """The network as an ONNX model, without the remarks of the exporter, which hold paths of source files."""
    count = batch or 2  # torch.export takes a size of 1 for a constant
    example = torch.zeros(count, 3, *canvas), torch.tensor([canvas] * count)
    axis = {0: torch.export.Dim("batch", min=1)}
    with _quietly():
        program = torch.onnx.export(
            network,
            example,
            input_names=["images", "sizes"],
            output_names=["candidate_boxes", "candidate_scores", "candidate_labels"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=None if batch else (axis, axis),
            verbose=False,
        )
        model = program.model_proto
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    return model


def _suppression(detector: Detector, candidates: int, ir_version: int) -> ModelProto:
    from onnx import parser

    config = detector.config
    model = parser.parse_model(
        SUPPRESSION.format(
            opset=OPSET,
            candidates=candidates,
            most=min(config.detections_per_image, candidates),
            iou=config.nms_threshold,
            score=config.score_threshold,
            classes=", ".join(str(label + 1) for label in range(detector.num_classes)),
        )
    )
    model.ir_version = ir_version
    return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silences the exporter, whose warnings concern its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
