"""Which features does a site carry, when a sparse autoencoder takes it apart?

1. `train_dictionary` trains one on a site of a model (TopK, BatchTopK or JumpReLU, by the trainer
   of sae-lens); `train_on` on any vectors. Both go on where they were stopped.
2. `dictionary_quality` says how much of the site, and of the model's predictions, it keeps, against
   mean ablation and random directions of the same L0.
3. `neighbours` and `splitting` say which latents point the same way or fire together, and which
   latents of a large dictionary stand for one of a small one; `latent_dashboard` shows one latent
   from all sides, `latent_overview` how often all of them are active.
4. `match_variables` looks for a latent for each value of variables that are known, on held-out
   documents, against neurons, coordinates and random directions.

Dictionaries of others come from `workbench.core.models.dictionaries`: folders and releases.

Source: Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023, arXiv 2309.08600.

Units and sign: see each module. Limits: a dictionary shows directions that are active sparsely on
one corpus; that a latent is a feature which the model uses is for interventions to show.
"""

from __future__ import annotations

from analyses.feature_visualization.dictionaries.activations import Place, Stream
from analyses.feature_visualization.dictionaries.dashboard import (
    LatentDashboard,
    LatentOverview,
    latent_dashboard,
    latent_overview,
)
from analyses.feature_visualization.dictionaries.labels import LabelledTokens, grammar_labels
from analyses.feature_visualization.dictionaries.latents import (
    Neighbours,
    Splitting,
    neighbours,
    splitting,
)
from analyses.feature_visualization.dictionaries.quality import (
    DictionaryQuality,
    Measure,
    dictionary_quality,
)
from analyses.feature_visualization.dictionaries.stepping import KINDS, DictionaryError
from analyses.feature_visualization.dictionaries.training import (
    TrainedDictionary,
    train_dictionary,
    train_on,
)
from analyses.feature_visualization.dictionaries.variables import VariableMatches, match_variables

__all__ = [
    "KINDS",
    "DictionaryError",
    "DictionaryQuality",
    "LabelledTokens",
    "LatentDashboard",
    "LatentOverview",
    "Measure",
    "Neighbours",
    "Place",
    "Splitting",
    "Stream",
    "TrainedDictionary",
    "VariableMatches",
    "dictionary_quality",
    "grammar_labels",
    "latent_dashboard",
    "latent_overview",
    "match_variables",
    "neighbours",
    "splitting",
    "train_dictionary",
    "train_on",
]
