"""Are planted neurons and directions found, and described as what they are?

Limits: neurons of a few words; directions in a stream of 16 dimensions.
"""

from __future__ import annotations

import numpy as np
import torch

from analyses import activation_patching
from analyses import feature_visualization as features
from analyses.feature_visualization import inputs
from workbench.core.engine import units
from workbench.core.planted import (
    known_clusters,
    known_features,
    known_texts,
    known_units,
    two_steps,
    word_level,
)
from workbench.core.planted.two_steps import DIRECT, INDIRECT
from workbench.core.prompts.corpus import Corpus
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
# Rows of the corpus on which a dictionary is trained, and its steps.
_ROWS, _STEPS = 2_000, 400
# A latent is a feature from this cosine on; share of the features that is to be found. By chance it
# is less than a tenth.
_ALIKE, _MOST = 0.9, 0.75
# Radius of the inputs among which the best is sought, and how well it is to be aimed.
_RADIUS, _AIMED = 5.0, 0.99


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


def _best_text(models: Models) -> Outcome:
    model = word_level.on(known_texts.units(), models.device)
    found = features.optimize_text(model, "neuron 0.1", restarts=1, iterations=30, seed=models.seed)
    ends = [known_texts.WORDS[token] for token in found.tokens[-1, -2:]]
    return both(
        at_most(int(ends != ["before", "target"]), 0, f"a text that ends in {' '.join(ends)}"),
        within(found.optimum, 1),
    )


def _dictionary(models: Models) -> Outcome:
    model = word_level.on(known_features.words(models.seed), models.device)
    rng = np.random.default_rng(models.seed)
    rows = rng.integers(0, known_features.N_WORDS, (_ROWS, 8))
    made = features.train_dictionary(
        model,
        Corpus.from_tokens(model, rows),
        "resid_pre",
        layer=0,
        latents=48,
        k=3,
        steps=_STEPS,
        batch_tokens=256,
        lr=0.02,
        seed=models.seed,
    )
    decoder = torch.nn.functional.normalize(made.dictionary.W_dec.detach().float().cpu(), dim=1)
    nearest = (known_features.directions(models.seed) @ decoder.T).amax(1)
    share = float((nearest >= _ALIKE).double().mean())
    said = f"{share:.0%} of {known_features.FEATURES} features have a latent"
    return at_least(share, _MOST, said)


def _best_input(models: Models) -> Outcome:
    network = known_clusters.planted({"layer1.branch2": 1}, device=models.device)
    index = int(network.planted[0].rpartition(".")[2])
    found = features.optimize_input(
        network,
        inputs.Target("layer1.branch2.hook_out", index),
        constraint=inputs.Ball(_RADIUS),
        steps=128,
        lr=0.1,
        restarts=1,
        seed=models.seed,
    )
    weight = network.get_parameter("layer1.branch2.linear.weight")[index].detach().cpu().numpy()
    best = found.inputs[found.best]
    cosine = float(best @ weight / (np.linalg.norm(best) * np.linalg.norm(weight)))
    return at_least(cosine, _AIMED, f"cosine with the neuron's weights {cosine:.4f}")


def _linear(models: Models) -> Outcome:
    network = known_clusters.planted({"layer1.branch2": 1}, device=models.device)
    index = int(network.planted[0].rpartition(".")[2])
    # So much of the concept that the neuron fires, whatever its noise.
    given = np.zeros(known_clusters.D_INPUT)
    given[known_clusters.CONCEPT] = _RADIUS
    unit = inputs.Target("layer1.branch2.hook_out", index)
    found = features.linear_region(network, unit, given, seed=models.seed)
    weight = network.get_parameter("layer1.branch2.linear.weight")[index].detach().cpu().numpy()
    return within(found.gradient, weight, said=f"a gradient of {len(weight)} numbers")


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
        "feature_visualization.optimize_text",
        "a neuron is largest at texts that end in before target",
        _best_text,
    ),
    Check(
        "feature_visualization.train_dictionary",
        "32 features in superposition in 16 dimensions",
        _dictionary,
    ),
    Check(
        "feature_visualization.optimize_input",
        "a neuron is largest along its own weights",
        _best_input,
    ),
    Check(
        "feature_visualization.linear_region",
        "where it fires, its gradient is its weights",
        _linear,
    ),
)
