"""Are planted neurons and directions found, and described as what they are?

Limits: neurons of a few words; directions in a stream of 16 dimensions.
"""

from __future__ import annotations

import numpy as np

from analyses import activation_patching
from analyses import feature_visualization as features
from workbench.core.engine import units
from workbench.core.planted import known_units, two_steps, word_level
from workbench.core.planted.two_steps import DIRECT, INDIRECT
from workbench.core.prompts.pairs import ContrastPairs
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

_DOG = features.TokenSet((known_units.DOG,), "dog")
_NEURON = "neuron 0.0"
# Resamples, shuffles and controls.
_FEW = 39
# A correlation by chance over 1,200 tokens: five standard deviations.
_CHANCE = 0.15
# A p-value of tokens at random places, adjusted over all tokens; less often than once in a thousand
# by chance.
_SURE = 1e-3
# Places of a corpus, and largest activations, that are looked at.
_PLACES, _TOP = 40, 20
# So much of a neuron that what it writes is more than all else.
_STRONG = 20.0


def _examples(models: Models) -> Outcome:
    found = features.top_examples(models.detectors, models.words, k=len(models.words.tokens))
    unit = found.of(_NEURON)
    fires = found.top_values[unit] > 0
    where = zip(found.top_rows[unit][fires], found.top_positions[unit][fires], strict=True)
    seen = {(int(row), int(position)) for row, position in where}
    rows = models.words.tokens.reshape(-1, two_steps.N_CTX)
    truth = {(int(a), int(b)) for a, b in zip(*np.nonzero(rows == known_units.DOG), strict=True)}
    wrong = len(seen ^ truth)
    said = f"{len(seen)} places, {len(truth)} of them dogs, {wrong} wrong"
    return at_most(wrong, 0, said)


def _silent(models: Models) -> Outcome:
    found = features.top_examples(models.detectors, models.words, k=1)
    largest = float(np.abs(found.top_values[found.of("neuron 1.0")]).max())
    return within(largest, 0, said=f"largest activation {largest:.1e}")


def _largest(models: Models) -> Outcome:
    scanned = features.top_examples(models.detectors, models.words, k=_TOP)
    found = features.largest_examples(
        models.detectors, models.words, scanned, _NEURON, top=_TOP, around=1
    )
    return both(
        same({one.tokens[one.spot] for one in found}, ["dog"]),
        within([one.activation for one in found], np.ones(_TOP), said=f"{len(found)} examples"),
    )


def _viewed(models: Models) -> Outcome:
    scanned = features.top_examples(models.detectors, models.words, k=_TOP, seed=models.seed)
    found = features.view_unit(models.detectors, models.words, scanned, _NEURON)
    (token, logit), first = found.promoted[0], found.triggers[0]
    share = float((models.words.tokens == known_units.DOG).mean())
    return both(
        same([f"at {' '.join(first.text)}", f"for {token}"], ["at dog", "for elk"]),
        within([found.density, first.count, first.lift, logit], [share, _TOP, 1 / share, DIRECT]),
    )


def _triggered(models: Models) -> Outcome:
    tokens = models.words.tokens.reshape(-1, two_steps.N_CTX)
    rows, positions = (part[:_PLACES] for part in np.nonzero(tokens == known_units.DOG))
    (found,) = features.token_triggers(models.words, rows, positions)
    share = float((tokens == known_units.DOG).mean())
    return both(
        same([word_level.WORDS[one] for one in found.tokens], ["dog"]),
        within([found.count, found.lift], [_PLACES, 1 / share]),
    )


def _not_triggered(models: Models) -> Outcome:
    random = np.random.default_rng(models.seed + 1)
    places = random.permutation(len(models.words.tokens))[:_PLACES]
    rows, positions = np.divmod(places, two_steps.N_CTX)
    found = features.token_triggers(models.words, rows, positions)
    least = min(one.p_value for one in found)
    return at_least(least, _SURE, f"smallest p = {least:.3f} of {len(found)} tokens")


def _token_means(models: Models) -> Outcome:
    found = features.token_means(models.detectors, models.words, _NEURON)
    return within(found.means.numpy(), np.eye(len(word_level.WORDS))[known_units.DOG])


def _described(models: Models) -> Outcome:
    correlations: list[float] = []
    for kind, text in (("tokens", "dog"), ("pattern", "dog"), ("hypothesis", 'at "dog"')):
        description = features.described(models.detectors, kind, text)
        found = features.believe(
            models.detectors, models.words, _NEURON, description, seed=models.seed
        )
        correlations.append(found.correlation)
    return within(correlations, [1, 1, 1])


def _steered_text(strength: float, models: Models) -> Outcome:
    found = features.steered_text(
        models.detectors, "ape bee cat", _NEURON, strength, n_tokens=1
    ).split()
    # Before the last position heads attend to all positions alike, of which the first is in most.
    return same(found, ["ape", "bee", "cat", "elk" if strength else "ape"])


