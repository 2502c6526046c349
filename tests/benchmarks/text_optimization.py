"""Candidate texts measured in a batch against one at a time: ratio of medians.

Both sides run interleaved in one process on one thread, on the same model, unit and texts, and give
the same numbers. One at a time is the bridge's own `run_with_cache` of one text, with the unit's
hook point kept and nothing else. A whole iteration of the search, gradients and selection included,
is timed beside them.

    python -m tests.benchmarks.text_optimization [grammar | stories]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import text
from analyses.feature_visualization.text import candidates, vocabulary
from tests.benchmarks import numbers
from workbench.core.engine import units
from workbench.core.models import sources

TRIALS, CANDIDATES, LENGTH, ITERATIONS = 5, 256, 12, 10
LEAST, EXACT = 3.0, 1e-5
STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"


def compare(model: TransformerBridge, unit: str) -> float:
    """Print the ratio of candidate evaluations a second, batched over one at a time.

    Returns:
        The ratio.
    """
    family, index = units.family_of(model, unit)
    words = vocabulary.of_model(model, None)
    target = candidates.Target(family, index, 1, words.prefix)
    reader = candidates.Reader(model, target)
    texts = words.random_texts(np.random.default_rng(0), CANDIDATES, LENGTH)
    ids = candidates.with_prefix(model, texts, words.prefix)

    def alone() -> np.ndarray:
        return np.array([_alone(model, target, row[None]) for row in ids])

    def batched() -> np.ndarray:
        found = reader.measure(texts)
        return np.stack([found.activation, found.cross_entropy], axis=1)

    gap = float(np.abs(alone() - batched()).max())
    assert gap <= EXACT, f"the two ways differ by {gap:.1e}"
    slow, fast, whole = list[float](), list[float](), list[float]()
    for _ in range(TRIALS):
        slow.append(_timed(alone))
        fast.append(_timed(batched))
        whole.append(_timed(lambda: _search(model, unit)) / ITERATIONS)
    each, together, iteration = map(statistics.median, (slow, fast, whole))
    ratio = each / together
    name = Path(sources.source_of(model).name).name
    what = f"{CANDIDATES} texts of {LENGTH} tokens, {unit} of {name}"
    numbers.say(
        "text_optimization",
        what,
        ratio,
        "times as fast as one text at a time",
        checked=f"largest difference {gap:.1e}",
        seconds=f"{CANDIDATES / together:,.0f} a second against {CANDIDATES / each:,.0f}",
    )
    numbers.say(
        "text_optimization",
        f"an iteration of the search, {what}",
        iteration / together,
        "times its measurements",
    )
    return ratio


def grammar() -> float:
    """The bundled language model."""
    return compare(workbench.load_model("grammar-4l"), "neuron 2.13")


def stories(folder: Path = STORIES) -> float:
    """A small pretrained model, where it is at hand."""
    return compare(workbench.load_model(str(folder)), "neuron 3.20")


def _alone(
    model: TransformerBridge, target: candidates.Target, ids: torch.Tensor
) -> tuple[float, float]:
    with torch.inference_mode():
        logits, cache = model.run_with_cache(ids, names_filter=[target.family.hook])
        first = max(len(target.prefix), 1)
        loss = functional.cross_entropy(logits[0, first - 1 : -1], ids[0, first:])
        return float(target.read(cache[target.family.hook])[0]), float(loss)


def _search(model: TransformerBridge, unit: str) -> None:
    text.optimize_text(model, unit, length=LENGTH, iterations=ITERATIONS, restarts=1)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


ROWS: dict[str, Callable[[], float]] = {"grammar": grammar, "stories": stories}


def main() -> None:
    """Print the rows whose names were given, or all."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()


if __name__ == "__main__":
    main()
