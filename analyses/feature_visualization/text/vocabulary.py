"""Which tokens a text may be made of, what stands in front of it, and how it reads.

1. In front stands what the model's own convention puts before an empty text: BOS, or nothing.
2. Special tokens (BOS, padding, unknown, markers of a chat) are never used, even if allowed: a text
   is what somebody could write.
3. A found text re-tokenizes if its tokens, decoded and encoded again, are the same tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


Ids = Sequence[int] | Int[np.ndarray, " position"]


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What texts are made of.

    Attributes:
        prefix: Tokens in front of every text.
        allowed: Ids of the tokens that may be used, rising.
        size: Tokens of the model.
    """

    prefix: tuple[int, ...]
    allowed: Int[np.ndarray, " token"]
    size: int

    def random_texts(
        self, rng: np.random.Generator, n: int, length: int
    ) -> Int[np.ndarray, "candidate position"]:
        """Texts whose every token is drawn alike from those allowed."""
        return rng.choice(self.allowed, size=(n, length))


def of_model(model: TransformerBridge, allowed: Sequence[int] | None) -> Vocabulary:
    """The tokens of a model that may be used.

    Args:
        model: The bridge.
        allowed: Ids to choose from; None for the whole vocabulary.

    Returns:
        The vocabulary, without special tokens.

    Raises:
        ValueError: If the model has no tokenizer, a token does not exist, or none is left.
    """
    if model.tokenizer is None:
        raise tokenization.TokenizationError(
            f"{model.cfg.model_name!r} has no tokenizer, so its tokens cannot be read as text: set "
            "model.tokenizer first"
        )
    prefix = tuple(tokenization.whole(model, ""))
    size = int(model.cfg.d_vocab)
    # Embedding tables are often longer than the vocabulary, for the sake of the hardware.
    chosen = set(range(min(size, len(model.tokenizer))) if allowed is None else map(int, allowed))
    _require_inside(model, chosen)
    usable = sorted(chosen - _special(model) - set(prefix))
    if not usable:
        raise ValueError(
            f"none of the {len(chosen)} allowed tokens can be used: give at least one token that "
            "is not special"
        )
    return Vocabulary(prefix, np.array(usable, dtype=np.int64), size)


def start_of(
    model: TransformerBridge, start: str | Sequence[int], prefix: tuple[int, ...], length: int
) -> Int[np.ndarray, " position"]:
    """Token ids of a given example, without what stands in front of every text.

    Args:
        model: The bridge.
        start: A text, or its token ids with or without the tokens in front.
        prefix: Tokens in front of every text.
        length: Tokens that it may have at most.

    Returns:
        The ids.

    Raises:
        ValueError: If it is empty, too long, or outside of the vocabulary.
    """
    ids = tokenization.encode(model, start) if isinstance(start, str) else tuple(map(int, start))
    if prefix and ids[: len(prefix)] == prefix:
        ids = ids[len(prefix) :]
    _require_inside(model, ids)
    if not ids:
        raise ValueError("the start is empty: give at least one token, or None to start anew")
    if len(ids) > length:
        raise ValueError(f"the start has {len(ids)} tokens and the text {length}: raise the length")
    return np.array(ids, dtype=np.int64)


def read(model: TransformerBridge, ids: Ids) -> str:
    """A text as it is written."""
    return model.tokenizer.decode([int(token) for token in ids], skip_special_tokens=False)


def retokenizes(model: TransformerBridge, ids: Ids, prefix: tuple[int, ...]) -> bool:
    """Whether the text that these tokens spell has these tokens."""
    try:
        again = tokenization.encode(model, read(model, ids))
    except tokenization.TokenizationError:
        return False
    return again == (*prefix, *(int(token) for token in ids))


def _special(model: TransformerBridge) -> set[int]:
    added = getattr(model.tokenizer, "added_tokens_decoder", {})
    marked = {token for token, content in added.items() if getattr(content, "special", False)}
    return marked | set(model.tokenizer.all_special_ids)


def _require_inside(model: TransformerBridge, ids: Sequence[int] | set[int]) -> None:
    size = int(model.cfg.d_vocab)
    outside = sorted(token for token in ids if not 0 <= token < size)
    if outside:
        raise ValueError(
            f"token {outside[0]} is outside the vocabulary of {model.cfg.model_name!r}, which has "
            f"tokens 0 to {size - 1}"
        )
