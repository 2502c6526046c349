"""Scores of every head on random sequences, reduced while the model runs.

1. Rows are drawn (`sequences`) and run in batches; each layer's attention is reduced to a number a
   row, head and score in its hook, so that no pattern is kept.
2. Which keys a query sees (a window may hide some) is where any head of the layer attends at all;
   a score whose target is never seen there is not measurable in that layer.
3. Each score minus its null, row by row, is tested (`chance`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from analyses.attention import chance, sequences
from analyses.attention.head_scores import (
    BY_PLACE,
    CURRENT,
    DUPLICATE,
    FIRST,
    INDUCTION,
    LEAST,
    NAMES,
    PREVIOUS,
    HeadScores,
)
from workbench.core import evidence, results
from workbench.core.engine import running, sites

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "attention.score_heads"
Tensor = torch.Tensor
# Of a layer, for some rows.
_Keep = Callable[[int, slice, Tensor], None]
_USUAL_ROWS, _LEAST_ROWS = 64, 16
_OPERATIONS_A_SECOND = 2e10
# Shorter sequences have hardly another place than the previous, the current and the first one.
_LEAST_POSITIONS = 4
# The first query of scores that depend on the place: it has a position besides those.
_FROM = 2
# Logits and attention weights that are held at once.
_LOGITS, _WEIGHTS = 20_000_000, 30_000_000
_RESAMPLES = 2000
# Intervals are given for what is not far below a label.
_WORTH_AN_INTERVAL = 1 / 3


def checked(
    *, rows: int, length: int | None, tokens: Sequence[int] | None, least: float | int, rounds: int
) -> dict[str, Any]:
    """Check what repeated random sequences are asked for, and how sure a finding must be.

    Args:
        rows: Sequences.
        length: Of each half.
        tokens: Vocabulary to draw from.
        least: Smallest share that counts as a finding.
        rounds: Of the null.

    Returns:
        The parameters, as provenance keeps them.

    Raises:
        ValueError: If a number is impossible.
    """
    if rows < _LEAST_ROWS or rounds < 1 or not 0 < least <= 1:
        raise ValueError(
            f"rows = {rows}, rounds = {rounds}, least = {least}; expected at least {_LEAST_ROWS} "
            "rows, at least one round, and a share above 0 and up to 1"
        )
    return {
        "rows": rows,
        "length": length,
        "tokens": None if tokens is None else sorted(set(tokens)),
        "least": least,
        "rounds": rounds,
    }


def score_heads(
    model: TransformerBridge,
    *,
    rows: int = _USUAL_ROWS,
    length: int | None = None,
    tokens: Sequence[int] | None = None,
    least: float | int = LEAST,
    rounds: int = 9999,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> HeadScores:
    """Score every head by where it looks on random sequences that repeat, against nulls.

    A head has a label where the corrected p of its excess over the null is at most 0.05 and the
    excess at least `least`.

    Args:
        model: The bridge.
        rows: Random sequences, an even number.
        length: Tokens of a half; None for what `usual_length` says.
        tokens: What the sequences are made of; None for what `usual_tokens` says.
        least: Smallest excess of a label, as a share of a head's attention.
        rounds: Sign patterns behind the p-values.
        seed: Of the sequences and the signs.
        progress: Told how far it is; may raise to cancel.

    Returns:
        The scores; NaN for what is not measurable, and why.

    Raises:
        ValueError: If a number is impossible, or a token is outside the vocabulary.
    """
    started = time.perf_counter()
    asked = checked(rows=rows, length=length, tokens=tokens, least=least, rounds=rounds)
    report = progress or running.no_progress
    drawn = sequences.drawn(model, rows=rows, length=length, tokens=tokens, seed=seed)
    names, reasons = _measurable(drawn)
    seen = _Seen(model, drawn, names)
    seen.run(report)
    report(0.9, "comparing with the nulls")
    excess = seen.score - seen.null
    flat = excess.reshape(rows, -1)
    known = ~np.isnan(flat[0])
    p_value = np.full(flat.shape[1], np.nan)
    if known.any():
        p_value[known] = chance.family_p_values(flat[:, known], rounds=rounds, seed=seed)
    shape = excess.shape[1:]
    outside = seen.hidden()
    return HeadScores(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=asked,
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        names=names,
        score=seen.score.mean(0),
        null=seen.null.mean(0),
        per_row=excess.astype(np.float32),
        interval=_intervals(flat, least, seed).reshape(2, *shape),
        p_value=p_value.reshape(shape),
        entropy=seen.entropy.mean(0),
        first_elsewhere=seen.first_elsewhere.mean(0),
        loss_repeated=seen.loss_repeated,
        loss_fresh=seen.loss_fresh,
        least=float(least),
        length=drawn.length,
        n_tokens=len(set(tokens) if tokens is not None else sequences.usual_tokens(model)),
        not_measurable=(*reasons, *outside),
    )


def scoring_seconds(model: TransformerBridge) -> float:
    """About how long `score_heads` takes on one core, told before it is started."""
    size = sum(parameter.numel() for parameter in model.parameters())
    length = sequences.usual_length(model, len(sequences.usual_tokens(model)))
    # Rows, each run three times, at two operations a parameter and token.
    return 2 * size * _USUAL_ROWS * 3 * (2 * length + 1) / _OPERATIONS_A_SECOND


def target_of(name: str, queries: Int[Tensor, " query"], length: int) -> Int[Tensor, " query"]:
    """Which key a score is about, for each query.

    Args:
        name: Of the score.
        queries: Positions that look.
        length: Tokens of a half.

    Returns:
        One position a query.
    """
    if name == FIRST:
        return torch.zeros_like(queries)
    if name in (PREVIOUS, CURRENT):
        return queries - int(name == PREVIOUS)
    return queries - length + NAMES[len(BY_PLACE) :].index(name)


def rows_at_once(model: TransformerBridge, rows: int, length: int) -> int:
    """How many rows of a length are run at once, so that logits and attention fit into memory."""
    cfg = model.cfg
    most = min(_LOGITS // (length * int(cfg.d_vocab)), _WEIGHTS // (length**2 * int(cfg.n_heads)))
    return int(np.clip(most, 1, rows))


def second_half_losses(
    logits: Float[Tensor, "batch query d_vocab"],
    tokens: Int[Tensor, "batch position"],
    rows: sequences.Rows,
) -> Float[np.ndarray, " batch"]:
    """Mean loss of each row on its second half, but for its first token, which nothing tells.

    Args:
        logits: At the positions of the second half.
        tokens: The rows.
        rows: Where the halves are.

    Returns:
        Nats a token.
    """
    start, end = rows.second
    targets = tokens[:, start + 1 : end].to(logits.device)
    before = logits[:, :-1].transpose(1, 2).float()
    loss = torch.nn.functional.cross_entropy(before, targets, reduction="none")
    return loss.mean(1).cpu().numpy().astype(np.float64)


def _measurable(rows: sequences.Rows) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of all scores, and why some cannot be measured by any head."""
    n = rows.fresh.shape[1]
    # A target that is the previous token could not be told from it.
    names = NAMES[: len(BY_PLACE) + max(rows.length - 1, 2)]
    reasons: list[str] = []
    if n < _LEAST_POSITIONS:
        reasons.append(
            f"{', '.join(BY_PLACE)}: sequences of {n} tokens have no other place to compare with"
        )
    if not rows.length:
        reasons.append(
            f"{DUPLICATE}, {INDUCTION}: the context or the tokens have no room for "
            f"{sequences.LEAST_LENGTH} tokens twice"
        )
    return names, tuple(reasons)


