"""Backbones: ResNet and MobileNetV3 of any width with a feature pyramid, built from torchvision's parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn
from torchvision.models import mobilenetv3
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from frs_train.config import DetectorConfig

RESNETS = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),  # for students that are trained on a CPU; no published weights
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}
MOBILENET = "mobilenet-v3"
# pyramid level -> the last block of its stage, in torchvision's numbering
MOBILENET_STAGES = {2: "2", 3: "4", 4: "7", 5: "16"}


class Trunk(NamedTuple):
    """A classification network as a backbone: its stages, their channels, and its layers by depth."""

    body: nn.Module
    stages: dict[int, str]  # pyramid level (log2 of the stride) -> name of the layer that yields it
    channels: dict[int, int]
    layers: list[str]  # deepest first, as `trainable_layers` counts them


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups as in torchvision, or fewer in a narrow network, so that a group has at least
    8 channels: a group with one channel at a single location would always be normalized to zero."""
    return nn.GroupNorm(math.gcd(32, max(1, channels // 8), channels), channels)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "frozen": FrozenBatchNorm2d,
    "group": group_norm,
}


def _resnet(name: str, width: float, norm: Callable[[int], nn.Module]) -> Trunk:
    block, depths = RESNETS[name]
    net = ResNet(block, depths, norm_layer=norm) if width == 1 else _NarrowResNet(block, depths, width, norm)
    channels = {level: net.inplanes >> (5 - level) for level in (2, 3, 4, 5)}
    stages = {level: f"layer{level - 1}" for level in channels}
    return Trunk(net, stages, channels, ["layer4", "layer3", "layer2", "layer1", "bn1", "conv1"])


class _NarrowResNet(ResNet):
    """torchvision's ResNet with `width` times the channels in every layer (at least 8 in the first stage)."""

    def __init__(self, block, depths, width: float, norm: Callable[[int], nn.Module]):
        super().__init__(block, [1, 1, 1, 1], norm_layer=norm, num_classes=1)
        base = max(8, 8 * round(64 * width / 8))
        self.inplanes = base
        self.conv1 = nn.Conv2d(3, base, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(base)
        self.layer1 = self._make_layer(block, base, depths[0])
        self.layer2 = self._make_layer(block, base * 2, depths[1], stride=2)
        self.layer3 = self._make_layer(block, base * 4, depths[2], stride=2)
        self.layer4 = self._make_layer(block, base * 8, depths[3], stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _mobilenet(width: float, norm: Callable[[int], nn.Module]) -> Trunk:
    setting, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_large", width_mult=width)
    features = mobilenetv3.MobileNetV3(setting, last, num_classes=1, norm_layer=norm).features
    channels = {level: features[int(stage)].out_channels for level, stage in MOBILENET_STAGES.items()}
    return Trunk(features, MOBILENET_STAGES, channels, [str(i) for i in reversed(range(len(features)))])


def _freeze(trunk: Trunk, name: str, trainable_layers: int) -> None:
    """Freezes all except the `trainable_layers` deepest stages (0..5; 5 freezes none), like torchvision."""
    if trainable_layers == 5:
        return
    if name == MOBILENET:
        first = [17, 13, 7, 4, 2][trainable_layers]
        trainable = {str(i) for i in range(first, 17)}
    else:
        trainable = set(trunk.layers[:trainable_layers])
    for key, parameter in trunk.body.named_parameters():
        if key.split(".")[0] not in trainable:
            parameter.requires_grad_(False)


def build_backbone(config: DetectorConfig, *, first_level: int = 3, extra: str = "p5") -> BackboneWithFPN:
    """A backbone with random weights and its pyramid of five levels.

    Args:
        config: `backbone`, `backbone_width`, `backbone_norm`, `fpn_width` and `trainable_layers` are used.
        first_level: 3 for P3 to P7, 2 for P2 to P6 as in two-stage detectors.
        extra: the input of P6 if `first_level` is 3: "p5", or "c5" as in the RetinaNet paper.

    Returns:
        torchvision's BackboneWithFPN: images [B, 3, H, W] -> OrderedDict of five [B, fpn_width, H/s, W/s].
    """
    name, fpn_channels = config.backbone, config.fpn_width
    make = _mobilenet if name == MOBILENET else partial(_resnet, name)
    trunk = make(config.backbone_width, NORMS[config.backbone_norm])
    _freeze(trunk, name, config.trainable_layers)
    levels = range(first_level, 6)
    extra_blocks = LastLevelMaxPool()
    if first_level == 3:
        extra_blocks = LastLevelP6P7(trunk.channels[5] if extra == "c5" else fpn_channels, fpn_channels)
        extra_blocks.use_P5 = extra == "p5"
    return BackboneWithFPN(
        trunk.body,
        {trunk.stages[level]: str(i) for i, level in enumerate(levels)},
        [trunk.channels[level] for level in levels],
        fpn_channels,
        extra_blocks,
    )
