"""How much of a network that adds in a cyclic group is waves over the group, and which.

1. Fourier basis over the n elements: constant, then cos_k and sin_k of unit norm; for even n the
   frequency n / 2 has a cosine only.
2. Key frequencies: those with a large share of the power of the neuron-logit map W_U W_out, the
   matrix that takes neurons straight to the logits of the answers.
3. Logits: the share of their variance along cos(2πk(a + b - c)/n), the one form that a network
   which adds by rotation gives them.
4. Neurons: the share of each one's variance that products of waves of a single frequency explain.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability",
arXiv 2301.05217.

Units: every figure is a fraction between 0 and 1. Rows, and the first axes of cubes, are the
elements of the group in their order: for addition the residues, for multiplication their discrete
logarithms (`theory`).

Limits: the paper also ranks frequencies by the embedding and by its neurons, which need not give
the same set. Of few frequencies each has a large share by chance: with n of 100 or less an even
spread over all of them lies above `KEY_SHARE`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64, Int64

# A frequency is key from this share of the neuron-logit map's power; over the 56 frequencies of
# p = 113 an even spread would be .018.
KEY_SHARE = 0.02

# A neuron counts as explained by one frequency from this share of its variance, as in the paper.
EXPLAINED = 0.85

# Rounding leaves a unit that never changes this share of its power at most: it has no variance.
_ROUNDING = 1e-12


def n_frequencies(n: int) -> int:
    """How many frequencies waves over n elements have, the constant left out."""
    return n // 2


def fourier_basis(n: int) -> Float64[np.ndarray, "_ residue"]:
    """Orthonormal rows over the elements: constant, then cos and sin of k = 1 … n // 2.

    For even n the last frequency has a cosine only.
    """
    element = np.arange(n)
    rows = [np.full(n, 1 / math.sqrt(n))]
    for k in range(1, n_frequencies(n) + 1):
        angle = 2 * np.pi * (k * element % n) / n
        if 2 * k == n:
            rows.append(np.cos(angle) / math.sqrt(n))
        else:
            rows += [np.cos(angle) * math.sqrt(2 / n), np.sin(angle) * math.sqrt(2 / n)]
    return np.stack(rows)


def basis_rows(n: int, frequency: int) -> list[int]:
    """Which rows of `fourier_basis` belong to a frequency: cosine and sine, or the cosine alone."""
    return [row for row in (2 * frequency - 1, 2 * frequency) if row < n]


def multiplicity(n: int) -> Float64[np.ndarray, " frequency"]:
    """Basis rows of each frequency k = 1 … n // 2: 2, and 1 for n / 2."""
    counts = np.full(n_frequencies(n), 2.0)
    if n % 2 == 0:
        counts[-1] = 1.0
    return counts


def frequency_shares(values: Float[np.ndarray, "residue _"]) -> Float64[np.ndarray, " frequency"]:
    """Share of a map's power at each frequency.

    Args:
        values: One row an element: for the neuron-logit map W_U W_out, what each neuron adds to
            the logit of each answer; for the embedding, the vector of each operand.

    Returns:
        Entry k - 1 is the share of frequency k in the map's squares, the constant left out; they
        sum to 1, or are all 0 where nothing but the constant is there.
    """
    n = len(values)
    power = np.square(np.abs(np.fft.rfft(values, axis=0)[1:])).sum(1) * multiplicity(n)
    total = power.sum()
    return power / total if total > 0 else power


def component_norms(values: Float[np.ndarray, "residue _"]) -> Float64[np.ndarray, " residue"]:
    """Norm of each Fourier component of a map, one a row of `fourier_basis`."""
    return np.sqrt(np.square(fourier_basis(len(values)) @ values).sum(1))


def key_frequencies(shares: Float[np.ndarray, " frequency"]) -> tuple[int, ...]:
    """Frequencies whose share is at least `KEY_SHARE`, lowest first."""
    return tuple(int(i) + 1 for i in np.flatnonzero(shares >= KEY_SHARE))


def explained_logits(
    logits: Float[np.ndarray, "residue residue residue"], frequencies: tuple[int, ...]
) -> float:
    """Share of the logits' variance that lies along cos(2πk(a + b - c)/n) for the given k.

    Args:
        logits: Of every pair (a, b) for every answer c.
        frequencies: The k to project on.

    Returns:
        Σ_k ⟨L, g_k⟩² / ‖L - mean_c L‖² with g_k of unit norm over all (a, b, c); 0 for logits that
        are the same for every answer.
    """
    table = sums_by_answer(logits)
    variance = np.square(logits - logits.mean(2, keepdims=True)).sum(dtype=np.float64)
    return explained_by_terms(table, float(variance), frequencies)


