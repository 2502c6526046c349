"""The page of a figure: where its pairs of axes, colour bars, title and legend stand.

1. Every pair of axes that a trace names becomes a panel: matplotlib's axes and what they show.
2. Colour bars stand where Plotly puts them.
3. The margins grow until every text is inside; a margin that is not needed goes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from workbench.report import figures
from workbench.report.vector import style
from workbench.report.vector.scales import Axis, Colours
from workbench.report.vector.stacks import Stacks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR_WIDTH = 0.016
# Rounds of measuring texts and moving margins; the texts hardly change after the second.
_ROUNDS = 4
_PAD = 6.0
_LEAST_HEIGHT, _MOST_HEIGHT = 160, 1400


class CannotDraw(ValueError):
    """A figure that is drawn in the interactive report only; the message says why."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A pair of axes.

    Attributes:
        ax: matplotlib's.
        names: Plotly's names of the two, such as ("x", "y2").
        across: The horizontal axis.
        up: The vertical axis.
        traces: What is drawn on them, in its order.
        stacks: How the bars among these stand.
    """

    ax: Axes
    names: tuple[str, str]
    across: Axis
    up: Axis
    traces: tuple[dict[str, Any], ...]
    stacks: Stacks

    def points(self, trace: figures.Json) -> tuple[np.ndarray, np.ndarray]:
        """Where the points of a trace are.

        Args:
            trace: The trace.

        Returns:
            Numbers across and up.
        """
        x, y = figures.points(trace)
        return self.across.numbers(x), self.up.numbers(y)

    def limits(self, letter: str) -> tuple[float, float]:
        """Range of one axis.

        Args:
            letter: "x" or "y".

        Returns:
            Its ends.
        """
        return self.ax.get_xlim() if letter == "x" else self.ax.get_ylim()

    def limit(self, letter: str, low: float | int, high: float | int) -> None:
        """Set the range of one axis.

        Args:
            letter: "x" or "y".
            low: Left or lower end.
            high: The other end; below the first where the axis runs backwards.
        """
        (self.ax.set_xlim if letter == "x" else self.ax.set_ylim)(low, high)


class Page:
    """A figure while it is drawn.

    Attributes:
        layout: Plotly's.
        traces: All that are shown.
        figure: matplotlib's figure.
        paper: Axes of the whole plotting area, without anything of their own.
        axes: Plotly's axes by name.
        panels: The pairs of axes that traces name.
        handles: What the legend shows, with its words.
    """

    def __init__(self, figure: figures.Json) -> None:
        from matplotlib.figure import Figure

        self.layout = figures.layout(figure)
        self.traces = figures.traces(figure)
        self.height = height(figure)
        self.figure: Figure = Figure(
            figsize=(style.WIDTH / style.DPI, self.height / style.DPI),
            dpi=style.DPI,
            facecolor="none",
        )
        self.paper: Axes = self._axes()
        self.paper.set_axis_off()
        self.paper.set_zorder(-1)
        self._domains = [(self.paper, (0.0, 1.0), (0.0, 1.0))]
        self._with_bar: set[str] = set()
        self.handles: list[tuple[Any, str]] = []
        self.axes: dict[str, Axis] = {}
        self.panels: list[Panel] = []
        for names in sorted({figures.pair(one) for one in self.traces} or {("x", "y")}):
            self.panels.append(self._panel(figure, names))

    def _axes(self) -> Axes:
        return self.figure.add_axes((0.0, 0.0, 1.0, 1.0))

    def _panel(self, figure: figures.Json, names: tuple[str, str]) -> Panel:
        for index, (letter, name) in enumerate(zip("xy", names, strict=True)):
            if name not in self.axes:
                on_it = [one for one in self.traces if figures.pair(one)[index] == name]
                listed = [value for one in on_it for value in figures.values(one.get(letter))]
                self.axes[name] = Axis.of(figures.axis(figure, letter, name), listed)
        across, up = (self.axes[name] for name in names)
        over = up.found.get("overlaying") or across.found.get("overlaying")
        base = next((one.ax for one in self.panels if over in one.names), None)
        if base is not None:
            ax = base.twinx() if up.found.get("overlaying") else base.twiny()
        else:
            ax = self._axes()
            ax.set_facecolor(style.colour(self.layout.get("plot_bgcolor"), "none"))
        self._domains.append((ax, across.domain, up.domain))
        if across.logarithmic:
            ax.set_xscale("log")
        if up.logarithmic:
            ax.set_yscale("log")
        here = tuple(one for one in self.traces if figures.pair(one) == names)
        return Panel(ax, names, across, up, here, Stacks.of(self.layout, here, across, up))

    def colour_bar(
        self, owner: figures.Json, colours: Colours, *, shown: bool, shared: str | None
    ) -> None:
        """Stand a colour bar where Plotly does, once for traces that share it.

        Args:
            owner: What describes the bar: a trace, a marker or an axis of colours.
            colours: The scale.
            shown: Whether it is wanted.
            shared: The axis of colours; none for a scale that one trace has for itself.
        """
        from matplotlib import cm

        if not shown or shared in self._with_bar:
            return
        if shared is not None:
            self._with_bar.add(shared)
        found = figures.mapping(owner.get("colorbar"))
        left = figures.number(found.get("x"), 1.02)
        reach = min(figures.number(found.get("len"), 1), 1.0) / 2
        middle = figures.number(found.get("y"), 0.5)
        bar = self._axes()
        self._domains.append((bar, (left, left + _BAR_WIDTH), (middle - reach, middle + reach)))
        drawn = self.figure.colorbar(cm.ScalarMappable(colours.norm, colours.map), cax=bar)
        cast("Any", drawn.outline).set_visible(False)
        bar.tick_params(length=0, labelsize=(style.SIZE - 1) * style.POINT)
        ticks = figures.tick_texts(found)
        if ticks:
            drawn.set_ticks(
                list(map(figures.number, ticks)), labels=list(map(style.printable, ticks.values()))
            )
        bar.set_ylabel(style.printable(figures.title(found)), rotation=90)

    def match_axes(self) -> None:
        """Give axes that match one another the same range."""
        for letter, name in {(name[0], name) for one in self.panels for name in one.names}:
            target = self.axes[name].found.get("matches")
            if not isinstance(target, str) or target not in self.axes:
                continue
            index = "xy".index(letter)
            group = [one for one in self.panels if one.names[index] in {name, target}]
            spans = [one.limits(letter) for one in group]
            low, high = min(s[0] for s in spans), max(s[1] for s in spans)
            for one in group:
                one.limit(letter, low, high)

    def write_legend(self) -> None:
        """Write the legend and the title above the plotting area."""
        shown = self.layout.get("showlegend", len(self.handles) > 1)
        if self.handles and shown:
            handles, names = zip(*self.handles, strict=True)
            upright = figures.mapping(self.layout.get("legend")).get("orientation") == "v"
            self.paper.legend(
                handles,
                names,
                loc="lower left",
                bbox_to_anchor=(0.0, 1.01),
                ncols=1 if upright else _columns(names),
                frameon=False,
                fontsize=(style.SIZE - 1) * style.POINT,
                borderaxespad=0.2,
                handlelength=1.6,
                columnspacing=1.4,
            )
        title = figures.title(self.layout)
        if title:
            size = (style.SIZE + 1) * style.POINT
            self.paper.set_title(style.printable(title), loc="left", fontsize=size)

    def fit_margins(self) -> None:
        """Grow the margins until every text is inside; a margin that is not needed goes."""
        from matplotlib.backends import backend_agg

        # Measuring needs a renderer; outlines of text are as wide as its picture.
        renderer = backend_agg.FigureCanvasAgg(self.figure).get_renderer()
        wide, high = float(style.WIDTH), float(self.height)
        pad = _PAD / wide, _PAD / high
        left, right, bottom, top = 0.08, 0.97, 0.14, 0.95
        for _ in range(_ROUNDS):
            for ax, across, up in self._domains:
                x0, x1 = (left + (right - left) * one for one in across)
                y0, y1 = (bottom + (top - bottom) * one for one in up)
                ax.set_position((x0, y0, max(x1 - x0, 1e-3), max(y1 - y0, 1e-3)))
            boxes = [ax.get_tightbbox(renderer) for ax, _, _ in self._domains]
            known = [box for box in boxes if box is not None and np.isfinite(box.extents).all()]
            if not known:
                return
            x0, y0 = min(b.x0 for b in known) / wide, min(b.y0 for b in known) / high
            x1, y1 = max(b.x1 for b in known) / wide, max(b.y1 for b in known) / high
            left, right = min(left - x0 + pad[0], 0.6), max(right - (x1 - 1 + pad[0]), 0.65)
            bottom, top = min(bottom - y0 + pad[1], 0.6), max(top - (y1 - 1 + pad[1]), 0.65)


def height(figure: figures.Json) -> int:
    """Height of a figure.

    Args:
        figure: Plotly's JSON.

    Returns:
        Pixels: its own, within reason.
    """
    given = figures.number(figures.layout(figure).get("height"), style.HEIGHT)
    return round(min(max(given, _LEAST_HEIGHT), _MOST_HEIGHT))


def _columns(names: Sequence[str]) -> int:
    """Names of a legend beside one another, by the room that they take."""
    longest = sum(len(name) + 6 for name in names) * style.SIZE * 0.6
    rows = max(math.ceil(longest / (style.WIDTH * 0.85)), 1)
    return max(math.ceil(len(names) / rows), 1)
