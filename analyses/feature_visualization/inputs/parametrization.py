"""In which coordinates is the input optimized?

1. "pixel": every entry by itself, normal with deviation .01 at the start.
2. "fourier": real and imaginary part of every wave, normal with deviation .01 at the start. A wave
   of frequency f (cycles an entry) is scaled by sqrt(n) / max(f, 1/longest side), where n counts
   the entries of a channel, and the image divided by 4: all frequencies then have the energy that
   they have in natural images, and slow ones are learned as fast as quick ones.
3. Images of three channels live in decorrelated colours: one matrix, measured on natural images,
   turns these into red, green and blue before the sigmoid.

Source: Olah et al. 2017, "Feature Visualization", doi 10.23915/distill.00007; the constants are
those of lucid (github.com/tensorflow/lucid), `optvis/param`.

Units: none; what comes out is free, and the constraint makes an input of it.
Limits: the colour matrix is that of photographs, whatever the network was trained on.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float, Float64

PARAMETRIZATIONS = ("fourier", "pixel")
_DEVIATION = 0.01
_CONTRAST = 4.0
_COLOURS = 3
# Square root of the colour correlation of ImageNet, as lucid has it.
_COLOUR_CORRELATION_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))


def kind_of(shape: tuple[int, ...]) -> str:
    """What inputs of a shape are: "vector", "sequence" (channel, place) or "image".

    Args:
        shape: Of one input.

    Returns:
        The kind.

    Raises:
        ValueError: If it is none of them.
    """
    kinds = {1: "vector", 2: "sequence", 3: "image"}
    if len(shape) not in kinds or min(shape) < 1:
        raise ValueError(
            f"an input of shape {shape} is no vector (entry), sequence (channel, place) or image "
            "(channel, row, column)"
        )
    return kinds[len(shape)]


def frequencies(sizes: tuple[int, ...]) -> Float64[np.ndarray, "*wave"]:
    """Frequency of every wave of a real sequence or image, in cycles an entry.

    Args:
        sizes: Entries along each axis.

    Returns:
        The norms of the frequencies, laid out as `rfftn` does.
    """
    axes = [*(np.fft.fftfreq(n) for n in sizes[:-1]), np.fft.rfftfreq(sizes[-1])]
    grids = np.meshgrid(*axes, indexing="ij")
    return np.sqrt(np.sum(np.square(grids), axis=0))


def spectrum_scale(sizes: tuple[int, ...]) -> Float64[np.ndarray, "*wave"]:
    """Factor of every wave: the square root of the entries over the frequency.

    Args:
        sizes: Entries along each axis.

    Returns:
        sqrt(n) / max(f, 1 / longest side).
    """
    return math.sqrt(math.prod(sizes)) / np.maximum(frequencies(sizes), 1 / max(sizes))


def colour_matrix() -> Float64[np.ndarray, "colour colour"]:
    """The matrix that turns decorrelated colours (its columns) into red, green and blue."""
    root = np.array(_COLOUR_CORRELATION_ROOT)
    return root / np.linalg.norm(root, axis=0).max()


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """Coordinates of inputs of one shape.

    Attributes:
        name: "fourier" or "pixel".
        shape: Of one input.
        decorrelated: Whether the channels are decorrelated colours.
    """

    name: str
    shape: tuple[int, ...]
    decorrelated: bool

    def start(self, restarts: int, generator: torch.Generator) -> torch.Tensor:
        """Random coordinates near zero.

        Args:
            restarts: Inputs.
            generator: Source of the random numbers.

        Returns:
            float64 coordinates on the CPU.
        """
        shape = self.shape
        if self.name == "fourier":
            channels, sizes = self._channels()
            shape = (*channels, *frequencies(sizes).shape, 2)
        return _DEVIATION * torch.randn(restarts, *shape, generator=generator, dtype=torch.float64)

    def free(self, coordinates: torch.Tensor) -> Float[torch.Tensor, "restart *shape"]:
        """Inputs before the constraint.

        Args:
            coordinates: As `start` makes them, of any dtype and device.

        Returns:
            The inputs.
        """
        values = coordinates
        if self.name == "fourier":
            _, sizes = self._channels()
            scale = torch.as_tensor(spectrum_scale(sizes)).to(coordinates)
            axes = tuple(range(-len(sizes), 0))
            waves = torch.view_as_complex(coordinates) * scale
            values = torch.fft.irfftn(waves, s=sizes, dim=axes) / _CONTRAST
        if self.decorrelated:
            matrix = torch.as_tensor(colour_matrix()).to(coordinates)
            values = torch.einsum("rc,bcij->brij", matrix, values)
        return values

    def _channels(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Channel axes and the axes along which waves run."""
        return ((), self.shape) if len(self.shape) == 1 else (self.shape[:1], self.shape[1:])


def choose(name: str | None, shape: tuple[int, ...]) -> Parametrization:
    """A parametrization by its name.

    Args:
        name: "fourier", "pixel", or None for "pixel" on vectors and "fourier" on all others.
        shape: Of one input.

    Returns:
        The parametrization; images of three channels are decorrelated.

    Raises:
        ValueError: If the name is unknown or the shape is that of no input.
    """
    kind = kind_of(shape)
    chosen = name or ("pixel" if kind == "vector" else "fourier")
    if chosen not in PARAMETRIZATIONS:
        known = ", ".join(PARAMETRIZATIONS)
        raise ValueError(f"parametrization = {chosen!r}; expected one of {known}")
    return Parametrization(chosen, shape, kind == "image" and shape[0] == _COLOURS)
