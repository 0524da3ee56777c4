"""The losses inside other code bases, one module for each; nothing here is imported until it is used.

``hooks`` needs only PyTorch; ``ultralytics``, ``torchdistill`` and ``mmrazor`` need the package of that name
(``mmrazor``: MMEngine). See docs/integrations.md.
"""

import functools
import importlib
import inspect
from types import ModuleType


def need(package: str, requirement: str | None = None) -> ModuleType:
    """Imports ``package``, or raises an ImportError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        command = f'pip install "{requirement or package}"'
        raise ImportError(
            f"this integration needs {package}, which cannot be imported ({error}): {command}"
        ) from error


def configurable(kind: type) -> type:
    """Class decorator for classes that a configuration builds by name: errors about arguments use that name.

    The TypeError says what is wrong and which arguments there are. Python's own error would name the base
    class whose constructor is inherited, and that name appears in no configuration.
    """
    construct = kind.__init__
    signature = inspect.signature(construct)
    names = [name for name in signature.parameters if name != "self"]

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{kind.__name__}: {error}; it takes {', '.join(names)}") from None
        construct(self, *args, **kwargs)

    kind.__init__ = __init__
    return kind
