"""Scanning a corpus, against the plain trunk and against caching: ratios of medians.

Both sides run in turns on the same rows in one process. The plain trunk is the Hugging Face model
without its unembedding and without a hook, the fastest that anybody runs it; ours reads the same
tokens, and reduces all MLP neurons of all layers. The other sides cache through the bridge and keep
the largest with `torch.topk`: everything (`run_with_cache` as it is), or every layer's neurons only
(with a filter by name).

    python -m tests.benchmarks.features [scan | memory ...]
"""

from __future__ import annotations

import copy
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import top_examples
from tests.benchmarks import numbers
from workbench.core.planted import word_level
from workbench.core.prompts.corpus import Corpus

TRIALS = 5
K = 20
BASELINES = {
    "trunk": "the plain trunk",
    "caching": "caching every neuron",
    "caching all": "caching everything",
}
ROOT = Path(__file__).resolve().parents[2]
Scan = Callable[[], None]


def gpt2_shape() -> tuple[TransformerBridge, transformers.PreTrainedModel]:
    """A model of GPT-2-small's shape with random weights: as a bridge, and as it is."""
    torch.manual_seed(0)
    whole = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    plain = copy.deepcopy(whole.transformer)
    tokenizer = word_level.word_tokenizer(word_level.WORDS, bos=False)
    return TransformerBridge.boot_transformers("gpt2", hf_model=whole, tokenizer=tokenizer), plain


def stories() -> tuple[TransformerBridge, transformers.PreTrainedModel]:
    """The small pretrained model, twice."""
    shared = os.environ.get("WORKBENCH_SHARED") or str(ROOT.parent / "shared")
    folder = Path(shared) / "models" / "stories260K"
    plain = transformers.AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    return workbench.load_model(folder, device="cpu"), plain


def rows(model: TransformerBridge, count: int, length: int) -> Corpus:
    """Random tokens."""
    rng = np.random.default_rng(0)
    return Corpus.from_tokens(model, rng.integers(3, model.cfg.d_vocab, (count, length)))


def trunk(plain: transformers.PreTrainedModel, corpus: Corpus) -> Scan:
    """The plain model over all rows."""

    def run() -> None:
        with torch.inference_mode():
            for chunk in corpus.chunks():
                plain(chunk.tokens, use_cache=False)

    return run


def caching(model: TransformerBridge, corpus: Corpus, *, everything: bool) -> Scan:
    """All activations or every neuron cached, then the largest of each neuron kept."""
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]

    def run() -> None:
        best: dict[str, torch.Tensor] = {}
        with torch.inference_mode():
            for chunk in corpus.chunks():
                _, cache = model.run_with_cache(
                    chunk.tokens, names_filter=None if everything else names
                )
                for name in names:
                    table = cache[name].flatten(0, 1)
                    known = [best[name], table] if name in best else [table]
                    best[name] = torch.cat(known).topk(min(K, len(table)), dim=0).values

    return run


def scan(kind: str, *, trials: int = TRIALS) -> tuple[float, float]:
    """Token rate of a scan, as a ratio to the plain trunk's and to caching's.

    Args:
        kind: "gpt2" or "stories".
        trials: How many times each side runs.

    Returns:
        Both ratios; more is faster.
    """
    model, plain = gpt2_shape() if kind == "gpt2" else stories()
    corpus = rows(model, *((32, 128) if kind == "gpt2" else (2048, 128)))
    sides: dict[str, Scan] = {
        "trunk": trunk(plain, corpus),
        "ours": lambda: void(top_examples(model, corpus, "neuron", k=K)),
        "caching": caching(model, corpus, everything=False),
        "caching all": caching(model, corpus, everything=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for trial in range(trials + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            # The first round makes everything ready.
            if trial:
                seconds[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    for baseline, meaning in BASELINES.items():
        numbers.say(
            "features",
            f"scan of all neurons, {kind}, against {meaning}",
            middle[baseline] / middle["ours"],
            "times as fast",
            seconds=f"{corpus.n_tokens / middle['ours']:,.0f} tokens a second",
        )
    return middle["trunk"] / middle["ours"], middle["caching"] / middle["ours"]


def void(made: object) -> None:
    """Let a result go."""
    del made


def memory() -> float:
    """Peak memory over a corpus ten times as long, as a ratio to that over the short one."""
    model, _ = stories()
    peaks: list[int] = []
    told: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (2_000, 20_000):
            place = Path(folder) / f"{count}.npy"
            rng = np.random.default_rng(0)
            tokens = rng.integers(3, model.cfg.d_vocab, (count, 128), dtype=np.int32)
            np.save(place, tokens)
            del tokens
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            void(top_examples(model, Corpus.open(model, place), "neuron", k=K))
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            peaks.append(after)
            told.append(f"{count * 128:,} tokens {after / 1e3:,.0f} MB, {before / 1e3:,.0f} before")
    ratio = peaks[1] / peaks[0]
    numbers.say(
        "features",
        "peak memory of a scan, ten times the corpus",
        ratio,
        "times that of the short corpus",
        seconds="; ".join(told),
    )
    return ratio


def main(asked: list[str]) -> None:
    """Run what is asked for, or everything."""
    if not asked or "scan" in asked:
        for kind in ("stories", "gpt2"):
            scan(kind)
    if not asked or "memory" in asked:
        memory()


if __name__ == "__main__":
    main(sys.argv[1:])
