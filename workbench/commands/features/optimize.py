"""`workbench features optimize`: texts, or continuous inputs, that make one unit most active."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from workbench.commands import answering, options, terminal
from workbench.commands.features import reading

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.feature_visualization import OptimizedInput, OptimizedText
    from analyses.feature_visualization.inputs import Objective

# A search of half a minute on the bundled model; the analysis by itself searches ten times longer.
_QUICK = {"iterations": 80, "restarts": 2}
# Texts of the front in a table.
_FEW = 12
_POINT = re.compile(
    r"(?P<hook>[A-Za-z_][\w.]*) (?P<channel>\d{1,6})( at (?P<place>\d{1,6}(,\d{1,6})?))?"
)
_CLASS = re.compile(r"class (?P<index>\d{1,6})")

Subject = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Bundled name, Hugging Face folder or hub name of a language model; or a bundled "
        "network: mnist1d-mlp, mnist1d-cnn or shapes-branch.",
    ),
]
UnitName = Annotated[
    str,
    typer.Argument(
        metavar="UNIT",
        help="'neuron 2.13', 'head 1.0', 'resid_post 2.5'; of a network a channel of a hook point "
        "('conv1.hook_out 3', at one place 'conv1.hook_out 3 at 7') or 'class 2'.",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(help="epo (default: along the trade-off with fluency) or gcg (no fluency)."),
]
Dictionary = Annotated[
    str | None,
    typer.Option(
        help="Folder of a sparse autoencoder, or one that a bundled model brings along by its "
        "name, resid_post.2; 'resid_post 2.13' is then its latent 13, read there."
    ),
]
Length = Annotated[int | None, typer.Option(help="Tokens of a text (12).")]
Steps = Annotated[
    int | None, typer.Option(help="Iterations of each restart (80; for a network 512).")
]
Restarts = Annotated[
    int | None, typer.Option(help="Searches from different starts (2; for a network 4).")
]
Least = Annotated[bool, typer.Option("--least", help="What makes it least active instead.")]


def optimize(  # noqa: PLR0913 - one option a way to search
    model: Subject,
    unit: UnitName,
    *,
    method: Method = None,
    corpus: reading.Corpus = None,
    column: reading.Column = "text",
    dictionary: Dictionary = None,
    length: Length = None,
    steps: Steps = None,
    restarts: Restarts = None,
    least: Least = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    again: options.Again = False,
    output: options.Output = None,
) -> None:
    """Search for the texts, or the inputs of a network, that make a unit most active."""
    with terminal.one_sentence_for_bad_input():
        from workbench.core.networks import sources as networks

        if model in networks.list_networks():
            _require_no_text(
                model, method=method, corpus=corpus, dictionary=dictionary, length=length
            )
            search = options.given(steps=steps, restarts=restarts) | {"seed": seed}
            search["direction"] = -1 if least else 1
            with answering.asking(again=again) as ask, terminal.progress() as report:
                found = _input(ask, model, unit, device, report, **search)
                if output is not None:
                    terminal.save(found, output, {"inputs": found.to_frame()})
                    _save_array(output / "inputs.npy", found.inputs)
            _show_inputs(found)
        else:
            asked = options.given(method=method, length=length, iterations=steps, restarts=restarts)
            with answering.asking(again=again) as ask, terminal.progress() as report:
                texts, largest = _text(
                    ask,
                    model,
                    unit,
                    (corpus, column),
                    device,
                    report=report,
                    dictionary=dictionary,
                    search=_QUICK | asked | {"seed": seed, "maximise": not least},
                )
                if output is not None:
                    terminal.save(texts, output, {"texts": texts.to_frame()})
            _show_texts(texts)
            terminal.say(largest)
        if output is not None:
            terminal.say(f"saved in {output}")


def _require_no_text(name: str, **given: object) -> None:
    for option in options.given(**given):
        raise ValueError(f"{name} reads numbers and no text: leave out --{option}")


def _text(
    ask: answering.Asking,
    name: str,
    unit: str,
    file: tuple[Path | None, str],
    device: str,
    *,
    report: Callable[[float, str], None],
    dictionary: str | None,
    search: dict[str, Any],
) -> tuple[OptimizedText, str]:
    """The texts, and what the corpus has to say of their activations."""
    from analyses.feature_visualization import optimize_text
    from workbench.core.engine import running
    from workbench.core.models import sources

    report(0.0, f"loading {name}")
    bridge = sources.load_model(name, device=device)
    latents = None if dictionary is None else _dictionary(bridge, name, dictionary)
    seen, largest = _of_corpus(
        bridge,
        unit,
        file,
        latents,
        maximise=search["maximise"],
        report=running.part(report, 0.1, 0.2),
    )
    found = ask(
        optimize_text,
        bridge,
        unit,
        reference=seen,
        dictionary=latents,
        progress=running.part(report, 0.2, 1.0),
        **search,
    )
    return found, largest


def _dictionary(bridge: TransformerBridge, model: str, asked: str) -> Any:
    """A sparse autoencoder, by the name that a bundled model has for it or by its folder.

    Raises:
        ValueError: If there is none.
    """
    from workbench.core.models import dictionaries

    brought = dictionaries.list_dictionaries(model)
    if asked in brought:
        return dictionaries.bundled_dictionary(bridge, asked)
    try:
        return dictionaries.load_dictionary(asked, device=str(bridge.cfg.device))
    except ValueError as error:
        if not brought or Path(asked).exists():
            raise
        raise ValueError(f"{error}; {model} brings along {', '.join(brought)}") from error


def _of_corpus(
    bridge: TransformerBridge,
    unit: str,
    file: tuple[Path | None, str],
    latents: Any,
    *,
    maximise: bool,
    report: Callable[[float, str], None],
) -> tuple[Float[np.ndarray, " token"] | None, str]:
    """A unit's activation at every token of the corpus, and the largest of them in words."""
    from workbench.core.engine import scan, units
    from workbench.core.prompts.corpus import CorpusError

    family, index = units.family_of(bridge, unit, dictionary=latents)
    try:
        corpus = reading.corpus(bridge, *file)
    except CorpusError:
        if file[0] is not None:
            raise
        return None, "No corpus was read, so there are no quantiles: give one as --corpus FILE."
    kept: list[torch.Tensor] = []
    for _, table in scan.tables(bridge, corpus, family):
        kept.append(table[:, index].float().cpu())
        report(len(kept) / corpus.n_chunks, "reading the corpus")
    seen = np.concatenate([values.numpy() for values in kept])
    if not len(seen):
        raise ValueError(f"{corpus.name} holds special tokens only: nothing counts")
    word, most = ("Largest", seen.max()) if maximise else ("Smallest", seen.min())
    return seen, f"{word} activation at the {len(seen):,} tokens of {corpus.name}: {most:.4g}."


