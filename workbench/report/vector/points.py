"""Traces of points: lines, marks and filled areas; and the points of a distribution."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from workbench.report import figures
from workbench.report.vector import beside, style
from workbench.report.vector.page import Page, Panel

# Marks of one trace that stay outlines; more are an image within the graphic.
_MOST_MARKS = 5_000
_FEWEST_POINTS_WITHOUT_MARKERS = 20
_STEPS = {"hv": "steps-post", "vh": "steps-pre", "hvh": "steps-mid"}


def scatter(page: Page, panel: Panel, trace: dict[str, Any], colour: str) -> Any:
    """Draw points, the line through them and the area that they bound.

    Args:
        page: The figure.
        panel: The axes.
        trace: The trace.
        colour: The trace's, where it says none.

    Returns:
        What the legend shows.
    """
    from matplotlib import lines

    ax = panel.ax
    ends = x, y = panel.points(trace)
    line, marker = figures.mapping(trace.get("line")), figures.mapping(trace.get("marker"))
    mode = figures.word(trace.get("mode")) or _usual_mode(len(x))
    own = style.first_colour(line.get("color"), marker.get("color"), colour)
    _fill(panel, trace, ends, own)
    width = style.width(line, 2.0)
    handle: Any = None
    if "lines" in mode and width > 0:
        (handle,) = ax.plot(
            x,
            y,
            color=own,
            linewidth=width,
            linestyle=style.dash(line),
            alpha=style.opacity(trace),
            drawstyle=_STEPS.get(str(line.get("shape")), "default"),
            solid_joinstyle="round",
        )
    invisible = marker.get("opacity") == 0
    if "markers" in mode and not invisible:
        shown = style.first_colour(marker.get("color"), line.get("color"), colour)
        _marks(page, panel, trace, ends=ends, colour=shown)
        if handle is None:
            name, hollow = style.symbol(marker)
            handle = lines.Line2D([], [], linestyle="", marker=name, color=shown)
            handle.set_fillstyle("none" if hollow else "full")
    elif not invisible:
        # Of axes without marks: their range is that of the points, drawn or not.
        ax.update_datalim(np.column_stack([x, y])[np.isfinite(x) & np.isfinite(y)])
    for letter in "xy":
        beside.error_bars(panel, trace, letter, ends=ends, colour=own)
    if "text" in mode:
        beside.texts(panel, trace, ends=ends)
    return handle


def _usual_mode(count: int) -> str:
    return "lines+markers" if count < _FEWEST_POINTS_WITHOUT_MARKERS else "lines"


def _marks(
    page: Page,
    panel: Panel,
    trace: figures.Json,
    *,
    ends: tuple[np.ndarray, np.ndarray],
    colour: style.Colour,
) -> None:
    marker = figures.mapping(trace.get("marker"))
    symbol, hollow = style.symbol(marker)
    size = marker.get("size", 6)
    sizes = (
        np.array([figures.number(one, 6) for one in size])
        if isinstance(size, list)
        else figures.number(size, 6)
    )
    edge = figures.mapping(marker.get("line"))
    thin = symbol in "|_"
    looks: dict[str, Any] = {
        "marker": symbol,
        "s": (np.clip(sizes, 0.5, 60) * style.POINT) ** 2,
        "alpha": style.opacity(trace, marker),
        "linewidths": max(style.width(edge, 0.0), 1.2 if thin else 0.0),
        "zorder": 3,
    }
    listed, scale = beside.mark_colours(page, marker, colour)
    colours = np.array(listed)
    if thin:
        looks |= {"color": colours}
    elif hollow:
        looks |= {"facecolors": "none", "edgecolors": colours, "linewidths": 1.2}
    else:
        edged = style.width(edge, 0.0) > 0
        around = style.colour(edge.get("color"), "#ffffff") if edged else colours
        looks |= {"facecolors": colours, "edgecolors": around}
    drawn = panel.ax.scatter(*ends, **looks)
    drawn.set_rasterized(len(ends[0]) > _MOST_MARKS)
    panel.ax.margins(0.06)
    if scale is not None:
        shared = marker.get("coloraxis")
        named = isinstance(shared, str)
        owner = figures.mapping(page.layout.get(shared)) if named else marker
        asked = marker.get("showscale", "colorbar" in owner)
        page.colour_bar(owner, scale, shown=bool(asked), shared=shared if named else None)


def _fill(
    panel: Panel, trace: dict[str, Any], ends: tuple[np.ndarray, np.ndarray], own: style.Colour
) -> None:
    kind = figures.word(trace.get("fill"))
    x, y = ends
    looks: dict[str, Any] = {
        "facecolor": style.colour(trace.get("fillcolor"), (*own[:3], 0.5)),
        "edgecolor": "none",
        "linewidth": 0,
    }
    if kind == "toself":
        gaps = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
        for across, up in zip(np.split(x, gaps), np.split(y, gaps), strict=True):
            _fill_outline(panel, across, up, looks=looks)
    elif kind == "tozeroy":
        panel.ax.fill_between(x, y, 0, **looks)
    elif kind == "tozerox":
        panel.ax.fill_betweenx(y, x, 0, **looks)
    elif kind in {"tonexty", "tonextx"}:
        before = panel.traces[: panel.traces.index(trace)]
        if before:
            other_x, other_y = panel.points(before[-1])
            across, up = np.concatenate([x, other_x[::-1]]), np.concatenate([y, other_y[::-1]])
            _fill_outline(panel, across, up, looks=looks)


def _fill_outline(
    panel: Panel, across: np.ndarray, up: np.ndarray, *, looks: dict[str, Any]
) -> None:
    known = np.isfinite(across) & np.isfinite(up)
    if known.sum() > 2:  # noqa: PLR2004 - fewer corners have no area
        panel.ax.fill(across[known], up[known], **looks)


def violin(_page: Page, panel: Panel, trace: dict[str, Any], colour: str) -> Any:
    """Draw distributions: their outlines, and each number as a point.

    Args:
        panel: The axes.
        trace: The trace.
        colour: The trace's, where it says none.

    Returns:
        What the legend shows.
    """
    flat = trace.get("orientation") == "h"
    measured, placed = (panel.across, panel.up) if flat else (panel.up, panel.across)
    numbers = measured.numbers(figures.values(trace.get("x" if flat else "y")))
    named = figures.values(trace.get("y" if flat else "x"))
    places = placed.numbers(named) if named else np.zeros(len(numbers))
    shade = style.colour(figures.mapping(trace.get("line")).get("color"), colour)
    # Of the jitter only: it moves no number.
    generator = np.random.default_rng(0)
    handle: Any = None
    for place in np.unique(places[np.isfinite(places)]):
        here = numbers[(places == place) & np.isfinite(numbers)]
        if here.size > 1 and np.ptp(here) > 0:
            drawn = panel.ax.violinplot(
                [here], [place], orientation="horizontal" if flat else "vertical",
                widths=0.8, showextrema=False,
            )  # fmt: skip
            for body in cast("Any", drawn["bodies"]):
                body.set(facecolor=(*shade[:3], 0.25), edgecolor=shade, alpha=None)
        jitter = place + generator.uniform(-0.2, 0.2, len(here))
        ends = (here, jitter) if flat else (jitter, here)
        handle = panel.ax.scatter(*ends, s=5, color=[shade], linewidths=0)
    return handle
