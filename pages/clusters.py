"""Clusters: is a concept in one place?

1. Pick a model or a network, and a concept: by name, by tokens, by a pattern, or from a file.
2. See how every unit responds to it on a map of the whole network, whether the selective ones are
   concentrated in one place beyond chance, and whether ablating them takes the concept away.
3. See many concepts at once, groups that nobody described, and whether more channels where a
   concept lives would help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from analyses import neuron_clusters as clusters
from analyses.neuron_clusters import growth, marks, selectivity_figures, sweep, verdict
from analyses.neuron_clusters.clustering import METHODS, Method, finding
from workbench.core.engine import running
from workbench.core.models import card
from workbench.ui import (
    addresses,
    concepts,
    corpora,
    downloads,
    escaping,
    heatmap,
    jobs,
    showing,
    stored,
    subject,
)

SELECTIVITY, LOCALIZE = "neuron_clusters.selectivity", "neuron_clusters.localize"
VERIFY = "neuron_clusters.verify"
OF_MODEL, OF_NETWORK = "a language model", "an image or sequence network"
ONE, MANY, GROUPS, GROW = "One concept", "Many concepts", "Groups", "More channels there?"
KINDS = ("neuron", "head", "resid_post")
# Where all units lie at one hook point, their weights tell groups of them apart.
LIKE = "weights"
PARTITIONS = {
    "what lies at one hook point": "place",
    "layers": "layer",
    "groups of units with like weights": LIKE,
}
HOW = {
    "coactivation": "that are active together",
    "weights": "with like weights",
    "graph": "that are connected",
    "function": "of one frequency",
}
FEW, SEEDS, FEWEST = 6, 6, 2
MODULAR = "modadd-113"


@dataclasses.dataclass(frozen=True)
class Looked:
    """What the page is about.

    Attributes:
        name: As it is loaded by.
        subject: The model or network.
        mark: Tells it from others.
        kind: Of a language model's units.
        opens: Lines of a script that open it.
    """

    name: str
    subject: Any
    mark: str
    kind: str
    opens: tuple[str, ...]

    @property
    def is_model(self) -> bool:
        """Whether it is a language model."""
        return bool(self.kind)

    @property
    def called(self) -> str:
        """What it is called in a script."""
        return "model" if self.is_model else "network"

    @property
    def given(self) -> dict[str, Any]:
        """Arguments that say which units are looked at."""
        return {"kinds": self.kind} if self.is_model else {}

    @property
    def arguments(self) -> str:
        """The same in a script."""
        return f", kinds={self.kind!r}" if self.is_model else ""

    def title(self, what: str, mark: str = "") -> str:
        """Name of a stored result."""
        parts = [what, f"{self.called} {self.mark[:16]}", self.kind, mark]
        return ", ".join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Places:
    """What may have more of a concept's units than elsewhere.

    Attributes:
        looked: Whose units.
        rule: How the units are parted.
    """

    looked: Looked
    rule: str

    @property
    def code(self) -> list[str]:
        """Lines of a script that makes them."""
        if self.rule != LIKE:
            return []
        return [
            f"groups = clusters.find_clusters({self.looked.called}, by={LIKE!r}"
            f"{self.looked.arguments})"
        ]

    @property
    def called(self) -> str:
        """What they are called in a script."""
        return "groups" if self.rule == LIKE else repr(self.rule)

    @property
    def share(self) -> float:
        """Of the time that localizing takes, what making them takes."""
        return 0.4 if self.rule == LIKE else 0.0

    def made(self, report: jobs.Report) -> Any:
        """As the library takes them."""
        if self.rule != LIKE:
            return self.rule
        # Another concept, or the page's own groups, may have needed them before.
        _, found = stored.kept(
            clusters.Clusters,
            finding.ANALYSIS,
            self.looked.title(f"clusters by {LIKE}"),
            lambda: clusters.find_clusters(
                self.looked.subject, None, by=LIKE, **self.looked.given, progress=report
            ),
        )
        return found


def ways_to_part(looked: Looked) -> dict[str, str]:
    """By what the units can be parted, in two places at least; empty where by nothing."""
    from workbench.core.engine import populations

    population = populations.population_of(looked.subject, **looked.given)
    layers = {place.layer for place in population.places}
    n_places = {"place": len(population.places), "layer": len(layers)}
    ways = {name: rule for name, rule in PARTITIONS.items() if n_places.get(rule, 0) >= FEWEST}
    if ways:
        return ways
    alone = f"All {len(population):,} units lie at one hook point ({population.places[0].name})"
    if looked.kind == "neuron":
        st.caption(f"{alone}, so the places are groups of them with like weights.")
        return {name: rule for name, rule in PARTITIONS.items() if rule == LIKE}
    st.info(
        f"{alone}, so none can have more of them than elsewhere: look at neurons, or at a model "
        "of more layers."
    )
    return ways


@st.cache_resource(max_entries=4, show_spinner="Opening the network")
def opened(name: str) -> Any:
    """A network that comes along."""
    from workbench.core.networks import sources

    return sources.load_network(name)


def pick() -> Looked | None:
    """A language model, or a network."""
    what = st.segmented_control(
        "Of", (OF_MODEL, OF_NETWORK), default=OF_MODEL, key="of", required=True, bind="query-params"
    )
    if what == OF_NETWORK:
        from workbench.core.networks import sources

        name = subject.pick_network(sources.list_networks())
        network = opened(name)
        lines = (f"network = sources.load_network({name!r})",)
        return Looked(name, network, sources.network_fingerprint(network), "", lines)
    picked = subject.pick()
    model = None if picked is None else subject.loaded(picked)
    if picked is None or model is None:
        return None
    kind = st.selectbox("Units", KINDS, key="kind", bind="query-params") or KINDS[0]
    lines = (f"model = load_model({picked!r})",)
    return Looked(picked, model, card.fingerprint(model), kind, lines)


def link_to(looked: Looked, unit: str) -> None:
    """A link to everything that is known of a unit."""
    if looked.is_model:
        address = {"model": looked.name, "unit": unit}
        if looked.kind in ("neuron", "head"):
            st.page_link("../pages/unit.py", label=f"**{unit}**: all of it", query_params=address)
        return
    hook, _, channel = unit.rpartition(".")
    address = {"network": looked.name, "hook": f"{hook}.hook_out", "channel": channel}
    st.page_link("../pages/inputs.py", label=f"**{unit}**: what it wants", query_params=address)


def show_map(looked: Looked, found: clusters.Selectivity, hits: Sequence[str]) -> None:
    """The whole network: a click on a unit says what is known of it."""
    layout = selectivity_figures.laid_out(found, "value")
    number = {name: i for i, name in enumerate(found.names)}
    marked = [number[name] for name in hits]
    cell = heatmap.clickable_figure(
        lambda cell: selectivity_figures.network_map(found, "value", marked=marked, selected=cell),
        layout.unit.shape,
        key="map",
        query="cell",
    )
    st.caption(
        "A row is a place, a square is a unit, those that are largest with the concept first. "
        + ("Dots: units that have the concept in both halves of the inputs. " if hits else "")
        + "Click one."
    )
    unit = -1 if cell is None else int(layout.unit[cell])
    if unit < 0:
        return
    name = found.names[unit]
    st.markdown(
        f"**{escaping.markdown(name)}**: {found.measure} {found.effect[unit]:.3f}, "
        f"p = {found.p_value[unit]:.2g} (adjusted {found.discovery_p[unit]:.2g})"
    )
    link_to(looked, name)


def show_place(looked: Looked, found: clusters.Localization) -> None:
    """The verdict with its numbers, its nulls and its negative controls."""
    st.subheader(
        f"{found.verdict.capitalize()}"
        + (f" in {escaping.markdown(found.place)}" if found.place else "")
    )
    for reason in found.reasons:
        st.markdown(f"- {escaping.markdown(reason)}")
    showing.figure(found.figure())
    if found.controls:
        st.markdown("**Negative controls**: the same where there is nothing to find")
        st.dataframe(
            pd.DataFrame([dataclasses.asdict(one) for one in found.controls]).rename(
                columns={"n_hits": "units with it", "p_value": "p of the best place"}
            ),
            hide_index=True,
        )

    def details() -> None:
        st.markdown(escaping.markdown(found.summary()))
        for unit in found.hits[: FEW * FEW]:
            link_to(looked, unit)

    showing.fold(f"The {len(found.hits)} units, and the summary", details)


def one_concept(looked: Looked) -> list[str]:
    """A concept's map, its place, and what ablation says."""
    picked = concepts.pick(looked.name, looked.subject, looked.mark, is_model=looked.is_model)
    if picked is None:
        return []
    concept = picked.concept
    mark = f"{concept.name} {marks.described(concept)['mark']}"
    ways = ways_to_part(looked)
    way = addresses.pick("Places", list(ways), query="places") if ways else None
    places = None if way is None else Places(looked, ways[way])
    selective = stored.made(
        clusters.Selectivity,
        SELECTIVITY,
        looked.title("selectivity", mark),
        lambda report: clusters.selectivity(
            looked.subject, concept, **looked.given, progress=report
        ),
        label=f"Reading every unit for {concept.name}",
    )
    if selective is None:
        return []
    name = "" if places is None else looked.title(f"localization by {places.rule}", mark)
    place = stored.titled(clusters.Localization, LOCALIZE, name) if name else None
    show_map(looked, selective, () if place is None else place.hits)

    def counted() -> None:
        st.markdown(escaping.markdown(selective.summary()))
        if selective.probes:
            showing.figure(selective.probes_figure())

    showing.fold("How many units tell it, and how well a few of them do", counted)
    code = [
        *picked.code,
        f"found = clusters.selectivity({looked.called}, concept{looked.arguments})",
        "print(found.summary())",
    ]
    if places is not None:
        place = stored.offered(
            clusters.Localization,
            LOCALIZE,
            name,
            lambda report: clusters.localize(
                looked.subject,
                concept,
                places=places.made(running.part(report, 0.0, places.share)),
                **looked.given,
                progress=running.part(report, places.share, 1.0),
            ),
            button="Is it in one place? With nulls and three negative controls",
            label=f"Localizing {concept.name}",
            seconds=30,
        )
    if places is None or place is None:
        downloads.offer_stored(selective, "selectivity")
        return code
    show_place(looked, place)
    verified = show_verified(looked, concept, place, mark)
    downloads.offer_stored(place, "localization")
    return [
        *code,
        *places.code,
        f"place = clusters.localize({looked.called}, concept, places={places.called}"
        f"{looked.arguments})",
        "print(place.summary())",
        *verified,
    ]


