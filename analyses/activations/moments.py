"""Sums over a corpus, from which each coordinate's numbers follow, in memory that does not grow.

1. Powers of each coordinate are summed in float64 about the mean of the first chunk, so that a
   coordinate whose mean is large against its spread loses nothing.
2. Rows go to one of two halves, so that whatever is found can be looked for again in the other.
3. Sums of some numbers of whole rows go into `BATCHES` groups of rows, for intervals.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

HALVES = 2
# Groups of rows that are drawn again for an interval.
BATCHES = 50
_POWERS = 4


class Moments:
    """What is summed up of a table [token, coordinate].

    Attributes:
        count: Numbers of each half and coordinate.
        least: Smallest number of each coordinate.
        most: Largest number of each coordinate.
        zeros: How many are exactly zero.
        positive: How many are above zero.
        beyond: How many have a size above a given one.
    """

    def __init__(self, width: int, beyond: float) -> None:
        """Begin with nothing.

        Args:
            width: How many coordinates.
            beyond: The size that `beyond` counts.
        """
        self._limit = beyond
        self._shift: torch.Tensor | None = None
        self._powers = torch.zeros(HALVES, _POWERS, width, dtype=torch.float64)
        self._squares = torch.zeros(HALVES, width, dtype=torch.float64)
        self.count = np.zeros((HALVES, width), dtype=np.int64)
        self.least = np.full(width, np.inf)
        self.most = np.full(width, -np.inf)
        self.zeros = np.zeros(width, dtype=np.int64)
        self.positive = np.zeros(width, dtype=np.int64)
        self.beyond = np.zeros((HALVES, width), dtype=np.int64)

    def take(
        self,
        table: Float[torch.Tensor, "token width"],
        own: Bool[torch.Tensor, "token width"],
        half: Int[np.ndarray, " token"],
    ) -> None:
        """Take in some more tokens.

        Args:
            table: Numbers.
            own: Which of them count.
            half: Of each token's row.
        """
        clean = torch.where(own, table, 0.0)
        if self._shift is None:
            count = own.sum(0).clamp(min=1)
            self._shift = (clean.double().sum(0) / count).cpu()
        for which in range(HALVES):
            here = torch.from_numpy(half == which).to(table.device)
            part, counted = clean[here].double(), own[here]
            self.count[which] += counted.sum(0).cpu().numpy()
            self.beyond[which] += ((part.abs() > self._limit) & counted).sum(0).cpu().numpy()
            self._squares[which] += (part**2).sum(0).cpu()
            moved = torch.where(counted, part - self._shift.to(part.device), 0.0)
            power = torch.ones_like(moved)
            for n in range(_POWERS):
                power = power * moved
                self._powers[which, n] += power.sum(0).cpu()
        self.zeros += ((clean == 0) & own).sum(0).cpu().numpy()
        self.positive += (clean > 0).sum(0).cpu().numpy()
        if len(table):
            low = torch.where(own, table, torch.inf).amin(0).double().cpu().numpy()
            high = torch.where(own, table, -torch.inf).amax(0).double().cpu().numpy()
            self.least, self.most = np.minimum(self.least, low), np.maximum(self.most, high)

    @property
    def counts(self) -> Int[np.ndarray, " width"]:
        """Numbers of each coordinate."""
        return self.count.sum(0)

    def rms(self) -> Float[np.ndarray, "half width"]:
        """Root mean square of each half and coordinate; NaN where nothing counted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(self._squares.numpy() / self.count)

    def whole_rms(self) -> Float[np.ndarray, " width"]:
        """Root mean square of each coordinate; NaN where nothing counted."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(self._squares.numpy().sum(0) / self.counts)

    def shape(self) -> Float[np.ndarray, "4 width"]:
        """Mean, standard deviation, skewness and excess kurtosis of each coordinate.

        Returns:
            NaN where nothing counted; the last two are NaN where a coordinate is constant.
        """
        if self._shift is None:
            return np.full((_POWERS, self.counts.size), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            first, second, third, fourth = self._powers.numpy().sum(0) / self.counts
            variance = np.maximum(second - first**2, 0)
            skew = third - 3 * first * second + 2 * first**3
            kurtosis = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
            # What is left of a constant by rounding is no spread.
            spread = np.sqrt(variance)
            size = np.maximum(np.abs(self.least), np.abs(self.most))
            varies = spread > 1e-7 * np.maximum(size, 1e-30)
            return np.stack(
                [
                    self._shift.numpy() + first,
                    np.where(varies, spread, np.where(self.counts > 0, 0.0, np.nan)),
                    np.where(varies, skew / spread**3, np.nan),
                    np.where(varies, kurtosis / variance**2 - 3, np.nan),
                ]
            )


class Batched:
    """Sums and counts of one number a token, by groups of rows."""

    def __init__(self) -> None:
        self.sums = np.zeros(BATCHES)
        self.counts = np.zeros(BATCHES, dtype=np.int64)

    def take(self, values: Float[np.ndarray, " token"], row: Int[np.ndarray, " token"]) -> None:
        """Take in some more tokens, each with its row."""
        group = row % BATCHES
        self.sums += np.bincount(group, values, BATCHES)
        self.counts += np.bincount(group, minlength=BATCHES)

    def parts(self) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
        """Sums and counts of the groups that have any token."""
        some = self.counts > 0
        return self.sums[some], self.counts[some].astype(np.float64)


class LogHistogram:
    """Counts of sizes in cells of equal width on a logarithmic scale: for a median, in one pass.

    A cell is 2^(1/64) wide, so a quantile is right to 1.1 %.
    """

    _PER_OCTAVE, _OCTAVES = 64, 60

    def __init__(self) -> None:
        self._counts = np.zeros(2 * self._PER_OCTAVE * self._OCTAVES, dtype=np.int64)

    def take(self, sizes: Float[np.ndarray, " token"]) -> None:
        """Take in some more sizes, zero included."""
        with np.errstate(divide="ignore"):
            at = np.floor(np.log2(sizes.astype(np.float64)) * self._PER_OCTAVE)
        middle = self._PER_OCTAVE * self._OCTAVES
        cells = np.clip(np.nan_to_num(at, neginf=-middle) + middle, 0, len(self._counts) - 1)
        self._counts += np.bincount(cells.astype(np.int64), minlength=len(self._counts))

    def quantile(self, share: float) -> float:
        """Middle of the cell that a quantile lies in; NaN of nothing, 0 of zeros."""
        total = int(self._counts.sum())
        if not total:
            return float("nan")
        cell = int(np.searchsorted(np.cumsum(self._counts), max(share * total, 1)))
        if cell == 0:
            return 0.0
        return float(2 ** ((cell + 0.5) / self._PER_OCTAVE - self._OCTAVES))
