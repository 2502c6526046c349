"""How fast does faithfulness grow with the size of the circuit?

1. Order all edges by absolute attribution score, which pairs kept apart have no part in.
2. For each fraction of the graph take that many of the first edges (rounded down), run them alone,
   and measure faithfulness f on the pairs kept apart.
3. CPR is the area under f, CMD the area of |1 − f|, both over the fraction of edges on a linear
   axis, by the trapezoid rule on exactly these points.
4. Do the same with edges in random order.

Source: Mueller et al. 2025, arXiv 2504.13151 (Mechanistic Interpretability Benchmark: its
fractions, CPR and CMD); the benchmark integrates from its least fraction, 0.001, to 1.

Units and sign: f as in `evaluation`. CPR is best high (about 1; above it, the circuits overshoot);
CMD is best low (0: every size does what the model does).

Limits: with a linear axis the largest circuits make up nearly all of both areas: read the curve. A
graph of fewer than 1,000 edges has no edge at the least fraction, and f is 0 there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
from jaxtyping import Bool, Float, Int

from analyses.circuits import discovery, evaluation, measuring
from workbench.core import evidence, plots, results
from workbench.core.engine import graph, running
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "circuits.faithfulness_curve"
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
# Products such as 0.29 * 100 must not lose an edge to rounding.
_ROUNDING = 1e-9
# An area needs two points; this much of the behaviour is what the summary calls enough.
_LEAST_POINTS, _ENOUGH = 2, 0.9

Scores = Float[np.ndarray, "sender receiver"] | Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class FaithfulnessCurve(results.Result):
    """Faithfulness of the top edges at each size, beside edges in random order.

    Attributes:
        fractions: Fractions of all edges.
        sizes: Edges at each fraction.
        faithfulness: Faithfulness at each fraction.
        interval: Its bootstrap intervals over prompts.
        cpr: Area under the faithfulness.
        cpr_interval: Its bootstrap interval.
        cmd: Area of |1 − faithfulness|.
        cmd_interval: Its bootstrap interval.
        per_prompt: Metric of each prompt at each fraction.
        full: Metric of each prompt with all edges on.
        nothing: Metric of each prompt with all edges off.
        random: Faithfulness of each random order at each fraction.
        random_cpr: Area under the faithfulness of each random order.
        random_cmd: Area of |1 − faithfulness| of each random order.
        cpr_p: Share of orders, this one counted in, with at least this CPR; NaN without
            random ones.
        cmd_p: Share of orders, this one counted in, with at most this CMD.
        method: How edges were scored, or "given".
        metric: What was measured.
        ablation: What edges carried that were off.
        confidence: Level of the intervals.
        pairs: All pairs.
        scored_indices: Which pairs the scores come from; none where they were given.
        measured_indices: Which pairs faithfulness was measured on.
    """

    fractions: Float[np.ndarray, " point"]
    sizes: Int[np.ndarray, " point"]
    faithfulness: Float[np.ndarray, " point"]
    interval: Float[np.ndarray, "bound point"]
    cpr: float
    cpr_interval: Float[np.ndarray, " bound"]
    cmd: float
    cmd_interval: Float[np.ndarray, " bound"]
    per_prompt: Float[np.ndarray, "point prompt"]
    full: Float[np.ndarray, " prompt"]
    nothing: Float[np.ndarray, " prompt"]
    random: Float[np.ndarray, "sample point"]
    random_cpr: Float[np.ndarray, " sample"]
    random_cmd: Float[np.ndarray, " sample"]
    cpr_p: float
    cmd_p: float
    method: str
    metric: str
    ablation: str
    confidence: float
    pairs: ContrastPairs
    scored_indices: tuple[int, ...]
    measured_indices: tuple[int, ...]

    @property
    def held_out(self) -> bool:
        """Whether faithfulness was measured on other pairs than those that scored the edges."""
        return set(self.scored_indices).isdisjoint(self.measured_indices)

    def to_frame(self) -> pd.DataFrame:
        """One row a fraction: edges, faithfulness with interval, and that of random orders."""
        frame = pd.DataFrame(
            {
                "fraction": self.fractions,
                "edges": self.sizes,
                "faithfulness": self.faithfulness,
                "low": self.interval[0],
                "high": self.interval[1],
            }
        )
        frame["random_mean"] = self.random.mean(0) if len(self.random) else np.nan
        frame["n"] = len(self.measured_indices)
        return frame

    def figure(self) -> go.Figure:
        """Faithfulness over the fraction of edges, with the random orders beside it."""
        series = {f"by {self.method} score": self.faithfulness}
        bands: dict[str, np.ndarray] = {}
        if np.isfinite(self.interval).all():
            bands[f"by {self.method} score"] = self.interval
        if len(self.random):
            series["random order"] = self.random.mean(0)
            bands["random order"] = np.quantile(self.random, [0.025, 0.975], axis=0)
        figure = plots.line(
            self.fractions,
            series,
            x_title="fraction of edges",
            y_title="faithfulness (0 corrupted, 1 clean)",
            bands=bands,
            log_x=True,
        )
        return figure.add_hline(y=1, line={"dash": "dot", "color": plots.COLOURS[-1]})

    def summary(self) -> str:
        """Both areas with intervals beside random orders, and the least size that reaches 0.9."""
        sure = ("", "")
        if len(self.measured_indices) > 1:
            sure = tuple(
                f" [{low:.3f}, {high:.3f}]" for low, high in (self.cpr_interval, self.cmd_interval)
            )
        lines = [
            f"Edges of {self.provenance.model} by {self.method} score on {self.pairs.name}: "
            f"CPR {self.cpr:.3f}{sure[0]}, CMD {self.cmd:.3f}{sure[1]} "
            f"(n = {len(self.measured_indices)}{', held out' if self.held_out else ''})."
        ]
        enough = np.flatnonzero(self.faithfulness >= _ENOUGH)
        if enough.size:
            first = int(enough[0])
            lines.append(
                f"Faithfulness first reaches 0.9 at {self.fractions[first]:.1%} of the edges "
                f"({self.sizes[first]} edges, {self.faithfulness[first]:.3f})."
            )
        if len(self.random):
            lines.append(
                f"Edges in random order: CPR {self.random_cpr.mean():.3f} (p = {self.cpr_p:.3g}), "
                f"CMD {self.random_cmd.mean():.3f} (p = {self.cmd_p:.3g}), {len(self.random)} "
                "orders."
            )
        return " ".join(lines)

    def script(self) -> str:
        """Python code that computes this result again; given scores must be at hand."""
        made = self.provenance.parameters
        names = ("metric", "ablation", "held_out", "n_random", "confidence", "n_resamples", "seed")
        if self.scored_indices:
            names = ("method", "steps", *names)
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in names)
        arguments += f"    fractions={tuple(made['fractions'])!r},\n"
        if not self.scored_indices:
            arguments += "    scores=scores,\n"
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import circuits\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"result = circuits.faithfulness_curve(\n    model,\n    pairs,\n{arguments})\n"
            "print(result.summary())\n"
        )


def faithfulness_curve(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    scores: Scores | None = None,
    method: str = "eap_ig",
    steps: int = 5,
    fractions: Sequence[float] = FRACTIONS,
    metric: str = "logit_difference",
    ablation: str = "corrupted",
    held_out: float = 0.5,
    n_random: int = 20,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> FaithfulnessCurve:
    """Measure faithfulness of the top edges at each size, and both areas of the benchmark.

    Args:
        model: The bridge.
        pairs: Clean and corrupted prompts of equal length.
        scores: Score of every edge, as array or by name (edges without a name score 0); None for
            attribution scores of the pairs that are not kept apart.
        method: How edges are scored: "eap" or "eap_ig".
        steps: Steps of "eap_ig".
        fractions: Fractions of all edges, increasing, above 0 and at most 1.
        metric: What is measured.
        ablation: What edges carry that are off: "corrupted", "mean" or "zero".
        held_out: Share of the pairs that faithfulness is measured on, the scores on the others; 0
            does both on all pairs. With scores given, all pairs are measured.
        n_random: Random orders of the edges beside it.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the split, of the random orders and of the bootstrap.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The curve.

    Raises:
        ValueError: If an argument is out of range, or clean and corrupted metrics are too close to
            divide by.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    points = _fractions(fractions)
    evaluation.require_count("n_random", n_random, least=0)
    discovery.require_choices(method, held_out)
    measuring.require_pairs(pairs, metric)
    chosen = kept = tuple(range(len(pairs)))
    if scores is None and held_out:
        chosen, kept = discovery.split(len(pairs), held_out, seed)
    report(0.0, "running clean and corrupted prompts")
    measured = measuring.Measured(model, pairs.subset(kept), metric=metric, ablation=ablation)
    if scores is None:
        ranking = discovery.scored(
            model,
            pairs.subset(chosen),
            metric=metric,
            method=method,
            steps=steps,
            progress=running.part(report, 0.0, 0.3),
        )
    else:
        ranking = _given(scores, measured.graph)
    sizes = np.floor(points * measured.graph.n_edges + _ROUNDING).astype(np.int64)
    rng = np.random.default_rng(seed)
    edges = np.flatnonzero(measured.graph.allowed)
    orders = [discovery.ranked(ranking, measured.graph.allowed)]
    orders += [rng.permutation(edges) for _ in range(n_random)]
    masks = np.concatenate([_tops(measured.graph.allowed, order, sizes) for order in orders])
    step = measuring.part(report, 0.3, 0.95, "running circuits of each size")
    found = measured.under(masks, step).reshape(len(orders), len(sizes), -1)
    curves = measured.as_fraction(found)
    random_cpr, random_cmd = areas(points, curves[1:])
    cpr, cmd = (float(area[0]) for area in areas(points, curves[:1]))
    level: dict[str, Any] = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
    report(0.95, "bootstrap intervals")
    changes, unit = found[0] - measured.nothing, measured.full - measured.nothing
    cpr_interval, cmd_interval = _area_intervals(points, changes, unit, **level)
    report(1.0, "done")
    return FaithfulnessCurve(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "method": method if scores is None else "given",
                "steps": steps,
                "fractions": points.tolist(),
                "metric": metric,
                "ablation": ablation,
                "held_out": held_out,
                "n_random": n_random,
                **level,
                "pairs": pairs.digest(),
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        fractions=points,
        sizes=sizes,
        faithfulness=curves[0],
        interval=evidence.ratio_interval(changes.T, unit, **level),
        cpr=cpr,
        cpr_interval=cpr_interval,
        cmd=cmd,
        cmd_interval=cmd_interval,
        per_prompt=found[0],
        full=measured.full,
        nothing=measured.nothing,
        random=curves[1:],
        random_cpr=random_cpr,
        random_cmd=random_cmd,
        cpr_p=_p_value(random_cpr >= cpr),
        cmd_p=_p_value(random_cmd <= cmd),
        method=method if scores is None else "given",
        metric=metric,
        ablation=ablation,
        confidence=confidence,
        pairs=pairs,
        scored_indices=chosen if scores is None else (),
        measured_indices=kept,
    )


