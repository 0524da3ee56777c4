"""The benchmark suite: byte counts, the selection of cases, accuracy, the clocks and the memory."""

import itertools

import pytest
import torch

from benchmarks import accuracy, cpu_arithmetic, memory, selection, side_by_side, sources, timers
from benchmarks.measure import Call
from benchmarks.providers import COMPILED, EAGER, FUSED, MAX_AUTOTUNE, PROVIDERS
from benchmarks.race import Race
from benchmarks.workloads import DTYPES, KL_OPS, LAYOUTS, MODES, OPS, WORKLOADS, Case, make_inputs
from frs_kernels.library import load_native

TINY = Case("loss", "both", "tiny", 2, "fp32", "nchw")


def test_bytes_of_retinanet_are_those_of_its_tensors():
    """Counted by hand: 5 levels, 4 C + 3 F with C = 64.5 MB and F = 22.9 MB."""
    case = Case("loss", "both", "retinanet-800x1344", 1, "fp32", "nchw")
    locations = 100 * 168 + 50 * 84 + 25 * 42 + 13 * 21 + 7 * 11
    assert case.logit_bytes == locations * 720 * 4
    assert case.feat_bytes == locations * 256 * 4
    assert case.bytes_moved == locations * 4 * (4 * 720 + 3 * 256)
    assert case.result_bytes == locations * 4 * (720 + 256)


def test_bytes_of_box_edges_are_those_of_their_bins_and_weights():
    """Counted by hand: 3 C with C = 4 edges x 17 bins, and a float32 weight for each location."""
    case = Case("ld", "both", "gfl-800x1344", 2, "bf16", "nchw")
    locations = 2 * (100 * 168 + 50 * 84 + 25 * 42 + 13 * 21 + 7 * 11)
    assert case.result_bytes == locations * 4 * 17 * 2
    assert case.bytes_moved == 3 * case.result_bytes + locations * 4


