"""What makes a unit fire, from data and by optimization, and how far is that to be believed?"""

from __future__ import annotations

from analyses.feature_visualization.examples import TopExamples, top_examples

__all__ = ["TopExamples", "top_examples"]
