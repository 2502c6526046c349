"""Rows of a corpus in batches for a lens: at random to train it, in order to test it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int

if TYPE_CHECKING:
    from workbench.core.prompts.corpus import Corpus


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows that go through the model together.

    Attributes:
        rows: Which rows of the corpus.
        tokens: Their tokens, padded on the right with token 0, which nothing before it sees.
        real: Where a token is the row's own.
        counted: Where it is, besides, not special.
    """

    rows: Int[np.ndarray, " row"]
    tokens: Int[torch.Tensor, "row position"]
    real: Bool[torch.Tensor, "row position"]
    counted: Bool[torch.Tensor, "row position"]


def batch(corpus: Corpus, rows: Sequence[int] | Int[np.ndarray, " row"]) -> Batch:
    """Put some rows of a corpus together."""
    at = np.asarray(rows, dtype=np.int64)
    lengths = corpus.lengths[at]
    tokens = torch.zeros(len(at), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(at):
        tokens[place, : lengths[place]] = torch.from_numpy(corpus.row(int(row)).astype(np.int64))
    real = torch.arange(tokens.shape[1]) < torch.as_tensor(np.asarray(lengths))[:, None]
    special = torch.isin(tokens, torch.tensor(corpus.special, dtype=torch.long))
    return Batch(at, tokens, real, real & ~special)


def shuffled(corpus: Corpus, tokens: int, seed: int) -> Iterator[Batch]:
    """Batches without end: every row once in a random order, then again in another.

    Args:
        corpus: The rows.
        tokens: Least number of tokens of a batch, fewer where the corpus has fewer.
        seed: Of the order.

    Yields:
        The batches.
    """
    rng = np.random.default_rng(seed)
    enough = min(tokens, corpus.n_tokens)
    taken, count = list[int](), 0
    while True:
        for row in rng.permutation(len(corpus)):
            taken.append(int(row))
            count += int(corpus.lengths[row])
            if count >= enough:
                yield batch(corpus, taken)
                taken, count = [], 0


def in_order(corpus: Corpus, tokens: int) -> Iterator[Batch]:
    """Every row once, rows of like length together.

    Args:
        corpus: The rows.
        tokens: Most tokens of a batch, padding included; one row in any case.

    Yields:
        The batches.
    """
    order = np.argsort(-np.asarray(corpus.lengths), kind="stable")
    taken = 0
    while taken < len(order):
        # The first of them is the longest, so it says how wide the batch is.
        count = max(1, tokens // int(corpus.lengths[order[taken]]))
        yield batch(corpus, order[taken : taken + count])
        taken += count


def marks(corpus: Corpus, rows: Sequence[int] | range) -> Int[np.ndarray, " row"]:
    """A number for each row that rows with the same tokens share, and others hardly ever."""
    digests = (
        hashlib.blake2b(corpus.row(row).astype("<i4").tobytes(), digest_size=8).digest()
        for row in rows
    )
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)