@pytest.mark.parametrize(
    "op, workload, over, groups, shape",
    [
        ("ld", "gfl-800x1344", "channels", 4, (1, 68, 100, 168)),
        ("kd", "gfl-800x1344", "channels", 1, (1, 80, 100, 168)),
        ("kd", "retinanet-800x1344", "channels", 9, (1, 720, 100, 168)),
        ("cwd", "gfl-800x1344", "locations", 1, (1, 256, 100, 168)),
    ],
)
def test_softmax_losses_have_the_distributions_of_their_detectors(op, workload, over, groups, shape):
    case = Case(op, "forward", workload, 1, "bf16", "nchw")
    assert (case.kl_options["over"], case.kl_options["groups"]) == (over, groups)
    inputs = make_inputs(case, "cpu")
    assert inputs.leaves[0].shape == shape and len(inputs.masks) == (5 if op == "ld" else 0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_moved_are_at_least_arguments_and_results(op, dtype):
    """Each argument once and each result once; T a second time only where the loss needs the mask's sum."""
    case = Case(op, "forward" if op == "mask" else "both", "ragged", 2, dtype, "nchw")
    inputs = make_inputs(case, "cpu")
    arguments = sum(t.nbytes for levels in inputs.lists for t in levels)
    again = sum(t.nbytes for t in inputs.teacher_logits) if op == "loss" else 0
    assert case.bytes_moved == arguments + case.result_bytes + again
    grads = sum(t.nbytes for t in inputs.leaves)
    assert case.result_bytes == (case.mask_bytes if op == "mask" else grads)


def test_a_backward_has_no_byte_count():
    assert Case("loss", "backward", "tiny", 1, "fp32", "nchw").bytes_moved is None


def test_yolo_levels_have_strides_8_16_and_32():
    for scale in "nsmlx":
        assert WORKLOADS[f"yolo26{scale}-640"].locations == 80 * 80 + 40 * 40 + 20 * 20


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_have_the_layout_of_their_case(layout):
    case = Case("loss", "both", "ragged", 1, "bf16", layout)
    for tensor in make_inputs(case, "cpu").student_logits:
        assert tensor.is_contiguous(memory_format=torch.channels_last) == (layout == "nhwc")
        assert tensor.requires_grad and tensor.dtype == torch.bfloat16


@pytest.mark.parametrize("device, size", selection.PLANS)
def test_every_selected_benchmark_is_known_and_selected_once(device, size):
    pairs = selection.pairs(OPS, size, device)
    assert len(pairs) == len(set(pairs)) > 0
    for case, name in pairs:
        assert name in PROVIDERS and case.workload in WORKLOADS and case.mode in MODES
        assert case.mode == "forward" or case.op != "mask"
    assert (device, size) in selection.BUDGET and selection.races(size, device)


@pytest.mark.parametrize("ops", [("loss",), KL_OPS], ids=["loss", "softmax losses"])
@pytest.mark.parametrize("device, size", selection.PLANS)
def test_fused_backends_come_before_compiled_providers(device, size, ops):
    """On a GPU those of all cases do, and bfloat16 comes first."""
    pairs = selection.pairs(ops, size, device)
    compiled = [PROVIDERS[name].compile_mode is not None for _, name in pairs]
    assert pairs[0][1] in FUSED
    for case in {case for case, _ in pairs}:
        names = [name for other, name in pairs if other == case]
        assert names[0] in FUSED, (case, names)
    if device == "cuda":
        assert compiled == sorted(compiled)
        assert pairs[0][0].dtype == selection.races(size, device)[0][0].dtype == "bf16"


def test_gpu_races_are_of_both_batches_and_max_autotune_is_in_full_alone():
    cases = [case for case, _ in selection.races("standard", "cuda")]
    nchw = {(case.batch, case.dtype) for case in cases if case.layout == "nchw" and case.mode == "both"}
    assert nchw == {(1, "bf16"), (1, "fp32"), (16, "bf16"), (16, "fp32")}
    for size in ("quick", "small", "standard"):
        assert selection.rivals(size, "cuda") == (*EAGER, "compile-best")
        assert not any(name in MAX_AUTOTUNE for _, name in selection.pairs(OPS, size, "cuda"))
    full = selection.rivals("full", "cuda")
    assert full[:3] == (*EAGER, "compile-best-max") and set(full[2:]) == {*COMPILED, *MAX_AUTOTUNE}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_standard_races_have_every_softmax_loss_in_both_layouts_after_the_whole_loss(device):
    dtype, batch = ("fp32", 1) if device == "cpu" else ("bf16", 16)
    cases = [case for case, _ in selection.races("standard", device)]
    wanted = {
        Case(op, "both", workload, batch, dtype, layout)
        for op, workload in (
            ("ld", "gfl-800x1344"),
            ("kd", "gfl-800x1344"),
            ("kd", "retinanet-800x1344"),
            ("cwd", "gfl-800x1344"),
        )
        for layout in LAYOUTS
    }
    assert wanted <= set(cases)
    assert all(case.op == "loss" for case in cases[:4])
    measured = {case for case, _ in selection.pairs(KL_OPS, "standard", device)}
    assert {case for case in cases if case.op in KL_OPS} <= measured  # of which the tables have the memory


def test_a_rival_that_fails_is_left_out_with_its_reason():
    race = Race("cpu", copy=lambda: None)

    def prepared(name):
        call = _call(TINY, name)
        return call, call.check(), call.warm_up()

    def out_of_memory():
        pytest.skip("official needs more memory than this GPU has")

    def wrong():
        raise AssertionError("values are off\nby far")

    race.admit("best-eager", lambda: prepared("best-eager"))
    race.admit("official", out_of_memory)
    race.admit("compile-best", wrong)
    race.admit("compile-official", lambda: prepared("best-eager"))
    race.calls["compile-official"].run = wrong
    for _ in range(2):
        race.others_turns("best-eager")
    assert race.missing == {
        "official": "official needs more memory than this GPU has",
        "compile-best": "AssertionError: values are off",
        "compile-official": "AssertionError: values are off",
    }
    assert set(race.calls) == set(race.errors) == {"best-eager"} and len(race.turns["copy"]) == 2


def test_the_shares_of_the_time_are_those_of_the_files():
    files = {file.stem for file in (sources.ROOT / "benchmarks").glob("test_*.py")}
    assert set(selection.SHARES) == files
    assert sum(selection.SHARES.values()) == pytest.approx(1.0)


def _call(case, name):
    return Call(case, PROVIDERS[name], make_inputs(case, "cpu"), "cpu", flush=lambda: None)


CASES = [
    Case(op, mode, "tiny", 2, dtype, layout)
    for op, mode, dtype, layout in itertools.product(OPS, MODES, DTYPES, LAYOUTS)
    if mode == "forward" or op != "mask"
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_eager_and_native_agree_with_float64(case):
    names = [name for name in (*EAGER, "native") if PROVIDERS[name].unavailable("cpu", case.op) is None]
    for name in names:
        errors = _call(case, name).check()
        assert set(errors) == ({"values"} if case.mode == "forward" else {"values", "grads"})


def test_the_expected_outcome_of_single_images_is_that_of_the_batch():
    """It equals the published formulation on the whole batch in float64."""
    expected = accuracy.expected_outcome(TINY, "cpu")
    inputs = make_inputs(TINY, "cpu")
    students = [t.detach().double().requires_grad_() for t in inputs.leaves]
    x, s = students[:3], students[3:]
    y, t = ([z.double() for z in levels] for levels in (inputs.teacher_feats, inputs.teacher_logits))
    loss = PROVIDERS["official"].formulation.loss(x, y, s, t)
    grads = torch.autograd.grad(loss, students)
    assert loss.item() == pytest.approx(expected.values[0].item(), rel=1e-12)
    for ours, theirs in zip(expected.grads, grads, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-9)


def test_a_wrong_result_is_not_timed():
    call = _call(TINY, "best-eager")
    call._function = lambda x, y, s, t, m: 1.001 * PROVIDERS["best-eager"].build(TINY)(x, y, s, t, m)
    with pytest.raises(AssertionError, match="best-eager, loss-both-tiny.*off by"):
        call.check()


def test_nan_is_not_timed():
    call = _call(TINY, "best-eager")
    call._function = lambda x, y, s, t, m: float("nan") * PROVIDERS["best-eager"].build(TINY)(x, y, s, t, m)
    with pytest.raises(AssertionError):
        call.check()


def test_triton_is_not_timed_in_its_interpreter():
    assert "interpreter" in PROVIDERS["triton"].unavailable("cpu")


def test_peak_memory_sees_torch_and_c_allocations_alike():
    """48 MiB are allocated by torch, and as many by malloc; the call frees both."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    size = 48 << 20

    def by_malloc():
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)

    for run in (lambda: torch.ones(size, dtype=torch.uint8), by_malloc):
        peak = memory.peak_added(run, "cpu")
        if peak is None:
            pytest.skip("this kernel does not let a process reset its memory's high-water mark")
        assert 0.98 * size < peak < 1.1 * size
    assert memory.peak_added(lambda: None, "cpu") < 0.1 * size


def test_peak_memory_of_native_counts_gradients_it_keeps_between_calls():
    if PROVIDERS["native"].unavailable("cpu"):
        pytest.skip("the native CPU kernels are not built")
    case = Case("loss", "both", "ragged", 2, "fp32", "nchw")
    call = _call(case, "native")
    call.warm_up()
    peak = call.peak_memory()
    if peak is None:
        pytest.skip("this kernel does not let a process reset its memory's high-water mark")
    assert 0.95 * case.result_bytes < peak < 1.25 * case.result_bytes


@pytest.mark.parametrize("op, workload", [("kd", "retinanet-800x1344"), ("cwd", "gfl-800x1344")])
def test_softmax_losses_of_native_add_their_gradient_to_the_memory_and_no_more(op, workload):
    if reason := PROVIDERS["native"].unavailable("cpu", op):
        pytest.skip(reason)
    case = Case(op, "both", workload, 1, "fp32", "nchw")
    call = _call(case, "native")
    call.warm_up()
    peak = call.peak_memory()
    if peak is None:
        pytest.skip("this kernel does not let a process reset its memory's high-water mark")
    assert 0.95 * case.result_bytes < peak < 1.05 * case.result_bytes


class _FakeGpu:
    """A CUDA stream in milliseconds: work starts when it is queued, but not before earlier work is done."""

    def __init__(self, monkeypatch):
        self.host = self.free_at = 0.0
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = max(gpu.host, gpu.free_at)

            def synchronize(self):
                gpu.host = max(gpu.host, self.at)

            def elapsed_time(self, end):
                return end.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.kernel(cycles / 2e6))

    def kernel(self, milliseconds):
        self.free_at = max(self.host, self.free_at) + milliseconds

    def call(self):
        self.host += 1.0  # Python, before its first launch
        self.kernel(25.0)


def test_device_time_contains_no_host_time(monkeypatch):
    gpu = _FakeGpu(monkeypatch)
    now = timers.clock("cuda")
    assert timers.timed(now, gpu.call) == pytest.approx(0.025)
    assert timers.timed(now, gpu.call, host_ahead=False) == pytest.approx(0.026)


def test_what_pytest_benchmark_times_on_a_gpu_has_the_host_ahead(monkeypatch):
    """Its runner calls setup, the clock, the call, the clock."""
    gpu = _FakeGpu(monkeypatch)
    call = _call(TINY, "best-eager")
    call.device = "cuda"
    now = timers.clock("cuda")
    call.setup()
    start = now()
    gpu.call()
    assert now() - start == pytest.approx(0.025)


def test_host_time_is_taken_without_the_sleep(monkeypatch):
    call = _call(TINY, "best-eager")
    call.device = "cuda"
    _FakeGpu(monkeypatch)
    slept = []
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(timers, "launches", lambda run: [("mask", 1.0)] * 3)
    details = call.gpu_details()
    assert not slept and details["launches"] == 3 and details["host_behind_ms"] >= 0
    call.setup()
    assert len(slept) == 1


def test_side_by_side_times_every_kind(monkeypatch):
    monkeypatch.setattr(side_by_side, "CALLS", 3)
    if load_native("cpu") is not None:
        pytest.skip("the CPU kernels are not built")
    medians = side_by_side.medians("tiny")
    assert [len(row) for row in medians] == [len(side_by_side.KINDS)] * 2
    assert all(0 < seconds < 1 for row in medians for seconds in row)


def test_side_by_side_names_a_tree_that_is_not_built(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sys.argv", ["side_by_side", str(tmp_path)])
    with pytest.raises(SystemExit):
        side_by_side.main()
    assert f"{tmp_path} is not built" in capsys.readouterr().err


def test_arithmetic_of_a_cpu_kernel_takes_time(monkeypatch):
    monkeypatch.setattr(cpu_arithmetic, "ROUNDS", 20)
    if load_native("cpu") is not None:
        pytest.skip("the CPU kernels are not built")
    for dtype, layout in itertools.product(("fp32", "bf16"), LAYOUTS):
        assert 0 < cpu_arithmetic.nanoseconds(dtype, layout) < 1000
