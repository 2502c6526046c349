"""What makes a unit fire, from data and by optimization, and how far is that to be believed?"""

from __future__ import annotations

from analyses.feature_visualization.belief import (
    Belief,
    Pattern,
    TokenMeans,
    TokenSet,
    believe,
    token_means,
)
from analyses.feature_visualization.examples import TopExamples, top_examples
from analyses.feature_visualization.output_tokens import OutputTokens, output_tokens
from analyses.feature_visualization.triggers import TokenTrigger, token_triggers
from analyses.feature_visualization.unit_view import UnitView, view_unit

__all__ = [
    "Belief",
    "OutputTokens",
    "Pattern",
    "TokenMeans",
    "TokenSet",
    "TokenTrigger",
    "TopExamples",
    "UnitView",
    "believe",
    "output_tokens",
    "token_means",
    "token_triggers",
    "top_examples",
    "view_unit",
]
