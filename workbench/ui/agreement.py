"""Estimates beside what was measured exactly: on the diagonal an estimate is right."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from jaxtyping import Float

from workbench.core import plots
from workbench.ui import showing


class Verification(Protocol):
    """Estimates beside their exact values."""

    @property
    def names(self) -> tuple[str, ...]:
        """What was measured."""
        ...

    @property
    def estimated(self) -> Float[np.ndarray, " place"]:
        """The estimates."""
        ...

    @property
    def exact(self) -> Float[np.ndarray, " place"]:
        """The exact values."""
        ...

    @property
    def exact_interval(self) -> Float[np.ndarray, "bound place"]:
        """Their intervals."""
        ...

    def to_frame(self) -> pd.DataFrame:
        """One row a place."""
        ...


_HEIGHT = 380


def show(verified: Verification, unit: str) -> None:
    """Draw the scatter with its table beside it.

    Args:
        verified: The largest estimates with their exact values.
        unit: Unit of both.
    """
    picture, table = st.columns([3, 2])
    with picture:
        showing.figure(scatter(verified, unit))
    frame = verified.to_frame().rename(columns={"name": "edge"})
    digits = {
        name: st.column_config.NumberColumn(format="%.3f")
        for name in frame.columns
        if name != "edge"
    }
    table.dataframe(frame, hide_index=True, column_config=digits, height=_HEIGHT)


def scatter(verified: Verification, unit: str) -> go.Figure:
    """One point a place: measured change over estimated change, with its interval.

    Args:
        verified: The largest estimates with their exact values.
        unit: Unit of both.

    Returns:
        The figure; the first trace is the diagonal.
    """
    both = np.concatenate([verified.estimated, verified.exact, np.zeros(1)])
    ends = [float(both.min()), float(both.max())]
    low, high = verified.exact_interval
    bars = None
    if np.isfinite(low).all():
        bars = {
            "type": "data",
            "symmetric": False,
            "array": np.maximum(high - verified.exact, 0),
            "arrayminus": np.maximum(verified.exact - low, 0),
            "thickness": 1,
            "width": 0,
        }
    figure = go.Figure(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": plots.COLOURS[-1], "dash": "dot"},
            hoverinfo="skip",
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=verified.estimated,
            y=verified.exact,
            error_y=bars,
            mode="markers",
            marker={"color": plots.COLOURS[0], "size": 9},
            text=[plots.escape(name) for name in verified.names],
            hovertemplate="%{text}<br>estimated %{x:.4g}<br>exact %{y:.4g}<extra></extra>",
        )
    )
    figure.update_layout(template=plots.TEMPLATE, showlegend=False, height=_HEIGHT)
    figure.update_xaxes(title=f"estimated change ({unit})")
    return figure.update_yaxes(title=f"measured change ({unit})")
