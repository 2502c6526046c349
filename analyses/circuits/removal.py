"""Does the circuit hold all that matters, and does each of its nodes matter?

Completeness:

1. Remove a set K of nodes from the circuit C and from the whole model M, and measure both.
2. If C holds all that matters, F(C∖K) = F(M∖K) for every K: the empty set, random sets (each node
   with probability one half), and one found greedily, which adds the node of a random few that
   widens the gap most, until none does.

Minimality:

1. For each node v find the set K, out of the empty one and random ones, for which taking v away as
   well changes most: |F(C∖(K∪{v})) − F(C∖K)|.
2. Compare with nodes outside of the circuit, each put into it by random edges, as many as a random
   node of the circuit has, and taken away in the same way: p = (r + 1) / (n + 1), corrected over
   the nodes (Benjamini-Hochberg).

Removing a node turns off every edge that leaves it; what enters it is left, as nothing gets out.

Source: Wang et al. 2022, arXiv 2211.00593 (both); Shi et al. 2024, arXiv 2410.13032 (a circuit
inflated at random as reference).

Units and sign: F is the metric, in its unit; gaps and changes are absolute differences of means
over prompts as a fraction of (full − nothing).

Limits: there are more sets K than can be tried, so completeness is shown to fail, never proven. The
largest of several changes is above zero by noise alone, which is why it stands beside a null.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from analyses.circuits import evaluation, measuring
from workbench.core import evidence, plots, results
from workbench.core.engine import graph, metrics, running
from workbench.core.evidence import SURE
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.circuits.circuit import Circuit

# Nodes that each greedy step chooses from.
_GREEDY_CHOICES = 10
_SEPARATE = "+"

Mask = Bool[np.ndarray, "sender receiver"]


@dataclasses.dataclass(frozen=True)
class Completeness(results.Result):
    """Circuit and model with the same nodes removed.

    Attributes:
        removed: Nodes of each set, in the graph's order.
        kinds: "empty", "random" or "greedy", one a set.
        metric: What was measured.
        circuit: F(C∖K) of each prompt.
        model: F(M∖K) of each prompt.
        gaps: |F(C∖K) − F(M∖K)| of each set as a fraction of (full − nothing).
        interval: Bootstrap interval over prompts of the signed difference, circuit less model, as
            that fraction.
        full: Metric of each prompt with all edges on.
        nothing: Metric of each prompt with all edges off.
        confidence: Level of the intervals.
        edges: The circuit.
        pairs: What was run.
    """

    removed: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...]
    metric: str
    circuit: Float[np.ndarray, "set prompt"]
    model: Float[np.ndarray, "set prompt"]
    gaps: Float[np.ndarray, " set"]
    interval: Float[np.ndarray, "bound set"]
    full: Float[np.ndarray, " prompt"]
    nothing: Float[np.ndarray, " prompt"]
    confidence: float
    edges: tuple[str, ...]
    pairs: ContrastPairs

    @property
    def largest(self) -> float:
        """Largest gap of all sets."""
        return float(self.gaps.max())

    @property
    def mean(self) -> float:
        """Mean gap of the random sets."""
        chosen = [kind == "random" for kind in self.kinds]
        return float(self.gaps[chosen].mean()) if any(chosen) else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """One row a set: how it was chosen, its nodes, both metrics, and the gap."""
        return pd.DataFrame(
            {
                "kind": self.kinds,
                "removed": [f" {_SEPARATE} ".join(nodes) for nodes in self.removed],
                "circuit": self.circuit.mean(1),
                "model": self.model.mean(1),
                "gap": self.gaps,
                "difference_low": self.interval[0],
                "difference_high": self.interval[1],
                "n": len(self.pairs),
            }
        )

    def figure(self) -> go.Figure:
        """The circuit's metric over the model's, one point a set; if complete, on the diagonal."""
        x, y = self.model.mean(1), self.circuit.mean(1)
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        figure = go.Figure(
            go.Scatter(x=ends, y=ends, mode="lines", line={"color": "#8a9099"}, hoverinfo="skip")
        )
        for i, kind in enumerate(("random", "greedy", "empty")):
            at = [j for j, found in enumerate(self.kinds) if found == kind]
            names = [f" {_SEPARATE} ".join(self.removed[j]) or "nothing" for j in at]
            figure.add_trace(
                go.Scatter(
                    x=x[at],
                    y=y[at],
                    mode="markers",
                    name=kind,
                    marker={"color": plots.COLOURS[i], "size": 9},
                    customdata=names,
                    hovertemplate="without %{customdata}<br>model %{x:.4g}, circuit %{y:.4g}",
                )
            )
        what = f"{self.metric.replace('_', ' ')} ({metrics.UNITS[self.metric]})"
        figure.update_layout(template=plots.TEMPLATE)
        figure.data[0].showlegend = False  # pyright: ignore[reportIndexIssue]
        figure.update_xaxes(title=f"model without K: {what}")
        return figure.update_yaxes(title=f"circuit without K: {what}")

    def summary(self) -> str:
        """The mean gap of random sets and the largest of all, with its set."""
        worst = int(self.gaps.argmax())
        low, high = self.interval[:, worst]
        sure = f" (difference [{low:.3f}, {high:.3f}])" if len(self.pairs) > 1 else ""
        without = f" {_SEPARATE} ".join(self.removed[worst]) or "nothing"
        count = self.kinds.count("random")
        return (
            f"Circuit of {len(self.edges)} edges against the model with the same nodes removed, on "
            f"{self.pairs.name} (n = {len(self.pairs)}): mean gap {self.mean:.3f} of the behaviour "
            f"over {count} random sets; largest {self.largest:.3f}{sure}, {self.kinds[worst]} set, "
            f"without {without}."
        )


@dataclasses.dataclass(frozen=True)
class Minimality(results.Result):
    """How much each node of a circuit matters, beside nodes that were put into it at random.

    Attributes:
        nodes: Nodes of the circuit but for input and logits.
        metric: What was measured.
        changes: Largest change of each node as a fraction of (full − nothing).
        removed: The set K at which it is largest.
        interval: Bootstrap interval over prompts of the signed change at that K: with the node less
            without it.
        null: Largest change of each random node from outside of the circuit, put into it.
        p_values: Of each node against the null; NaN where every node is in the circuit.
        adjusted_p: The same, Benjamini-Hochberg adjusted over the nodes.
        confidence: Level of the intervals.
        edges: The circuit.
        pairs: What was run.
    """

    nodes: tuple[str, ...]
    metric: str
    changes: Float[np.ndarray, " node"]
    removed: tuple[tuple[str, ...], ...]
    interval: Float[np.ndarray, "bound node"]
    null: Float[np.ndarray, " sample"]
    p_values: Float[np.ndarray, " node"]
    adjusted_p: Float[np.ndarray, " node"]
    confidence: float
    edges: tuple[str, ...]
    pairs: ContrastPairs

    def to_frame(self) -> pd.DataFrame:
        """One row a node: its largest change, at which set, and its p-value."""
        return pd.DataFrame(
            {
                "node": self.nodes,
                "change": self.changes,
                "low": self.interval[0],
                "high": self.interval[1],
                "removed": [f" {_SEPARATE} ".join(nodes) for nodes in self.removed],
                "p_value": self.p_values,
                "adjusted_p": self.adjusted_p,
                "n": len(self.pairs),
            }
        )

    def figure(self) -> go.Figure:
        """Largest change of each node as bars, with the 95th percentile of the null as a line."""
        figure = plots.bars(
            self.changes,
            labels=list(self.nodes),
            value_title="largest change (fraction of the behaviour)",
            label_title="node",
        )
        if self.null.size:
            level = float(np.quantile(self.null, 1 - SURE))
            text = "95 % of random nodes"
            line = {"dash": "dash", "color": plots.COLOURS[-1]}
            figure.add_hline(y=level, line=line, annotation_text=text)
        return figure

    def summary(self) -> str:
        """The least important nodes, and how many matter more than random ones."""
        order = np.argsort(self.changes)[:3]
        least = "; ".join(f"{self.nodes[i]} {self.changes[i]:.3f}" for i in order)
        text = (
            f"Largest change by which each of {len(self.nodes)} nodes matters, on "
            f"{self.pairs.name} (n = {len(self.pairs)}): {self.changes.min():.3f} to "
            f"{self.changes.max():.3f} of the behaviour; least: {least}."
        )
        if not self.null.size:
            return f"{text} Every node is in the circuit, so there is nothing to compare with."
        found = int((self.adjusted_p <= SURE).sum())
        return (
            f"{text} {found} matter more than random nodes put into the circuit (mean "
            f"{self.null.mean():.3f}, {self.null.size} draws, false-discovery rate "
            f"{SURE:.0%})."
        )


def completeness(
    model: TransformerBridge,
    pairs: ContrastPairs,
    circuit: Circuit | Sequence[str],
    *,
    metric: str | None = None,
    ablation: str = "corrupted",
    n_sets: int = 30,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Completeness:
    """Compare circuit and model while the same nodes are removed from both.

    Args:
        model: The bridge.
        pairs: Prompts; for a fair number others than those that chose the circuit.
        circuit: The circuit, or the names of its edges.
        metric: What is measured; None for the circuit's own, or the logit difference.
        ablation: What edges carry that are off: "corrupted", "mean" or "zero".
        n_sets: Random sets of nodes.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the sets and of the bootstrap.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        Both metrics for each set.

    Raises:
        ValueError: If an argument is unknown, an edge is not in the model's graph, or clean and
            corrupted metrics are too close to divide by.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evaluation.require_count("n_sets", n_sets, least=1)
    study = _Study(model, pairs, circuit, metric=metric, ablation=ablation, progress=report)
    rng = np.random.default_rng(seed)
    sets = [(), *(_random_set(rng, study.nodes) for _ in range(n_sets))]
    kinds = ["empty"] + ["random"] * n_sets
    sets.append(study.greedy(rng, measuring.part(report, 0.1, 0.6, "searching the widest gap")))
    kinds.append("greedy")
    step = measuring.part(report, 0.6, 1.0, "removing random sets")
    measured = study.measured
    found = measured.under(np.stack(study.both(sets)), step)
    ours, whole = found[0::2], found[1::2]
    level: dict[str, Any] = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    report(1.0, "done")
    return Completeness(
        provenance=study.provenance("completeness", started, n_sets=n_sets, **level),
        removed=tuple(sets),
        kinds=tuple(kinds),
        metric=measured.metric,
        circuit=ours,
        model=whole,
        gaps=np.abs((ours - whole).mean(1) / study.unit.mean()),
        interval=evidence.ratio_interval(
            (ours - whole).T,
            study.unit,
            **level,
        ),
        full=measured.full,
        nothing=measured.nothing,
        confidence=confidence,
        edges=study.edges,
        pairs=pairs,
    )


