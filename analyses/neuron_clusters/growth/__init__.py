"""If a network should know a concept better, does it help to add channels where the concept lives?

1. n channels are added at the place; at each other place as many as take as many parameters, as
   nearly as whole channels allow; as many parameters spread evenly over all these places; and none.
2. New channels read with random weights and are read with zero weights: at the start every variant
   computes what the network did.
3. Each variant is fine-tuned with the same steps on the same batches. A seed decides the batches
   and the new weights, for all variants alike.
4. The primary outcome, stated before looking: the log loss of the right class among held-out
   examples with the concept (which kind of three-dimensional shape is it?), at the place minus the
   mean over the other places, seed by seed. Whether the concept is there at all is measured, too,
   but a trained network often knows that so well that nothing could improve it.
5. A paired permutation test over seeds decides: "add here" if p < .05 and the place is better, if
   adding there is better than adding nothing by the same test, and if the rest is not worse;
   "elsewhere is better" if p < .05 and it is worse; else "it makes no difference", with the
   smallest difference that would have been found.

Source: Voss et al. 2021, doi 10.23915/distill.00024.008 (units of a family in one branch, which
suggests adding there); Chen et al. 2016, arXiv 1511.05641 (widening that preserves the function);
Fisher 1935, "The Design of Experiments" (permutation within pairs).

Units and sign: log loss in nats an example; in comparisons, above 0 the place is better.

Limits: the verdict says where, not whether: a place can be better than the mean elsewhere and no
better than adding nothing, which the summary then says. The test is about this place against the
mean of those others, in this trained network: the p-value is over new weights and batches, not over
networks or places. Equal parameters are not equal multiply-adds; both are reported. A short
fine-tuning may be too short for a difference to show.
"""

from __future__ import annotations

from analyses.neuron_clusters.growth.comparing import VERDICTS, Contrast, Verdict
from analyses.neuron_clusters.growth.growing import ANALYSIS, grow
from analyses.neuron_clusters.growth.measuring import MEASURES, METRICS
from analyses.neuron_clusters.growth.result import ELSEWHERE, NOWHERE, SPREAD, Growth, Variant

__all__ = [
    "ANALYSIS",
    "ELSEWHERE",
    "MEASURES",
    "METRICS",
    "NOWHERE",
    "SPREAD",
    "VERDICTS",
    "Contrast",
    "Growth",
    "Variant",
    "Verdict",
    "grow",
]
