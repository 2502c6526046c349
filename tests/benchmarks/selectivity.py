"""Selectivity of all neurons of a small language model, against a loop of scipy's test.

1. `selectivity` with 1,000 permutations of all neurons of stories260K over 20,000 tokens, from the
   tokens to the finished result, with and without its sparse probes.
2. The same statistics by one `scipy.stats.mannwhitneyu` a neuron and labelling: some neurons and
   some labellings are timed, and scaled to 1,001 labellings of all neurons.
3. One pass, without permutations: ranks and AUC of all neurons, against one test a neuron.

Tokens are random rows, as no text lies beside the model. The concept is a set of a tenth of the
vocabulary. Both sides run in this process, in turns.

    python -m tests.benchmarks.selectivity
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import scipy.stats

import workbench
from analyses.neuron_clusters import ranks, shuffles
from analyses.neuron_clusters.selectivity import Selectivity, selectivity
from tests.benchmarks import numbers
from workbench.core.engine import populations
from workbench.core.prompts.concepts import Concept

ROWS, LENGTH, PERMUTATIONS = 160, 125, 1000
# Of the loop: neurons and labellings that are timed.
NEURONS, LABELLINGS = 40, 10
ROOT = Path(__file__).resolve().parents[2]


def stories() -> populations.Population:
    """All neurons of the small pretrained model."""
    shared = os.environ.get("WORKBENCH_SHARED") or str(ROOT.parent / "shared")
    folder = Path(shared) / "models" / "stories260K"
    return populations.of_model(workbench.load_model(folder, device="cpu"))


def concept() -> Concept:
    """Random rows of tokens; a tenth of the vocabulary has the concept."""
    random = np.random.default_rng(0)
    rows = random.integers(3, 512, (ROWS, LENGTH))
    chosen = random.permutation(np.arange(3, 512))[:51]
    return Concept(list(rows), [np.isin(row, chosen).astype(int) for row in rows], "some tokens")


def whole(
    population: populations.Population, of: Concept, probes: tuple[int, ...]
) -> tuple[float, Selectivity]:
    """Seconds for everything, and what came of it."""
    started = time.perf_counter()
    found = selectivity(population, of, permutations=PERMUTATIONS, probes=probes)
    return time.perf_counter() - started, found


def looped(values: np.ndarray, labellings: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds a test of one neuron and labelling, and the AUC of each."""
    # In float32 its sums of ranks would be rounded.
    values = values.astype(np.float64)
    started = time.perf_counter()
    found = np.array(
        [
            [scipy.stats.mannwhitneyu(column[one], column[~one]).statistic for column in values.T]
            for one in labellings
        ]
    )
    seconds = time.perf_counter() - started
    pairs = labellings.sum(1) * (~labellings).sum(1)
    return seconds / found.size, found / pairs[:, None]


def measured() -> tuple[float, float]:
    """Seconds for the whole, and how many times as long the loop takes."""
    population, of = stories(), concept()
    examples = of.examples()
    values = population.bench(of).values
    plain, found = whole(population, of, ())
    probed, _ = whole(population, of, (1, 2, 4, 8, 16))
    order = next(shuffles.orders(examples, LABELLINGS - 1, 0))
    labellings = np.concatenate([examples.labels[None], examples.labels[order]])
    some = np.random.default_rng(1).choice(values.shape[1], NEURONS, replace=False)
    each, aucs = looped(values[:, some], labellings)
    started = time.perf_counter()
    ours = ranks.aucs(ranks.centred(values), examples.labels[None])[0]
    once = time.perf_counter() - started
    np.testing.assert_allclose(ours[some], aucs[0], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours, found.effect)
    tests = values.shape[1] * (1 + PERMUTATIONS)
    what = f"selectivity of {values.shape[1]:,} neurons on {len(values):,} tokens"
    many = f"{what}, {PERMUTATIONS:,} permutations"
    for name, ours, theirs in (
        (many, plain, each * tests),
        (f"{many}, with probes", probed, each * tests),
        (f"{what}, one pass without permutations", once, each * values.shape[1]),
    ):
        numbers.say(
            "selectivity",
            name,
            theirs / ours,
            "times as fast as one `scipy.stats.mannwhitneyu` a neuron",
            checked=f"equal within 1e-12; theirs timed on {NEURONS * LABELLINGS}, scaled",
            seconds=f"{ours:.2f} s against {theirs:,.2f} s",
        )
    return probed, each * tests / probed


if __name__ == "__main__":
    measured()
