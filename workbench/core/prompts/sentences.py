"""Families of English sentences whose grammar decides one word: the source of tasks and corpus.

What is a sentence of the project's own language, and which combinations of its words are kept out
of training? A family is a set of frames (sentence patterns). A sentence is made in four uniform
choices, so its probability and its entropy are exact:

1. A frame of the family.
2. A combination: the words on which the answer depends (two names, two nouns, a year). A stable
   hash of (family, frame, words) puts `HELD_OUT_SHARE` of them into the held-out split, which no
   training sentence uses; the choice is uniform over those that remain.
3. The options that go with it: order of names, grammatical number, the year that is answered.
4. A word for each free slot (place, gift, quality, …).

Different choices give different sentences, and every sentence ends with a full stop, so a text has
one derivation at most; `tests/core/models/test_grammar.py` checks it.

Units: probabilities are handed out as natural logarithms (nats). Limits: "held out" means that the
combination never occurs in that frame; its words do occur, in other combinations and other frames.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
import itertools
import math
import random
import string
from collections.abc import Mapping
from typing import Literal

from workbench.core.prompts import lexicon

HELD_OUT_SHARE = 0.15

Split = Literal["training", "held-out", "all"]
Combination = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Frame:
    """A sentence pattern.

    Attributes:
        name: Unique within its family.
        prompt: The sentence up to the word that its grammar decides, with {slots}.
        rest: What follows, from "{answer}" on; `{answer}` carries its own leading space.
    """

    name: str
    prompt: str
    rest: str = "{answer}."

    @functools.cached_property
    def fillers(self) -> tuple[str, ...]:
        """Names of the slots that any word of their list may fill, in order."""
        fields = [field for _, field, _, _ in string.Formatter().parse(self.prompt + self.rest)]
        return tuple(field for field in fields if field in lexicon.FILLERS)


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One sentence of a family with the choices that made it.

    Attributes:
        family: Name of the family.
        frame: Its pattern.
        combination: The words that decide the answer.
        options: Every other choice, by slot.
        prompt: Text up to the answer.
        answer: The word that the grammar decides, with its leading space if it has one.
        text: The whole sentence, with its full stop.
        log_probability: Natural logarithm of its probability given the family.
    """

    family: str
    frame: Frame
    combination: Combination
    options: Mapping[str, str]
    prompt: str
    answer: str
    text: str
    log_probability: float


