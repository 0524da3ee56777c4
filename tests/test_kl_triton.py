"""The Triton kernel of weighted_kl: what is special about it, beyond tests/test_kl.py.

tests/test_triton_aot.py compiles it ahead of time. Without a GPU it runs in Triton's interpreter, see
tests/test_triton.py.
"""

import math

import pytest
import torch
from cases import DTYPES, INTERPRETED, LONG_SIZES, Target, compare, evaluate, tensors
from gpu_cases import RETINANET
from kl_cases import WRT, arguments

import frs_kernels as frs
from frs_kernels.backends import triton as backend
from frs_kernels.contract import NORMALIZERS

pytest.importorskip("triton", reason="needs triton")

OVER = ("channels", "locations")
LAYOUTS = ("nchw", "channels_last")
CUDA = Target("triton", "cuda")


@pytest.fixture(autouse=True)
def only_triton(request):
    if "target" in request.fixturenames and request.getfixturevalue("target").backend != "triton":
        pytest.skip("tests the Triton backend")


@pytest.fixture
def plans(monkeypatch):
    """kl_plan, whose functions a test may replace."""
    from frs_kernels.backends.triton import kl_plan

    kl_plan.plan_kl.cache_clear()
    yield kl_plan
    monkeypatch.undo()
    kl_plan.plan_kl.cache_clear()


