"""Prints by how many MiB the memory of a loader process grows over 7,000 images: loader_memory.py FOLDER.

In a process of its own, because the heap that earlier tests leave behind would be copied page by page.
"""

import multiprocessing
import sys
from pathlib import Path

import torch
from coco_files import content, write
from torchvision import tv_tensors

from frs_train.data import dataset
from frs_train.data.coco import read_coco
from frs_train.data.loader import loaded

IMAGES = 10_000


def private(pid: int) -> float:
    """MiB of memory that a process shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1024


polygon = [list(range(40))]
images = [{"id": i, "file_name": f"{i:060}.png", "width": 4, "height": 4} for i in range(IMAGES)]
records = [
    {"image_id": i % IMAGES, "category_id": 1, "bbox": [0, 0, 2, 2 + i % 2], "segmentation": polygon}
    for i in range(3 * IMAGES)
]
coco = read_coco(write(Path(sys.argv[1]), content(images=images, annotations=records)))
dataset.find_image = lambda folder, name: name
dataset.read_image = lambda *_: tv_tensors.Image(torch.zeros(3, 4, 4))
batches = [[(i, None) for i in range(first, first + 100)] for first in range(0, IMAGES, 100)]
with loaded(dataset.CocoDetection(coco, Path()), batches, 1, torch.device("cpu")) as iterator:
    for _ in range(20):
        next(iterator)
    (worker,) = multiprocessing.active_children()
    before = private(worker.pid)
    for _ in range(70):
        next(iterator)
    print(private(worker.pid) - before)
