"""Both directions and every ablation of the same cells in one table, and where they disagree."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from analyses.activation_patching import measuring
from analyses.activation_patching.result import PatchingResult, read_positions
from workbench.core import evidence, plots, results
from workbench.core.engine import cells, running
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ANALYSIS = "activation_patching.compare"
# A smaller disagreement than this fraction is of no use to a reader, however sure it is.
SIZEABLE = 0.1
INTERVENTIONS: dict[str, dict[str, Any]] = {
    "denoising": {"direction": "denoising", "ablation": None},
    "noising": {"direction": "noising", "ablation": None},
    "zero": {"direction": "noising", "ablation": "zero"},
    "mean": {"direction": "noising", "ablation": "mean"},
    "resample": {"direction": "noising", "ablation": "resample"},
}
_REASONS = {
    ("denoising", 1): "suffices but is not needed: redundancy or a backup elsewhere",
    ("denoising", -1): "is needed but does not suffice: it works together with others",
    ("zero", 1): "a zero destroys more than the corrupted value: it may destroy by surprise",
    ("zero", -1): "a zero destroys less than the corrupted value, which pushes the other way",
    ("mean", 1): "the mean destroys more than the corrupted value",
    ("mean", -1): "the mean destroys less than the corrupted value, which pushes the other way",
    ("resample", 1): "another prompt's value destroys more than its own corrupted one",
    ("resample", -1): "another prompt's value destroys less than its own corrupted one",
}
_ABLATIONS = {"zero", "mean", "resample"}
_LESS = "every ablation destroys less than the corrupted value, which pushes the other way"


@dataclasses.dataclass(frozen=True)
class Comparison(results.Result):
    """Effects of the strongest cells under every intervention, with disagreements flagged.

    Attributes:
        site: Component kind.
        metric: Scalar that was measured.
        normalised: Whether effects are fractions; otherwise changes in the metric's unit.
        interventions: Which were made, in order.
        left_out: Those that could not be made, with the reason.
        cells: The cells, in the field's notation.
        effects: Fraction recovered (denoising) or destroyed (all others).
        interval: Their bootstrap intervals over prompts.
        differences: Effect of each intervention minus that of noising.
        difference_interval: Bootstrap intervals of these, paired over prompts.
        reasons: For each cell what the disagreement usually means; empty where they agree.
        confidence: Level of the intervals.
        pairs: What was run.
    """

    site: str
    metric: str
    normalised: bool
    interventions: tuple[str, ...]
    left_out: tuple[str, ...]
    cells: tuple[str, ...]
    effects: Float[np.ndarray, "cell intervention"]
    interval: Float[np.ndarray, "bound cell intervention"]
    differences: Float[np.ndarray, "cell intervention"]
    difference_interval: Float[np.ndarray, "bound cell intervention"]
    reasons: tuple[str, ...]
    confidence: float
    pairs: ContrastPairs

    @property
    def flagged(self) -> tuple[str, ...]:
        """Cells whose interventions disagree by more than chance and by a sizeable amount."""
        return tuple(c for c, reason in zip(self.cells, self.reasons, strict=True) if reason)

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: effect under each intervention with its interval, and what disagrees."""
        frame = pd.DataFrame({"cell": self.cells})
        for i, name in enumerate(self.interventions):
            frame[name] = self.effects[:, i]
            frame[f"{name}_low"], frame[f"{name}_high"] = self.interval[:, :, i]
        frame["disagreement"] = self.reasons
        frame["n"] = len(self.pairs)
        return frame

    def figure(self) -> go.Figure:
        """Heat map of cells against interventions; a flag marks cells that disagree."""
        hover = np.empty(self.effects.shape, dtype=object)
        for cell in np.ndindex(self.effects.shape):
            low, high = self.interval[0][cell], self.interval[1][cell]
            hover[cell] = (
                f"{self.confidence:.0%} [{low:.3f}, {high:.3f}], n = {len(self.pairs)} "
                f"{self.reasons[cell[0]]}"
            )
        rows = [
            f"{cell} ⚑" if reason else cell
            for cell, reason in zip(self.cells, self.reasons, strict=True)
        ]
        return plots.heatmap(
            # The strongest cell stands at the top.
            self.effects[::-1],
            row_labels=rows[::-1],
            column_labels=list(self.interventions),
            row_title="cell",
            column_title="intervention",
            colour_title="fraction" if self.normalised else "change, not normalised",
            hover=hover[::-1],
        )

    def summary(self) -> str:
        """How many cells disagree, and which, with their numbers."""
        head = (
            f"{len(self.cells)} cells of {self.site} on {self.pairs.name} under "
            f"{', '.join(self.interventions)} (n = {len(self.pairs)}): "
        )
        if not self.flagged:
            body = "no two interventions disagree by more than chance and by a tenth."
        else:
            said = [
                f"{cell} ({self._numbers(i)}) {reason}"
                for i, (cell, reason) in enumerate(zip(self.cells, self.reasons, strict=True))
                if reason
            ]
            body = f"{len(said)} disagree. {'; '.join(said[:3])}."
        return " ".join([head + body, *self.left_out])

    def _numbers(self, row: int) -> str:
        values = zip(self.interventions, self.effects[row], strict=True)
        return ", ".join(f"{name} {value:.2f}" for name, value in values)


