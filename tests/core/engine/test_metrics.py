"""Metrics against hand-computed numbers and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from workbench.core.engine import metrics

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, 3.0, 0.5, 0.0]])
CLEAN = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 2.0, 1.0, 0.0]])
# The second prompt has two answers, the first one wrong answer less than the second.
TARGETS = metrics.Targets(
    answers=torch.tensor([[1, 0], [1, 2]]),
    has_answer=torch.tensor([[True, False], [True, True]]),
    wrong=torch.tensor([[0, 0], [0, 3]]),
    has_wrong=torch.tensor([[True, False], [True, True]]),
    clean_log_probs=CLEAN.log_softmax(-1),
)
PROBABILITIES = scipy.special.softmax(LOGITS.numpy(), axis=1)


def measured(name: str) -> np.ndarray:
    return metrics.METRICS[name](LOGITS, TARGETS).numpy()


def test_logit_difference_is_between_means() -> None:
    np.testing.assert_allclose(measured("logit_difference"), [1 - 2, 1.75 - 0.25], atol=1e-6)


def test_probability_is_the_total_over_answers() -> None:
    expected = [PROBABILITIES[0, 1], PROBABILITIES[1, 1] + PROBABILITIES[1, 2]]
    np.testing.assert_allclose(measured("probability"), expected, atol=1e-6)
    np.testing.assert_allclose(measured("cross_entropy"), -np.log(expected), atol=1e-6)


def test_kl_divergence_is_from_the_clean_run() -> None:
    clean = scipy.special.softmax(CLEAN.numpy(), axis=1)
    expected = [scipy.stats.entropy(p, q) for p, q in zip(clean, PROBABILITIES, strict=True)]
    np.testing.assert_allclose(measured("kl_divergence"), expected, atol=1e-6)


def test_rank_is_of_the_best_answer_from_zero() -> None:
    np.testing.assert_allclose(measured("rank"), [1, 0])


def test_every_metric_has_a_unit_and_a_value_a_prompt() -> None:
    assert set(metrics.UNITS) == set(metrics.METRICS)
    for name in metrics.METRICS:
        assert np.isfinite(measured(name)).all()
        assert measured(name).shape == (2,)


@pytest.mark.parametrize("name", ["probability", "cross_entropy", "kl_divergence", "rank"])
def test_a_constant_added_to_all_logits_changes_nothing(name: str) -> None:
    shifted = metrics.METRICS[name](LOGITS + 100, TARGETS).numpy()
    np.testing.assert_allclose(shifted, measured(name), atol=1e-5)
