"""Concepts of images and sequences, with what is known of how they look.

1. Images [image, channel, row, column]: confounds are brightness (mean over all pixels), contrast
   (deviation over them) and, where there are several channels, whether these differ.
2. Sequences and vectors: mean and deviation.
3. The rendered shapes and the digits of MNIST-1D have concepts by name: their classes, and what
   several classes have in common.

Units: those of the inputs.

Limits: contrast is a part of what makes some shapes what they are: holding it fixed may take some
of the concept away.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from workbench.core.networks import mnist1d, shapes
from workbench.core.prompts import concept_confounds, concepts

CURVATURE, COLOURED = "3D curvature", "coloured"
# Spheres, cylinders and saddles are surfaces that are bent in depth.
_BENT = 3
# Drawn with another seed than the images that the bundled network was trained on.
SHAPES_SEED = 1
_IMAGES = 4


def of_images(images: np.ndarray, labels: Any, name: str) -> concepts.Concept:
    """Labelled inputs of a network; see `Concept.of_images`."""
    inputs = np.asarray(images)
    concept = concepts.Concept(inputs, labels, name)
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    if inputs.ndim == _IMAGES:
        found = {"brightness": flat.mean(1), "contrast": flat.std(1)}
        if inputs.shape[1] > 1:
            differ = np.ptp(inputs, axis=1).reshape(len(inputs), -1).max(1)
            found[COLOURED] = (differ > 0).astype(np.float64)
    else:
        found = {"mean": flat.mean(1), "deviation": flat.std(1)}
    return concept.replaced(confounds=concept_confounds.varying(concept, found))


def of_shapes(name: str, *, n: int = 1200, seed: int = SHAPES_SEED) -> concepts.Concept:
    """What the rendered shapes have; see `Concept.shapes`."""
    known = (*shapes.CLASSES, CURVATURE, COLOURED)
    if name not in known:
        raise concepts.ConceptError(
            f"the shapes have no concept {name!r}: they have {', '.join(known)}"
        )
    _require_count(n, 2 * len(shapes.CLASSES))
    drawn = shapes.render(n, seed=seed)
    if name == COLOURED:
        concept = of_images(drawn.images, drawn.coloured.astype(np.int64), name)
        # The concept itself is no confound of it.
        others = {key: v for key, v in concept.confounds.items() if key != COLOURED}
        return concept.replaced(confounds=others)
    has = drawn.labels < _BENT if name == CURVATURE else drawn.labels == known.index(name)
    return of_images(drawn.images, has.astype(np.int64), name)


def of_mnist1d(
    digit: int, *, n: int | None = None, seed: int = 0, channels: bool = False
) -> concepts.Concept:
    """Which sequences are a digit; see `Concept.mnist1d`."""
    if not 0 <= digit < len(mnist1d.CLASSES):
        raise concepts.ConceptError(f"the digits are 0 to {len(mnist1d.CLASSES) - 1}, not {digit}")
    inputs, digits = _digits()
    labels = (digits == digit).astype(np.int64)
    if n is not None:
        if n > len(inputs):
            raise concepts.ConceptError(f"n = {n:,}: there are {len(inputs):,} held-out sequences")
        _require_count(n, 2 * len(mnist1d.CLASSES))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:n])
        inputs, labels = inputs[chosen], labels[chosen]
    return of_images(inputs[:, None] if channels else inputs, labels, f"digit {digit}")


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The held-out sequences of the published data, and their digits."""
    data = mnist1d.generate()
    for array in (data.test, data.test_labels):
        array.setflags(write=False)
    return data.test, data.test_labels


def _require_count(n: int, least: int) -> None:
    if n < least:
        raise concepts.ConceptError(f"n = {n}: expected at least {least} inputs")
