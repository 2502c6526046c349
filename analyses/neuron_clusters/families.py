"""Which families of units are there, and does a branch of a layer hold more of one than chance?

1. Several concepts are looked at; a unit is of the family of the one that it is largest at: the
   highest AUC of all concepts, if that is at least .7 and beyond chance. Other units are of none.
2. For each family, layer and place of the layer: of the family's units in this layer, how many are
   in this place? Hypergeometric, as if they were drawn from the layer's units.
3. Corrected for all of these that were looked at (Bonferroni).

That is the table that Voss et al. 2021 gave for InceptionV1 (30 of 30 curve-related units of a
layer are in one branch that has 96 of its 480 units).

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (branch specialization).

Units: counts of units; p-values of at least as many.

Limits: families are as good as the list of concepts: a unit that responds to something else is put
where it fits best, or nowhere. The test takes units as independent of each other, and cannot tell a
branch from its kernel size; `localize` has the nulls that can say more.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int

from analyses.neuron_clusters import enrichment, marks
from analyses.neuron_clusters.selectivity import Selectivity, selectivity
from workbench.core import plots, results
from workbench.core.engine import populations, running
from workbench.core.evidence import SURE

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept

ANALYSIS = "neuron_clusters.families"
LEAST = 0.7
_SPOKEN = 5
# A family alone, or a place that is its whole layer, is nothing to compare with.
_FEWEST = 2


@dataclasses.dataclass(frozen=True)
class Family:
    """A family in one place of a layer.

    Attributes:
        family: Name of its concept.
        place: The place.
        layer: Depth of its layer.
        in_place: Units of the family there.
        in_layer: Units of the family in the whole layer.
        place_units: Units of the place.
        layer_units: Units of the layer.
        p_value: Hypergeometric, of at least as many.
        adjusted_p: Corrected for all families and places that were looked at (Bonferroni).
    """

    family: str
    place: str
    layer: int
    in_place: int
    in_layer: int
    place_units: int
    layer_units: int
    p_value: float
    adjusted_p: float


@dataclasses.dataclass(frozen=True)
class Families(results.Result):
    """Families of units, place by place.

    Attributes:
        concepts: Names of the families.
        places: Names of the places.
        names: Every unit.
        place: Number of each unit's place.
        family: Number of each unit's family; -1 for none.
        effect: Its AUC for that concept; NaN for none.
        counts: Units of each family in each place.
        rows: Each family in each place whose layer has several places, the surest first.
    """

    concepts: tuple[str, ...]
    places: tuple[str, ...]
    names: tuple[str, ...]
    place: Int[np.ndarray, " unit"]
    family: Int[np.ndarray, " unit"]
    effect: Float[np.ndarray, " unit"]
    counts: Int[np.ndarray, "cell place"]
    rows: tuple[Family, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a family and place, the surest first."""
        return pd.DataFrame([dataclasses.asdict(row) for row in self.rows])

    def figure(self) -> go.Figure:
        """How many units of each family every place has."""
        sizes = np.bincount(self.place, minlength=len(self.places))
        return plots.heatmap(
            self.counts[::-1].astype(np.float64),
            row_labels=[plots.escape(name) for name in self.concepts[::-1]],
            column_labels=[
                f"{plots.escape(name)} ({size})"
                for name, size in zip(self.places, sizes, strict=True)
            ],
            row_title="family",
            column_title="place (its units)",
            colour_title="units",
            scale="sequential",
        )

    def summary(self) -> str:
        """How many units have a family, and where these are more than chance."""
        of = int((self.family >= 0).sum())
        sure = [row for row in self.rows if row.adjusted_p < SURE]
        said = "; ".join(
            f"{row.in_place} of the {row.in_layer} {row.family} units of layer {row.layer} are in "
            f"{row.place}, which has {row.place_units} of its {row.layer_units} units "
            f"(hypergeometric p = {row.p_value:.2g}, {row.adjusted_p:.2g} corrected)"
            for row in sure[:_SPOKEN]
        )
        more = f"; and {len(sure) - _SPOKEN} more" if len(sure) > _SPOKEN else ""
        best = self.rows[0] if self.rows else None
        nearest = (
            ""
            if best is None
            else f" The surest: {best.in_place} of {best.in_layer} {best.family} units of layer "
            f"{best.layer} in {best.place} (p = {best.p_value:.2g}, {best.adjusted_p:.2g} "
            "corrected)."
        )
        first = (
            f"{of:,} of {len(self.names):,} units of {self.provenance.model} are of one of "
            f"{len(self.concepts)} families (AUC at least {LEAST}). "
        )
        if not self.rows:
            return first + "No layer has several places, so there is nothing to compare them with."
        if sure:
            return first + f"More than chance of a layer's family: {said}{more}."
        return (
            f"{first}No place has more of a layer's family than chance (corrected for "
            f"{len(self.rows)} families and places).{nearest}"
        )


