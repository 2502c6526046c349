"""Which tokens, and which pairs of tokens, stand where a unit is largest more often than elsewhere?

Each of the places is a draw from the corpus. Were the unit blind to tokens, a token would stand at
as many of them as a hypergeometric draw gives; the p-value is that of at least as many,
Benjamini-Hochberg adjusted over all tokens (or pairs) of the corpus: over those alone that stand
there, a rare one that chance put there once would already be a discovery.

Limits: places that share a document are not independent; a rare token needs few places to be far
from chance, so the count is shown beside the p-value.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import scipy.stats
from jaxtyping import Int

from workbench.core import evidence
from workbench.core.prompts.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class TokenTrigger:
    """A token, or a token after another one.

    Attributes:
        tokens: One id, or two in their order.
        count: At how many of the places it stands.
        places: How many places there are.
        share: Of all tokens of the corpus that count.
        p_value: Of at least as many by chance, adjusted.
    """

    tokens: tuple[int, ...]
    count: int
    places: int
    share: float
    p_value: float

    @property
    def lift(self) -> float:
        """How many times more often than in the corpus."""
        return self.count / self.places / self.share


def token_triggers(
    corpus: Corpus,
    rows: Int[np.ndarray, " place"],
    positions: Int[np.ndarray, " place"],
    *,
    length: int = 1,
) -> tuple[TokenTrigger, ...]:
    """Tokens at some places of a corpus, against the whole of it.

    Args:
        corpus: The corpus.
        rows: Rows of the places; -1 for none.
        positions: Positions in these rows.
        length: 1 for the token at the place, 2 for it with the one before.

    Returns:
        All that stand there, the most surprising first.

    Raises:
        ValueError: If the length is another one.
    """
    if length not in (1, 2):
        raise ValueError(f"triggers are one or two tokens long, not {length}")
    before = length - 1
    here = Counter(
        tuple(corpus.row(int(row))[position - before : position + 1].tolist())
        for row, position in zip(rows, positions, strict=True)
        if row >= 0 and position >= before
    )
    if not here:
        return ()
    known = np.array(sorted(here), dtype=np.int64)
    total, kinds, counts = _counted(corpus, known)
    places = sum(here.values())
    found = np.array([here[tuple(tokens)] for tokens in known.tolist()])
    chance = scipy.stats.hypergeom.sf(found - 1, total, counts, places)
    # What stands at none of the places has a p-value of one.
    every = np.concatenate([chance, np.ones(kinds - len(known))])
    adjusted = evidence.adjusted_for_discoveries(every)[: len(known)]
    order = np.lexsort((-found, adjusted))
    return tuple(
        TokenTrigger(
            tuple(known[i].tolist()),
            int(found[i]),
            places,
            float(counts[i] / total),
            float(adjusted[i]),
        )
        for i in order
    )


def _counted(
    corpus: Corpus, known: Int[np.ndarray, "known length"]
) -> tuple[int, int, Int[np.ndarray, " known"]]:
    """How many places the corpus has, how many different ones, and how many of each known one."""
    seen: Counter[int] = Counter()
    total = 0
    # One number a pair; tokens are 32 bits wide at the most.
    for tokens, first in corpus.pieces():
        counts = ~np.isin(tokens, corpus.special)
        if known.shape[1] == 1:
            codes = tokens[counts]
        else:
            counts = counts[1:] & ~first[1:]
            codes = ((tokens[:-1] << 32) + tokens[1:])[counts]
        seen.update(
            dict(zip(*(x.tolist() for x in np.unique(codes, return_counts=True)), strict=True))
        )
        total += len(codes)
    asked = known[:, 0] if known.shape[1] == 1 else (known[:, 0] << 32) + known[:, 1]
    return total, len(seen), np.array([seen[code] for code in asked.tolist()])
