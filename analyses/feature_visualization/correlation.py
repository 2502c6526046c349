"""Pearson correlation over tokens from running sums, with an interval over whole rows.

1. `from_sums` takes the six sums that a correlation is made of, for any number of units at once.
2. `row_interval` draws whole rows, as the tokens of a row belong together, and adds up their sums.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap" (percentile intervals, and
blocks that are drawn as a whole). The resampling is scipy's.

Units: correlation from -1 to 1; NaN where one side is constant.
"""

from __future__ import annotations

import numpy as np
import scipy.stats
from jaxtyping import Float, Int, Shaped

# A spread below this share of the square that it is the rest of is rounding.
_ROUNDING = 1e-12
# Resamples times rows that are held at once.
_AT_ONCE = 2e6


def from_sums(sums: Float[np.ndarray, "6 *unit"]) -> Float[np.ndarray, "*unit"]:
    """Correlation of two sides.

    Args:
        sums: Over tokens: of ones, one side, its squares, the other side, its squares, products.

    Returns:
        The correlation; NaN where one side is constant but for rounding.
    """
    n, x, xx, y, yy, xy = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        spreads = (xx - x**2 / n, yy - y**2 / n)
        varies = (spreads[0] > _ROUNDING * xx) & (spreads[1] > _ROUNDING * yy)
        found = (xy - x * y / n) / np.sqrt(np.where(varies, spreads[0] * spreads[1], np.nan))
        return np.asarray(np.clip(found, -1, 1))


def row_interval(
    x: Float[np.ndarray, " token"],
    y: Float[np.ndarray, " token"],
    rows: Int[np.ndarray, " token"],
    *,
    confidence: float | int = 0.95,
    n_resamples: int = 999,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a correlation.

    Args:
        x: One side at each token.
        y: The other side.
        rows: Row that each token is of.
        confidence: Level between 0 and 1.
        n_resamples: Bootstrap resamples.
        seed: Equal seeds give equal bits.

    Returns:
        Both ends; NaN where there is one row only, which cannot vary.
    """
    _, row = np.unique(rows, return_inverse=True)
    # Off their means, sums of squares lose no digits.
    x, y = x.astype(np.float64) - x.mean(), y.astype(np.float64) - y.mean()
    parts = (np.ones(len(x)), x, x**2, y, y**2, x * y)
    sums = np.stack([np.bincount(row, part) for part in parts], 1)
    if len(sums) == 1:
        return float("nan"), float("nan")

    def statistic(drawn: Shaped[np.ndarray, "..."], axis: int) -> np.ndarray:
        several = sums[np.moveaxis(drawn, axis, -1).astype(np.int64)].sum(-2)
        return from_sums(np.moveaxis(several, -1, 0))

    found = scipy.stats.bootstrap(
        (np.arange(len(sums)),),
        statistic,
        n_resamples=n_resamples,
        batch=max(1, int(_AT_ONCE // len(sums))),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