def areas(
    fractions: Float[np.ndarray, " point"], faithfulness: Float[np.ndarray, "*curve point"]
) -> tuple[Float[np.ndarray, "*curve"], Float[np.ndarray, "*curve"]]:
    """CPR and CMD of curves, by the trapezoid rule over the fractions.

    Args:
        fractions: Fractions of all edges, increasing.
        faithfulness: Faithfulness at each of them.

    Returns:
        Area under the faithfulness, and area of |1 − faithfulness|, where at each point the
        distance is taken first and then integrated.
    """
    under = np.trapezoid(faithfulness, fractions, axis=-1)
    return np.asarray(under), np.asarray(np.trapezoid(np.abs(1 - faithfulness), fractions, axis=-1))


def _area_intervals(
    points: np.ndarray,
    changes: np.ndarray,
    unit: np.ndarray,
    *,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap intervals of both areas, prompts resampled as whole."""
    if len(unit) == 1:
        return np.full(2, np.nan), np.full(2, np.nan)

    def statistic(*columns: np.ndarray, axis: int) -> np.ndarray:
        means = np.stack([column.mean(axis) for column in columns])
        return np.stack(areas(points, np.moveaxis(means[:-1] / means[-1], 0, -1)))

    with np.errstate(divide="ignore", invalid="ignore"):
        result = scipy.stats.bootstrap(
            (*changes, unit),
            statistic,
            paired=True,
            axis=-1,
            vectorized=True,
            method="percentile",
            confidence_level=confidence,
            n_resamples=n_resamples,
            rng=np.random.default_rng(seed),
        )
    bounds = np.stack([result.confidence_interval.low, result.confidence_interval.high])
    return bounds[:, 0], bounds[:, 1]


def _p_value(as_good: Bool[np.ndarray, " sample"]) -> float:
    return float((as_good.sum() + 1) / (as_good.size + 1)) if as_good.size else float("nan")


def _tops(
    allowed: Bool[np.ndarray, "sender receiver"],
    order: Int[np.ndarray, " edge"],
    sizes: Int[np.ndarray, " point"],
) -> Bool[np.ndarray, "point sender receiver"]:
    masks = np.zeros((len(sizes), *allowed.shape), dtype=bool)
    for mask, size in zip(masks, sizes, strict=True):
        mask.ravel()[order[:size]] = True
    return masks


def _fractions(fractions: Sequence[float]) -> Float[np.ndarray, " point"]:
    points = np.array(fractions, dtype=np.float64)
    increasing = len(points) >= _LEAST_POINTS and bool((np.diff(points) > 0).all())
    if not increasing or points[0] <= 0 or points[-1] > 1:
        raise ValueError(
            f"fractions = {tuple(fractions)}; expected two or more, increasing, above 0, at most 1"
        )
    return points


def _given(scores: Scores, whole: graph.Graph) -> Float[np.ndarray, "sender receiver"]:
    if isinstance(scores, Mapping):
        # Refuses a name that is no edge.
        whole.mask(scores)
        found = np.zeros(whole.allowed.shape)
        for name, score in scores.items():
            sender, _, receiver = name.partition("->")
            found[whole.sender_index[sender], whole.receiver_index[receiver]] = score
        return found
    if scores.shape != whole.allowed.shape:
        raise ValueError(
            f"expected scores of {whole.allowed.shape[0]} senders and {whole.allowed.shape[1]} "
            f"receivers, found an array of shape {scores.shape}"
        )
    return scores
