"""A small transformer in which nothing was planted: every parameter is random.

It has what planted models lack, LayerNorm, biases everywhere and a smooth nonlinearity, so that two
ways to compute the same are compared on it; and an analysis that finds a circuit in it is wrong.

Limits: random is not trained: its logits hang together by chance, but they do hang together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from workbench.core.models import anatomy
from workbench.core.planted import word_level

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Of an enlarged coordinate, where others are about one.
LARGE = 1e4


def randomised(
    *, seed: int = 0, n_layers: int = 2, dtype: torch.dtype = torch.float32
) -> TransformerBridge:
    """A small transformer with LayerNorm whose every parameter, biases included, is random.

    Args:
        seed: Of the parameters.
        n_layers: How many.
        dtype: Of the parameters.

    Returns:
        The model, in evaluation mode.
    """
    model = word_level.bridge(
        word_level.WORDS,
        bos=True,
        act_fn="gelu",
        normalization_type="LN",
        dtype=dtype,
        d_model=16,
        d_head=4,
        n_heads=4,
        n_layers=n_layers,
        n_ctx=12,
        d_mlp=32,
    )
    return word_level.randomise(model, seed)


def redraw_head(model: TransformerBridge, layer: int, head: int, *, seed: int) -> None:
    """Draw one head's queries, keys, values and outputs anew, larger than they were.

    Args:
        model: The model, on the CPU; it is changed.
        layer: Of the head.
        head: Its number.
        seed: Of the new weights.
    """
    parameters = anatomy.stored_parameters(model)
    width = int(model.cfg.d_head)
    rows = slice(head * width, (head + 1) * width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in "qkv":
            weight = parameters[f"layers.{layer}.attn.{part}.weight"]
            weight[rows] = torch.randn(weight[rows].shape, generator=generator)
        weight = parameters[f"layers.{layer}.attn.o.weight"]
        weight[:, rows] = torch.randn(weight[:, rows].shape, generator=generator)


def enlarge_coordinate(model: TransformerBridge, coordinate: int) -> None:
    """Let every token write the same large number into one coordinate of the stream.

    Args:
        model: The model; it is changed.
        coordinate: Which.
    """
    with torch.no_grad():
        anatomy.stored_parameters(model)["tok_embed.weight"][:, coordinate] = LARGE
