"""Prints why the Triton backend cannot run where `triton` is not what it should be.

why_not_triton.py missing      # the package is not installed
why_not_triton.py folder       # a folder of that name, some/triton, is on the path instead
"""

import sys
import types
from importlib.machinery import ModuleSpec

if sys.argv[1] == "missing":
    sys.modules["triton"] = None
else:
    folder = sys.modules["triton"] = types.ModuleType("triton")
    folder.__spec__, folder.__path__ = ModuleSpec("triton", None), ["some/triton"]

import torch  # noqa: E402

import frs_kernels as frs  # noqa: E402

logits = torch.zeros(1, 2, 3, 3)
print(frs.explain_backend(student_logits=logits, teacher_logits=logits).reasons["triton"])
