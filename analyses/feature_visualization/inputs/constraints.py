"""Which inputs are allowed? Without an answer a linear unit has no maximum.

1. `Ball`: inputs whose Euclidean norm is at most a radius; longer ones are scaled back to it.
2. `Box`: every entry lies between two numbers, reached through a sigmoid (as lucid does for
   pixels).

Units: those of the input.
Limits: a ball lets all energy go into a few entries, a box lets every entry go to its end: neither
knows what natural inputs look like.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Ball:
    """Inputs of a norm up to `radius`."""

    radius: int | float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise ValueError(f"radius = {self.radius}; expected a positive number")

    def enforce(
        self, free: Float[torch.Tensor, "restart *shape"]
    ) -> Float[torch.Tensor, "restart *shape"]:
        """Scale inputs that are too long back to the radius; others stay as they are."""
        norms = free.flatten(1).norm(dim=1).clamp_min(self.radius)
        return free * (self.radius / norms).reshape(-1, *[1] * (free.ndim - 1))

    def __str__(self) -> str:
        return f"norm at most {self.radius:.4g}"


@dataclasses.dataclass(frozen=True)
class Box:
    """Inputs whose every entry lies between `low` and `high`."""

    low: int | float = 0.0
    high: int | float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low = {self.low}, high = {self.high}; expected low below high")

    def enforce(
        self, free: Float[torch.Tensor, "restart *shape"]
    ) -> Float[torch.Tensor, "restart *shape"]:
        """Squash every entry into the box by a sigmoid."""
        return self.low + (self.high - self.low) * torch.sigmoid(free)

    def __str__(self) -> str:
        return f"entries from {self.low:.4g} to {self.high:.4g}"


Constraint = Ball | Box


def default(
    kind: str, shape: tuple[int, ...], data: Float[np.ndarray, "example *shape"] | None
) -> Constraint:
    """The constraint where none is asked for.

    Args:
        kind: "image", "sequence" or "vector".
        shape: Of one input.
        data: Examples, if there are any.

    Returns:
        For images the box from 0 to 1, widened to the data's range; for others the ball whose
        radius is the largest norm in the data, or without data the norm of a vector whose entries
        are all 1 or −1.
    """
    if kind == "image":
        low, high = (0.0, 1.0) if data is None else (float(data.min()), float(data.max()))
        return Box(min(low, 0.0), max(high, 1.0))
    if data is None:
        return Ball(math.sqrt(math.prod(shape)))
    longest = float(np.linalg.norm(data.reshape(len(data), -1).astype(np.float64), axis=1).max())
    return Ball(longest or math.sqrt(math.prod(shape)))
