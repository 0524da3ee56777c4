"""Prints the instruction set that PyTorch's own CPU kernels use here."""

import torch

print(torch.backends.cpu.get_cpu_capability())
