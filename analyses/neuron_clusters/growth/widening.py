"""Widen a network at one place, or at several, without changing what it computes.

1. Each new channel has random weights on what it reads (He et al. 2015, bias zero) and stands after
   the place's own channels.
2. Whatever reads the place gets zeros for it, at the place's offset where branches are concatenated
   and for each position where positions are flattened. So the class scores stay as they were.
3. The number of channels at another place is the one whose added parameters come nearest to a
   target.

Source: Chen et al. 2016, arXiv 1511.05641 (widening that preserves the function); Evci et al. 2022,
arXiv 2201.05125 (new neurons with zero weights on one side).

Units: parameters are trained numbers; multiply-adds are those of one input's forward pass, in
linear layers and convolutions.

Limits: networks of `workbench.core.networks.architectures` only. A widened network keeps the
original's `cfg`, which says what it reads and no longer how wide it is: it can be run and trained,
not saved.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.core.networks import architectures

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

_READOUT = "logits"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network takes.

    Attributes:
        parameters: Trained numbers.
        multiply_adds: Of one input's forward pass.
    """

    parameters: int
    multiply_adds: int


def places(network: HookedRootModule) -> tuple[str, ...]:
    """Places of a network that can be widened, in the order of its stages.

    Args:
        network: One that `architectures.build` made.

    Returns:
        Their names, which are those of a population's places.

    Raises:
        ValueError: If it is no such network.
    """
    return tuple(place for stage in _stages(network) for place in stage)


def widened(
    network: HookedRootModule, channels: Mapping[str, int], *, seed: int = 0
) -> HookedRootModule:
    """A copy of a network with more channels that computes the same.

    Args:
        network: One that `architectures.build` made; it stays as it is.
        channels: How many more at each place; places that are not named get none.
        seed: Of the new weights.

    Returns:
        The copy. Its hook points have the names of the original's; its `cfg` is the original's.

    Raises:
        ValueError: If there is no such place or a number is negative.
    """
    known = places(network)
    for place, count in channels.items():
        if place not in known:
            raise ValueError(f"there is no place {place!r} to widen; choose of {', '.join(known)}")
        if count < 0:
            raise ValueError(f"{count} more channels at {place}; expected 0 or more")
    grown = copy.deepcopy(network)
    random = torch.Generator().manual_seed(seed)
    for place in known:
        if channels.get(place, 0):
            _widen(grown, place, channels[place], random)
    return grown


