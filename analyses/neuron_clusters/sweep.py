"""Where does each of many concepts live, and how sure is that?

1. Each concept is localized by itself (`localize`); one that comes out localized goes through the
   negative controls, too.
2. The p-value of its best place, corrected for all places there, is corrected for all concepts as
   well (Bonferroni); Benjamini-Hochberg beside it, for exploration.
3. "Localized" holds in a sweep only if the corrected value still is below the bar.
4. A concept that cannot be looked at keeps its row, with the reason.

Source: Bonferroni 1936 (family-wise error over places and concepts); Benjamini & Hochberg 1995.

Units: as `localize` has them: share and enrichment of the best place, p-values.

Limits: concepts that share inputs or units are not independent findings; the correction holds
nevertheless. What is not localized is not put through controls, which could only say so again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.neuron_clusters import localization, marks, verdict
from workbench.core import evidence, plots, results
from workbench.core.engine import populations, running

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept

ANALYSIS = "neuron_clusters.concept_sweep"
_SPOKEN = 6


@dataclasses.dataclass(frozen=True)
class ConceptSweep(results.Result):
    """One row a concept.

    Attributes:
        concepts: Their names.
        verdicts: "localized", "spread", "not represented", or "not looked at".
        best: The place with the most evidence for each; empty where there is none.
        share: Of the concept's units, those in that place; NaN where there are none.
        enrichment: Of that place; NaN where there are none.
        n_hits: Units that have the concept in both halves of its inputs.
        n_examples: Examples of each.
        p_value: Of the best place, corrected for all places.
        adjusted_p: Corrected for all concepts as well (Bonferroni).
        discovery_p: Adjusted over concepts (Benjamini-Hochberg).
        specificity: Of the place's units, by ablation; NaN where it was not measured.
        why: What a reader must know of each row: why it was not looked at, or which part failed.
        places: Names of all places.
        hits_by_place: How many of each concept's units are in each place.
    """

    concepts: tuple[str, ...]
    verdicts: tuple[str, ...]
    best: tuple[str, ...]
    share: Float[np.ndarray, " cell"]
    enrichment: Float[np.ndarray, " cell"]
    n_hits: Int[np.ndarray, " cell"]
    n_examples: Int[np.ndarray, " cell"]
    p_value: Float[np.ndarray, " cell"]
    adjusted_p: Float[np.ndarray, " cell"]
    discovery_p: Float[np.ndarray, " cell"]
    specificity: Float[np.ndarray, " cell"]
    why: tuple[str, ...]
    places: tuple[str, ...]
    hits_by_place: Int[np.ndarray, "cell place"]

    def to_frame(self) -> pd.DataFrame:
        """One row a concept, in the order in which they were given."""
        return pd.DataFrame(
            {
                "concept": self.concepts,
                "verdict": self.verdicts,
                "place": self.best,
                "share": self.share,
                "enrichment": self.enrichment,
                "units": self.n_hits,
                "examples": self.n_examples,
                "p": self.p_value,
                "p over all concepts": self.adjusted_p,
                "p (Benjamini-Hochberg)": self.discovery_p,
                "specificity": self.specificity,
                "why": self.why,
            }
        )

    def figure(self) -> go.Figure:
        """Share of each concept's units in each place."""
        total = np.maximum(self.hits_by_place.sum(1, keepdims=True), 1)
        shares = np.where(self.hits_by_place.sum(1, keepdims=True) > 0, self.hits_by_place, np.nan)
        hover = np.array(
            [
                [f"{count} units; {verdict}" for count in row]
                for row, verdict in zip(self.hits_by_place, self.verdicts, strict=True)
            ],
            dtype=object,
        )
        return plots.heatmap(
            (shares / total)[::-1],
            row_labels=[
                f"{plots.escape(name)} ({verdict})"
                for name, verdict in zip(self.concepts[::-1], self.verdicts[::-1], strict=True)
            ],
            column_labels=[plots.escape(place) for place in self.places],
            row_title="concept",
            column_title="place",
            colour_title="share of its units",
            hover=hover[::-1],
            scale="sequential",
        )

    def summary(self) -> str:
        """How many are where, and how sure."""
        counts = {each: self.verdicts.count(each) for each in dict.fromkeys(self.verdicts)}
        said = ", ".join(f"{count:,} {each}" for each, count in counts.items())
        found = [i for i, each in enumerate(self.verdicts) if each == verdict.LOCALIZED]
        found.sort(key=lambda i: (self.adjusted_p[i], -self.share[i]))
        where = "; ".join(
            f"{self.concepts[i]} in {self.best[i]} (share {self.share[i]:.2f} of "
            f"{self.n_hits[i]:,} units, enrichment {self.enrichment[i]:.1f}, p = "
            f"{self.adjusted_p[i]:.2g} over all concepts and places)"
            for i in found[:_SPOKEN]
        )
        more = f", and {len(found) - _SPOKEN} more" if len(found) > _SPOKEN else ""
        return (
            f"Of {len(self.concepts):,} concepts in {self.provenance.model}: {said}."
            + (f" Localized: {where}{more}." if found else "")
            + " A concept is called localized if its best place passes the bar after correction "
            "for all places and all concepts."
        )


