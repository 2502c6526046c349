"""How numbers look: arrays become plotly figures in one style.

1. One template, registered with plotly as "workbench": system fonts, no background of its own, so
   that a figure sits on a light or a dark page, which sets the colour of its text.
2. Effects use a diverging scale centred on zero (red below, blue above), magnitudes a sequential
   one. Rows of a heat map grow upward, columns run left to right.
3. plotly does not report clicks on heat map cells, so each cell carries an invisible marker, which
   also shows the cell's text when the pointer is over it.

Units: none of its own; a figure shows the numbers that it is given, titled by the caller.
Text handed to a figure is plotly text, in which tags are markup: whatever comes from a model or a
prompt goes through `token_labels` or `escape` first.
Limits: cells are meant to be looked at one by one; above 10,000 or so reduce the array first.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from jaxtyping import Bool, Float, Int, Shaped

TEMPLATE = "workbench"
DIVERGING = "RdBu"
SEQUENTIAL = "Blues"
COLOURS = ("#2166ac", "#b2182b", "#4d9221", "#e08214", "#762a83", "#35978f", "#666666")
# Ticks of a logarithmic axis as powers of ten, which plotly draws a quarter larger than others.
POWERS_OF_TEN: dict[str, Any] = {"exponentformat": "power", "tickfont": {"size": 10.4}}
TEXT_COLOURS = {"light": "#1c2430", "dark": "#e3e8ee"}

_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_GRID = "rgba(128, 128, 128, 0.25)"
_GREY = "#8a9099"
# What is greyed out recedes behind every colour of the scales.
_HIDDEN = "#d9dde3"
_BLANK = "rgba(128, 128, 128, 0.22)"
_LONGEST_LABEL = 24
_MOST_TICKS = 48
_MOST_SVG_MARKS = 2_500
_MOST_GAPS = 64
_ROW_PIXELS = (16, 46)
_HEIGHTS = (240, 900)
# Points that draw one curved edge, and different widths of edges.
_CURVE_POINTS = 13
_WIDTHS = 6

Cell = tuple[int, int]
Scale = Literal["diverging", "sequential"]


def escape(text: str) -> str:
    """Make text safe to hand to plotly, which reads tags such as <a> in labels as markup."""
    return html.escape(text, quote=False)


def token_labels(tokens: Sequence[str], *, numbered: bool = True) -> list[str]:
    """Label tokens for an axis, each label unique, whitespace visible, tags escaped.

    Args:
        tokens: Token strings in order of position.
        numbered: Put the position before each token; without it a repeated token is marked with
            the count of its occurrence.

    Returns:
        One label a token: a space reads "·", a newline "↵", a tab "⇥", another character that
        cannot be seen reads as its code point.
    """
    shown = [escape(visible(token)) for token in tokens]
    if numbered:
        return [f"{position} {label}" for position, label in enumerate(shown)]
    seen: dict[str, int] = {}
    labels: list[str] = []
    for label in shown:
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels


def heatmap(
    values: Float[np.ndarray, "row column"],
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    row_title: str,
    column_title: str,
    colour_title: str,
    hover: Shaped[np.ndarray, "row column"] | None = None,
    mask: Bool[np.ndarray, "row column"] | None = None,
    selected: Cell | None = None,
    scale: Scale = "diverging",
) -> go.Figure:
    """Draw a grid of numbers, the first row at the bottom, every cell clickable.

    Args:
        values: The numbers; NaN is drawn as a blank cell.
        row_labels: One plotly text a row, bottom to top.
        column_labels: One plotly text a column, left to right.
        row_title: Name of the vertical axis.
        column_title: Name of the horizontal axis.
        colour_title: What the colour means, with its unit.
        hover: One more line of plotly text for each cell's hover box.
        mask: Cells to grey out, True where greyed; they do not stretch the colour range.
        selected: Cell (row, column) to outline.
        scale: "diverging" is centred on zero; "sequential" runs from the least to the most.

    Returns:
        The figure. Its last trace holds one marker a cell in row-major order, x the column and y
        the row: what a click reports.

    Raises:
        ValueError: If labels, hover, mask or the selected cell do not fit the grid.
    """
    _check_grid(values, row_labels, column_labels, selected=selected, hover=hover, mask=mask)
    # Gaps tell a white cell (zero) from a blank one; among many cells they would hide the colours.
    gap = 1 if max(values.shape) <= _MOST_GAPS else 0
    low, high = _colour_range(values if mask is None else np.where(mask, np.nan, values), scale)
    figure = go.Figure(
        go.Heatmap(
            z=values,
            zmin=low,
            zmax=high,
            colorscale=DIVERGING if scale == "diverging" else SEQUENTIAL,
            colorbar={"title": {"text": colour_title, "side": "right"}, "thickness": 12},
            hoverinfo="skip",
            xgap=gap,
            ygap=gap,
        )
    )
    if mask is not None:
        figure.add_trace(_grey_cells(mask))
    figure.add_trace(_cell_markers(values, _cell_texts(values, row_labels, column_labels, hover)))
    if selected is not None:
        _outline(figure, selected)
    _lay_out_grid(figure, row_labels, column_labels, row_title, column_title)
    return figure


def line(
    x: Shaped[np.ndarray, " point"],
    series: Mapping[str, Float[np.ndarray, " point"]],
    *,
    x_title: str,
    y_title: str,
    bands: Mapping[str, Float[np.ndarray, "bound point"]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> go.Figure:
    """Draw curves over a common axis.

    Args:
        x: Where the points lie.
        series: Curve by name (plotly text); NaN leaves a gap.
        x_title: Name of the horizontal axis.
        y_title: Name of the vertical axis, with its unit.
        bands: Lower and upper bound of some of the curves, by the same names; NaN leaves a gap.
        log_x: Logarithmic horizontal axis.
        log_y: Logarithmic vertical axis.

    Returns:
        The figure.

    Raises:
        ValueError: If a band belongs to no curve.
    """
    bands = bands or {}
    if unknown := sorted(set(bands) - set(series)):
        raise ValueError(f"bands for {unknown}, but the curves are {sorted(series)}")
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(series)}
    # Bands are drawn first, so that they hide no curve.
    figure = go.Figure([_band(x, bands[name], colours[name]) for name in series if name in bands])
    for name, y in series.items():
        line = {"color": colours[name]}
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="lines", line=line))
    figure.update_layout(template=TEMPLATE, showlegend=len(series) > 1, hovermode="x unified")
    figure.update_xaxes(title=x_title, type="log" if log_x else "linear")
    figure.update_yaxes(title=y_title, type="log" if log_y else "linear")
    return figure


def bars(
    values: Float[np.ndarray, " point"],
    lower: Float[np.ndarray, " point"] | None = None,
    upper: Float[np.ndarray, " point"] | None = None,
    *,
    labels: Sequence[str],
    value_title: str,
    label_title: str = "",
) -> go.Figure:
    """Draw bars from zero, with their intervals where these are known.

    Args:
        values: Height of each bar.
        lower: Lower end of each interval; NaN where there is none.
        upper: Upper end of each interval; NaN where there is none.
        labels: One plotly text a bar, each different.
        value_title: What the height means, with its unit.
        label_title: What the bars are.

    Returns:
        The figure.

    Raises:
        ValueError: If there is not one label a bar, or only one end of the intervals is given.
    """
    if len(labels) != len(values):
        raise ValueError(f"expected {len(values)} labels, one a bar, found {len(labels)}")
    if (lower is None) != (upper is None):
        raise ValueError("an interval needs both ends: give lower and upper, or neither")
    error = None
    if lower is not None and upper is not None:
        # plotly wants distances. An interval of a ratio may leave its point estimate outside; a
        # negative distance would be drawn on the wrong side.
        up, down = np.maximum(upper - values, 0), np.maximum(values - lower, 0)
        error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    ticks = list(range(len(values)))
    figure = go.Figure(
        go.Bar(
            x=ticks,
            y=values,
            error_y=error,
            marker={"color": COLOURS[0]},
            customdata=list(labels),
            hovertemplate="%{customdata}<br>%{y:.4g}<extra></extra>",
        )
    )
    figure.update_layout(template=TEMPLATE, showlegend=False)
    figure.update_xaxes(title=label_title, **_ticks(labels))
    figure.update_yaxes(title=value_title, zeroline=True)
    return figure


def layered_graph(
    nodes: Sequence[str],
    places: Float[np.ndarray, "node axis"],
    links: Int[np.ndarray, "edge end"],
    values: Float[np.ndarray, " edge"],
    *,
    row_labels: Sequence[str],
    value_title: str,
    hover: Sequence[str] | None = None,
    selected: int | None = None,
) -> go.Figure:
    """Draw nodes in rows with weighted edges from lower to higher ones, every edge clickable.

    Args:
        nodes: One plotly text a node.
        places: Column and row of each node; row 0 is at the bottom.
        links: For each edge the indices of the node that it leaves and of the one that it enters.
            Edges between the same two nodes are drawn side by side.
        values: Colour (red below zero, blue above) and width of each edge.
        row_labels: One plotly text a row, bottom to top.
        value_title: What the colour means, with its unit.
        hover: One plotly text an edge, for its hover box.
        selected: Edge to mark.

    Returns:
        The figure. Its last trace holds one marker an edge, in their order, with the index of the
        edge as custom data: what a click reports.

    Raises:
        ValueError: If places, values or hover texts do not fit the nodes and edges, or the selected
            edge does not exist.
    """
    _check_links(nodes, places, links, values, hover=hover, selected=selected)
    reach = float(np.abs(values).max()) if values.size and np.abs(values).max() > 0 else 1.0
    curves = _curves(places, links)
    figure = go.Figure(_link_traces(curves, values / reach))
    if selected is not None:
        x, y = curves[selected].T
        for colour, width in (("#ffffff", 9), ("#111111", 5)):
            mark = {"color": colour, "width": width}
            figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=mark, hoverinfo="skip"))
    figure.add_trace(_node_markers(nodes, places))
    figure.add_trace(_link_markers(curves, values, reach, value_title, hover))
    pixels = float(np.clip(140 + 52 * len(row_labels), *_HEIGHTS))
    figure.update_layout(template=TEMPLATE, height=pixels, showlegend=False, dragmode=False)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(showgrid=False, zeroline=False, **_ticks(row_labels))
    return figure


def spec(figure: go.Figure) -> dict[str, Any]:
    """A figure as plotly.js reads it, in plain JSON.

    Args:
        figure: Any figure; it stays as it is.

    Returns:
        Its "data" and "layout"; arrays are lists, and what is no finite number is nothing, which
        plotly.js leaves a gap for.
    """
    data = [plain(trace.to_plotly_json()) for trace in figure.data]
    return {"data": data, "layout": plain(figure.layout.to_plotly_json())}


def plain(value: Any) -> Any:
    """JSON form of what figures and tables hold.

    Args:
        value: Numbers, texts, arrays, and dictionaries and sequences of such.

    Returns:
        The same without arrays; what JSON does not know as text, and no number as nothing.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and np.isfinite(value).all():
        return value.tolist()
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def visible(token: str) -> str:
    """A token as one can read it: whitespace and what cannot be printed become visible."""
    signs = {" ": "·", "\n": "↵", "\t": "⇥"}
    if not token:
        return "∅"
    short = token if len(token) <= _LONGEST_LABEL else token[: _LONGEST_LABEL - 1] + "…"
    return "".join(
        signs.get(character, character if character.isprintable() else f"U+{ord(character):04X}")
        for character in short
    )


