"""Does a cluster carry its concept: is it needed for it, for it alone, and does it suffice?

1. Clean run; a run with all units of the population at their mean, the floor; and runs with the
   cluster ablated: each unit at its mean everywhere, or with its activation at another example
   drawn at random (resampling), the mean over several draws.
2. A behaviour (`behaviours`) gives each example a loss for the concept and one for what else the
   output does. Necessity is the share of the concept's behaviour that goes, specificity that minus
   the share of unrelated behaviour that changes.
3. Sufficiency: examples without the concept get the cluster's activation at examples with it; how
   far does the output go towards what it says of these? (Graded concepts: any other example's.)
4. The null of each number: random sets with as many units at each place, matched in how often they
   fire and how much they vary (`random_sets`), put through the same.
5. Beside it the raw loss: cross-entropy of the edited run on what the clean one answers. It
   misleads: it counts all harm alike, and random sets may well do more of it.

Source: Wang et al. 2022, arXiv 2211.00593, and Chan et al. 2022 (causal scrubbing: resampling);
Voss et al. 2021, doi 10.23915/distill.00024.008, for the question.

Units and sign: shares (`effects`), 0 nothing, 1 all that the population's units do; loss in nats.
p-values are one-sided, (r + 1) / (n + 1) with r random sets as large, uncorrected.

Limits: what a unit has elsewhere is patched at the example's token only. Specificity is about
behaviours that were given or fitted, and knows no other.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from analyses.neuron_clusters import effects, marks, random_sets, readout
from analyses.neuron_clusters.behaviours import Behaviour
from workbench.core import evidence, plots, results
from workbench.core.engine import populations, running
from workbench.core.evidence import SURE
from workbench.core.prompts.concepts import Concept

ABLATIONS = ("mean", "resample")
ANALYSIS = "neuron_clusters.verify"
# Random donors of resampling and patching, over which the cluster's numbers are means.
_DRAWS = 5
# Of examples that are drawn.
_FEWEST = 8
_POOLED = ("mean", "max")


@runtime_checkable
class HasHits(Protocol):
    """A result that names the units it found."""

    @property
    def hits(self) -> Sequence[str]:
        """Names of units."""
        ...


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number with its interval and its null.

    Attributes:
        name: What it is.
        value: Of the cluster.
        interval: Bootstrap over inputs.
        null: The same of each random set.
        p_value: Share of the random sets that are as large, the cluster counted in.
    """

    name: str
    value: float
    interval: Float[np.ndarray, " bound"]
    null: Float[np.ndarray, " sample"]
    p_value: float


@dataclasses.dataclass(frozen=True)
class Ablated:
    """What ablating the cluster in one way does.

    Attributes:
        ablation: "mean" or "resample".
        specificity: Necessity minus the unrelated effect.
        necessity: Share of the concept's behaviour that goes.
        unrelated: Share of unrelated behaviour that changes, the mean over these behaviours.
        raw_loss: Cross-entropy on what the clean run answers.
        each: Effect on the concept's behaviour and on each unrelated one, as they are named.
        losses: The same as raw mean losses of the clean run, the ablated one and the floor.
    """

    ablation: str
    specificity: Measured
    necessity: Measured
    unrelated: Measured
    raw_loss: Measured
    each: Float[np.ndarray, " behaviour"]
    losses: Float[np.ndarray, "3 behaviour"]


