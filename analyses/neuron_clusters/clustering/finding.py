"""Which units of a model belong together, if nobody says what to look for?

1. Say of every two units what they have in common: what they do (`coactivation`), their weights
   (`weights`), whether they are connected (`graph`), at which frequency they are (`function`).
2. Leave out units of which nothing can be said: constant ones, those without weights or
   connections, and those that no frequency explains.
3. Cluster them spectrally (`cutting`), for every number of clusters that is asked for.
4. Cluster parts of the data and shuffled data: how many clusters there are, and whether there are
   any (`stability`). For a graph also the normalised cut against shuffled weights.
5. Of each cluster: how cohesive it is, against the most cohesive one of shuffled data; what it
   responds to and what it writes (`meaning`).

Source: Filan et al. 2021, arXiv 2103.03386 (graphs); Nanda et al. 2023, arXiv 2301.05217
(frequencies); Ng, Jordan & Weiss 2001 (spectral clustering).

Units and sign: adjusted Rand index for stability, similarity from 0 to 1 (a graph: weights) for
cohesion; a negative z of the normalised cut means fewer connections between clusters than chance.

Limits: the null is data without any dependence, so whatever depends at all may be called clusters:
look at the stability itself. One seed of one model; at most `cutting.MOST` units at once.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int

from analyses.neuron_clusters.clustering import (
    connections,
    cutting,
    meaning,
    reading,
    similarity,
    stability,
)
from analyses.neuron_clusters.clustering.result import Cluster, Clusters, LeftOut
from workbench.core import evidence
from workbench.core.engine import populations, running
from workbench.core.evidence import SURE
from workbench.core.modular import fourier
from workbench.core.modular.tasks import Task

Method = Literal["coactivation", "weights", "graph", "function"]
METHODS: tuple[Method, ...] = get_args(Method)
ANALYSIS = "neuron_clusters.find_clusters"
_COUNTS = range(2, 11)
# Fewer shuffled rounds can give no p-value as small as .05.
_FEWEST_SHUFFLES, _FEWEST_RESAMPLES = 19, 2
# A unit whose spread is rounding of its size does not vary.
_ROUNDING = 1e-6
# Units of which the similarity is kept for the figure.
_DRAWN = 300


@dataclasses.dataclass(frozen=True, eq=False)
class _Material:
    """What is clustered: which units, what they have in common, and why others are left out."""

    used: Bool[np.ndarray, " unit"]
    source: similarity.Source
    left_out: tuple[LeftOut, ...]


def find_clusters(
    subject: Any,
    inputs: Any = None,
    *,
    by: Method | str = "coactivation",
    kinds: str | Sequence[str] = "neuron",
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
    counts: Sequence[int] | int = _COUNTS,
    resamples: int = 50,
    shuffles: int = 50,
    most: int = 4096,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
    confidence: float | int = 0.95,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Clusters:
    """Find groups of units without a concept.

    Args:
        subject: A language model, a network, or a population.
        inputs: A corpus, texts or a concept of a language model; a concept or an array of inputs of
            a network. A bundled language model reads its own corpus, and a network of modular
            arithmetic every pair, if not given. For weights and graphs they only serve to say what
            a cluster responds to.
        by: What units may have in common: "coactivation", "weights", "graph" or "function".
        kinds: Of a language model's units.
        layers: Which layers; all if not given.
        dictionary: Of a language model: latents instead of neurons.
        counts: Numbers of clusters to choose from, or the number.
        resamples: Parts of the data that are clustered for the stability.
        shuffles: Rounds of shuffled data.
        most: Examples at the most.
        classes: Class of each input, where inputs are an array.
        task: Of a network of modular arithmetic, if it is not addition.
        confidence: Of the intervals.
        seed: Of everything random.
        progress: Told how far it is; may raise to stop.

    Returns:
        The clusters.

    Raises:
        ValueError: If there is nothing to cluster, or an argument makes no sense; the message says
            what.
    """
    started = time.perf_counter()
    numbers = _numbers(counts)
    evidence.require_confidence(confidence)
    _require(by, resamples, shuffles, most)
    report = progress or running.no_progress
    population = _population(subject, kinds, layers, dictionary)
    readings = reading.read(
        population,
        inputs,
        most=most,
        classes=classes,
        task=task,
        seed=seed,
        report=running.part(report, 0.0, 0.1),
    )
    material = _material(population, readings, by, most, seed)
    used = np.flatnonzero(material.used)
    _require_units(len(used), len(population), max(numbers), material.left_out)
    measured = stability.measure(
        material.source,
        numbers,
        resamples=resamples,
        shuffles=shuffles,
        seed=seed,
        report=running.part(report, 0.1, 0.95),
    )
    table = material.source.similarity()
    at = measured.chosen()
    chosen = measured.labels[at]
    cut = _cut(by, table, chosen, measured.cuts[:, at])
    sure = all(p <= SURE for p in (measured.p_value, *cut[2]))
    own = chosen if sure or isinstance(counts, int) else np.zeros_like(chosen)
    report(0.95, "what the clusters respond to and write")
    labels = np.full(len(population), -1, dtype=np.int64)
    labels[used] = own
    drawn = _drawn(own)
    parameters = {
        "by": by,
        "inputs": None if readings is None else readings.mark,
        "counts": list(numbers),
        "given": isinstance(counts, int),
        "resamples": resamples,
        "shuffles": shuffles,
        "most": most,
        "task": None if task is None else dataclasses.asdict(task),
        "confidence": float(confidence),
    }
    clusters = _clusters(population, readings, table, own, (used, measured, at), seed)
    return Clusters(
        provenance=population.provenance(
            analysis=ANALYSIS,
            parameters=parameters,
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        method=by,
        inputs="" if readings is None else readings.name,
        n_examples=0 if readings is None else len(readings.values),
        names=population.names,
        places=tuple(place.name for place in population.places),
        place=population.place.astype(np.int64),
        labels=labels,
        k=int(own.max()) + 1,
        most_stable=measured.counts[at],
        given=isinstance(counts, int),
        stability=measured.curve(float(confidence), seed),
        p_value=measured.p_value,
        z=float(measured.z[at]),
        clusters=clusters,
        left_out=material.left_out,
        ncut=cut[0],
        ncut_null=measured.cuts[:, at] if cut[0] else np.zeros(0),
        ncut_z=cut[1],
        ncut_p=cut[2],
        drawn=used[drawn].astype(np.int64),
        similarity=table[np.ix_(drawn, drawn)].astype(np.float32),
        resamples=resamples,
        shuffles=shuffles,
        confidence=float(confidence),
    )


def _numbers(counts: Sequence[int] | int) -> tuple[int, ...]:
    numbers = tuple(sorted({counts} if isinstance(counts, int) else set(counts)))
    if not numbers or numbers[0] < 2:  # noqa: PLR2004 -- two groups are the fewest
        raise ValueError(
            f"counts = {counts}; expected numbers of clusters from 2 up, or one such number"
        )
    return tuple(int(number) for number in numbers)


def _require(by: str, resamples: int, shuffles: int, most: int) -> None:
    if by not in METHODS:
        raise ValueError(f"by = {by!r}; expected one of {', '.join(METHODS)}")
    if resamples < _FEWEST_RESAMPLES or shuffles < _FEWEST_SHUFFLES:
        raise ValueError(
            f"{resamples} resamples and {shuffles} shuffles; expected at least "
            f"{_FEWEST_RESAMPLES} and {_FEWEST_SHUFFLES}, or no p-value is as small as "
            f"{SURE}"
        )
    if most < reading.FEWEST:
        raise ValueError(f"most = {most}; expected at least {reading.FEWEST} examples")


def _population(
    subject: Any, kinds: str | Sequence[str], layers: Sequence[int] | None, dictionary: Any
) -> populations.Population:
    population = populations.population_of(subject, kinds, layers=layers, dictionary=dictionary)
    network = getattr(population, "network", None)
    if layers is None or network is None or isinstance(subject, populations.Population):
        return population
    hooks = [place.hook for place in population.places if place.layer in set(layers)]
    if not hooks:
        deepest = max(place.layer for place in population.places)
        raise ValueError(f"layers = {list(layers)}; the network has layers 0 to {deepest}")
    return populations.of_network(network, hooks)


def _material(
    population: populations.Population,
    readings: reading.Readings | None,
    by: str,
    most: int,
    seed: int,
) -> _Material:
    """What is clustered."""
    if len(population) > cutting.MOST:
        raise ValueError(
            f"{len(population):,} units; at most {cutting.MOST:,} can be compared with one "
            "another: give fewer layers"
        )
    if by == "graph":
        graph = connections.graph(population)
        used = graph.similarity().sum(1) > 0
        return _Material(used, graph.among(used), _left(["without connections"], [~used]))
    if by == "weights":
        spaces = connections.spaces(population)
        used = np.any([np.square(rows).sum(1) > 0 for rows in spaces.values()], axis=0)
        source = similarity.Cosines(
            {name: rows[used] for name, rows in spaces.items()}, population.place[used]
        )
        return _Material(used, source, _left(["without weights"], [~used]))
    if readings is None:
        raise ValueError(
            f"by={by!r} compares what units do: give inputs (a corpus or texts of a language "
            "model, a concept or an array of inputs of a network)"
        )
    moving = _moving(readings.values)
    if by == "coactivation":
        # Every pair of a modular network was read, which is more than correlations need.
        rng, every = np.random.default_rng(seed), len(readings.values)
        some = np.sort(rng.choice(every, min(most, every), replace=False, shuffle=False))
        source = similarity.CoActivation(readings.values[np.ix_(some, moving)])
        return _Material(moving, source, _left(["constant"], [~moving]))
    shares = reading.shares(readings)
    explained = shares.max(0)
    used = moving & (explained >= fourier.EXPLAINED)
    reasons = ["constant", f"explained to less than {fourier.EXPLAINED:.0%} by any one frequency"]
    left = _left(reasons, [~moving, moving & ~used])
    return _Material(
        used, similarity.Spectra(shares[:, used].T, round(len(readings.values) ** 0.5)), left
    )


def _moving(values: np.ndarray) -> Bool[np.ndarray, " unit"]:
    spread = values.astype(np.float64).std(0)
    return spread > _ROUNDING * np.abs(values).max(0)


def _left(reasons: Sequence[str], units: Sequence[np.ndarray]) -> tuple[LeftOut, ...]:
    return tuple(
        LeftOut(reason, int(here.sum()))
        for reason, here in zip(reasons, units, strict=True)
        if here.any()
    )


def _require_units(used: int, every: int, most: int, left: Sequence[LeftOut]) -> None:
    if used < 2 * most:
        why = "".join(f"; {one.count:,} are {one.reason}" for one in left)
        raise ValueError(
            f"{used:,} of {every:,} units can be compared{why}: {most} clusters need at least "
            f"{2 * most} units, give smaller counts or more units"
        )


def _cut(
    by: str, table: np.ndarray, labels: np.ndarray, null: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Normalised cut, z and p of a graph; nothing for others."""
    if by != "graph":
        return (), (), ()
    own = cutting.normalised_cut(table, labels)
    spread = float(null.std(ddof=1))
    z = (own - float(null.mean())) / spread if spread > 0 else 0.0
    return (own,), (z,), (evidence.p_value(-own, -null),)


