"""Windows of a corpus: as many tokens as a text has, up to a place.

1. `drawn` gives random places that have a whole window before them, in one row and without special
   tokens; `half` says which of them a distribution is made of, so that no row is on both sides.
2. `unseen` counts the pairs of neighbouring tokens that the corpus never has.

Units: shares from 0 to 1.

Limits: a window begins amid a text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.feature_visualization import places
from analyses.feature_visualization.outside import cloud

if TYPE_CHECKING:
    from workbench.core.prompts.corpus import Corpus

# So many times as many places are looked at as windows are wanted; not all have enough before them.
_TRIES = 16


def tokens_at(
    corpus: Corpus, numbers: Int[np.ndarray, " place"], length: int
) -> Int[np.ndarray, "place position"]:
    """Tokens of the windows that end at some places.

    Args:
        corpus: The corpus.
        numbers: The places.
        length: Tokens of a window.

    Returns:
        One row a place.
    """
    rows, positions = corpus.locate(numbers)
    back = np.arange(length)[::-1]
    return corpus.at(np.repeat(rows[:, None], length, 1), (positions[:, None] - back).clip(min=0))


def is_whole(
    corpus: Corpus, numbers: Int[np.ndarray, " place"], length: int
) -> Bool[np.ndarray, " place"]:
    """Whether a window ends there that lies in one row and has no special token."""
    _, positions = corpus.locate(numbers)
    special = np.isin(tokens_at(corpus, numbers, length), corpus.special).any(1)
    return (positions + 1 >= length) & ~special


def drawn(
    corpus: Corpus, length: int, count: int, rng: np.random.Generator
) -> Int[np.ndarray, " place"]:
    """Last tokens of whole windows that are drawn at random.

    Args:
        corpus: The corpus.
        length: Tokens of a window.
        count: How many at the most.
        rng: Where the draw comes from.

    Returns:
        Their numbers.
    """
    return places.drawn(
        corpus, count, rng, lambda numbers: is_whole(corpus, numbers, length), tries=_TRIES
    )


def half(
    corpus: Corpus,
    numbers: Int[np.ndarray, " place"],
    top: Int[np.ndarray, " example"],
    rng: np.random.Generator,
) -> Bool[np.ndarray, " place"]:
    """Which windows make the distribution: half of the rows, none with a top example.

    Args:
        corpus: The corpus.
        numbers: Last tokens of the windows.
        top: Places of the top examples.
        rng: Where the draw comes from.

    Returns:
        Whether each makes it; the others are held out.

    Raises:
        ValueError: If either side has too few.
    """
    rows, _ = corpus.locate(numbers)
    of_top, _ = corpus.locate(top)
    every = np.unique(rows)
    chosen = rng.permutation(every)[: len(every) // 2]
    fitted = np.isin(rows, np.setdiff1d(chosen, of_top))
    # Windows of one row are alike, so neither side may know a row of the other.
    if fitted.sum() < cloud.FEWEST or (~fitted).sum() < cloud.FEWEST:
        raise ValueError(
            f"{corpus.name} has {len(numbers)} windows of that length in {len(every)} rows, of "
            f"which {len(np.unique(of_top))} hold top examples: give a larger corpus, or "
            "shorter texts"
        )
    return fitted


def unseen(
    corpus: Corpus,
    texts: Int[np.ndarray, "candidate position"],
    numbers: Int[np.ndarray, " candidate"] | None,
) -> Float[np.ndarray, " candidate"]:
    """Share of the pairs of neighbouring tokens that no (other) row has.

    Args:
        corpus: The corpus.
        texts: Tokens of some texts.
        numbers: Where they end in the corpus, if they are of it: their own rows do not count.

    Returns:
        One a text; NaN for a text without a pair.
    """
    codes = _pairs(texts)
    if not codes.shape[1]:
        return np.full(len(texts), np.nan)
    known, place = np.unique(codes, return_inverse=True)
    counts = np.zeros(len(known), dtype=np.int64)
    for tokens, first in corpus.pieces():
        here = _pairs(tokens[None])[0][~first[1:]]
        at = np.searchsorted(known, here).clip(max=len(known) - 1)
        counts += np.bincount(at[known[at] == here], minlength=len(known))
    left = counts[place.reshape(codes.shape)]
    if numbers is not None:
        rows, _ = corpus.locate(numbers)
        for i, row in enumerate(rows.tolist()):
            own = _pairs(corpus.row(row)[None])[0]
            left[i] -= (own[:, None] == codes[i]).sum(0)
    return (left == 0).mean(1)


def _pairs(tokens: np.ndarray) -> Int[np.ndarray, "candidate pair"]:
    """One number a pair of neighbouring tokens, which are 32 bits wide at the most."""
    wide = tokens.astype(np.int64)
    return (wide[:, :-1] << 32) + wide[:, 1:]
