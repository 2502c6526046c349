"""Do vectors fall into several separated groups, or are they one?

1. Vectors are made unit length; the principal components that hold nine tenths of their variance
   are kept, ten at most.
2. Ward's tree over them is cut into 2, 3, … clusters. Clusters whose means point the same way
   (cosine above 0.5) are one group. Groups with less than `smallest` of the vectors do not count,
   and theirs, a tenth at most, are set aside. The cut with the largest mean silhouette is chosen.
3. The null is one group: the same is done with draws of one Gaussian of the same mean and
   covariance. If their silhouettes are as large in more than one of 20 draws, the answer is one.
4. How stable that is: the same on random subsamples of 80 % of the vectors, against Gaussian draws
   of that size, and the adjusted Rand index of each with the first grouping (1 the same, 0 no more
   than chance). They are subsamples and no bootstrap, as what is drawn twice would be a group of
   its own.

Source: Rousseeuw 1987 (silhouettes); Liu et al. 2008, "Statistical significance of clustering for
high-dimension, low-sample size data" (one Gaussian as the null); Hubert & Arabie 1985 (adjusted
Rand index).

Units: silhouette from -1 to 1.

Limits: the p-value is that of more than one group; how many there are is the silhouette's choice,
and it prefers few groups where these fall into smaller ones. One group that is far from Gaussian
may count as several.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster import hierarchy
from scipy.sparse import csgraph
from scipy.spatial import distance

from workbench.core import evidence
from workbench.core.engine import running
from workbench.core.evidence import SURE

# Fewer places are no sample of what a unit fires for.
FEWEST = 10
# With fewer groups nothing is separated.
_SEVERAL = 2
# More than one group is believed below this p-value.
SUBSAMPLE = 0.8
# Of the places, in clusters that are large enough to count.
_COUNTED = 0.9
# Cosine from which on the means of two clusters are one group.
_SHARED = 0.5
_VARIANCE, _COMPONENTS = 0.9, 10
# Places for each component, or its variance is no estimate.
_PLACES_PER_COMPONENT = 5
# Cuts are tried up to so many more clusters than groups may count: outliers are clusters, too.
_MORE_CLUSTERS = 5
# Variance of unit vectors that is rounding.
_ROUNDING = 1e-10


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Vectors in groups.

    Attributes:
        labels: Group of each place, 0 the largest one; -1 for those set aside.
        number: How many groups.
        silhouette: Mean silhouette of the best cut into several groups; NaN where there is none.
        null: The same of draws of one Gaussian; -1 for a draw without a cut that counts.
        p_value: Share of these that are as large, the data counted in.
        numbers: How many groups each subsample has.
        agreement: Adjusted Rand index of each subsample's groups with these.
        projection: The places on the first two principal components.
        explained: Share of the variance on each of these two.
    """

    labels: Int[np.ndarray, " place"]
    number: int
    silhouette: float
    null: Float[np.ndarray, " sample"]
    p_value: float
    numbers: Int[np.ndarray, " set"]
    agreement: Float[np.ndarray, " set"]
    projection: Float[np.ndarray, "place 2"]
    explained: tuple[float, float]


