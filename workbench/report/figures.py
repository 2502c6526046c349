"""What Plotly's JSON says, read without Plotly: its traces, its texts, its numbers as a table.

1. A figure of a report is Plotly's own JSON with plain lists (`exhibits.figure`). Whoever draws it
   without Plotly, or lists its numbers, reads it here.
2. Plotly's text is a small markup: `plain_text` takes the tags away and resolves what is escaped.
3. `table` lists what a figure shows, one row a point, a bar or a cell, so that nobody needs to see
   a picture to read it.

Limits: a trace that only answers the pointer (invisible, or without hover text of its own, such as
a band) is not listed; the report's JSON has it.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.report.document import Cell, Table

# Rows of the table of a figure.
ROWS = 200
# Traces that a page draws: those that need neither a network (maps) nor WebGL.
INTERACTIVE = frozenset(
    {
        "bar",
        "box",
        "contour",
        "heatmap",
        "histogram",
        "histogram2d",
        "image",
        "scatter",
        "scattergl",
        "violin",
        "waterfall",
    }
)
# Traces whose rows are not points of two axes.
_GRIDS = ("heatmap",)
# What is larger is no quantity of a model, and whoever draws it squares it.
_LARGEST = 1e100
_TAG = re.compile(r"</?(?:b|i|u|s|em|strong|sub|sup|span|a|br)\b[^<>]*>", re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)

Json = Mapping[str, Any]


def traces(figure: Json) -> list[dict[str, Any]]:
    """Traces of a figure that are shown.

    Args:
        figure: Plotly's JSON.

    Returns:
        The traces, in the order in which they are drawn.
    """
    found = figure.get("data")
    listed = found if isinstance(found, list) else []
    return [one for one in listed if isinstance(one, dict) and one.get("visible", True) is True]


def kind(trace: Json) -> str:
    """What a trace draws.

    Args:
        trace: The trace.

    Returns:
        Plotly's name; a trace that names none is a "scatter".
    """
    return str(trace.get("type") or "scatter")


def layout(figure: Json) -> dict[str, Any]:
    """Layout of a figure.

    Args:
        figure: Plotly's JSON.

    Returns:
        The layout; empty where there is none.
    """
    return mapping(figure.get("layout"))


def mapping(value: object) -> dict[str, Any]:
    """A part of a figure that ought to have names.

    Args:
        value: The part.

    Returns:
        The part, or nothing where it is something else.
    """
    return dict(value) if isinstance(value, Mapping) else {}


def values(value: object) -> list[Any]:
    """A part of a figure that ought to be a list.

    Args:
        value: The part.

    Returns:
        The list; empty where it is something else.
    """
    return list(value) if isinstance(value, list | tuple) else []


def number(value: object, otherwise: float | int = math.nan) -> float:
    """A part of a figure that ought to be a number.

    Args:
        value: The part.
        otherwise: What stands for anything else.

    Returns:
        The number; a string of digits is one too, and one too large to reckon with is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float(otherwise)
    try:
        found = float(value)
    except (OverflowError, ValueError):
        return float(otherwise)
    return found if abs(found) <= _LARGEST else float(otherwise)


def word(value: object, otherwise: str = "") -> str:
    """A part of a figure that ought to be a word.

    Args:
        value: The part.
        otherwise: What stands for anything else.

    Returns:
        The word.
    """
    return value if isinstance(value, str) else otherwise


def pair(trace: Json) -> tuple[str, str]:
    """The axes that a trace is drawn on.

    Args:
        trace: The trace.

    Returns:
        Names such as "x" and "y2"; a trace that names none is on the first ones.
    """
    return word(trace.get("xaxis")) or "x", word(trace.get("yaxis")) or "y"


def title(part: Json) -> str:
    """Title of an axis, of a colour bar or of a whole figure, as plain text.

    Args:
        part: What has a title, in either of Plotly's two forms.

    Returns:
        The text; empty where there is none.
    """
    found = part.get("title")
    text = found.get("text") if isinstance(found, Mapping) else found
    return "" if text is None else plain_text(text)


def plain_text(text: object) -> str:
    """Text of a figure without Plotly's markup.

    Args:
        text: What Plotly would show.

    Returns:
        The same characters; a `<br>` is a line break.
    """
    return html.unescape(_TAG.sub("", _BREAK.sub("\n", str(text))))


def axis(figure: Json, letter: str, name: object) -> dict[str, Any]:
    """Layout of an axis that a trace or a shape names.

    Args:
        figure: Plotly's JSON.
        letter: "x" or "y".
        name: The axis, such as "x2"; anything else reads as the first.

    Returns:
        Its layout; empty where there is none.
    """
    number = str(name)[1:] if isinstance(name, str) and name.startswith(letter) else ""
    return mapping(layout(figure).get(f"{letter}axis{number}"))


