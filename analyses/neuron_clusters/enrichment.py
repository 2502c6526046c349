"""Does a place hold more of the chosen units than chance would give it?

1. Enrichment: share of a place's units that were chosen, over the share of all units.
2. Exact test: the hypergeometric chance of so many chosen units in a place of that size.
3. Permutations of the chosen units among units that fire as often and as strongly (strata), in the
   same layers or in all, give counts by chance; a place's count is compared with its own.
4. Family-wise: counts are standardised by their null, and the largest of all places in each round
   is what a place has to exceed. Benjamini-Hochberg over places for exploration.
5. Concentration: 1 less the entropy of the shares of enrichment over the logarithm of the number of
   places: 0 if every place holds as many for its size, 1 if one place holds all.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (branch specialization); Westfall & Young
1993, "Resampling-Based Multiple Testing" (the largest statistic of all tests as the null).

Units: enrichment 1 is chance; p-values of permutations are (r + 1) / (n + 1).

Limits: strata match rate and size coarsely, as each must hold units enough to change places with.
Resampled hits are a little more concentrated than hits, so intervals of the concentration reach
further upwards.
"""

from __future__ import annotations

import warnings

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Float64, Int

# Units of a stratum at the least, and for each chosen unit: they must be able to move.
_FEWEST, _FOR_EACH = 8, 2
_RESAMPLES = 2000


def hypergeometric(hits_in_place: int, hits: int, place_size: int, n_units: int) -> float:
    """Chance of at least so many hits in a place, were hits drawn from all units alike.

    Args:
        hits_in_place: Chosen units that it holds.
        hits: Chosen units.
        place_size: Units that it holds.
        n_units: All units.

    Returns:
        The p-value.

    Raises:
        ValueError: If these numbers cannot be true together.
    """
    possible = 0 <= hits_in_place <= min(hits, place_size) and max(hits, place_size) <= n_units
    if not possible or hits - hits_in_place > n_units - place_size:
        raise ValueError(
            f"{hits_in_place} of {hits} hits in a place of {place_size} among {n_units} units: "
            "these cannot be true together"
        )
    return float(scipy.stats.hypergeom.sf(hits_in_place - 1, n_units, hits, place_size))


def enrichments(
    counts: Int[np.ndarray, "*sample place"],
    sizes: Int[np.ndarray, " place"],
    hits: int,
    n_units: int,
) -> Float64[np.ndarray, "*sample place"]:
    """Share of each place's units that are hits, over the share of all units.

    Args:
        counts: Hits in each place.
        sizes: Units of each place.
        hits: Hits in all.
        n_units: Units in all.

    Returns:
        1 is chance.
    """
    return (counts / sizes) / (hits / n_units)


def concentration(
    counts: Int[np.ndarray, "*sample place"], sizes: Int[np.ndarray, " place"]
) -> Float64[np.ndarray, "*sample"]:
    """How far hits are in one place, whatever the sizes of the places.

    Args:
        counts: Hits in each place.
        sizes: Units of each place.

    Returns:
        From 0 (each place holds as many for its size) to 1 (one holds all); NaN without hits.
    """
    density = counts / sizes
    with np.errstate(invalid="ignore"):
        shares = density / density.sum(-1, keepdims=True)
    return np.asarray(1 - scipy.stats.entropy(shares, axis=-1) / np.log(len(sizes)))


