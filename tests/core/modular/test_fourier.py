"""Waves over a cyclic group, against numpy's transforms and sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.core.modular import fourier

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [7, 8])
def test_the_basis_is_orthonormal_and_complete(n: int) -> None:
    basis = fourier.fourier_basis(n)
    assert basis.shape == (n, n)
    assert basis @ basis.T == pytest.approx(np.eye(n), abs=1e-12)


def test_the_last_frequency_of_an_even_group_has_a_cosine_only() -> None:
    basis = fourier.fourier_basis(4)
    assert basis[3] == pytest.approx(np.array([0.5, -0.5, 0.5, -0.5]))
    assert fourier.basis_rows(4, 1) == [1, 2]
    assert fourier.basis_rows(4, 2) == [3]
    assert fourier.n_frequencies(4) == fourier.n_frequencies(5) == 2


@pytest.mark.parametrize("n", [7, 8])
def test_shares_are_the_power_of_the_basis_rows(n: int) -> None:
    values = RNG.normal(size=(n, 5)) + 3
    power = np.square(fourier.fourier_basis(n) @ values).sum(1)
    rows = [fourier.basis_rows(n, k) for k in range(1, n // 2 + 1)]
    expected = np.array([power[row].sum() for row in rows]) / power[1:].sum()
    assert fourier.frequency_shares(values) == pytest.approx(expected)
    assert fourier.component_norms(values) == pytest.approx(np.sqrt(power))


def test_keys_are_the_frequencies_with_two_percent() -> None:
    assert fourier.key_frequencies(np.array([0.5, 0.0199, 0.02, 0.46])) == (1, 3, 4)


def test_shares_of_a_constant_map_are_zero() -> None:
    assert fourier.frequency_shares(np.zeros((7, 2))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("n", [7, 8])
def test_explained_logits_agree_with_sums_written_out(n: int) -> None:
    logits, keys = RNG.normal(size=(n, n, n)) + RNG.normal(size=(n, n, 1)), (1, n // 2)
    total, sizes = 0.0, {}
    for k in keys:
        wave = np.empty((n, n, n))
        for a in range(n):
            for b in range(n):
                for c in range(n):
                    wave[a, b, c] = np.cos(2 * np.pi * k * (a + b - c) / n)
        total += (logits * wave).sum() ** 2 / np.square(wave).sum()
        sizes[k] = (logits * wave).sum() / np.square(wave).sum()
    variance = np.square(logits - logits.mean(2, keepdims=True)).sum()
    assert fourier.explained_logits(logits, keys) == pytest.approx(total / variance)
    found = fourier.term_sizes(fourier.sums_by_answer(logits))
    assert {k: found[k - 1] for k in keys} == pytest.approx(sizes)


def test_logits_without_variance_are_not_explained() -> None:
    assert fourier.explained_logits(np.ones((5, 5, 5)), (1,)) == 0


@pytest.mark.parametrize("n", [7, 8])
def test_explained_neurons_agree_with_the_two_dimensional_transform(n: int) -> None:
    activations = RNG.normal(size=(n, n, 4)) + 2
    power = np.square(np.abs(np.fft.fft2(activations, axes=(0, 1))))
    power[0, 0] = 0
    expected = np.zeros((n // 2, 4))
    for k in range(1, n // 2 + 1):
        block = np.ix_(*[sorted({0, k, n - k})] * 2)
        expected[k - 1] = power[block].sum((0, 1)) / power.sum((0, 1))
    found = fourier.explained_by_frequency(activations)
    assert found == pytest.approx(expected)
    frequency, explained = fourier.best_frequency(found)
    assert frequency.tolist() == (expected.argmax(0) + 1).tolist()
    assert explained == pytest.approx(expected.max(0))
    assert fourier.explained_neurons(activations) == pytest.approx(expected.max(0))


def test_a_neuron_in_single_precision_is_explained_as_in_double() -> None:
    activations = RNG.normal(size=(11, 11, 3)) + 20
    single = fourier.explained_by_frequency(activations.astype(np.float32))
    assert single == pytest.approx(fourier.explained_by_frequency(activations), abs=1e-6)


def test_a_neuron_that_never_changes_is_not_explained() -> None:
    still = np.full((7, 7, 1), 0.1, dtype=np.float32)
    assert fourier.explained_neurons(still).tolist() == [0]


def test_a_product_of_waves_of_one_frequency_is_wholly_explained() -> None:
    a, b = np.ogrid[:9, :9]
    wave = 2 * np.pi * 2 / 9
    product = 1 + np.cos(wave * a) * np.sin(wave * b) + 0.3 * np.cos(wave * b)
    explained = fourier.explained_by_frequency(product[:, :, None])[:, 0]
    assert explained == pytest.approx([0.0, 1.0, 0.0, 0.0], abs=1e-12)


def test_the_gini_coefficient_of_known_spreads() -> None:
    assert fourier.gini(np.ones(5)) == 0
    assert fourier.gini(np.array([0.0, 0, 0, 0, 2.0])) == pytest.approx(0.8)
    # (-2 · 1 + 0 · 2 + 2 · 3) / (3 · 6)
    assert fourier.gini(np.array([3.0, 1.0, 2.0])) == pytest.approx(2 / 9)
    assert fourier.gini(np.zeros(3)) == 0
