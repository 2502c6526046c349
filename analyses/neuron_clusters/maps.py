"""Map of a whole network: a row a place, a square a unit, in colours of a number or of clusters.

Units of a place stand in the order of a number (the largest first), or as they are numbered. Rows
are as long as the largest place; what is left over is blank.

Limits: every square carries a marker, so that it can be clicked: of a hundred thousand units a
figure takes some seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int

from workbench.core import plots

ORDERS = ("value", "number")
# Of units in no cluster, so no cluster is grey.
_GREY = "#d9dde3"
_COLOURS = (
    *plots.COLOURS[:-1],
    *("#92c5de", "#f4a582", "#b8e186", "#fdb863", "#c2a5cf", "#80cdc1"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkMap:
    """Where each unit stands on the map.

    Attributes:
        unit: Number of the unit in each square; -1 where there is none.
        rows: Name of each row.
    """

    unit: Int[np.ndarray, "row column"]
    rows: tuple[str, ...]

    def spread(self, values: Float[np.ndarray, " unit"]) -> Float[np.ndarray, "row column"]:
        """A number of each unit on its square; NaN where there is no unit."""
        return np.where(self.unit >= 0, values[self.unit], np.nan)


def laid_out(
    places: Sequence[str],
    place: Int[np.ndarray, " unit"],
    values: Float[np.ndarray, " unit"],
    *,
    order: str = "value",
) -> NetworkMap:
    """Give each unit a square.

    Args:
        places: Name of each place, the first one at the bottom.
        place: Place of each unit.
        values: What units are ordered by; NaN stands last.
        order: By "value", the largest first, or by "number".

    Returns:
        The map.

    Raises:
        ValueError: If there is no such order.
    """
    if order not in ORDERS:
        raise ValueError(f"order = {order!r}; expected one of {', '.join(ORDERS)}")
    sizes = np.bincount(place, minlength=len(places))
    unit = np.full((len(places), int(sizes.max())), -1, dtype=np.int64)
    for row in range(len(places)):
        here = np.flatnonzero(place == row)
        if order == "value":
            here = here[np.argsort(-np.nan_to_num(values[here], nan=-np.inf), kind="stable")]
        unit[row, : len(here)] = here
    return NetworkMap(unit, tuple(places))


def number_map(
    layout: NetworkMap,
    said: Sequence[str],
    values: Float[np.ndarray, " unit"],
    *,
    title: str,
    marked: Sequence[int] = (),
    selected: plots.Cell | None = None,
    scale: plots.Scale = "diverging",
) -> go.Figure:
    """The map in colours of a number.

    Args:
        layout: Where units stand.
        said: What is told of each unit: its name, or more; it is escaped.
        values: The numbers; NaN is blank.
        title: What the colour means.
        marked: Units that get a dot, such as those that are selective.
        selected: Square to outline.
        scale: As for `plots.heatmap`.

    Returns:
        The figure; a click on a square is read as `plots.heatmap` says.
    """
    figure = plots.heatmap(
        layout.spread(values),
        row_labels=[plots.escape(row) for row in layout.rows],
        column_labels=[str(i + 1) for i in range(layout.unit.shape[1])],
        row_title="place",
        column_title="units, in their order",
        colour_title=title,
        hover=_said(layout, said),
        selected=selected,
        scale=scale,
    )
    figure.update_layout(showlegend=False)
    dots = np.argwhere(np.isin(layout.unit, np.asarray(marked, dtype=np.int64)))
    if len(dots):
        dot = {"color": "#111111", "size": 4}
        drawn = go.Scatter(x=dots[:, 1], y=dots[:, 0], mode="markers", marker=dot, hoverinfo="skip")
        # The last trace is what a click is read from.
        figure.data = (*figure.data[:-1], figure.add_trace(drawn).data[-1], figure.data[-2])
    return figure


def cluster_map(
    layout: NetworkMap,
    names: Sequence[str],
    labels: Int[np.ndarray, " unit"],
    *,
    selected: plots.Cell | None = None,
) -> go.Figure:
    """The map in colours of clusters.

    Args:
        layout: Where units stand.
        names: Name of each unit.
        labels: Cluster of each unit; -1 for none, which is grey.
        selected: Square to outline.

    Returns:
        The figure; a click on a square is read as `plots.heatmap` says.
    """
    count = int(labels.max(initial=-1)) + 1
    figure = plots.heatmap(
        layout.spread(labels.astype(np.float64)),
        row_labels=[plots.escape(row) for row in layout.rows],
        column_labels=[str(i + 1) for i in range(layout.unit.shape[1])],
        row_title="place",
        column_title="units, in their order",
        colour_title="cluster",
        hover=_said(layout, names),
        selected=selected,
        scale="sequential",
    )
    colours = [_GREY, *(_COLOURS[i % len(_COLOURS)] for i in range(count))]
    steps = np.linspace(0, 1, len(colours) + 1)
    scale = [
        (float(edge), colour)
        for colour, ends in zip(colours, zip(steps[:-1], steps[1:], strict=True), strict=True)
        for edge in ends
    ]
    ticks = list(range(-1, count))
    figure.update_traces(
        selector={"type": "heatmap"},
        colorscale=scale,
        zmin=-1.5,
        zmax=count - 0.5,
        colorbar={"tickvals": ticks, "ticktext": ["none", *map(str, ticks[1:])]},
    )
    return figure


def _said(layout: NetworkMap, said: Sequence[str]) -> np.ndarray:
    """What is told of the unit in each square."""
    shown = np.array([*map(plots.escape, said), ""], dtype=object)
    return shown[layout.unit]
