"""Named tasks: contrast prompts for behaviours whose right answer is known by construction.

Which prompts isolate one behaviour? Each task makes pairs of prompts that differ in the words that
decide the answer and in nothing else.

1. A clean prompt is drawn from one of the task's templates and, where words are combined (names,
   nouns, years), from a split: "held-out" combinations never occur in the bundled models' training.
2. The corrupted prompt changes what decides the answer, and keeps the number of words.
3. `answer` is right for the clean prompt. `wrong_answer` is right for the corrupted one, with one
   exception: where answers are ordered ("greater-than") no year is right for one prompt and wrong
   for the other in both directions, so the corrupted prompt makes both answers equally right.

Sources: Wang et al. 2022, arXiv 2211.00593 (indirect object); Mathwin et al. 2023 (pronoun gender);
Linzen et al. 2016, arXiv 1611.01368 (agreement); Olsson et al. 2022, arXiv 2209.11895 (induction);
Hanna et al. 2023, arXiv 2305.00586 (greater-than); Nanda et al. 2023, arXiv 2301.05217 (addition).

Limits: prompts are English (or sums). A tokenizer that splits some of the words gives pairs of
unequal length for those; whoever streams the pairs leaves them out. Texts only: importing this
module loads neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Literal

from workbench.core.prompts import lexicon, sentences
from workbench.core.prompts.sentences import Combination, Family, Sentence, Split

# How many draws may repeat an earlier pair for each new one before a task counts as exhausted.
_PATIENCE = 1_000

SEQUENCE_LENGTHS = tuple(range(5, 11))

MODULUS = 113

Criterion = Literal["top token", "beats wrong answer"]


Characters = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class TextSpan:
    """What a part of both prompts is called.

    Attributes:
        name: As a researcher calls it.
        clean: Its first character in the clean prompt and the one after its last.
        corrupted: The same in the corrupted prompt.
    """

    name: str
    clean: Characters
    corrupted: Characters


@dataclasses.dataclass(frozen=True)
class TextPair:
    """A clean and a corrupted prompt with the answers that tell them apart.

    Attributes:
        clean: Prompt to which `answer` is right.
        corrupted: Prompt of the same number of words to which it is not.
        answer: Next word after the clean prompt, with its leading space if it has one.
        wrong_answer: Next word after the corrupted prompt, likewise.
        combination: What the split was decided by: task, template and the words combined.
        template: Pairs of one template have the same words in the same roles and places.
        spans: Parts of the prompts that have a name in this task, the same in each of its pairs.
    """

    clean: str
    corrupted: str
    answer: str
    wrong_answer: str
    combination: Combination
    template: str
    spans: tuple[TextSpan, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """A behaviour and the rule that makes contrast pairs for it.

    Attributes:
        name: As it is asked for.
        title: A few words.
        question: What one wants to know of a model, in plain words.
        description: What clean and corrupted prompts are.
        chance: Accuracy of a guess among the words that fit.
        criterion: When a model counts as right: its most probable token of all is the answer, or
            (where several answers are right) the answer is more probable than the wrong answer.
        draw: Makes one pair from a split.
    """

    name: str
    title: str
    question: str
    description: str
    chance: float
    criterion: Criterion
    draw: Callable[[random.Random, Split], TextPair] = dataclasses.field(repr=False)

    def stream(self, seed: int = 0, split: Split = "held-out") -> Iterator[TextPair]:
        """Pairs without end, repeats possible.

        Args:
            seed: Equal seeds give equal pairs on every machine.
            split: "held-out", "training" or "all" combinations.

        Yields:
            One pair after the other.
        """
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            yield self.draw(rng, split)

    def pairs(self, n: int, *, seed: int = 0, split: Split = "held-out") -> list[TextPair]:
        """A number of different pairs.

        Args:
            n: How many.
            seed: Equal seeds give equal pairs; a larger n only adds to them.
            split: "held-out", "training" or "all" combinations.

        Returns:
            The first n different pairs of `stream`.

        Raises:
            ValueError: If the task has fewer different pairs.
        """
        found: dict[TextPair, None] = {}
        for pair in itertools.islice(self.stream(seed, split), n * _PATIENCE):
            if len(found) == n:
                break
            found[pair] = None
        if len(found) < n:
            raise ValueError(
                f"task {self.name!r} has no {n} different {split} pairs; found {len(found)}"
            )
        return list(found)


def get_task(name: str) -> Task:
    """The task of a name.

    Args:
        name: One of `TASKS`.

    Returns:
        The task.

    Raises:
        ValueError: If there is none, naming the nearest and all of them.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no task is called {name!r}; {guess}the tasks are {', '.join(TASKS)}")


