"""Which components, and which connections between them, carry the behaviour, at a few passes' cost?

Nodes (`attribute_nodes`), attribution patching:

1. Run the source prompts forward, and the base prompts forward and backward. Denoising patches
   clean activations into the corrupted run, noising corrupted activations into the clean run.
2. Estimate of patching a node: (source − base activation) · gradient of the metric at the base run.
3. Queries and keys act through a softmax, which is far from linear: the patched query (or key) is
   put through it exactly, and only what follows is linearised (AtP*'s correction).

Edges (`attribute_edges`), edge attribution patching:

1. Every sender (embedding, head, MLP) writes into the stream, every receiver (a head's query, key
   and value, an MLP, the logits) reads the sum of the senders before it.
2. Score of an edge: (corrupted − clean output of the sender) · gradient of the metric with respect
   to the receiver's own input, at the clean run ("eap"), or averaged over embeddings between the
   corrupted and the clean one ("eap_ig").

`verify_top` measures the largest estimates again, exactly, and says how well they agree.

Source: Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv 2310.10348 (edges); Hanna et al.
2024, arXiv 2403.17806 (integrated gradients); Kramár et al. 2024, arXiv 2403.00745 (softmax).

Units and sign: a node's effect is the fraction that activation patching measures, with its sign: 1
is full recovery (denoising) or full destruction (noising); the ratio of the means over prompts. An
edge's score is the approximate change of the metric, in its unit, when that one edge carries the
corrupted instead of the clean output in the clean run: below 0, the metric falls.

Limits: these are first-order estimates. They are wrong where the metric bends between the two runs
(saturated softmaxes, norms at early layers of the stream, probabilities near 0 or 1), and a node
whose gradient vanishes at the base run is missed altogether. An estimate is a place to look, the
exact measurement is the evidence.
"""

from analyses.attribution.edges import EdgeAttribution, attribute_edges
from analyses.attribution.nodes import NodeAttribution, SiteScores, attribute_nodes
from analyses.attribution.verification import Verification

__all__ = [
    "EdgeAttribution",
    "NodeAttribution",
    "SiteScores",
    "Verification",
    "attribute_edges",
    "attribute_nodes",
]
