"""What does adding a unit do to an answer, and what does it cost elsewhere?

1. A strength times the unit's vector is added to the activation of its site, at every position. The
   vector of a neuron is the neuron itself (its activation is raised by the strength, so its output
   weights times the strength go into the stream); that of a coordinate or a direction is the unit
   vector; that of a latent is its row of the decoder, at the decoder's own length.
2. Dose-response: the metric of every clean prompt at every strength, less that at strength 0, with
   a bootstrap interval over prompts.
3. Side effect: at the same strengths, the cross-entropy of unrelated text less that at strength 0,
   and the KL divergence from the unsteered model, with bootstrap intervals over rows.
4. Control: random directions of the activation at the same site, positions and strengths, each
   scaled so that what it adds to the stream is as long as what the unit adds. A strength's p-value
   is the share of them that move the metric as far, either way (and that cost as much loss), the
   unit counted in; Benjamini-Hochberg over the strengths.

Where the model can be taken apart (`decoder`), what comes before the site is run once for all
strengths and directions; else each of them is a forward pass under hooks.

Source: Turner et al. 2023, arXiv 2308.10248 (adding a vector to the stream); Rimsky et al. 2024,
arXiv 2312.06681 (dose-response of steering, and its side effects).

Units: strengths in units of the activation that is added; the metric in its own unit; cross-entropy
and KL divergence in nats a predicted token, positive where steering costs; lengths relative to the
mean L2 norm of the residual stream at that layer.

Limits: a mean over prompts that have different answers says little of a unit that promotes one of
them: give pairs that are answered alike. Text is unrelated only if the corpus is, and its rows are
cut to their first 128 tokens. The effect is what the addition does, which need not be what the unit
does in the range that text reaches: look at the strength relative to its activations and to the
stream. Where a norm follows the MLP's output (Gemma 2), lengths are those before it. A head writes
something else for each token that it attends to, so it has no vector: steer by a direction at
attn_out.
"""

from __future__ import annotations

from analyses.feature_visualization.steering.adding import POSITIONS
from analyses.feature_visualization.steering.dosing import ANALYSIS, steer
from analyses.feature_visualization.steering.result import Dose, Steering
from analyses.feature_visualization.steering.writing import steered_text

__all__ = ["ANALYSIS", "POSITIONS", "Dose", "Steering", "steer", "steered_text"]
