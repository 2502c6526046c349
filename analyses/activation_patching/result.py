"""Which component, at which position, carries the behaviour?

1. Run the clean and the corrupted prompts; keep the activations at the site in every layer.
2. Denoising: run the corrupted prompt again with one activation replaced by its clean value.
   Noising: run the clean prompt with one activation replaced by its corrupted value.
   Ablation: run the clean prompt with one activation replaced by zero, by a mean, or by the
   corrupted activation of another prompt.
3. Measure the metric at the last position, per prompt, and compare with the two baselines.
4. Put a bootstrap interval over prompts around every effect, and ask of every cell whether its
   change is more than chance: sign flips over prompts, Benjamini-Hochberg over all cells.

Source: Vig et al. 2020, arXiv 2004.12265; Meng et al. 2022, arXiv 2202.05262; Zhang & Nanda 2024,
arXiv 2309.16042 (metrics, denoising against noising); Chan et al. 2022, "Causal scrubbing"
(resample ablation).

Units and sign: an effect is a fraction. Denoising: (patched − corrupted) / (clean − corrupted), so
1 is full recovery and 0 none. Noising: (clean − patched) / (clean − corrupted), so 1 is full
destruction. It is the ratio of the means over prompts. Where the baselines are too close to divide
by, effects are NaN and the changes (the numerators, in the metric's unit) are what is shown.

Limits: denoising shows what suffices given the rest of the corrupted run, noising what is needed
given the rest of the clean run; neither shows the path, and backup components hide each other. A
zero is far from anything the model has seen, so a zero ablation may destroy by surprise alone. An
effect is relative to this corruption: what clean and corrupted share cannot show up.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from workbench.core import evidence, plots, results
from workbench.core.engine import metrics, patching, preflight, running, sites
from workbench.core.prompts.pairs import ContrastPairs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Three axes are drawn in two dimensions: layer and head (or group) upward, positions to the right.
_FOLDED = ("layer", "position", "part")
DIRECTIONS = ("denoising", "noising")
ABLATIONS = patching.ABLATIONS
_BATCH_SIZE = 256
POSITIONS = ("each", "all")
ANALYSIS = "activation_patching.patch"
# False-discovery rate of "more than chance" where none is asked for.
DISCOVERIES = 0.05


class Options(TypedDict):
    """What is patched and measured; the choices of a page or a command."""

    site: str
    metric: str
    direction: str
    positions: str
    ablation: str | None


class Bootstrap(TypedDict):
    """How the intervals are made."""

    confidence: float
    n_resamples: int
    seed: int


DEFAULT_BOOTSTRAP = Bootstrap(confidence=0.95, n_resamples=2000, seed=0)


@dataclasses.dataclass(frozen=True)
class PatchingResult(results.Result):
    """Effect of patching each cell of a site, with per-prompt values and intervals.

    Attributes:
        site: Component kind.
        axes: What the cells are indexed by, in order, out of layer, position, and head or group.
        metric: Scalar that was measured.
        direction: "denoising" or "noising".
        ablation: "zero", "mean", "resample", or None.
        normalised: Whether the baselines were far enough apart to divide by.
        effects: Ratio of means, a fraction; NaN throughout where `normalised` is False.
        interval: Bootstrap interval of the effects over prompts; NaN with a single prompt.
        changes: Mean numerator, in the metric's unit.
        change_interval: Bootstrap interval of the changes.
        adjusted_p: Sign-flip p-value of each cell's change, Benjamini-Hochberg adjusted over all
            cells; 1 with a single prompt.
        per_prompt: Metric of each prompt in each patched run, in the metric's unit.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        confidence: Level of the intervals.
        pairs: What was run.
        preflight: What was checked before the run.
    """

    site: str
    axes: tuple[str, ...]
    metric: str
    direction: str
    ablation: str | None
    normalised: bool
    effects: Float[np.ndarray, "*cell"]
    interval: Float[np.ndarray, "bound *cell"]
    changes: Float[np.ndarray, "*cell"]
    change_interval: Float[np.ndarray, "bound *cell"]
    adjusted_p: Float[np.ndarray, "*cell"]
    per_prompt: Float[np.ndarray, "prompt *cell"]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    confidence: float
    pairs: ContrastPairs
    preflight: preflight.Preflight

    @property
    def shown(self) -> Float[np.ndarray, "*cell"]:
        """What figure, table and summary rank by: effects, or changes where not normalised."""
        return self.effects if self.normalised else self.changes

    @property
    def part(self) -> str | None:
        """What of a position is patched by itself: "head", "group", or nothing."""
        return next((axis for axis in ("head", "group") if axis in self.axes), None)

    @property
    def intervention(self) -> patching.Intervention:
        """What was put where."""
        made = self.provenance.parameters
        return patching.Intervention(
            self.direction == "denoising", self.ablation, tuple(made["reference"]), made["seed"]
        )

    @property
    def unit(self) -> str:
        """Unit of `shown`, for axis titles."""
        unit = metrics.UNITS[self.metric]
        if not self.normalised:
            return f"change of the {self.metric.replace('_', ' ')} ({unit}), not normalised"
        return "fraction recovered" if self.direction == "denoising" else "fraction destroyed"

    def label(self, cell: tuple[int, ...]) -> str:
        """A cell in the field's notation, for example `L2H5 at position 9 ("to")`."""
        index = dict(zip(self.axes, cell, strict=True))
        part = self.part
        name = f"L{index['layer']}" + (f"{part[0].upper()}{index[part]}" if part else "")
        if "position" not in index:
            return name
        token = self.pairs.position_labels()[index["position"]]
        return f'{name} at position {index["position"]} ("{token.strip()}")'

    def strongest(self, n: int = 5) -> list[tuple[int, ...]]:
        """The n cells of largest absolute effect, strongest first."""
        order = np.argsort(-np.abs(self.shown), axis=None, kind="stable")[:n]
        return [tuple(int(i) for i in np.unravel_index(flat, self.shown.shape)) for flat in order]

    def to_frame(self) -> pd.DataFrame:
        """One row a cell: its axes, token, effect and change with intervals, and n."""
        cells = list(np.ndindex(self.effects.shape))
        frame = pd.DataFrame(cells, columns=list(self.axes))
        if "position" in self.axes:
            frame["token"] = [self.pairs.position_labels()[p] for p in frame["position"]]
        columns = {
            "effect": self.effects,
            "effect_low": self.interval[0],
            "effect_high": self.interval[1],
            "change": self.changes,
            "change_low": self.change_interval[0],
            "change_high": self.change_interval[1],
        }
        for name, values in columns.items():
            frame[name] = values.ravel()
        frame["adjusted_p"] = self.adjusted_p.ravel()
        frame["n"] = len(self.pairs)
        return frame

    def figure(
        self, selected: tuple[int, ...] | None = None, *, discoveries: float | None = None
    ) -> go.Figure:
        """Heat map (or bars, where only the layer is left), zero-centred.

        Args:
            selected: Cell to mark, as indices of the axes.
            discoveries: False-discovery rate at which a cell counts as more than chance; cells
                that do not are greyed out. None shows all of them.

        Returns:
            The figure; each cell's hover text carries its interval.
        """
        grid = self.grid()
        if grid.column_title is None:
            bounds = self.interval if self.normalised else self.change_interval
            return plots.bars(
                self.shown, bounds[0], bounds[1], labels=list(grid.rows), value_title=self.unit
            )
        return plots.heatmap(
            grid.values,
            row_labels=list(grid.rows),
            column_labels=list(grid.columns),
            row_title=grid.row_title,
            column_title=grid.column_title,
            colour_title=self.unit,
            hover=grid.hover,
            mask=None if discoveries is None else grid.adjusted_p > discoveries,
            selected=self.to_grid(selected) if selected is not None else None,
        )

    def grid(self) -> Grid:
        """The cells laid out in two dimensions: layers (or layer and head) upward."""
        layers = self.shown.shape[0]
        rows = tuple(f"L{layer}" for layer in range(layers))
        columns, row_title, column_title = (), "layer", None
        if "position" in self.axes:
            columns, column_title = self._positions(), "position"
        if self.part:
            parts = [f"{self.part[0].upper()}{i}" for i in range(self.shown.shape[-1])]
            if "position" in self.axes:
                rows, row_title = tuple(row + part for row in rows for part in parts), self.part
            else:
                columns, column_title = tuple(parts), self.part
        values, hover, p = map(self._flat, (self.shown, self._hover(), self.adjusted_p))
        return Grid(values, rows, columns, row_title, column_title, hover, p)

    def _flat(self, cells: np.ndarray) -> np.ndarray:
        """Cells in two dimensions, rows and columns as in `grid`."""
        if cells.ndim == len(_FOLDED):
            return np.moveaxis(cells, 2, 1).reshape(-1, cells.shape[1])
        return cells.reshape(cells.shape[0], -1)

    def to_grid(self, cell: tuple[int, ...]) -> tuple[int, int]:
        """Row and column at which `grid` shows a cell."""
        if len(cell) == len(_FOLDED):
            layer, position, part = cell
            return layer * self.shown.shape[2] + part, position
        return cell[0], cell[1] if len(cell) > 1 else 0

    def from_grid(self, row: int, column: int) -> tuple[int, ...]:
        """The cell that `grid` shows at a row and column."""
        if len(self.axes) == len(_FOLDED):
            layer, part = divmod(row, self.shown.shape[2])
            return layer, column, part
        return (row, column)[: len(self.axes)]

    def summary(self) -> str:
        """What was patched, the baselines, and the strongest cells with their intervals."""
        n = len(self.pairs)
        metric, unit = self.metric.replace("_", " "), metrics.UNITS[self.metric]
        lines = [
            f"{self._doing()} {sites.SITES[self.site].title} of "
            f"{self.provenance.model} on {self.pairs.name}: mean {metric} {self.clean.mean():.3f} "
            f"clean and {self.corrupted.mean():.3f} corrupted ({unit}, n = {n})."
        ]
        if not self.normalised:
            lines.append("The baselines are too close to divide by, so raw changes are shown.")
        bounds = self.interval if self.normalised else self.change_interval
        best = [
            f"{self.label(cell)} {self.shown[cell]:.3f}"
            + (f" [{bounds[0][cell]:.3f}, {bounds[1][cell]:.3f}]" if n > 1 else "")
            for cell in self.strongest(3)
            if self.shown[cell] != 0
        ]
        how_sure = f"{self.confidence:.0%} bootstrap intervals over prompts"
        if n == 1:
            how_sure = "no interval: one prompt says nothing about the spread over prompts"
        if not best:
            return " ".join([*lines, "Patching changes nothing anywhere, to the bit."])
        lines.append(f"Strongest ({self.unit}): {'; '.join(best)}. {how_sure.capitalize()}.")
        if n > 1:
            found = int((self.adjusted_p <= DISCOVERIES).sum())
            lines.append(
                f"{found} of {self.adjusted_p.size} cells change more than chance (sign flips over "
                f"prompts, false-discovery rate {DISCOVERIES:.0%})."
            )
        return " ".join(lines)

    def _doing(self) -> str:
        return f"{self.ablation}-ablating".capitalize() if self.ablation else self.direction.title()

    def script(self) -> str:
        """Python code that computes this result again."""
        parameters = self.provenance.parameters
        arguments = "".join(f"    {name}={parameters[name]!r},\n" for name in _SCRIPT_ARGUMENTS)
        return (
            "from workbench import ContrastPairs, load_model\n"
            "from analyses import activation_patching\n\n"
            f"model = load_model({self.provenance.model!r})\n"
            f"pairs = {self.pairs.code}\n"
            f"result = activation_patching.patch(\n    model,\n    pairs,\n{arguments})\n"
            "print(result.summary())\n"
        )

    def _positions(self) -> tuple[str, ...]:
        return tuple(plots.token_labels(self.pairs.position_labels()))

    def _hover(self) -> np.ndarray:
        text = np.empty(self.shown.shape, dtype=object)
        bounds = self.interval if self.normalised else self.change_interval
        for cell in np.ndindex(self.shown.shape):
            low, high = bounds[0][cell], bounds[1][cell]
            known = np.isfinite(low) and np.isfinite(high)
            sure = f"{self.confidence:.0%} [{low:.3f}, {high:.3f}], " if known else ""
            text[cell] = f"{sure}n = {len(self.pairs)}, adjusted p = {self.adjusted_p[cell]:.2g}"
        return text