def group(
    vectors: Float[np.ndarray, "place width"],
    *,
    most: int = 6,
    smallest: float | int = 0.05,
    draws: int = 199,
    resamples: int = 100,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Grouping:
    """Put vectors into as many groups as they are, one included.

    Args:
        vectors: One a place, from what stands for no group; only their directions count.
        most: How many groups there may be.
        smallest: Share of the places that a group needs.
        draws: Of the null.
        resamples: Subsamples.
        seed: Of draws and subsamples.
        progress: Told how far it is; may raise to stop.

    Returns:
        The grouping.

    Raises:
        ValueError: If there are too few vectors or resamples, or a limit makes no sense.
    """
    from sklearn import metrics

    report = progress or running.no_progress
    require_limits(len(vectors), most, smallest, draws, resamples)
    # Draws and subsamples each have a stream of their own: more of one change nothing in the other.
    rngs = [np.random.default_rng(one) for one in np.random.SeedSequence(seed).spawn(3)]
    places, middle, shares = _components(vectors)
    shown = np.zeros((len(places), 2))
    shown[:, : min(2, places.shape[1])] = places[:, :2]
    explained = (float(shares[0]), float(shares[1]))
    if not places.shape[1]:
        # They are all equal: there is nothing that could be two groups.
        one = np.zeros(len(places), dtype=np.int64)
        same = np.ones(resamples, dtype=np.int64)
        nothing = np.full(draws, np.nan)
        return Grouping(
            one, 1, math.nan, nothing, 1.0, same, same.astype(np.float64), shown, explained
        )
    limits = middle, most, smallest
    value, labels = _best_cut(places, *limits)
    kept = round(SUBSAMPLE * len(places))
    spread = places.std(0)
    nulls = np.full((2, draws), -1.0)
    for done in range(draws):
        report(0.8 * done / draws, "draws of one group")
        for row, size in enumerate((len(places), kept)):
            drawn = rngs[row].normal(size=(size, len(spread))) * spread
            nulls[row, done] = _best_cut(drawn, *limits)[0]
    p_value = evidence.p_value(value, nulls[0])
    labels = labels if p_value <= SURE else np.zeros_like(labels)
    numbers = np.ones(resamples, dtype=np.int64)
    agreement = np.zeros(resamples)
    for done in range(resamples):
        report(0.8 + 0.2 * done / resamples, "subsamples")
        at = np.sort(rngs[2].permutation(len(places))[:kept])
        found, several = _best_cut(places[at], *limits)
        if evidence.p_value(found, nulls[1]) > SURE:
            several = np.zeros_like(several)
        numbers[done] = several.max() + 1
        agreement[done] = metrics.adjusted_rand_score(labels[at], several)
    return Grouping(
        labels,
        int(labels.max()) + 1,
        value if value > -1 else math.nan,
        nulls[0],
        p_value,
        numbers,
        agreement,
        shown,
        explained,
    )


def require_limits(
    places: int, most: int, smallest: float | int, draws: int, resamples: int
) -> None:
    """Check what `group` is asked for.

    Raises:
        ValueError: If there are too few places, draws or resamples, or a limit makes no sense.
    """
    if places < FEWEST:
        raise ValueError(f"{places} places; at least {FEWEST} are needed to look for groups")
    if most < _SEVERAL or not 0 < smallest < 1 / _SEVERAL:
        raise ValueError(
            f"most = {most} and smallest = {smallest}; expected at least 2 groups of a share above "
            "0 and below 0.5"
        )
    fewest = math.ceil(1 / SURE) - 1
    if draws < fewest or resamples < 1:
        raise ValueError(
            f"{draws} draws and {resamples} resamples; expected at least {fewest} draws, or no "
            f"p-value is below {SURE}, and at least one resample"
        )


def _components(
    vectors: Float[np.ndarray, "place width"],
) -> tuple[
    Float[np.ndarray, "place kept"], Float[np.ndarray, " kept_and_rest"], Float[np.ndarray, " part"]
]:
    """Unit vectors on the principal components that are kept, their mean, and shares of variance.

    The mean is given on the same components and, last, by its length outside of them.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    mean = unit.mean(0)
    left, sizes, axes = np.linalg.svd(unit - mean, full_matrices=False)
    variance = sizes**2 / len(vectors)
    if variance.sum() < _ROUNDING:
        return np.zeros((len(vectors), 0)), np.zeros(1), np.zeros(2)
    shares = variance / variance.sum()
    enough = int(np.searchsorted(np.cumsum(shares), _VARIANCE)) + 1
    kept = min(enough, _COMPONENTS, max(2, len(vectors) // _PLACES_PER_COMPONENT), len(sizes))
    inside = axes[:kept] @ mean
    rest = math.sqrt(max(float(mean @ mean - inside @ inside), 0))
    return left[:, :kept] * sizes[:kept], np.append(inside, rest), np.pad(shares, (0, 2))


def _best_cut(
    places: Float[np.ndarray, "place kept"],
    middle: Float[np.ndarray, " kept_and_rest"],
    most: int,
    smallest: float | int,
) -> tuple[float, Int[np.ndarray, " place"]]:
    """The cut into several groups with the largest silhouette; -1 and one group if there is none.

    Groups are numbered by size, the largest first.
    """
    # Starts with a second of imports, which pages that show no groups do without.
    from sklearn import metrics

    between = distance.squareform(distance.pdist(places))
    tree = hierarchy.linkage(places, "ward")
    best, labels = -1.0, np.zeros(len(places), dtype=np.int64)
    whole = np.pad(places, ((0, 0), (0, 1))) + middle
    seen = np.zeros(len(places), dtype=np.int64)
    for clusters in range(2, min(most + _MORE_CLUSTERS, len(places))):
        cut = _joined(whole, hierarchy.fcluster(tree, clusters, "maxclust") - 1)
        if np.array_equal(cut, seen):
            continue
        seen = cut
        sizes = np.bincount(cut)
        order = np.argsort(-sizes, kind="stable")
        groups = int((sizes >= smallest * len(places)).sum())
        number_of = np.full(len(sizes), -1)
        number_of[order[:groups]] = np.arange(groups)
        numbered = number_of[cut]
        kept = numbered >= 0
        if not _SEVERAL <= groups <= most or kept.mean() < _COUNTED:
            continue
        value = float(
            metrics.silhouette_score(
                between[np.ix_(kept, kept)], numbered[kept], metric="precomputed"
            )
        )
        # A cut that is as good but for rounding has more groups than are needed.
        if value > best + 1e-9:
            best, labels = value, numbered
    return best, labels


def _joined(
    places: Float[np.ndarray, "place width"], clusters: Int[np.ndarray, " place"]
) -> Int[np.ndarray, " place"]:
    """Clusters whose means point the same way as one."""
    inside = np.eye(int(clusters.max()) + 1)[clusters]
    means = inside.T @ places
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-30)
    _, joined = csgraph.connected_components(means @ means.T > _SHARED, directed=False)
    return joined[clusters].astype(np.int64)
