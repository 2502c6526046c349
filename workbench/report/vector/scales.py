"""What places and colours stand for: the numbers, names and colours of a figure's axes.

An axis counts names in their order, or takes numbers as they are. A scale of colours is that of
one trace, or of several that share an axis of colours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.core import plots
from workbench.report import figures
from workbench.report.vector import style


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of Plotly's.

    Attributes:
        found: Its layout.
        names: Place of each name where it counts names; none for an axis of numbers.
    """

    found: dict[str, Any]
    names: dict[str, int] | None

    @classmethod
    def of(cls, found: dict[str, Any], listed: Sequence[Any]) -> Axis:
        """Read an axis.

        Args:
            found: Its layout.
            listed: Everything that traces put on it, in their order.

        Returns:
            The axis.
        """
        known = [one for one in listed if one is not None]
        wordy = any(isinstance(one, str) and math.isnan(figures.number(one)) for one in known)
        kind = figures.word(found.get("type"))
        if kind in {"linear", "log"} or not (wordy or kind == "category"):
            return cls(found, None)
        ordered = figures.values(found.get("categoryarray")) + known
        names = dict.fromkeys(map(str, ordered))
        return cls(found, {name: index for index, name in enumerate(names)})

    @property
    def logarithmic(self) -> bool:
        """Whether equal steps along it are equal factors."""
        return self.found.get("type") == "log"

    @property
    def domain(self) -> tuple[float, float]:
        """The share of the page that it takes, as its ends."""
        ends = [figures.number(one) for one in figures.values(self.found.get("domain"))]
        if len(ends) == 2 and np.isfinite(ends).all() and ends[0] < ends[1]:  # noqa: PLR2004 - two ends
            return ends[0], ends[1]
        return 0.0, 1.0

    def numbers(self, listed: Sequence[Any]) -> np.ndarray:
        """Places along the axis.

        Args:
            listed: Names or numbers.

        Returns:
            A number for each; NaN where there is none.
        """
        return np.array([self.place(one) for one in listed], dtype=np.float64)

    def place(self, value: object) -> float:
        """A place along the axis.

        Args:
            value: Name or number.

        Returns:
            The place; NaN where it is neither.
        """
        if self.names is None:
            return figures.number(value)
        if value is None:
            return math.nan
        named = self.names.get(str(value), value if isinstance(value, int | float) else math.nan)
        return figures.number(named)


@dataclasses.dataclass(frozen=True)
class Colours:
    """Colours of numbers.

    Attributes:
        map: matplotlib's colours of shares.
        norm: matplotlib's shares of numbers.
    """

    map: Any
    norm: Any

    @classmethod
    def of(
        cls, layout: figures.Json, owner: figures.Json, *, numbers: np.ndarray, letter: str
    ) -> Colours:
        """Read a scale of colours.

        Args:
            layout: The figure's.
            owner: The trace or marker that has the scale, or names the axis that has it.
            numbers: What is coloured.
            letter: "z" for the numbers of a heat map, "c" for those of marks.

        Returns:
            The scale.
        """
        from matplotlib import colors

        shared = owner.get("coloraxis")
        if isinstance(shared, str):
            owner, letter = figures.mapping(layout.get(shared)), "c"
        known = numbers[np.isfinite(numbers)]
        low = figures.number(owner.get(f"{letter}min"), float(known.min()) if known.size else 0.0)
        high = figures.number(owner.get(f"{letter}max"), float(known.max()) if known.size else 1.0)
        middle = figures.number(owner.get(f"{letter}mid"))
        if math.isfinite(middle):
            reach = max(abs(low - middle), abs(high - middle))
            low, high = middle - reach, middle + reach
        if not high > low:
            high = low + 1.0
        stops = _stops(owner.get("colorscale"))
        if owner.get("reversescale"):
            stops = [(1 - at, shade) for at, shade in reversed(stops)]
        made = colors.LinearSegmentedColormap.from_list("scale", stops)
        return cls(made, colors.Normalize(low, high))

    def shades(self, numbers: np.ndarray) -> np.ndarray:
        """Colours of numbers.

        Args:
            numbers: The numbers.

        Returns:
            A row of red, green, blue and opacity for each.
        """
        return np.asarray(self.map(np.ma.masked_invalid(self.norm(numbers))), dtype=np.float64)


def _stops(given: object) -> list[tuple[float, style.Colour]]:
    from plotly import colors, exceptions

    usual = colors.get_colorscale(plots.SEQUENTIAL)
    if isinstance(given, str):
        try:
            given = colors.get_colorscale(given)
        except exceptions.PlotlyError:
            given = usual
    pairs = [figures.values(one) for one in figures.values(given) or usual]
    if any(len(one) != 2 for one in pairs):  # noqa: PLR2004 - a share and a colour
        pairs = usual
    stops = [(figures.number(at), style.colour(shade, style.GREY)) for at, shade in pairs]
    # matplotlib wants the ends at 0 and 1 exactly.
    return [(0.0, stops[0][1]), *[s for s in stops if 0 < s[0] < 1], (1.0, stops[-1][1])]
