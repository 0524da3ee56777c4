"""What the compiled CPU kernels of weighted_kl promise: threads, instruction sets, memory, odd strides."""

import programs
import pytest
import torch
from cases import Target, compare, evaluate, tensors
from cpu_calls import MEBIBYTE, bits
from kl_cases import WRT, arguments

import frs_kernels as frs
from benchmarks import memory
from frs_kernels import cpu_settings
from frs_kernels.contract import KL_ARGUMENTS, NORMALIZERS
from frs_kernels.library import load_native

pytestmark = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))
host = pytest.importorskip("frs_kernels._host", reason="_host is not built")

NATIVE = Target("native", "cpu")
LAYOUTS = ("nchw", "channels_last")
# Channels, groups, sizes: several tasks of every form in which distributions lie in memory, and distributions
# that are larger than a tile.
SHAPES = {
    "edges": (68, 4, ((60, 70), (9, 7), (1, 1))),
    "classes": (130, 1, ((40, 53), (7, 7))),
    "many channels": (5000, 1, ((7, 9),)),
    "many locations": (3, 1, ((230, 211),)),
}
OVER = ("channels", "locations")


def options_of(over: str, groups: int) -> dict:
    return {"over": over, "groups": groups if over == "channels" else 1}


@pytest.fixture
def with_threads():
    """Calls a function with a number of torch's threads, more than there are cores too."""
    before = torch.get_num_threads()

    def run_with(threads, function):
        torch.set_num_threads(threads)
        return function()

    yield run_with
    torch.set_num_threads(before)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bits_with_any_number_of_threads(with_threads, shape, layout, over):
    channels, groups, sizes = SHAPES[shape]
    given = arguments(channels, over=over, sizes=sizes, layout=layout)

    def results():
        options = {"backend": "native", "reduction": "none", **options_of(over, groups)}
        (one,), grads = evaluate(frs.weighted_kl, given, WRT, **options)
        (other,), _ = evaluate(frs.weighted_kl, given, (), normalizer="mask_all_levels", **options)
        return bits([one, other, *grads])

    alone = with_threads(1, results)
    for threads in (2, 3, 8, 64):
        assert all(map(torch.equal, with_threads(threads, results), alone)), threads


@pytest.mark.parametrize("isa", host.instruction_sets())
def test_every_instruction_set_is_right(isa):
    output = programs.output("check_kl_instruction_set.py", isa, ATEN_CPU_CAPABILITY=isa)
    assert output == f"{isa}: right\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("over, layout", [(o, layout) for o in OVER for layout in LAYOUTS])
def test_distributions_about_as_large_as_a_tile(over, layout, more, dtype):
    """A tile has 336 KiB: of 16 distributions whose bins are not adjacent in memory, else of one."""
    adjacent = (over == "locations") == (layout == "nchw")
    bins = (336 << 10) // (2 * dtype.itemsize) // (1 if adjacent else 16) + more
    channels, sizes = (bins, ((1, 3),)) if over == "channels" else (3, ((1, bins),))
    given = arguments(channels, over=over, sizes=sizes, layout=layout, dtype=dtype, batch=1)
    compare(frs.weighted_kl, NATIVE, given, WRT, over=over, temperature=2.0)


@pytest.mark.parametrize("channels, size", [(1, (230, 211)), (5000, (1, 1)), (50_000, (1, 1)), (700, (1, 2))])
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_few_distributions_and_single_bins(layout, over, channels, size):
    given = arguments(channels, over=over, sizes=(size,), layout=layout)
    compare(frs.weighted_kl, NATIVE, given, WRT, over=over)


