"""Attribution patching: the effect of patching every node, estimated from one gradient."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.attribution import estimates, verification
from analyses.attribution.verification import Verification
from workbench.core import evidence, plots, results
from workbench.core.engine import (
    interventions,
    metrics,
    patching,
    preflight,
    running,
    sites,
)
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "attribution.attribute_nodes"
_SHOWN = 3
# Cells whose bootstrap is made at once, so that a million neurons need no more memory than these.
_CELLS_AT_ONCE = 5_000
_PER_PART = 3


@dataclasses.dataclass(frozen=True)
class SiteScores:
    """Estimates for every cell of one site.

    Attributes:
        site: Component kind.
        axes: What the cells are indexed by, in order.
        effects: Ratio of means over prompts, a fraction; NaN where not normalised.
        changes: Mean numerator over prompts, in the metric's unit.
        interval: Bootstrap interval over prompts of the effects, or of the changes where not
            normalised; NaN with a single prompt.
        per_prompt: Numerator of each prompt, in the metric's unit.
    """

    site: str
    axes: tuple[str, ...]
    effects: Float[np.ndarray, "*cell"]
    changes: Float[np.ndarray, "*cell"]
    interval: Float[np.ndarray, "bound *cell"]
    per_prompt: Float[np.ndarray, "prompt *cell"]

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        for array in (self.effects, self.changes, self.interval, self.per_prompt):
            array.setflags(write=False)

    @property
    def part(self) -> str | None:
        """What of a position is attributed by itself: head, group, neuron, or nothing."""
        return self.axes[2] if len(self.axes) == _PER_PART else None


@dataclasses.dataclass(frozen=True)
class NodeAttribution(results.Result):
    """Estimated effect of patching each node, in the unit and sign of activation patching.

    Attributes:
        sites: The estimates, one entry a site.
        metric: Scalar that was differentiated.
        direction: "denoising" or "noising".
        normalised: Whether the baselines were far enough apart to divide by.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        confidence: Level of the intervals.
        verifications: The largest estimates measured exactly: none or one.
        notes: What a reader must know about how these numbers were made.
        pairs: What was run.
    """

    sites: tuple[SiteScores, ...]
    metric: str
    direction: str
    normalised: bool
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
        """Unit of what is shown, for axis titles."""
        if not self.normalised:
            name = self.metric.replace("_", " ")
            return f"estimated change of the {name} ({metrics.unit(self.metric)}), not normalised"
        done = "recovered" if self.direction == "denoising" else "destroyed"
        return f"estimated fraction {done}"

    def scores(self, site: str) -> SiteScores:
        """Estimates of one site.

        Args:
            site: Component kind.

        Returns:
            Its estimates.

        Raises:
            ValueError: If the result does not have it.
        """
        for scores in self.sites:
            if scores.site == site:
                return scores
        known = ", ".join(scores.site for scores in self.sites)
        raise ValueError(f"site {site!r} was not attributed; this result has {known}")

    def shown(self, site: str) -> Float[np.ndarray, "*cell"]:
        """What figure, table and ranking show: effects, or changes where not normalised."""
        scores = self.scores(site)
        return scores.effects if self.normalised else scores.changes

    def label(self, site: str, cell: tuple[int, ...]) -> str:
        """A node in the field's notation, for example `z L2H5 at position 9 ("to")`."""
        token = self.pairs.position_labels()[cell[1]].strip()
        part = self.scores(site).part
        inside = f"{part[0].upper()}{cell[2]}" if part else ""
        return f'{site} L{cell[0]}{inside} at position {cell[1]} ("{token}")'

    def strongest(self, n: int) -> list[tuple[str, tuple[int, ...]]]:
        """Site and cell of the n largest absolute estimates over all sites, largest first."""
        found: list[tuple[float, str, tuple[int, ...]]] = []
        for scores in self.sites:
            shown = self.shown(scores.site)
            for flat in np.argsort(-np.abs(shown), axis=None, kind="stable")[:n]:
                cell = tuple(int(i) for i in np.unravel_index(flat, shown.shape))
                found.append((abs(float(shown[cell])), scores.site, cell))
        found.sort(key=lambda entry: -entry[0])
        return [(site, cell) for _, site, cell in found[:n]]

    def ranking(self, n: int | None = None) -> pd.DataFrame:
        """All nodes of all sites, largest absolute estimate first.

        Args:
            n: How many; None for all.

        Returns:
            The rows of `to_frame` with the name of each node.
        """
        frame = self.to_frame()
        value = frame["effect" if self.normalised else "change"]
        order = np.argsort(-np.abs(value.to_numpy()), kind="stable")[:n]
        top = frame.iloc[order].reset_index(drop=True)
        cells = zip(top["site"], top["layer"], top["position"], top["index"], strict=True)
        names = [
            self.label(site, (layer, position, *([] if index < 0 else [index])))
            for site, layer, position, index in cells
        ]
        top.insert(0, "name", names)
        return top

    def to_frame(self) -> pd.DataFrame:
        """One row a node: its place, token, effect and change with interval, and n.

        `index` is which head, group or neuron, and −1 where a position is patched as a whole.
        """
        tokens = np.array(self.pairs.position_labels(), dtype=object)
        frames: list[pd.DataFrame] = []
        for scores in self.sites:
            places = [axis.ravel() for axis in np.indices(scores.changes.shape)]
            whole = np.full(scores.changes.size, -1)
            columns: dict[str, Any] = {
                "site": scores.site,
                "layer": places[0],
                "position": places[1],
                "token": tokens[places[1]],
                "part": scores.part or "",
                "index": places[2] if scores.part else whole,
                "effect": scores.effects.ravel(),
                "change": scores.changes.ravel(),
                "low": scores.interval[0].ravel(),
                "high": scores.interval[1].ravel(),
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True).assign(n=len(self.pairs))

    def figure(self, site: str | None = None) -> go.Figure:
        """Heat map of one site, zero-centred; of neurons the strongest one of each place.

        Args:
            site: Component kind; None for the first.

        Returns:
            The figure; each cell's hover text carries its interval.
        """
        scores = self.scores(site or self.sites[0].site)
        shown = self.shown(scores.site)
        rows = [f"L{layer}" for layer in range(len(shown))]
        grids = (shown, *scores.interval)
        names = np.full(shown.shape[:2], "", dtype=object)
        if scores.part == "neuron":
            best = np.abs(shown).argmax(-1)
            grids = tuple(np.take_along_axis(x, best[..., None], -1)[..., 0] for x in grids)
            names = np.char.add(np.char.add("neuron ", best.astype(str)), ", ")
        elif scores.part:
            parts = [f"{scores.part[0].upper()}{i}" for i in range(shown.shape[2])]
            rows = [row + part for row in rows for part in parts]
            grids = tuple(np.moveaxis(x, 2, 1).reshape(len(rows), -1) for x in grids)
            names = np.full(grids[0].shape, "", dtype=object)
        values, low, high = grids
        hover = np.empty(values.shape, dtype=object)
        for cell in np.ndindex(values.shape):
            hover[cell] = f"{names[cell]}{self._hover(float(low[cell]), float(high[cell]))}"
        return plots.heatmap(
            values,
            row_labels=rows,
            column_labels=plots.token_labels(self.pairs.position_labels()),
            row_title="layer" if scores.part in (None, "neuron") else scores.part,
            column_title="position",
            colour_title=self.unit,
            hover=hover,
        )

    def _hover(self, low: float, high: float) -> str:
        known = np.isfinite(low) and np.isfinite(high)
        sure = f"{self.confidence:.0%} [{low:.3f}, {high:.3f}], " if known else ""
        return f"{sure}n = {len(self.pairs)}"

    def summary(self) -> str:
        """What was estimated, the baselines, the strongest nodes, and how far to believe them."""
        n, metric = len(self.pairs), self.metric.replace("_", " ")
        kinds = ", ".join(scores.site for scores in self.sites)
        lines = [
            f"Attribution patching ({self.direction}) of {kinds} in {self.provenance.model} on "
            f"{self.pairs.name}: mean {metric} {self.clean.mean():.3f} clean and "
            f"{self.corrupted.mean():.3f} corrupted ({metrics.unit(self.metric)}, n = {n})."
        ]
        if not self.normalised:
            lines.append("The baselines are too close to divide by, so raw changes are shown.")
        best = [self._described(site, cell) for site, cell in self.strongest(_SHOWN)]
        how_sure = f"{self.confidence:.0%} bootstrap intervals over prompts"
        if n == 1:
            how_sure = "no interval: one prompt says nothing about the spread over prompts"
        lines.append(f"Largest ({self.unit}): {'; '.join(best)}. {how_sure.capitalize()}.")
        if self.verified is None:
            lines.append("These are first-order estimates, none of them verified exactly.")
        else:
            lines.append(self.verified.summary())
        return " ".join([*lines, *self.notes])

    def _described(self, site: str, cell: tuple[int, ...]) -> str:
        text = f"{self.label(site, cell)} {self.shown(site)[cell]:.3f}"
        if len(self.pairs) == 1:
            return text
        low, high = self.scores(site).interval
        return f"{text} [{low[cell]:.3f}, {high[cell]:.3f}]"

    def script(self) -> str:
        """Python code that computes this result again."""
        made = self.provenance.parameters
        arguments = "".join(f"    {name}={made[name]!r},\n" for name in _SCRIPT_ARGUMENTS)
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import attribution\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"result = attribution.attribute_nodes(\n    model,\n    pairs,\n{arguments})\n"
            "print(result.summary())\n"
        )


