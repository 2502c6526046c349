"""Small random changes of the input at every step, which an optimum must survive.

1. `Pad` adds a margin of grey, `Jitter` cuts a random window that is a little smaller, `Scale` and
   `Rotate` resample around the middle.
2. `apply` runs them in their order and brings the result back to the input's own size by cutting
   or padding around the middle.
3. For images the standard is lucid's: pad 12, jitter 8, scale .9 to 1.1, rotate ±10°, jitter 4 on
   128 pixels, the lengths in proportion to the size. Sequences and vectors have none unless asked
   for.

Source: Olah et al. 2017, "Feature Visualization", doi 10.23915/distill.00007; lucid's
`optvis/transform`.

Units: entries for lengths, factors for scales, degrees for angles.
Limits: one draw a step, shared by all restarts, as in lucid.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch.nn import functional

# Lengths of lucid's standard are for images of this many pixels.
_STANDARD_SIZE = 128
_IMAGE_NDIM = 4

Inputs = Float[torch.Tensor, "restart channel *place"]
# The result of a transform may be of another size.
Changed = Float[torch.Tensor, "restart channel *elsewhere"]


@dataclasses.dataclass(frozen=True)
class Pad:
    """A margin of a constant on every side.

    Attributes:
        length: Entries on each side.
        value: The constant; None for the middle of the allowed range.
    """

    length: int
    value: int | float | None = None

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"pad by {self.length}; expected a length of at least 0")

    def __call__(self, inputs: Inputs, generator: torch.Generator, grey: int | float) -> Changed:
        """Padded inputs, larger by twice the length."""
        margin = [self.length, self.length] * (inputs.ndim - 2)
        return functional.pad(inputs, margin, value=grey if self.value is None else self.value)


@dataclasses.dataclass(frozen=True)
class Jitter:
    """A random window, smaller than the input by `length`."""

    length: int

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ValueError(f"jitter by {self.length}; expected a length of at least 0")

    def __call__(self, inputs: Inputs, generator: torch.Generator, grey: int | float) -> Changed:
        """The window; inputs that are no larger than `length` stay whole."""
        window = inputs
        for axis in range(2, inputs.ndim):
            size = inputs.shape[axis] - self.length
            if size > 0:
                start = int(torch.randint(self.length + 1, (), generator=generator))
                window = window.narrow(axis, start, size)
        return window


@dataclasses.dataclass(frozen=True)
class Scale:
    """Magnified by a random factor between two numbers, the frame kept."""

    low: int | float = 0.9
    high: int | float = 1.1

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(f"scale from {self.low} to {self.high}; expected 0 < low <= high")

    def __call__(self, inputs: Inputs, generator: torch.Generator, grey: int | float) -> Changed:
        """Magnified inputs."""
        return _resampled(inputs, _between(self.low, self.high, generator), 0.0, grey)


@dataclasses.dataclass(frozen=True)
class Rotate:
    """Turned by a random angle of at most `degrees`, the frame kept; for images only."""

    degrees: int | float = 10.0

    def __call__(self, inputs: Inputs, generator: torch.Generator, grey: int | float) -> Changed:
        """Turned inputs."""
        angle = _between(-self.degrees, self.degrees, generator)
        return _resampled(inputs, 1.0, math.radians(angle), grey)


Transform = Pad | Jitter | Scale | Rotate


def standard(kind: str, shape: tuple[int, ...]) -> tuple[Transform, ...]:
    """The transforms where none are asked for.

    Args:
        kind: "image", "sequence" or "vector".
        shape: Of one input.

    Returns:
        Lucid's for images, none for others.
    """
    if kind != "image":
        return ()
    part = min(shape[1:]) / _STANDARD_SIZE
    pad, first, second = (max(1, round(length * part)) for length in (12, 8, 4))
    return Pad(pad), Jitter(first), Scale(), Rotate(), Jitter(second)


def require(transforms: tuple[Transform, ...], kind: str) -> None:
    """Refuse transforms that inputs of a kind cannot have.

    Args:
        transforms: What was asked for.
        kind: "image", "sequence" or "vector".

    Raises:
        ValueError: If a vector is to be transformed, or anything but an image turned.
    """
    if kind == "vector" and transforms:
        raise ValueError(
            "the entries of a vector have no neighbours: give transforms=() for vectors"
        )
    if kind != "image" and any(isinstance(one, Rotate) for one in transforms):
        raise ValueError(f"only images can be rotated, and these inputs are of kind {kind!r}")


def apply(
    transforms: tuple[Transform, ...],
    inputs: Float[torch.Tensor, "restart *shape"],
    generator: torch.Generator,
    *,
    grey: int | float,
) -> Float[torch.Tensor, "restart *shape"]:
    """Run transforms one after the other.

    Args:
        transforms: In their order.
        inputs: Sequences or images.
        generator: Source of the random numbers, on the CPU.
        grey: What lies beyond the border.

    Returns:
        Transformed inputs of the same shape.
    """
    shape = inputs.shape
    for transform in transforms:
        inputs = transform(inputs, generator, grey)
    # Axes backwards, as torch's pad counts them; a negative margin cuts.
    margins: list[int] = []
    for before, after in zip(reversed(shape[2:]), reversed(inputs.shape[2:]), strict=True):
        margins += [(before - after) // 2, before - after - (before - after) // 2]
    return functional.pad(inputs, margins, value=grey) if any(margins) else inputs


def _between(low: int | float, high: int | float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _resampled(
    inputs: Inputs, factor: int | float, angle: int | float, grey: int | float
) -> Inputs:
    """Magnified by a factor and turned by an angle around the middle, bilinear."""
    image = inputs if inputs.ndim == _IMAGE_NDIM else inputs.unsqueeze(2)
    rows, columns = image.shape[2:]
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    # Coordinates run from −1 to 1 along both axes, so a turn of an oblong needs its proportions.
    turn = [[cos, -sin * rows / columns, 0.0], [sin * columns / rows, cos, 0.0]]
    matrix = torch.tensor(turn, dtype=image.dtype, device=image.device)
    shape = [len(image), image.shape[1], rows, columns]
    grid = functional.affine_grid(matrix.expand(len(image), 2, 3), shape, align_corners=False)
    # Sampling knows zeros beyond the border: grey becomes zero and back.
    sampled = functional.grid_sample(image - grey, grid, align_corners=False) + grey
    return sampled if inputs.ndim == _IMAGE_NDIM else sampled.squeeze(2)
