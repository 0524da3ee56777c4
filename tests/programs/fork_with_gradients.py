"""Forks while one call's gradients are held, and while the pool keeps the memory of another call's gradients.

Both processes run the loss and then say whether the gradients held across the fork have kept their bits.
"""

import os

import torch
from cpu_calls import bits, large_call, run


def same(tensors, kept) -> bool:
    return all(torch.equal(a, b) for a, b in zip(bits(tensors), kept, strict=True))


torch.set_num_threads(1)
held = run(large_call(64))
call = large_call(64)
run(call)
kept = bits(held)
child = os.fork()
if child == 0:
    right = same(run(call), kept) and same(held, kept)
    held = None
    run(call)
    print("child:", "same bits" if right else "other bits", flush=True)
    os._exit(0)
run(call)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("parent:", "same bits" if same(held, kept) else "other bits")
