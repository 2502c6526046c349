"""How far outside of the data does an optimum lie?

An optimized text or input says what a unit *can* respond to. Whether it says what the unit does on
data depends on how far from the data it is. `compare_with_examples` (texts):

1. One scan of the corpus: the optimum's activation against the largest one there.
2. Random tokens of the corpus, in their rows: what the unit reads there. One half of the rows makes
   the distribution: mean and covariance (shrunk towards a ball), and the vectors themselves. The
   other half is held out.
3. At the optimum's last token: its Mahalanobis distance and its largest cosine with a vector of the
   data (both from the mean), against the same of the held-out tokens.
4. Its cross-entropy and the share of its token pairs that the corpus never has, against windows of
   the corpus: as many tokens as the text has, up to each held-out token, run as texts of their own.
5. The same for the unit's top examples (are these already outside?) and for random texts of that
   length, which are far outside: where the optimum lies between them is the answer.

`compare_input_with_data` does the same for continuous inputs, at the input and at the unit's layer,
with examples whose entries are shuffled in place of random texts.

Source: Mahalanobis 1936; Ledoit and Wolf 2004, doi 10.1016/S0047-259X(03)00096-4 (shrinkage); Lee
et al. 2018, arXiv 1807.03888 (distance of hidden activations as a measure of what is outside).

Units: activations as the model has them; cross-entropy in nats a token; Mahalanobis distance in
standard deviations; a quantile is the share of held-out data that is at most as large.

Limits: a covariance describes an ellipsoid; data of another shape have holes that it does not see,
which the nearest neighbour does. A window begins amid a text, which costs it likelihood. Tokens
stand at all positions of their rows, the optimum at one near the beginning: random texts stand at
the same, and show what that alone makes of the distance. A quantile of 1 says "beyond
all that was held out" and not how far; the distance itself says that.
"""

from __future__ import annotations

from analyses.feature_visualization.outside.cloud import Cloud
from analyses.feature_visualization.outside.inputs import (
    INPUT_ANALYSIS,
    InputAgainstData,
    Inputs,
    compare_input_with_data,
)
from analyses.feature_visualization.outside.texts import (
    TEXT_ANALYSIS,
    OptimumAgainstExamples,
    Texts,
    compare_with_examples,
)

__all__ = [
    "INPUT_ANALYSIS",
    "TEXT_ANALYSIS",
    "Cloud",
    "InputAgainstData",
    "Inputs",
    "OptimumAgainstExamples",
    "Texts",
    "compare_input_with_data",
    "compare_with_examples",
]
