"""What makes a unit fire, from data and by optimization, and how far is that to be believed?

1. `top_examples` reads a corpus once and keeps, for all units of the chosen kinds, where each is
   largest and smallest, and its distribution; `view_unit` shows one of them from all sides,
   `separated_groups` says of how many kinds its largest activations are, and `find_units` goes the
   other way: from a description to the units that it fits.
2. `optimize_text` searches for texts that make a unit fire, along the trade-off of activation and
   fluency; `optimize_input` does so for continuous inputs of any network, `interpolated_inputs`
   between two units. `compare_with_examples` and `compare_input_with_data` say how far outside of
   the data such an optimum lies.
3. `train_dictionary` trains a sparse autoencoder on any site, `dictionary_quality` says what it
   keeps of the model, `latent_dashboard` shows a latent; latents are units like all others
   (`dictionary=`). `match_variables` checks latents against variables that are known.
4. `believe` scores a description of a unit by what it predicts on held-out text, against the same
   description of other units; `linear_region` shows how far one point characterises a ReLU unit.
5. `steer` adds a unit at several strengths: what that does, and what it costs.

Source: Bills et al. 2023, "Language models can explain neurons in language models"; Thompson et al.
2024, arXiv 2402.01702 (texts); Olah et al. 2017, doi 10.23915/distill.00007 (images); Gao et al.
2024, arXiv 2406.04093 (dictionaries). Each module names its own.

Units and sign: activations as the model has them, negative ones included; quantiles from 0
(smallest) to 1; cross-entropy in nats a token.

Limits: what a corpus does not hold is not seen, and an optimum may lie far outside of it; units are
described one at a time.
"""

from __future__ import annotations

from analyses.feature_visualization.belief import Belief, believe
from analyses.feature_visualization.describing import described
from analyses.feature_visualization.descriptions import (
    Description,
    Pattern,
    TokenMeans,
    TokenSet,
    token_means,
)
from analyses.feature_visualization.dictionaries import (
    DictionaryQuality,
    LatentDashboard,
    LatentOverview,
    TrainedDictionary,
    VariableMatches,
    dictionary_quality,
    latent_dashboard,
    latent_overview,
    match_variables,
    neighbours,
    splitting,
    train_dictionary,
)
from analyses.feature_visualization.examples import TopExamples, top_examples
from analyses.feature_visualization.hypothesis import Hypothesis
from analyses.feature_visualization.inputs import (
    InterpolatedInputs,
    LinearRegion,
    OptimizedInput,
    interpolated_inputs,
    linear_region,
    optimize_input,
)
from analyses.feature_visualization.neighbourhood import Neighbourhood
from analyses.feature_visualization.output_tokens import OutputTokens, output_tokens
from analyses.feature_visualization.outside import (
    InputAgainstData,
    OptimumAgainstExamples,
    compare_input_with_data,
    compare_with_examples,
)
from analyses.feature_visualization.polysemanticity import SeparatedGroups, separated_groups
from analyses.feature_visualization.search import FoundUnits, find_units
from analyses.feature_visualization.steering import Dose, Steering, steer, steered_text
from analyses.feature_visualization.text import OptimizedText, optimize_text
from analyses.feature_visualization.triggers import TokenTrigger, token_triggers
from analyses.feature_visualization.unit_view import UnitView, largest_examples, view_unit

__all__ = [
    "Belief",
    "Description",
    "DictionaryQuality",
    "Dose",
    "FoundUnits",
    "Hypothesis",
    "InputAgainstData",
    "InterpolatedInputs",
    "LatentDashboard",
    "LatentOverview",
    "LinearRegion",
    "Neighbourhood",
    "OptimizedInput",
    "OptimizedText",
    "OptimumAgainstExamples",
    "OutputTokens",
    "Pattern",
    "SeparatedGroups",
    "Steering",
    "TokenMeans",
    "TokenSet",
    "TokenTrigger",
    "TopExamples",
    "TrainedDictionary",
    "UnitView",
    "VariableMatches",
    "believe",
    "compare_input_with_data",
    "compare_with_examples",
    "described",
    "dictionary_quality",
    "find_units",
    "interpolated_inputs",
    "largest_examples",
    "latent_dashboard",
    "latent_overview",
    "linear_region",
    "match_variables",
    "neighbours",
    "optimize_input",
    "optimize_text",
    "output_tokens",
    "separated_groups",
    "splitting",
    "steer",
    "steered_text",
    "token_means",
    "token_triggers",
    "top_examples",
    "train_dictionary",
    "view_unit",
]
