"""Every state of the stream at a position, and the parts that it is the sum of.

A layer changes the stream in steps: attention, then the MLP, or both at once where they stand side
by side. After each step the new state is the old one plus what each head brought from each
position, or what the MLP wrote, plus biases. An edge is one of these parts, a node one state.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from analyses.contributions import naming
from workbench.core.engine import running, sums
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A prompt's stream up to a target position, taken apart.

    Attributes:
        sum: The run as a sum.
        layout: The steps of the model.
    """

    sum: sums.StreamSum
    layout: naming.Layout

    @classmethod
    def of(cls, model: TransformerBridge, prompt: Prompt, target: int) -> Stream:
        """Run a prompt up to a position.

        Args:
            model: The bridge.
            prompt: The prompt.
            target: Last position that matters; what stands after it changes nothing before.

        Returns:
            The stream.

        Raises:
            ValueError: If there is no such position, or the model is no sum that we know.
        """
        tokens = prompt.batch[:, : prompt.position(target) + 1]
        stream = sums.StreamSum.of(model, tokens)
        adds, layers = list[str](), list[int]()
        for number, layer in enumerate(stream.decoder.layers):
            has_mlp = layer.mlp_weights() is not None
            steps = naming.ADDS[2:] if layer.parallel and has_mlp else naming.ADDS[: 1 + has_mlp]
            adds += steps
            layers += [number] * len(steps)
        return cls(stream, naming.Layout(tuple(adds), tuple(layers)))

    @property
    def length(self) -> int:
        """Positions, of which the last is the target."""
        return self.sum.kept.resid[0].shape[1]

    @property
    def n_heads(self) -> int:
        """Heads of a layer."""
        return self.sum.kept.z[0].shape[2]

    def state(self, number: int) -> Float[Tensor, "position d_model"]:
        """A state at every position, 0 for what enters the first layer."""
        kept = self.sum.kept
        if number == 0:
            return kept.resid[0][0]
        layer = self.layout.layers[number - 1]
        is_last = number == len(self.layout) or self.layout.layers[number] != layer
        return (
            kept.resid[layer + 1][0] if is_last else (kept.resid[layer] + kept.attn_out[layer])[0]
        )

    def update(self, step: int, position: int) -> Float[Tensor, " d_model"]:
        """What a step added at a position."""
        adds, layer, kept = self.layout.adds[step], self.layout.layers[step], self.sum.kept
        attn, mlp = kept.attn_out[layer][0, position], kept.mlp_out[layer][0, position]
        return {"attn": attn, "mlp": mlp, "layer": attn + mlp}[adds]

    def pattern(self, layer: int) -> Float[Tensor, "1 head query key"]:
        """Attention of a layer; a long prompt's is large, so it is not kept."""
        return self.sum.pattern(layer)

    def moved(
        self, step: int, pattern: Float[Tensor, "1 head query key"] | None, position: int
    ) -> Float[Tensor, "part position d_model"]:
        """What each head brought from each position up to this one; empty without attention."""
        if pattern is None:
            return self.state(0).new_zeros(0, position + 1, self.state(0).shape[-1])
        layer = self.layout.layers[step]
        # Later positions are not seen, so they bring nothing.
        return self.sum.heads_by_key(layer, pattern, position)[0, :, : position + 1]

    def others(self, step: int, position: int) -> dict[str, Float[Tensor, " d_model"]]:
        """Every other part of the state after a step, by its kind; the stream carried is first."""
        adds, layer = self.layout.adds[step], self.layout.layers[step]
        found = {self.layout.carried(step): self.state(step)[position]}
        if adds != "mlp":
            found[naming.ATTN_BIAS] = self.sum.attn_constant(layer)[0, position]
        if adds != "attn":
            bias = self.sum.mlp_constant(layer)[0, position]
            found[naming.MLP] = self.sum.kept.mlp_out[layer][0, position] - bias
            found[naming.MLP_BIAS] = bias
        return found

    def require(self, edge: naming.Edge) -> int:
        """The step of an edge, if this prompt has it.

        Raises:
            ValueError: If it has not.
        """
        step = self.layout.step(edge)
        naming.require_forward(edge, (edge.source, edge.target), self.length)
        if edge.kind == naming.HEAD and not 0 <= edge.head < self.n_heads:
            raise ValueError(f"'{edge}': the layer has heads 0 to {self.n_heads - 1}")
        return step

    def vectors(self, edges: Sequence[naming.Edge]) -> Float[Tensor, "edge d_model"]:
        """What each of some edges wrote into the stream."""
        steps = [self.require(edge) for edge in edges]
        rows: dict[int, Tensor] = {}
        by_layer: dict[int, list[int]] = {}
        for i, edge in enumerate(edges):
            if edge.kind == naming.HEAD:
                by_layer.setdefault(edge.layer, []).append(i)
            else:
                rows[i] = self.others(steps[i], edge.target)[edge.kind]
        for layer, some in by_layer.items():
            pattern = self.pattern(layer)
            for target in sorted({edges[i].target for i in some}):
                moved = self.sum.heads_by_key(layer, pattern, target)[0]
                for i in some:
                    if edges[i].target == target:
                        rows[i] = moved[edges[i].head, edges[i].source].clone()
        return torch.stack([rows[i] for i in range(len(edges))])

    def require_part(self, part: naming.Edge | naming.Node) -> None:
        """Check that this prompt has an edge or node.

        Raises:
            ValueError: If it has not.
        """
        if isinstance(part, naming.Edge):
            self.require(part)
            return
        self.layout.state(part)
        naming.require_forward(part, (part.position, part.position), self.length)

    def place(self, part: naming.Edge | naming.Node) -> tuple[int, int]:
        """State and position that a part is in: an edge is in the state that it enters."""
        if isinstance(part, naming.Node):
            return self.layout.state(part), part.position
        return self.layout.step(part) + 1, part.target

    def part_vectors(
        self, some: Sequence[naming.Edge | naming.Node]
    ) -> Float[Tensor, "part d_model"]:
        """What each part is: an edge's vector, or the whole state of a node."""
        edges = [part for part in some if isinstance(part, naming.Edge)]
        written = iter(self.vectors(edges) if edges else ())
        return torch.stack(
            [
                self.state(self.layout.state(part))[part.position]
                if isinstance(part, naming.Node)
                else next(written)
                for part in some
            ]
        )


@contextlib.contextmanager
def locked(model: TransformerBridge) -> Generator[None]:
    """The model's lock, and no gradients, for as long as its parts are used.

    Args:
        model: The bridge, whose modules others may put hooks on.

    Yields:
        Nothing; use the parts inside of the block.
    """
    with running.lock_of(model), torch.no_grad():
        yield
