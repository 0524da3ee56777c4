"""Compares the CPU kernels of weighted_kl with float64 on the instruction set ISA: check_... ISA.

ISA is the name that PyTorch gives it. ATEN_CPU_CAPABILITY=ISA has to be set in the environment: it is an
error if the kernels run on another instruction set.
"""

import sys

from cases import DTYPES, LAYOUTS, Target, compare
from kl_cases import WRT, arguments

import frs_kernels as frs
from frs_kernels import cpu_settings

SHAPES = [(channels, 1) for channels in (1, 2, 7, 16, 19, 47, 48, 49, 130)] + [(68, 4), (200, 2)]


def check(channels, groups, sizes, over, dtype, layout):
    given = arguments(channels, over=over, sizes=sizes, dtype=dtype, layout=layout)
    groups = groups if over == "channels" else 1
    compare(frs.weighted_kl, Target("native", "cpu"), given, WRT, over=over, groups=groups, temperature=2.0)


isa = sys.argv[1]
assert cpu_settings.instruction_set() == isa, f"runs on {cpu_settings.instruction_set()}"
for over in ("channels", "locations"):
    for dtype in DTYPES:
        for layout in LAYOUTS:
            for channels, groups in SHAPES:
                check(channels, groups, ((5, 9), (1, 1), (11, 17)), over, dtype, layout)
            check(4000, 1, ((1, 3), (2, 17)), over, dtype, layout)
            check(3, 1, ((230, 211),), over, dtype, layout)
print(f"{isa}: right")
