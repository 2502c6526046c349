"""Confounds: what else differs between examples and is known without asking.

1. Of a token: its position in the row, the row's length in tokens, and how frequent the token is:
   the natural logarithm of how often it stands in the concept's own inputs.
2. Of a whole input: its length, and the frequency of the token where it is read (the last one) or
   the mean over its tokens.
3. A confound that is the same for every example that counts is none, and is left out.

Units: positions from 0 on, as labels stand (for rows of tokens that includes what a model puts in
front, for texts it does not); lengths in tokens; of texts that no model has read, in words.

Limits: frequencies are those of the concept's inputs, not of the language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.concepts import Concept


def with_known(concept: Concept, model: TransformerBridge | None = None) -> Concept:
    """Add the confounds that can be known; those that a concept has already stay as they are.

    Args:
        concept: A concept of texts or rows of tokens; of other inputs nothing is known.
        model: Whose tokenizer to use for texts; without it, frequencies are not known.

    Returns:
        The concept with its confounds.
    """
    if not concept.is_text:
        return concept
    rows = _token_rows(concept, model)
    found = _of_tokens(concept, rows) if concept.per_token else _of_inputs(concept, rows)
    known = varying(concept, {n: v for n, v in found.items() if n not in concept.confounds})
    return concept.replaced(confounds={**concept.confounds, **known})


def varying(concept: Concept, confounds: Mapping[str, Any]) -> dict[str, Any]:
    """Those confounds that are not the same for every example that counts."""
    values = concept.replaced(confounds=confounds).examples().confounds
    return {name: confounds[name] for name, flat in values.items() if np.ptp(flat) > 0}


def _token_rows(concept: Concept, model: TransformerBridge | None) -> list[np.ndarray] | None:
    """Tokens of each input, without what a model puts in front of a text."""
    if not isinstance(concept.inputs[0], str):
        return [np.asarray(row, dtype=np.int64) for row in concept.inputs]
    if model is None:
        return None
    front = len(tokenization.front(model))
    return [np.array(tokenization.encode(model, text)[front:]) for text in concept.inputs]


def _of_tokens(concept: Concept, rows: Sequence[np.ndarray] | None) -> dict[str, Any]:
    lengths = [len(row) for row in concept.labels]
    found: dict[str, Any] = {
        "position": tuple(np.arange(length, dtype=np.float64) for length in lengths),
        "length": tuple(np.full(length, float(length)) for length in lengths),
    }
    # Labels that do not fit the model's tokens are refused where they are read.
    if rows is not None and [len(row) for row in rows] == lengths:
        found["frequency"] = _frequencies(rows)
    return found


def _of_inputs(concept: Concept, rows: Sequence[np.ndarray] | None) -> dict[str, Any]:
    if rows is None:
        return {"length": np.array([float(len(text.split())) for text in concept.inputs])}
    lengths = np.array([float(len(row)) for row in rows])
    last = concept.reading == "last"
    each = _frequencies(rows)
    return {
        "length": lengths,
        "frequency": np.array([float(row[-1] if last else row.mean()) for row in each]),
    }


def _frequencies(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Natural logarithm of how often each token stands in all rows."""
    _, inverse, counts = np.unique(np.concatenate(rows), return_inverse=True, return_counts=True)
    flat = np.log(counts[inverse].astype(np.float64))
    return tuple(np.split(flat, np.cumsum([len(row) for row in rows])[:-1]))
