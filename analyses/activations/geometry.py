"""How does the stream grow, turn and lean from layer to layer?

1. Rows go through the model one by one; the stream is read before the first layer and after each
   one, and what attention and the MLP add to it where they add it.
2. Norm of the stream, the first position apart: much attention goes there, and its norm is often
   out of scale. Norms of the updates relative to the stream that they are added to, and cosines of
   the update with that stream.
3. Cosine between the stream at every two depths, at the same position.
4. The null: updates of the same norms in random directions. In many dimensions these are at right
   angles to the stream and to each other, so squares of norms add up: norms and cosines follow.
5. Anisotropy: mean cosine between streams at random positions (of different rows, in a corpus),
   which is 0 for directions without preference; and the share of it that one coordinate makes.

Intervals are over rows; of one prompt there are none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float

from analyses.activations import layout as layouts
from workbench.core import evidence, plots, results
from workbench.core.engine import running
from workbench.core.evidence import SURE
from workbench.core.prompts.prompt import Prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

ANALYSIS = "activations.stream"
UPDATES = ("attention", "MLP")
_HOOKS = ("hook_attn_out", "hook_mlp_out")
# Update and stream must add up to the next stream to this share of its size.
_ADDS_UP = 1e-3
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class StreamGeometry(results.Result):
    """Norms and angles of the residual stream. Depth 0 is before the first layer.

    Attributes:
        source: The prompt, or the name of the corpus.
        n_rows: Rows that were read.
        n_tokens: Positions of these but for each row's first one.
        norm: Mean norm of the stream at each depth, the first positions left out.
        norm_interval: Of that, over rows; NaN of one row.
        first_norm: Mean norm at the first position, at each depth.
        norm_null: Norm that updates of the same norms in random directions give.
        cosine: Mean cosine between the stream at two depths, at the same position.
        cosine_interval: Of that, over rows; NaN of one row.
        cosine_null: The same for updates in random directions.
        relative: Norm of each update relative to the stream that it is added to; NaN where a layer
            has none.
        relative_interval: Of that, over rows.
        turn: Cosine of each update with the stream that it is added to.
        turn_interval: Of that, over rows.
        turn_p: Of a mean cosine that is zero, by sign flips over rows, adjusted for all updates;
            NaN of one row.
        anisotropy: Mean cosine between streams at random positions, at each depth.
        anisotropy_interval: Of that, over rows; NaN of one row.
        rogue: Coordinate that makes the largest share of that mean, at each depth.
        rogue_share: Its share of it.
        d_model: Width of the stream; random cosines have a standard deviation of 1 / sqrt(d_model).
        adds_up: Largest relative gap between stream plus updates and the next stream.
        confidence: Of the intervals.
    """

    source: str
    n_rows: int
    n_tokens: int
    norm: Float[np.ndarray, " point"]
    norm_interval: Float[np.ndarray, "bound point"]
    first_norm: Float[np.ndarray, " point"]
    norm_null: Float[np.ndarray, " point"]
    cosine: Float[np.ndarray, "point point"]
    cosine_interval: Float[np.ndarray, "bound point point"]
    cosine_null: Float[np.ndarray, "point point"]
    relative: Float[np.ndarray, "part layer"]
    relative_interval: Float[np.ndarray, "bound part layer"]
    turn: Float[np.ndarray, "part layer"]
    turn_interval: Float[np.ndarray, "bound part layer"]
    turn_p: Float[np.ndarray, "part layer"]
    anisotropy: Float[np.ndarray, " point"]
    anisotropy_interval: Float[np.ndarray, "bound point"]
    rogue: tuple[int, ...]
    rogue_share: Float[np.ndarray, " point"]
    d_model: int
    adds_up: float
    confidence: float

    @property
    def depths(self) -> list[str]:
        """Name of each depth."""
        return ["embedding", *(f"after {layer}" for layer in range(len(self.norm) - 1))]

    def to_frame(self) -> pd.DataFrame:
        """One row a depth; updates of a layer stand at the depth after it."""
        none = [np.nan]
        return pd.DataFrame(
            {
                "depth": self.depths,
                "norm": self.norm,
                "norm low": self.norm_interval[0],
                "norm high": self.norm_interval[1],
                "norm, random updates": self.norm_null,
                "norm of the first position": self.first_norm,
                "anisotropy": self.anisotropy,
                "coordinate of it": self.rogue,
                "its share": self.rogue_share,
                **{
                    f"{name}, {what}": np.concatenate([none, values[part]])
                    for part, name in enumerate(UPDATES)
                    for what, values in (
                        ("relative norm", self.relative),
                        ("cosine with the stream", self.turn),
                        ("adjusted p", self.turn_p),
                    )
                },
            }
        )

    def figure(self) -> go.Figure:
        """Norm of the stream by depth, beside what random updates would give."""
        series = {
            "all but the first position": self.norm,
            "first position": self.first_norm,
            "random updates of the same norms": self.norm_null,
        }
        bands = {"all but the first position": self.norm_interval} if self.n_rows > 1 else {}
        # A logarithm has no zero.
        shown = {name: np.where(values > 0, values, np.nan) for name, values in series.items()}
        figure = plots.line(
            np.arange(len(self.norm)),
            shown,
            x_title="layers that were passed",
            y_title="norm of the stream",
            bands=bands,
            log_y=True,
        ).update_yaxes(dtick=1, **plots.POWERS_OF_TEN)
        return figure.update_xaxes(dtick=1 if len(self.norm) <= len(plots.COLOURS) * 2 else None)

    def cosine_figure(self, *, selected: plots.Cell | None = None) -> go.Figure:
        """Cosines between depths, with what random updates would give in each box."""
        low, high = self.cosine_interval
        hover = np.empty(self.cosine.shape, dtype=object)
        for row, column in np.ndindex(*self.cosine.shape):
            hover[row, column] = f"random updates {self.cosine_null[row, column]:.3f}" + (
                f"<br>interval {low[row, column]:.3f} to {high[row, column]:.3f}"
                if np.isfinite(low[row, column])
                else ""
            )
        return plots.heatmap(
            self.cosine,
            row_labels=self.depths,
            column_labels=self.depths,
            row_title="stream",
            column_title="stream",
            colour_title="cosine",
            hover=hover,
            selected=selected,
        )

    def updates_figure(self) -> go.Figure:
        """Relative norms and cosines of the updates by layer."""
        series: dict[str, np.ndarray] = {}
        bands: dict[str, np.ndarray] = {}
        for part, name in enumerate(UPDATES):
            for what, values, interval in (
                ("relative norm", self.relative, self.relative_interval),
                ("cosine with the stream", self.turn, self.turn_interval),
            ):
                if np.isfinite(values[part]).any():
                    series[f"{name}: {what}"] = values[part]
                    bands[f"{name}: {what}"] = interval[:, part]
        return plots.line(
            np.arange(self.relative.shape[1]),
            series,
            x_title="layer",
            y_title="relative norm, or cosine",
            bands=bands if self.n_rows > 1 else {},
        ).update_xaxes(dtick=1 if self.relative.shape[1] <= len(plots.COLOURS) * 2 else None)

    def summary(self) -> str:
        """Growth, turning and leaning, each beside its null."""
        last = len(self.norm) - 1
        parts = [
            f"The stream of {self.provenance.model} on {self.source} ({self.n_tokens:,} positions "
            f"in {self.n_rows:,} {'row' if self.n_rows == 1 else 'rows'}, first positions left "
            f"out): its norm goes from {self.norm[0]:.3g} to {self.norm[last]:.3g}"
            f"{self._between(self.norm_interval[:, last])}; updates of the same norms in random "
            f"directions would give {self.norm_null[last]:.3g}. At the first position it is "
            f"{self.first_norm[last]:.3g} in the end.",
            f"Cosine of the last stream with the embedding: {self.cosine[0, last]:.3f}"
            f"{self._between(self.cosine_interval[:, 0, last])}; random updates would leave "
            f"{self.cosine_null[0, last]:.3f}.",
        ]
        looked_at = np.isfinite(self.turn_p)
        if looked_at.any():
            against = int(((self.turn_p <= SURE) & (self.turn < 0) & looked_at).sum())
            along = int(((self.turn_p <= SURE) & (self.turn > 0) & looked_at).sum())
            parts.append(
                f"Of {int(looked_at.sum())} updates, {along} point along the stream and {against} "
                f"against it beyond chance (adjusted p at most {SURE}, sign flips over rows)."
            )
        parts.append(
            f"Streams at random positions have a mean cosine of {self.anisotropy[last]:.3f} in the "
            f"end{self._between(self.anisotropy_interval[:, last])}, where directions without "
            f"preference would have 0 (standard deviation {self.d_model**-0.5:.3f} a pair); "
            f"coordinate {self.rogue[last]} makes {self.rogue_share[last]:.0%} of it."
        )
        if self.n_rows == 1:
            parts.append("No intervals: one prompt says nothing about others.")
        if self.adds_up > _ADDS_UP:
            parts.append(
                f"What is called attention and MLP here does not add up to the next stream (gap "
                f"{self.adds_up:.1%}): their numbers are of something else than what is added."
            )
        return " ".join(parts)

    def _between(self, interval: np.ndarray) -> str:
        if not np.isfinite(interval).all():
            return ""
        return f" ({self.confidence:.0%} interval {interval[0]:.3g} to {interval[1]:.3g})"


def stream(
    model: TransformerBridge,
    given: Prompt | str | Sequence[int] | Corpus,
    *,
    rows: int = 64,
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> StreamGeometry:
    """Measure norms and angles of the residual stream.

    Args:
        model: The bridge.
        given: A prompt of at least two tokens, or a corpus, of which some rows are read.
        rows: How many rows of a corpus, drawn at random among those of at least two tokens.
        confidence: Of the intervals.
        seed: Of the draw and the resamples.
        progress: Told how far it is; may raise to stop.

    Returns:
        The geometry.

    Raises:
        ValueError: If there is no row of two tokens, or a number is out of range.
    """
    from workbench.core.prompts.corpus import Corpus

    started = time.perf_counter()
    report = progress or running.no_progress
    evidence.require_confidence(confidence)
    if rows < 1:
        raise ValueError(f"rows = {rows}; expected at least 1")
    if isinstance(given, Corpus):
        texts, source = _drawn(given, rows, seed), given.name
        parameters: dict[str, Any] = {"corpus": given.fingerprint, "rows": rows}
    else:
        prompt = Prompt.of(model, given)
        if len(prompt) == 1:
            raise ValueError("the prompt has one token: expected two, as the first one is left out")
        texts, source = [list(prompt.ids)], f"a prompt of {len(prompt)} tokens"
        parameters = {"prompt": list(prompt.ids)}
    read: list[_Row] = []
    for number, ids in enumerate(texts):
        report(number / len(texts), f"row {number + 1} of {len(texts)}")
        read.append(_Row(model, ids))
    return _gathered(
        read,
        source,
        results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={**parameters, "confidence": confidence},
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
    )


class _Row:
    """One row of tokens, measured.

    All is a mean over its positions but the first; `unit` is the mean of the streams' directions,
    and `pairs` their mean cosine between two positions where the row stands alone.
    """

    def __init__(self, model: TransformerBridge, ids: Sequence[int]) -> None:
        layers = int(model.cfg.n_layers)
        known = model.hook_dict
        kept: dict[str, torch.Tensor] = {}

        def keeper(name: str) -> running.HookFunction:
            def keep(activation: torch.Tensor) -> torch.Tensor:
                kept[name] = activation[0].float().cpu().clone()
                if name == names[-1]:
                    raise layouts.Reached
                return activation

            return keep

        names = ["blocks.0.hook_resid_pre"]
        names += [f"blocks.{layer}.hook_resid_post" for layer in range(layers)]
        added = [f"blocks.{layer}.{hook}" for layer in range(layers) for hook in _HOOKS]
        asked = [*names, *(name for name in added if name in known)]
        watched = {name: keeper(name) for name in asked}
        with contextlib.suppress(layouts.Reached), running.observing(model, watched):
            model(torch.tensor([list(ids)]).to(model.cfg.device), return_type="logits")
        streams = torch.stack([kept.pop(name) for name in names])
        self.n_tokens = len(ids) - 1
        norms = streams.norm(dim=-1)
        self.first = norms[:, 0].numpy().astype(np.float64)
        self.norm = norms[:, 1:].mean(1).numpy().astype(np.float64)
        self._measure_updates(kept, streams, layers)
        units = (streams / norms.clamp(min=1e-30)[..., None])[:, 1:]
        self.cosine = _between_depths(units)
        self._measure_null(streams[:, 1:], norms[:, 1:])
        self.unit = units.mean(1).double().numpy()
        self.own = (units.double() ** 2).mean(1).numpy() / self.n_tokens

    def _measure_updates(
        self, kept: dict[str, torch.Tensor], streams: torch.Tensor, layers: int
    ) -> None:
        self.relative = np.full((len(UPDATES), layers), np.nan)
        self.turn = np.full((len(UPDATES), layers), np.nan)
        self.gap = 0.0
        for layer in range(layers):
            attention, mlp = (kept.pop(f"blocks.{layer}.{hook}", None) for hook in _HOOKS)
            total = streams[layer]
            for part, update in enumerate((attention, mlp)):
                if update is None:
                    continue
                # Side by side or not, the MLP's output is added to what attention's was added to.
                onto = total
                size = update.norm(dim=-1)[1:]
                base = onto.norm(dim=-1)[1:].clamp(min=1e-30)
                self.relative[part, layer] = float((size / base).mean())
                inner = (update * onto).sum(-1)[1:]
                self.turn[part, layer] = float((inner / (size * base).clamp(min=1e-30)).mean())
                total = total + update
            gap = (total - streams[layer + 1]).norm() / (streams[layer + 1]).norm().clamp(min=1e-30)
            self.gap = max(self.gap, float(gap))

    def _measure_null(self, streams: torch.Tensor, norms: torch.Tensor) -> None:
        """Norms and cosines if every layer's update were of its norm in a random direction."""
        steps = (streams[1:] - streams[:-1]).norm(dim=-1).double() ** 2
        squares = torch.cat([norms[:1].double() ** 2, steps]).cumsum(0)
        sizes = squares.sqrt()
        self.norm_null = sizes.mean(1).numpy()
        depths = len(sizes)
        self.cosine_null = np.ones((depths, depths))
        for early in range(depths):
            for late in range(early + 1, depths):
                share = (sizes[early] / sizes[late].clamp(min=1e-30)).mean()
                self.cosine_null[early, late] = self.cosine_null[late, early] = float(share)


