"""What a drawn figure looks like: sizes, fonts, colours, dashes and symbols, in matplotlib's words.

Whatever in a figure's JSON is no colour, width or symbol reads as the usual one.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from workbench.report import figures, wording

Colour = tuple[float, float, float, float]

# Pixels.
WIDTH = 760
HEIGHT = 380
DPI = 96
# Points of a pixel, as browsers count: 96 pixels an inch.
POINT = 0.75
# Height of text, in pixels.
SIZE = 12.0
TEXT = "#1c2430"
TEXT_ON_DARK = "#ffffff"
GRID = "#dfe3e8"
GREY = "#8a9099"
_FONT = "DejaVu Sans"
SETTINGS: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "workbench",
    "font.family": [_FONT],
    "font.size": SIZE * POINT,
    "text.color": TEXT,
    "text.parse_math": False,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GREY,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "path.simplify": True,
}
_DASHES = {"dot": (0, (1, 2)), "dash": (0, (5, 3)), "dashdot": (0, (5, 3, 1, 3))}
_SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "cross": "P",
    "x": "X",
    "star": "*",
    "triangle-up": "^",
    "triangle-down": "v",
    "triangle-left": "<",
    "triangle-right": ">",
    "line-ns": "|",
    "line-ew": "_",
}
_RGB = re.compile(r"rgba?\(([^()]*)\)")
_WIDEST = 30.0
_DARKEST_LIGHT = 0.55


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(_FONT))
    return frozenset(font.get_charmap())


def printable(text: str) -> str:
    """Text that the fonts at hand can print.

    Args:
        text: Any string.

    Returns:
        The same with nothing hidden, and the code point of a character that the font lacks.
    """
    known = _characters()
    return "".join(
        one if one == "\n" or ord(one) in known else f"⟨U+{ord(one):04X}⟩"
        for one in wording.visible(text)
    )


def text_size(font: object, usual: float | int = SIZE, *, most: float | int = 20) -> float:
    """Size of a text.

    Args:
        font: Plotly's description of its font.
        usual: Pixels where that names no size.
        most: Pixels that are not exceeded.

    Returns:
        Points.
    """
    asked = figures.number(figures.mapping(font).get("size"))
    return min(asked if asked > 0 else usual, most) * POINT


def colour(value: object, otherwise: object) -> Colour:
    """A colour of CSS.

    Args:
        value: The colour, as a figure says it.
        otherwise: The colour where that is none.

    Returns:
        Shares of red, green, blue and opacity.
    """
    from matplotlib import colors

    for one in (value, otherwise):
        text = one.strip() if isinstance(one, str) else one
        if isinstance(text, str) and (found := _RGB.fullmatch(text)):
            parts = [figures.number(part.strip().rstrip("%")) for part in found[1].split(",")]
            if len(parts) in {3, 4} and np.isfinite(parts).all():
                red, green, blue = (min(max(part / 255, 0.0), 1.0) for part in parts[:3])
                return red, green, blue, _share(parts[3] if len(parts) > 3 else 1.0)  # noqa: PLR2004 - the fourth is opacity
        elif colors.is_color_like(text):
            return colors.to_rgba(cast("Any", text))
    return 0.0, 0.0, 0.0, 1.0


def first_colour(*given: object) -> Colour:
    """The colour of a whole trace.

    Args:
        *given: What may say it, the first first; lists are colours of single marks.

    Returns:
        The first that is one colour.
    """
    return colour(next((one for one in given if isinstance(one, str)), GREY), GREY)


def is_light(shade: Sequence[float]) -> bool:
    """Whether dark text is read more easily than white text on a colour.

    Args:
        shade: The colour.

    Returns:
        Whether it is.
    """
    red, green, blue = shade[:3]
    # The share at which the two are equally legible was found by eye.
    return 0.3 * red + 0.59 * green + 0.11 * blue > _DARKEST_LIGHT


def opacity(*parts: figures.Json) -> float | None:
    """Opacity of marks.

    Args:
        *parts: What may say it; their opacities multiply.

    Returns:
        The opacity; none where each colour has its own.
    """
    found = math.prod(_share(part.get("opacity")) for part in parts)
    return found if found < 1 else None


def _share(value: object) -> float:
    return min(max(figures.number(value, 1), 0.0), 1.0)


def width(line: figures.Json, usual: float | int) -> float:
    """Width of a line.

    Args:
        line: Plotly's description of it.
        usual: Pixels where that names none.

    Returns:
        Points.
    """
    return min(max(figures.number(line.get("width"), usual), 0.0), _WIDEST) * POINT


def dash(line: figures.Json) -> Any:
    """Dashes of a line.

    Args:
        line: Plotly's description of it.

    Returns:
        matplotlib's form.
    """
    return _DASHES.get(str(line.get("dash")), "-")


def symbol(marker: figures.Json) -> tuple[str, bool]:
    """Symbol of a mark.

    Args:
        marker: Plotly's description of it.

    Returns:
        matplotlib's name, and whether it is hollow.
    """
    name = figures.word(marker.get("symbol"), "circle")
    filled = name.removesuffix("-open").removesuffix("-dot")
    return _SYMBOLS.get(filled, "o"), name.endswith("-open")
