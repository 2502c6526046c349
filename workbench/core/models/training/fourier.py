"""How much of a modular-addition network is waves over the residues, and which.

1. Fourier basis over the p residues: constant, then cos_k and sin_k of unit norm.
2. Key frequencies: those with a large share of the power of the neuron-logit map W_U W_out, the
   matrix that takes neurons straight to the logits of the p answers.
3. Logits: the share of their variance along cos(2πk(a + b - c)/p), the one form that a network
   which adds by rotation gives them.
4. Neurons: the share of each one's variance that products of waves of a single frequency explain.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability",
arXiv 2301.05217.

Units: every figure is a fraction between 0 and 1. Limits: p must be odd; the paper also ranks
frequencies by the embedding and by its neurons, which need not give the same set.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

# A frequency is key from this share of the neuron-logit map's power; an even spread would be .018.
KEY_SHARE = 0.02

# A neuron counts as explained by one frequency from this share of its variance, as in the paper.
EXPLAINED = 0.85


def fourier_basis(p: int) -> Float64[np.ndarray, "_ residue"]:
    """Orthonormal rows over the residues: constant, then cos and sin of k = 1 … (p - 1) / 2."""
    residue = np.arange(p)
    rows = [np.full(p, 1 / math.sqrt(p))]
    for k in range(1, (p - 1) // 2 + 1):
        angle = 2 * np.pi * k * residue / p
        rows += [np.cos(angle) * math.sqrt(2 / p), np.sin(angle) * math.sqrt(2 / p)]
    return np.stack(rows)


def frequency_shares(
    neuron_logit: Float64[np.ndarray, "residue neuron"],
) -> Float64[np.ndarray, " frequency"]:
    """Share of the neuron-logit map's power at each frequency.

    Args:
        neuron_logit: W_U W_out, what each neuron adds to the logit of each residue.

    Returns:
        Entry k - 1 is the share of frequency k in the map's squares, the constant left out; they
        sum to 1.
    """
    power = np.square(fourier_basis(len(neuron_logit)) @ neuron_logit).sum(1)
    of_frequency = power[1::2] + power[2::2]
    return of_frequency / of_frequency.sum()


def key_frequencies(shares: Float64[np.ndarray, " frequency"]) -> tuple[int, ...]:
    """Frequencies whose share is at least `KEY_SHARE`, lowest first."""
    return tuple(int(i) + 1 for i in np.flatnonzero(shares >= KEY_SHARE))


def explained_logits(
    logits: Float64[np.ndarray, "residue residue residue"], frequencies: tuple[int, ...]
) -> float:
    """Share of the logits' variance that lies along cos(2πk(a + b - c)/p) for the given k.

    Args:
        logits: Of every pair (a, b) for every answer c.
        frequencies: The k to project on.

    Returns:
        Σ_k ⟨L, g_k⟩² / ‖L - mean_c L‖² with g_k of unit norm over all (a, b, c).
    """
    p = logits.shape[0]
    a, b, c = np.ogrid[:p, :p, :p]
    distance = (a + b - c) % p
    centred = logits - logits.mean(2, keepdims=True)
    # Summing the logits by (a + b - c) first leaves p products a frequency instead of p³.
    total = np.bincount(distance.ravel(), weights=centred.ravel(), minlength=p)
    waves = [np.cos(2 * np.pi * k * np.arange(p) / p) * math.sqrt(2 / p**3) for k in frequencies]
    return float(sum((total @ wave) ** 2 for wave in waves) / np.square(centred).sum())


def explained_neurons(
    activations: Float64[np.ndarray, "residue residue neuron"],
) -> Float64[np.ndarray, " neuron"]:
    """Share of each neuron's variance over (a, b) that its best single frequency explains.

    Args:
        activations: After the ReLU, at `=`, of every pair.

    Returns:
        max over k of the power of {1, cos_k, sin_k} ⊗ {1, cos_k, sin_k}, the mean left out, over
        the power of everything but the mean; 0 for a neuron that never changes.
    """
    p = activations.shape[0]
    basis = fourier_basis(p)
    power = np.square(np.einsum("ia,jb,abn->ijn", basis, basis, activations, optimize=True))
    # Rounding leaves a constant neuron a little power in every wave: that is not variance.
    noise = 1e-20 * power.sum((0, 1))
    power[0, 0] = 0
    starts = range(1, p, 2)
    best = np.max([power[np.ix_([0, i, i + 1], [0, i, i + 1])].sum((0, 1)) for i in starts], axis=0)
    moving = power.sum((0, 1))
    return np.where(moving > noise, best / np.maximum(moving, np.finfo(float).tiny), 0.0)
