"""Which continuous input makes a unit of a network most active, and where is the unit linear?

1. `optimize_input` climbs the unit's activation from random inputs: vectors, sequences or images.
2. `linear_region` takes one input and gives the exact affine map of the unit around it, and how far
   the nearest boundary of that map is.
3. `interpolated_inputs` optimizes a row of inputs from one unit to another together, so that what
   changes along the row is what has to change.

Source: Olah, Mordvintsev and Schubert 2017, "Feature Visualization", doi 10.23915/distill.00007,
and their library lucid; Hanin and Rolnick 2019, arXiv 1901.09021 (regions of ReLU networks).

Units and sign: activations in the unit of the hook point, distances in that of the input.

Limits: an optimum is one input, not what a unit "means": the maximum, the data's best examples and
the linear map around each can all differ.
"""

from analyses.feature_visualization.inputs.affine import LinearRegion, linear_region
from analyses.feature_visualization.inputs.constraints import Ball, Box
from analyses.feature_visualization.inputs.interpolation import (
    InterpolatedInputs,
    interpolated_inputs,
)
from analyses.feature_visualization.inputs.objectives import (
    Direction,
    Layer,
    LogOdds,
    Objective,
    Target,
    interpolate,
)
from analyses.feature_visualization.inputs.optimizing import OptimizedInput, optimize_input
from analyses.feature_visualization.inputs.transforms import Jitter, Pad, Rotate, Scale

__all__ = [
    "Ball",
    "Box",
    "Direction",
    "InterpolatedInputs",
    "Jitter",
    "Layer",
    "LinearRegion",
    "LogOdds",
    "Objective",
    "OptimizedInput",
    "Pad",
    "Rotate",
    "Scale",
    "Target",
    "interpolate",
    "interpolated_inputs",
    "linear_region",
    "optimize_input",
]
