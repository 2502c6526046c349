"""Prompt: one text that is looked at, as tokens, with the answers that are asked about.

Analyses of one prompt take text, token ids or a `Prompt`; ids serve models without a tokenizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int

from workbench.core.prompts import encoding, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt of one model.

    Attributes:
        text: As it was written; empty where ids were given.
        ids: Its token ids, special tokens included.
        tokens: Each of them as text.
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]

    @classmethod
    def of(cls, model: TransformerBridge, given: Prompt | str | Sequence[int]) -> Prompt:
        """Read a prompt for a model.

        Args:
            model: Whose tokenizer to use.
            given: Text, token ids, or what this returned before.

        Returns:
            The prompt.

        Raises:
            ValueError: If it is empty, too long, or outside the vocabulary.
        """
        if isinstance(given, Prompt):
            return given
        if isinstance(given, str):
            ids = tokenization.encode(model, given)
            return cls(given, ids, tokenization.strings(model, ids))
        ids = tuple(int(token) for token in given)
        n_ctx, d_vocab = int(model.cfg.n_ctx), int(model.cfg.d_vocab)
        if not ids or len(ids) > n_ctx:
            raise ValueError(f"the prompt has {len(ids)} tokens; expected 1 to {n_ctx}")
        if outside := [token for token in ids if not 0 <= token < d_vocab]:
            raise ValueError(
                f"token id {outside[0]} is outside the vocabulary (0 to {d_vocab - 1})"
            )
        return cls("", ids, token_texts(model, ids))

    def __len__(self) -> int:
        """How many tokens it has."""
        return len(self.ids)

    @property
    def batch(self) -> Int[torch.Tensor, "1 position"]:
        """As the model takes it."""
        return torch.tensor([self.ids])

    def position(self, asked: int) -> int:
        """A position counted from the front, given one that may count from the end.

        Raises:
            ValueError: If there is no such position.
        """
        if not -len(self) <= asked < len(self):
            raise ValueError(f"the prompt has positions 0 to {len(self) - 1}, not {asked}")
        return asked % len(self)

    def up_to(self, model: TransformerBridge, position: int) -> Prompt:
        """The prompt up to a position, that one included."""
        return Prompt.of(model, self.ids[: self.position(position) + 1])

    def answer(self, model: TransformerBridge, written: str | int) -> int:
        """Token id of an answer that follows the prompt.

        Args:
            model: Whose tokenizer to use.
            written: A single token as text, with its leading space where it has one, or its id.

        Returns:
            The id.

        Raises:
            ValueError: If it is not a single token of the vocabulary.
        """
        try:
            return encoding.Encoder(model, None).answer(0, self.text, self.ids, written)
        except encoding.PairsError as error:
            said = str(error).removeprefix("pair 1: ").removeprefix("pair 1 (answer): ")
            raise ValueError(said) from error


def token_texts(model: TransformerBridge, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as text; its number, where the model has no tokenizer."""
    if model.tokenizer is None:
        return tuple(str(token) for token in ids)
    return tokenization.strings(model, ids)
