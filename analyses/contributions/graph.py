"""The graph of one prompt: which parts the stream at a target is made of, back to the tokens."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.contributions import drawing, naming
from workbench.core import results
from workbench.core.models import card
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MEASURES = ("proximity", "update")
# What Ferrando & Voita cut their routes at.
THRESHOLD = 0.04
_TOLD = 3


@dataclasses.dataclass(frozen=True)
class ContributionGraph(results.Result):
    """Which parts the stream is made of, from the target back to the tokens.

    Attributes:
        prompt: The prompt.
        target: Position that the graph leads to.
        layout: The steps in which the model changes its stream.
        kinds: Kind of each edge, an index into `naming.KINDS`; edges are ordered by step.
        layers: Layer of each edge.
        heads: Head of each edge; -1 where it is no head's.
        sources: Position that each edge comes from; a bias comes from nowhere, and has its target.
        targets: Position that each edge was written at.
        steps: Step of each edge, an index into `layout`.
        shares: Proximity share of each edge, of the new state.
        updates: Each edge's projection on what the step added, as a share of that; NaN where the
            stream is only carried over.
        flows: How much of the target passes through each edge: proximity shares multiplied along
            every way from the target, and summed over the ways.
        states: State of each node that was taken apart, 1 for that after the first step.
        positions: Position of each of these.
        kept: How much of each of these its edges above the floor make up, by proximity.
        floor: Smallest share of an edge that was kept, by either measure.
        widest: Most positions of one state that were taken apart.
        cut: How many nodes were reached, but left for being too many of one state.
    """

    prompt: Prompt
    target: int
    layout: naming.Layout
    kinds: Int[np.ndarray, " edge"]
    layers: Int[np.ndarray, " edge"]
    heads: Int[np.ndarray, " edge"]
    sources: Int[np.ndarray, " edge"]
    targets: Int[np.ndarray, " edge"]
    steps: Int[np.ndarray, " edge"]
    shares: Float[np.ndarray, " edge"]
    updates: Float[np.ndarray, " edge"]
    flows: Float[np.ndarray, " edge"]
    states: Int[np.ndarray, " node"]
    positions: Int[np.ndarray, " node"]
    kept: Float[np.ndarray, " node"]
    floor: float
    widest: int
    cut: int

    def __len__(self) -> int:
        """How many edges are kept."""
        return len(self.kinds)

    def edge(self, index: SupportsIndex) -> naming.Edge:
        """One of the edges."""
        return naming.Edge(
            naming.KINDS[self.kinds[index]],
            int(self.layers[index]),
            int(self.heads[index]),
            int(self.sources[index]),
            int(self.targets[index]),
        )

    def require(self, part: naming.Edge | naming.Node | str) -> naming.Edge | naming.Node:
        """Read an edge or node that this prompt's stream has, whether or not it is in the graph.

        Args:
            part: It, or its name.

        Returns:
            The edge or node.

        Raises:
            ValueError: If it has not.
        """
        part = naming.edge_or_node(part)
        if isinstance(part, naming.Node):
            self.layout.state(part)
            ends = (part.position, part.position)
        else:
            self.layout.step(part)
            ends = (part.source, part.target)
        naming.require_forward(part, ends, self.target + 1)
        return part

    def find(self, edge: naming.Edge | str) -> int | None:
        """Index of an edge; None where it is below the floor, or nothing leads from there."""
        return self._index.get(naming.Edge.of(edge))

    @functools.cached_property
    def _index(self) -> dict[naming.Edge, int]:
        return {self.edge(i): i for i in range(len(self))}

    def values(self, measure: str) -> Float[np.ndarray, " edge"]:
        """Share of each edge by a measure.

        Args:
            measure: "proximity" or "update".

        Returns:
            The shares; by "update" NaN where the stream is only carried over.

        Raises:
            ValueError: If there is no such measure.
        """
        if measure not in MEASURES:
            raise ValueError(f"{measure!r} is no measure; expected {' or '.join(MEASURES)}")
        return self.shares if measure == "proximity" else self.updates

    def routes(
        self, threshold: float | int = THRESHOLD, *, measure: str = "proximity"
    ) -> Int[np.ndarray, " edge"]:
        """The edges that lead to the target, each with a share of at least the threshold.

        Args:
            threshold: Between the floor and 1; of the share's size where it has a sign.
            measure: "proximity", or "update", by which the stream itself is always followed.

        Returns:
            Indices of the edges, those nearest to the target first.

        Raises:
            ValueError: If the threshold is below the floor or above 1, or there is no such measure.
        """
        if not self.floor <= threshold <= 1:
            raise ValueError(
                f"threshold = {threshold:g}; expected {self.floor:g} (the floor of this graph) to 1"
            )
        values = self.values(measure)
        large = np.isnan(values) | (np.abs(values) >= threshold)
        has_source = ~np.isin(self.kinds, [naming.KINDS.index(kind) for kind in naming.BIASES])
        reached = np.zeros(self.target + 1, dtype=bool)
        reached[self.target] = True
        found: list[np.ndarray] = []
        for step in reversed(range(len(self.layout))):
            begin, end = np.searchsorted(self.steps, [step, step + 1])
            here = np.arange(begin, end)
            here = here[large[begin:end] & reached[self.targets[begin:end]]]
            found.append(here)
            # All positions of the state before are reached anew: what is carried over is an edge.
            reached = np.zeros_like(reached)
            reached[self.sources[here[has_source[here]]]] = True
        return np.concatenate(found)

    def nodes(self, edges: Int[np.ndarray, " edge"]) -> tuple[naming.Node, ...]:
        """The states that some edges enter or leave, the target's last."""
        ends = {(len(self.layout), self.target)}
        for i in edges:
            ends.add((int(self.steps[i]) + 1, int(self.targets[i])))
            if naming.KINDS[self.kinds[i]] not in naming.BIASES:
                ends.add((int(self.steps[i]), int(self.sources[i])))
        return tuple(self.layout.node(*end) for end in sorted(ends))

    def entering(self, node: naming.Node | str) -> Int[np.ndarray, " edge"]:
        """Edges above the floor that a state is the sum of, the largest share first.

        Args:
            node: The state.

        Returns:
            Their indices; none where the state is the input, or was not taken apart.
        """
        node = naming.Node.of(node)
        step = self.layout.state(node) - 1
        here = np.flatnonzero((self.steps == step) & (self.targets == node.position))
        return here[np.argsort(-self.shares[here], kind="stable")]

    def to_frame(self) -> pd.DataFrame:
        """One row an edge."""
        return pd.DataFrame(
            {
                "edge": [str(self.edge(i)) for i in range(len(self))],
                "kind": [naming.KINDS[kind] for kind in self.kinds],
                "layer": self.layers,
                "head": self.heads,
                "source": self.sources,
                "target": self.targets,
                "share": self.shares,
                "share_of_update": self.updates,
                "flow": self.flows,
            }
        )

    def figure(
        self,
        threshold: float | int = THRESHOLD,
        *,
        measure: str = "proximity",
        selected: naming.Edge | naming.Node | None = None,
    ) -> go.Figure:
        """Tokens left to right, states upward, and the routes to the target.

        Args:
            threshold: Smallest share of an edge that is drawn.
            measure: "proximity" or "update".
            selected: Edge or node to mark.

        Returns:
            The figure. Its last trace has one marker for each of `routes`, in their order, then one
            for each of `nodes`, with their index in that sequence as custom data.
        """
        edges = self.routes(threshold, measure=measure)
        values = np.nan_to_num(self.values(measure)[edges], nan=0.0)
        return drawing.draw(
            [self.edge(i) for i in edges],
            values,
            self.steps[edges],
            self.nodes(edges),
            layout=self.layout,
            tokens=self.prompt.tokens[: self.target + 1],
            selected=selected,
        )

    def told(self, edge: naming.Edge) -> str:
        """An edge in words, with its tokens."""
        at = f"position {edge.target} ({self.prompt.tokens[edge.target]!r})"
        if edge.kind == naming.HEAD:
            seen = f"position {edge.source} ({self.prompt.tokens[edge.source]!r})"
            return f"head {edge.layer}.{edge.head} from {seen} to {at}"
        carried = "the stream carried " if edge.kind in naming.CARRIED else ""
        return f"{carried}{edge.kind} {edge.layer} at {at}"

    def summary(self, threshold: float | int = THRESHOLD, *, measure: str = "proximity") -> str:
        """How many edges lead to the target at a threshold, and through which heads most comes."""
        routes = self.routes(threshold, measure=measure)
        names = np.array(naming.KINDS)[self.kinds[routes]]
        heads = routes[names == naming.HEAD]
        heads = heads[np.argsort(-self.flows[heads], kind="stable")]
        seen = len({int(self.sources[i]) for i in routes} | {self.target})
        by = "the new state (proximity)" if measure == "proximity" else "the update (projection)"
        counts = f"{len(heads)} by heads, {(names == naming.MLP).sum()} by MLPs"
        lines = [
            f"To position {self.target} ({self.prompt.tokens[self.target]!r}) of "
            f"{self.provenance.model} lead {len(routes)} of {len(self)} edges, each with a share "
            f"of at least {threshold:g} of {by}: {counts}, the rest carried over or biases. They "
            f"reach {seen} of {self.target + 1} positions."
        ]
        if len(heads):
            best = [
                f"{self.told(self.edge(i))} ({self.flows[i]:.1%} of it, "
                f"share {self.values(measure)[i]:.3f})"
                for i in heads[:_TOLD]
            ]
            lines.append(f"Of heads' edges most of it passes through {'; '.join(best)}.")
        else:
            lines.append("No head moved as much as that on the way.")
        if self.cut:
            lines.append(
                f"{self.cut} states were reached and not taken apart, since more than "
                f"{self.widest} of one layer were."
            )
        lines.append(
            "A share says what the stream is made of, not what is used of it: the exact effect of "
            "an edge does."
        )
        return " ".join(lines)


def require_same(model: TransformerBridge, graph: ContributionGraph) -> None:
    """Check that a graph was traced in a model.

    Raises:
        ValueError: If it was traced in another.
    """
    if card.fingerprint(model) != graph.provenance.fingerprint:
        raise ValueError(
            f"the graph was traced in {graph.provenance.model} with other weights than this "
            "model's: trace it anew"
        )
