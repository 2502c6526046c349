"""Units that compute a known function of a text, so that their best text is known.

The one-layer model has no norms. Head 0 brings the token before; head 1 attends to every `signal`
there is, to nothing else, and brings the places of these, averaged; where there is none it averages
all places. With t the last token and s the one before it, the neurons are, by index:

0. 2 if t is `target`, else 0;
1. 1 if t is `target` and s is `before`, else 0;
2. the mean of `PLACES` over the places of `signal` (of all places without one);
3. 1 if t is `target` or `other`, else 0.

Limits: each best text is reached by changing one or two tokens of any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.core.planted import word_level

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

LENGTH = 12
N_CTX = LENGTH + 1
WORDS = ("target", "before", "signal", "other", *(f"word{i}" for i in range(36)))
TARGET, BEFORE, SIGNAL, OTHER = range(4)
BEST_PLACE = 5
# Of BOS and each token: highest at one place in the middle, and no two alike.
PLACES = np.array([0.0, 0.1, 0.3, 0.2, 0.5, 1.0, 0.4, 0.6, 0.25, 0.15, 0.35, 0.45, 0.05])
CERTAIN = 1e4


def units() -> TransformerBridge:
    """The model of the module docstring."""
    words = len(WORDS)
    token, earlier = slice(0, words), slice(words, 2 * words)
    place, signals = (slice(2 * words + i * N_CTX, 2 * words + (i + 1) * N_CTX) for i in range(2))
    model, plain = word_level.blank(
        WORDS,
        bos=True,
        d_model=signals.stop,
        d_head=words,
        n_heads=2,
        n_layers=1,
        n_ctx=N_CTX,
        d_mlp=4,
    )
    q, k, v, o = (plain[f"layers.0.attn.{name}.weight"] for name in "qkvo")
    reads, bias = plain["layers.0.mlp.fc_in.weight"], plain["layers.0.mlp.fc_in.bias"]
    with torch.no_grad():
        eye, places = torch.eye(words), torch.eye(N_CTX)
        plain["tok_embed.weight"][:words, token] = eye
        plain["pos.weight"][:, place] = places
        q[:N_CTX, place], k[:N_CTX, place] = CERTAIN * places.roll(-1, 0), places
        v[:words, token], o[earlier, :words] = eye, eye
        q[words, place], k[words, SIGNAL] = CERTAIN, 1.0
        second = slice(words, words + N_CTX)
        v[second, place], o[signals, second] = places, places
        reads[0, TARGET] = 2
        reads[1, TARGET], reads[1, words + BEFORE], bias[1] = 1, 1, -1
        reads[2, signals] = torch.from_numpy(PLACES).float()
        reads[3, TARGET], reads[3, OTHER] = 1, 1
        generator = torch.Generator().manual_seed(0)
        # Some words follow others, so that fluency has something to say.
        plain["head.weight"][:words, token] = torch.randn(words, words, generator=generator)
    return model
