"""Localized, spread or not represented: what the five parts of the definition come to.

1. Places were declared before looking. 2. At least three units have the concept in both halves of
the inputs. 3. One place, and no second one, holds more of them than chance: family-wise p below
.01, enrichment at least 3, at least half of all. 4. Without these units the model loses the
concept, and loses it more than anything else, beyond random sets. 5. No negative control does as
well, and of several trainings three in five agree.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (branch specialization), for the question.

Units: enrichment 1 is chance; AUC above one half where a unit is larger with the concept.

Limits: the bars are conventions, fixed before looking. "Spread" says that one place was not shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.neuron_clusters import replication, verification
from workbench.core import evidence, plots, results

LOCALIZED, SPREAD, ABSENT = "localized", "spread", "not represented"
SURE, ENRICHED, SHARE, AGREE = 0.01, 3.0, 0.5, 0.6
_SPOKEN = 5


@dataclasses.dataclass(frozen=True)
class PlaceEvidence:
    """What speaks for a place.

    Attributes:
        name: Of the place.
        size: Units in it.
        hits: How many of them have the concept.
        share: Of all hits.
        enrichment: Share of its units that are hits, over the share of all units.
        exact_p: Hypergeometric, as if all units were alike.
        units_p: Against hits that changed places with units like them.
        labels_p: Against labels that changed places.
        p_value: The larger of the two after correction for all places (family-wise).
        rival_p: The smaller of the two family-wise ones: what a second place is judged by, as the
            hits of a first one in its layers hide its own.
        discovery_p: The larger of the two after Benjamini and Hochberg.
        low: Enrichment by chance, 5 % quantile: the lower one of the two nulls.
        high: 95 % quantile: the higher one.
        deviation: Mean standard deviation of its units' activations.
        within_layers: Whether hits changed places within layers; else with all units.
    """

    name: str
    size: int
    hits: int
    share: float
    enrichment: float
    exact_p: float
    units_p: float
    labels_p: float
    p_value: float
    rival_p: float
    discovery_p: float
    low: float
    high: float
    deviation: float
    within_layers: bool

    @property
    def passes(self) -> bool:
        """Whether it holds more than chance, and half of all hits."""
        return self.p_value < SURE and self.enrichment >= ENRICHED and self.share >= SHARE

    @property
    def rivals(self) -> bool:
        """Whether it holds more than chance in any way: what no second place may do."""
        return self.rival_p < SURE and self.enrichment >= ENRICHED


@dataclasses.dataclass(frozen=True)
class Control:
    """The same on something that has nothing to find, or on another training.

    Attributes:
        name: "untrained network", "shuffled weights", "fake concept", or "training 2".
        verdict: What came out.
        place: Where, if it is localized.
        n_hits: Units with the concept in both halves.
        p_value: Of the best place.
    """

    name: str
    verdict: str
    place: str
    n_hits: int
    p_value: float


@dataclasses.dataclass(frozen=True)
class Localization(results.Result):
    """Whether a concept's units are in one place.

    Attributes:
        concept: Its name.
        verdict: "localized", "spread" or "not represented".
        place: Where it is localized; empty if it is not.
        places: Every place, the best first.
        p_value: Family-wise, of the best place.
        hits: Units that have the concept in both halves of the inputs, the largest effect first.
        hit_places: Where each lies; empty for none.
        hit_effects: AUC of each on both halves (R² for targets).
        graded: Whether effects are R².
        n_passed: Units that passed on the first half.
        n_taken: How many of these were looked at on the second half.
        n_units: All units.
        n_examples: All examples.
        n_rows: Inputs that they are of.
        n_permutations: Of hits among units.
        n_shuffles: Of labels.
        n_strata: Groups of like units within layers.
        concentration: From 0 (each place as many for its size) to 1 (all in one); NaN without hits.
        interval: Of the concentration, over hits.
        concentration_null: Its mean over shuffled labels.
        confidence: Of the interval.
        verification: What ablation says of the hits of the best place, where it was looked at.
        controls: The negative ones.
        trainings: The other ones of the same model.
        reasons: What each of the five parts says.
        caveats: Of the concept, and trivial reasons.
    """

    concept: str
    verdict: str
    place: str
    places: tuple[PlaceEvidence, ...]
    p_value: float
    hits: tuple[str, ...]
    hit_places: tuple[str, ...]
    hit_effects: Float[np.ndarray, "half unit"]
    graded: bool
    n_passed: int
    n_taken: int
    n_units: int
    n_examples: int
    n_rows: int
    n_permutations: int
    n_shuffles: int
    n_strata: int
    concentration: float
    interval: tuple[float, ...]
    concentration_null: float
    confidence: float
    verification: tuple[verification.Verification, ...]
    controls: tuple[Control, ...]
    trainings: tuple[Control, ...]
    reasons: tuple[str, ...]
    caveats: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row a place, the best first."""
        return pd.DataFrame(
            [
                dataclasses.asdict(place) | {"passes": place.passes, "verdict": self.verdict}
                for place in self.places
            ]
        )

    def figure(self) -> go.Figure:
        """Enrichment of each place, the band that chance gives it, and the bar."""
        figure = go.Figure()
        names = [plots.escape(place.name) for place in self.places]
        middle = np.array([(place.low + place.high) / 2 for place in self.places])
        half = np.array([(place.high - place.low) / 2 for place in self.places])
        figure.add_bar(
            x=names,
            y=[place.enrichment for place in self.places],
            marker={
                "color": [
                    plots.COLOURS[0] if place.rivals else plots.COLOURS[6] for place in self.places
                ]
            },
            customdata=[
                (place.hits, place.size, place.share, place.p_value, place.exact_p)
                for place in self.places
            ],
            hovertemplate="%{x}<br>enrichment %{y:.2f}<br>%{customdata[0]} of its %{customdata[1]} "
            "units, %{customdata[2]:.0%} of all<br>p = %{customdata[3]:.2g} (family-wise), "
            "%{customdata[4]:.2g} (hypergeometric)<extra></extra>",
            name="enrichment",
            showlegend=False,
        )
        figure.add_scatter(
            x=names,
            y=middle,
            mode="markers",
            marker={"opacity": 0, "color": plots.COLOURS[1]},
            error_y={
                "type": "data",
                "array": half,
                "color": plots.COLOURS[1],
                "thickness": 3,
                "width": 8,
            },
            name="by chance, 5 to 95 %",
            hoverinfo="skip",
        )
        figure.add_hline(y=ENRICHED, line={"color": plots.COLOURS[3], "dash": "dot"})
        figure.update_layout(template=plots.TEMPLATE, showlegend=False)
        figure.update_xaxes(title=f"places, for {plots.escape(self.concept)}: {self.verdict}")
        figure.update_yaxes(
            title=f"enrichment (red: by chance,<br>5 to 95 %; dotted: the bar, {ENRICHED:g})",
            rangemode="tozero",
        )
        return figure

    def summary(self) -> str:
        """The verdict, where, how sure, each part of the definition, and the controls."""
        where = f" in {self.place}" if self.place else ""
        said = [
            f"{self.concept!r} is {self.verdict}{where} in {self.provenance.model} "
            f"({self.n_examples:,} examples of {self.n_rows:,} inputs, {self.n_units:,} units in "
            f"{len(self.places)} places).",
            *self.reasons,
        ]
        if not math.isnan(self.concentration):
            said.append(
                f"Concentration {self.concentration:.2f} ({self.confidence:.0%} interval over hits "
                f"{self.interval[0]:.2f} to {self.interval[1]:.2f}; {self.concentration_null:.2f} "
                "by chance, on average; 1 is all in one place)."
            )
        return " ".join([*said, *self.caveats])


