"""Fused kernels for feature-richness (FRS) distillation of object detectors.

Read :mod:`frs_kernels.reference` for the maths, then :mod:`frs_kernels.ops` for the public functions.
"""

from frs_kernels import reference
from frs_kernels.dispatch import available_backends
from frs_kernels.levels import split_levels
from frs_kernels.modules import FeatureAdapter, FRSDistillationLoss
from frs_kernels.ops import explain_backend, frs_loss, frs_mask, weighted_bce, weighted_mse
from frs_kernels.output import FRSLossOutput

__version__ = "0.1.0"

__all__ = [
    "FRSDistillationLoss",
    "FRSLossOutput",
    "FeatureAdapter",
    "available_backends",
    "explain_backend",
    "frs_loss",
    "frs_mask",
    "reference",
    "split_levels",
    "weighted_bce",
    "weighted_mse",
]
