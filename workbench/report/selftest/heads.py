"""Do heads get the labels that were planted, and do others get none?

Limits: two labels of all that heads can have, a head each.
"""

from __future__ import annotations

import numpy as np

from analyses import attention
from workbench.core.planted import known_circuits
from workbench.report.selftest.checking import Check, Models, Outcome, same, within

_ROWS, _ROUNDS = 32, 999
# Random sets that labelled heads are compared with; there are three other heads.
_SETS = 3
# The loss without the copy is that of tokens that do not repeat, but for which tokens were drawn.
_DRAWN = 0.3


def _labels(scores: attention.HeadScores) -> list[str]:
    return [f"{layer}.{head} {name}" for name in scores.names for layer, head in scores.heads(name)]


def _labelled(models: Models) -> Outcome:
    scores = attention.score_heads(
        models.induction.model, rows=_ROWS, rounds=_ROUNDS, seed=models.seed
    )
    return same(_labels(scores), ["0.0 previous token", "1.0 induction"])


def _scored(models: Models) -> Outcome:
    scores = attention.score_heads(
        models.induction.model, rows=_ROWS, rounds=_ROUNDS, seed=models.seed
    )
    # One match among the other positions, all of score 0, for queries 4 to 6.
    match = np.exp(known_circuits.MATCH)
    expected = np.mean([match / (match + query) for query in (4, 5, 6)])
    return within(scores.score[scores.place("induction"), 1, 0], expected)


def _unlabelled(models: Models) -> Outcome:
    scores = attention.score_heads(models.unplanted, rows=_ROWS, rounds=_ROUNDS, seed=models.seed)
    return same([f"{layer}.{head} induction" for layer, head in scores.heads("induction")], [])


def _carried(models: Models) -> Outcome:
    found = attention.repeat_carriers(
        models.induction.model, rows=_ROWS, rounds=_ROUNDS, seed=models.seed
    )
    return same([f"{layer}.{head}" for layer, head in found.heads], ["0.0", "1.0"])


def _verified(models: Models) -> Outcome:
    model = models.induction.model
    scores = attention.score_heads(model, rows=_ROWS, rounds=_ROUNDS, seed=models.seed)
    found = attention.verify_heads(model, scores, rows=_ROWS, n_random=_SETS, seed=models.seed + 1)
    all_of_it = found.loss_fresh - float(found.loss.mean())
    said = f"the loss rises by {found.rise:.2f} of {all_of_it:.2f}"
    return within(found.rise, all_of_it, said=said, bound=_DRAWN)


def _seen(models: Models) -> Outcome:
    found = attention.look(models.two_steps, (0, 3, 2, 1))
    # At the last position one head looks at position 1 only, the other at its own.
    return within([found.pattern[0, 0, 3], found.pattern[1, 1, 3]], [[0, 1, 0, 0], [0, 0, 0, 1]])


def _one(models: Models) -> Outcome:
    found = attention.one_head(models.two_steps, (0, 3, 2, 1), layer=0, head=0)
    # Away from the last position it looks at all that it sees alike.
    truth = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    truth[3] = [0, 1, 0, 0]
    # It copies tokens, of length 1, as they are.
    said = f"{found.pattern[3, 1]:.4f} at position 1, of {found.value_norm[1]:.4f}"
    return within(found.weighted, truth, said=said)


CHECKS = (
    Check("attention.look", "one head looks at position 1, another at its own", _seen),
    Check("attention.one_head", "the first head in full, by what it copies from each place", _one),
    Check(
        "attention.score_heads",
        "one previous-token head and one induction head, and no other label",
        _labelled,
    ),
    Check("attention.score_heads", "the induction head's attention to the match", _scored),
    Check("attention.score_heads", "nothing: random heads are no induction heads", _unlabelled),
    Check("attention.repeat_carriers", "the same two heads carry a repeat, and no other", _carried),
    Check(
        "attention.verify_heads",
        "without its match the induction head's model predicts a repeat as badly as anything",
        _verified,
    ),
)
