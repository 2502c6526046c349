"""Where do the data lie, and how far from them are other vectors?

1. `Cloud` is the mean of some vectors of the data and their shrunk covariance, with the vectors
   themselves: Mahalanobis distance, largest cosine, and Euclidean distance to the nearest one.
2. `share_below` puts a number among those of held-out data, and `require_known` checks what is
   asked for by name.
3. `MARKERS` draws the optimum, the best of the data, held-out data and chance alike in all figures.

Source: Mahalanobis 1936; Ledoit and Wolf 2004, doi 10.1016/S0047-259X(03)00096-4 (shrinkage, which
is scikit-learn's).

Units: Mahalanobis distance in standard deviations, Euclidean in the units of the vectors.

Limits: a covariance describes an ellipsoid; holes in the data are seen by the nearest neighbour
only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from workbench.core import plots

# Fewer vectors have no covariance worth the name.
FEWEST = 10
# Points that neighbours are looked for at once.
_TOGETHER = 256
_LARGE = 8


def _marker(colour: str, size: int) -> dict[str, Any]:
    return {"color": colour, "size": size, "opacity": 0.6 if size < _LARGE else 1}


# From the back to the front: held-out data, chance, the best of the data, the optimum.
MARKERS = (
    _marker(plots.COLOURS[-1], 4),
    _marker(plots.COLOURS[3], 5),
    _marker(plots.COLOURS[0], _LARGE),
    _marker(plots.COLOURS[1], 10),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Cloud:
    """Vectors of the data, and how far others lie from them.

    The covariance is (1 − s) S + s m I, with S that of the vectors, m its mean variance and s the
    shrinkage of Ledoit and Wolf, which is best for data that are few. It is held as its axes, so
    that no matrix of width times width is made.

    Attributes:
        vectors: What it is made of.
        mean: Their mean.
        axes: Directions in which they vary.
        variances: Of the shrunk covariance along these.
        floor: Its variance in all other directions.
        shrinkage: Between 0 (none) and 1 (a ball).
    """

    vectors: Float[np.ndarray, "example width"]
    mean: Float[np.ndarray, " width"]
    axes: Float[np.ndarray, "axis width"]
    variances: Float[np.ndarray, " axis"]
    floor: float
    shrinkage: float

    @classmethod
    def of(cls, vectors: Float[np.ndarray, "example width"]) -> Cloud:
        """Mean and shrunk covariance.

        Args:
            vectors: One an example.

        Returns:
            The cloud.

        Raises:
            ValueError: If there are few of them, one is not finite, or all are the same.
        """
        from sklearn import covariance

        count, width = vectors.shape
        if count < FEWEST or not np.isfinite(vectors).all():
            raise ValueError(
                f"{count} vectors; expected at least {FEWEST}, of finite numbers, to say how the "
                "data are distributed"
            )
        vectors = vectors.astype(np.float64)
        mean = vectors.mean(0)
        centred = vectors - mean
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / count
        level = variances.sum() / width
        if not level:
            raise ValueError("all data are the same there: nothing can be nearer or farther")
        shrinkage = float(covariance.ledoit_wolf_shrinkage(centred, assume_centered=True))
        # Without shrinkage the data say nothing of what they do not span.
        floor = max(shrinkage, float(np.finfo(np.float64).eps)) * level
        shrunk = (1 - shrinkage) * variances + shrinkage * level
        return cls(vectors, mean, axes, np.maximum(shrunk, floor), float(floor), shrinkage)

    def distance(self, vectors: Float[np.ndarray, "point width"]) -> Float[np.ndarray, " point"]:
        """Mahalanobis distance from the mean."""
        centred = vectors.astype(np.float64) - self.mean
        along = centred @ self.axes.T
        squares = (along**2 / self.variances).sum(1)
        if len(self.axes) < len(self.mean):
            rest = (centred**2).sum(1) - (along**2).sum(1)
            squares += rest.clip(min=0) / self.floor
        return np.sqrt(squares)

    def largest_cosine(
        self, vectors: Float[np.ndarray, "point width"]
    ) -> Float[np.ndarray, " point"]:
        """Cosine with the vector of the data that points most alike, from the mean."""
        these, those = (_normed(some - self.mean) for some in (vectors, self.vectors))
        return (these @ those.T).max(1)

    def nearest(self, vectors: Float[np.ndarray, "point width"]) -> Float[np.ndarray, " point"]:
        """Euclidean distance to the nearest vector of the data."""
        these, those = (
            torch.from_numpy(np.asarray(v, np.float64)) for v in (vectors, self.vectors)
        )
        parts = [torch.cdist(some, those).amin(1) for some in these.split(_TOGETHER)]
        return torch.cat(parts).numpy()


def _normed(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)


def share_below(
    values: Float[np.ndarray, " point"], reference: Float[np.ndarray, " example"]
) -> Float[np.ndarray, " point"]:
    """Share of a reference that is at most as large as each value."""
    below = np.searchsorted(np.sort(reference), values, side="right")
    return below / len(reference)


def require_known(kind: str, measure: str, kinds: Iterable[str], measures: Iterable[str]) -> None:
    """Check that there are such points and such a measure of them.

    Raises:
        ValueError: If there are not.
    """
    kinds, measures = list(kinds), list(measures)
    if kind not in kinds or measure not in measures:
        raise ValueError(
            f"{kind!r}, {measure!r}: expected a kind out of {', '.join(kinds)} and a measure out "
            f"of {', '.join(measures)}"
        )
