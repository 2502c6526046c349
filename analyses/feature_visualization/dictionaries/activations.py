"""Activations: what a site carries at the tokens of a corpus, in an order that never changes.

1. A chunk of rows goes through the model up to the site and no further; what stands at tokens
   that count is kept: padding and special tokens (BOS) are not. Activations with heads become one
   vector a token.
2. Each epoch draws a new order of all rows. Its chunks are read in blocks of about `BLOCK` tokens,
   whose tokens are shuffled; the blocks follow one another and are cut into batches. A block is in
   memory at a time, and no more.
3. All of it follows from the seed and the number of batches that were served, so going on at batch
   n needs that number only: blocks that lie before it are counted, not computed.

Limits: tokens are shuffled within blocks; rows of different blocks of an epoch do not mix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from workbench.core.engine import running, sites
from workbench.core.prompts import corpus as corpora

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Tokens that are shuffled together.
BLOCK = 1 << 16


class _Seen(Exception):
    """The site has been reached; the rest of the model need not run."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a model activations are read.

    Attributes:
        site: Kind of site.
        layer: In which block.
        hook: Hook point.
        width: Numbers a token, all heads together.
    """

    site: str
    layer: int
    hook: str
    width: int


def place(model: TransformerBridge, corpus: corpora.Corpus, site: str, layer: int) -> Place:
    """Look a site up, and how wide it is.

    Args:
        model: The bridge.
        corpus: Whose first row shows the width.
        site: One of `sites.SITES` but patterns.
        layer: Which block.

    Returns:
        The place.

    Raises:
        ValueError: If there is no such site or layer.
    """
    if site == "pattern":
        raise ValueError(
            "an attention pattern is as wide as its prompt is long, so no dictionary can read it: "
            "choose another site"
        )
    found, names = sites.resolve(model, site)
    if not 0 <= layer < len(names):
        raise ValueError(f"the model has layers 0 to {len(names) - 1}, not {layer}")
    first = next(corpus.take([0]).chunks())
    width = _seen(model, names[layer], first).shape[2]
    return Place(found.kind, layer, names[layer], width)


def read(
    model: TransformerBridge, hook: str, chunk: corpora.Chunk
) -> Float[torch.Tensor, "token width"]:
    """What stands at a hook point, at each token that counts.

    Args:
        model: The bridge; it runs up to the hook point.
        hook: Hook point.
        chunk: Rows of a corpus.

    Returns:
        One vector a token, in the order in which `Chunk.counted` selects.
    """
    found = _seen(model, hook, chunk)
    # Outside of inference mode, so that training can go through it.
    return found[chunk.counted.to(found.device)]


def _seen(
    model: TransformerBridge, hook: str, chunk: corpora.Chunk
) -> Float[torch.Tensor, "row position width"]:
    seen: list[torch.Tensor] = []

    def look(activation: torch.Tensor) -> torch.Tensor:
        seen.append(activation)
        raise _Seen

    with contextlib.suppress(_Seen), running.hooked(model, {hook: look}):
        model(chunk.tokens.to(model.cfg.device), return_type="logits")
    return seen[0].flatten(2)


class Stream:
    """Endless shuffled batches of activations."""

    def __init__(
        self,
        model: TransformerBridge,
        corpus: corpora.Corpus,
        where: Place,
        *,
        batch: int,
        seed: int = 0,
        block: int = BLOCK,
    ) -> None:
        """Begin at the first batch; nothing is computed yet.

        Args:
            model: The bridge.
            corpus: Rows that are read again and again, each epoch in another order.
            where: The place, of this corpus.
            batch: Tokens of a batch.
            seed: Of all orders.
            block: Tokens that are shuffled together.
        """
        self._model, self._corpus, self._where = model, corpus, where
        self._batch, self._seed, self._block = batch, seed, block
        self._blocks = self._drawn()
        self._held: torch.Tensor | None = None
        # Tokens to drop from the blocks that follow; none while something is held.
        self._ahead = 0

    def __iter__(self) -> Iterator[Float[torch.Tensor, "token width"]]:
        """The stream itself."""
        return self

    def __next__(self) -> Float[torch.Tensor, "token width"]:
        """The next batch."""
        held = self._held
        while held is None or len(held) < self._batch:
            block = next(self._blocks)
            if self._ahead >= block.count:
                self._ahead -= block.count
                continue
            fresh = self._read(block)[self._ahead :]
            self._ahead = 0
            held = fresh if held is None else torch.cat([held, fresh])
        self._held = held[self._batch :]
        # A copy, so that what is computed from it cannot depend on where in the block it lay.
        return held[: self._batch].clone()

    def pass_over(self, batches: int) -> None:
        """Go on after so many more batches, without computing what can be counted.

        Args:
            batches: How many.
        """
        tokens = batches * self._batch
        held = 0 if self._held is None else min(tokens, len(self._held))
        if self._held is not None:
            self._held = self._held[held:] if held < len(self._held) else None
        self._ahead += tokens - held

    def _drawn(self) -> Iterator[_Block]:
        """Blocks of all epochs, one after another."""
        for epoch in itertools.count():
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._corpus))
            several: list[corpora.Chunk] = []
            number = count = total = 0
            for chunk in self._corpus.take(order).chunks():
                several.append(chunk)
                count += int(chunk.counted.sum())
                total += int(chunk.counted.sum())
                if count >= self._block:
                    yield _Block(several, count, (self._seed, epoch, number))
                    several, count, number = [], 0, number + 1
            if not total:
                raise ValueError(
                    f"no token of {self._corpus.name} counts: expected some that are not special"
                )
            if count:
                yield _Block(several, count, (self._seed, epoch, number))

    def _read(self, block: _Block) -> torch.Tensor:
        """All tokens of a block, shuffled; each chunk is put where its tokens belong at once."""
        order = torch.from_numpy(np.random.default_rng(block.key).permutation(block.count))
        made: torch.Tensor | None = None
        taken = 0
        for chunk in block.chunks:
            values = read(self._model, self._where.hook, chunk)
            if made is None:
                made = values.new_empty(block.count, values.shape[1])
            made[order[taken : taken + len(values)].to(made.device)] = values
            taken += len(values)
        assert made is not None, "a block holds tokens"
        return made


@dataclasses.dataclass(frozen=True)
class _Block:
    """Chunks whose tokens are shuffled together.

    Attributes:
        chunks: The chunks, not computed yet.
        count: Their tokens that count.
        key: What the order of the tokens is drawn from.
    """

    chunks: list[corpora.Chunk]
    count: int
    key: tuple[int, int, int]
