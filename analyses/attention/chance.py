"""The chance of an excess over the null, corrected over everything that was looked at."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Sign patterns times cells are held at once.
_VALUES_AT_ONCE = 8_000_000
# Two shares of attention that differ by less are equal up to rounding.
_ROUNDING = 1e-7


def family_p_values(
    values: Float[np.ndarray, "row cell"], *, rounds: int, seed: int
) -> Float[np.ndarray, " cell"]:
    """One-sided p-value of each cell's mean against random signs, corrected over all cells.

    1. Cells are divided by their root mean square, which no sign changes: their means are then a
       monotone function of Student's t, and comparable.
    2. A round gives every row one random sign, the same in all cells, and keeps the largest mean.
    3. p is the share of rounds whose largest mean is as large as the cell's own, the rows as they
       are counted in, so that it is never 0.

    Args:
        values: Each row's score minus its null.
        rounds: Random sign patterns.
        seed: Equal seeds give equal bits.

    Returns:
        p-values with which calling any cell an excess is wrong in a share p of all cases at most;
        1 where all values are zero.
    """
    size = np.sqrt((values.astype(np.float64) ** 2).mean(0))
    scaled = np.where(size > _ROUNDING, values / np.maximum(size, _ROUNDING), 0.0)
    own = scaled.mean(0)
    rng = np.random.default_rng(seed)
    largest = np.empty(rounds)
    step = max(1, _VALUES_AT_ONCE // max(1, values.shape[1]))
    for start in range(0, rounds, step):
        n = min(step, rounds - start)
        signs = rng.choice((-1.0, 1.0), (n, len(values)))
        largest[start : start + n] = (signs @ scaled / len(values)).max(1, initial=-np.inf)
    largest.sort()
    # A sign pattern that is the rows' own gives the own mean up to rounding.
    as_large = rounds - np.searchsorted(largest, own - 1e-12)
    return np.where(own == 0, 1.0, (1 + as_large) / (1 + rounds))
