"""One idea a module: public functions of a model and its inputs, frozen results, their figures.

`import analyses` loads none of them and no library: `analyses.circuits` is imported when it is
first named (PEP 562), and so it is by `from analyses import circuits`.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

_NAMES = {module.name for module in pkgutil.iter_modules(__path__)}


def __getattr__(name: str) -> ModuleType:
    """Import an analysis the first time that it is named."""
    if name not in _NAMES:
        raise AttributeError(f"module 'analyses' has no attribute {name!r}; it has {__dir__()}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(_NAMES)
