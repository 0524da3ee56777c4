"""Compiles Triton kernels for sm_90 without a GPU and prints how many of them were not in Triton's cache.

They are those of one benchmark, and those of one comparison as the GPU tests make it.
`benchmarks.triton_stub` stands in for the GPU.
"""

import tempfile

from cases import Target, compare
from loss_cases import WRT, arguments
from triton import knobs

import frs_kernels as frs
from benchmarks import triton_stub

hits = []
knobs.compilation.listener = lambda cache_hit, **_: hits.append(cache_hit)
with tempfile.TemporaryDirectory() as folder, triton_stub.WithoutMemory():
    triton_stub.install((9, 0), folder)
    triton_stub.run_benchmarks(triton_stub.benchmark_cases()[:1])
    triton_stub.Plugin(0, 1).pytest_collection_finish()  # comparisons pass: nothing has a value
    compare(frs.frs_loss, Target("triton", "cuda"), arguments(device="cuda"), WRT)
print(hits.count(False))
