"""Inputs as figures: images side by side, sequences and vectors as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.subplots
from jaxtyping import Float, Shaped

from workbench.core import plots

Titled = tuple[str, Shaped[np.ndarray, "*shape"]]
_COLUMNS = 8
_HEIGHT, _SMALL = 200, 130
_IMAGE_AXES = 3


def pictured(shown: Sequence[Titled]) -> go.Figure:
    """Inputs each in a panel of its own, under their titles.

    Args:
        shown: Title and input of each, all of one shape.

    Returns:
        A grid, row by row.
    """
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    images = shown[0][1].ndim == _IMAGE_AXES
    figure = plotly.subplots.make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[title for title, _ in shown],
        horizontal_spacing=0.2 / columns,
        vertical_spacing=0.25 / rows,
    )
    for place, (title, one) in enumerate(shown):
        at: dict[str, Any] = {"row": place // columns + 1, "col": place % columns + 1}
        figure.add_trace(picture(one) if images else _line(title, one), **at)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_annotations(font={"size": 11})
    height = 50 + rows * (_HEIGHT if images else _SMALL)
    return figure.update_layout(
        template=plots.TEMPLATE,
        height=height,
        showlegend=False,
        margin={"t": 40, "b": 10, "l": 10, "r": 10},
    )


def picture(image: Float[np.ndarray, "channel row column"]) -> go.Image:
    """An image as plotly draws it; grey for one channel, the first three of several.

    Args:
        image: Entries from 0 to 1, or scaled down from where they reach.

    Returns:
        The trace.
    """
    pixels = np.repeat(image, 3, axis=0) if len(image) == 1 else image[:3]
    low, high = min(float(pixels.min()), 0.0), max(float(pixels.max()), 1.0)
    scaled = (255 * (pixels - low) / (high - low)).round().astype(np.uint8)
    return go.Image(z=scaled.transpose(1, 2, 0))


def lines(shown: Sequence[Titled]) -> go.Figure:
    """Sequences and vectors as lines over their entries, in one panel; the first channel of each.

    Args:
        shown: Title and input of each, all of one shape.

    Returns:
        The figure.
    """
    series = {title: np.atleast_2d(values)[0].astype(np.float64) for title, values in shown}
    places = np.arange(shown[0][1].shape[-1])
    return plots.line(places, series, x_title="entry of the input", y_title="value")


def _line(title: str, values: np.ndarray) -> Any:
    first = np.atleast_2d(values)[0]
    return go.Scatter(
        x=np.arange(len(first)), y=first, name=title, line={"color": plots.COLOURS[0]}
    )
