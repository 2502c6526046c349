"""Which text makes a unit fire most, and how much fluency does that cost?

1. Begin with the best of some random texts of allowed tokens, or with a given example. The model's
   own BOS stands in front and stays. Optimized is the unit's activation f at the last token.
2. For each of several prices x of fluency, one text is kept: the one of lowest −f + x · CE, where
   CE is the mean cross-entropy of the text under the model itself.
3. Each iteration takes the gradient of every kept text with respect to its one-hot tokens, lists
   for each position the tokens that promise most, draws children that differ from a kept text in
   one token of these lists, and measures all children in one batched forward pass.
4. Every price picks its text again among all children and kept texts. Now and then all start again
   from the text of one price, drawn at random.
5. Restarts go through 1 to 4 anew; tokens of what earlier restarts found cost something there, so
   that a second way to make the unit fire has a chance to be found.
6. Every text that was measured competes for the Pareto front of activation against cross-entropy.
   Beside it: random texts of the same length, the given example, and the quantile of each
   activation among those of a corpus.

`method="epo"` has prices from 0.1 to 10; `method="gcg"` is the unregularised extreme, one text at
price 0, with as many children an iteration as all texts of EPO have together.

Source: Thompson et al. 2024, arXiv 2402.01702 (evolutionary prompt optimization, Pareto front);
Zou et al. 2023, arXiv 2307.15043 (greedy coordinate gradient).

Units and sign: activations are as the model computes them, in the unit's own scale, also when they
are minimised. Cross-entropy is in nats a token, lower is more fluent; BOS is not counted, and
without a BOS neither is the first token, which nothing predicts. A quantile is the share of
activations that are at most as large.

Limits: a local search, so the optimum is a lower bound of what the unit can do, and one text does
not say what a unit is for. Prices are in activation for a nat: a unit whose activations are
hundredths, or hundreds, needs other `penalties`. A neuron that is silent is led by what goes into
its nonlinearity; another unit that is exactly zero (a latent, a gated neuron) gives no gradient,
and tokens are tried at random: continue from an example that makes it fire. A found text need not
come back from its own tokenization: whether it does is stated for each. Random texts draw every
token alike and are no corpus.
"""

from __future__ import annotations

from analyses.feature_visualization.text.optimization import METHODS, optimize_text
from analyses.feature_visualization.text.result import OptimizedText

__all__ = ["METHODS", "OptimizedText", "optimize_text"]
