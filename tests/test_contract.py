"""The contract of Python and C++: constants, codes, formulas, and the order of the operators' arguments."""

import pytest
import torch

from frs_kernels import contract, library
from frs_kernels.library import load_native

host = pytest.importorskip("frs_kernels._host", reason="_host is not built")
native = pytest.mark.skipif(load_native("cpu") is not None, reason=str(load_native("cpu")))
operators = torch.ops.frs_kernels

DTYPE_NAMES = [str(dtype).removeprefix("torch.") for dtype in contract.DTYPES]


def test_codes():
    cpp = host.contract()
    assert cpp["NORMALIZERS"] == {name: code for code, name in enumerate(contract.NORMALIZERS)}
    assert cpp["DTYPES"] == {name: code for code, name in enumerate(DTYPE_NAMES)}


@pytest.mark.parametrize("name", ["NORMALIZER_EPSILON", "MAX_LEVELS", "MAX_LOG_FACTORS"])
def test_constants(name):
    assert host.contract()[name] == getattr(contract, name)


def test_pending_factor():
    expected = {
        name: contract.pending_factor(dtype) for name, dtype in zip(DTYPE_NAMES, contract.DTYPES, strict=True)
    }
    assert host.contract()["pending_factor"] == expected


@pytest.mark.parametrize("mask_sum", [0.0, 1.75])
def test_normalizers(mask_sum):
    batch, channels, locations, value = 2, 3, 35, 0.625
    expected = {
        "mask": mask_sum,
        "mask_channels": channels * mask_sum + contract.NORMALIZER_EPSILON,
        "batch": batch,
        "numel": batch * channels * locations,
        "mask_all_levels": mask_sum,
        "value": value,
    }
    for code, name in enumerate(contract.NORMALIZERS):
        assert host.normalizer(code, batch, channels, locations, mask_sum, value) == expected[name], name


@pytest.mark.parametrize("namespace", [library.NATIVE, library.TRITON])
@pytest.mark.parametrize("name", contract.SCHEMAS)
def test_registered_schemas(namespace, name):
    schema = getattr(getattr(torch.ops, namespace), name).default._schema
    assert str(schema) == f"{namespace}::{name}{contract.SCHEMAS[name]}"


def arguments_of(name):
    return [
        (argument.name, str(argument.type)) for argument in getattr(operators, name).default._schema.arguments
    ]


def valid_arguments():
    """A call of `loss` by name, with everything that a call may have."""
    generator = torch.Generator().manual_seed(0)

    def levels(*shape):
        return [torch.rand(shape, generator=generator) for _ in range(2)]

    return {
        "student_feats": levels(2, 5, 3, 4), "teacher_feats": levels(2, 5, 3, 4),
        "student_logits": levels(2, 7, 3, 4), "teacher_logits": levels(2, 7, 3, 4),
        "masks": levels(2, 3, 4), "channel_weights": levels(2, 5),
        "normalizer": contract.NORMALIZERS.index("value"),
        "normalizer_value": 2.0, "normalizer_tensor": torch.tensor(1.5),
        "feat_scale": 3.0, "feat_scale_tensor": torch.tensor(0.5),
        "head_scale": 5.0, "head_scale_tensor": torch.tensor(0.25),
        "beta": 2.0, "feat_grad": False, "head_grad": False, "per_image": False,
    }  # fmt: skip


def loss(changes=()):
    """The operator's results, with the arguments in the order of its schema."""
    call = {**valid_arguments(), **dict(changes)}
    return operators.loss(*(call[name] for name, _ in arguments_of("loss")))


WRONG = {
    "List[Tensor]": [torch.zeros(2, 5, 3, 4, dtype=torch.int32)] * 2,
    "Optional[Tensor]": torch.tensor(1, dtype=torch.int32),
    "int": 99,
}


@native
@pytest.mark.parametrize("name, kind", [pair for pair in arguments_of("loss") if pair[1] in WRONG])
def test_loss_names_the_argument_that_is_wrong(name, kind):
    """The binding takes the arguments in the order of the schema: it rejects each under its own name."""
    with pytest.raises(RuntimeError, match=rf"(^|\s){name}(:|, level 0:)"):
        loss({name: WRONG[kind]})


@native
@pytest.mark.parametrize("channels, other", [(0, 5), (5, 0), (5, 4)])
def test_student_and_teacher_have_the_same_channels(channels, other):
    student, teacher = ([torch.rand(2, c, 3, 4)] * 2 for c in (channels, other))
    changes = {"student_feats": student, "teacher_feats": teacher, "channel_weights": []}
    message = rf"teacher_feats, level 0: \[2, {other}, 12\] instead of \[2, {channels}, 12\]"
    with pytest.raises(RuntimeError, match=message):
        loss(changes)