def families(
    subject: Any,
    concepts: Sequence[Concept],
    *,
    kinds: str | Sequence[str] = "neuron",
    layers: Sequence[int] | None = None,
    dictionary: Any = None,
    permutations: int = 200,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Families:
    """Put every unit into the family of the concept that it responds to most.

    Args:
        subject: A bridge, a network or a population.
        concepts: The families, at least two with labels; names must differ.
        kinds: Of a language model's units.
        layers: Of a language model.
        dictionary: Of a language model.
        permutations: Of the labels, for each unit's p-value.
        seed: Of these.
        progress: Told how far it is; may raise to stop.

    Returns:
        The families.

    Raises:
        ValueError: If there are less than two concepts, two of one name, or one has targets.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    names = tuple(concept.name for concept in concepts)
    graded = [concept.name for concept in concepts if concept.graded]
    if len(names) < _FEWEST or len(set(names)) < len(names) or graded:
        raise ValueError(
            f"{graded[0]!r} has targets and no labels, so no unit is largest at it"
            if graded
            else f"{len(names)} concepts with {len(set(names))} names: give at least two, each "
            "with a name of its own"
        )
    population = populations.population_of(subject, kinds, layers=layers, dictionary=dictionary)
    found: list[Selectivity] = []
    for number, concept in enumerate(concepts):
        report(number / len(names), f"reading every unit for {concept.name}")
        found.append(
            selectivity(
                population, concept, permutations=permutations, probes=(), best=0, seed=seed
            )
        )
    effects = np.array([np.nan_to_num(each.effect, nan=0.5) for each in found])
    sure = np.array([np.nan_to_num(each.discovery_p, nan=1.0) <= SURE for each in found])
    fits = np.where(sure & (effects >= LEAST), effects, -np.inf)
    family = np.where(np.isfinite(fits.max(0)), fits.argmax(0), -1)
    counts = np.zeros((len(names), len(population.places)), dtype=np.int64)
    has = family >= 0
    np.add.at(counts, (family[has], population.place[has]), 1)
    return Families(
        provenance=population.provenance(
            analysis=ANALYSIS,
            parameters={
                "concepts": [marks.described(concept) for concept in concepts],
                "permutations": permutations,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        concepts=names,
        places=tuple(place.name for place in population.places),
        names=population.names,
        place=population.place.copy(),
        family=family,
        effect=np.where(has, fits.max(0), np.nan),
        counts=counts,
        rows=_rows(population, names, counts),
    )


def _rows(
    population: populations.Population, names: Sequence[str], counts: Int[np.ndarray, "cell place"]
) -> tuple[Family, ...]:
    """The hypergeometric test of every family in every place that is a part of its layer."""
    layers = np.array([place.layer for place in population.places])
    found: list[Family] = []
    for number, place in enumerate(population.places):
        layer = np.flatnonzero(layers == place.layer)
        if len(layer) < _FEWEST:
            continue
        size = sum(population.places[i].size for i in layer)
        for row, name in enumerate(names):
            total = int(counts[row, layer].sum())
            if not total:
                continue
            here = int(counts[row, number])
            p_value = enrichment.hypergeometric(here, total, place.size, size)
            found.append(
                Family(name, place.name, place.layer, here, total, place.size, size, p_value, 1.0)
            )
    found.sort(key=lambda each: (each.p_value, each.place, each.family))
    return tuple(
        dataclasses.replace(each, adjusted_p=min(1.0, each.p_value * len(found))) for each in found
    )
