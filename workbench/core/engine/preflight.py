"""Preflight: what silently ruins patching results, checked before the run and stored with it.

1. Clean and corrupted tokens are aligned, and the answers are single tokens.
2. The two baselines are finite and far enough apart to divide by.
3. A batch gives what its prompts give one by one (padding is where tools go silently wrong).
4. The bridge gives what the plain model gives: is this the real model?
5. The hooks fire, and change the activation, in every layer.
6. Whether the model can be taken apart, so that only what a patch changes is recomputed.
7. How long the run will take and how much memory it needs.

Log-probabilities are compared, not logits: folding weights shifts logits by a constant and keeps
log-probabilities. Numbers are in the unit that each check names.
"""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from workbench.core import evidence
from workbench.core.engine import budget, cells, decoder, metrics, running, sites
from workbench.core.models import card, sources
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Status = Literal["ok", "warning", "failed", "skipped"]

# Largest difference of a log-probability that float32 rounding explains, as a fraction of its size
# (or in nats, where it is below one).
BATCH_TOLERANCE = 1e-4
PLAIN_TOLERANCE = 1e-3
# The same for 16-bit formats, whose rounding is 2^16 times (bfloat16) coarser.
COARSE_TOLERANCE = 0.3
# Prompts that the comparisons of whole runs look at; more would cost time and show nothing new.
_COMPARED = 4
_MINUTE = 60


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What, in two or three words.
        status: "ok", "warning" (read it before believing), "failed", or "skipped" with its reason.
        detail: One sentence with the numbers.
        value: The number that was compared, where there is one.
    """

    name: str
    status: Status
    detail: str
    value: float | None = None

    @property
    def mark(self) -> str:
        """The status as one sign."""
        return {"ok": "✓", "warning": "⚠", "failed": "✗", "skipped": "–"}[self.status]


@dataclasses.dataclass(frozen=True)
class Preflight:
    """Outcome of all checks.

    Attributes:
        checks: In the order in which they were made.
        normalisable: Whether clean and corrupted metrics are far enough apart to divide by.
        seconds: Estimated time of the run.
        megabytes: Most memory of the run on top of the model.
        runs: How many patched runs of a batch of prompts there are.
    """

    checks: tuple[Check, ...]
    normalisable: bool
    seconds: float
    megabytes: float
    runs: int

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)


class PreflightError(ValueError):
    """The run would be meaningless; the message says why."""


def check(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    site: str = "resid_pre",
    metric: str | metrics.Function = "logit_difference",
    positions: cells.Positions = "each",
    ablation: str | None = None,
    layers: Sequence[int] | None = None,
    units: int | None = None,
    memory: float = budget.DEFAULT_MEGABYTES,
    progress: running.Progress = running.no_progress,
) -> Preflight:
    """Make every check for a patching run.

    Args:
        model: The bridge.
        pairs: What it will be run on.
        site: Component kind that will be patched.
        metric: Scalar that will be measured.
        positions: Where; see `cells.columns`.
        ablation: What is ablated with, if anything; only the estimate depends on it.
        layers: Which layers; None for all.
        units: How many parts of these layers in all; None for every part of every layer.
        memory: Most megabytes beside the model.
        progress: Told what is being checked.

    Returns:
        The outcome; a failed comparison is reported, not raised.

    Raises:
        PreflightError: If the metric cannot be computed: no wrong answers where it needs them, or
            logits that are NaN or infinite.
        ValueError: If the site is unknown, or positions do not line up and `positions` needs it.
    """
    progress(0.0, "checking the pairs")
    columns = cells.columns(pairs, positions)
    found = [_alignment(pairs), _answers(pairs)]
    baseline = _Baseline(model, pairs, metric)
    found.append(baseline.check())
    progress(0.3, "comparing a batch with its prompts one by one")
    found.append(_batch_equals_single(model, pairs))
    progress(0.5, "comparing the bridge with the plain model")
    found.append(_bridge_equals_plain(model, pairs))
    progress(0.8, "checking that the hooks fire")
    found.append(_hooks_fire(model, pairs, site))
    progress(0.9, "taking the model apart")
    found.append(_taken_apart(model, pairs))
    slots = _slots(model, site, layers, units)
    fast = found[-1].value is not None
    runs, equivalents = _work(model, pairs, columns, slots, own=ablation is None)
    seconds = (equivalents if fast else runs) * baseline.seconds_per_pass
    megabytes = min(_megabytes(model, pairs), memory)
    found.append(
        Check(
            "time and memory",
            "ok",
            f"about {_duration(seconds)} for {runs:,} patched runs, and at most "
            f"{megabytes:,.0f} MB beside the model",
            seconds,
        )
    )
    progress(1.0, "checked")
    return Preflight(tuple(found), baseline.normalisable, seconds, megabytes, runs)


def _slots(
    model: TransformerBridge, site: str, layers: Sequence[int] | None, units: int | None
) -> list[int]:
    """Layer of each part that is patched; units are taken to be spread over the layers."""
    place = cells.place(model, site)
    every = [layer for layer, _ in cells.slots(model, place, layers)]
    if units is None:
        return every
    chosen = sorted(set(every))
    return [chosen[i * len(chosen) // units] for i in range(units)]


def _work(
    model: TransformerBridge,
    pairs: ContrastPairs,
    columns: Sequence[cells.Column],
    slots: Sequence[int],
    *,
    own: bool,
) -> tuple[int, float]:
    """Patched runs in all, and how many forward passes they are worth when recomputed.

    A run costs the rows at and right of its position, in the layers from its own on.
    """
    depth = int(model.cfg.n_layers)
    first = pairs.first_differences() if own and is_causal(model) else np.zeros(len(pairs), int)
    runs, equivalents = 0, 0.0
    share_of_layers = sum((depth - layer) / depth for layer in slots)
    for group in pairs.groups():
        length = pairs.lengths(int(group[0]))[0]
        for column in columns:
            starts = [
                max(min(at for at, _ in column.moves[int(i)]), int(first[i]))
                for i in group
                if any(x != y or x >= first[i] for x, y in column.moves[int(i)])
            ]
            runs += len(slots) * bool(starts)
            rows = sum(length - start for start in starts)
            equivalents += share_of_layers * rows / (length * len(group))
    return runs, equivalents


def _taken_apart(model: TransformerBridge, pairs: ContrastPairs) -> Check:
    """Prove the fast way on the prompts, or say why it is not taken."""
    try:
        for group in pairs.groups():
            for tokens in pairs.batch(group[:2]):
                decoder.taken_apart(model, tokens)
    except decoder.NotTakenApart as error:
        return Check(
            "way of running", "ok", f"one forward pass a cell, since in this model {error.reason}"
        )
    return Check(
        "way of running",
        "ok",
        "only what a patch changes is recomputed: taken apart, the model gives the same "
        "activations and logits on these prompts",
        1.0,
    )


def require_metric(pairs: ContrastPairs, metric: str | metrics.Function) -> None:
    """Check that a metric exists and that the pairs have what it needs.

    Raises:
        PreflightError: If not.
    """
    try:
        name = metrics.find(metric).name
    except ValueError as error:
        raise PreflightError(str(error)) from error
    if name in metrics.NEEDS_WRONG_ANSWERS and not all(pairs.wrong_answers):
        raise PreflightError(
            f"{name} compares correct with wrong answers, and these pairs have no wrong answers: "
            "add them, or choose probability, kl_divergence, cross_entropy or rank"
        )


def require_finite(model: TransformerBridge, logits: torch.Tensor) -> None:
    """Check logits before numbers are made of them.

    Raises:
        PreflightError: If any is NaN or infinite.
    """
    if not bool(logits.isfinite().all()):
        raise PreflightError(
            f"{model.cfg.model_name!r} gives logits that are NaN or infinite on these prompts: its "
            "weights or its number format (half precision overflows) are the place to look"
        )


def is_causal(model: TransformerBridge) -> bool:
    """Whether a position depends only on itself and those before it."""
    return getattr(model.cfg, "attention_dir", "causal") == "causal"


def too_close(clean: Float[np.ndarray, " prompt"], corrupted: Float[np.ndarray, " prompt"]) -> bool:
    """Whether clean and corrupted metrics are too close to divide by their difference.

    They are when the mean difference is below 1 % of their mean size (or below 1e-4), or, with two
    prompts or more, when its 95 % bootstrap interval contains zero: the ratio has no finite
    interval then.
    """
    gaps = clean - corrupted
    size = (np.abs(clean).mean() + np.abs(corrupted).mean()) / 2
    if abs(gaps.mean()) < max(1e-4, 0.01 * size):
        return True
    low, high = evidence.mean_interval(gaps[:, None])[:, 0]
    return bool(low <= 0 <= high)


class _Baseline:
    """Clean and corrupted metric of every pair, and how long a pass takes."""

    def __init__(
        self, model: TransformerBridge, pairs: ContrastPairs, metric: str | metrics.Function
    ) -> None:
        require_metric(pairs, metric)
        self._metric = metrics.find(metric)
        self._right = 0
        self.clean = np.empty(len(pairs))
        self.corrupted = np.empty(len(pairs))
        elapsed = 0.0
        groups = pairs.groups()
        for group in groups:
            clean, corrupted = pairs.batch(group)
            clean_logits = running.run(model, clean)[:, -1].float()
            started = time.perf_counter()
            corrupted_logits = running.run(model, corrupted)[:, -1].float()
            elapsed += time.perf_counter() - started
            require_finite(model, clean_logits)
            require_finite(model, corrupted_logits)
            goal = metrics.targets(pairs, group, clean_logits)
            self.clean[group] = metrics.values(self._metric, clean_logits, goal)
            self.corrupted[group] = metrics.values(self._metric, corrupted_logits, goal)
            self._right += int((metrics.rank(clean_logits, goal) == 0).sum())
        self.seconds_per_pass = elapsed / len(groups)
        self.normalisable = not too_close(self.clean, self.corrupted)

    def check(self) -> Check:
        clean, corrupted, n = self.clean.mean(), self.corrupted.mean(), len(self.clean)
        unit = self._metric.unit
        detail = (
            f"{self._metric.name.replace('_', ' ')}: clean {clean:.3f}, corrupted {corrupted:.3f} "
            f"{unit} (n = {n}); the clean answer is the model's top token in {self._right} of {n}"
        )
        if not self.normalisable:
            detail += "; they are too close to divide by, so effects are shown as raw changes"
        return Check(
            "baselines", "ok" if self.normalisable else "warning", detail, float(clean - corrupted)
        )


def _alignment(pairs: ContrastPairs) -> Check:
    columns = [pairs.columns(i) for i in range(len(pairs))]
    differing = [
        sum(x[a] != y[b] for a, b in matched)
        for matched, x, y in zip(columns, pairs.clean_tokens, pairs.corrupted_tokens, strict=True)
    ]
    lengths = [length for i in range(len(pairs)) for length in pairs.lengths(i)]
    same = sum(x == y for x, y in zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True))
    how = "different length, aligned" if pairs.aligned else "equal length"
    detail = (
        f"{len(pairs)} pairs of {how} ({_span(lengths)} tokens); positions that differ: "
        f"{_span(differing)}"
    )
    if pairs.aligned:
        alone = [sum(pairs.lengths(i)) - 2 * len(matched) for i, matched in enumerate(columns)]
        detail += (
            f"; tokens without a partner, which are not patched: {_span(alone)}. Look at the "
            "alignment before the run"
        )
    if same:
        detail += f"; {same} pairs do not differ at all, so nothing can be recovered in them"
    return Check("alignment", "warning" if same else "ok", detail, float(max(differing)))


def _span(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{most}" if least == most else f"{least} to {most}"


def _answers(pairs: ContrastPairs) -> Check:
    most = max(map(len, pairs.answers))
    wrong = max(map(len, pairs.wrong_answers))
    overlap = sum(
        bool(set(a) & set(w)) for a, w in zip(pairs.answers, pairs.wrong_answers, strict=True)
    )
    detail = f"every answer is a single token (up to {most} correct and {wrong} wrong a prompt)"
    if overlap:
        detail += f"; in {overlap} pairs a token is both correct and wrong"
    return Check("answers", "warning" if overlap else "ok", detail, float(overlap))


def _compared(pairs: ContrastPairs) -> torch.Tensor:
    largest = max(pairs.groups(), key=len)
    return pairs.batch(largest[:_COMPARED])[0]


def _tolerance(model: TransformerBridge, fine: float) -> float:
    return fine if model.cfg.dtype in (torch.float32, torch.float64) else COARSE_TOLERANCE


def _largest_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    first, second = a.float().log_softmax(-1), b.float().log_softmax(-1)
    return float(((first - second).abs() / first.abs().clamp(min=1)).max())


def _batch_equals_single(model: TransformerBridge, pairs: ContrastPairs) -> Check:
    tokens = _compared(pairs)
    if len(tokens) == 1:
        return Check("batch equals single", "skipped", "there is one prompt of this length")
    together = running.run(model, tokens)
    apart = torch.cat([running.run(model, row[None]) for row in tokens])
    gap, tolerance = _largest_gap(together, apart), _tolerance(model, BATCH_TOLERANCE)
    return Check(
        "batch equals single",
        "ok" if gap <= tolerance else "failed",
        f"log-probabilities of {len(tokens)} prompts together and one by one differ by at most "
        f"{gap:.1e} of their size (tolerance {tolerance:.0e})",
        gap,
    )


_parity: weakref.WeakKeyDictionary[Any, tuple[str, Check]] = weakref.WeakKeyDictionary()


def _bridge_equals_plain(model: TransformerBridge, pairs: ContrastPairs) -> Check:
    """Compare with the plain model, which is read from disk again: once for each set of weights."""
    mark = card.fingerprint(model)
    known = _parity.get(model)
    if known is None or known[0] != mark:
        known = (mark, _compare_with_plain(model, _compared(pairs)))
        _parity[model] = known
    return known[1]


def _compare_with_plain(model: TransformerBridge, tokens: torch.Tensor) -> Check:
    source = sources.source_of(model)
    form = f"{str(model.cfg.dtype).removeprefix('torch.')}, weight processing: {source.processing}"
    plain = sources.plain_model(model)
    if plain is None:
        reason = f"the files behind this bridge are not known, so nothing to compare with ({form})"
        return Check("is the real model", "skipped", reason)
    with torch.inference_mode():
        output = plain(tokens.to(model.cfg.device))
    reference = output if isinstance(output, torch.Tensor) else output.logits
    gap = _largest_gap(running.run(model, tokens), reference)
    tolerance = _tolerance(model, PLAIN_TOLERANCE)
    return Check(
        "is the real model",
        "ok" if gap <= tolerance else "failed",
        f"log-probabilities differ from the plain model's by at most {gap:.1e} of their size "
        f"(tolerance {tolerance:.0e}; {form})",
        gap,
    )


def _hooks_fire(model: TransformerBridge, pairs: ContrastPairs, site: str) -> Check:
    """Put the clean activation into the corrupted run, a layer at a time, and measure the change.

    A hook that does not fire is an error that `running.hooked` raises.
    """
    _, names = sites.resolve(model, site)
    clean, corrupted = pairs.batch(max(pairs.groups(), key=len)[:_COMPARED])
    _, kept = running.run_and_keep(model, clean, names)
    changes: list[float] = []

    def replace_by(source: torch.Tensor) -> running.HookFunction:
        def replace(activation: torch.Tensor) -> torch.Tensor:
            # Of prompts of different length what they share in the beginning is compared.
            both = tuple(slice(0, min(x)) for x in zip(source.shape, activation.shape, strict=True))
            patched = activation.clone()
            patched[both] = source[both]
            changes.append(float((patched - activation).norm() / activation.norm()))
            return patched

        return replace

    for name in names:
        running.run(model, corrupted, {name: replace_by(kept[name])})
    low, high = min(changes), max(changes)
    return Check(
        "hooks fired",
        "ok" if high > 0 else "failed",
        f"at all {len(names)} layers of {site}, changing the activation's norm by {low:.1%} to "
        f"{high:.1%}",
        high,
    )


def _megabytes(model: TransformerBridge, pairs: ContrastPairs) -> float:
    """Kept activations of one run, plus logits and one layer's widest activations."""
    largest = max(len(group) * max(pairs.lengths(int(group[0]))) for group in pairs.groups())
    width = int(model.cfg.d_model) * (int(model.cfg.n_layers) + 12) + 3 * int(model.cfg.d_vocab)
    return largest * width * torch.finfo(model.cfg.dtype).bits / 8 / 1e6


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / _MINUTE:.1f} min"
