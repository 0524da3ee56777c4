"""Trains detectors with the feature-richness losses of `frs_kernels`; `python -m frs_train --help`."""
