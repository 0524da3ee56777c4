"""What the packages use of torch that is private to it: all of it, one function for each.

A private name may change in any release of torch. Each function says what its name does, in which releases
it has been seen, and what happens in a release without it: nothing becomes wrong, something becomes slower.
Names are looked up once, on import; TorchDynamo and Inductor are imported only where they are used.

One more is overridden, so it cannot be a function here: `torch.nn.Module._apply`, through which a module
moves itself to a device (integrations/hooks.py). Without it a teacher has to be moved by hand.
"""

from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad


class HasTensors(Protocol):
    """Arguments of a loss; see :class:`frs_kernels.inputs.LossInputs`, which this module is below."""

    @property
    def tensors(self) -> list[Tensor]: ...


def _found(*names: str) -> Any:
    """torch.NAME.NAME..., or None where a release does not have it."""
    value: Any = torch
    for name in names:
        value = getattr(value, name, None)
    return value


_keeps_graph = _found("_C", "_autograd", "_get_current_graph_task_keep_graph")
_transforms_are_active = _found("_C", "_are_functorch_transforms_active")
_functorch = _found("_C", "_functorch")
_has_level = hasattr(forward_ad, "_current_level")


def graph_is_retained() -> bool:
    """Whether the running backward keeps its graph (retain_graph=True), so that another one may follow.

    torch uses it for its donated buffers; seen in 2.10 to 2.14. Without it: True, and stored gradients are
    copied before they are scaled.
    """
    return True if _keeps_graph is None else _keeps_graph()


def transforms_are_active(inputs: HasTensors) -> bool:
    """Whether a transform of torch.func is active, of which ``inputs.tensors`` may be the wrapped values.

    torch asks it in its autograd.Function; seen in 2.10 to 2.14. Without it: whether one of the tensors has
    no storage of its own, as wrapped tensors have not, which takes longer; and always True in torch.compile,
    which cannot trace that question, so that eager runs there.
    """
    if _transforms_are_active is not None:
        return _transforms_are_active()
    return torch.compiler.is_compiling() or not all(map(_has_storage, inputs.tensors))


def active_transforms() -> set[str]:
    """The kinds of the active transforms of torch.func: "grad" (and vjp), "vmap", "jvp", "functionalize".

    torch runs its transforms by this stack; seen in 2.10 to 2.14. Without it: "unknown", and eager runs.
    """
    stack = getattr(_functorch, "get_interpreter_stack", None)
    if stack is None or not hasattr(_functorch, "get_unwrapped"):
        return {"unknown"}
    return {transform.key().name.lower() for transform in stack()}


def layers(tensor: Tensor) -> list[Tensor]:
    """The tensor, and those it wraps for transforms of torch.func, one inside the other.

    Called only where :func:`active_transforms` knows them. torch.func unwraps its results so; seen in 2.10 to
    2.14.
    """
    found = [tensor]
    while _functorch.is_functorch_wrapped_tensor(found[-1]):
        found.append(_functorch.get_unwrapped(found[-1]))
    return found


def records_derivatives(tensor: Tensor) -> bool:
    """Whether autograd or one of the active transforms records derivatives in ``tensor``.

    A wrapper answers for the innermost transform alone. In torch.compile, and in a release without
    :func:`layers`, this does so too.
    """
    if tensor.requires_grad or torch.compiler.is_compiling() or _functorch is None:
        return tensor.requires_grad
    return any(layer.requires_grad for layer in layers(tensor))


def holds_several(tensor: Tensor) -> bool:
    """Whether a tensor holds several at once, for `is_grads_batched` or inside torch.func.vmap.

    torch prints tensors by it; seen in 2.10 to 2.14. Without it: whether the tensor has no storage of its
    own.
    """
    try:
        return _functorch.is_legacy_batchedtensor(tensor) or _functorch.is_functorch_wrapped_tensor(tensor)
    except AttributeError:
        return not _has_storage(tensor)


def is_exporting() -> bool:
    """Whether torch.export records the call.

    The public `torch.compiler.is_exporting` is True in every graph that TorchDynamo traces; the flag behind
    it is not. Seen in 2.10 to 2.14. Without it: the public function, and compiled losses with gradients run
    eager.
    """
    flag = getattr(torch.compiler, "_is_exporting_flag", None)
    return torch.compiler.is_exporting() if flag is None else flag


def _has_storage(tensor: Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def dual_level_is_open() -> bool:
    """Whether forward-mode derivatives are being computed.

    `forward_ad.unpack_dual` asks the same, but once for each tensor; seen in 2.10 to 2.14. Without it: True,
    and unpack_dual is asked for every tensor.
    """
    return forward_ad._current_level >= 0 if _has_level else True


def mark_constant(function) -> None:
    """Makes torch.compile treat the result of ``function`` as a constant.

    The mark is that of the public `torch.compiler.assume_constant_result`. Calling that function would import
    TorchDynamo, which takes as long as importing torch. Seen in 2.10 to 2.14. A release that does not know
    the mark traces the function, or ends the compiled graph at its call.
    """
    function._dynamo_marked_constant = True


def inductor() -> SimpleNamespace | None:
    """The parts of Inductor that lower an operator to one that works in place on donated buffers.

    Seen in 2.10 to 2.14. Without any of them: None, and a compiled backward makes new tensors.
    """
    try:
        from torch._inductor.ir import DonatedBuffer, FallbackKernel, StorageBox, TensorBox
        from torch._inductor.lowering import fallback_handler, register_lowering
        from torch._inductor.virtualized import V
    except ImportError:
        return None
    return SimpleNamespace(
        DonatedBuffer=DonatedBuffer,
        FallbackKernel=FallbackKernel,
        StorageBox=StorageBox,
        TensorBox=TensorBox,
        V=V,
        fallback_handler=fallback_handler,
        register_lowering=register_lowering,
    )


def end_loading(iterator) -> list:
    """Asks the processes of a DataLoader's iterator to exit, and returns them.

    The iterator does so in its destructor too, but that runs when the garbage collector finds it. Seen in
    2.10 to 2.14. Without it: an empty list, and the destructor.
    """
    processes = list(getattr(iterator, "_workers", ()))
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is None:
        return []
    shut_down()
    return processes
