"""How many clusters are there, if any: what number comes out alike from another part of the data?

1. For each number k: the adjusted Rand index (Hubert & Arabie 1985) of the clusters of all data
   with those of a random 80 % of the data and of the units, in many resamples; mean and interval
   over these. Units are left out, too, because a continuum of them that is cut somewhere is cut
   elsewhere then, and separate groups are not: with much data and all units both would be stable.
2. The null: in each round the data are shuffled (`similarity.Source.shuffled`), then clustered, and
   clustered again from a part, in the same way.
3. Are there clusters? z is the mean stability above the null's mean, in standard deviations of the
   null's rounds. The largest z over all k, against the same of each round: p = (r + 1) / (n + 1),
   corrected for the choice of k.
4. The number: of those k whose mean is above the null's 95 % quantile at this k and whose clusters
   have at least 3 units, the largest whose mean is within one standard error (of the difference) of
   the best. Where p is above .05 there is one cluster: no clusters. A number that is given is kept.

Source: Ben-Hur et al. 2002, "A stability based method for discovering structure in clustered data";
Lange et al. 2004, "Stability-based validation of clustering solutions".

Units: adjusted Rand index, 1 for equal clusters, 0 for those of chance.

Limits: resamples share most of their data, so the interval says how far a resample moves the mean,
not how far another model would. A round of the null is one index and not a mean of many, which
makes the null wider and the p-value larger, never smaller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from analyses.neuron_clusters.clustering import cutting
from analyses.neuron_clusters.clustering.similarity import Source, part_of
from workbench.core import evidence
from workbench.core.engine import running
from workbench.core.evidence import SURE

RULE = (
    "the largest number within one standard error of the most stable one, of those that are more "
    "stable than 95 % of the shuffled rounds and leave no cluster of one or two units"
)
# Rounds that differ by less than that do not differ.
_FINEST = 0.01
# Fewer units are outliers and no group.
_LEAST = 3


@dataclasses.dataclass(frozen=True)
class Stability:
    """How alike the clusters of all data and those of a part are, for one number of clusters.

    Attributes:
        k: The number.
        mean: Of the adjusted Rand index.
        low: Lower end of its interval over resamples.
        high: Upper end.
        error: Standard error of the mean over resamples.
        null_mean: Mean of the same in shuffled data.
        null_high: Its 95 % quantile.
    """

    k: int
    mean: float
    low: float
    high: float
    error: float
    null_mean: float
    null_high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What resamples and shuffles gave.

    Attributes:
        counts: Numbers of clusters.
        labels: Clusters of all data for each number.
        found: Index of each resample.
        null: Index of each round of the null.
        cuts: Normalised cut of each round's clusters.
        cohesion: Largest cohesion of a cluster of each round.
    """

    counts: tuple[int, ...]
    labels: Int[np.ndarray, "row unit"]
    found: Float[np.ndarray, "sample row"]
    null: Float[np.ndarray, "round row"]
    cuts: Float[np.ndarray, "round row"]
    cohesion: Float[np.ndarray, "round row"]

    @property
    def z(self) -> Float[np.ndarray, " row"]:
        """Mean stability above the null's mean, in standard deviations of its rounds."""
        return (self.found.mean(0) - self.null.mean(0)) / self._spread

    @property
    def p_value(self) -> float:
        """Of the largest z, over all numbers."""
        own = (self.null - self.null.mean(0)) / self._spread
        return evidence.p_value(float(self.z.max()), own.max(1))

    @property
    def _spread(self) -> Float[np.ndarray, " row"]:
        return np.maximum(self.null.std(0, ddof=1), _FINEST)

    def chosen(self) -> int:
        """Which of the numbers is within one standard error of the most stable, by its place."""
        mean, error = self.found.mean(0), _error(self.found)
        beyond = mean > np.quantile(self.null, 1 - SURE, axis=0)
        grouped = np.array([np.bincount(row).min() >= _LEAST for row in self.labels])
        # Where nothing is left there are no clusters, and the number is only said.
        tried = (beyond & grouped, beyond, np.ones_like(beyond))
        open_to = np.flatnonzero(next(some for some in tried if some.any()))
        best = open_to[int(mean[open_to].argmax())]
        near = mean[best] - np.hypot(error[best], error[open_to])
        return int(open_to[mean[open_to] >= near].max())

    def curve(self, confidence: float, seed: int) -> tuple[Stability, ...]:
        """Every number's stability.

        Args:
            confidence: Of the intervals.
            seed: Of their bootstrap.

        Returns:
            In the order of the numbers.
        """
        low, high = evidence.mean_interval(self.found, confidence=confidence, seed=seed)
        error = _error(self.found)
        return tuple(
            Stability(
                k,
                float(self.found[:, i].mean()),
                float(low[i]),
                float(high[i]),
                float(error[i]),
                float(self.null[:, i].mean()),
                float(np.quantile(self.null[:, i], 1 - SURE)),
            )
            for i, k in enumerate(self.counts)
        )


def measure(
    source: Source,
    counts: Sequence[int],
    *,
    resamples: int,
    shuffles: int,
    seed: int,
    report: running.Progress,
) -> Measured:
    """Cluster all data, parts of it, and shuffled data.

    Args:
        source: What units have in common.
        counts: Numbers of clusters.
        resamples: How many parts.
        shuffles: Rounds of the null.
        seed: Of everything random.
        report: Told how far it is.

    Returns:
        What came out.
    """
    steps = resamples + shuffles
    whole = source.similarity()
    labels = cutting.partitions(whole, counts)
    seeds = np.random.SeedSequence(seed).spawn(steps)
    found, null = np.zeros((resamples, len(counts))), np.zeros((shuffles, len(counts)))
    cuts, cohesion = np.zeros_like(null), np.zeros_like(null)
    for number in range(resamples):
        report(number / steps, "clustering parts of the data")
        found[number] = _of_a_part(source, labels, counts, np.random.default_rng(seeds[number]))
    for number in range(shuffles):
        report((resamples + number) / steps, "clustering shuffled data")
        rng = np.random.default_rng(seeds[resamples + number])
        world = source.shuffled(rng)
        similarity = world.similarity()
        own = cutting.partitions(similarity, counts)
        null[number] = _of_a_part(world, own, counts, rng)
        for i, row in enumerate(own):
            cuts[number, i] = cutting.normalised_cut(similarity, row)
            tight = cutting.cohesion(similarity, row)
            cohesion[number, i] = np.nanmax(tight) if np.isfinite(tight).any() else 0.0
    return Measured(tuple(counts), labels, found, null, cuts, cohesion)


def _of_a_part(
    source: Source,
    labels: Int[np.ndarray, "row unit"],
    counts: Sequence[int],
    rng: np.random.Generator,
) -> list[float]:
    """Agreement of the clusters of a part of data and units with those of all."""
    import sklearn.metrics

    units = part_of(labels.shape[1], rng)
    part = source.resampled(rng)[np.ix_(units, units)]
    found = cutting.partitions(part, counts)
    return [
        float(sklearn.metrics.adjusted_rand_score(one[units], other))
        for one, other in zip(labels, found, strict=True)
    ]


def _error(found: Float[np.ndarray, "sample row"]) -> Float[np.ndarray, " row"]:
    return found.std(0, ddof=1) / np.sqrt(len(found))
