"""How does a network that learns an operation change inside, long before its test loss does?

1. Key frequencies: those with a large share of the power of W_L = W_U W_out, neurons to logits, at
   the last checkpoint. They stay the same for all checkpoints.
2. Each checkpoint is measured by itself (`measuring`): losses on both splits, restricted, excluded
   and trigonometric loss, explained logits and neurons, Gini coefficients, weights.
3. A key appears at the first checkpoint from which on its share stays that of a key, and at least
   twice what an even spread over all frequencies would give it.

Source: Nanda et al. 2023, arXiv 2301.05217 (progress measures); Roy & Vetterli 2007 (effective
rank).

Units and sign: losses in nats a pair, lower is better, without the logit of `=`; shares, explained
variance and Gini coefficients between 0 and 1. The restricted loss is of the test pairs, the
excluded one of the training pairs; other publications take other splits.

Limits: the keys are known only at the end, so these are measures in hindsight. A checkpoint early
in training has no circuit yet: the measures then say what the future keys' waves would do.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.subplots
from jaxtyping import Float, Int

from analyses.grokking import measuring
from workbench.core import plots, results
from workbench.core.engine import running
from workbench.core.modular import fourier, theory
from workbench.core.modular.network import Snapshot
from workbench.core.modular.recipe import Recipe
from workbench.core.modular.tasks import Task

ANALYSIS = "grokking.track"
# A key's share has to be this many times an even spread before it counts as having appeared.
_CLEAR = 2.0
_BELOW = (plots.COLOURS[5], plots.COLOURS[3])
_LOSSES = {
    "train": "train_loss",
    "test": "test_loss",
    "restricted (test pairs)": "restricted_loss",
    "excluded (training pairs)": "excluded_loss",
    "formula (all pairs)": "trigonometric_loss",
}
_SCALARS = (
    *_LOSSES.values(),
    "train_accuracy",
    "test_accuracy",
    "logit_explained",
    "gini_embedding",
    "gini_neuron_logit",
    "squared_weights",
    "effective_rank",
)


@runtime_checkable
class Run(Protocol):
    """What `track` needs of a training: a `TrainingRun`, or anything else that offers this."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def fingerprint(self) -> str:
        """Sha256 over what it holds."""
        ...

    @property
    def task(self) -> Task:
        """What was learnt."""
        ...

    @property
    def recipe(self) -> Recipe:
        """How."""
        ...

    @property
    def steps(self) -> Sequence[int]:
        """Steps of the checkpoints, ascending."""
        ...

    def snapshot(self, step: int) -> Snapshot:
        """Weights and activations at one of them."""
        ...


