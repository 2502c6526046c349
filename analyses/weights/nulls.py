"""What chance gives: random matrices, randomly turned heads, random directions.

1. A matrix whose entries are independent Gaussians has its largest singular value where Johnstone
   (2001) says, with the fluctuation of the first Tracy-Widom law (by Chiani's 2014 gamma
   approximation); its other singular values follow Marchenko & Pastur (1967).
2. Two matrices A and B that meet in a stream of width d: with a random rotation R between them,
   |A R B|² / (|A|² |B|²) has a known mean, 1/d, and a known variance that depends on the two
   spectra alone. With mean and variance matched it is close to a gamma variable (Satterthwaite).
3. A direction that has nothing to do with the tokens is a random one of the same length: the
   largest product that any token has with it is simulated.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.special
import scipy.stats
import torch
from jaxtyping import Float

Tensor = torch.Tensor
# Chiani's gamma approximation of the Tracy-Widom law of real matrices.
_TW_SHAPE, _TW_SCALE, _TW_SHIFT = 46.446, 0.186054, 9.84801
RANDOM_DIRECTIONS = 199
# Singular values are counted as outside beyond what one Gaussian matrix in twenty reaches.
OUTSIDE = 0.05
# No p-value is told from a smaller one: so far out the approximations are not known to hold.
SMALLEST = 1e-12
_GRID = 4001
# Degrees of freedom from which on a gamma variable's root is nearly normal.
_MANY = 1e4


def largest_p_value(largest: float, deviation: float, rows: int, columns: int) -> float:
    """How often a Gaussian matrix has a singular value as large.

    Args:
        largest: The singular value.
        deviation: Standard deviation of the entries.
        rows: Of the matrix.
        columns: Of the matrix.

    Returns:
        The p-value; 1 for a matrix of zeros.
    """
    if deviation == 0:
        return 1.0
    centre, spread = _johnstone(rows, columns)
    shifted = ((largest / deviation) ** 2 - centre) / spread + _TW_SHIFT
    return max(SMALLEST, float(scipy.stats.gamma.sf(shifted, _TW_SHAPE, scale=_TW_SCALE)))


def edge(deviation: float, rows: int, columns: int, level: float = OUTSIDE) -> float:
    """The size that the largest singular value of a Gaussian matrix exceeds that often."""
    centre, spread = _johnstone(rows, columns)
    quantile = scipy.stats.gamma.isf(level, _TW_SHAPE, scale=_TW_SCALE) - _TW_SHIFT
    return deviation * math.sqrt(max(0.0, centre + spread * float(quantile)))


def _johnstone(rows: int, columns: int) -> tuple[float, float]:
    long, short = max(rows, columns), min(rows, columns)
    # Both are lowered by a half: correct to the second order (Ma 2012), for small matrices too.
    roots = math.sqrt(long - 0.5), math.sqrt(short - 0.5)
    return sum(roots) ** 2, sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3)


def random_spectrum(deviation: float, rows: int, columns: int) -> Float[np.ndarray, " singular"]:
    """Singular values of a Gaussian matrix, largest first, where Marchenko & Pastur put them."""
    long, short = max(rows, columns), min(rows, columns)
    ratio = short / long
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # Equal steps of an angle: the density has roots at both ends.
    angle = np.linspace(0, np.pi, _GRID)
    squares = low + (high - low) * (1 - np.cos(angle)) / 2
    density = np.sin(angle) ** 2 / np.maximum(squares, 1e-300)
    density[~np.isfinite(density)] = 0
    if low == 0:
        density[0] = density[1]
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    places = 1 - (np.arange(short) + 0.5) / short
    return deviation * np.sqrt(long * np.interp(places, mass / mass[-1], squares))


def overlap_moments(
    left: Float[np.ndarray, "*left"], right: Float[np.ndarray, "*right"], width: int
) -> tuple[float, np.ndarray]:
    """Mean and variance of |A R B|² / (|A|² |B|²) under a random rotation R of the stream.

    Args:
        left: Σ s⁴ / (Σ s²)² of the singular values of A.
        right: The same of B.
        width: Of the stream.

    Returns:
        The mean, the same for all, and the variances.
    """
    d = float(width)
    same, one = 3 / (d * (d + 2)), 1 / (d * (d + 2))
    none = (d + 1) / (d * (d - 1) * (d + 2)) if width > 1 else 1 / d**2
    squares = (
        left * right * same
        + (left * (1 - right) + (1 - left) * right) * one
        + (1 - left) * (1 - right) * none
    )
    return 1 / d, np.asarray(np.maximum(squares - 1 / d**2, 1e-30))


def overlap_against_chance(
    overlap: np.ndarray, variance: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An overlap's root beside that of randomly turned matrices.

    Args:
        overlap: |A B|² / (|A|² |B|²).
        variance: Of the same under random rotations, `overlap_moments`.
        width: Of the stream.

    Returns:
        Mean of the root under rotations, z-score of the root, and the share of rotations with an
        overlap as large.
    """
    shape, size = 1 / (width**2 * variance), width * variance
    ratio = np.exp(scipy.special.gammaln(shape + 0.5) - scipy.special.gammaln(shape))
    # With many degrees of freedom that is a difference of large numbers; the series is exact there.
    many = shape > _MANY
    mean = np.where(many, np.sqrt(1 / width) * (1 - 1 / (8 * shape)), ratio * np.sqrt(size))
    spread = np.sqrt(np.where(many, variance * width / 4, np.maximum(1 / width - mean**2, 1e-30)))
    z = (np.sqrt(overlap) - mean) / spread
    p_values = np.maximum(scipy.special.gammaincc(shape, overlap / size), SMALLEST)
    return np.asarray(mean), np.asarray(z), np.asarray(p_values)


def cosine_p_value(cosine: np.ndarray | float, width: int) -> np.ndarray:
    """How often a random direction has a cosine as far from zero."""
    sine = np.clip(1 - np.square(np.asarray(cosine, dtype=np.float64)), 0.0, 1.0)
    return np.asarray(np.maximum(scipy.special.betainc((width - 1) / 2, 0.5, sine), SMALLEST))


def directions(n: int, width: int, seed: int, device: torch.device) -> Float[Tensor, "sample _"]:
    """Random directions of length 1."""
    random = gaussian((n, width), np.random.default_rng(seed), device)
    return random / random.norm(dim=1, keepdim=True)


def gaussian(
    shape: tuple[int, ...], rng: np.random.Generator, device: torch.device
) -> Float[Tensor, "..."]:
    """Independent Gaussians that no model was initialised with.

    torch's own generator with a small seed may repeat the very numbers that a model's weights began
    as, and trained weights still resemble these.
    """
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)


def largest_products(
    rows: Float[Tensor, "d_vocab d_model"], seed: int, n: int = RANDOM_DIRECTIONS
) -> Float[np.ndarray, " sample"]:
    """Largest product, of either sign, that any token's row has with each random direction."""
    random = directions(n, rows.shape[1], seed, rows.device)
    largest = torch.stack([(some @ random.T).abs().amax(0) for some in rows.split(8192)]).amax(0)
    return largest.cpu().numpy().astype(np.float64)


def p_values(
    values: Float[np.ndarray, " row"], null: Float[np.ndarray, " sample"]
) -> Float[np.ndarray, " row"]:
    """Share of the null that is as large, each value counted in."""
    beaten = len(null) - np.searchsorted(np.sort(null), values, side="left")
    return (1 + beaten) / (1 + len(null))
