"""Eigenvalues of a head's circuits from token to token, through the head's small width."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Complex, Float

from analyses.weights import circuits, nulls

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
# Rows of embedding and unembedding that are multiplied together.
_ROWS = 8192


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """The nonzero eigenvalues of a token-to-token circuit are those of right · left.

    Attributes:
        left: What is read, of the stream.
        right: What the rest of the circuit makes of the stream: unembedding, then embedding.
    """

    left: Float[Tensor, "d_model d_head"]
    right: Float[Tensor, "d_head d_model"]

    def eigenvalues(self) -> Complex[np.ndarray, " singular"]:
        """The nonzero eigenvalues."""
        return _eigenvalues(self.right @ self.left)

    def turned(
        self, frames: Float[Tensor, "sample d_model d_head"]
    ) -> Complex[np.ndarray, "sample singular"]:
        """Eigenvalues with the stream turned at random in between.

        Args:
            frames: Where the axes of what is read turn to, `random_frames`.

        Returns:
            The nonzero eigenvalues for each of them.
        """
        _, rest = torch.linalg.qr(self.left)
        return _eigenvalues(self.right @ frames @ rest)


def random_frames(
    n: int, like: Float[Tensor, "d_model d_head"], seed: int
) -> Float[Tensor, "sample d_model d_head"]:
    """As many orthonormal axes as a head is wide, at random in the stream.

    Args:
        n: How many times.
        like: What a head reads.
        seed: Of the draws.

    Returns:
        Frames, uniform over all of them.
    """
    rng = np.random.default_rng(seed)
    drawn = nulls.gaussian((n, *like.shape), rng, like.device)
    turned, triangle = torch.linalg.qr(drawn)
    # With these signs the frame is uniform (Mezzadri 2007).
    return turned * torch.sign(torch.diagonal(triangle, dim1=1, dim2=2))[:, None]


class Bench:
    """Heads joined with the embedding and the unembedding, which are multiplied once."""

    def __init__(self, model: TransformerBridge, scale: str) -> None:
        circuits.require_scale(scale)
        self._of, self._scale = circuits.Circuits(model), scale
        self._unembedding = self._of.unembedding()
        self._known: tuple[int, Tensor, Tensor] | None = None

    def of_layer(self, layer: int) -> Iterator[tuple[Pair, Pair]]:
        """OV and QK circuit of each head."""
        heads = self._of.heads(layer)
        through, alike = self._grams(layer)
        for query, key, value, output in zip(
            heads.query, heads.key, heads.value, heads.output, strict=True
        ):
            yield Pair(value, output @ through), Pair(query, key.T @ alike)

    def of(self, layer: int, head: int) -> tuple[Pair, Pair]:
        """Both circuits of one head, for which the joint products would be too much."""
        heads = self._of.heads(layer)
        tokens = self._of.tokens(layer, scale=self._scale)
        both = min(len(tokens), len(self._unembedding))
        promoted = heads.output[head] @ self._unembedding[:both].T
        looked_at = heads.key[head].T @ tokens.T
        return (
            Pair(heads.value[head], promoted @ tokens[:both]),
            Pair(heads.query[head], looked_at @ tokens),
        )

    def _grams(self, layer: int) -> tuple[Tensor, Tensor]:
        """Unembedding by embedding, and embedding by embedding, summed over tokens."""
        if self._known is not None:
            other, *grams = self._known
            if self._of.same_scale(layer, other):
                return grams[0], grams[1]
        tokens = self._of.tokens(layer, scale=self._scale)
        # The two may have different numbers of tokens: those that both have can be copied.
        both = min(len(tokens), len(self._unembedding))
        through = _summed(self._unembedding[:both], tokens[:both])
        alike = _summed(tokens, tokens)
        self._known = (layer, through, alike)
        return through, alike


def _summed(left: Tensor, right: Tensor) -> Tensor:
    total = torch.zeros(left.shape[1], right.shape[1], device=left.device)
    for some, others in zip(left.split(_ROWS), right.split(_ROWS), strict=True):
        total += some.T @ others
    return total


def product_spectrum(
    left: Float[Tensor, "d_model d_head"], right: Float[Tensor, "d_head d_model"]
) -> Float[np.ndarray, " singular"]:
    """Singular values of a product through its small inner width."""
    inside = torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T
    return torch.linalg.svdvals(inside).cpu().numpy().astype(np.float64)


def random_product(
    left: Float[Tensor, "d_model d_head"],
    right: Float[Tensor, "d_head d_model"],
    seed: int,
    n: int = 8,
) -> Float[np.ndarray, " singular"]:
    """Mean singular values of products of Gaussian matrices of these shapes and sizes."""
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for _ in range(n):
        both = [nulls.gaussian(tuple(each.shape), rng, each.device) for each in (left, right)]
        sizes = [float(each.norm()) for each in (left, right)]
        scaled = [one / one.norm() * size for one, size in zip(both, sizes, strict=True)]
        drawn.append(product_spectrum(*scaled))
    return np.mean(drawn, axis=0)


def _eigenvalues(matrix: Tensor) -> np.ndarray:
    # Of real matrices numpy gives real numbers where all of them are.
    values = np.linalg.eigvals(matrix.cpu().numpy().astype(np.float64))
    return np.asarray(values, dtype=np.complex128)


def score(values: Complex[np.ndarray, "*samples singular"]) -> Float[np.ndarray, "*samples"]:
    """Σ λ / Σ |λ|; 0 where all are zero."""
    total, size = np.real(values).sum(-1), np.abs(values).sum(-1)
    return np.asarray(np.divide(total, size, out=np.zeros_like(size), where=size > 0))
