"""Bootstrap intervals against analytic ones, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from workbench.core import evidence


def draw(seed: int, n: int = 40, cells: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    bottom = rng.normal(4, 1, size=n)
    return bottom[:, None] * rng.uniform(0.2, 0.8, size=cells) + rng.normal(
        0, 0.5, size=(n, cells)
    ), bottom


def test_the_interval_of_a_mean_is_nearly_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(2, 3, size=(400, 4))
    low, high = evidence.mean_interval(values, n_resamples=4000)
    spread = 1.96 * values.std(0, ddof=1) / 20
    np.testing.assert_allclose(low, values.mean(0) - spread, atol=0.04)
    np.testing.assert_allclose(high, values.mean(0) + spread, atol=0.04)


def test_the_interval_of_a_ratio_against_a_directly_coded_bootstrap() -> None:
    top, bottom = draw(1)
    rng = np.random.default_rng(9)
    rows = rng.integers(0, len(top), size=(8000, len(top)))
    ratios = top[rows].mean(1) / bottom[rows].mean(1)[:, None]
    expected = np.quantile(ratios, [0.025, 0.975], axis=0)
    found = evidence.ratio_interval(top, bottom, n_resamples=8000)
    np.testing.assert_allclose(found, expected, atol=0.006)


def test_prompts_are_resampled_as_a_whole() -> None:
    """Where numerator and denominator are proportional, their ratio has no spread at all."""
    bottom = np.random.default_rng(2).uniform(1, 5, size=20)
    interval = evidence.ratio_interval(0.4 * bottom[:, None], bottom)
    np.testing.assert_allclose(interval, 0.4, atol=1e-12)


def test_coverage_is_what_is_promised() -> None:
    """The true mean lies in a 90 % interval in 90 % of 400 draws, within four standard errors."""
    values = np.random.default_rng(3).normal(1, 1, size=(50, 400))
    low, high = evidence.mean_interval(values, confidence=0.9, n_resamples=1000)
    inside = ((low <= 1) & (high >= 1)).mean()
    # A percentile interval of 50 values is a little short: its normal theory coverage is .89.
    exact = scipy.stats.t.cdf(1.645 * np.sqrt(49 / 50), 49) * 2 - 1
    assert abs(inside - exact) < 4 * np.sqrt(0.1 * 0.9 / 400)


@pytest.mark.parametrize("cells", [0, 3])
def test_one_prompt_has_no_interval(cells: int) -> None:
    found = evidence.ratio_interval(np.ones((1, cells)), np.ones(1))
    assert found.shape == (2, cells)
    assert np.isnan(found).all()


def test_prompts_that_agree_have_an_interval_that_is_a_point() -> None:
    found = evidence.mean_interval(np.full((5, 2), 3.0))
    np.testing.assert_allclose(found, 3.0)


def test_equal_seeds_give_equal_bits() -> None:
    top, bottom = draw(4)
    first, second = (evidence.ratio_interval(top, bottom, seed=7) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, evidence.ratio_interval(top, bottom, seed=8))


def test_a_wider_level_gives_a_wider_interval() -> None:
    top, bottom = draw(5)
    narrow = evidence.ratio_interval(top, bottom, confidence=0.5)
    wide = evidence.ratio_interval(top, bottom, confidence=0.99)
    assert (wide[0] < narrow[0]).all() and (wide[1] > narrow[1]).all()


def test_changes_go_in_the_direction_of_the_effect() -> None:
    patched = np.array([[3.0, 1.0], [2.0, 0.0]])
    clean, corrupted = np.array([4.0, 2.0]), np.array([0.0, 1.0])
    recovered = evidence.changes(patched, clean, corrupted, "denoising")
    assert recovered.tolist() == [[3.0, 1.0], [1.0, -1.0]]
    destroyed = evidence.changes(patched, clean, corrupted, "noising")
    assert destroyed.tolist() == [[1.0, 3.0], [0.0, 2.0]]


def test_effects_are_ratios_of_means_and_nan_where_there_is_nothing_to_divide_by() -> None:
    moved, gaps = np.array([[3.0, 1.0], [1.0, -1.0]]), np.array([4.0, 1.0])
    found, interval = evidence.effects(moved, gaps, True, evidence.DEFAULT_BOOTSTRAP)
    assert found.tolist() == [4 / 5, 0.0]
    # Two prompts resample to one of them twice, or to both.
    assert interval[:, 0].tolist() == [3 / 4, 1.0]
    found, interval = evidence.effects(moved, gaps, False, evidence.DEFAULT_BOOTSTRAP)
    assert np.isnan(found).all() and np.isnan(interval).all() and interval.shape == (2, 2)


def test_a_p_value_counts_the_value_in() -> None:
    null = np.array([0.0, 1.0, 2.0, 2.0])
    assert [evidence.p_value(value, null) for value in (3.0, 2.0, 0.5, -1.0)] == [0.2, 0.6, 0.8, 1]
    # As scipy counts it for a permutation test of the same null.
    drawn = np.random.default_rng(0).normal(size=199)
    percentile = scipy.stats.percentileofscore(drawn, drawn[17], kind="strict")
    expected = (1 + len(drawn) * (1 - percentile / 100)) / (1 + len(drawn))
    assert evidence.p_value(float(drawn[17]), drawn) == pytest.approx(expected)
