"""The probabilistic grammar whose corpus trains `grammar-4l`, with exact string probabilities.

What is the lowest loss that any model can reach on this corpus? The grammar's own entropy. Here a
document is drawn together with its probability, and the entropy is computed from the choices.

1. A document is a random sequence with probability `SEQUENCE_SHARE`, else prose.
2. Prose is one to three sentences, drawn independently: a family by `FAMILY_SHARES`, then a
   sentence of it (`workbench.core.prompts.sentences`). After the first and after the second another
   one follows with probability one half.
3. A random sequence is a block of 4 to 12 different words, written two or three times. Words are
   uniform over those that may follow: not yet used, and no held-out neighbour on the left; the last
   word of a block also needs an allowed neighbour in the first word, which follows it.
4. <eos> ends the document. Every document has one derivation, so -log p is the sum over choices.

Units: nats; per token means per token after <bos>, <eos> included. The entropy of prose is a
closed form; that of sequences depends on which neighbours are excluded and is the mean of exact
-log p over a large sample, given with its standard error.

Limits: sentences of a document do not know of each other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import statistics
import string

from workbench.core.prompts import lexicon, sentences, tasks

N_CTX = 64
PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)

SEQUENCE_SHARE = 0.3
CONTINUE = 0.5
MOST_SENTENCES = 3
BLOCK_LENGTHS = tuple(range(4, 13))
REPEATS = (2, 3)

FAMILY_SHARES: dict[str, float] = {
    "indirect-object": 0.35,
    "pronoun-gender": 0.15,
    "agreement": 0.2,
    "greater-than": 0.2,
    "plain": 0.1,
}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text of the grammar.

    Attributes:
        words: Tokens, from <bos> to <eos>.
        neg_log_probability: Exact -log p in nats.
    """

    words: tuple[str, ...]
    neg_log_probability: float

    @property
    def predicted(self) -> int:
        """Number of tokens that are predicted: all but <bos>."""
        return len(self.words) - 1


def vocabulary() -> list[str]:
    """Every token, special ones first, then alphabetically: the order is the token id."""
    words = set(lexicon.TWO_DIGITS) | set(lexicon.SEQUENCE_WORDS) | set(lexicon.NAMES)
    words |= set(lexicon.NOUNS) | set(lexicon.NOUNS.values()) | set(lexicon.PERSONS)
    for filler in lexicon.FILLERS.values():
        words |= set(filler)
    for family in sentences.FAMILIES:
        for frame in family.frames:
            words |= _fixed_words(frame)
    return [*SPECIAL, *sorted(words | {"he", "she", "is", "are"})]


def _fixed_words(frame: sentences.Frame) -> set[str]:
    pieces = string.Formatter().parse(frame.prompt + frame.rest)
    return {word for literal, _, _, _ in pieces for word in lexicon.split_words(literal)}


def sample(rng: random.Random) -> Document:
    """Draw a document from the training grammar.

    Args:
        rng: Source of every choice.

    Returns:
        Its tokens and exact -log p.
    """
    if rng.random() < SEQUENCE_SHARE:
        return sample_sequence(rng)
    words, cost = [BOS], -math.log(1 - SEQUENCE_SHARE)
    for number in range(1, MOST_SENTENCES + 1):
        (name,) = rng.choices(list(FAMILY_SHARES), list(FAMILY_SHARES.values()))
        drawn = _FAMILIES[name].draw(rng)
        words += lexicon.split_words(drawn.text)
        cost -= math.log(FAMILY_SHARES[name]) + drawn.log_probability
        if number == MOST_SENTENCES:
            break
        goes_on = rng.random() < CONTINUE
        cost -= math.log(CONTINUE if goes_on else 1 - CONTINUE)
        if not goes_on:
            break
    return Document((*words, EOS), cost)


def sample_sequence(rng: random.Random) -> Document:
    """Draw a document that is a random sequence.

    Args:
        rng: Source of every choice.

    Returns:
        Its tokens and exact -log p, the choice of a sequence over prose included.
    """
    length, repeats = rng.choice(BLOCK_LENGTHS), rng.choice(REPEATS)
    block, cost = _sample_block(length, rng)
    return Document((BOS, *block * repeats, EOS), cost + _shape_cost())


