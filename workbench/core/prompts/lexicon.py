"""The words that tasks and the bundled grammar are made of, and how a text splits into words.

Every word is common and short, so that ordinary tokenizers hold it as one token. Nouns that follow
"a" begin with a consonant. Lists are tuples: their order is part of what a seed determines.

1. `split_words` cuts a text into words, pairs of digits and punctuation marks.
2. `FILLERS` are the slots of a sentence that may be filled with any of their words; everything that
   decides an answer (names, subjects, years) is chosen in `sentences` instead.

Limits: English only; years have four digits, and grammatical gender here is the one that the names
and nouns are usually given.
"""

from __future__ import annotations

import re

# Four-digit years become two tokens, as most tokenizers have it ("1732" -> "17", "32").
WORD_PATTERN = r"\d{2}|\w+|[^\w\s]"

FEMALE_NAMES = tuple(
    "Mary Sarah Jessica Jennifer Amanda Elizabeth Nicole Melissa Rachel Laura Amy Michelle Emily "
    "Rebecca Samantha Angela Katherine Lisa Katie Christine".split()
)
MALE_NAMES = tuple(
    "John Michael Matthew Joshua Daniel David James Robert Joseph Andrew William Anthony Eric Adam "
    "Kevin Thomas Richard Mark Paul Charles".split()
)
NAMES = FEMALE_NAMES + MALE_NAMES

FEMALE_PERSONS = tuple("girl woman queen mother sister daughter wife aunt lady princess".split())
MALE_PERSONS = tuple("boy man king father brother son husband uncle lord prince".split())
PERSONS = FEMALE_PERSONS + MALE_PERSONS

_NOUN_PAIRS = (
    "key/keys book/books letter/letters picture/pictures box/boxes cup/cups plate/plates "
    "table/tables chair/chairs window/windows door/doors cabinet/cabinets lamp/lamps "
    "clock/clocks car/cars truck/trucks boat/boats house/houses tree/trees flower/flowers "
    "dog/dogs cat/cats horse/horses bird/birds coat/coats hat/hats shoe/shoes bag/bags "
    "bottle/bottles guitar/guitars"
)
# Singular -> plural; subjects and distractors of the agreement sentences.
NOUNS: dict[str, str] = {
    singular: plural for singular, plural in (pair.split("/") for pair in _NOUN_PAIRS.split())
}

EVENTS = tuple(
    "war siege trial project strike famine journey drought festival debate plague search".split()
)
CENTURIES = tuple(str(century) for century in range(11, 20))
TWO_DIGITS = tuple(f"{number:02d}" for number in range(100))

FILLERS: dict[str, tuple[str, ...]] = {
    "place": tuple(
        "store park school market station garden office library church hospital beach museum "
        "theater restaurant farm bridge".split()
    ),
    "gift": tuple(
        "drink book ring letter flower basket ticket coin hat bottle card map kiss snack "
        "present necklace".split()
    ),
    "feeling": tuple(
        "tired happy sad angry hungry late bored lonely sick busy nervous curious".split()
    ),
    "quality": tuple(
        "old new red green heavy broken clean dirty expensive beautiful small ready".split()
    ),
    "name": NAMES,
    "person": PERSONS,
    "event": EVENTS,
}

_MORE_WORDS = tuple(
    (
        "apple river stone cloud engine paper silver winter summer forest mountain ocean island "
        "desert valley music dance story dream shadow mirror candle pencil hammer ladder button "
        "pocket blanket pillow kitchen butter cheese bread sugar coffee lemon orange banana potato "
        "tomato rabbit monkey tiger eagle snake spider turtle whale lion wolf metal glass cotton "
        "leather rubber plastic wood iron gold copper north south east west morning evening "
        "midnight yesterday tomorrow circle square triangle yellow purple brown black white "
        "doctor teacher lawyer soldier driver singer artist writer"
    ).split()
)

# What random sequences are drawn from: lower-case words of every kind, each once.
SEQUENCE_WORDS = tuple(
    dict.fromkeys(
        [*_MORE_WORDS, *NOUNS, *FILLERS["place"], *FILLERS["quality"], *FILLERS["feeling"]]
    )
)


def split_words(text: str) -> list[str]:
    """Words, two-digit groups and punctuation marks of a text, in order.

    Args:
        text: Any English text.

    Returns:
        The pieces without white space, e.g. ["In", "17", "32", ","] for "In 1732,".
    """
    return re.findall(WORD_PATTERN, text)


def is_female(word: str) -> bool:
    """Whether a name or person noun of this lexicon is female.

    Args:
        word: A word of `NAMES` or `PERSONS`.

    Returns:
        True for the female lists, False for the male ones.

    Raises:
        ValueError: If the word is in none of them.
    """
    if word in FEMALE_NAMES or word in FEMALE_PERSONS:
        return True
    if word in MALE_NAMES or word in MALE_PERSONS:
        return False
    raise ValueError(f"{word!r} is neither a name nor a person of the lexicon")
