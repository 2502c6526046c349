"""Which random sets of units are a fair comparison for a cluster?

1. Of each unit of the cluster: how often it fires (share of examples above zero) and its standard
   deviation over the examples, both as ranks among all units of its place.
2. A random set gets one stand-in for each unit, none twice: drawn from the nearest tenth of the
   other units at its place by the distance of these two ranks, and from eight at least.
3. The cluster itself is left out. Where a place has fewer than one and a half times as many others
   as the cluster has units there, stand-ins come from the whole layer; where that is not enough,
   from anywhere.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008, for the question; matching by ranks is
caliper matching (Rosenbaum & Rubin 1985, doi 10.2307/2683903).

Units: none; sets are numbers of units.

Limits: stand-ins are alike in how they vary, not in what they write.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from workbench.core.engine.populations import Population

# Other units for each of the cluster's, or the random sets would all be the same.
_OTHERS = 1.5
_NEAREST, _SHARE = 8, 0.1
_WIDER = ("the same place", "the same layer", "anywhere")


@dataclasses.dataclass(frozen=True, eq=False)
class RandomSets:
    """Random sets that are like a cluster.

    Attributes:
        sets: One row a set: numbers of units.
        matching: How they were drawn, in words.
    """

    sets: Int[np.ndarray, "sample hit"]
    matching: str


def random_sets(
    population: Population,
    values: Float[np.ndarray, "example unit"],
    chosen: Int[np.ndarray, " hit"],
    *,
    n: int = 200,
    seed: int = 0,
) -> RandomSets:
    """Draw random sets of units with as many units in each place as a cluster has.

    Args:
        population: Whose units.
        values: All its units at every example, not only those of the cluster.
        chosen: The cluster, as the population numbers its units.
        n: How many sets.
        seed: Equal seeds give equal bits.

    Returns:
        The sets; the columns stand in for the cluster's units, in the order of their numbers.

    Raises:
        ValueError: If too few units are left outside of the cluster.
    """
    chosen = np.sort(chosen)
    outside = np.setdiff1d(np.arange(len(population)), chosen)
    if len(outside) < _OTHERS * len(chosen):
        raise ValueError(
            f"the cluster has {len(chosen):,} of {len(population):,} units: random sets of that "
            f"size need at least {_OTHERS} others for each, so give at most "
            f"{1 / (1 + _OTHERS):.0%} of all units"
        )
    ranks = _ranks(population, values)
    nearest: list[np.ndarray] = []
    widened = {name: 0 for name in _WIDER}
    for place in np.unique(population.place[chosen]):
        here = chosen[population.place[chosen] == place]
        pool, how = _pool(population, chosen, outside, int(place))
        widened[how] += len(here)
        for unit in here:
            order = np.argsort(np.abs(ranks[pool] - ranks[unit]).sum(1), kind="stable")
            nearest.append(pool[order])
    rng = np.random.default_rng(seed)
    sets = np.stack([_draw(nearest, rng) for _ in range(n)])
    return RandomSets(sets, _words(widened, n))


def _ranks(
    population: Population, values: Float[np.ndarray, "example unit"]
) -> Float[np.ndarray, "unit 2"]:
    """Firing rate and spread of each unit, as ranks from 0 to 1 among the units of its place."""
    table = np.stack([(values > 0).mean(0), values.std(0, dtype=np.float64)], 1)
    ranks = np.zeros_like(table)
    for place in range(len(population.places)):
        here = population.place == place
        ranks[here] = (scipy.stats.rankdata(table[here], axis=0) - 0.5) / here.sum()
    return ranks


def _pool(
    population: Population,
    chosen: Int[np.ndarray, " hit"],
    outside: Int[np.ndarray, " unit"],
    place: int,
) -> tuple[Int[np.ndarray, " candidate"], str]:
    """Units that may stand in for those of one place, and where they are from."""
    layer = population.places[place].layer
    of_layer = population.layer[chosen] == layer
    wanted = (
        (population.place[outside] == place, (population.place[chosen] == place).sum()),
        (population.layer[outside] == layer, of_layer.sum()),
    )
    for name, (there, needed) in zip(_WIDER, wanted, strict=False):
        if there.sum() >= _OTHERS * needed:
            return outside[there], name
    return outside, _WIDER[-1]


def _draw(nearest: list[np.ndarray], rng: np.random.Generator) -> Int[np.ndarray, " hit"]:
    """One stand-in for each unit, none of them twice."""
    drawn = np.full(len(nearest), -1, dtype=np.int64)
    taken = set[int]()
    # Who has the fewest to choose from is served first: a wider pool holds the narrower one.
    for which in sorted(rng.permutation(len(nearest)), key=lambda one: len(nearest[one])):
        most = max(_NEAREST, int(np.ceil(_SHARE * len(nearest[which]))))
        free = list(itertools.islice((u for u in nearest[which].tolist() if u not in taken), most))
        drawn[which] = free[rng.integers(len(free))]
        taken.add(int(drawn[which]))
    return drawn


def _words(widened: dict[str, int], n: int) -> str:
    used = [f"{count:,} from {name}" for name, count in widened.items() if count]
    return (
        f"{n:,} random sets without the cluster's own units, matched in firing rate and standard "
        f"deviation; stand-ins: {', '.join(used)}"
    )
