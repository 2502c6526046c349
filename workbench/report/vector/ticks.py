"""The look of one axis: its range, grid, ticks, their words and its title.

Ticks are those that the figure names; where it names none, they are round numbers, or powers of ten
on a logarithmic axis. Labels that would run into one another are turned.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.report import figures
from workbench.report.vector import style
from workbench.report.vector.page import Panel

if TYPE_CHECKING:
    from matplotlib.axis import Axis as DrawnAxis

    from workbench.report.vector.scales import Axis

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Powers of ten that are written out.
_SHORT_POWERS = range(4)
_NUMBER_FORMAT = re.compile(r"^(,?)\.(\d)([%fge]?)$")
_MOST_TICKS = 100
_USUAL_TICKS = 7
# Between labels and lines of labels: their width and height, as shares of the size of text.
_LETTER = 0.62
_LINE = 2


def dress(panel: Panel, letter: str) -> None:
    """Give an axis its range, grid, ticks and title.

    Args:
        panel: The pair of axes.
        letter: Which of the two: "x" or "y".
    """
    axis, ax = (panel.across if letter == "x" else panel.up), panel.ax
    own = ax.xaxis if letter == "x" else ax.yaxis
    found = axis.found
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_axisbelow(True)
    _limit(panel, letter, axis)
    if found.get("visible") is False:
        own.set_visible(False)
        return
    own.set_tick_params(which="both", length=0)
    if found.get("showgrid", True) and not found.get("overlaying"):
        own.grid(visible=True, color=style.GRID, linewidth=0.8)
    if found.get("zeroline") and not axis.logarithmic:
        draw_line = ax.axvline if letter == "x" else ax.axhline
        draw_line(0, color=style.GREY, linewidth=0.9, zorder=0.9)
    texts = _texts(axis)
    _place_ticks(own, axis, texts, limits=panel.limits(letter))
    size = style.text_size(found.get("tickfont"), style.SIZE - 1, most=14)
    own.set_tick_params(labelsize=size)
    if letter == "x":
        _turn(panel, axis, texts)
    if found.get("showticklabels") is False:
        own.set_ticklabels([])
    side: Any = figures.word(found.get("side"))
    if side in {"top", "right"}:
        own.set_ticks_position(side)
        own.set_label_position(side)
    own.set_label_text(style.printable(figures.title(found)))


def _limit(panel: Panel, letter: str, axis: Axis) -> None:
    found = axis.found
    low, high = panel.limits(letter)
    if not axis.logarithmic and found.get("rangemode") == "tozero":
        low, high = min(low, 0.0), max(high, 0.0)
    given = [figures.number(one) for one in figures.values(found.get("range"))]
    if len(given) == 2 and np.isfinite(given).all() and given[0] != given[1]:  # noqa: PLR2004 - two ends
        low, high = (10.0**one for one in given) if axis.logarithmic else given
    if str(found.get("autorange", "")).endswith("reversed"):
        low, high = max(low, high), min(low, high)
    panel.limit(letter, low, high)


def _texts(axis: Axis) -> Mapping[Any, str]:
    """Words in place of numbers: those that the axis names, or else its names."""
    named = {at: figures.plain_text(name) for name, at in (axis.names or {}).items()}
    return figures.tick_texts(axis.found) or named


def _place_ticks(
    own: DrawnAxis, axis: Axis, texts: Mapping[Any, str], *, limits: tuple[float, float]
) -> None:
    from matplotlib import ticker

    found = axis.found
    low, high = min(limits), max(limits)
    if texts:
        kept = {axis.place(place): text for place, text in texts.items()}
        kept = {at: text for at, text in kept.items() if low - 0.5 <= at <= high + 0.5}
        own.set_major_locator(ticker.FixedLocator(list(kept)))
        own.set_major_formatter(ticker.FixedFormatter(list(map(style.printable, kept.values()))))
        own.set_minor_locator(ticker.NullLocator())
    elif axis.logarithmic:
        decades = math.log10(high / low)
        steps = (1.0,) if decades >= 2 else (1.0, 2.0, 5.0)  # noqa: PLR2004 - two decades
        own.set_major_locator(ticker.LogLocator(subs=steps, numticks=9))
        own.set_major_formatter(ticker.FuncFormatter(_logarithmic))
        own.set_minor_locator(ticker.NullLocator())
    else:
        step, count = figures.number(found.get("dtick")), figures.number(found.get("nticks"))
        if step > 0 and (high - low) / step <= _MOST_TICKS:
            start = figures.number(found.get("tick0"), 0)
            own.set_major_locator(ticker.MultipleLocator(step, start))
        else:
            most = int(min(count, _MOST_TICKS)) if count > 1 else _USUAL_TICKS
            own.set_major_locator(ticker.MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
        own.set_major_formatter(ticker.FuncFormatter(_number_format(found.get("tickformat"))))


def _turn(panel: Panel, axis: Axis, texts: Mapping[Any, str]) -> None:
    """Turn labels that would run into one another."""
    angle = figures.number(axis.found.get("tickangle"))
    if math.isnan(angle):
        start, end = axis.domain
        room = (end - start) * style.WIDTH * 0.85
        widest = max((len(line) for one in texts.values() for line in one.split("\n")), default=0)
        many = len(texts)
        angle = 0.0
        if many and widest * many * style.SIZE * _LETTER > room:
            angle = -90.0 if many * style.SIZE * _LINE > room else -40.0
    if angle:
        upright = abs(angle) > 60  # noqa: PLR2004 - degrees
        panel.ax.tick_params(axis="x", rotation=-angle, rotation_mode="anchor")
        for label in panel.ax.get_xticklabels():
            label.set_horizontalalignment("right" if angle < 0 else "left")
            label.set_verticalalignment("center" if upright else "top")


def _logarithmic(value: float | int, _position: int | None = None) -> str:
    exponent = math.log10(value) if value > 0 else math.nan
    is_power = math.isfinite(exponent) and math.isclose(exponent, round(exponent), abs_tol=1e-9)
    if is_power and round(exponent) not in _SHORT_POWERS:
        return "10" + str(round(exponent)).translate(_SUPERSCRIPTS)
    return f"{value:g}"


def _number_format(given: object) -> Callable[..., str]:
    found = _NUMBER_FORMAT.match(figures.word(given))
    pattern = f"{{:{found[1]}.{found[2]}{found[3] or 'g'}}}" if found else "{:,.6g}"
    return lambda value, _position=None: pattern.format(value).replace("-", "−")