def sums_by_answer(
    logits: Float[np.ndarray, "residue residue choice"],
) -> Float64[np.ndarray, "residue choice"]:
    """Sum of the logits over the pairs (a, b) that share their a + b modulo n, for each answer.

    A projection on waves of a + b needs no more of the logits than this.
    """
    n = len(logits)
    element = np.arange(n)
    total = np.zeros((n, logits.shape[2]))
    for a in range(n):
        total += logits[a, (element - a) % n]
    return total


def term_sizes(
    table: Float64[np.ndarray, "residue residue"],
) -> Float64[np.ndarray, " frequency"]:
    """Coefficient α_k of cos(2πk(a + b - c)/n) in the logits, by projection.

    Args:
        table: Logits summed over the pairs that share a + b, `sums_by_answer`.

    Returns:
        Entry k - 1 is that of frequency k, in the logits' unit.
    """
    n = len(table)
    element = np.arange(n)
    distance = (element[:, None] - element) % n
    total = np.bincount(distance.ravel(), weights=table.ravel(), minlength=n)
    return np.fft.rfft(total).real[1:] * multiplicity(n) / n**3


def explained_by_terms(
    table: Float64[np.ndarray, "residue residue"], variance: float, frequencies: tuple[int, ...]
) -> float:
    """Share of the logits' variance along the terms cos(2πk(a + b - c)/n) of some frequencies.

    Args:
        table: Logits summed over the pairs that share a + b.
        variance: Sum of squares of the logits after centring over the answers.
        frequencies: The k to project on.

    Returns:
        The share; 0 where there is no variance.
    """
    n = len(table)
    chosen = np.array(frequencies, dtype=np.int64) - 1
    power = np.square(term_sizes(table)[chosen]) * n**3 / multiplicity(n)[chosen]
    return float(power.sum() / variance) if variance > 0 else 0.0


def explained_by_frequency(
    activations: Float[np.ndarray, "residue residue part"],
) -> Float64[np.ndarray, "frequency part"]:
    """Share of each unit's variance over (a, b) that each single frequency explains.

    Args:
        activations: Of every pair: a neuron after the ReLU at `=`, or a head's attention.

    Returns:
        Power of {1, cos_k, sin_k} ⊗ {1, cos_k, sin_k}, the mean left out, over the power of
        everything but the mean; 0 for a unit that never changes. With two frequencies or more the
        shares sum to 1 at most.
    """
    n = len(activations)
    mean = activations.mean((0, 1), dtype=np.float64)
    rows, columns, together, apart = (np.zeros((n, len(mean))) for _ in range(4))
    variance, element = np.zeros(len(mean)), np.arange(n)
    # One a at a time: small temporaries in float64 stay in the cache.
    for a in range(n):
        centred = activations[a] - mean
        rows[a] = centred.sum(0)
        columns += centred
        together += centred[(element - a) % n]
        apart += centred[(a - element) % n]
        variance += np.square(centred).sum(0)
    # A wave of one operand, of the sum and of the difference: all nine products of one frequency.
    twice = multiplicity(n)[:, None]
    alone = sum(_power(sums) for sums in (rows, columns))
    both = _power(together) + np.where(twice > 1, _power(apart), 0.0)
    explained = (alone + both) * twice / n**2
    moving = variance > _ROUNDING * (variance + n**2 * np.square(mean))
    return np.where(moving, explained / np.where(moving, variance, 1.0), 0.0)


def _power(sums: np.ndarray) -> np.ndarray:
    return np.square(np.abs(np.fft.rfft(sums, axis=0)[1:]))


def best_frequency(
    explained: Float64[np.ndarray, "frequency part"],
) -> tuple[Int64[np.ndarray, " part"], Float64[np.ndarray, " part"]]:
    """Frequency that explains most of each unit, and how much.

    Args:
        explained: From `explained_by_frequency`.

    Returns:
        Frequency of each unit, and the share of its variance that it explains.
    """
    return explained.argmax(0) + 1, explained.max(0)


def explained_neurons(
    activations: Float[np.ndarray, "residue residue neuron"],
) -> Float64[np.ndarray, " neuron"]:
    """Share of each neuron's variance over (a, b) that its best single frequency explains.

    Args:
        activations: After the ReLU, at `=`, of every pair.

    Returns:
        The largest entry of `explained_by_frequency` of each neuron.
    """
    return explained_by_frequency(activations).max(0)


def gini(sizes: Float[np.ndarray, " part"]) -> float:
    """How unevenly a total is spread: 0 evenly, towards 1 all in one part.

    Args:
        sizes: Parts, none negative.

    Returns:
        Σ (2i - n - 1) x_(i) / (n Σ x) over the sizes sorted ascending; 0 where all are 0.
    """
    ascending = np.sort(sizes)
    n, total = len(ascending), ascending.sum()
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return float(ranks @ ascending / (n * total)) if total > 0 else 0.0
