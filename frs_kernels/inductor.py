"""The lowering of the operator ``scaled`` in Inductor, the code generator of torch.compile.

A compiled backward must not write to its inputs: the compiler owns those buffers, and its pass that makes
operators work in place leaves the inputs of a graph alone. But Inductor itself reuses the memory of saved
tensors that nothing else can see ("donated buffers"). For these, ``scaled`` is lowered to ``scale_``.
"""

import torch

from . import torch_private
from .library import constant_result


@constant_result
def register_scaled_lowering(namespace: str) -> None:
    """Registers the lowering of ``namespace``'s ``scaled``. Called while TorchDynamo traces a backward."""
    parts = torch_private.inductor()
    if parts is None:  # `scaled` then makes new tensors
        return
    scaled = getattr(torch.ops, namespace).scaled.default
    scale_ = getattr(torch.ops, namespace).scale_.default
    into_new_tensors = parts.fallback_handler(scaled, add_to_fallback_set=False)

    def is_donated(grad, node) -> bool:
        if not (isinstance(grad, parts.TensorBox) and isinstance(grad.data, parts.StorageBox)):
            return False
        return isinstance(grad.data.data, parts.DonatedBuffer) and len(node.users) == 1

    @parts.register_lowering(scaled, type_promotion_kind=None)
    def lower(grads, grad_output, pending):
        nodes = parts.V.graph.current_node.args[0]
        if not all(map(is_donated, grads, nodes)):
            return into_new_tensors(grads, grad_output, pending)
        parts.FallbackKernel.create(scale_, grads, grad_output, pending)
        return grads
