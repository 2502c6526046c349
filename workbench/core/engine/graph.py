"""Graph: a model as components that read what earlier components wrote, edge by edge.

The residual stream is a sum: the embedding, what every head adds, what every MLP adds, and biases.
So whoever reads the stream reads each of these by an edge of its own, and a run can be told what
every edge carries.

- A node that writes: `input` (the embedding), `a{layer}.h{head}`, `m{layer}`.
- A reader: a head's query, key and value (`a3.h1<q>`), `m{layer}`, and `logits`. With grouped-query
  attention keys and values are read by groups of heads: `a3.g0<k>`.
- An edge: `a0.h1->a3.h2<q>`, `m0->a3.g1<v>`, `input->m2`, `a1.h0->logits`.

What runs guarantee: with every edge on it is the clean run; with every edge off, the run whose
outputs are read instead; both up to rounding. Biases that belong to no head stay as they are.

Source: Wang et al. 2022, arXiv 2211.00593 (path patching); Goldowsky-Dill et al. 2023, arXiv
2304.05969; Syed et al. 2023, arXiv 2310.10348 (gradients at the readers, edge attribution).

Limits: a model whose attention output is normalised before it is added is no sum over heads, and
is refused (`decoder.NotTakenApart`). An edge carries all positions at once.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import einops
import networkx as nx
import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core import reading
from workbench.core.engine import decoder as parts
from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    # A generic class to type checkers only.
    Network = nx.DiGraph[str]
else:
    Network = nx.DiGraph

Tensor = torch.Tensor
Kind = Literal["input", "head", "group", "mlp", "logits"]
# Numbers that a chunk of runs holds at once: 64 MB of float32. Larger chunks were slower on a CPU.
MAX_ELEMENTS = 16_000_000
_HEAD = re.compile(r"a(\d+)\.h(\d+)")
_NODE = re.compile(r"a(?P<attention>\d+)\.(?P<part>[hg])\d+|m(?P<mlp>\d+)|input|logits")


def node_of(reader: str) -> str:
    """The node that a reader belongs to: `a3.h1<q>` to `a3.h1`, `m2` to itself."""
    return reader.partition("<")[0]


def unit_of(node: str) -> str | None:
    """The unit that a node or reader is: `a3.h1<q>` is "head 3.1"; None for what is no head."""
    found = _HEAD.fullmatch(node_of(node))
    return f"head {found[1]}.{found[2]}" if found else None


@dataclasses.dataclass(frozen=True)
class Graph:
    """Which components a model has, and which can read which.

    Attributes:
        n_layers: Blocks.
        n_heads: Attention heads of a block.
        n_groups: Key/value heads of a block; as many as heads without grouped-query attention.
        parallel: Whether an MLP reads the stream beside its block's attention, not after it.
    """

    n_layers: int
    n_heads: int
    n_groups: int
    parallel: bool = False

    @classmethod
    def of(cls, decoder: parts.Decoder) -> Graph:
        """The graph of a model that is in parts."""
        cfg = decoder.cfg
        groups = int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
        return cls(len(decoder.layers), int(cfg.n_heads), groups, decoder.layers[0].parallel)

    @classmethod
    def of_model(cls, model: TransformerBridge) -> Graph:
        """The graph of a bridge.

        Args:
            model: The bridge; it is taken apart on one prompt of two tokens.

        Returns:
            Its graph.

        Raises:
            NotTakenApart: If the bridge is no decoder that can be taken apart.
        """
        return cls.of(parts.taken_apart(model, torch.tensor([[0, 1]])))

    @functools.cached_property
    def senders(self) -> tuple[str, ...]:
        """Nodes that write to the stream, in the order in which they run."""
        names = ["input"]
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.n_heads)]
            names.append(f"m{layer}")
        return tuple(names)

    @functools.cached_property
    def receivers(self) -> tuple[str, ...]:
        """Readers of the stream, in the order in which they run."""
        shared = "h" if self.n_groups == self.n_heads else "g"
        names: list[str] = []
        for layer in range(self.n_layers):
            names += [f"a{layer}.h{head}<q>" for head in range(self.n_heads)]
            for read in "kv":
                names += [f"a{layer}.{shared}{group}<{read}>" for group in range(self.n_groups)]
            names.append(f"m{layer}")
        return (*names, "logits")

    @functools.cached_property
    def allowed(self) -> Bool[np.ndarray, "sender receiver"]:
        """Which sender each receiver can read: those that have run before it."""
        counts = [self.sent_before(name) for name in self.receivers]
        allowed = np.arange(len(self.senders))[:, None] < np.array(counts)
        allowed.setflags(write=False)
        return allowed

    @functools.cached_property
    def edges(self) -> tuple[str, ...]:
        """Every edge, sender by sender."""
        return self.names(self.allowed)

    @property
    def n_edges(self) -> int:
        """How many edges there are."""
        return int(self.allowed.sum())

    @functools.cached_property
    def sender_index(self) -> Mapping[str, int]:
        """Place of each sender in `senders`."""
        return {name: i for i, name in enumerate(self.senders)}

    @functools.cached_property
    def receiver_index(self) -> Mapping[str, int]:
        """Place of each receiver in `receivers`."""
        return {name: i for i, name in enumerate(self.receivers)}

    def sent_before(self, receiver: str) -> int:
        """How many senders, from the first on, a receiver can read."""
        if receiver == "logits":
            return len(self.senders)
        after_attention = receiver.startswith("m") and not self.parallel
        layer = self.layer_of(node_of(receiver))
        return 1 + layer * (self.n_heads + 1) + after_attention * self.n_heads

    def attention_readers(self, layer: int) -> slice:
        """Where in `receivers` a layer's queries, keys and values stand."""
        width = self.n_heads + 2 * self.n_groups
        start = layer * (width + 1)
        return slice(start, start + width)

    def heads_of(self, group: str) -> tuple[str, ...]:
        """The heads that share a group's keys and values."""
        shared = self.n_heads // self.n_groups
        layer, _, index = group.partition(".g")
        first = int(index) * shared
        return tuple(f"{layer}.h{head}" for head in range(first, first + shared))

    def layer_of(self, node: str) -> int:
        """The layer of a node; −1 for the input, the number of layers for the logits."""
        if node == "input":
            return -1
        return self.n_layers if node == "logits" else int(node[1:].partition(".")[0])

    def kind_of(self, node: str) -> Kind:
        """What a node is.

        Args:
            node: Its name.

        Returns:
            "input", "head", "group", "mlp" or "logits".

        Raises:
            ValueError: If it is no name of a node.
        """
        found = _NODE.fullmatch(node)
        if found is None:
            raise ValueError(f"{node!r} is no node; expected input, a0.h1, m0 or logits")
        if node in ("input", "logits"):
            return "input" if node == "input" else "logits"
        if found["mlp"] is not None:
            return "mlp"
        return "head" if found["part"] == "h" else "group"

    def mask(self, edges: Iterable[str]) -> Bool[np.ndarray, "sender receiver"]:
        """The given edges on, all others off.

        Args:
            edges: Names of edges.

        Returns:
            True where an edge is on.

        Raises:
            ValueError: If there is no edge of a name; names the nearest ones.
        """
        mask = np.zeros(self.allowed.shape, dtype=bool)
        for name in edges:
            sender, _, receiver = name.partition("->")
            i, j = self.sender_index.get(sender), self.receiver_index.get(receiver)
            if i is None or j is None or not self.allowed[i, j]:
                near = reading.nearest(name, self.edges)
                raise ValueError(f"the graph has no edge {name!r} {near}")
            mask[i, j] = True
        return mask

    def names(self, mask: Bool[np.ndarray, "sender receiver"]) -> tuple[str, ...]:
        """Names of the edges that are on, sender by sender."""
        on = np.argwhere(mask & self.allowed)
        return tuple(f"{self.senders[i]}->{self.receivers[j]}" for i, j in on)

    def connected(
        self, mask: Bool[np.ndarray, "sender receiver"]
    ) -> Bool[np.ndarray, "sender receiver"]:
        """Keep only the edges on a path from the input to the logits.

        Args:
            mask: Edges that are on. A head is reached through any of its query, key and value.

        Returns:
            Those of them that lie on a path.
        """
        whole = self.to_networkx(mask)
        reached = {"input"} | nx.descendants(whole, "input")
        reaching = {"logits"} | nx.ancestors(whole, "logits")
        sent = np.array([name in reached for name in self.senders])
        received = np.array([node_of(name) in reaching for name in self.receivers])
        return mask & self.allowed & sent[:, None] & received

    def to_networkx(
        self,
        mask: Bool[np.ndarray, "sender receiver"],
        weights: Float[np.ndarray, "sender receiver"] | None = None,
    ) -> Network:
        """The edges that are on, as a networkx graph of nodes.

        Args:
            mask: Edges that are on.
            weights: A number an edge.

        Returns:
            The input, the logits and every node with an edge, each with `layer` and `kind`. One
            networkx edge stands for all readers of a head: `reads` lists them ("qk"), and `weight`
            is the largest by size. A group has an edge to each of its heads that is in the graph.
        """
        graph: Network = nx.DiGraph()
        self._add_nodes(graph, ["input", "logits"])
        for i, j in np.argwhere(mask & self.allowed):
            sender, (receiver, _, read) = self.senders[i], self.receivers[j].partition("<")
            self._add_nodes(graph, [sender, receiver])
            known = graph.get_edge_data(sender, receiver, {"reads": ""})
            attributes: dict[str, object] = {"reads": known["reads"] + read.removesuffix(">")}
            if weights is not None:
                both = (float(weights[i, j]), known.get("weight", 0.0))
                attributes["weight"] = max(both, key=abs)
            graph.add_edge(sender, receiver, **attributes)
        for group in [node for node in graph if self.kind_of(node) == "group"]:
            heads = [head for head in self.heads_of(group) if head in graph]
            graph.add_edges_from(((group, head) for head in heads), reads="")
        return graph

    def _add_nodes(self, graph: Network, nodes: Iterable[str]) -> None:
        for node in nodes:
            graph.add_node(node, layer=self.layer_of(node), kind=self.kind_of(node))


