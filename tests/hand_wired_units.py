"""A model whose neurons are known: what each fires at is written into its weights."""

from __future__ import annotations

import torch
from transformer_lens.model_bridge import TransformerBridge

from tests import hand_wired

DOG = hand_wired.WORDS.index("dog")
ELK = hand_wired.WORDS.index("elk")


def detectors() -> TransformerBridge:
    """Neurons of layer 0: 0 fires at "dog", 1 at position 2, 2 at "dog" at position 2 only.

    Each activation is 0 or 1. Neuron 0 writes what only the logit of "elk" reads; all other neurons
    are zero and write nothing.
    """
    model = hand_wired.two_layer()
    named = model.original_model.named_parameters()
    plain = {name.replace("._original_component", ""): p for name, p in named}
    words = len(hand_wired.WORDS)
    third = 3 * words + 2
    with torch.no_grad():
        reads = plain["layers.0.mlp.fc_in.weight"]
        reads[0, DOG] = reads[1, third] = reads[2, DOG] = reads[2, third] = 1
        plain["layers.0.mlp.fc_in.bias"][2] = -1
        plain["layers.0.mlp.fc_out.weight"][words + ELK, 0] = 1
    return model
