"""The losses inside other people's code bases; each module is imported on demand and needs its package.

``hooks`` needs nothing but PyTorch; ``ultralytics``, ``torchdistill`` and ``mmrazor`` need the package
they are named after (docs/integrations.md).
"""

import functools
import importlib
import inspect
from types import ModuleType


def need(package: str, requirement: str | None = None) -> ModuleType:
    """The module ``package``, or an ImportError that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        command = f'pip install "{requirement or package}"'
        raise ImportError(
            f"this integration needs {package}, which cannot be imported ({error}): {command}"
        ) from error


def configurable(kind: type) -> type:
    """Class decorator for what a configuration builds by name: wrong arguments are told with that name.

    The TypeError says what is wrong and which arguments there are. Python's own would name the class whose
    constructor is inherited, which no configuration knows.
    """
    construct = kind.__init__
    signature = inspect.signature(construct)
    names = [n for n in signature.parameters if n != "self"]

    @functools.wraps(construct)
    def __init__(self, *args, **kwargs):
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{kind.__name__}: {error}; it takes {', '.join(names)}") from None
        construct(self, *args, **kwargs)

    kind.__init__ = __init__
    return kind
