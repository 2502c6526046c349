"""Which units respond to a concept, how strongly, and is that more than chance?

1. Every unit is read at every example of the concept.
2. Effect of a unit: AUC, the chance that it is larger at a random example with the concept than at
   one without; for a concept with targets R², the share of its variance that these explain.
3. The null: labels change places between examples (`shuffles`: whole rows of them where a row has
   several examples). It gives each unit a p-value, corrected for all units by Benjamini-Hochberg
   and, apart from that, by the largest effect of any unit.
4. Partial: given stated confounds, the same within strata of these.
5. A bootstrap interval for the best few; sparse probes of growing size.

Source: Mann & Whitney 1947; Westfall & Young 1993; Benjamini & Hochberg 1995; van Elteren 1960;
Gurnee et al. 2023, arXiv 2305.01610.

Units and sign: AUC from 0 to 1, above one half where the unit is larger with the concept. R² from 0
to 1. Differences in units of the activation. NaN for a unit that is constant.

Limits: an effect says that a unit tells, not that the model uses it. p-values are two-sided and no
smaller than 1 / (rounds + 1). Labels given by position in a row alone are part of the null. Partial
p-values take the tokens of a row as independent. Intervals are of units chosen for being large.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Float32, Float64, Int

from analyses.neuron_clusters import (
    marks,
    probes,
    ranks,
    selectivity_figures,
    selectivity_intervals,
    selectivity_strata,
    shuffles,
)
from analyses.neuron_clusters.probes import Probes
from analyses.neuron_clusters.selectivity_chance import Chance, Explained, Ranked, against_chance
from workbench.core import evidence, results
from workbench.core.engine import populations, running
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept, Examples

ANALYSIS = "neuron_clusters.selectivity"
# Called selective up to this share of false ones; units in the table in words.
_SPOKEN = 3
# A unit whose spread is rounding of its size is constant.
_ROUNDING = 1e-6
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Partial:
    """Effects among examples that are alike in confounds.

    Attributes:
        confounds: Their names.
        effect: Partial AUC or R² of each unit; NaN where it is constant in every stratum.
        p_value: By permutations within strata, two-sided.
        discovery_p: Adjusted for all units (Benjamini-Hochberg).
        n_strata: Strata that count.
        n_examples: Examples in these.
        n_with: Of these with the concept.
    """

    confounds: tuple[str, ...]
    effect: Float[np.ndarray, " unit"]
    p_value: Float[np.ndarray, " unit"]
    discovery_p: Float[np.ndarray, " unit"]
    n_strata: int
    n_examples: int
    n_with: int


@dataclasses.dataclass(frozen=True)
class Selectivity(results.Result):
    """Effect of a concept on every unit.

    Attributes:
        concept: Name of the concept.
        measure: "AUC", or "R²" for a concept with targets.
        places: Names of the places, in the order of the units.
        names: Name of each unit.
        place: Number of each unit's place.
        layer: Depth of each unit.
        effect: AUC or R² of each unit.
        difference: Mean with the concept minus mean without; NaN for targets.
        interval: Of the effect, over rows; NaN but for the best few.
        p_value: Of each unit by itself, by permutation, two-sided.
        rounds: Permutations behind each p-value.
        discovery_p: p-values adjusted for all units (Benjamini-Hochberg).
        family_p: Corrected for all units by the largest effect of any.
        null: Largest distance of any unit's effect from the null's mean, in each round.
        partial: Effects given the stated confounds, if any are.
        probes: Sparse probes, if any are asked for and could be fitted.
        n_examples: Examples.
        n_with: Of these with the concept; 0 for targets.
        n_rows: Rows (texts, images) that they are from.
        confidence: Of the intervals.
        caveats: What a reader must know.
    """

    concept: str
    measure: Literal["AUC", "R²"]
    places: tuple[str, ...]
    names: tuple[str, ...]
    place: Int[np.ndarray, " unit"]
    layer: Int[np.ndarray, " unit"]
    effect: Float[np.ndarray, " unit"]
    difference: Float[np.ndarray, " unit"]
    interval: Float[np.ndarray, "bound unit"]
    p_value: Float[np.ndarray, " unit"]
    rounds: Int[np.ndarray, " unit"]
    discovery_p: Float[np.ndarray, " unit"]
    family_p: Float[np.ndarray, " unit"]
    null: Float[np.ndarray, " round"]
    partial: tuple[Partial, ...]
    probes: tuple[Probes, ...]
    n_examples: int
    n_with: int
    n_rows: int
    confidence: float
    caveats: tuple[str, ...]

    @property
    def graded(self) -> bool:
        """Whether effects are R² of targets."""
        return self.measure == "R²"

    @property
    def strength(self) -> Float[np.ndarray, " unit"]:
        """Distance of each effect from none at all: |AUC - 1/2|, or R²."""
        return self.effect if self.graded else np.abs(self.effect - 0.5)

    @functools.cached_property
    def order(self) -> Int[np.ndarray, " unit"]:
        """Numbers of the units, the strongest first, constant ones last."""
        return np.argsort(-np.nan_to_num(self.strength, nan=-1.0), kind="stable")

    def best(self, n: int = 10) -> tuple[str, ...]:
        """Names of the strongest units."""
        return tuple(self.names[i] for i in self.order[:n] if not np.isnan(self.effect[i]))

    def selective(self, rate: float | int = SURE) -> Int[np.ndarray, " unit"]:
        """Numbers of the units with an adjusted p-value up to a rate of false ones."""
        return np.flatnonzero(self.discovery_p <= rate)

    def to_frame(self) -> pd.DataFrame:
        """One row a unit, the strongest first."""
        partial = {
            f"{name} given {' and '.join(part.confounds)}": values
            for part in self.partial
            for name, values in ((self.measure, part.effect), ("p", part.p_value))
        }
        low, high = self.interval
        columns: dict[str, Any] = {
            "unit": np.array(self.names),
            "place": np.array(self.places)[self.place],
            "layer": self.layer,
            self.measure: self.effect,
            "low": low,
            "high": high,
            "difference": self.difference,
            "p": self.p_value,
            "rounds": self.rounds,
            "adjusted p": self.discovery_p,
            "family-wise p": self.family_p,
        } | partial
        return pd.DataFrame({key: values[self.order] for key, values in columns.items()})

    def figure(self, order: str = "number") -> go.Figure:
        """Map of the network: a row a place, a square a unit, coloured by its effect.

        Args:
            order: Units of a place by "number", or by "value", the largest effect first.

        Returns:
            The map.
        """
        return selectivity_figures.network_map(self, order)

    def probes_figure(self) -> go.Figure:
        """F1 of the probes by their size, beside random units and all units.

        Raises:
            ValueError: If there are no probes.
        """
        if not self.probes:
            raise ValueError(f"no probes of {self.concept!r} were fitted: ask for some sizes")
        return selectivity_figures.probe_curves(self.probes[0])

    def summary(self) -> str:
        """How many units are selective, the best with intervals, what is left, and the probes."""
        live = int((~np.isnan(self.effect)).sum())
        found = len(self.selective())
        family = int((self.family_p <= SURE).sum())
        of = "" if self.graded else f", {self.n_with:,} of them with the concept"
        best = ", ".join(
            f"{self.names[i]} ({self.effect[i]:.3f}, {self.confidence:.0%} interval "
            f"{self.interval[0, i]:.3f} to {self.interval[1, i]:.3f}, p = {self.p_value[i]:.2g})"
            for i in self.order[:_SPOKEN]
            if not np.isnan(self.interval[0, i])
        )
        none = "0" if self.graded else "its mean over all shuffles"
        parts = [
            f"{self.concept}: {live:,} units of {self.provenance.model} at {self.n_examples:,} "
            f"examples in {self.n_rows:,} rows{of}; {len(self.names) - live:,} more "
            "are constant there and have no effect.",
            f"{found:,} of them tell it beyond chance (adjusted p at most {SURE}, two-sided "
            f"permutations, Benjamini-Hochberg over all), {family:,} also by the largest effect of "
            "any unit.",
            f"With shuffled labels no unit's {self.measure} is further than "
            f"{np.quantile(self.null, 1 - SURE):.3f} from {none} in {1 - SURE:.0%} of "
            f"{len(self.null):,} rounds.",
        ]
        parts += [f"Best by {self.measure}: {best}."] if best else []
        parts += [self._partial_in_words(part) for part in self.partial]
        parts += [_probes_in_words(each) for each in self.probes]
        return " ".join([*parts, *self.caveats])

    def _partial_in_words(self, part: Partial) -> str:
        left = int((part.discovery_p <= SURE).sum())
        first = int(self.order[0])
        return (
            f"Given {' and '.join(part.confounds)}, {left:,} units still tell it (adjusted p at "
            f"most {SURE}); {self.names[first]} goes from {self.effect[first]:.3f} to "
            f"{part.effect[first]:.3f}. {part.n_examples:,} of the {self.n_examples:,} examples "
            f"count there, in {part.n_strata:,} strata."
        )


def selectivity(
    subject: Any,
    concept: Concept,
    *,
    kinds: str | Sequence[str] = "neuron",
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
    confounds: Sequence[str] = (),
    permutations: int = 1000,
    probes: Sequence[int] = (1, 2, 4, 8, 16),
    best: int = 10,
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Selectivity:
    """Measure how every unit of a subject responds to a concept.

    Args:
        subject: A language model, a network, or a population.
        concept: Inputs with labels or targets.
        kinds: Of a language model's units.
        layers: Of a language model; all if not given.
        dictionary: Of a language model: latents instead of coordinates.
        confounds: Of the concept's, those to hold fixed in the partial effects.
        permutations: Rounds of the null for every unit; units beyond all of them get more.
        probes: Sizes of sparse probes; none for a concept with targets.
        best: How many units get an interval.
        confidence: Of the intervals.
        seed: Of everything random.
        progress: Told how far it is; may raise to stop.

    Returns:
        The effects, in the order of the units.

    Raises:
        ValueError: If every unit is constant, the null can shuffle nothing, a confound does not
            exist or explains the concept whole, or a number is out of range.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    _check(permutations, probes, best, confidence)
    population = populations.population_of(subject, kinds, layers=layers, dictionary=dictionary)
    bench = population.bench(concept)
    table = _read(bench, running.part(report, 0.0, 0.3))
    examples = concept.examples()
    draw = _Draw(permutations, seed, confidence)
    chance, effect = _effects(table, examples, draw, running.part(report, 0.3, 0.7))
    partial = _partial(table, examples, confounds, draw, running.part(report, 0.7, 0.8))
    found, caveats = _probes(table, examples, probes, draw, running.part(report, 0.8, 0.95))
    report(0.95, "intervals")
    strength = effect if concept.graded else np.abs(effect - 0.5)
    chosen = np.argsort(-np.nan_to_num(strength, nan=-1.0), kind="stable")[:best]
    chosen = chosen[~np.isnan(effect[chosen])]
    interval = np.full((2, len(effect)), np.nan)
    interval[:, chosen] = _intervals(table[:, chosen], examples, draw)
    return Selectivity(
        provenance=population.provenance(
            analysis=ANALYSIS,
            parameters={
                "concept": marks.described(concept),
                "confounds": list(confounds),
                "permutations": permutations,
                "probes": list(probes),
                "best": best,
                "confidence": confidence,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        concept=concept.name,
        measure="R²" if concept.graded else "AUC",
        places=tuple(place.name for place in population.places),
        names=population.names,
        place=population.place.copy(),
        layer=population.layer.copy(),
        effect=effect,
        difference=_differences(table, examples),
        interval=interval,
        p_value=chance.p_value,
        rounds=chance.rounds,
        discovery_p=_adjusted(chance.p_value),
        family_p=chance.family_p,
        null=chance.largest,
        partial=partial,
        probes=found,
        n_examples=len(examples),
        n_with=int(examples.labels.sum()),
        n_rows=len(np.unique(examples.row)),
        confidence=float(confidence),
        caveats=(*concept.caveats, *caveats),
    )


@dataclasses.dataclass(frozen=True)
class _Draw:
    """What is random, and how often."""

    permutations: int
    seed: int
    confidence: float | int


def _check(permutations: int, sizes: Sequence[int], best: int, confidence: float | int) -> None:
    evidence.require_confidence(float(confidence))
    fewest = round(1 / SURE) - 1
    if permutations < fewest or best < 0 or any(size < 1 for size in sizes):
        raise ValueError(
            f"permutations = {permutations}, best = {best}, probes = {tuple(sizes)}; expected at "
            f"least {fewest} permutations (or no p-value is as small as {SURE}), 0 or more units "
            "with an interval, and probes of at least 1 unit"
        )


def _read(
    bench: populations.Bench, report: running.Progress
) -> Float32[np.ndarray, "example unit"]:
    """Every unit at every example, with constant units set to zero."""
    values = bench.read(report)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).all(0))[0])
        raise ValueError(
            f"{bench.population.names[bad]} is not a finite number at some examples of "
            f"{bench.concept.name!r}: the model's weights or its number format are broken"
        )
    size = np.abs(values).max(0)
    varies = np.ptp(values, axis=0) > _ROUNDING * size
    if not varies.any():
        raise ValueError(
            f"each of the {len(size):,} units is constant over all {len(values):,} examples of "
            f"{bench.concept.name!r}: nothing can tell them apart"
        )
    return values if varies.all() else np.where(varies, values, np.float32(0))


