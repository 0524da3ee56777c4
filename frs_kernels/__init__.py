"""Fused kernels for feature-richness (FRS) distillation of object detectors.

Read :mod:`frs_kernels.reference` for the maths, then :mod:`frs_kernels.ops` and :mod:`frs_kernels.kl` for the
public functions.
"""

from . import reference
from .dispatch import available_backends
from .kl import weighted_kl
from .levels import split_levels
from .modules import FeatureAdapter, FRSDistillationLoss
from .ops import explain_backend, frs_loss, frs_mask, weighted_bce, weighted_mse
from .output import FRSLossOutput

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
    "weighted_kl",
    "weighted_mse",
]
