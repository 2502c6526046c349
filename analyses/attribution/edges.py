"""Edge attribution patching: the effect of patching every edge, estimated from one gradient."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import einops
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.stats
import torch
from jaxtyping import Bool, Float, Int

from analyses.attribution import estimates, gradients, verification
from analyses.attribution.verification import Verification
from workbench.core import evidence, plots, results
from workbench.core.engine import decoder as decoders
from workbench.core.engine import graph as graphs
from workbench.core.engine import metrics, preflight, running
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Tensor = torch.Tensor
METHODS = ("eap", "eap_ig")
ANALYSIS = "attribution.attribute_edges"
_SHOWN = 5
# Rows and columns of the figure; more could not be told apart.
_DRAWN = 60


@dataclasses.dataclass(frozen=True)
class EdgeAttribution(results.Result):
    """Estimated change of the metric when one edge carries the other run's output.

    Attributes:
        method: "eap" or "eap_ig".
        steps: Embeddings that the gradient is averaged over; 1 for "eap".
        metric: Scalar that was differentiated.
        direction: "noising": a corrupted output into the clean run; "denoising": a clean output
            into the corrupted run.
        senders: Names of the rows, in the order in which they run.
        receivers: Names of the columns, in the order in which they run.
        allowed: Which edges the model has.
        scores: Mean change over prompts, in the metric's unit; 0 where there is no edge.
        interval: Student's t interval of the means over prompts, made from the sums of scores and
            of their squares, because scores of every prompt would not fit in memory; NaN with a
            single prompt.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        confidence: Level of the intervals.
        verifications: The largest estimates measured exactly: none or one.
        notes: What a reader must know about how these numbers were made.
        pairs: What was run.
    """

    method: str
    steps: int
    metric: str
    direction: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    allowed: Bool[np.ndarray, "sender receiver"]
    scores: Float[np.ndarray, "sender receiver"]
    interval: Float[np.ndarray, "bound sender receiver"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    confidence: float
    verifications: tuple[Verification, ...]
    notes: tuple[str, ...]
    pairs: ContrastPairs

    @property
    def verified(self) -> Verification | None:
        """The largest estimates beside their exact values, if that was asked for."""
        return self.verifications[0] if self.verifications else None

    @property
    def unit(self) -> str:
        """Unit of the scores, for axis titles."""
        name = self.metric.replace("_", " ")
        return f"estimated change of the {name} ({metrics.unit(self.metric)})"

    def score(self, edge: str) -> float:
        """Score of one edge.

        Args:
            edge: Its name, for example `a0.h1->a3.h2<q>`.

        Returns:
            The mean change, in the metric's unit.

        Raises:
            ValueError: If the graph has no such edge.
        """
        sender, _, receiver = edge.partition("->")
        if sender in self.senders and receiver in self.receivers:
            place = self.senders.index(sender), self.receivers.index(receiver)
            if self.allowed[place]:
                return float(self.scores[place])
        raise ValueError(f"the graph has no edge {edge!r}; edges read like a0.h1->m1")

    def strongest(self, n: int) -> list[str]:
        """Names of the n edges of largest absolute score, largest first."""
        return [self._name(i, j) for i, j in self._order()[:n].tolist()]

    def ranking(self, n: int | None = None) -> pd.DataFrame:
        """All edges, largest absolute score first.

        Args:
            n: How many; None for all.

        Returns:
            One row an edge: its ends, score with interval, and n.
        """
        rows, columns = self._order()[:n].T
        return pd.DataFrame(
            {
                "edge": self.strongest(len(rows)),
                "sender": np.array(self.senders, dtype=object)[rows],
                "receiver": np.array(self.receivers, dtype=object)[columns],
                "score": self.scores[rows, columns],
                "low": self.interval[0, rows, columns],
                "high": self.interval[1, rows, columns],
                "n": len(self.pairs),
            }
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an edge, largest absolute score first."""
        return self.ranking()

    def figure(self) -> go.Figure:
        """Heat map of sender by receiver, zero-centred; of a large model its strongest part.

        Returns:
            The figure; blank cells are no edges, each cell's hover text carries its interval.
        """
        size = np.abs(self.scores)
        rows, columns = _largest(size.max(1)), _largest(size.max(0))
        part = np.ix_(rows, columns)
        low, high = self.interval[0][part], self.interval[1][part]
        hover = np.empty(low.shape, dtype=object)
        for cell in np.ndindex(low.shape):
            known = f"{self.confidence:.0%} [{low[cell]:.3f}, {high[cell]:.3f}], "
            hover[cell] = f"{known if np.isfinite(low[cell]) else ''}n = {len(self.pairs)}"
        return plots.heatmap(
            np.where(self.allowed, self.scores, np.nan)[part],
            row_labels=[self.senders[i] for i in rows],
            # A receiver's name holds "<q>", which would be read as markup.
            column_labels=[plots.escape(self.receivers[j]) for j in columns],
            row_title="sender",
            column_title="receiver",
            colour_title=self.unit,
            hover=hover,
        )

    def summary(self) -> str:
        """What was estimated, the baselines, the strongest edges, and how far to believe them."""
        n, metric = len(self.pairs), self.metric.replace("_", " ")
        name = "Edge attribution patching"
        if self.method == "eap_ig":
            name += f" with integrated gradients ({self.steps} steps)"
        into = "a corrupted output into the clean run"
        if self.direction == "denoising":
            into = "a clean output into the corrupted run"
        lines = [
            f"{name} of {int(self.allowed.sum())} edges in {self.provenance.model} on "
            f"{self.pairs.name}, {into}: mean {metric} {self.clean.mean():.3f} clean and "
            f"{self.corrupted.mean():.3f} corrupted ({metrics.unit(self.metric)}, n = {n})."
        ]
        best = [self._described(edge) for edge in self.strongest(_SHOWN)]
        how_sure = f"{self.confidence:.0%} t intervals over prompts"
        if n == 1:
            how_sure = "no interval: one prompt says nothing about the spread over prompts"
        lines.append(f"Largest ({self.unit}): {'; '.join(best)}. {how_sure.capitalize()}.")
        if self.verified is None:
            lines.append("These are first-order estimates, none of them verified exactly.")
        else:
            lines.append(self.verified.summary())
        return " ".join([*lines, *self.notes])

    def script(self) -> str:
        """Python code that computes this result again."""
        made = self.provenance.parameters
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in _SCRIPT_ARGUMENTS)
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import attribution\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"result = attribution.attribute_edges(\n    model,\n    pairs,\n{arguments})\n"
            "print(result.summary())\n"
        )

    def _described(self, edge: str) -> str:
        text = f"{edge} {self.score(edge):.3f}"
        if len(self.pairs) == 1:
            return text
        sender, _, receiver = edge.partition("->")
        low, high = self.interval[:, self.senders.index(sender), self.receivers.index(receiver)]
        return f"{text} [{low:.3f}, {high:.3f}]"

    def _name(self, sender: int, receiver: int) -> str:
        return f"{self.senders[sender]}->{self.receivers[receiver]}"

    def _order(self) -> Int[np.ndarray, "edge two"]:
        places = np.argwhere(self.allowed)
        return places[np.argsort(-np.abs(self.scores[self.allowed]), kind="stable")]


