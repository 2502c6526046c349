"""The check of types and shapes that every function of the library gets while tests run.

jaxtyping's import hook decorates one function at a time. beartype rejects `Self` in a method that
is decorated without its class, so that one annotation is not checked.

A function within a function is decorated anew whenever the outer one runs. What jaxtyping hands
over has the annotations of the function and none of its code, so the check of one is as good for
the next one of the same annotations: it is made once and kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self

import beartype

_CONFIGURATION = beartype.BeartypeConf(
    hint_overrides=beartype.FrozenDict({Self: Any})  # pyright: ignore[reportGeneralTypeIssues]
)

_kept: dict[tuple[object, ...], Callable[..., Any]] = {}


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
