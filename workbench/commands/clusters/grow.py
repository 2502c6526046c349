"""`workbench clusters grow`: would more channels help where a concept lives?"""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.commands import answering, options, terminal
from workbench.commands.clusters import asking

Place = Annotated[str, typer.Option(help="Where to add, such as mixed2.branch5 or layer0.")]
Channels = Annotated[int | None, typer.Option("-n", "--n", help="How many channels (6).")]
Seeds = Annotated[int, typer.Option(help="Trainings of each variant; at least 6 for a verdict.")]
Steps = Annotated[int | None, typer.Option(help="Of fine-tuning (300).")]
Elsewhere = Annotated[
    str | None, typer.Option(help="Places to compare with, with commas; all others by default.")
]


def grow(  # noqa: PLR0913 - one option a part of the experiment
    subject: asking.Subject,
    *,
    concept: asking.Concept = None,
    place: Place,
    elsewhere: Elsewhere = None,
    n: Channels = None,
    seeds: Seeds = 10,
    steps: Steps = None,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Add channels at a place, elsewhere, evenly and nowhere; fine-tune; compare."""
    with terminal.one_sentence_for_bad_input():
        asked = asking.Asked(concept, None, None, None, (None, ""), balanced=False, seed=0)
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import neuron_clusters as clusters
            from workbench.core.engine import running

            network = asking.opened(subject, device, report)
            if asking.is_model(network):
                raise ValueError(
                    f"{subject} is a language model: channels are added to networks (see "
                    "`workbench clusters grow --help`)"
                )
            found = ask(
                clusters.grow,
                network,
                asked.concept(network),
                place,
                elsewhere=options.names("--elsewhere", elsewhere),
                **options.given(n=n, steps=steps),
                seeds=range(seeds),
                progress=running.part(report, 0.05, 1.0),
            )
            if output is not None:
                terminal.save(found, output, {"measures": found.to_frame()})
        terminal.say(found.summary())
        if output is not None:
            terminal.say(f"saved in {output}")
