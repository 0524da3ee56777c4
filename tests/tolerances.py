"""How far a backend may be from the float64 reference: about as far as eager PyTorch in the same dtype is.

A guessed bound is either too loose to catch a mistake or too tight for another machine. Eager's own error on
the same inputs is neither.
"""

import torch


def assert_as_accurate(actual, eager, exact, what="", operands=0.0):
    """Asserts that the error of ``actual`` is at most twice that of ``eager``, both against ``exact``.

    A few roundings in the dtype of the output and in the accumulation dtype (relative to the largest value)
    are allowed on top, since eager may be exact by luck. Where the values are differences of two rounded
    quantities, ``operands`` is the sum of their magnitudes. The error of each, about one rounding of its own
    size, remains in the difference, however small that is: twice the sum of both is allowed.
    """
    assert actual.shape == exact.shape, f"{what}: shape {list(actual.shape)}, expected {list(exact.shape)}"
    assert actual.dtype == eager.dtype, f"{what}: dtype {actual.dtype}, expected {eager.dtype}"
    if exact.numel() == 0:
        return
    exact = exact.detach().double()  # on the device of the tensors: copying them to the CPU takes longer
    actual, eager_value = actual.detach().to(exact), eager.detach().to(exact)
    finite = exact.isfinite()
    assert torch.equal(actual.isnan(), exact.isnan()), f"{what}: NaN in other places than in the reference"
    assert torch.equal(actual.isfinite(), finite), f"{what}: not finite in other places than the reference"
    operands = operands[finite] if isinstance(operands, torch.Tensor) else operands
    exact, actual, eager_value = exact[finite], actual[finite], eager_value[finite]
    if exact.numel() == 0:
        return
    output_eps = torch.finfo(eager.dtype).eps
    # In float64 the reference is no more precise than what it judges.
    sum_eps = 1e-13 if eager.dtype == torch.float64 else torch.finfo(torch.float32).eps
    tiny = torch.finfo(eager.dtype).smallest_normal * output_eps
    eager_error = (eager_value - exact).abs().nan_to_num(nan=0.0, posinf=0.0).max()
    bound = 2 * eager_error + 2 * output_eps * exact.abs() + 8 * sum_eps * exact.abs().max() + tiny
    bound += 2 * sum_eps * operands
    excess = (actual - exact).abs() - bound
    worst = excess.argmax()
    assert excess[worst] <= 0, (
        f"{what}: {actual[worst]:.9g} instead of {exact[worst]:.9g}, "
        f"allowed {bound[worst]:.3g} (eager errs by {eager_error:.3g})"
    )
