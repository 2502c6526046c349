"""For how many of all units does an optimized input exceed the best example of the data?

Every channel of every hidden layer of the three bundled networks, and every class as log-odds, is
optimized as `optimize_input` does it, without transforms, many units side by side: each input of a
batch climbs a unit of its own. A unit is alive if it does not say the same to all examples. The
data are the 1,000 held-out sequences, or as many fresh images; the best of the restarts is compared
with the best of them. Intervals of the share are Wilson's and Clopper and Pearson's, 95 %.

    python -m tests.benchmarks.optimized_inputs [mnist1d-mlp | mnist1d-cnn | shapes-branch ...]
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping

import numpy as np
import scipy.stats
import torch
from transformer_lens.HookedRootModule import HookedRootModule

from analyses.feature_visualization.inputs import optimizing, watching
from tests.benchmarks import numbers
from workbench.core.engine import running
from workbench.core.networks import mnist1d, shapes, sources

EXAMPLES = 1000
RESTARTS, STEPS, RATE = 4, 256, 0.1
# Inputs that are optimized together; images are larger.
TOGETHER = {"mnist1d-mlp": 400, "mnist1d-cnn": 400, "shapes-branch": 64}
CLASSES = "hook_logits"


@dataclasses.dataclass(frozen=True)
class Layer:
    """What was found for the units of a hook point.

    Attributes:
        hook: Its name.
        alive: Which units are alive.
        beaten: Which units' optimum exceeds the best example.
        ratio: Optimum over best example.
    """

    hook: str
    alive: np.ndarray
    beaten: np.ndarray
    ratio: np.ndarray


def data_of(name: str) -> np.ndarray:
    """Held-out examples of a bundled network."""
    if name == "shapes-branch":
        return shapes.render(EXAMPLES, seed=2).images
    data = mnist1d.generate().test[:EXAMPLES].astype(np.float32)
    return data if name == "mnist1d-mlp" else data[:, None]


def layers_of(network: HookedRootModule) -> list[str]:
    """Hook points of the network; one that joins branches has no units of its own."""
    joins = {name.rsplit(".branch", 1)[0] for name in network.hook_dict if ".branch" in name}
    return [name for name in network.hook_dict if name.removesuffix(".hook_out") not in joins]


def units(hook: str, values: torch.Tensor) -> torch.Tensor:
    """Units of a hook point for each example: means over all places, or log-odds of classes."""
    means = values.flatten(2).mean(2) if values.ndim > 2 else values
    if hook != CLASSES:
        return means
    others = torch.stack(
        [torch.cat([means[:, :i], means[:, i + 1 :]], 1) for i in range(means.shape[1])], 1
    )
    return means - others.logsumexp(2)


def read(network: HookedRootModule, hook: str, inputs: np.ndarray) -> np.ndarray:
    """All units of a hook point at inputs, without gradients."""
    found: list[torch.Tensor] = []
    with torch.no_grad(), watching.watching(network, (hook,)) as held:
        for start in range(0, len(inputs), 256):
            network(torch.from_numpy(inputs[start : start + 256]))
            found.append(units(hook, held[hook]))
    return torch.cat(found).numpy()


def optima(
    network: HookedRootModule, hook: str, chosen: np.ndarray, data: np.ndarray, seed: int
) -> np.ndarray:
    """Largest activation that each of some units reached, over steps and restarts."""
    settings = optimizing.settled(
        network,
        data,
        None,
        name=None,
        changes=(),
        constraint=None,
        numbers=(STEPS, RATE, RESTARTS * len(chosen), 1, 0.0, seed),
    )
    rows, columns = np.arange(RESTARTS * len(chosen)), np.repeat(chosen, RESTARTS)
    best = np.full(len(rows), -np.inf)

    def score(
        held: Mapping[str, torch.Tensor], inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values = units(hook, held[hook])[rows, columns]
        return values, -values.sum()

    def look(inputs: np.ndarray) -> None:
        np.maximum(best, read(network, hook, inputs)[rows, columns], out=best)

    optimizing.climb(network, (hook,), settings, score, look=look, report=running.no_progress)
    return best.reshape(len(chosen), RESTARTS).max(1)


def measure(name: str) -> list[Layer]:
    """Every unit of a bundled network, layer by layer."""
    network = watching.private_copy(sources.load_network(name))
    data = data_of(name)
    found: list[Layer] = []
    for hook in layers_of(network):
        began = time.perf_counter()
        values = read(network, hook, data)
        best, alive = values.max(0), np.ptp(values, axis=0) > 0
        several = max(1, TOGETHER[name] // RESTARTS)
        pieces = np.array_split(np.arange(len(best)), -(-len(best) // several))
        reached = np.concatenate(
            [optima(network, hook, piece, data, seed) for seed, piece in enumerate(pieces)]
        )
        # A dead unit says 0 to all examples; its ratio is not looked at.
        layer = Layer(hook, alive, reached > best, reached / np.where(alive, best, 1.0))
        found.append(layer)
        print(f"{name:14} {hook:24} {told(layer)}   {time.perf_counter() - began:4.0f} s")
    return found


def told(*layers: Layer) -> str:
    """Share of the living units whose optimum exceeds the best example, with its intervals."""
    alive = np.concatenate([layer.alive for layer in layers])
    beaten = np.concatenate([layer.beaten for layer in layers])[alive]
    ratio = np.concatenate([layer.ratio for layer in layers])[alive]
    test = scipy.stats.binomtest(int(beaten.sum()), len(beaten))
    wilson, exact = (test.proportion_ci(method=method) for method in ("wilson", "exact"))
    return (
        f"{beaten.sum():4} of {len(beaten):4} = {beaten.mean():6.1%}   "
        f"Wilson {wilson.low:.1%} to {wilson.high:.1%}, exact {exact.low:.1%} to {exact.high:.1%}  "
        f" optimum / best example: median {np.median(ratio):.2f}, least {ratio.min():.2f}   "
        f"{(~alive).sum()} dead"
    )


def share(name: str) -> float:
    """Share of a network's living units, classes not counted, whose optimum exceeds the data."""
    layers = measure(name)
    inner = [layer for layer in layers if layer.hook != CLASSES]
    alive = np.concatenate([layer.alive for layer in inner])
    beaten = float(np.concatenate([layer.beaten for layer in inner])[alive].mean())
    numbers.say(
        "optimized_inputs",
        f"optima that exceed the best example, hidden units of {name}",
        beaten,
        "of all living units",
        checked=" ".join(told(*inner).split()),
    )
    return beaten


def main(asked: list[str]) -> None:
    """Every bundled network, or those that are asked for."""
    torch.set_num_threads(1)
    for name in asked or sources.list_networks():
        share(name)


if __name__ == "__main__":
    main(sys.argv[1:])
