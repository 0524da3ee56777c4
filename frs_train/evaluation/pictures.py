"""Pictures of a detector's FRS masks on an image, one per level, next to boxes and detections.

They show what figure 3 of the paper shows: S, the maximum over classes of the sigmoid of the classification
logits, on one colour scale for all levels. A location is drawn as a square with the side of one stride around
the pixel at which convolutions and anchors are centred.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from frs_train.data.dataset import CocoDetection
from frs_train.data.loader import collate, to_device
from frs_train.detectors import Detector
from frs_train.errors import UserError
from frs_train.files import picture_names, write_atomically
from frs_train.text import printable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLOURS = matplotlib.colormaps["inferno"]
CLASSES = matplotlib.colormaps["tab10"]
PANEL = 2.6  # inches
DOTS = 110  # per inch
PICTURE = (640, 1600)  # least and most pixels of the longer side of a picture with nothing but boxes
PLAIN: dict[str, Any] = {"parse_math": False}  # a $ in a name does not start a formula


@dataclass(frozen=True)
class Heat:
    """The FRS mask of one level and its scale on the image."""

    stride: int
    values: np.ndarray
    """[H, W] in 0..1."""
    pitch: tuple[float, float]
    """(x, y) distance of neighbouring locations in pixels of the original image."""


@dataclass(frozen=True)
class View:
    """An image with the masks and detections of a detector."""

    image: np.ndarray
    """[H, W, 3] in 0..1."""
    heats: list[Heat]
    detections: dict[str, Tensor]
    """Detections: boxes [N, 4] xyxy, scores, labels."""


@torch.no_grad()
def look(detector: Detector, image: Tensor) -> View:
    """Masks and detections of an image [3, H, W] in 0..1 on the detector's device. Leaves the detector in
    evaluation mode."""
    detector.eval()
    outputs = detector([image], masks=True)
    height, width = outputs.image_sizes[0]
    across, down = image.shape[-1] / width, image.shape[-2] / height
    heats = [
        Heat(stride, mask[0].float().cpu().numpy(), (stride * across, stride * down))
        for stride, mask in zip(detector.strides, outputs.masks, strict=True)
    ]
    detections = {key: value.cpu() for key, value in detector.detect([image])[0].items()}
    return View(image.permute(1, 2, 0).cpu().numpy(), heats, detections)


def draw(
    view: View, target: dict[str, Tensor], classes: Sequence[str], score: float = 0.3, title: str = ""
) -> Figure:
    """Panels: ground truth, detections with at least this score, highest S of all levels, S of each level.

    Args:
        target: `boxes` [N, 4] xyxy in pixels of the image and `labels` in 1..K.
        classes: the names of labels 1..K.
    """
    height, width = view.image.shape[:2]
    columns = 4
    rows = -(-(3 + len(view.heats)) // columns)
    tall = PANEL * float(np.clip(height / width, 0.4, 1.8)) + 0.25
    figure = Figure((columns * PANEL + 1.0, rows * tall + 0.2), dpi=DOTS, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    show_boxes(axes[0], view.image, target, classes, "ground truth")
    keep = view.detections["scores"] >= score
    kept = {key: value[keep] for key, value in view.detections.items()}
    show_boxes(axes[1], view.image, kept, classes, f"detections with score ≥ {score:g}")
    scale = Normalize(0, max(float(heat.values.max(initial=0)) for heat in view.heats) or 1)
    show_heat(axes[2], view.image, richest(view), scale, "all levels: highest S")
    for axis, heat in zip(axes[3:], view.heats, strict=False):
        values = heat.values
        name = f"stride {heat.stride}: max {values.max():.2f}, sum {values.sum():.1f}"
        show_heat(axis, view.image, on_pixels(heat, height, width), scale, name)
    for axis in axes:
        axis.set_axis_off()
    colours = ScalarMappable(scale, COLOURS)
    figure.colorbar(colours, ax=axes, shrink=0.8, pad=0.01, label="feature richness S", aspect=40)
    figure.suptitle(printable(title), fontsize=9, **PLAIN)
    return figure


def on_pixels(heat: Heat, height: int, width: int) -> np.ndarray:
    """The mask resampled to the pixels of an image [height, width]: each pixel gets the value of the nearest
    location."""
    lines = _nearest(height, heat.pitch[1], heat.values.shape[0])
    columns = _nearest(width, heat.pitch[0], heat.values.shape[1])
    return heat.values[lines[:, None], columns[None, :]]


def _nearest(pixels: int, pitch: float, locations: int) -> np.ndarray:
    """The location nearest to each pixel along one axis."""
    return np.minimum(np.arange(pixels) / pitch + 0.5, locations - 1).astype(int)


def richest(view: View) -> np.ndarray:
    """The highest S of all levels at each pixel: [H, W]."""
    height, width = view.image.shape[:2]
    return np.max([on_pixels(heat, height, width) for heat in view.heats], axis=0)


def show_heat(axis: Axes, image: np.ndarray, heat: np.ndarray, scale: Normalize, title: str) -> None:
    """Draws a mask over the image in grey; the higher S, the less of the image is visible."""
    grey = 0.2 + 0.5 * image.mean(axis=2, keepdims=True)
    strength = scale(heat)
    cover = (0.25 + 0.6 * np.sqrt(strength))[..., None]
    axis.imshow((1 - cover) * grey + cover * COLOURS(strength)[..., :3], interpolation="nearest")
    axis.set_title(printable(title), fontsize=7.5, **PLAIN)


def show_boxes(
    axis: Axes, image: np.ndarray, boxes: dict[str, Tensor], classes: Sequence[str], title: str
) -> None:
    """Draws boxes with class names, and scores if there are any, over the image."""
    axis.imshow(image, interpolation="nearest")
    axis.set_title(printable(title), fontsize=7.5, **PLAIN)
    scores = boxes["scores"].tolist() if "scores" in boxes else [None] * len(boxes["labels"])
    for box, label, score in zip(boxes["boxes"].tolist(), boxes["labels"].tolist(), scores, strict=True):
        x1, y1, x2, y2 = box
        colour = CLASSES((label - 1) % CLASSES.N)
        axis.add_patch(
            Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.4)
        )
        text = printable(classes[int(label) - 1]) + ("" if score is None else f" {score:.2f}")
        patch = {"facecolor": colour, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        where = "bottom" if y1 > 0.05 * image.shape[0] else "top"  # above the box, if there is room
        style = {"fontsize": 5.5, "color": "white", "verticalalignment": where, "clip_on": True, **PLAIN}
        axis.text(max(x1, 0), max(y1, 0), text, bbox=patch, **style)


def draw_boxes(image: np.ndarray, boxes: dict[str, Tensor], classes: Sequence[str]) -> Figure:
    """An image, uint8 [H, W, 3], with boxes and nothing around it; its longer side has 640 to 1600 pixels."""
    height, width = image.shape[:2]
    longer = float(np.clip(max(height, width), *PICTURE))
    dots = DOTS * longer / 450  # the text has the same share of every picture
    sides = np.maximum(longer * np.array([width, height]) / max(height, width), 1)
    figure = Figure(tuple(sides / dots), dpi=dots)
    axis = figure.add_axes((0, 0, 1, 1))
    show_boxes(axis, image, boxes, classes, "")
    axis.set_axis_off()
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image, uint8 [H, W, 3], for TensorBoard's `add_image(..., dataformats="HWC")`."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def pictures(
    detector: Detector,
    dataset: CocoDetection,
    device: torch.device,
    indices: Sequence[int],
    score: float = 0.3,
) -> list[Figure]:
    """One figure for each image of a data set with one of these indices."""
    figures = []
    for index in indices:
        (image,), (target,) = to_device(collate([dataset[index, None]]), device)
        target = {key: value.cpu() for key, value in target.items()}
        name = dataset.coco.images[index]["file_name"]
        figures.append(draw(look(detector, image), target, dataset.coco.classes, score, name))
    return figures


def to_tensorboard(
    writer: SummaryWriter,
    detector: Detector,
    dataset: CocoDetection,
    device: torch.device,
    iteration: int,
    images: int = 2,
) -> None:
    """Writes the pictures of the first images of a data set as `masks/<n>` of an iteration."""
    shown = range(min(images, len(dataset)))
    for number, figure in enumerate(pictures(detector, dataset, device, shown)):
        writer.add_image(f"masks/{number}", pixels(figure), iteration, dataformats="HWC")


def write_pictures(
    detector: Detector,
    dataset: CocoDetection,
    out: Path,
    device: torch.device,
    *,
    limit: int | None = None,
    score: float = 0.3,
    replace: bool = False,
) -> list[Path]:
    """Writes one PNG per image (of the first `limit`) into `out`, named after the image; returns the paths.

    Raises:
        UserError: an image cannot be read, a picture cannot be written, or a picture exists already and
            `replace` is False.
    """
    count = min(len(dataset), limit or len(dataset))
    names = picture_names([dataset.coco.images[index]["file_name"] for index in range(count)])
    old = [name for name in names if (out / name).exists()]
    if old and not replace:
        raise UserError(
            f"{out} has {len(old)} of these {len(names)} pictures already, the first is {old[0]}. Choose "
            "another --out, or remove them."
        )
    for index, name in enumerate(names):
        (figure,) = pictures(detector, dataset, device, [index], score)
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_atomically(out / name, content.getvalue())
    return [out / name for name in names]
