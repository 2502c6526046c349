"""The Pareto front against its definition, by comparing every two candidates."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.feature_visualization.text import candidates, pareto


def beats(gain: np.ndarray, cost: np.ndarray, one: int, other: int) -> bool:
    no_worse = gain[one] >= gain[other] and cost[one] <= cost[other]
    return bool(no_worse and (gain[one] > gain[other] or cost[one] < cost[other]))


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_nobody_beats(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few values, so that many are equal.
    gain, cost = rng.integers(6, size=(2, 40)).astype(float)
    every = range(40)
    unbeaten = {i for i in every if not any(beats(gain, cost, j, i) for j in every)}
    found = pareto.front(gain, cost)
    assert set(found.tolist()) <= unbeaten
    points = [(gain[i], cost[i]) for i in found]
    assert sorted(points) == sorted({(gain[i], cost[i]) for i in unbeaten})
    first = [min(j for j in every if (gain[j], cost[j]) == point) for point in points]
    assert found.tolist() == first
    assert (np.diff(cost[found]) > 0).all()
    assert (np.diff(gain[found]) > 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_front_that_grows_is_the_front_of_all(sign: int) -> None:
    rng = np.random.default_rng(3)
    texts = rng.integers(5, size=(60, 4))
    activation, cost = rng.normal(size=(2, 60))
    measured = candidates.Measured(activation, sign * activation, cost)
    grown = pareto.Front.empty(4)
    for restart, some in enumerate(np.split(np.arange(60), 6)):
        grown = grown.joined(texts[some], measured.take(some), sign=sign, restart=restart)
    expected = pareto.front(sign * activation, cost)
    np.testing.assert_array_equal(grown.texts, texts[expected])
    np.testing.assert_array_equal(grown.measured.activation, activation[expected])
    np.testing.assert_array_equal(grown.found_in, expected // 10)


def test_one_text_is_there_once_even_if_its_last_bits_differ() -> None:
    texts = np.array([[1, 2], [1, 2], [3, 4]])
    measured = candidates.Measured(
        np.array([1.0, 1.0 + 1e-9, 2.0]),
        np.array([1.0, 1.0 + 1e-9, 2.0]),
        np.array([0.5, 0.5 + 1e-9, 0.9]),
    )
    found = pareto.Front.empty(2).joined(texts, measured, sign=1, restart=0)
    assert found.texts.tolist() == [[1, 2], [3, 4]]
