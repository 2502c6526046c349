"""What a part of the stream, or a state of it, says about tokens, read off directly.

A part goes through the final norm, with its scale held at what it is in this run, and the
unembedding: logits that it adds by the direct path, less their mean over the vocabulary, which
changes no probability. A whole state goes through the norm and the unembedding as the last one
does (the logit lens).
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.contributions import graph, naming, parts
from workbench.core import evidence, plots, results
from workbench.core.evidence import SURE
from workbench.core.prompts import prompt as prompts

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "contributions.promoted"
STATE_ANALYSIS = "contributions.state_tokens"
_RANDOM = 199
# Logits of random vectors that are held at once; a large vocabulary takes them in parts.
_LOGITS_AT_ONCE = 8_000_000

Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Promoted(results.Result):
    """Tokens that one part of the stream writes for and against, by the direct path.

    Attributes:
        edge: Name of the part.
        tokens: The tokens that it promotes most, the largest first, then those that it suppresses
            most, the largest last.
        token_ids: Their ids.
        logits: What it adds to the logit of each, less its mean over the vocabulary.
        n_promoted: How many of them are promoted.
        p_value: Share of random vectors of the same length, itself counted in, whose largest logit
            of either sign is as large.
        length: Of the vector that it wrote.
        pattern: For a head, where it looks from the position that it wrote at; else empty.
        labels: Token of each position that it may look at.
    """

    edge: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    logits: Float[np.ndarray, " point"]
    n_promoted: int
    p_value: float
    length: float
    pattern: Float[np.ndarray, " key"]
    labels: tuple[str, ...]

    @property
    def promoted(self) -> tuple[tuple[str, float], ...]:
        """Tokens and logits, the largest first."""
        pairs = zip(self.tokens, map(float, self.logits), strict=True)
        return tuple(pairs)[: self.n_promoted]

    @property
    def suppressed(self) -> tuple[tuple[str, float], ...]:
        """Tokens and logits, the smallest first."""
        pairs = zip(self.tokens, map(float, self.logits), strict=True)
        return tuple(pairs)[self.n_promoted :][::-1]

    def to_frame(self) -> pd.DataFrame:
        """One row a token."""
        return pd.DataFrame(
            {"token": self.tokens, "token_id": self.token_ids, "logit": self.logits}
        )

    def figure(self) -> go.Figure:
        """Bars of what it adds to each token's logit."""
        return plots.bars(
            self.logits,
            labels=_unique(self.tokens),
            value_title="logit, by the direct path",
        )

    def pattern_figure(self) -> go.Figure | None:
        """Bars of where the head looks; None for what is no head."""
        if not len(self.pattern):
            return None
        figure = plots.bars(
            self.pattern, labels=plots.token_labels(self.labels), value_title="attention"
        )
        return figure.update_layout(height=260)

    def summary(self) -> str:
        """What it promotes and suppresses most, against random vectors, and where it looks."""
        highs = ", ".join(f"{token!r} {logit:+.2f}" for token, logit in self.promoted[:3])
        lows = ", ".join(f"{token!r} {logit:+.2f}" for token, logit in self.suppressed[:3])
        chance = (
            "as large in random vectors of its length only at"
            if self.p_value <= SURE
            else "no larger than in random vectors of its length,"
        )
        lines = [
            f"'{self.edge}' of {self.provenance.model} promotes {highs} and suppresses {lows} by "
            f"the direct path ({chance} p = {self.p_value:.2g})."
        ]
        if len(self.pattern):
            most = int(self.pattern.argmax())
            lines.append(
                f"The head looks most at position {most} ({self.labels[most]!r}): "
                f"{self.pattern[most]:.0%}."
            )
        return " ".join(lines)


@dataclasses.dataclass(frozen=True)
class StateTokens(results.Result):
    """Tokens that a state of the stream would predict, were it the last.

    Attributes:
        node: Name of the state.
        tokens: The most probable tokens, the first most.
        token_ids: Their ids.
        probabilities: Of each.
        final: Probability of each at the end of the model, at the same position.
    """

    node: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    probabilities: Float[np.ndarray, " point"]
    final: Float[np.ndarray, " point"]

    def to_frame(self) -> pd.DataFrame:
        """One row a token."""
        return pd.DataFrame(
            {
                "token": self.tokens,
                "token_id": self.token_ids,
                "probability": self.probabilities,
                "probability_at_the_end": self.final,
            }
        )

    def figure(self) -> go.Figure:
        """Bars of the probabilities."""
        return plots.bars(
            self.probabilities, labels=_unique(self.tokens), value_title="probability there"
        )

    def summary(self) -> str:
        """The most probable tokens there, and what becomes of them."""
        some = zip(self.tokens[:3], self.probabilities, self.final, strict=False)
        told = ", ".join(
            f"{token!r} {here:.1%} (at the end {end:.1%})" for token, here, end in some
        )
        return (
            f"Read as if it were the last, the stream '{self.node}' of {self.provenance.model} "
            f"predicts {told}. Early states are read in a basis that they are not written for."
        )


