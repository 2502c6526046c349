"""A report's figures as vector graphics: Plotly's JSON drawn by matplotlib, without a browser.

1. Every pair of axes of the figure becomes a matplotlib axes in the same place: domains, ranges,
   logarithms, categories, ticks and titles are Plotly's.
2. Each trace is drawn on the axes that it names; shapes and annotations follow; colour bars stand
   where Plotly puts them.
3. The margins grow until every text is inside, and the page is written as SVG whose text is
   outlines: it looks the same with any fonts, and the same figure gives the same bytes.

Limits: what moves, answers the pointer or is styled beyond colour, width, dash and symbol is left
out. A trace of another kind raises `CannotDraw`. More than 5,000 marks of a trace are an image
within the graphic, so that a page stays readable by machines that are not large.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from workbench.core import plots
from workbench.report import figures, wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

WIDTH = 760
HEIGHT = 380
TEXT = "#1c2430"
# Points of a pixel, as browsers count: 96 pixels an inch.
_POINT = 0.75
_DPI = 96
_FONT = "DejaVu Sans"
_SIZE = 12.0
_GRID = "#dfe3e8"
_GREY = "#8a9099"
_MOST_MARKS = 5_000
_MOST_CELLS = 600
_FEWEST_POINTS_WITHOUT_MARKERS = 20
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Powers of ten that are written out.
_SHORT_POWERS = range(4)
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
_NUMBER_FORMAT = re.compile(r"^(,?)\.(\d)([%fge]?)$")
# rcParams of matplotlib are one for the whole process.
_LOCK = threading.Lock()
_SETTINGS: Any = {
    "svg.fonttype": "path",
    "svg.hashsalt": "workbench",
    "font.family": [_FONT],
    "font.size": _SIZE * _POINT,
    "text.color": TEXT,
    "text.parse_math": False,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": _GREY,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "path.simplify": True,
}

Json = Mapping[str, Any]
Colour = tuple[float, float, float, float]


class CannotDraw(ValueError):
    """A figure that is drawn in the interactive report only; the message says why."""


def draw(figure: Json, *, width: int = WIDTH) -> str:
    """Draw a figure.

    Args:
        figure: Plotly's JSON, with plain lists.
        width: Pixels; the height is the figure's own.

    Returns:
        The SVG: outlines only, no script, no style sheet of its own, no link.

    Raises:
        CannotDraw: If the figure has a trace of a kind that is not drawn here, or is damaged.
    """
    import matplotlib as mpl
    from matplotlib.backends import backend_svg

    with _LOCK, mpl.rc_context(_SETTINGS):
        made = built(figure, width=width)
        written = io.StringIO()
        backend_svg.FigureCanvasSVG(made).print_svg(
            written, metadata={"Date": None, "Creator": None}
        )
    return written.getvalue()


def built(figure: Json, *, width: int = WIDTH) -> Figure:
    """Build matplotlib's form of a figure.

    Args:
        figure: Plotly's JSON, with plain lists.
        width: Pixels.

    Returns:
        The figure, ready to be written.

    Raises:
        CannotDraw: If the figure has a trace of a kind that is not drawn here, or is damaged.
    """
    unknown = sorted({figures.kind(one) for one in figures.traces(figure)} - _DRAWN.keys())
    if unknown:
        raise CannotDraw(
            f"a figure with traces of kind {', '.join(map(repr, unknown))} is drawn in the "
            f"interactive report only; drawn here: {', '.join(sorted(_DRAWN))}"
        )
    try:
        return _Drawing(figure, width).made()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The JSON may come from a file that anyone wrote: whatever is wrong in it is one sentence.
        raise CannotDraw(f"a figure is damaged: {error}") from error


def height(figure: Json) -> int:
    """Height of a figure.

    Args:
        figure: Plotly's JSON.

    Returns:
        Pixels: its own, within reason.
    """
    given = _number(figures.layout(figure).get("height"))
    return round(min(max(given if math.isfinite(given) else HEIGHT, 160.0), 1400.0))


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


def _text(text: object) -> str:
    return printable(figures.plain_text(text))


@dataclasses.dataclass
class _Axis:
    """One axis of Plotly's: its layout and, where it counts names, their order."""

    letter: str
    found: dict[str, Any]
    names: dict[str, int] | None = None

    @property
    def logarithmic(self) -> bool:
        return self.found.get("type") == "log"

    def numbers(self, listed: Sequence[Any]) -> np.ndarray:
        """Places along the axis; NaN where there is none."""
        if self.names is not None:
            return np.array([self._named(one) for one in listed], dtype=np.float64)
        return np.array([_number(one) for one in listed], dtype=np.float64)

    def _named(self, one: Any) -> float:
        if one is None:
            return math.nan
        names = cast("dict[str, int]", self.names)
        return float(names.get(str(one), one if isinstance(one, int | float) else math.nan))


