"""How well does each unit tell a concept's examples apart, for many labellings at once?

1. `centred` ranks every unit's values (equal values share their mean rank) and takes (n + 1) / 2
   away, so that ranks sum to zero.
2. The Mann-Whitney statistic of any labelling is then one sum: AUC = 1/2 + S / (n1 · n0), where S
   adds the centred ranks of the n1 examples with the concept. `aucs` does this for all labellings
   and units as one matrix product.
3. For numbers instead of labels, `explained` gives the share of each unit's variance that a linear
   regression on the targets explains, and `explained_by` does it for shuffled targets.

Source: Mann & Whitney 1947, "On a test of whether one of two random variables is stochastically
larger than the other"; Hanley & McNeil 1982 (the statistic as an area under the curve).

Units and sign: AUC from 0 to 1, above one half where the unit is larger with the concept, equal
values counted half. R² from 0 to 1.

Limits: sums of ranks are multiples of one half, so they are exact in float64 up to some 10⁷
examples. Ranks know nothing of by how much a unit differs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

# Units that are ranked together: their sort keys and ranks stay in the cache.
_TOGETHER = 16
_THREADS = 2
# Fewer values than this are ranked before a thread has started.
_LITTLE = 200_000
# Columns of the targets below this share of the largest singular value add nothing.
_RANK = 1e-9


def centred(values: Float32[np.ndarray, "example unit"]) -> Float64[np.ndarray, "example unit"]:
    """Ranks of each unit's values less their mean.

    Args:
        values: Of every unit at every example.

    Returns:
        Ranks from -(n - 1) / 2 to (n - 1) / 2, ties sharing the mean of their ranks; all zero for a
        unit that is constant.

    Raises:
        ValueError: If a value is NaN.
    """
    if np.isnan(values).any():
        bad = int(np.flatnonzero(np.isnan(values).any(0))[0])
        raise ValueError(
            f"unit number {bad} is not a number (NaN) at some examples: it has no rank there"
        )
    count, units = values.shape
    # One unit after another in memory: columns are sorted and multiplied as they lie.
    ranks = np.empty((units, count), dtype=np.float64)

    def rank(first: int) -> None:
        here = slice(first, first + _TOGETHER)
        ranks[here] = _ranked(np.ascontiguousarray(values[:, here].T))

    firsts = range(0, units, _TOGETHER)
    if values.size < _LITTLE:
        for first in firsts:
            rank(first)
        return ranks.T
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(rank, firsts))
    return ranks.T


def aucs(
    centred: Float64[np.ndarray, "example unit"], labels: Bool[np.ndarray, "round example"]
) -> Float64[np.ndarray, "round unit"]:
    """Mann-Whitney AUC of every unit under every labelling.

    Args:
        centred: Ranks from `centred`.
        labels: Labellings, one a row: the true one, shuffled ones.

    Returns:
        AUC, one half where a unit is constant.

    Raises:
        ValueError: If a labelling has one class only.
    """
    count = labels.shape[1]
    has = labels.sum(1)
    if not ((has > 0) & (has < count)).all():
        wrong = int(has[(has == 0) | (has == count)][0])
        raise ValueError(
            f"{wrong} of {count} examples have the concept: an AUC needs at least one with and one "
            "without"
        )
    pairs = has * (count - has)
    return 0.5 + (labels.astype(np.float64) @ centred) / pairs[:, None]


def explained(
    values: Float[np.ndarray, "example unit"], targets: Float64[np.ndarray, "example target"]
) -> Float64[np.ndarray, " unit"]:
    """R² of each unit by a linear regression on the targets, with an intercept.

    Args:
        values: Of every unit at every example.
        targets: What it might encode.

    Returns:
        From 0 to 1; NaN for a unit that is constant.
    """
    standard = standardised(values)
    order = np.arange(len(values))[None]
    share = explained_by(standard, orthonormal(targets), order)[0]
    return np.where(standard.any(0), share, np.nan)


def explained_by(
    standardised: Float64[np.ndarray, "example unit"],
    orthonormal: Float64[np.ndarray, "example kept"],
    orders: Int[np.ndarray, "round example"],
) -> Float64[np.ndarray, "round unit"]:
    """R² of each unit by the targets in other orders.

    Args:
        standardised: Units of mean 0 and length 1, from `standardised`.
        orthonormal: Targets of mean 0, from `orthonormal`.
        orders: Of each round, which example's targets each example gets.

    Returns:
        From 0 to 1; 0 for a unit that is constant.
    """
    rounds, targets = len(orders), orthonormal.shape[1]
    shuffled = orthonormal.T[:, orders].reshape(targets * rounds, -1)
    products = (shuffled @ standardised).reshape(targets, rounds, -1)
    return np.square(products).sum(0)


def standardised(
    values: Float[np.ndarray, "example unit"],
) -> Float64[np.ndarray, "example unit"]:
    """Units less their mean, of length 1; all zero for a unit that is constant."""
    wide = values.astype(np.float64)
    wide -= wide.mean(0)
    # Taking off a mean of a constant leaves its rounding.
    wide[:, np.ptp(values, axis=0) == 0] = 0
    length = np.linalg.norm(wide, axis=0)
    return wide / np.where(length > 0, length, 1)


def orthonormal(
    targets: Float64[np.ndarray, "example target"],
) -> Float64[np.ndarray, "example kept"]:
    """Orthonormal columns that span the targets less their means.

    Raises:
        ValueError: If all targets are constant.
    """
    moved = targets - targets.mean(0)
    left, size, _ = np.linalg.svd(moved, full_matrices=False)
    largest = float(np.abs(targets).max(initial=0)) * np.sqrt(len(targets))
    if not len(size) or size[0] <= _RANK * largest:
        raise ValueError(
            f"the {targets.shape[1]} targets are the same for all {len(targets)} examples: there "
            "is nothing to explain by them"
        )
    return left[:, size > _RANK * size[0]]


def _ranked(rows: Float32[np.ndarray, "unit example"]) -> Float64[np.ndarray, "unit example"]:
    """Centred midranks of each row."""
    count = rows.shape[1]
    order = np.argsort(rows, axis=1)
    ordered = np.take_along_axis(rows, order, 1)
    places = np.arange(count, dtype=np.int32)
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(rows), 1), dtype=bool)
    # Of each run of equal values: where it starts, and where it ends.
    starts = np.where(np.concatenate([edge, differs], 1), places, 0)
    ends = np.where(np.concatenate([differs, edge], 1), places, count - 1)
    np.maximum.accumulate(starts, axis=1, out=starts)
    backward = ends[:, ::-1]
    np.minimum.accumulate(backward, axis=1, out=backward)
    ranks = np.empty(rows.shape)
    np.put_along_axis(ranks, order, (starts + ends) / 2 - (count - 1) / 2, 1)
    return ranks