def compare(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    site: str = "z",
    metric: str = "logit_difference",
    positions: cells.Positions = "all",
    reference: Sequence[str] = (),
    top: int = 12,
    confidence: float = evidence.DEFAULT_BOOTSTRAP["confidence"],
    n_resamples: int = evidence.DEFAULT_BOOTSTRAP["n_resamples"],
    seed: int = evidence.DEFAULT_BOOTSTRAP["seed"],
    progress: running.Progress | None = None,
) -> Comparison:
    """Patch the same cells in both directions and with every ablation.

    Args:
        model: Any bridge.
        pairs: Clean and corrupted prompts with answers.
        site: Component kind; neurons and latents are not compared.
        metric: Scalar to measure.
        positions: Where; see `patch`.
        reference: Texts of the mean ablation.
        top: Cells in the table: those that are strongest under any intervention.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of bootstrap and resample ablation.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        The table.

    Raises:
        ValueError: As for `patch`, or if the site is "neuron" or "latent".
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    if site in ("neuron", "latent"):
        raise ValueError(
            "each intervention would choose other units; compare resid_pre, attn_out, mlp_out, z, "
            "q, k, v or pattern"
        )
    bootstrap = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    found: dict[str, PatchingResult] = {}
    left_out: list[str] = []
    for i, (name, how) in enumerate(INTERVENTIONS.items()):
        share = running.part(report, i / len(INTERVENTIONS), (i + 1) / len(INTERVENTIONS))
        checks = next(iter(found.values())).preflight if found else None
        texts = tuple(reference) if name == "mean" else ()
        try:
            found[name] = measuring.patch(
                model,
                pairs,
                site=site,
                metric=metric,
                positions=positions,
                reference=texts,
                checks=checks,
                progress=share,
                **how,
                **bootstrap,
            )
        except ValueError as error:
            if name not in ("mean", "resample"):
                raise
            # Other prompts of that length may be missing; the rest of the table stands.
            left_out.append(f"Without {name}: {error}.")
    first = found["denoising"]
    chosen = _strongest(found, top)
    effects, interval = (
        np.stack([values[..., *zip(*chosen, strict=True)] for values in table], axis=-1)
        for table in (
            [result.shown for result in found.values()],
            [r.interval if r.normalised else r.change_interval for r in found.values()],
        )
    )
    differences, difference_interval = _differences(found, chosen, bootstrap)
    names = tuple(found)
    return Comparison(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters={
                "site": site,
                "metric": metric,
                "positions": measuring.write_positions(positions),
                "reference": list(reference),
                "top": top,
                "pairs": pairs.digest(),
                **bootstrap,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
            notes=first.provenance.notes,
        ),
        site=site,
        metric=metric,
        normalised=first.normalised,
        interventions=names,
        left_out=tuple(left_out),
        cells=tuple(first.label(cell) for cell in chosen),
        effects=effects,
        interval=interval,
        differences=differences,
        difference_interval=difference_interval,
        reasons=tuple(
            _reason(names, differences[row], difference_interval[:, row], first.normalised)
            for row in range(len(chosen))
        ),
        confidence=confidence,
        pairs=pairs,
    )


def parameters_like(result: PatchingResult) -> dict[str, Any]:
    """What a comparison of the interventions at a result's site and positions is made with."""
    made = result.provenance.parameters
    same = (
        "site",
        "metric",
        "positions",
        "reference",
        "pairs",
        "confidence",
        "n_resamples",
        "seed",
    )
    return {name: made[name] for name in same}