class _Drawing:
    """A figure while it is drawn."""

    def __init__(self, figure: Json, width: int) -> None:
        from matplotlib.figure import Figure

        self.json = figure
        self.layout = figures.layout(figure)
        self.traces = figures.traces(figure)
        self.height = float(height(figure))
        self.width = float(width)
        self.figure: Figure = Figure(
            figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI, facecolor="none"
        )
        self.paper = self._axes_in((0.0, 1.0), (0.0, 1.0))
        self.paper.set_axis_off()
        self.paper.set_zorder(-1)
        self.axes: dict[tuple[str, str], Axes] = {}
        self.axis: dict[str, _Axis] = {}
        self.domains: list[tuple[Axes, tuple[float, float], tuple[float, float]]] = []
        self.domains.append((self.paper, (0.0, 1.0), (0.0, 1.0)))
        self.handles: list[tuple[Any, str]] = []
        self.legend: Any = None

    def made(self) -> Figure:
        for place in sorted({_pair(one) for one in self.traces} or {("x", "y")}):
            self._open(place)
        for place, ax in self.axes.items():
            here = [one for one in self.traces if _pair(one) == place]
            self._draw_traces(ax, place, here)
        self._reach_shapes()
        for place, ax in self.axes.items():
            for letter, name in zip("xy", place, strict=True):
                self._dress(ax, letter, self.axis[name])
        self._match()
        for shape in figures.values(self.layout.get("shapes")):
            self._shape(figures.mapping(shape))
        for note in figures.values(self.layout.get("annotations")):
            self._annotate(figures.mapping(note))
        self._legend()
        self._fit()
        return self.figure

    # Places ---------------------------------------------------------------------------------

    def _axes_in(self, across: tuple[float, float], up: tuple[float, float]) -> Axes:
        return self.figure.add_axes(
            (across[0], up[0], across[1] - across[0], up[1] - up[0]), label=f"{across} {up}"
        )

    def _open(self, place: tuple[str, str]) -> None:
        for letter, name in zip("xy", place, strict=True):
            if name not in self.axis:
                found = figures.axis(self.json, letter, name)
                listed = [
                    one
                    for trace in self.traces
                    if _pair(trace)["xy".index(letter)] == name
                    for one in _along(trace, letter)
                ]
                self.axis[name] = _Axis(letter, found, _names(found, listed))
        x, y = (self.axis[name].found for name in place)
        over = y.get("overlaying") or x.get("overlaying")
        base = next((ax for other, ax in self.axes.items() if over in other), None)
        if base is not None:
            ax = base.twinx() if y.get("overlaying") else base.twiny()
        else:
            ax = self._axes_in((0.0, 1.0), (0.0, 1.0))
            ax.set_facecolor(_colour(self.layout.get("plot_bgcolor"), "none"))
        self.domains.append((ax, _domain(x), _domain(y)))
        self.axes[place] = ax
        for letter, name in zip("xy", place, strict=True):
            if self.axis[name].logarithmic:
                (ax.set_xscale if letter == "x" else ax.set_yscale)("log")

    def _reach_shapes(self) -> None:
        """Ranges that nobody set take in the shapes too, as Plotly's do."""
        for shape in map(figures.mapping, figures.values(self.layout.get("shapes"))):
            for place, ax in self.axes.items():
                for letter, name in zip("xy", place, strict=True):
                    if str(shape.get(f"{letter}ref") or letter) != name:
                        continue
                    ends = [self.at(name, letter, shape.get(f"{letter}{end}")) for end in "01"]
                    known = [end for end in ends if math.isfinite(end)]
                    across = letter == "x"
                    ax.update_datalim(
                        [(end, end) for end in known], updatex=across, updatey=not across
                    )
                    ax.autoscale_view(scalex=across, scaley=not across)

    def _match(self) -> None:
        """Give axes that match one another the same range."""
        for letter, name in {(n[0], n) for place in self.axes for n in place}:
            target = self.axis[name].found.get("matches")
            if not isinstance(target, str) or target not in self.axis:
                continue
            index = "xy".index(letter)
            group = [ax for place, ax in self.axes.items() if place[index] in {name, target}]
            spans = [ax.get_xlim() if letter == "x" else ax.get_ylim() for ax in group]
            low, high = min(s[0] for s in spans), max(s[1] for s in spans)
            for ax in group:
                (ax.set_xlim if letter == "x" else ax.set_ylim)(low, high)

    # Traces ---------------------------------------------------------------------------------

    def _draw_traces(
        self, ax: Axes, place: tuple[str, str], here: Sequence[dict[str, Any]]
    ) -> None:
        stacks = _Stacks.of(self, place, here)
        for trace in here:
            index = self.traces.index(trace)
            colour = plots.COLOURS[index % len(plots.COLOURS)]
            handle = _DRAWN[figures.kind(trace)](self, ax, trace, colour, stacks)
            name = trace.get("name")
            if handle is not None and name and trace.get("showlegend", True):
                self.handles.append((handle, _text(name)))

    def along(self, trace: Json) -> tuple[np.ndarray, np.ndarray]:
        """Numbers across and up of a trace's points."""
        x, y = figures.points(trace)
        across, up = _pair(trace)
        return self.axis[across].numbers(x), self.axis[up].numbers(y)

    def colour_bar(
        self, owner: Json, colours: _Scale, *, shown: bool, shared: str | None = None
    ) -> None:
        """Stand a colour bar where Plotly does, once for axes that share it."""
        from matplotlib import cm

        if not shown or (shared is not None and shared in self.axis):
            return
        if shared is not None:
            self.axis[shared] = _Axis("c", {})
        found = figures.mapping(owner.get("colorbar"))
        x, length = _number(found.get("x")), _number(found.get("len"))
        middle = _number(found.get("y"))
        left = 1.02 if math.isnan(x) else x
        length = 1.0 if math.isnan(length) else min(length, 1.0)
        middle = 0.5 if math.isnan(middle) else middle
        bar = self._axes_in((0.0, 1.0), (0.0, 1.0))
        bar.set_label(f"colours {len(self.domains)}")
        self.domains.append((bar, (left, left + 0.016), (middle - length / 2, middle + length / 2)))
        drawn = self.figure.colorbar(cm.ScalarMappable(colours.norm, colours.map), cax=bar)
        cast("Any", drawn.outline).set_visible(False)
        bar.tick_params(length=0, labelsize=(_SIZE - 1) * _POINT)
        ticks = figures.tick_texts(found)
        if ticks:
            drawn.set_ticks(list(map(_number, ticks)), labels=list(map(printable, ticks.values())))
        bar.set_ylabel(printable(figures.title(found)), rotation=90)

    # Axes -----------------------------------------------------------------------------------

    def _dress(self, ax: Axes, letter: str, axis: _Axis) -> None:
        found = axis.found
        own = ax.xaxis if letter == "x" else ax.yaxis
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_axisbelow(True)
        self._limit(ax, letter, axis)
        if found.get("visible") is False:
            own.set_visible(False)
            return
        own.set_tick_params(which="both", length=0)
        if found.get("showgrid", True) and not found.get("overlaying"):
            own.grid(visible=True, color=_GRID, linewidth=0.8)
        if found.get("zeroline") and not axis.logarithmic:
            (ax.axvline if letter == "x" else ax.axhline)(0, color=_GREY, linewidth=0.9, zorder=0.9)
        self._ticks(ax, letter, axis)
        if found.get("showticklabels") is False:
            own.set_ticklabels([])
        side = found.get("side")
        if side in {"top", "right"}:
            own.set_ticks_position(side)
            own.set_label_position(side)
        own.set_label_text(printable(figures.title(found)))

    def _limit(self, ax: Axes, letter: str, axis: _Axis) -> None:
        found = axis.found
        get, put = (ax.get_xlim, ax.set_xlim) if letter == "x" else (ax.get_ylim, ax.set_ylim)
        low, high = get()
        if not axis.logarithmic and found.get("rangemode") == "tozero":
            low, high = min(low, 0.0), max(high, 0.0)
        given = [_number(one) for one in figures.values(found.get("range"))]
        if len(given) == 2 and np.isfinite(given).all() and given[0] != given[1]:  # noqa: PLR2004 - two ends
            low, high = (10.0**one for one in given) if axis.logarithmic else given
        put(low, high)
        if str(found.get("autorange", "")).endswith("reversed"):
            put(max(low, high), min(low, high))

    def _ticks(self, ax: Axes, letter: str, axis: _Axis) -> None:
        from matplotlib import ticker

        own = ax.xaxis if letter == "x" else ax.yaxis
        found = axis.found
        texts = figures.tick_texts(found)
        if axis.names is not None:
            named = {at: figures.plain_text(name) for name, at in axis.names.items()}
            texts = texts or named
        span = ax.get_xlim() if letter == "x" else ax.get_ylim()
        low, high = min(span), max(span)
        step = _number(found.get("dtick"))
        if texts:
            kept = {_place(axis, place): text for place, text in texts.items()}
            kept = {at: text for at, text in kept.items() if low - 0.5 <= at <= high + 0.5}
            own.set_major_locator(ticker.FixedLocator(list(kept)))
            own.set_major_formatter(ticker.FixedFormatter(list(map(printable, kept.values()))))
            own.set_minor_locator(ticker.NullLocator())
        elif axis.logarithmic:
            decades = math.log10(high / low)
            subs = (1.0,) if decades >= 2 else (1.0, 2.0, 5.0)  # noqa: PLR2004 - two decades
            own.set_major_locator(ticker.LogLocator(subs=subs, numticks=9))
            own.set_major_formatter(ticker.FuncFormatter(_logarithmic_tick))
            own.set_minor_locator(ticker.NullLocator())
        else:
            if step > 0 and (high - low) / step <= 100:  # noqa: PLR2004 - more ticks are a mistake
                start = _number(found.get("tick0"))
                own.set_major_locator(
                    ticker.MultipleLocator(step, 0.0 if math.isnan(start) else start)
                )
            else:
                count = _number(found.get("nticks"))
                own.set_major_locator(
                    ticker.MaxNLocator(int(count) if count > 1 else 7, steps=[1, 2, 2.5, 5, 10])
                )
            own.set_major_formatter(ticker.FuncFormatter(_number_format(found.get("tickformat"))))
        size = _number(figures.mapping(found.get("tickfont")).get("size"))
        own.set_tick_params(labelsize=min(size if size > 0 else _SIZE - 1, 14) * _POINT)
        if letter == "x":
            self._turn(ax, axis, texts)

    def _turn(self, ax: Axes, axis: _Axis, texts: Mapping[Any, str]) -> None:
        """Turn labels that would run into one another."""
        angle = _number(axis.found.get("tickangle"))
        if math.isnan(angle):
            across = _domain(axis.found)
            room = (across[1] - across[0]) * self.width * 0.85
            widest = max(
                (len(line) for one in texts.values() for line in one.split("\n")), default=0
            )
            many = len(texts)
            angle = 0.0
            if many and widest * many * _SIZE * 0.62 > room:
                angle = -90.0 if many * _SIZE * 2 > room else -40.0
        if angle:
            upright = abs(angle) > 60  # noqa: PLR2004 - degrees
            ax.tick_params(axis="x", rotation=-angle, rotation_mode="anchor")
            for label in ax.get_xticklabels():
                label.set_horizontalalignment("right" if angle < 0 else "left")
                label.set_verticalalignment("center" if upright else "top")

    # Around ---------------------------------------------------------------------------------

    def _transform(self, across: object, up: object) -> tuple[Axes, Transform]:
        """Coordinates of a shape or an annotation: of data, of an axis' domain, or of the paper."""
        from matplotlib import transforms

        def of(reference: object, letter: str) -> tuple[Axes | None, Transform]:
            name, _, domain = str(reference or letter).partition(" ")
            index = "xy".index(letter)
            ax = next((one for place, one in self.axes.items() if place[index] == name), None)
            if name == "paper" or ax is None:
                return None, self.paper.transAxes
            return ax, ax.transAxes if domain else ax.transData

        x_axes, x = of(across, "x")
        y_axes, y = of(up, "y")
        return (
            x_axes or y_axes or self.paper,
            transforms.blended_transform_factory(x, y),
        )

    def at(self, reference: object, letter: str, value: object) -> float:
        """A coordinate; names of categories become numbers."""
        axis = self.axis.get(str(reference or letter))
        return _place(axis, value) if axis is not None else _number(value)

    def _shape(self, shape: dict[str, Any]) -> None:
        from matplotlib import lines, patches

        across, up = shape.get("xref", "x"), shape.get("yref", "y")
        ax, transform = self._transform(across, up)
        x0, x1 = (self.at(across, "x", shape.get(name)) for name in ("x0", "x1"))
        y0, y1 = (self.at(up, "y", shape.get(name)) for name in ("y0", "y1"))
        line = figures.mapping(shape.get("line"))
        below = shape.get("layer") in {"below", "between"}
        style: dict[str, Any] = {
            "transform": transform,
            "alpha": _alpha(shape),
            "linewidth": _width(line, 2.0),
            "linestyle": _dash(line),
            "zorder": 0.8 if below else 4,
        }
        edge = _colour(line.get("color"), TEXT)
        kind = shape.get("type", "line")
        if kind == "line":
            ax.add_artist(lines.Line2D([x0, x1], [y0, y1], color=edge, **style))
        elif kind == "rect":
            fill = _colour(shape.get("fillcolor"), "none")
            style |= {"edgecolor": edge, "facecolor": fill}
            if not shape.get("line") or style["linewidth"] == 0:
                style["edgecolor"] = "none" if shape.get("fillcolor") else edge
            corner, size = (min(x0, x1), min(y0, y1)), (abs(x1 - x0), abs(y1 - y0))
            ax.add_artist(patches.Rectangle(corner, *size, **style))
        else:
            raise CannotDraw(f"a figure with a shape of type {kind!r} is drawn interactively only")

    def _annotate(self, note: dict[str, Any]) -> None:
        across, up = note.get("xref", "x"), note.get("yref", "y")
        ax, transform = self._transform(across, up)
        at = _annotated(self, across, "x", note), _annotated(self, up, "y", note)
        font = figures.mapping(note.get("font"))
        size = _number(font.get("size"))
        arrow = note.get("showarrow", True)
        shift = [_number(note.get(name)) for name in ("ax", "ay")] if arrow else [math.nan] * 2
        x_shift, y_shift = (
            0.0 if math.isnan(one) else one
            for one in (_number(note.get("xshift")), _number(note.get("yshift")))
        )
        offset = (
            (x_shift + (0.0 if math.isnan(shift[0]) else shift[0])) * _POINT,
            (y_shift - (0.0 if math.isnan(shift[1]) else shift[1])) * _POINT,
        )
        paper = (str(across) == "paper", str(up) == "paper")
        ax.annotate(
            _text(note.get("text", "")),
            xy=at,
            xycoords=transform,
            xytext=offset,
            textcoords="offset points",
            ha=_anchored(note.get("xanchor"), at[0] if paper[0] else math.nan, _ACROSS),
            va=_anchored(note.get("yanchor"), at[1] if paper[1] else math.nan, _UP),
            fontsize=min(size if size > 0 else _SIZE, 20) * _POINT,
            color=_colour(font.get("color"), TEXT),
            rotation=-(0.0 if math.isnan(turned := _number(note.get("textangle"))) else turned),
            arrowprops={"arrowstyle": "->", "color": _GREY}
            if any(map(math.isfinite, shift))
            else None,
            annotation_clip=False,
            zorder=5,
        )

    def _legend(self) -> None:
        title = figures.title(self.layout)
        shown = self.layout.get("showlegend", len(self.handles) > 1)
        if self.handles and shown:
            handles, names = zip(*self.handles, strict=True)
            longest = sum(len(name) + 6 for name in names) * _SIZE * 0.6
            rows = max(math.ceil(longest / (self.width * 0.85)), 1)
            upright = figures.mapping(self.layout.get("legend")).get("orientation") == "v"
            self.legend = self.paper.legend(
                handles,
                names,
                loc="lower left",
                bbox_to_anchor=(0.0, 1.01),
                ncols=1 if upright else max(math.ceil(len(names) / rows), 1),
                frameon=False,
                fontsize=(_SIZE - 1) * _POINT,
                borderaxespad=0.2,
                handlelength=1.6,
                columnspacing=1.4,
            )
        if title:
            self.paper.set_title(printable(title), loc="left", fontsize=(_SIZE + 1) * _POINT)

    def _fit(self) -> None:
        """Grow the margins until every text is inside; a margin that is not needed goes."""
        from matplotlib.backends import backend_agg

        # Measuring needs a renderer; outlines of text are as wide as its picture.
        renderer = backend_agg.FigureCanvasAgg(self.figure).get_renderer()
        pad = 6.0 / self.width, 6.0 / self.height
        left, right, bottom, top = 0.08, 0.97, 0.14, 0.95
        for _ in range(4):
            for ax, across, up in self.domains:
                x0, x1 = (left + (right - left) * one for one in across)
                y0, y1 = (bottom + (top - bottom) * one for one in up)
                ax.set_position((x0, y0, max(x1 - x0, 1e-3), max(y1 - y0, 1e-3)))
            boxes = [ax.get_tightbbox(renderer) for ax, _, _ in self.domains]
            known = [box for box in boxes if box is not None and np.isfinite(box.extents).all()]
            if not known:
                return
            x0, y0 = min(b.x0 for b in known) / self.width, min(b.y0 for b in known) / self.height
            x1, y1 = max(b.x1 for b in known) / self.width, max(b.y1 for b in known) / self.height
            left, right = min(left - x0 + pad[0], 0.6), max(right - (x1 - 1 + pad[0]), 0.65)
            bottom, top = min(bottom - y0 + pad[1], 0.6), max(top - (y1 - 1 + pad[1]), 0.65)


