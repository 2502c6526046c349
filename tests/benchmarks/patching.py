"""Exact patching against transformer_lens.patching: ratio of medians, and how exact both are.

Both sides run interleaved in one process on the same bridge and pairs, under `torch.no_grad`: the
small models on one thread, the large one on all cores. Ours is timed without the preflight and its
intervals, which the other side does not make. Theirs makes a forward pass a cell, each as long as
the others, so where a table would take them many minutes a sample of its cells is run and the time
scaled up; the line says so.

    python -m tests.benchmarks.patching [part of a row's name ...]
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
import transformer_lens.patching
import transformers
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import workbench
from tests.benchmarks import numbers
from workbench import ContrastPairs
from workbench.core.engine import patching
from workbench.core.planted import word_level

TRIALS = 3
# Most forward passes of the other side in one trial; those of a large model take half a second.
SAMPLE, SAMPLE_OF_LARGE = 120, 30
_LARGE = 50_000_000
EXACT = 1e-5
Maker = Callable[[], tuple[TransformerBridge, ContrastPairs]]
Setter = Callable[..., torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Table:
    """One of the other side's tables.

    Attributes:
        site: Ours for it.
        positions: Ours for it.
        activation: Their name of the activation.
        setter: How theirs writes one cell.
        axes: What theirs is indexed by.
    """

    site: str
    positions: str
    activation: str
    setter: Setter
    axes: tuple[str, ...]


_by_position = transformer_lens.patching.layer_pos_patch_setter
TABLES = {
    "resid_pre": Table("resid_pre", "each", "resid_pre", _by_position, ("layer", "pos")),
    "attn_out": Table("attn_out", "each", "attn_out", _by_position, ("layer", "pos")),
    "mlp_out": Table("mlp_out", "each", "mlp_out", _by_position, ("layer", "pos")),
    "heads by position": Table(
        "z",
        "each",
        "z",
        transformer_lens.patching.layer_pos_head_vector_patch_setter,
        ("layer", "pos", "head"),
    ),
    "heads, all positions": Table(
        "z",
        "all",
        "z",
        transformer_lens.patching.layer_head_vector_patch_setter,
        ("layer", "head"),
    ),
}


def _pairs(model: TransformerBridge, length: int, shared: int, n: int = 4) -> ContrastPairs:
    """Random pairs that agree in their first tokens only."""
    rng = np.random.default_rng(0)
    vocabulary = int(model.cfg.d_vocab)
    clean = rng.integers(1, vocabulary, (n, length))
    corrupted = rng.integers(1, vocabulary, (n, length))
    corrupted[:, :shared] = clean[:, :shared]
    corrupted[:, shared] = clean[:, shared] % (vocabulary - 1) + 1
    answers = rng.integers(1, vocabulary, (n, 2))

    def rows(table: np.ndarray) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(map(int, row)) for row in table)

    def texts(table: np.ndarray) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(map(str, row)) for row in table)

    return ContrastPairs(
        name="random tokens",
        clean=tuple(" ".join(row) for row in texts(clean)),
        corrupted=tuple(" ".join(row) for row in texts(corrupted)),
        clean_tokens=rows(clean),
        corrupted_tokens=rows(corrupted),
        clean_strings=texts(clean),
        corrupted_strings=texts(corrupted),
        answers=rows(answers[:, :1]),
        wrong_answers=rows(answers[:, 1:]),
        answer_strings=texts(answers[:, :1]),
        wrong_strings=texts(answers[:, 1:]),
        code="",
    )


@functools.cache
def _gpt2(**shape: Any) -> TransformerBridge:
    """A GPT-2 of some shape with random weights and the vocabulary of the real one."""
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()
    tokenizer = word_level.word_tokenizer(word_level.WORDS, bos=False)
    return TransformerBridge.boot_transformers("gpt2", hf_model=network, tokenizer=tokenizer).eval()


def gpt2_shape(shared: int) -> tuple[TransformerBridge, ContrastPairs]:
    """The shape of GPT-2 small, 4 pairs of 15 tokens."""
    return _gpt2(), _pairs(_gpt2(), 15, shared)


def four_layers() -> tuple[TransformerBridge, ContrastPairs]:
    """A GPT-2 of 4 layers and width 256, 4 pairs of 15 tokens."""
    model = _gpt2(n_layer=4, n_embd=256, n_head=8)
    return model, _pairs(model, 15, 3)


def small_vocabulary() -> tuple[TransformerBridge, ContrastPairs]:
    """The same width and depth as a native bridge with 512 tokens: nothing to save at the end."""
    config = TransformerBridgeConfig(
        d_model=256,
        d_head=32,
        n_heads=8,
        n_layers=4,
        n_ctx=16,
        d_vocab=512,
        d_mlp=1024,
        act_fn="gelu",
        seed=0,
    )
    tokenizer = word_level.word_tokenizer(word_level.WORDS, bos=True)
    model = TransformerBridge.boot_native(config, tokenizer=tokenizer).eval()
    return model, _pairs(model, 15, 3)


def stories() -> tuple[TransformerBridge, ContrastPairs]:
    """A small pretrained model of the Llama family, where there is one beside the project."""
    folder = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there")
    model = workbench.load_model(folder)
    texts = [f"Once there was a {who}. One day," for who in ("girl", "boy")]
    return model, ContrastPairs.from_text(
        model, texts, texts[::-1], [" she", " he"], [" he", " she"]
    )


ROWS: dict[tuple[str, str], Maker] = {
    **{
        (f"GPT-2-small shape, {shared} tokens shared", table): functools.partial(gpt2_shape, shared)
        for shared, tables in (
            (0, ("resid_pre", "attn_out", "mlp_out", "heads, all positions")),
            (3, ("resid_pre", "attn_out", "mlp_out", "heads by position")),
        )
        for table in tables
    },
    **{
        (name, table): maker
        for name, maker in (
            ("4 layers, d_model 256", four_layers),
            ("the same, native with 512 tokens", small_vocabulary),
            ("stories260K", stories),
        )
        for table in TABLES
    },
}


def is_large(model: TransformerBridge) -> bool:
    """Whether a forward pass takes so long that the other side runs a sample."""
    return sum(parameter.numel() for parameter in model.original_model.parameters()) > _LARGE


def compare(
    name: str, table: Table, model: TransformerBridge, pairs: ContrastPairs, trials: int = TRIALS
) -> tuple[float, float]:
    """Measure one row.

    Args:
        name: What to call it.
        table: What is patched.
        model: The bridge.
        pairs: The prompts.
        trials: How often each side runs.

    Returns:
        How many times sooner ours is done, and how far a cell is at most from theirs in double
        precision.
    """
    clean, corrupted = pairs.batch(range(len(pairs)))
    rows = torch.arange(len(pairs))
    right, wrong = (
        torch.tensor([row[0] for row in column]) for column in (pairs.answers, pairs.wrong_answers)
    )
    sizes = {"layer": model.cfg.n_layers, "pos": clean.shape[1], "head": model.cfg.n_heads}
    every = list(itertools.product(*(range(sizes[axis]) for axis in table.axes)))
    # The last position and the last layer among them; the same cells in every trial.
    step = max(1, len(every) // (SAMPLE_OF_LARGE if is_large(model) else SAMPLE))
    cells = every[::-step][::-1]
    frame = pd.DataFrame(cells, columns=list(table.axes))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, right] - logits[rows, -1, wrong]).mean()

    def cached() -> Any:
        return model.run_with_cache(clean)[1]

    def patched(cache: Any) -> np.ndarray:
        theirs_on_cells: Any = transformer_lens.patching.generic_activation_patch
        return theirs_on_cells(
            model, corrupted, cache, metric, table.setter, table.activation, index_df=frame
        ).numpy()

    theirs: list[float] = []
    ours: list[float] = []
    found = single = np.empty(0)
    for _ in range(trials):
        started = time.perf_counter()
        with torch.no_grad():
            cache = cached()
            middle = time.perf_counter()
            single = patched(cache)
        ended = time.perf_counter()
        theirs.append(middle - started + (ended - middle) * len(every) / len(cells))
        started = time.perf_counter()
        swept = patching.sweep(
            model,
            pairs,
            site=table.site,
            metric="logit_difference",
            intervention=patching.Intervention(),
            positions=table.positions,
        )
        ours.append(time.perf_counter() - started)
        found = swept.patched.mean(0)[tuple(np.array(cells).T)]
    # Two sums in single precision differ by the rounding of both: the truth is theirs in double.
    model.to(torch.float64)
    with torch.no_grad():
        exact = patched(cached())
    model.to(torch.float32)
    gap, own = (float(np.abs(one - exact).max()) for one in (found, single))
    ratio = statistics.median(theirs) / statistics.median(ours)
    exactness = f"at most {gap:.1e} from it in double precision, where its own single is {own:.1e}"
    sampled = "" if step == 1 else f", theirs on {len(cells)} of {len(every)} cells, scaled"
    numbers.say(
        "patching",
        name,
        ratio,
        "times as fast as `transformer_lens.patching`",
        checked=exactness + sampled,
        seconds=f"ours {statistics.median(ours) * 1e3:.0f} ms",
    )
    return ratio, gap


def main(chosen: list[str]) -> None:
    """Print and keep the rows whose names hold any of the given texts, or all."""
    warnings.simplefilter("ignore")
    # Without its progress bars.
    mock.patch.object(transformer_lens.patching, "tqdm", lambda iterable, **_: iterable).start()
    for (case, table), maker in ROWS.items():
        name = f"{case}, {table}"
        if chosen and not any(text in name for text in chosen):
            continue
        try:
            model, pairs = maker()
        except FileNotFoundError as error:
            print(f"{name}: skipped, {error}")
            continue
        torch.set_num_threads(os.cpu_count() or 1 if is_large(model) else 1)
        # One pass of a large model takes so long that a trial is a median by itself.
        compare(name, TABLES[table], model, pairs, trials=1 if is_large(model) else TRIALS)
        numbers.keep(numbers.SAID)


if __name__ == "__main__":
    main(sys.argv[1:])
