"""Random sequences that repeat, and their partners that do not.

1. A row is "[BOS] A A": `length` different random tokens, twice. Its partner is "[BOS] B A": the
   same second half after other tokens.
2. Tokens are drawn without putting back, so nothing but the repeat repeats.
3. The rows' first half uses one half of the tokens, the other rows the other half, where there are
   enough: what holds in both holds for tokens that the other rows do not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int

from workbench.core.models import card, sources
from workbench.core.prompts import lexicon, tasks, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# As long as the literature's half-sequences; a shorter context, or vocabulary, gives shorter ones.
_LENGTH = 25
# Below that the token after the earlier occurrence is the previous token.
LEAST_LENGTH = 3
_TASK = "induction"


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Random sequences.

    Attributes:
        repeated: Ids of "[BOS] A A".
        fresh: Ids of "[BOS] B A".
        elsewhere: `fresh` with another token than BOS in front; empty where the model has no BOS.
        length: Tokens of A; 0 where there is no room for a repeat, and `repeated` is empty then.
        front: 1 where BOS stands in front, else 0.
    """

    repeated: Int[torch.Tensor, "row ..."]
    fresh: Int[torch.Tensor, "row position"]
    elsewhere: Int[torch.Tensor, "row ..."]
    length: int
    front: int

    @property
    def second(self) -> tuple[int, int]:
        """Where the second half starts and ends."""
        start = self.front + self.length
        return start, start + self.length


def usual_tokens(model: TransformerBridge) -> tuple[int, ...]:
    """What random sequences are made of unless other tokens are asked for.

    Args:
        model: The bridge.

    Returns:
        For a bundled model that was trained on the induction task the words of that task: it has
        not seen others repeat. Else every token of the vocabulary that is not special.
    """
    if _knows_task(model):
        ids = [tokenization.bare(model, f" {word}") for word in lexicon.SEQUENCE_WORDS]
        return tuple(sorted({one[0] for one in ids if len(one) == 1}))
    size = int(model.cfg.d_vocab)
    if model.tokenizer is None:
        return tuple(range(size))
    special = set(model.tokenizer.all_special_ids)
    # Some vocabularies are padded with rows that no text has.
    known = min(size, len(model.tokenizer))
    return tuple(token for token in range(known) if token not in special)


def usual_length(model: TransformerBridge, n_tokens: int) -> int:
    """How long a half is unless another length is asked for.

    Args:
        model: The bridge.
        n_tokens: How many tokens sequences are made of.

    Returns:
        25, or what fits into the context twice without a token more than the repeat asks for; the
        middle of the induction task's lengths for a bundled model that was trained on it.
    """
    lengths = tasks.SEQUENCE_LENGTHS
    wanted = (min(lengths) + max(lengths)) // 2 if _knows_task(model) else _LENGTH
    return max(0, min(wanted, _room(model), n_tokens // 2))


def drawn(
    model: TransformerBridge,
    *,
    rows: int,
    length: int | None,
    tokens: Sequence[int] | None,
    seed: int,
) -> Rows:
    """Draw rows and their partners.

    Args:
        model: The bridge.
        rows: How many, an even number.
        length: Tokens of a half; None for `usual_length`.
        tokens: What to draw from; None for `usual_tokens`.
        seed: Equal seeds give equal rows.

    Returns:
        The rows.

    Raises:
        ValueError: If a number is impossible or a token is outside the vocabulary.
    """
    if rows < 1 or rows % 2:
        raise ValueError(f"rows = {rows}; expected an even number, for two halves to be compared")
    pool = np.array(usual_tokens(model) if tokens is None else sorted(set(tokens)), dtype=np.int64)
    size = int(model.cfg.d_vocab)
    if not len(pool) or not (0 <= pool.min() and pool.max() < size):
        raise ValueError(f"tokens must be ids of the vocabulary (0 to {size - 1}), at least one")
    if length is not None:
        _require_length(model, length, len(pool))
    each = usual_length(model, len(pool)) if length is None else length
    front = _front(model)
    total = 2 * each
    if each < LEAST_LENGTH:
        # No repeat: as much as fits, for what can be measured without.
        total = min(int(model.cfg.n_ctx) - len(front), 2 * _LENGTH, len(pool))
    rng = np.random.default_rng(seed)
    apart = len(pool) >= 2 * (total + 1)
    mixed = rng.permutation(pool)
    pools = (mixed[: len(pool) // 2], mixed[len(pool) // 2 :]) if apart else (pool, pool)
    # One more than needed: what stands first instead of BOS.
    picked = np.stack([_picked(rng, pools[2 * row // rows], total + 1) for row in range(rows)])
    other, body = torch.from_numpy(picked[:, :1]), torch.from_numpy(picked[:, 1:])
    start = torch.tensor([front] * rows, dtype=torch.long).reshape(rows, len(front))
    fresh = torch.cat([start, body], 1)
    elsewhere = torch.cat([other, body], 1) if front else fresh[:, :0]
    if each < LEAST_LENGTH:
        return Rows(fresh[:, :0], fresh, elsewhere, 0, len(front))
    again = body[:, each:]
    return Rows(torch.cat([start, again, again], 1), fresh, elsewhere, each, len(front))


def _picked(
    rng: np.random.Generator, pool: Int[np.ndarray, " token"], n: int
) -> Int[np.ndarray, " position"]:
    """Different tokens; where there are too few, only the first (which stands for BOS) is again."""
    if len(pool) >= n:
        return rng.choice(pool, n, replace=False)
    body = rng.permutation(pool)
    return np.concatenate([body[-1:], body])


def _require_length(model: TransformerBridge, length: int, n_tokens: int) -> None:
    most = min(_room(model), n_tokens // 2)
    if not LEAST_LENGTH <= length <= most:
        raise ValueError(
            f"length = {length}; expected {LEAST_LENGTH} to {most}: twice of it must fit into the "
            "context, and into the tokens without one of them twice"
        )


def _front(model: TransformerBridge) -> tuple[int, ...]:
    return () if model.tokenizer is None else tokenization.front(model)


def _room(model: TransformerBridge) -> int:
    return (int(model.cfg.n_ctx) - len(_front(model))) // 2


def _knows_task(model: TransformerBridge) -> bool:
    source = sources.source_of(model)
    return source.kind == "bundled" and _TASK in card.model_card(source.name).tasks
