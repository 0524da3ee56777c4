"""reduction="sum", "mean", "none" of weighted_mse and weighted_bce: over images, after the normalizer."""

import pytest
import torch
from cases import DTYPES, LAYOUTS, NORMALIZERS, compare, evaluate, gradcheck, random_masks, tensors, term
from hypothesis import given
from hypothesis import strategies as st

import frs_kernels as frs

TERMS = {
    "imitation": (frs.weighted_mse, ("student_feats", "teacher_feats")),
    "head": (frs.weighted_bce, ("student_logits", "teacher_logits")),
}


def case(name, channels=12, **options):
    """(function, its arguments, the names of the student's tensors)"""
    function, names = TERMS[name]
    return function, term(names, channels, **options), names[:1]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("name", TERMS)
def test_one_value_per_image(target, name, normalizer):
    function, base, wrt = case(name, batch=2, device=target.device)
    upstream = torch.tensor([0.5, -3.0], device=target.device)
    (actual,), _ = compare(
        function, target, base, wrt, upstream=upstream, normalizer=normalizer, scale=0.7, reduction="none"
    )
    assert actual.shape == (2,)
    compare(function, target, base, (), normalizer=normalizer, reduction="none")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TERMS)
def test_every_dtype_and_layout(target, name, layout, dtype):
    function, base, wrt = case(name, batch=2, dtype=dtype, layout=layout, device=target.device)
    upstream = torch.tensor([2.0, 1.0], device=target.device)
    compare(function, target, base, wrt, upstream=upstream, reduction="none")


@pytest.mark.parametrize("name", TERMS)
def test_sum_and_mean_are_those_of_the_images(target, name):
    function, base, wrt = case(name, device=target.device)
    results = {
        reduction: evaluate(function, base, wrt, reduction=reduction, backend=target.backend)
        for reduction in ("sum", "mean", "none")
    }
    (images,), grads = results["none"]
    torch.testing.assert_close(results["sum"][0][0], images.sum())
    torch.testing.assert_close(results["mean"][0][0], images.mean())
    torch.testing.assert_close(results["sum"][1], grads)
    torch.testing.assert_close(results["mean"][1], [grad / 2 for grad in grads])
    default, _ = evaluate(function, base, wrt, backend=target.backend)
    assert torch.equal(default[0], results["sum"][0][0])


@pytest.mark.parametrize("name", TERMS)
def test_mean_compares_with_eager(target, name):
    function, base, wrt = case(name, device=target.device)
    scale = torch.tensor(0.25, device=target.device)
    compare(function, target, base, wrt, upstream=3.0, scale=scale, reduction="mean")


@pytest.mark.parametrize("name", TERMS)
def test_an_image_gets_the_gradient_of_its_own_value(target, name):
    function, base, wrt = case(name, device=target.device)
    leaves = [t.requires_grad_() for t in base[wrt[0]]]
    images = function(**base, normalizer="batch", reduction="none", backend=target.backend)
    first = torch.autograd.grad(images[0], leaves, retain_graph=True)
    assert all((grad[1] == 0).all() and (grad[0] != 0).any() for grad in first)
    second = torch.autograd.grad(images[1], leaves)
    assert all((grad[0] == 0).all() and (grad[1] != 0).any() for grad in second)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("reduced", [torch.sum, torch.mean, lambda v: v[[1, 0, 1]].sum()])
def test_the_values_of_the_images_may_be_reduced_afterwards(target, reduced, name):
    """The gradient of a sum is one number, expanded to all images."""
    function, base, wrt = case(name, device=target.device)

    def loss(**arguments):
        return reduced(function(**arguments, reduction="none"))

    actual, expected = (evaluate(loss, base, wrt, backend=backend) for backend in (target.backend, "eager"))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", TERMS)
def test_an_image_in_a_level_whose_normalizer_is_0_adds_nothing(target, name):
    function, base, wrt = case(name, device=target.device)
    base["masks"][1].zero_()
    base[wrt[0]][1][1, 0, 0, 0] = float("inf")
    (images,), grads = compare(function, target, base, wrt, upstream=2.0, reduction="none")
    assert images.isfinite().all() and (grads[1] == 0).all()


@pytest.mark.parametrize("name", TERMS)
def test_nan_stays_in_its_image(target, name):
    function, base, wrt = case(name, device=target.device)
    base[wrt[0]][2][1, 3, 1, 1] = float("nan")
    (images,), _ = compare(function, target, base, wrt, reduction="none")
    assert images.isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", TERMS)
def test_no_images(target, name):
    function, base, wrt = case(name, batch=0, sizes=[(3, 4), (2, 2)], device=target.device)
    (images,), grads = evaluate(function, base, wrt, reduction="none", backend=target.backend)
    assert images.shape == (0,) and [g.shape[0] for g in grads] == [0, 0]
    assert function(**base, reduction="mean", backend=target.backend) == 0


def test_several_masks_per_image(target):
    base = term(("student_feats", "teacher_feats"), device=target.device)
    sets = [base.pop("masks"), random_masks(device=target.device, seed=8)]
    options = {"reduction": "none", "backend": target.backend}
    together = frs.weighted_mse(**base, mask_sets=sets, scale=[1.0, -0.5], **options)
    parts = [frs.weighted_mse(**base, masks=masks, **options) for masks in sets]
    torch.testing.assert_close(together, parts[0] - 0.5 * parts[1])


@given(
    name=st.sampled_from(list(TERMS)), channels=st.integers(1, 40), height=st.integers(1, 9),
    width=st.integers(1, 40), batch=st.integers(1, 5), layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES), normalizer=st.sampled_from(NORMALIZERS), gradients=st.booleans(),
)  # fmt: skip
def test_any_shape(target, name, channels, height, width, batch, layout, dtype, normalizer, gradients):
    sizes = [(height, width), (2, 3)]
    options = {"sizes": sizes, "batch": batch, "device": target.device}
    function, base, wrt = case(name, channels, layout=layout, dtype=dtype, **options)
    upstream = torch.linspace(-1, 2, batch, device=target.device)
    compare(
        function, target, base, wrt if gradients else (), upstream=upstream, normalizer=normalizer,
        reduction="none",
    )  # fmt: skip


def test_gradcheck(target):
    (student,), (teacher,) = (
        tensors(3, sizes=[(2, 3)], dtype=torch.float64, device=target.device, seed=seed) for seed in (1, 2)
    )
    masks = random_masks(sizes=[(2, 3)], device=target.device, dtype=torch.float64)
    for function, _ in TERMS.values():
        gradcheck(
            lambda x, function=function: function(
                x, teacher, masks, reduction="none", backend=target.backend
            ),
            student.requires_grad_(),
        )
