"""A model whose last layer turns the stream by a fixed rotation R, so that its translator is known.

1. It has no norm. Layer 0 is random.
2. In layer 1 the attention adds nothing and the MLP adds exactly h R - h, since relu(x) - relu(-x)
   is x. The translator after layer 0 is R - 1 therefore.

Limits: what follows the embedding is not affine, so there no translator is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float

from workbench.core.models import anatomy
from workbench.core.planted import word_level

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

D_MODEL = 8
WORDS = tuple(f"word{i}" for i in range(12))


def turning() -> tuple[TransformerBridge, Float[torch.Tensor, "d_model d_model"]]:
    """The model described in the module docstring, and R."""
    model = word_level.bridge(
        WORDS,
        bos=False,
        d_model=D_MODEL,
        d_head=4,
        n_heads=2,
        n_layers=2,
        n_ctx=6,
        d_mlp=2 * D_MODEL,
    )
    generator = torch.Generator().manual_seed(3)
    turned = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator)).Q
    eye = torch.eye(D_MODEL)
    plain = anatomy.stored_parameters(model)
    with torch.no_grad():
        for name, parameter in plain.items():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
            if name.startswith("layers.1."):
                parameter.zero_()
        plain["layers.1.mlp.fc_in.weight"].copy_(torch.cat([eye, -eye]))
        # A projection's weight has a row for each coordinate that it writes.
        adds = (turned - eye).T
        plain["layers.1.mlp.fc_out.weight"].copy_(torch.cat([adds, -adds], 1))
    return model, turned
