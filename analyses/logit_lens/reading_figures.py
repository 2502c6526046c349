"""Pictures of a reading: a grid of top tokens, and curves of single tokens over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from workbench.core import plots

if TYPE_CHECKING:
    from analyses.logit_lens.reading import LensReading

COLOURS = ("probability", "entropy", "kl", "rank")
VALUES = {"rank": "rank (0 is the top)", "probability": "probability", "logit": "logit"}
# Columns beside which there is room to write tokens into the cells, and characters of these.
WINDOW, LETTERS = 24, 9
# More columns than these are wider than a screen; ranks beyond this are drawn as logarithms.
_MOST_COLUMNS, _FAR = 256, 64


def grid(
    reading: LensReading,
    *,
    colour: str,
    token: int,
    positions: tuple[int, int] | None,
    selected: plots.Cell | None,
) -> go.Figure:
    """See `LensReading.figure`."""
    start, end = window(len(reading.prompt), positions)
    values, title = _colours(reading, colour, token)
    labels = plots.token_labels(reading.prompt.tokens)[start:end]
    cells = range(start, end)
    hover = np.array(
        [[_hover(reading, row, i) for i in cells] for row in range(len(reading.rows))], dtype=object
    )
    figure = plots.heatmap(
        values[:, start:end].astype(np.float64),
        row_labels=reading.rows,
        column_labels=labels,
        row_title="",
        column_title="position and token that is read at",
        colour_title=title,
        hover=hover,
        selected=selected,
        scale="sequential",
    )
    if end - start <= WINDOW:
        written = [
            [_short(reading.text_of(reading.top_ids[row, i, 0])) for i in cells]
            for row in range(len(reading.rows))
        ]
        figure.update_traces(
            text=written, texttemplate="%{text}", selector={"type": "heatmap", "hoverinfo": "skip"}
        )
    if colour == "probability":
        figure.update_traces(zmin=0, zmax=1, selector={"type": "heatmap"})
    return figure


def curves(reading: LensReading, position: int, value: str) -> go.Figure:
    """See `LensReading.curves`."""
    if not reading.asked:
        raise ValueError("no token was asked for: give some as tokens=")
    tables = {
        "rank": reading.asked_ranks,
        "probability": reading.asked_probabilities,
        "logit": reading.asked_logits,
    }
    if value not in tables:
        raise ValueError(f"unknown value {value!r}; expected one of {', '.join(tables)}")
    at = reading.prompt.position(position)
    # Tokens whose texts look alike are told apart by their ids.
    names = plots.token_labels([reading.text_of(i) for i in reading.asked], numbered=False)
    names = [
        name if names.count(name) == 1 else f"{name} (id {i})"
        for name, i in zip(names, reading.asked, strict=True)
    ]
    chosen = [tables[value][:, at, place].astype(np.float64) for place in range(len(names))]
    title = VALUES[value]
    if value == "rank" and max(float(ranks.max()) for ranks in chosen) > _FAR:
        chosen, title = [np.log10(1 + ranks) for ranks in chosen], "log10(1 + rank), 0 is the top"
    x = np.arange(len(reading.rows))
    series = dict(zip(names, chosen, strict=True))
    figure = plots.line(x, series, x_title="read after", y_title=title)
    figure.update_traces(mode="lines+markers")
    figure.update_layout(showlegend=True)
    label_rows(figure, reading.rows)
    if value == "rank":
        # The top is at the top.
        figure.update_yaxes(autorange="reversed")
    return figure


def label_rows(figure: go.Figure, rows: Sequence[str]) -> None:
    """Write the names of rows along the horizontal axis, thinned where they would overlap."""
    ticks = list(range(0, len(rows), -(-len(rows) // WINDOW)))
    names = [rows[i] for i in ticks]
    figure.update_xaxes(tickmode="array", tickvals=ticks, ticktext=names)


def window(length: int, positions: tuple[int, int] | None) -> tuple[int, int]:
    """The positions that are drawn: as asked, or the last few of a long prompt.

    Raises:
        ValueError: If what is asked for is empty, too wide or not there.
    """
    if positions is None:
        return max(0, length - WINDOW), length
    start, end = positions
    if not 0 <= start < end <= length or end - start > _MOST_COLUMNS:
        raise ValueError(
            f"positions {positions}: expected a first one and the one after the last, within 0 to "
            f"{length} and at most {_MOST_COLUMNS} of them"
        )
    return start, end


def _colours(reading: LensReading, colour: str, token: int) -> tuple[np.ndarray, str]:
    if colour == "probability":
        return reading.top_probabilities[:, :, 0], "probability"
    if colour == "entropy":
        return reading.entropy, "entropy (nats)"
    if colour == "kl":
        return reading.divergence, "KL (nats)"
    if colour != "rank":
        raise ValueError(f"unknown colour {colour!r}; expected one of {', '.join(COLOURS)}")
    if not 0 <= token < len(reading.asked):
        raise ValueError(
            f"there is no asked token {token} to colour by the rank of: {len(reading.asked)} were "
            "given as tokens="
        )
    name = plots.escape(plots.visible(reading.text_of(reading.asked[token])))
    return np.log10(1.0 + reading.asked_ranks[:, :, token]), f"log10(1 + rank) of {name}"


def _hover(reading: LensReading, row: int, position: int) -> str:
    top = "<br>".join(
        f"{plots.escape(plots.visible(reading.text_of(i)))} {p:.3f}"
        for i, p in zip(
            reading.top_ids[row, position], reading.top_probabilities[row, position], strict=True
        )
    )
    return (
        f"{top}<br>entropy {reading.entropy[row, position]:.3f}, "
        f"KL {reading.divergence[row, position]:.3f} nats"
    )


def _short(token: str) -> str:
    shown = plots.visible(token)
    return plots.escape(shown if len(shown) <= LETTERS else f"{shown[: LETTERS - 1]}…")
