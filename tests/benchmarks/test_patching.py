"""Exact patching against transformer_lens.patching: ratio of medians, and the largest difference.

Both sides run interleaved in one process on one thread, on the same bridge and pairs, under
`torch.no_grad`; ours without the preflight and its intervals, which the other side does not make.
Run by `make bench`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformer_lens.patching
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import workbench
from tests import hand_wired
from workbench import ContrastPairs
from workbench.core.engine import patching

TRIALS = 3
TABLES: dict[tuple[str, bool], Callable[..., torch.Tensor]] = {
    ("resid_pre", True): transformer_lens.patching.get_act_patch_resid_pre,
    ("attn_out", True): transformer_lens.patching.get_act_patch_attn_out,
    ("mlp_out", True): transformer_lens.patching.get_act_patch_mlp_out,
    ("z", True): transformer_lens.patching.get_act_patch_attn_head_out_by_pos,
    ("z", False): transformer_lens.patching.get_act_patch_attn_head_out_all_pos,
}


def four_layers() -> tuple[TransformerBridge, ContrastPairs]:
    """Four layers of width 256 with random weights, four pairs that share their first tokens."""
    config = TransformerBridgeConfig(
        d_model=256,
        d_head=32,
        n_heads=8,
        n_layers=4,
        n_ctx=16,
        d_vocab=len(hand_wired.WORDS) + 1,
        d_mlp=1024,
        act_fn="gelu",
        seed=0,
    )
    tokenizer = hand_wired.word_tokenizer(hand_wired.WORDS, bos=True)
    model = TransformerBridge.boot_native(config, tokenizer=tokenizer).eval()
    model.cfg.default_prepend_bos = True
    rng = np.random.default_rng(0)
    tails = [" ".join(rng.choice(hand_wired.WORDS, size=11)) for _ in range(4)]
    clean, corrupted = ([f"ape bee {word} {tail}" for tail in tails] for word in ("cat", "dog"))
    return model, ContrastPairs.from_text(model, clean, corrupted, ["elk"] * 4, ["fox"] * 4)


@pytest.mark.benchmark
def test_four_layers() -> None:
    compare("4 layers, d_model 256", *four_layers())


@pytest.mark.benchmark
@pytest.mark.real_model
def test_stories260k(stories: Path) -> None:
    model = workbench.load_model(stories)
    texts = [f"Once there was a {who}. One day," for who in ("girl", "boy")]
    pairs = ContrastPairs.from_text(model, texts, texts[::-1], [" she", " he"], [" he", " she"])
    compare("stories260K", model, pairs)


def compare(name: str, model: TransformerBridge, pairs: ContrastPairs) -> None:
    """Print one line a table."""
    clean, corrupted = pairs.batch(range(len(pairs)))
    rows = torch.arange(len(pairs))
    right, wrong = (
        torch.tensor([row[0] for row in column]) for column in (pairs.answers, pairs.wrong_answers)
    )

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, right] - logits[rows, -1, wrong]).mean()

    for (site, each), table in TABLES.items():
        theirs: list[float] = []
        ours: list[float] = []
        gaps: list[float] = []
        for _ in range(TRIALS):
            started = time.perf_counter()
            with torch.no_grad():
                _, cache = model.run_with_cache(clean)
                expected = table(model, corrupted, cache, metric).numpy()
            theirs.append(time.perf_counter() - started)
            started = time.perf_counter()
            swept = patching.sweep(
                model,
                pairs,
                site=site,
                metric="logit_difference",
                intervention=patching.Intervention(),
                each_position=each,
                batch_size=256,
            )
            ours.append(time.perf_counter() - started)
            gaps.append(float(np.abs(swept.patched.mean(0) - expected).max()))
        gap, ratio = max(gaps), statistics.median(theirs) / statistics.median(ours)
        how = "by position" if each else "all positions"
        print(f"{name}, {site} {how}: {ratio:.1f}x, max abs difference {gap:.1e}", flush=True)
        assert gap <= 1e-5