def compare_like(
    model: TransformerBridge,
    result: PatchingResult,
    *,
    progress: running.Progress | None = None,
) -> Comparison:
    """Compare the interventions at a result's site and positions.

    Args:
        model: The bridge that the result is of.
        result: Says site, positions, metric and pairs.
        progress: Called with the fraction done and a note; may raise to cancel.

    Returns:
        The table.

    Raises:
        ValueError: As for `compare`.
    """
    arguments = parameters_like(result)
    del arguments["pairs"]
    arguments["positions"] = read_positions(arguments["positions"])
    return compare(model, result.pairs, **arguments, progress=progress)


def _strongest(found: dict[str, PatchingResult], top: int) -> list[tuple[int, ...]]:
    """The cells of largest effect under any intervention, strongest first."""
    sizes = np.max([np.abs(result.shown) for result in found.values()], axis=0)
    order = np.argsort(-sizes, axis=None, kind="stable")[:top]
    return [tuple(map(int, np.unravel_index(flat, sizes.shape))) for flat in order]


def _numerators(result: PatchingResult) -> Float[np.ndarray, "prompt *cell"]:
    return evidence.changes(result.per_prompt, result.clean, result.corrupted, result.direction)


def _differences(
    found: dict[str, PatchingResult],
    chosen: list[tuple[int, ...]],
    bootstrap: evidence.Bootstrap,
) -> tuple[Float[np.ndarray, "cell intervention"], Float[np.ndarray, "bound cell intervention"]]:
    """How much each intervention's effect exceeds that of noising, prompt by prompt."""
    noising = found["noising"]
    at = tuple(zip(*chosen, strict=True))
    gaps = noising.clean - noising.corrupted
    means: list[np.ndarray] = []
    intervals: list[np.ndarray] = []
    for result in found.values():
        apart = (_numerators(result) - _numerators(noising))[:, *at]
        scale = gaps.mean() if noising.normalised else 1.0
        means.append(apart.mean(0) / scale)
        if noising.normalised:
            intervals.append(evidence.ratio_interval(apart, gaps, **bootstrap))
        else:
            intervals.append(evidence.mean_interval(apart, **bootstrap))
    return np.stack(means, axis=-1), np.stack(intervals, axis=-1)


def _reason(
    names: Sequence[str],
    differences: Float[np.ndarray, " intervention"],
    interval: Float[np.ndarray, "bound intervention"],
    normalised: bool,
) -> str:
    """What the surest sizeable disagreement with noising usually means; empty without one."""
    said: dict[str, str] = {}
    for i, name in enumerate(names):
        sure = interval[0, i] > 0 or interval[1, i] < 0
        if name == "noising" or not sure:
            continue
        if not normalised or abs(differences[i]) >= SIZEABLE:
            said[name] = _REASONS[name, 1 if differences[i] > 0 else -1]
    less = {name for name in _ABLATIONS if said.get(name) == _REASONS[name, -1]}
    if less == _ABLATIONS:
        # The three say one thing together.
        said = {name: reason for name, reason in said.items() if name not in less}
        said["all"] = _LESS
    return "; ".join(said.values())
