"""What stands beside the marks of a trace: bars of error and words; and the marks' own colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.report import figures
from workbench.report.vector import style
from workbench.report.vector.page import Page, Panel
from workbench.report.vector.scales import Colours

# Points between a place and its words; beside a large mark, from its edge.
_SHIFT = 6
_FROM_EDGE = 3


def mark_colours(
    page: Page, marker: figures.Json, otherwise: object
) -> tuple[list[style.Colour], Colours | None]:
    """Colours of single marks.

    Args:
        page: The figure.
        marker: Plotly's description of the marks.
        otherwise: The colour of a mark that has none.

    Returns:
        One colour, or one for each mark; and the scale, where they are colours of numbers.
    """
    given = marker.get("color")
    if not isinstance(given, list) or not given:
        return [style.colour(given, otherwise)], None
    if not all(isinstance(one, int | float | None) for one in given):
        return [style.colour(one, otherwise) for one in given], None
    numbers = np.array([figures.number(one) for one in given])
    scale = Colours.of(page.layout, marker, numbers=numbers, letter="c")
    return [tuple(one) for one in scale.shades(numbers).tolist()], scale


def error_bars(
    panel: Panel,
    trace: figures.Json,
    letter: str,
    *,
    ends: tuple[np.ndarray, np.ndarray],
    colour: object,
) -> None:
    """Draw the errors of a trace.

    Args:
        panel: Its axes.
        trace: The trace.
        letter: Along which axis.
        ends: Where its marks are, across and up.
        colour: Of bars whose colour the trace does not say.
    """
    found = figures.mapping(trace.get(f"error_{letter}"))
    if found.get("visible") is False or found.get("type", "data") != "data":
        return
    array, minus = (
        np.array([figures.number(one) for one in figures.values(found.get(name))])
        for name in ("array", "arrayminus")
    )
    if not array.size and not minus.size:
        return
    none = np.zeros(len(ends[0]))
    up = array if array.size else none
    down = minus if minus.size else up if found.get("symmetric", True) else none
    reach = np.clip(np.nan_to_num(np.stack([down, up])), 0, None)
    panel.ax.errorbar(
        *ends,
        xerr=reach if letter == "x" else None,
        yerr=reach if letter == "y" else None,
        fmt="none",
        ecolor=style.colour(found.get("color"), colour),
        elinewidth=style.width({"width": found.get("thickness")}, 1.6),
        capsize=3,
        zorder=3.5,
    )


def texts(
    panel: Panel,
    trace: figures.Json,
    *,
    ends: tuple[np.ndarray, np.ndarray],
    behind: Sequence[style.Colour] = (),
) -> None:
    """Write the words of a trace.

    Args:
        panel: Its axes.
        trace: The trace.
        ends: Where its marks are, across and up.
        behind: Colours that the words stand on; none where they stand on the page.
    """
    text = trace.get("text")
    listed = [text] * len(ends[0]) if isinstance(text, str) else figures.values(text)
    places = figures.values(trace.get("textposition")) or [trace.get("textposition")]
    size = figures.number(figures.mapping(trace.get("marker")).get("size"), 0)
    shift = max(_SHIFT, min(size, 60) * style.POINT / 2 + _FROM_EDGE)
    for index, (across, up, one) in enumerate(zip(*ends, listed, strict=False)):
        if not one or not (math.isfinite(across) and math.isfinite(up)):
            continue
        place = figures.word(places[index % len(places)], "middle center")
        vertical, _, horizontal = place.partition(" ")
        dark = bool(behind) and not style.is_light(behind[index % len(behind)])
        looks: dict[str, Any] = {
            "ha": {"left": "right", "right": "left"}.get(horizontal, "center"),
            "va": {"top": "bottom", "bottom": "top"}.get(vertical, "center"),
            "fontsize": style.text_size(trace.get("textfont"), style.SIZE - 1),
            "color": style.TEXT_ON_DARK if dark else style.TEXT,
        }
        panel.ax.annotate(
            style.printable(figures.plain_text(one)),
            (across, up),
            xytext=(
                {"left": -shift, "right": shift}.get(horizontal, 0),
                {"top": shift, "bottom": -shift}.get(vertical, 0),
            ),
            textcoords="offset points",
            zorder=5,
            **looks,
        )
