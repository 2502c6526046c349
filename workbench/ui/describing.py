"""Writing down a description of a unit: which kind it is, and what it says.

The kinds come from the analysis, which reads the text, too; a text that cannot be read is said to
be so below the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import streamlit as st

from workbench.ui import escaping

Described = TypeVar("Described")


def ask(
    kinds: Mapping[str, str], read: Callable[[str, str], Described], *, key: str
) -> tuple[Described, str, str] | None:
    """Draw the choice of a kind and the field for the text.

    Args:
        kinds: Name of each kind, and how it is written.
        read: Makes a description of kind and text; a ValueError is shown.
        key: Name of the fields on their page and in its address.

    Returns:
        The description, its kind and its text; None while there is none.
    """
    left, right = st.columns([1, 3])
    names = list(kinds)
    kind = left.selectbox("It fires at", names, key=f"{key}-kind", bind="query-params") or names[0]
    text = right.text_input(kinds[kind], key=f"{key}-text", bind="query-params").strip()
    if not text:
        return None
    try:
        return read(kind, text), kind, text
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return None
