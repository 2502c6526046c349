"""What is added: a unit's vector, and random directions that are as long in the stream.

1. `vectors_of` gives both; the unit's own stays as it is, bit for bit.
2. `into_stream` says what a vector at the site adds to the residual stream.

Source: Turner et al. 2023, arXiv 2308.10248 (adding a vector to the stream).

Units: those of the activation at the site.

Limits: where a norm follows the MLP's output (Gemma 2), lengths are those before it. A head has no
vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from workbench.core.engine import units as families

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

POSITIONS = ("all", "ordinary")
Tensor = torch.Tensor


def require_positions(positions: str) -> None:
    """Check where vectors are to be added.

    Raises:
        ValueError: If that is none of `POSITIONS`.
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions = {positions!r}; expected one of {', '.join(POSITIONS)}")


def vectors_of(
    model: TransformerBridge, family: families.Family, index: int, controls: int, seed: int
) -> Float[Tensor, "sample width"]:
    """What a strength of 1 adds to the activation: the unit's vector, then random ones.

    Args:
        model: The bridge.
        family: The unit's family.
        index: Which one of it.
        controls: How many random directions, each as long in the stream as the unit's vector.
        seed: Of these.

    Returns:
        The vectors, the unit's own first.

    Raises:
        ValueError: If the unit has no vector, or writes nothing.
    """
    if family.kind == "head":
        raise ValueError(
            "a head has no vector to add, as it writes something else for each token that it "
            "attends to: steer by a direction at attn_out"
        )
    own = family.direction(index).detach().float().cpu()
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(controls, len(own), generator=generator)
    vectors = torch.cat([own[None], random]).to(model.cfg.device)
    lengths = into_stream(model, family, vectors).norm(dim=1)
    if not lengths[0] > 0:
        raise ValueError(
            f"{family.unit(index)} writes nothing into the stream, so adding it changes nothing: "
            "choose another unit"
        )
    # The unit's own vector stays as it is, bit for bit.
    return torch.cat([vectors[:1], vectors[1:] * (lengths[0] / lengths[1:])[:, None]])


def into_stream(
    model: TransformerBridge, family: families.Family, vectors: Float[Tensor, "sample width"]
) -> Float[Tensor, "sample d_model"]:
    """What vectors at the site add to the residual stream."""
    if family.site != "neuron":
        return vectors
    return vectors @ model.blocks[family.layer].mlp.W_out.detach().to(vectors)