def _check_grid(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    selected: Cell | None,
    **arrays: np.ndarray | None,
) -> None:
    rows, columns = values.shape
    if (len(row_labels), len(column_labels)) != (rows, columns):
        raise ValueError(
            f"expected labels for {rows} rows and {columns} columns, found {len(row_labels)} and "
            f"{len(column_labels)}"
        )
    for name, array in arrays.items():
        if array is not None and array.shape != values.shape:
            raise ValueError(f"expected {name} of shape {values.shape}, found {array.shape}")
    if selected is not None and not (0 <= selected[0] < rows and 0 <= selected[1] < columns):
        raise ValueError(f"cell {selected} is outside the grid of {rows} rows, {columns} columns")


def _colour_range(values: np.ndarray, scale: Scale) -> tuple[float, float]:
    """Range of the colours, never empty, so that a constant grid can be drawn too."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return (-1.0, 1.0) if scale == "diverging" else (0.0, 1.0)
    if scale == "diverging":
        reach = float(np.abs(finite).max()) or 1.0
        return -reach, reach
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)


def _cell_texts(
    values: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    hover: np.ndarray | None,
) -> list[str]:
    texts: list[str] = []
    for row, column in np.ndindex(*values.shape):
        value = values[row, column]
        shown = f"{value:.4g}" if np.isfinite(value) else "no value"
        text = f"{row_labels[row]} · {column_labels[column]}<br><b>{shown}</b>"
        texts.append(text if hover is None else f"{text}<br>{hover[row, column]}")
    return texts


def scatter(n_marks: int) -> type[go.Scatter | go.Scattergl]:
    """The trace that a browser draws some marks fastest with.

    SVG marks are drawn one by one, so many of them are slow; WebGL draws all at once, but its
    beginning takes a quarter of a second where no graphics card helps.

    Args:
        n_marks: How many marks the whole figure has.
    """
    return go.Scatter if n_marks <= _MOST_SVG_MARKS else go.Scattergl


def _cell_markers(values: np.ndarray, texts: list[str]) -> go.Scatter | go.Scattergl:
    """One invisible marker a cell; smaller than any cell, so the nearest one is the cell's own."""
    rows, columns = np.indices(values.shape)
    invisible = {"marker": {"opacity": 0}}
    return scatter(values.size)(
        x=columns.ravel(),
        y=rows.ravel(),
        mode="markers",
        marker={"size": 2, "opacity": 0, "color": _GREY},
        selected=invisible,
        unselected=invisible,
        customdata=texts,
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=False,
    )


