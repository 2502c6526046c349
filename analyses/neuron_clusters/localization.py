"""Is a concept in one place of a model, and is that more than chance?

1. Places are declared before looking (`partitions`).
2. Units that have the concept in one half of its inputs and again in the other (`replication`).
3. Does one place hold more of them than chance, and no second one (`enrichment`)? Against hits that
   change places among units of the same layers that fire as often and as strongly (among all layers
   for a place that is more than half of its layers), and against labels that change places among
   inputs; the larger p-value counts, corrected for all places.
4. Ablation of the place's hits against matched random sets: is the concept lost, and it above all
   (`verification`)?
5. The same on an untrained network, on shuffled weights and for a fake concept must not come out
   localized; and of other trainings of the model, if they are given, three in five must agree.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (branch specialization); `enrichment` and
`replication` name those of their tests.

Units and sign: AUC above one half where a unit is larger with the concept; enrichment 1 is chance.

Limits: a concept is no better than its labels, and a place no finer than it was declared. Nothing
can be localized in a place of more than a third of all units.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analyses.neuron_clusters import (
    behaviours,
    enrichment,
    marks,
    partitions,
    replication,
    verdict,
    verification,
)
from analyses.neuron_clusters import controls as negative
from workbench.core import evidence
from workbench.core.engine import populations, running
from workbench.core.prompts import concepts
from workbench.core.prompts.concepts import Concept

ANALYSIS = "neuron_clusters.localize"
# Fewer rounds give no p-value that is well below the bar.
_FEWEST_ROUNDS = 999
# Examples × units × rounds of labels that are worth waiting for.
_WORK = 10_000_000_000
_BAND = (0.05, 0.95)


@dataclasses.dataclass(frozen=True, eq=False)
class _Looked:
    """What parts 2 and 3 say of a subject.

    Attributes:
        chosen: Units with the concept in both halves.
        places: Every place, the best first.
        said: Verdict and place.
        numbers: Concentration, its interval and its mean by chance, rounds of labels, strata.
    """

    chosen: replication.Chosen
    places: tuple[verdict.PlaceEvidence, ...]
    said: tuple[str, str]
    concentration: float
    interval: tuple[float, ...]
    concentration_null: float
    n_shuffles: int
    n_strata: int

    def hits_of(self, place: str, partition: partitions.Partition) -> Int[np.ndarray, " unit"]:
        """Numbers of the hits in a place."""
        number = partition.names.index(place)
        return self.chosen.units[partition.number[self.chosen.units] == number]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What is the same for the subject, its controls and its trainings."""

    partition: partitions.Partition
    permutations: int
    verify: bool
    behaviour: Any
    n_random: int
    confidence: float
    seed: int


