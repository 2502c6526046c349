"""A network whose neurons for a concept are where one asks for them.

1. Branches that all read the input, `layer0.branch0` … `layer2.branch2`, have 20 neurons each.
2. A neuron is relu(0.5 + noise + effect · concept) if it is planted, else relu(0.5 + noise), where
   its noise is a direction of its own in the noise coordinates, of unit length.
3. Class scores: 0 and 1 say whether the concept is there, from the planted neurons alone; 2 and 3
   say whether the other property is, from at least as many others that read it.

Limits: layers are names only, as none reads another: what makes neurons alike is the concept alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.core.models import sources
from workbench.core.prompts.concepts import Concept

LAYERS, BRANCHES, WIDTH = 3, 3, 20
N_UNITS = LAYERS * BRANCHES * WIDTH
# Coordinates of an input: the concept, another property, and noise.
CONCEPT, OTHER, NOISE = 0, 1, 40
D_INPUT = 2 + NOISE


@dataclasses.dataclass(frozen=True)
class Config:
    """What the network reads.

    Attributes:
        input_shape: Shape of one input.
    """

    input_shape: tuple[int, ...] = (D_INPUT,)


def planted(
    planted: Mapping[str, int], effect: float | int = 2.0, seed: int = 0, device: str = "cpu"
) -> Any:
    """A network with so many neurons of the concept in each named branch.

    Args:
        planted: Branch ("layer1.branch2") to how many of its 20 neurons; others have none.
        effect: Difference of a planted neuron's input in standard deviations of its noise.
        seed: Of weights and of which neurons.
        device: As for `workbench.load_model`.

    Returns:
        The network; its `planted` and `others` name the neurons that read either property.
    """
    network = _network_class()(planted, effect, seed).eval()
    return network.to(sources.torch_device(device))


def concept(n: int = 600, seed: int = 0) -> Concept:
    """Inputs, half of which have the concept; the other property is there by a coin of its own.

    Args:
        n: How many.
        seed: Of the inputs.

    Returns:
        The concept, a label an input.
    """
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % 2)
    inputs = random.normal(size=(n, D_INPUT)).astype(np.float32)
    inputs[:, CONCEPT] = labels
    inputs[:, OTHER] = random.integers(0, 2, n)
    return Concept(inputs, labels, "planted concept")


@functools.cache
def _network_class() -> Any:
    """The class of the network, made on first use: TransformerLens takes long to import."""
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedRootModule import HookedRootModule

    class Planted(HookedRootModule):
        """The network described in the module docstring."""

        def __init__(self, planted: Mapping[str, int], effect: float | int, seed: int) -> None:
            super().__init__()
            self.cfg = Config()
            random = torch.Generator().manual_seed(seed)
            self.planted: list[str] = []
            self.others: list[str] = []
            units = [f"layer{i}.branch{j}" for i in range(LAYERS) for j in range(BRANCHES)]
            reads = torch.zeros(N_UNITS, D_INPUT)
            noise = torch.randn(N_UNITS, NOISE, generator=random)
            reads[:, 2:] = noise / noise.norm(dim=1, keepdim=True)
            chosen = torch.zeros(N_UNITS, dtype=torch.bool)
            for name, count in planted.items():
                start = units.index(name) * WIDTH
                chosen[start + torch.randperm(WIDTH, generator=random)[:count]] = True
            free = (~chosen).nonzero()[:, 0]
            other = free[torch.randperm(len(free), generator=random)[: max(12, int(chosen.sum()))]]
            reads[chosen, CONCEPT] = effect
            reads[other, OTHER] = 3.0
            writes = torch.zeros(4, N_UNITS)
            if chosen.any():
                writes[1, chosen] = 8.0 / float(chosen.sum())
            writes[3, other] = 8.0 / len(other)
            for number, unit in enumerate(units):
                layer, branch = unit.split(".")
                if not hasattr(self, layer):
                    self.add_module(layer, nn.Module())
                rows = slice(number * WIDTH, (number + 1) * WIDTH)
                linear = nn.Linear(D_INPUT, WIDTH)
                with torch.no_grad():
                    linear.weight[:], linear.bias[:] = reads[rows], 0.5
                part = nn.Sequential()
                part.add_module("linear", linear)
                part.add_module("relu", nn.ReLU())
                part.add_module("hook_out", HookPoint())
                self.get_submodule(layer).add_module(branch, part)
                self.planted += [f"{unit}.{i}" for i in range(WIDTH) if chosen[rows][i]]
                self.others += [f"{unit}.{i}" for i in range(WIDTH) if number * WIDTH + i in other]
            self._units = units
            self.readout = nn.Linear(N_UNITS, 4)
            with torch.no_grad():
                self.readout.weight[:] = writes
                # Halfway between the scores without and with the property.
                halves = [8 * (0.7 + effect / 2), 0, 8 * (0.7 + 1.5), 0]
                self.readout.bias[:] = torch.tensor(halves)
            self.hook_logits = HookPoint()
            self.setup()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden = [self.get_submodule(unit)(inputs) for unit in self._units]
            return self.hook_logits(self.readout(torch.cat(hidden, 1)))

    return Planted
