"""Fixtures of the integration tests. Tests that need a package which is not installed are skipped."""

import os
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))  # the tests use their synthetic data
os.environ.update(
    YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false"
)  # read when ultralytics is imported


from tiny_detector import TinyDetector  # noqa: E402


@pytest.fixture
def student() -> TinyDetector:
    torch.manual_seed(0)
    return TinyDetector(8)


@pytest.fixture
def teacher() -> TinyDetector:
    torch.manual_seed(1)
    return TinyDetector(12)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(2))
