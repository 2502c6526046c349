"""What chance gives, against simulations of chance."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from analyses.weights import nulls, singular


@pytest.mark.parametrize(("rows", "columns"), [(20, 20), (16, 64), (96, 40)])
def test_no_singular_value_of_a_gaussian_matrix_sticks_out_more_often_than_it_should(
    rows: int, columns: int
) -> None:
    values = np.linalg.svd(
        np.random.default_rng(0).normal(0, 0.3, (300, rows, columns)), compute_uv=False
    )
    outside = (values > nulls.edge(0.3, rows, columns)).any(1)
    p_values = [nulls.largest_p_value(float(one[0]), 0.3, rows, columns) for one in values]
    # One in twenty: 15 of 300, give or take 3.8; three times that.
    assert abs(outside.sum() - 15) <= 12
    assert np.array_equal(outside, np.array(p_values) < nulls.OUTSIDE)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (128, 512), (1000, 10)])
def test_the_random_spectrum_is_that_of_gaussian_matrices(rows: int, columns: int) -> None:
    drawn = np.linalg.svd(
        np.random.default_rng(1).normal(size=(8, rows, columns)), compute_uv=False
    )
    expected = nulls.random_spectrum(1.0, rows, columns)
    # Marchenko and Pastur hold for wide matrices: 2% of the largest for ten columns.
    assert np.abs(drawn.mean(0) - expected).max() < 0.02 * expected[0]


@pytest.mark.parametrize(
    ("left", "right", "width"),
    [([1.0] * 4, [1.0] * 4, 16), ([3, 1, 0.5, 0.1], [1, 0.2, 0.1], 24), ([1.0], [1.0], 16)],
)
def test_the_overlap_of_randomly_turned_matrices(
    left: list[float], right: list[float], width: int
) -> None:
    rng = np.random.default_rng(2)
    s, t = (np.array(each) / np.linalg.norm(each) for each in (left, right))
    overlap = np.empty(1500)
    for i in range(len(overlap)):
        turn = scipy.stats.ortho_group.rvs(width, random_state=rng)[: len(s), : len(t)]
        overlap[i] = np.square(s[:, None] * turn * t).sum()
    mean, variance = nulls.overlap_moments(np.array((s**4).sum()), np.array((t**4).sum()), width)
    root, z, p_values = nulls.overlap_against_chance(
        overlap, np.full(len(overlap), variance), width
    )
    assert overlap.mean() == pytest.approx(mean, rel=0.06)
    assert overlap.var() == pytest.approx(float(variance), rel=0.15)
    assert np.sqrt(overlap).mean() == pytest.approx(float(root[0]), rel=0.03)
    assert abs(z.mean()) < 0.1 and z.std() == pytest.approx(1, abs=0.1)
    # One in twenty of 1500: 75, give or take 8.4.
    assert 45 <= (p_values < 0.05).sum() <= 105


def test_cosines_of_random_directions() -> None:
    rows = nulls.directions(4000, 12, 0, torch.device("cpu"))
    p_values = nulls.cosine_p_value(rows[:, 0].numpy(), 12)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3


def test_random_directions_are_not_the_numbers_that_a_model_was_initialised_with() -> None:
    torch.manual_seed(0)
    initial = torch.randn(199, 128)
    mine = nulls.directions(199, 128, 0, torch.device("cpu"))
    assert float((initial @ mine.T).abs().max()) < 6


class TestRanks:
    def test_of_an_orthogonal_matrix(self) -> None:
        found = singular.measured(torch.linalg.qr(torch.randn(12, 12))[0])
        assert found.effective_rank == pytest.approx(12, rel=1e-5)
        assert found.stable_rank == pytest.approx(12, rel=1e-5)
        assert found.condition == pytest.approx(1, rel=1e-5)
        assert found.outside == 0

    def test_of_a_matrix_of_rank_one(self) -> None:
        found = singular.measured(torch.arange(1.0, 13)[:, None] * torch.linspace(-1, 2, 30))
        assert found.effective_rank == pytest.approx(1, abs=1e-4)
        assert found.stable_rank == pytest.approx(1, rel=1e-5)
        assert found.condition == np.inf
        assert found.outside == 1 and found.p_value < 1e-6

    def test_of_zeros(self) -> None:
        found = singular.measured(torch.zeros(4, 6))
        assert (found.effective_rank, found.stable_rank, found.outside) == (0, 0, 0)
        assert found.p_value == 1

    def test_of_two_equal_directions_in_noise(self) -> None:
        generator = torch.Generator().manual_seed(5)
        weight = torch.randn(60, 80, generator=generator)
        weight[:, 0] += 12 * torch.linspace(-1, 1, 60)
        weight[:, 1] += 12 * torch.linspace(-1, 1, 60).square()
        assert singular.measured(weight).outside == 2


def test_the_largest_directions_are_found_by_random_projection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = 0.8 ** torch.arange(90.0)
    left, right = (torch.linalg.qr(torch.randn(n, 90, generator=generator))[0] for n in (200, 120))
    weight = left * sizes @ right.T
    exact = singular.leading(weight, 10)
    monkeypatch.setattr(singular, "DIRECTIONS_UP_TO", 0)
    found = singular.leading(weight, 10)
    torch.testing.assert_close(found[1], exact[1], rtol=1e-4, atol=1e-6)
    for mine, theirs in ((found[0], exact[0]), (found[2], exact[2])):
        torch.testing.assert_close((mine * theirs).sum(0).abs(), torch.ones(10), rtol=1e-3, atol=0)
    monkeypatch.setattr(singular, "EXACT_UP_TO", 0)
    measured = singular.measured(weight)
    assert not measured.exact and np.isnan(measured.effective_rank)
    assert measured.frobenius == pytest.approx(float(sizes.norm()), rel=1e-5)
