"""Models and text that the tests of the lenses share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench import Corpus

D_MODEL = 8


@pytest.fixture(scope="session")
def turning() -> tuple[TransformerBridge, torch.Tensor]:
    """A model whose last layer turns the stream by a fixed rotation R, and R.

    It has no norm. Layer 0 is random; in layer 1 the attention adds nothing and the MLP adds
    exactly h R - h, since relu(x) - relu(-x) is x. The translator after layer 0 is R - 1 therefore.
    """
    config = TransformerBridgeConfig(
        d_model=D_MODEL,
        d_head=4,
        n_heads=2,
        n_layers=2,
        n_ctx=6,
        d_vocab=12,
        d_mlp=2 * D_MODEL,
        act_fn="relu",
        normalization_type=None,
        init_weights=False,
    )
    model = TransformerBridge.boot_native(config)
    generator = torch.Generator().manual_seed(3)
    turned = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=generator)).Q
    eye = torch.eye(D_MODEL)
    named = model.original_model.named_parameters()
    plain = {name.replace("._original_component", ""): p for name, p in named}
    with torch.no_grad():
        for name, parameter in plain.items():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
            if name.startswith("layers.1."):
                parameter.zero_()
        plain["layers.1.mlp.fc_in.weight"].copy_(torch.cat([eye, -eye]))
        # A projection's weight has a row for each coordinate that it writes.
        adds = (turned - eye).T
        plain["layers.1.mlp.fc_out.weight"].copy_(torch.cat([adds, -adds], 1))
    return model.eval(), turned


@pytest.fixture(scope="session")
def teller(stories: Path) -> Any:
    return workbench.load_model(str(stories))


@pytest.fixture(scope="session")
def told(teller: Any) -> tuple[Corpus, Corpus]:
    """Stories that the model itself tells, in two parts that share no story."""
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        tokens = teller.original_model.generate(
            torch.full((200, 1), teller.tokenizer.bos_token_id),
            do_sample=True,
            max_new_tokens=39,
            min_new_tokens=39,
            top_k=0,
            top_p=1.0,
        )
    return Corpus.from_tokens(teller, tokens.numpy(), name="stories").split(0.7)
