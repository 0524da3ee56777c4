"""What Inductor, the code generator of torch.compile, is told about the operator ``scaled``.

A compiled backward must not write to what it was given: the compiler owns those buffers, and its pass that
puts operators back in place leaves the inputs of a graph alone. Inductor itself reuses the memory of saved
tensors that nothing else can see ("donated buffers"), so there ``scaled`` becomes ``scale_``.
"""

import torch

from frs_kernels.library import constant_result


@constant_result
def learn_scaled(namespace: str) -> None:
    """Registers the lowering of ``namespace``'s ``scaled``. Called while TorchDynamo traces a backward."""
    try:
        # Private to torch: where a release moves them, `scaled` keeps its new tensors and is right, too.
        from torch._inductor.ir import DonatedBuffer, FallbackKernel, StorageBox, TensorBox
        from torch._inductor.lowering import fallback_handler, register_lowering
        from torch._inductor.virtualized import V
    except ImportError:
        return
    scaled = getattr(torch.ops, namespace).scaled.default
    scale_ = getattr(torch.ops, namespace).scale_.default
    with_new_tensors = fallback_handler(scaled, add_to_fallback_set=False)

    def donated(grad, node) -> bool:
        if not (isinstance(grad, TensorBox) and isinstance(grad.data, StorageBox)):
            return False
        return isinstance(grad.data.data, DonatedBuffer) and len(node.users) == 1

    @register_lowering(scaled, type_promotion_kind=None)
    def lower(grads, factor, pending):
        nodes = V.graph.current_node.args[0]
        if not all(map(donated, grads, nodes)):
            return with_new_tensors(grads, factor, pending)
        FallbackKernel.create(scale_, grads, factor, pending)
        return grads
