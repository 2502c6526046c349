"""Models and text that the tests of the lenses share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench import Corpus
from workbench.core.planted import known_translator


@pytest.fixture(scope="session")
def turning() -> tuple[TransformerBridge, torch.Tensor]:
    return known_translator.turning()


@pytest.fixture(scope="session")
def teller(stories: Path) -> Any:
    return workbench.load_model(str(stories))


@pytest.fixture(scope="session")
def told(teller: Any) -> tuple[Corpus, Corpus]:
    """Stories that the model itself tells, in two parts that share no story."""
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        tokens = teller.original_model.generate(
            torch.full((200, 1), teller.tokenizer.bos_token_id),
            do_sample=True,
            max_new_tokens=39,
            min_new_tokens=39,
            top_k=0,
            top_p=1.0,
        )
    return Corpus.from_tokens(teller, tokens.numpy(), name="stories").split(0.7)
