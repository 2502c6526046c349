"""Traces of cells: heat maps, with words in their cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.report import figures
from workbench.report.vector import style
from workbench.report.vector.page import CannotDraw, Page, Panel
from workbench.report.vector.scales import Axis, Colours

# Cells that stay outlines; more of equal size are an image within the graphic.
_MOST_CELLS = 600


def heatmap(page: Page, panel: Panel, trace: dict[str, Any], _colour: str) -> None:
    """Draw a heat map.

    Args:
        page: The figure.
        panel: The axes.
        trace: The trace.
    """
    z = _cells(trace.get("z"))
    x = _edges(panel.across, figures.values(trace.get("x")), z.shape[1])
    y = _edges(panel.up, figures.values(trace.get("y")), z.shape[0])
    scale = Colours.of(page.layout, trace, numbers=z, letter="z")
    looks: dict[str, Any] = {
        "cmap": scale.map,
        "norm": scale.norm,
        "alpha": style.opacity(trace),
    }
    shown = np.ma.masked_invalid(z)
    if z.size > _MOST_CELLS and _are_even(x) and _are_even(y):
        looks |= {"origin": "lower", "aspect": "auto", "interpolation": "none"}
        panel.ax.imshow(shown, extent=(x[0], x[-1], y[0], y[-1]), **looks)
    else:
        gap = max(figures.number(trace.get("xgap"), 0), 0.0)
        looks |= {"edgecolors": "#ffffff" if gap else "face"}
        panel.ax.pcolormesh(x, y, shown, linewidth=gap * style.POINT if gap else 0.2, **looks)
    if trace.get("texttemplate"):
        _words(panel, trace, z, scale=scale, edges=(x, y))
    shared = trace.get("coloraxis")
    named = isinstance(shared, str)
    owner = figures.mapping(page.layout.get(shared)) if named else trace
    asked = owner.get("showscale", trace.get("showscale", True))
    page.colour_bar(owner, scale, shown=bool(asked), shared=shared if named else None)


def _cells(given: object) -> np.ndarray:
    rows = [figures.values(line) for line in figures.values(given)]
    longest = max(map(len, rows), default=0)
    if not longest:
        raise CannotDraw("a heat map without cells is not drawn")
    return np.array(
        [[figures.number(one) for one in row] + [math.nan] * (longest - len(row)) for row in rows]
    )


def _edges(axis: Axis, listed: Sequence[Any], count: int) -> np.ndarray:
    """Edges of the cells from their centres, or the edges that the figure gives."""
    if not listed:
        return np.arange(count + 1) - 0.5
    given = axis.numbers(listed)
    if len(given) == count + 1:
        return given
    if len(given) != count:
        raise CannotDraw(
            f"a heat map of {count} cells along an axis has {count} or {count + 1} places there, "
            f"not {len(given)}"
        )
    if count == 1:
        return np.array([given[0] - 0.5, given[0] + 0.5])
    between = (given[1:] + given[:-1]) / 2
    return np.concatenate([[2 * given[0] - between[0]], between, [2 * given[-1] - between[-1]]])


def _are_even(edges: np.ndarray) -> bool:
    return np.allclose(np.diff(edges), edges[1] - edges[0])


def _words(
    panel: Panel,
    trace: figures.Json,
    z: np.ndarray,
    *,
    scale: Colours,
    edges: tuple[np.ndarray, np.ndarray],
) -> None:
    """Write in the cells, in a colour that is read on theirs."""
    across, up = ((one[1:] + one[:-1]) / 2 for one in edges)
    for row, line in enumerate(figures.values(trace.get("text"))[: z.shape[0]]):
        for column, one in enumerate(figures.values(line)[: z.shape[1]]):
            if one is None or one == "":
                continue
            shade = scale.shades(z[row : row + 1, column])[0]
            light = math.isnan(z[row, column]) or style.is_light(shade.tolist())
            panel.ax.text(
                across[column],
                up[row],
                style.printable(figures.plain_text(one)),
                ha="center",
                va="center",
                fontsize=(style.SIZE - 2) * style.POINT,
                color=style.TEXT if light else style.TEXT_ON_DARK,
            )
