"""Prints what is said about a machine whose GPUs only appear to be there: a report for each, then `info`.

faked_gpus.py nothing|ptxas|headers ARCHS CAPABILITY...

The first argument is what Triton lacks. ARCHS is what the CUDA kernels appear to be built for, such as
"8.0,9.0", or "none". Each CAPABILITY is a GPU. The tensors have no memory.
"""

import sys
import sysconfig
from types import SimpleNamespace

import torch
from torch._subclasses import FakeTensorMode

import frs_kernels as frs
from frs_kernels import info
from frs_kernels.backends import native

lacking, archs, *gpus = sys.argv[1:]
capabilities = [tuple(map(int, gpu.split("."))) for gpu in gpus]
with FakeTensorMode():
    tensors = [torch.empty(1, 2, 3, 3, device=f"cuda:{index}") for index in range(len(gpus))]


def properties(index):
    major, minor = capabilities[index]
    return SimpleNamespace(name="faked", major=major, minor=minor, total_memory=2**30)


torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: len(gpus)
torch.cuda.current_device = lambda: len(gpus) - 1
torch.cuda.get_device_capability = lambda index=None: capabilities[-1 if index is None else index]
torch.cuda.get_device_properties = properties
load_native = native.load_native
if archs == "none":
    native.load_native = lambda device: "it is not built" if device == "cuda" else load_native(device)
else:
    native.load_native = lambda device: None if device == "cuda" else load_native(device)
    native.build_info = lambda: {"cuda_archs": archs.split(",")}
if lacking == "headers":
    sysconfig.get_path = lambda *_: "/nowhere"
elif lacking == "ptxas":
    from triton import knobs

    for name in ("ptxas", "ptxas_blackwell"):
        vars(type(knobs.nvidia))[name].default_path = "/nowhere/ptxas"

for tensor in tensors:
    report = frs.explain_backend(None, None, student_logits=tensor, teacher_logits=tensor)
    print(tensor.device, report, sep="\n", end="\n\n")
print("without an index", native.no_code_for_gpu(None) or "runs", sep="\n", end="\n\n")
print(info.report())
