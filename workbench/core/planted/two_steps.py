"""A two-layer model that copies the token at position 1 to the last position in two steps.

1. Layer 0, head 0 at the last position reads the token at position 1 and writes it to subspace A.
2. Layer 1, head 1 at the last position reads A from the last position and writes it to subspace B.
3. The logits are 0.25 A + 0.75 B.

With clean and corrupted prompts that differ at position 1 only, the effects are therefore exactly:
layer 0 everything, layer 1's own contribution 0.75, everything else nothing.

Limits: a softmax that is certain has no gradient, so nothing flows through queries and keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from workbench.core.planted import word_level
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DIRECT, INDIRECT = 0.25, 0.75
N_CTX = 4


def two_layer() -> TransformerBridge:
    """The model described in the module docstring."""
    words = len(word_level.WORDS)
    d_model = 3 * words + N_CTX
    token, a, b = (slice(i * words, (i + 1) * words) for i in range(3))
    place = slice(3 * words, d_model)
    model, plain = word_level.blank(
        word_level.WORDS,
        bos=False,
        d_model=d_model,
        d_head=words,
        n_heads=2,
        n_layers=2,
        n_ctx=N_CTX,
        d_mlp=4,
    )
    with torch.no_grad():
        eye = torch.eye(words)
        plain["tok_embed.weight"][:, token] = eye
        plain["pos.weight"][:, place] = torch.eye(N_CTX)
        wire(plain, layer=0, head=0, reads=token, writes=a, place=place, source=1)
        wire(plain, layer=1, head=1, reads=a, writes=b, place=place, source=N_CTX - 1)
        plain["head.weight"][:, a] = DIRECT * eye
        plain["head.weight"][:, b] = INDIRECT * eye
    return model


def pairs(model: TransformerBridge) -> ContrastPairs:
    """Pairs of prompts that differ at position 1 only, whose answer is the token there.

    The logit difference is 1 in every clean prompt and -1 in every corrupted one.

    Args:
        model: The model, which tells the tokens.

    Returns:
        The pairs.
    """
    return ContrastPairs.from_text(
        model,
        ["ape bee cat dog", "elk bee fox dog", "fox cat ape dog"],
        ["ape cat cat dog", "elk fox fox dog", "fox dog ape dog"],
        ["bee", "bee", "cat"],
        ["cat", "fox", "dog"],
    )


def wire(
    plain: word_level.Plain,
    *,
    layer: int,
    head: int,
    reads: slice,
    writes: slice,
    place: slice,
    source: int,
) -> None:
    """Let one head copy `reads` at position `source` to `writes` at the last position.

    Args:
        plain: Parameters of the model, which are changed.
        layer: Of the head.
        head: Its number.
        reads: Subspace of the stream that it copies.
        writes: Subspace that it copies to.
        place: Subspace that says which position it is.
        source: Position that it looks at.
    """
    words = len(word_level.WORDS)
    rows = slice(head * words, (head + 1) * words)
    attention = f"layers.{layer}.attn"
    # So large a score that softmax gives exactly one: every other term underflows to zero.
    plain[f"{attention}.q.weight"][rows.start, place.start + N_CTX - 1] = 1e4
    plain[f"{attention}.k.weight"][rows.start, place.start + source] = 1.0
    plain[f"{attention}.v.weight"][rows, reads] = torch.eye(words)
    plain[f"{attention}.o.weight"][writes, rows] = torch.eye(words)
