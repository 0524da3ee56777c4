"""Patches of Triton's interpreter, which runs the kernels in tests on machines without a GPU."""

import dataclasses

import triton.language as tl
from triton.runtime import interpreter


def patch_interpreter() -> None:
    """Works around one bug and two slow paths of Triton 3.6. Harmless where a release does not have them.

    Run-time loop bounds are arrays of one element, which NumPy 2.4 refuses to convert to int
    (triton-lang/triton#9171, fixed by #9172). Each call of a device function patches the whole language,
    which takes half of the time; here it is patched only if it is not yet. Checks of integer overflow, which
    compiled kernels have in debug mode only, take another quarter.
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
