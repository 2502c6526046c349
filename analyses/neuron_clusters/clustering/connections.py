"""Which weights does each unit read and write with, and which units are connected?

1. A neuron of a language model reads with its column of W_in (and of W_gate), times the gain of the
   norm in front of the MLP, and writes with its row of W_out. All of them read and write one
   stream, so neurons of different layers can be compared.
2. A channel of a network reads with its kernel, put in the middle of zeros where others of its
   stage are larger, and is read by the kernels of the next stage, or by the class scores. Channels
   of different stages lie in different spaces and have nothing in common: cluster one stage at a
   time, or the stages are the clusters, in shuffled weights as well.
3. `Graph`: every two units that one weight tensor joins are connected by the L1 norm of what joins
   them (over the places of a kernel). In a language model, neuron i of one layer and j of any later
   one are connected by |W_out,i · W_in,j| through the stream (W_gate's added), the norm's scale
   taken as one. A part: 80 % of the connections. The null: the weights of each tensor in random
   order, as in the source.

Source: Filan et al. 2021, "Clusterability in Neural Networks", arXiv 2103.03386.

Limits: in a language model this is the direct path only, and attention in between is left out.
What reads what in a network is told from the order of its stages and the shapes of its weights:
each stage reads all of the one before, which holds for the architectures of this project. Inputs
and class scores are no units of the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import einops
import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from analyses.neuron_clusters.clustering import similarity

if TYPE_CHECKING:
    from workbench.core.engine.populations import Population

_MATRIX = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """What one weight tensor joins.

    Attributes:
        readers: Units that read.
        senders: Units that are read.
        weights: How strongly, never negative.
    """

    readers: Int[np.ndarray, " row"]
    senders: Int[np.ndarray, " column"]
    weights: Float[np.ndarray, "row column"]


class Graph(similarity.Source):
    """Units and what joins them."""

    def __init__(self, count: int, joined: Sequence[Joined]) -> None:
        """Take the connections of so many units."""
        self._count, self._joined = count, tuple(joined)

    def similarity(self) -> Float[np.ndarray, "unit unit"]:
        """The weights of the graph."""
        table = np.zeros((self._count, self._count), dtype=np.float32)
        for one in self._joined:
            table[np.ix_(one.readers, one.senders)] = one.weights
        return table + table.T

    def resampled(self, rng: np.random.Generator) -> Float[np.ndarray, "unit unit"]:
        """The graph without a fifth of its connections."""
        kept = [
            dataclasses.replace(
                one, weights=one.weights * (rng.random(one.weights.shape) < similarity.PART)
            )
            for one in self._joined
        ]
        return Graph(self._count, kept).similarity()

    def shuffled(self, rng: np.random.Generator) -> similarity.Source:
        """The weights of each tensor in random order."""
        mixed = [
            dataclasses.replace(
                one, weights=rng.permutation(one.weights.ravel()).reshape(one.weights.shape)
            )
            for one in self._joined
        ]
        return Graph(self._count, mixed)

    def among(self, used: Bool[np.ndarray, " unit"]) -> Graph:
        """The graph of some of the units."""
        number = np.cumsum(used) - 1
        kept = [
            Joined(
                number[one.readers[used[one.readers]]],
                number[one.senders[used[one.senders]]],
                one.weights[np.ix_(used[one.readers], used[one.senders])],
            )
            for one in self._joined
        ]
        return Graph(int(used.sum()), kept)


def spaces(population: Population) -> dict[str, Float[np.ndarray, "unit _"]]:
    """What each unit reads and writes with.

    Args:
        population: Neurons of a language model, or channels of a network.

    Returns:
        By name a row a unit; zeros where a unit has no weights there.

    Raises:
        ValueError: If the units have no weights of their own.
    """
    model = getattr(population, "model", None)
    if model is None:
        return _network_spaces(population)
    layers = _mlp_layers(population, model)
    found: dict[str, np.ndarray] = {}
    for name in layers[0]:
        found[name] = np.concatenate([layer[name] for layer in layers])
    return found


def graph(population: Population) -> Graph:
    """Which units are connected, and how strongly.

    Args:
        population: Neurons of a language model, or channels of a network.

    Returns:
        The graph.

    Raises:
        ValueError: If no two units are connected.
    """
    model = getattr(population, "model", None)
    if model is None:
        joined = _network_joined(population)
    else:
        layers = _mlp_layers(population, model)
        joined = [
            Joined(
                np.flatnonzero(population.place == later),
                np.flatnonzero(population.place == earlier),
                _through_the_stream(layers[later], layers[earlier]),
            )
            for later in range(len(layers))
            for earlier in range(later)
        ]
    if not joined:
        places = [place.name for place in population.places]
        raise ValueError(
            f"no two of the {len(population):,} units are connected by a weight: a graph needs "
            f"units of at least two layers, found {', '.join(places)}"
        )
    return Graph(len(population), joined)


def _through_the_stream(
    later: dict[str, np.ndarray], earlier: dict[str, np.ndarray]
) -> Float[np.ndarray, "row column"]:
    through = np.abs(later["in"] @ earlier["out"].T)
    # Of a gated MLP both halves read the stream.
    return through + np.abs(later["gate"] @ earlier["out"].T) if "gate" in later else through


def _mlp_layers(population: Population, model: Any) -> list[dict[str, np.ndarray]]:
    """Weights of each place's neurons, a row a neuron."""
    wrong = [place.kind for place in population.places if place.kind != "neuron"]
    if wrong:
        raise ValueError(
            f"units of kind {wrong[0]!r} have no weights to compare: give kinds='neuron', or "
            "by='coactivation'"
        )
    found: list[dict[str, np.ndarray]] = []
    for place in population.places:
        block = model.blocks[place.layer]
        gain = _gain(block)
        every = {"in": "W_in", "gate": "W_gate", "out": "W_out"}
        weights = {name: getattr(block.mlp, own, None) for name, own in every.items()}
        rows = {
            name: _plain(value if name == "out" else value.T)
            for name, value in weights.items()
            if isinstance(value, torch.Tensor)
        }
        if not {"in", "out"} <= set(rows):
            raise ValueError(
                f"the MLP of layer {place.layer} shows no weights of single neurons: give "
                "by='coactivation'"
            )
        for name in set(rows) - {"out"}:
            rows[name] = rows[name] * gain
        found.append(rows)
    return found


