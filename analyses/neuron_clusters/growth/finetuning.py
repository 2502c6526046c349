"""Train a network a little further, always on the same batches in the same order.

1. The seed decides the batches: one random order of all examples after another.
2. AdamW on all weights, with a learning rate that falls to zero along a cosine, cross-entropy, one
   thread.

Units: the learning rate is that at the start.

Limits: equal seeds give equal bits on one machine with one version of the arithmetic only.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64
from torch.nn import functional

from workbench.core.engine import running

if TYPE_CHECKING:
    from transformer_lens.HookedRootModule import HookedRootModule

    from workbench.core.networks.training.fitting import Split

_EVALUATED_AT_ONCE = 512
# Steps between two reports.
_REPORTED = 10
_IMAGES = 4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained further.

    Attributes:
        steps: Of the optimizer.
        batch: Examples a step.
        rate: Learning rate at the start.
        decay: Weight decay.
    """

    steps: int
    batch: int
    rate: float
    decay: float


def fine_tuned(
    network: HookedRootModule,
    data: Split,
    recipe: Recipe,
    *,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> HookedRootModule:
    """A copy of a network that was trained further.

    Args:
        network: Where it starts; it stays as it is.
        data: Training examples.
        recipe: How.
        seed: Of the batches.
        progress: Told how far it is; may raise to stop.

    Returns:
        The copy, in evaluation mode.
    """
    report = progress or running.no_progress
    own: Any = copy.deepcopy(network).train().requires_grad_(True)
    device = next(own.parameters()).device
    inputs, labels = (torch.tensor(each).to(device) for each in (data.inputs, data.labels))
    if inputs.ndim == _IMAGES:
        # Convolutions of few channels are a third faster in this order of the numbers.
        inputs = inputs.to(memory_format=torch.channels_last)
        own = own.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(own.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    batches = itertools.islice(_batches(len(labels), recipe.batch, seed), recipe.steps)
    with one_thread(), torch.enable_grad():
        for step, chosen in enumerate(batches):
            if step % _REPORTED == 0:
                report(step / recipe.steps, f"step {step} of {recipe.steps}")
            optimizer.zero_grad()
            functional.cross_entropy(own(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
            schedule.step()
    return own.eval()


def class_scores(
    network: HookedRootModule, inputs: np.ndarray
) -> Float64[np.ndarray, "example class"]:
    """Scores of each class for each input.

    Args:
        network: Any network.
        inputs: What it reads.

    Returns:
        The scores, before any softmax.
    """
    weight = next(network.parameters())
    with one_thread(), torch.inference_mode():
        pieces = [
            network(piece.to(weight.device, weight.dtype)).double().cpu().numpy()
            for piece in torch.tensor(inputs).split(_EVALUATED_AT_ONCE)
        ]
    return np.concatenate(pieces)


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """Compute on one thread: the order of sums, and so the bits, depends on their number.

    Yields:
        Nothing; afterwards there are as many threads as before.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(n: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=random).split(batch)
