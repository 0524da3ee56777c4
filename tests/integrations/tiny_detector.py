"""A small detector with the shape of any other: a pyramid of levels and a head shared between them."""

from mmdetection_style import Head
from torch import nn


class Pyramid(nn.Module):
    """Features [B, channels, H, W] of three levels, as a dict like torchvision's."""

    def __init__(self, channels: int):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(3))

    def forward(self, images):
        x, levels = self.stem(images).relu(), {}
        for number, layer in enumerate(self.down):
            x = layer(x).relu()
            levels[f"p{number}"] = x
        return levels


class TinyDetector(nn.Module):
    def __init__(self, channels: int = 8, logits: int = 6):
        super().__init__()
        self.neck = Pyramid(channels)
        self.bbox_head = Head(channels, logits)

    def forward(self, images):
        logits, boxes = self.bbox_head(list(self.neck(images).values()))
        return {"cls": sum(x.square().mean() for x in logits), "box": sum(x.abs().mean() for x in boxes)}
