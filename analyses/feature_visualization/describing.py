"""Descriptions by name, for whoever writes one as text: on a page, on a command line, in a spec.

1. A kind says how the text is read: as tokens with spaces between, as a regular expression, or as a
   sentence of the language of `Hypothesis`.
2. `described` gives the description; what cannot be read is one sentence.

Source: Bills et al. 2023, "Language models can explain neurons in language models" (a description
is judged by what it predicts). Units: none. Limits: those of each kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.feature_visualization.descriptions import Description, Pattern, TokenSet
from analyses.feature_visualization.hypothesis import Hypothesis

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# How each is written, for whoever has to write it.
KINDS = {
    "tokens": "Tokens with spaces between them",
    "pattern": "A regular expression; the unit fires where a match ends",
    "hypothesis": 'A sentence such as: at "the" and not after "of"',
}


def described(model: TransformerBridge, kind: str, text: str) -> Description:
    """Read a description.

    Args:
        model: Whose tokens it is about.
        kind: One of `KINDS`.
        text: What it says.

    Returns:
        The description.

    Raises:
        ValueError: If there is no such kind, or the text cannot be read as one.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown description {kind!r}; expected one of {', '.join(KINDS)}")
    if kind == "tokens":
        return TokenSet.of(model, text.split())
    return Pattern(text) if kind == "pattern" else Hypothesis.of(model, text)