def test_one_channel_with_gaps_between_locations():
    given = arguments(1, over="locations", sizes=((200, 460),))
    given["student"], given["teacher"] = (
        [level.flatten(2)[:, :, ::2] for level in given[name]] for name in ("student", "teacher")
    )
    compare(frs.weighted_kl, NATIVE, given, WRT, over="locations")


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["many channels", "many locations"])
def test_large_equal_distributions_are_exactly_zero(shape, layout, over):
    channels, _, sizes = SHAPES[shape]
    given = arguments(channels, over=over, sizes=sizes, layout=layout)
    given["student"] = given["teacher"]
    (loss,), grads = evaluate(frs.weighted_kl, given, WRT, backend="native", over=over, temperature=3.0)
    assert loss == 0 and not any(grad.count_nonzero() for grad in grads)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bins_of_minus_infinity_fill_whole_parts_of_a_large_distribution(layout, over):
    """The kernels take the statistics of such a part before they know that others have a finite maximum."""
    channels, sizes = (5000, ((1, 3),)) if over == "channels" else (3, ((1, 150_000),))
    given = arguments(channels, over=over, sizes=sizes, layout=layout, batch=1)
    for name in ("student", "teacher"):
        level = given[name][0]
        bins = level.movedim(1, -1) if over == "channels" else level
        bins[..., : bins.shape[-1] * 19 // 20] = -torch.inf
    compare(frs.weighted_kl, NATIVE, given, WRT, over=over)
    bins[..., -1] = -torch.inf  # of the teacher: one that the student has
    compare(frs.weighted_kl, NATIVE, given, WRT, over=over)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_gradients_have_the_bits_of_each_image_alone(dtype, over, layout):
    """More than 16 MiB, so that non-temporal stores write them."""
    for channels, groups in ((80, 1), (100, 2), (68, 4)):
        options = {"normalizer": 3.0, "backend": "native", **options_of(over, groups)}
        student, teacher = (
            tensors(channels, batch=10, sizes=((104, 112),), layout=layout, dtype=dtype, seed=seed)[0]
            for seed in (1, 2)
        )
        assert student.numel() * 4 > 16 * MEBIBYTE

        def gradient(student, teacher, options=options):
            leaf = student.detach().requires_grad_()
            frs.weighted_kl(leaf, teacher, **options).backward()
            return leaf.grad

        together = gradient(student, teacher)
        for image in (slice(0, 1), slice(9, 10)):
            assert torch.equal(together[image], gradient(student[image], teacher[image]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, "many groups"])
def test_non_temporal_stores_write_the_same_gradients(shape, dtype, layout):
    many_groups = (48 * 200, 200, ((5, 7), (16, 1)))  # those of 16 locations do not fit into scratch memory
    channels, groups, sizes = (SHAPES | {"many groups": many_groups})[shape]
    given = arguments(channels, sizes=sizes, layout=layout, dtype=dtype)
    flags = [
        name for name in cpu_settings.settings() if name.startswith("non_temporal_") and "from" not in name
    ]
    results = []
    for from_bytes in (0, 1 << 30):
        with cpu_settings.changed(non_temporal_from=from_bytes, **dict.fromkeys(flags, 1)):
            losses, grads = evaluate(frs.weighted_kl, given, WRT, backend="native", groups=groups)
        results.append(bits([*losses, *grads]))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slices_and_misaligned_views(dtype, layout, over):
    """Strides larger than rows, and rows that begin at any element."""
    shape, groups = (2, 36, 9, 23), 2 if over == "channels" else 1
    plain = [t[:, :, :9, :23].clone() for t in tensors(36, sizes=((9, 23),), dtype=dtype)]
    plain += [t.clone() for t in tensors(36, sizes=((9, 23),), dtype=dtype, seed=1)]

    def inside(values):
        if layout == "nchw":  # rows of channels with a gap, from the fourth element on
            room = values.new_zeros(2, 36, 9 * 23 + 10)[..., 3 : 3 + 9 * 23].unflatten(2, (9, 23))
        else:  # channels between others
            room = values.new_zeros(2, 9, 23, 41).movedim(3, 1)[:, 3:39]
        return room.copy_(values)

    views = [inside(values) for values in plain]
    assert all(view.shape == shape and not view.is_contiguous() for view in views)
    if layout == "channels_last":
        plain = [values.contiguous(memory_format=torch.channels_last) for values in plain]
    options = {"backend": "native", "over": over, "groups": groups}
    results = [
        evaluate(frs.weighted_kl, {"student": s, "teacher": t}, WRT, **options) for s, t in (plain, views)
    ]
    ((loss,), (grad,)), ((expected,), (expected_grad,)) = results
    assert torch.equal(loss, expected) and torch.equal(grad, expected_grad)


def test_nothing_past_the_end_of_a_tensor_is_read():
    assert programs.output("kl_before_unmapped_memory.py") == "done\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over", OVER)
