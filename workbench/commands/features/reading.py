"""What the `features` commands read: a corpus from a file, or the one that a model brings along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus as AnyCorpus

Corpus = Annotated[
    Path | None,
    typer.Option(help="A .txt, .jsonl or .npy (tokens) file; bundled models bring a corpus along."),
]
Column = Annotated[str, typer.Option(help="Column of a JSONL file that holds the text.")]


def corpus(model: TransformerBridge, file: Path | None, column: str) -> AnyCorpus:
    """Open what is read.

    Args:
        model: Whose tokenizer and context to use.
        file: What was asked for; None for the corpus that the model brings along.
        column: Of a JSONL file.

    Returns:
        The corpus.
    """
    from workbench.core.prompts import corpus as corpora

    if file is None:
        return corpora.Corpus.bundled(model)
    return corpora.Corpus.open(model, file, column=column)
