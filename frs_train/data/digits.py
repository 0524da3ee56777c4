"""The digits data set of `frs-train make-digits`: detection in COCO format, made without a network.

Every object is one of the 1,797 scans of handwritten digits in scikit-learn (8x8 grey levels, UCI optdigits).
It is enlarged, rotated, and drawn onto crops of photographs from scikit-learn or scikit-image, among random
pen strokes. The digits and the backgrounds are real; their arrangement is synthetic.

There are two kinds of scenes. `DENSE`: several large digits on one photograph; their boxes cover about 40 %
of the image. `SPARSE`: one to three small digits among many strokes, where four photographs meet; their boxes
never cover more than 8 % of the image, so that a mask of the digits selects a small part of it.

No scan and no photograph is in both splits. The scans are split by their position in the collection and not
at random: neighbours are often by the same writer, so that most digits of the validation set are by writers
who are not in the training set. The same arguments give the same bytes. Image i of a split depends only on
(seed, size, i, scenes), so a larger set extends a smaller one. A box encloses the whole digit, including the
part that another digit covers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

PHOTOGRAPHS = {
    "train": (
        "sklearn/china.jpg",
        "skimage/astronaut.png",
        "skimage/brick.png",
        "skimage/camera.png",
        "skimage/chelsea.png",
        "skimage/coins.png",
        "skimage/grass.png",
        "skimage/hubble_deep_field.jpg",
        "skimage/ihc.png",
        "skimage/motorcycle_left.png",
        "skimage/retina.jpg",
    ),
    "val": (
        "sklearn/flower.jpg",
        "skimage/coffee.png",
        "skimage/gravel.png",
        "skimage/moon.png",
        "skimage/rocket.jpg",
    ),
}
FOLDERS = {"sklearn": ("sklearn.datasets", "images"), "skimage": ("skimage", "data")}
SCANS = {"train": slice(0, 1437), "val": slice(1437, 1797)}
MAX_TURN = 25.0  # degrees; small enough that a 6 does not become a 9
MIN_VISIBLE = 0.85  # fraction of a digit's ink that later digits must leave visible
MAX_OVERLAP = 0.2  # intersection over union of two digits' boxes
CONTRAST = 110.0  # grey levels between the ink and the mean of the pixels that it covers


@dataclass(frozen=True)
class Scenes:
    """What differs between the kinds of scenes. Lengths are fractions of the side of the image; a pair is the
    least and the most."""

    description: str
    photographs: int
    """Photographs in an image: 1, or 4 that meet in a point."""
    reduction: float
    """Pixels of a photograph per pixel of the image, at most. A small value keeps textures sharp."""
    strokes: tuple[int, int]
    """Number of distractor strokes."""
    reach: float
    """How far a stroke goes from its start along each axis, at most."""
    pens: tuple[float, float]
    """Thickness of a stroke."""
    tries: tuple[int, int]
    """Candidates for digits; one that would hide another digit, or exceed `cover`, is skipped."""
    sides: tuple[float, float]
    """Side of a digit before its rotation."""
    cover: float
    """Sum of the areas of all boxes / area of the image, at most."""


DENSE = Scenes(
    "Real scans in composed scenes: scikit-learn's handwritten digits on crops of real photographs",
    photographs=1,
    reduction=math.inf,
    strokes=(2, 5),
    reach=0.35,
    pens=(0.015, 0.04),
    tries=(5, 9),
    sides=(0.28, 0.56),
    cover=math.inf,
)
SPARSE = Scenes(
    "Real scans in composed sparse scenes: scikit-learn's handwritten digits, small, on real photographs",
    photographs=4,
    reduction=1.5,
    strokes=(8, 14),
    reach=0.7,  # longer than a digit, so that few strokes look like a 1
    pens=(0.012, 0.03),
    tries=(1, 3),
    sides=(0.13, 0.25),
    cover=0.08,
)
SCENES = {"dense": DENSE, "sparse": SPARSE}


class Digit(NamedTuple):
    """One placed digit: its class 0..9, its scan, and its tight box (x, y, width, height) in pixels."""

    digit: int
    scan: int
    box: tuple[int, int, int, int]


def make_digits(
    out: Path | str, train: int, val: int, size: int = 128, seed: int = 0, scenes: Scenes = DENSE
) -> dict[str, Path]:
    """Writes `out`/images/*.png, then `out`/train.json and `out`/val.json, so that an
    annotation file exists only if its images do.

    Args:
        train, val: number of images of each split.
        size: side of the square images, in pixels (at least 32).
        seed: any non-negative integer.
        scenes: `DENSE` or `SPARSE`.

    Returns:
        the two annotation files by split. Image records also have `photograph` (names joined by " + "),
        annotations have `scan`.

    Raises:
        ValueError: counts below zero or a size below 32.
        ModuleNotFoundError: scikit-learn or scikit-image is not installed.
        OSError: `out` cannot be written.
    """
    if min(train, val, seed) < 0 or size < 32:
        raise ValueError(
            f"counts and seed must be >= 0 and size >= 32, got {train=}, {val=}, {seed=}, {size=}"
        )
    out = Path(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    written = {}
    for split, count in (("train", train), ("val", val)):
        record = coco_header(split, size, seed, scenes)
        for index in range(count):
            scene, source, digits = compose(split, index, size, seed, scenes)
            name = f"{split}_{index:06d}.png"
            scene.save(out / "images" / name)
            add_image(record, name, source, digits)
        written[split] = out / f"{split}.json"
        written[split].write_text(json.dumps(record) + "\n")
    return written


def add_image(record: dict, name: str, source: str, digits: list[Digit]) -> None:
    """Appends an image and its digits to the content of an annotation file."""
    size = record["info"]["size"]
    number = len(record["images"]) + 1
    image = {"id": number, "file_name": name, "width": size, "height": size, "photograph": source}
    record["images"].append(image)
    for item in digits:
        annotation = {"id": len(record["annotations"]) + 1, "image_id": number, "category_id": item.digit + 1}
        annotation |= {"bbox": list(item.box), "area": item.box[2] * item.box[3], "iscrowd": 0}
        record["annotations"].append(annotation | {"scan": item.scan})


def coco_header(split: str, size: int, seed: int, scenes: Scenes) -> dict:
    """The content of an annotation file without images. The category id of a digit is the digit plus one."""
    return {
        "info": {"description": f"{scenes.description} ({split} split)", "size": size, "seed": seed},
        "categories": [{"id": d + 1, "name": str(d)} for d in range(10)],
        "images": [],
        "annotations": [],
    }


def compose(
    split: str, index: int, size: int, seed: int, scenes: Scenes = DENSE
) -> tuple[Image.Image, str, list[Digit]]:
    """Image `index` of a split: (RGB image, names of the photographs, digits in the order of drawing)."""
    rng = np.random.default_rng([seed, size, ("train", "val").index(split), index])
    known = PHOTOGRAPHS[split]
    names = [known[rng.integers(len(known))] for _ in range(scenes.photographs)]
    scene = draw_strokes(background(names, size, scenes.reduction, rng), scenes, rng)
    canvas = np.asarray(scene, dtype=np.float32)
    shown: list[np.ndarray] = []  # the visible part of each digit
    digits: list[Digit] = []
    totals: list[int] = []
    room = scenes.cover * size**2  # for boxes, in pixels
    tries = int(rng.integers(scenes.tries[0], scenes.tries[1] + 1))
    while tries > 0 or not digits:
        tries -= 1
        scan, digit, ink = candidate(split, size, scenes.sides, rng)
        box, solid = tight_box(ink), ink > 0.5
        left = [seen & ~solid for seen in shown]
        hidden = any(rest.sum() < MIN_VISIBLE * total for rest, total in zip(left, totals, strict=True))
        crowded = any(overlap(box, other.box) > MAX_OVERLAP for other in digits)
        if hidden or crowded or box[2] * box[3] > room:
            continue
        canvas = paint(canvas, ink, rng)
        shown, totals = [*left, solid], [*totals, int(solid.sum())]
        digits.append(Digit(digit, scan, box))
        room -= box[2] * box[3]
    return Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8)), " + ".join(names), digits


@cache
def photograph(name: str) -> Image.Image:
    """A photograph by its name in `PHOTOGRAPHS`, RGB, read from the installed package."""
    package, file = name.split("/")
    root, folder = FOLDERS[package]
    with Image.open(str(files(root) / folder / file)) as image:
        return image.convert("RGB")


@cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans [1797, 8, 8] with ink in 0..1, and their digits [1797]."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return data.images / 16.0, data.target


def background(names: list[str], size: int, reduction: float, rng: np.random.Generator) -> Image.Image:
    """Crops of photographs [size, size]: of one, or of four that meet in a random point."""
    image, *others = [crop(photograph(name), size, reduction, rng) for name in names]
    if others:
        x, y = (int(v) for v in rng.integers(size // 4, size - size // 4, 2))
        for other, corner in zip(others, ((x, 0), (0, y), (x, y)), strict=True):
            image.paste(other, corner)  # what is outside the image is cut off
    return image


def crop(image: Image.Image, size: int, reduction: float, rng: np.random.Generator) -> Image.Image:
    """A random square crop, resized to `size`; enlarged only if the photograph is smaller."""
    shorter = min(image.size)
    side = int(rng.integers(min(size, shorter), int(min(size * reduction, shorter)) + 1))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
    return image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BOX)


def draw_strokes(image: Image.Image, scenes: Scenes, rng: np.random.Generator) -> Image.Image:
    """Draws curved pen strokes, as thick as those of a digit, as distractors."""
    size = image.width
    pen = ImageDraw.Draw(image)
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(rng.integers(scenes.strokes[0], scenes.strokes[1] + 1))):
        start = rng.uniform(0, size, 2)
        bend, end = start + rng.uniform(-scenes.reach, scenes.reach, (2, 2)) * size
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        width = max(1, round(size * rng.uniform(*scenes.pens)))
        pen.line([tuple(point) for point in curve.tolist()], fill=colour, width=width)
    return image


def candidate(
    split: str, size: int, sides: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, np.ndarray]:
    """A digit to place: (scan, digit, ink [size, size] in 0..1), with the ink entirely inside the image."""
    inks, labels = scans()
    scan = int(rng.integers(SCANS[split].start, SCANS[split].stop))
    side = max(8, round(size * (sides[0] + (sides[1] - sides[0]) * rng.random() ** 1.5)))
    grey = Image.fromarray((inks[scan] * 255).astype(np.uint8))
    grey = grey.resize((side, side), Image.Resampling.BICUBIC)
    grey = grey.rotate(rng.uniform(-MAX_TURN, MAX_TURN), Image.Resampling.BICUBIC, expand=True)
    ink = np.clip((np.asarray(grey, dtype=np.float32) / 255 - 0.3) / 0.7, 0, 1)
    x, y, width, height = tight_box(ink)
    left, top = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
    placed = np.zeros((size, size), dtype=np.float32)
    placed[top : top + height, left : left + width] = ink[y : y + height, x : x + width]
    return scan, int(labels[scan]), placed


def paint(canvas: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blends ink [H, W] in a random colour into a canvas [H, W, 3], lighter or darker than what it covers."""
    below = float(canvas[ink > 0.5].mean())
    darkest = min(below + CONTRAST, 195.0) if below < 128 else max(below - CONTRAST - 60, 0.0)
    colour = (darkest + rng.uniform(0, 60, 3)).astype(np.float32)
    return canvas + ink[..., None] * (colour - canvas)


def tight_box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the pixels that are at least a quarter ink."""
    rows, columns = np.flatnonzero((ink > 0.25).any(1)), np.flatnonzero((ink > 0.25).any(0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over union of two (x, y, width, height) boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / (a[2] * a[3] + b[2] * b[3] - both)
