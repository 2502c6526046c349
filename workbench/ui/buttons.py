"""Buttons whose clicks are not lost.

Streamlit tells a click to the next run of the page and to no other. Whatever a visitor does before
that run has come to the button stops it and begins a new one, in which nothing is clicked any more.
So what a click sets off happens before the page is drawn (`on_click`), or is noted there until the
page comes to it (`pressed`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

_NOTED = "buttons that were pressed"


def pressed(draw: Callable[..., Any], label: str, **settings: Any) -> bool:
    """Draw a button, and tell once that it was pressed.

    Args:
        draw: Draws it: `st.button`, `st.form_submit_button`, or that of a place on the page.
        label: What it says; no other button of the page says the same.
        **settings: What else `draw` takes.

    Returns:
        Whether it was.
    """
    draw(label, on_click=_note, args=(label,), **settings)
    noted = st.session_state.get(_NOTED, frozenset())
    if label not in noted:
        return False
    st.session_state[_NOTED] = noted - {label}
    return True


def _note(label: str) -> None:
    st.session_state[_NOTED] = st.session_state.get(_NOTED, frozenset()) | {label}


def forget() -> None:
    """Drop what was pressed on a page that was left before it came to its button."""
    st.session_state.pop(_NOTED, None)