def concentration_interval(
    counts: Int[np.ndarray, " place"],
    sizes: Int[np.ndarray, " place"],
    *,
    confidence: float | int = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the concentration, over hits.

    Args:
        counts: Hits in each place.
        sizes: Units of each place.
        confidence: Level between 0 and 1.
        seed: Equal seeds give equal bits.

    Returns:
        Lower and upper bound; NaN with fewer than two hits.
    """
    held = np.repeat(np.arange(len(counts)), counts)
    if len(held) < _FOR_EACH:
        return float("nan"), float("nan")

    def index(sample: np.ndarray, axis: int) -> np.ndarray:
        found = [(sample == place).sum(axis) for place in range(len(counts))]
        return concentration(np.stack(found, -1), sizes)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        made = scipy.stats.bootstrap(
            (held,),
            index,
            method="percentile",
            vectorized=True,
            confidence_level=float(confidence),
            n_resamples=_RESAMPLES,
            rng=np.random.default_rng(seed),
        )
    return float(made.confidence_interval.low), float(made.confidence_interval.high)


def strata(
    layer: Int[np.ndarray, " unit"],
    rate: Float[np.ndarray, " unit"],
    size: Float[np.ndarray, " unit"],
    hits: int,
) -> Int[np.ndarray, " unit"]:
    """Units that are alike: of one layer, firing about as often and as strongly.

    Each stratum holds at least 8 units, and two for each hit, or all of a layer that has fewer:
    else hits would fill a stratum and could not change places.

    Args:
        layer: Depth of each unit; all equal to compare across layers.
        rate: How often each unit fires.
        size: How strongly.
        hits: How many will change places.

    Returns:
        Stratum of each unit, counted from 0.
    """
    least = max(_FEWEST, _FOR_EACH * hits)
    made = np.zeros(len(layer), dtype=np.int64)
    count = 0
    for depth in np.unique(layer):
        mine = np.flatnonzero(layer == depth)
        bins = max(1, len(mine) // least)
        by_rate = int(np.sqrt(bins))
        for some in np.array_split(mine[np.lexsort((size[mine], rate[mine]))], by_rate):
            ordered = some[np.argsort(size[some], kind="stable")]
            for alike in np.array_split(ordered, max(1, len(some) // least)):
                made[alike] = count
                count += 1
    return made


def permuted(
    hit: Bool[np.ndarray, " unit"],
    place: Int[np.ndarray, " unit"],
    stratum: Int[np.ndarray, " unit"],
    n_places: int,
    *,
    rounds: int,
    seed: int,
) -> Int[np.ndarray, "sample place"]:
    """Hits in each place after hits changed places with other units of their stratum.

    Args:
        hit: Whether each unit is one.
        place: Place of each unit; -1 for none.
        stratum: Of each unit.
        n_places: How many places.
        rounds: Permutations.
        seed: Equal seeds give equal bits.

    Returns:
        Counts; drawn from their exact law under permutation, one stratum after another.
    """
    random = np.random.default_rng(seed)
    total = np.zeros((rounds, n_places + 1), dtype=np.int64)
    for one in np.unique(stratum[hit]):
        mine = stratum == one
        held = np.bincount(place[mine] + 1, minlength=n_places + 1)
        total += random.multivariate_hypergeometric(
            held, int(hit[mine].sum()), size=rounds, method="marginals"
        )
    return total[:, 1:]


def single_p_values(
    counts: Int[np.ndarray, " place"], null: Int[np.ndarray, "sample place"]
) -> Float64[np.ndarray, " place"]:
    """Of each place's count against its own null, one-sided.

    Args:
        counts: Hits in each place.
        null: The same by chance.

    Returns:
        Uncorrected p-values, never 0.
    """
    return (1 + (null >= counts).sum(0)) / (1 + len(null))


def family_p_values(
    counts: Int[np.ndarray, " place"], null: Int[np.ndarray, "sample place"]
) -> Float64[np.ndarray, " place"]:
    """Of each place's count against the largest of all places, each standardised by its null.

    Args:
        counts: Hits in each place.
        null: The same by chance.

    Returns:
        p-values corrected for all places, never 0; 1 for a place whose count cannot change.
    """
    mean, deviation = null.mean(0), null.std(0)
    moves = deviation > 0
    if not moves.any():
        return np.ones(len(counts))
    scale = np.where(moves, deviation, 1.0)
    largest = np.where(moves, (null - mean) / scale, -np.inf).max(1)
    own = (counts - mean) / scale
    beaten = (largest[:, None] >= own).sum(0)
    return np.where(moves, (1 + beaten) / (1 + len(null)), 1.0)
