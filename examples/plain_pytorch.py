"""Any detector in plain PyTorch: hooks capture features and logits, FRSDistillationLoss compares them.

    python examples/plain_pytorch.py

Nothing is downloaded: torchvision's RetinaNets have random weights, and the images are synthetic.
"""

import torch
from tiny_data import NAMES, torchvision_batch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import frs_kernels as frs
from frs_kernels.integrations.hooks import Distiller


def retinanet(backbone: str) -> RetinaNet:
    pyramid = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256),
        trainable_layers=5, norm_layer=torch.nn.BatchNorm2d,
    )  # fmt: skip
    return RetinaNet(pyramid, num_classes=len(NAMES) + 1, min_size=64, max_size=64)


def main(steps: int = 4) -> None:
    torch.manual_seed(0)
    images, targets = torchvision_batch(4)
    student, teacher = retinanet("resnet18"), retinanet("resnet34")
    teacher(images, targets)  # gives it batch statistics, in place of a training

    criterion = frs.FRSDistillationLoss(256, 256, num_levels=5, warmup_iters=2)
    where = {"feats": "backbone", "logits": "head.classification_head.cls_logits"}
    distiller = Distiller(student, teacher, criterion, where)  # wrap this one in DistributedDataParallel
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.002, momentum=0.9)
    criterion.count_steps(optimizer)  # for the warm-up
    for _ in range(steps):
        losses, distillation = distiller(images, targets)
        loss = sum(losses.values()) + distillation.total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        detection = sum(losses.values()).item()
        print(f"detection {detection:.3f}  feature {distillation.feature:.3f}  head {distillation.head:.3f}")
    print(f"student alone: {len(student.state_dict())} tensors in its checkpoint")


if __name__ == "__main__":
    main()
