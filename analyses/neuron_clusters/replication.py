"""Which units have a concept in both halves of its inputs, and what would chance have chosen?

1. Inputs are dealt into two halves, A and B, with as many of each class.
2. On A: units whose AUC is at least .2 from one half (R² at least .5 for targets), with a
   permutation p-value below .05 after Benjamini and Hochberg over all units; of these the largest,
   at most one in ten of all units.
3. On B: of these, the ones with the same sign, three quarters of the effect and p below .05.
4. The null of places: labels change places on A, and as many units with the largest effects are
   taken. Units are taken less their class means there (or less their regression on the targets): so
   they keep what they share for other reasons, and lose what they share through the concept.

Source: Freedman & Lane 1983, "A nonstochastic interpretation of reported significance levels"
(permutations of residuals); Benjamini & Hochberg 1995; Tusher et al. 2001 (one null for all units).

Units and sign: AUC above one half where the unit is larger with the concept. Each unit's null is
standardised by its own deviation and shared with all units, as a p-value of 10⁻⁵ needs many rounds.

Limits: halves share what all inputs of a concept share; only other inputs would tell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from analyses.neuron_clusters import ranks, shuffles
from workbench.core import evidence
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.prompts.concepts import Concept, Examples

# Distance of the AUC from one half; R²; and the share of either that must come back on B.
AUC_BAR, R2_BAR, BACK = 0.2, 0.5, 0.75
ONE_IN, FEWEST = 10, 3
# Of each class in each half.
_SMALLEST = 8
# Rounds for the scale of each unit's null, and for the p-values on B.
_FIRST, _SECOND = 256, 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Half:
    """Units at half of a concept's inputs.

    Attributes:
        values: Of every unit.
        examples: What is known of each example.
    """

    values: Float[np.ndarray, "example unit"]
    examples: Examples

    @property
    def graded(self) -> bool:
        """Whether there are targets instead of labels."""
        return self.examples.targets.shape[1] > 0


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """Units that have the concept in both halves.

    Attributes:
        units: Their numbers, the largest effect on A first.
        first: Their AUC (or R²) on A.
        second: On B.
        passed: How many units passed on A.
        taken: How many of these were looked at on B, at the most `limit`.
        limit: One in ten of all units.
        graded: Whether effects are R².
    """

    units: Int[np.ndarray, " unit"]
    first: Float64[np.ndarray, " unit"]
    second: Float64[np.ndarray, " unit"]
    passed: int
    taken: int
    limit: int
    graded: bool


def halves(
    values: Float[np.ndarray, "example unit"], examples: Examples, concept: Concept, seed: int
) -> tuple[Half, Half]:
    """Deal a concept's inputs into two halves with as many of each class.

    Args:
        values: Of every unit.
        examples: What counts, in the order of the values.
        concept: Whose they are.
        seed: Of the deal.

    Returns:
        A and B.

    Raises:
        ValueError: If a half has too few examples of a class.
    """
    random = np.random.default_rng(seed)
    rows, inverse = np.unique(examples.row, return_inverse=True)
    having = np.bincount(inverse, weights=examples.labels, minlength=len(rows))
    count = np.bincount(inverse, minlength=len(rows))
    order = np.lexsort((random.random(len(rows)), count, having))
    first = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), 2):
        pair = order[start : start + 2]
        first[pair[random.integers(len(pair))]] = True
    mine = first[inverse]
    a, b = (Half(values[here], _part(examples, here)) for here in (mine, ~mine))
    for half in (a, b):
        has = int(half.examples.labels.sum())
        least = len(half.examples) if half.graded else min(has, len(half.examples) - has)
        if least < _SMALLEST:
            raise ValueError(
                f"{concept.name!r} has {least} "
                f"{'examples' if half.graded else 'examples of one class'} in one half of its "
                f"inputs: expected at least {_SMALLEST} in each, so that what is found in one half "
                "can be found in the other (give more inputs)"
            )
    return a, b


def limit(n_units: int) -> int:
    """At most how many units are taken: one in ten, and three where that is fewer."""
    return max(FEWEST, n_units // ONE_IN)


def chosen(
    a: Half, b: Half, *, rounds: int, seed: int, progress: running.Progress = running.no_progress
) -> Chosen:
    """Choose units on A and keep those that come back on B.

    Args:
        a: Where units are chosen.
        b: Where they must come back.
        rounds: Permutations on A.
        seed: Of the permutations.
        progress: Told how far it is; may raise to stop.

    Returns:
        The units.
    """
    bar = R2_BAR if a.graded else AUC_BAR
    measure = _Measure(a)
    own = measure.own()
    size = measure.size(own)
    adjusted = evidence.adjusted_for_discoveries(_p_values(measure, size, rounds, seed, progress))
    passed = np.flatnonzero((size >= bar) & (adjusted < SURE))
    most = limit(len(size))
    taken = passed[np.argsort(-size[passed], kind="stable")][:most]
    again = _Measure(Half(b.values[:, taken], b.examples))
    back = again.own()
    null = [again.size(found) for found in again.shuffled(_SECOND, seed + 1)]
    p_values = (1 + (np.concatenate(null) >= again.size(back)).sum(0)) / (1 + _SECOND)
    same = a.graded | (np.sign(own[taken] - 0.5) == np.sign(back - 0.5))
    held = same & (again.size(back) >= BACK * bar) & (p_values < SURE)
    return Chosen(
        taken[held], own[taken][held], back[held], len(passed), len(taken), most, a.graded
    )


def shuffled_places(  # noqa: PLR0913 -- what is drawn, where, and how often
    half: Half,
    place: Int[np.ndarray, " unit"],
    n_places: int,
    hits: int,
    *,
    rounds: int,
    seed: int,
    progress: running.Progress = running.no_progress,
) -> Int[np.ndarray, "sample place"]:
    """Where the units with the largest effects lie, for labels that changed places.

    Args:
        half: Units at the inputs that they were chosen on.
        place: Place of each unit; -1 for none.
        n_places: How many places.
        hits: How many units are taken in each round.
        rounds: How many rounds.
        seed: Of the labels.
        progress: Told how far it is; may raise to stop.

    Returns:
        Units taken from each place.
    """
    measure = _Measure(Half(_less_concept(half), half.examples))
    made: list[np.ndarray] = []
    done = 0
    for found in measure.shuffled(rounds, seed):
        size = measure.size(found)
        top = np.argpartition(-size, hits - 1, axis=1)[:, :hits]
        cells = place[top] + 1 + (n_places + 1) * np.arange(len(top))[:, None]
        counts = np.bincount(cells.ravel(), minlength=(n_places + 1) * len(top))
        made.append(counts.reshape(len(top), -1)[:, 1:])
        done += len(top)
        progress(done / rounds, "shuffling labels")
    return np.concatenate(made).astype(np.int64)


def at_rest(
    half: Half,
) -> tuple[Float64[np.ndarray, " unit"], Float64[np.ndarray, " unit"]]:
    """How often and how strongly each unit fires, in the class in which it does less.

    A unit of the concept fires more because of it; that must not set it apart from its like.

    Args:
        half: Units at some inputs.

    Returns:
        Share of the examples at which it is above 0, and its root mean square.
    """
    parts = (
        [half.values]
        if half.graded
        else [half.values[half.examples.labels], half.values[~half.examples.labels]]
    )
    rates = np.stack([(part > 0).mean(0) for part in parts])
    sizes = np.stack([np.sqrt(np.square(part, dtype=np.float64).mean(0)) for part in parts])
    less = sizes.argmin(0)[None]
    return (
        np.take_along_axis(rates, less, 0)[0].astype(np.float64),
        np.take_along_axis(sizes, less, 0)[0],
    )


class _Measure:
    """Effects of all units, under the true labels and under others."""

    def __init__(self, half: Half) -> None:
        self.graded, self.examples = half.graded, half.examples
        if half.graded:
            self._units = ranks.standardised(half.values)
            self._targets = ranks.orthonormal(half.examples.targets)
        else:
            self._units = ranks.centred(half.values.astype(np.float32))

    def own(self) -> Float64[np.ndarray, " unit"]:
        """Under the true labels."""
        return self._under(np.arange(len(self.examples))[None])[0]

    def shuffled(self, rounds: int, seed: int) -> Iterator[Float64[np.ndarray, "round unit"]]:
        """Under labels that changed places, some rounds at a time."""
        for orders in shuffles.orders(self.examples, rounds, seed):
            yield self._under(orders)

    def size(
        self, effect: Float64[np.ndarray, "*round unit"]
    ) -> Float64[np.ndarray, "*round unit"]:
        """Distance from chance."""
        return effect if self.graded else np.abs(effect - 0.5)

    def _under(self, orders: Int[np.ndarray, "round example"]) -> Float64[np.ndarray, "round unit"]:
        if self.graded:
            return ranks.explained_by(self._units, self._targets, orders)
        return ranks.aucs(self._units, self.examples.labels[orders])


def _p_values(
    measure: _Measure,
    size: Float64[np.ndarray, " unit"],
    rounds: int,
    seed: int,
    progress: running.Progress,
) -> Float64[np.ndarray, " unit"]:
    """Of each unit's effect, by the standardised null of all units together."""
    first = np.concatenate([measure.size(each) for each in measure.shuffled(_FIRST, seed + 2)])
    scale = np.sqrt(np.square(first).mean(0))
    moves = scale > 0
    if not moves.any():
        return np.ones(len(size))
    own = np.where(moves, size / np.where(moves, scale, 1), -1.0)
    order = np.argsort(own, kind="stable")
    beaten = np.zeros(len(size) + 1, dtype=np.int64)
    done = 0
    for each in measure.shuffled(rounds, seed):
        null = (measure.size(each)[:, moves] / scale[moves]).ravel()
        # How many of the true effects each one reaches: those up to there are beaten once more.
        reached = np.searchsorted(own[order], null, side="right")
        beaten += np.bincount(reached, minlength=len(size) + 1)
        done += len(each)
        progress(done / rounds, "choosing units")
    at_least = beaten[::-1].cumsum()[::-1][1:]
    p_values = np.empty(len(size))
    p_values[order] = (1 + at_least) / (1 + rounds * int(moves.sum()))
    return np.where(moves, p_values, 1.0)


def _less_concept(half: Half) -> Float[np.ndarray, "example unit"]:
    values = half.values.astype(np.float64)
    if half.graded:
        targets = ranks.orthonormal(half.examples.targets)
        moved = values - values.mean(0)
        return moved - targets @ (targets.T @ moved)
    labels = half.examples.labels
    return np.where(
        labels[:, None], values - values[labels].mean(0), values - values[~labels].mean(0)
    )


def _part(examples: Examples, here: Bool[np.ndarray, " example"]) -> Examples:
    return Examples(
        examples.row[here],
        examples.position[here],
        examples.labels[here],
        examples.targets[here],
        {name: values[here] for name, values in examples.confounds.items()},
    )
