"""The loaded models of a server, shared by all of its sessions.

1. A model that is asked for is found here or loaded; whoever asks for the same one meanwhile waits
   for it, so that it is loaded once.
2. What the models take is counted in bytes (parameters and buffers), against the budget of
   `memory.budget`. The least recently used ones are let go first, before a new one is read.
3. One that does not fit is refused before anything of it is read. A pinned one is never let go: it
   came from a script, and could not be loaded again.

Limits: a model that was let go of while work runs on it stays in memory until that work has ended.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Generator
from typing import TYPE_CHECKING

import streamlit as st

from workbench.core.models import memory
from workbench.ui import jobs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_PATIENCE = 0.2


class Shelf:
    """The loaded models of a server, as many as fit."""

    def __init__(self) -> None:
        """Start empty."""
        self._models: collections.OrderedDict[str, TransformerBridge] = collections.OrderedDict()
        self._bytes: dict[str, int] = {}
        self._pinned: set[str] = set()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> TransformerBridge | None:
        """The model of this name, if it is loaded; it becomes the most recently used."""
        with self._lock:
            if name in self._models:
                self._models.move_to_end(name)
            return self._models.get(name)

    def put(self, name: str, model: TransformerBridge, *, pinned: bool = False) -> None:
        """Keep a model, and let go of the least recently used others that do not fit beside it.

        Args:
            name: What it is found by.
            model: The model.
            pinned: Never let go of it.
        """
        with self._lock:
            self._models[name] = model
            self._models.move_to_end(name)
            self._bytes[name] = memory.held_bytes(model)
            if pinned:
                self._pinned.add(name)
            self._make_room(0, spare=name)

    def drop(self, name: str) -> None:
        """Let go of a model, pinned or not; nothing happens where there is none."""
        with self._lock:
            self._models.pop(name, None)
            self._bytes.pop(name, None)
            self._pinned.discard(name)

    def open(self, name: str, report: jobs.Report) -> TransformerBridge:
        """The model of this name, loaded if it is not; safe to call from any thread.

        Args:
            name: Bundled name, folder or hub name.
            report: Told what is being done.

        Returns:
            The model.

        Raises:
            ValueError: If it cannot be opened, or does not fit.
        """
        found = self.find(name)
        if found is not None:
            return found
        with self._alone(name, report):
            found = self.find(name)
            return self._load(name, report) if found is None else found

    def held(self) -> int:
        """Bytes that all models on it take."""
        with self._lock:
            return sum(self._bytes.values())

    def _load(self, name: str, report: jobs.Report) -> TransformerBridge:
        report(0.1, "starting torch and TransformerLens")
        from workbench.core.models import sources

        source = sources.find_source(
            name,
            progress=lambda share, note: report(0.1 + 0.3 * share, note or "finding the weights"),
        )
        needed = sources.needed_bytes(source)
        with self._lock:
            pinned = sum(self._bytes[one] for one in self._pinned)
            # Asked before others are let go of: what will not fit costs nobody a model.
            memory.require_budget(needed, name, pinned)
            self._make_room(needed)
        report(0.5, "reading the weights")
        model = sources.read_source(source)
        self.put(name, model)
        return model

    def _make_room(self, needed: int, spare: str = "") -> None:
        """Let go of models until so much fits; the lock is held."""
        allowed = memory.budget()
        for name in list(self._models):
            if sum(self._bytes.values()) + needed <= allowed:
                return
            if name not in self._pinned and name != spare:
                del self._models[name], self._bytes[name]

    @contextlib.contextmanager
    def _alone(self, name: str, report: jobs.Report) -> Generator[None]:
        """Wait while another thread loads the same model; `report` may raise meanwhile."""
        with self._lock:
            turn = self._loading.setdefault(name, threading.Lock())
        while not turn.acquire(timeout=_PATIENCE):
            report(0.1, "another session is loading it")
        try:
            yield
        finally:
            turn.release()


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The one shelf of this server."""
    return Shelf()