# Traces --------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Stacks:
    """How the bars of one pair of axes stand: beside one another or on top of one another."""

    mode: str
    width: float
    bars: list[dict[str, Any]]
    up: dict[float, float] = dataclasses.field(default_factory=dict[float, float])
    down: dict[float, float] = dataclasses.field(default_factory=dict[float, float])

    @classmethod
    def of(
        cls, drawing: _Drawing, place: tuple[str, str], here: Sequence[dict[str, Any]]
    ) -> _Stacks:
        bars = [one for one in here if figures.kind(one) in {"bar", "waterfall"}]
        mode = str(drawing.layout.get("barmode", "group"))
        places = [drawing.along(one)[1 if one.get("orientation") == "h" else 0] for one in bars]
        known = np.unique(np.concatenate(places)) if places else np.zeros(0)
        gaps = np.diff(known[np.isfinite(known)])
        gap = _number(drawing.layout.get("bargap"))
        width = (float(gaps.min()) if gaps.size else 1.0) * (0.8 if math.isnan(gap) else 1 - gap)
        return cls(mode, width, bars)

    def slot(self, trace: dict[str, Any]) -> tuple[float, float]:
        """Width of a trace's bars and how far they stand from their place."""
        given = _number(trace.get("width"))
        if self.mode != "group" or len(self.bars) < 2:  # noqa: PLR2004 - alone, it has all the room
            return (self.width if math.isnan(given) else given), 0.0
        width = self.width / len(self.bars)
        return width, (self.bars.index(trace) - (len(self.bars) - 1) / 2) * width

    def bases(self, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Where bars begin: on what was stacked before."""
        if self.mode not in {"relative", "stack"}:
            return np.zeros(len(places))
        made: list[float] = []
        for place, length in zip(places.tolist(), np.nan_to_num(lengths).tolist(), strict=True):
            side = self.down if length < 0 else self.up
            made.append(side.get(place, 0.0))
            side[place] = made[-1] + length
        return np.array(made)


def _scatter(
    drawing: _Drawing, ax: Axes, trace: dict[str, Any], colour: str, _stacks: _Stacks
) -> Any:
    from matplotlib import lines

    x, y = drawing.along(trace)
    line, marker = figures.mapping(trace.get("line")), figures.mapping(trace.get("marker"))
    mode = str(trace.get("mode") or _usual_mode(len(x)))
    own = _first_colour(line.get("color"), marker.get("color"), colour)
    alpha = _alpha(trace)
    _fill(drawing, ax, trace, x, y, colour=own)
    width = _width(line, 2.0)
    handle: Any = None
    if "lines" in mode and width > 0:
        steps = {"hv": "steps-post", "vh": "steps-pre", "hvh": "steps-mid"}
        drawn = ax.plot(
            x,
            y,
            color=own,
            linewidth=width,
            linestyle=_dash(line),
            alpha=alpha,
            drawstyle=steps.get(str(line.get("shape")), "default"),
            solid_joinstyle="round",
        )
        handle = drawn[0]
    invisible = marker.get("opacity") == 0
    if "markers" in mode and not invisible:
        shown = _first_colour(marker.get("color"), line.get("color"), colour)
        _markers(drawing, ax, trace, x, y, colour=shown)
        if handle is None:
            handle = lines.Line2D([], [], linestyle="", marker=_symbol(marker)[0], color=shown)
    elif not invisible:
        # Of axes without marks: their range is that of the points, drawn or not.
        ax.update_datalim(np.column_stack([x, y])[np.isfinite(x) & np.isfinite(y)])
    for letter in "xy":
        _error_bars(ax, trace, letter, x, y, colour=own)
    if "text" in mode:
        _texts(ax, trace, x, y)
    return handle


def _usual_mode(count: int) -> str:
    return "lines+markers" if count < _FEWEST_POINTS_WITHOUT_MARKERS else "lines"


def _markers(
    drawing: _Drawing, ax: Axes, trace: Json, x: np.ndarray, y: np.ndarray, *, colour: Colour
) -> None:
    marker = figures.mapping(trace.get("marker"))
    symbol, hollow = _symbol(marker)
    size = marker.get("size", 6)
    sizes = np.array([_number(one) for one in size]) if isinstance(size, list) else _number(size)
    edge = figures.mapping(marker.get("line"))
    style: dict[str, Any] = {
        "marker": symbol,
        "s": (np.clip(np.nan_to_num(sizes, nan=6.0), 0.5, 60) * _POINT) ** 2,
        "alpha": _alpha(trace, marker),
        "linewidths": max(_width(edge, 0.0), 1.2 if symbol in "|_" else 0.0),
        "zorder": 3,
    }
    given = marker.get("color")
    scale = None
    if (
        isinstance(given, list)
        and given
        and all(isinstance(one, int | float | None) for one in given)
    ):
        scale = _Scale.of(drawing, marker, np.array([_number(one) for one in given]), "c")
        colours = scale.colours(np.array([_number(one) for one in given]))
    elif isinstance(given, list):
        colours = np.array([_colour(one, colour) for one in given] or [colour])
    else:
        colours = np.array([colour])
    if symbol in "|_":
        style |= {"color": colours}
    elif hollow:
        style |= {"facecolors": "none", "edgecolors": colours, "linewidths": 1.2}
    else:
        style |= {"facecolors": colours, "edgecolors": _edge(edge, colours)}
    drawn = ax.scatter(x, y, **style)
    drawn.set_rasterized(len(x) > _MOST_MARKS)
    ax.margins(0.06)
    if scale is not None:
        shared = marker.get("coloraxis")
        owner = drawing.layout.get(shared) if isinstance(shared, str) else marker
        asked = "colorbar" in figures.mapping(owner)
        drawing.colour_bar(
            figures.mapping(owner),
            scale,
            shown=bool(marker.get("showscale", asked)),
            shared=shared if isinstance(shared, str) else None,
        )


def _edge(edge: Json, colours: np.ndarray) -> Any:
    return _colour(edge.get("color"), "#ffffff") if _width(edge, 0.0) else colours


def _fill(
    drawing: _Drawing, ax: Axes, trace: Json, x: np.ndarray, y: np.ndarray, *, colour: Colour
) -> None:
    kind = trace.get("fill")
    if kind in {None, "none"}:
        return
    fill = _colour(trace.get("fillcolor"), (*colour[:3], 0.5))
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": "none", "linewidth": 0}
    if kind == "toself":
        gaps = np.flatnonzero(~(np.isfinite(x) & np.isfinite(y)))
        for across, up in zip(np.split(x, gaps), np.split(y, gaps), strict=True):
            known = np.isfinite(across) & np.isfinite(up)
            if known.sum() > 2:  # noqa: PLR2004 - fewer corners have no area
                ax.fill(across[known], up[known], **style)
        return
    if kind == "tozeroy":
        ax.fill_between(x, y, 0, **style)
    elif kind == "tozerox":
        ax.fill_betweenx(y, x, 0, **style)
    elif kind in {"tonexty", "tonextx"}:
        before = drawing.traces[: drawing.traces.index(dict(trace))]
        others = [one for one in before if _pair(one) == _pair(trace)]
        if others:
            other_x, other_y = drawing.along(others[-1])
            across, up = np.concatenate([x, other_x[::-1]]), np.concatenate([y, other_y[::-1]])
            known = np.isfinite(across) & np.isfinite(up)
            ax.fill(across[known], up[known], **style)


def _error_bars(
    ax: Axes, trace: Json, letter: str, x: np.ndarray, y: np.ndarray, *, colour: Colour
) -> None:
    found = figures.mapping(trace.get(f"error_{letter}"))
    if not found or found.get("visible") is False or found.get("type", "data") != "data":
        return
    up = np.array([_number(one) for one in figures.values(found.get("array"))])
    down = np.array([_number(one) for one in figures.values(found.get("arrayminus"))])
    if not up.size and not down.size:
        return
    up = up if up.size else np.zeros(len(x))
    down = down if down.size else (up if found.get("symmetric", True) else np.zeros(len(x)))
    reach = np.clip(np.nan_to_num(np.stack([down, up])), 0, None)
    ax.errorbar(
        x,
        y,
        xerr=reach if letter == "x" else None,
        yerr=reach if letter == "y" else None,
        fmt="none",
        ecolor=_colour(found.get("color"), TEXT if figures.kind(trace) == "bar" else colour),
        elinewidth=_width({"width": found.get("thickness")}, 1.6),
        capsize=3,
        zorder=3.5,
    )


def _texts(
    ax: Axes,
    trace: Json,
    x: np.ndarray,
    y: np.ndarray,
    *,
    behind: Sequence[Colour] | None = None,
) -> None:
    text = trace.get("text")
    listed = figures.values(text) if not isinstance(text, str) else [text] * len(x)
    places = trace.get("textposition", "middle center")
    font = figures.mapping(trace.get("textfont"))
    size = _number(font.get("size"))
    for index, (across, up, one) in enumerate(zip(x, y, listed, strict=False)):
        if not one or not (math.isfinite(across) and math.isfinite(up)):
            continue
        place = places[index % len(places)] if isinstance(places, list) and places else places
        vertical, _, horizontal = str(place).partition(" ")
        ax.annotate(
            _text(one),
            (across, up),
            xytext=(
                {"left": -6, "right": 6}.get(horizontal, 0),
                {"top": 6, "bottom": -6}.get(vertical, 0),
            ),
            textcoords="offset points",
            ha={"left": "right", "right": "left"}.get(horizontal, "center"),
            va={"top": "bottom", "bottom": "top"}.get(vertical, "center"),
            fontsize=min(size if size > 0 else _SIZE - 1, 20) * _POINT,
            color=TEXT if behind is None or _is_light(behind[index % len(behind)]) else "#ffffff",
            zorder=5,
        )


def _is_light(colour: Sequence[float]) -> bool:
    """Whether dark text is read more easily on a colour than white text."""
    red, green, blue = colour[:3]
    return 0.3 * red + 0.59 * green + 0.11 * blue > 0.55  # noqa: PLR2004 - by eye


def _bar(drawing: _Drawing, ax: Axes, trace: dict[str, Any], colour: str, stacks: _Stacks) -> Any:
    x, y = drawing.along(trace)
    flat = trace.get("orientation") == "h"
    places, lengths = (y, x) if flat else (x, y)
    bases = stacks.bases(places, lengths)
    given = trace.get("base")
    if given is not None:
        listed = given if isinstance(given, list) else [given] * len(places)
        bases = np.array([_number(one) for one in listed])
    width, offset = stacks.slot(trace)
    at = places + offset
    colours = _mark_colours(drawing, figures.mapping(trace.get("marker")), colour)
    alpha = _alpha(trace)
    if flat:
        drawn = ax.barh(at, lengths, width, left=bases, color=colours, alpha=alpha)
        _error_bars(ax, trace, "x", bases + lengths, at, colour=colours[0])
    else:
        drawn = ax.bar(at, lengths, width, bottom=bases, color=colours, alpha=alpha)
        _error_bars(ax, trace, "y", at, bases + lengths, colour=colours[0])
    text = trace.get("text")
    if text is not None:
        inside = trace.get("textposition") in {"inside", "auto", None}
        kept = {**trace, "textposition": "middle center" if inside else "top center"}
        middle = bases + lengths / 2 if inside else bases + lengths
        places_of_text = (middle, at) if flat else (at, middle)
        _texts(ax, kept, *places_of_text, behind=colours if inside else None)
    return drawn


def _mark_colours(drawing: _Drawing, marker: Json, colour: str) -> list[Colour]:
    given = marker.get("color")
    if not isinstance(given, list):
        return [_colour(given, colour)]
    if given and all(isinstance(one, int | float | None) for one in given):
        numbers = np.array([_number(one) for one in given])
        return [tuple(one) for one in _Scale.of(drawing, marker, numbers, "c").colours(numbers)]
    return [_colour(one, colour) for one in given] or [_colour(colour, colour)]


def _histogram(
    drawing: _Drawing, ax: Axes, trace: dict[str, Any], colour: str, _stacks: _Stacks
) -> Any:
    flat = not figures.values(trace.get("x"))
    letter = "y" if flat else "x"
    listed = drawing.axis[_pair(trace)[flat]].numbers(figures.values(trace.get(letter)))
    known = listed[np.isfinite(listed)]
    counts, edges = np.histogram(
        known, _edges(figures.mapping(trace.get(f"{letter}bins")), trace, known)
    )
    heights = counts.astype(np.float64)
    total = max(counts.sum(), 1)
    heights *= {"probability": 1 / total, "percent": 100 / total}.get(
        str(trace.get("histnorm")), 1.0
    )
    if trace.get("histnorm") in {"density", "probability density"}:
        share = total if "probability" in str(trace.get("histnorm")) else 1
        heights = heights / (np.diff(edges) * share)
    style: dict[str, Any] = {
        "color": _colour(figures.mapping(trace.get("marker")).get("color"), colour),
        "align": "edge",
        "alpha": _alpha(trace),
    }
    widths = np.diff(edges) * 0.97
    return (ax.barh if flat else ax.bar)(edges[:-1], heights, widths, **style)


def _edges(given: Json, trace: Json, known: np.ndarray) -> Any:
    start, end, size = (_number(given.get(name)) for name in ("start", "end", "size"))
    if np.isfinite([start, end, size]).all() and size > 0 and (end - start) / size < 10_000:  # noqa: PLR2004 - more bins are a mistake
        return np.arange(start, end + size / 2, size)
    asked = _number(trace.get("nbinsx") or trace.get("nbinsy"))
    if not known.size:
        return 1
    return (
        int(min(max(asked, 1), 500))
        if math.isfinite(asked)
        else int(min(max(math.sqrt(known.size), 5), 60))
    )


def _waterfall(
    drawing: _Drawing, ax: Axes, trace: dict[str, Any], _colour_of_trace: str, stacks: _Stacks
) -> Any:
    x, y = drawing.along(trace)
    measures = figures.values(trace.get("measure")) or ["relative"] * len(x)
    running, bases, ends, colours = 0.0, list[float](), list[float](), list[Colour]()
    for kind, step in zip(measures, np.nan_to_num(y).tolist(), strict=False):
        begin = running if kind == "relative" else 0.0
        running = (
            running + step if kind == "relative" else (step if kind == "absolute" else running)
        )
        bases.append(begin)
        ends.append(running)
        side = "totals" if kind != "relative" else "increasing" if step >= 0 else "decreasing"
        found = figures.mapping(figures.mapping(trace.get(side)).get("marker"))
        usual = {"totals": _GREY, "increasing": plots.COLOURS[0], "decreasing": plots.COLOURS[1]}
        colours.append(_colour(found.get("color"), usual[side]))
    width, _ = stacks.slot(trace)
    count = len(bases)
    drawn = ax.bar(
        x[:count], np.subtract(ends, bases), width, bottom=bases, color=colours, zorder=2
    )
    for index in range(count - 1):
        ax.plot(x[index : index + 2], [ends[index]] * 2, color=_GREY, linewidth=0.7, zorder=1.5)
    return drawn


def _violin(
    drawing: _Drawing, ax: Axes, trace: dict[str, Any], colour: str, _stacks: _Stacks
) -> Any:
    flat = trace.get("orientation") == "h"
    across, up = _pair(trace)
    numbers = drawing.axis[across if flat else up].numbers(
        figures.values(trace.get("x" if flat else "y"))
    )
    named = figures.values(trace.get("y" if flat else "x"))
    places = (
        drawing.axis[up if flat else across].numbers(named) if named else np.zeros(len(numbers))
    )
    shade = _colour(figures.mapping(trace.get("line")).get("color"), colour)
    # Of the jitter only: it moves no number.
    generator = np.random.default_rng(0)
    handle: Any = None
    for place in np.unique(places[np.isfinite(places)]):
        here = numbers[(places == place) & np.isfinite(numbers)]
        if np.ptp(here) > 0 if here.size > 1 else False:
            drawn = ax.violinplot(
                [here], [place], orientation="horizontal" if flat else "vertical",
                widths=0.8, showextrema=False,
            )  # fmt: skip
            for body in cast("Any", drawn["bodies"]):
                body.set(facecolor=(*shade[:3], 0.25), edgecolor=shade, alpha=None)
        jitter = place + generator.uniform(-0.2, 0.2, len(here))
        handle = ax.scatter(
            here if flat else jitter, jitter if flat else here, s=5, color=[shade], linewidths=0
        )
    return handle


def _heatmap(
    drawing: _Drawing, ax: Axes, trace: dict[str, Any], _colour_of_trace: str, _stacks: _Stacks
) -> Any:
    z = _grid(trace.get("z"))
    across, up = _pair(trace)
    x = _bounds(drawing.axis[across], figures.values(trace.get("x")), z.shape[1])
    y = _bounds(drawing.axis[up], figures.values(trace.get("y")), z.shape[0])
    scale = _Scale.of(drawing, trace, z, "z")
    gap = _number(trace.get("xgap"))
    even = np.allclose(np.diff(x), x[1] - x[0]) and np.allclose(np.diff(y), y[1] - y[0])
    shown = np.ma.masked_invalid(z)
    style: dict[str, Any] = {
        "cmap": scale.map,
        "norm": scale.norm,
        "alpha": _alpha(trace),
    }
    if z.size > _MOST_CELLS and even:
        ends = (x[0], x[-1], y[0], y[-1])
        ax.imshow(shown, extent=ends, origin="lower", aspect="auto", interpolation="none", **style)
    else:
        ax.pcolormesh(
            x,
            y,
            shown,
            edgecolors="#ffffff" if gap > 0 else "face",
            linewidth=gap * _POINT if gap > 0 else 0.2,
            **style,
        )
    texts = figures.values(trace.get("text"))
    if texts and trace.get("texttemplate"):
        for row, line in enumerate(texts[: z.shape[0]]):
            for column, one in enumerate(figures.values(line)[: z.shape[1]]):
                if one in {None, ""}:
                    continue
                shade = scale.colours(z[row : row + 1, column])[0]
                light = math.isnan(z[row, column]) or _is_light(shade.tolist())
                ax.text(
                    (x[column] + x[column + 1]) / 2,
                    (y[row] + y[row + 1]) / 2,
                    _text(one),
                    ha="center",
                    va="center",
                    fontsize=(_SIZE - 2) * _POINT,
                    color=TEXT if light else "#ffffff",
                )
    shared = trace.get("coloraxis")
    owner = figures.mapping(drawing.layout.get(shared)) if isinstance(shared, str) else trace
    asked = owner.get("showscale", trace.get("showscale", True))
    name = shared if isinstance(shared, str) else None
    drawing.colour_bar(owner, scale, shown=bool(asked), shared=name)


def _grid(given: object) -> np.ndarray:
    rows = [figures.values(line) for line in figures.values(given)]
    if not rows or not rows[0]:
        raise CannotDraw("a heat map without cells")
    longest = max(map(len, rows))
    return np.array(
        [[_number(one) for one in line] + [math.nan] * (longest - len(line)) for line in rows]
    )


def _bounds(axis: _Axis, listed: Sequence[Any], count: int) -> np.ndarray:
    """Edges of the cells of a heat map from their centres."""
    if not listed:
        return np.arange(count + 1) - 0.5
    centres = axis.numbers(listed)
    if len(centres) == count + 1:
        return centres
    if count == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - between[0]], between, [2 * centres[-1] - between[-1]]])


_Drawer = Callable[["_Drawing", "Axes", dict[str, Any], str, "_Stacks"], Any]
_DRAWN: dict[str, _Drawer] = {
    "bar": _bar,
    "heatmap": _heatmap,
    "histogram": _histogram,
    "scatter": _scatter,
    "scattergl": _scatter,
    "violin": _violin,
    "waterfall": _waterfall,
}


# Small parts ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Colours of numbers."""

    map: Any
    norm: Any

    @classmethod
    def of(cls, drawing: _Drawing, owner: Json, numbers: np.ndarray, letter: str) -> _Scale:
        """Colours of a heat map ("z") or of marks ("c"), its own or those of a shared axis."""
        from matplotlib import colors

        shared = owner.get("coloraxis")
        if isinstance(shared, str):
            owner, letter = figures.mapping(drawing.layout.get(shared)), "c"
        known = numbers[np.isfinite(numbers)]
        low, high = (_number(owner.get(f"{letter}{end}")) for end in ("min", "max"))
        middle = _number(owner.get(f"{letter}mid"))
        if math.isnan(low):
            low = float(known.min()) if known.size else 0.0
        if math.isnan(high):
            high = float(known.max()) if known.size else 1.0
        if math.isfinite(middle):
            reach = max(abs(low - middle), abs(high - middle))
            low, high = middle - reach, middle + reach
        if not high > low:
            high = low + 1.0
        stops = _stops(owner.get("colorscale"))
        if owner.get("reversescale"):
            stops = [(1 - at, colour) for at, colour in reversed(stops)]
        made = colors.LinearSegmentedColormap.from_list("scale", stops)
        return cls(made, colors.Normalize(low, high))

    def colours(self, numbers: np.ndarray) -> np.ndarray:
        return np.asarray(self.map(np.ma.masked_invalid(self.norm(numbers))), dtype=np.float64)


def _stops(given: object) -> list[tuple[float, Colour]]:
    from plotly import colors

    if isinstance(given, str):
        given = colors.get_colorscale(given)
    listed = figures.values(given) or colors.get_colorscale(plots.SEQUENTIAL)
    stops = [(_number(at), _colour(colour, _GREY)) for at, colour in listed]
    # matplotlib wants the ends at 0 and 1 exactly.
    return [(0.0, stops[0][1]), *[s for s in stops if 0 < s[0] < 1], (1.0, stops[-1][1])]


def _number(value: object) -> float:
    """A number as such; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def _alpha(*parts: Json) -> float | None:
    """Opacity of marks; none where each colour has its own."""
    found = math.prod(_share(part.get("opacity")) for part in parts)
    return found if found < 1 else None


def _share(value: object) -> float:
    found = _number(value)
    return 1.0 if math.isnan(found) else min(max(found, 0.0), 1.0)


def _colour(value: object, otherwise: object) -> Colour:
    """A colour of CSS; the other one where it is none."""
    from matplotlib import colors

    for one in (value, otherwise):
        text = one.strip() if isinstance(one, str) else one
        if isinstance(text, str) and (found := _RGB.fullmatch(text)):
            parts = [_number(part.strip().rstrip("%")) for part in found[1].split(",")]
            if len(parts) in {3, 4} and np.isfinite(parts).all():
                red, green, blue = (min(max(part / 255, 0.0), 1.0) for part in parts[:3])
                return red, green, blue, _share(parts[3] if len(parts) > 3 else 1.0)  # noqa: PLR2004 - the fourth is opacity
        elif colors.is_color_like(text):
            return colors.to_rgba(cast("Any", text))
    return 0.0, 0.0, 0.0, 1.0


def _first_colour(*given: object) -> Colour:
    """The first that is one colour; lists are colours of single marks."""
    chosen = next((one for one in given if isinstance(one, str)), _GREY)
    return _colour(chosen, _GREY)


def _width(line: Json, otherwise: float) -> float:
    found = _number(line.get("width"))
    return (otherwise if math.isnan(found) else min(max(found, 0.0), 30.0)) * _POINT


def _dash(line: Json) -> Any:
    return _DASHES.get(str(line.get("dash")), "-")


def _symbol(marker: Json) -> tuple[str, bool]:
    name = marker.get("symbol")
    plain = str(name if isinstance(name, str) else "circle")
    return _SYMBOLS.get(plain.removesuffix("-open").removesuffix("-dot"), "o"), plain.endswith(
        "-open"
    )


def _pair(trace: Json) -> tuple[str, str]:
    return str(trace.get("xaxis") or "x"), str(trace.get("yaxis") or "y")


def _domain(found: Json) -> tuple[float, float]:
    ends = [_number(one) for one in figures.values(found.get("domain"))]
    if len(ends) == 2 and np.isfinite(ends).all() and ends[0] < ends[1]:  # noqa: PLR2004 - two ends
        return ends[0], ends[1]
    return 0.0, 1.0


def _along(trace: Json, letter: str) -> list[Any]:
    return figures.values(trace.get(letter))


def _names(found: Json, listed: Sequence[Any]) -> dict[str, int] | None:
    """Order of the names of an axis; none for an axis of numbers."""
    known = [one for one in listed if one is not None]
    wordy = any(isinstance(one, str) and math.isnan(_number(one)) for one in known)
    if found.get("type") in {"linear", "log"} or not (wordy or found.get("type") == "category"):
        return None
    ordered = figures.values(found.get("categoryarray")) + known
    return {name: index for index, name in enumerate(dict.fromkeys(map(str, ordered)))}


def _place(axis: _Axis, value: object) -> float:
    return float(axis.numbers([value])[0])


_ACROSS, _UP = ("left", "center", "right"), ("bottom", "center", "top")


def _annotated(drawing: _Drawing, reference: object, letter: str, note: Json) -> float:
    """Where an annotation is; on a logarithmic axis Plotly gives the exponent."""
    axis = drawing.axis.get(str(reference or letter))
    at = drawing.at(reference, letter, note.get(letter))
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
    return words[min(max(int(at * 3), 0), 2)]


def _logarithmic_tick(value: float | int, _position: int | None = None) -> str:
    exponent = math.log10(value) if value > 0 else math.nan
    is_power = math.isfinite(exponent) and math.isclose(exponent, round(exponent), abs_tol=1e-9)
    if is_power and round(exponent) not in _SHORT_POWERS:
        return "10" + str(round(exponent)).translate(_SUPERSCRIPTS)
    return f"{value:g}"


def _number_format(given: object) -> Callable[..., str]:
    found = _NUMBER_FORMAT.match(given) if isinstance(given, str) else None
    if found is None:
        return lambda value, _position=None: f"{value:,.6g}".replace("-", "−")
    pattern = f"{{:{found[1]}.{found[2]}{found[3] or 'g'}}}"
    return lambda value, _position=None: pattern.format(value).replace("-", "−")
