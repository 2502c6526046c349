"""The check of types and shapes that every function of the library gets while tests run.

jaxtyping's import hook decorates one function at a time. beartype rejects `Self` in a method that
is decorated without its class, so that one annotation is not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import beartype

_CONFIGURATION = beartype.BeartypeConf(
    hint_overrides=beartype.FrozenDict({Self: Any})  # pyright: ignore[reportGeneralTypeIssues]
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the outcome of a function against its annotations."""
    return beartype.beartype(conf=_CONFIGURATION)(function)
