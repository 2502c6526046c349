"""Figures, tables and numbers of results, in the plain form that a report keeps.

1. A figure is Plotly's own JSON with lists in place of arrays, so that a reader of the JSON sees
   every number that a picture shows.
2. A table keeps the rows that are asked for and says how many more there are.
3. What is not finite is null: JSON has no NaN.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core import plots
from workbench.report.document import Cell, Exhibit, Measured, Table
from workbench.report.spec import Threshold

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# Rows of a table in a report.
ROWS = 20
# Packages that a page is drawn with.
_DRAWN_WITH = ("plotly", "matplotlib", "jinja2")


@functools.cache
def drawn_with() -> dict[str, str]:
    """Versions of the packages that a page is drawn with: others may draw it another way."""
    return {name: importlib.metadata.version(name) for name in _DRAWN_WITH}


def figure(drawn: go.Figure, caption: str) -> Exhibit:
    """Keep a figure.

    Args:
        drawn: The figure.
        caption: What one sees, in a sentence.

    Returns:
        The exhibit.
    """
    plain = plots.spec(drawn)
    # Colours and fonts are the report's own, in its light and in its dark form.
    plain["layout"].pop("template", None)
    return Exhibit(caption=caption, figure=plain)


def table(
    frame: pd.DataFrame,
    caption: str,
    *,
    columns: Mapping[str, str] | None = None,
    rows: int = ROWS,
) -> Exhibit:
    """Keep the first rows of a table.

    Args:
        frame: The table, its most important rows first.
        caption: What it lists, in a sentence.
        columns: Those that are kept, with their titles; all that there are if none is named. A
            page is nine columns wide or so.
        rows: How many are kept.

    Returns:
        The exhibit.
    """
    shown = frame.head(rows)
    titles = {str(name): str(name) for name in frame.columns} if columns is None else dict(columns)
    cells = zip(*(map(cell, shown[name].tolist()) for name in titles), strict=True)
    kept = Table(
        columns=tuple(titles.values()),
        rows=tuple(cells),
        left_out=len(frame) - len(shown),
    )
    return Exhibit(caption=caption, table=kept)


def cell(value: Any) -> Cell:
    """A value as a cell of a table.

    Args:
        value: Any value of a frame.

    Returns:
        A number, a text, True or False; None for what is not known.
    """
    plain = plots.plain(value)
    return plain if isinstance(plain, (str, int, float, bool)) or plain is None else str(plain)


def measured(
    name: str,
    value: float | int,
    *,
    interval: Sequence[float | int] | np.ndarray | None = None,
    threshold: Threshold | None = None,
    **more: Any,
) -> Measured:
    """Keep a number with what says how sure it is.

    Args:
        name: What was measured.
        value: The number.
        interval: Its bounds.
        threshold: Where it passes and fails.
        **more: Further fields of `Measured`; what is not finite is left out.

    Returns:
        The number.
    """
    low, high = (None, None) if interval is None else (plots.plain(float(one)) for one in interval)
    return Measured(
        name=name,
        value=plots.plain(float(value)),
        low=low,
        high=high,
        threshold="" if threshold is None else str(threshold),
        **{key: plots.plain(one) for key, one in more.items()},
    )