def is_held_out(combination: Combination) -> bool:
    """Whether a combination is kept out of training, by a hash that no machine or version changes.

    Args:
        combination: Family, frame and words.

    Returns:
        True for `HELD_OUT_SHARE` of all combinations.
    """
    digest = hashlib.sha256("\x1f".join(combination).encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


class Family(abc.ABC):
    """A set of frames with the rule that makes sentences from them.

    Attributes:
        name: Name of the family, and of its task.
        frames: The patterns.
    """

    name: str
    frames: tuple[Frame, ...]

    @abc.abstractmethod
    def combinations(self, frame: Frame) -> tuple[Combination, ...]:
        """All word combinations of a frame, held out or not."""

    @abc.abstractmethod
    def own_options(self, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Choices that a combination leaves open, apart from free slots."""

    @abc.abstractmethod
    def slots(self, combination: Combination, options: Mapping[str, str]) -> dict[str, str]:
        """Text of every slot that is not free, `answer` included."""

    def options(self, frame: Frame, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Every independent uniform choice once frame and combination are fixed.

        Args:
            frame: A pattern of this family.
            combination: One of its combinations.

        Returns:
            The possible values by name.
        """
        free = {slot: lexicon.FILLERS[slot] for slot in frame.fillers}
        return self.own_options(combination) | free

    def pool(self, frame: Frame, split: Split) -> tuple[Combination, ...]:
        """Combinations of a frame that belong to a split.

        Args:
            frame: A pattern of this family.
            split: "training", "held-out" or "all".

        Returns:
            The combinations in a fixed order.
        """
        return _pool(self, frame, split)

    def identity(self, frame: Frame, combination: Combination) -> Combination:
        """What is hashed for the split: family, frame and words."""
        return (self.name, frame.name, *combination)

    def sentence(
        self, frame: Frame, combination: Combination, options: Mapping[str, str]
    ) -> Sentence:
        """The sentence that a full set of choices makes, with its training probability.

        Args:
            frame: A pattern of this family.
            combination: One of its combinations.
            options: A value for each of `options(frame, combination)`.

        Returns:
            The sentence; its probability is 0 if the combination is held out.
        """
        slots = {**options, **self.slots(combination, options)}
        prompt = frame.prompt.format_map(slots)
        return Sentence(
            family=self.name,
            frame=frame,
            combination=combination,
            options=dict(options),
            prompt=prompt,
            answer=slots["answer"],
            text=prompt + frame.rest.format_map(slots),
            log_probability=self._log_probability(frame, combination),
        )

    def places(self, sentence: Sentence) -> dict[str, tuple[int, int]]:
        """Where the words of a sentence stand in its prompt.

        Args:
            sentence: A sentence of this family.

        Returns:
            For each slot of the frame the first character of its word and the one after the last;
            of a slot that occurs twice, the first time.
        """
        slots = {
            **sentence.options,
            **self.slots(sentence.combination, sentence.options),
        }
        found: dict[str, tuple[int, int]] = {}
        end = 0
        for literal, slot, _, _ in string.Formatter().parse(sentence.frame.prompt):
            start = end + len(literal)
            end = start + len(slots[slot]) if slot else start
            if slot:
                found.setdefault(slot, (start, end))
        return found

    def _log_probability(self, frame: Frame, combination: Combination) -> float:
        if combination not in _members(self, frame):
            return -math.inf
        ways = len(self.frames) * len(self.pool(frame, "training"))
        return -math.log(ways) - self._options_entropy(frame, combination)

    def draw(self, rng: random.Random, split: Split = "training") -> Sentence:
        """A random sentence whose combination belongs to a split.

        Args:
            rng: Source of every choice.
            split: Where to take the combination from.

        Returns:
            The sentence.
        """
        frame = rng.choice([frame for frame in self.frames if self.pool(frame, split)])
        return self.draw_in(frame, rng, split)

    def draw_in(self, frame: Frame, rng: random.Random, split: Split = "training") -> Sentence:
        """A random sentence of one frame.

        Args:
            frame: A pattern of this family.
            rng: Source of every other choice.
            split: Where to take the combination from.

        Returns:
            The sentence.
        """
        combination = rng.choice(self.pool(frame, split))
        choices = self.options(frame, combination).items()
        return self.sentence(frame, combination, {slot: rng.choice(v) for slot, v in choices})

    def all_sentences(self) -> list[Sentence]:
        """Every training sentence; only for families small enough to be enumerated."""
        found: list[Sentence] = []
        for frame in self.frames:
            for combination in self.pool(frame, "training"):
                open_choices = self.options(frame, combination)
                for values in itertools.product(*open_choices.values()):
                    chosen = dict(zip(open_choices, values, strict=True))
                    found.append(self.sentence(frame, combination, chosen))
        return found

    def entropy(self) -> float:
        """Exact entropy of a training sentence in nats."""
        per_frame = [
            math.log(len(pool))
            + sum(self._options_entropy(frame, combination) for combination in pool) / len(pool)
            for frame in self.frames
            for pool in [self.pool(frame, "training")]
        ]
        return math.log(len(self.frames)) + sum(per_frame) / len(per_frame)

    def _options_entropy(self, frame: Frame, combination: Combination) -> float:
        return sum(math.log(len(values)) for values in self.options(frame, combination).values())

    def mean_words(self) -> float:
        """Exact expected number of words of a training sentence, full stop included.

        The number of words depends on the frame alone, because every slot is one word.
        """
        counts = [
            len(lexicon.split_words(self.draw_in(frame, random.Random(0)).text))
            for frame in self.frames
        ]
        return sum(counts) / len(counts)


@functools.cache
def _pool(family: Family, frame: Frame, split: Split) -> tuple[Combination, ...]:
    members = family.combinations(frame)
    if split == "all":
        return members
    wanted = split == "held-out"
    return tuple(c for c in members if is_held_out(family.identity(frame, c)) == wanted)


@functools.cache
def _members(family: Family, frame: Frame) -> frozenset[Combination]:
    return frozenset(family.pool(frame, "training"))


class IndirectObject(Family):
    """Two people, one gives something: to the other one.

    Combination: the two names in alphabetical order. Options: which is named first, and which of
    the two gives ("first": BABA, "second": ABBA).
    """

    name = "indirect-object"
    frames = tuple(
        Frame(name, f"{scene} {{giver}} {gives} a {{gift}} to")
        for name, scene, gives in (
            ("went", "When {first} and {second} went to the {place},", "gave"),
            ("arrived", "After {first} and {second} arrived at the {place},", "handed"),
            ("talked", "Then {first} and {second} had a long talk at the {place}, and", "offered"),
            ("met", "Yesterday {first} and {second} met near the {place}, and", "showed"),
            ("friends", "Because {first} and {second} are good friends,", "brought"),
            ("walked", "While {first} and {second} walked home from the {place},", "passed"),
        )
    )

    def combinations(self, frame: Frame) -> tuple[Combination, ...]:
        """All unordered pairs of different names."""
        return tuple(itertools.combinations(sorted(lexicon.NAMES), 2))

    def own_options(self, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Who is named first, and which mention gives."""
        return {"first": combination, "giver_is": ("first", "second")}

    def slots(self, combination: Combination, options: Mapping[str, str]) -> dict[str, str]:
        """Names in their places; the answer is the one who does not give."""
        first = options["first"]
        second = combination[1] if first == combination[0] else combination[0]
        gives_first = options["giver_is"] == "first"
        giver, other = (first, second) if gives_first else (second, first)
        return {"first": first, "second": second, "giver": giver, "answer": f" {other}"}


class PronounGender(Family):
    """A person does something because she or he feels something.

    Combination: the person, and the place or thing that the frame has.
    """

    name = "pronoun-gender"
    frames = tuple(
        Frame(name, prompt, "{answer} was {feeling}.")
        for name, prompt in {
            "left": "Yesterday {someone} left the {somewhere} because",
            "stayed": "Last night {someone} stayed at the {somewhere} because",
            "bought": "This morning {someone} bought a {something} because",
            "looked": "On Monday {someone} went to the {somewhere} because",
            "the-left": "The {relative} left the {somewhere} because",
            "the-stayed": "The {relative} stayed at the {somewhere} all day because",
            "the-bought": "The {relative} bought a {something} because",
            "the-walked": "The {relative} walked to the {somewhere} because",
        }.items()
    )

    def combinations(self, frame: Frame) -> tuple[Combination, ...]:
        """All names (or person nouns where the frame has an article) with all places or things."""
        people = lexicon.NAMES if "{someone}" in frame.prompt else lexicon.PERSONS
        filler = "place" if "{somewhere}" in frame.prompt else "gift"
        return tuple(itertools.product(people, lexicon.FILLERS[filler]))

    def own_options(self, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Nothing is left open."""
        return {}

    def slots(self, combination: Combination, options: Mapping[str, str]) -> dict[str, str]:
        """The person, and the pronoun that goes with it."""
        person, other = combination
        answer = " she" if lexicon.is_female(person) else " he"
        slots = {"someone": person, "relative": person, "somewhere": other, "something": other}
        return slots | {"answer": answer}


class Agreement(Family):
    """A verb agrees with its subject across a noun that stands nearer.

    Combination: subject and distractor (singular forms). Options: the number of each.
    """

    name = "agreement"
    frames = tuple(
        Frame(
            name.replace(" ", "-"),
            f"The {{subject}} {name} the {{distractor}}",
            "{answer} {quality}.",
        )
        for name in ("near", "behind", "beside", "next to", "in front of", "with")
    )

    def combinations(self, frame: Frame) -> tuple[Combination, ...]:
        """All ordered pairs of different nouns."""
        return tuple(itertools.permutations(lexicon.NOUNS, 2))

    def own_options(self, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Number of subject and distractor."""
        numbers = ("singular", "plural")
        return {"subject_number": numbers, "distractor_number": numbers}

    def slots(self, combination: Combination, options: Mapping[str, str]) -> dict[str, str]:
        """The nouns in their numbers, and the verb in the subject's."""
        subject, distractor = combination
        plural = options["subject_number"] == "plural"
        return {
            "subject": lexicon.NOUNS[subject] if plural else subject,
            "distractor": (
                lexicon.NOUNS[distractor]
                if options["distractor_number"] == "plural"
                else distractor
            ),
            "answer": " are" if plural else " is",
        }


class GreaterThan(Family):
    """Something lasts from one year to a later year of the same century.

    Combination: century and first year (02 to 98). Options: the later year, uniform over all that
    are greater, so the true next-token distribution is known.
    """

    name = "greater-than"
    frames = tuple(
        Frame(name, f"The {{event}} {begins} {{century}}{{start}} {ends} {{century}}")
        for name, begins, ends in (
            ("lasted", "lasted from the year", "to the year"),
            ("began", "began in", "and ended in"),
            ("started", "that started in the year", "was over by"),
        )
    )

    def combinations(self, frame: Frame) -> tuple[Combination, ...]:
        """All centuries with all first years."""
        return tuple(itertools.product(lexicon.CENTURIES, lexicon.TWO_DIGITS[2:99]))

    def own_options(self, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Every greater year."""
        return {"answer": lexicon.TWO_DIGITS[int(combination[1]) + 1 :]}

    def slots(self, combination: Combination, options: Mapping[str, str]) -> dict[str, str]:
        """The years; the answer continues the century's digits, so it has no leading space."""
        century, start = combination
        return {"century": century, "start": start, "answer": options["answer"]}


class Plain(Family):
    """Simple sentences for variety, nothing held out."""

    name = "plain"
    frames = (
        Frame("likes", "{name} likes the {place}", "."),
        Frame("knows", "Every {person} knows {name}", "."),
        Frame("found", "The {person} found a {gift} near the {place}", "."),
        Frame("saw", "{name} saw the {person} at the {place}", "."),
        Frame("simple", "The {subject}", "{answer} {quality}."),
    )

    def combinations(self, frame: Frame) -> tuple[Combination, ...]:
        """The nouns for the one frame with a noun, else nothing to choose."""
        return tuple((noun,) for noun in lexicon.NOUNS) if "{subject}" in frame.prompt else ((),)

    def own_options(self, combination: Combination) -> dict[str, tuple[str, ...]]:
        """Number of the noun."""
        return {"subject_number": ("singular", "plural")} if combination else {}

    def slots(self, combination: Combination, options: Mapping[str, str]) -> dict[str, str]:
        """The noun in its number and the verb that agrees with it."""
        if not combination:
            return {"answer": ""}
        plural = options["subject_number"] == "plural"
        noun = lexicon.NOUNS[combination[0]] if plural else combination[0]
        return {"subject": noun, "answer": " are" if plural else " is"}

    def pool(self, frame: Frame, split: Split) -> tuple[Combination, ...]:
        """All combinations, whatever the split: nothing is held out here."""
        return _pool(self, frame, "all")


INDIRECT_OBJECT = IndirectObject()
PRONOUN_GENDER = PronounGender()
AGREEMENT = Agreement()
GREATER_THAN = GreaterThan()
PLAIN = Plain()
FAMILIES: tuple[Family, ...] = (INDIRECT_OBJECT, PRONOUN_GENDER, AGREEMENT, GREATER_THAN, PLAIN)