def cluster_of(found: clusters.Localization) -> tuple[str, tuple[str, ...]]:
    """The selective units of the best place; of all places where none stands out."""
    chosen = found.place or (found.places[0].name if found.places else "")
    here = tuple(
        unit for unit, at in zip(found.hits, found.hit_places, strict=True) if at == chosen
    )
    return (chosen, here) if here else ("all places", found.hits)


def show_verified(
    looked: Looked, concept: Any, place: clusters.Localization, mark: str
) -> list[str]:
    """Whether the units carry the concept: by ablation, against matched random sets."""
    if not place.hits:
        return []
    st.subheader("Do these units carry it?")
    every = f"all {len(place.hits)} selective units"
    where, here = cluster_of(place)
    ways = [every, f"the {len(here)} in {where}"]
    # Where one place stands out, its units are the cluster.
    which = st.radio("Ablate", ways[::-1] if place.place else ways, key="ablate", horizontal=True)
    units = place.hits if which == every else here
    verified = stored.offered(
        clusters.Verification,
        VERIFY,
        looked.title(f"verification of {', '.join(units)}", mark),
        lambda report: clusters.verify(
            looked.subject, concept, units, **looked.given, progress=report
        ),
        button="Ablate and patch them, against 200 matched random sets",
        label="Ablating and patching",
        seconds=60,
    )
    if verified is None:
        return []
    st.markdown(escaping.markdown(verified.summary()))
    showing.figure(verified.figure())
    return [
        f"units = {list(units)!r}",
        f"verified = clusters.verify({looked.called}, concept, units{looked.arguments})",
        "print(verified.summary())",
    ]


