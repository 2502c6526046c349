"""Addresses that somebody else has written: what a widget cannot hold is taken out of them.

Streamlit reads a bound widget's value out of the address by itself, and keeps the address that a
session began with. Of a whole number that is infinite it makes an error instead of leaving it out.
"""

from __future__ import annotations

import math
from typing import Literal

import streamlit as st

_UNUSABLE = "parameters of the address that no widget can hold"


def whole_number(name: str) -> Literal["query-params"] | None:
    """How the widget of a whole number is bound to the address.

    Args:
        name: The parameter, which is the widget's key, too.

    Returns:
        What the widget takes as `bind`: nothing in a session that began with an address in which
        this number is not finite; it is taken out of the address then.
    """
    unusable: set[str] = st.session_state.setdefault(_UNUSABLE, set())
    try:
        finite = math.isfinite(float(st.query_params.get(name, "0")))
    except ValueError:
        # No number at all: Streamlit leaves that out.
        finite = True
    if not finite:
        unusable.add(name)
        del st.query_params[name]
    return None if name in unusable else "query-params"
