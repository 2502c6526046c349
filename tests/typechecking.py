"""The check of types and shapes that every function of the library gets while tests run.

jaxtyping's import hook decorates one function at a time. beartype rejects `Self` in a method that
is decorated without its class, so that one annotation is not checked.

A function within a function is decorated anew whenever the outer one runs. What jaxtyping hands
over has the annotations of the function and none of its code, so the check of one is as good for
the next one of the same annotations: it is made once and kept.

Every module of the library is checked but `UNCHECKED`: these are called so often that it took a
third of the time of all tests. Pyright checks their types; their numbers are compared with
TransformerLens, with closed forms and with loops.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import beartype
import jaxtyping

ROOT = Path(__file__).resolve().parents[1]
# Tests of these check types; pages, commands, reports and journeys call what is checked there.
FOLDERS = ("analyses", "core")
UNCHECKED = (
    # The innermost of a model under hooks.
    *(
        f"workbench.core.engine.{name}"
        for name in ("cells", "decoder", "fast", "graph", "interventions", "recompute", "running")
    ),
    # Of an optimization: each operation on a tensor.
    "analyses.feature_visualization.inputs.redirected",
    # Words and sentences, drawn by the hundred thousand; curves, drawn by point.
    "workbench.core.models.training.grammar",
    "workbench.core.networks.mnist1d",
    "workbench.core.prompts.grammar_variables",
    "workbench.core.prompts.lexicon",
    "workbench.core.prompts.sentences",
    "workbench.core.prompts.tasks",
)

_CONFIGURATION = beartype.BeartypeConf(
    hint_overrides=beartype.FrozenDict({Self: Any})  # pyright: ignore[reportGeneralTypeIssues]
)

_kept: dict[tuple[object, ...], Callable[..., Any]] = {}


def modules() -> list[str]:
    """Every module of the library."""
    folders = (ROOT / "analyses", ROOT / "workbench" / "core")
    found = [path for folder in folders for path in folder.rglob("*.py")]
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found)
    return sorted(name.removesuffix(".__init__") for name in names)


def install() -> None:
    """Check what is imported from now on."""
    # A name stands for all that is below it: a package with an exception within is left out.
    hooked = [
        name for name in modules() if not any(f"{one}.".startswith(f"{name}.") for one in UNCHECKED)
    ]
    jaxtyping.install_import_hook(hooked, f"{__name__}.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the outcome of a function against its annotations."""
    if "<locals>" not in function.__qualname__:
        return _decorated(function)
    signature = inspect.signature(function)
    # By what annotations say: those of shapes are other objects each time.
    parameters = (
        (one.name, one.kind, repr(one.annotation)) for one in signature.parameters.values()
    )
    where = (function.__module__, function.__qualname__)
    key = (where, tuple(parameters), repr(signature.return_annotation))
    if key not in _kept:
        _kept[key] = _decorated(function)
    return _kept[key]


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    return beartype.beartype(conf=_CONFIGURATION)(function)