# What a part of a prompt is called, and the slots of the frame that it is made of, in order; of the
# slots that name the same thing in different frames, those that the frame has.
_NAMED_SLOTS = {
    "indirect-object": {
        "first name": ("first",),
        "second name": ("second",),
        "giver again": ("giver",),
    },
    "pronoun-gender": {"person": ("someone", "relative")},
    "agreement": {"the subject": ("subject",), "nearer noun": ("distractor",)},
    "greater-than": {"start year": ("century", "start"), "last two digits": ("start",)},
}


def _pair(
    family: Family, clean: Sentence, corrupted: Sentence, wrong_answer: str, variant: str = ""
) -> TextPair:
    return TextPair(
        clean=clean.prompt,
        corrupted=corrupted.prompt,
        answer=clean.answer,
        wrong_answer=wrong_answer,
        combination=family.identity(clean.frame, clean.combination),
        template=f"{clean.frame.name}-{variant}" if variant else clean.frame.name,
        spans=_spans(family, clean, corrupted),
    )


def _spans(family: Family, clean: Sentence, corrupted: Sentence) -> tuple[TextSpan, ...]:
    places = (family.places(clean), family.places(corrupted))
    found: list[TextSpan] = []
    for name, slots in _NAMED_SLOTS[family.name].items():
        used = [slot for slot in slots if slot in places[0]]
        both = [(place[used[0]][0], place[used[-1]][1]) for place in places]
        found.append(TextSpan(name, both[0], both[1]))
    return tuple(found)


def _indirect_object(rng: random.Random, split: Split) -> TextPair:
    family = sentences.INDIRECT_OBJECT
    clean = family.draw(rng, split)
    gives_first = clean.options["giver_is"] == "first"
    flipped = {**clean.options, "giver_is": "second" if gives_first else "first"}
    corrupted = family.sentence(clean.frame, clean.combination, flipped)
    order = "BABA" if gives_first else "ABBA"
    return _pair(family, clean, corrupted, corrupted.answer, order)


def _pronoun_gender(rng: random.Random, split: Split) -> TextPair:
    family = sentences.PRONOUN_GENDER
    while True:
        clean = family.draw(rng, split)
        person, thing = clean.combination
        female = lexicon.is_female(person)
        pool = family.pool(clean.frame, split)
        others = [p for p, t in pool if t == thing and lexicon.is_female(p) != female]
        # The split may hold people of one gender only with this place or thing: draw again.
        if others:
            break
    corrupted = family.sentence(clean.frame, (rng.choice(others), thing), clean.options)
    return _pair(family, clean, corrupted, corrupted.answer)


def _agreement(rng: random.Random, split: Split) -> TextPair:
    family = sentences.AGREEMENT
    clean = family.draw(rng, split)
    plural = clean.options["subject_number"] == "plural"
    flipped = {**clean.options, "subject_number": "singular" if plural else "plural"}
    corrupted = family.sentence(clean.frame, clean.combination, flipped)
    return _pair(family, clean, corrupted, corrupted.answer)


def _greater_than(rng: random.Random, split: Split) -> TextPair:
    family = sentences.GREATER_THAN
    while True:
        clean = family.draw(rng, split)
        century, start = clean.combination
        pool = family.pool(clean.frame, split)
        earlier = [year for c, year in pool if c == century and year < start]
        if earlier:
            break
    corrupted = family.sentence(clean.frame, (century, rng.choice(earlier)), clean.options)
    # At most the clean year, and greater than the corrupted one.
    wrong = rng.choice(lexicon.TWO_DIGITS[int(corrupted.combination[1]) + 1 : int(start) + 1])
    return _pair(family, clean, corrupted, wrong)


@functools.cache
def followers(word: str) -> tuple[str, ...]:
    """Words that may follow a word in a random sequence of the training corpus.

    Args:
        word: One of the lexicon's sequence words.

    Returns:
        All other sequence words, except those that are held out as its right neighbour.
    """
    return tuple(
        w for w in lexicon.SEQUENCE_WORDS if w != word and not _neighbours_held_out(word, w)
    )


@functools.cache
def leaders(word: str) -> frozenset[str]:
    """Words that a word may follow in a random sequence of the training corpus.

    Args:
        word: One of the lexicon's sequence words.

    Returns:
        Those in whose `followers` it is.
    """
    others = [w for w in lexicon.SEQUENCE_WORDS if w != word]
    return frozenset(w for w in others if not _neighbours_held_out(w, word))


def _neighbours_held_out(left: str, right: str) -> bool:
    return sentences.is_held_out(("induction", left, right))


@functools.cache
def _successors(word: str, split: Split) -> tuple[str, ...]:
    if split == "training":
        return followers(word)
    others = [w for w in lexicon.SEQUENCE_WORDS if w != word]
    if split == "all":
        return tuple(others)
    return tuple(w for w in others if _neighbours_held_out(word, w))