_SCRIPT_ARGUMENTS = (
    "sites",
    "metric",
    "direction",
    "softmax_correction",
    "verify_top",
    "confidence",
    "n_resamples",
    "seed",
)


def attribute_nodes(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    sites: Sequence[str] = estimates.DEFAULT_SITES,
    metric: str | metrics.Function = "logit_difference",
    direction: str = "denoising",
    softmax_correction: bool = True,
    verify_top: int = 0,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
    batch_size: int = 256,
    progress: running.Progress | None = None,
) -> NodeAttribution:
    """Estimate the effect of patching every cell of several sites, from one gradient.

    Args:
        model: Any bridge; it is not changed, and may be in use by other threads.
        pairs: Clean and corrupted prompts of one length or alignment, with answers.
        sites: Component kinds out of `estimates.SITES`.
        metric: "logit_difference", "probability", "kl_divergence" or "cross_entropy", or a
            differentiable function of (logits, targets); a rank has no gradient.
        direction: "denoising" or "noising".
        softmax_correction: Put patched queries and keys through the softmax exactly.
        verify_top: How many of the largest estimates are measured again exactly.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        batch_size: Most prompts in one pass.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The estimates with their intervals.

    Raises:
        ValueError: If an argument is unknown, positions do not line up, the metric has no gradient
            in the run that is patched, or the model's logits are not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    _require_arguments(sites, direction, confidence, verify_top)
    bootstrap: dict[str, Any] = {
        "confidence": confidence,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    found = estimates.estimate(
        model,
        pairs,
        kinds=sites,
        metric=metric,
        direction=direction,
        softmax_correction=softmax_correction,
        batch_size=batch_size,
        progress=running.part(report, 0.0, 0.4),
    )
    gaps = found.clean - found.corrupted
    normalised = not preflight.too_close(found.clean, found.corrupted)
    report(0.4, "bootstrap intervals")
    scores = tuple(
        _scored(model, kind, found.numerators[kind], gaps if normalised else None, bootstrap)
        for kind in sites
    )
    measure = metrics.find(metric)
    made = {
        "sites": list(sites),
        "metric": measure.name,
        "direction": direction,
        "softmax_correction": softmax_correction,
        "verify_top": verify_top,
        "pairs": pairs.digest(),
        **bootstrap,
    }
    result = NodeAttribution(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=made,
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        sites=scores,
        metric=measure.name,
        direction=direction,
        normalised=normalised,
        clean=found.clean,
        corrupted=found.corrupted,
        confidence=confidence,
        verifications=(),
        notes=found.notes,
        pairs=pairs,
    )
    if verify_top == 0:
        return result
    report(0.6, "measuring the largest estimates exactly")
    checked = _verified(model, result, metric, verify_top, batch_size)
    wall_time = time.perf_counter() - started
    return dataclasses.replace(
        result,
        provenance=dataclasses.replace(result.provenance, wall_time=wall_time),
        verifications=(checked,),
        notes=(*found.notes, *verification.notes(checked)),
    )


def _scored(
    model: TransformerBridge,
    kind: str,
    numerators: Float[np.ndarray, "prompt *cell"],
    gaps: Float[np.ndarray, " prompt"] | None,
    bootstrap: dict[str, Any],
) -> SiteScores:
    """Means with their intervals; without gaps to divide by, in the metric's unit."""
    changes = numerators.mean(0)
    effects = np.full(changes.shape, np.nan) if gaps is None else changes / gaps.mean()
    interval = _interval(numerators, gaps, bootstrap)
    axes = sites.resolve(model, kind)[0].axes
    return SiteScores(kind, axes, effects, changes, interval, numerators)