@pytest.fixture
def in_small_blocks(plans, monkeypatch):
    """Makes all distributions either resident or not, in blocks so small that everything takes several."""

    def install(resident: bool):
        def block(bins, order, acc):
            parts = -(-bins // 4) if resident else 2
            return plans.KLBlock(bins=4, rows=16, parts=parts, threads=128, resident=resident)

        monkeypatch.setattr(plans, "kl_block", block)
        monkeypatch.setattr(plans, "_PROGRAMS", 4)

    return install


@pytest.mark.parametrize("order", ["ROWS_CONTIGUOUS", "BINS_CONTIGUOUS", "MIXED"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_block_has_all_bins_and_its_numbers_fit_the_registers(order, dtype, plans):
    from frs_kernels.backends.triton import kl_tiles

    was_resident = True
    for bins in (0, 1, 2, 4, 17, 19, 80, 81, 150, 384, 512, 513, 720, 768, 1000, 4096, 12288, 16800, 10**6):
        block = plans.kl_block(bins, getattr(kl_tiles, order).value, dtype)
        assert block.resident <= was_resident, "longer distributions are not resident where shorter are not"
        was_resident = block.resident
        assert not block.resident or block.parts * block.bins >= bins
        if not INTERPRETED:
            tile = block.bins * block.rows
            assert not block.resident or (block.parts - 1) * block.bins < max(bins, 1)
            assert block.threads <= tile
            numbers = block.parts * tile * (2 if dtype == torch.float64 else 1)
            assert numbers <= (24 if block.threads <= 256 else 12) * block.threads
    assert not was_resident


def test_dense_groups_of_channels_last_are_rows_of_one_stride(plans):
    from frs_kernels.backends.triton.geometry import Geometry

    def level(tensor, groups):
        term = Geometry([tensor], [tensor], True)
        table = plans.plan_kl(term, False, groups, torch.float32, True)
        return plans._level(term, 0, False, groups), table.programs

    dense = torch.empty(2, 20, 30, 68).movedim(-1, 1)
    merged, programs = level(dense, 4)
    assert (merged.bins, merged.rows, merged.groups, merged.rows_per_weight) == (17, 2400, 1, 4)
    assert (merged.weights, merged.student_stride_row, merged.grad_stride_row) == (600, 17, 17)
    assert programs >= 2
    apart, _ = level(torch.empty(2, 20, 30, 80).movedim(-1, 1)[:, :68], 4)
    assert (apart.bins, apart.rows, apart.groups, apart.rows_per_weight) == (17, 600, 4, 1)
    assert (apart.student_stride_row, apart.grad_stride_row) == (80, 68)
    rows, _ = level(torch.empty(2, 68, 20, 30), 4)
    assert (rows.groups, rows.student_stride_bin, rows.student_stride_row) == (4, 600, 1)


def test_offsets_are_64_bit_where_32_do_not_reach(plans):
    from frs_kernels.backends.triton.geometry import Geometry

    def offsets(shape, over_locations):
        tensor = torch.empty(shape, device="meta")
        term = Geometry([tensor], [tensor], True)
        return plans.plan_kl(term, over_locations, 1, torch.float32, False).config.INDEX.primitive_bitwidth

    assert offsets((64, 720, 400, 672), False) == 32  # images are addressed in 64 bits
    assert offsets((1, 720, 2**14, 2**15), False) == 64  # the 32 bins of a block span over 2^31 elements
    assert offsets((1, 16, 2**15, 2**16), True) == 64  # a distribution does


# The tests below run kernels, in the interpreter or on a GPU.


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels launched so far."""
    from frs_kernels.backends.triton import kl_launches, launches
    from frs_kernels.backends.triton.launcher import launch

    names = []

    def recorded(kernel, *arguments, **options):
        names.append(kernel.__name__)
        return launch(kernel, *arguments, **options)

    for module in (launches, kl_launches):
        monkeypatch.setattr(module, "launch", recorded)
    return names


@pytest.mark.parametrize(
    ("options", "weighted", "expected"),
    [
        ({}, True, ["mask_sums_kernel", "factors_kernel", "kl_kernel", "scale_kernel"]),
        ({}, False, ["factors_kernel", "kl_kernel", "scale_kernel"]),
        ({"normalizer": "batch"}, True, ["factors_kernel", "kl_kernel", "scale_kernel"]),
        (
            {"reduction": "none"},
            False,
            ["factors_kernel", "kl_kernel", "image_losses_kernel", "scale_kernel"],
        ),
    ],
)
def test_launches(target, options, weighted, expected, launches):
    for over in OVER:
        given = arguments(over=over, weighted=weighted, device=target.device)
        evaluate(frs.weighted_kl, given, WRT, backend="triton", over=over, **options)
        assert launches == expected
        launches.clear()
        evaluate(frs.weighted_kl, given, (), backend="triton", over=over, **options)
        assert launches == expected[:-1]
        launches.clear()


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over", OVER)
def test_several_tiles_blocks_and_segments(target, over, layout, resident, in_small_blocks):
    in_small_blocks(resident)
    groups = 2 if over == "channels" else 1
    sizes = [(5, 9), (0, 3), (2, 9), (1, 1)]
    given = arguments(22, over=over, sizes=sizes, layout=layout, device=target.device)
    images = torch.tensor([0.5, -2.0], device=target.device)
    options = {"over": over, "groups": groups}
    compare(frs.weighted_kl, target, given, WRT, upstream=images, **options, reduction="none")
    del given["weight"]
    compare(frs.weighted_kl, target, given, WRT, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over", OVER)
def test_equal_logits_are_exactly_zero_in_segments(target, over, layout, dtype, in_small_blocks):
    in_small_blocks(False)
    given = arguments(22, over=over, sizes=((5, 6),), dtype=dtype, layout=layout, device=target.device)
    given["student"] = [t.clone(memory_format=torch.preserve_format) for t in given["teacher"]]
    (loss,), grads = evaluate(frs.weighted_kl, given, WRT, backend="triton", over=over, temperature=3.0)
    assert loss == 0 and not any(grad.count_nonzero() for grad in grads)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1000.0])
@pytest.mark.parametrize("over", OVER)
def test_odd_values_in_segments(target, over, value, in_small_blocks):
    """In the first, in the last and in all segments of a distribution, of one tensor and of both.

    A maximum that grows or that is of no bin so far must not make the sums NaN.
    """
    in_small_blocks(False)
    for names in (("student",), ("teacher",), ("student", "teacher")):
        given = arguments(22, over=over, sizes=((5, 6),), device=target.device)
        for name in names:
            logits = given[name][0].flatten(2)  # a view [B, C, L]
            bins = logits if over == "locations" else logits.movedim(1, 2)
            bins[0, 1, 0] = bins[0, 2, -1] = value
            bins[0, 3] = value
            bins[0, 4, :9] = value  # the whole first segment
            bins[0, 5, 3:] = value
        compare(frs.weighted_kl, target, given, WRT, over=over)


@pytest.mark.parametrize("over", OVER)
def test_a_level_without_weights_is_zero_in_segments(target, over, in_small_blocks):
    in_small_blocks(False)
    given = arguments(22, over=over, device=target.device)
    given["weight"][1].zero_()
    given["student"][1].fill_(math.inf)
    _, grads = compare(frs.weighted_kl, target, given, WRT, over=over)
    assert not grads[1].count_nonzero()


@pytest.mark.skipif(not INTERPRETED, reason="only the interpreter runs programs in a known order")
@pytest.mark.parametrize("over", OVER)
def test_the_same_bits_in_another_order_of_programs(target, over, in_small_blocks, monkeypatch):
    from triton.runtime import interpreter

    in_small_blocks(True)
    given = arguments(22, over=over, device=target.device)
    expected, expected_grads = evaluate(frs.weighted_kl, given, WRT, backend="triton", over=over)
    builder = interpreter.interpreter_builder
    set_grid_idx, order = builder.set_grid_idx, []

    def reversed_order(x, y, z):
        order.append(builder.grid_dim[0] - 1 - x)
        set_grid_idx(order[-1], y, z)

    monkeypatch.setattr(builder, "set_grid_idx", reversed_order)
    actual, grads = evaluate(frs.weighted_kl, given, WRT, backend="triton", over=over)
    assert order != sorted(order)
    assert all(map(torch.equal, actual, expected)) and all(map(torch.equal, grads, expected_grads))


@pytest.mark.parametrize("over", OVER)
def test_levels_of_different_layouts(target, over):
    one, other = (arguments(over=over, layout=layout, device=target.device) for layout in LAYOUTS)
    mixed = {name: [one[name][0], *other[name][1:]] for name in one}
    compare(frs.weighted_kl, target, mixed, WRT, over=over, groups=3 if over == "channels" else 1)


@pytest.mark.parametrize("over", OVER)
def test_channels_of_a_wider_tensor(target, over):
    """Views whose locations are further apart than they have channels; groups are no rows of one stride."""
    given = arguments(12, over=over, device=target.device)
    for name in WRT + ("teacher",):
        wider = [
            torch.cat([t, t + 1], dim=1).contiguous(memory_format=torch.channels_last) for t in given[name]
        ]
        given[name] = [t[:, :12] for t in wider]
    compare(frs.weighted_kl, target, given, WRT, over=over, groups=3 if over == "channels" else 1)


def test_blocks_without_an_outside(target):
    """16 and 8 bins fill their blocks, in the interpreter too: no bin is masked."""
    for channels, layout in ((16, "nchw"), (8, "nchw"), (64, "channels_last")):
        given = arguments(channels, layout=layout, device=target.device)
        compare(frs.weighted_kl, target, given, WRT)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_64_bit_offsets_give_the_same_bits(target, layout, over, plans, monkeypatch):
    given = arguments(20, over=over, sizes=LONG_SIZES, layout=layout, device=target.device)
    expected, expected_grads = evaluate(frs.weighted_kl, given, WRT, backend="triton", over=over)
    plans.plan_kl.cache_clear()
    monkeypatch.setattr(plans, "_needs_int64", lambda *_: True)
    actual, grads = evaluate(frs.weighted_kl, given, WRT, backend="triton", over=over)
    assert all(map(torch.equal, actual, expected)) and all(map(torch.equal, grads, expected_grads))


def test_teachers_of_zero_batch_stride(target):
    """One teacher image for the whole batch, expanded and not copied."""
    given = arguments(device=target.device)
    given["teacher"] = [t[:1].expand_as(t) for t in given["teacher"]]
    copies = {**given, "teacher": [t.contiguous() for t in given["teacher"]]}
    torch.testing.assert_close(
        frs.weighted_kl(**given, backend="triton"), frs.weighted_kl(**copies, backend="eager")
    )


def test_numbers_are_exact_in_float64(target):
    """Triton passes Python floats as float32; ours are passed as two."""
    given = arguments(dtype=torch.float64, device=target.device)
    compare(frs.weighted_kl, target, given, WRT, temperature=1 / 3, scale=0.1, normalizer=0.7)


def operator_arguments(target, changes=()):
    """The arguments of the operator by name."""
    given = arguments(sizes=((3, 4), (1, 2)), device=target.device)
    call = {
        **given, "over_locations": False, "groups": 3, "temperature": 2.0,
        "normalizer": NORMALIZERS.index("mask"), "normalizer_value": 1.0, "normalizer_tensor": None,
        "scale": 1.0, "scale_tensor": None, "grad": True, "per_image": False,
    }  # fmt: skip
    return {**call, **dict(changes)}


def test_the_operator_is_what_its_fake_says(target):
    for per_image in (False, True):
        for grad in (False, True):
            changes = {"per_image": per_image, "grad": grad}
            call = operator_arguments(target, changes)
            torch.library.opcheck(backend.namespace().kl.default, tuple(call.values()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": tensors(12, sizes=((3, 4),))}, "teacher has 1 levels, the student 2"),
        ({"weight": [torch.ones(2, 3, 4)]}, "weights has 1 levels, the student 2"),
        ({"teacher": tensors(12, sizes=((3, 4), (2, 2)))}, "level 1: student .2, 12, 1, 2. and teacher"),
        ({"groups": 5}, "level 0: 12 channels are no multiple of 5 groups"),
        ({"over_locations": True}, "over_locations goes with 1 group, not with 3"),
        ({"weight": [torch.ones(2, 3, 4), torch.ones(2, 3)]}, "level 1: weights .2, 3. do not fit .2, 12, 1"),
    ],
)  # fmt: skip
def test_the_operator_refuses_what_does_not_fit(target, changes, message):
    call = operator_arguments(target, changes)
    with pytest.raises(RuntimeError, match=message):
        backend.namespace().kl(*call.values())


def test_losses_per_image_need_as_many_images_in_every_level(target):
    given = arguments(sizes=((3, 4), (1, 2)), device=target.device)
    given["student"][1], given["teacher"][1], given["weight"][1] = (
        given[name][1][:1] for name in ("student", "teacher", "weight")
    )
    with pytest.raises(RuntimeError, match="per_image: the levels have .2, 1. images"):
        backend.namespace().kl(*operator_arguments(target, {**given, "per_image": True}).values())


# The tests below need a GPU.


def gpu(function):
    skipped = INTERPRETED or not torch.cuda.is_available()
    return pytest.mark.gpu(
        pytest.mark.skipif(skipped, reason="needs a CUDA GPU and no interpreter")(function)
    )


@gpu
@pytest.mark.sanitize
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "rows"])
@pytest.mark.parametrize("over", OVER)
def test_kl_triton_every_path_once(over, layout, in_small_blocks):
    """Small enough for compute-sanitizer."""
    given = arguments(20, over=over, sizes=LONG_SIZES, layout=layout, device="cuda")
    images = torch.tensor([0.7, 1.0], device="cuda")
    compare(frs.weighted_kl, CUDA, given, WRT, over=over)
    compare(frs.weighted_kl, CUDA, given, WRT, upstream=images, over=over, reduction="none")
    in_small_blocks(False)
    compare(frs.weighted_kl, CUDA, given, WRT, over=over)


@gpu
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize(
    ("over", "channels", "groups", "sizes"),
    [
        pytest.param("channels", 68, 4, RETINANET, id="LD"),
        pytest.param("channels", 80, 1, RETINANET, id="classes"),
        pytest.param("channels", 720, 1, RETINANET[1:], id="classes of all anchors"),
        pytest.param("channels", 720, 9, RETINANET[1:], id="anchors"),
        pytest.param("locations", 256, 1, RETINANET, id="CWD"),
        pytest.param("locations", 19, 1, ((64, 128),), id="CWD of a segmentation"),
        pytest.param("channels", 1000, 1, ((1, 1),), id="classification"),
    ],
)
def test_kl_triton_real_shapes(over, channels, groups, sizes, dtype, layout):
    given = arguments(channels, over=over, sizes=sizes, dtype=dtype, layout=layout, device="cuda")
    compare(frs.weighted_kl, CUDA, given, WRT, upstream=0.7, over=over, groups=groups, temperature=2.0)
    compare(frs.weighted_kl, CUDA, given, (), over=over, groups=groups)


@gpu
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("over", OVER)
def test_kl_triton_tensors_of_more_than_2_31_elements(over, layout):
    """One level that needs 64-bit addresses: the last image must get the gradient of the first."""
    free, _ = torch.cuda.mem_get_info()
    batch, channels, height, width = 130, 1024, 128, 132
    needed = 5 * 2 * batch * channels * height * width
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free GPU memory")
    common = {"sizes": [(height, width)], "batch": 1, "dtype": torch.bfloat16, "device": "cuda"}
    (one,), (other,) = tensors(channels, **common), tensors(channels, **common, seed=1)
    memory = torch.contiguous_format if layout == "nchw" else torch.channels_last
    teacher, student = (t.expand(batch, -1, -1, -1).contiguous(memory_format=memory) for t in (one, other))
    assert teacher.numel() > 2**31
    student.requires_grad_()
    options = {"normalizer": "batch", "over": over, "backend": "triton"}
    loss = frs.weighted_kl(student, teacher, **options)
    loss.backward()
    torch.testing.assert_close(loss, frs.weighted_kl(other, one, **options), rtol=1e-4, atol=0)
    assert torch.equal(student.grad[0], student.grad[-1])
