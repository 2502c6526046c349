"""What would a circuit of the same size be if it were chosen by chance?

1. Put all edges of the graph in random order.
2. Take as many of them, in this order, as are needed until at least as many edges as asked for lie
   on a path from the input to the logits; keep only those.
3. Leave out the latest ones again, as far as every remaining edge stays on such a path, until the
   size is met. Where it cannot be (a long path loses all its edges or none), draw again, up to 50
   times, and take the draw that exceeds the size least.

A discovered circuit is made of edges on paths by construction. A random set of as many edges would
be mostly loose ends that carry nothing, and so too easy to beat.

Source: Shi et al. 2024, arXiv 2410.13032 (random circuits of the same size as reference).

Units and sign: none.

Limits: this is one distribution of connected circuits among many; it has more direct edges and
fewer long paths than a drawing of whole paths would give.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from workbench.core.engine import graph

_TRIES = 50


def sample(
    whole: graph.Graph,
    n_edges: int,
    n_samples: int,
    *,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Bool[np.ndarray, "run sender receiver"]:
    """Random connected circuits.

    Args:
        whole: The graph to draw from.
        n_edges: Edges of each circuit.
        n_samples: How many circuits.
        seed: Equal seeds give equal circuits.
        progress: Called between circuits with the fraction done; may raise to cancel.

    Returns:
        One mask a circuit.
    """
    rng = np.random.default_rng(seed)
    masks = np.zeros((n_samples, *whole.allowed.shape), dtype=bool)
    for i in range(n_samples):
        if progress is not None:
            progress(i / n_samples)
        masks[i] = _fitting(whole, n_edges, rng)
    return masks


def _fitting(
    whole: graph.Graph, n_edges: int, rng: np.random.Generator
) -> Bool[np.ndarray, "sender receiver"]:
    best = _draw(whole, n_edges, rng)
    for _ in range(_TRIES - 1):
        if best.sum() <= n_edges:
            break
        best = min(best, _draw(whole, n_edges, rng), key=np.sum)
    return best


def _draw(
    whole: graph.Graph, n_edges: int, rng: np.random.Generator
) -> Bool[np.ndarray, "sender receiver"]:
    order = rng.permutation(np.flatnonzero(whole.allowed))
    if n_edges == 0:
        return np.zeros_like(whole.allowed)
    low, high = n_edges, len(order)
    while low < high:
        middle = (low + high) // 2
        if connected_top(whole, order, middle).sum() >= n_edges:
            high = middle
        else:
            low = middle + 1
    return _trimmed(whole, connected_top(whole, order, low), order[:low], n_edges)


def connected_top(
    whole: graph.Graph, order: np.ndarray, size: int
) -> Bool[np.ndarray, "sender receiver"]:
    """Those of the first edges of an order that lie on a path from the input to the logits."""
    mask = np.zeros_like(whole.allowed)
    mask.ravel()[order[:size]] = True
    return whole.connected(mask)


def _trimmed(
    whole: graph.Graph, mask: np.ndarray, order: np.ndarray, n_edges: int
) -> Bool[np.ndarray, "sender receiver"]:
    for edge in order[::-1]:
        if mask.sum() <= n_edges:
            break
        if mask.ravel()[edge]:
            smaller = mask.copy()
            smaller.ravel()[edge] = False
            smaller = whole.connected(smaller)
            mask = smaller if smaller.sum() >= n_edges else mask
    return mask
