"""Triton's interpreter, mended: it serves the tests of a machine without a GPU."""

import dataclasses

import triton.language as tl
from triton.runtime import interpreter


def mend() -> None:
    """Works around a fault and two wastes of Triton 3.6. Harmless where there are none.

    Run-time loop bounds are arrays of one element there, which NumPy 2.4 no longer turns into an int
    (triton-lang/triton#9171, mended by #9172). And every call of a device function patches the whole
    language again, which took half of the time; here it is patched if it is not. Checks of integer
    overflow, which compiled kernels have in debug mode only, took a quarter.
    """
    patch_tensor = interpreter._patch_lang_tensor
    patch_language = interpreter._patch_lang

    def patch_and_read_scalars(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def call_device_function(self, *args, **kwargs):
        if any(tl.core.is_builtin(module.load) for module in (tl, tl.core)):
            patch_language(self.fn)
        return self.rewrite()(*args, **kwargs)

    interpreter._patch_lang_tensor = patch_and_read_scalars
    interpreter.InterpretedFunction.__call__ = call_device_function
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
