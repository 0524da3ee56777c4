"""Memory layouts of levels: which ones the kernels read, and how a tensor is brought into one of them.

A level ``[B, C, H, W]`` (or ``[B, C, L]``) is *location-major* if neighbouring locations are adjacent in
memory, as in NCHW, and *channel-major* if neighbouring channels are, as in channels_last.
"""

import torch
from torch import Tensor


def layout(tensor: Tensor) -> str | None:
    """The layout of a level, or None where the kernels need a copy.

    "location_major": stride 1 between locations (NCHW, slices of [B, C, sum L]); any stride between channels.
    "channel_major": stride 1 between channels (channels_last, slices of [B, sum L, C]); one stride between
    locations.
    """
    if tensor.is_contiguous():
        return "location_major"
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channel_major"
    stride = location_stride(tensor)
    if stride == 1:
        return "location_major"
    return "channel_major" if stride is not None and (tensor.stride(1) == 1 or tensor.shape[1] == 1) else None


def location_stride(tensor: Tensor) -> int | None:
    """Elements from one location to the next, row-major over H and W; None where no single stride fits."""
    sizes_and_strides = zip(tensor.shape[2:], tensor.stride()[2:], strict=True)
    dims = [(size, stride) for size, stride in sizes_and_strides if size != 1]
    if not dims or tensor.numel() == 0:
        return 1
    for (_, outer), (size, inner) in zip(dims, dims[1:], strict=False):
        if outer != size * inner:
            return None
    return dims[-1][1]


def in_layout(tensor: Tensor, wanted: str) -> Tensor:
    """``tensor`` itself if it has the layout ``wanted``, else a copy that has it."""
    if layout(tensor) == wanted:
        return tensor
    if wanted == "location_major":
        return tensor.contiguous()
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def grad_like(tensor: Tensor) -> Tensor:
    """An empty gradient of ``tensor``: its shape, dtype and layout (location-major if it has none), dense."""
    if layout(tensor) != "channel_major":
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    channels_at_the_end = (tensor.shape[0], *tensor.shape[2:], tensor.shape[1])
    return torch.empty(channels_at_the_end, dtype=tensor.dtype, device=tensor.device).movedim(-1, 1)
