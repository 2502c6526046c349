"""Traces, each drawn by a function of its kind.

A function that draws returns what the legend shows of it, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench.core import plots
from workbench.report import figures
from workbench.report.vector import bars, grids, points, style
from workbench.report.vector.page import Page, Panel

_DRAWN: dict[str, Callable[[Page, Panel, dict[str, Any], str], Any]] = {
    "bar": bars.bars,
    "heatmap": grids.heatmap,
    "histogram": bars.histogram,
    "scatter": points.scatter,
    "scattergl": points.scatter,
    "violin": points.violin,
    "waterfall": bars.waterfall,
}
KINDS = frozenset(_DRAWN)


def draw(page: Page, panel: Panel) -> None:
    """Draw the traces of a pair of axes.

    Args:
        page: The figure; what its legend shows is added.
        panel: The pair of axes.
    """
    for trace in panel.traces:
        colour = plots.COLOURS[page.traces.index(trace) % len(plots.COLOURS)]
        handle = _DRAWN[figures.kind(trace)](page, panel, trace, colour)
        name = trace.get("name")
        if handle is not None and name and trace.get("showlegend", True):
            page.handles.append((handle, style.printable(figures.plain_text(name))))
