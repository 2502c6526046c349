"""What a figure adds to its traces: lines, regions and words, on data or on the page.

A coordinate is of the data, of the domain of an axis, or of the whole plotting area ("paper").
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from workbench.report import figures
from workbench.report.vector import style
from workbench.report.vector.page import CannotDraw, Page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

_ACROSS, _UP = ("left", "center", "right"), ("bottom", "center", "top")
_BEHIND, _IN_FRONT, _ON_TOP = 0.8, 4, 5


def reach(page: Page) -> None:
    """Let ranges that nobody set take in the shapes too, as Plotly's do.

    Args:
        page: The figure.
    """
    for shape in _listed(page, "shapes"):
        for panel in page.panels:
            for letter, name in zip("xy", panel.names, strict=True):
                if str(shape.get(f"{letter}ref") or letter) != name:
                    continue
                ends = [_at(page, name, letter, shape.get(f"{letter}{end}")) for end in "01"]
                known = [(end, end) for end in ends if math.isfinite(end)]
                across = letter == "x"
                panel.ax.update_datalim(known, updatex=across, updatey=not across)
                panel.ax.autoscale_view(scalex=across, scaley=not across)


def draw(page: Page) -> None:
    """Draw shapes, then write annotations.

    Args:
        page: The figure, whose axes have their ranges.

    Raises:
        CannotDraw: If a shape is neither a line nor a rectangle.
    """
    for shape in _listed(page, "shapes"):
        _shape(page, shape)
    for note in _listed(page, "annotations"):
        _annotate(page, note)


def _listed(page: Page, name: str) -> list[dict[str, Any]]:
    return list(map(figures.mapping, figures.values(page.layout.get(name))))


def _transform(page: Page, across: object, up: object) -> tuple[Axes, Transform]:
    """The axes that two references name, and what their coordinates mean."""
    from matplotlib import transforms

    def of(reference: object, letter: str) -> tuple[Axes | None, Transform]:
        name, _, domain = str(reference or letter).partition(" ")
        index = "xy".index(letter)
        ax = next((one.ax for one in page.panels if one.names[index] == name), None)
        if ax is None:
            return None, page.paper.transAxes
        return ax, ax.transAxes if domain else ax.transData

    x_axes, x = of(across, "x")
    y_axes, y = of(up, "y")
    return x_axes or y_axes or page.paper, transforms.blended_transform_factory(x, y)


def _at(page: Page, reference: object, letter: str, value: object) -> float:
    """A coordinate; names of categories become numbers."""
    axis = page.axes.get(str(reference or letter))
    return figures.number(value) if axis is None else axis.place(value)


def _shape(page: Page, shape: figures.Json) -> None:
    from matplotlib import lines, patches

    across, up = shape.get("xref", "x"), shape.get("yref", "y")
    ax, transform = _transform(page, across, up)
    x0, x1 = (_at(page, across, "x", shape.get(name)) for name in ("x0", "x1"))
    y0, y1 = (_at(page, up, "y", shape.get(name)) for name in ("y0", "y1"))
    line = figures.mapping(shape.get("line"))
    below = figures.word(shape.get("layer")) in {"below", "between"}
    looks: dict[str, Any] = {
        "transform": transform,
        "alpha": style.opacity(shape),
        "linewidth": style.width(line, 2.0),
        "linestyle": style.dash(line),
        "zorder": _BEHIND if below else _IN_FRONT,
    }
    edge = style.colour(line.get("color"), style.TEXT)
    kind = shape.get("type", "line")
    if kind == "line":
        ax.add_artist(lines.Line2D([x0, x1], [y0, y1], color=edge, **looks))
    elif kind == "rect":
        bare = bool(shape.get("fillcolor")) and (not line or looks["linewidth"] == 0)
        looks |= {
            "edgecolor": "none" if bare else edge,
            "facecolor": style.colour(shape.get("fillcolor"), "none"),
        }
        corner, size = (min(x0, x1), min(y0, y1)), (abs(x1 - x0), abs(y1 - y0))
        ax.add_artist(patches.Rectangle(corner, *size, **looks))
    else:
        raise CannotDraw(f"a figure with a shape of type {kind!r} is drawn interactively only")


def _annotate(page: Page, note: figures.Json) -> None:
    across, up = note.get("xref", "x"), note.get("yref", "y")
    ax, transform = _transform(page, across, up)
    x, y = _annotated(page, across, "x", note), _annotated(page, up, "y", note)
    arrow = [figures.number(note.get(name)) for name in ("ax", "ay")]
    shown = bool(note.get("showarrow", True)) and any(map(math.isfinite, arrow))
    tail = [one if shown and math.isfinite(one) else 0.0 for one in arrow]
    ax.annotate(
        style.printable(figures.plain_text(note.get("text", ""))),
        xy=(x, y),
        xycoords=transform,
        xytext=(
            (figures.number(note.get("xshift"), 0) + tail[0]) * style.POINT,
            (figures.number(note.get("yshift"), 0) - tail[1]) * style.POINT,
        ),
        textcoords="offset points",
        ha=_anchored(note.get("xanchor"), x if across == "paper" else math.nan, _ACROSS),
        va=_anchored(note.get("yanchor"), y if up == "paper" else math.nan, _UP),
        fontsize=style.text_size(note.get("font")),
        color=style.colour(figures.mapping(note.get("font")).get("color"), style.TEXT),
        rotation=-figures.number(note.get("textangle"), 0),
        arrowprops={"arrowstyle": "->", "color": style.GREY} if shown else None,
        annotation_clip=False,
        zorder=_ON_TOP,
    )


def _annotated(page: Page, reference: object, letter: str, note: figures.Json) -> float:
    """Where an annotation is; on a logarithmic axis Plotly gives the exponent."""
    axis = page.axes.get(str(reference or letter))
    at = _at(page, reference, letter, note.get(letter))
    if axis is not None and axis.logarithmic:
        return 10.0**at
    return 0.0 if math.isnan(at) else at


def _anchored(given: object, at: float, words: tuple[str, str, str]) -> Any:
    named = {"middle": "center"}.get(str(given), str(given))
    if named in words:
        return named
    # As Plotly does on paper: the nearest third.
    if math.isnan(at):
        return "center"
    return words[int(min(max(at * 3, 0), 2))]
