"""What would the model say if it stopped after each layer, and how far is that to be believed?

1. `read` runs a prompt once and keeps the stream before the first layer and after each (or what
   each attention layer or MLP adds to it).
2. Each of these goes through the model's own final norm, unembedding and soft cap: top tokens,
   probability, rank and entropy at every position, and the KL divergence of the model's output from
   what is read. The last row of the stream is the model's output.
3. `train` fits a tuned lens: an affine translator before each layer that makes what is read there
   as near to the model's output as it gets, on a corpus, by the KL divergence.
4. `compare` measures both lenses on text that the tuned one was not trained on, layer by layer,
   with intervals over texts and a test of the paired difference: the one with the lower KL
   divergence is the one to believe.

Source: nostalgebraist 2020, "Interpreting GPT: the logit lens"; Belrose et al. 2023, "Eliciting
Latent Predictions from Transformers with the Tuned Lens", arXiv 2303.08112; Din et al. 2023, "Jump
to Conclusions", arXiv 2303.09435 (affine shortcuts between layers).

Units and sign: entropies and KL divergences in nats; KL(final output || lens), 0 where the lens
says what the model says. Ranks count the tokens with a larger logit: 0 is the top.

Limits: a lens shows what a fixed reading makes of the stream, not what the model computes with it:
later layers may read the same stream in another basis. A low KL divergence says that the final
output can be read there; that the model uses it takes an intervention. The tuned lens is fitted to
the final output, so it can add what is usual after such a stream without its being there; at the
embedding it learns which token follows which. With norm "own" an attention or MLP output goes
through the norm by itself, which throws its size away: a small one reads as sure as a large one.
Norm "final" keeps the scale that the norm had for the whole stream, so sizes stay comparable (for
shares that add up see direct attribution). Overlap of training and test text is found row by row,
exact copies only.
"""

from __future__ import annotations

from analyses.logit_lens.comparison import LensComparison, compare
from analyses.logit_lens.looking import read
from analyses.logit_lens.reading import CellReading, LensReading, TokenReading
from analyses.logit_lens.tuned import TunedLens, train, training_seconds

__all__ = [
    "CellReading",
    "LensComparison",
    "LensReading",
    "TokenReading",
    "TunedLens",
    "compare",
    "read",
    "train",
    "training_seconds",
]
