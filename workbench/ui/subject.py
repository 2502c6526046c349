"""The subject: picking a model, and having it loaded.

The pick stands in the address as `?model=`, and is the pick of every page that the reader visits
afterwards; an address that names another one wins. A bundled name is opened at once, and so is a
checkpoint that the app itself wrote among its trainings, and what a script shows; another folder or
a hub name that came with a link is opened only after a click, because opening it reads a folder of
the reader's machine or asks the hub. Loaded models stand on the server's one shelf (`shelf`).
Networks that are no transformers are picked in the same way, as `?network=`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.core import files
from workbench.core.models import card, sources
from workbench.ui import escaping, jobs, shown, steps
from workbench.ui.shelf import shelf

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator
    from transformer_lens.model_bridge import TransformerBridge

# A training's name, "models", and the checkpoint.
_DEPTH = 3
_ALLOWED = "models opened by hand"


def pick() -> str | None:
    """Draw the model picker.

    Returns:
        The name that was picked, or None where it must first be opened by hand or is empty.
    """
    exhibit = shown.current()
    at_hand = [*([exhibit.name] if exhibit else []), *card.list_models()]
    start = _arrive("model", at_hand[0])
    others: list[str] = [start] if start and start not in at_hand else []
    name: str | None = st.selectbox(
        "Model",
        [*at_hand, *others],
        key="model",
        accept_new_options=True,
        on_change=_allow,
        help="A bundled model, a folder on this machine (of Hugging Face or TransformerLens), or a "
        "hub name: type it in.",
    )
    _carry("model", name)
    if not name:
        st.info("Pick a model, or type the folder or hub name of your own.")
        return None
    if name in at_hand or name in st.session_state.get(_ALLOWED, ()) or is_own(name):
        return name
    if name.startswith(sources.SHOWN):
        st.warning(escaping.markdown(f"{sources.gone(name)}."))
        return None
    st.warning(
        f"This link asks for {escaping.markdown(name)}, which did not come with the workbench. "
        "Opening it reads that folder of this machine, or downloads it from the hub."
    )
    st.button("Open it", on_click=_remember, args=(name,))
    return None


def pick_network(names: Sequence[str], place: DeltaGenerator | None = None) -> str:
    """Draw the picker of a network that is no transformer.

    Args:
        names: Those that there are.
        place: Where to draw it; below what was drawn before if none is given.

    Returns:
        One of them.
    """
    start = _arrive("network", names[0])
    if start not in names:
        st.warning(
            escaping.markdown(f"There is no network {start!r}; this page shows {names[0]} instead.")
        )
        st.session_state["network"] = names[0]
    model = st.session_state.get(_carried("model"))
    name = (place or st).selectbox(
        "Network",
        names,
        key="network",
        help=None
        if not model
        else f"This page is about networks that are no language models; {escaping.markdown(model)} "
        "stays picked on the others.",
    )
    _carry("network", name)
    return name


def _carried(name: str) -> str:
    """Where the session keeps what a picker has written into the address last."""
    return f"carried {name}"


def _arrive(name: str, otherwise: str) -> str | None:
    """Put into a picker what it is to show: the address's pick if it is new, else the reader's.

    A widget that is bound to the address would leave out its first option, and would be reset on
    the next page.
    """
    asked, written = st.query_params.get(name, ""), st.session_state.get(_carried(name), "")
    if asked and asked != written:
        start = asked
    elif name in st.session_state:
        start = st.session_state[name]
    else:
        start = written or otherwise
    st.session_state[name] = start
    return start


def _carry(name: str, value: str | None) -> None:
    """Write a pick into the address, and keep it for the next page."""
    st.session_state[_carried(name)] = value or ""
    if value:
        if st.query_params.get(name) != value:
            st.query_params[name] = value
    else:
        st.query_params.pop(name, None)


def is_own(name: str) -> bool:
    """Whether a name is a folder that the app itself wrote, as a checkpoint of a stored training.

    Args:
        name: Bundled name, folder or hub name.

    Returns:
        True only where the folder, with all links followed, lies among the stored trainings.
    """
    if files.folder_of(name) is None:
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
