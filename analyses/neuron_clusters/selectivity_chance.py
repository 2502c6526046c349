"""Is a unit's effect beyond what shuffled labels give it, alone and among all units?

1. Every unit's effect is measured again in each of many rounds of shuffled labels, less what the
   null gives on average.
2. p-value of a unit: the share of rounds with an effect at least as large on either side, the true
   one counted in.
3. Family-wise p-value: the share of rounds in which any unit's effect, over its own spread, is at
   least as large.
4. With as many units as there are, a share of rounds is too coarse for Benjamini-Hochberg. Units
   that no round has reached get more rounds, until one discovery alone could be seen or the rounds
   become too many. A p-value stays valid, as it only falls by passing all rounds before.

Source: Westfall & Young 1993 (largest statistic); Benjamini & Hochberg 1995; Besag & Clifford 1991,
"Sequential Monte Carlo p-values".

Units: deviations in units of the effect (AUC or R²).

Limits: a p-value is never below 1 / (rounds + 1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float64, Int

from analyses.neuron_clusters import ranks
from workbench.core.engine import running

Orders = Callable[[int, int], Iterator[Int[np.ndarray, "round example"]]]
# Units measured together; numbers that further rounds may draw.
_TOGETHER, _FURTHER = 2048, 50_000_000
# A discovery rate that p-values should be fine enough for.
_RATE = 0.05
# Equal effects differ by rounding only.
_ROUNDING = 1e-12


class Ranked:
    """AUC of ranks that sum to zero, whether over all examples or within each stratum.

    Attributes:
        effect: Of each unit, with the true labels.
        usual: What the null gives each unit on average.
        spread: What makes units comparable; 0 for a constant one.
    """

    def __init__(
        self,
        centred: Float64[np.ndarray, "example unit"],
        labels: Bool[np.ndarray, " example"],
        expected: Float64[np.ndarray, " example"],
    ) -> None:
        self._ranks, self._labels = centred, labels
        pairs = int(labels.sum()) * int((~labels).sum())
        self.effect = ranks.aucs(centred, labels[None])[0]
        self.usual = 0.5 + expected @ centred / pairs
        self.spread = np.sqrt(np.einsum("eu,eu->u", centred, centred))

    def shuffled(
        self, orders: Int[np.ndarray, "round example"], units: Int[np.ndarray, " kept"]
    ) -> Float64[np.ndarray, "round kept"]:
        """Effects of some units with the labels in other orders."""
        return ranks.aucs(_columns(self._ranks, units), self._labels[orders])


class Explained:
    """R² of units of length 1 by orthonormal targets.

    Attributes:
        effect: Of each unit, with the true targets.
        usual: Zero: R² has one side only.
        spread: 1; 0 for a constant unit.
    """

    def __init__(
        self,
        standardised: Float64[np.ndarray, "example unit"],
        orthonormal: Float64[np.ndarray, "example kept"],
    ) -> None:
        self._units, self._targets = standardised, orthonormal
        own = np.arange(len(standardised))[None]
        self.effect = ranks.explained_by(standardised, orthonormal, own)[0]
        self.usual = np.zeros(len(self.effect))
        self.spread = np.where(standardised.any(0), 1.0, 0.0)

    def shuffled(
        self, orders: Int[np.ndarray, "round example"], units: Int[np.ndarray, " kept"]
    ) -> Float64[np.ndarray, "round kept"]:
        """Effects of some units with the targets in other orders."""
        return ranks.explained_by(_columns(self._units, units), self._targets, orders)


Scorer = Ranked | Explained


@dataclasses.dataclass(frozen=True, eq=False)
class Chance:
    """How far each unit is beyond chance; NaN for constant ones.

    Attributes:
        p_value: Of each unit by itself, two-sided.
        family_p: Corrected for all units by the largest effect of any.
        rounds: Behind each p-value.
        largest: Largest deviation of any unit in each of the first rounds.
    """

    p_value: Float64[np.ndarray, " unit"]
    family_p: Float64[np.ndarray, " unit"]
    rounds: Int[np.ndarray, " unit"]
    largest: Float64[np.ndarray, " round"]


def against_chance(
    scorer: Scorer,
    orders: Orders,
    examples: int,
    *,
    rounds: int,
    seed: int,
    progress: running.Progress = running.no_progress,
) -> Chance:
    """Compare effects with those of shuffled labels.

    Args:
        scorer: The effects.
        orders: Gives so many orders of the examples from a seed.
        examples: How many there are.
        rounds: For every unit.
        seed: Of the orders.
        progress: Told how far it is; may raise to stop.

    Returns:
        p-values of every unit.
    """
    live = np.flatnonzero(scorer.spread > 0)
    beaten = np.zeros(len(scorer.effect), dtype=np.int64)
    largest, relative = list[np.ndarray](), list[np.ndarray]()
    own = _deviation(scorer, scorer.effect[None, live], live)[0]
    for order in orders(rounds, seed):
        progress(sum(map(len, largest)) / rounds, "shuffling labels")
        most, most_relative = np.zeros(len(order)), np.zeros(len(order))
        for first in range(0, len(live), _TOGETHER):
            here = slice(first, first + _TOGETHER)
            units = live[here]
            found = _deviation(scorer, scorer.shuffled(order, units), units)
            beaten[units] += (found >= own[here] - _ROUNDING).sum(0)
            most = np.maximum(most, found.max(1))
            most_relative = np.maximum(most_relative, (found / scorer.spread[units]).max(1))
        largest.append(most)
        relative.append(most_relative)
    every = np.concatenate(relative)
    bar = (own - _ROUNDING) / scorer.spread[live]
    above = len(every) - np.searchsorted(np.sort(every), bar, side="left")
    made = np.full(len(beaten), rounds)
    never = live[beaten[live] == 0]
    more = _further(len(live), len(never), examples, rounds)
    for order in orders(more, seed + 1) if more else ():
        progress(1.0, "shuffling labels further")
        found = _deviation(scorer, scorer.shuffled(order, never), never)
        bar = _deviation(scorer, scorer.effect[None, never], never)[0]
        beaten[never] += (found >= bar - _ROUNDING).sum(0)
    made[never] += more
    dead = scorer.spread <= 0
    family = np.full(len(beaten), np.nan)
    family[live] = (1 + above) / (1 + rounds)
    return Chance(
        np.where(dead, np.nan, (1 + beaten) / (1 + made)), family, made, np.concatenate(largest)
    )


def _deviation(
    scorer: Scorer, effects: Float64[np.ndarray, "round kept"], units: Int[np.ndarray, " kept"]
) -> Float64[np.ndarray, "round kept"]:
    return np.abs(effects - scorer.usual[units])


def _columns(
    table: Float64[np.ndarray, "example unit"], units: Int[np.ndarray, " kept"]
) -> Float64[np.ndarray, "example kept"]:
    """Some units, without a copy where they lie side by side."""
    if len(units) and int(units[-1]) - int(units[0]) == len(units) - 1:
        return table[:, int(units[0]) : int(units[-1]) + 1]
    # One unit after another in memory, as `ranks.centred` makes them.
    return table.T[units].T


def _further(units: int, never: int, examples: int, rounds: int) -> int:
    """Rounds that units beyond all others still need."""
    if not never:
        return 0
    # So fine that a quarter of these could be discovered by themselves.
    needed = int(np.ceil(units / _RATE / max(1.0, never / 4)))
    more = min(needed, _FURTHER // examples) - rounds
    # Less than half as many again would change little.
    return more if more > rounds / 2 else 0