@dataclasses.dataclass(frozen=True)
class ProgressMeasures(results.Result):
    """Measures of every checkpoint of a training.

    Attributes:
        task: What was learnt.
        recipe: How.
        steps: Step of each checkpoint.
        train_loss: On the training pairs, with the labels trained on.
        test_loss: On the test pairs, with the true answers.
        train_accuracy: Share of the training pairs whose highest logit is the label.
        test_accuracy: Share of the test pairs whose highest logit is the answer.
        restricted_loss: On the test pairs, with the keys' waves and the mean only.
        excluded_loss: On the training pairs, without the waves of all keys.
        excluded_by_key: On the training pairs, without the waves of one key.
        trigonometric_loss: On all pairs, logits replaced by Σ α_k cos(w_k(a + b - c)).
        logit_explained: Share of the logits' variance along these terms.
        gini_embedding: Gini coefficient of the norms of the embedding's Fourier components.
        gini_neuron_logit: The same of the neuron-logit map.
        squared_weights: Sum of squares of all weights.
        effective_rank: Of the neuron-logit map.
        frequency_shares: Share of each frequency in that map's power.
        embedding_shares: The same in the embedding's.
        neuron_frequency: Frequency that explains most of each neuron.
        neuron_explained: Share of the neuron's variance that it explains.
        attention_frequency: Frequency that explains most of each head's attention to a.
        attention_explained: Share of its variance that it explains.
        keys: Key frequencies.
        appeared: Step at which each key appeared, -1 where it never stood clear.
        keys_by_embedding: Key frequencies by the embedding's norms, at the last checkpoint.
        keys_by_neurons: Key frequencies by explained neurons, at the last checkpoint.
        theory: How the Fourier terms apply, or why they do not.
    """

    task: Task
    recipe: Recipe
    steps: Int[np.ndarray, " checkpoint"]
    train_loss: Float[np.ndarray, " checkpoint"]
    test_loss: Float[np.ndarray, " checkpoint"]
    train_accuracy: Float[np.ndarray, " checkpoint"]
    test_accuracy: Float[np.ndarray, " checkpoint"]
    restricted_loss: Float[np.ndarray, " checkpoint"]
    excluded_loss: Float[np.ndarray, " checkpoint"]
    excluded_by_key: Float[np.ndarray, "checkpoint key"]
    trigonometric_loss: Float[np.ndarray, " checkpoint"]
    logit_explained: Float[np.ndarray, " checkpoint"]
    gini_embedding: Float[np.ndarray, " checkpoint"]
    gini_neuron_logit: Float[np.ndarray, " checkpoint"]
    squared_weights: Float[np.ndarray, " checkpoint"]
    effective_rank: Float[np.ndarray, " checkpoint"]
    frequency_shares: Float[np.ndarray, "checkpoint frequency"]
    embedding_shares: Float[np.ndarray, "checkpoint frequency"]
    neuron_frequency: Int[np.ndarray, "checkpoint neuron"]
    neuron_explained: Float[np.ndarray, "checkpoint neuron"]
    attention_frequency: Int[np.ndarray, "checkpoint head"]
    attention_explained: Float[np.ndarray, "checkpoint head"]
    keys: tuple[int, ...]
    appeared: tuple[int, ...]
    keys_by_embedding: tuple[int, ...]
    keys_by_neurons: tuple[int, ...]
    theory: str

    @property
    def applies(self) -> bool:
        """Whether the Fourier terms apply to this operation."""
        return theory.cyclic(self.task) is not None

    @property
    def neurons_explained(self) -> Float[np.ndarray, " checkpoint"]:
        """Share of the neurons that one frequency explains; NaN where the terms do not apply."""
        share = (self.neuron_explained >= fourier.EXPLAINED).mean(1)
        return np.where(np.isnan(self.neuron_explained).any(1), np.nan, share)

    def to_frame(self) -> pd.DataFrame:
        """One row a checkpoint, measure and, where it has one, frequency or head."""
        columns = {name: getattr(self, name) for name in _SCALARS}
        columns["neurons_explained"] = self.neurons_explained
        parts = [_tidy(self.steps, name, values[:, None]) for name, values in columns.items()]
        every = np.arange(1, self.frequency_shares.shape[1] + 1)
        parts += [
            _tidy(self.steps, "excluded_by_key", self.excluded_by_key, np.array(self.keys)),
            _tidy(self.steps, "frequency_share", self.frequency_shares, every),
            _tidy(self.steps, "embedding_share", self.embedding_shares, every),
        ]
        for head in range(self.attention_explained.shape[1]):
            explained = self.attention_explained[:, [head]]
            part = _tidy(self.steps, "attention_explained", explained)
            found = self.attention_frequency[:, head]
            part["frequency"] = pd.array(np.where(found < 0, 0, found), dtype="Int64")
            part["head"] = pd.array(np.full(len(part), head), dtype="Int64")
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def figure(self) -> go.Figure:
        """Losses over the steps on a logarithmic axis; below them weights, Gini and explained."""
        below = {
            "squared weights": {"Σw²": ("", self.squared_weights)},
            "Gini": {
                "Gini of the embedding": ("embedding", self.gini_embedding),
                "Gini of the neuron-logit map": ("neurons to logits", self.gini_neuron_logit),
            },
            "explained": {
                "logits, by the keys' formula": ("logits", self.logit_explained),
                "neurons, by one frequency": ("neurons", self.neurons_explained),
            },
        }
        titles = [_title(title, [short for short, _ in of.values()]) for title, of in below.items()]
        figure = plotly.subplots.make_subplots(
            rows=2,
            cols=len(below),
            specs=[[{"colspan": len(below)}, None, None], [{}] * len(below)],
            subplot_titles=["", *titles],
            row_heights=[0.64, 0.36],
            horizontal_spacing=0.07,
            vertical_spacing=0.14,
        )
        for index, (name, field) in enumerate(_LOSSES.items()):
            if np.isfinite(getattr(self, field)).any():
                colour = plots.COLOURS[index]
                _curve(figure, self.steps, name, getattr(self, field), colour, row=1)
        for column, curves in enumerate(below.values(), start=1):
            for colour, (name, (_, values)) in zip(_BELOW, curves.items(), strict=False):
                _curve(figure, self.steps, name, values, colour, row=2, column=column)
        figure.update_layout(template=plots.TEMPLATE, height=600, hovermode="x unified")
        figure.update_annotations(font={"size": 13})
        figure.update_xaxes(title={"text": "step", "standoff": 6}, nticks=6, row=2)
        figure.update_xaxes(matches="x").update_yaxes(rangemode="tozero", row=2)
        return figure.update_yaxes(
            title="loss (nats a pair)", type="log", **plots.POWERS_OF_TEN, row=1, col=1
        )

    def frequencies_figure(self) -> go.Figure:
        """Share of each frequency in the neuron-logit map's power, over the steps."""
        return plots.heatmap(
            self.frequency_shares.T,
            row_labels=[f"k = {k}" for k in range(1, self.frequency_shares.shape[1] + 1)],
            column_labels=[f"{step:,}" for step in self.steps],
            row_title="frequency",
            column_title="step",
            colour_title="share of power",
            scale="sequential",
        )

    def keys_figure(self) -> go.Figure:
        """Loss of the training pairs without one key's waves, a curve a key."""
        series = {
            f"without k = {key}": self.excluded_by_key[:, i] for i, key in enumerate(self.keys)
        }
        return plots.line(
            self.steps,
            {"train": self.train_loss, **series},
            x_title="step",
            y_title="loss of the training pairs (nats a pair)",
            log_y=True,
        ).update_yaxes(**plots.POWERS_OF_TEN)

    def summary(self) -> str:
        """Where it began and ended, the keys, and what the waves alone do."""
        lines = [
            f"{self.task.operation} modulo {self.task.p}, {len(self.steps)} checkpoints from step "
            f"{self.steps[0]:,} to {self.steps[-1]:,}: train loss {self.train_loss[0]:.3g} to "
            f"{self.train_loss[-1]:.3g}, test loss {self.test_loss[0]:.3g} to "
            f"{self.test_loss[-1]:.3g} nats a pair; test accuracy {self.test_accuracy[-1]:.1%}."
        ]
        if not self.applies:
            return " ".join((*lines, self.theory))
        if not self.keys:
            return " ".join((*lines, "No frequency is key at the last checkpoint.", self.theory))
        spread = 1 / self.frequency_shares.shape[1]
        shares = self.frequency_shares[-1][np.array(self.keys) - 1]
        lines += [
            f"Key frequencies {_listed(self.keys)}: {shares.sum():.1%} of the power of the "
            f"neuron-logit map (an even spread would give each {spread:.1%}). "
            f"{_appearances(self.keys, self.appeared)}",
            f"At the end their formula explains {self.logit_explained[-1]:.1%} of the logits' "
            f"variance and one frequency {self.neurons_explained[-1]:.0%} of the neurons; "
            f"restricted loss {self.restricted_loss[-1]:.3g}, excluded "
            f"{self.excluded_loss[-1]:.3g}, formula alone {self.trigonometric_loss[-1]:.3g}.",
            "Keys are chosen by the last checkpoint, so earlier values are in hindsight.",
            self.theory,
        ]
        return " ".join(lines)


