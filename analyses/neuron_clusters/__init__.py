"""Is a concept held by neurons in one place, is that beyond chance, and do these carry it?

1. `selectivity` scores every neuron, head, latent or channel for a concept (AUC or R², with
   permutation p-values and sparse probes).
2. `localize` says whether the selective ones are in one place, by a definition in five parts with
   its nulls and negative controls; `concept_sweep` does so for many concepts at once, and
   `families` counts the units of each concept, branch by branch.
3. `verify` ablates and patches units against matched random sets: are they needed, for this above
   all, and do they suffice?
4. `find_clusters` finds groups without a concept: by co-activation, by weights, by function.
5. `grow` tests the advice to add channels where a concept lives.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (branch specialization); Gurnee et al.
2023, arXiv 2305.01610 (sparse probes); Filan et al. 2021, arXiv 2103.03386 (graphs of weights).
Each module names its own.

Units and sign: AUC from 0 to 1, above one half where a unit is larger with the concept; R² and
shares from 0 to 1; an enrichment of 1 is chance.

Limits: a concept is no better than its labels, and a place no finer than it was declared. That a
unit tells a concept does not say that the model uses it: only `verify` does.
"""

from __future__ import annotations

from analyses.neuron_clusters.behaviours import Behaviour
from analyses.neuron_clusters.clustering import Cluster, Clusters, find_clusters
from analyses.neuron_clusters.families import Families, families
from analyses.neuron_clusters.growth import Growth, grow
from analyses.neuron_clusters.localization import localize
from analyses.neuron_clusters.selectivity import Selectivity, selectivity
from analyses.neuron_clusters.sweep import ConceptSweep, concept_sweep
from analyses.neuron_clusters.verdict import Control, Localization, PlaceEvidence
from analyses.neuron_clusters.verification import Verification, verify

__all__ = [
    "Behaviour",
    "Cluster",
    "Clusters",
    "ConceptSweep",
    "Control",
    "Families",
    "Growth",
    "Localization",
    "PlaceEvidence",
    "Selectivity",
    "Verification",
    "concept_sweep",
    "families",
    "find_clusters",
    "grow",
    "localize",
    "selectivity",
    "verify",
]
