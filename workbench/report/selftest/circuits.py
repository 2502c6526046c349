"""Are planted circuits found edge by edge, and judged as what they are?

Limits: circuits of five edges in a graph of two layers.
"""

from __future__ import annotations

import numpy as np

from analyses import circuits
from workbench.core.planted import known_circuits
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_least,
    at_most,
    both,
    same,
    within,
)

# Random circuits, nodes and sets that others are compared with.
_FEW = 20
# Median faithfulness of random circuits of the same size.
_CHANCE = 0.1
# A head that finds no match attends to all positions alike, and to the right one among them.
_WITHOUT_AN_EDGE = 0.7


def _discovered(case: known_circuits.Case, seed: int) -> Outcome:
    found = circuits.discover(
        case.model, case.pairs, target=1.0, held_out=0.0, n_random=_FEW, seed=seed
    )
    return same(found.edges, case.edges)


def _induction(models: Models) -> Outcome:
    return _discovered(models.induction, models.seed)


def _name_mover(models: Models) -> Outcome:
    return _discovered(models.name_mover, models.seed)


def _whole(models: Models) -> Outcome:
    case = models.induction
    found = circuits.faithfulness(case.model, case.pairs, case.edges, n_random=0, seed=models.seed)
    return within(found.value, 1, said=f"faithfulness {found.value:.4f}")


def _each_needed(models: Models) -> Outcome:
    case = models.induction
    left = []
    for edge in case.edges:
        fewer = [other for other in case.edges if other != edge]
        found = circuits.faithfulness(case.model, case.pairs, fewer, n_random=0, seed=models.seed)
        left.append(found.value)
    said = "faithfulness " + ", ".join(f"{one:.2f}" for one in left)
    return at_most(max(left), _WITHOUT_AN_EDGE, said)


def _random(models: Models) -> Outcome:
    case = models.induction
    found = circuits.faithfulness(
        case.model, case.pairs, case.edges, n_random=_FEW, seed=models.seed
    )
    middle = float(np.median(found.random))
    return at_most(middle, _CHANCE, f"median faithfulness {middle:.3f} of {_FEW}")


def _curve(models: Models) -> Outcome:
    case = models.induction
    found = circuits.faithfulness_curve(
        case.model, case.pairs, fractions=(0.5, 1.0), held_out=0.0, n_random=0, seed=models.seed
    )
    return within(found.faithfulness, [1, 1])


def _complete(models: Models) -> Outcome:
    case = models.induction
    found = circuits.completeness(case.model, case.pairs, case.edges, n_sets=_FEW, seed=models.seed)
    said = f"largest gap {found.largest:.1e}"
    return within(found.gaps, np.zeros(found.gaps.shape), said=said)


def _minimal(models: Models) -> Outcome:
    case = models.induction
    found = circuits.minimality(case.model, case.pairs, case.edges, n_random=_FEW, seed=models.seed)
    changes = dict(zip(found.nodes, found.changes, strict=True))
    said = ", ".join(f"{name} {change:.2f}" for name, change in changes.items())
    return both(
        same(changes, ("a0.h0", "a1.h0")),
        at_least(min(changes.values()), 1 - _WITHOUT_AN_EDGE, said),
    )


def _inspected(edges: tuple[str, ...], models: Models) -> list[circuits.EdgeInspection]:
    case = models.induction
    whole = circuits.discover(
        case.model, case.pairs, target=1.0, held_out=0.0, n_random=0, seed=models.seed
    )
    return [circuits.inspect_edge(case.model, whole, edge) for edge in edges]


def _edge(models: Models) -> Outcome:
    (last,) = _inspected(("a1.h0->logits",), models)
    # At the last of six positions, one match among others of score 0.
    match = np.exp(known_circuits.MATCH)
    truth = np.ones(6)
    truth[2] = match
    pattern = last.clean_pattern[0, -1]
    said = f"an effect of {last.effect:.4f}, {pattern[2]:.4f} of the attention at the match"
    return within([last.effect, *pattern], [1, *(truth / (match + 5))], said=said)


def _unread(models: Models) -> Outcome:
    found = _inspected(("a0.h1->logits", "a1.h1->logits", "a0.h1->a1.h0<v>"), models)
    return within([one.effect for one in found], [0, 0, 0])


def _areas(models: Models) -> Outcome:
    del models
    # A line from 0 to 1, one that is 1 throughout, and one that is 0 throughout.
    fractions = np.linspace(0, 1, 5)
    curves = np.stack([fractions, np.ones(5), np.zeros(5)])
    return within(np.stack(circuits.areas(fractions, curves)), [[1 / 2, 1, 0], [1 / 2, 0, 1]])


CHECKS = (
    Check("circuits.discover", "an induction pair of five edges", _induction),
    Check("circuits.discover", "a name mover of five edges", _name_mover),
    Check("circuits.faithfulness", "the five edges carry everything", _whole),
    Check("circuits.faithfulness", "without any one of the five, much is lost", _each_needed),
    Check("circuits.faithfulness", "nothing: random circuits of this size carry nothing", _random),
    Check("circuits.faithfulness_curve", "half of all edges by score carry everything", _curve),
    Check(
        "circuits.completeness",
        "nothing outside of the circuit stands in for what is removed from it",
        _complete,
    ),
    Check("circuits.minimality", "without either head of the circuit much is lost", _minimal),
    Check(
        "circuits.inspect_edge",
        "the last edge carries everything, and its head looks at the match",
        _edge,
    ),
    Check("circuits.inspect_edge", "nothing: edges from what nobody reads carry nothing", _unread),
    Check("circuits.areas", "areas under and above a rising line and two level ones", _areas),
)
