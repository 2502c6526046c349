"""Which parts is the stream at a position made of, all the way back to the tokens?

1. `trace` starts at the stream after the last layer at a target position. Each state y of the
   stream that it reaches is the sum of parts z: the state before, what each head moved from each
   position, what the MLP wrote, and biases. Its share says how large a part is; parts above a
   floor are edges, and the states that they come from are taken apart next.
2. `ContributionGraph.routes` keeps, at any threshold, the edges that lead to the target.
3. `promoted` reads what an edge writes for and against by the direct path, with random vectors of
   the same length as the null, and where its head looks; `state_tokens` reads a whole state.
4. `edge_effect` takes an edge or a state out of the stream, or swaps it for what another prompt has
   there, runs the rest of the model exactly, and compares what that does with other parts of the
   same kind, and with random vectors of the same length in its place.
5. `agreement` compares shares with exact effects over many edges of the graph: does the picture
   tell which edges matter on this prompt?

Source: Ferrando & Voita 2024, arXiv 2403.00824 (information flow routes, proximity shares);
Ferrando et al. 2022, arXiv 2203.04212 (ALTI); Tufanov et al. 2024, arXiv 2404.07004 (the graph
that one can click).

Units and sign: a proximity share is max(0, |y|₁ − |y − z|₁), by how much the part brings nothing
closer to the state, divided by the sum of that over all parts of y: from 0 to 1, together 1. It is
the default, since it measures a part against the whole new state, the stream carried over included:
a layer that writes next to nothing has no large shares. The other measure is the share of the
update u that a step adds, z·u / u·u: signed, together 1 over what was added, undefined for what is
carried over. Effects are changes, without the part minus with it: of a logit or of a difference of
two, in logits, and as KL divergence in nats.

Limits: shares follow values only: what decides where a head looks has no edge. A part that nobody
reads can have a large share, and parts may cancel, which is why effects are exact. A value bias is
part of what a head moves; where attention's output is normalised, its scale is frozen. Taking a
whole part out, and more so a whole state, may leave what the model has ever seen; swapping it with
a corrupted prompt stays nearer. Effects of edges do not add up. A p-value
is for the one part that was asked about: whoever looks at many parts finds small ones by chance.
"""

from __future__ import annotations

from analyses.contributions.agreement import ShareAgreement, agreement
from analyses.contributions.effects import EdgeEffect, edge_effect
from analyses.contributions.graph import MEASURES, THRESHOLD, ContributionGraph
from analyses.contributions.naming import Edge, Layout, Node, edge_or_node
from analyses.contributions.reading import Promoted, StateTokens, promoted, state_tokens
from analyses.contributions.runs import counterpart
from analyses.contributions.tracing import trace

__all__ = [
    "MEASURES",
    "THRESHOLD",
    "ContributionGraph",
    "Edge",
    "EdgeEffect",
    "Layout",
    "Node",
    "Promoted",
    "ShareAgreement",
    "StateTokens",
    "agreement",
    "counterpart",
    "edge_effect",
    "edge_or_node",
    "promoted",
    "state_tokens",
    "trace",
]