class _Seen:
    """What the hooks reduce attention to, row by row."""

    def __init__(
        self, model: TransformerBridge, rows: sequences.Rows, names: tuple[str, ...]
    ) -> None:
        self._model, self._rows, self._names = model, rows, names
        _, self._hooks = sites.resolve(model, "pattern")
        n, layers, heads = len(rows.fresh), len(self._hooks), int(model.cfg.n_heads)
        self.score = np.full((n, len(names), layers, heads), np.nan)
        self.null = self.score.copy()
        self.entropy = np.full((n, layers, heads), np.nan)
        self.first_elsewhere = np.full((n, layers, heads), np.nan)
        self.loss_repeated, self.loss_fresh = np.full(n, np.nan), np.full(n, np.nan)
        self._visible: dict[int, Bool[Tensor, "query key"]] = {}

    def run(self, report: running.Progress) -> None:
        """Run every row and its partners."""
        rows = self._rows
        n, length = rows.fresh.shape
        if length < _LEAST_POSITIONS:
            return
        step, second = rows_at_once(self._model, n, length), slice(*rows.second)
        for start in range(0, n, step):
            report(0.9 * start / n, f"sequences {start} to {min(n, start + step)} of {n}")
            part = slice(start, start + step)
            logits = self._forward(rows.fresh[part], part, self._keep_fresh)
            if rows.length:
                fresh, repeated = rows.fresh[part], rows.repeated[part]
                self.loss_fresh[part] = second_half_losses(logits[:, second], fresh, rows)
                logits = self._forward(repeated, part, self._keep_repeated)
                self.loss_repeated[part] = second_half_losses(logits[:, second], repeated, rows)
            if rows.front:
                self._forward(rows.elsewhere[part], part, self._keep_elsewhere)

    def _forward(self, tokens: Tensor, part: slice, keep: _Keep) -> Tensor:
        def hook(layer: int) -> running.HookFunction:
            def look(pattern: Tensor) -> Tensor:
                keep(layer, part, pattern.float())
                return pattern

            return look

        hooks = {name: hook(layer) for layer, name in enumerate(self._hooks)}
        return running.run(self._model, tokens, hooks)

    def _keep_fresh(self, layer: int, part: slice, pattern: Tensor) -> None:
        visible = self._visible.setdefault(layer, (pattern > 0).flatten(0, 1).any(0))
        n = pattern.shape[-1]
        queries = torch.arange(_FROM, n, device=pattern.device)
        others = (visible.sum(-1) - 1).clamp(min=1)[queries]
        for place, name in enumerate(BY_PLACE):
            target = target_of(name, queries, 0)
            if bool(visible[queries, target].any()):
                share = pattern[:, :, queries, target]
                self._put(self.score, part, place, layer, share.mean(-1))
                self._put(self.null, part, place, layer, ((1 - share) / others).mean(-1))
        self._put_matches(self.null, layer, part, pattern)
        self.entropy[part, layer] = (
            relative_entropy(pattern, visible)[:, :, _FROM:].mean(-1).cpu().numpy()
        )

    def _keep_repeated(self, layer: int, part: slice, pattern: Tensor) -> None:
        self._put_matches(self.score, layer, part, pattern)

    def _keep_elsewhere(self, layer: int, part: slice, pattern: Tensor) -> None:
        share = pattern[:, :, _FROM:, 0].mean(-1)
        self.first_elsewhere[part, layer] = share.cpu().numpy()

    def _put_matches(self, into: np.ndarray, layer: int, part: slice, pattern: Tensor) -> None:
        if not self._rows.length:
            return
        queries = torch.arange(*self._rows.second, device=pattern.device)
        for place, name in enumerate(self._names):
            if name in BY_PLACE:
                continue
            target = target_of(name, queries, self._rows.length)
            if bool(self._visible[layer][queries, target].any()):
                self._put(into, part, place, layer, pattern[:, :, queries, target].mean(-1))

    @staticmethod
    def _put(into: np.ndarray, part: slice, place: int, layer: int, value: Tensor) -> None:
        into[part, place, layer] = value.cpu().numpy()

    def hidden(self) -> tuple[str, ...]:
        """Scores that some layers' windows hide, in words."""
        said: list[str] = []
        for place, name in enumerate(self._names):
            without = [
                layer
                for layer in self._visible
                if (name in BY_PLACE or self._rows.length)
                and np.isnan(self.score[:, place, layer]).all()
            ]
            if without:
                listed = ", ".join(map(str, without))
                said.append(f"{name}: layers {listed} do not see that far back")
        return tuple(said)


def relative_entropy(
    pattern: Float[Tensor, "*batch query key"], visible: Bool[Tensor, "query key"]
) -> Float[Tensor, "*batch query"]:
    """Entropy of each query's attention relative to a uniform look at all that it sees.

    Args:
        pattern: Attention weights.
        visible: Which keys each query sees.

    Returns:
        0 for one position, 1 for uniform; 0 where one position is all there is.
    """
    entropy = torch.special.entr(pattern).sum(-1)
    most = visible.sum(-1).clamp(min=1).log()
    return torch.where(most > 0, entropy / most.clamp(min=1e-9), torch.zeros_like(entropy))


def _intervals(
    excess: Float[np.ndarray, "row cell"], least: float | int, seed: int
) -> Float[np.ndarray, "bound cell"]:
    """Bootstrap intervals over rows, for what comes near a label."""
    worth = excess.mean(0) >= least * _WORTH_AN_INTERVAL
    found = np.full((2, excess.shape[1]), np.nan)
    if worth.any():
        found[:, worth] = evidence.mean_interval(
            excess[:, worth], n_resamples=_RESAMPLES, seed=seed
        )
    return found
