"""`workbench features scan`: a corpus is read once for many units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.commands import answering, options, terminal
from workbench.commands.features import reading

if TYPE_CHECKING:
    from analyses.feature_visualization import TopExamples, UnitView

# Units of a scan in a table, and examples of a unit.
_FEW = 10
Units = Annotated[
    str,
    typer.Option(
        help="neuron, head, resid_pre, resid_post, attn_out, mlp_out, or single units such as "
        "'neuron 2.13', with commas."
    ),
]
Shown = Annotated[
    list[str] | None,
    typer.Option("--show", help="A unit to look at from all sides; may be given several times."),
]
Kept = Annotated[int | None, typer.Option("-k", help="Examples to keep at either end (20).")]
Sample = Annotated[
    int | None, typer.Option(help="Random tokens at which all activations are kept (1024).")
]
Index = Annotated[
    Path | None,
    typer.Option(help="Folder in which an unfinished scan is kept, to go on from there."),
]


def scan(  # noqa: PLR0913 - one option a way to scan
    model: options.Model,
    *,
    corpus: reading.Corpus = None,
    column: reading.Column = "text",
    units: Units = "neuron",
    layers: options.Layers = None,
    show: Shown = None,
    k: Kept = None,
    sample: Sample = None,
    seed: options.Seed = 0,
    index: Index = None,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Read a corpus once, and keep where each unit responds most, least and in between."""
    with terminal.one_sentence_for_bad_input():
        with answering.asking(again=again) as ask, terminal.progress() as report:
            from analyses.feature_visualization import top_examples, view_unit
            from workbench.core.engine import running
            from workbench.core.models import sources

            report(0.0, f"loading {model}")
            bridge = sources.load_model(model, device=device)
            report(0.05, "opening the corpus")
            read = reading.corpus(bridge, corpus, column)
            found = ask(
                top_examples,
                bridge,
                read,
                options.names("--units", units) or "neuron",
                **options.given(layers=options.layers(layers), k=k, sample=sample),
                seed=seed,
                aside={"folder": index},
                progress=running.part(report, 0.1, 0.9),
            )
            views = [ask(view_unit, bridge, read, found, unit) for unit in show or ()]
            if output is not None:
                terminal.save(found, output, {"units": found.to_frame()})
                for view in views:
                    place = output / view.unit.replace(" ", "-")
                    terminal.save(view, place, {"examples": view.to_frame()})
        _show_scan(found)
        terminal.say(found.summary())
        for view in views:
            _show_view(view)
        if output is not None:
            terminal.say(f"saved in {output}")


def _show_scan(found: TopExamples) -> None:
    order = (-found.top_values[:, 0]).argsort(kind="stable")[:_FEW]
    terminal.table(
        ("unit", "largest", "smallest", "mean", "above zero"),
        [
            (
                found.units[i],
                f"{found.top_values[i, 0]:.3g}",
                f"{found.bottom_values[i, 0]:.3g}",
                f"{found.mean[i]:.3g}",
                f"{found.density[i]:.1%}",
            )
            for i in order
        ],
        title=f"Largest activations of {len(found.units):,} units",
    )


def _show_view(view: UnitView) -> None:
    for kind in ("largest", "quantile", "smallest"):
        here = [one for one in view.examples if one.kind == kind][:_FEW]
        terminal.table(
            ("activation", "quantile", "text around the ⟦token⟧"),
            [(f"{one.activation:.3g}", f"{one.quantile:.3f}", one.marked) for one in here],
            title=f"{view.unit}: {kind}",
        )
    terminal.say(view.summary())
