"""A training step of a dictionary against a bare PyTorch loop of the same one: a ratio of medians.

The bare loop is the least that trains a TopK autoencoder: encode, top k, decode, squared error,
gradient norm clipped, Adam. Both start from the same weights and see the same batches, in turns, a
block of steps each, in one process with one thread.

    python -m tests.benchmarks.dictionary_training
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from analyses.feature_visualization.dictionaries import stepping
from tests.benchmarks import numbers

# Width, latents, k, tokens of a step.
SIZES = ((128, 1024, 16, 1024), (256, 4096, 32, 2048), (768, 6144, 32, 2048))
BLOCK, BLOCKS = 2, 9


class Bare:
    """A TopK autoencoder and its loop, with nothing else."""

    def __init__(self, weights: dict[str, torch.Tensor], k: int, rate: float) -> None:
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        self._weights = [weights[name].clone().requires_grad_(True) for name in names]
        self._k = k
        self._optimizer = torch.optim.Adam(self._weights, lr=rate)

    def take(self, batch: torch.Tensor) -> None:
        w_enc, b_enc, w_dec, b_dec = self._weights
        before = (batch - b_dec) @ w_enc + b_enc
        values, index = before.topk(self._k, dim=-1, sorted=False)
        latents = torch.zeros_like(before).scatter(-1, index, values.relu())
        loss = (latents @ w_dec + b_dec - batch).square().sum(-1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()


def _timed(take: Callable[[torch.Tensor], object], batches: list[torch.Tensor]) -> float:
    began = time.perf_counter()
    for batch in batches:
        take(batch)
    return (time.perf_counter() - began) / len(batches)


def step(width: int, latents: int, k: int, batch: int) -> float:
    """Ratio of the medians of a step, ours to the bare loop's."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(
        torch.randn(latents // 2, width, generator=generator), dim=1
    )
    share = k / len(features)
    batches = [
        (torch.rand(batch, len(features), generator=generator) < share).float() @ features
        for _ in range(4)
    ]
    setup = stepping.SetUp("topk", width, latents, k, 2_000, batch, 1e-3, 0, "benchmark")
    ours = stepping.Training(setup, {}, torch.device("cpu"), None)
    ours.look(batches)
    scale = ours.trainer.activation_scaler.scaling_factor
    assert scale is not None
    bare = Bare(ours.trainer.sae.state_dict(), k, 1e-3)
    scaled = [one * scale for one in batches]
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(BLOCKS):
        chosen = [(number * BLOCK + i) % 4 for i in range(BLOCK)]
        times["ours"].append(_timed(ours.take, [batches[i] for i in chosen]))
        times["bare"].append(_timed(bare.take, [scaled[i] for i in chosen]))
    # The first block is for warming up.
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    ratio = median["ours"] / median["bare"]
    numbers.say(
        "dictionary_training",
        f"a step, {width} to {latents:,} latents, k = {k}, {batch:,} tokens",
        ratio,
        "times a bare loop around sae-lens",
        seconds=f"{median['ours'] * 1e3:.1f} ms over {median['bare'] * 1e3:.1f}",
    )
    return ratio


def main() -> None:
    """Print the ratio for each size."""
    torch.set_num_threads(1)
    for sizes in SIZES:
        step(*sizes)


if __name__ == "__main__":
    main()
