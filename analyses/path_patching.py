"""Through which path does one component reach the answer?

1. Run the clean and the corrupted prompts, and keep what every component writes. Noising takes the
   clean run as base and the corrupted one as source, denoising the other way around.
2. A sender writes what it wrote in the source run: everywhere, or at chosen positions (a named set
   such as "the subject" is where each prompt has it). Each `through` component, in the order in
   which they run, reads its base input plus what sender and earlier through components write
   differently from the base run, and is computed again.
3. Each receiver reads its base input plus these same differences, and nothing else that changed.
4. Run the base prompts with the receivers' inputs held at that, everything after them computed
   normally, and measure the metric at the last position.
5. A bootstrap interval over prompts around every effect, and the question whether it is more than
   chance: sign flips over prompts, Benjamini-Hochberg over all senders.

Source: Wang et al. 2022, arXiv 2211.00593 (path patching); Goldowsky-Dill et al. 2023, arXiv
2304.05969 (paths as hypotheses).

Units and sign: an effect is a fraction. Noising: (clean − patched) / (clean − corrupted), so 1 is
full destruction. Denoising: (patched − corrupted) / (clean − corrupted), so 1 is full recovery. It
is the ratio of the means over prompts. Where the baselines are too close to divide by, effects are
NaN and the changes (the numerators, in the metric's unit) are what is shown.

Limits: effects of different paths add up only where the model is linear. With shared key/value
heads a key or value belongs to all heads of its group, so that `a3.h1` as a receiver changes what
its neighbours read, too. Models that normalise what attention adds are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float, Int

from workbench.core import evidence, plots, results
from workbench.core.engine import cells, metrics, preflight, running
from workbench.core.engine import decoder as parts
from workbench.core.engine import graph as graphs
from workbench.core.evidence import SURE
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "path_patching.path_patch"
DIRECTIONS = ("noising", "denoising")
# False-discovery rate of "more than chance" where none is asked for.
_BATCH_SIZE = 64
# Senders that go through the model together between two reports of progress.
_SENDERS_AT_ONCE = 16
_SCRIPT_ARGUMENTS = (
    "senders",
    "receivers",
    "through",
    "metric",
    "direction",
    "positions",
    "confidence",
    "n_resamples",
    "seed",
)


DEFAULT_BOOTSTRAP = evidence.DEFAULT_BOOTSTRAP


@dataclasses.dataclass(frozen=True)
class PathPatchingResult(results.Result):
    """Effect of each sender on the metric along the chosen paths.

    Attributes:
        senders: Names of the senders, in the order in which they run.
        receivers: The readers at which the paths end.
        through: The components that paths may go through on the way.
        positions: Labels of the position sets at which the senders were patched; empty for all.
        metric: Scalar that was measured.
        direction: "noising" or "denoising".
        normalised: Whether the baselines were far enough apart to divide by.
        effects: Ratio of means, a fraction; NaN throughout where `normalised` is False.
        interval: Bootstrap interval of the effects over prompts; NaN with a single prompt.
        changes: Mean numerator, in the metric's unit.
        change_interval: Bootstrap interval of the changes.
        adjusted_p: Sign-flip p-value of each sender's change, Benjamini-Hochberg adjusted over all
            senders; 1 with a single prompt.
        per_prompt: Metric of each prompt in each patched run, in the metric's unit.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        confidence: Level of the intervals.
        pairs: What was run.
        preflight: What was checked before the run.
    """

    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    through: tuple[str, ...]
    positions: tuple[str, ...]
    metric: str
    direction: str
    normalised: bool
    effects: Float[np.ndarray, " sender"]
    interval: Float[np.ndarray, "bound sender"]
    changes: Float[np.ndarray, " sender"]
    change_interval: Float[np.ndarray, "bound sender"]
    adjusted_p: Float[np.ndarray, " sender"]
    per_prompt: Float[np.ndarray, "prompt sender"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    confidence: float
    pairs: ContrastPairs
    preflight: preflight.Preflight

    SHOWN: ClassVar[int] = 3

    @property
    def shown(self) -> Float[np.ndarray, " sender"]:
        """What figure, table and summary rank by: effects, or changes where not normalised."""
        return self.effects if self.normalised else self.changes

    @property
    def bounds(self) -> Float[np.ndarray, "bound sender"]:
        """Intervals of `shown`."""
        return self.interval if self.normalised else self.change_interval

    @property
    def unit(self) -> str:
        """Unit of `shown`, for axis titles."""
        if not self.normalised:
            name = self.metric.replace("_", " ")
            return f"change of the {name} ({metrics.unit(self.metric)}), not normalised"
        return "fraction recovered" if self.direction == "denoising" else "fraction destroyed"

    @property
    def path(self) -> str:
        """The paths in words, for example `directly to logits`; names the positions if chosen."""
        way = f"through {' and '.join(self.through)}" if self.through else "directly"
        joined = "directly or " if self.through else ""
        at = f", patched at {' and '.join(self.positions)} only" if self.positions else ""
        return f"{joined}{way} to {' and '.join(self.receivers)}{at}"

    @property
    def cells(self) -> dict[str, tuple[int, int]]:
        """Cell of each sender in the heat map: its layer, then its head or the column of MLPs.

        Empty where the input is a sender, which is drawn as a bar.
        """
        return {} if "input" in self.senders else {name: self._cell(name) for name in self.senders}

    def strongest(self, n: int = 5) -> tuple[str, ...]:
        """The n senders of largest absolute effect, strongest first."""
        order = np.argsort(-np.abs(self.shown), kind="stable")[:n]
        return tuple(self.senders[i] for i in order)

    def position_sets(self) -> list[cells.PositionSet] | None:
        """The position sets as `path_patch` takes them; None for all positions."""
        written = self.provenance.parameters["positions"]
        # JSON has no tuples.
        return written and [tuple(p) if isinstance(p, list) else p for p in written]

    def to_frame(self) -> pd.DataFrame:
        """One row a sender: effect and change with intervals, adjusted p-value and n."""
        return pd.DataFrame(
            {
                "sender": self.senders,
                "effect": self.effects,
                "effect_low": self.interval[0],
                "effect_high": self.interval[1],
                "change": self.changes,
                "change_low": self.change_interval[0],
                "change_high": self.change_interval[1],
                "adjusted_p": self.adjusted_p,
                "n": len(self.pairs),
            }
        )

    def figure(self, selected: str | None = None, *, discoveries: float | None = None) -> go.Figure:
        """Heat map of layers and heads with a column for MLPs; bars where the input is a sender.

        Args:
            selected: Sender to mark.
            discoveries: False-discovery rate at which a sender counts as more than chance; others
                are greyed out. None shows all of them.

        Returns:
            The figure; each cell's hover text carries its interval.
        """
        if "input" in self.senders:
            low, high = self.bounds
            return plots.bars(
                self.shown, low, high, labels=list(self.senders), value_title=self.unit
            )
        layers, columns = self._axes()
        values = np.full((len(layers), len(columns)), np.nan)
        hover = np.full(values.shape, "not a sender of this run", dtype=object)
        chance = np.zeros(values.shape, dtype=bool)
        for i, name in enumerate(self.senders):
            cell = self._cell(name)
            values[cell], hover[cell] = self.shown[i], self._hover(i)
            chance[cell] = discoveries is not None and bool(self.adjusted_p[i] > discoveries)
        return plots.heatmap(
            values,
            row_labels=layers,
            column_labels=columns,
            row_title="layer",
            column_title="component",
            colour_title=self.unit,
            hover=hover,
            mask=None if discoveries is None else chance,
            selected=None if selected is None else self._cell(selected),
        )

    def _axes(self) -> tuple[list[str], list[str]]:
        cells = [(_layer(name), _head(name)) for name in self.senders]
        heads = max((head for _, head in cells if head is not None), default=-1) + 1
        columns = [f"H{head}" for head in range(heads)]
        if any(head is None for _, head in cells):
            columns.append("MLP")
        return [f"L{layer}" for layer in range(max(layer for layer, _ in cells) + 1)], columns

    def _cell(self, name: str) -> tuple[int, int]:
        head = _head(name)
        return _layer(name), len(self._axes()[1]) - 1 if head is None else head

    def _hover(self, i: int) -> str:
        low, high = self.bounds[:, i]
        known = bool(np.isfinite(low) and np.isfinite(high))
        sure = f"{self.confidence:.0%} [{low:.3f}, {high:.3f}], " if known else ""
        return f"{sure}n = {len(self.pairs)}, adjusted p = {self.adjusted_p[i]:.2g}"

    def summary(self) -> str:
        """Which paths, the baselines, and the strongest senders with their intervals."""
        n = len(self.pairs)
        unit = metrics.unit(self.metric)
        lines = [
            f"{self.direction.title()} each of {len(self.senders)} components of "
            f"{self.provenance.model} on {self.pairs.name}, {self.path}: mean "
            f"{self.metric.replace('_', ' ')} {self.clean.mean():.3f} clean and "
            f"{self.corrupted.mean():.3f} corrupted ({unit}, n = {n})."
        ]
        if not self.normalised:
            lines.append("The baselines are too close to divide by, so raw changes are shown.")
        best = [self._told(name) for name in self.strongest(self.SHOWN)]
        if not any(self.shown):
            return " ".join([*lines, "No sender changes anything along these paths, to the bit."])
        lines.append(f"Strongest ({self.unit}): {'; '.join(best)}.")
        if n == 1:
            lines.append("No interval: one prompt says nothing about the spread over prompts.")
            return " ".join(lines)
        found = int((self.adjusted_p <= SURE).sum())
        lines.append(
            f"{self.confidence:.0%} bootstrap intervals over prompts. {found} of "
            f"{len(self.senders)} senders change more than chance (sign flips over prompts, "
            f"false-discovery rate {SURE:.0%})."
        )
        return " ".join(lines)

    def _told(self, name: str) -> str:
        i = self.senders.index(name)
        low, high = self.bounds[:, i]
        sure = f" [{low:.3f}, {high:.3f}]" if len(self.pairs) > 1 else ""
        return f"{name} {self.shown[i]:.3f}{sure}"

    def script(self) -> str:
        """Python code that computes this result again."""
        made = {**self.provenance.parameters, "positions": self.position_sets()}
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in _SCRIPT_ARGUMENTS)
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import path_patching\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"result = path_patching.path_patch(\n    model,\n    pairs,\n{arguments})\n"
            "print(result.summary())\n"
        )


@dataclasses.dataclass(frozen=True)
class _Paths:
    """Which paths are patched, with all names resolved.

    Attributes:
        graph: The model's graph.
        senders: What is patched, one at a time.
        receivers: Readers at which the paths end.
        through_readers: Readers of the components that paths may go through.
        through: These components.
        columns: Where the senders are patched; None for everywhere.
    """

    graph: graphs.Graph
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    through_readers: tuple[str, ...]
    through: tuple[str, ...]
    columns: tuple[cells.Column, ...] | None

    def mask(self, sender: str) -> torch.Tensor:
        """The edges of all paths from one sender."""
        index = self.graph.sender_index
        on = np.zeros(self.graph.allowed.shape, dtype=bool)
        senders = [index[name] for name in {sender, *self.through}]
        ends = [
            self.graph.receiver_index[name] for name in (*self.through_readers, *self.receivers)
        ]
        on[np.ix_(senders, ends)] = True
        return torch.from_numpy(on & self.graph.allowed)


def path_patch(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] = ("logits",),
    through: Sequence[str] = (),
    metric: str = "logit_difference",
    direction: str = "noising",
    positions: Sequence[cells.PositionSet] | None = None,
    confidence: float = DEFAULT_BOOTSTRAP["confidence"],
    n_resamples: int = DEFAULT_BOOTSTRAP["n_resamples"],
    seed: int = DEFAULT_BOOTSTRAP["seed"],
    batch_size: int = _BATCH_SIZE,
    checks: preflight.Preflight | None = None,
    progress: running.Progress | None = None,
) -> PathPatchingResult:
    """Patch the paths from each sender to the receivers, one sender at a time.

    Args:
        model: Any bridge that `decoder` can take apart; it is not changed.
        pairs: Clean and corrupted prompts with answers, not aligned ones.
        senders: Names such as "a0.h1", "m2", "input"; None for every head and MLP.
        receivers: "logits", "m2", "a3.h1<q>", or "a3.h1" for its query, key and value; with shared
            key/value heads also "a3.g0<k>" and "a3.g0".
        through: Components, named like receivers, that paths may go through on the way: "a2.h0" by
            all that it reads, "a2.h0<v>" by its value only.
        metric: "logit_difference", "probability", "kl_divergence", "cross_entropy" or "rank".
        direction: "noising" or "denoising".
        positions: Position sets at which a sender is patched, all at once: names such as "last
            token", indices (negative ones from the end), or tuples of indices; None for all.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        batch_size: Most prompts in one forward pass.
        checks: Outcome of `check` for the same arguments, if it was made already.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The effects with their intervals.

    Raises:
        ValueError: If an argument is unknown, the pairs are aligned, the model cannot be taken
            apart, or its logits are not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    _require_arguments(pairs, metric, direction, confidence)
    columns = _columns(pairs, positions)
    paths = _resolve(graphs.Graph.of_model(model), senders, receivers, through, columns)
    checks = checks or check(
        model, pairs, metric=metric, progress=lambda done, note: report(0.1 * done, note)
    )
    per_prompt, clean, corrupted = _sweep(
        model,
        pairs,
        paths,
        metric=metric,
        noising=direction == "noising",
        batch_size=batch_size,
        progress=lambda done, note: report(0.1 + 0.85 * done, note),
    )
    report(0.95, "bootstrap intervals")
    moved = evidence.changes(per_prompt, clean, corrupted, direction)
    normalised = not preflight.too_close(clean, corrupted)
    bootstrap = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    effects, interval = evidence.effects(moved, clean - corrupted, normalised, bootstrap)
    return PathPatchingResult(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=parameters(
                pairs,
                senders=senders,
                receivers=receivers,
                through=through,
                metric=metric,
                direction=direction,
                positions=positions,
                bootstrap=bootstrap,
            ),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        senders=paths.senders,
        receivers=tuple(receivers),
        through=tuple(through),
        positions=tuple(column.label for column in columns or ()),
        metric=metric,
        direction=direction,
        normalised=normalised,
        effects=effects,
        interval=interval,
        changes=moved.mean(0),
        change_interval=evidence.mean_interval(moved, **bootstrap),
        adjusted_p=evidence.adjusted_for_discoveries(evidence.sign_flip_p_values(moved, seed=seed)),
        per_prompt=per_prompt,
        clean=clean,
        corrupted=corrupted,
        confidence=confidence,
        pairs=pairs,
        preflight=checks,
    )


