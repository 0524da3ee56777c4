"""Runs weighted_kl on tensors that end where unmapped memory begins: an access past the end is a segfault."""

import ctypes
import math
import mmap

import torch

import frs_kernels as frs

PAGE = mmap.PAGESIZE
PROT_NONE = 0  # no access; Python's mmap has no name for it
libc = ctypes.CDLL(None, use_errno=True)
kept = []  # the mappings, as long as the tensors


def at_the_end(values: torch.Tensor) -> torch.Tensor:
    """The same values and strides, in memory that ends with the last of them."""
    bytes_before = math.ceil(values.nbytes / PAGE) * PAGE
    mapping = mmap.mmap(-1, bytes_before + PAGE)
    kept.append(mapping)
    memory = torch.frombuffer(mapping, dtype=torch.uint8)
    address = ctypes.c_void_p(memory.data_ptr() + bytes_before)
    assert libc.mprotect(address, PAGE, PROT_NONE) == 0
    copy = memory[bytes_before - values.nbytes : bytes_before].view(values.dtype)
    return copy.as_strided(values.shape, values.stride()).copy_(values)


def check(shape, over, groups, dtype, layout):
    student, teacher = (torch.randn(shape).to(dtype).contiguous(memory_format=layout) for _ in range(2))
    weights = torch.rand(shape[:2] if over == "locations" else (shape[0], *shape[2:]))
    given = [student, teacher, weights]
    losses, grads = [], []
    for tensors in (given, [at_the_end(t) for t in given]):
        leaf = tensors[0].detach().requires_grad_()
        loss = frs.weighted_kl(leaf, *tensors[1:], over=over, groups=groups, backend="native")
        loss.backward()
        losses.append(loss.detach())
        grads.append(leaf.grad)
    assert torch.equal(*losses) and torch.equal(*grads)
    kept.clear()


for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for layout in (torch.contiguous_format, torch.channels_last):
        for bins in (1, 3, 15, 16, 17, 31, 33, 50, 81):
            for others in (1, 5, 16, 21):
                check((2, bins, 1, others), "channels", 1, dtype, layout)
                check((2, 4 * bins, 1, others), "channels", 4, dtype, layout)
                check((2, others, 1, bins), "locations", 1, dtype, layout)
        check((1, 3001, 3, 7), "channels", 1, dtype, layout)
        check((1, 3, 211, 223), "locations", 1, dtype, layout)
print("done")