def _interval(
    numerators: Float[np.ndarray, "prompt *cell"],
    gaps: Float[np.ndarray, " prompt"] | None,
    bootstrap: dict[str, Any],
) -> Float[np.ndarray, "bound *cell"]:
    flat = numerators.reshape(len(numerators), -1)
    below = np.ones(len(flat)) if gaps is None else gaps
    blocks = [
        evidence.ratio_interval(flat[:, start : start + _CELLS_AT_ONCE], below, **bootstrap)
        for start in range(0, flat.shape[1], _CELLS_AT_ONCE)
    ]
    return np.concatenate(blocks, axis=1).reshape(2, *numerators.shape[1:])


def _verified(
    model: TransformerBridge,
    result: NodeAttribution,
    metric: str | metrics.Function,
    k: int,
    batch_size: int,
) -> Verification:
    """The k largest estimates beside the exact effects of patching these nodes."""
    top = result.strongest(k)
    denoising = result.direction == "denoising"
    columns = np.empty((len(result.pairs), len(top)))
    for kind in dict.fromkeys(kind for kind, _ in top):
        places = [i for i, (site, _) in enumerate(top) if site == kind]
        swept = patching.sweep(
            model,
            result.pairs,
            site=kind,
            metric=metric,
            intervention=interventions.Intervention(denoising),
            only=[top[i][1] for i in places],
            batch_size=batch_size,
        )
        moved = evidence.changes(swept.patched, swept.clean, swept.corrupted, result.direction)
        for i in places:
            columns[:, i] = moved[(slice(None), *top[i][1])]
    gaps = result.clean - result.corrupted if result.normalised else None
    made = result.provenance.parameters
    bootstrap = {name: made[name] for name in ("confidence", "n_resamples", "seed")}
    return verification.compare(
        [result.label(kind, cell) for kind, cell in top],
        np.array([result.shown(kind)[cell] for kind, cell in top]),
        columns.mean(0) / (1.0 if gaps is None else gaps.mean()),
        _interval(columns, gaps, bootstrap),
    )


def _require_arguments(
    kinds: Sequence[str], direction: str, confidence: float, verify_top: int
) -> None:
    if not kinds or any(kind not in estimates.SITES for kind in kinds):
        raise ValueError(f"sites = {tuple(kinds)!r}; expected some of {', '.join(estimates.SITES)}")
    if len(set(kinds)) != len(kinds):
        raise ValueError(f"sites = {tuple(kinds)!r}; expected each site once")
    if direction not in estimates.DIRECTIONS:
        raise ValueError(
            f"direction = {direction!r}; expected one of {', '.join(estimates.DIRECTIONS)}"
        )
    evidence.require_confidence(confidence)
    if verify_top < 0:
        raise ValueError(f"verify_top = {verify_top}; expected 0 or how many to measure exactly")
