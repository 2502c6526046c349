"""Text to tokens by a model's own convention, with a sentence for what does not fit.

BOS is put in front as the bridge does it. Unknown words are looked for in the text without special
tokens: many vocabularies use one id for unknown, beginning and end (GPT-2's does), and the bridge
takes a trailing end token off again, which would drop an unknown last word without a word.

A tokenizer keeps what it was asked for last, such as padding, in its own state: of two threads that
ask it at once, one may get the other's padding. So whoever encodes does it here, in turns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from workbench.core import reading

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_turn = threading.Lock()
# No tokenizer makes tokens of more characters than this on average; longer texts need not be tried.
_CHARACTERS_PER_TOKEN = 100


class TokenizationError(ValueError):
    """A text that the model cannot read; the message says what about it."""


def encode(
    model: TransformerBridge, text: str, *, prepend_bos: bool | None = None
) -> tuple[int, ...]:
    """Token ids of a text, special tokens included.

    Args:
        model: Whose tokenizer to use.
        text: Any text; an empty one gives the BOS token where the model puts one.
        prepend_bos: None follows the model's own convention.

    Returns:
        The ids, at least one.

    Raises:
        TokenizationError: If the model has no tokenizer, or the text is empty, too long for the
            context, or holds a word outside the vocabulary.
    """
    n_ctx = int(model.cfg.n_ctx)
    if model.tokenizer is None:
        raise TokenizationError(
            f"{model.cfg.model_name!r} has no tokenizer, so texts cannot become tokens: set "
            "model.tokenizer first"
        )
    if len(text) > _CHARACTERS_PER_TOKEN * n_ctx:
        raise TokenizationError(
            f"the prompt has {len(text):,} characters and the context is {n_ctx} tokens: shorten it"
        )
    require_known(model, text)
    ids = tuple(whole(model, text, prepend_bos=prepend_bos))
    if not ids:
        raise TokenizationError("the prompt is empty: give at least one word that the model knows")
    if len(ids) > n_ctx:
        raise TokenizationError(
            f"the prompt has {len(ids)} tokens and the context is {n_ctx}: shorten it"
        )
    return ids


def whole(model: TransformerBridge, text: str, *, prepend_bos: bool | None = None) -> list[int]:
    """Token ids of a text as the bridge makes them, without any check.

    Args:
        model: Whose tokenizer to use.
        text: Any text.
        prepend_bos: None follows the model's own convention.

    Returns:
        The ids, special tokens included.
    """
    with _turn:
        return model.to_tokens(text, prepend_bos=prepend_bos, truncate=False)[0].tolist()


def rows(model: TransformerBridge, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each of some texts without special tokens, without any check."""
    with _turn:
        return model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def front(model: TransformerBridge) -> tuple[int, ...]:
    """What the model puts in front of every text: its BOS token, or nothing."""
    bos = model.tokenizer.bos_token_id
    if bos is None or not getattr(model.cfg, "default_prepend_bos", False):
        return ()
    return (int(bos),)


def bare(model: TransformerBridge, text: str) -> list[int]:
    """Token ids of a text without special tokens.

    Raises:
        TokenizationError: If it holds half a character, which no tokenizer reads.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenizationError(
            f"{reading.quoted(text)} holds half a character (a lone surrogate): write it anew"
        ) from error
    return rows(model, [text])[0]


def require_known(model: TransformerBridge, text: str) -> None:
    """Check that every word of a text is in the vocabulary.

    Raises:
        TokenizationError: If one is not; names them.
    """
    if not _is_outside(model, text):
        return
    words = [word for word in text.split() if _is_outside(model, word)] or [text]
    verb = "is" if len(words) == 1 else "are"
    raise TokenizationError(
        f"{reading.listed(map(reading.quoted, words))} {verb} outside the vocabulary of "
        f"{model.cfg.model_name!r}: use words that the model knows"
    )


def strings(model: TransformerBridge, ids: Sequence[int]) -> tuple[str, ...]:
    """Each token as text."""
    return tuple(model.tokenizer.decode([token]) for token in ids)


def offsets(model: TransformerBridge, text: str, ids: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Which characters of a text each of its tokens stands for.

    Args:
        model: Whose tokenizer to use.
        text: What was encoded.
        ids: The ids that `encode` gave for it, special tokens included.

    Returns:
        First character of each token and the one after its last; equal for a special token.

    Raises:
        TokenizationError: If the tokenizer cannot say, and its tokens are not pieces of the text.
    """
    if getattr(model.tokenizer, "is_fast", False):
        with _turn:
            plain = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        own, spans = plain["input_ids"], plain["offset_mapping"]
        # Special tokens stand in front, so the last place that fits is where the text begins.
        for start in range(len(ids) - len(own), -1, -1):
            if list(ids[start : start + len(own)]) == own:
                after = len(ids) - start - len(own)
                end = (len(text), len(text))
                return ((0, 0),) * start + tuple(map(tuple, spans)) + (end,) * after
    return _followed(model, text, ids)


def _followed(
    model: TransformerBridge, text: str, ids: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Offsets by walking through the text with the tokens' own strings."""
    special = set(model.tokenizer.all_special_ids)
    found: list[tuple[int, int]] = []
    end = 0
    for token, written in zip(ids, strings(model, ids), strict=True):
        piece = written.strip()
        start = end + len(text[end:]) - len(text[end:].lstrip())
        if text.startswith(piece, start):
            end = start + len(piece) if piece else end
            found.append((end - len(piece), end))
        elif token in special:
            found.append((end, end))
        else:
            raise TokenizationError(
                f"token {written!r} of {model.cfg.model_name!r} cannot be found in the text from "
                f"character {end} on: a named position needs a tokenizer that reports offsets"
            )
    return tuple(found)


def _is_outside(model: TransformerBridge, text: str) -> bool:
    tokenizer = model.tokenizer
    # Who writes the unknown token into a prompt means it.
    written = tokenizer.unk_token is not None and tokenizer.unk_token in text
    unknown = None if written else tokenizer.unk_token_id
    return any(token == unknown or token >= model.cfg.d_vocab for token in bare(model, text))
