"""Small models of the architecture families, built from configurations, every parameter random."""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from workbench.core.planted import unplanted, word_level

D_MODEL, HEADS, LAYERS = 16, 4, 2
# What these configurations call alike.
_SMALL: dict[str, Any] = {
    "vocab_size": 16,
    "hidden_size": D_MODEL,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 16,
}
CONFIGS: dict[str, Any] = {
    "gpt2": transformers.GPT2Config(
        vocab_size=16, n_positions=16, n_embd=D_MODEL, n_layer=LAYERS, n_head=HEADS
    ),
    "llama": transformers.LlamaConfig(
        **_SMALL,
        num_key_value_heads=2,
    ),
    # Attention and MLP read the same residual stream side by side.
    "pythia": transformers.GPTNeoXConfig(
        **_SMALL,
    ),
    # One key/value head for all queries, a head width of its own, and scaled embeddings.
    "gemma": transformers.GemmaConfig(
        **_SMALL,
        num_key_value_heads=1,
        head_dim=6,
    ),
    # Norms after attention and MLP, soft caps, and layers that see a few positions back only.
    "gemma2": transformers.Gemma2Config(
        **_SMALL,
        num_key_value_heads=2,
        head_dim=4,
        sliding_window=3,
    ),
    # Every layer sees the last three positions only.
    "mistral": transformers.MistralConfig(
        **_SMALL,
        num_key_value_heads=2,
        sliding_window=3,
        head_dim=4,
    ),
    # Norms on queries and keys.
    "qwen3": transformers.Qwen3Config(
        **_SMALL,
        num_key_value_heads=2,
        head_dim=4,
    ),
}
NATIVE = "native"


@functools.cache
def bridge(name: str, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A bridge as `build` makes it; it is shared, so leave it be."""
    return build(name, dtype)


def build(name: str, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A bridge of a family, by its name in `CONFIGS`, or `NATIVE`."""
    if name == NATIVE:
        return unplanted.randomised(dtype=dtype)
    network = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model = TransformerBridge.boot_transformers(
        name,
        hf_model=network.eval(),
        tokenizer=word_level.word_tokenizer(word_level.WORDS, bos=False),
        dtype=dtype,
    ).eval()
    # This tokenizer has no BOS, and its last token is not to be taken for one.
    model.cfg.default_prepend_bos = False
    return model