def ranked(places: Sequence[PlaceEvidence]) -> tuple[PlaceEvidence, ...]:
    """Places, the best first: what passes, then the smaller p, then the larger share."""
    return tuple(
        sorted(places, key=lambda each: (not each.passes, each.p_value, -each.share, each.name))
    )


def by_places(places: Sequence[PlaceEvidence], n_hits: int) -> tuple[str, str]:
    """Verdict and place by the parts 2 and 3.

    Args:
        places: The best first.
        n_hits: Units with the concept in both halves.

    Returns:
        The verdict, and the place if it is "localized".
    """
    if n_hits < replication.FEWEST:
        return ABSENT, ""
    if places[0].passes and not any(each.rivals for each in places[1:]):
        return LOCALIZED, places[0].name
    return SPREAD, ""


def agreeing(place: str, trainings: Sequence[Control]) -> tuple[int, int]:
    """Trainings, the true one among them, in which a concept is in a place; and how many must be.

    Args:
        place: Where it is in the true one.
        trainings: The others.

    Returns:
        Both numbers.
    """
    agree = 1 + sum(each.verdict == LOCALIZED and each.place == place for each in trainings)
    return agree, math.ceil(AGREE * (1 + len(trainings)))


def words_of_hits(chosen: replication.Chosen, n_units: int) -> str:
    """Part 2 in words."""
    bar = (
        f"R² at least {replication.R2_BAR}"
        if chosen.graded
        else f"AUC at least {replication.AUC_BAR} from one half"
    )
    n_hits = len(chosen.units)
    return (
        f"Part 2 {_held(n_hits >= replication.FEWEST)}: {chosen.passed:,} of {n_units:,} units "
        f"have it in one half of the inputs ({bar}, p < {evidence.SURE} after "
        f"Benjamini-Hochberg); of the largest {chosen.taken:,} (one in {replication.ONE_IN} at the "
        f"most, here {chosen.limit:,}) {n_hits:,} have it in the other half, at least "
        f"{replication.FEWEST} are asked for."
    )