def _induction(rng: random.Random, split: Split) -> TextPair:
    length = rng.choice(SEQUENCE_LENGTHS)
    cut = length // 2
    block = rng.sample(lexicon.SEQUENCE_WORDS, length)
    # The prompt ends with block[cut - 1]; only what follows this word belongs to the split.
    successors = [w for w in _successors(block[cut - 1], split) if w not in block]
    answer, wrong_answer = rng.sample(successors, 2)
    prompts = [
        " ".join([*block[:cut], word, *block[cut + 1 :], *block[:cut]])
        for word in (answer, wrong_answer)
    ]
    before = len(" ".join(block[:cut]))
    prefix = (before - len(block[cut - 1]), before)
    answers = [(before + 1, before + 1 + len(word)) for word in (answer, wrong_answer)]
    return TextPair(
        clean=prompts[0],
        corrupted=prompts[1],
        answer=f" {answer}",
        wrong_answer=f" {wrong_answer}",
        combination=("induction", block[cut - 1], answer),
        template=f"{length}-words",
        spans=(
            TextSpan("prefix before", prefix, prefix),
            TextSpan("answer before", answers[0], answers[1]),
        ),
    )


@functools.cache
def _sums(split: Split) -> frozenset[tuple[int, int]]:
    from workbench.core.modular.tasks import Task

    # The split that the bundled modadd-113 was trained on.
    task = Task(p=MODULUS)
    pairs, (train, test) = task.pairs(), task.split()
    parts = {"training": pairs[train], "held-out": pairs[test], "all": pairs}
    return frozenset((a, b) for a, b in parts[split].tolist())


@functools.cache
def _ordered_sums(split: Split) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(_sums(split)))


def _modular_addition(rng: random.Random, split: Split) -> TextPair:
    a, b = rng.choice(_ordered_sums(split))
    others = [c for c in range(MODULUS) if c != b and (a, c) in _sums(split)]
    c = rng.choice(others)
    first = (0, len(str(a)))
    second = len(f"{a} + ")
    seconds = [(second, second + len(str(number))) for number in (b, c)]
    return TextPair(
        clean=f"{a} + {b} =",
        corrupted=f"{a} + {c} =",
        answer=f" {(a + b) % MODULUS}",
        wrong_answer=f" {(a + c) % MODULUS}",
        combination=("modular-addition", "sum", str(a), str(b)),
        template="sum",
        spans=(
            TextSpan("first number", first, first),
            TextSpan("second number", seconds[0], seconds[1]),
        ),
    )


_TASKS = (
    Task(
        name="indirect-object",
        title="Indirect object",
        question="Does the model know who receives the gift?",
        description=(
            "Two people are named and one of them gives something, so the other one receives it "
            "(ABBA and BABA orders). The corrupted prompt lets the other one give."
        ),
        chance=0.5,
        criterion="top token",
        draw=_indirect_object,
    ),
    Task(
        name="pronoun-gender",
        title="Pronoun gender",
        question="Does the model pick the pronoun that fits the person?",
        description=(
            "A person does something 'because' she or he … The corrupted prompt names a person of "
            "the other gender."
        ),
        chance=0.5,
        criterion="top token",
        draw=_pronoun_gender,
    ),
    Task(
        name="agreement",
        title="Subject-verb agreement",
        question="Does the verb agree with its subject when another noun stands between?",
        description=(
            "'The keys near the cabinet' is followed by 'are', whatever the number of the nearer "
            "noun. The corrupted prompt changes the number of the subject only."
        ),
        chance=0.5,
        criterion="top token",
        draw=_agreement,
    ),
    Task(
        name="induction",
        title="Induction",
        question="Does the model continue a random sequence that it has seen once before?",
        description=(
            "Random words, then the same words again: what came next the first time comes next "
            "now. The corrupted prompt has another word at that place of the first round."
        ),
        chance=sum(1 / length for length in SEQUENCE_LENGTHS) / len(SEQUENCE_LENGTHS),
        criterion="top token",
        draw=_induction,
    ),
    Task(
        name="greater-than",
        title="Greater-than",
        question="Does the model know that a later year is a greater number?",
        description=(
            "Something lasts from 1732 to 17…: the next two digits must be greater than 32. The "
            "corrupted prompt begins in an earlier year, from which the wrong answer is as right "
            "as the answer: the true logit difference falls to 0 and does not turn around."
        ),
        chance=0.5,
        criterion="beats wrong answer",
        draw=_greater_than,
    ),
    Task(
        name="modular-addition",
        title=f"Addition modulo {MODULUS}",
        question=f"Does the model add modulo {MODULUS}?",
        description=(
            f"'12 + 57 =' is followed by the sum modulo {MODULUS}. The corrupted prompt changes "
            "the second number. Held out are the sums that modadd-113 was not trained on."
        ),
        chance=1 / MODULUS,
        criterion="top token",
        draw=_modular_addition,
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