_SCRIPT_ARGUMENTS = (
    "method",
    "steps",
    "metric",
    "direction",
    "verify_top",
    "confidence",
    "n_resamples",
    "seed",
)


def attribute_edges(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    method: str = "eap",
    steps: int = 5,
    metric: str | metrics.Function = "logit_difference",
    direction: str = "noising",
    verify_top: int = 0,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    batch_size: int = 32,
    progress: running.Progress | None = None,
) -> EdgeAttribution:
    """Estimate the effect of patching every edge between components, from one gradient.

    Args:
        model: Any bridge that can be taken apart; it is not changed.
        pairs: Clean and corrupted prompts with answers; each pair of equal length.
        method: "eap" takes the gradient at the run that is patched; "eap_ig" averages it over
            embeddings from the other run's to this one's.
        steps: How many embeddings "eap_ig" averages over.
        metric: "logit_difference", "probability", "kl_divergence" or "cross_entropy", or a
            differentiable function of (logits, targets); a rank has no gradient.
        direction: "noising" patches corrupted outputs into the clean run, "denoising" clean
            outputs into the corrupted run.
        verify_top: How many of the largest estimates are measured again exactly.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples of the exact values.
        seed: Seed of that bootstrap.
        batch_size: Most prompts in one pass.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The scores with their intervals.

    Raises:
        NotTakenApart: If the model's stream is not known to be a sum over components.
        ValueError: If an argument is unknown, pairs differ in length, the metric has no gradient
            in the run that is patched, or the model's logits are not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    _require_arguments(method, steps, direction, confidence, verify_top)
    gradient_at_clean = direction == "noising" and (method == "eap" or steps == 1)
    estimates.require_gradient(pairs, metric, at_clean=gradient_at_clean)
    if pairs.aligned:
        raise ValueError(
            "edges carry whole streams, so both prompts of a pair must have the same length: use "
            "pairs of equal length, or attribute_nodes, which compares matched positions"
        )
    batches = _Batches(model, pairs, metric, direction == "noising", batch_size)
    sums, squares, clean, corrupted = _summed(
        batches,
        steps if method == "eap_ig" else 1,
        lambda done, note: report(0.8 * done if verify_top else done, note),
    )
    graph, n = batches.graph, len(pairs)
    measure = metrics.find(metric)
    made = {
        "method": method,
        "steps": steps,
        "metric": measure.name,
        "direction": direction,
        "verify_top": verify_top,
        "confidence": confidence,
        "n_resamples": n_resamples,
        "seed": seed,
        "pairs": pairs.digest(),
    }
    result = EdgeAttribution(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=made,
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        method=method,
        steps=steps if method == "eap_ig" else 1,
        metric=measure.name,
        direction=direction,
        senders=graph.senders,
        receivers=graph.receivers,
        allowed=np.array(graph.allowed),
        scores=sums / n,
        interval=_t_interval(sums, squares, n, confidence),
        clean=clean,
        corrupted=corrupted,
        confidence=confidence,
        verifications=(),
        notes=(),
        pairs=pairs,
    )
    if verify_top == 0:
        return result
    report(0.8, "measuring the largest estimates exactly")
    checked = _verified(batches, result, verify_top)
    wall_time = time.perf_counter() - started
    return dataclasses.replace(
        result,
        provenance=dataclasses.replace(result.provenance, wall_time=wall_time),
        verifications=(checked,),
        notes=verification.notes(checked),
    )


class _Batches:
    """The pairs in batches of one length, each with the model taken apart for that length."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        metric: str | metrics.Function,
        noising: bool,
        batch_size: int,
    ) -> None:
        self.model, self.pairs, self.noising = model, pairs, noising
        self._metric = metrics.find(metric)
        self.indices = pairs.batches(batch_size)
        self._decoders: dict[int, decoders.Decoder] = {}

    @functools.cached_property
    def graph(self) -> graphs.Graph:
        """The same for all lengths."""
        return graphs.Graph.of(self._decoder(self.pairs.batch(self.indices[0])[0]))

    def at(self, i: int) -> _Batch:
        """One batch, with its two runs."""
        tokens = self.pairs.batch(self.indices[i])
        return _Batch(self, self.indices[i], self._decoder(tokens[0]), self._metric, tokens)

    def _decoder(self, tokens: Int[Tensor, "batch position"]) -> decoders.Decoder:
        length = int(tokens.shape[1])
        if length not in self._decoders:
            self._decoders[length] = gradients.taken_apart(self.model, tokens)
        return self._decoders[length]


