"""Where a server keeps results for as long as it runs, if its store cannot be written.

1. Work of the app runs within `spare_allowed`. A result that the store cannot take then goes into a
   temporary folder, which is a store as well, and lookups go through both.
2. The folder is made where temporary files go, or in memory where that disk is full, and is removed
   when the process ends. `not_kept` says why it is in use, for a page to show.

A script or a command has no spare store: it is told that the result could not be kept.

Limits: what was put there stays there, also once the store can be written again.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import shutil
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

_MEMORY = Path("/dev/shm")
# Bytes; with more than this, the usual place is as good as any.
_ENOUGH = 10**9

_allowed = contextvars.ContextVar("a spare store is allowed", default=False)
_lock = threading.Lock()
_roots: dict[Path, Path] = {}
_reasons: dict[Path, str] = {}


@contextlib.contextmanager
def spare_allowed() -> Generator[None]:
    """Let results that a store cannot take go into its spare store."""
    token = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(token)


def is_allowed() -> bool:
    """Whether the work that goes on here may use a spare store."""
    return _allowed.get()


def spare_of(root: Path) -> Path | None:
    """Folder of a store's spare one; None while there is none."""
    return _roots.get(root)


def make(root: Path, reason: str) -> Path:
    """The folder of a store's spare one, made where there is none yet.

    Args:
        root: Of the store that could not be written.
        reason: Why.

    Returns:
        A folder that is there.

    Raises:
        OSError: If none can be made.
    """
    with _lock:
        if root not in _roots:
            made = Path(tempfile.mkdtemp(prefix="workbench-runs-", dir=_roomy())).resolve()
            atexit.register(shutil.rmtree, made, ignore_errors=True)
            _roots[root], _reasons[root] = made, reason
        return _roots[root]


def _roomy() -> Path:
    """Where temporary files go, or memory where the disk has less room than that."""
    usual = Path(tempfile.gettempdir())
    there = [place for place in (usual, _MEMORY) if place.is_dir()]
    room = {place: min(_ENOUGH, shutil.disk_usage(place).free) for place in there}
    return max(there, key=lambda place: room[place])


def not_kept(root: Path) -> str:
    """Why results of a store are kept only while the server runs; empty where they are kept."""
    return _reasons.get(root, "")