def tick_texts(found: Json) -> dict[Any, str]:
    """Texts that an axis writes in place of numbers.

    Args:
        found: Layout of the axis.

    Returns:
        Text by number; empty where the axis writes its numbers.
    """
    places, texts = values(found.get("tickvals")), values(found.get("ticktext"))
    return {
        place: plain_text(text)
        for place, text in zip(places, texts, strict=False)
        if isinstance(place, str | int | float)
    }


def table(figure: Json, *, rows: int = ROWS) -> Table | None:
    """List what a figure shows.

    Args:
        figure: Plotly's JSON.
        rows: How many are listed.

    Returns:
        The table; none for a figure that shows no numbers.
    """
    shown = [trace for trace in traces(figure) if _is_read(trace)]
    if not shown:
        return None
    across = {title(axis(figure, "x", trace.get("xaxis"))) for trace in shown} - {""}
    up = {title(axis(figure, "y", trace.get("yaxis"))) for trace in shown} - {""}
    grids = any(kind(trace) in _GRIDS for trace in shown)
    columns = ["series", _one(across, "horizontal"), _one(up, "vertical")]
    listed = [row for trace in shown for row in _rows(figure, trace, grids=grids)]
    if not listed:
        return None
    if grids:
        columns.append(_one({_colour_title(figure, trace) for trace in shown} - {""}, "value"))
    return Table(
        columns=tuple(columns),
        rows=tuple(listed[:rows]),
        left_out=max(len(listed) - rows, 0),
    )


def _one(titles: set[str], otherwise: str) -> str:
    """The title where all agree."""
    return " ".join(titles.pop().split()) if len(titles) == 1 else otherwise


def _is_read(trace: Json) -> bool:
    invisible = mapping(trace.get("marker")).get("opacity") == 0
    silent = trace.get("hoverinfo") == "skip" and kind(trace) not in _GRIDS
    return not invisible and not silent


def _colour_title(figure: Json, trace: Json) -> str:
    shared = trace.get("coloraxis")
    found = layout(figure).get(shared) if isinstance(shared, str) else trace
    return title(mapping(mapping(found).get("colorbar")))


def _rows(figure: Json, trace: Json, *, grids: bool) -> Iterator[tuple[Cell, ...]]:
    name = plain_text(trace.get("name") or "")
    x_texts = tick_texts(axis(figure, "x", trace.get("xaxis")))
    y_texts = tick_texts(axis(figure, "y", trace.get("yaxis")))
    if kind(trace) in _GRIDS:
        across, up = values(trace.get("x")), values(trace.get("y"))
        for row, line in enumerate(values(trace.get("z"))):
            for column, value in enumerate(values(line)):
                place = _named(across, column, x_texts), _named(up, row, y_texts)
                yield (name, *place, _cell(value))
        return
    x, y = points(trace)
    rest: tuple[Cell, ...] = (None,) if grids else ()
    for one, other in zip(x, y, strict=False):
        if one is not None or other is not None:
            yield (name, _said(one, x_texts), _said(other, y_texts), *rest)


def points(trace: Json) -> tuple[list[Any], list[Any]]:
    """Where the points or bars of a trace are.

    Args:
        trace: The trace.

    Returns:
        Across and up; where only one is given, the other counts from zero, as Plotly does.
    """
    x, y = values(trace.get("x")), values(trace.get("y"))
    if not x and kind(trace) != "histogram":
        x = _counted(trace, "x0", "dx", y)
    if not y and kind(trace) != "histogram":
        y = _counted(trace, "y0", "dy", x)
    longest = max(len(x), len(y))
    return x + [None] * (longest - len(x)), y + [None] * (longest - len(y))


def _counted(trace: Json, first: str, step: str, other: Sequence[Any]) -> list[Any]:
    start, by = trace.get(first, 0), trace.get(step, 1)
    if isinstance(start, int | float) and isinstance(by, int | float):
        return [start + by * index for index in range(len(other))]
    return [start] * len(other)


def _named(labels: Sequence[Any], index: int, texts: Mapping[Any, str]) -> Cell:
    return _said(labels[index] if index < len(labels) else index, texts)


def _said(value: object, texts: Mapping[Any, str]) -> Cell:
    """A place on an axis as the axis writes it."""
    known = texts.get(value) if isinstance(value, str | int | float) else None
    return _cell(value) if known is None else known


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, int | float):
        return value
    return " ".join(plain_text(value).split())
