"""Singular values of a matrix, and what they say of it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from analyses.weights import nulls

Tensor = torch.Tensor
# Singular values that are kept of a matrix.
KEPT = 256
# Rows × columns × the smaller of the two: up to here a spectrum is exact, beyond it the largest
# values are found at random (Halko et al. 2011). About a minute on one core.
EXACT_UP_TO = 2e11
# Exact directions take several times longer than singular values alone.
DIRECTIONS_UP_TO = 2e9
_ITERATIONS, _SPARE = 6, 16
# From so many times as long as wide on, squares are quicker.
_LONG, _ROWS = 2, 8192


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a spectrum says of a matrix.

    Attributes:
        values: Singular values, largest first, at most `KEPT`.
        frobenius: Root of the sum of all squares.
        effective_rank: Exponential of the entropy of the normalised singular values (Roy & Vetterli
            2007); NaN where only the largest are known.
        condition: Largest over smallest; infinite where the smallest is rounding, NaN if unknown.
        outside: How many lie beyond what a Gaussian matrix of the same shape and size reaches in
            one of twenty cases.
        p_value: How often its largest one is as large as this one.
        exact: Whether all singular values are known.
    """

    values: Float[np.ndarray, " singular"]
    frobenius: float
    effective_rank: float
    condition: float
    outside: int
    p_value: float
    exact: bool

    @property
    def stable_rank(self) -> float:
        """Squares of all singular values over that of the largest."""
        return _ratio(self.frobenius**2, float(self.values[0]) ** 2)


def measured(value: Float[Tensor, "row column"]) -> Measured:
    """What the spectrum of a matrix says.

    Args:
        value: The matrix.

    Returns:
        All of its singular values where that is not too much, else the largest.
    """
    weight = value.detach().float()
    rows, columns = int(weight.shape[0]), int(weight.shape[1])
    frobenius = float(weight.norm())
    exact = cost((rows, columns)) <= EXACT_UP_TO
    values = singular_values(weight, exact)
    deviation = frobenius / math.sqrt(rows * columns)
    beyond = values > nulls.edge(deviation, rows, columns)
    rounding = values[0] * max(rows, columns) * np.finfo(np.float32).eps
    return Measured(
        values=values[:KEPT].copy(),
        frobenius=frobenius,
        effective_rank=effective_rank(values) if exact else math.nan,
        condition=_condition(values, rounding) if exact else math.nan,
        outside=int(beyond.sum()) if frobenius > 0 else 0,
        p_value=nulls.largest_p_value(float(values[0]), deviation, rows, columns),
        exact=exact,
    )


def singular_values(
    weight: Float[Tensor, "row column"], exact: bool
) -> Float[np.ndarray, " singular"]:
    """Singular values, largest first: all of them, or the largest by random projection."""
    if not exact:
        values = leading(weight, KEPT)[1]
    elif max(weight.shape) >= _LONG * min(weight.shape):
        values = _through_squares(weight)
    else:
        values = torch.linalg.svdvals(weight)
    return values.cpu().numpy().astype(np.float64)


def _through_squares(weight: Tensor) -> Tensor:
    """Singular values of a long matrix, which its small square knows.

    In double precision squares lose no more than what single precision rounds off anyway.
    """
    long = weight if weight.shape[0] >= weight.shape[1] else weight.T
    total = torch.zeros(long.shape[1], long.shape[1], dtype=torch.float64, device=long.device)
    for some in long.split(_ROWS):
        total += some.double().T @ some.double()
    return torch.linalg.eigvalsh(total).flip(0).clamp(min=0).sqrt()


def leading(
    weight: Float[Tensor, "row column"], k: int
) -> tuple[Float[Tensor, "row k"], Float[Tensor, " k"], Float[Tensor, "column k"]]:
    """The k largest singular values with their directions, by random projection if it is large.

    Args:
        weight: The matrix.
        k: How many; at most as many as it has.

    Returns:
        Directions on the left, singular values, directions on the right.
    """
    k = min(k, *weight.shape)
    if cost(weight.shape) <= DIRECTIONS_UP_TO:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return left[:, :k], values[:k], right[:k].T
    shape = (int(weight.shape[1]), k + _SPARE)
    basis = nulls.gaussian(shape, np.random.default_rng(0), weight.device)
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(weight.T @ torch.linalg.qr(weight @ basis).Q).Q
    left, values, right = torch.linalg.svd(weight @ basis, full_matrices=False)
    return left[:, :k], values[:k], (basis @ right.T)[:, :k]


def effective_rank(values: Float[np.ndarray, " singular"]) -> float:
    """Exponential of the entropy of normalised singular values; 0 for a matrix of zeros."""
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


@functools.lru_cache(maxsize=256)
def random_rank(rows: int, columns: int) -> float:
    """Effective rank of a Gaussian matrix."""
    return effective_rank(nulls.random_spectrum(1.0, rows, columns))


def _condition(values: np.ndarray, rounding: float) -> float:
    if values[0] == 0:
        return math.nan
    return float(values[0] / values[-1]) if values[-1] > rounding else math.inf


def _ratio(one: float, other: float) -> float:
    return one / other if other > 0 else 0.0


def cost(shape: Sequence[int]) -> float:
    """Rows × columns × the smaller of the two."""
    return float(math.prod(shape)) * min(shape)