def words_of_ablation(
    shown: Sequence[verification.Verification], why_not: str, *, asked: bool
) -> tuple[bool, str]:
    """Part 4: whether nothing of it speaks against the place, and in words."""
    if not asked:
        return True, "Part 4 (ablation) was not looked at."
    if not shown:
        return False, f"Part 4 does not hold: it could not be measured ({why_not})."
    found = shown[0]
    one = found.ablations[0].specificity
    words = (
        f"Part 4 {_held(found.specific)}: with the hits of the place at their mean, specificity "
        f"is {one.value:.2f} ({found.confidence:.0%} interval {one.interval[0]:.2f} to "
        f"{one.interval[1]:.2f}), p = {one.p_value:.2g} against {len(one.null):,} matched random "
        "sets (asked: above 0, p < 0.05)."
    )
    return found.specific, words + ("" if found.specific else " Not shown to be carried there.")


def words_of_controls(checks: Sequence[Control]) -> tuple[bool, str]:
    """Part 5: whether no control is localized, and in words."""
    if not checks:
        return True, "Part 5 (negative controls) was not looked at."
    held = all(each.verdict != LOCALIZED for each in checks)
    told = ", ".join(
        f"{each.name} {each.verdict}" + (f" in {each.place}" if each.place else "")
        for each in checks
    )
    return held, f"Part 5 {_held(held)}: {told}."


def words_of_trainings(place: str, trainings: Sequence[Control]) -> tuple[bool, str]:
    """Part 5, of other trainings: whether enough agree, and in words."""
    agree, needed = agreeing(place, trainings)
    return agree >= needed, (
        f"Of {1 + len(trainings)} trainings {agree} have it in {place} (asked: {needed}), so that "
        f"part {_held(agree >= needed)}."
    )


def _held(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def words_of_places(places: Sequence[PlaceEvidence], n_hits: int, n_units: int) -> list[str]:
    """Part 3 in words, with what a reader may take for a finding that is none."""
    best = places[0]
    others = [each.name for each in places[1:] if each.rivals]
    held = best.passes and not others
    said = [
        f"Part 3 {_held(held)}: {best.name} has {best.hits:,} of the "
        f"{n_hits:,} (share {best.share:.2f}, asked {SHARE}) in {best.size:,} of {n_units:,} "
        f"units: enrichment {best.enrichment:.2f} (asked {ENRICHED:g}; by chance {best.low:.2f} to "
        f"{best.high:.2f}), p = {best.p_value:.2g} over all places (asked below {SURE}; "
        f"hypergeometric {best.exact_p:.2g}, among like units {best.units_p:.2g}, for shuffled "
        f"labels {best.labels_p:.2g})."
    ]
    if best.passes and others:
        several = ", ".join(others[:_SPOKEN]) + (" and others" if len(others) > _SPOKEN else "")
        said.append(f"More than chance has {several}, too, so it is not one place.")
    if best.rivals and best.share < SHARE:
        said.append("It has more than chance, but less than half of all.")
    if best.exact_p < SURE <= best.units_p:
        said.append(
            "By size alone it would have more than chance; among units that fire as often and as "
            "strongly"
            + (" in the same layers" if best.within_layers else "")
            + " it has not, so that may be the reason."
        )
    return [*said, *_trivial(places, n_units)]


def _trivial(places: Sequence[PlaceEvidence], n_units: int) -> list[str]:
    said: list[str] = []
    first = max(places, key=lambda each: each.share)
    if first.size * ENRICHED > n_units:
        said.append(
            f"{first.name}, with the largest share, holds {first.size:,} of {n_units:,} units, "
            f"more than one in {ENRICHED:g}, so no enrichment of {ENRICHED:g} is possible there: "
            "nothing can be called localized in so large a place."
        )
    if len({each.size for each in places}) > 1 and first.size == max(p.size for p in places):
        said.append(f"{first.name} has the largest share, and no place is larger.")
    if first.deviation == max(each.deviation for each in places):
        said.append(
            f"{first.name} has the largest share, and its units vary most (standard deviation "
            f"{first.deviation:.3g}); ranks do not see by how much."
        )
    return said
