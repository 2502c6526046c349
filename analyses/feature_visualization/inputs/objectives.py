"""What is maximised: a neuron, a channel, a direction, a layer, or a sum of these.

1. `Target` is one channel at a hook point: at a position (a neuron), or the mean over all places.
2. `Direction` is the projection on a vector over the channels, times a power of the cosine.
3. `LogOdds` is how sure a classifier is of a class, against all others together.
4. `Layer` is the mean square of everything at a hook point ("DeepDream").
5. Sums and multiples are objectives, too: `0.5 * a + 0.5 * b` is a pair, `-a` the negative of a,
   `interpolate(a, b, share)` a way from one unit to another.
6. `similarity` measures how alike the restarts are: the mean cosine of the Gram matrices of their
   channels, over all pairs; optimization with diversity takes it off the objective.

Source: Olah et al. 2017, "Feature Visualization", doi 10.23915/distill.00007; lucid's
`optvis/objectives`.

Units: activations at a hook point are [example, channel, …]; a direction's projection is in units
of activation (its vector is normalised), a layer's mean square in their square.
Limits: channels are axis 1 of an activation; transformers' activations are not laid out so.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float

Position = int | tuple[int, ...] | None
# Lucid keeps the cosine above this, so that its power has a gradient everywhere.
_LEAST_COSINE = 0.1


class Objective(abc.ABC):
    """A number for each example, from activations at hook points; added like numbers."""

    @property
    @abc.abstractmethod
    def hooks(self) -> tuple[str, ...]:
        """The hook points that it reads, the first one the main one."""

    @property
    @abc.abstractmethod
    def label(self) -> str:
        """What it is, in a few signs."""

    @abc.abstractmethod
    def measure(self, activations: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " example"]:
        """Its value for each example.

        Args:
            activations: What the hook points of `hooks` hold.

        Returns:
            One number an example.
        """

    def __add__(self, other: Objective) -> Objective:
        return Combination(_terms(self) + _terms(other))

    def __sub__(self, other: Objective) -> Objective:
        return self + (-other)

    def __neg__(self) -> Objective:
        return -1.0 * self

    def __rmul__(self, factor: int | float) -> Objective:
        return Combination(tuple((float(factor) * w, term) for w, term in _terms(self)))

    __mul__ = __rmul__


@dataclasses.dataclass(frozen=True)
class Target(Objective):
    """One channel at a hook point.

    Attributes:
        hook: Name of the hook point.
        channel: Index along axis 1.
        position: Place: an int for sequences, (row, column) for images; None for the mean of all.
    """

    hook: str
    channel: int
    position: Position = None

    @property
    def hooks(self) -> tuple[str, ...]:
        """The one hook point."""
        return (self.hook,)

    @property
    def label(self) -> str:
        """Hook, channel and place."""
        return f"{self.hook}[{self.channel}]{_place(self.position)}"

    def measure(self, activations: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " example"]:
        """The channel's activation."""
        values = _at(self.hook, activations[self.hook], self.position)
        if not 0 <= self.channel < values.shape[1]:
            raise ValueError(
                f"channel {self.channel} is out of range: {self.hook!r} has {values.shape[1]} "
                "channels, counted from 0"
            )
        return values[:, self.channel]


@dataclasses.dataclass(frozen=True)
class LogOdds(Objective):
    """Log-odds of a class: its score minus the log-sum-exp of the others' scores.

    A score by itself may be high where another class's is higher still. The log-odds are positive
    only where the network says that class, with more than half of the probability.

    Attributes:
        index: Which class.
        hook: Where the class scores are.
    """

    index: int
    hook: str = "hook_logits"

    @property
    def hooks(self) -> tuple[str, ...]:
        """The one hook point."""
        return (self.hook,)

    @property
    def label(self) -> str:
        """Hook and class."""
        return f"log-odds of class {self.index} at {self.hook}"

    def measure(self, activations: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " example"]:
        """The log-odds."""
        score = Target(self.hook, self.index).measure(activations)
        scores = _at(self.hook, activations[self.hook], None)
        others = torch.cat([scores[:, : self.index], scores[:, self.index + 1 :]], dim=1)
        return score - others.logsumexp(1)


