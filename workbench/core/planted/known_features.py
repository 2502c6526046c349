"""Features in superposition: known directions, more of them than the stream has dimensions.

1. `directions` are random unit vectors; `combined` are sparse sums of them, each with a size.
2. `words` is a model whose every word is such a sum, so that the stream before layer 0 is made of
   these features, and of nothing else.

Source: Elhage et al. 2022, "Toy Models of Superposition".

Limits: features are independent, and each as frequent as all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from workbench.core.planted import word_level

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

FEATURES, D_MODEL = 32, 16
N_WORDS = 1000
# Share of the sums in which a feature is.
SHARE = 1 / FEATURES


def directions(seed: int = 0) -> Float[torch.Tensor, "direction d_model"]:
    """The features.

    Args:
        seed: Of the directions.

    Returns:
        Unit vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(FEATURES, D_MODEL, generator=generator), dim=1)


def combined(
    features: Float[torch.Tensor, "direction d_model"],
    n: int,
    generator: torch.Generator,
    share: float = SHARE,
) -> Float[torch.Tensor, "token d_model"]:
    """Sparse sums of features, of sizes from 0.5 to 1.5.

    Args:
        features: The directions.
        n: How many sums.
        generator: Draws them.
        share: Of the sums in which a feature is.

    Returns:
        The sums; some have no feature at all.
    """
    there = torch.rand(n, len(features), generator=generator) < share
    size = 0.5 + torch.rand(n, len(features), generator=generator)
    return (there * size) @ features


def words(seed: int = 0) -> TransformerBridge:
    """A model of one layer that does nothing, and whose words are sums of features.

    Args:
        seed: Of features and words.

    Returns:
        The model.
    """
    model, plain = word_level.blank(
        tuple(f"word{i}" for i in range(N_WORDS)),
        bos=False,
        d_model=D_MODEL,
        d_head=1,
        n_heads=1,
        n_layers=1,
        n_ctx=8,
        d_mlp=1,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        plain["tok_embed.weight"][:] = combined(directions(seed), N_WORDS, generator)
    return model