@dataclasses.dataclass(frozen=True)
class Traced:
    """One run of a batch, with what each sender wrote.

    Attributes:
        outputs: What each sender of the graph adds to the stream.
        activations: What the run left behind, layer by layer.
    """

    outputs: Float[Tensor, "sender batch position d_model"]
    activations: parts.Activations

    @property
    def resid(self) -> tuple[Float[Tensor, "batch position d_model"], ...]:
        """The stream before each layer and, last, after all of them."""
        return tuple(self.activations.resid)


def trace(decoder: parts.Decoder, tokens: Int[Tensor, "batch position"]) -> Traced:
    """Run prompts and keep what each sender wrote.

    Args:
        decoder: The model in parts.
        tokens: Prompts of one length.

    Returns:
        The run; its tensors need no gradient.

    Raises:
        NotTakenApart: If attention's output is no sum over heads.
    """
    with _lock_of(decoder), torch.no_grad():
        activations = decoder.run(decoder.embed(tokens))
        return Traced(_outputs(decoder, activations), activations)


def run(
    decoder: parts.Decoder,
    graph: Graph,
    clean: Traced,
    off: Float[Tensor, "sender batch position d_model"],
    masks: Bool[Tensor, "run sender receiver"],
    *,
    max_elements: int = MAX_ELEMENTS,
) -> Float[Tensor, "run batch d_model"]:
    """Run prompts with some edges on, for each of several choices of edges.

    Args:
        decoder: The model in parts.
        graph: Its graph.
        clean: The run that gives the embedding, for edges that are on.
        off: What an edge that is off carries: outputs of another run, means, zeros.
        masks: For each run, which edges are on: these carry what their sender writes in this run.
        max_elements: Most numbers to hold at once; more runs go in several chunks.

    Returns:
        The stream that the logits read at the last position.
    """
    watched = run_given(decoder, graph, clean, off, masks, max_elements=max_elements)
    return watched["logits"][:, :, -1]


