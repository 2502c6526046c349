"""Which coordinates are out of scale, and is the basis special at all?

1. A coordinate's size is its root mean square over the tokens. It stands out where the logarithm of
   that is more than `BEYOND` robust standard deviations (median, and 1.4826 times the median
   distance from it) above the median of all coordinates, whatever the scale.
2. The null: random directions in place of the coordinates. The mean square along a random unit
   vector is a mean of the eigenvalues of the second moments, weighted by the squares of a random
   unit vector; so the null is drawn from these alone, for any width. Where the basis is not
   special, coordinates stand out no further than random directions do.
3. Published rule beside it (LLM.int8()): size above 6 at 6 % of the tokens; `across_layers`
   adds its third part, in 25 % of the layers.
4. Half of the rows are looked at apart from the others: what is an outlier must be one in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from analyses.activations.moments import Moments
from workbench.core import evidence

# Robust standard deviations; LLM.int8()'s size, share of tokens and share of layers.
BEYOND = 6.0
SIZE, TOKENS, LAYERS = 6.0, 0.06, 0.25
ROUNDS = 99
# Fewer coordinates than this have no scale to stand out from.
FEW = 8
_NORMAL = 1.4826
# Coordinates that are named one by one.
_NAMED = 5
# Log sizes that differ by less differ by rounding.
_ALIKE = 1e-6
# Random directions of a round at the most, and random numbers that are held at once.
_DIRECTIONS, _AT_ONCE = 2048, 20_000_000


def listed(found: Sequence[object]) -> str:
    """Name the first few coordinates.

    Args:
        found: All of them.

    Returns:
        Their names, and a sign that there are more.
    """
    return ", ".join(map(str, found[:_NAMED])) + (" …" if len(found) > _NAMED else "")


@dataclasses.dataclass(frozen=True, eq=False)
class Outliers:
    """How far each coordinate of one place stands out, and how far random directions do.

    Attributes:
        rms: Root mean square of each coordinate.
        distance: Of its logarithm from the median, in robust standard deviations; NaN where it is
            zero.
        by_half: The same in each half of the rows.
        beyond: Share of the tokens at which its size is above `SIZE`.
        null: Largest distance of as many random directions, in each round.
        null_count: How many of these stand out, in each round.
    """

    rms: Float[np.ndarray, " width"]
    distance: Float[np.ndarray, " width"]
    by_half: Float[np.ndarray, "half width"]
    beyond: Float[np.ndarray, " width"]
    null: Float[np.ndarray, " round"]
    null_count: Int[np.ndarray, " round"]

    @property
    def found(self) -> Int[np.ndarray, " outlier"]:
        """Coordinates that stand out, in both halves too, the furthest first."""
        halves = (np.nan_to_num(self.by_half, nan=-np.inf) > BEYOND).all(0)
        out = (np.nan_to_num(self.distance, nan=-np.inf) > BEYOND) & halves
        order = np.argsort(-np.nan_to_num(self.distance, nan=-np.inf), kind="stable")
        return order[out[order]]

    @property
    def by_size(self) -> Int[np.ndarray, " outlier"]:
        """Coordinates of which the published rule's part for one layer holds."""
        return np.flatnonzero(self.beyond >= TOKENS)

    @property
    def replicated(self) -> float:
        """Correlation of both halves' log sizes; NaN where fewer than three can be compared."""
        known = np.isfinite(self.by_half).all(0)
        if known.sum() <= len(self.by_half) or np.ptp(self.by_half[:, known], axis=1).min() == 0:
            return float("nan")
        return float(np.corrcoef(self.by_half[:, known])[0, 1])

    @property
    def p_value(self) -> float:
        """Of as many coordinates that stand out, were they random directions."""
        return evidence.p_value(float(len(self.found)), self.null_count.astype(np.float64))