def _grey_cells(mask: np.ndarray) -> go.Heatmap:
    return go.Heatmap(
        z=np.where(mask, 1.0, np.nan),
        zmin=0,
        zmax=1,
        colorscale=[[0, _HIDDEN], [1, _HIDDEN]],
        opacity=0.92,
        showscale=False,
        hoverinfo="skip",
    )


def _outline(figure: go.Figure, cell: Cell) -> None:
    """Frame a cell twice, dark within light, so that the frame shows on every colour."""
    row, column = cell
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    for colour, width in (("#ffffff", 4), ("#111111", 2)):
        figure.add_shape(type="rect", line={"color": colour, "width": width}, **corners)


def _lay_out_grid(
    figure: go.Figure,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    row_title: str,
    column_title: str,
) -> None:
    rows, columns = len(row_labels), len(column_labels)
    pixels = float(np.clip(420 / max(rows, 1), *_ROW_PIXELS))
    height = float(np.clip(140 + pixels * rows, *_HEIGHTS))
    figure.update_layout(
        template=TEMPLATE, height=height, hoverdistance=-1, dragmode=False, plot_bgcolor=_BLANK
    )
    bare: dict[str, Any] = {"showgrid": False, "zeroline": False, "constrain": "domain"}
    figure.update_xaxes(
        title=column_title, range=[-0.5, columns - 0.5], **bare, **_ticks(column_labels)
    )
    figure.update_yaxes(title=row_title, range=[-0.5, rows - 0.5], **bare, **_ticks(row_labels))


