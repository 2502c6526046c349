"""Addresses that somebody else has written: what they ask for in vain is said, and breaks nothing.

A list or a number that stands in the address goes by `pick` or `number`. What the address names
there may be gone, or belong to another model: then the page shows something else, and says so until
the reader chooses.

Streamlit reads a bound widget's value out of the address by itself, and keeps the address that a
session began with. Of a whole number that is infinite it makes an error instead of leaving it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from workbench.core import reading
from workbench.ui import escaping

Option = TypeVar("Option")

_UNUSABLE = "parameters of the address that no widget can hold"
_KEPT = "parameters of the address that name what is not there"
_PAGE = "page that they belong to"


def pick(
    label: str,
    options: Sequence[Option],
    *,
    query: str,
    key: str | None = None,
    begin: Option | None = None,
    place: DeltaGenerator | None = None,
    why: Callable[[str], str] | None = None,
    **settings: Any,
) -> Option:
    """Draw a list to choose from that stands in the address.

    Args:
        label: What is chosen.
        options: What there is; in the address each is what `str` makes of it.
        query: Name of the parameter.
        key: Name of the element, where another model has another list. Without it Streamlit itself
            keeps the parameter, so that it is left out where it is the first option.
        begin: What is chosen at first; the first option unless given.
        place: Where it is drawn.
        why: Says why a name is asked for in vain; that it is not there unless given.
        settings: Of `st.selectbox`.

    Returns:
        What was chosen.
    """
    names = [str(option) for option in options]
    linked = st.query_params.get(query, "")
    known = linked in names
    first = 0 if begin is None else options.index(begin)
    if known and key is not None:
        first = names.index(linked)
    drawn: Any = place or st
    bound = {"bind": "query-params"} if key is None else {}
    asked: dict[str, Any] = {"key": key or query, **bound, **settings}
    chosen: Option = drawn.selectbox(label, options, first, **asked)
    if key is not None:
        st.query_params[query] = str(chosen)
    reason = why(linked) if why is not None and linked and not known else "which is not there"
    tell(query, linked, str(chosen), known=known, why=reason)
    return chosen


def number(
    label: str, last: int, *, query: str, key: str, place: DeltaGenerator | None = None
) -> int:
    """Draw the choice of a whole number from 0 on, which stands in the address.

    Args:
        label: What is counted.
        last: The largest one.
        query: Name of the parameter.
        key: Name of the element, another one where there are others to count. What stands in the
            session under it goes before the address.
        place: Where it is drawn.

    Returns:
        What was chosen.
    """
    linked = st.query_params.get(query, "")
    whole = linked.isascii() and linked.isdigit() and len(linked) <= len(str(last))
    known = whole and int(linked) <= last
    st.session_state.setdefault(key, int(linked) if known else 0)
    drawn: Any = place or st
    chosen = int(drawn.number_input(label, 0, last, key=key))
    st.query_params[query] = str(chosen)
    reason = f"which is no whole number from 0 to {last:,}"
    tell(query, linked, str(chosen), known=known, why=reason)
    return chosen


def cell(text: str, shape: tuple[int, int]) -> tuple[int, int] | None:
    """Read `row.column`; whoever made the link may have written anything.

    Args:
        text: What the address says.
        shape: Rows and columns that there are.

    Returns:
        Row and column, or None where there is no such cell.
    """
    row, point, column = text.partition(".")
    if not point or not (row.isascii() and row.isdigit() and column.isascii() and column.isdigit()):
        return None
    if len(text) > len("99999.99999") or int(row) >= shape[0] or int(column) >= shape[1]:
        return None
    return int(row), int(column)


def tell(query: str, asked: str, chosen: str, *, known: bool, why: str) -> None:
    """Say what the address asks for in vain, until something is chosen instead.

    Args:
        query: Name of the parameter.
        asked: What the address said before the page changed it; "" for nothing.
        chosen: What is shown; "" for nothing.
        known: Whether the address asks for something that is there.
        why: What is wrong with it otherwise, as the end of a sentence about it.
    """
    kept: dict[str, dict[str, Any]] = st.session_state.setdefault(_KEPT, {})
    one = kept.setdefault(query, {})
    # What a page wrote there itself is not said: it belongs to the model of before, for instance.
    if asked and not known and asked not in {one.get("written"), one.get("refused")}:
        one |= {"refused": asked, "shown": chosen, "why": why}
    one["written"] = chosen or (asked if known else "")
    if "refused" not in one:
        return
    if one["shown"] != chosen:
        del one["refused"]
        return
    said = f"The address asks for {query} = {reading.quoted(one['refused'])}, {one['why']}"
    shown = f" This is {reading.plain(chosen)}." if chosen else ""
    st.error(escaping.markdown(f"{said.rstrip('.')}.{shown}"))


def turn_to(page: str) -> None:
    """Forget what addresses of another page asked for; the app says so before it draws a page.

    Args:
        page: Name of the page.
    """
    if st.session_state.get(_PAGE) != page:
        st.session_state[_PAGE] = page
        st.session_state.pop(_KEPT, None)


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
