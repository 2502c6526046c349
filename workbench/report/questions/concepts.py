"""Does a cluster of neurons in one place hold a concept?

1. The concept is named, or a file of labelled inputs beside the spec.
2. Neurons that have it in both halves of its inputs: do they lie in one place more than chance?
   Places are layers; where the model has one layer only, clusters of neurons that were fitted from
   the weights alone (`neuron_clusters.find_clusters`).
3. Where one place stands out, its neurons are ablated against matched random sets; and an untrained
   network, shuffled weights and a fake concept must not come out localized
   (`neuron_clusters.localize`).

Verdict: where the spec expects an answer, "pass" says that it is this one. Else "pass" says that
the answer is sure, whichever it is, and "warn" that its parts disagree: one place has more than
chance but too little to be called the place, or most of all but is too large, or ablation or a
control speaks against it.

Limits: a concept is no better than its labels, and a place no finer than it was declared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses import neuron_clusters as clusters
from analyses.neuron_clusters import marks, verdict
from workbench.core.engine import populations
from workbench.core.models import sources
from workbench.core.modular import fourier
from workbench.core.prompts import named_concepts
from workbench.core.prompts.concepts import Concept
from workbench.report import exhibits
from workbench.report.document import Exhibit, Finding, Measured, Section
from workbench.report.examining import Answer, Examination, NotExamined, named_file
from workbench.report.spec import AuditSpec, Verdict

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Enough for p-values a tenth of the bar, and for a bar of .05 (`verdict.SURE`, `evidence.SURE`).
PERMUTATIONS, RANDOM = 2_000, 100
_WAVE = "frequency"
_ENDINGS = (".csv", ".json", ".jsonl")
_LAYER = re.compile(r"neuron (\d+)")

_METHOD = (
    "Neurons that tell the concept in both halves of its inputs were counted by place, against "
    "neurons of the same layers that fire alike and against shuffled labels; a place counts only "
    f"from {verdict.ENRICHED:g} times its share, with half of all of them, and p below "
    f"{verdict.SURE:g} over all places. Where one stood out, its neurons were ablated against "
    f"{RANDOM} matched random sets, and an untrained network, shuffled weights and a fake concept "
    "were put through the same; without an expectation in the spec, “pass” says that "
    "the answer is sure, whichever it is."
)
_CLUSTERED = "Places are clusters of neurons by their weights, as there is one layer only."
_PAPERS = (
    "Voss et al. 2021, doi 10.23915/distill.00024.008 (branch specialization)",
    "Gurnee et al. 2023, arXiv 2305.01610 (sparse probes)",
    "Chan et al. 2022, causal scrubbing (ablation by resampling)",
)


def choose(model: TransformerBridge, spec: AuditSpec) -> tuple[str, ...]:
    """Which concepts are looked for.

    Args:
        model: The model.
        spec: What is asked.

    Returns:
        Those of the spec; else the first that are known of the model by name. Of a network that
        calculates with residues these are the frequencies that its weights hold most of.
    """
    asked = spec.questions.concepts
    if asked.concepts:
        return tuple(dict.fromkeys(asked.concepts))
    known = named_concepts.named_concepts(sources.source_of(model).name)
    if f"{_WAVE} 1" in known:
        return tuple(f"{_WAVE} {k}" for k in _frequencies(model)[: asked.most])
    return tuple(known)[: asked.most]


def _frequencies(model: TransformerBridge) -> list[int]:
    """Frequencies of a modular network, those with the largest share of its weights first."""
    written = (model.W_out[0] @ model.W_U).detach().float().cpu().numpy()
    # The last token is `=`, which is no answer.
    shares = fourier.frequency_shares(written[:, :-1].T)
    return (np.argsort(-shares, kind="stable") + 1).tolist()


def examine(examination: Examination, concept: str) -> Answer:
    """Look for one concept.

    Args:
        examination: The model on the table.
        concept: Its name, or a file of labelled inputs.

    Returns:
        Where it is, if it is in one place.

    Raises:
        NotExamined: If there is no such concept or file, or the model cannot be asked for it.
    """
    try:
        opened = _opened(examination, concept)
        places = _places(examination)
        found = _localized(examination, opened, places)
    except NotExamined:
        raise
    except ValueError as error:
        raise NotExamined(str(error)) from error
    expected = examination.spec.questions.concepts.expect.get(concept)
    numbers = _numbers(found)
    return Answer(
        Finding(
            id=f"concepts/{concept}",
            question="concepts",
            about=concept,
            verdict=_verdict(found, expected),
            statement=_statement(found, expected),
            evidence=_evidence(found),
            caveat=_caveat(found),
            measured=numbers,
        ),
        Section(
            id=f"concepts/{concept}",
            question="concepts",
            title=f"Concept: {concept}",
            asked=f"Does a cluster of neurons in one place hold {found.concept!r}?",
            summary=found.summary(),
            method=_METHOD,
            papers=_PAPERS,
            exhibits=_exhibits(found),
            measured=numbers,
            caveats=(
                *(() if places is None else (_CLUSTERED,)),
                "That a neuron tells a concept does not say that the model uses it: only the "
                "ablation does, where there is one.",
                *found.caveats,
            ),
        ),
    )


def _opened(examination: Examination, name: str) -> Concept:
    """The concept of a name or file, with the inputs of the spec at the most."""
    model, spec = examination.model, examination.spec
    most = spec.questions.concepts.n
    known = named_concepts.named_concepts(sources.source_of(model).name)
    if name in known or Path(name).suffix not in _ENDINGS:
        return named_concepts.named_concept(model, name, n=most, seed=spec.seed)
    return _drawn(
        Concept.from_file(named_file(examination.folder, name), model=model), most, spec.seed
    )


def _drawn(concept: Concept, most: int, seed: int) -> Concept:
    """At most so many inputs, drawn at random."""
    if len(concept.inputs) <= most:
        return concept
    rows = np.sort(np.random.default_rng(seed).permutation(len(concept.inputs))[:most])

    def kept(values: Sequence[Any] | np.ndarray) -> Any:
        return values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]

    return concept.replaced(
        inputs=kept(concept.inputs),
        labels=kept(concept.labels),
        confounds={key: kept(values) for key, values in concept.confounds.items()},
    )


def _places(examination: Examination) -> clusters.Clusters | None:
    """Clusters by weights where all neurons lie in one layer; None where layers are places."""
    model, seed = examination.model, examination.spec.seed
    if len(populations.population_of(model, "neuron").places) > 1:
        return None
    return examination.made(
        clusters.Clusters,
        "clusters of neurons by weights",
        {"by": "weights", "seed": seed},
        lambda report: clusters.find_clusters(
            model, None, by="weights", seed=seed, progress=report
        ),
    )


def _localized(
    examination: Examination, concept: Concept, places: clusters.Clusters | None
) -> clusters.Localization:
    spec = examination.spec
    settings: dict[str, Any] = {
        "permutations": PERMUTATIONS,
        "n_random": RANDOM,
        "confidence": spec.confidence,
        "seed": spec.seed,
    }
    return examination.made(
        clusters.Localization,
        f"localization of {concept.name}",
        {
            **settings,
            "concept": marks.described(concept),
            "places": "place" if places is None else "clusters by weights",
        },
        lambda report: clusters.localize(
            examination.model,
            concept,
            places="place" if places is None else places,
            progress=report,
            **settings,
        ),
    )


def _place(name: str) -> str:
    """A place in words: what lies at one hook point is called as its units are."""
    return _LAYER.sub(r"the neurons of layer \1", name)


def _doubts(found: clusters.Localization) -> list[str]:
    """What speaks against the answer."""
    said: list[str] = []
    if found.verdict == verdict.SPREAD:
        best, fullest = found.places[0], max(found.places, key=lambda each: each.share)
        if best.p_value < verdict.SURE:
            said.append(
                f"More of them than chance gives are in one place, {_place(best.name)} (p = "
                f"{best.p_value:.2g}), but too few for it to be called the place."
            )
        elif fullest.share >= verdict.SHARE and verdict.ENRICHED * fullest.size > found.n_units:
            said.append(
                f"{fullest.hits:,} of the {len(found.hits):,} are in one place, "
                f"{_place(fullest.name)}, but that holds {fullest.size:,} of all "
                f"{found.n_units:,} neurons: nothing can be called localized in so large a place."
            )
    said += [
        f"Ablation does not bear it out: specificity {one.specificity:.2f}, p = {one.p_value:.2g}."
        for one in found.verification
        if not one.specific
    ]
    said += [
        f"The negative control “{one.name}” comes out localized, too."
        for one in found.controls
        if one.verdict == verdict.LOCALIZED
    ]
    return said


def _verdict(found: clusters.Localization, expected: str | None) -> Verdict:
    if expected is not None:
        return "pass" if found.verdict == expected else "fail"
    return "warn" if _doubts(found) else "pass"


def _statement(found: clusters.Localization, expected: str | None) -> str:
    said = {
        verdict.LOCALIZED: f"{found.concept!r} is held in one place: {_place(found.place)}",
        verdict.SPREAD: f"{found.concept!r} was not shown to be held in one place",
        verdict.ABSENT: f"{found.concept!r} is not represented: too few neurons tell it",
    }[found.verdict]
    return f"{said}." if expected is None else f"{said} (expected: {expected})."


def _evidence(found: clusters.Localization) -> str:
    best = found.places[0]
    said = f"{len(found.hits):,} of {found.n_units:,} neurons tell it in both halves of its inputs"
    if found.verdict != verdict.ABSENT:
        said += (
            f"; {best.hits:,} of them are in {_place(best.name)}, {best.enrichment:.2g} times its "
            f"share (p = {best.p_value:.2g} over all places)"
        )
    for one in found.verification:
        low, high = one.ablations[0].specificity.interval
        said += (
            f"; without these the model loses it with a specificity of {one.specificity:.2f} "
            f"({low:.2f} to {high:.2f}, p = {one.p_value:.2g})"
        )
    return f"{said}."


def _caveat(found: clusters.Localization) -> str:
    doubts = _doubts(found)
    if doubts:
        return doubts[0]
    if found.verdict == verdict.ABSENT:
        return (
            f"Asked of single neurons, with {found.n_examples:,} examples: directions that no "
            "neuron stands for were not looked at."
        )
    if found.verdict == verdict.SPREAD:
        return "“Spread” says that one place was not shown, not that there is none."
    return "The place is no finer than it was declared, and the bars are conventions."


def _numbers(found: clusters.Localization) -> tuple[Measured, ...]:
    best, hits = found.places[0], len(found.hits)
    made = [
        exhibits.measured(
            "neurons that tell it in both halves",
            hits,
            n=found.n_examples,
            null="what a fake concept gives",
            null_value=next(
                (one.n_hits for one in found.controls if one.name == "fake concept"), None
            ),
        )
    ]
    if found.verdict != verdict.ABSENT:
        made += [
            exhibits.measured(
                "concentration in places",
                found.concentration,
                interval=found.interval,
                n=hits,
                null="its mean over shuffled labels",
                null_value=found.concentration_null,
            ),
            exhibits.measured(
                f"enrichment in {_place(best.name)}",
                best.enrichment,
                unit="times its share",
                n=hits,
                p_value=best.p_value,
                null=f"neurons that fire alike, and shuffled labels: {best.low:.2f} to "
                f"{best.high:.2f}",
                null_value=1.0,
            ),
        ]
    for one in found.verification:
        for number in (one.ablations[0].specificity, one.ablations[0].necessity):
            made.append(
                exhibits.measured(
                    f"{number.name} of these in {_place(best.name)}",
                    number.value,
                    interval=number.interval,
                    n=one.n,
                    p_value=number.p_value,
                    null=f"median of {len(number.null)} matched random sets",
                    null_value=float(np.median(number.null)),
                )
            )
    return tuple(made)


def _exhibits(found: clusters.Localization) -> tuple[Exhibit, ...]:
    shown = {
        "name": "place",
        "size": "neurons",
        "hits": "that tell it",
        "share": "share of all",
        "enrichment": "enrichment",
        "p_value": "p over all places",
    }
    made = [
        exhibits.figure(
            found.figure(),
            f"How many times its share of the neurons that tell {found.concept!r} each place has, "
            "with the band that chance gives.",
        ),
        exhibits.table(found.to_frame(), "Every place, the best first.", columns=shown),
    ]
    made += [
        exhibits.figure(
            one.figure(),
            f"What the model loses without these in {_place(found.places[0].name)}, beside matched "
            "random sets.",
        )
        for one in found.verification
    ]
    if found.controls:
        rows = pd.DataFrame([dataclasses.asdict(one) for one in found.controls])
        made.append(
            exhibits.table(
                rows.rename(columns={"n_hits": "neurons", "p_value": "p of the best place"}),
                "Negative controls: the same where there is nothing to find.",
            )
        )
    return tuple(made)
