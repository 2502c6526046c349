"""Networks of two layers that say which of six numbers is the largest, or cannot.

1. `narrow`: two neurons come first, and many behind them. Whatever two neurons hold of six numbers,
   it does not tell which of these is the largest: what is missing are neurons in the first layer.
2. `sufficient`: a neuron for each number in both layers, so that scores are the numbers that are
   above zero. Of inputs of which one number is far above all others (`far_apart`) it knows every
   class, and no neuron that is added can tell it more.

Limits: the weights of `narrow` are random, so that it has to be trained to be as good as it can.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64

from workbench.core.models import sources
from workbench.core.networks import architectures
from workbench.core.prompts.concepts import Concept

NUMBERS = 6
# Neurons of the two layers, and by how much a far number is above the others.
WIDTHS, _FAR = (2, 32), 6.0


class Examples(NamedTuple):
    """Inputs, and which of their numbers is the largest.

    Attributes:
        inputs: Six numbers each.
        labels: The class of each.
    """

    inputs: Float32[np.ndarray, "example _"]
    labels: Int64[np.ndarray, " example"]

    @property
    def concept(self) -> Concept:
        """Whether the largest number is among the first half."""
        first = self.labels < NUMBERS // 2
        return Concept(self.inputs, first.astype(np.int64), "the largest is in the first half")


def narrow(seed: int = 0, device: str = "cpu") -> Any:
    """The first network of the module docstring.

    Args:
        seed: Of the weights.
        device: As for `workbench.load_model`.

    Returns:
        The network.
    """
    network: Any = architectures.build(architectures.Mlp(NUMBERS, WIDTHS, NUMBERS))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.zero_()
            if name.endswith("weight"):
                # Keeps the size of what comes in, half of which a rectifier takes away.
                value.normal_(0, (2 / value.shape[1]) ** 0.5, generator=generator)
    return network.to(sources.torch_device(device))


def sufficient(device: str = "cpu") -> Any:
    """The second network of the module docstring.

    Args:
        device: As for `workbench.load_model`.

    Returns:
        The network.
    """
    network: Any = architectures.build(architectures.Mlp(NUMBERS, (NUMBERS, NUMBERS), NUMBERS))
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.zero_()
            if name.endswith("weight"):
                value.copy_(torch.eye(NUMBERS))
    return network.to(sources.torch_device(device))


def drawn(n: int, seed: int = 0) -> Examples:
    """Examples of normal numbers.

    Args:
        n: How many.
        seed: Of the numbers.

    Returns:
        The examples.
    """
    inputs = np.random.default_rng(seed).normal(size=(n, NUMBERS)).astype(np.float32)
    return Examples(inputs, inputs.argmax(1).astype(np.int64))


def far_apart(n: int, seed: int = 0) -> Examples:
    """Examples of which one number is far above all others, which are small.

    Args:
        n: How many.
        seed: Of the numbers.

    Returns:
        The examples.
    """
    small = drawn(n, seed)
    inputs = small.inputs / 10 + _FAR * np.eye(NUMBERS, dtype=np.float32)[small.labels]
    return Examples(inputs.astype(np.float32), small.labels)