@dataclasses.dataclass(frozen=True)
class Direction(Objective):
    """A direction over the channels of a hook point.

    Attributes:
        hook: Name of the hook point.
        vector: One number a channel; its length does not matter.
        position: Place, or None for the mean over all places.
        cosine_power: The projection is multiplied by max(.1, cosine) to this power, so that what
            points elsewhere counts less.
    """

    hook: str
    vector: tuple[int | float, ...]
    position: Position = None
    cosine_power: int | float = 0.0

    def __post_init__(self) -> None:
        vector = np.asarray(self.vector, dtype=np.float64)
        if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
            raise ValueError("a direction is a vector of finite numbers that are not all zero")
        object.__setattr__(self, "vector", tuple(float(entry) for entry in vector))

    @property
    def hooks(self) -> tuple[str, ...]:
        """The one hook point."""
        return (self.hook,)

    @property
    def label(self) -> str:
        """Hook and place."""
        return f"direction at {self.hook}{_place(self.position)}"

    def measure(self, activations: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " example"]:
        """The projection, times the power of the cosine."""
        values = _at(self.hook, activations[self.hook], self.position)
        if values.shape[1] != len(self.vector):
            raise ValueError(
                f"the direction has {len(self.vector)} entries, but {self.hook!r} has "
                f"{values.shape[1]} channels"
            )
        vector = torch.tensor(self.vector, dtype=values.dtype, device=values.device)
        projection = values @ (vector / vector.norm())
        if not self.cosine_power:
            return projection
        cosine = projection / values.norm(dim=1).clamp_min(1e-12)
        return projection * cosine.clamp_min(_LEAST_COSINE) ** self.cosine_power


@dataclasses.dataclass(frozen=True)
class Layer(Objective):
    """The mean square of all that a hook point holds."""

    hook: str

    @property
    def hooks(self) -> tuple[str, ...]:
        """The one hook point."""
        return (self.hook,)

    @property
    def label(self) -> str:
        """The hook."""
        return f"layer {self.hook}"

    def measure(self, activations: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " example"]:
        """The mean square."""
        return activations[self.hook].flatten(1).square().mean(1)


@dataclasses.dataclass(frozen=True)
class Combination(Objective):
    """A weighted sum of objectives, as `+`, `-` and `*` make it."""

    terms: tuple[tuple[float, Objective], ...]

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hook points of all terms, each once."""
        return tuple(dict.fromkeys(hook for _, term in self.terms for hook in term.hooks))

    @property
    def label(self) -> str:
        """The sum, term by term."""
        return " + ".join(f"{weight:g} · {term.label}" for weight, term in self.terms)

    def measure(self, activations: Mapping[str, torch.Tensor]) -> Float[torch.Tensor, " example"]:
        """The weighted sum."""
        return torch.stack([w * term.measure(activations) for w, term in self.terms]).sum(0)


def interpolate(first: Objective, second: Objective, share: int | float) -> Objective:
    """Between two units.

    Args:
        first: Where the way begins.
        second: Where it ends.
        share: 0 is the first, 1 the second.

    Returns:
        (1 − share) · first + share · second.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share = {share}; expected a number from 0 to 1")
    return (1 - share) * first + share * second


def similarity(values: torch.Tensor) -> Float[torch.Tensor, ""]:
    """How alike examples are: the mean cosine of their channels' Gram matrices, over all pairs.

    Args:
        values: Activations, [example, channel, …]; at least two examples.

    Returns:
        1 where all are alike.
    """
    flat = values.reshape(len(values), values.shape[1], -1)
    grams = torch.einsum("ecp,edp->ecd", flat, flat).flatten(1)
    unit = grams / grams.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosines = unit @ unit.T
    n = len(values)
    return (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))


def _terms(objective: Objective) -> tuple[tuple[float, Objective], ...]:
    return objective.terms if isinstance(objective, Combination) else ((1.0, objective),)


def _place(position: Position) -> str:
    return "" if position is None else f" at {position}"


def _at(
    hook: str, values: torch.Tensor, position: Position
) -> Float[torch.Tensor, "example channel"]:
    """Activations at a place, or their mean over all places."""
    if position is None:
        return values.reshape(*values.shape[:2], -1).mean(2)
    place = (position,) if isinstance(position, int) else position
    sizes = tuple(values.shape[2:])
    fits = len(place) == len(sizes)
    if not fits or not all(0 <= at < n for at, n in zip(place, sizes, strict=True)):
        raise ValueError(
            f"position {position} is not in the activation of {hook!r}, whose places are {sizes}"
        )
    return values[(slice(None), slice(None), *place)]
