"""What the model does without one part of its stream, beside what it does without others."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.contributions import naming, parts, runs
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "contributions.edge_effect"
_OTHERS = 99
# With fewer edges than this at one position, edges of all positions are what one is compared with.
_ENOUGH = 19
# Draws for each edge that is wanted, before all that can be found are taken to be found.
_PATIENCE = 40


@dataclasses.dataclass(frozen=True)
class EdgeEffect(results.Result):
    """What taking one part out of the stream does to the answer.

    Attributes:
        prompt: The prompt.
        target: Position whose output is measured.
        part: Name of the edge or node.
        answer: Token id of the answer.
        wrong: Token id of the one that its logit is compared with; empty for the logit alone.
        names: The answer, and the other one, as text.
        corrupted: Prompt whose part was put in its place; empty where it was taken out.
        before: Logit (difference) of the unchanged run.
        change: What it changes by, changed minus unchanged.
        divergence: KL divergence of the changed output from the unchanged one, in nats.
        others: Names of the parts of the same kind that it is compared with.
        null: What each of these changes it by.
        compared: Which parts these were drawn from, in words.
        p_value: Share of them, itself counted in, whose change is at least as large in size.
        random: Change by random vectors of the part's length, taken out in its place.
        random_p_value: Share of these, itself counted in, whose change is at least as large.
    """

    prompt: Prompt
    target: int
    part: str
    answer: int
    wrong: tuple[int, ...]
    names: tuple[str, ...]
    corrupted: tuple[Prompt, ...]
    before: float
    change: float
    divergence: float
    others: tuple[str, ...]
    null: Float[np.ndarray, " sample"]
    compared: str
    p_value: float
    random: Float[np.ndarray, " point"]
    random_p_value: float

    @property
    def measured(self) -> str:
        """What `before` and `change` are of, in words."""
        return measured(self.names)

    def to_frame(self) -> pd.DataFrame:
        """One row a part: itself, those of the same kind, and the random vectors."""
        return pd.DataFrame(
            {
                "part": [self.part, *self.others, *["random vector"] * len(self.random)],
                "role": [
                    "itself",
                    *["another of its kind"] * len(self.others),
                    *["random vector"] * len(self.random),
                ],
                "change": np.concatenate([[self.change], self.null, self.random]),
            }
        )

    def figure(self) -> go.Figure:
        """The change, among those of other parts and of random vectors."""
        rows = {"others of its kind": self.null, "random vectors": self.random}
        figure = go.Figure()
        spread = np.random.default_rng(0)
        for row, (name, values) in enumerate(rows.items()):
            # Spread out, so that equal ones are seen as many.
            up = row + spread.uniform(-0.25, 0.25, len(values))
            texts = list(self.others) if row == 0 else [name] * len(values)
            figure.add_trace(
                go.Scatter(
                    x=values,
                    y=up,
                    mode="markers",
                    marker={"size": 5, "color": plots.COLOURS[-1], "opacity": 0.6},
                    text=texts,
                    hovertemplate="%{text}<br>%{x:.4g}<extra></extra>",
                )
            )
        figure.add_vline(x=self.change, line={"color": plots.COLOURS[1], "width": 2})
        figure.add_vline(x=0, line={"color": plots.COLOURS[-1], "width": 1, "dash": "dot"})
        figure.update_layout(template=plots.TEMPLATE, height=240, showlegend=False)
        ends = np.concatenate([self.null, self.random, [0.0, self.change]])
        margin = 0.05 * (np.ptp(ends) or 1.0)
        figure.update_xaxes(
            title="change, in logits; red: this part",
            range=[float(ends.min() - margin), float(ends.max() + margin)],
        )
        figure.update_yaxes(
            tickvals=list(range(len(rows))),
            ticktext=[f"{name} (n = {len(values)})" for name, values in rows.items()],
            range=[-0.6, len(rows) - 0.4],
            showgrid=False,
        )
        return figure

    def summary(self) -> str:
        """The change, the divergence, and what other parts and random vectors do."""
        done = "Taking out" if not self.corrupted else "Swapping"
        instead = "" if not self.corrupted else " for what the other prompt has there"
        lines = [
            f"{done} '{self.part}' of {self.provenance.model}{instead} moves the {self.measured} "
            f"by {self.change:+.4f} logits, from {self.before:.4f} to "
            f"{self.before + self.change:.4f}, and the output by {self.divergence:.4g} nats (KL); "
            "all that comes later was computed again."
        ]
        if len(self.null):
            lines.append(
                f"Of {len(self.null)} other parts ({self.compared}) "
                f"{(np.abs(self.null) >= abs(self.change)).sum()} move it as much "
                f"(p = {self.p_value:.2g}, median {np.median(np.abs(self.null)):.4f})."
            )
        else:
            lines.append(f"There is no other part to compare it with ({self.compared}).")
        if len(self.random):
            lines.append(
                f"Of {len(self.random)} random vectors of its length in its place "
                f"{(np.abs(self.random) >= abs(self.change)).sum()} do "
                f"(p = {self.random_p_value:.2g}, median {np.median(np.abs(self.random)):.4f})."
            )
        return " ".join(lines)


def edge_effect(
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    edge: naming.Edge | naming.Node | str,
    answer: str | int,
    *,
    wrong: str | int | None = None,
    corrupted: Prompt | str | Sequence[int] | None = None,
    target: int = -1,
    route: Sequence[naming.Edge | str] = (),
    others: int = _OTHERS,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> EdgeEffect:
    """Take one part out of the stream, or swap it, and run the rest of the model exactly.

    Args:
        model: Any bridge that `decoder` can take apart.
        prompt: Text, token ids, or a prompt.
        edge: An edge; or a node, which is a whole state of the stream at a position.
        answer: Token whose logit is measured at the target.
        wrong: Token whose logit is taken off it.
        corrupted: Prompt of the same length, whose part is put in place of this one's.
        target: Position whose output is measured; negative counts from the end.
        route: Edges that are none of the others which it is compared with.
        others: How many other parts, and how many random vectors, it is compared with.
        seed: Of what is drawn.
        progress: Called with the fraction done; what it raises stops the run.

    Returns:
        The effect, with its null.

    Raises:
        ValueError: If the prompt has no such part, an answer is no single token, or the prompts
            differ in length.
    """
    progress = progress or running.no_progress
    started = time.perf_counter()
    part = naming.edge_or_node(edge)
    asked = runs.Asked.of(model, prompt, answer, wrong=wrong, corrupted=corrupted, target=target)
    if others < 0:
        raise ValueError(f"others = {others}; expected 0 or more")
    kept_out = {naming.Edge.of(other) for other in route}
    with parts.locked(model):
        without = runs.Runs.of(model, asked)
        without.stream.require_part(part)
        drawn, compared = _others(without.stream, part, kept_out, others, seed)
        taken = without.taken([part, *drawn])
        progress(0.0, "running the rest of the model")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(others, taken.shape[1], generator=generator).to(taken)
        noise = noise / noise.norm(dim=1, keepdim=True) * taken[0].norm()
        where = [part, *drawn, *[part] * others]
        changed, divergences = without.changes(where, torch.cat([taken, noise]), progress)
    null, random = changed[1 : 1 + len(drawn)], changed[1 + len(drawn) :]
    change = float(changed[0])
    return EdgeEffect(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "ids": list(asked.prompt.ids),
                "target": asked.target,
                "edge": str(part),
                "answer": asked.answer,
                "wrong": list(asked.wrong),
                "corrupted": [list(other.ids) for other in asked.corrupted],
                "route": sorted(map(str, kept_out)),
                "others": others,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        prompt=asked.prompt,
        target=asked.target,
        part=str(part),
        answer=asked.answer,
        wrong=asked.wrong,
        names=asked.names(model),
        corrupted=asked.corrupted,
        before=without.before,
        change=change,
        divergence=float(divergences[0]),
        others=tuple(map(str, drawn)),
        null=null,
        compared=compared,
        p_value=evidence.p_value(abs(change), np.abs(null)),
        random=random,
        random_p_value=evidence.p_value(abs(change), np.abs(random)),
    )


def measured(names: tuple[str, ...]) -> str:
    """What is measured, in words.

    Args:
        names: The answer, and the one that it is compared with, if any.

    Returns:
        The words.
    """
    if len(names) == 1:
        return f"logit of {names[0]!r}"
    return f"logit of {names[0]!r} less that of {names[1]!r}"


def _others(
    stream: parts.Stream,
    part: naming.Edge | naming.Node,
    kept_out: set[naming.Edge],
    wanted: int,
    seed: int,
) -> tuple[list[naming.Edge | naming.Node], str]:
    """Parts of the same kind, at the same position if there are enough, and their description."""
    random = np.random.default_rng(seed)
    if wanted == 0:
        return [], "none were asked for"
    _, own = stream.place(part)
    for same_position in (True, False):
        drawn: dict[naming.Edge | naming.Node, None] = {}
        for _ in range(_PATIENCE * wanted):
            if len(drawn) == wanted:
                break
            at = own if same_position else int(random.integers(stream.length))
            other = _another(stream, part, at, random)
            if other != part and other not in kept_out:
                drawn[other] = None
        # A head that does not look somewhere brings nothing from there: that is no edge.
        vectors = stream.part_vectors(list(drawn)) if drawn else ()
        found = [other for other, vector in zip(drawn, vectors, strict=True) if vector.any()]
        if len(found) >= min(_ENOUGH, wanted) or not same_position:
            break
    where = "at its position" if same_position else "at any position"
    kind = f"'{part.kind}'" if isinstance(part, naming.Edge) else "states"
    off = ", not on the route" if kept_out else ""
    return found, f"{kind} of any layer {where}{off}"


def _another(
    stream: parts.Stream,
    part: naming.Edge | naming.Node,
    at: int,
    random: np.random.Generator,
) -> naming.Edge | naming.Node:
    """A part of the same kind at a position, of any layer, drawn evenly."""
    layout = stream.layout
    if isinstance(part, naming.Node):
        return layout.node(int(random.integers(len(layout) + 1)), at)
    layers = layout.layers_with(part.kind)
    layer = layers[random.integers(len(layers))]
    if part.kind == naming.HEAD:
        head, key = int(random.integers(stream.n_heads)), int(random.integers(at + 1))
        return naming.Edge(naming.HEAD, layer, head, key, at)
    return naming.Edge(part.kind, layer, -1, at, at)
