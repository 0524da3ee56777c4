"""A small run of every native CUDA kernel for compute-sanitizer: ``python -m benchmarks.sanitize``.

Ragged shapes, where a read or write out of bounds would be, in all dtypes, layouts and modes; each result is
checked against float64 too. On a machine without a GPU it runs the native CPU kernels.
"""

import itertools

from benchmarks.machine import default_device
from benchmarks.measure import Call
from benchmarks.providers import PROVIDERS
from benchmarks.workloads import DTYPES, LAYOUTS, OPS, Case, make_inputs


def main() -> None:
    device = default_device()
    provider = PROVIDERS["native"]
    reason = provider.unavailable(device)
    if reason:
        raise SystemExit(reason)
    modes = {op: ("forward",) if op == "mask" else ("forward", "both") for op in OPS}
    for op, workload, dtype, layout in itertools.product(OPS, ("ragged", "tiny"), DTYPES, LAYOUTS):
        for mode in modes[op]:
            case = Case(op, mode, workload, 2, dtype, layout)
            call = Call(case, provider, make_inputs(case, device), device, flush=lambda: None)
            print(case, call.check(), flush=True)


if __name__ == "__main__":
    main()
