"""The operators: their registration, their results for fake tensors, and the libraries that implement them.

A fused backend is a *namespace of operators* with the schemas of :data:`frs_kernels.contract.SCHEMAS`, of
which it implements all but ``scaled``, which is made of ``scale_``. ``frs_kernels`` holds the native ones
(C++ on the CPU, CUDA C++ on a GPU, where ``kl`` is missing) and ``frs_kernels_triton`` the Triton ones.
Schemas and fakes do not depend on the backend, so importing this module needs neither a compiler nor a built
extension.

The namespaces have the name under which the package is imported. A loader of kernels imports each build under
a name of its own, so that one process can hold several.
"""

import ctypes
import functools
import json
from pathlib import Path

import torch

from .contract import KL_ARGUMENTS, LOSS_ARGUMENTS, SCHEMAS, accumulation_dtype
from .layouts import grad_like
from .torch_private import mark_constant

NATIVE = __name__.rpartition(".")[0].replace(".", "_")
TRITON = f"{NATIVE}_triton"


def _mask_fake(teacher_logits):
    return [
        logits.new_empty((logits.shape[0], *logits.shape[2:]), dtype=accumulation_dtype(logits))
        for logits in teacher_logits
    ]


def _loss_fake(*arguments):
    named = dict(zip(LOSS_ARGUMENTS, arguments, strict=True))
    student_feats, student_logits = named["student_feats"], named["student_logits"]
    students = student_feats or student_logits
    dtype = accumulation_dtype(students[0])
    losses = students[0].new_empty((3, students[0].shape[0]) if named["per_image"] else (3,), dtype=dtype)
    level_losses = students[0].new_empty((2, len(students)), dtype=dtype)
    pending = students[0].new_empty((2, len(students)), dtype=dtype)
    feat_grads = [grad_like(t) for t in student_feats] if named["feat_grad"] else []
    logit_grads = [grad_like(t) for t in student_logits] if named["head_grad"] else []
    return losses, level_losses, pending, feat_grads, logit_grads


def _kl_fake(*arguments):
    named = dict(zip(KL_ARGUMENTS, arguments, strict=True))
    student = named["student"]
    dtype = accumulation_dtype(student[0])
    loss = student[0].new_empty((student[0].shape[0],) if named["per_image"] else (), dtype=dtype)
    pending = student[0].new_empty((len(student),), dtype=dtype)
    return loss, pending, [grad_like(t) for t in student] if named["grad"] else []


def _scale_fake(grads, grad_output, pending):
    return None


def _scaled_fake(grads, grad_output, pending):
    return [torch.empty_like(grad) for grad in grads]


def define(namespace: str) -> torch.library.Library:
    """Defines the operators of a namespace: schemas without implementations, except for ``scaled``."""
    library = torch.library.Library(namespace, "DEF")
    for name, schema in SCHEMAS.items():
        library.define(name + schema)

    def scaled(grads, grad_output, pending):
        copies = [grad.clone() for grad in grads]
        getattr(torch.ops, namespace).scale_(copies, grad_output, pending)
        return copies

    library.impl("scaled", scaled, "CompositeExplicitAutograd")
    # These return gradients as results and record nothing, so a call needs no torch.no_grad() around it.
    for name in ("loss", "imitation", "head", "kl"):
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    return library


def define_with_fakes(namespace: str) -> torch.library.Library:
    """Defines the operators of a namespace and their results for fake tensors."""
    library = define(namespace)
    fakes = {"mask": _mask_fake, "kl": _kl_fake, "scale_": _scale_fake, "scaled": _scaled_fake}
    fakes |= dict.fromkeys(("loss", "imitation", "head"), _loss_fake)
    for name, fake in fakes.items():
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    return library


# The registrations last as long as these objects.
native_library = define_with_fakes(NATIVE)
triton_library = define_with_fakes(TRITON)


def constant_result(function):
    """Decorator: caches the result of ``function``, and makes torch.compile treat it as a constant."""
    cached = functools.cache(function)

    @functools.wraps(function)
    def constant(*arguments):
        return cached(*arguments)

    mark_constant(constant)
    return constant


def build_info() -> dict:
    """How the native libraries were built (compiler, architectures, commit, ...); empty if none were."""
    file = Path(__file__).with_name("build_info.json")
    return json.loads(file.read_text()) if file.exists() else {}


def native_path(device_type: str) -> Path:
    """The shared library of the native operators on "cpu" or "cuda", whether it is built or not."""
    return Path(__file__).with_name(f"_native_{device_type}.so")


@constant_result
def load_native(device_type: str) -> str | None:
    """Loads the shared library that implements the native operators on "cpu" or "cuda".

    Returns None if they are ready, else a sentence that says why they are not. In one process, loading is
    attempted only once.
    """
    path = native_path(device_type)
    if not path.exists():
        return f"{path.name} is not built; reinstall with FRS_BUILD={device_type}"
    try:
        implement(NATIVE, path, device_type.upper())
    except (OSError, AttributeError) as error:  # AttributeError: a library of another version
        return f"{path.name} cannot be loaded by torch {torch.__version__}: {str(error).splitlines()[0]}"
    return None


def implement(namespace: str, path: Path, dispatch_key: str) -> None:
    """Implements the operators of a namespace by a shared library, for tensors of a dispatch key ("CPU")."""
    ctypes.CDLL(str(path)).frs_register(namespace.encode(), dispatch_key.encode())