def _effects(
    values: Float32[np.ndarray, "example unit"],
    examples: Examples,
    draw: _Draw,
    report: running.Progress,
) -> tuple[Chance, Float64[np.ndarray, " unit"]]:
    """What chance gives, and every unit's effect."""
    report(0.0, "ranking")
    if examples.targets.shape[1]:
        scorer = Explained(ranks.standardised(values), ranks.orthonormal(examples.targets))
    else:
        expected = shuffles.expected(examples, examples.labels.astype(np.float64))
        if np.array_equal(expected, examples.labels):
            raise ValueError(
                "shuffling changes no label: each row has one label throughout, and fewer than 8 "
                "rows have the same number of examples; label whole rows, or give more of a length"
            )
        scorer = Ranked(ranks.centred(values), examples.labels, expected)
    chance = against_chance(
        scorer,
        lambda rounds, seed: shuffles.orders(examples, rounds, seed),
        len(examples),
        rounds=draw.permutations,
        seed=draw.seed,
        progress=report,
    )
    return chance, np.where(scorer.spread > 0, scorer.effect, np.nan)


def _partial(
    values: Float32[np.ndarray, "example unit"],
    examples: Examples,
    confounds: Sequence[str],
    draw: _Draw,
    report: running.Progress,
) -> tuple[Partial, ...]:
    """Effects within strata of the confounds, if there are any."""
    if not confounds:
        return ()
    strata = selectivity_strata.strata(examples, confounds)
    labels = examples.labels
    if examples.targets.shape[1]:
        here = np.flatnonzero(np.bincount(strata)[strata] > 1)
        strata = strata[here]
        units = selectivity_strata.less_means(values[here].astype(np.float64), strata)
        targets = selectivity_strata.less_means(examples.targets[here], strata)
        scorer = Explained(ranks.standardised(units), ranks.orthonormal(targets))
    else:
        here = np.flatnonzero(selectivity_strata.mixed(strata, labels))
        strata = strata[here]
        centred = selectivity_strata.ranked(values[here], strata, labels[here])
        # Ranks sum to zero in each stratum: so does what the null gives on average.
        scorer = Ranked(centred, labels[here], np.zeros(len(here)))
    inside = dataclasses.replace(
        examples,
        row=examples.row[here],
        position=examples.position[here],
        labels=labels[here],
        targets=examples.targets[here],
        confounds={},
    )
    chance = against_chance(
        scorer,
        lambda rounds, seed: shuffles.orders(inside, rounds, seed, within=strata),
        len(here),
        rounds=draw.permutations,
        seed=draw.seed,
        progress=report,
    )
    return (
        Partial(
            confounds=tuple(confounds),
            effect=np.where(scorer.spread > 0, scorer.effect, np.nan),
            p_value=chance.p_value,
            discovery_p=_adjusted(chance.p_value),
            n_strata=len(np.unique(strata)),
            n_examples=len(here),
            n_with=int(labels[here].sum()),
        ),
    )


