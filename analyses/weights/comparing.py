"""The same matrices of two models: how far each has moved, and in which directions."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.weights import nulls, singular, spectra
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.models import card, sources

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
ANALYSIS = "weights.compare"
_SPOKEN = 3


@dataclasses.dataclass(frozen=True)
class WeightComparison(results.Result):
    """Matrices of one model against the same of another.

    Attributes:
        other: Name of the other model.
        other_fingerprint: Of the other model.
        names: Of the matrices.
        change: |B - A| / |A|, Frobenius; infinite where A is zero and B is not.
        cosine: Of the two as vectors; what is left of A's direction.
        cosine_p: Share of unrelated directions with a cosine as far from zero, adjusted.
        norm: Frobenius norm of A.
        other_norm: That of B.
        effective_rank: Of A; NaN where the matrix is too large for all of its singular values.
        other_rank: Of B.
        overlap: Mean squared cosine of the principal angles between the spaces of the k largest
            singular values, on the left and on the right; 1 for the same space.
        expected: The same of unrelated spaces: k over the width.
        overlap_p: Share of unrelated spaces with as large an overlap, adjusted over all matrices.
        k: Singular directions that were compared.
    """

    other: str
    other_fingerprint: str
    names: tuple[str, ...]
    change: Float[np.ndarray, " matrix"]
    cosine: Float[np.ndarray, " matrix"]
    cosine_p: Float[np.ndarray, " matrix"]
    norm: Float[np.ndarray, " matrix"]
    other_norm: Float[np.ndarray, " matrix"]
    effective_rank: Float[np.ndarray, " matrix"]
    other_rank: Float[np.ndarray, " matrix"]
    overlap: Float[np.ndarray, "2 matrix"]
    expected: Float[np.ndarray, "2 matrix"]
    overlap_p: Float[np.ndarray, "2 matrix"]
    k: int

    def to_frame(self) -> pd.DataFrame:
        """One row a matrix, those that moved most first."""
        frame = pd.DataFrame(
            {
                "matrix": self.names,
                "change": self.change,
                "cosine": self.cosine,
                "cosine_adjusted_p": self.cosine_p,
                "norm": self.norm,
                "other_norm": self.other_norm,
                "effective_rank": self.effective_rank,
                "other_rank": self.other_rank,
                "left_overlap": self.overlap[0],
                "left_expected": self.expected[0],
                "left_adjusted_p": self.overlap_p[0],
                "right_overlap": self.overlap[1],
                "right_expected": self.expected[1],
                "right_adjusted_p": self.overlap_p[1],
            }
        )
        return frame.sort_values("change", ascending=False, kind="stable", ignore_index=True)

    def figure(self) -> go.Figure:
        """Cosine and relative change of each matrix."""
        finite = np.isfinite(self.change)
        labels = [plots.escape(name) for name, keep in zip(self.names, finite, strict=True) if keep]
        figure = go.Figure(
            plots.scatter(len(labels))(
                x=self.change[finite],
                y=self.cosine[finite],
                mode="markers",
                marker={"size": 9, "color": plots.COLOURS[0], "opacity": 0.7},
                customdata=labels,
                hovertemplate="%{customdata}<br>change %{x:.3g}, cosine %{y:.3f}<extra></extra>",
            )
        )
        figure.update_layout(template=plots.TEMPLATE)
        figure.update_xaxes(title="change as a fraction of the matrix", rangemode="tozero")
        return figure.update_yaxes(title="cosine with what it was")

    def summary(self) -> str:
        """What moved most, and what is still where it was."""
        # Of a folder, its own name is what tells two checkpoints apart.
        names = [Path(each).name for each in (self.provenance.model, self.other)]
        order = np.argsort(-self.change, kind="stable")
        most = ", ".join(
            f"{self.names[i]} (by {self.change[i]:.0%} of its size, cosine {self.cosine[i]:.2f})"
            for i in order[:_SPOKEN]
        )
        if not float(np.max(self.change, initial=0.0)):
            return f"{names[0]} and {names[1]} have the same matrices."
        least = order[-1]
        related = int((self.cosine_p <= SURE).sum())
        shared = int((self.overlap_p.min(0) <= SURE).sum())
        change = float(np.median(self.change))
        return (
            f"From {names[0]} to {names[1]}: the median matrix changed by "
            f"{change:.0%} of its size. Most: {most}. Least: {self.names[least]} (by "
            f"{self.change[least]:.0%}). {related} of {len(self.names)} matrices point more nearly "
            f"the same (or the opposite) way than unrelated ones (adjusted p at most "
            f"{SURE}); the {self.k} largest singular directions span more nearly the same "
            f"space than unrelated ones in {shared}. Two trainings from different seeds may do the "
            "same in other coordinates: a change of weights is no change of what is computed."
        )


def compare(
    model: TransformerBridge,
    other: TransformerBridge,
    *,
    k: int = 8,
    progress: running.Progress | None = None,
) -> WeightComparison:
    """Compare the matrices of two models, or of two checkpoints of one.

    Args:
        model: The one that the other is compared with.
        other: Of the same shapes.
        k: How many singular directions to compare.
        progress: Told how far it is; may raise to stop.

    Returns:
        Change, cosine, ranks and shared directions of each matrix.

    Raises:
        ValueError: If the two have matrices of different names or shapes, or k is below 1.
    """
    started, report = time.perf_counter(), progress or running.no_progress
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1 singular direction")
    first, second = spectra.stored_matrices(model), spectra.stored_matrices(other)
    names = (str(sources.source_of(each).name) for each in (model, other))
    _require_alike(first, second, *names)
    rows: list[tuple[float, ...]] = []
    for i, (name, a) in enumerate(first.items()):
        report(i / len(first), name)
        rows.append(_compared(a.float(), second[name].float().to(a.device), k))
    table = np.array(rows).T
    overlap_p = evidence.adjusted_for_discoveries(table[10:12])
    return WeightComparison(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"other": card.fingerprint(other), "k": k},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        other=str(sources.source_of(other).name),
        other_fingerprint=card.fingerprint(other),
        names=tuple(first),
        change=table[0].copy(),
        cosine=table[1].copy(),
        cosine_p=evidence.adjusted_for_discoveries(table[2]),
        norm=table[3].copy(),
        other_norm=table[4].copy(),
        effective_rank=table[5].copy(),
        other_rank=table[6].copy(),
        overlap=table[[7, 8]].copy(),
        expected=table[[9, 12]].copy(),
        overlap_p=overlap_p,
        k=k,
    )


def _require_alike(
    first: dict[str, Tensor], second: dict[str, Tensor], name: str, other: str
) -> None:
    if set(first) != set(second):
        missing = sorted(set(first) ^ set(second))
        raise ValueError(
            f"{name!r} and {other!r} are built differently: {missing[0]!r} is in one of them only; "
            "compare two checkpoints of one architecture"
        )
    for key, value in first.items():
        if value.shape != second[key].shape:
            shapes = [" × ".join(map(str, each.shape)) for each in (value, second[key])]
            raise ValueError(
                f"{key!r} is {shapes[0]} in {name!r} and {shapes[1]} in {other!r}; compare models "
                "of the same shapes"
            )


def _compared(a: Tensor, b: Tensor, k: int) -> tuple[float, ...]:
    norm, other, moved = (float(each.norm()) for each in (a, b, b - a))
    change = moved / norm if norm > 0 else (math.inf if moved > 0 else 0.0)
    product = float((a.double() * b.double()).sum())
    cosine = product / (norm * other) if norm * other > 0 else 0.0
    cosine = min(1.0, max(-1.0, cosine))
    ranks = [singular.measured(each).effective_rank for each in (a, b)]
    count = min(k, *a.shape)
    (left_a, _, right_a), (left_b, _, right_b) = (singular.leading(each, count) for each in (a, b))
    shared: list[tuple[float, float, float]] = []
    for one, two in ((left_a, left_b), (right_a, right_b)):
        width = len(one)
        overlap = float((one.T @ two).square().sum()) / count
        even = np.array(1 / count)
        _, variance = nulls.overlap_moments(even, even, width)
        # |A B|² / (|A|² |B|²) of two frames of k unit vectors is their overlap over k.
        _, _, p = nulls.overlap_against_chance(np.array(overlap / count), variance, width)
        shared.append((overlap, count / width, float(p) if count < width else 1.0))
    (left, left_expected, left_p), (right, right_expected, right_p) = shared
    p_value = float(nulls.cosine_p_value(cosine, a.numel()))
    return (
        *(change, cosine, p_value, norm, other, *ranks),
        *(left, right, left_expected, left_p, right_p, right_expected),
    )
