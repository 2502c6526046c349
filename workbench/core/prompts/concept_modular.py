"""Concepts of models that calculate modulo p: residues of the answer, and frequencies.

1. An input is the row of tokens [a, b, =], read at the last one.
2. A residue: is (a + b) mod p this number?
3. A frequency k: targets instead of labels. Over all p² pairs, the products of {1, cos ka, sin ka}
   and {1, cos kb, sin kb}, without the constant one: eight directions that are orthogonal and of
   unit length. The share of a unit's variance that they explain is the FVE_k of the source.

Source: Nanda et al. 2023, arXiv 2301.05217.

Units: ka means 2πka/p. With fewer than all pairs, targets are those rows of the whole, so that
they are not of unit length any more.

Limits: p is the size of the vocabulary less one, for the token "=".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import sympy
from jaxtyping import Float64, Int64

from workbench.core.modular import fourier
from workbench.core.prompts import concepts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.concepts import Concept

_N_CTX = 3


def residue(model: TransformerBridge, r: int, *, n: int | None = None, seed: int = 0) -> Concept:
    """Is the answer this number; see `Concept.residue`."""
    p = modulus(model)
    if not 0 <= r < p:
        raise concepts.ConceptError(f"the answers are 0 to {p - 1}, not {r}")
    rows = _rows(p)
    labels = ((rows[:, 0] + rows[:, 1]) % p == r).astype(np.int64)
    if n is not None:
        _require_count(n, p)
        random = np.random.default_rng(seed)
        # One answer in p is this one: a plain draw might have none of it.
        has = random.permutation(np.flatnonzero(labels == 1))[: n // 2]
        others = random.permutation(np.flatnonzero(labels == 0))[: n - len(has)]
        chosen = np.sort(np.concatenate([has, others]))
        rows, labels = rows[chosen], labels[chosen]
    return concepts.Concept(list(rows), labels, f"answer is {r}")


def frequency(model: TransformerBridge, k: int, *, n: int | None = None, seed: int = 0) -> Concept:
    """Waves of one frequency; see `Concept.frequency`."""
    p = modulus(model)
    if not 1 <= k <= fourier.n_frequencies(p):
        raise concepts.ConceptError(
            f"waves over {p} residues have frequencies 1 to {fourier.n_frequencies(p)}, not {k}"
        )
    rows, targets = _rows(p), _waves(p, k)
    if n is not None:
        _require_count(n, p)
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:n])
        rows, targets = rows[chosen], targets[chosen]
    return concepts.Concept(list(rows), targets, f"frequency {k}")


def modulus(model: TransformerBridge) -> int:
    """The p of a model that reads a, b and =.

    Raises:
        ConceptError: If the model reads something else.
    """
    p = int(model.cfg.d_vocab) - 1
    if int(model.cfg.n_ctx) != _N_CTX or not sympy.isprime(p):
        raise concepts.ConceptError(
            f"{model.cfg.model_name!r} reads {model.cfg.n_ctx} tokens of {model.cfg.d_vocab}: "
            "residues and frequencies are of models that read a, b and = modulo a prime"
        )
    return p


def _rows(p: int) -> Int64[np.ndarray, "pair 3"]:
    a, b = np.divmod(np.arange(p * p, dtype=np.int64), p)
    return np.stack([a, b, np.full_like(a, p)], axis=1)


def _waves(p: int, k: int) -> Float64[np.ndarray, "pair 8"]:
    waves = fourier.fourier_basis(p)[[0, 2 * k - 1, 2 * k]]
    products = np.einsum("ia,jb->abij", waves, waves).reshape(p * p, -1)
    return np.ascontiguousarray(products[:, 1:])


def _require_count(n: int, p: int) -> None:
    if not 2 * _N_CTX <= n <= p * p:
        raise concepts.ConceptError(f"n = {n}: there are {p * p:,} pairs, expected 6 to that many")