def test_peak_memory_is_the_gradients_and_a_twentieth_at_most(over, layout, dtype):
    given = arguments(256, over=over, sizes=((100, 168), (50, 84)), layout=layout, dtype=dtype, batch=1)
    leaves = [t.requires_grad_() for t in given["student"]]

    def step():
        frs.weighted_kl(**given, over=over, backend="native").backward()
        for leaf in leaves:
            leaf.grad = None

    step()
    peaks = [memory.peak_added(step, "cpu") for _ in range(3)]
    if None in peaks:
        pytest.skip("this kernel does not let a process reset its memory's high-water mark")
    gradients = sum(t.nbytes for t in leaves)
    # Without torch_from_blob, which came with torch 2.11, gradients come from malloc, whose heap has gaps.
    share = 1.05 if torch.__version__ >= (2, 11) else 1.15
    assert 0.95 * gradients < min(peaks) < share * gradients + MEBIBYTE


def operator_arguments(**changes):
    given = arguments(12, sizes=((5, 7), (3, 4)))
    call = {
        "student": given["student"], "teacher": given["teacher"], "weights": given["weight"],
        "over_locations": False, "groups": 3, "temperature": 2.0, "normalizer": NORMALIZERS.index("value"),
        "normalizer_value": 2.0, "normalizer_tensor": torch.tensor(1.5), "scale": 3.0,
        "scale_tensor": torch.tensor(0.5), "grad": True, "per_image": False,
    }  # fmt: skip
    assert list(call) == list(KL_ARGUMENTS)
    return tuple({**call, **changes}.values())


def test_operator():
    for changes in ({}, {"grad": False}, {"per_image": True, "weights": []}):
        torch.library.opcheck(torch.ops.frs_kernels.kl.default, operator_arguments(**changes))


def test_the_operator_takes_its_numbers_in_the_order_of_the_schema():
    loss, _, _ = torch.ops.frs_kernels.kl(*operator_arguments())
    for name, value, factor in (("normalizer_value", 4.0, 0.5), ("scale", 6.0, 2.0)):
        changed, _, _ = torch.ops.frs_kernels.kl(*operator_arguments(**{name: value}))
        torch.testing.assert_close(changed, factor * loss)
    for changes in (
        {"temperature": 4.0},
        {"groups": 1},
        {"groups": 1, "over_locations": True, "weights": []},
    ):
        changed, _, _ = torch.ops.frs_kernels.kl(*operator_arguments(**changes))
        assert changed.isfinite() and changed != loss


WRONG = {
    "student": ({"student": [torch.zeros(2, 12, 5, 7, dtype=torch.int32)] * 2}, "student: expected"),
    "no level": ({"student": [], "teacher": [], "weights": []}, "student: at least one level"),
    "teacher": ({"teacher": [torch.zeros(2, 12, 5, 7)] * 2}, "teacher, level 1: .* instead of"),
    "count": ({"teacher": [torch.zeros(2, 12, 5, 7)]}, "teacher: 1 levels instead of 2"),
    "weights": ({"weights": [torch.zeros(2, 5, 7)] * 2}, "weights, level 1: expected 24"),
    "dtype of weights": ({"weights": [torch.zeros(2, 5, 7).half()] * 2}, "weights, level 0: expected 70"),
    "groups": ({"groups": 5}, "groups: 5 do not divide the 12 channels of level 0"),
    "groups over locations": ({"over_locations": True}, "groups: 3 instead of"),
    "temperature": ({"temperature": 0.0}, "temperature: 0 instead of"),
    "normalizer": ({"normalizer": 99}, "normalizer: unknown code 99"),
    "scale": ({"scale_tensor": torch.tensor(1.0).double()}, "scale_tensor: expected"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_operator_names_the_argument_that_is_wrong(wrong):
    changes, message = WRONG[wrong]
    with pytest.raises(RuntimeError, match=message):
        torch.ops.frs_kernels.kl(*operator_arguments(**changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_gradients_contain_all_but_the_pending_factor(dtype):
    student = torch.tensor([1.0, 2.0, -1.0]).reshape(1, 3, 1, 1).expand(1, 3, 1, 4).contiguous().to(dtype)
    teacher = -student
    arguments = [student], [teacher], [], False, 1, 2.0, NORMALIZERS.index("mask"), 1.0, None, 0.75, None
    _, pending, (grad,) = torch.ops.frs_kernels.kl(*arguments, True, False)
    factor = 0.75 / 4
    assert pending == (factor if dtype == torch.float16 else 1.0) and grad.dtype == dtype
    p, q = (x.double().div(2).softmax(dim=1) for x in (teacher, student))
    torch.testing.assert_close(grad.double() * pending.double(), 2 * factor * (q - p), rtol=2e-3, atol=0)