def localize(
    subject: Any,
    concept: Concept,
    *,
    places: Any = "place",
    kinds: str | Sequence[str] = "neuron",
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
    permutations: int = 10_000,
    verify: bool = True,
    behaviour: behaviours.Behaviour | None = None,
    n_random: int = 200,
    controls: bool = True,
    retrained: Sequence[Any] = (),
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> verdict.Localization:
    """Decide whether a concept is localized, spread or not represented.

    Args:
        subject: A language model, a network or a population.
        concept: What is looked for.
        places: "place" (what lies at one hook point), "layer", "kind"; names of units by name of
            place; or clusters that were fitted from weights alone.
        kinds: Of a language model's units.
        layers: Of a language model.
        dictionary: Of a language model: a sparse autoencoder, whose latents are the units.
        permutations: Of hits among units. Labels change places as often where that is quick, and
            1,000 times at least.
        verify: Whether the hits are ablated (part 4), if the place passes.
        behaviour: What the output does with the concept, for part 4; see `verify`.
        n_random: Random sets of part 4.
        controls: Whether the negative controls are looked at (part 5).
        retrained: Other trainings of the same model.
        confidence: Of intervals.
        seed: Of everything random.
        progress: Told how far it is; may raise to stop.

    Returns:
        The verdict, with every number that it stands on.

    Raises:
        ValueError: If places, permutations or other trainings do not fit, a half of the inputs
            has too few of a class, or the subject cannot read the concept.
    """
    started = time.perf_counter()
    evidence.require_confidence(float(confidence))
    if permutations < _FEWEST_ROUNDS:
        raise ValueError(
            f"{permutations} permutations; expected at least {_FEWEST_ROUNDS}, or no p-value is "
            f"well below {verdict.SURE}"
        )
    population = populations.population_of(subject, kinds, layers=layers, dictionary=dictionary)
    partition = partitions.declared(population, places)
    if len(retrained) and partition.rule == "clusters":
        raise ValueError(
            "clusters of one model's weights say nothing about other trainings: declare the places "
            "by hook point, layer or kind"
        )
    settings = _Settings(
        partition, permutations, verify, behaviour, n_random, float(confidence), seed
    )
    # Before the first minute is spent: do the other trainings have the same units?
    others = [negative.same_units(population, each) for each in retrained]
    pieces = 2 + 3 * controls + len(others)
    report = progress or running.no_progress
    stages = [running.part(report, i / pieces, (i + 1) / pieces) for i in range(pieces)]
    bench, looked = _look(population, concept, settings, stages[0])
    shown, why_not = _verified(population, concept, looked, settings, stages[1])
    checks = _controls(population, concept, settings, stages[2:5]) if controls else ()
    trainings = tuple(
        _judged(f"training {i + 2}", other, concept, settings, stage)
        for i, (other, stage) in enumerate(zip(others, stages[pieces - len(others) :], strict=True))
    )
    report(1.0, "done")
    said, place, reasons = _decided(looked, settings, (shown, why_not), checks, trainings)
    chosen = looked.chosen
    held = partition.number[chosen.units]
    made = population.provenance(
        analysis=ANALYSIS,
        parameters={
            "concept": marks.described(concept),
            "declared": partitions.described(places, partition),
            "permutations": permutations,
            "verify": verify,
            "behaviour": None if behaviour is None else repr(behaviour),
            "n_random": n_random,
            "controls": controls,
            "retrained": len(retrained),
            "confidence": confidence,
        },
        seed=seed,
        wall_time=time.perf_counter() - started,
    )
    return verdict.Localization(
        provenance=made,
        concept=concept.name,
        verdict=said,
        place=place,
        places=looked.places,
        p_value=looked.places[0].p_value,
        hits=tuple(population.names[unit] for unit in chosen.units),
        hit_places=tuple(partition.names[i] if i >= 0 else "" for i in held),
        hit_effects=np.stack([chosen.first, chosen.second]),
        graded=concept.graded,
        n_passed=chosen.passed,
        n_taken=chosen.taken,
        n_units=len(population),
        n_examples=len(bench.examples),
        n_rows=len(np.unique(bench.examples.row)),
        n_permutations=permutations,
        n_shuffles=looked.n_shuffles,
        n_strata=looked.n_strata,
        concentration=looked.concentration,
        interval=looked.interval,
        concentration_null=looked.concentration_null,
        confidence=float(confidence),
        verification=shown,
        controls=checks,
        trainings=trainings,
        reasons=reasons,
        caveats=concept.caveats,
    )


def _look(
    population: populations.Population,
    concept: Concept,
    settings: _Settings,
    progress: running.Progress,
) -> tuple[populations.Bench, _Looked]:
    """Parts 2 and 3: units with the concept, and how they lie in the places."""
    bench, partition, seed = population.bench(concept), settings.partition, settings.seed
    progress(0.0, "reading the examples")
    a, b = replication.halves(bench.values, bench.examples, concept, seed)
    rounds = int(
        np.clip(
            _WORK // a.values.size,
            min(_FEWEST_ROUNDS + 1, settings.permutations),
            settings.permutations,
        )
    )
    chosen = replication.chosen(
        a, b, rounds=rounds, seed=seed, progress=running.part(progress, 0.2, 0.6)
    )
    deviations = bench.values.std(0, dtype=np.float64)
    if len(chosen.units) < replication.FEWEST:
        places = _untested(partition, chosen, deviations)
        nan = float("nan")
        absent = (verdict.ABSENT, "")
        return bench, _Looked(chosen, places, absent, nan, (nan, nan), nan, rounds, 0)
    by_labels = replication.shuffled_places(
        a,
        partition.number,
        len(partition.names),
        len(chosen.units),
        rounds=rounds,
        seed=seed + 3,
        progress=running.part(progress, 0.6, 1.0),
    )
    by_units, n_strata = _permuted(partition, chosen, replication.at_rest(a), settings)
    places = _places(partition, chosen, deviations, by_units, by_labels)
    sizes, counts = partition.sizes, partition.counts(chosen.units)
    return bench, _Looked(
        chosen,
        places,
        verdict.by_places(places, len(chosen.units)),
        float(enrichment.concentration(counts, sizes)),
        enrichment.concentration_interval(counts, sizes, confidence=settings.confidence, seed=seed),
        float(np.nanmean(enrichment.concentration(by_labels, sizes))),
        rounds,
        n_strata,
    )


def _permuted(
    partition: partitions.Partition,
    chosen: replication.Chosen,
    rest: tuple[Float[np.ndarray, " unit"], Float[np.ndarray, " unit"]],
    settings: _Settings,
) -> tuple[Int[np.ndarray, "sample place"], int]:
    """Hits by place after they changed places among like units, and how many strata these make."""
    rate, size = rest
    hit = np.zeros(len(rate), dtype=bool)
    hit[chosen.units] = True
    found: list[np.ndarray] = []
    count = 0
    for layer in (partition.layer, np.zeros_like(partition.layer)):
        stratum = enrichment.strata(layer, rate, size, int(hit.sum()))
        count = count or int(stratum.max()) + 1
        found.append(
            enrichment.permuted(
                hit,
                partition.number,
                stratum,
                len(partition.names),
                rounds=settings.permutations,
                seed=settings.seed + 4 + len(found),
            )
        )
    return np.where(partition.within_layers(), found[0], found[1]), count


def _places(
    partition: partitions.Partition,
    chosen: replication.Chosen,
    deviations: Float[np.ndarray, " unit"],
    by_units: Int[np.ndarray, "sample place"],
    by_labels: Int[np.ndarray, "round place"],
) -> tuple[verdict.PlaceEvidence, ...]:
    counts, sizes = partition.counts(chosen.units), partition.sizes
    hits, n_units = len(chosen.units), len(partition.number)
    nulls = (by_units, by_labels)
    singles = np.stack([enrichment.single_p_values(counts, null) for null in nulls])
    family = np.stack([enrichment.family_p_values(counts, null) for null in nulls])
    discovery = evidence.adjusted_for_discoveries(singles.max(0))
    scaled = [enrichment.enrichments(null, sizes, hits, n_units) for null in nulls]
    bands = np.stack([np.quantile(each, _BAND, axis=0) for each in scaled])
    own = enrichment.enrichments(counts, sizes, hits, n_units)
    within = partition.within_layers()
    return verdict.ranked(
        [
            verdict.PlaceEvidence(
                name=name,
                size=int(sizes[i]),
                hits=int(counts[i]),
                share=float(counts[i] / hits),
                enrichment=float(own[i]),
                exact_p=enrichment.hypergeometric(int(counts[i]), hits, int(sizes[i]), n_units),
                units_p=float(singles[0, i]),
                labels_p=float(singles[1, i]),
                p_value=float(family[:, i].max()),
                rival_p=float(family[:, i].min()),
                discovery_p=float(discovery[i]),
                low=float(bands[:, 0, i].min()),
                high=float(bands[:, 1, i].max()),
                deviation=float(deviations[partition.number == i].mean()),
                within_layers=bool(within[i]),
            )
            for i, name in enumerate(partition.names)
        ]
    )


def _untested(
    partition: partitions.Partition,
    chosen: replication.Chosen,
    deviations: Float[np.ndarray, " unit"],
) -> tuple[verdict.PlaceEvidence, ...]:
    """Places where too few units have the concept to ask where they are."""
    counts, sizes, nan = partition.counts(chosen.units), partition.sizes, float("nan")
    within = partition.within_layers()
    return tuple(
        verdict.PlaceEvidence(
            name=name,
            size=int(sizes[i]),
            hits=int(counts[i]),
            share=nan,
            enrichment=nan,
            exact_p=1.0,
            units_p=1.0,
            labels_p=1.0,
            p_value=1.0,
            rival_p=1.0,
            discovery_p=1.0,
            low=nan,
            high=nan,
            deviation=float(deviations[partition.number == i].mean()),
            within_layers=bool(within[i]),
        )
        for i, name in enumerate(partition.names)
    )


def _verified(
    population: populations.Population,
    concept: Concept,
    looked: _Looked,
    settings: _Settings,
    progress: running.Progress,
) -> tuple[tuple[verification.Verification, ...], str]:
    """Part 4, if it is asked for and a place has passed; or why it could not be measured."""
    if not settings.verify or looked.said[0] != verdict.LOCALIZED:
        return (), ""
    units = looked.hits_of(looked.said[1], settings.partition)
    try:
        return (
            verification.verify(
                population,
                concept,
                [population.names[unit] for unit in units],
                behaviour=settings.behaviour,
                ablations=("mean",),
                n_random=settings.n_random,
                confidence=settings.confidence,
                seed=settings.seed,
                progress=progress,
            ),
        ), ""
    except behaviours.VerificationError as error:
        return (), str(error)


def _judged(
    name: str,
    population: populations.Population,
    concept: Concept,
    settings: _Settings,
    progress: running.Progress,
) -> verdict.Control:
    """The parts 2 to 4 on something else."""
    _, looked = _look(population, concept, settings, progress)
    said, place = looked.said
    shown, why_not = _verified(population, concept, looked, settings, progress)
    if why_not or (shown and not shown[0].specific):
        said, place = verdict.SPREAD, ""
    return verdict.Control(name, said, place, len(looked.chosen.units), looked.places[0].p_value)


def _controls(
    population: populations.Population,
    concept: Concept,
    settings: _Settings,
    stages: Sequence[running.Progress],
) -> tuple[verdict.Control, ...]:
    subject = negative.subject_of(population)
    seed = settings.seed
    others = (
        ("untrained network", negative.untrained(subject, seed), concept),
        ("shuffled weights", negative.shuffled_weights(subject, seed), concept),
        ("fake concept", subject, concepts.fake(concept, seed)),
    )
    return tuple(
        _judged(name, negative.same_units(population, other), given, settings, stage)
        for (name, other, given), stage in zip(others, stages, strict=True)
    )


def _decided(
    looked: _Looked,
    settings: _Settings,
    ablated: tuple[Sequence[verification.Verification], str],
    checks: Sequence[verdict.Control],
    trainings: Sequence[verdict.Control],
) -> tuple[str, str, tuple[str, ...]]:
    """The verdict of all five parts, and what each says."""
    partition, chosen = settings.partition, looked.chosen
    (said, place), n_units = looked.said, len(partition.number)
    reasons = [
        f"Part 1 holds: {len(partition.names)} places were declared before looking "
        f"({partition.rule}).",
        verdict.words_of_hits(chosen, n_units),
    ]
    if said != verdict.ABSENT:
        reasons += verdict.words_of_places(looked.places, len(chosen.units), n_units)
    holds = [True]
    if said == verdict.LOCALIZED:
        held, words = verdict.words_of_ablation(*ablated, asked=settings.verify)
        holds.append(held)
        reasons.append(words)
    held, words = verdict.words_of_controls(checks)
    holds.append(held)
    reasons.append(words)
    if trainings and said == verdict.LOCALIZED:
        held, words = verdict.words_of_trainings(place, trainings)
        holds.append(held)
        reasons.append(words)
    if said == verdict.LOCALIZED and not all(holds):
        return verdict.SPREAD, "", tuple(reasons)
    return said, place, tuple(reasons)