def _show_texts(found: OptimizedText) -> None:
    """Some of the front, evenly from its most active text to its most fluent one."""
    count = len(found.texts)
    shown = np.unique(np.linspace(0, count - 1, min(_FEW, count)).round().astype(int))[::-1]
    terminal.table(
        ("activation", "quantile", "nats a token", "text"),
        [
            (
                f"{found.activation[i]:.4g}",
                f"{found.quantile[i]:.4f}" if found.n_reference else "–",
                f"{found.cross_entropy[i]:.2f}",
                repr(found.texts[i]),
            )
            for i in shown
        ],
        title=f"{found.unit}: {len(shown)} of the {count} texts of the Pareto front",
    )
    terminal.say(found.summary())


def _input(
    ask: answering.Asking,
    name: str,
    unit: str,
    device: str,
    report: Callable[[float, str], None],
    **search: Any,
) -> OptimizedInput:
    from analyses.feature_visualization import optimize_input
    from workbench.core.models import sources as models
    from workbench.core.networks import examples, sources

    objective = _objective(unit)
    report(0.0, f"loading {name}")
    network = sources.load_network(name, device=models.torch_device(device))
    return ask(
        optimize_input,
        network,
        objective,
        data=examples.held_out(name)[0],
        control=True,
        progress=report,
        **search,
    )


def _objective(unit: str) -> Objective:
    """What a unit of a network means.

    Raises:
        ValueError: If it is not written like one.
    """
    from analyses.feature_visualization.inputs import LogOdds, Target

    if named := _CLASS.fullmatch(unit.strip()):
        return LogOdds(int(named["index"]))
    found = _POINT.fullmatch(unit.strip())
    if not found:
        raise ValueError(
            f"{unit!r} is no unit of a network: write a hook point and a channel, as in "
            "'conv1.hook_out 3' or 'conv1.hook_out 3 at 7', or 'class 2'"
        )
    place = tuple(map(int, found["place"].split(","))) if found["place"] else None
    position = place[0] if place is not None and len(place) == 1 else place
    return Target(found["hook"], int(found["channel"]), position)


def _save_array(path: Path, values: np.ndarray) -> None:
    """Keep an array for those who read no safetensors."""
    content = io.BytesIO()
    np.save(content, values)
    terminal.write(path, content.getvalue())


def _show_inputs(found: OptimizedInput) -> None:
    terminal.table(
        ("input", "number", "activation"),
        [
            (str(row["source"]), str(row["index"]), f"{row['activation']:.4g}")
            for row in found.to_frame().to_dict("records")
        ],
        title=found.unit,
    )
    terminal.say(found.summary())
