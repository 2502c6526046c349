"""What makes a unit fire, from data and by optimization, and how far is that to be believed?

1. `top_examples` reads a corpus once and keeps, for all units of the chosen kinds, where each is
   largest and smallest, and its distribution; `view_unit` shows one of them from all sides.
2. `optimize_text` searches for texts that make a unit fire, along the trade-off of activation and
   fluency; `optimize_input` does so for continuous inputs of any network.
3. `train_dictionary` trains a sparse autoencoder on any site, `dictionary_quality` says what it
   keeps of the model; its latents are units like all others (`dictionary=`).
4. `believe` scores a description of a unit by what it predicts on held-out text, against the same
   description of other units; `linear_region` shows how far one point characterises a ReLU unit.

Source: Bills et al. 2023, "Language models can explain neurons in language models"; Thompson et al.
2024, arXiv 2402.01702 (texts); Olah et al. 2017, doi 10.23915/distill.00007 (images); Gao et al.
2024, arXiv 2406.04093 (dictionaries). Each module names its own.

Units and sign: activations as the model has them, negative ones included; quantiles from 0
(smallest) to 1; cross-entropy in nats a token.

Limits: what a corpus does not hold is not seen, and an optimum may lie far outside of it; units are
described one at a time.
"""

from __future__ import annotations

from analyses.feature_visualization.belief import (
    Belief,
    Description,
    Pattern,
    TokenMeans,
    TokenSet,
    believe,
    token_means,
)
from analyses.feature_visualization.dictionaries import (
    DictionaryQuality,
    TrainedDictionary,
    dictionary_quality,
    neighbours,
    splitting,
    train_dictionary,
)
from analyses.feature_visualization.examples import TopExamples, top_examples
from analyses.feature_visualization.inputs import (
    LinearRegion,
    OptimizedInput,
    linear_region,
    optimize_input,
)
from analyses.feature_visualization.output_tokens import OutputTokens, output_tokens
from analyses.feature_visualization.text import OptimizedText, optimize_text
from analyses.feature_visualization.triggers import TokenTrigger, token_triggers
from analyses.feature_visualization.unit_view import UnitView, view_unit

__all__ = [
    "Belief",
    "Description",
    "DictionaryQuality",
    "LinearRegion",
    "OptimizedInput",
    "OptimizedText",
    "OutputTokens",
    "Pattern",
    "TokenMeans",
    "TokenSet",
    "TokenTrigger",
    "TopExamples",
    "TrainedDictionary",
    "UnitView",
    "believe",
    "dictionary_quality",
    "linear_region",
    "neighbours",
    "optimize_input",
    "optimize_text",
    "output_tokens",
    "splitting",
    "token_means",
    "token_triggers",
    "top_examples",
    "train_dictionary",
    "view_unit",
]
