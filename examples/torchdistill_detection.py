"""torchvision detectors distilled by torchdistill, configured by a YAML file alone.

    python examples/torchdistill_detection.py [torchdistill_retinanet.yaml | torchdistill_faster_rcnn.yaml]

Nothing is downloaded: the detectors have random weights, and the images are synthetic.
"""

import sys
from pathlib import Path

import torch
from tiny_data import torchvision_batch
from torch.utils.data import Dataset
from torchdistill.common.main_util import import_dependencies
from torchdistill.common.yaml_util import load_yaml_file
from torchdistill.core.distillation import get_distillation_box
from torchdistill.datasets.registry import register_collate_func

HERE = Path(__file__).parent


class Rectangles(Dataset):
    """(image, target) in the form that torchvision's detectors take."""

    def __init__(self, count: int, size: int):
        self.images, self.targets = torchvision_batch(count, size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.images[index], self.targets[index]


@register_collate_func
def detection_collate(batch):
    """Lists, not one tensor, as images differ in size; the training box expects a dict as the third part."""
    images, targets, supplementary = zip(*batch, strict=True)
    names = supplementary[0]
    return list(images), list(targets), {name: [entry[name] for entry in supplementary] for name in names}


def distillation_box(path: Path):
    """torchdistill's training box for a configuration file."""
    config = load_yaml_file(str(path))
    import_dependencies(config["dependencies"])
    models = config["models"]
    return get_distillation_box(
        models["teacher_model"], models["student_model"], config["datasets"], config["train"],
        device=torch.device("cpu"), device_ids=None, distributed=False, lr_factor=1,
    )  # fmt: skip


def train(box) -> list[float]:
    """Runs torchdistill's own training loop; returns the loss of every step."""
    losses = []
    for epoch in range(box.num_epochs):
        box.pre_epoch_process(epoch=epoch)
        for images, targets, supplementary in box.train_data_loader:
            box.pre_forward_process()
            loss = box.forward_process(images, targets, supplementary)
            losses.append(loss.item())
            box.post_forward_process(loss)
        box.post_epoch_process()
    return losses


if __name__ == "__main__":
    torch.manual_seed(0)
    name = sys.argv[1] if len(sys.argv) > 1 else "torchdistill_retinanet.yaml"
    print("loss of every step:", [round(loss, 3) for loss in train(distillation_box(HERE / name))])
