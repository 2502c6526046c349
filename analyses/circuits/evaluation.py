"""How much of the behaviour does a circuit alone carry, and how much would a random one?

1. Measure the metric with the circuit's edges on and all others off, per prompt.
2. Faithfulness f = (circuit − nothing) / (full − nothing), the ratio of means over prompts, with a
   bootstrap interval over prompts.
3. Do the same with random connected circuits of the same size (`random_circuits`); the p-value is
   (r + 1) / (n + 1), where r of the n random ones come at least as close to 1.

Source: Wang et al. 2022, arXiv 2211.00593; Hanna et al. 2024, arXiv 2403.17806 (normalised);
Shi et al. 2024, arXiv 2410.13032 (random circuits as reference).

Units and sign: f is a fraction; 0 is the run with all edges off, 1 the clean run, above 1 the
circuit does more than the model.

Limits: a circuit that is faithful on average may err on each prompt in both directions; look at the
per-prompt values. On the prompts that chose the circuit, f says nothing: use others.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.circuits import measuring, random_circuits
from workbench.core import evidence, plots, results
from workbench.core.engine import metrics, running
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from analyses.circuits.circuit import Circuit

ANALYSIS = "circuits.faithfulness"
# Rounding of float32 must not decide whether a random circuit comes as close as the chosen one.
_TIE = 1e-6


@dataclasses.dataclass(frozen=True)
class Faithfulness(results.Result):
    """Share of the behaviour that a set of edges carries by itself.

    Attributes:
        edges: The edges that were on.
        n_edges: How many edges the model's graph has.
        metric: What was measured.
        ablation: What edges carried that were off.
        value: Faithfulness, a fraction.
        interval: Its bootstrap interval over prompts; NaN with a single prompt.
        circuit: Metric of each prompt with the circuit's edges on.
        full: Metric of each prompt with all edges on.
        nothing: Metric of each prompt with all edges off.
        random: Faithfulness of each random circuit.
        p_value: Share of circuits, this one counted in, that come as close to 1; NaN without
            random ones.
        confidence: Level of the interval.
        pairs: What was run.
    """

    edges: tuple[str, ...]
    n_edges: int
    metric: str
    ablation: str
    value: float
    interval: Float[np.ndarray, " bound"]
    circuit: Float[np.ndarray, " prompt"]
    full: Float[np.ndarray, " prompt"]
    nothing: Float[np.ndarray, " prompt"]
    random: Float[np.ndarray, " sample"]
    p_value: float
    confidence: float
    pairs: ContrastPairs

    @property
    def share(self) -> float:
        """Share of all edges that were on."""
        return len(self.edges) / self.n_edges

    def to_frame(self) -> pd.DataFrame:
        """One row a prompt: the metric with the circuit, with everything, and with nothing."""
        return pd.DataFrame(
            {
                "prompt": self.pairs.clean,
                "circuit": self.circuit,
                "full": self.full,
                "nothing": self.nothing,
            }
        )

    def figure(self) -> go.Figure:
        """Faithfulness of the random circuits as a histogram, and of this one as a line."""
        figure = go.Figure(
            go.Histogram(x=self.random, marker={"color": plots.COLOURS[-1]}, name="random circuits")
        )
        if np.isfinite(self.interval).all():
            low, high = map(float, self.interval)
            figure.add_vrect(
                x0=low, x1=high, fillcolor=plots.COLOURS[0], opacity=0.18, line_width=0
            )
        figure.add_vline(x=self.value, line={"color": plots.COLOURS[0], "width": 3})
        figure.update_layout(template=plots.TEMPLATE, showlegend=False)
        figure.update_xaxes(title="faithfulness (0 corrupted, 1 clean)")
        return figure.update_yaxes(title="random circuits")

    def summary(self) -> str:
        """Faithfulness with its interval, the size, and the random circuits beside it."""
        n = len(self.pairs)
        sure = "one prompt, so no interval"
        if n > 1:
            low, high = self.interval
            sure = f"{self.confidence:.0%} interval [{low:.3f}, {high:.3f}], n = {n}"
        lines = [
            f"{len(self.edges)} of {self.n_edges} edges ({self.share:.1%}) carry {self.value:.3f} "
            f"of the {self.metric.replace('_', ' ')} on {self.pairs.name} ({sure}): "
            f"{self.circuit.mean():.3f} with these edges, {self.full.mean():.3f} with all and "
            f"{self.nothing.mean():.3f} with none ({metrics.UNITS[self.metric]})."
        ]
        if self.random.size:
            lines.append(
                f"Random connected circuits of this size: mean {self.random.mean():.3f}, "
                f"{self.random.min():.3f} to {self.random.max():.3f} "
                f"({self.random.size} circuits, p = {self.p_value:.3g})."
            )
        return " ".join(lines)

    def script(self) -> str:
        """Python code that computes this result again."""
        made = self.provenance.parameters
        names = ("metric", "ablation", "n_random", "confidence", "n_resamples", "seed")
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in names)
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import circuits\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"edges = {self.edges!r}\n"
            f"result = circuits.faithfulness(\n    model,\n    pairs,\n    edges,\n{arguments})\n"
            "print(result.summary())\n"
        )


def edges_of(circuit: Circuit | Sequence[str]) -> tuple[str, ...]:
    """The edges of a circuit, or names of edges as they are.

    Args:
        circuit: A circuit or the names of its edges.

    Returns:
        The names, in their order.

    Raises:
        ValueError: If a single text was given, or a name is there twice.
    """
    if isinstance(circuit, str):
        raise ValueError(f"expected a circuit or a sequence of edge names, found {circuit!r}")
    edges = circuit if isinstance(circuit, Sequence) else circuit.edges
    if twice := sorted(edge for edge, count in collections.Counter(edges).items() if count > 1):
        raise ValueError(f"each edge is named once; named again: {', '.join(twice)}")
    return tuple(edges)


def metric_of(circuit: Circuit | Sequence[str], metric: str | None) -> str:
    """The metric that was asked for, else the one that chose the circuit."""
    if metric is not None:
        return metric
    return "logit_difference" if isinstance(circuit, Sequence) else circuit.metric


def faithfulness(
    model: TransformerBridge,
    pairs: ContrastPairs,
    circuit: Circuit | Sequence[str],
    *,
    metric: str | None = None,
    ablation: str = "corrupted",
    n_random: int = 100,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: running.Progress | None = None,
) -> Faithfulness:
    """Measure how much of the behaviour a circuit carries by itself.

    Args:
        model: The bridge.
        pairs: Prompts; for a fair number others than those that chose the circuit.
        circuit: The circuit, or the names of its edges.
        metric: What is measured; None for the circuit's own, or the logit difference.
        ablation: What edges carry that are off: "corrupted", "mean" (over clean and corrupted
            prompts of a length, position by position) or "zero".
        n_random: How many random connected circuits of the same size are measured beside it.
        confidence: Level of the interval.
        n_resamples: Bootstrap resamples.
        seed: Seed of the random circuits and of the bootstrap.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The faithfulness.

    Raises:
        ValueError: If an argument is unknown, an edge is not in the model's graph, or clean and
            corrupted metrics are too close to divide by.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    edges = edges_of(circuit)
    require_count("n_random", n_random, least=0)
    report(0.0, "running clean and corrupted prompts")
    measured = measuring.Measured(
        model, pairs, metric=metric_of(circuit, metric), ablation=ablation
    )
    return evaluate(
        model,
        measured,
        edges,
        ablation=ablation,
        n_random=n_random,
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
        progress=report,
        started=started,
    )


