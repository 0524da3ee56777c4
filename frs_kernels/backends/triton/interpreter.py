"""Triton's interpreter beside a NumPy that is newer than it.

Its run-time loop bounds are arrays of one element, which NumPy 2.4 no longer turns into an int.
Reported as triton-lang/triton#9171 and mended after Triton 3.6 by #9172.
"""

from triton.runtime import interpreter


def mend() -> None:
    """Lets loop bounds be read whatever NumPy is installed. Harmless where nothing needs mending."""
    patch = interpreter._patch_lang_tensor

    def patch_and_read_scalars(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_and_read_scalars
