"""Attention of every head on a prompt, as small maps, and of one head in full.

1. The model runs once, only as far as the last layer that is asked for; each layer's attention is
   turned into small maps in its hook, so that never more than one layer's patterns are held.
2. A prompt longer than a map is max-pooled: a cell then is the largest attention in its block of
   queries and keys, so that a thin stripe stays visible.
3. The value's norm is that of v W_O, what the head would write if it attended to that position
   alone; heads that share keys and values (grouped-query attention) each have their own W_O.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float, Float32

from analyses.attention import scoring
from workbench.core import plots, results
from workbench.core.engine import running, sites
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS, ANALYSIS_OF_ONE = "attention.look", "attention.one_head"
Tensor = torch.Tensor
KINDS = ("plain", "weighted", "weighted share")
# Cells a side of a small map, and of a figure of one head.
SIZE = 48
MOST_CELLS = 96
_TOP, _SPOKEN = 10, 5
_COLOURS = {
    "plain": "attention",
    "weighted": "attention × |v W_O|",
    "weighted share": "share of attention × |v W_O|",
}


@dataclasses.dataclass(frozen=True)
class AttentionPatterns(results.Result):
    """Every head's attention on a prompt.

    Attributes:
        text: The prompt as it was written; empty where ids were given.
        tokens: Of the prompt, as text.
        layers: Which layers were looked at.
        pooled: Positions a side of a map's cell; 1 where a map is the pattern itself.
        pattern: Attention weights; the largest of each block of cells.
        weighted: Attention times the norm of what the value writes; likewise.
        entropy: Mean over queries of the entropy relative to a uniform look at all that is seen.
        first: Mean attention to the first position, over queries after it; NaN for one token.
    """

    text: str
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    pooled: int
    pattern: Float32[np.ndarray, "layer head query key"]
    weighted: Float32[np.ndarray, "layer head query key"]
    entropy: Float[np.ndarray, "layer head"]
    first: Float[np.ndarray, "layer head"]

    def to_frame(self) -> pd.DataFrame:
        """One row a head."""
        layer, head = (one.ravel() for one in np.indices(self.entropy.shape))
        largest = self.pattern.reshape(*self.entropy.shape, -1).max(-1)
        columns: dict[str, Any] = {
            "head": [f"{self.layers[a]}.{b}" for a, b in zip(layer, head, strict=True)],
            "entropy": self.entropy.ravel(),
            "first position": self.first.ravel(),
            "largest": largest.ravel(),
        }
        return pd.DataFrame(columns)

    def figure(self) -> go.Figure:
        """Entropy of every head, layers upward."""
        return plots.heatmap(
            self.entropy,
            row_labels=[f"layer {layer}" for layer in self.layers],
            column_labels=[f"head {head}" for head in range(self.entropy.shape[1])],
            row_title="",
            column_title="",
            colour_title="relative entropy",
            scale="sequential",
        )

    def summary(self) -> str:
        """Size of the prompt, and the sharpest and the broadest heads on it."""
        order = np.argsort(self.entropy.ravel(), kind="stable")
        heads = self.entropy.shape[1]

        def listed(places: np.ndarray) -> str:
            return ", ".join(
                f"{self.layers[i // heads]}.{i % heads} ({self.entropy.ravel()[i]:.2f})"
                for i in places
            )

        few = min(_SPOKEN, len(order))
        pooled = (
            f" Maps show the largest of each {self.pooled} × {self.pooled} positions."
            if self.pooled > 1
            else ""
        )
        return (
            f"{len(order)} heads of {self.provenance.model} on {len(self.tokens)} tokens. The "
            f"sharpest by entropy relative to a uniform look: {listed(order[:few])}; the broadest: "
            f"{listed(order[::-1][:few])}.{pooled} Where a head looks on one prompt says neither "
            "what it does elsewhere nor what it does with what it finds."
        )


@dataclasses.dataclass(frozen=True)
class HeadAttention(results.Result):
    """One head on a prompt, in full.

    Attributes:
        text: The prompt as it was written; empty where ids were given.
        tokens: Of the prompt, as text.
        layer: Of the head.
        head: Its number within the layer.
        pattern: Attention weights.
        value_norm: Norm of what the head would write from each position alone, |v W_O|.
        entropy: Of each query, relative to a uniform look at all that it sees.
    """

    text: str
    tokens: tuple[str, ...]
    layer: int
    head: int
    pattern: Float32[np.ndarray, "query key"]
    value_norm: Float32[np.ndarray, " key"]
    entropy: Float32[np.ndarray, " query"]

    @functools.cached_property
    def weighted(self) -> Float32[np.ndarray, "query key"]:
        """Attention times the norm of what the value writes."""
        return self.pattern * self.value_norm

    @functools.cached_property
    def weighted_share(self) -> Float32[np.ndarray, "query key"]:
        """The same as a share of each query's sum."""
        total = self.weighted.sum(-1, keepdims=True)
        return self.weighted / np.where(total > 0, total, 1)

    def values(self, kind: str = "plain") -> Float32[np.ndarray, "query key"]:
        """Attention of a kind.

        Args:
            kind: "plain", "weighted" or "weighted share".

        Returns:
            One number a query and key.

        Raises:
            ValueError: If there is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"there is no attention {kind!r}; expected one of {', '.join(KINDS)}")
        return {
            "plain": self.pattern,
            "weighted": self.weighted,
            "weighted share": self.weighted_share,
        }[kind]

    def top(self, query: int, n: int = _TOP) -> pd.DataFrame:
        """What one position looks at most.

        Args:
            query: The position.
            n: How many positions.

        Returns:
            One row a position, the most attention first.

        Raises:
            ValueError: If there is no such position.
        """
        if not 0 <= query < len(self.tokens):
            raise ValueError(f"the prompt has positions 0 to {len(self.tokens) - 1}, not {query}")
        order = np.argsort(-self.pattern[query, : query + 1], kind="stable")[:n]
        columns: dict[str, Any] = {
            "position": order,
            "token": [plots.visible(self.tokens[key]) for key in order],
            "attention": self.pattern[query, order],
            "weighted": self.weighted[query, order],
            "weighted share": self.weighted_share[query, order],
        }
        return pd.DataFrame(columns)

    def to_frame(self) -> pd.DataFrame:
        """One row a query and a key that it can see."""
        query, key = np.tril_indices(len(self.tokens))
        columns: dict[str, Any] = {
            "query": query,
            "key": key,
            "attention": self.pattern[query, key],
            "weighted": self.weighted[query, key],
            "weighted share": self.weighted_share[query, key],
        }
        return pd.DataFrame(columns)

    def blocks(self, start: int = 0, stop: int | None = None) -> tuple[tuple[int, int], ...]:
        """Positions of each row and column of a figure: first, and one after the last.

        Args:
            start: First position that is shown.
            stop: One after the last; None for all.

        Returns:
            One position each, or as many as it takes for no more than 96 rows.

        Raises:
            ValueError: If there are no such positions.
        """
        end = len(self.tokens) if stop is None else stop
        if not 0 <= start < end <= len(self.tokens):
            raise ValueError(
                f"positions {start} to {end}; expected a part of the prompt's 0 to "
                f"{len(self.tokens)}"
            )
        step = -(-(end - start) // MOST_CELLS)
        return tuple((at, min(at + step, end)) for at in range(start, end, step))

    def figure(
        self,
        kind: str = "plain",
        *,
        start: int = 0,
        stop: int | None = None,
        selected: plots.Cell | None = None,
    ) -> go.Figure:
        """Queries upward, keys to the right, under their tokens.

        Args:
            kind: "plain", "weighted" or "weighted share".
            start: First position that is shown.
            stop: One after the last; None for all. More than 96 are drawn in blocks, each with its
                largest value.
            selected: Row and column to outline.

        Returns:
            The grid; blank where a query cannot look.
        """
        blocks = self.blocks(start, stop)
        values = pooled(self.values(kind), blocks)
        labels = plots.token_labels(self.tokens)
        shown = [
            labels[a]
            if b == a + 1
            else f"{a} to {b - 1} {plots.escape(plots.visible(self.tokens[a]))}…"
            for a, b in blocks
        ]
        rows, columns = np.indices(values.shape)
        return plots.heatmap(
            np.where(columns <= rows, values, np.nan),
            row_labels=shown,
            column_labels=shown,
            row_title="looks from",
            column_title="at",
            colour_title=_COLOURS[kind],
            scale="sequential",
            selected=selected,
        )

    def summary(self) -> str:
        """Entropy, where the mean query looks, and how far the values change the picture."""
        rows = range(1, len(self.tokens))
        name = f"Head {self.layer}.{self.head} of {self.provenance.model}"
        if not rows:
            return f"{name} on one token, which can look at nothing but itself."
        looks = {
            "the first position": np.mean([self.pattern[i, 0] for i in rows]),
            "the previous token": np.mean([self.pattern[i, i - 1] for i in rows]),
            "the current token": np.mean([self.pattern[i, i] for i in rows]),
        }
        said = ", ".join(f"{where} {share:.2f}" for where, share in looks.items())
        same = np.mean(self.pattern.argmax(-1) == self.weighted.argmax(-1))
        return (
            f"{name} on {len(self.tokens)} tokens: mean attention to {said}; mean entropy "
            f"{self.entropy[1:].mean():.2f} of a uniform look. Weighted by what the values write, "
            f"{same:.0%} of positions look most at the same place. Attention says where "
            "a head looks; what it writes there, and who reads it, is another question."
        )


def look(
    model: TransformerBridge,
    prompt: Prompt | str | Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    size: int = SIZE,
) -> AttentionPatterns:
    """Every head's attention on a prompt, as maps of at most `size` cells a side.

    Args:
        model: The bridge.
        prompt: Text, token ids, or a prompt.
        layers: Which layers; None for all.
        size: Cells a side of a map; a longer prompt is max-pooled.

    Returns:
        The maps.

    Raises:
        ValueError: If the model cannot read the prompt, or has no such layer.
    """
    started = time.perf_counter()
    given = Prompt.of(model, prompt)
    if size < 1:
        raise ValueError(f"size = {size}; expected at least one cell a side")
    chosen = _layers(model, layers)
    step = -(-len(given) // size)
    blocks = [(at, min(at + step, len(given))) for at in range(0, len(given), step)]
    found: dict[int, list[np.ndarray]] = {}

    def keep(layer: int, pattern: Tensor, norms: Tensor) -> None:
        whole = pattern * norms[:, None]
        entropy = scoring.relative_entropy(pattern, visible(pattern)).mean(-1)
        first = pattern[:, 1:, 0].mean(-1)
        maps = [pooled(one.cpu().numpy(), blocks) for one in (pattern, whole)]
        found[layer] = [*maps, entropy.cpu().numpy(), first.cpu().numpy()]

    _watch(model, given, chosen, keep)
    pattern, weighted, entropy, first = (
        np.stack([found[layer][i] for layer in chosen]) for i in range(4)
    )
    return AttentionPatterns(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={"prompt": list(given.ids), "layers": list(chosen), "size": size},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        text=given.text,
        tokens=given.tokens,
        layers=chosen,
        pooled=step,
        pattern=pattern,
        weighted=weighted,
        entropy=entropy,
        first=first,
    )


def one_head(
    model: TransformerBridge, prompt: Prompt | str | Sequence[int], *, layer: int, head: int
) -> HeadAttention:
    """One head's attention on a prompt, in full.

    Args:
        model: The bridge.
        prompt: Text, token ids, or a prompt.
        layer: Of the head.
        head: Its number within the layer.

    Returns:
        Its attention, plain and weighted.

    Raises:
        ValueError: If the model cannot read the prompt, or has no such head.
    """
    started = time.perf_counter()
    given = Prompt.of(model, prompt)
    chosen = _layers(model, [layer])
    heads = int(model.cfg.n_heads)
    if not 0 <= head < heads:
        raise ValueError(f"layer {layer} has heads 0 to {heads - 1}, not {head}")
    kept: list[np.ndarray] = []

    def keep(_: int, pattern: Tensor, norms: Tensor) -> None:
        entropy = scoring.relative_entropy(pattern[head], visible(pattern))
        kept.extend(one.cpu().numpy() for one in (pattern[head], norms[head], entropy))

    _watch(model, given, chosen, keep)
    pattern, norms, entropy = kept
    return HeadAttention(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS_OF_ONE,
            parameters={"prompt": list(given.ids), "layer": layer, "head": head},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        text=given.text,
        tokens=given.tokens,
        layer=layer,
        head=head,
        pattern=pattern,
        value_norm=norms,
        entropy=entropy,
    )


def visible(pattern: Float[Tensor, "head query key"]) -> Bool[Tensor, "query key"]:
    """Where any head of a layer attends at all: what a mask or a window lets through."""
    return (pattern > 0).any(0)


def pooled(
    values: Float[np.ndarray, "*head query key"], blocks: Sequence[tuple[int, int]]
) -> Float[np.ndarray, "*head row column"]:
    """Largest value in each block of queries and keys.

    Args:
        values: A pattern, or one a head.
        blocks: First position and one after the last, of each row and column.

    Returns:
        One value a block; the values themselves where every block is one position.
    """
    starts = [at for at, _ in blocks]
    part = values[..., starts[0] : blocks[-1][1], starts[0] : blocks[-1][1]]
    inside = np.array(starts) - starts[0]
    return np.maximum.reduceat(np.maximum.reduceat(part, inside, axis=-2), inside, axis=-1)


def value_norms(
    value: Float[Tensor, "position group d_head"], written: Float[Tensor, "head d_head d_model"]
) -> Float[Tensor, "head position"]:
    """Norm of what each head would write from each position alone.

    Args:
        value: Values, one a key/value head.
        written: Output projection by head.

    Returns:
        |v W_O|.
    """
    repeats = written.shape[0] // value.shape[1]
    own = value.repeat_interleave(repeats, dim=1)
    # One head after another: all of them on a long prompt would be the layer's stream many times.
    return torch.stack([(own[:, i] @ written[i]).norm(dim=-1) for i in range(len(written))])


def _layers(model: TransformerBridge, asked: Sequence[int] | None) -> tuple[int, ...]:
    n = int(model.cfg.n_layers)
    chosen = tuple(range(n)) if asked is None else tuple(dict.fromkeys(asked))
    if not chosen:
        raise ValueError("no layer is asked for: name at least one, or None for all")
    if outside := [layer for layer in chosen if not 0 <= layer < n]:
        raise ValueError(f"the model has layers 0 to {n - 1}, not {outside[0]}")
    return chosen


def _watch(model: TransformerBridge, prompt: Prompt, layers: tuple[int, ...], keep: Any) -> None:
    """Run a prompt, and hand over each layer's patterns and value norms as they come."""
    patterns, values = (sites.resolve(model, kind)[1] for kind in ("pattern", "v"))
    held: dict[int, Tensor] = {}

    def keep_value(layer: int) -> running.HookFunction:
        def look_at(value: Tensor) -> Tensor:
            written = model.blocks[layer].attn.W_O
            held[layer] = value_norms(value[0].float(), written.detach().float())
            return value

        return look_at

    def keep_pattern(layer: int) -> running.HookFunction:
        def look_at(pattern: Tensor) -> Tensor:
            keep(layer, pattern[0].float(), held.pop(layer))
            return pattern

        return look_at

    hooks = {values[layer]: keep_value(layer) for layer in layers}
    hooks |= {patterns[layer]: keep_pattern(layer) for layer in layers}
    with running.hooked(model, hooks):
        # Nothing above the last of them is needed.
        model(prompt.batch.to(model.cfg.device), stop_at_layer=max(layers) + 1)