def many_concepts(looked: Looked) -> list[str]:
    """Where each of many concepts lives."""
    from workbench.core.prompts import named_concepts

    known = list(named_concepts.named_concepts(looked.name))
    if not known:
        st.info("No concepts of this network are known by name.")
        return []
    chosen = st.multiselect("Concepts", known, known[:FEW], key="concepts", bind="query-params")
    ways = ways_to_part(looked)
    if not chosen or not ways:
        return []
    places = Places(looked, next(iter(ways.values())))

    def work(report: jobs.Report) -> clusters.ConceptSweep:
        asked = [named_concepts.named_concept(looked.subject, name) for name in chosen]
        return clusters.concept_sweep(
            looked.subject,
            asked,
            places=places.made(running.part(report, 0.0, places.share)),
            **looked.given,
            progress=running.part(report, places.share, 1.0),
        )

    found = stored.offered(
        clusters.ConceptSweep,
        sweep.ANALYSIS,
        looked.title(f"sweep over {', '.join(chosen)}"),
        work,
        button=f"Localize these {len(chosen)}",
        label=f"Localizing {len(chosen)} concepts",
        seconds=10.0 * len(chosen),
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    st.dataframe(found.to_frame(), hide_index=True)
    by_family = show_families(looked, chosen)
    downloads.offer_stored(found, "sweep")
    return [
        f"asked = [named_concepts.named_concept({looked.called}, name) for name in {chosen!r}]",
        *places.code,
        f"found = clusters.concept_sweep({looked.called}, asked"
        f"{f', places={places.called}' if places.code else ''}{looked.arguments})",
        "print(found.to_frame().to_string())",
        *by_family,
    ]


def show_families(looked: Looked, chosen: Sequence[str]) -> list[str]:
    """How many units of each family every place has."""
    from workbench.core.prompts import named_concepts

    if len(chosen) < FEWEST or any(name.startswith("frequency") for name in chosen):
        return []
    st.subheader("Families of units, place by place")

    def work(report: jobs.Report) -> clusters.Families:
        asked = [named_concepts.named_concept(looked.subject, name) for name in chosen]
        return clusters.families(looked.subject, asked, **looked.given, progress=report)

    found = stored.offered(
        clusters.Families,
        "neuron_clusters.families",
        looked.title(f"families {', '.join(chosen)}"),
        work,
        button="Put each unit into the family of the concept that it is largest at",
        label=f"Reading every unit for {len(chosen)} concepts",
        seconds=5.0 * len(chosen),
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    showing.figure(found.figure())
    return [
        f"found = clusters.families({looked.called}, asked{looked.arguments})",
        "print(found.summary())",
    ]


def groups(looked: Looked) -> list[str]:
    """Groups of units that nobody described."""
    ways: list[Method] = [way for way in METHODS if way != "function" or looked.name == MODULAR]
    way = st.selectbox(
        "Units",
        ways,
        format_func=lambda way: HOW[way],
        key="by",
        bind="query-params",
        label_visibility="collapsed",
    )
    way = way if way in ways else ways[0]
    inputs, lines, mark = None, [], ""
    if looked.is_model and way == "coactivation" and looked.name != MODULAR:
        corpus = corpora.pick(looked.subject)
        if corpus is None:
            return []
        inputs, mark = corpus.seen, corpus.seen.fingerprint[:16]
        lines = [f"seen, held_out = {corpus.code}"]
    elif not looked.is_model:
        from workbench.core.networks import examples

        inputs, _ = examples.held_out(looked.name, 1200)
        lines = [f"inputs, labels = examples.held_out({looked.name!r}, 1200)"]
    found = stored.offered(
        clusters.Clusters,
        finding.ANALYSIS,
        looked.title(f"clusters by {way}", mark),
        lambda report: clusters.find_clusters(
            looked.subject, inputs, by=way, **looked.given, progress=report
        ),
        button="Find them, and how many there are",
        seconds=60,
        label=f"Looking for groups of units {HOW[way]}",
    )
    if found is None:
        return []
    st.markdown(escaping.markdown(found.summary()))
    show_groups(looked, found)
    downloads.offer_stored(found, "clusters")
    given = "" if inputs is None else (", seen" if looked.is_model else ", inputs")
    return [
        *lines,
        f"found = clusters.find_clusters({looked.called}{given}, by={way!r}{looked.arguments})",
        "print(found.summary())",
    ]


def show_groups(looked: Looked, found: clusters.Clusters) -> None:
    """The map in the clusters' colours, and the page of the one that is clicked."""
    layout = found.layout
    cell = heatmap.clickable_figure(
        lambda cell: found.map_figure(selected=cell),
        layout.unit.shape,
        key="groups",
        query="unit-of",
    )
    st.caption("A row is a place, a square is a unit, a colour is a group. Click one.")
    number = -1 if cell is None else int(layout.unit[cell])
    label = -1 if number < 0 else int(found.labels[number])
    if number >= 0:
        link_to(looked, found.names[number])
    # Where there are no clusters beyond chance, there is nothing to say of one.
    if 0 <= label < len(found.clusters):
        cluster = found.clusters[label]
        with st.container(border=True):
            st.markdown(
                f"**Group {label}**: {cluster.size} units. {escaping.markdown(cluster.words())}"
            )
            st.caption(
                f"Cohesion {cluster.cohesion:.3g} (p = {cluster.cohesion_p:.2g}); "
                + escaping.markdown(", ".join(f"{n} in {at}" for at, n in cluster.places.items()))
            )
            for unit in cluster.units[:FEW]:
                link_to(looked, unit)
    left, right = st.columns(2)
    with left:
        showing.figure(found.stability_figure())
    with right:
        showing.figure(found.figure())


def more_channels(looked: Looked) -> list[str]:
    """The advice: would more channels help where the concept lives?"""
    from workbench.core.engine import populations
    from workbench.core.prompts import named_concepts

    known = [name for name in named_concepts.named_concepts(looked.name) if name != "coloured"]
    names = [place.name for place in populations.of_network(looked.subject).places]
    left, middle, right, last = st.columns(4)
    name = addresses.pick("Concept", known, query="concept", place=left)
    place = middle.selectbox("Place", names, len(names) - 1, key="place") or names[-1]
    count = int(right.number_input("Channels", 1, 64, FEW, key="channels"))
    seeds = int(last.number_input("Seeds", 2, 64, SEEDS, key="seeds"))
    st.caption(
        "As many parameters are added there, at each other place, evenly, and nowhere; nothing "
        "changes until all are fine-tuned on the same batches."
    )
    title = looked.title(f"growth of {name} at {place}, {count} channels, {seeds} seeds")
    pieces = seeds * (len(names) + 2)

    def work(report: jobs.Report) -> clusters.Growth:
        concept = named_concepts.named_concept(looked.subject, name)
        return clusters.grow(
            looked.subject, concept, place, n=count, seeds=range(seeds), progress=report
        )

    grown = stored.offered(
        clusters.Growth,
        growth.ANALYSIS,
        title,
        work,
        button="Add them and see",
        label="Growing and fine-tuning",
        seconds=pieces * (15.0 if looked.name.startswith("shapes") else 1.0),
    )
    if grown is None:
        return []
    st.subheader(f"{grown.verdict.capitalize()}")
    st.markdown(escaping.markdown(grown.summary()))
    showing.figure(grown.figure())
    downloads.offer_stored(grown, "growth")
    return [
        f"concept = named_concepts.named_concept(network, {name!r})",
        f"found = clusters.grow(network, concept, {place!r}, n={count}, seeds=range({seeds}))",
        "print(found.summary())",
    ]


def look() -> None:
    """The pickers, and what is asked for."""
    looked = pick()
    if looked is None:
        return
    sections = {ONE: one_concept, MANY: many_concepts, GROUPS: groups}
    if not looked.is_model:
        sections[GROW] = more_channels
    section = showing.section(list(sections))
    try:
        code = sections.get(section, one_concept)(looked)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return
    if code:
        showing.code(script(looked, code))


def script(looked: Looked, code: Sequence[str]) -> list[str]:
    """What is shown as a script, which imports what it uses."""
    body = [*looked.opens, *code]
    used = [name for name in ("Concept", "Corpus", "load_model") if f"{name}" in " ".join(body)]
    imports = {
        f"from workbench import {', '.join(used)}": bool(used),
        "from workbench.core.networks import sources": not looked.is_model,
        "from workbench.core.networks import examples": "examples." in " ".join(body),
        "from workbench.core.prompts import named_concepts": "named_concepts." in " ".join(body),
    }
    return [
        *(line for line, needed in imports.items() if needed),
        "from analyses import neuron_clusters as clusters",
        "",
        *body,
    ]


st.caption(
    "Units that respond to a concept are found on one half of its examples and confirmed on the "
    "other. Whether they sit in one place is asked against chance, against an untrained network, "
    "shuffled weights and a fake concept. Whether they carry it, only ablation tells. "
    f"{verdict.LOCALIZED.capitalize()}, {verdict.SPREAD} or {verdict.ABSENT}: whatever comes out."
)
look()
