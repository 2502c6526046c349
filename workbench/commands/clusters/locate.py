"""`workbench clusters locate`: is a concept in one place, and do these units carry it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.commands import answering, options, terminal
from workbench.commands.clusters import asking
from workbench.commands.features import reading

if TYPE_CHECKING:
    from analyses.neuron_clusters import Localization, Selectivity

_FEW = 10
Permutations = Annotated[int | None, typer.Option(help="Rounds of the null (10,000).")]
Quick = Annotated[
    bool, typer.Option("--no-controls", help="Without the three negative controls: quicker.")
]
Ablate = Annotated[
    bool, typer.Option("--verify", help="Ablate and patch the units, wherever they are.")
]


def locate(  # noqa: PLR0913 - one option a part of the question
    subject: asking.Subject,
    *,
    concept: asking.Concept = None,
    tokens: asking.Tokens = None,
    pattern: asking.Pattern = None,
    file: asking.File = None,
    corpus: reading.Corpus = None,
    column: reading.Column = "text",
    balanced: asking.Balanced = False,
    units: asking.Units = None,
    layers: options.Layers = None,
    places: asking.Places = None,
    permutations: Permutations = None,
    no_controls: Quick = False,
    verify: Ablate = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Find the units that respond to a concept, and say whether they are in one place."""
    with terminal.one_sentence_for_bad_input():
        asked = asking.Asked(concept, tokens, pattern, file, (corpus, column), balanced, seed)
        how = options.given(places=places, permutations=permutations)
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import neuron_clusters as clusters
            from workbench.core.engine import running

            opened = asking.opened(subject, device, report)
            looked_at = asking.units_of(opened, units, layers)
            made = asked.concept(opened)
            report(0.1, "reading every unit")
            selective = ask(
                clusters.selectivity,
                opened,
                made,
                **looked_at,
                seed=seed,
                progress=running.part(report, 0.1, 0.3),
            )
            found = ask(
                clusters.localize,
                opened,
                made,
                **looked_at,
                **how,
                controls=not no_controls,
                seed=seed,
                progress=running.part(report, 0.3, 0.8),
            )
            verified = None
            if verify and found.hits:
                verified = ask(
                    clusters.verify,
                    opened,
                    made,
                    found.hits,
                    **looked_at,
                    seed=seed,
                    progress=running.part(report, 0.8, 1.0),
                )
            if output is not None:
                terminal.save(found, output, {"places": found.to_frame()})
                terminal.save(selective, output / "selectivity", {"units": selective.to_frame()})
                if verified is not None:
                    terminal.save(verified, output / "verified", {"measures": verified.to_frame()})
        _show_units(selective)
        _show_places(found)
        terminal.say(selective.summary())
        terminal.say(found.summary())
        if verified is not None:
            terminal.say(verified.summary())
        elif verify:
            terminal.say("There are no units to ablate.")
        if output is not None:
            terminal.say(f"saved in {output}")


def _show_units(found: Selectivity) -> None:
    numbers = [found.names.index(name) for name in found.best(_FEW)]
    terminal.table(
        ("unit", found.measure, "p", "adjusted p"),
        [
            (
                found.names[i],
                terminal.number(found.effect[i], *found.interval[:, i]),
                f"{found.p_value[i]:.2g}",
                f"{found.discovery_p[i]:.2g}",
            )
            for i in numbers
        ],
        title=f"Units that respond to {found.concept} most",
    )


def _show_places(found: Localization) -> None:
    terminal.table(
        ("place", "units", "with it", "share", "enrichment", "p over all places", "exact p"),
        [
            (
                place.name,
                str(place.size),
                str(place.hits),
                f"{place.share:.2f}",
                f"{place.enrichment:.2f} [{place.low:.2f}, {place.high:.2f} by chance]",
                f"{place.p_value:.2g}",
                f"{place.exact_p:.2g}",
            )
            for place in found.places[:_FEW]
        ],
        title=f"Where units for {found.concept} are: {found.verdict}",
    )
    terminal.table(
        ("negative control", "verdict", "units with it", "p"),
        [(one.name, one.verdict, str(one.n_hits), f"{one.p_value:.2g}") for one in found.controls],
        title="The same where there is nothing to find",
    )
