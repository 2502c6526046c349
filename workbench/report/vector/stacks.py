"""How the bars of one pair of axes stand: beside one another or on top of one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.report import figures
from workbench.report.vector.scales import Axis


@dataclasses.dataclass
class Stacks:
    """What stands where; it grows while bars are drawn.

    Attributes:
        mode: Plotly's "group", "stack", "relative" or "overlay".
        width: What the bars of a place have together, in units of their axis.
        bars: The traces that are bars.
        up: How far the bars of each place reach up.
        down: How far they reach down.
    """

    mode: str
    width: float
    bars: list[dict[str, Any]]
    up: dict[float, float] = dataclasses.field(default_factory=dict[float, float])
    down: dict[float, float] = dataclasses.field(default_factory=dict[float, float])

    @classmethod
    def of(
        cls, layout: figures.Json, traces: Sequence[dict[str, Any]], across: Axis, up: Axis
    ) -> Stacks:
        """Plan the bars of a pair of axes.

        Args:
            layout: The figure's.
            traces: What is drawn on the axes.
            across: The horizontal axis.
            up: The vertical axis.

        Returns:
            Stacks without anything on them.
        """
        bars = [one for one in traces if figures.kind(one) in {"bar", "waterfall"}]
        places = [
            up.numbers(y) if one.get("orientation") == "h" else across.numbers(x)
            for one in bars
            for x, y in [figures.points(one)]
        ]
        known = np.unique(np.concatenate(places)) if places else np.zeros(0)
        gaps = np.diff(known[np.isfinite(known)])
        share = 1 - figures.number(layout.get("bargap"), 0.2)
        width = (float(gaps.min()) if gaps.size else 1.0) * share
        return cls(str(layout.get("barmode", "group")), width, bars)

    def slot(self, trace: figures.Json) -> tuple[float, float]:
        """Room for the bars of a trace.

        Args:
            trace: The trace.

        Returns:
            The width of its bars, and how far they stand from their place.
        """
        if self.mode != "group" or len(self.bars) < 2:  # noqa: PLR2004 - alone, it has all the room
            return figures.number(trace.get("width"), self.width), 0.0
        width = self.width / len(self.bars)
        return width, (self.bars.index(dict(trace)) - (len(self.bars) - 1) / 2) * width

    def bases(self, places: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Put bars on what was stacked before.

        Args:
            places: Where they stand.
            lengths: How far each reaches.

        Returns:
            Where each begins.
        """
        if self.mode not in {"relative", "stack"}:
            return np.zeros(len(places))
        made: list[float] = []
        for place, length in zip(places.tolist(), np.nan_to_num(lengths).tolist(), strict=True):
            side = self.down if length < 0 else self.up
            made.append(side.get(place, 0.0))
            side[place] = made[-1] + length
        return np.array(made)
