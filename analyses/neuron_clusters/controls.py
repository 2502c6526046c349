"""What is left of a finding when the subject has learned nothing?

1. `untrained`: the same architecture with weights drawn anew. A network of this project is built
   again; of any other subject each weight matrix is drawn from a normal distribution with the
   matrix's own deviation, biases are 0 and scales of norms their own mean.
2. `shuffled_weights`: the entries of each weight matrix change places within it; vectors stay.
3. `same_units` names the units of such a subject as those of the true one.

Source: Adebayo et al. 2018, arXiv 1810.03292 (sanity checks by randomised models).

Units: those of the weights.

Limits: an untrained network still sees its inputs, so it may tell apart what differs in brightness.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from workbench.core.engine import populations
from workbench.core.networks import architectures

Tensor = torch.Tensor
_MATRIX = 2


def untrained(subject: Any, seed: int = 0) -> Any:
    """The same architecture with random weights.

    Args:
        subject: A language model or a network.
        seed: Of the weights.

    Returns:
        A new subject; the given one is as it was.

    Raises:
        ValueError: If it is neither.
    """
    config = getattr(_required(subject), "cfg", None)
    if isinstance(config, architectures.Config):
        device = next(iter(subject.parameters())).device
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            return architectures.build(config).to(device)

    def draw(name: str, weight: Tensor, random: torch.Generator) -> Tensor:
        if weight.ndim >= _MATRIX:
            return torch.randn(weight.shape, generator=random) * weight.std()
        return (
            torch.zeros_like(weight) if name.endswith("bias") else weight.mean().expand_as(weight)
        )

    return _rewritten(subject, draw, seed)


def shuffled_weights(subject: Any, seed: int = 0) -> Any:
    """The same with the entries of each weight matrix in random order.

    Args:
        subject: A language model or a network.
        seed: Of the order.

    Returns:
        A new subject; the given one is as it was.

    Raises:
        ValueError: If it is neither.
    """

    def draw(name: str, weight: Tensor, random: torch.Generator) -> Tensor:
        if weight.ndim < _MATRIX:
            return weight
        order = torch.randperm(weight.numel(), generator=random)
        return weight.flatten()[order].reshape(weight.shape)

    return _rewritten(subject, draw, seed)


def subject_of(population: populations.Population) -> Any:
    """The language model or network whose units these are.

    Args:
        population: Units.

    Returns:
        What `untrained` and `shuffled_weights` take.

    Raises:
        ValueError: If the population does not say.
    """
    for name in ("model", "network"):
        if hasattr(population, name):
            return getattr(population, name)
    raise ValueError(
        f"a {type(population).__name__} does not say which model it is of, so there are no weights "
        "to shuffle: leave the controls out (controls=False)"
    )


def same_units(population: populations.Population, subject: Any) -> populations.Population:
    """The units of another subject of the same architecture.

    Args:
        population: Units of the first.
        subject: The other one.

    Returns:
        Its units, by the same names.

    Raises:
        ValueError: If it has others.
    """
    own: Any = population
    if isinstance(subject, populations.Population):
        other = subject
    elif hasattr(own, "network"):
        other = populations.of_network(_required(subject), own.hooks)
    else:
        kinds = list(dict.fromkeys(place.kind for place in own.families))
        layers = sorted({place.layer for place in own.families})
        other = populations.of_model(
            _required(subject), kinds, layers=layers, dictionary=own.dictionary
        )
    if other.names != population.names:
        raise ValueError(
            f"it has {len(other):,} units ({', '.join(place.name for place in other.places)}), and "
            f"not the {len(population):,} of the first ({', '.join(p.name for p in own.places)}): "
            "give a training of the same architecture"
        )
    return other


def _required(subject: Any) -> Any:
    from transformer_lens.HookedRootModule import HookedRootModule
    from transformer_lens.model_bridge import TransformerBridge

    if not isinstance(subject, (HookedRootModule, TransformerBridge)):
        raise ValueError(
            f"a {type(subject).__name__} has no weights: give a language model (load_model) or a "
            "network with hook points (load_network)"
        )
    return subject


def _rewritten(
    subject: Any, draw: Callable[[str, Tensor, torch.Generator], Tensor], seed: int
) -> Any:
    """A copy with each weight drawn from its old value, in the order of their names."""
    made = copy.deepcopy(_required(subject)).eval()
    random = torch.Generator().manual_seed(seed)
    inner = getattr(made, "original_model", made)
    with torch.no_grad():
        for name, weight in sorted(inner.named_parameters()):
            weight.copy_(draw(name, weight.detach().cpu().float(), random))
    return made