def _drawn(labels: Int[np.ndarray, " unit"]) -> Int[np.ndarray, " row"]:
    """Units for the figure, by cluster, each cluster with its share of them."""
    order = np.argsort(labels, kind="stable")
    if len(order) <= _DRAWN:
        return order
    return order[np.linspace(0, len(order) - 1, _DRAWN).round().astype(np.int64)]


def _clusters(  # noqa: PLR0917 -- one step of `find_clusters`
    population: populations.Population,
    readings: reading.Readings | None,
    table: np.ndarray,
    own: Int[np.ndarray, " unit"],
    made: tuple[np.ndarray, stability.Measured, int],
    seed: int,
) -> tuple[Cluster, ...]:
    used, measured, at = made
    if not own.any():
        # All in one: there are no clusters to describe.
        return ()
    groups = [used[own == number] for number in range(int(own.max()) + 1)]
    means = meaning.of_clusters(population, readings, groups, seed)
    tight = cutting.cohesion(table, own)
    null = measured.cohesion[:, at]
    return tuple(
        Cluster(
            units=tuple(population.names[i] for i in units),
            places={
                place.name: int(count)
                for place, count in zip(
                    population.places,
                    np.bincount(population.place[units], minlength=len(population.places)),
                    strict=True,
                )
                if count
            },
            cohesion=float(tight[number]),
            cohesion_p=evidence.p_value(float(tight[number]), null)
            if np.isfinite(tight[number])
            else float("nan"),
            meaning=means[number],
        )
        for number, units in enumerate(groups)
    )
