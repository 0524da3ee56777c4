"""The result of the loss functions."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class FRSLossOutput:
    """The two terms of the loss, multiplied by their weights, their sum, and what each level contributes.

    A term that is left out is 0. All are in the accumulation dtype, on the device of the inputs. For
    torch.compile, torch.export and DistributedDataParallel the object is a pytree of these five tensors. It
    prints its values.

    Attributes:
        feature: the imitation term, ``[]``.
        head: the head term, ``[]``.
        total: ``feature + head``, ``[]``: what a training differentiates.
        feature_levels, head_levels: ``[levels]``, the share of every level in ``feature`` and ``head``, with
            no gradient: they show which level swamps the loss or is the first to become NaN.
    """

    feature: Tensor
    head: Tensor
    total: Tensor
    feature_levels: Tensor
    head_levels: Tensor

    def scalars(self) -> dict[str, float]:
        """All values as Python floats for a logger, after one synchronisation with the device.

        The keys are "total", "feature", "head", "feature_level_0", ..., "head_level_0", ...
        """
        names = ["total", "feature", "head"]
        for term in ("feature", "head"):
            names += [f"{term}_level_{level}" for level in range(self.feature_levels.numel())]
        losses = torch.stack([self.total, self.feature, self.head]).detach()
        values = torch.cat([losses, self.feature_levels, self.head_levels])
        numbers = cast("list[float]", values.tolist())  # pyright: ignore[reportUnknownMemberType]  # list
        return dict(zip(names, numbers, strict=True))

    def __repr__(self) -> str:
        try:
            total, feature, head, *levels = (f"{value:.4g}" for value in self.scalars().values())
        except RuntimeError:  # tensors without values: fake, on the device meta, or inside a transform
            total, feature, head, levels = self.total, self.feature, self.head, []
        half = len(levels) // 2
        feature_levels, head_levels = ", ".join(levels[:half]), ", ".join(levels[half:])
        return (
            f"FRSLossOutput(total={total}, feature={feature}, head={head}, "
            f"feature_levels=[{feature_levels}], head_levels=[{head_levels}])"
        )


torch.export.register_dataclass(FRSLossOutput, serialized_type_name=f"{__package__}.FRSLossOutput")
