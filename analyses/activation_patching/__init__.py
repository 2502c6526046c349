"""Which component, at which position, carries the behaviour?

1. Run the clean and the corrupted prompts; keep the activations at the site in every layer.
   A cell of it is a position (or a set of them with a name, or all) of a layer, or there a head, a
   key/value group, an attention weight, a neuron, a direction, or a latent of a dictionary.
2. Denoising: run the corrupted prompt again with one activation replaced by its clean value.
   Noising: run the clean prompt with one activation replaced by its corrupted value.
   Ablation: run the clean prompt with one activation replaced by zero, by a mean, or by the
   corrupted activation of another prompt.
3. Measure the metric at the last position, per prompt, and compare with the two baselines.
4. Put a bootstrap interval over prompts around every effect, and ask of every cell whether its
   change is more than chance: sign flips over prompts, Benjamini-Hochberg over all cells.
5. Neurons and latents are many: those with the largest estimated effect are measured (`top`).
6. `compare` puts both directions and every ablation of the same cells into one table.

Source: Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262; Zhang & Nanda 2024,
arXiv 2309.16042 (metrics, denoising against noising); Chan et al. 2022, "Causal scrubbing"
(resample ablation).

Units and sign: an effect is a fraction. Denoising: (patched − corrupted) / (clean − corrupted), so
1 is full recovery and 0 none. Noising: (clean − patched) / (clean − corrupted), so 1 is full
destruction. It is the ratio of the means over prompts. Where the baselines are too close to divide
by, effects are NaN and the changes (the numerators, in the metric's unit) are what is shown.

Limits: denoising shows what suffices given the rest of the corrupted run, noising what is needed
given the rest of the clean run; neither shows the path, and backup components hide each other. A
zero is far from anything the model has seen, so a zero ablation may destroy by surprise alone. An
effect is relative to this corruption: what clean and corrupted share cannot show up.
"""

from analyses.activation_patching.comparison import ANALYSIS as COMPARISON
from analyses.activation_patching.comparison import (
    INTERVENTIONS,
    Comparison,
    compare,
    compare_like,
)
from analyses.activation_patching.comparison import parameters_like as comparison_parameters
from analyses.activation_patching.directions import answer_direction
from analyses.activation_patching.inspection import CellInspection, inspect_cell
from analyses.activation_patching.measuring import (
    ABLATIONS,
    ANALYSIS,
    DEFAULT_BOOTSTRAP,
    DIRECTIONS,
    POSITIONS,
    SITES,
    Bootstrap,
    Options,
    check,
    parameters,
    patch,
)
from analyses.activation_patching.result import Grid, PatchingResult
from analyses.activation_patching.units import mark_of

__all__ = [
    "ABLATIONS",
    "ANALYSIS",
    "COMPARISON",
    "DEFAULT_BOOTSTRAP",
    "DIRECTIONS",
    "INTERVENTIONS",
    "POSITIONS",
    "SITES",
    "Bootstrap",
    "CellInspection",
    "Comparison",
    "Grid",
    "Options",
    "PatchingResult",
    "answer_direction",
    "check",
    "compare",
    "compare_like",
    "comparison_parameters",
    "inspect_cell",
    "mark_of",
    "parameters",
    "patch",
]
