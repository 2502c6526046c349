"""Concepts by name: what a page, a command or a sweep offers for a model or a network.

1. `grammar-4l`: the variables of its grammar, one concept a value (of two values, the first), and
   the variables of the named tasks.
2. `modadd-113`: residues of the answer, and frequencies.
3. `shapes-branch`: its classes, three-dimensional curvature, and colour. MNIST-1D: its digits.
4. Any other language model: gender, number, role and digit, from the named tasks.

Limits: of another network nothing is known: label inputs of it with `Concept.of_images`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from workbench.core.prompts import concept_corpora, concept_images, concept_tasks, concepts

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.grammar_variables import LabelledTokens

_MODULUS = 113
_SHAPES = "shapes-branch"
_TWO, _SHOWN = 2, 12
# Documents that are drawn at the least.
_DOCUMENTS = 1000


def named_concepts(subject_name: str) -> dict[str, str]:
    """What is known by name of a model or network.

    Args:
        subject_name: Its name, as it is loaded by.

    Returns:
        A sentence for each name, in the order in which they are offered.
    """
    if subject_name == "modadd-113":
        residues = {f"residue {r}": f"Is the answer {r}?" for r in range(_MODULUS)}
        waves = range(1, _MODULUS // 2 + 1)
        return residues | {f"frequency {k}": f"Waves of frequency {k} in a and b" for k in waves}
    if subject_name == _SHAPES:
        return _shape_sentences()
    if subject_name.startswith("mnist1d-"):
        return {f"digit {d}": f"Is the sequence a {d}?" for d in range(10)}
    tasks = {name: variable.sentence for name, variable in concept_tasks.VARIABLES.items()}
    if subject_name == "grammar-4l":
        return tasks | {name: sentence for name, (_, _, sentence) in _grammar().items()}
    return tasks


def named_concept(
    subject: TransformerBridge | HookedRootModule,
    name: str,
    *,
    n: int | None = None,
    seed: int = 0,
) -> concepts.Concept:
    """A concept by its name.

    Args:
        subject: The model or network that it is for.
        name: One of `named_concepts` of the subject's name.
        n: Examples, at most; a number that fits the kind of concept if not given.
        seed: Of the draw.

    Returns:
        The concept.

    Raises:
        ConceptError: If the subject has none of that name, or there are too few examples.
    """
    from transformer_lens.model_bridge import TransformerBridge

    is_model = isinstance(subject, TransformerBridge)
    subject_name = _model_name(subject) if is_model else _network_name(subject)
    known = named_concepts(subject_name)
    if name not in known:
        shown = list(known)[:_SHOWN]
        more = f" and {len(known) - len(shown)} more" if len(known) > len(shown) else ""
        raise concepts.ConceptError(
            f"{subject_name} has no concept {name!r}: it has {', '.join(shown)}{more}"
        )
    given: dict[str, Any] = {"seed": seed} if n is None else {"seed": seed, "n": n}
    if not is_model:
        return _of_network(subject_name, name, given)
    return _of_model(subject, subject_name, name, given)


def _of_network(subject_name: str, name: str, given: dict[str, Any]) -> concepts.Concept:
    if subject_name == _SHAPES:
        # The first seed makes the images that the network was not trained on.
        return concepts.Concept.shapes(
            name, **{**given, "seed": given["seed"] + concept_images.SHAPES_SEED}
        )
    digit = int(name.removeprefix("digit "))
    # A convolutional network reads a sequence of one channel.
    return concepts.Concept.mnist1d(digit, channels=subject_name.endswith("cnn"), **given)


def _of_model(
    model: TransformerBridge, subject_name: str, name: str, given: dict[str, Any]
) -> concepts.Concept:
    if name in concept_tasks.VARIABLES:
        return concepts.Concept.from_task(model, name, **given)
    kind, _, number = name.partition(" ")
    if subject_name == "modadd-113":
        make = concepts.Concept.residue if kind == "residue" else concepts.Concept.frequency
        return make(model, int(number), **given)
    variable, value, _ = _grammar()[name]
    most = given.get("n", concept_corpora.MOST)
    # The first seed makes the documents of `Corpus.bundled`.
    labelled = _labelled(model, max(_DOCUMENTS, most), given["seed"] + 1)
    return concepts.Concept.from_variable(
        labelled, variable, value, name=name, most=most, seed=given["seed"]
    )


@functools.lru_cache(maxsize=1)
def _labelled(model: TransformerBridge, documents: int, seed: int) -> LabelledTokens:
    """Labelled documents; a sweep asks for the same ones again and again."""
    from workbench.core.prompts import grammar_variables

    return grammar_variables.grammar_labels(model, documents=documents, seed=seed)


@functools.cache
def _grammar() -> dict[str, tuple[str, str, str]]:
    """Variable, value and sentence of each concept of the grammar, by name."""
    from workbench.core.prompts import grammar_variables

    found: dict[str, tuple[str, str, str]] = {}
    for variable, values in grammar_variables.grammar_values().items():
        # Of two values, either is the other one turned around.
        for value in values[:1] if len(values) == _TWO else values:
            against = repr(values[1]) if len(values) == _TWO else "another one"
            sentence = f"Is the {variable} {value!r}, and not {against}?"
            found[f"{variable} = {value}"] = (variable, value, sentence)
    return found


def _shape_sentences() -> dict[str, str]:
    from workbench.core.networks import shapes

    bent = {
        concept_images.CURVATURE: "Is it a surface that is bent in depth: a sphere, a cylinder or "
        "a saddle?"
    }
    coloured = {concept_images.COLOURED: "Has the image colours, and is not grey?"}
    return bent | {name: f"Is it {_article(name)} {name}?" for name in shapes.CLASSES} | coloured


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _model_name(subject: Any) -> str:
    from workbench.core.models import sources

    return sources.source_of(subject).name


def _network_name(subject: Any) -> str:
    from workbench.core.networks import sources

    name = sources.network_name(subject)
    if name not in sources.list_networks():
        raise concepts.ConceptError(
            f"nothing is known by name of {name}: label inputs of it (Concept.of_images)"
        )
    return name