def parameters(
    pairs: ContrastPairs,
    *,
    senders: Sequence[str] | None = None,
    receivers: Sequence[str] = ("logits",),
    through: Sequence[str] = (),
    metric: str = "logit_difference",
    direction: str = "noising",
    positions: Sequence[cells.PositionSet] | None = None,
    bootstrap: evidence.Bootstrap | None = None,
) -> dict[str, Any]:
    """Everything that determines a result apart from the model, to find a stored run by.

    Args:
        pairs: What is run.
        senders: As for `path_patch`.
        receivers: As for `path_patch`.
        through: As for `path_patch`.
        metric: As for `path_patch`.
        direction: As for `path_patch`.
        positions: As for `path_patch`.
        bootstrap: How the intervals are made; None for the defaults of `path_patch`.

    Returns:
        JSON types only.
    """
    sets = list(positions or ())
    return {
        "senders": None if senders is None else list(senders),
        "receivers": list(receivers),
        "through": list(through),
        "metric": metric,
        "direction": direction,
        "positions": [list(p) if isinstance(p, tuple) else p for p in sets] or None,
        **(bootstrap or DEFAULT_BOOTSTRAP),
        "pairs": pairs.digest(),
        # Sets of one name may stand elsewhere in equal pairs.
        "spans": [
            hashlib.sha256(repr((span.name, span.clean, span.corrupted)).encode()).hexdigest()[:16]
            for span in pairs.spans
            if span.name in sets
        ],
    }


