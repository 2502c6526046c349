"""The models and texts that most tests of features read."""

from __future__ import annotations

import numpy as np
import pytest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.planted import known_units, two_steps, word_level
from workbench.core.prompts.corpus import Corpus


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    """The bundled language model."""
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def planted() -> TransformerBridge:
    """Units that compute known functions."""
    return known_units.detectors()


@pytest.fixture(scope="module")
def tokens(planted: TransformerBridge) -> Corpus:
    """Random words."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(word_level.WORDS), (300, two_steps.N_CTX))
    return Corpus.from_tokens(planted, rows)
