"""`workbench features sae`: a sparse autoencoder is trained on a site, and measured on other text.

A folder holds all of it: what sae-lens reads, the curve in `training`, the measures in `quality`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.commands import answering, options, terminal
from workbench.commands.features import reading

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.feature_visualization import DictionaryQuality
    from workbench.core.prompts.corpus import Corpus

# Half a minute on the bundled model.
_TOKENS, _BATCH, _LATENTS_PER_NUMBER = 300_000, 1024, 4
# Held-out rows that are measured on: more only narrow the intervals.
_MOST_ROWS = 1000

Site = Annotated[
    str,
    typer.Argument(help="resid_pre, resid_post, attn_out, mlp_out, z, q, k, v or neuron."),
]
Layer = Annotated[int, typer.Option(help="Which layer.")]
Architecture = Annotated[str | None, typer.Option(help="topk (default), batchtopk or jumprelu.")]
Latents = Annotated[
    int | None, typer.Option(help="How many latents (4 for each number of the site).")
]
K = Annotated[int | None, typer.Option("--k", "-k", help="Active latents a token (32).")]
Tokens = Annotated[int, typer.Option(help="Tokens to train on, read again where they run out.")]
Batch = Annotated[int, typer.Option(help="Tokens of a step.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Highest learning rate (0.001).")]
HeldOut = Annotated[
    float, typer.Option(help="Share of the corpus that is measured on and not trained on.")
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        "--folder",
        help="Folder of the dictionary, finished or not; by default among the stored ones.",
    ),
]


def sae(  # noqa: PLR0913 - one option a part of the training
    model: options.Model,
    site: Site,
    *,
    layer: Layer,
    architecture: Architecture = None,
    latents: Latents = None,
    k: K = None,
    tokens: Tokens = _TOKENS,
    batch: Batch = _BATCH,
    rate: Rate = None,
    corpus: reading.Corpus = None,
    column: reading.Column = "text",
    held_out: HeldOut = 0.1,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    again: options.Again = False,
    folder: Folder = None,
) -> None:
    """Train a sparse autoencoder, or go on with a training that was stopped: the same command."""
    with terminal.one_sentence_for_bad_input():
        if not 1 <= batch <= tokens:
            raise ValueError(
                f"--tokens {tokens} and --batch {batch}: expected at least one token a step, and "
                "enough tokens for one step"
            )
        with (
            terminal.says_how_to_go_on(),
            answering.asking(again=again) as ask,
            terminal.progress() as report,
        ):
            from analyses.feature_visualization import dictionary_quality, train_dictionary
            from workbench.core.engine import running
            from workbench.core.models import dictionaries, sources

            report(0.0, f"loading {model}")
            bridge = sources.load_model(model, device=device)
            train, test = _split(reading.corpus(bridge, corpus, column), held_out)
            how: dict[str, Any] = options.given(kind=architecture, k=k, lr=rate) | {
                "latents": _LATENTS_PER_NUMBER * _width(bridge, train, site, layer)
                if latents is None
                else latents,
                "layer": layer,
                "steps": math.ceil(tokens / batch),
                "batch_tokens": batch,
                "seed": seed,
            }
            place = _place(folder, bridge, {"site": site, "corpus": train.fingerprint, **how})
            with terminal.stopping_between_steps(report) as checked:
                made = train_dictionary(
                    bridge,
                    train,
                    site,
                    **how,
                    folder=place,
                    progress=running.part(checked, 0.05, 0.85),
                )
                terminal.save(made, place / "training", {"curve": made.to_frame()})
                ask.keep(made)
                # What was written, as anybody reads it.
                written = dictionaries.load_dictionary(place, device=str(bridge.cfg.device))
                found = ask(
                    dictionary_quality,
                    bridge,
                    test,
                    written,
                    progress=running.part(checked, 0.85, 1.0),
                )
                terminal.save(found, place / "quality", {"measures": found.to_frame()})
        terminal.say(made.summary())
        _show(found)
        terminal.say(f"kept in {place}")


def _split(corpus: Corpus, held_out: float) -> tuple[Corpus, Corpus]:
    """What is trained on, and what is measured on."""
    if not 0 < held_out < 1:
        raise ValueError(f"--held-out {held_out}: expected a share between 0 and 1")
    train, test = corpus.split(1 - held_out)
    return train, test.take(range(min(len(test), _MOST_ROWS)))


def _width(bridge: TransformerBridge, corpus: Corpus, site: str, layer: int) -> int:
    from analyses.feature_visualization.dictionaries import activations

    return activations.place(bridge, corpus, site, layer).width


def _place(asked: Path | None, bridge: TransformerBridge, parameters: dict[str, Any]) -> Path:
    """Where the dictionary is kept.

    Raises:
        ValueError: If something else is there.
    """
    from analyses.feature_visualization.dictionaries import stepping, training
    from workbench.core import runs
    from workbench.core.models import card

    if asked is None:
        name = runs.run_id(training.ANALYSIS, card.fingerprint(bridge), parameters)
        return runs.default_root() / "dictionaries" / name
    begun = (asked / stepping.CHECKPOINT).is_file() or (asked / "training/result.json").is_file()
    # What a writer that was killed left behind begins with a dot.
    there = not begun and asked.exists()
    if there and (
        not asked.is_dir() or any(not one.name.startswith(".") for one in asked.iterdir())
    ):
        raise ValueError(
            f"{asked} exists and holds no training of a dictionary: choose another folder"
        )
    return asked


def _show(found: DictionaryQuality) -> None:
    def said(row: dict[str, Any], prefix: str = "") -> str:
        value = row[prefix or "value"]
        start = f"{prefix}_" if prefix else ""
        return (
            ""
            if math.isnan(value)
            else terminal.number(value, row[f"{start}low"], row[f"{start}high"])
        )

    terminal.table(
        ("measure", "dictionary", "random directions, same L0"),
        [
            (str(row["measure"]), said(row), said(row, "control"))
            for row in found.to_frame().to_dict("records")
        ],
        title=f"Measured on {found.n_tokens:,} tokens of {found.n_rows:,} held-out rows",
    )
    terminal.say(found.summary())
