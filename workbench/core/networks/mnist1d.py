"""MNIST-1D: ten one-dimensional digits, small enough to train on in seconds.

1. A digit is a template of 12 points, centred, scaled to unit deviation and moved to start at zero.
2. It is padded with 36 to 60 zeros, stretched to 72 places, scaled by up to 20 %, and rotated
   around by up to 47 places.
3. Where there is no digit there is smooth noise; all places get a little white noise; a slope of
   random steepness is taken off; the result is sampled at 40 places.
4. All sequences together are brought to mean 0 and deviation 1; the last fifth is the test set.

Random numbers are drawn in the published order from numpy's legacy generator, so that the published
seed (42) makes the published data. Nothing is stored or downloaded.

Source: Greydanus and Kobak 2024, arXiv 2011.14439; https://github.com/greydanus/mnist1d (Apache
2.0), from which the ten templates are taken.

Units: none; an input has deviation 1 over the whole data set.

Limits: classes are equally frequent; the generator is numpy's frozen legacy one, on purpose.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy import ndimage

LENGTH = 40
CLASSES = tuple(str(digit) for digit in range(10))

_POINTS, _PADDING, _SCALE, _SHIFT = 12, (36, 60), 0.4, 48
_SMOOTH_NOISE, _WHITE_NOISE, _SHEAR = 0.25, 0.02, 0.75
_TRAIN_SHARE = 0.8
# Keeps the digit's own zeros apart from those of the padding.
_NOT_ZERO = 1e-8
_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


@dataclasses.dataclass(frozen=True)
class Mnist1d:
    """Sequences with their digits.

    Attributes:
        train: Training sequences.
        train_labels: Their digits.
        test: Held-out sequences.
        test_labels: Their digits.
    """

    train: Float32[np.ndarray, "example place"]
    train_labels: Int64[np.ndarray, " example"]
    test: Float32[np.ndarray, "held_out place"]
    test_labels: Int64[np.ndarray, " held_out"]


def generate(n: int = 5000, *, seed: int = 42) -> Mnist1d:
    """Make the data set.

    Args:
        n: Sequences, training and test together; a multiple of ten.
        seed: Seed; 42 with 5,000 sequences is the published data.

    Returns:
        The data set; equal seeds give equal bits.

    Raises:
        ValueError: If n is no positive multiple of ten.
    """
    if n <= 0 or n % len(CLASSES):
        raise ValueError(f"n = {n}; expected a positive multiple of {len(CLASSES)}")
    random = np.random.RandomState(seed)
    digits = np.repeat(np.arange(len(CLASSES)), n // len(CLASSES))
    templates = _templates()
    sequences = np.stack([_sequence(templates[digit], random) for digit in digits])
    order = random.permutation(n)
    sequences, labels = sequences[order], digits[order].astype(np.int64)
    sequences = ((sequences - sequences.mean()) / sequences.std()).astype(np.float32)
    split = int(n * _TRAIN_SHARE)
    return Mnist1d(sequences[:split], labels[:split], sequences[split:], labels[split:])


def _templates() -> Float64[np.ndarray, "digit point"]:
    points = np.array(_TEMPLATES, dtype=np.float64)
    points -= points.mean(1, keepdims=True)
    points /= points.std(1, keepdims=True)
    return (points - points[:, :1]) / 6


def _sequence(
    template: Float64[np.ndarray, " point"], random: np.random.RandomState
) -> Float64[np.ndarray, " place"]:
    """One distorted digit; the order of the random draws is part of the published definition."""
    low, high = _PADDING
    zeros = low + int(random.rand() * (high - low + 1))
    padded = np.concatenate([template + _NOT_ZERO, np.zeros(zeros)])
    stretched = _resampled(padded, _POINTS + high) * (1 + _SCALE * (random.rand() - 0.5))
    shift = random.choice(_SHIFT)
    moved = np.roll(stretched, shift)
    smooth = ndimage.gaussian_filter(_SMOOTH_NOISE * random.randn(len(moved)), 2)
    noisy = np.where(moved != 0, moved, smooth) + _WHITE_NOISE * random.randn(len(moved))
    slope = _SHEAR * (random.rand() - 0.5)
    return _resampled(noisy - slope * np.linspace(-0.5, 0.5, len(noisy)), LENGTH)


def _resampled(values: Float64[np.ndarray, " before"], n: int) -> Float64[np.ndarray, " after"]:
    return np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(values)), values)