def track(
    run: Run,
    *,
    keys: Sequence[int] | None = None,
    progress: running.Progress | None = None,
) -> ProgressMeasures:
    """Measure every checkpoint of a training.

    Args:
        run: The training; its folder, opened, or anything that offers the same (`Run`).
        keys: Key frequencies; None for those of the last checkpoint.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The measures. Where the theory does not hold they are NaN (-1 for frequencies), apart from
        losses, accuracies, weights and effective rank.

    Raises:
        ValueError: If the run has no checkpoint, or a key is no frequency of the group.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    steps = [int(step) for step in run.steps]
    if not steps:
        raise ValueError(f"{run.name} has no checkpoint; train it for at least one step")
    report(0.0, "reading the last checkpoint")
    where = measuring.layout(run.task)
    chosen = _keys(run, steps[-1], where, keys)

    def piece(step: int) -> measuring.Measured:
        return measuring.measure(run.snapshot(step), where, chosen)

    found = measuring.in_threads(piece, steps, report, "checkpoint")
    columns = _stacked(found)
    last = found[-1]
    applies = where.group is not None
    embedding = last.embedding_shares
    return ProgressMeasures(
        provenance=results.described(
            run.name,
            run.fingerprint,
            analysis=ANALYSIS,
            parameters={
                "keys": None if keys is None else list(chosen),
                "key_rule": f"share of W_U W_out's power of at least {fourier.KEY_SHARE}",
                "task": dataclasses.asdict(run.task),
            },
            seed=run.task.seed,
            wall_time=time.perf_counter() - started,
        ),
        task=run.task,
        recipe=run.recipe,
        steps=np.array(steps, dtype=np.int64),
        keys=chosen,
        appeared=_appeared(np.array(steps), columns["frequency_shares"], chosen),
        keys_by_embedding=measuring.keys_by_embedding(embedding) if applies else (),
        keys_by_neurons=measuring.keys_by_neurons(last.neuron_frequency, last.neuron_explained),
        theory=describe(run.task),
        **columns,
    )


def describe(task: Task) -> str:
    """How the Fourier terms apply to a task, or why they do not.

    Args:
        task: The task.

    Returns:
        A sentence or two.
    """
    group = theory.cyclic(task)
    if group is None:
        return theory.why_not(task)
    left_out = ""
    if group.n < task.p:
        left_out = (
            " Restricted, excluded and formula loss are over the pairs without 0, the formula over "
            "the answers without 0."
        )
    return (
        f"{task.operation} modulo {task.p} is addition modulo {group.n} of {group.note}.{left_out}"
    )


def require_keys(keys: Sequence[int], n: int) -> tuple[int, ...]:
    """Check key frequencies that somebody chose.

    Args:
        keys: The frequencies.
        n: Size of the group.

    Returns:
        They, ascending.

    Raises:
        ValueError: If one is no frequency of the group or there twice.
    """
    chosen = tuple(sorted(int(key) for key in keys))
    most = fourier.n_frequencies(n)
    if len(set(chosen)) < len(chosen) or any(not 1 <= key <= most for key in chosen):
        raise ValueError(f"keys = {chosen}; expected different frequencies from 1 to {most}")
    return chosen


def _keys(
    run: Run, last: int, where: measuring.Layout, keys: Sequence[int] | None
) -> tuple[int, ...]:
    if where.group is None:
        return ()
    if keys is not None:
        return require_keys(keys, where.group.n)
    return fourier.key_frequencies(measuring.shares_of_map(run.snapshot(last), where))


def _stacked(found: Sequence[measuring.Measured]) -> dict[str, Any]:
    """Every measure with a leading checkpoint axis."""
    names = [field.name for field in dataclasses.fields(measuring.Measured)]
    return {name: np.stack([getattr(one, name) for one in found]) for name in names}


def _appeared(
    steps: np.ndarray, shares: Float[np.ndarray, "checkpoint frequency"], keys: tuple[int, ...]
) -> tuple[int, ...]:
    if not keys:
        return ()
    least = max(fourier.KEY_SHARE, _CLEAR / shares.shape[1])
    # From the end backwards: a checkpoint counts while all later ones are clear too.
    clear = shares[::-1, np.array(keys) - 1] >= least
    lasting = np.logical_and.accumulate(clear).sum(0)
    return tuple(int(steps[-count]) if count else -1 for count in lasting)


def _tidy(
    steps: np.ndarray, measure: str, values: np.ndarray, frequencies: np.ndarray | None = None
) -> pd.DataFrame:
    """Rows of one measure: a checkpoint and column each."""
    checkpoints, width = values.shape
    none = np.ones(checkpoints * width, dtype=bool)
    labels = np.zeros(width) if frequencies is None else frequencies
    return pd.DataFrame(
        {
            "step": np.repeat(steps, width),
            "measure": measure,
            "frequency": pd.arrays.IntegerArray(
                np.tile(labels, checkpoints).astype(np.int64), none & (frequencies is None)
            ),
            "head": pd.arrays.IntegerArray(np.zeros(checkpoints * width, dtype=np.int64), none),
            "value": values.ravel().astype(np.float64),
        }
    )


def _curve(
    figure: go.Figure,
    steps: np.ndarray,
    name: str,
    values: np.ndarray,
    colour: str,
    *,
    row: int,
    column: int = 1,
) -> None:
    """Draw a curve; below the first row the titles of the panels serve as the legend."""
    trace = go.Scatter(x=steps, y=values, name=name, mode="lines", line={"color": colour})
    figure.add_trace(trace.update(showlegend=row == 1), row=row, col=column)


def _title(title: str, curves: Sequence[str]) -> str:
    """A panel's title with the names of its curves in their colours."""
    named = [
        f'<span style="color: {colour}">{name}</span>'
        for colour, name in zip(_BELOW, curves, strict=False)
        if name
    ]
    return f"{title}: {', '.join(named)}" if named else title


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _appearances(keys: Sequence[int], steps: Sequence[int]) -> str:
    """Since when each key has stood clear, in a sentence."""
    seen = [
        f"k = {key} since step {step:,}" for key, step in zip(keys, steps, strict=True) if step >= 0
    ]
    never = len(keys) - len(seen)
    if not seen:
        return "None stands clear of an even spread."
    rest = f"; {never} of them never" if never else ""
    return f"Clear of an even spread: {', '.join(seen)}{rest}."
