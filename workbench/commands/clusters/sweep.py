"""`workbench clusters sweep`: where each of many concepts lives."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from workbench.commands import answering, options, terminal
from workbench.commands.clusters import asking

Concepts = Annotated[
    str | None, typer.Option(help="Known by name, with commas; all of them if not given.")
]
Quick = Annotated[
    bool,
    typer.Option("--no-controls", help="No negative controls for what comes out localized."),
]
Jobs = Annotated[int, typer.Option(help="Threads.")]


def sweep(  # noqa: PLR0913 - one option a part of the question
    subject: asking.Subject,
    *,
    concepts: Concepts = None,
    units: asking.Units = None,
    layers: options.Layers = None,
    places: asking.Places = None,
    no_controls: Quick = False,
    jobs: Jobs = 1,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Localize many concepts, in one table, corrected for having looked at all of them."""
    with terminal.one_sentence_for_bad_input():
        wanted = options.names("--concepts", concepts)
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import neuron_clusters as clusters
            from workbench.core.engine import running
            from workbench.core.prompts import named_concepts

            opened = asking.opened(subject, device, report)
            looked_at = asking.units_of(opened, units, layers)
            made = [
                named_concepts.named_concept(opened, name, seed=seed)
                for name in wanted or named_concepts.named_concepts(subject)
            ]
            found = ask(
                clusters.concept_sweep,
                opened,
                made,
                **looked_at,
                **options.given(places=places),
                controls=not no_controls,
                seed=seed,
                aside={"n_jobs": jobs},
                progress=running.part(report, 0.1, 1.0),
            )
            if output is not None:
                terminal.save(found, output, {"concepts": found.to_frame()})
        terminal.table(
            (
                "concept",
                "verdict",
                "best place",
                "share",
                "enrichment",
                "units",
                "p over all",
                "why",
            ),
            [
                (
                    row["concept"],
                    row["verdict"],
                    row["place"],
                    _number(row["share"]),
                    _number(row["enrichment"]),
                    str(row["units"]),
                    f"{row['p over all concepts']:.2g}",
                    row["why"].split(":")[0],
                )
                for row in found.to_frame().to_dict("records")
            ],
            title=f"{len(found.concepts)} concepts of {subject}",
        )
        terminal.say(found.summary())
        if output is not None:
            terminal.say(f"saved in {output}")


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