@dataclasses.dataclass(frozen=True)
class Verification(results.Result):
    """Whether a cluster carries its concept.

    Attributes:
        concept: Its name.
        units: The cluster, by name.
        behaviours: The concept's behaviour, then the unrelated ones.
        n: Examples.
        n_inputs: Inputs that they are of.
        ablations: Each way of ablating, in the order they were asked for.
        patched: Sufficiency; none where it cannot be measured.
        matching: How the random sets were drawn.
        confidence: Of the intervals.
        notes: What could not be done, and why.
    """

    concept: str
    units: tuple[str, ...]
    behaviours: tuple[str, ...]
    n: int
    n_inputs: int
    ablations: tuple[Ablated, ...]
    patched: tuple[Measured, ...]
    matching: str
    confidence: float
    notes: tuple[str, ...]

    @property
    def specificity(self) -> float:
        """With the first way of ablating."""
        return self.ablations[0].specificity.value

    @property
    def necessity(self) -> float:
        """With the first way of ablating."""
        return self.ablations[0].necessity.value

    @property
    def sufficiency(self) -> float:
        """NaN where it could not be measured."""
        return self.patched[0].value if self.patched else float("nan")

    @property
    def p_value(self) -> float:
        """Of specificity, the largest over the ways of ablating."""
        return max(each.specificity.p_value for each in self.ablations)

    @property
    def specific(self) -> bool:
        """Whether specificity is above 0 and above random sets with each way of ablating."""
        low = min(float(each.specificity.interval[0]) for each in self.ablations)
        return low > 0 and self.p_value < SURE

    def _measured(self) -> list[tuple[str, Measured]]:
        """All numbers with how they were made, as a reader sees them."""
        found = [
            (f"{each.ablation} ablation", one)
            for each in self.ablations
            for one in (each.specificity, each.necessity, each.unrelated, each.raw_loss)
        ]
        return found + [("patching", one) for one in self.patched]

    def to_frame(self) -> pd.DataFrame:
        """One row a number: value, interval, the random sets' median and 95 % quantile, p."""
        return pd.DataFrame(
            [
                {
                    "by": by,
                    "measure": one.name,
                    "value": one.value,
                    "low": one.interval[0],
                    "high": one.interval[1],
                    "random_median": np.median(one.null),
                    "random_95": np.quantile(one.null, 1 - SURE),
                    "p": one.p_value,
                }
                for by, one in self._measured()
            ]
        )

    def figure(self) -> go.Figure:
        """Specificity, necessity and sufficiency of the cluster, against random sets."""
        order = ("specificity", "necessity", "sufficiency")
        shown = [(by, one) for by, one in self._measured() if one.name in order]
        shown.sort(key=lambda each: order.index(each[1].name))
        figure = go.Figure()
        labels = [f"{one.name}<br>({by})" for by, one in shown]
        for first, (label, (_, one)) in enumerate(zip(labels, shown, strict=True)):
            figure.add_violin(
                x=one.null,
                y=[label] * len(one.null),
                orientation="h",
                points="all",
                pointpos=0,
                jitter=0.6,
                marker={"size": 3, "color": plots.COLOURS[6]},
                line={"color": plots.COLOURS[6], "width": 1},
                name="random sets",
                showlegend=first == 0,
                hovertemplate="random set %{x:.3f}<extra></extra>",
            )
        values = np.array([one.value for _, one in shown])
        low, high = np.array([one.interval for _, one in shown]).T
        figure.add_scatter(
            x=values,
            y=labels,
            mode="markers",
            marker={"size": 11, "symbol": "diamond", "color": plots.COLOURS[0]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": np.nan_to_num(high - values),
                "arrayminus": np.nan_to_num(values - low),
            },
            customdata=[one.p_value for _, one in shown],
            name=f"the cluster, {self.confidence:.0%} interval",
            hovertemplate="%{y} %{x:.3f}, p = %{customdata:.2g}<extra></extra>",
        )
        for line in (0, 1):
            figure.add_vline(x=line, line={"color": plots.COLOURS[6], "dash": "dot", "width": 1})
        figure.update_layout(template=plots.TEMPLATE, legend={"orientation": "h", "y": 1.12})
        figure.update_xaxes(title=f"share of {plots.escape(self.behaviours[0])}")
        figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=labels)
        return figure

    def summary(self) -> str:
        """Whether it is specific, with every number, its interval and its null."""
        said = "carries" if self.specific else "is not shown to carry"
        parts = [
            f"The cluster of {len(self.units):,} units of {self.provenance.model} {said} "
            f"{self.concept!r} ({self.n:,} examples of {self.n_inputs:,} inputs; behaviour: "
            f"{self.behaviours[0]}; unrelated: {', '.join(self.behaviours[1:])})."
        ]
        for each in self.ablations:
            parts.append(
                f"By {each.ablation} ablation: {self._words(each.specificity)}; "
                f"{self._words(each.necessity)}; {self._words(each.unrelated)}. Raw loss "
                f"{each.raw_loss.value:.3g}, of random sets up to {each.raw_loss.null.max():.3g}, "
                "which says how much harm is done, not to what."
            )
        parts += [f"By patching: {self._words(one)}." for one in self.patched]
        parts.append(f"Null: {self.matching}. p-values are not corrected for other clusters.")
        return " ".join([*parts, *self.notes])

    def _words(self, one: Measured) -> str:
        return (
            f"{one.name} {one.value:.2f} ({self.confidence:.0%} interval {one.interval[0]:.2f} to "
            f"{one.interval[1]:.2f}; random sets: median {np.median(one.null):.2f}, "
            f"{1 - SURE:.0%} quantile {np.quantile(one.null, 1 - SURE):.2f}; p = {one.p_value:.2g})"
        )


