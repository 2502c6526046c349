"""What is a description of a unit, so that it can be tested? Something that predicts the unit.

1. `TokenSet`: it fires at these tokens. `Pattern`: where a regular expression matches the text up
   to the token. `TokenMeans`: the mean activation of each token, learned from other text.
2. A written sentence (`hypothesis`) and the neighbourhood of an optimum (`neighbourhood`) have
   modules of their own.

`believe` scores any of them, or any object of your own with `name`, `threshold` and `predict`.

Source: Bills et al. 2023, "Language models can explain neurons in language models" (a description
is a predictor).

Units: predictions of sets and patterns are 0 or 1, those of means are activations.

Limits: a word is read as the model's tokenizer reads it by itself: where a space is part of a
token, write it (`" cat"`). Each description is of one row of text, and of what stands up to the
token, never after it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from workbench.core.engine import scan
from workbench.core.engine import units as families
from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Chunk, Corpus

# A set, a pattern or a sentence predicts 1 or 0.
FIRES = 0.5


@runtime_checkable
class Description(Protocol):
    """Something that predicts a unit."""

    @property
    def name(self) -> str:
        """As a reader writes it."""
        ...

    @property
    def threshold(self) -> float:
        """From which prediction on it says that the unit fires."""
        ...

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """How strongly the unit will respond at each token."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenSet:
    """The unit fires at these tokens, and only there.

    Attributes:
        tokens: Their ids.
        name: As a reader writes it.
        threshold: From which prediction on it says that the unit fires.
    """

    tokens: tuple[int, ...]
    name: str
    threshold: float = FIRES

    @classmethod
    def of(cls, model: TransformerBridge, words: Sequence[str]) -> TokenSet:
        """From words that are one token each.

        Raises:
            ValueError: If there is none, or one is not a single known token.
        """
        if not words:
            raise ValueError("a set of tokens needs at least one")
        found: list[int] = []
        for word in words:
            ids = known_ids(model, word)
            if len(ids) != 1:
                pieces = ", ".join(map(repr, tokenization.strings(model, ids)))
                raise ValueError(f"{word!r} is {len(ids)} tokens ({pieces}): give single tokens")
            found.append(ids[0])
        return cls(tuple(found), f"tokens {', '.join(map(repr, words))}")

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """1 at the tokens, 0 elsewhere."""
        del model
        return torch.isin(chunk.tokens, torch.tensor(self.tokens)).float()


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The unit fires at the last token of each match of a regular expression.

    Attributes:
        pattern: The expression, over the text of a row as its tokens spell it one after another.
        threshold: From which prediction on it says that the unit fires.
    """

    pattern: str
    threshold: float = FIRES

    def __post_init__(self) -> None:
        """Check that it is one.

        Raises:
            ValueError: If it is no regular expression.
        """
        expression(self.pattern)

    @property
    def name(self) -> str:
        """As a reader writes it."""
        return f"pattern {self.pattern}"

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """1 where a match ends, 0 elsewhere."""
        out = torch.zeros(chunk.tokens.shape)
        sought = re.compile(self.pattern)
        for row, (tokens, length) in enumerate(zip(chunk.tokens, chunk.lengths, strict=True)):
            text, ends = _spelled(model, tokens[:length].tolist())
            for match in sought.finditer(text):
                if match.end() > match.start():
                    out[row, int(np.searchsorted(ends, match.end()))] = 1
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class TokenMeans:
    """The unit responds to each token as it did on average elsewhere.

    Attributes:
        means: By token; the mean over all of them where a token was not seen.
        threshold: From which prediction on it says that the unit fires.
        name: As a reader writes it.
    """

    means: Float[torch.Tensor, " d_vocab"]
    threshold: float
    name: str = "mean activation of each token"

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """The mean of each token."""
        del model
        return self.means[chunk.tokens]


def token_means(
    model: TransformerBridge,
    corpus: Corpus,
    unit: families.Unit | str,
    *,
    directions: Float[torch.Tensor, "direction width"] | None = None,
    dictionary: Any = None,
) -> TokenMeans:
    """Learn the mean activation of each token.

    Args:
        model: The bridge.
        corpus: What to learn from; not what it is tested on.
        unit: Which unit; with directions or a dictionary its kind is the site that they read.
        directions: One vector a unit, instead of the coordinates.
        dictionary: A sparse autoencoder whose latents are the units.

    Returns:
        The description; it says "fires" above half of the largest mean.

    Raises:
        ValueError: If the unit does not exist.
    """
    family, index = families.family_of(model, unit, directions=directions, dictionary=dictionary)
    sums, counts = (torch.zeros(int(model.cfg.d_vocab), dtype=torch.float64) for _ in range(2))
    for chunk, table in scan.tables(model, corpus, family):
        tokens = chunk.tokens[chunk.counted]
        sums.index_add_(0, tokens, table[:, index].double().cpu())
        counts.index_add_(0, tokens, torch.ones(len(tokens), dtype=torch.float64))
    every = sums.sum() / counts.sum()
    means = torch.where(counts > 0, sums / counts.clamp(min=1), every).float()
    return TokenMeans(means, float(means.max()) / 2)


def known_ids(model: TransformerBridge, text: str) -> list[int]:
    """Tokens of a text by itself, all of them known.

    Raises:
        tokenization.TokenizationError: If one is not.
    """
    tokenization.require_known(model, text)
    return tokenization.bare(model, text)


def expression(pattern: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        ValueError: If it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _spelled(model: TransformerBridge, ids: list[int]) -> tuple[str, np.ndarray]:
    """The text of a row, and where each of its tokens ends in it."""
    if model.tokenizer is None:
        raise ValueError(f"{model.cfg.model_name!r} has no tokenizer: a pattern needs text")
    text, ends = "", []
    for end in range(1, len(ids) + 1):
        # Token by token, as a tokenizer puts spaces between words that no token holds.
        text = model.tokenizer.decode(ids[:end])
        ends.append(len(text))
    return text, np.array(ends)
