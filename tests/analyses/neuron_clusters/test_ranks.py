"""Ranks, AUC and R² of many labellings, against scipy and scikit-learn; and what is shuffled."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from sklearn import linear_model, metrics

from analyses.neuron_clusters import ranks, shuffles
from workbench.core.prompts.concepts import Examples


def table(n: int = 500, units: int = 40, seed: int = 0) -> np.ndarray:
    """Half of the units are relus, a quarter of whole numbers, and one is constant."""
    values = np.random.default_rng(seed).normal(size=(n, units)).astype(np.float32)
    values[:, ::2] = np.maximum(values[:, ::2], 0)
    values[:, ::4] = np.round(3 * values[:, ::4])
    values[:, -1] = 0.3
    return values


def examples(row: np.ndarray) -> Examples:
    has = np.arange(len(row)) % 3 == 0
    return Examples(row, np.zeros(len(row), int), has, np.zeros((len(row), 0)), {})


def test_centred_ranks_are_those_of_scipy() -> None:
    values = table(n=3001, units=90)
    values[5, 1] = -0.0
    found = ranks.centred(values)
    assert np.array_equal(found, scipy.stats.rankdata(values, axis=0) - 1501)
    assert not found[:, -1].any()
    # Enough values to be ranked by several threads, or by one: the same.
    assert np.array_equal(ranks.centred(values[:, :20]), found[:, :20])


def test_a_nan_has_no_rank() -> None:
    values = table(50, 4)
    values[7, 2] = np.nan
    with pytest.raises(ValueError, match="unit number 2 is not a number"):
        ranks.centred(values)


def test_every_auc_is_that_of_mannwhitneyu_and_of_scikit_learn() -> None:
    values = table()
    random = np.random.default_rng(1)
    labels = random.random((3, 500)) < np.array([[0.5], [0.1], [0.9]])
    found = ranks.aucs(ranks.centred(values), labels)
    for each, one in zip(found, labels, strict=True):
        u = scipy.stats.mannwhitneyu(values[one, :-1], values[~one, :-1], axis=0).statistic
        np.testing.assert_allclose(each[:-1], u / (one.sum() * (~one).sum()), rtol=0, atol=1e-12)
        assert each[3] == pytest.approx(metrics.roc_auc_score(one, values[:, 3]), abs=1e-12)
    assert (found[:, -1] == 0.5).all()


def test_a_labelling_of_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="0 of 50 examples have the concept"):
        ranks.aucs(ranks.centred(table(50, 3)), np.zeros((1, 50), bool))


def test_the_share_that_targets_explain_is_that_of_a_regression() -> None:
    values, random = table(200, 12), np.random.default_rng(2)
    targets = random.normal(size=(200, 2)) + 5
    values[:, 3] += targets[:, 0].astype(np.float32)
    # A third target that the others already say.
    more = np.concatenate([targets, targets.sum(1, keepdims=True)], 1)
    expected = [
        linear_model.LinearRegression().fit(targets, column).score(targets, column)
        for column in values[:, :-1].T.astype(np.float64)
    ]
    for given in (targets, more):
        found = ranks.explained(values, given)
        np.testing.assert_allclose(found[:-1], expected, rtol=0, atol=1e-10)
        assert np.isnan(found[-1])
    orders = np.stack([random.permutation(200) for _ in range(4)])
    shuffled = ranks.explained_by(ranks.standardised(values), ranks.orthonormal(targets), orders)
    for order, found in zip(orders, shuffled, strict=True):
        again = ranks.explained(values, targets[order])
        np.testing.assert_allclose(found[:-1], again[:-1], rtol=0, atol=1e-12)
        assert found[-1] == 0


def test_constant_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="the same for all 50 examples"):
        ranks.explained(table(50, 3), np.full((50, 1), 7.1))


def test_one_example_a_row_takes_any_place() -> None:
    made = np.concatenate(list(shuffles.orders(examples(np.arange(6)), 6000, 0)))
    assert made.shape == (6000, 6)
    assert (np.sort(made, 1) == np.arange(6)).all()
    counts = np.stack([np.bincount(column, minlength=6) for column in made.T])
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 0.01
    again = np.concatenate(list(shuffles.orders(examples(np.arange(6)), 6000, 0)))
    assert np.array_equal(made, again)
    other = np.concatenate(list(shuffles.orders(examples(np.arange(6)), 6000, 1)))
    assert not np.array_equal(made, other)


def test_rows_change_places_whole_and_rare_lengths_are_turned() -> None:
    # Eight rows of three examples, and two of four.
    row = np.concatenate([np.repeat(np.arange(8), 3), np.repeat([8, 9], 4)])
    made = np.concatenate(list(shuffles.orders(examples(row), 3000, 0)))
    short = made[:, :24].reshape(3000, 8, 3)
    assert (short[:, :, 0] % 3 == 0).all()
    assert (np.diff(short, axis=2) == 1).all()
    assert (np.sort(short[:, :, 0] // 3, 1) == np.arange(8)).all()
    assert set(short[:, 0, 0] // 3) == set(range(8))
    for first in (24, 28):
        turned = made[:, first : first + 4] - first
        assert (turned == (turned[:, :1] + np.arange(4)) % 4).all()
        assert scipy.stats.chisquare(np.bincount(turned[:, 0])).pvalue > 0.01
    values = np.random.default_rng(0).normal(size=32)
    expected = shuffles.expected(examples(row), values)
    assert np.allclose(expected, values[made].mean(0), atol=0.1)
    assert expected[0] == pytest.approx(values[0:24:3].mean(), abs=1e-12)
    assert expected[24:28] == pytest.approx(values[24:28].mean(), abs=1e-12)


def test_within_strata_examples_stay_in_them() -> None:
    strata = np.array([0, 1, 0, 1, 1, 0])
    made = np.concatenate(list(shuffles.orders(examples(np.arange(6)), 600, 0, within=strata)))
    assert (strata[made] == strata).all()
    assert len(np.unique(made, axis=0)) == 36