def _probes(
    values: Float32[np.ndarray, "example unit"],
    examples: Examples,
    sizes: Sequence[int],
    draw: _Draw,
    report: running.Progress,
) -> tuple[tuple[Probes, ...], tuple[str, ...]]:
    """Probes, or a sentence that says why there are none."""
    if not sizes or examples.targets.shape[1]:
        return (), ()
    try:
        found = probes.fitted(
            values,
            examples,
            sizes,
            permutations=draw.permutations,
            seed=draw.seed,
            progress=report,
        )
    except probes.TooFewError as error:
        return (), (f"No probes: {error}.",)
    return (found,), ()


def _intervals(
    values: Float32[np.ndarray, "example unit"], examples: Examples, draw: _Draw
) -> Float64[np.ndarray, "bound unit"]:
    if not values.shape[1]:
        return np.zeros((2, 0))
    if examples.targets.shape[1]:
        return selectivity_intervals.of_explained(
            values,
            ranks.orthonormal(examples.targets),
            examples.row,
            confidence=draw.confidence,
            resamples=_RESAMPLES,
            seed=draw.seed,
        )
    return selectivity_intervals.of_auc(
        values,
        examples.labels,
        examples.row,
        confidence=draw.confidence,
        resamples=_RESAMPLES,
        seed=draw.seed,
    )


