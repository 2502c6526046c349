"""The null of no effect: sign flips and false-discovery control."""

from __future__ import annotations

import itertools

import numpy as np
import scipy.stats

from workbench.core import evidence


def test_p_values_are_exact_for_few_prompts() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=(8, 5))
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    null = signs @ values / 8
    # Mirror images of the observed pattern differ from it by rounding only.
    reached = np.abs(null) >= np.abs(values.mean(0)) * (1 - 1e-12)
    found = evidence.sign_flip_p_values(values)
    np.testing.assert_allclose(found, reached.mean(0), atol=1e-12)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """2,000 cells without an effect: p < .05 in 5 % of them, within four standard errors."""
    values = np.random.default_rng(1).normal(size=(24, 2000))
    p = evidence.sign_flip_p_values(values, n_resamples=1999)
    error = np.sqrt(0.05 * 0.95 / 2000)
    assert abs((p < 0.05).mean() - 0.05) < 4 * error
    assert p.min() >= 1 / 2000


def test_it_agrees_with_the_one_sample_t_test_on_normal_values() -> None:
    values = np.random.default_rng(2).normal(0.3, 1, size=(40, 30))
    ours = evidence.sign_flip_p_values(values)
    theirs = np.asarray(scipy.stats.ttest_1samp(values, 0))[1]
    np.testing.assert_allclose(ours, theirs, atol=0.03)


def test_cells_of_zeros_are_no_discovery() -> None:
    values = np.zeros((6, 2))
    values[:, 1] = 1.0
    found = evidence.sign_flip_p_values(values)
    np.testing.assert_allclose(found, [1.0, 2 / 2**6])


def test_equal_seeds_give_equal_bits() -> None:
    values = np.random.default_rng(3).normal(size=(30, 4))
    first, second = (evidence.sign_flip_p_values(values, seed=5) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, evidence.sign_flip_p_values(values, seed=6))


def test_adjusted_values_by_hand() -> None:
    p = np.array([[0.01, 0.04], [0.03, 0.5]])
    np.testing.assert_allclose(
        evidence.adjusted_for_discoveries(p), [[0.04, 0.04 * 4 / 3], [0.04 * 4 / 3, 0.5]]
    )


def test_discoveries_are_mostly_true_when_a_tenth_of_the_cells_has_an_effect() -> None:
    rng = np.random.default_rng(4)
    shares = []
    for seed in range(20):
        values = rng.normal(size=(20, 200))
        values[:, :20] += 1.5
        p = evidence.sign_flip_p_values(values, n_resamples=4999, seed=seed)
        called = evidence.adjusted_for_discoveries(p) <= 0.1
        shares.append(called[20:].sum() / max(1, called.sum()))
        assert called[:20].mean() > 0.9
    assert np.mean(shares) < 0.1 + 0.03