def check(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    metric: str = "logit_difference",
    progress: running.Progress = running.no_progress,
) -> preflight.Preflight:
    """Make every check of a patching run that holds for path patching, too.

    Args:
        model: The bridge.
        pairs: What it will be run on.
        metric: Scalar that will be measured.
        progress: Told what is being checked.

    Returns:
        The outcome, without an estimate of time and memory: that of whole forward passes is not
        that of paths.
    """
    found = preflight.check(
        model, pairs, site="z", metric=metric, positions="all", progress=progress
    )
    kept = tuple(one for one in found.checks if one.name != "time and memory")
    return dataclasses.replace(found, checks=kept)


def _sweep(
    model: TransformerBridge,
    pairs: ContrastPairs,
    paths: _Paths,
    *,
    metric: str,
    noising: bool,
    batch_size: int,
    progress: running.Progress,
) -> tuple[
    Float[np.ndarray, "prompt sender"], Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]
]:
    """Metric of every prompt in every patched run, in the clean and in the corrupted run."""
    batches = pairs.batches(batch_size)
    per_prompt = np.empty((len(pairs), len(paths.senders)))
    clean, corrupted = np.empty(len(pairs)), np.empty(len(pairs))
    for i, indices in enumerate(batches):
        batch = _Batch(model, pairs, indices, metric=metric, noising=noising)
        clean[indices], corrupted[indices] = batch.clean, batch.corrupted
        for start in range(0, len(paths.senders), _SENDERS_AT_ONCE):
            share = start / len(paths.senders)
            progress((i + share) / len(batches), f"sender {start + 1} of {len(paths.senders)}")
            some = paths.senders[start : start + _SENDERS_AT_ONCE]
            ends = batch.patched(paths, some)
            for j, end in enumerate(ends, start):
                per_prompt[indices, j] = batch.measure(end)
    return per_prompt, clean, corrupted


