"""The official repository's structure, mmdetection-style: one call in ``forward_train`` replaces its loop.

    python examples/mmdetection_style.py

Such a detector extracts features and runs its head (of the proposal network, in two-stage detectors) on them,
which returns lists of levels: (class scores, boxes). Here, a few convolutions stand in for both.
"""

import torch
from torch import nn

import frs_kernels as frs


class Head(nn.Module):
    """The interface of RetinaHead, FCOSHead, GFLHead, RPNHead: features -> (class scores, boxes) by level."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.cls_logits = nn.Conv2d(channels, classes, 3, padding=1)
        self.boxes = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, feats):
        return [self.cls_logits(x) for x in feats], [self.boxes(x) for x in feats]


class Detector(nn.Module):
    def __init__(self, channels: int = 16, classes: int = 6, levels: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, padding=1) for _ in range(levels))
        self.bbox_head = Head(channels, classes)

    def extract_feat(self, img):
        feats, x = [], self.stem(img)
        for layer in self.down:
            x = layer(x.relu())
            feats.append(x)
        return feats


class DistillingDetector(Detector):
    """The changes in the detector: a criterion, and the lines between the dashes."""

    def __init__(self, teacher: Detector):
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.distillation = frs.FRSDistillationLoss(16, 16, num_levels=3, feat_weight=0.005, head_weight=0.02)

    def forward_train(self, img):
        x = self.extract_feat(img)
        cls_scores, bbox_preds = self.bbox_head(x)
        losses = {"loss_cls": sum(s.square().mean() for s in cls_scores)}  # in place of the head's own losses
        losses["loss_bbox"] = sum(b.abs().mean() for b in bbox_preds)
        # ---- adapters, masks, both terms for all levels, warm-up
        with torch.no_grad():
            y = self.teacher.extract_feat(img)
            teacher_scores = self.teacher.bbox_head(y)[0]
        loss = self.distillation(x, y, student_logits=cls_scores, teacher_logits=teacher_scores)
        # ----
        return losses | {"distill_feat_loss": loss.feature, "distill_cls_loss": loss.head}


def main(steps: int = 3) -> None:
    torch.manual_seed(0)
    model = DistillingDetector(Detector())
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.01)
    model.distillation.count_steps(optimizer)  # for the warm-up
    for _ in range(steps):
        losses = model.forward_train(torch.randn(2, 3, 64, 64))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        print({name: round(value.item(), 4) for name, value in losses.items()})


if __name__ == "__main__":
    main()
