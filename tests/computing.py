"""Whether an analysis was computed or answered from the store: it is counted under its own name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def counted(
    monkeypatch: pytest.MonkeyPatch, analysis: Callable[..., Any], *packages: ModuleType
) -> list[int]:
    """Count the calls of an analysis, in its own module and in packages that offer it.

    Returns:
        A list that grows by one at each call.
    """
    calls: list[int] = []

    @functools.wraps(analysis)
    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        return analysis(*arguments, **options)

    name: str = analysis.__name__
    for module in (sys.modules[analysis.__module__], *packages):
        monkeypatch.setattr(module, name, counting)
    return calls
