"""Would it help to add channels where a concept lives?

1. Each variant of the network is widened, fine-tuned and measured, seed after seed.
2. The place is compared with every other variant, and with the mean of the other places.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (the remark); the method is the package's.

Limits: those of the package.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int

from analyses.neuron_clusters import marks
from analyses.neuron_clusters.growth import checking, comparing, finetuning, measuring, widening
from analyses.neuron_clusters.growth import data as examples
from analyses.neuron_clusters.growth.result import (
    ELSEWHERE,
    NOWHERE,
    SPREAD,
    Added,
    Growth,
    Variant,
)
from workbench.core import evidence, results
from workbench.core.engine import populations, running

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

    from workbench.core.networks.training.fitting import Split
    from workbench.core.prompts.concepts import Concept

ANALYSIS = "neuron_clusters.grow"
# Held-out examples on which the function is seen to be preserved.
_PROBED = 128


def grow(
    network: HookedRootModule,
    concept: Concept,
    place: str,
    *,
    elsewhere: Sequence[str] | None = None,
    n: int = 6,
    data: Split | None = None,
    classes: Int[np.ndarray, " example"] | None = None,
    steps: int = 300,
    batch: int = 50,
    rate: float | int = 1e-3,
    decay: float | int = 0.02,
    seeds: Sequence[int] = range(10),
    metric: str = "log_loss",
    confidence: float | int = 0.95,
    progress: running.Progress | None = None,
) -> Growth:
    """Add channels at a place, at others, evenly and nowhere, and see which of it helps.

    Args:
        network: One that `load_network` opened or `architectures.build` made; it stays as it is.
        concept: Its inputs are the held-out examples that all is measured on, so none of them may
            be a training example; label 1 has the concept, 0 has it not, -1 does not count.
        place: Where the advice says to add, such as "mixed2.branch3" or "layer0".
        elsewhere: Other places to compare with; all others if not given, without those at which no
            number of channels comes near enough in parameters.
        n: Channels added at the place; elsewhere as many as take as many parameters.
        data: Training examples with their classes; for a bundled network they are made again.
        classes: The right class of each of the concept's inputs; they are looked up if these are
            held-out examples of a bundled network (`networks.examples.held_out`).
        steps: Of fine-tuning.
        batch: Training examples a step.
        rate: Learning rate at the start.
        decay: Weight decay.
        seeds: Of new weights and batches; fewer than 6 cannot find a difference.
        metric: What the experiment is about: one of `METRICS`.
        confidence: Of the intervals.
        progress: Told how far it is; may raise to stop, and nothing is left behind.

    Returns:
        What was found.

    Raises:
        ValueError: If the network cannot be widened, the concept does not fit it, examples or
            classes do not fit each other, a place does not exist or cannot be matched in
            parameters, an argument is out of its range, or fine-tuning diverges.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    evidence.require_confidence(confidence)
    recipe = finetuning.Recipe(steps, batch, float(rate), float(decay))
    checking.require_numbers(recipe, n, seeds, metric)
    checking.require_places(widening.places(network), place, elsewhere)
    checking.require_concept(network, concept)
    report(0.0, "the examples")
    train = data or examples.training_examples(network)
    right = examples.classes_of(network, concept) if classes is None else classes
    checking.require_examples(network, concept, right, train)
    kept = concept.examples()
    held = measuring.Held(concept.inputs[kept.row], right[kept.row], kept.labels)
    checking.require_metric(held, metric)
    variants, left_out = _variants(network, place, elsewhere, n)
    before, preserved = _at_the_start(network, held, variants, int(seeds[0]))
    values = _measured(
        network, held, train, variants=variants, recipe=recipe, seeds=seeds, report=report
    )
    before_cost = widening.cost(network)
    return Growth(
        provenance=populations.of_network(network).provenance(
            analysis=ANALYSIS,
            parameters={
                "concept": marks.described(concept),
                "place": place,
                "elsewhere": [v.name for v in variants if v.kind == "elsewhere"],
                "n": n,
                "data": [results.mark(train.inputs), results.mark(train.labels)],
                "classes": results.mark(right),
                "steps": steps,
                "batch": batch,
                "rate": float(rate),
                "decay": float(decay),
                "seeds": [int(seed) for seed in seeds],
                "metric": metric,
                "confidence": float(confidence),
            },
            seed=int(seeds[0]),
            wall_time=time.perf_counter() - started,
        ),
        concept=concept.name,
        place=place,
        n=n,
        metric=metric,
        measures=held.measures,
        variants=variants,
        left_out=left_out,
        seeds=np.array(seeds, dtype=np.int64),
        before=before,
        values=values,
        contrasts=_contrasts(variants, held.measures, values, metric, float(confidence)),
        preserved=preserved,
        parameters=before_cost.parameters,
        multiply_adds=before_cost.multiply_adds,
        n_with=int(held.has.sum()),
        n_without=int((~held.has).sum()),
        n_train=len(train.labels),
        steps=steps,
        confidence=float(confidence),
    )