def _shape_cost() -> float:
    """-log p of choosing a sequence, the length of its block and how often it is written."""
    return -math.log(SEQUENCE_SHARE) + math.log(len(BLOCK_LENGTHS)) + math.log(len(REPEATS))


def _sample_block(length: int, rng: random.Random) -> tuple[list[str], float]:
    block: list[str] = []
    cost = 0.0
    for position in range(length):
        candidates = next_words(block, last=position == length - 1)
        cost += math.log(len(candidates))
        block.append(rng.choice(candidates))
    return block, cost


def next_words(block: list[str], *, last: bool) -> list[str]:
    """Words that may continue a block of a random sequence.

    Args:
        block: The words so far.
        last: Whether the block ends with the next word, so that the first one follows it.

    Returns:
        The candidates in a fixed order; all are equally probable.
    """
    used = set(block)
    following = tasks.followers(block[-1]) if block else lexicon.SEQUENCE_WORDS
    found = [word for word in following if word not in used]
    if last:
        leading = tasks.leaders(block[0])
        found = [word for word in found if word in leading]
    return found


_FAMILIES = {family.name: family for family in sentences.FAMILIES}


def sentence_entropy() -> float:
    """Exact entropy of a prose sentence in nats."""
    return sum(
        share * (_FAMILIES[name].entropy() - math.log(share))
        for name, share in FAMILY_SHARES.items()
    )


def _mean_sentences() -> float:
    return sum(CONTINUE**number for number in range(MOST_SENTENCES))


def prose_entropy() -> float:
    """Exact entropy of a prose document in nats, given that it is prose."""
    stop = -CONTINUE * math.log(CONTINUE) - (1 - CONTINUE) * math.log(1 - CONTINUE)
    decisions = sum(CONTINUE**number for number in range(MOST_SENTENCES - 1))
    return decisions * stop + _mean_sentences() * sentence_entropy()


def mean_tokens() -> float:
    """Exact expected number of predicted tokens of a document."""
    sentence = sum(s * _FAMILIES[name].mean_words() for name, s in FAMILY_SHARES.items())
    prose = _mean_sentences() * sentence
    block = sum(BLOCK_LENGTHS) / len(BLOCK_LENGTHS)
    sequence = block * sum(REPEATS) / len(REPEATS)
    return (1 - SEQUENCE_SHARE) * prose + SEQUENCE_SHARE * sequence + 1


@dataclasses.dataclass(frozen=True)
class Entropy:
    """Entropy per predicted token.

    Attributes:
        value: Nats per token: H(document) / E[tokens].
        standard_error: Of the part that is a sample mean; the rest is exact.
        n: Size of that sample.
    """

    value: float
    standard_error: float
    n: int


@functools.cache
def entropy_per_token(n: int = 18_000, seed: int = 0) -> Entropy:
    """Entropy of the grammar per predicted token.

    Args:
        n: Random blocks over which their part is averaged, equally many of each length.
        seed: Of that sample.

    Returns:
        Closed form for prose, sample mean of exact -log p for the blocks of random sequences.
    """
    rng = random.Random(seed)
    each = n // len(BLOCK_LENGTHS)
    means: list[float] = []
    variance = 0.0
    for length in BLOCK_LENGTHS:
        costs = [_sample_block(length, rng)[1] for _ in range(each)]
        means.append(statistics.fmean(costs))
        variance += statistics.variance(costs) / each
    sequence = _shape_cost() + statistics.fmean(means)
    prose = prose_entropy() - math.log(1 - SEQUENCE_SHARE)
    document = (1 - SEQUENCE_SHARE) * prose + SEQUENCE_SHARE * sequence
    error = SEQUENCE_SHARE * math.sqrt(variance) / len(BLOCK_LENGTHS)
    return Entropy(document / mean_tokens(), error / mean_tokens(), each * len(BLOCK_LENGTHS))
