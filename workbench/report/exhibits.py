"""Figures, tables and numbers of results, in the plain form that a report keeps.

1. A figure is Plotly's own JSON with lists in place of arrays, so that a reader of the JSON sees
   every number that a picture shows.
2. A table keeps the rows that are asked for and says how many more there are.
3. What is not finite is null: JSON has no NaN.
"""

from __future__ import annotations

import base64
import functools
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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
    plain = _plain(drawn.to_plotly_json())
    # Colours and fonts are the report's own, in its light and in its dark form.
    plain.get("layout", {}).pop("template", None)
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
    plain = _plain(value)
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
    low, high = (None, None) if interval is None else (_plain(float(one)) for one in interval)
    return Measured(
        name=name,
        value=_plain(float(value)),
        low=low,
        high=high,
        threshold="" if threshold is None else str(threshold),
        **{key: _plain(one) for key, one in more.items()},
    )


def _plain(value: Any) -> Any:
    """JSON form of what figures and frames hold."""
    if isinstance(value, dict) and {"bdata", "dtype"} <= value.keys():
        value = _unpacked(value)
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.loads(json.dumps(value, default=str))


def _unpacked(packed: dict[str, Any]) -> np.ndarray:
    """An array that plotly packed as base64."""
    flat = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
    shape = packed.get("shape", str(flat.size))
    return flat.reshape([int(length) for length in str(shape).split(",")])
