"""The subject: picking a model, and having it loaded.

The pick stands in the address as `?model=`. A bundled name is opened at once, and so is a
checkpoint that the app itself wrote among its trainings; another folder or a hub name that came
with a link is opened only after a click, because opening it reads a folder of the reader's machine
or asks the hub. Loaded models are shared by all sessions and the least recently used one is let go.
"""

from __future__ import annotations

import collections
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.core.models import card
from workbench.ui import escaping, jobs, steps

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_KEPT = 3
# A training's name, "models", and the checkpoint.
_DEPTH = 3
_ALLOWED = "models opened by hand"


class Shelf:
    """The loaded models of a server, at most a few."""

    def __init__(self, kept: int = _KEPT) -> None:
        """Start empty.

        Args:
            kept: How many models stay loaded.
        """
        self._models: collections.OrderedDict[str, TransformerBridge] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._kept = kept

    def find(self, name: str) -> TransformerBridge | None:
        """The model of this name, if it is loaded; it becomes the most recently used."""
        with self._lock:
            if name in self._models:
                self._models.move_to_end(name)
            return self._models.get(name)

    def put(self, name: str, model: TransformerBridge) -> None:
        """Keep a model, and let go of the least recently used one if there are too many."""
        with self._lock:
            self._models[name] = model
            self._models.move_to_end(name)
            while len(self._models) > self._kept:
                self._models.popitem(last=False)

    def open(self, name: str, report: jobs.Report) -> TransformerBridge:
        """The model of this name, loaded if it is not; safe to call from any thread.

        Args:
            name: Bundled name, folder or hub name.
            report: Told what is being done.

        Returns:
            The model.

        Raises:
            ValueError: If it cannot be opened.
        """
        found = self.find(name)
        if found is None:
            report(0.1, "starting torch and TransformerLens")
            from workbench.core.models import sources

            report(0.5, "reading the weights")
            found = sources.load_model(name)
            self.put(name, found)
        return found


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The one shelf of this server."""
    return Shelf()


def pick() -> str | None:
    """Draw the model picker.

    Returns:
        The name that was picked, or None where it must first be opened by hand or is empty.
    """
    bundled = card.list_models()
    asked = st.query_params.get("model", "")
    others = [asked] if asked and asked not in bundled else []
    name = st.selectbox(
        "Model",
        [*bundled, *others],
        key="model",
        bind="query-params",
        accept_new_options=True,
        on_change=_allow,
        help="A bundled model, a Hugging Face folder on this machine, or a hub name: type it in.",
    )
    if not name:
        st.info("Pick a model, or type the folder or hub name of your own.")
        return None
    if name in bundled or name in st.session_state.get(_ALLOWED, ()) or is_own(name):
        return name
    st.warning(
        f"This link asks for {escaping.markdown(name)}, which did not come with the workbench. "
        "Opening it reads that folder of this machine, or downloads it from the hub."
    )
    if st.button("Open it"):
        _remember(name)
        st.rerun()
    return None


def is_own(name: str) -> bool:
    """Whether a name is a folder that the app itself wrote, as a checkpoint of a stored training.

    Args:
        name: Bundled name, folder or hub name.

    Returns:
        True only where the folder, with all links followed, lies among the stored trainings.
    """
    if not Path(name).is_dir():
        return False
    # Brings torch, which a page that opens a bundled model starts in the background.
    from workbench.core.modular import run

    try:
        root = run.trainings_root().resolve(strict=True)
        inside = Path(name).resolve(strict=True).relative_to(root)
    except (OSError, ValueError):
        return False
    return len(inside.parts) == _DEPTH and inside.parts[1] == "models"


def loaded(name: str) -> TransformerBridge | None:
    """The model, or None while it is loading, which is shown.

    Args:
        name: What `pick` returned.

    Returns:
        The loaded model.
    """
    found = shelf().find(name)
    if found is not None:
        return found
    shelves = shelf()
    key = jobs.job_key("load", name)
    finished = jobs.manager().find(key)
    if finished is not None and finished.state == "finished":
        # It was let go of since; load it again.
        jobs.manager().forget(key)
    # What the job returns would be kept with the job; the shelf alone keeps models.
    if steps.step(key, lambda report: bool(shelves.open(name, report)), label=f"Opening {name}"):
        return shelves.find(name)
    return None


def _allow() -> None:
    _remember(st.session_state["model"])


def _remember(name: str | None) -> None:
    st.session_state[_ALLOWED] = {*st.session_state.get(_ALLOWED, ()), name}
