"""A head's circuits as tables from token to token, row by row."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.weights import circuits, nulls
from workbench.core import plots, results

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
ANALYSIS = "weights.tokens"
KINDS = ("ov", "qk")
# Up to this vocabulary a table is kept whole; beyond it the largest entries of the asked rows are.
WHOLE_UP_TO = 2000
# Rows of a larger vocabulary where none are asked for.
SAMPLED = 256
# Rows and columns of a drawn table at most.
DRAWN = 60
_ROWS = 512
_SPOKEN = 3
_MEANING = {
    "ov": ("attends to", "promotes", "suppresses"),
    "qk": ("stands at", "looks at", "avoids"),
}


@dataclasses.dataclass(frozen=True)
class TokenTable(results.Result):
    """Entries of embedding · W_V · W_O · unembedding, or embedding · W_Q · W_Kᵀ · embeddingᵀ.

    Attributes:
        layer: Of the head.
        head: Its index.
        kind: "ov": rows are tokens attended to, columns tokens whose logits change; "qk": rows are
            tokens that look, columns tokens that are looked at.
        ids: Token of each row.
        tokens: The same as text.
        top_ids: Columns with the largest entries of each row, the largest first.
        top_tokens: The same as text.
        top_values: Their entries.
        low_ids: Columns with the smallest entries, the smallest first.
        low_tokens: The same as text.
        low_values: Their entries.
        own_rank: How many columns of each row are larger than that of the row's own token; -1 where
            there is none.
        p_value: Share of random directions, in place of what the head makes of the row's token,
            whose largest entry, for their length, is as large, whatever its sign.
        whole: The table from every token to every token, where the vocabulary is small.
        column_tokens: The columns of `whole` as text.
        n_columns: How many columns there are.
        n_random: Random directions.
        scale: Of the norms on embeddings, "own" or "one".
    """

    layer: int
    head: int
    kind: str
    ids: Int[np.ndarray, " row"]
    tokens: tuple[str, ...]
    top_ids: Int[np.ndarray, "row k"]
    top_tokens: tuple[tuple[str, ...], ...]
    top_values: Float[np.ndarray, "row k"]
    low_ids: Int[np.ndarray, "row k"]
    low_tokens: tuple[tuple[str, ...], ...]
    low_values: Float[np.ndarray, "row k"]
    own_rank: Int[np.ndarray, " row"]
    p_value: Float[np.ndarray, " row"]
    whole: tuple[Float[np.ndarray, "row column"], ...]
    column_tokens: tuple[str, ...]
    n_columns: int
    n_random: int
    scale: str

    @property
    def own_in_front(self) -> float:
        """Share of the rows whose own token is among their `k` largest entries."""
        known = self.own_rank >= 0
        near = self.own_rank[known] < self.top_ids.shape[1]
        return float(near.mean()) if known.any() else 0.0

    @property
    def own_by_chance(self) -> float:
        """The same of columns drawn at random."""
        return self.top_ids.shape[1] / self.n_columns

    def to_frame(self) -> pd.DataFrame:
        """One row an entry that is among the largest or smallest of its row."""
        _, most, least = _MEANING[self.kind]
        ends = (
            (most, self.top_ids, self.top_tokens, self.top_values),
            (least, self.low_ids, self.low_tokens, self.low_values),
        )
        k = self.top_ids.shape[1]
        frames = [
            pd.DataFrame(
                {
                    "token": np.repeat(np.array(self.tokens, dtype=object), k),
                    "token_id": np.repeat(self.ids, k),
                    "end": name,
                    "place": np.tile(np.arange(1, k + 1), len(self.ids)),
                    "other": [text for row in texts for text in row],
                    "other_id": ids.ravel(),
                    "value": values.ravel(),
                    "p_of_row": np.repeat(self.p_value, k),
                }
            )
            for name, ids, texts, values in ends
        ]
        return pd.concat(frames, ignore_index=True)

    def figure(self) -> go.Figure:
        """Part of the table: the rows, with the columns that are largest in them."""
        rows = np.arange(len(self.ids))[:DRAWN]
        columns, texts = self._drawn_columns(rows)
        values = np.full((len(rows), len(columns)), np.nan)
        for i, row in enumerate(rows):
            if self.whole:
                values[i] = self.whole[0][row, columns]
                continue
            known = dict(zip(self.top_ids[row].tolist(), self.top_values[row], strict=True))
            known |= dict(zip(self.low_ids[row].tolist(), self.low_values[row], strict=True))
            values[i] = [known.get(int(column), np.nan) for column in columns]
        does, most, _ = _MEANING[self.kind]
        return plots.heatmap(
            values,
            row_labels=plots.token_labels([self.tokens[i] for i in rows], numbered=False),
            column_labels=plots.token_labels(texts, numbered=False),
            row_title=f"token that the head {does}",
            column_title=f"token that it {most}",
            colour_title="logit" if self.kind == "ov" else "q·k",
        )

    def _drawn_columns(self, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Columns that are first in some row, then second, and so on, by id."""
        names: dict[int, str] = {}
        for place in range(self.top_ids.shape[1]):
            for row in rows:
                if len(names) < DRAWN:
                    names.setdefault(int(self.top_ids[row, place]), self.top_tokens[row][place])
        ordered = sorted(names)
        return np.array(ordered, dtype=np.int64), [names[column] for column in ordered]

    def summary(self) -> str:
        """What the circuit does to some tokens, and how often to the token itself."""
        does, most, _ = _MEANING[self.kind]
        sure = int((self.p_value <= nulls.OUTSIDE).sum())
        first = ", ".join(
            f"{plots.visible(self.tokens[i])} → "
            + " ".join(plots.visible(text) for text in self.top_tokens[i][:_SPOKEN])
            for i in np.argsort(self.p_value, kind="stable")[:_SPOKEN]
        )
        return (
            f"{self.kind.upper()} circuit of head {self.layer}.{self.head} on {len(self.ids):,} "
            f"tokens of {self.n_columns:,}, by weights alone. What it {most} where it {does} a "
            f"token: {first}. In {sure:,} rows the largest entry is beyond random directions of "
            f"the same length (p at most {nulls.OUTSIDE}, {self.n_random} of them; by chance "
            f"{nulls.OUTSIDE * len(self.ids):.0f}). The token itself is among the "
            f"{self.top_ids.shape[1]} largest in {self.own_in_front:.0%} of the rows (at random "
            f"{self.own_by_chance:.1%})."
        )