def verify(
    subject: Any,
    concept: Concept,
    units: Sequence[str] | HasHits,
    *,
    behaviour: Behaviour | None = None,
    ablations: Sequence[str] = ABLATIONS,
    n_random: int = 200,
    most_examples: int = 400,
    kinds: str | Sequence[str] = "neuron",
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Verification:
    """Ablate and patch a cluster, and compare with random sets.

    Args:
        subject: A language model, a network or a population.
        concept: What the cluster is for.
        units: Names of its units, or a result whose `hits` are the cluster.
        behaviour: What the output does with the concept; `Readout` if not given.
        ablations: Any of "mean" and "resample". "resample" is left out, with a note, for texts that
            are read as a mean or maximum over tokens.
        n_random: Random sets.
        most_examples: Inputs are drawn until there are so many examples, evenly from those with and
            without the concept as they are.
        kinds: Of a language model's units: the population that the floor ablates as a whole.
        layers: Of a language model.
        dictionary: Of a language model.
        confidence: Of the intervals.
        seed: Of the examples, donors, random sets and intervals.
        progress: Told how far it is; may raise to stop.

    Returns:
        Specificity, necessity and sufficiency with intervals and nulls.

    Raises:
        ValueError: If units are unknown, stand twice or leave too few others, an option does not
            fit, or (VerificationError) the output depends on the units in no way that can be lost.
    """
    started = time.perf_counter()
    evidence.require_confidence(confidence)
    names = _names(units)
    ways = _ways(ablations, n_random, most_examples)
    population = populations.population_of(subject, kinds, layers=layers, dictionary=dictionary)
    chosen = np.sort(population.numbers(names))
    drawn, inputs = _drawn(concept, most_examples, seed)
    bench = population.bench(drawn)
    null = random_sets.random_sets(population, bench.values, chosen, n=n_random, seed=seed)
    runs = _Runs(bench, inputs, behaviour or readout.Readout(), (float(confidence), seed))
    notes: list[str] = []
    pooled = concept.is_text and concept.reading in _POOLED
    if pooled:
        notes.append(
            f"Units are read as the {concept.reading} over tokens, so what another text has fits "
            "no token: no resampling and no patching. Read them at the last token for both."
        )
        ways = [way for way in ways if way != "resample"]
        if not ways:
            raise ValueError(f"ablations = {list(ablations)}: {notes[0]}")
    report, count = progress or running.no_progress, len(ways) + (not pooled)
    stages = [running.part(report, i / count, (i + 1) / count) for i in range(count)]
    found = tuple(
        runs.ablated(way, chosen, null.sets, stage)
        for way, stage in zip(ways, stages, strict=False)
    )
    patched: tuple[Measured, ...] = ()
    if not pooled:
        patched, why = runs.patched(chosen, null.sets, stages[-1])
        notes += why
    report(1.0, "done")
    made = population.provenance(
        analysis=ANALYSIS,
        parameters={
            "concept": marks.described(concept),
            "units": list(names),
            "behaviour": _described(runs.behaviour),
            "ablations": list(ways),
            "n_random": n_random,
            "most_examples": most_examples,
            "confidence": float(confidence),
        },
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    return Verification(
        provenance=made,
        concept=concept.name,
        units=tuple(population.names[number] for number in chosen),
        behaviours=runs.names,
        n=len(bench.examples),
        n_inputs=len(np.unique(bench.examples.row)),
        ablations=found,
        patched=patched,
        matching=null.matching,
        confidence=float(confidence),
        notes=tuple(notes),
    )


class _Runs:
    """Runs of one subject on one concept's examples, compared with its clean run."""

    def __init__(
        self,
        bench: populations.Bench,
        inputs: Int[np.ndarray, " row"],
        behaviour: Behaviour,
        interval: tuple[float, int],
    ) -> None:
        self.bench, self.behaviour, self._interval = bench, behaviour, interval
        self._reading = behaviour.prepare(bench, inputs[bench.examples.row])
        self.names = (behaviour.name, *self._reading.unrelated)
        self._losses = slice(1, 1 + len(self.names))
        answer = bench.scores(lambda logits, _: logits.argmax(-1).double())
        self._answer = torch.from_numpy(answer.astype(np.int64))
        self._clean = self._run(None)
        floor = self._run(populations.Edit(np.arange(len(bench.population))))
        self._sums = effects.Sums(bench.examples.row)
        self._scale = effects.Scale(
            self._sums.of(self._clean[:, self._losses]),
            self._sums.of(floor[:, self._losses]),
            self.names,
        )
        self._floor = floor

    def ablated(
        self,
        way: str,
        chosen: Int[np.ndarray, " hit"],
        sets: Int[np.ndarray, "sample hit"],
        report: running.Progress,
    ) -> Ablated:
        """Ablate the cluster and each random set in one way."""
        donors = [None] if way == "mean" else self._shuffles()
        own = np.mean([self._run(populations.Edit(chosen, one)) for one in donors], axis=0)
        changes = self._changes(own)
        null, raw = np.zeros((len(sets), len(effects.QUANTITIES))), np.zeros(len(sets))
        for i, one in enumerate(sets):
            report(i / len(sets), f"{way} ablation of random sets")
            edited = self._run(populations.Edit(one, donors[i % len(donors)]))
            null[i], raw[i] = self._scale.measures(self._changes(edited)), edited[:, 0].mean()
        values = self._scale.measures(changes)
        intervals = self._scale.intervals(changes, *self._interval)
        three = {
            name: Measured(
                name,
                float(values[i]),
                intervals[i],
                np.ascontiguousarray(null[:, i]),
                evidence.p_value(float(values[i]), null[:, i]),
            )
            for i, name in enumerate(effects.QUANTITIES)
        }
        return Ablated(
            ablation=way,
            **three,
            raw_loss=self._raw(own[:, 0], raw),
            each=self._scale.each(changes),
            losses=np.stack(
                [
                    np.nanmean(run[:, self._losses], axis=0)
                    for run in (self._clean, own, self._floor)
                ]
            ),
        )

    def patched(
        self,
        chosen: Int[np.ndarray, " hit"],
        sets: Int[np.ndarray, "sample hit"],
        report: running.Progress,
    ) -> tuple[tuple[Measured, ...], list[str]]:
        """Give the cluster, and each random set, what it has at other examples."""
        says = slice(self._losses.stop, None)
        clean = self._clean[:, says]
        if not clean.shape[1]:
            return (), [
                f"No sufficiency: {self.names[0]} is a loss, which does not say what the output "
                "holds of the concept."
            ]
        donors = self._donors()
        ways = [clean[one] - clean for one in donors]
        lengths = [np.square(way).sum(1) for way in ways]
        if min(length.sum() for length in lengths) <= 0:
            return (), ["No sufficiency: the output says the same with the concept as without."]

        def along(units: np.ndarray, draw: int) -> np.ndarray:
            edited = self._run(populations.Edit(units, donors[draw]))[:, says]
            return ((edited - clean) * ways[draw]).sum(1)

        own = np.mean([along(chosen, draw) for draw in range(len(donors))], axis=0)
        columns = self._sums.of(np.stack([own, np.mean(lengths, axis=0)], 1))
        value = float(effects.share(*columns.T, axis=0))
        null = np.zeros(len(sets))
        for i, one in enumerate(sets):
            report(i / len(sets), "patching random sets")
            draw = i % len(donors)
            null[i] = along(one, draw).sum() / lengths[draw].sum()
        interval = effects.bootstrap(tuple(columns.T), effects.share, *self._interval)
        p_value = evidence.p_value(value, null)
        return (Measured("sufficiency", value, interval, null, p_value),), []

    def _run(self, edit: populations.Edit | None) -> Float[np.ndarray, "example column"]:
        """Raw loss, losses of each behaviour, and what the output says of the concept."""

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            right = self._answer[numbers].to(logits.device)
            raw = torch.nn.functional.cross_entropy(logits, right, reduction="none")
            scored = self._reading.score(logits, numbers)
            return torch.cat([raw[:, None].to(scored), scored], 1)

        return self.bench.scores(score, edit).astype(np.float64)

    def _changes(
        self, edited: Float[np.ndarray, "example column"]
    ) -> Float[np.ndarray, "row behaviour"]:
        return self._sums.of((edited - self._clean)[:, self._losses])

    def _raw(
        self, edited: Float[np.ndarray, " example"], null: Float[np.ndarray, " sample"]
    ) -> Measured:
        columns = self._sums.of(np.stack([edited, np.ones(len(edited))], 1))
        value = float(edited.mean())
        interval = effects.bootstrap(tuple(columns.T), effects.share, *self._interval)
        return Measured("raw loss", value, interval, null, evidence.p_value(value, null))

    def _shuffles(self) -> list[Int[np.ndarray, " example"]]:
        """Donors for resampling: the examples in random orders."""
        rng = np.random.default_rng(self._interval[1])
        return [rng.permutation(len(self.bench.examples)) for _ in range(_DRAWS)]

    def _donors(self) -> list[Int[np.ndarray, " example"]]:
        """Donors for patching: with the concept for examples without it, else the example."""
        labels, graded = self.bench.examples.labels, self.bench.concept.graded
        half = self._reading.half
        half = np.zeros(len(labels), dtype=np.int64) if half is None else half
        rng = np.random.default_rng(self._interval[1])
        donors = np.tile(np.arange(len(labels)), (_DRAWS, 1))
        for side in np.unique(half):
            to = np.flatnonzero((half == side) & (graded | ~labels))
            of = np.flatnonzero((half == side) & (graded | labels))
            donors[:, to] = rng.choice(of, (_DRAWS, len(to)))
        return list(donors)


def _names(units: Sequence[str] | HasHits) -> tuple[str, ...]:
    """Names of the cluster's units."""
    if isinstance(units, str):
        raise ValueError(f"units = {units!r}: give a list of names, or a result that has hits")
    names = tuple(units) if isinstance(units, Sequence) else tuple(units.hits)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"a cluster of {len(names)} units, {len(set(names))} of them different: give at least "
            "one unit, and none twice"
        )
    return names


def _ways(ablations: Sequence[str], n_random: int, most_examples: int) -> list[str]:
    """The ways of ablating, each once."""
    ways = list(dict.fromkeys(ablations))
    if not ways or not set(ways) <= set(ABLATIONS):
        raise ValueError(f"ablations = {list(ablations)}; expected any of {', '.join(ABLATIONS)}")
    fewest = round(1 / SURE)
    if n_random < fewest or most_examples < _FEWEST:
        raise ValueError(
            f"{n_random} random sets and at most {most_examples} examples; expected at least "
            f"{fewest} sets, or no p-value is below {SURE}, and {_FEWEST} examples"
        )
    return ways


def _drawn(concept: Concept, most: int, seed: int) -> tuple[Concept, Int[np.ndarray, " row"]]:
    """A part of a large concept, and which of its inputs are in it."""
    examples = concept.examples()
    if len(examples) <= most:
        return concept, np.arange(len(concept.inputs))
    rows, counts = np.unique(examples.row, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(rows))
    has = np.isin(rows[order], examples.row[examples.labels])
    # One with the concept, one without, and so on while there are both.
    turn = np.zeros(len(order), dtype=np.int64)
    turn[has], turn[~has] = np.arange(has.sum()), np.arange((~has).sum())
    order = order[np.argsort(turn, kind="stable")]
    enough = int(np.searchsorted(np.cumsum(counts[order]), most, side="right"))
    kept = np.sort(rows[order[: max(1, enough)]])

    def part(values: Any) -> Any:
        return values[kept] if isinstance(values, np.ndarray) else [values[i] for i in kept]

    return (
        concept.replaced(
            inputs=part(concept.inputs),
            labels=part(concept.labels),
            confounds={name: part(values) for name, values in concept.confounds.items()},
        ),
        kept,
    )


def _described(behaviour: Behaviour) -> dict[str, Any]:
    """A behaviour for the parameters of a provenance."""
    found: dict[str, Any] = {"kind": type(behaviour).__name__, "name": behaviour.name}
    if dataclasses.is_dataclass(behaviour):
        for field in dataclasses.fields(behaviour):
            value = getattr(behaviour, field.name)
            found[field.name] = results.mark(value) if isinstance(value, np.ndarray) else value
    return found
