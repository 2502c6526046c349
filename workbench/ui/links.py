"""Links from a picture to the next question: the page of a unit, and the same prompt elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import streamlit as st

from workbench.ui import escaping, prompts

_PAGES = Path(__file__).resolve().parents[2] / "pages"
# Pages that look at one prompt, by file, with what stands on the link.
ON_A_PROMPT = {
    "inspector": "Overview",
    "logit_lens": "Logit lens",
    "direct_attribution": "Direct attribution",
    "attention": "Attention",
    "contributions": "Contributions",
    "activations": "Activations",
}


def unit(model: str, name: str, *, label: str | None = None, section: str | None = None) -> None:
    """Link to everything that is known of a unit.

    Args:
        model: Name of the model.
        name: Of the unit, as in "neuron 2.13" or "head 1.3".
        label: What stands on the link; the unit's name if it is not given.
        section: Which part of its page to open.
    """
    address = {"model": model, "unit": name} | ({"section": section} if section else {})
    shown = f"**{name}**: all of it" if label is None else escaping.markdown(label)
    st.page_link(_PAGES / "unit.py", label=shown, query_params=address)


def units(model: str, names: Iterable[str | None]) -> None:
    """Link to several units in a row, none twice; nothing is drawn for what is no unit."""
    found = dict.fromkeys(name for name in names if name is not None)
    if found:
        with st.container(horizontal=True):
            for name in found:
                unit(model, name, label=name)


def same_prompt(model: str, current: str, **changed: str) -> None:
    """Link to the other pages that look at one prompt.

    Args:
        model: Name of the model.
        current: Which of `ON_A_PROMPT` this page is; it is left out.
        **changed: What the linked pages are to be opened with besides what the address says.
    """
    asked = {name: st.query_params[name] for name in prompts.ASKED if name in st.query_params}
    with st.container(horizontal=True):
        st.caption("The same prompt in")
        for stem, title in ON_A_PROMPT.items():
            if stem != current:
                address = {"model": model, **asked, **changed}
                st.page_link(_PAGES / f"{stem}.py", label=title, query_params=address)
