"""Every matrix of a model, its size and its spectrum beside that of a random matrix."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.weights import nulls, singular
from workbench.core import plots, results
from workbench.core.engine import running
from workbench.core.models import anatomy

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
MATRICES, SPECTRUM = "weights.matrices", "weights.spectrum"
# Rows × columns × the smaller of the two, over all matrices: up to here every spectrum is computed
# with the table.
ALL_UP_TO = 2e10
_SPOKEN = 3
_ATTENTION = ("W_Q", "W_K", "W_V", "W_O")


@dataclasses.dataclass(frozen=True)
class MatrixTable(results.Result):
    """Every weight with two axes or more, and the attention's by head.

    Attributes:
        names: The checkpoint's name of each; a head's part is "head 1.3 W_Q".
        shapes: Of each, more than two axes taken together to two.
        frobenius: Root of the sum of squares.
        spectral: Largest singular value; NaN where no spectrum was computed, as all that follow.
        effective_rank: Exponential of the entropy of the normalised singular values.
        random_rank: The same of a Gaussian matrix of that shape.
        stable_rank: Sum of squares over the largest square.
        condition: Largest singular value over the smallest.
        outside: Singular values beyond what such a Gaussian matrix reaches in one of twenty cases;
            -1 where no spectrum was computed.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    frobenius: Float[np.ndarray, " matrix"]
    spectral: Float[np.ndarray, " matrix"]
    effective_rank: Float[np.ndarray, " matrix"]
    random_rank: Float[np.ndarray, " matrix"]
    stable_rank: Float[np.ndarray, " matrix"]
    condition: Float[np.ndarray, " matrix"]
    outside: Int[np.ndarray, " matrix"]

    @property
    def known(self) -> np.ndarray:
        """Which of them have a spectrum."""
        return np.isfinite(self.spectral)

    def to_frame(self) -> pd.DataFrame:
        """One row a matrix."""
        return pd.DataFrame(
            {
                "matrix": self.names,
                "rows": [rows for rows, _ in self.shapes],
                "columns": [columns for _, columns in self.shapes],
                "frobenius": self.frobenius,
                "spectral": self.spectral,
                "effective_rank": self.effective_rank,
                "random_rank": self.random_rank,
                "stable_rank": self.stable_rank,
                "condition": self.condition,
                "outside": self.outside,
            }
        )

    def figure(self) -> go.Figure:
        """Effective rank of each matrix against that of a random one of the same shape."""
        shown = np.flatnonzero(self.known)
        labels = [plots.escape(self.names[i]) for i in shown]
        figure = go.Figure(
            plots.scatter(len(labels))(
                x=self.random_rank[shown],
                y=self.effective_rank[shown],
                mode="markers",
                marker={"size": 8, "color": plots.COLOURS[0], "opacity": 0.7},
                customdata=labels,
                hovertemplate="%{customdata}<br>%{y:.1f} against %{x:.1f}<extra></extra>",
                name="matrix",
            )
        )
        reach = [0.0, float(np.max(self.random_rank[shown], initial=1.0))]
        figure.add_trace(
            go.Scatter(
                x=reach,
                y=reach,
                mode="lines",
                line={"dash": "dot", "color": plots.COLOURS[-1]},
                name="as a random matrix",
                hoverinfo="skip",
            )
        )
        figure.update_layout(template=plots.TEMPLATE)
        figure.update_xaxes(title="effective rank of a random matrix of the same shape")
        return figure.update_yaxes(title="effective rank of the matrix")

    def summary(self) -> str:
        """How many there are, and which are furthest from random ones."""
        known = np.flatnonzero(self.known)
        parameters = sum(rows * columns for rows, columns in self.shapes)
        lines = [
            f"{self.provenance.model}: {len(self.names):,} matrices (heads' parts included, "
            f"{parameters:,} numbers in all), spectra of {len(known):,} of them."
        ]
        if len(known):
            ratio = self.effective_rank[known] / self.random_rank[known]
            order = known[np.argsort(ratio)][:_SPOKEN]
            said = ", ".join(
                f"{self.names[i]} ({self.effective_rank[i]:.1f} where a random one has "
                f"{self.random_rank[i]:.1f})"
                for i in order
            )
            beyond = int((self.outside[known] > 0).sum())
            lines.append(
                f"Lowest effective rank for their shape: {said}. {beyond:,} have singular values "
                f"beyond what a Gaussian matrix of the same shape and size reaches in one of "
                f"{1 / nulls.OUTSIDE:.0f} cases, where chance gives about "
                f"{nulls.OUTSIDE * len(known):.1f}."
            )
        return " ".join(lines)


