"""What changed inside of a model between two checkpoints, and how much of the gain is it?

1. Run both checkpoints, `before` and `after`, on the same prompts: what is to be explained is the
   change of the loss from one to the other.
2. Denoising: run `before` with what one component writes replaced by what that component writes in
   `after` on the same prompt; the share of the change that comes with it. Noising: run `after` with
   the component's output of `before`; the share of the change that goes away. Components are the
   embedding (positions included), each attention head, each MLP, the unembedding (with the final
   norm), and the attention's output biases where they differ.
3. Each in two modes. "activations": the output is taken from the other checkpoint's own run, so
   that whatever changed upstream of the component there comes along. "weights": the other
   checkpoint's component reads the input that it has in this run, which is the same as swapping the
   component's weights (those of the norm that it reads through included) and nothing else. The
   embedding reads tokens, and the unembedding is always read off this run: for both the modes are
   one.
4. Control: the component's change, shuffled among the prompts, is put in instead: as large, and
   wrong.
5. Beside it, how far the component's weights moved: the norm of the difference over the norm before
   (norms' gains left out).

Source: activation patching between checkpoints of one training, as "cross-model activation
patching" in Prakash et al. 2024, arXiv 2402.14811; the two directions follow Heimersheim & Nanda
2024, arXiv 2404.15255.

Units and sign: effects are shares of the change between the checkpoints (ratio of means over the
prompts), 1 for the whole of it, negative where the component works against it. Losses in nats; the
logit of the answer counts from the mean logit; accuracies from 0 to 1. Changes that are not
normalised are the metric's own, patched minus `before`, or `after` minus patched.

Limits: effects need not sum to 1, since components work through one another: two that suffice
together may do nothing alone, and a redundant one is not needed. In mode "activations" a component
is credited with what changed upstream of it. A patched run is neither checkpoint's: a mixture may
be off the path that the training took. Both checkpoints need one architecture.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.grokking import swapping
from analyses.grokking.drops import Drops
from workbench.core import evidence, plots, results
from workbench.core.engine import preflight, running
from workbench.core.models import card
from workbench.core.modular.run import TrainingRun
from workbench.core.modular.tasks import Task

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "grokking.what_changed"
METRICS, DIRECTIONS, MODES = swapping.METRICS, swapping.DIRECTIONS, swapping.MODES
# A smaller disagreement than this fraction is of no use to a reader, however sure it is.
SIZEABLE = 0.1
_SUFFICES = "brings more when put in than goes when taken out: redundancy or a backup elsewhere"
_NEEDED = "takes more away when taken out than it brings when put in: it works with others"


@dataclasses.dataclass(frozen=True)
class Changes(results.Result):
    """What each component's change does for the change between two checkpoints.

    Cells are indexed by metric (`METRICS`), mode (`MODES`), direction (`DIRECTIONS`) and component,
    in that order.

    Attributes:
        names: What the two checkpoints are called.
        data: What the prompts are.
        components: Names: embedding, a0.h0 (layer 0, head 0), m0, …, unembedding.
        baselines: Metrics of each prompt in both checkpoints: prompt, metric, before and after.
        normalised: For each metric, whether the checkpoints are far enough apart to divide by.
        effects: Shares of the change; NaN where not normalised.
        interval: Their bootstrap intervals over prompts.
        changes: Mean changes in the metric's own unit.
        change_interval: Their bootstrap intervals.
        adjusted_p: Of each change against random signs, corrected over all that are shown.
        per_prompt: Metric of each prompt in each patched run.
        random: Mean change of the loss when the component's change was shuffled among prompts.
        weight_change: Norm of the difference of its weights over their norm before.
        reasons: For mode and component, how the two directions disagree; empty where they agree.
        confidence: Level of the intervals.
    """

    names: tuple[str, str]
    data: str
    components: tuple[str, ...]
    baselines: Float[np.ndarray, "prompt _ 2"]
    normalised: tuple[bool, ...]
    effects: Float[np.ndarray, "*cell"]
    interval: Float[np.ndarray, "bound *cell"]
    changes: Float[np.ndarray, "*cell"]
    change_interval: Float[np.ndarray, "bound *cell"]
    adjusted_p: Float[np.ndarray, "*cell"]
    per_prompt: Float[np.ndarray, "prompt *cell"]
    random: Float[np.ndarray, "sample node"]
    weight_change: Float[np.ndarray, " node"]
    reasons: tuple[tuple[str, ...], ...]
    confidence: float

    @property
    def n(self) -> int:
        """How many prompts were run."""
        return len(self.baselines)

    @property
    def unchanged(self) -> bool:
        """Whether neither the checkpoints nor any patched run differ at all."""
        return not (np.diff(self.baselines).any() or self.changes.any())

    @property
    def flagged(self) -> tuple[str, ...]:
        """Components whose two directions disagree, in any mode."""
        some = (any(each) for each in zip(*self.reasons, strict=True))
        return tuple(c for c, disagree in zip(self.components, some, strict=True) if disagree)

    def effect(
        self,
        component: str,
        *,
        metric: str = "loss",
        mode: str = "activations",
        direction: str = "denoising",
    ) -> float:
        """The effect of one component.

        Args:
            component: One of `components`.
            metric: One of `METRICS`.
            mode: One of `MODES`.
            direction: One of `DIRECTIONS`.

        Returns:
            A share of the change; NaN where that is not normalised.

        Raises:
            ValueError: If there is no such component, metric, mode or direction.
        """
        names = (METRICS, MODES, DIRECTIONS, self.components)
        asked = (metric, mode, direction, component)
        for known, name in zip(names, asked, strict=True):
            if name not in known:
                raise ValueError(f"there is no {name!r}: choose from {', '.join(known)}")
        cell = tuple(known.index(name) for known, name in zip(names, asked, strict=True))
        return float(self.effects[cell])

    def strongest(self, count: int | None = None) -> list[str]:
        """Components in order of the size of their effect on the loss (activations, denoising).

        Args:
            count: How many at the most; None for all.

        Returns:
            Their names.
        """
        order = np.argsort(-np.abs(self.changes[0][swapping.DENOISING]), kind="stable")[:count]
        return [self.components[i] for i in order]

    def to_frame(self) -> pd.DataFrame:
        """One row a component, metric, mode and direction."""
        rows: list[dict[str, Any]] = []
        for cell in np.ndindex(self.effects.shape):
            metric, mode, direction, component = cell
            rows.append(
                {
                    "component": self.components[component],
                    "metric": METRICS[metric],
                    "mode": MODES[mode],
                    "direction": DIRECTIONS[direction],
                    "effect": self.effects[cell],
                    "low": self.interval[0][cell],
                    "high": self.interval[1][cell],
                    "change": self.changes[cell],
                    "change_low": self.change_interval[0][cell],
                    "change_high": self.change_interval[1][cell],
                    "adjusted_p": self.adjusted_p[cell],
                    "weight_change": self.weight_change[component],
                    "disagreement": self.reasons[mode][component],
                    "n": self.n,
                }
            )
        return pd.DataFrame(rows)

    def figure(self) -> go.Figure:
        """Bars of the effects on the loss with their intervals, a colour a mode and direction."""
        values, bounds = self.shown()
        names = [f"{name} ⚑" if name in self.flagged else name for name in self.components]
        figure = go.Figure()
        for i, (mode, direction) in enumerate(np.ndindex(len(MODES), len(DIRECTIONS))):
            height, (low, high) = values[mode, direction], bounds[:, mode, direction]
            figure.add_trace(
                go.Bar(
                    x=names,
                    y=height,
                    name=f"{MODES[mode]}, {DIRECTIONS[direction]}",
                    marker={"color": plots.COLOURS[i]},
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        # An interval of a ratio may leave its point estimate outside.
                        "array": np.maximum(high - height, 0),
                        "arrayminus": np.maximum(height - low, 0),
                    },
                )
            )
        figure.update_layout(template=plots.TEMPLATE, barmode="group")
        figure.update_xaxes(title="component", type="category")
        return figure.update_yaxes(title=f"effect on the loss ({self.unit})", zeroline=True)

    def summary(self) -> str:
        """How the loss changed, which components' change does it, and what is to be doubted."""
        before, after = self.names
        if self.unchanged:
            return (
                f"{before} and {after} do the same on all {self.n} prompts ({self.data}), and so "
                "does every mixture of them: nothing changed."
            )
        means = self.baselines.mean(0)
        said = [
            f"From {before} to {after} the loss goes from {means[0, 0]:.3g} to {means[0, 1]:.3g} "
            f"nats and the accuracy from {means[2, 0]:.1%} to {means[2, 1]:.1%} (n = {self.n}, "
            f"{self.data})."
        ]
        if not self.normalised[0]:
            said.append(
                "That change is too close to zero to divide by: changes are in nats, not shares."
            )
        said += [self._strongest_said(), self._sum_said(), *self._flags_said()]
        return " ".join(text for text in said if text)

    @property
    def unit(self) -> str:
        """What the numbers of `shown` are."""
        return "share of the change" if self.normalised[0] else "change in nats, not normalised"

    def shown(self) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "bound *cell"]]:
        """Effects on the loss and their intervals, by mode, direction and component.

        Returns:
            Both; changes in nats where they are not normalised.
        """
        if self.normalised[0]:
            return self.effects[0], self.interval[:, 0]
        return self.changes[0], self.change_interval[:, 0]

    def _strongest_said(self) -> str:
        values, bounds = self.shown()
        unit = "of the change" if self.normalised[0] else "nats"
        parts: list[str] = []
        for name in self.strongest(3):
            i = self.components.index(name)
            here = (*swapping.DENOISING, i)
            low, high = bounds[:, *here]
            sure = f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else ""
            parts.append(
                f"{name} {values[here]:.2f}{sure} {unit} (its weights alone {values[1, 0, i]:.2f}; "
                f"taken out of the later one {values[0, 1, i]:.2f}; its weights moved by "
                f"{self.weight_change[i]:.0%}{self._against_random(i)})"
            )
        return f"Put into the earlier checkpoint one at a time: {'; '.join(parts)}."

    def _against_random(self, component: int) -> str:
        if not len(self.random):
            return ""
        # A falling loss has negative changes: more of the change is further that way.
        sign = math.copysign(1.0, np.diff(self.baselines[:, 0].mean(0))[0])
        own = sign * self.changes[0][(*swapping.DENOISING, component)]
        beaten = int((sign * self.random[:, component] < own).sum())
        return f"; it beats {beaten} of {len(self.random)} shuffles"

    def _sum_said(self) -> str:
        if not self.normalised[0]:
            return ""
        total = self.effects[0].sum(-1)[swapping.DENOISING]
        return (
            f"All components' effects sum to {total:.2f}; they need not sum to 1, since components "
            "work through one another."
        )

    def _flags_said(self) -> list[str]:
        said: list[str] = []
        for mode, reason in itertools.product(MODES, (_SUFFICES, _NEEDED)):
            reasons = zip(self.components, self.reasons[MODES.index(mode)], strict=True)
            if found := [component for component, own in reasons if own == reason]:
                said.append(f"⚑ By {mode}, each of {', '.join(found)} {reason}.")
        return said


