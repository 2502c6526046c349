"""What stands on many pages in the same way: figures, and the code that reproduces them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from workbench.core import plots

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figure(made: go.Figure, *, key: str | None = None) -> None:
    """Draw a figure in the colours of the page.

    Args:
        made: Any figure of a result.
        key: Name of the element on its page, where it is drawn again and again.
    """
    st.plotly_chart(plots.on_page(made, st.context.theme.type), theme=None, key=key)


def code(lines: Sequence[str]) -> None:
    """End a page with the script that computes what it shows.

    Args:
        lines: Of the script.
    """
    st.subheader("The code that reproduces it")
    st.code("\n".join(lines) + "\n", language="python")
