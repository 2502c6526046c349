"""How sure is the effect of a few units, were other rows drawn?

1. Rows (texts, images) are drawn again with all their examples, by scipy's bootstrap.
2. An example counts as often as its row was drawn: the AUC is that of weighted examples, R² that of
   a weighted regression.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap" (percentile intervals).

Units: of the effect.

Limits: units that were chosen for being large are a little smaller on other rows. Draws without one
of the classes say nothing and are left out; with fewer than two rows of a class there is no
interval (NaN).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Float32, Float64, Int

_AT_ONCE = 4_000_000
_FEWEST = 2
Statistic = Callable[[Float64[np.ndarray, "round example"]], Float64[np.ndarray, "unit round"]]


def of_auc(
    values: Float32[np.ndarray, "example unit"],
    labels: Bool[np.ndarray, " example"],
    row: Int[np.ndarray, " example"],
    *,
    confidence: float | int,
    resamples: int,
    seed: int,
) -> Float64[np.ndarray, "bound unit"]:
    """Percentile interval of each unit's AUC, over rows.

    Args:
        values: Of some units at every example.
        labels: Which have the concept.
        row: Which row each example is of.
        confidence: Level between 0 and 1.
        resamples: Draws.
        seed: Equal seeds give equal bits.

    Returns:
        Lower and upper bounds.
    """
    if min(len(np.unique(row[labels])), len(np.unique(row[~labels]))) < _FEWEST:
        return np.full((2, values.shape[1]), np.nan)
    has, has_not = np.flatnonzero(labels), np.flatnonzero(~labels)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for column in values.T:
        order = has_not[np.argsort(column[has_not], kind="stable")]
        below = np.searchsorted(column[order], column[has], side="left")
        upto = np.searchsorted(column[order], column[has], side="right")
        found.append((order, below, upto))

    def statistic(weights: Float64[np.ndarray, "round example"]) -> np.ndarray:
        pairs = weights[:, has].sum(1) * weights[:, has_not].sum(1)
        one = weights[:, has]
        wins = np.empty((len(found), len(weights)))
        running = np.zeros((len(weights), len(has_not) + 1))
        for number, (order, below, upto) in enumerate(found):
            np.cumsum(weights[:, order], axis=1, out=running[:, 1:])
            wins[number] = np.einsum("re,re->r", one, running[:, below] + running[:, upto]) / 2
        return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), np.nan)

    return _interval(statistic, row, confidence, resamples, seed)


def of_explained(
    values: Float32[np.ndarray, "example unit"],
    orthonormal: Float64[np.ndarray, "example kept"],
    row: Int[np.ndarray, " example"],
    *,
    confidence: float | int,
    resamples: int,
    seed: int,
) -> Float64[np.ndarray, "bound unit"]:
    """Percentile interval of each unit's R² by some targets, over rows.

    Args:
        values: Of some units at every example.
        orthonormal: Targets, from `ranks.orthonormal`.
        row: Which row each example is of.
        confidence: Level between 0 and 1.
        resamples: Draws.
        seed: Equal seeds give equal bits.

    Returns:
        Lower and upper bounds.
    """
    y = values.astype(np.float64)
    y -= y.mean(0)
    x = np.concatenate([np.ones((len(y), 1)), orthonormal], 1)
    squares = np.einsum("ej,ek->ejk", x, x).reshape(len(x), -1)
    products = np.einsum("ej,eu->eju", x, y).reshape(len(x), -1)

    def statistic(weights: Float64[np.ndarray, "round example"]) -> np.ndarray:
        size = len(weights)
        gram = (weights @ squares).reshape(size, x.shape[1], x.shape[1])
        moment = (weights @ products).reshape(size, x.shape[1], y.shape[1])
        slope = np.linalg.pinv(gram, hermitian=True) @ moment
        total = weights.sum(1)[:, None]
        mean = moment[:, 0] / total
        spread = weights @ np.square(y) - total * mean**2
        share = (np.einsum("rju,rju->ru", slope, moment) - total * mean**2) / np.where(
            spread > 0, spread, np.nan
        )
        return share.T

    return _interval(statistic, row, confidence, resamples, seed)


def _interval(
    statistic: Statistic,
    row: Int[np.ndarray, " example"],
    confidence: float | int,
    resamples: int,
    seed: int,
) -> Float64[np.ndarray, "bound unit"]:
    rows, at = np.unique(row, return_inverse=True)

    def of_drawn(drawn: np.ndarray, axis: int) -> Float[np.ndarray, "unit round"]:
        assert axis == -1
        table = np.atleast_2d(drawn)
        places = table + np.arange(len(table))[:, None] * len(rows)
        counts = np.bincount(places.ravel(), minlength=table.size).reshape(table.shape)
        found = statistic(counts[:, at].astype(np.float64))
        return found if drawn.ndim > 1 else found[:, 0]

    with warnings.catch_warnings():
        # A unit that tells all examples apart does so in every draw: its interval is a point.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        made: Any = scipy.stats.bootstrap(
            (np.arange(len(rows)),),
            of_drawn,
            vectorized=True,
            axis=-1,
            method="percentile",
            confidence_level=confidence,
            n_resamples=resamples,
            batch=max(1, _AT_ONCE // len(row)),
            rng=np.random.default_rng(seed),
        )
    tail = (1 - confidence) / 2
    return np.nanquantile(made.bootstrap_distribution, [tail, 1 - tail], axis=-1)
