"""Figures as Streamlit's client draws them once, where it would draw each of them twice.

The client hands a figure to plotly.js when its place on the page is known, and a copy of it right
after. plotly.js draws again whatever it takes for changed; it compares by identity, unless it is
told how to see that nothing has changed:

1. Numbers are lists: packed ones always count as changed.
2. The revision of the data is a hash of them: equal lists count as unchanged then.
3. What the template says is written where it applies: a template always counts as changed.
4. What the client would set for a figure that can be clicked is set already.

plotly.js draws a figure again, too, where labels turn out to need more room than its margins have:
margins are guessed from the lengths of labels. A guess that is too small costs time and no label.

`tests/e2e/test_every_page.py` holds all of that to what a browser does.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
import re
from typing import Any

import plotly.graph_objects as go

from workbench.core import plots

# What the client sets by itself, after it has drawn the figure for the first time.
_CLICKABLE = {"clickmode": "event+select", "hovermode": "closest", "dragmode": "pan"}
# Pixels: a character of a label, what stands around labels, a line of text, and the room that
# labels share where a figure is as wide as the page.
_CHARACTER, _AROUND, _LINE, _PAGE = 7.8, 12, 18, 700
# Pixels of margins: numbers with a title beside an axis, a colour bar with its own, a legend.
_NUMBERS, _COLOUR_BAR, _LEGEND = 66, 106, 44
# Labels whose lines are at least this far apart are turned by no more than 30 degrees.
_APART = 28


class Ready(go.Figure):  # pyright: ignore[reportUntypedBaseClass]
    """A figure that is sent as it stands, and not taken apart, checked and packed again."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Take what is sent.

        Args:
            spec: Made by `ready`.
        """
        super().__init__()
        self._spec = spec

    def to_dict(self) -> dict[str, Any]:
        """What Streamlit asks a figure for."""
        return self._spec


def ready(figure: go.Figure, theme: str | None, *, clickable: bool = False) -> Ready:
    """A figure as it is sent to a page.

    Args:
        figure: Any figure; it stays as it is.
        theme: "light" or "dark", for the colour of its text; None reads as light.
        clickable: If a click on a point is reported.

    Returns:
        One that says the same; without a template, unless it has one that is not ours and says
        more than a layout does.
    """
    spec = plots.spec(figure)
    data, layout = spec["data"], spec["layout"]
    template = layout.get("template", {})
    if not template.get("data"):
        layout.pop("template", None)
        layout = _templated(layout, template.get("layout", {}))
    colour = plots.TEXT_COLOURS["dark" if theme == "dark" else "light"]
    layout["font"] = {**layout.get("font", {}), "color": colour}
    layout["margin"] = _margins(layout, data)
    if clickable:
        layout |= {name: layout.get(name) or value for name, value in _CLICKABLE.items()}
    said = json.dumps([data, layout]).encode()
    layout["datarevision"] = hashlib.blake2b(said, digest_size=8).hexdigest()
    return Ready({"data": data, "layout": layout})


def _templated(layout: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """A layout with what its template says of what it does not say itself."""
    filled = _filled(layout, template)
    for name, value in filled.items():
        # A figure may have many axes: xaxis2 and so on.
        for axis in ("xaxis", "yaxis"):
            if name.startswith(axis):
                filled[name] = _filled(value, template.get(axis) or {})
    return filled


def _filled(given: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    both = template | given
    for name, default in template.items():
        if isinstance(default, dict) and isinstance(given.get(name), dict):
            both[name] = _filled(given[name], default)
    return both


def _margins(layout: dict[str, Any], data: list[dict[str, Any]]) -> dict[str, float]:
    """Margins with room for labels of axes and colour bars, no smaller than they were."""
    margins = {"l": 80.0, "r": 80.0, "t": 100.0, "b": 80.0, **layout.get("margin", {})}
    x, y = layout.get("xaxis", {}), layout.get("yaxis", {})
    right, below = _beneath(_labels(x, data, "x"))
    needed = {
        "l": _beside(_labels(y, data, "y")),
        "r": max(right, _COLOUR_BAR if any("colorbar" in trace for trace in data) else 0),
        "t": _LEGEND if _has_legend(layout, data) else 0,
        "b": below,
    }
    if _adapts(y):
        needed["l"] = max(needed["l"], _NUMBERS)
    return {side: max(least, needed.get(side, 0)) for side, least in margins.items()}


def _adapts(axis: dict[str, Any]) -> bool:
    """If its labels may move the margin."""
    return bool(axis.get("automargin")) and axis.get("visible") is not False


def _has_legend(layout: dict[str, Any], data: list[dict[str, Any]]) -> bool:
    named = [trace for trace in data if trace.get("showlegend") is not False]
    return layout.get("showlegend", len(named) > 1)


def _labels(axis: dict[str, Any], data: list[dict[str, Any]], letter: str) -> list[str]:
    """Texts along an axis, if they are words; plotly's own numbers fit the margins."""
    if not _adapts(axis):
        return []
    if "ticktext" in axis:
        return [str(one) for one in axis["ticktext"]]
    places = [one for trace in data for one in trace.get(letter) or ()]
    return list(dict.fromkeys(one for one in places if isinstance(one, str)))


def _width(label: str) -> float:
    """Pixels that a label takes, of which tags take none."""
    return _CHARACTER * len(html.unescape(re.sub(r"<[^>]*>", "", label)))


def _beside(labels: list[str]) -> float:
    """Width of labels and a title to the left of a figure."""
    return max(map(_width, labels)) + _AROUND + 1.5 * _LINE if labels else 0.0


def _beneath(labels: list[str]) -> tuple[float, float]:
    """How far labels reach to the right, and with a title below: they are turned if need be."""
    if not labels:
        return 0.0, 0.0
    widest, room = max(map(_width, labels)), _PAGE / len(labels)
    if widest <= room:
        return 0.0, 2.5 * _LINE
    if room >= _APART:
        return _width(labels[-1]) * math.cos(math.pi / 6), widest / 2 + 2.5 * _LINE + _AROUND
    return 0.0, widest + 1.5 * _LINE + _AROUND
