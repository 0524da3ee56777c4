"""Fixtures of all tests: `target` (every fused backend on every device it has kernels for), and training.

With TRITON_INTERPRET=1 only the tests that take a `target` run, on Triton's interpreter.

Modules that tests import: cases (inputs, comparison with the reference), loss_cases, gpu_cases and cpu_calls
(inputs that fewer files share), tolerances, emulated (the CUDA kernels on the CPU), programs (processes of
their own), imports (which modules import which).
"""

import math
from collections import Counter

import pytest
import torch
from cases import INTERPRETED, Target
from hypothesis import HealthCheck, settings
from torch.optim.optimizer import register_optimizer_step_post_hook

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


FEW_STEPS = 10  # optimizer steps; a test that takes more is about the result of a training


def pytest_addoption(parser):
    group = parser.getgroup("training", "tests that train: python -m tests.training_margins")
    group.addoption("--training-seeds", type=int, default=1, metavar="N", help="each with seeds 0 to N - 1")
    group.addoption("--without-onednn", action="store_true", help="convolutions by PyTorch's own loops")


def pytest_configure(config):
    if config.getoption("--without-onednn"):
        torch.backends.mkldnn.set_flags(_enabled=False)


def pytest_generate_tests(metafunc):
    if "training_seed" in metafunc.fixturenames:
        seeds = range(metafunc.config.getoption("--training-seeds"))
        metafunc.parametrize("training_seed", seeds, ids="seed{}".format, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if "training_seed" in item.fixturenames:
            item.add_marker("trains")
        if INTERPRETED and item.get_closest_marker("slow_interpreted"):
            item.add_marker("slow")
    if INTERPRETED:
        others = [item for item in items if not isinstance(parameters(item).get("target"), Target)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]


def parameters(item) -> dict:
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.fixture
def bounded(record_property):
    """Asserts a bound on a trained value, and records how many times narrower the bound could be."""

    def check(name: str, value: float, *, most: float | None = None, least: float | None = None) -> None:
        margin = value / least if most is None else most / value if value else math.inf
        record_property(f"margin of {name}", margin)
        assert margin > 1, f"{name}: {value:.4g}, bound {least if most is None else most:.4g}"

    return check


@pytest.fixture(autouse=True)
def few_steps_unless_it_takes_a_seed(request):
    """A test that trains must pass with every seed: without `training_seed` it may take few steps only."""
    steps = Counter()
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: steps.update([optimizer]))
    yield
    hook.remove()
    most = max(steps.values(), default=0)
    assert most <= FEW_STEPS or "training_seed" in request.fixturenames, (
        f"takes {most} steps of an optimizer without `training_seed`"
    )


@pytest.fixture(params=TARGETS)
def target(request) -> Target:
    target = request.param
    if target.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    reason = dispatch.load(target.backend).unavailable_on(torch.device(target.device))
    if reason is not None:
        pytest.skip(f"backend {target.backend}: {reason}")
    return target


@pytest.fixture
def has_kl(target) -> None:
    """Skips the target that has no operator kl, for pytest.mark.usefixtures."""
    if target == Target("native", "cuda"):
        pytest.skip("weighted_kl has no kernel in CUDA C++")


@pytest.fixture
def refused():
    """Calls a function that must raise ValueError or TypeError, and returns the message."""

    def call(function, *args, **kwargs) -> str:
        with pytest.raises((ValueError, TypeError)) as caught:
            function(*args, **kwargs)
        return str(caught.value)

    return call


def pytest_report_header():
    return f"frs_kernels {frs.__version__}, torch {torch.__version__}, backends {frs.available_backends()}"
