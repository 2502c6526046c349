"""Variables: what the grammar of `grammar-4l` knows of each token of its documents.

1. `grammar_labels` draws documents as the grammar does, and keeps the choices that made them: the
   family and frame of each sentence, the words in its slots, number, gender, years.
2. Each choice becomes a variable: one of some values at some tokens, nothing at all others. What
   decides a later word (the number of a subject, the gender of a person, …) is a variable at two
   places: at the word that carries it, and at the word before the one that it decides.
3. Tokens that share one draw of a variable are one run of it: all words of a block in its first
   pass, for one, which are no independent evidence of the pass.

Other models can be labelled by hand: a `Variable` is two arrays over the tokens of a corpus.

Limits: variables with many values (which of 40 names) are not among them; random sequences have
their pass only, first or again.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from workbench.core.models import sources
from workbench.core.models.training import grammar
from workbench.core.prompts import lexicon, sentences
from workbench.core.prompts.corpus import Corpus

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# By the third word of a sentence its family is settled.
_SETTLED = 2
_HALF_A_CENTURY = 50
# Documents in which every value of every variable stands.
_ENOUGH = 200
_ORDINALS = ("first", "second", "third")
_CLASSES = {
    **dict.fromkeys(("first", "second", "giver", "someone", "name"), "name"),
    **dict.fromkeys(("relative", "person"), "person"),
    **dict.fromkeys(("subject", "distractor"), "noun"),
    **dict.fromkeys(("place", "somewhere"), "place"),
    **dict.fromkeys(("gift", "something"), "gift"),
    **{slot: slot for slot in ("event", "feeling", "quality", "century")},
    "start": "year",
}
# Words of the frames by their part of speech; those that are none of these are of another one.
_PARTS_OF_SPEECH = {
    word: part
    for part, words in {
        "determiner": "The the a Every This all",
        "conjunction": "When After While Because because and that",
        "preposition": "at behind beside by from in near next of to with On over",
        "adverb": "Then Yesterday home",
        "verb": (
            "are arrived began bought brought ended found gave had handed knows lasted left likes "
            "met offered passed saw showed started stayed walked was went"
        ),
        "punctuation": ". ,",
    }.items()
    for word in words.split()
}
# Value and run of a variable at a word.
_Known = dict[str, tuple[str, tuple[int, ...]]]
_ANSWERS = {
    "indirect-object": "name",
    "pronoun-gender": "pronoun",
    "agreement": "is or are",
    "greater-than": "year",
    "plain": "is or are",
}


class VariableError(ValueError):
    """Variables that do not fit their corpus, or a model of which none are known."""


@dataclasses.dataclass(frozen=True, eq=False)
class Variable:
    """Something that takes one of some values at tokens of a corpus.

    Attributes:
        name: What a reader calls it.
        values: Names of its values.
        at: Which value each token has, in the order of the corpus' rows; -1 where none is defined.
        run: Which draw it comes from: tokens of one run have one value, and are shuffled together.
    """

    name: str
    values: tuple[str, ...]
    at: Int[np.ndarray, " token"]
    run: Int[np.ndarray, " token"]

    def __post_init__(self) -> None:
        """Check that the arrays fit.

        Raises:
            ValueError: If they do not, or a run has two values.
        """
        if self.at.shape != self.run.shape or self.at.min(initial=0) < -1:
            raise VariableError(
                f"{self.name}: expected a value (-1 for none) and a run for each token"
            )
        if self.at.max(initial=-1) >= len(self.values):
            raise VariableError(
                f"{self.name} has values 0 to {len(self.values) - 1}, not {self.at.max()}"
            )
        here = self.at >= 0
        pairs = np.unique(np.stack([self.run[here], self.at[here]]), axis=1)
        if len(np.unique(pairs[0])) < pairs.shape[1]:
            raise VariableError(f"{self.name}: a run has one value, not several")


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledTokens:
    """A corpus whose tokens are known.

    Attributes:
        corpus: The corpus; its rows count as independent.
        variables: What is known of its tokens.
    """

    corpus: Corpus
    variables: tuple[Variable, ...]

    def __post_init__(self) -> None:
        """Check that there is a value for each token.

        Raises:
            ValueError: If there is none, or no variable.
        """
        if not self.variables:
            raise VariableError("no variables: give at least one")
        for variable in self.variables:
            if len(variable.at) != self.corpus.n_tokens:
                raise VariableError(
                    f"{variable.name} is known at {len(variable.at)} tokens, "
                    f"{self.corpus.name} has {self.corpus.n_tokens}"
                )


@dataclasses.dataclass(frozen=True)
class _Word:
    """A word of a document with what is known there: value by variable.

    Attributes:
        text: The word.
        known: Value and run of each variable that is defined here.
    """

    text: str
    known: _Known


def grammar_labels(
    model: TransformerBridge, *, documents: int = 1000, seed: int = 1
) -> LabelledTokens:
    """Draw documents of the grammar whose variables are known at each token.

    Args:
        model: `grammar-4l`.
        documents: How many.
        seed: Of the draw; equal numbers give the documents of `Corpus.bundled`.

    Returns:
        The documents as a corpus, with their variables.

    Raises:
        ValueError: If the model is another one, or there are no documents.
    """
    name = sources.source_of(model).name
    if name != "grammar-4l":
        raise VariableError(
            f"{name} was not trained on the grammar: label its tokens with LabelledTokens"
        )
    if documents < 1:
        raise VariableError(f"documents = {documents}: expected at least 1")
    rng = random.Random(seed)
    drawn = [_document(rng) for _ in range(documents)]
    texts = (" ".join(word.text for word in words) for words in drawn)
    corpus = Corpus.from_texts(model, texts, name=f"labelled documents of {name}")
    return LabelledTokens(corpus, _variables(corpus, drawn))


@functools.cache
def grammar_values() -> Mapping[str, tuple[str, ...]]:
    """Every variable of the grammar with its values, in alphabetical order."""
    rng = random.Random(0)
    found: dict[str, set[str]] = {}
    for _ in range(_ENOUGH):
        for word in _document(rng):
            for name, (value, _) in word.known.items():
                found.setdefault(name, set()).add(value)
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def _document(rng: random.Random) -> list[_Word]:
    """What `grammar.sample` draws, with the choices."""
    if rng.random() < grammar.SEQUENCE_SHARE:
        return _sequence(grammar.sample_sequence(rng).words[1:-1])
    words: list[_Word] = []
    families = {family.name: family for family in sentences.FAMILIES}
    for number in range(grammar.MOST_SENTENCES):
        (name,) = rng.choices(list(grammar.FAMILY_SHARES), list(grammar.FAMILY_SHARES.values()))
        words += _sentence(families[name], families[name].draw(rng), number)
        if number + 1 < grammar.MOST_SENTENCES and rng.random() >= grammar.CONTINUE:
            break
    return words


def _sequence(words: Sequence[str]) -> list[_Word]:
    """A block that comes again: the words of a block are all different."""
    length = words.index(words[0], 1)
    made: list[_Word] = []
    for place, text in enumerate(words):
        passes = place // length
        known: _Known = {
            "class of the word": ("sequence word", (place,)),
            "pass through the sequence": ("again" if passes else "first", (passes,)),
        }
        if place == _SETTLED:
            known["family"] = ("sequence", (0,))
        made.append(_Word(text, known))
    return made


def _sentence(family: sentences.Family, drawn: sentences.Sentence, number: int) -> list[_Word]:
    """The words of a sentence, with what the grammar knows of it at each of them."""
    words = _slots(family, drawn)
    classes = [_class_of(family.name, text, slot) for text, slot in words]
    spans = _spans(family.name, drawn, [slot for _, slot in words])
    made: list[_Word] = []
    for place, (text, slot) in enumerate(words):
        known: _Known = {
            "class of the word": (classes[place], (number, place)),
        }
        if place + 1 < len(words):
            known["class of the next word"] = (classes[place + 1], (number, place))
        else:
            known["sentence, at its full stop"] = (_ORDINALS[number], (number,))
        if place == _SETTLED:
            known["family"] = (family.name, (number,))
        role = _role(family.name, slot)
        if role:
            known[role[0]] = (role[1], (number, place))
        for name, (value, first, last) in spans.items():
            if place == first:
                known[f"{name}, at its word"] = (value, (number,))
            if place == last > first:
                known[f"{name}, where it decides"] = (value, (number,))
        made.append(_Word(text, known))
    return made


def _slots(family: sentences.Family, drawn: sentences.Sentence) -> list[tuple[str, str]]:
    """Each word of a sentence with the slot that it fills; with none, a word of the frame."""
    filled = {**drawn.options, **family.slots(drawn.combination, drawn.options)}
    pattern = drawn.frame.prompt + drawn.frame.rest
    words: list[tuple[str, str]] = []
    for literal, slot, _, _ in string.Formatter().parse(pattern):
        words += [(text, "") for text in lexicon.split_words(literal)]
        if slot:
            words += [(text, slot) for text in lexicon.split_words(filled[slot])]
    return words


def _class_of(family: str, text: str, slot: str) -> str:
    if slot == "answer":
        return _ANSWERS[family]
    if slot:
        return _CLASSES[slot]
    return _PARTS_OF_SPEECH.get(text, "other")


def _role(family: str, slot: str) -> tuple[str, str] | None:
    """What part a name or a noun has in its sentence."""
    if family == "indirect-object" and slot in ("first", "second", "giver", "answer"):
        role = {"first": "named first", "second": "named second", "giver": "gives"}
        return "role of the name", role.get(slot, "receives")
    if family == "agreement" and slot in ("subject", "distractor"):
        return "role of the noun", slot
    return None


def _spans(
    family: str, drawn: sentences.Sentence, slots: Sequence[str]
) -> dict[str, tuple[str, int, int]]:
    """What decides a word: value, the word that carries it, and the one before that it decides."""
    last = slots.index("answer") - 1 if "answer" in slots else len(slots) - 1
    options = drawn.options
    if family == "indirect-object":
        return {"mention that gives": (options["giver_is"], slots.index("giver"), last)}
    if family == "pronoun-gender":
        person = drawn.combination[0]
        gender = "female" if lexicon.is_female(person) else "male"
        slot = "someone" if "someone" in slots else "relative"
        return {"gender of the person": (gender, slots.index(slot), last)}
    if family == "greater-than":
        century, start = drawn.combination
        carries, again = (place for place, slot in enumerate(slots) if slot == "century")
        return {
            "century": (century, carries, again - 1),
            "half of the first year's century": (
                "second" if int(start) >= _HALF_A_CENTURY else "first",
                slots.index("start"),
                last,
            ),
        }
    found: dict[str, tuple[str, int, int]] = {}
    if "subject" in slots:
        place = slots.index("subject")
        found["number of the subject"] = (options["subject_number"], place, last)
    if "distractor" in slots:
        place = slots.index("distractor")
        found["number of the distractor"] = (options["distractor_number"], place, place)
    return found


def _variables(corpus: Corpus, drawn: Sequence[Sequence[_Word]]) -> tuple[Variable, ...]:
    """Variables over the tokens of a corpus; each word is one token, special ones are none."""
    words = [(row, word) for row, several in enumerate(drawn) for word in several]
    tokens = np.concatenate([tokens for tokens, _ in corpus.pieces()])
    counted = np.flatnonzero(~np.isin(tokens, corpus.special))
    if len(counted) != len(words):
        raise VariableError(
            f"the tokenizer makes {len(counted)} tokens of {len(words)} words: expected one a word"
        )
    names = list(dict.fromkeys(name for _, word in words for name in word.known))
    made: list[Variable] = []
    for name in names:
        here = [
            (place, word.known[name][0], (row, *word.known[name][1]))
            for place, (row, word) in zip(counted.tolist(), words, strict=True)
            if name in word.known
        ]
        values = sorted({value for _, value, _ in here})
        runs = {run: i for i, run in enumerate(dict.fromkeys(run for _, _, run in here))}
        at, run = np.full((2, len(tokens)), -1, dtype=np.int64)
        places = [place for place, _, _ in here]
        at[places] = [values.index(value) for _, value, _ in here]
        run[places] = [runs[which] for _, _, which in here]
        made.append(Variable(name, tuple(values), at, run))
    return tuple(made)