def tokens(
    model: TransformerBridge,
    layer: int,
    head: int,
    *,
    kind: str = "ov",
    rows: Sequence[str | int] | None = None,
    k: int = 10,
    scale: str = "own",
    seed: int = 0,
) -> TokenTable:
    """Write a head's circuit as a table from token to token.

    Args:
        model: The bridge.
        layer: Of the head.
        head: Its index.
        kind: "ov" for what attending to a token does to the logits, "qk" for what a token looks at.
        rows: Which tokens, as text or ids; if not given, all of a small vocabulary, and an even
            sample of a large one.
        k: How many of the largest and of the smallest entries to keep of each row.
        scale: Of the norms on embeddings: "own", each token's by itself, or "one".
        seed: Of the random directions.

    Returns:
        The table: whole if the vocabulary is small and no rows were asked for.

    Raises:
        ValueError: If there is no such head, kind or token, or k is below 1.
    """
    started = time.perf_counter()
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not known: use 'ov' or 'qk'")
    if k < 1:
        raise ValueError(f"k = {k}; expected at least 1 entry a row")
    of = circuits.Circuits(model)
    of.head(layer, head)
    d_vocab = len(of.embedding())
    ids = _rows(model, rows, d_vocab)
    left, columns = _both_sides(of, layer, head, kind=kind, ids=ids, scale=scale)
    small = d_vocab <= WHOLE_UP_TO and rows is None
    found = _largest(left, columns, ids, min(k, len(columns)), whole=small)
    null = nulls.largest_products(columns, seed)
    lengths = left.norm(dim=1).cpu().numpy().astype(np.float64)
    largest = np.maximum(found.top_values[:, 0], -found.low_values[:, 0]).astype(np.float64)
    relative = np.divide(largest, lengths, out=np.zeros_like(largest), where=lengths > 0)
    return TokenTable(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "layer": layer,
                "head": head,
                "kind": kind,
                "rows": None if rows is None else list(ids),
                "k": k,
                "scale": scale,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        layer=layer,
        head=head,
        kind=kind,
        ids=np.array(ids, dtype=np.int64),
        tokens=circuits.names(model, ids),
        top_ids=found.top_ids,
        top_tokens=_texts(model, found.top_ids),
        top_values=found.top_values,
        low_ids=found.low_ids,
        low_tokens=_texts(model, found.low_ids),
        low_values=found.low_values,
        own_rank=found.own_rank,
        p_value=nulls.p_values(relative, null),
        whole=found.whole,
        column_tokens=circuits.names(model, range(len(columns))) if small else (),
        n_columns=len(columns),
        n_random=len(null),
        scale=scale,
    )