def _between_depths(units: Float[torch.Tensor, "point position d_model"]) -> np.ndarray:
    """Mean cosine of every two depths at the same position."""
    total = torch.zeros(len(units), len(units), dtype=torch.float64)
    for position in range(units.shape[1]):
        at = units[:, position].double()
        total += at @ at.T
    return (total / units.shape[1]).numpy()


def _drawn(corpus: Corpus, rows: int, seed: int) -> list[list[int]]:
    long = np.flatnonzero(np.asarray(corpus.lengths) > 1)
    if not len(long):
        raise ValueError(f"{corpus.name} has no row of two tokens, and the first one is left out")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(long, min(rows, len(long)), replace=False))
    return [corpus.row(int(one)).tolist() for one in chosen]


def _gathered(read: list[_Row], source: str, made: results.Provenance) -> StreamGeometry:
    confidence, seed = float(made.parameters["confidence"]), made.seed

    def mean(values: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        table = np.stack([np.asarray(one, dtype=np.float64) for one in values])
        flat = table.reshape(len(table), -1)
        interval = np.full((2, flat.shape[1]), np.nan)
        known = np.isfinite(flat).all(0)
        interval[:, known] = evidence.mean_interval(
            flat[:, known], confidence=confidence, n_resamples=_RESAMPLES, seed=seed
        )
        return table.mean(0), interval.reshape(2, *table.shape[1:])

    norm, norm_interval = mean(row.norm for row in read)
    cosine, cosine_interval = mean(row.cosine for row in read)
    relative, relative_interval = mean(row.relative for row in read)
    turn, turn_interval = mean(row.turn for row in read)
    anisotropy, spread, rogue, share = _anisotropy(read, confidence, seed)
    return StreamGeometry(
        provenance=made,
        source=source,
        n_rows=len(read),
        n_tokens=sum(row.n_tokens for row in read),
        norm=norm,
        norm_interval=norm_interval,
        first_norm=np.mean([row.first for row in read], axis=0),
        norm_null=np.mean([row.norm_null for row in read], axis=0),
        cosine=cosine,
        cosine_interval=cosine_interval,
        cosine_null=np.mean([row.cosine_null for row in read], axis=0),
        relative=relative,
        relative_interval=relative_interval,
        turn=turn,
        turn_interval=turn_interval,
        turn_p=_turns_beyond_chance(np.stack([row.turn for row in read]), seed),
        anisotropy=anisotropy,
        anisotropy_interval=spread,
        rogue=tuple(int(one) for one in rogue),
        rogue_share=share,
        d_model=read[0].unit.shape[1],
        adds_up=max(row.gap for row in read),
        confidence=confidence,
    )


def _turns_beyond_chance(turns: Float[np.ndarray, "row part layer"], seed: int) -> np.ndarray:
    """Adjusted p-values of the mean cosines."""
    found = np.full(turns.shape[1:], np.nan)
    known = np.isfinite(turns).all(0)
    if len(turns) > 1 and known.any():
        p_values = evidence.sign_flip_p_values(turns[:, known], seed=seed)
        found[known] = evidence.adjusted_for_discoveries(p_values)
    return found


def _anisotropy(
    read: list[_Row], confidence: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean cosine of pairs, its interval over rows, and the coordinate that makes most of it.

    Pairs are of different rows; where there is one row only, of its positions.
    """
    units = np.stack([row.unit for row in read])
    n_rows, depths, _ = units.shape
    interval = np.full((2, depths), np.nan)
    if n_rows == 1:
        # A mean over all pairs holds each position with itself.
        n = read[0].n_tokens
        each = (units[0] ** 2 - read[0].own) * (n / max(n - 1, 1))
        each = each if n > 1 else np.full_like(each, np.nan)
    else:
        each = (units.sum(0) ** 2 - (units**2).sum(0)) / (n_rows * (n_rows - 1))
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(n_rows, np.full(n_rows, 1 / n_rows), _RESAMPLES).astype(float)
        # A row that is drawn twice is no pair of different rows.
        pairs = drawn.sum(1) ** 2 - (drawn**2).sum(1)
        drawn, pairs = drawn[pairs > 0], pairs[pairs > 0]
        tail = (1 - confidence) / 2
        for depth in range(depths):
            gram = units[:, depth] @ units[:, depth].T
            together = np.einsum("br,rs,bs->b", drawn, gram, drawn, optimize=True)
            alone = (drawn**2) @ np.diag(gram)
            interval[:, depth] = np.quantile((together - alone) / pairs, [tail, 1 - tail])
    total = each.sum(1)
    rogue = np.argmax(np.nan_to_num(each), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = each[np.arange(depths), rogue] / total
    return total, interval, rogue, share