def of_sums(
    sums: Moments,
    sample: Float[np.ndarray, "sampled width"],
    *,
    seed: int,
    rounds: int = ROUNDS,
) -> Outliers:
    """Which coordinates stand out, given what was summed up of a place.

    Args:
        sums: Of all tokens.
        sample: Activations of some of them, for the null.
        seed: Of the random directions.
        rounds: How often these are drawn.

    Returns:
        The outliers; with no null where there are too few coordinates, or no sample.
    """
    rms = sums.whole_rms()
    null, counts = np.zeros(0), np.zeros(0, dtype=np.int64)
    if rms.size >= FEW and len(sample):
        null, counts = rotated(sample, rounds=rounds, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        beyond = sums.beyond.sum(0) / sums.counts
    return Outliers(
        rms=rms,
        distance=distances(rms),
        by_half=np.stack([distances(half) for half in sums.rms()]),
        beyond=beyond,
        null=null,
        null_count=counts,
    )


def distances(rms: Float[np.ndarray, " width"]) -> Float[np.ndarray, " width"]:
    """How far each coordinate's log size is from the median, in robust standard deviations.

    Args:
        rms: Root mean squares.

    Returns:
        NaN where that is zero or unknown; 0 for all where more than half are alike.
    """
    found = np.full(rms.shape, np.nan)
    live = np.isfinite(rms) & (rms > 0)
    if not live.any():
        return found
    logs = np.log(rms[live])
    off = logs - np.median(logs)
    spread = _NORMAL * np.median(np.abs(off))
    if spread <= _ALIKE:
        # Most are exactly alike: what differs from them differs beyond any spread.
        found[live] = np.select([off > _ALIKE, off < -_ALIKE], [np.inf, -np.inf], 0.0)
        return found
    found[live] = off / spread
    return found


def rotated(
    sample: Float[np.ndarray, "sampled width"], *, rounds: int, seed: int
) -> tuple[Float[np.ndarray, " round"], Int[np.ndarray, " round"]]:
    """How far random directions stand out, as many as there are coordinates (2,048 at the most).

    Args:
        sample: Activations of some tokens.
        rounds: How often they are drawn.
        seed: Of the draws.

    Returns:
        The largest distance of each round, and how many directions are beyond `BEYOND`.
    """
    count, width = sample.shape
    matrix = torch.from_numpy(sample.astype(np.float64))
    small = matrix @ matrix.T if count <= width else matrix.T @ matrix
    values = np.clip(torch.linalg.eigvalsh(small).numpy(), 0, None) / max(count, 1)
    values = values[values > 1e-12 * values.max(initial=0)].astype(np.float32)
    rng = np.random.default_rng(seed)
    largest, counts = np.zeros(rounds), np.zeros(rounds, dtype=np.int64)
    many = min(width, _DIRECTIONS)
    step = max(1, _AT_ONCE // max(len(values), 1))
    for i in range(rounds):
        rms = np.concatenate(
            [
                _along_random(values, min(step, many - start), width, rng)
                for start in range(0, many, step)
            ]
        )
        far = np.nan_to_num(distances(rms), nan=0.0)
        largest[i], counts[i] = far.max(initial=0.0), int((far > BEYOND).sum())
    return largest, counts


def _along_random(
    eigenvalues: Float[np.ndarray, " axis"], many: int, width: int, rng: np.random.Generator
) -> Float[np.ndarray, " direction"]:
    """Root mean squares along random unit vectors."""
    squares = rng.standard_normal((many, len(eigenvalues)), dtype=np.float32) ** 2
    left = width - len(eigenvalues)
    # What of a vector lies where nothing varies only takes from its length.
    rest = rng.chisquare(left, many) if left > 0 else np.zeros(many)
    return np.sqrt((squares @ eigenvalues) / (squares.sum(1) + rest))


def across_layers(
    beyond: Float[np.ndarray, "layer width"],
) -> Bool[np.ndarray, " width"]:
    """LLM.int8()'s rule: coordinates of size above 6 at 6 % of tokens in 25 % of the layers.

    Args:
        beyond: Share of the tokens of each layer at which a coordinate's size is above 6.

    Returns:
        Which coordinates.
    """
    return (beyond >= TOKENS).mean(0) >= LAYERS
