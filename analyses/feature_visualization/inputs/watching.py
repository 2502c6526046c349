"""Run a copy of a network and hold what passes its hook points, gradients included."""

from __future__ import annotations

import contextlib
import copy
import difflib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from analyses.feature_visualization.inputs import objectives
from workbench.core import results
from workbench.core.networks import sources

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule


def private_copy(network: HookedRootModule) -> HookedRootModule:
    """A copy to experiment on, in evaluation mode, whose weights take no gradients.

    Hooks of two runs on one network would see each other, and the caller's network stays as it is.
    """
    return copy.deepcopy(network).eval().requires_grad_(False)


def place_of(network: HookedRootModule) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of a network's weights; CPU and float32 where it has none."""
    for weight in (*network.parameters(), *network.buffers()):
        if weight.is_floating_point():
            return weight.device, weight.dtype
    return torch.device("cpu"), torch.float32


def provenance(
    network: HookedRootModule,
    *,
    analysis: str,
    parameters: dict[str, Any],
    seed: int,
    wall_time: float,
) -> results.Provenance:
    """Describe a run on a network.

    Args:
        network: What it ran on.
        analysis: Module and function.
        parameters: Every argument that changes numbers; JSON types only.
        seed: Its seed.
        wall_time: Seconds.

    Returns:
        The provenance, with the network's name, fingerprint, device and number format.
    """
    device, dtype = place_of(network)
    return results.described(
        sources.network_name(network),
        sources.network_fingerprint(network),
        analysis=analysis,
        parameters=parameters,
        seed=seed,
        wall_time=wall_time,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
    )


def require_hooks(network: HookedRootModule, names: Sequence[str]) -> None:
    """Refuse names of hook points that the network does not have.

    Args:
        network: The network.
        names: Hook points that are about to be read.

    Raises:
        ValueError: If one is unknown; names the nearest ones.
    """
    known = network.hook_dict
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)[:3]
            raise ValueError(f"the network has no hook point {name!r} (nearest: {', '.join(near)})")


@contextlib.contextmanager
def watching(network: HookedRootModule, names: Sequence[str]) -> Generator[dict[str, Any]]:
    """Hold the activations of hook points, anew at each forward pass within the block.

    Args:
        network: A private copy.
        names: Hook points.

    Yields:
        Hook point to activation.
    """
    held: dict[str, Any] = {}

    def keeper(name: str) -> Any:
        def keep(activation: torch.Tensor, hook: object = None) -> None:
            held[name] = activation

        return keep

    with network.hooks(fwd_hooks=[(name, keeper(name)) for name in names]):
        yield held


def measured(
    network: HookedRootModule,
    objective: objectives.Objective,
    inputs: Float[np.ndarray, "example *shape"],
    *,
    batch: int = 256,
) -> Float[np.ndarray, " example"]:
    """Value of an objective at inputs, without gradients.

    Args:
        network: A private copy.
        objective: What is measured.
        inputs: Any number of inputs.
        batch: Inputs that go through the network together.

    Returns:
        One float64 number an input.

    Raises:
        ValueError: If the network cannot read the inputs, or answers with something not finite.
    """
    device, dtype = place_of(network)
    found: list[torch.Tensor] = []
    with torch.no_grad(), watching(network, objective.hooks) as held:
        for start in range(0, len(inputs), batch):
            piece = torch.tensor(inputs[start : start + batch])
            try:
                network(piece.to(device, dtype))
            except (RuntimeError, IndexError) as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"the network cannot read inputs of shape {inputs.shape[1:]}: {reason}"
                ) from error
            found.append(objective.measure(held).double().cpu())
    values = torch.cat(found).numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"{objective.label} is not a finite number at some of the inputs")
    return values


def channels(network: HookedRootModule, hook: str) -> int:
    """How many channels a hook point has, and so how many units.

    Args:
        network: Whose configuration says which inputs it reads.
        hook: Name of the hook point.

    Returns:
        Size of axis 1 of what is seen there.

    Raises:
        ValueError: If there is no such hook point.
    """
    own = private_copy(network)
    require_hooks(own, (hook,))
    config: Any = own.cfg
    device, dtype = place_of(own)
    with torch.no_grad(), watching(own, (hook,)) as held:
        own(torch.zeros((1, *config.input_shape), device=device, dtype=dtype))
    return int(held[hook].shape[1])
