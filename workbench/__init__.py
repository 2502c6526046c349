"""The workbench: what do the weights and activations of this one trained model do?

A research script starts with::

    from workbench import ContrastPairs, load_model
    from analyses import activation_patching

The names below are offered lazily (PEP 562): importing `workbench` loads neither torch nor
transformer_lens.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.core import runs
    from workbench.core.models.card import fingerprint, list_models, model_card
    from workbench.core.models.native import save_native
    from workbench.core.models.sources import load_model
    from workbench.core.prompts.concepts import Concept
    from workbench.core.prompts.corpus import Corpus
    from workbench.core.prompts.pairs import ContrastPairs
    from workbench.ui.serving import show

__version__ = "0.1.0"

__all__ = [
    "Concept",
    "ContrastPairs",
    "Corpus",
    "fingerprint",
    "list_models",
    "load_model",
    "model_card",
    "runs",
    "save_native",
    "show",
]

_HOMES = {
    "Concept": "workbench.core.prompts.concepts",
    "ContrastPairs": "workbench.core.prompts.pairs",
    "Corpus": "workbench.core.prompts.corpus",
    "fingerprint": "workbench.core.models.card",
    "list_models": "workbench.core.models.card",
    "load_model": "workbench.core.models.sources",
    "model_card": "workbench.core.models.card",
    "save_native": "workbench.core.models.native",
    "show": "workbench.ui.serving",
}
# Names that are modules themselves.
_MODULES = {"runs": "workbench.core.runs"}


def __getattr__(name: str) -> Any:
    """Import the module behind a public name the first time that the name is used."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
