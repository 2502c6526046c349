"""Which parts of the model write the logit of this answer?

One prompt (`attribute`):

1. Run the prompt and take the residual stream apart into what the embedding, every head, every
   neuron and the biases wrote into it (`workbench.core.engine.sums`).
2. Hold the scale of the final norm, and of norms on what attention and MLPs add, at what it was:
   a logit, or the difference of two, is then a direction of the stream at each position, and the
   product of a part with that direction is the part's share. The shares sum to the logit.
3. Split a layer's MLP into its neurons, and a head at one position into the positions that it
   brings its share from.

Many prompts (`attribute_pairs`): the mean share of the logit difference at the answer, with
bootstrap intervals over prompts and sign-flip p-values (Benjamini-Hochberg over parts); the control
is each part's share of the same difference in the corrupted prompts.

The control of a share (`check`): the parts with the largest shares are removed one at a time, and
the model is run on. `RemovalCheck` has both numbers, their correlation against shuffled parts, and
the parts whose removal goes against their share.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (the stream as a
sum, direct paths); Wang et al. 2022, arXiv 2211.00593 (a logit difference by heads); McGrath et al.
2023, arXiv 2307.15771 (self-repair: why direct shares and effects of removal differ).

Units and sign: logits, before a soft cap where a model has one; positive where a part raises the
logit (or the answer's over the other one's). A total effect is the logit less that of the run
without the part, so that it has the sign of a share that nothing reacts to.

Limits: a share is no effect. It counts the direct path only: what a part does by way of later parts
is in their shares, and later parts may make up for one that is missing. The frozen scale hides that
a part also changes the norm for all others. What raises all logits alike is in the share of a logit
but changes no probability: a difference of two is free of that. A head's share includes its value
bias, since attention sums to one. One prompt has no sampling error, and says nothing of others.
"""

from analyses.direct_attribution.figures import (
    ORDERS,
    SHOWN,
    head_bars,
    neuron_bars,
    positions,
    sources,
    waterfall,
)
from analyses.direct_attribution.over_pairs import (
    ANALYSIS as OVER_PAIRS,
)
from analyses.direct_attribution.over_pairs import (
    DirectAttributionOverPairs,
    attribute_pairs,
)
from analyses.direct_attribution.parts import unit_of
from analyses.direct_attribution.removal import ABLATIONS, RemovalCheck, check
from analyses.direct_attribution.result import REST, DirectAttribution, Grid
from analyses.direct_attribution.summing import ANALYSIS, attribute

__all__ = [
    "ABLATIONS",
    "ANALYSIS",
    "ORDERS",
    "OVER_PAIRS",
    "REST",
    "SHOWN",
    "DirectAttribution",
    "DirectAttributionOverPairs",
    "Grid",
    "RemovalCheck",
    "attribute",
    "attribute_pairs",
    "check",
    "head_bars",
    "neuron_bars",
    "positions",
    "sources",
    "unit_of",
    "waterfall",
]