def _rows(
    model: TransformerBridge, rows: Sequence[str | int] | None, d_vocab: int
) -> tuple[int, ...]:
    if rows is not None:
        if not rows:
            raise ValueError("no tokens were asked for: name at least one")
        return circuits.token_ids(model, rows)
    if d_vocab <= WHOLE_UP_TO:
        return tuple(range(d_vocab))
    return tuple(np.unique(np.linspace(0, d_vocab - 1, SAMPLED).astype(int)).tolist())


def _both_sides(
    of: circuits.Circuits, layer: int, head: int, *, kind: str, ids: Sequence[int], scale: str
) -> tuple[Tensor, Tensor]:
    """What the head makes of each row's token, and what that is multiplied with."""
    heads = of.heads(layer)
    read = of.tokens(layer, ids, scale=scale)
    if kind == "ov":
        return read @ heads.value[head] @ heads.output[head], of.unembedding()
    through = read @ heads.query[head] @ heads.key[head].T
    return through, of.tokens(layer, scale=scale)


@dataclasses.dataclass(frozen=True, eq=False)
class _Largest:
    top_ids: np.ndarray
    top_values: np.ndarray
    low_ids: np.ndarray
    low_values: np.ndarray
    own_rank: np.ndarray
    whole: tuple[np.ndarray, ...]


def _largest(left: Tensor, columns: Tensor, ids: Sequence[int], k: int, *, whole: bool) -> _Largest:
    """The largest and smallest entries of each row, a few rows at a time."""
    kept: list[list[Tensor]] = [[] for _ in range(6)]
    own = torch.tensor(ids, device=left.device)
    for some, tokens_ in zip(left.split(_ROWS), own.split(_ROWS), strict=True):
        entries = some @ columns.T
        high, low = (entries.topk(k, dim=1, largest=up) for up in (True, False))
        inside = tokens_ < len(columns)
        place = tokens_.clamp(max=len(columns) - 1)[:, None]
        rank = (entries > entries.gather(1, place)).sum(1)
        made = (high.indices, high.values, low.indices, low.values)
        for into, value in zip(kept, made, strict=False):
            into.append(value)
        kept[4].append(torch.where(inside, rank, -1))
        if whole:
            kept[5].append(entries)
    top_ids, top_values, low_ids, low_values, own_rank = (
        torch.cat(parts).cpu().numpy() for parts in kept[:5]
    )
    every = (torch.cat(kept[5]).cpu().numpy(),) if whole else ()
    return _Largest(top_ids, top_values, low_ids, low_values, own_rank, every)


def _texts(model: TransformerBridge, ids: np.ndarray) -> tuple[tuple[str, ...], ...]:
    k = ids.shape[1]
    flat = circuits.names(model, ids.ravel().tolist())
    return tuple(flat[start : start + k] for start in range(0, len(flat), k))
