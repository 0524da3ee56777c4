"""The backward: stored gradients times a factor that is known on the device only.

The table has one row per gradient instead of one per level: address, number of elements, pending factor.
"""

import triton
import triton.language as tl

from .level_table import level_of_tile, table_entry

MAX_PROGRAMS = 2048  # fills any GPU, and costs little where all factors are 1 and programs return early
BLOCK = tl.constexpr(2048)  # elements per iteration of a program
# Columns: the first block of a gradient, its address, its number of elements (of one image, where each image
# has its own factor), its position in ``pending``.
FIRST_BLOCK, ADDRESS, ELEMENTS, PENDING = (tl.constexpr(i) for i in range(4))
COLUMNS = tl.constexpr(4)


@triton.jit(do_not_specialize=["grad_output", "pending", "blocks"])
def scale_kernel(
    table,  # per gradient: COLUMNS
    grad_output,  # 0-d, the incoming gradient; [B] for PER_IMAGE
    pending,  # [NUM_PENDING], the pending factor of each gradient
    blocks,  # blocks of all gradients
    GRADS: tl.constexpr,  # gradients of this launch: those of one dtype
    NUM_PENDING: tl.constexpr,
    ALIGNED: tl.constexpr,  # every address is a multiple of 16 bytes, for PER_IMAGE that of every image
    DTYPE: tl.constexpr,  # of the gradients
    ACC: tl.constexpr,
    PER_IMAGE: tl.constexpr,
):
    """grad *= grad_output * pending, in place.

    A program processes every num_programs-th block. Gradients whose factor is 1 are neither read nor written.
    """
    if PER_IMAGE:
        for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
            scale_block(table, grad_output, pending, block, GRADS, ALIGNED, DTYPE, ACC, True)
    else:
        offs = tl.arange(0, triton.next_power_of_2(NUM_PENDING))
        inside = offs < NUM_PENDING
        products = tl.load(grad_output) * tl.load(pending + offs, mask=inside, other=0.0)
        not_one = (products != 1.0) & inside
        if tl.max(not_one.to(tl.int32), axis=0) > 0:
            for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
                scale_block(table, grad_output, pending, block, GRADS, ALIGNED, DTYPE, ACC, False)


@triton.jit
def scale_block(
    table, grad_output, pending, block,
    GRADS: tl.constexpr, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, ACC: tl.constexpr,
    PER_IMAGE: tl.constexpr,
):  # fmt: skip
    """BLOCK elements of one gradient, or of one of its images. Only their last block may be incomplete."""
    grad = level_of_tile(table, block, GRADS, COLUMNS)
    block -= table_entry(table, FIRST_BLOCK, grad, GRADS, COLUMNS)
    elements = table_entry(table, ELEMENTS, grad, GRADS, COLUMNS)
    address = table_entry(table, ADDRESS, grad, GRADS, COLUMNS)
    pointer = address.to(tl.pointer_type(DTYPE))
    if PER_IMAGE:
        blocks_of_image = tl.cdiv(elements, BLOCK)
        image = block // blocks_of_image
        block -= image * blocks_of_image
        pointer += image * elements
        grad_output += image
    factor = tl.load(grad_output) * tl.load(pending + table_entry(table, PENDING, grad, GRADS, COLUMNS))
    if factor != 1.0:
        first = block * BLOCK
        pointer += first
        offs = tl.arange(0, BLOCK)
        if first + BLOCK <= elements:
            if ALIGNED:
                pointer = tl.multiple_of(pointer, 16)
            pointers = pointer + offs
            tl.store(pointers, (tl.load(pointers).to(ACC) * factor).to(DTYPE))
        else:
            inside = first + offs < elements
            values = tl.load(pointer + offs, mask=inside)
            tl.store(pointer + offs, (values.to(ACC) * factor).to(DTYPE), mask=inside)
