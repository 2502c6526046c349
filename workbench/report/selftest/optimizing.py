"""Are the best texts and inputs found that were planted, and said to lie where they lie?

Limits: texts of a few words, and neurons that are linear where they fire.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from analyses import feature_visualization as features
from analyses.feature_visualization import inputs
from workbench.core.planted import known_clusters, known_texts, known_units, word_level
from workbench.core.prompts.corpus import Corpus
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_least,
    at_most,
    both,
    within,
)

_PLACE = "layer1.branch2"
_HOOK, _WEIGHT = f"{_PLACE}.hook_out", f"{_PLACE}.linear.weight"
# Radius of the inputs among which the best is sought, and how well it is to be aimed.
_RADIUS, _AIMED = 5.0, 0.99
# Texts of a corpus, examples of data, and inputs that are drawn as these were.
_TEXTS, _EXAMPLES, _LIKE = 400, 600, 200
# Radius at which a neuron's best input is far from all data: data are about 6 from their middle.
_FAR = 20.0
# Half of the examples are held out, so that the smallest p-value is a third of this.
_OUTSIDE = 0.01
# How far off one half the middle of 200 quantiles among 300 may be: five standard deviations.
_HALF_OFF = 0.23


def _best_text(models: Models) -> Outcome:
    model = word_level.on(known_texts.units(), models.device)
    found = features.optimize_text(model, "neuron 0.1", restarts=1, iterations=30, seed=models.seed)
    ends = [known_texts.WORDS[token] for token in found.tokens[-1, -2:]]
    return both(
        at_most(int(ends != ["before", "target"]), 0, f"a text that ends in {' '.join(ends)}"),
        within(found.optimum, 1),
    )


def _against_corpus(unit: str, left_out: str, models: Models) -> features.OptimumAgainstExamples:
    """A neuron's best text of three words, against texts that have none of some words."""
    model = word_level.on(known_units.pairs(), models.device)
    rng = np.random.default_rng(models.seed)
    texts = [" ".join(rng.choice(word_level.WORDS, 3)) for _ in range(_TEXTS)]
    corpus = Corpus.from_texts(model, [text for text in texts if left_out not in text])
    best = features.optimize_text(
        model, unit, length=3, restarts=1, iterations=15, seed=models.seed
    )
    return features.compare_with_examples(model, corpus, best, examples=5, seed=models.seed)


def _text_outside(models: Models) -> Outcome:
    found = _against_corpus("neuron 0.0", " ".join(known_units.PAIRS[0]), models)
    best, unseen = float(found.optima.activation[-1]), float(found.optima.unseen[-1])
    said = f"{best:.4g}, {found.largest:.4g} in the corpus; {unseen:.0%} of its pairs are unseen"
    return within([best, found.largest, unseen], [1, 0, 1 / 2], said=said)


def _text_inside(models: Models) -> Outcome:
    # None of the words that a text is made of.
    found = _against_corpus("neuron 0.3", "<unk>", models)
    unseen = float(found.optima.unseen[-1])
    said = f"{found.times:.4g} of the corpus's largest; {unseen:.0%} of its pairs are unseen"
    return within([found.times, unseen], [1, 0], said=said)


def _network(n: int, models: Models) -> tuple[Any, list[inputs.Target], np.ndarray]:
    """A network with neurons of a concept, these, and their weights."""
    network = known_clusters.planted({_PLACE: n}, seed=models.seed, device=models.device)
    indices = [int(name.rpartition(".")[2]) for name in network.planted]
    weights = network.get_parameter(_WEIGHT)[indices].detach().cpu().numpy()
    return network, [inputs.Target(_HOOK, index) for index in indices], weights


def _best(
    network: Any, unit: inputs.Target, seed: int, radius: float = _RADIUS
) -> features.OptimizedInput:
    return features.optimize_input(
        network,
        unit,
        constraint=inputs.Ball(radius),
        steps=128,
        lr=radius / 50,
        restarts=1,
        seed=seed,
    )


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def _best_input(models: Models) -> Outcome:
    network, (unit,), (weight,) = _network(1, models)
    found = _best(network, unit, models.seed)
    cosine = _cosine(found.inputs[found.best], weight)
    return at_least(cosine, _AIMED, f"cosine with the neuron's weights {cosine:.4f}")


def _linear(models: Models) -> Outcome:
    network, (unit,), (weight,) = _network(1, models)
    # So much of the concept that the neuron fires, whatever its noise.
    given = np.zeros(known_clusters.D_INPUT)
    given[known_clusters.CONCEPT] = _RADIUS
    found = features.linear_region(network, unit, given, seed=models.seed)
    return within(found.gradient, weight, said=f"a gradient of {len(weight)} numbers")


def _between(models: Models) -> Outcome:
    network, (first, second), weights = _network(2, models)
    found = features.interpolated_inputs(
        network,
        first,
        second,
        frames=3,
        alignment=0,
        constraint=inputs.Ball(_RADIUS),
        steps=128,
        lr=0.1,
        seed=models.seed,
    )
    truth = [weights[0], weights.mean(0), weights[1]]
    cosines = [_cosine(one, other) for one, other in zip(found.aligned.inputs, truth, strict=True)]
    said = "cosines with the weights and their mean " + ", ".join(f"{one:.4f}" for one in cosines)
    return at_least(min(cosines), _AIMED, said)


def _input_outside(models: Models) -> Outcome:
    network, (unit,), _ = _network(1, models)
    data = known_clusters.concept(_EXAMPLES, models.seed).inputs
    best = _best(network, unit, models.seed, _FAR)
    found = features.compare_input_with_data(network, unit, best, data, seed=models.seed)
    p_value = found.p_value("distance")
    return at_most(p_value, _OUTSIDE, f"farther outside than the data (p = {p_value:.4f})")


def _input_inside(models: Models) -> Outcome:
    network, (unit,), _ = _network(1, models)
    drawn = known_clusters.concept(_EXAMPLES + _LIKE, models.seed).inputs
    best = dataclasses.replace(
        _best(network, unit, models.seed),
        inputs=drawn[_EXAMPLES:],
        activations=np.zeros(_LIKE),
        trace=np.zeros((1, _LIKE)),
    )
    found = features.compare_input_with_data(
        network, unit, best, drawn[:_EXAMPLES], seed=models.seed
    )
    middle = float(np.median(found.quantiles("optima", "distance")))
    return within(middle, 1 / 2, said=f"the middle at quantile {middle:.2f}", bound=_HALF_OFF)


CHECKS = (
    Check(
        "feature_visualization.optimize_text",
        "a neuron is largest at texts that end in before target",
        _best_text,
    ),
    Check(
        "feature_visualization.compare_with_examples",
        "a neuron's best text has two pairs of words, one of which the corpus never has",
        _text_outside,
    ),
    Check(
        "feature_visualization.compare_with_examples",
        "nothing: a best text that the corpus has lies inside",
        _text_inside,
    ),
    Check(
        "feature_visualization.optimize_input",
        "a neuron is largest along its own weights",
        _best_input,
    ),
    Check(
        "feature_visualization.interpolated_inputs",
        "halfway between two neurons the best input is along the mean of their weights",
        _between,
    ),
    Check(
        "feature_visualization.compare_input_with_data",
        "a neuron's best input among those of length 20 is no example, of length about 6",
        _input_outside,
    ),
    Check(
        "feature_visualization.compare_input_with_data",
        "nothing: inputs that are drawn as the data were lie inside",
        _input_inside,
    ),
    Check(
        "feature_visualization.linear_region",
        "where it fires, its gradient is its weights",
        _linear,
    ),
)
