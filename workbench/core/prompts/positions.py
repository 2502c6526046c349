"""Positions by name: "the subject" or "last token" in place of an index.

A named set is written as text (or a range of characters) in the prompt, and stands for every token
that overlaps those characters: a name that a tokenizer splits is all of its tokens. White space at
the ends of a range is left out, since tokenizers differ in which token it belongs to.

Three names are known for all pairs: "last token", "first difference" and "differing tokens".
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from workbench.core.prompts import alignment

LAST = "last token"
FIRST_DIFFERENCE = "first difference"
DIFFERING = "differing tokens"
COMPUTED = (LAST, FIRST_DIFFERENCE, DIFFERING)

Characters = str | slice
# One place for both prompts, or one for the clean and one for the corrupted prompt.
Place = Characters | tuple[Characters, Characters]


class PositionError(ValueError):
    """A place that is not in a prompt, or not once; the message says which."""


@dataclasses.dataclass(frozen=True)
class Span:
    """A named position set.

    Attributes:
        name: As a researcher calls it.
        clean: Token positions in each clean prompt, increasing.
        corrupted: Token positions in each corrupted prompt, increasing.
    """

    name: str
    clean: tuple[tuple[int, ...], ...]
    corrupted: tuple[tuple[int, ...], ...]

    def subset(self, indices: Sequence[int]) -> Span:
        """The same set for some of the prompts, in the given order."""
        clean, corrupted = (
            tuple(rows[i] for i in indices) for rows in (self.clean, self.corrupted)
        )
        return Span(self.name, clean, corrupted)


def characters(text: str, where: Characters) -> tuple[int, int]:
    """Find a place in a prompt.

    Args:
        text: The prompt.
        where: A text that stands in it exactly once, or a slice of its characters.

    Returns:
        First character and the one after the last, without white space at the ends.

    Raises:
        PositionError: If the text does not occur exactly once, or only white space is there.
    """
    if isinstance(where, slice):
        start, stop, _ = slice(where.start, where.stop).indices(len(text))
    else:
        start = _only_start(text, where)
        stop = start + len(where)
    inside = text[start:stop]
    if not inside.strip():
        raise PositionError(f"{where!r} is empty in {text!r}; expected at least one character")
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())


def _only_start(text: str, where: str) -> int:
    # Overlapping occurrences count: "ana" occurs twice in "banana".
    starts = [match.start() for match in re.finditer(f"(?={re.escape(where)})", text)]
    if len(starts) != 1:
        count = "does not occur" if not starts else f"occurs {len(starts)} times"
        raise PositionError(
            f"{where!r} {count} in {text!r}; expected once, or a slice(start, stop) of the "
            "prompt's characters in its place"
        )
    return starts[0]


def covering(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, ...]:
    """Positions of the tokens that overlap a range of characters.

    Args:
        offsets: First character of each token and the one after its last.
        start: First character of the range.
        stop: The one after its last.

    Returns:
        The positions, increasing; none where no token stands for these characters.
    """
    return tuple(p for p, (first, end) in enumerate(offsets) if first < stop and start < end)


def computed(
    name: str,
    clean_tokens: Sequence[Sequence[int]],
    corrupted_tokens: Sequence[Sequence[int]],
    matchings: Sequence[alignment.Matching],
) -> Span:
    """One of the sets that are known for all pairs.

    Args:
        name: One of `COMPUTED`.
        clean_tokens: Token ids of each clean prompt.
        corrupted_tokens: Token ids of each corrupted prompt.
        matchings: The matched positions of each pair.

    Returns:
        The set; for a pair whose matched tokens are all the same, the differences are empty.
    """
    chosen: list[alignment.Matching] = []
    for x, y, matching in zip(clean_tokens, corrupted_tokens, matchings, strict=True):
        differing = tuple((a, b) for a, b in matching if x[a] != y[b])
        last = ((len(x) - 1, len(y) - 1),)
        sets = {LAST: last, FIRST_DIFFERENCE: differing[:1], DIFFERING: differing}
        chosen.append(sets[name])
    clean, corrupted = (
        tuple(tuple(match[side] for match in matching) for matching in chosen) for side in (0, 1)
    )
    return Span(name, clean, corrupted)
