"""Which edges make up the circuit, and what does each of them carry?

1. A circuit is a set of edges of the model's graph, each with its attribution score, the change of
   the metric when it alone is corrupted in the full model, and that change as a fraction destroyed.
2. It is drawn in layers: the input at the bottom, attention and MLP of each layer upward, the
   logits on top.

Source: Conmy et al. 2023, arXiv 2304.14997 (circuits as edges); Wang et al. 2022, arXiv 2211.00593.

Units and sign: weights and exact changes are changes of the metric, in its unit: negative where the
edge raises the metric. An effect is the fraction destroyed, (clean − changed) / (clean −
corrupted): positive where the edge helps, drawn blue; negative where it hinders, drawn red.

Limits: effects of edges do not add up, because edges back each other up or need each other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.attribution import verification
from analyses.circuits.evaluation import Faithfulness
from workbench.core import plots, results
from workbench.core.engine import graph, metrics
from workbench.core.prompts.pairs import ContrastPairs

_SCRIPT_ARGUMENTS = (
    "target",
    "metric",
    "method",
    "steps",
    "search",
    "held_out",
    "n_random",
    "max_runs",
    "confidence",
    "n_resamples",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class GraphCounts:
    """The size of a model's graph.

    Attributes:
        n_layers: Blocks.
        n_heads: Attention heads of a block.
        n_groups: Key/value heads of a block.
        parallel: Whether an MLP reads the stream beside its block's attention.
        n_edges: Edges of the whole graph.
    """

    n_layers: int
    n_heads: int
    n_groups: int
    parallel: bool
    n_edges: int

    @classmethod
    def of(cls, whole: graph.Graph) -> GraphCounts:
        """The counts of a graph."""
        return cls(whole.n_layers, whole.n_heads, whole.n_groups, whole.parallel, whole.n_edges)

    @property
    def graph(self) -> graph.Graph:
        """The graph itself."""
        return graph.Graph(self.n_layers, self.n_heads, self.n_groups, self.parallel)


@dataclasses.dataclass(frozen=True)
class Circuit(results.Result):
    """A set of edges that carries a behaviour, with what each edge carries.

    Attributes:
        edges: Names of the edges, in the graph's order.
        weights: Attribution score of each edge: estimated change of the metric when it is
            corrupted, in the metric's unit.
        exact: Measured change of the metric when that edge alone is corrupted in the full model,
            mean over the prompts that chose the circuit.
        exact_interval: Bootstrap interval of the exact changes over prompts.
        effects: The measured changes as fraction destroyed.
        effect_interval: Bootstrap interval of the effects.
        counts: Size of the whole graph.
        metric: What was measured.
        method: How edges were scored.
        target: Faithfulness that was asked for.
        reached: Faithfulness on the prompts that chose the circuit.
        search: "prune" or "grow".
        began: Edges that pruning began with.
        runs: How many sets of edges were run to find it.
        minimal: Whether no single edge can go without missing the target; False where the runs
            allowed were used up before.
        confidence: Level of the intervals.
        pairs: All pairs.
        discovery_indices: Which pairs chose the circuit.
        held_out_indices: Which pairs were kept apart.
        judged: Faithfulness on the pairs that were kept apart: none or one.
    """

    edges: tuple[str, ...]
    weights: Float[np.ndarray, " edge"]
    exact: Float[np.ndarray, " edge"]
    exact_interval: Float[np.ndarray, "bound edge"]
    effects: Float[np.ndarray, " edge"]
    effect_interval: Float[np.ndarray, "bound edge"]
    counts: GraphCounts
    metric: str
    method: str
    target: float
    reached: float
    search: str
    began: int
    runs: int
    minimal: bool
    confidence: float
    pairs: ContrastPairs
    discovery_indices: tuple[int, ...]
    held_out_indices: tuple[int, ...]
    judged: tuple[Faithfulness, ...]

    @property
    def graph(self) -> graph.Graph:
        """The whole graph that the circuit is part of."""
        return self.counts.graph

    @property
    def discovered_on(self) -> ContrastPairs:
        """The pairs that chose the circuit."""
        return self.pairs.subset(self.discovery_indices)

    @property
    def held_out(self) -> ContrastPairs | None:
        """The pairs that were kept apart; None where there are none."""
        return self.pairs.subset(self.held_out_indices) if self.held_out_indices else None

    @property
    def faithfulness(self) -> Faithfulness | None:
        """Faithfulness on the pairs that were kept apart; None where there are none."""
        return self.judged[0] if self.judged else None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The components that the edges connect, input first and logits last.

        A group of heads that share keys and values is no component: its heads are.
        """
        whole = self.graph
        ends = [edge.partition("->") for edge in self.edges]
        named = {sender for sender, _, _ in ends} | {graph.node_of(reader) for *_, reader in ends}
        return tuple(node for node in (*whole.senders, "logits") if node in named)

    @property
    def share(self) -> float:
        """Share of all edges that are in the circuit."""
        return len(self.edges) / self.counts.n_edges

    def agreement(self) -> verification.Verification:
        """How well the attribution scores of the circuit's edges predict the exact changes."""
        return verification.compare(self.edges, self.weights, self.exact, self.exact_interval)

    def strongest(self, n: int = 5) -> list[int]:
        """Indices of the n edges of largest absolute effect, strongest first."""
        return [int(i) for i in np.argsort(-np.abs(self.effects), kind="stable")[:n]]

    def to_frame(self) -> pd.DataFrame:
        """One row an edge, strongest effect first: both ends, score, exact change and effect."""
        order = self.strongest(len(self.edges))
        ends = [self.edges[i].partition("->") for i in order]
        frame = pd.DataFrame(
            {
                "edge": [self.edges[i] for i in order],
                "sender": [sender for sender, _, _ in ends],
                "receiver": [receiver for _, _, receiver in ends],
            }
        )
        columns = {
            "effect": self.effects,
            "effect_low": self.effect_interval[0],
            "effect_high": self.effect_interval[1],
            "exact_change": self.exact,
            "exact_low": self.exact_interval[0],
            "exact_high": self.exact_interval[1],
            "estimated_change": self.weights,
        }
        for name, values in columns.items():
            frame[name] = values[order]
        frame["n"] = len(self.discovery_indices)
        return frame

    def figure(self, selected: int | None = None) -> go.Figure:
        """The circuit in layers, input at the bottom and logits on top.

        Args:
            selected: Index of the edge to mark.

        Returns:
            The figure; its last trace has one marker an edge, whose custom data is the edge's
            index.
        """
        whole = self.graph
        shown = self._shown()
        index = {node: i for i, node in enumerate(shown)}
        ends = [edge.partition("->") for edge in self.edges]
        links = [(index[sender], index[graph.node_of(reader)]) for sender, _, reader in ends]
        rows = [f"L{layer} {part}" for layer in range(whole.n_layers) for part in ("heads", "MLP")]
        return plots.layered_graph(
            shown,
            np.array([self._place(node) for node in shown], dtype=np.float64).reshape(-1, 2),
            np.array(links, dtype=np.int64).reshape(-1, 2),
            self.effects,
            row_labels=["input", *rows, "logits"],
            value_title="fraction destroyed when the edge is corrupted",
            hover=[self._hover(i) for i in range(len(self.edges))],
            selected=selected,
        )

    def _shown(self) -> list[str]:
        """Nodes of the figure: components, and groups of heads as places where edges end."""
        ends = [edge.partition("->") for edge in self.edges]
        groups = {graph.node_of(reader) for *_, reader in ends} - set(self.nodes)
        return [*self.nodes, *sorted(groups)]

    def _place(self, node: str) -> tuple[float, float]:
        """Column and row of a node: heads side by side, everything else to the right of them."""
        whole = self.graph
        kind, layer = whole.kind_of(node), whole.layer_of(node)
        if kind == "input":
            return (whole.n_heads - 1) / 2, 0.0
        if kind == "logits":
            return (whole.n_heads - 1) / 2, 2.0 * whole.n_layers + 1
        if kind == "mlp":
            return float(whole.n_heads), 2.0 * layer + 2
        # A group stands under its heads, in the middle.
        heads = whole.heads_of(node) if kind == "group" else (node,)
        columns = [int(head.partition(".h")[2]) for head in heads]
        return float(np.mean(columns)), 2.0 * layer + 1 - 0.35 * (kind == "group")

    def _hover(self, i: int) -> str:
        low, high = self.effect_interval[:, i]
        sure = f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else ""
        return (
            f"{plots.escape(self.edges[i])}<br>destroys {self.effects[i]:.3f}{sure}"
            f"<br>change {self.exact[i]:.4g}, estimated {self.weights[i]:.4g}"
        )

    def summary(self) -> str:
        """Size, faithfulness, agreement of scores with exact changes, and the strongest edges."""
        n = len(self.discovery_indices)
        nodes = len(self.nodes) - 2
        lines = [
            f"Circuit of {self.provenance.model} for {self.pairs.name}: {len(self.edges)} of "
            f"{self.counts.n_edges} edges ({self.share:.1%}) through {nodes} components, found by "
            f"{self.method} and {self.runs} exact runs on {n} pairs, where its faithfulness is "
            f"{self.reached:.3f} (target {self.target:g})."
        ]
        if self.faithfulness is None:
            lines.append("No pairs were kept apart, so its faithfulness elsewhere is not known.")
        else:
            lines.append(f"Held out: {self.faithfulness.summary()}")
        lines.append(self._screening())
        best = "; ".join(f"{self.edges[i]} {self.effects[i]:.3f}" for i in self.strongest(3))
        lines.append(f"Strongest edges (fraction destroyed): {best}.")
        if not self.minimal:
            lines.append("Pruning stopped at the limit of runs, so some edges may be spare.")
        return " ".join(lines)

    def _screening(self) -> str:
        agreement, unit = self.agreement(), metrics.UNITS[self.metric]
        error = f"largest error {agreement.largest_error:.3g} {unit}"
        if not np.isfinite(agreement.spearman):
            return f"Scores against exact changes of its edges: {error}."
        return (
            f"Scores against exact changes of its edges: rank correlation "
            f"{agreement.spearman:.2f}, same sign in {agreement.sign_agreement:.0%}, {error}."
        )

    def script(self) -> str:
        """Python code that computes this circuit again."""
        made = self.provenance.parameters
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in _SCRIPT_ARGUMENTS)
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import circuits\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"circuit = circuits.discover(\n    model,\n    pairs,\n{arguments})\n"
            "print(circuit.summary())\n"
        )
