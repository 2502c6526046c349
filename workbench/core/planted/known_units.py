"""Models whose neurons are known: what each fires at is written into its weights.

1. `detectors`: neurons of the two-step model that fire at a word, at a place, or at both.
2. `pairs`: neurons that fire at a word only after another one.

Limits: each activation is 0 or 1, so there is nothing between firing and silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from workbench.core.models import anatomy
from workbench.core.planted import two_steps, word_level

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

DOG = word_level.WORDS.index("dog")
ELK = word_level.WORDS.index("elk")
PAIRS = (("cat", "dog"), ("bee", "elk"), ("fox", "ape"))


def detectors() -> TransformerBridge:
    """Neurons of layer 0: 0 fires at "dog", 1 at position 2, 2 at "dog" at position 2 only.

    Each activation is 0 or 1. Neuron 0 writes what only the logit of "elk" reads; all other neurons
    are zero and write nothing.
    """
    model = two_steps.two_layer()
    plain = anatomy.stored_parameters(model)
    words = len(word_level.WORDS)
    third = 3 * words + 2
    with torch.no_grad():
        reads = plain["layers.0.mlp.fc_in.weight"]
        reads[0, DOG] = reads[1, third] = reads[2, DOG] = reads[2, third] = 1
        plain["layers.0.mlp.fc_in.bias"][2] = -1
        plain["layers.0.mlp.fc_out.weight"][words + ELK, 0] = 1
    return model


def pairs() -> TransformerBridge:
    """Neurons 0 to 2 fire at the second word of each of `PAIRS` if the first stands before it.

    Each activation is 0 or 1. Neurons 3 to 5 fire at the second words wherever they are. The head
    brings the word before; BOS stands in front of a text and is no word.
    """
    words, context = len(word_level.WORDS), 12
    here, before = slice(0, words), slice(words, 2 * words)
    place = slice(2 * words, 2 * words + context)
    model, plain = word_level.blank(
        word_level.WORDS,
        bos=True,
        d_model=place.stop,
        d_head=context,
        n_heads=1,
        n_layers=1,
        n_ctx=context,
        d_mlp=6,
    )
    reads, bias = plain["layers.0.mlp.fc_in.weight"], plain["layers.0.mlp.fc_in.bias"]
    with torch.no_grad():
        eye, places = torch.eye(words), torch.eye(context)
        plain["tok_embed.weight"][:words, here] = eye
        plain["pos.weight"][:, place] = places
        # So large a score that softmax gives exactly one.
        plain["layers.0.attn.q.weight"][:, place] = 1e4 * places.roll(-1, 0)
        plain["layers.0.attn.k.weight"][:, place] = places
        plain["layers.0.attn.v.weight"][:words, here] = eye
        plain["layers.0.attn.o.weight"][before, :words] = eye
        for neuron, (first, second) in enumerate(PAIRS):
            at, after = word_level.WORDS.index(second), word_level.WORDS.index(first)
            reads[neuron, at] = reads[neuron, before.start + after] = reads[neuron + 3, at] = 1
            bias[neuron] = -1
        generator = torch.Generator().manual_seed(0)
        # Some words follow others, so that cross-entropy has something to say.
        follow = torch.randn(words, words, generator=generator)
        plain["head.weight"][:words, here] = follow
    return model
