"""Sparse probes, against planted units and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics

from analyses.neuron_clusters import probes
from analyses.neuron_clusters.selectivity import selectivity
from workbench.core.planted import known_clusters
from workbench.core.prompts.concepts import Examples


def examples(labels: np.ndarray, row: np.ndarray | None = None) -> Examples:
    row = np.arange(len(labels)) if row is None else row
    return Examples(row, np.full(len(row), -1), labels, np.zeros((len(row), 0)), {})


def planted(n: int = 600, effect: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Units 3, 4 and 5 are apart by an effect; unit 7 by more, with a larger spread."""
    random = np.random.default_rng(seed)
    labels = random.random(n) < 0.4
    values = random.normal(size=(n, 30))
    values[:, 3:6] += effect * labels[:, None]
    values[:, 7] = 30 * values[:, 7] + 10 * labels
    values[:, 9] = 1.0
    return values.astype(np.float32), labels


def test_the_planted_units_are_chosen_and_tell() -> None:
    values, labels = planted()
    found = probes.fitted(values, examples(labels), (1, 3, 16, 64), seed=0)
    assert [probe.size for probe in found.each] == [1, 3, 16]
    assert set(found.each[1].units) == {3, 4, 5}
    # Three independent units of two standard deviations are one of 2 sqrt 3.
    expected = scipy.stats.norm.cdf(2 * np.sqrt(3) / np.sqrt(2))
    assert found.each[1].auc == pytest.approx(expected, abs=0.015)
    assert found.each[0].auc == pytest.approx(scipy.stats.norm.cdf(np.sqrt(2)), abs=0.03)
    # Classes weighted alike: the threshold is halfway, with that share of errors in each class.
    right = scipy.stats.norm.cdf(np.sqrt(3))
    share = found.n_with / found.n_held
    f1 = 2 * share * right / (share * right + (1 - share) * (1 - right) + share)
    assert found.each[1].f1 == pytest.approx(f1, abs=0.03)
    assert found.each[1].f1 > found.each[1].random_f1.mean() + 0.2
    assert found.each[1].p_value == 1 / 1001
    # The constant unit is in no probe.
    assert found.whole.size == 29
    assert found.whole.units == ()
    assert found.whole.auc > 0.97
    assert found.always == pytest.approx(
        metrics.f1_score(np.arange(found.n_held) < found.n_with, np.ones(found.n_held))
    )


def test_units_may_be_chosen_by_the_plain_difference() -> None:
    values, labels = planted()
    by_difference = probes.fitted(values, examples(labels), (1,), by="difference", seed=0)
    assert by_difference.each[0].units == (7,)
    with pytest.raises(ValueError, match="chosen by 'size'; expected .* difference, standardized"):
        probes.fitted(values, examples(labels), (1,), by="size")


def test_a_probe_of_noise_is_no_better_than_chance_and_its_p_value_is_uniform() -> None:
    found: list[float] = []
    for seed in range(30):
        random = np.random.default_rng(seed)
        values = random.normal(size=(80, 10)).astype(np.float32)
        made = probes.fitted(
            values, examples(random.random(80) < 0.5), (2,), draws=0, permutations=199, seed=seed
        )
        found.append(made.each[0].p_value)
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.05


def test_rows_are_not_in_both_halves() -> None:
    # Each row has a noise of its own that tells its labels only within the row.
    random = np.random.default_rng(0)
    row = np.repeat(np.arange(60), 10)
    labels = np.repeat(random.random(60) < 0.5, 10)
    values = random.normal(size=(60, 40))[row].astype(np.float32)
    found = probes.fitted(values, examples(labels, row), (16,), permutations=199, seed=0)
    assert found.n_fit == found.n_held == 300
    assert found.whole.auc < 0.8
    assert found.each[0].p_value > 0.005


def test_too_few_examples_get_a_sentence() -> None:
    values, _ = planted(n=20)
    labels = np.arange(20) < 3
    with pytest.raises(probes.TooFewError, match="3 examples with the concept and 17 without"):
        probes.fitted(values, examples(labels), (1,))
    with pytest.raises(ValueError, match="probes of 0 units"):
        probes.fitted(values, examples(labels), (0,))


def test_probes_of_the_planted_network() -> None:
    network = known_clusters.planted({"layer1.branch2": 12}, effect=2.0)
    result = selectivity(network, known_clusters.concept(), probes=(1, 4, 8), permutations=99)
    found = result.probes[0]
    assert {result.names[unit] for unit in found.each[2].units} <= set(network.planted)
    assert found.each[2].f1 > 0.97
    assert found.each[0].f1 < found.each[2].f1
    assert found.each[2].random_f1.mean() < found.each[2].f1 - 0.1
    figure: Any = result.probes_figure()
    drawn = {trace.name: trace for trace in figure.data if trace.mode and "lines" in trace.mode}
    assert list(drawn["best units"].y) == [probe.f1 for probe in found.each]
