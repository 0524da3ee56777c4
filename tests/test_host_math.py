"""Tests of the scalar maths of csrc/include/frs/math.h against float64, for each instruction set."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's float64 functions warn at Inf and NaN
    pytest.mark.parametrize("isa", host.instruction_sets()),
]

ROOT = Path(__file__).resolve().parent.parent
MACHINE = {"default": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}  # as in setup.py

# Every 1021st of the 2^32 floats: all exponents, both signs, subnormals, Inf and NaN.
ALL_KINDS = np.arange(0, 2**32, 1021, dtype=np.uint64).astype(np.uint32).view(np.float32)
SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 88.7, -87.4, -103.9, 1e-45, 3.4e38], dtype=np.float32
)
EVERYWHERE = np.concatenate([ALL_KINDS, SPECIAL])


def dense(low, high):
    return np.linspace(low, high, 1_000_001).astype(np.float32)


def worst_ulp(actual, exact):
    """The largest error in units in the last place of the exact value's float32."""
    rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
    assert same[~finite].all(), "Inf or NaN where float64 has none, or the other way round"
    error = np.abs(actual[finite].astype(np.float64) - exact[finite])
    return (error / np.spacing(np.abs(rounded[finite]))).max()


def sigmoid(x):
    return np.where(x > 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


@pytest.mark.parametrize("x", [EVERYWHERE, dense(-105, 89)], ids=["everywhere", "dense"])
def test_exp_is_within_two_ulp(isa, x):
    assert worst_ulp(host.exp(x, isa), np.exp(x.astype(np.float64))) <= 2


@pytest.mark.parametrize("x", [EVERYWHERE, dense(-1, 3)], ids=["everywhere", "dense"])
def test_log1p_is_within_two_ulp(isa, x):
    assert worst_ulp(host.log1p(x, isa), np.log1p(x.astype(np.float64))) <= 2


def test_exp_of_the_kernels_flushes_subnormal_results(isa):
    x = np.concatenate([EVERYWHERE[~(EVERYWHERE > 0)], dense(-90, 0)])
    actual, exact = host.exp_nonpositive(x, isa), np.exp(x.astype(np.float64))
    tiny = exact < np.finfo(np.float32).tiny
    assert worst_ulp(actual[~tiny], exact[~tiny]) <= 2
    assert (np.abs(actual[tiny] - exact[tiny]) <= np.finfo(np.float32).tiny).all()
    assert (actual[x < -88] == 0).all()


@pytest.mark.parametrize("x", [EVERYWHERE, dense(-105, 105)], ids=["everywhere", "dense"])
def test_sigmoid(isa, x):
    assert worst_ulp(host.sigmoid(x, isa), sigmoid(x.astype(np.float64))) <= 3


def pairs():
    generator = np.random.default_rng(0)
    scales = np.array([1e-3, 1, 10, 80], dtype=np.float32)
    student, teacher = (
        (generator.standard_normal((4, 100_000), dtype=np.float32) * scales[:, None]).ravel()
        for _ in range(2)
    )
    return student, generator.permutation(teacher)


def test_cross_entropy_and_its_gradient(isa):
    student, teacher = pairs()
    s, t = student.astype(np.float64), teacher.astype(np.float64)
    exact = np.abs(s) * sigmoid(-np.sign(s) * t) + np.log1p(np.exp(-np.abs(s)))
    loss, normal = host.bce(student, teacher, isa), exact > 1e-28  # smaller values are flushed to 0
    assert worst_ulp(loss[normal], exact[normal]) <= 5
    assert (loss[~normal] <= 1e-28).all()
    gradient = host.bce_gradient(student, teacher, isa)
    assert np.abs(gradient - (sigmoid(s) - sigmoid(t))).max() <= 2e-7


def test_gradient_is_exactly_zero_where_the_student_agrees(isa):
    x = np.concatenate([dense(-110, 110), SPECIAL[np.isfinite(SPECIAL)]])
    assert (host.bce_gradient(x, x, isa) == 0).all()


def test_saturated_logits_keep_the_logits_form(isa):
    student = np.array([1e4, -1e4, 1e4, -1e4, 0], dtype=np.float32)
    teacher = np.array([-1e4, 1e4, 1e4, -1e4, 1e4], dtype=np.float32)
    assert host.bce(student, teacher, isa) == pytest.approx([1e4, 1e4, 0, 0, np.log(2)])
    assert (host.bce_gradient(student, teacher, isa) == np.float32([1, -1, 0, 0, -0.5])).all()


def test_non_finite_logits_propagate(isa):
    student = np.array([np.nan, 0, np.nan, np.inf, -np.inf], dtype=np.float32)
    teacher = np.array([0, np.nan, np.nan, 0, 0], dtype=np.float32)
    loss, gradient = host.bce(student, teacher, isa), host.bce_gradient(student, teacher, isa)
    assert np.isnan(loss[:3]).all() and np.isinf(loss[3:]).all()
    assert np.isnan(gradient[:3]).all() and (gradient[3:] == np.float32([0.5, -0.5])).all()


@pytest.mark.skipif(
    not (shutil.which("g++") and (ROOT / "csrc").exists()), reason="needs g++ and the sources"
)
def test_no_undefined_behaviour(isa, tmp_path):
    """No shift, sum or conversion has undefined behaviour, for floats of all kinds."""
    program = str(tmp_path / "undefined")
    flags = ["-std=c++17", "-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all", "-DFRS_ISA=baseline"]
    flags += [*MACHINE[isa], f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
    command = ["g++", *flags, str(ROOT / "tests/cpp/undefined.cpp"), "-o", program]
    built = subprocess.run(command, text=True, capture_output=True)
    if "cannot find" in built.stderr and "ubsan" in built.stderr:
        pytest.skip("needs libubsan")
    assert built.returncode == 0, built.stderr[-4000:]
    ran = subprocess.run([program], text=True, capture_output=True)
    assert ran.returncode == 0, ran.stderr[-4000:]
