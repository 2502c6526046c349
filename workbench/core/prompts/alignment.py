"""Alignment: which tokens of two prompts of different length stand for each other?

Patching puts an activation of one prompt into the other one; where lengths differ, position 5 of
the one need not mean position 5 of the other. Tokens are matched by their differences:

1. Named anchors (a name, a phrase) cut both prompts. What stands before an anchor is matched only
   with what stands before it, and an anchor only with itself.
2. Between anchors the common beginning is matched token by token, so that a causal model's
   activations agree wherever both prompts have read the same; then a token-level diff
   (`difflib.SequenceMatcher`, Ratcliff and Obershelp's method) matches the longest common runs.
3. What one prompt replaces by as many tokens of its own is matched one to one, and so is an anchor.
   Where the counts differ, only the last tokens are matched: a causal model has read all of a word
   or name at its last token, and at none before. Everything else stays without a partner.
4. The last tokens of both prompts are matched always: there the next token is predicted.

The result increases strictly in both prompts, so the order of words is kept: where two words swap
places, one of them at most is matched with itself.

Source: Ratcliff and Metzener 1988, "Pattern matching: the gestalt approach" (the diff); Meng et al.
2022, arXiv 2202.05262 (the last token of a subject is where a model has it).
Units: positions are token indices from 0, special tokens included. Limits: a diff knows tokens, not
meanings; look at the picture before a run and name anchors where it is wrong.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

Matching = tuple[tuple[int, int], ...]
Anchor = tuple[Sequence[int], Sequence[int]]
Status = Literal["same", "substituted", "only in clean", "only in corrupted"]

_Cut = tuple[int, int]


class AlignmentError(ValueError):
    """Prompts that cannot be matched in one order.

    Attributes:
        anchors: Indices of the two anchors that contradict each other; empty where none do.
    """

    def __init__(self, message: str, anchors: tuple[int, ...] = ()) -> None:
        """Keep the message and which anchors it is about."""
        super().__init__(message)
        self.anchors = anchors


class Row(NamedTuple):
    """One row of an alignment as it is read: a matched column, or a token without a partner.

    Attributes:
        clean: The clean token; empty where the corrupted one has no partner.
        corrupted: The corrupted token; empty where the clean one has no partner.
        status: What the two are to each other.
    """

    clean: str
    corrupted: str
    status: Status


def align(
    clean_tokens: Sequence[int],
    corrupted_tokens: Sequence[int],
    anchors: Sequence[Anchor] = (),
) -> Matching:
    """Match the positions of two prompts.

    Args:
        clean_tokens: Token ids of the clean prompt.
        corrupted_tokens: Token ids of the corrupted prompt.
        anchors: Pairs of position runs, in the clean and in the corrupted prompt, that mean the
            same; anchors may lie in one another.

    Returns:
        Matched (clean position, corrupted position), increasing strictly in both.

    Raises:
        AlignmentError: If a prompt is empty, an anchor lies outside of its prompt, or two anchors
            stand in different orders in the two prompts.
    """
    if not clean_tokens or not corrupted_tokens:
        raise AlignmentError("a prompt without tokens cannot be aligned; expected at least one")
    end = (len(clean_tokens), len(corrupted_tokens))
    ranges = [_range(i, anchor, end) for i, anchor in enumerate(anchors)]
    _refuse_crossing(ranges)
    cuts = sorted({(0, 0), end, *itertools.chain.from_iterable(ranges)})
    matches: list[_Cut] = []
    for start, stop in itertools.pairwise(cuts):
        if any(_within(start, stop, anchor) for anchor in ranges):
            matches += _replaced(start, stop)
        else:
            matches += _free(clean_tokens, corrupted_tokens, start, stop, is_last=stop == end)
    last = (end[0] - 1, end[1] - 1)
    # An anchor at the end of one prompt only could have taken one of the last tokens.
    return (*(m for m in matches if m[0] < last[0] and m[1] < last[1]), last)


def _range(i: int, anchor: Anchor, end: _Cut) -> tuple[_Cut, _Cut]:
    for positions, length, kind in zip(anchor, end, ("clean", "corrupted"), strict=True):
        if not positions or min(positions) < 0 or max(positions) >= length:
            raise AlignmentError(
                f"anchor {i + 1} has the {kind} positions {tuple(positions)}; expected at least "
                f"one, from 0 to {length - 1}"
            )
    clean, corrupted = anchor
    return (min(clean), min(corrupted)), (max(clean) + 1, max(corrupted) + 1)


def _refuse_crossing(ranges: Sequence[tuple[_Cut, _Cut]]) -> None:
    for (i, a), (j, b) in itertools.combinations(enumerate(ranges), 2):
        in_clean_order = sorted([*a, *b])
        if any(x[1] > y[1] for x, y in itertools.pairwise(in_clean_order)):
            raise AlignmentError(
                f"anchors {i + 1} and {j + 1} stand in another order in the corrupted prompt than "
                "in the clean one, and matched tokens must keep one order: leave one of them out",
                (i, j),
            )


def _within(start: _Cut, stop: _Cut, anchor: tuple[_Cut, _Cut]) -> bool:
    first, last = anchor
    return all(first[k] <= start[k] and stop[k] <= last[k] for k in range(2))


def _replaced(start: _Cut, stop: _Cut) -> list[_Cut]:
    """Matches where one run of tokens stands for another one."""
    clean, corrupted = range(start[0], stop[0]), range(start[1], stop[1])
    if len(clean) == len(corrupted):
        return list(zip(clean, corrupted, strict=True))
    return [(clean[-1], corrupted[-1])] if clean and corrupted else []


def _free(
    clean: Sequence[int], corrupted: Sequence[int], start: _Cut, stop: _Cut, *, is_last: bool
) -> list[_Cut]:
    """Matches between two anchors, by the common beginning and then by a diff.

    The last tokens of both prompts are left to the caller.
    """
    (i, j), (i_stop, j_stop) = start, stop
    if is_last and i < i_stop and j < j_stop:
        # The last tokens are kept for each other.
        i_stop, j_stop = i_stop - 1, j_stop - 1
    head: list[_Cut] = []
    while i < i_stop and j < j_stop and clean[i] == corrupted[j]:
        head.append((i, j))
        i, j = i + 1, j + 1
    matcher = difflib.SequenceMatcher(None, clean[i:i_stop], corrupted[j:j_stop], autojunk=False)
    body = [
        match
        for _, x, x_stop, y, y_stop in matcher.get_opcodes()
        for match in _replaced((i + x, j + y), (i + x_stop, j + y_stop))
    ]
    return [*head, *body]


def table(
    clean: Sequence[tuple[int, str]], corrupted: Sequence[tuple[int, str]], matching: Matching
) -> list[Row]:
    """An alignment in reading order.

    Args:
        clean: Id and text of each clean token.
        corrupted: Id and text of each corrupted token.
        matching: Their matched positions.

    Returns:
        A row for each matched column and each token without a partner; between two columns the
        clean tokens stand before the corrupted ones.
    """
    rows: list[Row] = []
    i = j = 0
    for x, y in (*matching, (len(clean), len(corrupted))):
        rows += [Row(text, "", "only in clean") for _, text in clean[i:x]]
        rows += [Row("", text, "only in corrupted") for _, text in corrupted[j:y]]
        i, j = x + 1, y + 1
        if x < len(clean):
            status: Status = "same" if clean[x][0] == corrupted[y][0] else "substituted"
            rows.append(Row(clean[x][1], corrupted[y][1], status))
    return rows


def picture(rows: Sequence[Row]) -> str:
    """Two lines for a monospaced font, matched tokens above each other.

    Args:
        rows: An alignment in reading order.

    Returns:
        The lines "clean: …" and "corrupted: …"; a token without a partner stands against a gap.
    """
    cells = [
        (
            "" if row.status == "only in corrupted" else _cell(row.clean),
            "" if row.status == "only in clean" else _cell(row.corrupted),
        )
        for row in rows
    ]
    widths = [max(map(len, pair)) for pair in cells]
    lines = [
        " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*cells, strict=True)
    ]
    return f"clean:     {lines[0]}\ncorrupted: {lines[1]}"


def _cell(token: str) -> str:
    # A line break inside of a token would break the picture.
    return f"[{token if token.isprintable() else repr(token)[1:-1]}]"