def minimality(
    model: TransformerBridge,
    pairs: ContrastPairs,
    circuit: Circuit | Sequence[str],
    *,
    metric: str | None = None,
    ablation: str = "corrupted",
    n_sets: int = 10,
    n_random: int = 50,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Minimality:
    """Measure by how much each node of a circuit matters, at the set of nodes where it does most.

    Args:
        model: The bridge.
        pairs: Prompts; for a fair number others than those that chose the circuit.
        circuit: The circuit, or the names of its edges.
        metric: What is measured; None for the circuit's own, or the logit difference.
        ablation: What edges carry that are off: "corrupted", "mean" or "zero".
        n_sets: Random sets of nodes that are removed first, beside the empty one.
        n_random: Random nodes from outside that are put into the circuit, as null.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of everything random.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The largest change of each node.

    Raises:
        ValueError: If an argument is unknown, an edge is not in the model's graph, the circuit has
            no node between input and logits, or clean and corrupted metrics are too close to divide
            by.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evaluation.require_count("n_sets", n_sets, least=0)
    evaluation.require_count("n_random", n_random, least=0)
    study = _Study(model, pairs, circuit, metric=metric, ablation=ablation, progress=report)
    if not study.nodes:
        raise ValueError("minimality takes nodes away, and this circuit has none but input, logits")
    rng = np.random.default_rng(seed)
    sets = [(), *(_random_set(rng, study.nodes) for _ in range(n_sets))]
    step = measuring.part(report, 0.1, 0.5, "removing nodes")
    with_node = study.differences([study.mask] * len(study.nodes), study.nodes, sets, step)
    means = np.abs(with_node.mean(-1) / study.unit.mean())
    at = means.argmax(1)
    outside = [node for node in study.measured.graph.senders[1:] if node not in study.nodes]
    null = np.zeros(0)
    if outside and n_random:
        drawn = [outside[i] for i in rng.integers(len(outside), size=n_random)]
        inflated = [study.inflated(rng, node) for node in drawn]
        step = measuring.part(report, 0.5, 1.0, "putting random nodes into the circuit")
        differences = study.differences(inflated, drawn, sets, step)
        null = np.abs(differences.mean(-1) / study.unit.mean()).max(1)
    p_values = np.full(len(study.nodes), np.nan)
    if null.size:
        p_values = ((null[None] >= means.max(1)[:, None]).sum(1) + 1) / (len(null) + 1)
    level: dict[str, Any] = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    report(1.0, "done")
    return Minimality(
        provenance=study.provenance(
            "minimality", started, n_sets=n_sets, n_random=n_random, **level
        ),
        nodes=study.nodes,
        metric=study.measured.metric,
        changes=means.max(1),
        removed=tuple(
            tuple(n for n in sets[j] if n != v) for j, v in zip(at, study.nodes, strict=True)
        ),
        interval=evidence.ratio_interval(
            with_node[np.arange(len(at)), at].T,
            study.unit,
            **level,
        ),
        null=null,
        p_values=p_values,
        adjusted_p=evidence.adjusted_for_discoveries(p_values) if null.size else p_values,
        confidence=confidence,
        edges=study.edges,
        pairs=pairs,
    )


class _Study:
    """A circuit whose nodes are removed."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        circuit: Circuit | Sequence[str],
        *,
        metric: str | None,
        ablation: str,
        progress: running.Progress,
    ) -> None:
        self.edges = evaluation.edges_of(circuit)
        progress(0.0, "running clean and corrupted prompts")
        chosen = evaluation.metric_of(circuit, metric)
        self.measured = measuring.Measured(model, pairs, metric=chosen, ablation=ablation)
        self._model, self._ablation = model, ablation
        self.mask = self.measured.graph.mask(self.edges)
        self.unit = self.measured.full - self.measured.nothing
        senders = self.measured.graph.senders
        self.nodes = tuple(senders[i] for i in np.flatnonzero(self.mask.any(1)) if i > 0)

    def provenance(self, name: str, started: float, **options: Any) -> results.Provenance:
        made = {"edges": list(self.edges), "metric": self.measured.metric}
        made |= {"ablation": self._ablation, "pairs": self.measured.pairs.digest(), **options}
        return results.provenance(
            self._model,
            analysis=f"circuits.{name}",
            parameters=made,
            seed=options["seed"],
            wall_time=time.perf_counter() - started,
        )

    def both(self, sets: Sequence[tuple[str, ...]]) -> list[Mask]:
        """Circuit and model without each set, one after the other."""
        measured = self.measured
        return [
            measured.without(mask, nodes)
            for nodes in sets
            for mask in (self.mask, measured.graph.allowed)
        ]

    def greedy(
        self, rng: np.random.Generator, progress: Callable[[float], None]
    ) -> tuple[str, ...]:
        """A set of nodes that widens the gap between circuit and model step by step."""
        chosen: tuple[str, ...] = ()
        widest = self._gaps([chosen])[0]
        while len(chosen) < len(self.nodes):
            left = [node for node in self.nodes if node not in chosen]
            few = rng.permutation(len(left))[:_GREEDY_CHOICES]
            longer = [tuple(n for n in self.nodes if n in (*chosen, left[i])) for i in few]
            gaps = self._gaps(longer)
            if gaps.max() <= widest:
                break
            chosen, widest = longer[int(gaps.argmax())], gaps.max()
            progress(len(chosen) / len(self.nodes))
        return chosen

    def _gaps(self, sets: Sequence[tuple[str, ...]]) -> Float[np.ndarray, " set"]:
        found = self.measured.faithfulness(np.stack(self.both(sets)))
        return np.abs(found[0::2] - found[1::2])

    def differences(
        self,
        masks: Sequence[Mask],
        nodes: Sequence[str],
        sets: Sequence[tuple[str, ...]],
        progress: Callable[[float], None],
    ) -> Float[np.ndarray, "node set prompt"]:
        """Metric with each node less without it, in its own circuit, while each set is removed."""
        runs = [
            self.measured.without(mask, removed)
            for mask, node in zip(masks, nodes, strict=True)
            for others in sets
            for without in [tuple(n for n in others if n != node)]
            for removed in (without, (*without, node))
        ]
        found = self.measured.under(np.stack(runs), progress)
        return (found[0::2] - found[1::2]).reshape(len(nodes), len(sets), -1)

    def inflated(self, rng: np.random.Generator, node: str) -> Mask:
        """The circuit with a node from outside, connected as a random node of it is."""
        whole, mask = self.measured.graph, self.mask.copy()
        like = self.nodes[rng.integers(len(self.nodes))]
        for edges, places in ((_into, 0), (_out_of, 1)):
            possible = np.argwhere(edges(whole, node))
            ends = self._present(whole)[places]
            possible = possible[ends[possible[:, places]]]
            count = min(max(int((edges(whole, like) & self.mask).sum()), 1), len(possible))
            chosen = possible[rng.permutation(len(possible))[:count]]
            mask[chosen[:, 0], chosen[:, 1]] = True
        return mask

    def _present(self, whole: graph.Graph) -> tuple[np.ndarray, np.ndarray]:
        """Which senders and which receivers are in the circuit."""
        names = (*whole.senders, *whole.receivers)
        ends = {"input", "logits"}
        found = np.concatenate([np.any(self.mask, axis=1), np.any(self.mask, axis=0)])
        found |= np.array([name in ends for name in names])
        return found[: len(whole.senders)], found[len(whole.senders) :]


def _into(whole: graph.Graph, node: str) -> Mask:
    """Edges that a node reads, by itself or with the group that it shares keys with."""
    mine = {node}
    if whole.kind_of(node) == "head":
        groups = {graph.node_of(name) for name in whole.receivers} - {"logits"}
        mine |= {g for g in groups if whole.kind_of(g) == "group" and node in whole.heads_of(g)}
    return whole.allowed & np.array([graph.node_of(name) in mine for name in whole.receivers])


def _out_of(whole: graph.Graph, node: str) -> Mask:
    return whole.allowed & np.array([name == node for name in whole.senders])[:, None]


def _random_set(rng: np.random.Generator, nodes: Sequence[str]) -> tuple[str, ...]:
    """Each node with probability one half."""
    chosen = rng.integers(2, size=len(nodes))
    return tuple(node for node, removed in zip(nodes, chosen, strict=True) if removed)
