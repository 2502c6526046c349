"""Which edges between components carry the behaviour, and how much of it do they carry?

1. Screen: every edge is scored by attribution (`attribution.attribute_edges`), in a few passes.
2. Prune: edges leave as long as the circuit alone stays within the target, in exact runs, until no
   single one can go. In a large graph it begins with the edges of the largest scores.
3. Verify: every edge that is left is corrupted by itself in the full model, exactly; the agreement
   with the scores is shown.
4. Explain: faithfulness on held-out prompts with an interval, beside random circuits of the same
   size; completeness, minimality, and faithfulness over circuit size.

Source: Wang et al. 2022, arXiv 2211.00593 (faithfulness, completeness, minimality); Conmy et al.
2023, arXiv 2304.14997 (pruning by exact runs); Hanna et al. 2024, arXiv 2403.17806 (normalised
faithfulness, EAP-IG); Mueller et al. 2025, arXiv 2504.13151 (CPR, CMD); Shi et al. 2024,
arXiv 2410.13032 (tests against random circuits and inflated circuits).

Units and sign: faithfulness is f = (circuit − nothing) / (full − nothing), where the metric is
taken with the circuit's edges on, with all edges on, and with all edges off; 0 is the corrupted
run, 1 the clean one, as ratio of means over prompts. An edge's weight and exact change are changes
of the metric, in its unit, when that edge alone is corrupted; its effect is that change as a
fraction destroyed, so that 1 is everything and a negative one hinders.

Limits: edges are between heads, MLPs, embedding and logits, each with all its positions at once. A
circuit is relative to these prompts, this corruption and this metric. Attribution may miss edges
that matter only together; the pruned circuit is one of several that may reach the target.
"""

from __future__ import annotations

from analyses.circuits.circuit import Circuit, GraphCounts
from analyses.circuits.curve import FRACTIONS, FaithfulnessCurve, areas, faithfulness_curve
from analyses.circuits.discovery import discover, parameters
from analyses.circuits.evaluation import Faithfulness, faithfulness
from analyses.circuits.inspection import EdgeInspection, inspect_edge
from analyses.circuits.measuring import ABLATIONS
from analyses.circuits.removal import Completeness, Minimality, completeness, minimality

__all__ = [
    "ABLATIONS",
    "FRACTIONS",
    "Circuit",
    "Completeness",
    "EdgeInspection",
    "Faithfulness",
    "FaithfulnessCurve",
    "GraphCounts",
    "Minimality",
    "areas",
    "completeness",
    "discover",
    "faithfulness",
    "faithfulness_curve",
    "inspect_edge",
    "minimality",
    "parameters",
]