# What the numbers and switches of a call change: (feature, head) by this factor, or the gradients.
FACTORS = {"normalizer_value": (0.5, 0.5), "feat_scale": (2.0, 1.0), "head_scale": (1.0, 2.0)}


@native
def test_loss_takes_its_numbers_in_the_order_of_the_schema():
    numbers = [name for name, kind in arguments_of("loss") if kind in ("float", "bool")]
    assert numbers == [*FACTORS, "beta", "feat_grad", "head_grad", "per_image"]
    call, (losses, _, _, *no_grads) = valid_arguments(), loss()
    assert no_grads == [[], []]
    for name, factors in FACTORS.items():
        changed, *_ = loss({name: 2 * call[name]})
        torch.testing.assert_close(changed[:2], losses[:2] * torch.tensor(factors))
    changed, *_ = loss({"beta": 1.0})
    assert changed[0] == losses[0] and changed[1] > 1.01 * losses[1]
    for switch, filled in (("feat_grad", 3), ("head_grad", 4)):
        results = loss({switch: True})
        assert [len(results[i]) for i in (3, 4)] == [2 * (i == filled) for i in (3, 4)]
    per_image, *_ = loss({"per_image": True})
    assert per_image.shape == (3, 2)
    torch.testing.assert_close(per_image.sum(dim=1), losses)


@native
def test_losses_per_image_need_one_batch_size():
    call = valid_arguments()
    changes = {
        name: [levels[0], levels[1][:1]]
        for name, levels in call.items()
        if name == "masks" or name.endswith(("feats", "logits", "weights"))
    }
    loss(changes)
    with pytest.raises(RuntimeError, match="per_image: level 1 has 1 images, level 0 has 2"):
        loss({**changes, "per_image": True})


@native
@pytest.mark.parametrize("position, name", [(0, "grads"), (1, "grad_output"), (2, "pending")])
def test_scale_names_the_argument_that_is_wrong(position, name):
    assert arguments_of("scale_")[position][0] == name
    call = [[torch.zeros(2, 5)], torch.tensor(2.0), torch.ones(1)]
    operators.scale_(*call)
    call[position] = [torch.zeros(2, 5, dtype=torch.int32)] if position == 0 else call[position].int()
    with pytest.raises(RuntimeError, match=rf"(^|\s){name}(:|, level 0:)"):
        operators.scale_(*call)


@native
@pytest.mark.parametrize(
    "grad, grad_output, message",
    [
        (torch.zeros(2, 5, 3), torch.ones(3), "grads: a gradient has 2 images, grad_output 3"),
        (torch.zeros(2, 5, 3), torch.ones(1, 2), "grad_output: expected .* or .B."),
        (torch.zeros(2, 5, 3), torch.ones(1).expand(2), "grad_output, level 0: expected 2 contiguous"),
        (torch.zeros(2, 5, 6)[..., ::2], torch.ones(2), "grads: a gradient is not dense"),
        (torch.zeros(5, 2).t(), torch.ones(2), "grads: the images of a gradient are not dense"),
    ],
)
def test_scale_refuses_what_it_cannot_scale_image_by_image(grad, grad_output, message):
    with pytest.raises(RuntimeError, match=message):
        operators.scale_([grad], grad_output, torch.ones(1))


@native
@pytest.mark.parametrize("dtype", contract.DTYPES, ids=str)
def test_gradients_contain_all_but_the_pending_factor(dtype):
    student = torch.full((1, 2, 1, 3), 1.5).to(dtype)
    mask = torch.ones(1, 1, 3, dtype=contract.accumulation_dtype(student))
    code = contract.NORMALIZERS.index("mask")
    losses, level_losses, pending, (grad,), _ = operators.loss(
        [student], [torch.zeros_like(student)], [], [], [mask], [],
        code, 1.0, None, 0.75, None, 1.0, None, 0.0, True, False, False,
    )  # fmt: skip
    factor = 0.75 / 3
    assert pending[0, 0] == (factor if contract.pending_factor(dtype) else 1.0)
    assert {t.dtype for t in (losses, level_losses, pending)} == {contract.accumulation_dtype(student)}
    assert grad.dtype == dtype
    torch.testing.assert_close(grad.double() * pending[0, 0].double(), student.double() * 2 * factor)
