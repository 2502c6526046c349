"""Labels: what is known of each token of a corpus; they live beside the other inputs.

`workbench.core.prompts.grammar_variables` makes them for the documents of `grammar-4l`.
"""

from __future__ import annotations

from workbench.core.prompts.grammar_variables import (
    LabelledTokens,
    Variable,
    VariableError,
    grammar_labels,
)

__all__ = ["LabelledTokens", "Variable", "VariableError", "grammar_labels"]
