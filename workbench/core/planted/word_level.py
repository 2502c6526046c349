"""What planted models share: a tokenizer of whole words, and a small bridge to put weights into.

1. A word is a token; anything else is `<unk>`. With BOS, `<bos>` stands in front of every text.
2. A bridge is built on the CPU, so that weights are the same on every device; `on` moves it.

Limits: `<unk>` lies outside of the vocabulary of the model, so a text may use known words only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from workbench.core.models import anatomy, sources

if TYPE_CHECKING:
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

WORDS = ("ape", "bee", "cat", "dog", "elk", "fox")

Plain = Mapping[str, torch.Tensor]


def word_tokenizer(words: tuple[str, ...], bos: bool) -> transformers.PreTrainedTokenizerFast:
    """A word-level tokenizer, with a BOS token in front of every text if asked for.

    Args:
        words: The vocabulary, in the order of its ids.
        bos: Whether `<bos>`, the id after the words, stands in front.

    Returns:
        The tokenizer.
    """
    import tokenizers
    import transformers

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


def bridge(
    words: tuple[str, ...],
    *,
    bos: bool,
    act_fn: str = "relu",
    normalization_type: str | None = None,
    dtype: torch.dtype = torch.float32,
    **sizes: int,
) -> TransformerBridge:
    """A native bridge over words, whose weights are still to be filled in.

    Args:
        words: Its vocabulary, BOS aside.
        bos: Whether `<bos>` stands in front of every text.
        act_fn: Of its MLPs.
        normalization_type: Of its stream; none for a stream that is read as it is.
        dtype: Of its parameters.
        **sizes: Fields of `TransformerBridgeConfig`, the vocabulary's aside.

    Returns:
        The bridge, on the CPU, in evaluation mode.
    """
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    fields: dict[str, Any] = {
        **sizes,
        "d_vocab": len(words) + bos,
        "act_fn": act_fn,
        "normalization_type": normalization_type,
        "init_weights": False,
    }
    tokenizer = word_tokenizer(words, bos)
    model = TransformerBridge.boot_native(
        TransformerBridgeConfig(**fields), tokenizer=tokenizer, device="cpu", dtype=dtype
    )
    model.cfg.default_prepend_bos = bos
    return model.eval()


def blank(words: tuple[str, ...], *, bos: bool, **sizes: Any) -> tuple[TransformerBridge, Plain]:
    """A bridge without norms that does nothing at all: every parameter is zero.

    Args:
        words: Its vocabulary, BOS aside.
        bos: Whether `<bos>` stands in front of every text.
        **sizes: As for `bridge`.

    Returns:
        The bridge, and its parameters under NativeModel's own names.
    """
    model = bridge(words, bos=bos, **sizes)
    plain = anatomy.stored_parameters(model)
    with torch.no_grad():
        for parameter in plain.values():
            parameter.zero_()
    return model, plain


def randomise(model: TransformerBridge, seed: int) -> TransformerBridge:
    """Fill every parameter of a bridge, biases and norms included, with small random numbers.

    Args:
        model: The bridge, on the CPU; it is changed.
        seed: Of the numbers.

    Returns:
        The same bridge.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.original_model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def on(model: TransformerBridge, device: str) -> TransformerBridge:
    """Move a bridge.

    Args:
        model: The bridge; it is changed.
        device: As for `workbench.load_model`.

    Returns:
        The same bridge, there.

    Raises:
        ModelSourceError: If there is no such device here.
    """
    return model.to(sources.torch_device(device), print_details=False)
