"""Libraries that take seconds to import: two sessions get them whole, and no page waits twice.

1. Python lets only one thread import a package at a time. But a thread that asks for a part of it
   (`from transformer_lens.hook_points import HookPoint`) does not wait for a package that another
   one has begun: it imports the part by itself. Each then waits for what the other holds, Python
   sees that, and one of both goes on with half a module and fails.
2. So whoever asks for a part of such a package asks for the whole package first, and waits.
3. The first page needs none of them. Shortly after it is drawn a thread imports them, so that the
   page that comes next finds them there.

Limits: `importlib.import_module` of a part does not pass here.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Collection
from typing import Any

# What takes seconds to import, so that another session may well come meanwhile.
_SLOW = frozenset({"torch", "transformers", "transformer_lens", "sae_lens"})
_MARK = "waits_for_the_whole_package"
# What pages import at their top, or as soon as a model is looked at; whole packages first.
_SOON = (
    "torch",
    "transformer_lens",
    "transformer_lens.model_bridge",
    "scipy.stats",
    "sklearn.linear_model",
)
# Seconds in which the first page has come to the browser.
_DRAWN = 1.0


def wait_for_whole_packages(names: Collection[str] = _SLOW) -> None:
    """From now on, a part of these packages is imported only once the package is.

    Args:
        names: Of the packages.
    """
    usual = builtins.__import__
    if hasattr(usual, _MARK):
        return

    def waiting(name: str, *given: Any, **settings: Any) -> Any:
        package, dot, _ = name.partition(".")
        if dot and package in names and not _is_whole(package):
            # At once within the package's own import; else when its lock is free.
            usual(package)
        return usual(name, *given, **settings)

    setattr(waiting, _MARK, True)
    builtins.__import__ = waiting


@functools.cache
def begin(names: tuple[str, ...] = _SOON) -> threading.Thread:
    """Import them in the background, once a process.

    Args:
        names: Of the modules.

    Returns:
        The thread.
    """
    thread = threading.Timer(_DRAWN, _load, [names])
    thread.daemon = True
    thread.start()
    return thread


def _load(names: Collection[str]) -> None:
    for name in names:
        # Whoever needs one that cannot be imported is told so there.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _is_whole(package: str) -> bool:
    module = sys.modules.get(package)
    return module is not None and not getattr(module.__spec__, "_initializing", False)
