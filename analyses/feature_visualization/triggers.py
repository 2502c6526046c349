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
import weakref
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
    every_code, every_count = _counted(corpus, length)
    total, kinds = int(every_count.sum()), len(every_code)
    counts = every_count[np.searchsorted(every_code, _codes(known))]
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


def _codes(tokens: Int[np.ndarray, "place length"]) -> Int[np.ndarray, " place"]:
    """One number a token or a pair; tokens are 32 bits wide at the most."""
    return tokens[:, 0] if tokens.shape[1] == 1 else (tokens[:, 0] << 32) + tokens[:, 1]


# A corpus does not change, and is counted for every unit that is looked at.
_known: weakref.WeakKeyDictionary[Corpus, dict[int, tuple[np.ndarray, np.ndarray]]] = (
    weakref.WeakKeyDictionary()
)


def _counted(
    corpus: Corpus, length: int
) -> tuple[Int[np.ndarray, " different"], Int[np.ndarray, " different"]]:
    """Code of every token (or pair) of a corpus, ascending, and at how many places it stands."""
    known = _known.setdefault(corpus, {})
    if length not in known:
        codes, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for tokens, first in corpus.pieces():
            counted = ~np.isin(tokens, corpus.special)
            here = tokens[:, None]
            if length > 1:
                counted = counted[1:] & ~first[1:]
                here = np.stack([tokens[:-1], tokens[1:]], 1)
            more, times = np.unique(_codes(here[counted]), return_counts=True)
            codes, place = np.unique(np.concatenate([codes, more]), return_inverse=True)
            counts = np.bincount(place, np.concatenate([counts, times])).astype(np.int64)
        known[length] = codes, counts
    return known[length]
