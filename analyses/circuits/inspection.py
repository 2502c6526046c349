"""What does one edge of a circuit do, and where does its head attend?

1. Corrupt that edge alone in the full model, exactly, for each prompt.
2. Show where the head that reads the edge attends in one clean prompt and in its corrupted one; if
   no head reads it, the head that writes it.

Source: Wang et al. 2022, arXiv 2211.00593 (heads of a circuit by what they attend to).

Units and sign: changes are in the metric's unit, negative where the edge raises the metric; the
effect is the fraction destroyed. Attention weights are probabilities over the keys.

Limits: attention shows where a head looks, not what it moves; an edge between MLPs has no pattern.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly import subplots

from analyses.circuits import measuring
from analyses.circuits.circuit import Circuit
from workbench.core import evidence, plots, results
from workbench.core.engine import decoder, graph, metrics, running
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "circuits.inspect_edge"


@dataclasses.dataclass(frozen=True)
class EdgeInspection(results.Result):
    """One edge: its exact effect, and the attention of the head at its end.

    Attributes:
        edge: Name of the edge.
        metric: What was measured.
        change: Mean change of the metric when the edge alone is corrupted in the full model.
        change_interval: Bootstrap interval of the change over prompts.
        effect: The change as fraction destroyed.
        effect_interval: Bootstrap interval of the effect.
        per_prompt: Change of each prompt that chose the circuit.
        heads: Heads whose attention is shown; empty where neither end is a head.
        clean_pattern: Attention of each head in the clean prompt.
        corrupted_pattern: Attention of each head in the corrupted prompt.
        clean_tokens: Tokens of the clean prompt.
        corrupted_tokens: Tokens of the corrupted prompt.
        confidence: Level of the intervals.
        pairs: The pairs that chose the circuit.
    """

    edge: str
    metric: str
    change: float
    change_interval: Float[np.ndarray, " bound"]
    effect: float
    effect_interval: Float[np.ndarray, " bound"]
    per_prompt: Float[np.ndarray, " prompt"]
    heads: tuple[str, ...]
    clean_pattern: Float[np.ndarray, "head query key"]
    corrupted_pattern: Float[np.ndarray, "head query key"]
    clean_tokens: tuple[str, ...]
    corrupted_tokens: tuple[str, ...]
    confidence: float
    pairs: ContrastPairs

    def to_frame(self) -> pd.DataFrame:
        """One row a prompt: the change of its metric."""
        return pd.DataFrame({"prompt": self.pairs.clean, "change": self.per_prompt})

    def figure(self) -> go.Figure:
        """Attention in both prompts, a row a head; without a head, the change of each prompt."""
        if not self.heads:
            return plots.bars(
                self.per_prompt,
                labels=[f"{i}" for i in range(len(self.per_prompt))],
                value_title=f"change ({metrics.UNITS[self.metric]})",
                label_title="prompt",
            )
        titles = [f"{head}, {kind}" for head in self.heads for kind in ("clean", "corrupted")]
        figure = subplots.make_subplots(
            rows=len(self.heads), cols=2, subplot_titles=titles, horizontal_spacing=0.16
        )
        sides = (
            (self.clean_pattern, plots.token_labels(self.clean_tokens)),
            (self.corrupted_pattern, plots.token_labels(self.corrupted_tokens)),
        )
        for column, (patterns, labels) in enumerate(sides, start=1):
            ticks: dict[str, Any] = {"tickvals": list(range(len(labels))), "ticktext": labels}
            for row, pattern in enumerate(patterns, start=1):
                figure.add_trace(_heatmap(pattern, labels), row=row, col=column)
                figure.update_xaxes(title="attends to", **ticks, row=row, col=column)
                figure.update_yaxes(autorange="reversed", **ticks, row=row, col=column)
        height = 60 + 360 * len(self.heads)
        return figure.update_layout(template=plots.TEMPLATE, height=height)

    def summary(self) -> str:
        """The exact effect with its interval, and where the last position attends most."""
        unit, n = metrics.UNITS[self.metric], len(self.pairs)
        text = (
            f"Corrupting {self.edge} alone changes the {self.metric.replace('_', ' ')} by "
            f"{self.change:.3f} {unit}, which destroys {self.effect:.3f}"
        )
        if n > 1:
            low, high = self.effect_interval
            text += f" [{low:.3f}, {high:.3f}]"
        lines = [f"{text} of the behaviour (n = {n})."]
        for head, clean, corrupted in zip(
            self.heads, self.clean_pattern, self.corrupted_pattern, strict=True
        ):
            first, second = int(clean[-1].argmax()), int(corrupted[-1].argmax())
            lines.append(
                f"At the last position {head} attends most to position {first} "
                f"({self.clean_tokens[first].strip()!r}, {clean[-1, first]:.2f}) in the clean "
                f"prompt and to position {second} ({self.corrupted_tokens[second].strip()!r}, "
                f"{corrupted[-1, second]:.2f}) in the corrupted one."
            )
        return " ".join(lines)


def inspect_edge(
    model: TransformerBridge,
    circuit: Circuit,
    edge: str | int,
    *,
    prompt: int = 0,
) -> EdgeInspection:
    """Measure one edge by itself, and show the attention at its end.

    Args:
        model: The bridge that the circuit is of.
        circuit: Says metric and pairs.
        edge: Name of any edge of the model's graph, or index of one of the circuit's.
        prompt: Which of the pairs that chose the circuit.

    Returns:
        The edge's effect and the attention patterns.

    Raises:
        ValueError: If the edge or the prompt does not exist.
    """
    started = time.perf_counter()
    pairs, whole = circuit.discovered_on, circuit.graph
    name = _name(circuit, edge)
    mask = whole.mask([name])
    if not 0 <= prompt < len(pairs):
        raise ValueError(f"prompt {prompt} does not exist; there are {len(pairs)} pairs")
    measured = measuring.Measured(model, pairs, metric=circuit.metric)
    change = measured.under((whole.allowed & ~mask)[None])[0] - measured.full
    made = circuit.provenance.parameters
    level: dict[str, Any] = {k: made[k] for k in ("confidence", "n_resamples", "seed")}
    unit = measured.full - measured.nothing
    heads = _heads(whole, name)
    clean, corrupted = pairs.batch([prompt])
    return EdgeInspection(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"edge": name, "prompt": prompt, "pairs": pairs.digest(), **level},
            seed=level["seed"],
            wall_time=time.perf_counter() - started,
        ),
        edge=name,
        metric=circuit.metric,
        change=float(change.mean()),
        change_interval=evidence.mean_interval(change[:, None], **level)[:, 0],
        effect=float(-change.mean() / unit.mean()),
        effect_interval=evidence.ratio_interval(-change[:, None], unit, **level)[:, 0],
        per_prompt=change,
        heads=heads,
        clean_pattern=_patterns(model, clean, heads),
        corrupted_pattern=_patterns(model, corrupted, heads),
        clean_tokens=pairs.clean_strings[prompt],
        corrupted_tokens=pairs.corrupted_strings[prompt],
        confidence=circuit.confidence,
        pairs=pairs,
    )


def _name(circuit: Circuit, edge: str | int) -> str:
    if isinstance(edge, str):
        return edge
    if not 0 <= edge < len(circuit.edges):
        raise ValueError(f"edge {edge} does not exist; the circuit has {len(circuit.edges)} edges")
    return circuit.edges[edge]


def _heads(whole: graph.Graph, edge: str) -> tuple[str, ...]:
    """The heads that read an edge, else the one that writes it, else none."""
    sender, _, reader = edge.partition("->")
    for node in (graph.node_of(reader), sender):
        kind = whole.kind_of(node)
        if kind == "group":
            return whole.heads_of(node)
        if kind == "head":
            return (node,)
    return ()


def _patterns(
    model: TransformerBridge, tokens: torch.Tensor, heads: tuple[str, ...]
) -> Float[np.ndarray, "head query key"]:
    length = tokens.shape[1]
    if not heads:
        return np.zeros((0, length, length), dtype=np.float32)
    with running.lock_of(model), torch.inference_mode():
        parts = decoder.taken_apart(model, tokens)
        kept = parts.run(parts.embed(tokens), also=("pattern",))
    places = [head.removeprefix("a").split(".h") for head in heads]
    shown = [kept.pattern[int(layer)][0, int(head)].float().cpu().numpy() for layer, head in places]
    return np.stack(shown)


def _heatmap(pattern: Float[np.ndarray, "query key"], labels: list[str]) -> go.Heatmap:
    return go.Heatmap(
        z=pattern,
        zmin=0,
        zmax=1,
        colorscale=plots.SEQUENTIAL,
        showscale=False,
        text=[[f"{query} → {key}" for key in labels] for query in labels],
        hovertemplate="%{text}<br>%{z:.3f}<extra></extra>",
    )
