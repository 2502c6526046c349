"""Which is a smallest set of edges that by itself does what the model does?

1. Keep a share of the pairs apart; the other pairs choose the circuit.
2. Score every edge by attribution.
3. Begin with all edges; in a large graph (or where asked for) with the edges of largest absolute
   score, as many as are needed for the target: the size is searched by doubling and bisection, each
   size run exactly. What is on no path from the input to the logits is left out.
4. Prune: leave each edge of the circuit out by itself, exactly. Of those that can go, order by how
   little they change and leave out as many of the first ones as can go together (bisection).
   Repeat until no single edge can go. A circuit with many edges is pruned in blocks of edges of
   similar score first.
5. Corrupt every edge that is left by itself in the full model, exactly.
6. Measure faithfulness on the pairs kept apart, beside random circuits of the same size.

Source: Conmy et al. 2023, arXiv 2304.14997 (edges leave by exact runs); Hanna et al. 2024, arXiv
2403.17806 (edges by score); Syed et al. 2023, arXiv 2310.10348 (edges by absolute score).

Units and sign: the target is a faithfulness, between 0 and 1; a set of edges meets it where its
faithfulness is at least the target and exceeds 1 by no more than the target falls short of it.

Limits: the search is greedy; another circuit of the same or a smaller size may meet the target.
Growing finds what suffices while all else is corrupted: where corrupted queries and keys still
match each other, it has no need of the clean ones. Pruning begins with the clean run and keeps
them.
Faithfulness does not grow steadily with size, so bisection finds a size that meets the target and
whose neighbour does not, not always the least.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from analyses import attribution
from analyses.circuits import evaluation, measuring, random_circuits
from analyses.circuits.circuit import Circuit, GraphCounts
from workbench.core import evidence, results
from workbench.core.engine import running
from workbench.core.models import card
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "circuits.discover"
METHODS = ("eap", "eap_ig")
SEARCHES = ("prune", "grow")
# Graphs of more edges are grown: pruning from all edges would take days on a large model.
_MOST_PRUNED = 5_000
# Rounding of float32 over a run; a target of 1 is met within it.
TOLERANCE = 1e-4
# Edges (or blocks of them) that are left out one at a time in one round of pruning.
_CANDIDATES = 256

Mask = Bool[np.ndarray, "sender receiver"]


def discover(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    target: float = 0.9,
    metric: str = "logit_difference",
    method: str = "eap_ig",
    steps: int = 5,
    search: str | None = None,
    held_out: float = 0.5,
    n_random: int = 100,
    max_runs: int = 5000,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    scores: attribution.EdgeAttribution | None = None,
    progress: running.Progress | None = None,
) -> Circuit:
    """Find a set of edges that carries the behaviour, none of which can go alone.

    Args:
        model: The bridge.
        pairs: Clean and corrupted prompts of equal length.
        target: Faithfulness that the circuit must reach on the pairs that choose it, above 0 and
            at most 1.
        metric: What is measured; one that has a gradient.
        method: How edges are scored: "eap" or "eap_ig".
        steps: Steps of "eap_ig".
        search: "prune" begins with all edges, "grow" with the least number of top edges that meets
            the target; None for "prune" in graphs of up to 5,000 edges, where it can be afforded.
        held_out: Share of the pairs kept apart for the final faithfulness; 0 keeps none.
        n_random: Random circuits of the same size beside the held-out faithfulness.
        max_runs: Most sets of edges run for growing and pruning; pruning stops there.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the split, of the random circuits and of the bootstrap.
        scores: What `attribute_edges` gave for the pairs that choose the circuit (`split`) with
            this method, steps and metric, where it is at hand; None to compute it.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The circuit, the same whether scores are given or not.

    Raises:
        ValueError: If an argument is out of range, scores were made of something else, or clean and
            corrupted metrics are too close to divide by.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    if not 0 < target <= 1:
        raise ValueError(f"target = {target}; expected a faithfulness above 0 and at most 1")
    require_choices(method, held_out)
    if search not in (None, *SEARCHES):
        known = ", ".join(map(repr, SEARCHES))
        raise ValueError(f"unknown search {search!r}; expected one of {known}, or None")
    evaluation.require_count("max_runs", max_runs, least=1)
    measuring.require_pairs(pairs, metric)
    chosen, kept = split(len(pairs), held_out, seed)
    measured = measuring.Measured(model, pairs.subset(chosen), metric=metric)
    asked: dict[str, Any] = {"metric": metric, "method": method, "steps": steps}
    if scores is None:
        ranking = scored(
            model,
            measured.pairs,
            **asked,
            progress=running.part(report, 0.0, 0.15),
        )
    else:
        require_scores(scores, model, measured.pairs, **asked)
        ranking = scores.scores
    chosen_search = search or ("prune" if measured.graph.n_edges <= _MOST_PRUNED else "grow")
    steps_taken = _Search(measured, ranking, target, max_runs)
    began = measured.graph.allowed
    if chosen_search == "grow":
        began = steps_taken.grow(measuring.part(report, 0.15, 0.2, "growing the circuit"))
    mask, minimal = steps_taken.prune(
        began, measuring.part(report, 0.2, 0.7, "pruning the circuit")
    )
    changes = _changes(measured, mask, measuring.part(report, 0.7, 0.8, "measuring each edge"))
    judged: tuple[evaluation.Faithfulness, ...] = ()
    if kept:
        apart = measuring.Measured(model, pairs.subset(kept), metric=metric)
        found = evaluation.evaluate(
            model,
            apart,
            measured.graph.names(mask),
            ablation="corrupted",
            n_random=n_random,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
            progress=running.part(report, 0.8, 1.0),
            started=time.perf_counter(),
        )
        judged = (found,)
    level: dict[str, Any] = {
        "confidence": confidence,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    report(1.0, "done")
    return Circuit(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=parameters(
                pairs,
                target=target,
                metric=metric,
                method=method,
                steps=steps,
                search=search,
                held_out=held_out,
                n_random=n_random,
                max_runs=max_runs,
                **level,
            ),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        edges=measured.graph.names(mask),
        weights=ranking[mask],
        exact=changes.mean(0),
        exact_interval=evidence.mean_interval(changes, **level),
        effects=-changes.mean(0) / (measured.full - measured.nothing).mean(),
        effect_interval=evidence.ratio_interval(
            -changes, measured.full - measured.nothing, **level
        ),
        counts=GraphCounts.of(measured.graph),
        metric=metric,
        method=method,
        target=target,
        reached=float(measured.faithfulness(mask[None])[0]),
        search=chosen_search,
        began=int(began.sum()),
        runs=steps_taken.runs,
        minimal=minimal,
        confidence=confidence,
        pairs=pairs,
        discovery_indices=chosen,
        held_out_indices=kept,
        judged=judged,
    )


def parameters(
    pairs: ContrastPairs,
    *,
    target: float = 0.9,
    metric: str = "logit_difference",
    method: str = "eap_ig",
    steps: int = 5,
    search: str | None = None,
    held_out: float = 0.5,
    n_random: int = 100,
    max_runs: int = 5000,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that determines a circuit apart from the model, to find a stored one by.

    Args:
        pairs: What is run.
        target: As for `discover`, and so are the others.
        metric: What is measured.
        method: How edges are scored.
        steps: Steps of "eap_ig".
        search: With what pruning begins.
        held_out: Share of the pairs kept apart.
        n_random: Random circuits.
        max_runs: Most sets of edges.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of everything random.

    Returns:
        JSON types only.
    """
    return {
        "target": target,
        "metric": metric,
        "method": method,
        "steps": steps,
        "search": search,
        "held_out": held_out,
        "n_random": n_random,
        "max_runs": max_runs,
        "confidence": confidence,
        "n_resamples": n_resamples,
        "seed": seed,
        "pairs": pairs.digest(),
    }


def split(n_pairs: int, held_out: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide pairs at random into those that choose and those kept apart.

    Args:
        n_pairs: How many there are.
        held_out: Share that is kept apart.
        seed: Equal seeds give equal parts.

    Returns:
        Indices of both parts, in increasing order.

    Raises:
        ValueError: If the share leaves one of the parts without a pair.
    """
    count = round(n_pairs * held_out)
    if held_out > 0 and not 0 < count < n_pairs:
        raise ValueError(
            f"held_out = {held_out} of {n_pairs} pairs keeps {count} of them apart, and both parts "
            "need one pair at least: add pairs, or choose held_out=0"
        )
    order = np.random.default_rng(seed).permutation(n_pairs)
    kept, chosen = order[:count], order[count:]
    return tuple(map(int, sorted(chosen))), tuple(map(int, sorted(kept)))


def scored(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    metric: str,
    method: str,
    steps: int,
    progress: running.Progress,
) -> Float[np.ndarray, "sender receiver"]:
    """Attribution score of every edge: estimated change of the metric when it is corrupted."""
    found = attribution.attribute_edges(
        model, pairs, method=method, steps=steps, metric=metric, progress=progress
    )
    return found.scores


def ranked(
    scores: Float[np.ndarray, "sender receiver"], allowed: Bool[np.ndarray, "sender receiver"]
) -> np.ndarray:
    """Flat indices of all edges, largest absolute score first, ties in the graph's order."""
    edges = np.flatnonzero(allowed)
    return edges[np.argsort(-np.abs(scores.ravel()[edges]), kind="stable")]


class _OutOfRunsError(Exception):
    """The runs allowed are used up."""


@dataclasses.dataclass
class _Search:
    """Growing and pruning by exact runs, with a limit on their number."""

    measured: measuring.Measured
    scores: Float[np.ndarray, "sender receiver"]
    target: float
    max_runs: int
    runs: int = 0
    # Called between batches of runs, so that a long round can be cancelled.
    beat: Callable[[], None] = lambda: None

    def grow(self, progress: Callable[[float], None]) -> Mask:
        """A smallest set of top edges that meets the target, found by doubling and bisection."""
        whole = self.measured.graph
        order = ranked(self.scores, whole.allowed)
        low, high = 0, 1
        top = random_circuits.connected_top
        while high < len(order) and not self._one_meets(top(whole, order, high)):
            low, high = high, min(2 * high, len(order))
            progress(0.5 * high / len(order))
        while high - low > 1:
            middle = (low + high) // 2
            if self._one_meets(top(whole, order, middle)):
                high = middle
            else:
                low = middle
        progress(1.0)
        return top(whole, order, high)

    def prune(self, mask: Mask, progress: Callable[[float], None]) -> tuple[Mask, bool]:
        """Leave out what can go; also whether that went on until no single edge can."""
        start = int(mask.sum())
        block = -(-start // _CANDIDATES)
        while True:
            self.beat = functools.partial(progress, 1 - int(mask.sum()) / start)
            try:
                smaller = self._round(mask, block)
            except _OutOfRunsError:
                return mask, False
            if smaller.sum() < mask.sum():
                mask = smaller
                block = min(block, -(-int(mask.sum()) // _CANDIDATES))
            elif block == 1:
                return mask, True
            else:
                block = -(-block // 2)

    def _round(self, mask: Mask, block: int) -> Mask:
        """Leave every block of edges out by itself, then as many of the least ones as can go."""
        pieces = self._pieces(mask, block)
        without = self._values(np.stack([self._less(mask, [piece]) for piece in pieces]))
        (value,) = self._values(mask[None])
        able = np.flatnonzero(self._meets(without))
        if not able.size:
            return mask
        order = able[np.argsort(np.abs(without - value)[able], kind="stable")]
        low, high = 1, len(order) + 1
        while high - low > 1:
            middle = (low + high) // 2
            fewer = self._less(mask, [pieces[i] for i in order[:middle]])
            if self._one_meets(fewer):
                low = middle
            else:
                high = middle
        return self._less(mask, [pieces[i] for i in order[:low]])

    def _pieces(self, mask: Mask, block: int) -> list[np.ndarray]:
        """Edges of the circuit in blocks of similar score, weakest first."""
        weakest_first = ranked(self.scores, mask)[::-1]
        return [weakest_first[i : i + block] for i in range(0, len(weakest_first), block)]

    def _less(self, mask: Mask, pieces: list[np.ndarray]) -> Mask:
        fewer = mask.copy()
        fewer.ravel()[np.concatenate(pieces)] = False
        return self.measured.graph.connected(fewer)

    def _one_meets(self, mask: Mask) -> bool:
        return bool(self._meets(self._values(mask[None]))[0])

    def _meets(self, values: Float[np.ndarray, " run"]) -> Bool[np.ndarray, " run"]:
        return np.abs(1 - values) <= 1 - self.target + TOLERANCE

    def _values(self, masks: Bool[np.ndarray, "run sender receiver"]) -> Float[np.ndarray, " run"]:
        # Growing always has its runs: without a circuit that meets the target there is no result.
        if self.runs + len(masks) > self.max_runs and len(masks) > 1:
            raise _OutOfRunsError
        self.runs += len(masks)
        return self.measured.faithfulness(masks, lambda _: self.beat())


def _changes(
    measured: measuring.Measured, mask: Mask, progress: Any
) -> Float[np.ndarray, "prompt edge"]:
    """Change of each prompt's metric when one edge of the circuit is off in the full model."""
    edges = np.argwhere(mask)
    masks = np.repeat(measured.graph.allowed[None], len(edges), axis=0)
    masks[np.arange(len(edges)), edges[:, 0], edges[:, 1]] = False
    return (measured.under(masks, progress) - measured.full).T


def require_choices(method: str, held_out: float) -> None:
    """Check how edges are to be scored and pairs kept apart.

    Raises:
        ValueError: If the method is unknown or the share out of range.
    """
    if method not in METHODS:
        known = ", ".join(map(repr, METHODS))
        raise ValueError(f"unknown method {method!r}; expected one of {known}")
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out = {held_out}; expected a share from 0 to below 1")


def require_scores(
    scores: attribution.EdgeAttribution,
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    metric: str,
    method: str,
    steps: int,
) -> None:
    """Check that scores are what scoring these pairs would give.

    Raises:
        ValueError: If they were made of another model or other pairs, or in another way.
    """
    made = scores.provenance.parameters
    asked: dict[str, Any] = {"metric": metric, "method": method, "direction": "noising"}
    if method == "eap_ig":
        asked["steps"] = steps
    for name, value in asked.items():
        if made[name] != value:
            raise ValueError(
                f"the scores were made with {name} = {made[name]!r}, and the circuit is asked for "
                f"with {value!r}"
            )
    if made["pairs"] != pairs.digest():
        raise ValueError(
            "the scores were made of other pairs: score those that choose the circuit, which "
            "discovery.split gives"
        )
    if scores.provenance.fingerprint != card.fingerprint(model):
        raise ValueError(
            f"the scores were made of {scores.provenance.model!r} with other weights than this "
            "model's"
        )