class _Batch:
    """Pairs of one length, run clean and corrupted."""

    def __init__(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        indices: Int[np.ndarray, " batch"],
        *,
        metric: str,
        noising: bool,
    ) -> None:
        tokens = pairs.batch(indices)
        self._indices, self._ends = indices, (0, 1) if noising else (1, 0)
        self._model, self._metric = model, metric
        self._decoder = parts.taken_apart(model, tokens[0][:2])
        clean, corrupted = (graphs.trace(self._decoder, side) for side in tokens)
        self._base, self._source = (clean, corrupted) if noising else (corrupted, clean)
        logits = self._logits(clean.resid[-1][:, -1])
        preflight.require_finite(model, logits)
        self._targets = metrics.targets(pairs, indices, logits)
        self.clean = self.measure(clean.resid[-1][:, -1])
        self.corrupted = self.measure(corrupted.resid[-1][:, -1])

    def measure(self, end: torch.Tensor) -> Float[np.ndarray, " batch"]:
        """The metric of each prompt, given the stream that the logits read."""
        logits = self._logits(end)
        preflight.require_finite(self._model, logits)
        return metrics.values(metrics.find(self._metric), logits, self._targets)

    def _logits(self, end: torch.Tensor) -> torch.Tensor:
        with running.lock_of(self._model), torch.no_grad():
            return self._decoder.logits(end).float()

    def patched(
        self, paths: _Paths, senders: Sequence[str]
    ) -> Float[torch.Tensor, "run batch d_model"]:
        """The stream that the logits read at the last position, for each sender."""
        given = [graphs.Given(outputs={name: self._written(paths, name)}) for name in senders]
        masks = torch.stack([paths.mask(name) for name in senders])
        reads = self._run(paths, masks, given, paths.receivers)
        if paths.receivers != ("logits",):
            held = [
                graphs.Given(inputs={name: read[i] for name, read in reads.items()})
                for i in range(len(senders))
            ]
            everything = torch.ones_like(masks)
            reads = self._run(paths, everything, held, ("logits",))
        return reads["logits"][:, :, -1]

    def _run(
        self,
        paths: _Paths,
        masks: torch.Tensor,
        given: Sequence[graphs.Given],
        watch: Sequence[str],
    ) -> dict[str, torch.Tensor]:
        base = self._base
        return graphs.run_given(
            self._decoder, paths.graph, base, base.outputs, masks, given=given, watch=watch
        )

    def _written(self, paths: _Paths, sender: str) -> torch.Tensor:
        """What a sender wrote in the source run, at the patched positions."""
        index = paths.graph.sender_index[sender]
        source = self._source.outputs[index]
        if paths.columns is None:
            return source
        written = self._base.outputs[index].clone()
        for column in paths.columns:
            where = cells.spots(column, self._indices, self._ends)
            prompts, at, taken = (
                torch.as_tensor(x, device=source.device)
                for x in (where.prompts, where.at, where.taken)
            )
            written[prompts, at] = source[prompts, taken]
        return written


