"""YOLO26 distilled by Ultralytics' own trainer with the losses of frs_kernels: both terms and a warm-up.

    python examples/ultralytics_yolo26.py

Nothing is downloaded: student and teacher have random weights, and the images are synthetic. For a real run
use YOLO("yolo26n.pt"), distill_model="yolo26s.pt" and your data.yaml. For masks, keypoints or oriented boxes
derive from FRSSegmentationTrainer, FRSPoseTrainer or FRSOBBTrainer, and take models for that task.
"""

import tempfile
from pathlib import Path

import torch
from tiny_data import NAMES, write_yolo_dataset
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from frs_kernels.integrations.ultralytics import FRSTrainer


class Trainer(FRSTrainer):
    head_weight = 0.5  # relative to the imitation term, the only one of Ultralytics itself
    warmup_iters = 4


def write_teacher(path: Path, config: str = "yolo26s.yaml") -> Path:
    """Writes a teacher with the classes of the data, as a checkpoint that Ultralytics can load."""
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
        student = YOLO(model.trainer.best)  # a plain YOLO26n, without teacher and adapters
        print(f"student alone: {sum(p.numel() for p in student.model.parameters())} parameters")


if __name__ == "__main__":
    main()
