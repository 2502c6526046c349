"""Models whose answer is known by construction, and a randomised one to compare implementations on.

The two-layer model copies the token at position 1 to the last position in two steps:

- layer 0, head 0 at the last position reads the token at position 1 and writes it to subspace A;
- layer 1, head 1 at the last position reads A from the last position and writes it to subspace B;
- the logits are 0.25 A + 0.75 B.

With clean and corrupted prompts that differ at position 1 only, the effects are therefore exactly:
layer 0 everything, layer 1's own contribution 0.75, everything else nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import tokenizers
import torch
import transformers
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

WORDS = ("ape", "bee", "cat", "dog", "elk", "fox")
DIRECT, INDIRECT = 0.25, 0.75
N_CTX = 4


def word_tokenizer(words: tuple[str, ...], bos: bool) -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer, with a BOS token in front of every text if asked for."""
    special = ["<bos>"] if bos else []
    vocabulary = {word: i for i, word in enumerate([*words, *special, "<unk>"])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    # With these two set, transformer_lens takes the tokenizer as it is instead of reading it again.
    names = {"bos_token": "<bos>", "add_bos_token": True, "name_or_path": ""} if bos else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **names)


def two_layer() -> TransformerBridge:
    """The model described in the module docstring."""
    words = len(WORDS)
    d_model = 3 * words + N_CTX
    token, a, b = (slice(i * words, (i + 1) * words) for i in range(3))
    place = slice(3 * words, d_model)
    config = TransformerBridgeConfig(
        d_model=d_model,
        d_head=words,
        n_heads=2,
        n_layers=2,
        n_ctx=N_CTX,
        d_vocab=words,
        d_mlp=4,
        act_fn="relu",
        normalization_type=None,
        init_weights=False,
    )
    model = TransformerBridge.boot_native(config, tokenizer=word_tokenizer(WORDS, bos=False))
    model.cfg.default_prepend_bos = False
    named = model.original_model.named_parameters()
    plain = {name.replace("._original_component", ""): p for name, p in named}
    with torch.no_grad():
        for parameter in plain.values():
            parameter.zero_()
        eye = torch.eye(words)
        plain["tok_embed.weight"][:, token] = eye
        plain["pos.weight"][:, place] = torch.eye(N_CTX)
        _wire(plain, layer=0, head=0, reads=token, writes=a, place=place, source=1)
        _wire(plain, layer=1, head=1, reads=a, writes=b, place=place, source=N_CTX - 1)
        plain["head.weight"][:, a] = DIRECT * eye
        plain["head.weight"][:, b] = INDIRECT * eye
    return model.eval()


def _wire(
    plain: Mapping[str, torch.Tensor],
    *,
    layer: int,
    head: int,
    reads: slice,
    writes: slice,
    place: slice,
    source: int,
) -> None:
    """Let one head copy `reads` at position `source` to `writes` at the last position."""
    words = len(WORDS)
    rows = slice(head * words, (head + 1) * words)
    attention = f"layers.{layer}.attn"
    # So large a score that softmax gives exactly one: every other term underflows to zero.
    plain[f"{attention}.q.weight"][rows.start, place.start + N_CTX - 1] = 1e4
    plain[f"{attention}.k.weight"][rows.start, place.start + source] = 1.0
    plain[f"{attention}.v.weight"][rows, reads] = torch.eye(words)
    plain[f"{attention}.o.weight"][writes, rows] = torch.eye(words)


def randomised(
    *, seed: int = 0, n_layers: int = 2, dtype: torch.dtype = torch.float32
) -> TransformerBridge:
    """A small transformer with LayerNorm whose every parameter, biases included, is random."""
    config = TransformerBridgeConfig(
        d_model=16,
        d_head=4,
        n_heads=4,
        n_layers=n_layers,
        n_ctx=12,
        d_vocab=len(WORDS) + 1,
        d_mlp=32,
        act_fn="gelu",
        normalization_type="LN",
        init_weights=False,
    )
    model = TransformerBridge.boot_native(
        config, tokenizer=word_tokenizer(WORDS, bos=True), dtype=dtype
    )
    model.cfg.default_prepend_bos = True
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.original_model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
