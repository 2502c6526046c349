"""Traces of bars: bars, histograms and waterfalls, upright or flat."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from workbench.core import plots
from workbench.report import figures
from workbench.report.vector import beside, style
from workbench.report.vector.page import Page, Panel

_MOST_BINS = 10_000
# Bins that the figure only counts, or that nobody asked for.
_MOST_COUNTED_BINS = 500
_FEWEST_USUAL_BINS, _MOST_USUAL_BINS = 5, 60
# Of their steps, so that neighbours are told apart.
_WIDTH_OF_BINS = 0.97


def bars(page: Page, panel: Panel, trace: dict[str, Any], colour: str) -> Any:
    """Draw bars with their errors and words.

    Args:
        page: The figure.
        panel: The axes.
        trace: The trace.
        colour: The trace's, where it says none.

    Returns:
        What the legend shows.
    """
    x, y = panel.points(trace)
    flat = trace.get("orientation") == "h"
    places, lengths = (y, x) if flat else (x, y)
    bases = panel.stacks.bases(places, lengths)
    given = trace.get("base")
    if given is not None:
        listed = given if isinstance(given, list) else [given] * len(places)
        bases = np.array([figures.number(one) for one in listed])
    width, offset = panel.stacks.slot(trace)
    at, tips = places + offset, bases + lengths
    colours, _ = beside.mark_colours(page, figures.mapping(trace.get("marker")), colour)
    looks: dict[str, Any] = {"color": colours, "alpha": style.opacity(trace)}
    if flat:
        drawn = panel.ax.barh(at, lengths, width, left=bases, **looks)
    else:
        drawn = panel.ax.bar(at, lengths, width, bottom=bases, **looks)
    ends = (tips, at) if flat else (at, tips)
    beside.error_bars(panel, trace, "x" if flat else "y", ends=ends, colour=style.TEXT)
    if trace.get("text") is not None:
        inside = figures.word(trace.get("textposition"), "auto") in {"inside", "auto"}
        along = bases + lengths / 2 if inside else tips
        beside.texts(
            panel,
            {**trace, "textposition": "middle center" if inside else "top center"},
            ends=(along, at) if flat else (at, along),
            behind=colours if inside else (),
        )
    return drawn


def histogram(_page: Page, panel: Panel, trace: dict[str, Any], colour: str) -> Any:
    """Count numbers and draw the counts.

    Args:
        panel: The axes.
        trace: The trace.
        colour: The trace's, where it says none.

    Returns:
        What the legend shows.
    """
    flat = not figures.values(trace.get("x"))
    letter, axis = ("y", panel.up) if flat else ("x", panel.across)
    listed = axis.numbers(figures.values(trace.get(letter)))
    known = listed[np.isfinite(listed)]
    counts, edges = np.histogram(known, _edges(trace, letter, known))
    steps = np.diff(edges)
    total = max(counts.sum(), 1)
    norm = figures.word(trace.get("histnorm"))
    heights = counts.astype(np.float64)
    heights *= {"probability": 1 / total, "percent": 100 / total}.get(norm, 1.0)
    if norm in {"density", "probability density"}:
        heights = heights / (steps * (total if norm == "probability density" else 1))
    draw = panel.ax.barh if flat else panel.ax.bar
    return draw(
        edges[:-1],
        heights,
        steps * _WIDTH_OF_BINS,
        color=style.colour(figures.mapping(trace.get("marker")).get("color"), colour),
        align="edge",
        alpha=style.opacity(trace),
    )


def _edges(trace: figures.Json, letter: str, known: np.ndarray) -> Any:
    """Edges of the bins, or how many bins of equal size there are."""
    bins = figures.mapping(trace.get(f"{letter}bins"))
    start, end, size = (figures.number(bins.get(name)) for name in ("start", "end", "size"))
    if np.isfinite([start, end, size]).all() and size > 0 and (end - start) / size < _MOST_BINS:
        return np.arange(start, end + size / 2, size)
    if not known.size:
        return 1
    asked = figures.number(trace.get("nbinsx") or trace.get("nbinsy"))
    if math.isfinite(asked):
        return int(min(max(asked, 1), _MOST_COUNTED_BINS))
    return int(min(max(math.sqrt(known.size), _FEWEST_USUAL_BINS), _MOST_USUAL_BINS))


def waterfall(_page: Page, panel: Panel, trace: dict[str, Any], _colour: str) -> Any:
    """Draw steps, each from where the last one ended.

    Args:
        panel: The axes.
        trace: The trace.

    Returns:
        What the legend shows.
    """
    x, y = panel.points(trace)
    measures = figures.values(trace.get("measure")) or ["relative"] * len(x)
    running, bases, ends, colours = 0.0, list[float](), list[float](), list[style.Colour]()
    for kind, step in zip(measures, np.nan_to_num(y).tolist(), strict=False):
        bases.append(running if kind == "relative" else 0.0)
        if kind in ("relative", "absolute"):  # noqa: PLR6201 - it may be anything, a list too
            running = bases[-1] + step
        ends.append(running)
        side = "totals" if kind != "relative" else "increasing" if step >= 0 else "decreasing"
        found = figures.mapping(figures.mapping(trace.get(side)).get("marker"))
        colours.append(style.colour(found.get("color"), _USUAL[side]))
    width, _ = panel.stacks.slot(trace)
    count = len(bases)
    drawn = panel.ax.bar(
        x[:count], np.subtract(ends, bases), width, bottom=bases, color=colours, zorder=2
    )
    for index in range(count - 1):
        level = [ends[index]] * 2
        panel.ax.plot(x[index : index + 2], level, color=style.GREY, linewidth=0.7, zorder=1.5)
    return drawn


_USUAL = {"totals": style.GREY, "increasing": plots.COLOURS[0], "decreasing": plots.COLOURS[1]}
