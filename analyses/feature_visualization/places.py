"""Places of a corpus: drawn at random, read by the model once more, and shown as text.

1. `sample` gives the numbers of random tokens, `drawn` those of a given number of random tokens
   that somebody has a use for.
2. `read` runs the rows of some places again and keeps what a hook point shows there.
3. `strings`, `text` and `marked` write tokens for a reader; ids stand in for them in a model
   without a tokenizer.

Units: activations as the model has them.

Limits: `drawn` looks at a few times as many tokens as are asked for; where few are of use, there
are fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core.engine import running
from workbench.core.prompts import prompt

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

# What begins a token that a space belongs to, as tokenizers write it.
_SPACES = (" ", "▁", "Ġ")
strings = prompt.token_texts


def sample(corpus: Corpus, count: int, rng: np.random.Generator) -> Int[np.ndarray, " place"]:
    """Random tokens of a corpus by their numbers, ascending, none twice; special ones included.

    Args:
        corpus: The corpus.
        count: How many; all if there are fewer.
        rng: Where the draw comes from.

    Returns:
        Their numbers.
    """
    many = min(count, corpus.n_tokens)
    return np.sort(rng.choice(corpus.n_tokens, many, replace=False, shuffle=False))


def drawn(
    corpus: Corpus,
    count: int,
    rng: np.random.Generator,
    of_use: Callable[[Int[np.ndarray, " place"]], Bool[np.ndarray, " place"]],
    *,
    tries: int,
) -> Int[np.ndarray, " place"]:
    """Random tokens of a corpus that are of use, by their numbers, none twice.

    Args:
        corpus: The corpus.
        count: How many at the most.
        rng: Where the draw comes from.
        of_use: Which of some tokens count.
        tries: How many times as many are looked at.

    Returns:
        Their numbers, in the order in which they were drawn.
    """
    every = min(corpus.n_tokens, tries * count)
    numbers = rng.choice(corpus.n_tokens, every, replace=False)
    return numbers[of_use(numbers)][:count]


def counted(corpus: Corpus, numbers: Int[np.ndarray, " place"]) -> Bool[np.ndarray, " place"]:
    """Which of some tokens are not special."""
    return ~np.isin(corpus.at(*corpus.locate(numbers)), corpus.special)


def read(
    model: TransformerBridge,
    corpus: Corpus,
    hook: str,
    layer: int,
    places: Int[np.ndarray, " place"],
) -> Float[np.ndarray, "place width"]:
    """What a hook point shows at some tokens of a corpus, in their rows.

    Args:
        model: The bridge.
        corpus: The corpus.
        hook: The hook point.
        layer: Its layer; what comes after it is not run.
        places: Numbers of the tokens, at least one.

    Returns:
        One vector a place.

    Raises:
        ValueError: If there are no places.
    """
    if not len(places):
        raise ValueError("there are no places to read: give at least one")
    rows, positions = corpus.locate(places)
    every, row = np.unique(rows, return_inverse=True)
    found: dict[int, np.ndarray] = {}
    for chunk in corpus.take(every).chunks():
        seen = activation(model, chunk.tokens, hook, layer).numpy()
        line = np.full(len(every), -1)
        line[chunk.rows] = np.arange(len(chunk.rows))
        here = np.flatnonzero(line[row] >= 0)
        found |= zip(here.tolist(), seen[line[row[here]], positions[here]], strict=True)
    return np.stack([found[i] for i in range(len(places))])


def activation(
    model: TransformerBridge, tokens: Int[torch.Tensor, "batch position"], hook: str, layer: int
) -> Float[torch.Tensor, "batch position width"]:
    """What a hook point shows at every token, in double precision; later layers are not run."""
    kept: list[torch.Tensor] = []

    def keep(seen: torch.Tensor) -> torch.Tensor:
        # On the CPU first: not every accelerator has double precision.
        kept.append(seen.flatten(2).cpu().double())
        return seen

    with running.hooked(model, {hook: keep}):
        model(tokens.to(model.cfg.device), return_type="logits", stop_at_layer=layer + 1)
    return kept[0]


def text(model: TransformerBridge, ids: Sequence[int]) -> str:
    """Tokens as one text."""
    return " ".join(strings(model, ids)) if model.tokenizer is None else model.tokenizer.decode(ids)


def marked(tokens: Sequence[str], spot: int) -> str:
    """Tokens as one text, one of them in double brackets."""
    apart = "" if any(token.startswith(_SPACES) for token in tokens) else " "
    return apart.join(f"⟦{one}⟧" if i == spot else one for i, one in enumerate(tokens))
