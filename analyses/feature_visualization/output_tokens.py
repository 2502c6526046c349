"""Which tokens does a unit promote by what it writes, directly?

What the unit writes into the stream for an activation of one goes through the final norm's centring
and gain and the unembedding, with the norm's scale taken as one: logits up to one common factor.
The same is done for random vectors of the same length; a unit whose largest logit is not beyond
theirs says nothing about tokens.

Limits: the direct path only; what later layers make of it is left out. A head writes something else
for each token that it attends to, so heads have no such list.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from workbench.core.engine import frozen_norms

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.engine.units import Family

Tensor = torch.Tensor
_RANDOM = 199


@dataclasses.dataclass(frozen=True)
class OutputTokens:
    """Tokens whose logits a unit moves most.

    Attributes:
        promoted: Tokens and logits, largest first.
        suppressed: Tokens and logits, smallest first.
        p_value: Share of random vectors of the same length whose largest logit, of either sign, is
            as large.
    """

    promoted: tuple[tuple[int, float], ...]
    suppressed: tuple[tuple[int, float], ...]
    p_value: float


def written(family: Family, model: TransformerBridge, index: int) -> Float[Tensor, " d_model"]:
    """What a unit adds to the stream for an activation of one.

    Raises:
        ValueError: If that is no single vector, as with heads.
    """
    if family.kind == "head":
        raise ValueError("a head writes something else for each token that it attends to")
    vector = family.direction(index)
    if family.site == "neuron":
        weights = model.blocks[family.layer].mlp.W_out.detach()
        return vector.to(weights) @ weights
    return vector


def output_tokens(
    model: TransformerBridge, family: Family, index: int, *, top: int = 10, seed: int = 0
) -> OutputTokens:
    """Tokens that a unit promotes and suppresses through the direct path.

    Args:
        model: The bridge.
        family: The unit's family.
        index: Which one of it.
        top: How many at either end.
        seed: Of the random vectors.

    Returns:
        The tokens, against random vectors.

    Raises:
        ValueError: If the unit writes no single vector.
    """
    vector = written(family, model, index).float()
    # Not torch's generator: with the same seed it may have drawn the model's own first weights.
    drawn = np.random.default_rng(seed).standard_normal((_RANDOM, len(vector)), dtype=np.float32)
    random = torch.from_numpy(drawn).to(vector.device)
    random = random / random.norm(dim=1, keepdim=True) * vector.norm()
    with torch.inference_mode():
        logits = _logits(model, torch.cat([vector[None], random]))
    largest = logits.abs().amax(1)
    beaten = int((largest[1:] >= largest[0]).sum())
    high, low = (logits[0].topk(min(top, logits.shape[1]), largest=up) for up in (True, False))
    pairs = [
        tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) for best in (high, low)
    ]
    return OutputTokens(pairs[0], pairs[1], (1 + beaten) / (1 + _RANDOM))


def _logits(
    model: TransformerBridge, vectors: Float[Tensor, "vector d_model"]
) -> Float[Tensor, "vector d_vocab"]:
    norm: Any = getattr(model, "ln_final", None)
    if norm is not None:
        # Gain and centring as the norm has them; its scale is one factor for all logits.
        frozen = frozen_norms.FrozenNorm.at(lambda rows: norm(rows[None])[0], vectors[:1])
        unscaled = dataclasses.replace(frozen, scale=torch.ones_like(frozen.scale))
        vectors = unscaled.of(vectors)
    return vectors @ model.W_U.detach().float()