def _variants(
    network: HookedRootModule, place: str, elsewhere: Sequence[str] | None, n: int
) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """All ways to grow, and the places that cannot be matched."""
    target = widening.added_parameters(network, {place: n})
    others: dict[str, int] = {}
    left_out: list[str] = []
    wanted = [each for each in widening.places(network) if each != place]
    for each in wanted if elsewhere is None else elsewhere:
        try:
            others[each] = widening.matched(network, each, target)
        except ValueError:
            if elsewhere is not None:
                raise
            left_out.append(each)
    if not others:
        raise ValueError(
            f"{n} channels at {place} take {target:,} parameters, fewer than half of what one "
            "channel takes at any other place: add more channels"
        )
    spread = widening.evenly(network, (place, *others), target)
    ways = [(place, "place", {place: n})]
    ways += [(each, "elsewhere", {each: count}) for each, count in others.items()]
    ways += [(SPREAD, "spread", spread), (NOWHERE, "nowhere", {})]
    base = widening.cost(network)
    variants: list[Variant] = []
    for name, kind, channels in ways:
        cost = widening.cost(widening.widened(network, channels))
        variants.append(
            Variant(
                name,
                kind,
                tuple(Added(where, count) for where, count in channels.items() if count),
                cost.parameters - base.parameters,
                cost.multiply_adds - base.multiply_adds,
            )
        )
    return tuple(variants), tuple(left_out)


def _at_the_start(
    network: HookedRootModule, held: measuring.Held, variants: Sequence[Variant], seed: int
) -> tuple[Float64[np.ndarray, " measure"], float]:
    """Measures of the network as it is, and the largest change of a score by any widening."""
    scores = finetuning.class_scores(network, held.inputs)
    changes = [
        np.abs(finetuning.class_scores(grown, held.inputs[:_PROBED]) - scores[:_PROBED]).max()
        for grown in (widening.widened(network, _channels(each), seed=seed) for each in variants)
    ]
    return measuring.measured(scores, held), float(max(changes))


def _measured(
    network: HookedRootModule,
    held: measuring.Held,
    train: Split,
    *,
    variants: Sequence[Variant],
    recipe: finetuning.Recipe,
    seeds: Sequence[int],
    report: running.Progress,
) -> Float64[np.ndarray, "seed variant measure"]:
    """Every measure of every variant after fine-tuning, seed by seed."""
    found: list[Float64[np.ndarray, " measure"]] = []
    n_runs = len(seeds) * len(variants)
    for seed, variant in itertools.product(seeds, variants):
        told = f"seed {seed}, {variant.name}"
        inner = running.part(report, len(found) / n_runs, (len(found) + 1) / n_runs)
        grown = widening.widened(network, _channels(variant), seed=int(seed))
        tuned = finetuning.fine_tuned(
            grown, train, recipe, seed=int(seed), progress=functools.partial(_tell, inner, told)
        )
        found.append(measuring.measured(finetuning.class_scores(tuned, held.inputs), held))
    report(1.0, "done")
    return np.stack(found).reshape(len(seeds), len(variants), -1)


def _tell(report: running.Progress, told: str, share: float, text: str) -> None:
    report(share, f"{told}: {text}")


def _contrasts(
    variants: Sequence[Variant],
    measures: Sequence[str],
    values: Float64[np.ndarray, "seed variant measure"],
    metric: str,
    confidence: float,
) -> tuple[comparing.Contrast, ...]:
    """The place, which is the first variant, against each other one, by metric and rest."""
    others = [v for v, variant in enumerate(variants) if variant.kind == "elsewhere"]
    columns = {ELSEWHERE: others} | {variants[v].name: [v] for v in range(1, len(variants))}
    made: list[comparing.Contrast] = []
    for name in (metric, measuring.MEASURES[metric].rest):
        of = values[:, :, measures.index(name)]
        for against, chosen in columns.items():
            advantage = measuring.MEASURES[name].sign * (of[:, 0] - of[:, chosen].mean(1))
            made.append(comparing.contrast(against, name, advantage, confidence=confidence))
    return tuple(made)


def _channels(variant: Variant) -> dict[str, int]:
    return {each.place: each.channels for each in variant.added}
