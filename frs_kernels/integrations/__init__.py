"""The losses inside other people's code bases; each module is imported on demand and needs its package.

``hooks`` needs nothing but PyTorch; ``ultralytics``, ``torchdistill`` and ``mmrazor`` need the package
they are named after (docs/integrations.md).
"""

import importlib
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