def _resolve(
    graph: graphs.Graph,
    senders: Sequence[str] | None,
    receivers: Sequence[str],
    through: Sequence[str],
    columns: tuple[cells.Column, ...] | None,
) -> _Paths:
    """Look up every name in the graph."""
    if not receivers:
        raise ValueError("there are no receivers: name at least one, for example logits")
    chosen = graph.senders[1:] if senders is None else tuple(senders)
    unknown = [name for name in chosen if name not in graph.sender_index]
    if unknown or not chosen:
        raise ValueError(
            f"the model has no sender {', '.join(unknown) or 'in an empty list'}; expected names "
            f"such as {', '.join(graph.senders[:2])} and {graph.senders[-1]}"
        )
    ends = _readers(graph, receivers)
    if "logits" in ends and len(ends) > 1:
        raise ValueError(
            "logits as one of several receivers would hide the others, which reach the answer "
            "through it: name them in through instead, or leave logits out"
        )
    middle = _readers(graph, through)
    if "logits" in middle:
        raise ValueError("logits are the end of every path, so no path goes through them")
    order = sorted(set(chosen), key=graph.sender_index.__getitem__)
    nodes = {node for name in through for node in _writers(graph, name)}
    return _Paths(graph, tuple(order), ends, middle, tuple(sorted(nodes)), columns)


