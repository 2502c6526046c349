"""A small model with random parameters, a corpus for it, and vectors of known features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from tests import families
from workbench.core.planted import known_features
from workbench.core.prompts import corpus as corpora


@pytest.fixture(scope="session")
def model() -> TransformerBridge:
    return families.build("gpt2")


@pytest.fixture(scope="session")
def rows(model: TransformerBridge) -> corpora.Corpus:
    """What the model itself says, so that it knows something of it."""
    generator = torch.Generator().manual_seed(0)
    said = torch.randint(3, 16, (60, 1), generator=generator)
    with torch.no_grad():
        for _ in range(15):
            share = (8 * model(said, return_type="logits")[:, -1]).softmax(-1)
            said = torch.cat([said, torch.multinomial(share, 1, generator=generator)], 1)
    lengths = np.random.default_rng(0).integers(2, 17, size=60)
    pieces = [row[:length] for row, length in zip(said.numpy(), lengths, strict=True)]
    tokens = np.concatenate(pieces).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Token 2 stands for one that is special.
    return corpora.Corpus("rows", tokens, starts, special=(2,))


@pytest.fixture(scope="session")
def features() -> torch.Tensor:
    return known_features.directions()


Combined = Callable[..., Iterator[torch.Tensor]]


@pytest.fixture(scope="session")
def combined(features: torch.Tensor) -> Combined:
    """Endless sparse combinations of features: each is there in a share of the vectors."""

    def stream(batch: int = 512, share: float = known_features.SHARE) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        while True:
            yield known_features.combined(features, batch, generator, share)

    return stream