def cost(network: HookedRootModule) -> Cost:
    """Parameters and multiply-adds, counted on a blank input.

    Args:
        network: One that `architectures.build` made, widened or not.

    Returns:
        Both.
    """
    own: Any = copy.deepcopy(network).eval()
    counts: list[int] = []

    def count(layer: Any, _inputs: object, output: torch.Tensor) -> None:
        counts.append(layer.weight.numel() * (output[0].numel() // layer.weight.shape[0]))

    for layer in own.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            layer.register_forward_hook(count)
    weight = next(own.parameters())
    with torch.inference_mode():
        own(torch.zeros((1, *own.cfg.input_shape), device=weight.device, dtype=weight.dtype))
    return Cost(_parameters(own), sum(counts))


def added_parameters(network: HookedRootModule, channels: Mapping[str, int]) -> int:
    """How many parameters a widening adds.

    Args:
        network: What is widened.
        channels: How many more channels at each place.

    Returns:
        The number.
    """
    return _parameters(widened(network, channels)) - _parameters(network)


def matched(network: HookedRootModule, place: str, target: int) -> int:
    """How many channels at a place add as many parameters as the target, as nearly as may be.

    Args:
        network: What is widened.
        place: Where.
        target: Parameters to add.

    Returns:
        The number of channels; what they add is off by no more than half a channel's cost.

    Raises:
        ValueError: If even one channel is off by more.
    """
    one = added_parameters(network, {place: 1})
    count = round(target / one)
    if count < 1:
        raise ValueError(
            f"one channel at {place} takes {one:,} parameters and the target is {target:,}: add "
            f"more channels, so that at least {(one + 1) // 2:,} parameters are added, or leave "
            "this place out"
        )
    return count


def evenly(network: HookedRootModule, among: Sequence[str], target: int) -> dict[str, int]:
    """Channels spread over places until they add as many parameters as the target.

    One channel at a time goes to each place in turn, the cheapest place first, for as long as the
    sum comes nearer to the target.

    Args:
        network: What is widened.
        among: The places.
        target: Parameters to add.

    Returns:
        How many channels each place gets.
    """
    counts = dict.fromkeys(among, 0)
    in_turn = sorted(among, key=lambda place: added_parameters(network, {place: 1}))
    total = 0
    while True:
        for place in in_turn:
            trial = counts | {place: counts[place] + 1}
            # Counted as a whole: a new channel also reads those that are new in the stage before.
            added = added_parameters(network, trial)
            if abs(added - target) >= abs(total - target):
                return counts
            counts, total = trial, added


def _stages(network: HookedRootModule) -> list[list[str]]:
    """Places stage by stage; those of one stage are concatenated in this order."""
    config: Any = getattr(network, "cfg", None)
    if isinstance(config, architectures.Mlp):
        return [[f"layer{i}"] for i in range(len(config.widths))]
    if isinstance(config, architectures.Cnn1d):
        return [[f"conv{i}"] for i in range(len(config.channels))]
    if isinstance(config, architectures.BranchCnn):
        mixed = range(len(config.mixed))
        branches = [[f"mixed{i}.branch{size}" for size in architectures.BRANCHES] for i in mixed]
        return [["stem"], *branches]
    raise ValueError(
        f"a {type(network).__name__} whose cfg is a {type(config).__name__} cannot be widened: "
        "give a network that load_network opened or architectures.build made"
    )


def _layer(network: HookedRootModule, place: str) -> Any:
    """The linear layer or convolution that writes a place."""
    if place == _READOUT:
        return network.get_submodule(_READOUT)
    linear = isinstance(getattr(network, "cfg", None), architectures.Mlp)
    return network.get_submodule(f"{place}.{'linear' if linear else 'conv'}")


def _widen(network: HookedRootModule, place: str, count: int, random: torch.Generator) -> None:
    stages = _stages(network)
    depth = next(i for i, stage in enumerate(stages) if place in stage)
    # Sizes are those of the weights: other places may have been widened before.
    sizes = [int(_layer(network, each).weight.shape[0]) for each in stages[depth]]
    until = sum(sizes[: stages[depth].index(place) + 1])
    after = stages[depth + 1] if depth + 1 < len(stages) else [_READOUT]
    for reader in (_layer(network, each) for each in after):
        # A readout of all positions has that many weights for each channel.
        block = reader.weight.shape[1] // sum(sizes)
        rows, _, *kernel = reader.weight.shape
        zeros = reader.weight.new_zeros((rows, count * block, *kernel))
        before, behind = reader.weight.detach().tensor_split([until * block], dim=1)
        reader.weight = nn.Parameter(torch.cat([before, zeros, behind], dim=1))
        _resize(reader)
    writer = _layer(network, place)
    fresh = torch.empty((count, *writer.weight.shape[1:]))
    nn.init.kaiming_normal_(fresh, nonlinearity="relu", generator=random)
    writer.weight = nn.Parameter(torch.cat([writer.weight.detach(), fresh.to(writer.weight)]))
    writer.bias = nn.Parameter(torch.cat([writer.bias.detach(), writer.bias.new_zeros(count)]))
    _resize(writer)


def _resize(layer: Any) -> None:
    """Let a layer say how large its weights are."""
    names = ("out_features", "in_features")
    if not isinstance(layer, nn.Linear):
        names = ("out_channels", "in_channels")
    for name, size in zip(names, layer.weight.shape[:2], strict=True):
        setattr(layer, name, int(size))


def _parameters(network: HookedRootModule) -> int:
    return sum(weight.numel() for weight in network.parameters())
