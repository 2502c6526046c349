"""How few units does it take to tell whether an example has the concept?

1. Rows are split into halves. On the first one units are ordered by how far their means lie apart
   with and without the concept (over their own spread, if asked), and a logistic regression is
   fitted to the first k of them.
2. F1 and AUC are measured on the second half, which neither step has seen.
3. Beside it: k units drawn at random, several times; all units; and F1 of always saying yes.
4. p-value: the share of shuffled labels of the second half (as in `shuffles`) under which the
   probe's scores have an AUC at least as large.

Source: Gurnee et al. 2023, "Finding Neurons in a Haystack: Case Studies with Sparse Probing",
arXiv 2305.01610.

Units: F1 and AUC from 0 to 1.

Limits: units are chosen one by one, so k that only tell together are not found. Classes are
weighted to be equal. Of long first halves 5,000 examples are drawn for the fit. What a probe can
read the model need not use.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from analyses.neuron_clusters import ranks, shuffles
from workbench.core import evidence
from workbench.core.engine import running
from workbench.core.prompts import concepts

CHOICES = ("difference", "standardized")
# Of each class in each half; tries at a split that has them.
_FEWEST, _TRIES = 2, 50
_ITERATIONS = 300
# More examples make the probe of all units no better, and slow.
_MOST = 5_000


class TooFewError(ValueError):
    """Too few examples of a class for two halves; the message says how many there are."""


@dataclasses.dataclass(frozen=True, eq=False)
class SparseProbe:
    """A probe of so many units.

    Attributes:
        size: How many.
        units: Their numbers, the best first; none listed for the probe of all units.
        f1: On the second half.
        auc: There, too.
        p_value: Of the AUC, against shuffled labels.
        random_f1: Of as many random units, one a draw; none for the probe of all units.
        random_auc: Of these.
    """

    size: int
    units: tuple[int, ...]
    f1: float
    auc: float
    p_value: float
    random_f1: Float[np.ndarray, " sample"]
    random_auc: Float[np.ndarray, " sample"]


@dataclasses.dataclass(frozen=True, eq=False)
class Probes:
    """Probes of growing size on one split.

    Attributes:
        each: One a size, the smallest first.
        whole: Of all units.
        always: F1 of saying yes to every example.
        n_fit: Examples of the first half.
        n_held: Examples of the second half.
        n_with: Of these with the concept.
    """

    each: tuple[SparseProbe, ...]
    whole: SparseProbe
    always: float
    n_fit: int
    n_held: int
    n_with: int


def fitted(
    values: Float32[np.ndarray, "example unit"],
    examples: concepts.Examples,
    sizes: Sequence[int],
    *,
    by: str = "standardized",
    draws: int = 10,
    permutations: int = 1000,
    seed: int = 0,
    progress: running.Progress = running.no_progress,
) -> Probes:
    """Fit probes of some sizes.

    Args:
        values: Of every unit at every example.
        examples: Labels and rows.
        sizes: How many units; those above the number of units that vary are left out.
        by: What units are chosen by: the "difference" of means, or "standardized" by the spread.
        draws: Random sets of each size.
        permutations: Shuffles behind each p-value.
        seed: Of the split, the random units and the shuffles.
        progress: Told how far it is; may raise to stop.

    Returns:
        The probes.

    Raises:
        ValueError: If a size is below 1, or there is no such choice.
        TooFewError: If no split has both classes in both halves.
    """
    if any(size < 1 for size in sizes) or by not in CHOICES:
        raise ValueError(
            f"probes of {min(sizes, default=1)} units chosen by {by!r}; expected sizes of at least "
            f"1 and one of {', '.join(CHOICES)}"
        )
    random = np.random.default_rng(seed)
    fit, held = _halves(examples, random)
    if len(fit) > _MOST:
        fit = np.sort(random.choice(fit, _MOST, replace=False))
    split = _Split(values, examples, (fit, held), permutations, seed)
    order = _ordered(values[fit], examples.labels[fit], by)
    wanted = sorted({size for size in sizes if size <= len(order)})
    each: list[SparseProbe] = []
    for number, size in enumerate(wanted):
        progress(number / (len(wanted) + 1), f"probes of {size} units")
        sets = [random.choice(order, size, replace=False) for _ in range(draws)]
        each.append(split.probe(order[:size], [split.scores(one) for one in sets]))
    progress(len(wanted) / (len(wanted) + 1), "a probe of all units")
    whole = dataclasses.replace(split.probe(order, []), units=())
    share = float(examples.labels[held].mean())
    with_it = int(examples.labels[held].sum())
    return Probes(tuple(each), whole, 2 * share / (1 + share), len(fit), len(held), with_it)


class _Split:
    """Both halves, and what is measured on the second one."""

    def __init__(
        self,
        values: Float32[np.ndarray, "example unit"],
        examples: concepts.Examples,
        halves: tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]],
        permutations: int,
        seed: int,
    ) -> None:
        self._values, self._labels = values, examples.labels
        self._fit, self._held = halves
        held = self._held
        self._rest = dataclasses.replace(
            examples,
            row=examples.row[held],
            position=examples.position[held],
            labels=examples.labels[held],
            targets=examples.targets[held],
            confounds={},
        )
        self._permutations, self._seed = permutations, seed

    def predictions(self, units: Int[np.ndarray, " unit"]) -> Float64[np.ndarray, " held"]:
        """Log odds at each example of the second half."""
        from sklearn import exceptions, linear_model, pipeline, preprocessing

        model: Any = pipeline.make_pipeline(
            preprocessing.StandardScaler(),
            linear_model.LogisticRegression(class_weight="balanced", max_iter=_ITERATIONS),
        )
        with warnings.catch_warnings():
            # A probe that is not at its optimum is still measured on other rows.
            warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
            model.fit(self._values[np.ix_(self._fit, units)], self._labels[self._fit])
        scores = model.decision_function(self._values[np.ix_(self._held, units)])
        return np.asarray(scores, dtype=np.float64)

    def scores(self, units: Int[np.ndarray, " unit"]) -> tuple[float, float]:
        """F1 and AUC of a probe of some units."""
        return self._measured(self.predictions(units))

    def probe(
        self, units: Int[np.ndarray, " unit"], draws: Sequence[tuple[float, float]]
    ) -> SparseProbe:
        """A probe of some units, beside random ones."""
        said = self.predictions(units)
        f1, auc = self._measured(said)
        centred = ranks.centred(said.astype(np.float32)[:, None])
        labels = self._labels[self._held]
        own = ranks.aucs(centred, labels[None])[0, 0]
        null = [
            ranks.aucs(centred, labels[order])[:, 0]
            for order in shuffles.orders(self._rest, self._permutations, self._seed)
        ]
        chance = evidence.p_value(float(own), np.concatenate(null))
        random = np.array(draws, dtype=np.float64).reshape(-1, 2)
        numbers = tuple(int(unit) for unit in units)
        return SparseProbe(len(units), numbers, f1, auc, chance, random[:, 0], random[:, 1])

    def _measured(self, said: Float64[np.ndarray, " held"]) -> tuple[float, float]:
        from sklearn import metrics

        labels = self._labels[self._held]
        f1 = float(metrics.f1_score(labels, said > 0))
        return f1, float(metrics.roc_auc_score(labels, said))


def _halves(
    examples: concepts.Examples, random: np.random.Generator
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
    """Examples of two halves of the rows, both classes in each."""
    rows, at = np.unique(examples.row, return_inverse=True)
    labels = examples.labels
    # Rows with the concept and rows without are halved by themselves.
    kind = np.zeros(len(rows), dtype=np.int64)
    kind[at[labels]] = 1
    for _ in range(_TRIES):
        first = np.zeros(len(rows), dtype=bool)
        for each in (0, 1):
            own = random.permutation(np.flatnonzero(kind == each))
            first[own[: (len(own) + int(random.integers(2))) // 2]] = True
        here = first[at]
        counts = [int((labels[part] == has).sum()) for part in (here, ~here) for has in (0, 1)]
        if min(counts) >= _FEWEST:
            return np.flatnonzero(here), np.flatnonzero(~here)
    raise TooFewError(
        f"{int(labels.sum())} examples with the concept and {int((~labels).sum())} without, in "
        f"{len(rows)} rows: too few for probes, which need {_FEWEST} of each in both halves of the "
        "rows"
    )


def _ordered(
    values: Float32[np.ndarray, "example unit"], labels: Bool[np.ndarray, " example"], by: str
) -> Int[np.ndarray, " kept"]:
    """Units that vary, the one that tells most first."""
    inside, outside = values[labels].astype(np.float64), values[~labels].astype(np.float64)
    apart = np.abs(inside.mean(0) - outside.mean(0))
    live = np.ptp(values, axis=0) > 0
    if by == "standardized":
        spread = np.sqrt((inside.var(0) + outside.var(0)) / 2)
        # Without any spread within the classes a unit tells them apart for sure.
        apart = np.divide(apart, spread, out=np.where(apart > 0, np.inf, 0), where=spread > 0)
    order = np.argsort(-np.where(live, apart, -1), kind="stable")
    return order[: int(live.sum())]