@dataclasses.dataclass(frozen=True)
class Spectrum(results.Result):
    """Singular values of one matrix, beside those of a random one.

    Attributes:
        name: Of the matrix.
        shape: Its shape, more than two axes taken together to two.
        found: What its spectrum says.
        random: Singular values of a Gaussian matrix of the same shape and Frobenius norm.
        edge: What the largest of these exceeds in one of twenty cases.
    """

    name: str
    shape: tuple[int, int]
    found: singular.Measured
    random: Float[np.ndarray, " singular"]
    edge: float

    def to_frame(self) -> pd.DataFrame:
        """One row a singular value."""
        return pd.DataFrame(
            {
                "matrix": self.name,
                "rank": np.arange(1, len(self.found.values) + 1),
                "singular_value": self.found.values,
                "random": self.random,
            }
        )

    def figure(self) -> go.Figure:
        """The spectrum, that of a random matrix, and the edge."""
        ranks = np.arange(1, len(self.found.values) + 1)
        series = {"this matrix": self.found.values, "random matrix": self.random}
        figure = plots.line(ranks, series, x_title="rank", y_title="singular value")
        label = "largest of a random matrix, 19 of 20 cases"
        line: dict[str, Any] = {"dash": "dot", "color": plots.COLOURS[-1]}
        return figure.add_hline(y=self.edge, line=line, annotation_text=label)  # pyright: ignore[reportArgumentType]

    def summary(self) -> str:
        """Size, ranks, and what sticks out."""
        found, (rows, columns) = self.found, self.shape
        full = min(rows, columns)
        rank = (
            f"effective rank {found.effective_rank:.1f} of {full}"
            if math.isfinite(found.effective_rank)
            else f"effective rank unknown: only the largest {len(found.values)} singular values "
            "were found, by random projection"
        )
        return (
            f"{self.name}, {rows} × {columns}: Frobenius norm {found.frobenius:.4g}, spectral norm "
            f"{found.values[0]:.4g}, stable rank {found.stable_rank:.1f}, {rank}, condition number "
            f"{found.condition:.3g}. {found.outside} singular values lie beyond {self.edge:.4g}, "
            "which the largest of a Gaussian matrix of the same shape and size exceeds in one of "
            f"{1 / nulls.OUTSIDE:.0f} cases (p of the largest: {found.p_value:.2g})."
        )


def matrices(
    model: TransformerBridge,
    *,
    spectra: bool | None = None,
    progress: running.Progress | None = None,
) -> MatrixTable:
    """List every weight with two axes or more, and each head's part of the attention's.

    Args:
        model: The bridge.
        spectra: Whether to compute all spectra; None does so where that takes seconds. Without,
            `spectrum` gives them one by one.
        progress: Told how far it is; may raise to stop.

    Returns:
        Names, shapes and norms, and what the spectra say.
    """
    started, report = time.perf_counter(), progress or running.no_progress
    every = list(_named(model))
    shapes = [(int(value.shape[0]), int(value.shape[1])) for _, value in every]
    costs = np.array([singular.cost(shape) for shape in shapes])
    wanted = spectra if spectra is not None else bool(costs.sum() <= ALL_UP_TO)
    done = np.cumsum(costs) / max(1.0, costs.sum())
    table = np.full((len(every), len("spectral rank random stable condition".split())), np.nan)
    frobenius, outside = np.zeros(len(every)), np.full(len(every), -1)
    for i, (name, value) in enumerate(every):
        frobenius[i] = float(value.float().norm())
        if wanted:
            found = singular.measured(value)
            rank = singular.random_rank(*shapes[i])
            table[i] = (
                float(found.values[0]),
                found.effective_rank,
                rank,
                found.stable_rank,
                found.condition,
            )
            outside[i] = found.outside
            report(float(done[i]), name)
    return MatrixTable(
        provenance=results.provenance(
            model,
            analysis=MATRICES,
            parameters={"spectra": wanted},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        names=tuple(name for name, _ in every),
        shapes=tuple(shapes),
        frobenius=frobenius,
        spectral=table[:, 0].copy(),
        effective_rank=table[:, 1].copy(),
        random_rank=table[:, 2].copy(),
        stable_rank=table[:, 3].copy(),
        condition=table[:, 4].copy(),
        outside=outside,
    )


def spectrum(model: TransformerBridge, name: str) -> Spectrum:
    """Singular values of one matrix.

    Args:
        model: The bridge.
        name: One of the names of `matrices`.

    Returns:
        Its spectrum beside that of a random matrix of the same shape and size.

    Raises:
        ValueError: If there is no matrix of that name.
    """
    started = time.perf_counter()
    value = matrix(model, name)
    rows, columns = int(value.shape[0]), int(value.shape[1])
    found = singular.measured(value)
    deviation = found.frobenius / math.sqrt(rows * columns)
    return Spectrum(
        provenance=results.provenance(
            model,
            analysis=SPECTRUM,
            parameters={"name": name},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        name=name,
        shape=(rows, columns),
        found=found,
        random=nulls.random_spectrum(deviation, rows, columns)[: len(found.values)],
        edge=nulls.edge(deviation, rows, columns),
    )


def matrix(model: TransformerBridge, name: str) -> Float[Tensor, "row column"]:
    """A matrix by its name.

    Raises:
        ValueError: If there is none.
    """
    for known, value in _named(model):
        if known == name:
            return value
    some = ", ".join(repr(known) for known, _ in list(_named(model))[:_SPOKEN])
    raise ValueError(f"the model has no matrix {name!r}; its matrices are {some}, …")


def stored_matrices(model: TransformerBridge) -> dict[str, Float[Tensor, "row column"]]:
    """Every weight with two axes or more, by the checkpoint's name."""
    named = {name: value.detach() for name, value in anatomy.stored_parameters(model).items()}
    return {
        name: value.reshape(value.shape[0], -1)
        for name, value in named.items()
        if value.ndim >= len("row column".split()) and not _is_repeated(name, named)
    }


def _is_repeated(name: str, named: dict[str, Tensor]) -> bool:
    """Whether a joint projection stands beside its parts, which the bridge made of it."""
    return any(
        f".{joint}." in name and name.replace(f".{joint}.", f".{part}.") in named
        for joint, part in (("qkv", "q"), ("gate_up", "gate"))
    )


def _named(model: TransformerBridge) -> Iterator[tuple[str, Tensor]]:
    yield from stored_matrices(model).items()
    for layer, block in enumerate(model.blocks):
        attention: Any = getattr(block, "attn", None)
        if attention is None:
            continue
        for weight in _ATTENTION:
            parts = getattr(attention, weight).detach()
            # Shared keys and values belong to a group of heads.
            kind = "head" if len(parts) == int(model.cfg.n_heads) else "group"
            for index, part in enumerate(parts):
                yield f"{kind} {layer}.{index} {weight}", part
