"""Clusters of units that nobody described: by what they do, their weights, or their frequency.

`finding.find_clusters` is the analysis, `result.Clusters` what it gives. `similarity` and
`connections` say what units have in common, `cutting` cuts them into groups, `stability` says how
many groups there are, `reading` reads the units, and `meaning` says what a group does.
"""

from __future__ import annotations

from analyses.neuron_clusters.clustering.finding import METHODS, Method, find_clusters
from analyses.neuron_clusters.clustering.meaning import Association, Meaning, Wave, Written
from analyses.neuron_clusters.clustering.result import Cluster, Clusters, LeftOut
from analyses.neuron_clusters.clustering.stability import Stability

__all__ = [
    "METHODS",
    "Association",
    "Cluster",
    "Clusters",
    "LeftOut",
    "Meaning",
    "Method",
    "Stability",
    "Wave",
    "Written",
    "find_clusters",
]
