"""The `target` fixture: every fused backend on every device that it has kernels for."""

import pytest
import torch
from cases import INTERPRETED, Target
from hypothesis import HealthCheck, settings

import frs_kernels as frs
from frs_kernels import dispatch

TARGETS = [
    pytest.param(Target("native", "cpu"), id="native-cpu"),
    pytest.param(Target("native", "cuda"), id="native-cuda", marks=pytest.mark.gpu),
    pytest.param(Target("triton", "cuda"), id="triton-cuda", marks=pytest.mark.gpu),
]
if INTERPRETED:
    TARGETS = [pytest.param(Target("triton", "cpu"), id="triton-interpreted")]

# The fixtures hold no state, so hypothesis may call a test many times with one of them.
settings.register_profile(
    "frs",
    max_examples=5 if INTERPRETED else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("frs")


@pytest.fixture(params=TARGETS)
def target(request) -> Target:
    target = request.param
    if target.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    reason = dispatch.load(target.backend).unavailable()
    if reason is not None:
        pytest.skip(f"backend {target.backend}: {reason}")
    return target


@pytest.fixture
def refused():
    """Calls a function and returns the message of the ValueError or TypeError that it must raise."""

    def call(function, *args, **kwargs) -> str:
        with pytest.raises((ValueError, TypeError)) as caught:
            function(*args, **kwargs)
        return str(caught.value)

    return call


def pytest_report_header():
    return f"frs_kernels {frs.__version__}, torch {torch.__version__}, backends {frs.available_backends()}"