def _gain(block: Any) -> Any:
    """What the norm in front of an MLP multiplies by."""
    # Parallel blocks of some families normalise once for both readers.
    norm = getattr(block, "ln2", None) or getattr(block, "ln1", None)
    gain = getattr(getattr(norm, "original_component", None), "weight", None)
    return 1.0 if gain is None else _plain(gain)


def _plain(value: torch.Tensor) -> np.ndarray:
    return value.detach().float().cpu().numpy()


def _kernels(population: Population) -> list[np.ndarray | None]:
    """Weights of each place's channels [channel, read channel, place of the kernel]."""
    network: Any = getattr(population, "own", None)
    found: list[np.ndarray | None] = []
    for place in population.places:
        stage = network.get_submodule(place.hook.rpartition(".")[0])
        own = _weights(stage)
        fits = len(own) == 1 and len(own[0]) == place.size
        found.append(_plain(own[0]) if fits else None)
    return found


def _weights(stage: Any) -> list[torch.Tensor]:
    every = (getattr(module, "weight", None) for module in stage.modules())
    return [w for w in every if isinstance(w, torch.Tensor) and w.ndim >= _MATRIX]


def _readers(population: Population) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Readers (none for class scores), channels that they read, weights [reader, channel, spot]."""
    kernels, depth = _kernels(population), population.layer
    depths = [place.layer for place in population.places]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, kernel in enumerate(kernels):
        senders = np.flatnonzero(depth == depths[number] - 1)
        if kernel is not None and len(senders) and kernel.shape[1] == len(senders):
            readers = np.flatnonzero(population.place == number)
            found.append((readers, senders, kernel.reshape(*kernel.shape[:2], -1)))
    network: Any = getattr(population, "own", None)
    last, every = np.flatnonzero(depth == max(depths)), np.arange(len(population))
    scores = _plain(_weights(network)[-1])
    for senders in (every, last):
        # Class scores may be read from every place of a channel.
        if scores.shape[1] % len(senders) == 0:
            spots = scores.reshape(len(scores), len(senders), -1)
            return [*found, (np.zeros(0, dtype=np.int64), senders, spots)]
    return found


def _network_spaces(population: Population) -> dict[str, np.ndarray]:
    kernels = _kernels(population)
    read: list[np.ndarray] = []
    for depth in dict.fromkeys(place.layer for place in population.places):
        here = [i for i, place in enumerate(population.places) if place.layer == depth]
        own = {i: kernel for i in here if (kernel := kernels[i]) is not None}
        if not own:
            continue
        largest = np.max([kernel.shape for kernel in own.values()], axis=0)[1:]
        rows = np.zeros((len(population), int(np.prod(largest))), dtype=np.float32)
        for i, kernel in own.items():
            rows[population.place == i] = _in_the_middle(kernel, largest)
        read.append(rows)
    written: list[np.ndarray] = []
    for _, senders, weights in _readers(population):
        rows = np.zeros((len(population), weights.shape[0] * weights.shape[2]), dtype=np.float32)
        rows[senders] = einops.rearrange(weights, "reader sender spot -> sender (reader spot)")
        written.append(rows)
    if not read or not written:
        raise ValueError(
            "the network's stages show no weights of single channels: give by='coactivation'"
        )
    return {"in": np.concatenate(read, 1), "out": np.concatenate(written, 1)}


def _in_the_middle(kernel: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Kernels among zeros, each as one row."""
    edges = [(0, int(largest[0]) - kernel.shape[1])]
    for size, most in zip(kernel.shape[2:], largest[1:].tolist(), strict=True):
        before = (most - size) // 2
        edges.append((before, most - size - before))
    return np.pad(kernel, [(0, 0), *edges]).reshape(len(kernel), -1)


def _network_joined(population: Population) -> list[Joined]:
    return [
        Joined(readers, senders, np.abs(weights).sum(2))
        for readers, senders, weights in _readers(population)
        if len(readers)
    ]
