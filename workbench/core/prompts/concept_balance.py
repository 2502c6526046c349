"""Balance: examples with and without a concept are made alike in what else is known of them.

1. Each confound is cut into bins at quantiles of both classes, each class weighing the same; few
   different values are bins of their own.
2. From the most unbalanced confound on, each joins the others: a cell is one bin of each. One that
   would leave less than a fifth of the smaller class is not balanced.
3. A confound that differs in what is kept more than half as much as before is taken out again: its
   bins hold other values of one class than of the other.
4. In each cell as many examples of each class are drawn as give every cell the same ratio between
   the classes: the ratio that keeps the most (n₁ n₀ / (n₁ + n₀)).
5. Whole inputs that are not drawn are left out; of rows with a label for each token, the tokens do
   not count any more.
6. A caveat stands for each confound that could not be balanced or still differs.

Source: Rosenbaum and Rubin 1984, doi 10.2307/2288398 (subclassification); the ratio is ours.

Units: imbalance is the AUC of the confound for the label, .5 for none, above if the confound is
larger where the concept is.

Limits: within a bin values may still differ; an AUC sees only that one class has larger values, not
that it has more extreme ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy import stats

from workbench.core.prompts import concepts

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept, Examples

# From which distance to .5 an AUC is worth a caveat, and what must be left of the smaller class.
_SEEN, _LEFT = 0.05, 0.2
_FEWEST = 2
# Examples of one class for each of the other: beyond that more of them tell hardly more.
_RATIOS = tuple(range(1, 21))
_OUTER = (5, 95)


def imbalance(concept: Concept) -> dict[str, float]:
    """How well each confound alone tells the examples with the concept from the others.

    Args:
        concept: A concept with labels.

    Returns:
        The AUC of each confound; .5 is balance.

    Raises:
        ConceptError: If it has targets instead of labels.
    """
    _require_labels(concept)
    examples = concept.examples()
    return {name: _auc(values, examples.labels) for name, values in examples.confounds.items()}


def balanced(
    concept: Concept, confounds: Sequence[str] | None = None, *, bins: int = 5, seed: int = 0
) -> Concept:
    """Draw examples so that the classes are alike in their confounds.

    Args:
        concept: A concept with labels.
        confounds: Which; all that it has if not given.
        bins: How finely each is cut.
        seed: Of the draw.

    Returns:
        The smaller concept. Its caveats say what is still unbalanced, and by how much.

    Raises:
        ConceptError: If it has targets instead of labels, has no such confound, or there is less
            than two bins.
    """
    _require_labels(concept)
    names = list(concept.confounds) if confounds is None else list(dict.fromkeys(confounds))
    missing = [name for name in names if name not in concept.confounds]
    if missing:
        raise concepts.ConceptError(
            f"{concept.name!r} has no confound {missing[0]!r}: it has "
            f"{', '.join(concept.confounds) or 'none'}"
        )
    if bins < _FEWEST:
        raise concepts.ConceptError(f"bins = {bins}: expected at least {_FEWEST}")
    if not names:
        note = "nothing is known that the classes could differ in, so nothing is balanced"
        return concept.replaced(caveats=(*concept.caveats, note))
    examples = concept.examples()
    keep, chosen = _chosen(examples, names, bins, seed)
    return _kept(concept, examples, keep, _caveats(examples, keep, names, chosen))


def _require_labels(concept: Concept) -> None:
    if concept.graded:
        raise concepts.ConceptError(
            f"{concept.name!r} has targets and no labels: there are no classes to make alike"
        )


def _auc(values: Float64[np.ndarray, " example"], labels: Bool[np.ndarray, " example"]) -> float:
    with_it, without = values[labels], values[~labels]
    greater = stats.mannwhitneyu(with_it, without, method="asymptotic").statistic
    return float(greater / (len(with_it) * len(without)))


def _chosen(
    examples: Examples, names: Sequence[str], bins: int, seed: int
) -> tuple[Bool[np.ndarray, " example"], list[str]]:
    """Which examples to keep, and the confounds that these are balanced in."""
    labels, names = examples.labels, list(names)
    before = {name: abs(_auc(examples.confounds[name], labels) - 0.5) for name in names}
    while True:
        cells, chosen = _cells(examples, names, bins)
        if not chosen:
            return np.ones(len(labels), dtype=bool), chosen
        keep = _drawn(cells, labels, np.random.default_rng(seed))
        after = {n: abs(_auc(examples.confounds[n][keep], labels[keep]) - 0.5) for n in chosen}
        useless = [name for name in chosen if after[name] > max(_SEEN, before[name] / 2)]
        if not useless:
            return keep, chosen
        names.remove(max(useless, key=lambda name: after[name]))


def _cells(
    examples: Examples, names: Sequence[str], bins: int
) -> tuple[Int[np.ndarray, " example"], list[str]]:
    """Which cell each example is in, and the confounds that make the cells."""
    labels = examples.labels
    off = {name: abs(_auc(examples.confounds[name], labels) - 0.5) for name in names}
    cells, chosen = np.zeros(len(labels), dtype=np.int64), list[str]()
    smaller = min(int(labels.sum()), int((~labels).sum()))
    for name in sorted(names, key=lambda name: -off[name]):
        own = _binned(examples.confounds[name], labels, bins)
        joint = np.unique(np.stack([cells, own]), axis=1, return_inverse=True)[1].ravel()
        fewest = min(int(quota.sum()) for quota in _quotas(joint, labels))
        if fewest >= max(_FEWEST, _LEFT * smaller):
            cells, chosen = joint, [*chosen, name]
    return cells, chosen


def _binned(
    values: Float64[np.ndarray, " example"], labels: Bool[np.ndarray, " example"], bins: int
) -> Int[np.ndarray, " example"]:
    different, numbers = np.unique(values, return_inverse=True)
    if len(different) <= bins:
        return numbers
    # A rare class would otherwise lie within one bin of the frequent one.
    weights = np.where(labels, 1 / labels.sum(), 1 / (~labels).sum())
    shares = np.arange(1, bins) / bins
    edges = np.quantile(values, shares, weights=weights, method="inverted_cdf")
    return np.searchsorted(np.unique(edges), values, side="left")


def _quotas(
    cells: Int[np.ndarray, " example"], labels: Bool[np.ndarray, " example"]
) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """How many of each class to draw from each cell, at one ratio between the classes."""
    n_cells = int(cells.max()) + 1
    has, has_not = (np.bincount(cells[labels == value], minlength=n_cells) for value in (1, 0))
    best, found = -1.0, (has, has_not)
    for first, second in [(1, k) for k in _RATIOS] + [(k, 1) for k in _RATIOS]:
        times = np.minimum(has // first, has_not // second)
        total = int(times.sum())
        worth = total * first * second / (first + second)
        if worth > best:
            best, found = worth, (times * first, times * second)
    return found


def _drawn(
    cells: Int[np.ndarray, " example"],
    labels: Bool[np.ndarray, " example"],
    random: np.random.Generator,
) -> Bool[np.ndarray, " example"]:
    """Examples at random, as many of each class and cell as they are allotted."""
    keep = np.zeros(len(labels), dtype=bool)
    for value, quota in zip((True, False), _quotas(cells, labels), strict=True):
        for cell in np.flatnonzero(quota):
            here = np.flatnonzero((cells == cell) & (labels == value))
            keep[random.permutation(here)[: quota[cell]]] = True
    return keep


def _caveats(
    examples: Examples, keep: Bool[np.ndarray, " example"], names: Sequence[str], chosen: list[str]
) -> list[str]:
    said: list[str] = []
    labels = examples.labels
    for name in names:
        values = examples.confounds[name]
        before, after = _auc(values, labels), _auc(values[keep], labels[keep])
        figures = f"(AUC {after:.2f}, {before:.2f} before; 0.50 is balance)"
        if name not in chosen:
            ranges = [np.percentile(values[labels == value], _OUTER) for value in (True, False)]
            (low, high), (lowest, highest) = ranges
            said.append(
                f"{name} cannot be balanced: it is {low:.3g} to {high:.3g} with the concept, "
                f"{lowest:.3g} to {highest:.3g} without {figures}"
            )
        elif abs(after - 0.5) > _SEEN:
            said.append(f"{name} still differs within its bins {figures}")
    return said


def _kept(
    concept: Concept,
    examples: Examples,
    keep: Bool[np.ndarray, " example"],
    caveats: Sequence[str],
) -> Concept:
    if not concept.per_token:
        rows = examples.row[keep]
        inputs = concept.inputs
        return concept.replaced(
            inputs=inputs[rows] if isinstance(inputs, np.ndarray) else [inputs[i] for i in rows],
            labels=concept.labels[rows],
            confounds={name: np.asarray(v)[rows] for name, v in concept.confounds.items()},
            caveats=(*concept.caveats, *caveats),
        )
    labels = [np.full(len(row), -1, dtype=np.int64) for row in concept.labels]
    kept = (examples.row[keep], examples.position[keep], examples.labels[keep])
    for row, position, label in zip(*kept, strict=True):
        labels[row][position] = int(label)
    rows = np.unique(kept[0])
    return concept.replaced(
        inputs=[concept.inputs[i] for i in rows],
        labels=[labels[i] for i in rows],
        confounds={name: tuple(v[i] for i in rows) for name, v in concept.confounds.items()},
        caveats=(*concept.caveats, *caveats),
    )