def evaluate(
    model: TransformerBridge,
    measured: measuring.Measured,
    edges: tuple[str, ...],
    *,
    ablation: str,
    n_random: int,
    confidence: float,
    n_resamples: int,
    seed: int,
    progress: running.Progress,
    started: float,
) -> Faithfulness:
    """Faithfulness of some edges on prompts that have been run already.

    Args:
        model: The bridge.
        measured: The prompts, run.
        edges: Names of edges.
        ablation: What `measured` was made with.
        n_random: How many random circuits.
        confidence: Level of the interval.
        n_resamples: Bootstrap resamples.
        seed: Seed of everything random.
        progress: Called with the fraction done and a note.
        started: When the run began, in seconds of `time.perf_counter`.

    Returns:
        The faithfulness.
    """
    mask = measured.graph.mask(edges)
    step = measuring.part(progress, 0.05, 0.3, "drawing random circuits")
    drawn = random_circuits.sample(measured.graph, len(edges), n_random, seed=seed, progress=step)
    step = measuring.part(progress, 0.3, 1.0, "running random circuits")
    found = measured.under(np.concatenate([mask[None], drawn]), step)
    fractions = measured.as_fraction(found)
    interval = evidence.ratio_interval(
        (found[0] - measured.nothing)[:, None],
        measured.full - measured.nothing,
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )
    progress(1.0, "done")
    return Faithfulness(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "edges": list(edges),
                "metric": measured.metric,
                "ablation": ablation,
                "n_random": n_random,
                "confidence": confidence,
                "n_resamples": n_resamples,
                "seed": seed,
                "pairs": measured.pairs.digest(),
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        edges=edges,
        n_edges=measured.graph.n_edges,
        metric=measured.metric,
        ablation=ablation,
        value=float(fractions[0]),
        interval=interval[:, 0],
        circuit=found[0],
        full=measured.full,
        nothing=measured.nothing,
        random=fractions[1:],
        p_value=_p_value(float(fractions[0]), fractions[1:]),
        confidence=confidence,
        pairs=measured.pairs,
    )


def _p_value(value: float, random: Float[np.ndarray, " sample"]) -> float:
    if not random.size:
        return float("nan")
    as_close = np.abs(1 - random) <= abs(1 - value) + _TIE
    return float((as_close.sum() + 1) / (random.size + 1))


def require_count(name: str, value: int, *, least: int) -> None:
    """Check a number of repetitions.

    Raises:
        ValueError: If it is too small.
    """
    if value < least:
        raise ValueError(f"{name} = {value}; expected {least} or more")
