from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from analyses.neuron_clusters.growth import measuring


def held(labels: list[int], has: list[int]) -> measuring.Held:
    array = np.array(labels, dtype=np.int64)
    return measuring.Held(np.zeros((len(labels), 1)), array, np.array(has, dtype=bool))


def test_all_measures_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(200, 4)) * 2
    labels = random.integers(0, 4, 200)
    has = labels < 2
    examples = measuring.Held(np.zeros((200, 1)), labels, has)
    found = dict(zip(examples.measures, measuring.measured(scores, examples), strict=True))
    chances = scipy.special.softmax(scores, axis=1)
    there = chances[:, :2].sum(1)
    classes = [0, 1, 2, 3]
    expected = {
        "log_loss": sklearn.metrics.log_loss(labels[has], chances[has], labels=classes),
        "error": 1 - sklearn.metrics.accuracy_score(labels[has], scores[has].argmax(1)),
        "concept_log_loss": sklearn.metrics.log_loss(has, there),
        "concept_auc": sklearn.metrics.roc_auc_score(has, there),
        "rest_log_loss": sklearn.metrics.log_loss(labels[~has], chances[~has], labels=classes),
        "rest_error": 1 - sklearn.metrics.accuracy_score(labels[~has], scores[~has].argmax(1)),
    }
    assert found == pytest.approx(expected, rel=1e-10)


def test_hand_worked_numbers() -> None:
    scores = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.5, 0.2, 0.3]])
    examples = held([0, 1, 2, 2], [1, 1, 0, 0])
    found = dict(zip(examples.measures, measuring.measured(scores, examples), strict=True))
    assert found["log_loss"] == pytest.approx(-np.log(0.5 * 0.8) / 2)
    assert found["error"] == 0
    assert found["rest_error"] == 0.5
    assert found["concept_log_loss"] == pytest.approx(-np.log(0.75 * 0.9 * 0.6 * 0.3) / 4)
    assert found["concept_auc"] == 1


def test_a_class_on_both_sides_has_no_measure_of_presence() -> None:
    examples = held([0, 0, 1, 1], [1, 0, 1, 0])
    assert examples.measures == ("log_loss", "error", "rest_log_loss", "rest_error")
    assert measuring.measured(np.zeros((4, 2)), examples)[0] == pytest.approx(np.log(2))


def test_a_sure_network_has_finite_log_loss() -> None:
    scores = np.array([[800.0, 0.0], [800.0, 0.0], [0.0, 800.0], [0.0, 800.0]])
    examples = held([0, 1, 1, 0], [1, 0, 0, 1])
    found = dict(zip(examples.measures, measuring.measured(scores, examples), strict=True))
    assert found["concept_log_loss"] == pytest.approx(400)


def test_scores_that_are_not_finite_are_told() -> None:
    with pytest.raises(ValueError, match="not finite numbers"):
        measuring.measured(np.full((4, 2), np.nan), held([0, 0, 1, 1], [1, 1, 0, 0]))
