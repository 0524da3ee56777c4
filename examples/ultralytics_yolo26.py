"""YOLO26 distilled by Ultralytics' own trainer with the loss of frs_kernels, a head loss and a warm-up.

    python examples/ultralytics_yolo26.py

Nothing is downloaded: student and teacher start from random numbers, the pictures are made up. For a real
run take YOLO("yolo26n.pt"), distill_model="yolo26s.pt" and your data.yaml.
"""

import tempfile
from pathlib import Path

import torch
from tiny_data import NAMES, write_yolo_dataset
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from frs_kernels.integrations.ultralytics import FRSTrainer


class Trainer(FRSTrainer):
    head_weight = 0.5  # beside the imitation loss, which is all that Ultralytics has
    warmup_iters = 4


def write_teacher(path: Path, config: str = "yolo26s.yaml") -> Path:
    """A teacher with the classes of the data, as a checkpoint that Ultralytics loads."""
    torch.save({"model": DetectionModel(config, nc=len(NAMES), verbose=False)}, path)
    return path


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model = YOLO("yolo26n.yaml")
        model.train(
            trainer=Trainer,
            distill_model=str(write_teacher(folder / "teacher.pt")),
            data=str(write_yolo_dataset(folder / "data")),
            epochs=2, imgsz=64, batch=4, optimizer="SGD", device="cpu", project=str(folder), plots=False,
        )  # fmt: skip
        student = YOLO(model.trainer.best)  # a plain YOLO26n: neither teacher nor adapters are in it
        print(f"student alone: {sum(p.numel() for p in student.model.parameters())} parameters")


if __name__ == "__main__":
    main()