@dataclasses.dataclass(frozen=True)
class Given:
    """What one run is told instead of computing it.

    Attributes:
        outputs: What senders write, by name.
        inputs: What receivers read, by name.
    """

    outputs: Mapping[str, Float[Tensor, "batch position d_model"]] = dataclasses.field(
        default_factory=dict[str, Tensor]
    )
    inputs: Mapping[str, Float[Tensor, "batch position d_model"]] = dataclasses.field(
        default_factory=dict[str, Tensor]
    )


def run_given(
    decoder: parts.Decoder,
    graph: Graph,
    clean: Traced,
    off: Float[Tensor, "sender batch position d_model"],
    masks: Bool[Tensor, "run sender receiver"],
    *,
    given: Sequence[Given] | None = None,
    watch: Sequence[str] = ("logits",),
    max_elements: int = MAX_ELEMENTS,
) -> dict[str, Float[Tensor, "run batch position d_model"]]:
    """Like `run`, with some outputs and inputs given, and what chosen receivers read.

    Args:
        decoder: The model in parts.
        graph: Its graph.
        clean: The run that gives the embedding and what belongs to no sender (biases).
        off: What an edge that is off carries.
        masks: For each run, which edges are on.
        given: For each run what it is told; None for nothing.
        watch: Receivers whose input is returned.
        max_elements: Most numbers to hold at once.

    Returns:
        What each watched receiver read, by name.

    Raises:
        ValueError: If a receiver or sender is not in the graph, or there are not as many `given`
            as masks.
    """
    told = [Given()] * len(masks) if given is None else list(given)
    if len(told) != len(masks):
        raise ValueError(f"{len(masks)} masks need as many given inputs, found {len(told)}")
    _require_names("receiver", graph.receivers, watch)
    for one in told:
        _require_names("sender", graph.senders, one.outputs)
        _require_names("receiver", graph.receivers, one.inputs)
    per_run = (len(graph.senders) + 3 * (graph.n_heads + 2 * graph.n_groups)) * off[0].numel()
    chunk = max(1, max_elements // per_run)
    with _lock_of(decoder), torch.no_grad():
        done = [
            _Chunk(
                decoder, graph, clean, off, masks=masks[i : i + chunk], given=told[i : i + chunk]
            ).run(watch)
            for i in range(0, len(masks), chunk)
        ]
    if not done:
        return {name: off.new_empty(0, *off.shape[1:]) for name in watch}
    return {name: torch.cat([one[name] for one in done]) for name in watch}


class _Chunk:
    """Several runs of one batch, through the layers together."""

    def __init__(
        self,
        decoder: parts.Decoder,
        graph: Graph,
        clean: Traced,
        off: Tensor,
        *,
        masks: Tensor,
        given: Sequence[Given],
    ) -> None:
        self._decoder, self._graph, self._off, self._given = decoder, graph, off, given
        on = masks.to(off.device) & torch.as_tensor(graph.allowed.copy(), device=off.device)
        self._on = on.to(off.dtype)
        self._constants = _Constants(decoder, graph, clean)
        # What each sender wrote in each run, less what it writes where its edges are off.
        self._less = off.new_zeros(len(masks), *off.shape)
        self._write(slice(0, 1), clean.outputs[:1].expand(len(masks), -1, -1, -1, -1))

    def run(self, watch: Sequence[str]) -> dict[str, Tensor]:
        graph, watched = self._graph, dict[str, Tensor]()
        for layer, block in enumerate(self._decoder.layers):
            place, mlp = graph.attention_readers(layer), graph.receiver_index[f"m{layer}"]
            first = graph.sender_index[f"a{layer}.h0"]
            stop = first + graph.n_heads
            reads = self._read(place)
            self._write(slice(first, stop), self._heads(block, reads))
            middle = self._read(slice(mlp, mlp + 1))
            self._write(slice(stop, stop + 1), block.mlp_out(middle))
            for name in watch:
                index = graph.receiver_index[name]
                if index == mlp:
                    watched[name] = middle[:, 0]
                elif place.start <= index < place.stop:
                    watched[name] = reads[:, index - place.start]
        end = len(graph.receivers) - 1
        if "logits" in watch:
            watched["logits"] = self._read(slice(end, end + 1))[:, 0]
        return watched

    def _read(self, place: slice) -> Float[Tensor, "run reader batch position d_model"]:
        """What some receivers, all of one layer and kind, read in each run."""
        graph, names = self._graph, self._graph.receivers[place]
        known = graph.sent_before(names[0])
        base = self._constants.at(names[0]) + self._off[:known].sum(0)
        on = self._on[:, :known, place].transpose(1, 2)
        added = (on @ self._less[:, :known].flatten(2)).unflatten(2, base.shape)
        reads = base + added
        for i, given in enumerate(self._given):
            for name, value in given.inputs.items():
                if name in names:
                    reads[i, names.index(name)] = value
        return reads

    def _write(self, place: slice, outputs: Tensor) -> None:
        """Take in what some senders wrote: [run, sender, batch, position, d_model]."""
        self._less[:, place] = outputs - self._off[place]
        for i, given in enumerate(self._given):
            for name, value in given.outputs.items():
                index = self._graph.sender_index[name]
                if place.start <= index < place.stop:
                    self._less[i, index] = value - self._off[index]

    def _heads(self, block: parts.Layer, reads: Tensor) -> Tensor:
        own = einops.rearrange(
            reads, "run reader batch position d_model -> (run batch) position reader d_model"
        )
        z = _attend(block, self._graph, own)[-1]
        return einops.rearrange(
            block.head_outputs(z),
            "(run batch) position head d_model -> run head batch position d_model",
            run=reads.shape[0],
        )


class _Constants:
    """What is in the stream and comes from no sender, where each receiver reads."""

    def __init__(self, decoder: parts.Decoder, graph: Graph, clean: Traced) -> None:
        self._decoder, self._graph, self._clean = decoder, graph, clean

    def at(self, receiver: str) -> Float[Tensor, "batch position d_model"]:
        kept = self._clean.activations
        layer = self._graph.layer_of(node_of(receiver))
        stream = kept.resid[layer]
        if receiver.startswith("m"):
            stream = self._decoder.layers[layer].mlp_reads(stream, kept.attn_out[layer])
        return stream - self._clean.outputs[: self._graph.sent_before(receiver)].sum(0)


def gradients(
    decoder: parts.Decoder,
    graph: Graph,
    prompts: Int[Tensor, "batch position"] | Float[Tensor, "batch position d_model"],
    metric: Callable[[Float[Tensor, "batch d_model"]], Float[Tensor, " batch"]],
) -> tuple[Traced, Float[Tensor, "receiver batch position d_model"]]:
    """Gradient of a metric with respect to what each receiver reads: one forward, one backward.

    Every receiver, each head's query, key and value included, has an input of its own; its gradient
    is through that receiver only, and through all that reads it later.

    Args:
        decoder: The model in parts.
        graph: Its graph.
        prompts: Token ids, or embeddings (the stream before the first layer).
        metric: A number a prompt, of the stream at the last position after the last layer; for
            logits take them by `decoder.logits`. Prompts must not depend on each other.

    Returns:
        The run, and the gradients of the metric's sum over the batch. Parameters get none.
    """
    with _lock_of(decoder), torch.inference_mode(False), torch.enable_grad():
        embedding = prompts if prompts.is_floating_point() else decoder.embed(prompts)
        # A tensor made in inference mode cannot be part of a backward pass; its copy can.
        resid = embedding.detach().clone().requires_grad_()
        kept = parts.Activations(*([] for _ in dataclasses.fields(parts.Activations)))
        reads: list[Tensor] = []
        for block in decoder.layers:
            resid = _layer_with_own_inputs(block, graph, resid, kept, reads)
        kept.resid.append(resid)
        last = resid[:, -1]
        found = torch.autograd.grad(
            metric(last).sum(), [*reads, last], allow_unused=True, materialize_grads=True
        )
    with _lock_of(decoder), torch.no_grad():
        activations = _detached(kept)
        outputs = _outputs(decoder, activations)
        return Traced(outputs, activations), _by_receiver(found, outputs[0])


def _layer_with_own_inputs(
    block: parts.Layer,
    graph: Graph,
    resid: Tensor,
    kept: parts.Activations,
    reads: list[Tensor],
) -> Tensor:
    """One block in which every receiver reads a copy of the stream, which is put into `reads`."""
    own = resid.unsqueeze(-2).expand(*resid.shape[:2], graph.n_heads + 2 * graph.n_groups, -1)
    made = _attend(block, graph, own)
    attn_out = block.attn_out(made[-1])
    middle = block.mlp_reads(resid, attn_out).clone()
    mlp_out = block.mlp_out(middle)
    reads += [own, middle]
    fields = ("q", "k", "rotated_q", "rotated_k", "v", "z")
    everything = dict(zip(fields, made, strict=True))
    everything |= {"resid": resid, "attn_out": attn_out, "mlp_out": mlp_out}
    for name, value in everything.items():
        getattr(kept, name).append(value)
    return resid + attn_out + mlp_out


def _detached(kept: parts.Activations) -> parts.Activations:
    names = [field.name for field in dataclasses.fields(kept)]
    return parts.Activations(*([x.detach() for x in getattr(kept, name)] for name in names))


def _by_receiver(
    found: Sequence[Tensor], like: Float[Tensor, "batch position d_model"]
) -> Float[Tensor, "receiver batch position d_model"]:
    """Gradients of attention inputs, MLP inputs, …, and the last position, one after another."""
    rows: list[Tensor] = []
    for own, middle in zip(found[:-1:2], found[1:-1:2], strict=True):
        rows += [einops.rearrange(own, "batch position reader ... -> reader batch position ...")]
        rows += [middle[None]]
    end = torch.zeros_like(like)
    end[:, -1] = found[-1]
    return torch.cat([*rows, end[None]])


def _attend(
    block: parts.Layer, graph: Graph, own: Float[Tensor, "batch position reader d_model"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys (both as projected, then as they meet), values and head outputs.

    Args:
        block: The layer.
        graph: Says how many readers are queries, keys and values.
        own: What each reader reads: queries of all heads, then keys, then values.

    Returns:
        q, k, rotated q, rotated k, v, z.
    """
    sizes = (graph.n_heads, graph.n_groups, graph.n_groups)
    each = block.normed(own).split(sizes, dim=-2)
    q, k, v = (block.project_per_head(name, x) for name, x in zip("qkv", each, strict=True))
    positions = torch.arange(own.shape[1], device=own.device)
    rotated_q, rotated_k = block.rotate_queries(q, positions), block.rotate_keys(k, positions)
    return q, k, rotated_q, rotated_k, v, block.attend(rotated_q, rotated_k, v)


def _outputs(
    decoder: parts.Decoder, kept: parts.Activations
) -> Float[Tensor, "sender batch position d_model"]:
    def written() -> Iterator[Tensor]:
        yield kept.resid[0][None]
        for block, z, mlp_out in zip(decoder.layers, kept.z, kept.mlp_out, strict=True):
            of_heads = block.head_outputs(z)
            yield einops.rearrange(of_heads, "batch position head ... -> head batch position ...")
            yield mlp_out[None]

    return torch.cat(list(written()))


def _require_names(what: str, known: Sequence[str], names: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"the graph has no {what} {name!r} {reading.nearest(name, known)}")


def _lock_of(decoder: parts.Decoder) -> threading.RLock:
    # The parts are the bridge's own modules, so hooks of another thread would act here, too.
    return running.lock_of(decoder._model)  # pyright: ignore[reportPrivateUsage]