def _differences(
    values: Float32[np.ndarray, "example unit"], examples: Examples
) -> Float64[np.ndarray, " unit"]:
    """Mean with the concept minus mean without."""
    if examples.targets.shape[1]:
        return np.full(values.shape[1], np.nan)
    inside = values[examples.labels].mean(0, dtype=np.float64)
    found = inside - values[~examples.labels].mean(0, dtype=np.float64)
    return np.where(np.ptp(values, axis=0) > 0, found, np.nan)


def _adjusted(p_values: Float64[np.ndarray, " unit"]) -> Float64[np.ndarray, " unit"]:
    """Benjamini-Hochberg over the units that have a p-value."""
    made = np.full(len(p_values), np.nan)
    known = ~np.isnan(p_values)
    if known.any():
        made[known] = evidence.adjusted_for_discoveries(p_values[known])
    return made


def _probes_in_words(found: Probes) -> str:
    spoken = "; ".join(
        f"{probe.size}: F1 {probe.f1:.2f}, AUC {probe.auc:.2f}, p = {probe.p_value:.2g} (random "
        f"units F1 {probe.random_f1.mean():.2f})"
        for probe in found.each
    )
    return (
        f"Probes of k units, fitted on {found.n_fit:,} examples and scored on {found.n_held:,} of "
        f"other rows, by k: {spoken}; all {found.whole.size:,}: F1 {found.whole.f1:.2f}, AUC "
        f"{found.whole.auc:.2f}. Always saying yes has F1 {found.always:.2f}."
    )