def promoted(
    model: TransformerBridge,
    traced: graph.ContributionGraph,
    edge: naming.Edge | str,
    *,
    top: int = 8,
    seed: int = 0,
) -> Promoted:
    """Tokens that a part of the stream promotes and suppresses by the direct path.

    Args:
        model: The bridge that the graph was traced in.
        traced: The graph of a prompt.
        edge: Any part of that prompt's stream.
        top: How many tokens at either end.
        seed: Of the random vectors.

    Returns:
        The tokens, against random vectors; and where a head looks.

    Raises:
        ValueError: If the graph is another model's, or its prompt has no such part.
    """
    started = time.perf_counter()
    graph.require_same(model, traced)
    edge = naming.Edge.of(edge)
    _require_top(top)
    with parts.locked(model):
        stream = parts.Stream.of(model, traced.prompt, traced.target)
        stream.require(edge)
        (vector,) = stream.vectors([edge])
        pattern = np.zeros(0, dtype=np.float32)
        if edge.kind == naming.HEAD:
            row = stream.pattern(edge.layer)[0, edge.head, edge.target, : edge.target + 1]
            pattern = row.cpu().numpy()
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(_RANDOM, len(vector), generator=generator).to(vector)
        random = random / random.norm(dim=1, keepdim=True) * vector.norm()
        own = _direct(stream, vector[None], edge.target)[0]
        at_once = max(1, _LOGITS_AT_ONCE // len(own))
        null = torch.cat(
            [_direct(stream, some, edge.target).abs().amax(1) for some in random.split(at_once)]
        )
    count = min(top, len(own) // 2)
    high, low = own.topk(count), own.topk(count, largest=False)
    ids = [*high.indices.tolist(), *low.indices.tolist()[::-1]]
    return Promoted(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "ids": list(traced.prompt.ids),
                "target": traced.target,
                "edge": str(edge),
                "top": top,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        edge=str(edge),
        tokens=prompts.token_texts(model, ids),
        token_ids=tuple(ids),
        logits=own[ids].cpu().numpy(),
        n_promoted=count,
        p_value=evidence.p_value(float(own.abs().max()), null.cpu().numpy()),
        length=float(vector.norm()),
        pattern=pattern,
        labels=traced.prompt.tokens[: len(pattern)],
    )


def state_tokens(
    model: TransformerBridge,
    traced: graph.ContributionGraph,
    node: naming.Node | str,
    *,
    top: int = 8,
) -> StateTokens:
    """Tokens that a state of the stream would predict, were it the last.

    Args:
        model: The bridge that the graph was traced in.
        traced: The graph of a prompt.
        node: Any state of that prompt's stream.
        top: How many tokens.

    Returns:
        The tokens and their probabilities.

    Raises:
        ValueError: If the graph is another model's, or its prompt has no such state.
    """
    started = time.perf_counter()
    graph.require_same(model, traced)
    node = naming.Node.of(node)
    _require_top(top)
    with parts.locked(model):
        stream = parts.Stream.of(model, traced.prompt, traced.target)
        stream.require_part(node)
        ends = (stream.layout.state(node), len(stream.layout))
        rows = torch.stack([stream.state(number)[node.position] for number in ends])
        here, end = stream.sum.decoder.logits(rows).softmax(-1)
    best = here.topk(min(top, len(here)))
    ids: list[int] = best.indices.tolist()
    return StateTokens(
        provenance=results.provenance(
            model,
            analysis=STATE_ANALYSIS,
            parameters={
                "ids": list(traced.prompt.ids),
                "target": traced.target,
                "node": str(node),
                "top": top,
            },
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        node=str(node),
        tokens=prompts.token_texts(model, ids),
        token_ids=tuple(ids),
        probabilities=best.values.cpu().numpy(),
        final=end[best.indices].cpu().numpy(),
    )


def _direct(
    stream: parts.Stream, vectors: Float[Tensor, "part d_model"], position: int
) -> Float[Tensor, "part d_vocab"]:
    """Logits that vectors add at a position by the direct path, less their mean."""
    final = stream.sum.final
    at = dataclasses.replace(final, scale=final.scale[:, position])
    logits = at.of(vectors) @ stream.sum.decoder.unembedding()[0].T
    return logits - logits.mean(-1, keepdim=True)


def _require_top(top: int) -> None:
    if top < 1:
        raise ValueError(f"top = {top}; expected at least one token")


def _unique(tokens: tuple[str, ...]) -> list[str]:
    return plots.token_labels(tokens, numbered=False)
