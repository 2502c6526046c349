"""Which features does a site carry, when a sparse autoencoder takes it apart?

1. `train_dictionary` trains one on a site of a model (TopK, BatchTopK or JumpReLU, by the trainer
   of sae-lens); `train_on` on any vectors. Both go on where they were stopped.
2. `dictionary_quality` says how much of the site, and of the model's predictions, it keeps, against
   mean ablation and random directions of the same L0.
3. `neighbours` and `splitting` say which latents point the same way or fire together, and which
   latents of a large dictionary stand for one of a small one.

Dictionaries of others come from `workbench.core.models.dictionaries`: folders and releases.

Source: Bricken et al. 2023, "Towards Monosemanticity"; Cunningham et al. 2023, arXiv 2309.08600.

Units and sign: see each module. Limits: a dictionary shows directions that are active sparsely on
one corpus; that a latent is a feature which the model uses is for interventions to show.
"""

from __future__ import annotations

from analyses.feature_visualization.dictionaries.activations import Place, Stream
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

__all__ = [
    "KINDS",
    "DictionaryError",
    "DictionaryQuality",
    "Measure",
    "Neighbours",
    "Place",
    "Splitting",
    "Stream",
    "TrainedDictionary",
    "dictionary_quality",
    "neighbours",
    "splitting",
    "train_dictionary",
    "train_on",
]
