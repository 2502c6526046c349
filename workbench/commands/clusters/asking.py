"""What the `clusters` commands look at: a model or a network, and a concept of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.commands import options
from workbench.commands.features import reading

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept as AnyConcept

Subject = Annotated[
    str,
    typer.Argument(
        help="Bundled model or network, Hugging Face folder, folder of a network, or hub name."
    ),
]
Concept = Annotated[
    str | None,
    typer.Option(help="A concept that is known by name; a wrong name lists those that there are."),
]
Tokens = Annotated[
    str | None, typer.Option(help="Instead: tokens of the corpus, with spaces between them.")
]
Pattern = Annotated[
    str | None, typer.Option(help="Instead: a regular expression over the text of the corpus.")
]
File = Annotated[
    Path | None,
    typer.Option(help="Instead: CSV (text, label) or JSONL (text or tokens, labels or spans)."),
]
Balanced = Annotated[
    bool,
    typer.Option("--balanced", help="Choose examples that are alike in position, length, …"),
]
Units = Annotated[
    str | None,
    typer.Option(
        help="Of a language model, with commas: neuron (default), head, resid_pre, resid_post, …"
    ),
]
Places = Annotated[
    str | None,
    typer.Option(help="place (what lies at one hook point; default), layer or kind."),
]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which concept is asked for.

    Attributes:
        name: Known by name.
        tokens: Tokens of the corpus.
        pattern: Pattern over its text.
        file: Labelled file.
        corpus: The corpus' file and column.
        balanced: Whether examples are chosen to be alike in their confounds.
        seed: Of the draw.
    """

    name: str | None
    tokens: str | None
    pattern: str | None
    file: Path | None
    corpus: tuple[Path | None, str]
    balanced: bool
    seed: int

    def __post_init__(self) -> None:
        """Check that there is one of them.

        Raises:
            ValueError: If there is none, or several.
        """
        if sum(each is not None for each in (self.name, self.tokens, self.pattern, self.file)) != 1:
            raise ValueError(
                "give one of --concept NAME, --tokens TEXT, --pattern EXPRESSION and --file FILE"
            )

    def concept(self, subject: Any) -> AnyConcept:
        """Make it for a model or network.

        Args:
            subject: What it is for.

        Returns:
            The concept.

        Raises:
            ValueError: If it cannot be made.
        """
        from workbench.core.prompts import concepts, named_concepts

        if self.name is not None:
            made = named_concepts.named_concept(subject, self.name, seed=self.seed)
        elif not is_model(subject):
            raise ValueError(
                "a network reads no text: ask for a concept that is known by name (--concept)"
            )
        elif self.file is not None:
            made = concepts.Concept.from_file(self.file, model=subject)
        else:
            corpus = reading.corpus(subject, *self.corpus)
            made = (
                concepts.Concept.from_tokens(
                    subject, corpus, (self.tokens or "").split(), seed=self.seed
                )
                if self.pattern is None
                else concepts.Concept.from_pattern(subject, corpus, self.pattern, seed=self.seed)
            )
        return made.balanced(seed=self.seed) if self.balanced else made


def opened(name: str, device: str, report: Callable[[float, str], None]) -> Any:
    """A language model or a network.

    Args:
        name: Of a bundled one, a folder or a hub name.
        device: Where it goes.
        report: Told what is done.

    Returns:
        The model or network.

    Raises:
        ValueError: If it cannot be opened.
    """
    from workbench.core.models import sources
    from workbench.core.networks import sources as networks

    report(0.0, f"loading {name}")
    if name in networks.list_networks() or networks.is_network(name):
        return networks.load_network(name, device=sources.torch_device(device))
    return sources.load_model(name, device=device)


def is_model(subject: Any) -> bool:
    """Whether it is a language model.

    Args:
        subject: What `opened` gave.

    Returns:
        True for a language model, False for a network.
    """
    from transformer_lens.model_bridge import TransformerBridge

    return isinstance(subject, TransformerBridge)


def units_of(subject: Any, units: str | None, layers: str | None) -> dict[str, Any]:
    """Which units are looked at, as arguments of the analyses.

    Args:
        subject: A model or network.
        units: Kinds with commas.
        layers: Layers with commas.

    Returns:
        Keyword arguments; none where nothing is asked for.

    Raises:
        ValueError: If they are asked for of a network.
    """
    given = options.given(kinds=options.names("--units", units), layers=options.layers(layers))
    if given and not is_model(subject):
        raise ValueError("--units and --layers are for language models: a network has channels")
    return given
