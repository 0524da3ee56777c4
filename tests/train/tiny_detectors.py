"""Detectors small enough to train in a test, and a batch for them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from frs_train.config import DetectorConfig
from frs_train.detectors import build_detector

FAMILIES = ("retinanet", "fcos", "gfl", "faster-rcnn")
TINY = dict(
    backbone="resnet10",
    backbone_width=0.25,
    backbone_norm="group",
    head_norm="group",
    fpn_width=16,
    head_convs=1,
    min_size=(64,),
    max_size=128,
)


@contextmanager
def seeded_on_one_thread() -> Iterator[None]:
    """Sets seed 0 and a single thread: these tensors are too small for several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def tiny(family="retinanet", num_classes=3, **options):
    return build_detector(DetectorConfig(family=family, **{**TINY, **options}), num_classes)


def batch():
    """Two images of different sizes and their targets; labels 1 to 3."""
    images = [torch.rand(3, 64, 64), torch.rand(3, 60, 90)]
    targets = [
        {"boxes": torch.tensor([[4.0, 6, 40, 44], [30, 20, 62, 60]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[10.0, 10, 50, 58]]), "labels": torch.tensor([2])},
    ]
    return images, targets