_SCRIPT_ARGUMENTS = (
    "site",
    "metric",
    "direction",
    "ablation",
    "reference",
    "positions",
    "confidence",
    "n_resamples",
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Grid:
    """A result laid out in two dimensions, ready to be drawn.

    Attributes:
        values: What is shown.
        rows: Label of each row, lowest first.
        columns: Label of each column, left first; empty where there is one unnamed column.
        row_title: What the rows are.
        column_title: What the columns are, None where there is one unnamed column.
        hover: Further text of each cell.
        adjusted_p: P-value of each cell, adjusted over all cells.
    """

    values: Float[np.ndarray, "row column"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_title: str
    column_title: str | None
    hover: np.ndarray
    adjusted_p: Float[np.ndarray, "row column"]


def patch(
    model: TransformerBridge,
    pairs: ContrastPairs,
    *,
    site: str = "resid_pre",
    metric: str = "logit_difference",
    direction: str = "denoising",
    ablation: str | None = None,
    reference: Sequence[str] = (),
    positions: str = "each",
    confidence: float = DEFAULT_BOOTSTRAP["confidence"],
    n_resamples: int = DEFAULT_BOOTSTRAP["n_resamples"],
    seed: int = DEFAULT_BOOTSTRAP["seed"],
    batch_size: int = _BATCH_SIZE,
    checks: preflight.Preflight | None = None,
    progress: running.Progress | None = None,
) -> PatchingResult:
    """Patch every cell of a site, one at a time, exactly.

    Args:
        model: Any bridge; it is not changed, and may be in use by other threads.
        pairs: Clean and corrupted prompts with answers.
        site: "resid_pre", "resid_post", "attn_out", "mlp_out"; per head "z", "q"; per key/value
            head "k", "v".
        metric: "logit_difference", "probability", "kl_divergence", "cross_entropy" or "rank".
        direction: "denoising" or "noising".
        ablation: With "noising": "zero", "mean" or "resample" (another prompt's corrupted
            activation) in place of the prompt's own corrupted activation.
        reference: Texts whose tokens a mean ablation averages over; without any it averages over
            the pairs themselves, position by position.
        positions: "each" patches one position at a time; "all" patches all at once, and the
            position axis goes.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
        batch_size: Most prompts in one forward pass.
        checks: Outcome of `preflight.check` for the same arguments, if it was made already.
        progress: Called with the fraction done and a note; may raise to cancel, which leaves
            nothing behind.

    Returns:
        The effects with their intervals.

    Raises:
        ValueError: If an argument is unknown, positions do not line up, or the model's logits are
            not finite.
    """
    started = time.perf_counter()
    report = progress or running.no_progress
    options = Options(
        site=site, metric=metric, direction=direction, positions=positions, ablation=ablation
    )
    bootstrap = Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    _require_arguments(pairs, options, confidence)
    first = _part(report, 0.0, 0.1)
    checks = checks or preflight.check(
        model,
        pairs,
        site=site,
        metric=metric,
        positions=positions,
        ablation=ablation,
        progress=first,
    )
    swept = patching.sweep(
        model,
        pairs,
        site=site,
        metric=metric,
        intervention=patching.Intervention(
            direction == "denoising", ablation, tuple(reference), seed
        ),
        each_position=positions == "each",
        batch_size=batch_size,
        progress=_part(report, 0.1, 0.95),
    )
    per_prompt, clean, corrupted = swept.patched, swept.clean, swept.corrupted
    report(0.95, "bootstrap intervals")
    numerators = _numerators(per_prompt, clean, corrupted, direction)
    normalised = not preflight.too_close(clean, corrupted)
    effects, interval = _effects(numerators, clean - corrupted, normalised, bootstrap)
    flat = numerators.reshape(len(pairs), -1)
    change_interval = evidence.mean_interval(flat, **bootstrap).reshape(interval.shape)
    return PatchingResult(
        provenance=results.provenance(
            model,
            analysis=ANALYSIS,
            parameters=parameters(pairs, options, bootstrap, reference),
            seed=seed,
            wall_time=time.perf_counter() - started,
        ),
        site=site,
        axes=swept.axes,
        metric=metric,
        direction=direction,
        ablation=ablation,
        normalised=normalised,
        effects=effects,
        interval=interval,
        changes=numerators.mean(0),
        change_interval=change_interval,
        adjusted_p=evidence.adjusted_for_discoveries(
            evidence.sign_flip_p_values(flat, seed=seed).reshape(numerators.shape[1:])
        ),
        per_prompt=per_prompt,
        clean=clean,
        corrupted=corrupted,
        confidence=confidence,
        pairs=pairs,
        preflight=checks,
    )


def parameters(
    pairs: ContrastPairs,
    options: Options,
    bootstrap: Bootstrap | None = None,
    reference: Sequence[str] = (),
) -> dict[str, Any]:
    """Everything that determines a result apart from the model, to find a stored run by.

    Args:
        pairs: What is run.
        options: What is patched and measured.
        bootstrap: How the intervals are made; None for the defaults of `patch`.
        reference: Texts of a mean ablation.

    Returns:
        JSON types only.
    """
    level = bootstrap or DEFAULT_BOOTSTRAP
    return {**options, **level, "reference": list(reference), "pairs": pairs.digest()}


@dataclasses.dataclass(frozen=True)
class CellInspection(results.Result):
    """What the model says next before and after one patch, for one prompt.

    Attributes:
        label: The cell in the field's notation.
        prompt: The prompt that was run and patched.
        tokens: The tokens that are among the top ones before or after, most probable after first.
        before: Their probabilities in the unpatched run.
        after: Their probabilities in the patched run.
    """

    label: str
    prompt: str
    tokens: tuple[str, ...]
    before: Float[np.ndarray, " token"]
    after: Float[np.ndarray, " token"]

    COLUMNS: ClassVar[tuple[str, ...]] = ("before", "after", "change")

    def to_frame(self) -> pd.DataFrame:
        """One row a token: probability before, after, and the change."""
        return pd.DataFrame(
            {
                "token": self.tokens,
                "before": self.before,
                "after": self.after,
                "change": self.after - self.before,
            }
        )

    def figure(self) -> go.Figure:
        """Probabilities before and after as paired bars."""
        labels = plots.token_labels(self.tokens, numbered=False)
        # Two tokens may read the same, so bars stand at places that are labelled, not at labels.
        places = list(range(len(labels)))
        shown = (("before", self.before, "#9aa4b1"), ("after", self.after, plots.COLOURS[0]))
        bars = [
            go.Bar(name=name, y=places, x=values, orientation="h", marker={"color": colour})
            for name, values, colour in shown
        ]
        figure = go.Figure(bars).update_layout(template=plots.TEMPLATE, barmode="group")
        figure.update_yaxes(autorange="reversed", tickvals=places, ticktext=labels)
        return figure.update_xaxes(title="probability", range=[0, 1])

    def summary(self) -> str:
        """The top token before and after, with probabilities."""
        top, was = int(self.after.argmax()), int(self.before.argmax())
        return (
            f"Patching {self.label} in {self.prompt!r}: the top token was {self.tokens[was]!r} "
            f"({self.before[was]:.3f}) and is {self.tokens[top]!r} ({self.after[top]:.3f})."
        )


def inspect_cell(
    model: TransformerBridge,
    result: PatchingResult,
    cell: tuple[int, ...],
    *,
    prompt: int = 0,
    k: int = 10,
) -> CellInspection:
    """Top tokens before and after one patch of a result, for one of its prompts.

    Args:
        model: The bridge that the result is of.
        result: Says site, direction and pairs.
        cell: Indices of the result's axes.
        prompt: Which pair.
        k: How many top tokens of each run.

    Returns:
        The tokens with their probabilities.

    Raises:
        ValueError: If the cell or the prompt is not in the result.
    """
    started = time.perf_counter()
    if len(cell) != len(result.axes) or any(
        not 0 <= i < size for i, size in zip(cell, result.effects.shape, strict=True)
    ):
        raise ValueError(f"cell {cell} is not in a grid of {result.effects.shape} {result.axes}")
    if not 0 <= prompt < len(result.pairs):
        raise ValueError(f"prompt {prompt} is not among the {len(result.pairs)} pairs")
    _, names = sites.resolve(model, result.site)
    clean, corrupted = result.pairs.batch([prompt])
    base = corrupted if result.direction == "denoising" else clean
    index = dict(zip(result.axes, cell, strict=True))
    name = names[index["layer"]]
    _, clean_kept = running.run_and_keep(model, clean, [name])
    _, corrupted_kept = running.run_and_keep(model, corrupted, [name])
    source = patching.Source(model, result.pairs, [name], result.intervention, _BATCH_SIZE)
    value = source.written(np.array([prompt]), clean_kept, corrupted_kept)[name]
    hook = patching.replacement(value, index.get("position"), index.get(result.part or ""))
    before = running.run(model, base)[0, -1].float().softmax(-1)
    after = running.run(model, base, {name: hook})[0, -1].float().softmax(-1)
    top = set(before.topk(min(k, len(before))).indices.tolist())
    top |= set(after.topk(min(k, len(after))).indices.tolist())
    ids = sorted(top, key=lambda token: (-float(after[token]), token))
    texts = result.pairs.corrupted if result.direction == "denoising" else result.pairs.clean
    return CellInspection(
        provenance=results.provenance(
            model,
            analysis="activation_patching.inspect_cell",
            parameters={"cell": list(cell), "prompt": prompt, "k": k},
            seed=0,
            wall_time=time.perf_counter() - started,
        ),
        label=result.label(cell),
        prompt=texts[prompt],
        tokens=tuple(model.tokenizer.decode([token]) for token in ids),
        before=before[ids].cpu().numpy(),
        after=after[ids].cpu().numpy(),
    )


def _require_arguments(pairs: ContrastPairs, options: Options, confidence: float) -> None:
    direction, positions = options["direction"], options["positions"]
    preflight.require_metric(pairs, options["metric"])
    if direction not in DIRECTIONS:
        raise ValueError(f"direction = {direction!r}; expected one of {', '.join(DIRECTIONS)}")
    if positions not in POSITIONS:
        raise ValueError(f"positions = {positions!r}; expected one of {', '.join(POSITIONS)}")
    ablation = options["ablation"]
    if ablation is not None and ablation not in ABLATIONS:
        known = ", ".join(ABLATIONS)
        raise ValueError(f"ablation = {ablation!r}; expected None or one of {known}")
    if ablation is not None and direction != "noising":
        raise ValueError(
            f"a {ablation} ablation takes something away from the clean run: use "
            "direction='noising' with it"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}; expected a level between 0 and 1")


def _part(progress: running.Progress, start: float, end: float) -> running.Progress:
    """Progress of a part of a run, which takes the fractions from start to end."""
    return lambda fraction, note: progress(start + (end - start) * fraction, note)


def _numerators(
    per_prompt: Float[np.ndarray, "prompt *cell"],
    clean: Float[np.ndarray, " prompt"],
    corrupted: Float[np.ndarray, " prompt"],
    direction: str,
) -> Float[np.ndarray, "prompt *cell"]:
    def over_cells(values: Float[np.ndarray, " prompt"]) -> np.ndarray:
        return values.reshape(-1, *[1] * (per_prompt.ndim - 1))

    if direction == "denoising":
        return per_prompt - over_cells(corrupted)
    return over_cells(clean) - per_prompt


def _effects(
    numerators: Float[np.ndarray, "prompt *cell"],
    gaps: Float[np.ndarray, " prompt"],
    normalised: bool,
    bootstrap: Bootstrap,
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "bound *cell"]]:
    """Ratio of means with its interval; NaN throughout where the gaps are too close to zero."""
    shape = numerators.shape[1:]
    if not normalised:
        return np.full(shape, np.nan), np.full((2, *shape), np.nan)
    interval = evidence.ratio_interval(numerators.reshape(len(gaps), -1), gaps, **bootstrap)
    return numerators.mean(0) / gaps.mean(), interval.reshape(2, *shape)
