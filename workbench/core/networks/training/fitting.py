"""Fit a classifier and write it with its card: what the training scripts share.

1. `torch.manual_seed` decides the initial weights, a generator of its own the order of the batches.
2. AdamW with a learning rate that falls to zero along a cosine, cross-entropy, one thread.
3. Accuracy over all training and all held-out examples goes on the card.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch.nn import functional

from workbench.core.networks import architectures, sources

_log = logging.getLogger(__name__)
_EVALUATED_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class Split:
    """Inputs with their classes."""

    inputs: Float32[np.ndarray, "example *shape"]
    labels: Int64[np.ndarray, " example"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: Passes over the training examples.
        batch: Examples a step.
        rate: Learning rate at the start.
        decay: Weight decay.
        seed: Of the initial weights and of the order of the batches.
    """

    epochs: int
    batch: int
    rate: float
    decay: float
    seed: int = 0


def fit(
    config: architectures.Config,
    train: Split,
    test: Split,
    recipe: Recipe,
    *,
    folder: Path | None = None,
    **card: Any,
) -> sources.NetworkCard:
    """Train a network and write it into the bundle.

    Args:
        config: What to train.
        train: Training examples.
        test: Held-out examples.
        recipe: How.
        folder: Where it is written; its name's in the bundle if not given.
        **card: Fields of the card that only the script knows.

    Returns:
        The card that was written beside the weights.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    network = architectures.build(config)
    started = time.perf_counter()
    steps = _train(network, train, recipe)
    written = sources.NetworkCard(
        train_accuracy=_accuracy(network, train),
        test_accuracy=_accuracy(network, test),
        n_train=len(train.labels),
        n_test=len(test.labels),
        seed=recipe.seed,
        steps=steps,
        seconds=round(time.perf_counter() - started, 1),
        optimizer=(
            f"AdamW, batches of {recipe.batch}, {recipe.epochs} epochs, learning rate "
            f"{recipe.rate:g} falling to 0 along a cosine, weight decay {recipe.decay:g}"
        ),
        n_parameters=sum(weight.numel() for weight in network.parameters()),
        **card,
    )
    target = sources.save_network(network, folder or sources.BUNDLED / written.name)
    (target / "card.json").write_text(written.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _log.info(
        "%s: test accuracy %.4f in %.0f s", written.name, written.test_accuracy, written.seconds
    )
    return written


def _train(network: torch.nn.Module, train: Split, recipe: Recipe) -> int:
    inputs, labels = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)
    order = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    per_epoch = math.ceil(len(labels) / recipe.batch)
    total = per_epoch * recipe.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for epoch in range(recipe.epochs):
        loss = torch.zeros(())
        for chosen in torch.randperm(len(labels), generator=order).split(recipe.batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(network(inputs[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
        _log.info("epoch %d of %d: last loss %.4f", epoch + 1, recipe.epochs, loss.item())
    return total


@torch.no_grad()
def _accuracy(network: torch.nn.Module, split: Split) -> float:
    pieces = torch.from_numpy(split.inputs).split(_EVALUATED_AT_ONCE)
    answers = torch.cat([network(piece).argmax(1) for piece in pieces])
    return float((answers == torch.from_numpy(split.labels)).double().mean())
