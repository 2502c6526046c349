"""Into which groups does a similarity of units fall, and how much is cut between them?

1. The similarity W gets a small constant added (1 % of its mean), so that units with next to
   nothing in common with others do not become clusters of their own.
2. The leading eigenvectors of D^-1/2 W D^-1/2 (scipy), rows scaled to unit length.
3. k-means (scikit-learn) on the first k of these, for every k that is asked for: the eigenvectors
   are computed once. It starts from the k units that are most nearly at right angles (pivots of a
   QR decomposition), so that nothing is random.
4. The normalised cut of a partition is Σ cut(X, rest) / vol(X) over its clusters X, vol being the
   sum of degrees: 0 for clusters without any connection, k - 1 for units that are connected at
   random.

Source: Ng, Jordan & Weiss 2001, "On spectral clustering"; Amini et al. 2013, arXiv 1207.2340 (the
constant); Damle, Minden & Ying 2019, "Simple, direct and efficient multi-way spectral clustering"
(the start); Shi & Malik 2000, "Normalized cuts and image segmentation".

Limits: the similarity is held as one table, so units are limited to `MOST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from jaxtyping import Float, Int

# Units whose similarities are one table of 256 megabytes.
MOST = 8000
_ADDED = 0.01
_DIGITS = 8
# Fewer units than that are faster as a whole matrix.
_SMALL = 64
_EXACT = 1e-5


def eigenvectors(
    similarity: Float[np.ndarray, "unit unit"], count: int
) -> Float[np.ndarray, "unit axis"]:
    """Leading eigenvectors of a normalised similarity.

    Args:
        similarity: Symmetric, not negative, zero on the diagonal.
        count: How many.

    Returns:
        One column an eigenvector, of the largest eigenvalue first.
    """
    n = len(similarity)
    joined = similarity.astype(np.float64) + _ADDED * float(similarity.mean())
    np.fill_diagonal(joined, 0.0)
    root = np.sqrt(joined.sum(1))
    joined /= root[:, None]
    joined /= root
    if n > _SMALL and count < n // 2:
        # A start that is the same every time, and not the first eigenvector itself.
        start = np.random.default_rng(n).normal(size=n)
        try:
            solve: Any = scipy.sparse.linalg.eigsh
            values, vectors = solve(joined, count, which="LA", v0=start, tol=_EXACT)
            return vectors[:, np.argsort(-values, kind="stable")]
        except scipy.sparse.linalg.ArpackNoConvergence:
            pass
    _, vectors = scipy.linalg.eigh(joined, subset_by_index=[n - count, n - 1])
    return vectors[:, ::-1]


def partitions(
    similarity: Float[np.ndarray, "unit unit"], counts: Sequence[int]
) -> Int[np.ndarray, "row unit"]:
    """Clusters of units, for several numbers of clusters.

    Args:
        similarity: Symmetric, not negative, zero on the diagonal.
        counts: Numbers of clusters.

    Returns:
        One row a number: the cluster of each unit, the largest cluster first.
    """
    vectors = eigenvectors(similarity, max(counts))
    return np.stack([by_size(_means(vectors[:, :k])) for k in counts])


def _means(vectors: Float[np.ndarray, "unit axis"]) -> Int[np.ndarray, " unit"]:
    """As many groups of rows as there are columns, by k-means on the unit sphere."""
    import sklearn.cluster

    k = vectors.shape[1]
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = vectors / np.where(length > 0, length, 1.0)
    different, labels = np.unique(rows.round(_DIGITS), axis=0, return_inverse=True)
    if len(different) <= k:
        # k-means warns of fewer points than clusters; these are the answer.
        return labels.reshape(-1)
    # Pivots of a QR decomposition are the rows that are most nearly at right angles.
    decompose: Any = scipy.linalg.qr
    pivots = decompose(rows.T, mode="economic", pivoting=True)[2]
    means: Any = sklearn.cluster.KMeans
    return means(k, init=rows[pivots[:k]], n_init=1).fit_predict(rows).astype(np.int64)


def by_size(labels: Int[np.ndarray, " unit"]) -> Int[np.ndarray, " unit"]:
    """Clusters numbered anew, the largest first; of equal ones that of the first unit."""
    _, first, inverse, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[inverse.reshape(-1)]


def normalised_cut(
    weights: Float[np.ndarray, "unit unit"], labels: Int[np.ndarray, " unit"]
) -> float:
    """Sum over clusters of the share of their connections that leads out of them.

    Args:
        weights: Symmetric, not negative.
        labels: Cluster of each unit.

    Returns:
        Σ cut(X, rest) / vol(X); a cluster without connections counts nothing.
    """
    between = _sums(weights, labels)
    volume = between.sum(1)
    cut = volume - np.diag(between)
    return float(np.divide(cut, volume, out=np.zeros_like(cut), where=volume > 0).sum())


def cohesion(
    similarity: Float[np.ndarray, "unit unit"], labels: Int[np.ndarray, " unit"]
) -> Float[np.ndarray, " part"]:
    """Mean similarity of the pairs within each cluster minus that of its units with others.

    Args:
        similarity: Symmetric, zero on the diagonal.
        labels: Cluster of each unit.

    Returns:
        One number a cluster; NaN for a single unit, and for a cluster of all units.
    """
    between = _sums(similarity, labels)
    size = np.bincount(labels).astype(np.float64)
    within, rest = np.diag(between), between.sum(1) - np.diag(between)
    pairs, others = size * (size - 1), size * (len(labels) - size)
    defined = (pairs > 0) & (others > 0)
    safe = np.where(defined, pairs, 1.0), np.where(defined, others, 1.0)
    return np.where(defined, within / safe[0] - rest / safe[1], np.nan)


def _sums(
    weights: Float[np.ndarray, "unit unit"], labels: Int[np.ndarray, " unit"]
) -> Float[np.ndarray, "part part"]:
    """Sum of the weights between every two clusters."""
    member = np.eye(int(labels.max()) + 1, dtype=weights.dtype)[labels]
    return (member.T @ (weights @ member)).astype(np.float64)
