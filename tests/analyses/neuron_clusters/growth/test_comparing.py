from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from analyses.neuron_clusters.growth import comparing
from workbench.core import evidence
from workbench.core.evidence import SURE


def made(differences: list[float] | np.ndarray, measure: str = "log_loss") -> comparing.Contrast:
    return comparing.contrast("others", measure, np.array(differences, dtype=np.float64))


def test_it_is_the_exact_permutation_within_pairs_and_student_s_interval() -> None:
    random = np.random.default_rng(0)
    differences = random.normal(0.6, 1, 9)
    found = made(differences)
    signs = np.array(list(itertools.product((1, -1), repeat=9)))
    means = (signs * differences).mean(1)
    assert found.p_value == pytest.approx((np.abs(means) >= found.mean - 1e-12).mean())
    pairs = random.normal(size=9)
    two = scipy.stats.permutation_test(
        (pairs + differences, pairs),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        permutation_type="samples",
    )
    assert found.p_value == pytest.approx(two.pvalue)
    student = scipy.stats.ttest_1samp(differences, 0).confidence_interval()
    assert found.interval == pytest.approx((student.low, student.high))
    assert found.mean == pytest.approx(differences.mean())


def test_six_seeds_can_decide_and_five_cannot() -> None:
    assert made([1.0, 2, 3, 4, 5, 6]).p_value == pytest.approx(2 / 2**6)
    assert made([1.0, 2, 3, 4, 5]).p_value == pytest.approx(2 / 2**5)
    assert made([1.0, 2, 3, 4, 5]).detectable == math.inf
    assert made([1.0, 2, 3, 4, 5, 6]).detectable < math.inf


def test_a_detectable_difference_is_found_in_four_of_five_experiments() -> None:
    random = np.random.default_rng(0)
    for n in (6, 10, 40):
        sample = random.normal(size=n)
        size = comparing.detectable(sample) / sample.std(ddof=1)
        repeats = random.normal(size, 1, (20_000, n))
        test: Any = scipy.stats.ttest_1samp(repeats, 0, axis=1)
        assert (test.pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_without_a_difference_few_are_found() -> None:
    sets = np.random.default_rng(1).normal(size=(6, 2000))
    found = evidence.sign_flip_p_values(sets) < SURE
    # 2 of the 2^6 ways to change places, give or take three standard errors.
    assert found.mean() == pytest.approx(1 / 32, abs=0.012)
    for column in (0, int(found.argmax())):
        assert (made(sets[:, column]).p_value < SURE) == found[column]


def test_seeds_that_agree_and_single_ones_are_no_error() -> None:
    same = made([0.0] * 6)
    assert (same.mean, same.interval, same.p_value, same.detectable) == (0, (0, 0), 1, 0)
    one = made([0.5])
    assert one.p_value == 1
    assert math.isnan(one.interval[0])


def test_the_verdict_follows_concept_and_rest() -> None:
    better, worse, none = (
        made([1.0, 2, 3, 4, 5, 6]),
        made([-1.0, -2, -3, -4, -5, -6]),
        made([1.0, -2, 3, -4, 5, -6]),
    )
    assert comparing.verdict(better, none, better) == "add here"
    assert comparing.verdict(better, better, better) == "add here"
    # Better than places that do harm, but not than adding nothing.
    assert comparing.verdict(better, better, none) == "it makes no difference"
    assert comparing.verdict(better, better, worse) == "it makes no difference"
    assert comparing.verdict(better, worse, better) == "it makes no difference"
    assert comparing.verdict(worse, better, better) == "elsewhere is better"
    assert comparing.verdict(none, better, better) == "it makes no difference"
    assert comparing.harmed(worse)
    assert not comparing.harmed(none)
