"""Concepts that named tasks vary: gender, number, role, digit.

1. Prompts of the task are drawn, as many with each value of the variable; a text comes once.
2. "word": the last token of the word that carries the variable is the example. "answer": the last
   token of the prompt, before the word that the variable decides.
3. Prompts that the model cannot read (words outside its vocabulary) are passed over, and counted in
   a caveat.

Sources: those of the tasks (`tasks`).

Units: labels are 1 for the value that the variable's sentence names first.

Limits: at "word" the variable is as old as the word itself: what tells words apart tells their
values apart. "answer" asks what the model has made of it by then.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from workbench.core.prompts import concept_confounds, concepts, tasks, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

At = Literal["word", "answer"]
_FEWEST = 4
# Draws for each example before there are no more.
_PATIENCE = 50
_LATE = 50


@dataclasses.dataclass(frozen=True)
class Variable:
    """What a task varies.

    Attributes:
        name: As it is asked for.
        sentence: What the concept is, for a reader.
        task: The task that varies it.
        span: What the task calls the word that carries it.
        of: The value, of a prompt.
    """

    name: str
    sentence: str
    task: str
    span: str
    of: Callable[[tasks.TextPair], bool] = dataclasses.field(repr=False)


def _written(pair: tasks.TextPair, name: str) -> str:
    start, end = _span(pair, name)
    return pair.clean[start:end]


def _span(pair: tasks.TextPair, name: str) -> tuple[int, int]:
    return next(span.clean for span in pair.spans if span.name == name)


VARIABLES = {
    variable.name: variable
    for variable in (
        Variable(
            "gender",
            "Is the person female, and not male?",
            "pronoun-gender",
            "person",
            lambda pair: pair.answer.strip() == "she",
        ),
        Variable(
            "number",
            "Is the subject of the sentence plural, and not singular?",
            "agreement",
            "the subject",
            lambda pair: pair.answer.strip() == "are",
        ),
        Variable(
            "role",
            "Of two people, is it the one named first who gives, and not the one named second?",
            "indirect-object",
            "giver again",
            lambda pair: _written(pair, "giver again") == _written(pair, "first name"),
        ),
        Variable(
            "digit",
            "Are the last two digits of the first year 50 or more, and not less?",
            "greater-than",
            "last two digits",
            lambda pair: int(_written(pair, "last two digits")) >= _LATE,
        ),
    )
}


def from_task(
    model: TransformerBridge, variable: str, *, n: int = 400, seed: int = 0, at: At = "answer"
) -> concepts.Concept:
    """A variable of a named task; see `Concept.from_task`."""
    if variable not in VARIABLES:
        raise concepts.ConceptError(
            f"no task varies {variable!r}: expected one of {', '.join(VARIABLES)}"
        )
    if at not in ("word", "answer"):
        raise concepts.ConceptError(f"at = {at!r}: expected 'word' or 'answer'")
    if n < _FEWEST:
        raise concepts.ConceptError(f"n = {n}: expected at least {_FEWEST} examples")
    chosen = VARIABLES[variable]
    texts, unread = _prompts(model, chosen, n, seed)
    caveat = f"{unread:,} prompts with words that the model does not know were passed over"
    made = concepts.Concept(
        list(texts),
        _labels(model, texts, chosen.span) if at == "word" else [has for has, _ in texts.values()],
        f"{variable}, at the {at}",
        caveats=(caveat,) if unread else (),
    )
    return concept_confounds.with_known(made, model)


# Prompts with their value and their pair.
_Prompts = dict[str, tuple[int, tasks.TextPair]]


def _prompts(
    model: TransformerBridge, variable: Variable, n: int, seed: int
) -> tuple[_Prompts, int]:
    """Different prompts, half of them with each value, and how many could not be read."""
    room = [n // 2, n - n // 2]
    texts: _Prompts = {}
    unread: set[str] = set()
    stream = tasks.get_task(variable.task).stream(seed, "all")
    for pair in itertools.islice(stream, n * _PATIENCE):
        has = int(variable.of(pair))
        if not any(room):
            break
        if not room[has] or pair.clean in texts or pair.clean in unread:
            continue
        try:
            tokenization.encode(model, pair.clean)
        except tokenization.TokenizationError:
            unread.add(pair.clean)
            continue
        texts[pair.clean] = (has, pair)
        room[has] -= 1
    if any(room):
        raise concepts.ConceptError(
            f"only {len(texts):,} prompts for {variable.name!r} were found that the model can "
            f"read, {len(unread):,} others hold words that it does not know: expected {n:,}"
        )
    return texts, len(unread)


def _labels(model: TransformerBridge, texts: _Prompts, span: str) -> list[np.ndarray]:
    """One number a token: the value at the last token of the word, -1 at all others."""
    front = len(tokenization.front(model))
    found: list[np.ndarray] = []
    for text, (has, pair) in texts.items():
        ids = tokenization.encode(model, text)
        ends = np.array([end for _, end in tokenization.offsets(model, text, ids)][front:])
        labels = np.full(len(ends), -1, dtype=np.int64)
        # The first token that reaches the word's last character.
        labels[int(np.flatnonzero(ends >= _span(pair, span)[1])[0])] = has
        found.append(labels)
    return found