def concept_sweep(
    subject: Any,
    concepts: Sequence[Concept] | Mapping[str, Concept],
    *,
    places: Any = "place",
    kinds: str | Sequence[str] = "neuron",
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
    permutations: int = 10_000,
    verify: bool = True,
    controls: bool = True,
    n_jobs: int = 1,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> ConceptSweep:
    """Localize many concepts, and correct for having looked at all of them.

    Args:
        subject: A bridge, a network or a population.
        concepts: What is looked for; names must differ.
        places: As for `localize`.
        kinds: Of a language model's units.
        layers: Of a language model.
        dictionary: Of a language model.
        permutations: As for `localize`; with many concepts more are needed to pass the bar.
        verify: Whether places that pass are ablated.
        controls: Whether what comes out localized is put through the negative controls.
        n_jobs: Threads.
        seed: Of everything random.
        progress: Told how far it is; may raise to stop.

    Returns:
        The sweep.

    Raises:
        ValueError: If there are no concepts, or two have one name.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    asked = list(concepts.values()) if isinstance(concepts, Mapping) else list(concepts)
    names = [concept.name for concept in asked]
    if not asked or len(set(names)) < len(names):
        raise ValueError(
            f"{len(asked)} concepts with {len(set(names))} names: give at least one, each with a "
            "name of its own"
        )
    population = populations.population_of(subject, kinds, layers=layers, dictionary=dictionary)

    def localized(number: int, *, controls: bool) -> verdict.Localization:
        return localization.localize(
            population,
            asked[number],
            places=places,
            permutations=permutations,
            verify=verify,
            controls=controls,
            seed=seed,
        )

    def look(number: int) -> verdict.Localization | str:
        report(number / len(asked), f"localizing {names[number]}")
        try:
            found = localized(number, controls=False)
            again = controls and found.verdict == verdict.LOCALIZED
            return localized(number, controls=True) if again else found
        except ValueError as error:
            return str(error)

    found = joblib.Parallel(n_jobs=n_jobs, prefer="threads")(
        joblib.delayed(look)(number) for number in range(len(asked))
    )
    report(1.0, "done")
    return _gathered(
        population.provenance(
            analysis=ANALYSIS,
            parameters={
                "concepts": [marks.described(concept) for concept in asked],
                "partition": places if isinstance(places, str) else "given",
                "permutations": permutations,
                "verify": verify,
                "controls": controls,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        names,
        list(found),
    )


def _gathered(
    provenance: results.Provenance, names: Sequence[str], found: Sequence[Any]
) -> ConceptSweep:
    seen = [each for each in found if not isinstance(each, str)]
    if not seen:
        raise ValueError(f"none of the concepts can be looked at; the first: {found[0]}")
    # In the order of the model, and not of the evidence.
    places = tuple(sorted({place.name for each in seen for place in each.places}))
    p_values = np.array([1.0 if isinstance(each, str) else each.p_value for each in found])
    p_values = np.nan_to_num(p_values, nan=1.0)
    tested = len(seen)
    adjusted = np.minimum(1.0, p_values * tested)
    best = [None if isinstance(e, str) or not e.hits else e.places[0] for e in found]
    verdicts, why = zip(
        *(_judged(each, p) for each, p in zip(found, adjusted, strict=True)), strict=True
    )
    return ConceptSweep(
        provenance=provenance,
        concepts=tuple(names),
        verdicts=verdicts,
        best=tuple("" if place is None else place.name for place in best),
        share=np.array([np.nan if place is None else place.share for place in best]),
        enrichment=np.array([np.nan if place is None else place.enrichment for place in best]),
        n_hits=np.array([0 if isinstance(e, str) else len(e.hits) for e in found]),
        n_examples=np.array([0 if isinstance(e, str) else e.n_examples for e in found]),
        p_value=p_values,
        adjusted_p=adjusted,
        discovery_p=evidence.adjusted_for_discoveries(p_values),
        specificity=np.array(
            [
                e.verification[0].specificity
                if not isinstance(e, str) and e.verification
                else np.nan
                for e in found
            ]
        ),
        why=why,
        places=places,
        hits_by_place=np.array(
            [[0 if isinstance(e, str) else _hits_at(e, place) for place in places] for e in found]
        ),
    )


def _hits_at(found: verdict.Localization, place: str) -> int:
    return next((each.hits for each in found.places if each.name == place), 0)


def _judged(found: verdict.Localization | str, adjusted: float) -> tuple[str, str]:
    """Verdict after the correction for all concepts, and why."""
    if isinstance(found, str):
        return "not looked at", found
    if found.verdict == verdict.LOCALIZED and adjusted >= verdict.SURE:
        return verdict.SPREAD, (
            f"localized by itself, but p = {adjusted:.2g} over all concepts is not below "
            f"{verdict.SURE}"
        )
    failed = [reason for reason in found.reasons if "does not hold" in reason]
    return found.verdict, failed[0] if failed else ""