class _Batch:
    """Prompts of one length: the run that is patched, and the run that is patched in."""

    def __init__(
        self,
        whole: _Batches,
        indices: Int[np.ndarray, " batch"],
        decoder: decoders.Decoder,
        metric: metrics.Measure,
        tokens: tuple[Int[Tensor, "batch position"], Int[Tensor, "batch position"]],
    ) -> None:
        self._decoder, self._graph, self._function = decoder, whole.graph, metric.function
        self._model = whole.model
        clean, corrupted = (graphs.trace(decoder, which) for which in tokens)
        self.base, self.source = (clean, corrupted) if whole.noising else (corrupted, clean)
        with torch.no_grad():
            logits = [self._logits(traced.resid[-1][:, -1]) for traced in (clean, corrupted)]
            for which in logits:
                preflight.require_finite(whole.model, which)
            self._targets = metrics.targets(whole.pairs, indices, logits[0])
            both = [_numbers(self._function(which, self._targets)) for which in logits]
        self.clean, self.corrupted = both
        self.unpatched = self.clean if whole.noising else self.corrupted

    def metric(self, last: Float[Tensor, "batch d_model"]) -> Float[Tensor, " batch"]:
        """Metric of each prompt, given the stream at its last position."""
        return self._function(self._logits(last), self._targets)

    def scores(self, steps: int) -> Float[np.ndarray, "batch sender receiver"]:
        """Scores of every edge, with the gradient averaged over embeddings up to the base's own."""
        base, source = (traced.resid[0] for traced in (self.base, self.source))
        average = torch.zeros(())
        for step in range(1, steps + 1):
            embedding = base if step == steps else source + (base - source) * (step / steps)
            _, gradient = graphs.gradients(self._decoder, self._graph, embedding, self.metric)
            average = average + gradient / steps
        gaps = einops.rearrange(
            self.source.outputs - self.base.outputs,
            "sender batch position d_model -> batch sender (position d_model)",
        )
        products = gaps @ einops.rearrange(
            average, "receiver batch position d_model -> batch (position d_model) receiver"
        )
        return np.where(self._graph.allowed, _numbers(products), 0.0)

    def exact(self, edges: Sequence[str]) -> Float[np.ndarray, "batch edge"]:
        """Change of the metric when each edge alone carries the source's output."""
        masks = torch.ones(len(edges), *self._graph.allowed.shape, dtype=torch.bool)
        for mask, edge in zip(masks, edges, strict=True):
            mask[torch.as_tensor(self._graph.mask([edge]))] = False
        ends = graphs.run(self._decoder, self._graph, self.base, self.source.outputs, masks)
        with torch.no_grad():
            measured = np.stack([_numbers(self.metric(end)) for end in ends], axis=1)
        return measured - self.unpatched[:, None]

    def _logits(self, last: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_vocab"]:
        with running.lock_of(self._model):
            return self._decoder.logits(last).float()


def _numbers(values: Tensor) -> Float[np.ndarray, "*cell"]:
    # Some accelerators have no float64.
    return values.detach().cpu().double().numpy()


def _summed(
    batches: _Batches, steps: int, report: running.Progress
) -> tuple[
    Float[np.ndarray, "sender receiver"],
    Float[np.ndarray, "sender receiver"],
    Float[np.ndarray, " prompt"],
    Float[np.ndarray, " prompt"],
]:
    """Sums of scores and of their squares over prompts, and both baselines."""
    shape = batches.graph.allowed.shape
    sums, squares = np.zeros(shape), np.zeros(shape)
    clean, corrupted = np.empty(len(batches.pairs)), np.empty(len(batches.pairs))
    for i, indices in enumerate(batches.indices):
        report(i / len(batches.indices), f"batch {i + 1} of {len(batches.indices)}")
        batch = batches.at(i)
        clean[indices], corrupted[indices] = batch.clean, batch.corrupted
        scores = batch.scores(steps)
        sums += scores.sum(0)
        squares += (scores**2).sum(0)
    return sums, squares, clean, corrupted


def _t_interval(
    sums: Float[np.ndarray, "sender receiver"],
    squares: Float[np.ndarray, "sender receiver"],
    n: int,
    confidence: float,
) -> Float[np.ndarray, "bound sender receiver"]:
    """Student's t interval of the mean over prompts; NaN with a single prompt."""
    if n == 1:
        return np.full((2, *sums.shape), np.nan)
    mean = sums / n
    # Rounding may leave a little less than nothing where all prompts agree.
    variance = np.maximum(squares - n * mean**2, 0) / (n - 1)
    reach = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * np.sqrt(variance / n)
    return np.stack([mean - reach, mean + reach])


def _verified(batches: _Batches, result: EdgeAttribution, k: int) -> Verification:
    """The k largest estimates beside the exact changes."""
    edges = result.strongest(k)
    columns = np.empty((len(result.pairs), len(edges)))
    for i, indices in enumerate(batches.indices):
        columns[indices] = batches.at(i).exact(edges)
    made: dict[str, Any] = result.provenance.parameters
    level = {name: made[name] for name in ("confidence", "n_resamples", "seed")}
    return verification.compare(
        edges,
        np.array([result.score(edge) for edge in edges]),
        columns.mean(0),
        evidence.mean_interval(columns, **level),
    )


def _largest(sizes: Float[np.ndarray, " point"]) -> Int[np.ndarray, " point"]:
    """Places of the largest values, in their own order."""
    return np.sort(np.argsort(-sizes, kind="stable")[:_DRAWN])


def _require_arguments(
    method: str, steps: int, direction: str, confidence: float, verify_top: int
) -> None:
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; expected one of {', '.join(METHODS)}")
    if steps < 1:
        raise ValueError(f"steps = {steps}; expected at least 1")
    if direction not in estimates.DIRECTIONS:
        known = ", ".join(estimates.DIRECTIONS)
        raise ValueError(f"direction = {direction!r}; expected one of {known}")
    evidence.require_confidence(confidence)
    if verify_top < 0:
        raise ValueError(f"verify_top = {verify_top}; expected 0 or how many to measure exactly")