def _ticks(labels: Sequence[str]) -> dict[str, Any]:
    """Ticks at whole numbers with the given texts, thinned where they would overlap."""
    step = -(-len(labels) // _MOST_TICKS) or 1
    places = list(range(0, len(labels), step))
    return {"tickmode": "array", "tickvals": places, "ticktext": [labels[i] for i in places]}


def _band(x: np.ndarray, bounds: np.ndarray, colour: str) -> go.Scatter:
    """A band as one closed outline a stretch, because an open one would cross the gaps."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    known = np.isfinite(bounds[0]) & np.isfinite(bounds[1])
    across, up = list[float](), list[float]()
    for stretch in np.split(np.arange(len(x)), np.flatnonzero(np.diff(known)) + 1):
        if len(stretch) and known[stretch[0]]:
            at, (low, high) = x[stretch], bounds[:, stretch]
            across += [*at.tolist(), *at[::-1].tolist(), math.nan]
            up += [*low.tolist(), *high[::-1].tolist(), math.nan]
    return go.Scatter(
        x=across,
        y=up,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.18)",
        hoverinfo="skip",
        showlegend=False,
    )


def _check_links(
    nodes: Sequence[str],
    places: np.ndarray,
    links: np.ndarray,
    values: np.ndarray,
    *,
    hover: Sequence[str] | None,
    selected: int | None,
) -> None:
    if places.shape != (len(nodes), 2):
        raise ValueError(f"expected {len(nodes)} places of two numbers, found {places.shape}")
    if links.shape != (len(values), 2):
        raise ValueError(f"expected two ends for each of {len(values)} values, found {links.shape}")
    if hover is not None and len(hover) != len(values):
        raise ValueError(f"expected {len(values)} hover texts, one an edge, found {len(hover)}")
    if selected is not None and not 0 <= selected < len(values):
        raise ValueError(f"edge {selected} does not exist; there are {len(values)} edges")


def _curves(places: np.ndarray, links: np.ndarray) -> list[np.ndarray]:
    """Points along each edge: a bend keeps it off the nodes between and off its neighbours."""
    t = np.linspace(0, 1, _CURVE_POINTS)[:, None]
    many: dict[tuple[int, int], int] = {}
    curves: list[np.ndarray] = []
    for start, end in links:
        nth = many[start, end] = many.get((start, end), -1) + 1
        a, b = places[start], places[end]
        # Sideways, further the more rows the edge passes; parallel edges fan out by a step each.
        bend = 0.12 * max(abs(b[1] - a[1]) - 1, 0) + 0.35 * nth
        middle = (a + b) / 2 + np.array([bend, 0.0])
        curves.append((1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t**2 * b)
    return curves


def _link_traces(curves: list[np.ndarray], shares: np.ndarray) -> list[go.Scatter]:
    """Edges of one sign and width share a trace: a browser draws a few traces at once, not many."""
    widths = np.ceil(np.abs(shares) * _WIDTHS).clip(1)
    gap = np.full((1, 2), np.nan)
    traces: list[go.Scatter] = []
    for width in range(1, _WIDTHS + 1):
        for negative, colour in ((False, COLOURS[0]), (True, COLOURS[1])):
            chosen = np.flatnonzero((widths == width) & ((shares < 0) == negative))
            if not chosen.size:
                continue
            points = np.concatenate([np.concatenate([curves[i], gap]) for i in chosen])
            line = {"color": colour, "width": width}
            style: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip", "opacity": 0.75}
            traces.append(go.Scatter(x=points[:, 0], y=points[:, 1], line=line, **style))
    return traces


def _node_markers(nodes: Sequence[str], places: np.ndarray) -> go.Scatter:
    return go.Scatter(
        x=places[:, 0],
        y=places[:, 1],
        mode="markers+text",
        text=list(nodes),
        textposition="middle right",
        marker={"size": 13, "color": _GREY, "line": {"color": "#ffffff", "width": 1}},
        hoverinfo="text",
    )


def _link_markers(
    curves: list[np.ndarray],
    values: np.ndarray,
    reach: float,
    title: str,
    hover: Sequence[str] | None,
) -> go.Scatter:
    """A marker on each edge, above its middle, where fewer edges cross than at their ends."""
    at = np.array([curve[_CURVE_POINTS * 2 // 3] for curve in curves]).reshape(-1, 2)
    return go.Scatter(
        x=at[:, 0],
        y=at[:, 1],
        mode="markers",
        marker={
            "size": 8,
            "color": values,
            "colorscale": DIVERGING,
            "cmin": -reach,
            "cmax": reach,
            "line": {"color": _GREY, "width": 1},
            "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12},
        },
        customdata=list(range(len(curves))),
        text=None if hover is None else list(hover),
        hovertemplate="%{text}<extra></extra>" if hover is not None else "%{marker.color:.4g}",
        showlegend=False,
    )


def _register_template() -> None:
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True, "ticks": ""}
    pio.templates[TEMPLATE] = go.layout.Template(
        layout={
            "font": {"family": _FONT, "size": 13, "color": TEXT_COLOURS["light"]},
            "colorway": list(COLOURS),
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "margin": {"l": 56, "r": 16, "t": 28, "b": 56},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"align": "left", "font": {"family": _FONT}},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        }
    )


_register_template()
