"""Behaviours score logits as scipy, scikit-learn and hand-worked numbers do."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.discriminant_analysis
import sklearn.metrics
import torch

from analyses.neuron_clusters import behaviours
from analyses.neuron_clusters.readout import Readout
from workbench.core.engine import populations, running
from workbench.core.planted import known_clusters
from workbench.core.prompts.concepts import Concept


@functools.cache
def anybody() -> populations.Population:
    """Units that no logits here depend on."""
    return populations.population_of(known_clusters.planted({}))


class Table(populations.Bench):
    """A subject whose logits are what the test says."""

    def __init__(self, concept: Concept, logits: np.ndarray) -> None:
        super().__init__(anybody(), concept, concept.examples())
        self.logits = torch.from_numpy(logits.astype(np.float32))

    def read(self, progress: running.Progress = running.no_progress) -> np.ndarray:
        raise NotImplementedError

    def scores(self, score: populations.Score, edit: populations.Edit | None = None) -> np.ndarray:
        every = np.arange(len(self.examples))
        pieces = [score(self.logits[part], part) for part in np.array_split(every, 3)]
        return torch.cat(pieces).float().numpy()

    def run(self, reading: behaviours.Reading, logits: np.ndarray) -> np.ndarray:
        """Scores of another run."""
        return Table(self.concept, logits).scores(reading.score)


def vectors(labels: Sequence[int] | np.ndarray) -> Concept:
    inputs = np.random.default_rng(9).normal(size=(len(labels), 3)).astype(np.float32)
    return Concept(inputs, np.asarray(labels), "a concept")


@pytest.fixture(scope="module")
def bench() -> Table:
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(90) % 2)
    return Table(vectors(labels), random.normal(size=(90, 6)) + 2 * labels[:, None] * np.eye(6)[1])


@pytest.fixture(scope="module")
def other() -> np.ndarray:
    """Logits of another run."""
    return np.random.default_rng(1).normal(size=(90, 6))


def test_outputs_are_covariances_of_margins(bench: Table, other: np.ndarray) -> None:
    reading = behaviours.Outputs((1, 0), ((3, 2), (5, 4))).prepare(bench, np.arange(90))
    found = bench.run(reading, other)
    clean = bench.logits.numpy().astype(np.float64)
    labels = bench.examples.labels.astype(float)
    expected = [
        -np.cov(labels, other[:, 1] - other[:, 0], ddof=0)[0, 1],
        -np.cov(clean[:, 3] - clean[:, 2], other[:, 3] - other[:, 2], ddof=0)[0, 1],
        -np.cov(clean[:, 5] - clean[:, 4], other[:, 5] - other[:, 4], ddof=0)[0, 1],
    ]
    np.testing.assert_allclose(found[:, :3].mean(0), expected, atol=1e-6)
    np.testing.assert_allclose(found[:, 3], other[:, 1] - other[:, 0], atol=1e-6)
    assert reading.unrelated == ("output 3 minus output 2", "output 5 minus output 4")
    constant = bench.run(reading, np.tile(other[:1], (90, 1)))
    np.testing.assert_allclose(constant[:, :3].mean(0), 0, atol=1e-6)


def test_classes_are_log_losses_of_group_and_of_class_within_it(other: np.ndarray) -> None:
    classes = np.arange(90) % 6
    bench = Table(vectors((classes < 3).astype(int)), other)
    reading = behaviours.Classes((0, 1, 2), classes).prepare(bench, np.arange(90))
    found = bench.run(reading, other)
    odds = np.asarray(scipy.special.softmax(other, 1))
    inside = odds[:, :3].sum(1)
    own = sklearn.metrics.log_loss(classes < 3, inside)
    np.testing.assert_allclose(found[:, 0].mean(), own, atol=1e-6)
    # Losses of group and of class within it make up the loss of the class.
    whole = sklearn.metrics.log_loss(classes, odds)
    np.testing.assert_allclose(found[:, :2].sum(1).mean(), whole, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], scipy.special.logit(inside), atol=1e-5)


def test_divergence_stands_where_the_concept_does(bench: Table, other: np.ndarray) -> None:
    reading = behaviours.Divergence().prepare(bench, np.arange(90))
    found = bench.run(reading, other)
    clean = scipy.special.softmax(bench.logits.numpy().astype(np.float64), 1)
    expected = np.asarray(scipy.stats.entropy(clean, scipy.special.softmax(other, 1), axis=1))
    has = bench.examples.labels
    np.testing.assert_allclose(found[has, 0], expected[has], atol=1e-5)
    np.testing.assert_allclose(found[~has, 1], expected[~has], atol=1e-5)
    assert np.isnan(found[has, 1]).all()
    assert np.isnan(found[~has, 0]).all()


def test_answers_leave_all_other_tokens_apart(bench: Table, other: np.ndarray) -> None:
    reading = behaviours.Answers((1,), (0, 2)).prepare(bench, np.arange(90))
    # Answers may change as they like: nothing else does.
    edited = bench.logits.numpy().copy()
    edited[:, :3] = other[:, :3]
    found = bench.run(reading, edited)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-6)
    odds = other[:, 1] - scipy.special.logsumexp(other[:, [0, 2]], 1)
    np.testing.assert_allclose(found[:, 2], odds, atol=1e-5)
    labels = bench.examples.labels.astype(float)
    expected = -np.cov(labels, odds, ddof=0)[0, 1]
    np.testing.assert_allclose(found[:, 0].mean(), expected, atol=1e-6)
    clean = scipy.special.softmax(bench.logits.numpy()[:, 3:].astype(float), 1)
    apart = scipy.stats.entropy(clean, scipy.special.softmax(other[:, 3:], 1), axis=1)
    np.testing.assert_allclose(bench.run(reading, other)[:, 1], apart, atol=1e-5)


def test_frequencies_are_least_squares_coefficients_of_the_waves() -> None:
    p = 7
    a, b = np.divmod(np.arange(p * p), p)
    concept = Concept(
        [np.array([x, y, p]) for x, y in zip(a, b, strict=True)], a[:, None] * 1.0, "residue"
    )
    logits = np.random.default_rng(3).normal(size=(p * p, p))
    bench = Table(concept, logits)
    reading = behaviours.Frequencies(p, 2, (1, 3)).prepare(bench, np.arange(p * p))
    found = bench.run(reading, logits)
    angle = 2 * np.pi * (a + b)[:, None, None] - 2 * np.pi * np.arange(p)[None, :, None]
    waves = np.cos(angle * np.array([2, 1, 3]) / p).reshape(-1, 3)
    expected = np.linalg.lstsq(waves, logits.ravel(), rcond=None)[0]
    np.testing.assert_allclose(-found[:, :3].mean(0), expected, atol=1e-6)
    assert reading.unrelated == ("the wave of frequency 1", "the wave of frequency 3")


def test_a_readout_tells_the_concept_as_a_discriminant_does() -> None:
    random = np.random.default_rng(5)
    labels = random.permutation(np.arange(800) % 2)
    other = random.permutation(np.arange(800) % 2)
    ways = random.normal(size=(2, 12))
    logits = labels[:, None] * ways[0] + other[:, None] * ways[1]
    logits = logits + random.normal(0, 0.3, (800, 12))
    bench = Table(vectors(labels), logits)
    reading = Readout().prepare(bench, np.arange(800))
    clean = bench.run(reading, logits)
    found = sklearn.discriminant_analysis.LinearDiscriminantAnalysis().fit(logits, labels)
    assert np.corrcoef(clean[:, 2], found.decision_function(logits))[0, 1] > 0.99
    # Without the concept's part the readout is lost and the rest is not, and the other way round.
    gone = logits - (labels - 0.5)[:, None] * ways[0]
    lost = 1 - bench.run(reading, gone)[:, :2].sum(0) / clean[:, :2].sum(0)
    assert 0.97 < lost[0] < 1.03
    assert abs(lost[1]) < 0.01
    left = logits - (other - 0.5)[:, None] * ways[1]
    lost = 1 - bench.run(reading, left)[:, :2].sum(0) / clean[:, :2].sum(0)
    assert abs(lost[0]) < 0.01
    assert lost[1] > 0.5
    constant = bench.run(reading, np.tile(logits[:1], (800, 1)))
    np.testing.assert_allclose(constant[:, :2].mean(0), 0, atol=1e-5)


def test_what_cannot_be_scored_gets_a_sentence(bench: Table, other: np.ndarray) -> None:
    rows = np.arange(90)
    cases: list[tuple[Table, behaviours.Behaviour, str]] = [
        (bench, behaviours.Outputs((1, 9), ((3, 2),)), "outputs that there are"),
        (bench, behaviours.Outputs((1, 0), ()), "at least one unrelated pair"),
        (bench, behaviours.Classes((0, 1, 2), rows % 6), "the concept must be the group"),
        (bench, behaviours.Classes((0, 1, 2), rows[:5]), "5 classes for inputs up to number 89"),
        (bench, behaviours.Answers((1,), (1, 2)), "share none"),
        (bench, behaviours.NextToken(), "arrays have no next token"),
        (bench, behaviours.Frequencies(7, 2, (1,)), "rows of tokens"),
        (Table(bench.concept, other[:, :2]), Readout(), "no unrelated behaviour"),
        (Table(bench.concept, np.ones((90, 4))), Readout(), "the same for all examples"),
        (
            Table(bench.concept.replaced(labels=other[:, :1]), other),
            behaviours.Divergence(),
            "targets instead of labels",
        ),
    ]
    for table, behaviour, words in cases:
        with pytest.raises(behaviours.VerificationError, match=words):
            behaviour.prepare(table, rows)


def test_a_readout_of_a_real_network_is_a_behaviour() -> None:
    network = known_clusters.planted({"layer0.branch0": 8})
    bench = populations.population_of(network).bench(known_clusters.concept(200))
    for behaviour in (Readout(), behaviours.Divergence(), behaviours.Outputs((1, 0), ((3, 2),))):
        assert isinstance(behaviour, behaviours.Behaviour)
        reading = behaviour.prepare(bench, np.arange(200))
        own = bench.scores(reading.score)[:, 0]
        floor = bench.scores(reading.score, populations.Edit(np.arange(180)))[:, 0]
        assert np.nanmean(own) < np.nanmean(floor)
