"""What is left of an effect among examples that are alike in what else might explain it?

1. Each stated confound is cut into quantile bins (values themselves where there are few of them);
   examples that share the bins of all confounds are a stratum.
2. Strata that hold both classes count. Within each, units are ranked among the stratum's own
   examples; strata of n examples are weighted by n1 · n0 / (n + 1).
3. For targets instead of labels, units and targets lose their mean in each stratum.

Source: van Elteren 1960, "On the combination of independent two sample tests of Wilcoxon".

Units: partial AUC from 0 to 1, one half for nothing left; partial R² from 0 to 1.

Limits: within a bin of a continuous confound something of it is left. The more confounds, the
fewer bins each has (20 examples a stratum, on average) and the fewer examples count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from analyses.neuron_clusters import ranks
from workbench.core.prompts import concepts

_BINS, _EACH = 10, 20
# Of each class, in strata that hold both.
_FEWEST = 4


def strata(examples: concepts.Examples, names: Sequence[str]) -> Int[np.ndarray, " example"]:
    """Number each example's stratum.

    Args:
        examples: What counts of a concept.
        names: Of its confounds.

    Returns:
        Numbers from 0.

    Raises:
        ValueError: If there is no such confound.
    """
    known = examples.confounds
    for name in names:
        if name not in known:
            raise ValueError(
                f"there is no confound {name!r}: the concept has "
                f"{', '.join(map(repr, known)) or 'none'}"
            )
    if not names:
        raise ValueError("no confounds: name at least one")
    most = int((len(examples) / _EACH) ** (1 / len(names)))
    bins = max(2, min(_BINS, most))
    columns = [_binned(known[name], bins) for name in names]
    return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1)


def mixed(
    strata: Int[np.ndarray, " example"], labels: Bool[np.ndarray, " example"]
) -> Bool[np.ndarray, " example"]:
    """Which examples lie in strata that hold both classes.

    Args:
        strata: Of each example.
        labels: Which have the concept.

    Returns:
        Whether each counts.

    Raises:
        ValueError: If too few do.
    """
    with_it, size = np.bincount(strata, labels), np.bincount(strata)
    here = ((with_it > 0) & (with_it < size))[strata]
    has, has_not = int((here & labels).sum()), int((here & ~labels).sum())
    if min(has, has_not) < _FEWEST:
        raise ValueError(
            f"the confounds leave {has} examples with the concept and {has_not} without among "
            f"those that are alike in them (expected at least {_FEWEST} of each): the concept "
            "cannot be told from its confounds here"
        )
    return here


def ranked(
    values: Float32[np.ndarray, "example unit"],
    strata: Int[np.ndarray, " example"],
    labels: Bool[np.ndarray, " example"],
) -> Float64[np.ndarray, "example unit"]:
    """Ranks within strata, so weighted that `ranks.aucs` of them is van Elteren's partial AUC.

    Args:
        values: Of every unit, at examples of strata that hold both classes.
        strata: Of each of these examples.
        labels: Which have the concept.

    Returns:
        Ranks that sum to zero in each stratum; all zero for a unit that is constant in each.
    """
    made = np.zeros((values.shape[1], len(values))).T
    weight = 0.0
    for here in _members(strata):
        has = int(labels[here].sum())
        made[here] = ranks.centred(values[here]) / (len(here) + 1)
        weight += has * (len(here) - has) / (len(here) + 1)
    pairs = int(labels.sum()) * int((~labels).sum())
    made *= pairs / weight
    return made


def less_means(
    table: Float64[np.ndarray, "example column"], strata: Int[np.ndarray, " example"]
) -> Float64[np.ndarray, "example column"]:
    """A table less its mean in each stratum.

    Args:
        table: Units or targets.
        strata: Of each example.

    Returns:
        What is left; exactly zero in a stratum in which a column is constant.
    """
    made = np.zeros(table.shape)
    for here in _members(strata):
        part = table[here]
        made[here] = np.where(np.ptp(part, axis=0) > 0, part - part.mean(0), 0)
    return made


def _members(strata: Int[np.ndarray, " example"]) -> list[np.ndarray]:
    order = np.argsort(strata, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(strata[order])) + 1)


def _binned(values: Float64[np.ndarray, " example"], bins: int) -> Int[np.ndarray, " example"]:
    """Bin of each value: of a few values each is its own."""
    if len(np.unique(values)) <= bins:
        return np.unique(values, return_inverse=True)[1].reshape(-1)
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins))
    return np.searchsorted(edges, values, side="right")