def _readers(graph: graphs.Graph, names: Iterable[str]) -> tuple[str, ...]:
    """Readers by their names or those of their heads and groups."""

    def expanded(name: str) -> Iterator[str]:
        if name in graph.receiver_index:
            yield name
            return
        own = [reader for reader in graph.receivers if graphs.node_of(reader) == name]
        if not own:
            raise ValueError(
                f"the model has no receiver {name!r}; expected logits, an MLP such as m0, a head "
                f"such as a0.h0, or one of its readers such as {graph.receivers[0]}"
            )
        yield from own
        # A head's own query is all that it does not share with the heads of its group.
        if graph.kind_of(name) == "head" and graph.n_groups != graph.n_heads:
            group = (_head(name) or 0) * graph.n_groups // graph.n_heads
            yield from (f"a{_layer(name)}.g{group}<{read}>" for read in "kv")

    found = {reader for name in names for reader in expanded(name)}
    return tuple(sorted(found, key=graph.receiver_index.__getitem__))


def _writers(graph: graphs.Graph, name: str) -> tuple[str, ...]:
    """The senders that a component, or a reader of it, consists of."""
    node = graphs.node_of(name)
    return graph.heads_of(node) if graph.kind_of(node) == "group" else (node,)


def _layer(sender: str) -> int:
    return int(sender[1:].partition(".")[0])


def _head(sender: str) -> int | None:
    """Index of a head within its layer; None for an MLP."""
    return int(sender.partition(".h")[2]) if ".h" in sender else None


def _require_arguments(
    pairs: ContrastPairs, metric: str, direction: str, confidence: float
) -> None:
    preflight.require_metric(pairs, metric)
    if direction not in DIRECTIONS:
        known = ", ".join(DIRECTIONS)
        raise ValueError(f"direction = {direction!r}; expected one of {known}")
    evidence.require_confidence(confidence)
    if pairs.aligned:
        raise ValueError(
            "path patching sums streams position by position, so both prompts of a pair need the "
            "same number of tokens: these pairs are aligned ones"
        )


def _columns(
    pairs: ContrastPairs, positions: Sequence[cells.PositionSet] | None
) -> tuple[cells.Column, ...] | None:
    """Where in every prompt the position sets are; None for everywhere."""
    if positions is None:
        return None
    if isinstance(positions, str) or not len(positions):
        known = ", ".join(map(repr, pairs.position_names()))
        raise ValueError(
            f"positions = {positions!r}; expected a list of position sets: {known}, indices or "
            "tuples of indices; None is for all positions"
        )
    return cells.columns(pairs, tuple(positions))
