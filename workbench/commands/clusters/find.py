"""`workbench clusters find`: groups of units that nobody described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.commands import answering, options, terminal
from workbench.commands.clusters import asking
from workbench.commands.features import reading

if TYPE_CHECKING:
    from analyses.neuron_clusters.clustering import Method

# Held-out inputs of a bundled network that its units are read at.
_INPUTS = 1200
_SHOWN = 12
By = Annotated[str, typer.Option(help="coactivation, weights, graph or function (modular models).")]
Count = Annotated[
    int | None, typer.Option("-k", help="How many groups; chosen by their stability if not given.")
]


def find(  # noqa: PLR0913 - one option a part of the question
    subject: asking.Subject,
    *,
    by: By = "coactivation",
    k: Count = None,
    corpus: reading.Corpus = None,
    column: reading.Column = "text",
    units: asking.Units = None,
    layers: options.Layers = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Find groups of units by what they do, by their weights, or by their frequency."""
    with terminal.one_sentence_for_bad_input():
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses import neuron_clusters as clusters
            from analyses.neuron_clusters.clustering import METHODS
            from workbench.core.engine import running

            method: Method | None = next((each for each in METHODS if each == by), None)
            if method is None:
                raise ValueError(f"--by {by!r}: expected one of {', '.join(METHODS)}")
            opened = asking.opened(subject, device, report)
            found = ask(
                clusters.find_clusters,
                opened,
                _inputs(subject, opened, corpus, column),
                by=method,
                **asking.units_of(opened, units, layers),
                **options.given(counts=k),
                seed=seed,
                progress=running.part(report, 0.1, 1.0),
            )
            if output is not None:
                terminal.save(found, output, {"units": found.to_frame()})
        terminal.table(
            ("group", "units", "where", "what it is"),
            [
                (
                    str(number),
                    str(cluster.size),
                    ", ".join(f"{count} in {place}" for place, count in cluster.places.items()),
                    cluster.words(),
                )
                for number, cluster in enumerate(found.clusters[:_SHOWN])
            ],
            title=f"Groups of units of {subject} by {by}",
        )
        terminal.say(found.summary())
        if output is not None:
            terminal.say(f"saved in {output}")


def _inputs(name: str, subject: Any, corpus: Any, column: str) -> Any:
    """What units are read at; None for what a model brings along."""
    from workbench.core.networks import examples, sources

    if asking.is_model(subject):
        return None if corpus is None else reading.corpus(subject, corpus, column)
    if corpus is not None:
        raise ValueError("--corpus is for language models: a network reads no text")
    if name not in sources.list_networks():
        raise ValueError(
            f"{name} brings no inputs along: find its groups in a script (find_clusters)"
        )
    return examples.held_out(name, _INPUTS)[0]
