"""What could the labels have been, if the concept had nothing to do with the units?

1. One example a row: any permutation of the examples.
2. Several examples a row (tokens of a text): they are not independent, so whole rows of labels
   change places among rows with the same number of examples. What follows what within a row, and
   where in a row it stands, stays as it is.
3. Where fewer than 8 rows share a number of examples, a row keeps its own labels, turned by a
   random offset.
4. Within strata instead: any permutation of the examples of each stratum.

Source: Westfall & Young 1993, "Resampling-Based Multiple Testing" (what is shuffled must be
exchangeable); Harris 2020, arXiv 2012.06862 (turned time series).

Units: an order says for every example whose label (or targets) it gets.

Limits: rows that were cut from one document are not quite exchangeable. A turned row joins its end
to its start. Permutations within strata take the examples of a row as independent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float64, Int

from workbench.core.prompts import concepts

# Rows of one length that change places among themselves; fewer have too few orders.
_FEWEST = 8
# Numbers of a batch of orders.
_AT_ONCE = 2_000_000
_MOST = 128


@dataclasses.dataclass(frozen=True, eq=False)
class _Plan:
    """Which examples change places.

    Attributes:
        exchanged: Tables of examples, whose rows change places with each other.
        turned: Tables of examples, each row of which is turned by itself.
        examples: How many there are.
    """

    # Each table has a shape of its own, so none is stated.
    exchanged: tuple[np.ndarray, ...]
    turned: tuple[np.ndarray, ...]
    examples: int


def orders(
    examples: concepts.Examples,
    rounds: int,
    seed: int,
    *,
    within: Int[np.ndarray, " example"] | None = None,
) -> Iterator[Int[np.ndarray, "round example"]]:
    """Orders of the examples under the null, some at a time.

    Args:
        examples: What counts of a concept.
        rounds: How many orders in all.
        seed: Equal seeds give equal bits.
        within: Stratum of each example; examples change places within these only.

    Yields:
        Which example's label each example gets, a batch of rounds at a time.
    """
    plan = _plan(examples, within)
    random = np.random.default_rng(seed)
    most = min(_MOST, max(1, _AT_ONCE // max(1, plan.examples)))
    for first in range(0, rounds, most):
        yield _drawn(plan, min(most, rounds - first), random)


def expected(
    examples: concepts.Examples,
    values: Float[np.ndarray, " example"],
    *,
    within: Int[np.ndarray, " example"] | None = None,
) -> Float64[np.ndarray, " example"]:
    """What each example gets on average over all orders of the null.

    Args:
        examples: What counts of a concept.
        values: Of each example, for instance its label as 0 or 1.
        within: Stratum of each example, as in `orders`.

    Returns:
        The mean for each example, exactly and not from draws.
    """
    plan = _plan(examples, within)
    means = np.zeros(plan.examples)
    for table in plan.exchanged:
        means[table] = values[table].mean(0)
    for table in plan.turned:
        means[table] = values[table].mean(1)[:, None]
    return means


def _plan(examples: concepts.Examples, within: Int[np.ndarray, " example"] | None) -> _Plan:
    count = len(examples)
    if within is not None:
        return _Plan(tuple(each[:, None] for each in _groups(within)), (), count)
    rows = _groups(examples.row)
    if len(rows) == count:
        return _Plan((np.arange(count)[:, None],), (), count)
    exchanged, turned = list[np.ndarray](), list[np.ndarray]()
    for alike in _groups(np.array([len(row) for row in rows])):
        table = np.stack([rows[int(number)] for number in alike])
        (exchanged if len(table) >= _FEWEST else turned).append(table)
    return _Plan(tuple(exchanged), tuple(turned), count)


def _groups(keys: Int[np.ndarray, " example"]) -> list[np.ndarray]:
    """Numbers of the examples of each key, in their order."""
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    return np.split(order, ends)


def _drawn(
    plan: _Plan, rounds: int, random: np.random.Generator
) -> Int[np.ndarray, "round example"]:
    made = np.empty((rounds, plan.examples), dtype=np.int64)
    for table in plan.exchanged:
        donors = random.permuted(np.tile(np.arange(len(table)), (rounds, 1)), axis=1)
        made[:, table] = table[donors]
    for table in plan.turned:
        rows, length = table.shape
        offsets = random.integers(0, length, (rounds, rows, 1))
        places = (np.arange(length) + offsets) % length
        made[:, table] = table[np.arange(rows)[:, None], places]
    return made
