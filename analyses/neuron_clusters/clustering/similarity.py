"""What do units have in common: what they do, what they read and write, or at which waves they are?

Each `Source` says of every two units how alike they are, says it again of a part of its data (for
stability), and makes a world in which nothing is in common (for the null).

1. `CoActivation`: the squared Pearson correlation of two units over examples, the share of variance
   that they share. Squared, because units of one mechanism may be opposed, and because it is of the
   order 1/n by chance, where the absolute correlation is 1/√n, which adds up over many units. A
   part: 80 % of the examples. The null: each unit's values in an order of their own.
2. `Cosines`: the mean of the squared cosines of two units' weights, over what they read and what
   they write. Units whose weights lie in different spaces have nothing in common. A part: 80 % of
   the dimensions. The null: within each place, the weights of each dimension in random order.
3. `Spectra`: the cosine of two units' shares of variance by frequency. There is no part of the
   data: every pair was read, and these are no sample. The null: the shares
   of values in random order, a χ² of as many degrees of freedom as a frequency has waves.

Units and sign: similarities from 0 to 1, zero on the diagonal.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from workbench.core.modular import fourier

PART = 0.8


class Source(abc.ABC):
    """Something that units may have in common."""

    @abc.abstractmethod
    def similarity(self) -> Float[np.ndarray, "unit unit"]:
        """Of every two units; symmetric, zero on the diagonal."""

    @abc.abstractmethod
    def resampled(self, rng: np.random.Generator) -> Float[np.ndarray, "unit unit"]:
        """The same of a part of the data."""

    @abc.abstractmethod
    def shuffled(self, rng: np.random.Generator) -> Source:
        """The same data with nothing in common but by chance."""


class CoActivation(Source):
    """Units that vary together."""

    def __init__(self, values: Float[np.ndarray, "example unit"]) -> None:
        """Take units that vary."""
        self._values = values

    def similarity(self) -> Float[np.ndarray, "unit unit"]:
        """Squared correlations over all examples."""
        return _shared(self._values)

    def resampled(self, rng: np.random.Generator) -> Float[np.ndarray, "unit unit"]:
        """Squared correlations over a part of the examples."""
        return _shared(self._values[part_of(len(self._values), rng)])

    def shuffled(self, rng: np.random.Generator) -> Source:
        """Each unit's values in an order of their own."""
        return CoActivation(_permuted(self._values, rng))


class Cosines(Source):
    """Units whose weights point the same way.

    Attributes:
        spaces: By name ("in", "out", "gate"): rows of all units, zero where a unit has none there.
    """

    def __init__(
        self,
        spaces: Mapping[str, Float[np.ndarray, "unit _"]],
        place: Int[np.ndarray, " unit"],
    ) -> None:
        """Take weights, and where each unit lies."""
        self.spaces, self._place = dict(spaces), place

    def similarity(self) -> Float[np.ndarray, "unit unit"]:
        """Mean squared cosine."""
        return _cosines(list(self.spaces.values()))

    def resampled(self, rng: np.random.Generator) -> Float[np.ndarray, "unit unit"]:
        """Mean squared cosine over a part of the dimensions."""
        return _cosines([rows[:, part_of(rows.shape[1], rng)] for rows in self.spaces.values()])

    def shuffled(self, rng: np.random.Generator) -> Source:
        """Within each place the weights of each dimension in random order."""
        mixed = {name: rows.copy() for name, rows in self.spaces.items()}
        for rows in mixed.values():
            for place in np.unique(self._place):
                here = np.flatnonzero(self._place == place)
                rows[here] = rng.permuted(rows[here], axis=0)
        return Cosines(mixed, self._place)


class Spectra(Source):
    """Units that are waves of the same frequency."""

    def __init__(self, shares: Float[np.ndarray, "unit frequency"], n: int) -> None:
        """Take the share of each unit's variance at each frequency over so many elements."""
        self._shares, self._n = shares, n

    def similarity(self) -> Float[np.ndarray, "unit unit"]:
        """Cosine of the shares."""
        near = unit_rows(self._shares)
        return _without_diagonal((near @ near.T).clip(0, 1))

    def resampled(self, rng: np.random.Generator) -> Float[np.ndarray, "unit unit"]:
        """The same: every pair was read, so there is no sample to draw again."""
        return self.similarity()

    def shuffled(self, rng: np.random.Generator) -> Source:
        """What the shares are for values in random order."""
        # Products of {1, cos, sin} with themselves, but the mean: 8 waves a frequency.
        waves = np.square(1 + fourier.multiplicity(self._n)) - 1
        drawn = rng.chisquare(waves, self._shares.shape) / (self._n**2 - 1)
        return Spectra(drawn, self._n)


def part_of(count: int, rng: np.random.Generator) -> Int[np.ndarray, " part"]:
    """A random part of so many things, ascending."""
    return np.sort(rng.choice(count, max(2, round(PART * count)), replace=False, shuffle=False))


def unit_rows(rows: Float[np.ndarray, "unit width"]) -> Float[np.ndarray, "unit width"]:
    """Rows of unit length; zero ones stay."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def opposed(rows: Float[np.ndarray, "unit width"]) -> Int[np.ndarray, " unit"]:
    """Which of some units point against most of the others.

    Args:
        rows: A vector a unit.

    Returns:
        1, or -1 for those on the other side of the direction that they share most.
    """
    near = unit_rows(rows)
    _, vectors = np.linalg.eigh((near @ near.T).astype(np.float64))
    sign = np.where(vectors[:, -1] < 0, -1, 1)
    return sign * (1 if sign.sum() >= 0 else -1)


def _permuted(
    values: Float[np.ndarray, "example unit"], rng: np.random.Generator
) -> Float[np.ndarray, "example unit"]:
    # Rows of a contiguous copy: numpy permutes columns several times as slowly.
    return rng.permuted(np.ascontiguousarray(values.T), axis=1).T


def _shared(values: Float[np.ndarray, "example unit"]) -> Float[np.ndarray, "unit unit"]:
    near = values - values.mean(0)
    size = np.sqrt(np.square(near).sum(0))
    # A unit that fires seldom may be constant on a part.
    near = near / np.where(size > 0, size, 1.0)
    return _without_diagonal(np.square(near.T @ near))


def _cosines(spaces: Sequence[Float[np.ndarray, "unit _"]]) -> Float[np.ndarray, "unit unit"]:
    total = np.zeros((len(spaces[0]), len(spaces[0])), dtype=np.float32)
    for rows in spaces:
        near = unit_rows(rows).astype(np.float32)
        total += np.square(near @ near.T)
    return _without_diagonal(total / len(spaces))


def _without_diagonal(similarity: Float[np.ndarray, "unit unit"]) -> Float[np.ndarray, "unit unit"]:
    np.fill_diagonal(similarity, 0.0)
    return similarity
