"""Attribution of all nodes, in forward passes: its time over that of one plain batched pass.

Both sides run interleaved in one process on one thread, on the same bridge and prompts; ours with
everything from the tokens to the estimates of each prompt, the model taken apart included, without
the bootstrap. One pass is the bridge's own over the same prompts in one batch. Run by `make bench`.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.attribution import estimates
from tests.benchmarks import numbers
from workbench import ContrastPairs
from workbench.core.engine import running
from workbench.core.planted import word_level

TRIALS = 9
# What all nodes may cost, in forward passes.
MOST = 8


def gpt2_small() -> tuple[TransformerBridge, ContrastPairs]:
    """The shape of GPT-2 small with random weights, four pairs of fifteen tokens."""
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    model = TransformerBridge.boot_transformers(
        "gpt2",
        hf_model=network,
        tokenizer=word_level.word_tokenizer(word_level.WORDS, bos=False),
    ).eval()
    rng = np.random.default_rng(0)
    tails = [" ".join(rng.choice(word_level.WORDS, size=12)) for _ in range(4)]
    clean, corrupted = ([f"ape bee {word} {tail}" for tail in tails] for word in ("cat", "dog"))
    pairs = ContrastPairs.from_text(
        model, clean, corrupted, ["elk"] * 4, ["fox"] * 4, prepend_bos=False
    )
    return model, pairs


@pytest.mark.benchmark
def test_grammar() -> None:
    model = workbench.load_model("grammar-4l")
    compare("grammar-4l, 32 pairs", model, ContrastPairs.from_task(model, "indirect-object", n=32))


@pytest.mark.benchmark
def test_gpt2_small() -> None:
    compare("GPT-2 small shape, 4 x 15 tokens", *gpt2_small())


def compare(name: str, model: TransformerBridge, pairs: ContrastPairs) -> None:
    """Print one line and hold it against the most that is allowed."""
    assert torch.get_num_threads() == 1
    clean, _ = pairs.batch(range(len(pairs)))
    plain: list[float] = []
    ours: list[float] = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        running.run(model, clean)
        plain.append(time.perf_counter() - started)
        started = time.perf_counter()
        estimates.estimate(model, pairs)
        ours.append(time.perf_counter() - started)
    ratio = statistics.median(ours) / statistics.median(plain)
    numbers.say(
        "test_attribution",
        f"attribution of all nodes, {name}",
        ratio,
        "forward passes of the bridge",
        seconds=f"{statistics.median(ours) * 1e3:.0f} ms over {statistics.median(plain) * 1e3:.0f}",
    )
    assert ratio <= MOST
