"""What does any place in the model show, on a prompt and over a corpus?

1. `values`: the activation of any hook point on a prompt, with what its axes mean (`layout`).
2. `distribution`: the same over a corpus in constant memory: histograms, moments of each
   coordinate, sparsity, coordinates and tokens that are out of scale (`moments`, `outliers`).
3. `outlier_dimensions`: coordinates of the stream that are out of scale, in all layers.
4. `stream`: growth of the residual stream, angles between its depths and with what layers add, and
   how much it leans in one direction (`geometry`).

Source: Elhage et al. 2023, "Privileged Bases in the Transformer Residual Stream"; Dettmers et al.
2022, arXiv 2208.07339 (LLM.int8()); Sun et al. 2024, arXiv 2402.17762 (massive activations);
Ethayarajh 2019, arXiv 1909.00512, and Timkey & van Schijndel 2021, arXiv 2109.04404 (anisotropy and
the coordinates that make it); Hoyer 2004 (sparsity).

Units and sign: activations as the model has them; norms are L2; cosines from -1 to 1; shares from 0
to 1; sparsity from 0 (all coordinates alike) to 1 (one only); distances in robust standard
deviations of the log sizes of a place's coordinates, positive where larger.

Limits: what is large need not matter: nothing here is an intervention. Random directions say
whether the basis is special, not why. Means over coordinates hide coordinates, means over positions
hide positions. The null of the stream holds up to 1 / sqrt(d_model). Rows of a corpus do not see
each other, so contexts are as long as the rows.
"""

from analyses.activations.geometry import StreamGeometry, stream
from analyses.activations.layers import OutlierDimensions, outlier_dimensions
from analyses.activations.layout import Layout
from analyses.activations.on_prompt import ActivationValues, Window, values
from analyses.activations.outliers import Outliers
from analyses.activations.over_corpus import ActivationDistribution, Massive, distribution

__all__ = [
    "ActivationDistribution",
    "ActivationValues",
    "Layout",
    "Massive",
    "OutlierDimensions",
    "Outliers",
    "StreamGeometry",
    "Window",
    "distribution",
    "outlier_dimensions",
    "stream",
    "values",
]