def _elk(models: Models) -> Outcome:
    return _steered_text(_STRONG, models)


def _own(models: Models) -> Outcome:
    return _steered_text(0.0, models)


def _searched(models: Models) -> Outcome:
    found = features.find_units(
        models.detectors, models.words, _DOG, resamples=_FEW, seed=models.seed
    )
    return both(same(found.units[:1], [_NEURON]), within(found.correlation[0], 1))


def _believed(models: Models) -> Outcome:
    found = features.believe(models.detectors, models.words, _NEURON, _DOG, seed=models.seed)
    return within([found.correlation, found.precision, found.recall], [1, 1, 1])


def _disbelieved(models: Models) -> Outcome:
    found = features.believe(models.detectors, models.words, "neuron 0.1", _DOG, seed=models.seed)
    return at_most(abs(found.correlation), _CHANCE, f"correlation {found.correlation:.3f}")


def _written(models: Models) -> Outcome:
    family, _ = units.family_of(models.detectors, _NEURON)
    found = features.output_tokens(models.detectors, family, 0, top=1, seed=models.seed)
    token, logit = found.promoted[0]
    elk = word_level.WORDS[known_units.ELK]
    return both(same([word_level.WORDS[token]], [elk]), within(logit, DIRECT))


def _grouped(models: Models) -> Outcome:
    found = features.separated_groups(
        models.detectors, models.words, _NEURON, k=80, draws=19, resamples=10, seed=models.seed
    )
    return at_most(abs(found.number - 1), 0, f"{found.number} group")


def _steered(models: Models) -> Outcome:
    pairs = ContrastPairs.from_text(
        models.detectors,
        ["ape bee cat dog", "bee dog dog ape", "cat cat ape bee"],
        ["ape cat cat dog", "bee ape dog ape", "cat dog ape bee"],
        ["elk"] * 3,
        ["fox"] * 3,
    )
    strengths = [-2.0, 0.0, 1.5, 3.0]
    found = features.steer(
        models.detectors,
        pairs,
        models.words,
        _NEURON,
        strengths=strengths,
        controls=_FEW,
        seed=models.seed,
    )
    return within(found.effects, strengths)


def _steered_along(models: Models) -> Outcome:
    direction = activation_patching.answer_direction(models.two_steps, models.pairs.subset([0]))
    found = features.steer(
        models.two_steps,
        models.pairs.subset([0, 0]),
        models.words,
        "resid_post 1.0",
        directions=direction,
        strengths=[2.0],
        controls=_FEW,
        seed=models.seed,
    )
    # Two tokens' logits read the stream by 0.25 and by 0.75 each.
    return within(found.effects[-1], 2 * np.sqrt(2 * (DIRECT**2 + INDIRECT**2)))


CHECKS = (
    Check(
        "feature_visualization.top_examples",
        "a neuron fires at every dog and at nothing else",
        _examples,
    ),
    Check(
        "feature_visualization.top_examples",
        "nothing: a neuron without weights never fires",
        _silent,
    ),
    Check(
        "feature_visualization.largest_examples",
        "a neuron's largest activations are 1, at dogs",
        _largest,
    ),
    Check(
        "feature_visualization.view_unit",
        "a neuron fires at dog, as often as there are dogs, and writes 0.25 of elk's logit",
        _viewed,
    ),
    Check(
        "feature_visualization.token_triggers", "at forty dogs there is dog, each time", _triggered
    ),
    Check(
        "feature_visualization.token_triggers",
        "nothing: at random places no word is more than chance",
        _not_triggered,
    ),
    Check(
        "feature_visualization.token_means",
        "a neuron is 1 at dog and 0 at all others",
        _token_means,
    ),
    Check(
        "feature_visualization.described",
        "that it fires at dog, as tokens, as a pattern and as a sentence",
        _described,
    ),
    Check(
        "feature_visualization.find_units",
        "of all neurons, 0.0 is the one that fires at dog",
        _searched,
    ),
    Check(
        "feature_visualization.believe",
        "that it fires at dog is all that there is to it",
        _believed,
    ),
    Check(
        "feature_visualization.believe",
        "nothing: a neuron that fires by position is no dog neuron",
        _disbelieved,
    ),
    Check(
        "feature_visualization.output_tokens", "a neuron raises the logit of elk by 0.25", _written
    ),
    Check("feature_visualization.separated_groups", "a neuron of one word has one group", _grouped),
    Check(
        "feature_visualization.steer",
        "a neuron moves the logit difference by its strength",
        _steered,
    ),
    Check(
        "feature_visualization.steer",
        "a direction moves it by its length in the logits",
        _steered_along,
    ),
    Check(
        "feature_visualization.steered_text",
        "with a neuron that writes elk the next word is elk",
        _elk,
    ),
    Check(
        "feature_visualization.steered_text",
        "nothing: with none of it the next word is the model's own",
        _own,
    ),
)
