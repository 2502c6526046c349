"""Documents in Markdown, read as a person follows them: what is code runs, what is said is checked.

1. `blocks` are the fenced blocks of a document; `files` those that stand below the name of a file.
2. `follow` runs the Python blocks one after another, in one namespace. Where a `text` block comes
   next, it is what was printed: word by word, numbers within a tolerance. "..." stands for
   anything.
3. `claims` are the numbers that the prose states. `is_shown` says whether one of them is among
   numbers that were printed, rounded as the prose rounds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Of a printed number: BLAS libraries and processors differ in what they round.
RELATIVE = 0.02
ANYTHING = "..."

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_NAMED = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[-+]?\d+)?")
_LINK = re.compile(r"\]\([^)]*\)|<?https?://\S+|arXiv[: ]\d{4}\.\d{4,5}")
_CODE = re.compile(r"`[^`]*`")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a document.

    Attributes:
        language: What stands behind the fence.
        text: What is between the fences.
    """

    language: str
    text: str


def read(path: str) -> str:
    """A document by its path in the checkout."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text: str, language: str | None = None) -> list[Block]:
    """The fenced blocks of a document in their order, of one language or of all."""
    found = [Block(*match) for match in _FENCE.findall(text)]
    return [one for one in found if language in (None, one.language)]


def scripts(text: str) -> list[str]:
    """The Python blocks of a document."""
    return [one.text for one in blocks(text, "python")]


def commands(text: str) -> list[str]:
    """The lines of its shell blocks."""
    shell = (one.text for one in blocks(text, "sh"))
    return [line for block in shell for line in block.strip().splitlines()]


def files(text: str) -> dict[str, str]:
    """Content of each file of which the name and a colon stand above a block."""
    return dict(_NAMED.findall(text))


def pictures(text: str) -> list[str]:
    """Where the pictures of a document lie, as it says it."""
    return re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)


def follow(text: str) -> list[str]:
    """Run a document; gives what each Python block printed.

    Raises:
        AssertionError: If a text block is not what the block before it printed.
    """
    namespace: dict[str, Any] = {}
    said: list[str] = []
    script = ""
    for block in blocks(text):
        if block.language == "python":
            script = block.text
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(script, "the document", "exec"), namespace)
            said.append(out.getvalue())
        elif block.language == "text":
            difference = first_difference(block.text, said[-1])
            assert difference is None, f"{difference}\nof\n{script}\nwhich printed\n{said[-1]}"
    return said


def first_difference(expected: str, found: str) -> str | None:
    """Where two texts part: words that differ, or numbers beyond the tolerance.

    Args:
        expected: What the document says; "..." stands for anything.
        found: What was printed.

    Returns:
        A sentence, or None where they agree.
    """
    pieces = [piece.split() for piece in expected.split(ANYTHING)]
    rest = found.split()
    for i, piece in enumerate(pieces):
        # The first piece begins the text, the last one ends it, others are somewhere in between.
        starts: Iterable[int] = range(len(rest) - len(piece) + 1)
        if i == 0:
            starts = [0]
        elif i == len(pieces) - 1:
            starts = [len(rest) - len(piece)]
        place = next((at for at in starts if _alike(piece, rest[max(at, 0) :])), None)
        if place is None:
            at = max(next(iter(starts), 0), 0)
            wrong = next(
                (pair for pair in zip(piece, rest[at:], strict=False) if not _same(*pair)),
                (" ".join(piece), "less than that"),
            )
            return f"the document says {wrong[0]!r}, and what was printed is {wrong[1]!r}"
        rest = rest[place + len(piece) :]
    return f"more was printed: {' '.join(rest)!r}" if rest else None


def _alike(expected: list[str], found: list[str]) -> bool:
    enough = len(found) >= len(expected)
    return enough and all(_same(*pair) for pair in zip(expected, found, strict=False))


@functools.cache
def _same(expected: str, found: str) -> bool:
    if expected == found:
        return True
    if _NUMBER.split(expected) != _NUMBER.split(found):
        return False
    pairs = zip(_NUMBER.findall(expected), _NUMBER.findall(found), strict=True)
    return all(_close(value(a), value(b), _unit(a)) for a, b in pairs)


def _close(a: float, b: float, unit: float) -> bool:
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=1.01 * unit)


def value(number: str) -> float:
    """A number as it is written in a text."""
    return float(number.replace(",", "").replace("−", "-"))


def _unit(number: str) -> float:
    """What the last digit of a number is worth, as it is written."""
    digits, _, power = number.partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def claims(text: str) -> Iterator[str]:
    """Numbers with a decimal point, and percentages, that stand in a document's prose.

    What stands in code, in links and in references is none.
    """
    prose = _FENCE.sub("", text)
    for pattern in (_LINK, _CODE):
        prose = pattern.sub("", prose)
    for match in _NUMBER.finditer(prose):
        number = match.group().rstrip(".,")
        percent = prose[match.end() :].lstrip().startswith("%")
        if "." in number or percent:
            yield f"{number}%" if percent else number


def is_shown(claim: str, printed: Iterable[str]) -> bool:
    """Whether a number of the prose is among what was printed, as a number or as a share.

    Args:
        claim: As `claims` gives it.
        printed: What the blocks printed.

    Returns:
        True where a printed number rounds to it, to within one of its last digit.
    """
    number = claim.removesuffix("%")
    sizes = {abs(value(one.rstrip(".,"))) for text in printed for one in _NUMBER.findall(text)}
    sizes |= {100 * size for size in sizes} if claim.endswith("%") else set()
    stated, unit = abs(value(number)), _unit(number)
    return any(abs(stated - size) <= 1.01 * unit for size in sizes)
