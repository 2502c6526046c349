"""What stands on many pages in the same way: figures, and the code that reproduces them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import streamlit as st

from workbench.ui import charts

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure(
    made: go.Figure,
    *,
    key: str | None = None,
    on_click: Callable[[], None] | Literal["rerun"] | None = None,
) -> None:
    """Draw a figure in the colours of the page.

    Args:
        made: Any figure of a result.
        key: Name of the element on its page, where it is drawn again and again. What is clicked
            stands in the session's state by this name.
        on_click: Makes points clickable: what happens before the page is drawn again, if anything.
    """
    sent = charts.ready(made, st.context.theme.type, clickable=on_click is not None)
    if on_click is None:
        st.plotly_chart(sent, theme=None, key=key)
        return
    st.plotly_chart(
        sent,
        key=key,
        on_select=on_click,
        selection_mode="points",
        theme=None,
        config={"displayModeBar": False, "scrollZoom": False},
    )


def fold(label: str, draw: Callable[[], object]) -> None:
    """Keep something folded; only once it is unfolded does it cost the page and the browser time.

    Args:
        label: What is in there, in a few words.
        draw: Draws what is in there. Nothing in there is asked of the user: that would be forgotten
            when it is folded again.
    """
    place = st.expander(label, key=f"fold:{label}", on_change="rerun")
    if place.open:
        with place:
            draw()


def section(sections: Sequence[str]) -> str:
    """Draw the choice of what a page looks at; it stands in the address.

    Args:
        sections: Their names; the first is looked at to begin with.

    Returns:
        One of them.
    """
    chosen = st.segmented_control(
        "Look at",
        sections,
        default=sections[0],
        key="section",
        required=True,
        label_visibility="collapsed",
        bind="query-params",
    )
    return chosen or sections[0]


def code(lines: Sequence[str]) -> None:
    """End a page with the script that computes what it shows.

    Args:
        lines: Of the script.
    """
    st.subheader("The code that reproduces it")
    st.code("\n".join(lines) + "\n", language="python")
