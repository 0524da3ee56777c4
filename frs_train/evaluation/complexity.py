"""The size of a detector and the arithmetic of a detection, which do not depend on the machine."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from frs_train.detectors import Detector


def parameter_count(module: nn.Module) -> int:
    """Number of parameters, frozen ones included; statistics of batch norm are none."""
    return sum(p.numel() for p in module.parameters())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and the statistics of a module: what a file with its weights alone takes. A
    checkpoint is larger, because it also has the state of the optimizer."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def flops(detector: Detector, image: Tensor) -> int:
    """Floating-point operations of the detection in an image [3, H, W] in 0..1 on the detector's device.

    A multiplication and the addition that follows count as two. Only convolutions and matrix products are
    counted (see `torch.utils.flop_counter`). In Faster R-CNN, the count depends on the number of proposals.
    """
    with FlopCounterMode(display=False) as counter:
        detector.detect([image])
    return counter.get_total_flops()