def what_changed(
    before: TransformerBridge,
    after: TransformerBridge,
    *,
    task: Task | None = None,
    tokens: Int[torch.Tensor, "prompt position"] | None = None,
    answers: Int[torch.Tensor, " _"] | None = None,
    n: int = 512,
    names: tuple[str, str] = ("before", "after"),
    n_random: int = 20,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Changes:
    """Find which components' change makes the change between two checkpoints of one model.

    Args:
        before: The earlier checkpoint.
        after: The later one, of the same architecture.
        task: A modular task: the prompts are pairs that it holds out.
        tokens: Or prompts of one length.
        answers: Right answer at the last position of each prompt; None asks for the next token at
            every position.
        n: How many held-out pairs to draw from the task at the most.
        names: What the two are called.
        n_random: Shuffles of each component's change among the prompts; 0 leaves the control out.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples, and random signs.
        seed: Seed of everything random.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The effects of every component, in both directions and both modes.

    Raises:
        ValueError: If the checkpoints differ in architecture, cannot be taken apart into heads, or
            the prompts do not fit.
    """
    started = time.perf_counter()
    evidence.require_confidence(confidence)
    swapping.require_one_shape(before, after)
    if n_random < 0:
        raise swapping.ChangesError(f"n_random = {n_random}; expected 0 shuffles or more")
    prompts = swapping.prompts_of(before, task, tokens, answers, n=n, seed=seed)
    components = swapping.components_of(before, after)
    measured = swapping.measure(
        (before, after),
        prompts,
        components,
        n_random=n_random,
        seed=seed,
        report=progress or running.no_progress,
    )
    bootstrap = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    return Changes(
        provenance=results.provenance(
            after,
            analysis=ANALYSIS,
            parameters={
                "before_fingerprint": card.fingerprint(before),
                "data": prompts.name,
                "n": len(prompts.tokens),
                "n_random": n_random,
                **bootstrap,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        names=names,
        data=prompts.name,
        components=components,
        baselines=measured.baselines,
        per_prompt=measured.per_prompt,
        random=measured.random,
        weight_change=swapping.weight_changes(before, after, components),
        confidence=confidence,
        **_judged(measured, bootstrap),
    )


def what_changed_at(
    run: TrainingRun,
    at: int | tuple[int, int] | Drops,
    *,
    n: int = 512,
    n_random: int = 20,
    confidence: float = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Changes:
    """Find what changed inside between the checkpoints of a training around a step.

    Args:
        run: The training.
        at: A step; the first and last step of a stretch; or drops that were found in one of its
            curves, of which the deepest is taken.
        n: How many held-out pairs to run at the most.
        n_random: Shuffles of each component's change among the prompts.
        confidence: Level of the intervals.
        seed: Seed of everything random.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        The effects of every component, on held-out pairs.

    Raises:
        ValueError: If there are no checkpoints on both sides.
    """
    first, last = checkpoints_around(run, at)
    return what_changed(
        run.model(first),
        run.model(last),
        task=run.task,
        n=n,
        names=(f"step {first:,}", f"step {last:,}"),
        n_random=n_random,
        confidence=confidence,
        seed=seed,
        progress=progress,
    )


def checkpoints_around(run: TrainingRun, at: int | tuple[int, int] | Drops) -> tuple[int, int]:
    """The nearest checkpoints of a training on both sides of a step.

    Args:
        run: The training.
        at: A step, the first and last step of a stretch, or drops (the deepest is taken).

    Returns:
        Steps of the last checkpoint before it and of the first one after it.

    Raises:
        ValueError: If there is none on one side, or there are no drops.
    """
    if isinstance(at, Drops):
        if not at.steps:
            raise swapping.ChangesError(
                f"no drop was found in {at.name}: name a step of {run.name} instead"
            )
        deepest = int(np.argmax(at.sizes))
        at = at.starts[deepest], at.ends[deepest]
    # A single step belongs to what follows it: the checkpoint before it has not seen it.
    first, last = at if isinstance(at, tuple) else (at - 1, at)
    earlier = [step for step in run.steps if step <= first]
    later = [step for step in run.steps if step >= last]
    if first >= last or not earlier or not later:
        reach = f"from {run.steps[0]:,} to {run.steps[-1]:,}" if run.steps else "none yet"
        raise swapping.ChangesError(
            f"{run.name} has no checkpoints on both sides of {first + 1:,} to {last:,}; its "
            f"checkpoints: {reach}"
        )
    return earlier[-1], later[0]


def _judged(measured: swapping.Measured, bootstrap: evidence.Bootstrap) -> dict[str, Any]:
    """Effects, intervals, p-values and disagreements from the metrics of each prompt."""
    found: dict[str, list[Any]] = {"effects": [], "interval": [], "normalised": []}
    moved = np.empty_like(measured.per_prompt)
    for metric in range(len(METRICS)):
        before, after = measured.baselines[:, metric].T
        for i, direction in enumerate(DIRECTIONS):
            moved[:, metric, :, i] = evidence.changes(
                measured.per_prompt[:, metric, :, i], after, before, direction
            )
        normalised = not preflight.too_close(after, before)
        effects, interval = evidence.effects(
            moved[:, metric], after - before, normalised, bootstrap
        )
        found["effects"].append(effects)
        found["interval"].append(interval)
        found["normalised"].append(normalised)
    flat = moved.reshape(len(moved), -1)
    cells = moved.shape[1:]
    p_values = _p_values(flat, bootstrap).reshape(cells)
    return {
        "effects": np.stack(found["effects"]),
        "interval": np.stack(found["interval"], 1),
        "normalised": tuple(found["normalised"]),
        "changes": moved.mean(0),
        "change_interval": evidence.mean_interval(flat, **bootstrap).reshape(2, *cells),
        "adjusted_p": evidence.adjusted_for_discoveries(p_values),
        "reasons": _reasons(
            moved[:, 0], measured.baselines[:, 0], found["normalised"][0], bootstrap
        ),
    }


def _p_values(
    moved: Float[np.ndarray, "prompt cell"], bootstrap: evidence.Bootstrap
) -> Float[np.ndarray, " cell"]:
    return evidence.sign_flip_p_values(
        moved, n_resamples=bootstrap["n_resamples"], seed=bootstrap["seed"]
    )


def _reasons(
    moved: Float[np.ndarray, "prompt *cell"],
    baselines: Float[np.ndarray, "prompt 2"],
    normalised: bool,
    bootstrap: evidence.Bootstrap,
) -> tuple[tuple[str, ...], ...]:
    """Where the two directions disagree by more than chance and by a tenth of the change."""
    if not normalised:
        return tuple(("",) * moved.shape[-1] for _ in MODES)
    gaps = baselines[:, 1] - baselines[:, 0]
    said: list[tuple[str, ...]] = []
    for mode in range(len(MODES)):
        apart = moved[:, mode, 0] - moved[:, mode, 1]
        shares = apart.mean(0) / gaps.mean()
        low, high = evidence.ratio_interval(apart, gaps, **bootstrap)
        disagree = ((low > 0) | (high < 0)) & (np.abs(shares) >= SIZEABLE)
        words = np.where(shares > 0, _SUFFICES, _NEEDED)
        said.append(
            tuple(str(word) if sure else "" for word, sure in zip(words, disagree, strict=True))
        )
    return tuple(said)
