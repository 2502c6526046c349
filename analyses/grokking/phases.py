"""When did a network memorise, when did its circuit form, and when was the memory cleaned up?

The phases are read off the loss curves by declared rules, never by eye, each boundary with an
interval. Losses enter as log10, interpolated linearly between checkpoints.

1. A loss counts as learned from the step at which it falls below LEARNED, if it stays below at
   SETTLED of the checkpoints from there on. Learned training loss: `memorised_at`; learned test
   loss: `grokked_at`; learned restricted loss: `restricted_at`; the `lead` lies between the last
   two.
2. The verdict. Test loss learned: "grokked", except where it fell together with training loss,
   "generalised without delay": it was below its first value (guessing) when training loss was
   learned, and was learned within DELAY times the steps of that; or training loss never was
   learned. Test loss not learned: "memorised only" or, without training loss, "not memorised".
3. The fall of test loss: continuous lines with two breaks, least squares over all pairs of breaks,
   from `memorised_at` on. The middle line must fall STEEPER times as fast as both others. The fit
   is repeated in a window that reaches REACH lengths of the fall to both sides. A single
   checkpoint that sticks out is replaced by the median of three first. Where the second break
   lessens the squared error by less than a factor ENDED, or less than TAIL of the length of the
   fall is left after it, the fall had not ended when the run did. A fall counts from LEAST_FALL
   dex on, if it is OUTSTANDING times the residual standard deviation.
4. Memorisation ends, and circuit formation begins, where excluded loss is least between
   `memorised_at` and the fall (smoothed: local parabolas over log steps), if it rises afterwards to
   RISE times that and to LEARNED. Without excluded loss: where test loss is greatest. Circuit
   formation ends, and cleanup begins, with the fall of test loss; cleanup ends with it.
5. The fall is fitted a second time from the end of memorisation on.
6. Intervals: checkpoints are drawn with replacement, and moved: for the breaks by residuals of the
   fit resampled in blocks, for the extremum by a normal times the distance from the line between
   the checkpoint's neighbours. Percentile intervals, wider by the resolution of the grid, rounded
   outward to checkpoints; that of the extremum also covers where it is without smoothing.

Source: Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability" (the
phases, there by eye); Muggeo 2003, "Estimating regression models with unknown break-points";
Künsch 1989 (block bootstrap); Wu 1986 (wild bootstrap).
Units and sign: boundaries, intervals and lead in training steps; losses in nats a pair. A positive
lead: the circuit alone generalises before the network does.
Limits: curves alone; that a circuit forms is a causal claim only with the ablations behind
restricted and excluded loss. An interval holds for the rules as declared: another rule moves a
boundary by more than noise does. The phases of a run whose test loss falls with training loss
overlap, so it has none. Squared weights are reported at each boundary and decide none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.ndimage
import scipy.signal
from jaxtyping import Float, Int

from workbench.core import evidence, plots, results

ANALYSIS = "grokking.phases"
LEARNED = 0.1
SETTLED = 0.9
DELAY = 2.0
STEEPER = 2.0
REACH = 2.0
ENDED = 2.0
TAIL = 0.1
LEAST_FALL = 1.0
OUTSTANDING = 4.0
RISE = 2.0

NAMES = ("memorisation", "circuit formation", "cleanup")
LOSSES = ("train", "test", "restricted", "excluded")

Verdict = Literal["grokked", "generalised without delay", "memorised only", "not memorised"]

# The losses take the first colours.
_SHADES = plots.COLOURS[4:7]
_WHISKER = plots.COLOURS[-1]
# A figure ends at so many times the last boundary: the rest would press the phases together.
_SHOWN = 2.2
_FEWEST = 6
# Losses below this are rounding of float64.
_FLOOR = 1e-16
_FIT_POINTS = 160
_ROUNDS = 3
_BLOCKS = 10
# A fit that is better than this, dex, is as good as exact.
_EXACT = 1e-3
_EXTREMUM_POINTS = 200
_SMOOTHED = 15
# Variance of a point minus the mean of its two neighbours, for noise of variance 1.
_NEIGHBOUR_VARIANCE = 1.5


@dataclasses.dataclass(frozen=True)
class Series:
    """One measure of a run, at steps of its own; no points where it was not measured."""

    steps: Float[np.ndarray, " checkpoint"]
    values: Float[np.ndarray, " checkpoint"]

    @classmethod
    def of(
        cls,
        steps: Int[np.ndarray, " checkpoint"] | Float[np.ndarray, " checkpoint"],
        values: Float[np.ndarray, " checkpoint"],
    ) -> Self:
        """Keep the finite values, as float64.

        Args:
            steps: Training steps, ascending.
            values: The measure; NaN where it was not measured.

        Returns:
            The series.

        Raises:
            ValueError: If the steps do not ascend.
        """
        kept = np.isfinite(values)
        steps = np.asarray(steps[kept], dtype=np.float64)
        if np.any(np.diff(steps) <= 0):
            raise ValueError("the steps of a series must ascend, each different")
        return cls(steps, np.asarray(values[kept], dtype=np.float64))

    def at(self, steps: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """Log10 of the values, interpolated.

        Args:
            steps: Where.

        Returns:
            Log10 of the measure there; NaN outside of the series.
        """
        if not self.steps.size:
            return np.full(steps.shape, np.nan)
        logs = np.log10(np.maximum(self.values, _FLOOR))
        return np.interp(steps, self.steps, logs, left=np.nan, right=np.nan)


NOT_MEASURED = Series(np.empty(0), np.empty(0))


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of a run that phases are read from.

    Attributes:
        name: What run.
        train: Training loss, nats.
        test: Test loss, nats.
        restricted: Loss with nothing but the circuit's directions, nats.
        excluded: Training loss without them, nats.
        squared_weights: Sum of the squared weights.
    """

    name: str
    train: Series
    test: Series
    restricted: Series = NOT_MEASURED
    excluded: Series = NOT_MEASURED
    squared_weights: Series = NOT_MEASURED


@runtime_checkable
class Measures(Protocol):
    """What `phases` reads of the measures of a run (`grokking.track` makes them)."""

    @property
    def provenance(self) -> results.Provenance:
        """What made them."""
        ...

    @property
    def steps(self) -> Int[np.ndarray, " checkpoint"]:
        """Training steps of the checkpoints."""
        ...

    @property
    def train_loss(self) -> Float[np.ndarray, " checkpoint"]:
        """Nats a pair."""
        ...

    @property
    def test_loss(self) -> Float[np.ndarray, " checkpoint"]:
        """Nats a pair."""
        ...

    @property
    def restricted_loss(self) -> Float[np.ndarray, " checkpoint"]:
        """Nats a pair; NaN where there is no theory."""
        ...

    @property
    def excluded_loss(self) -> Float[np.ndarray, " checkpoint"]:
        """Nats a pair; NaN where there is no theory."""
        ...

    @property
    def squared_weights(self) -> Float[np.ndarray, " checkpoint"]:
        """Sum of the squared weights."""
        ...


@dataclasses.dataclass(frozen=True)
class Phases(results.Result):
    """The phases of a training run.

    Attributes:
        names: The phases in their order.
        boundaries: Step at which each phase ends and the next begins; NaN where that was not seen.
        intervals: Lower and upper bound of each boundary.
        confidence: Level of the intervals.
        verdict: "grokked", "generalised without delay", "memorised only" or "not memorised".
        memorised_at: Step at which training loss was learned; NaN if never.
        grokked_at: Step at which test loss was learned; NaN if never.
        restricted_at: Step at which restricted loss was learned; NaN if never, or not measured.
        lead: Steps from restricted_at to grokked_at.
        notes: What could not be read, and which measure stood in.
        curves: The curves that all this was read from.
    """

    names: tuple[str, ...]
    boundaries: Float[np.ndarray, " phase"]
    intervals: Float[np.ndarray, "phase bound"]
    confidence: float
    verdict: str
    memorised_at: float
    grokked_at: float
    restricted_at: float
    lead: float
    notes: tuple[str, ...]
    curves: Curves

    def to_frame(self) -> pd.DataFrame:
        """One row a phase: where it begins and ends, and every measure at its end."""
        measured = {name: getattr(self.curves, name) for name in (*LOSSES, "squared_weights")}
        levels = {name: 10.0 ** series.at(self.boundaries) for name, series in measured.items()}
        return pd.DataFrame(
            {
                "phase": self.names,
                "begins": self._beginnings(),
                "ends": self.boundaries,
                "lower": self.intervals[:, 0],
                "upper": self.intervals[:, 1],
                **levels,
            }
        )

    def figure(self) -> go.Figure:
        """The losses on a logarithmic axis over shaded phases; whiskers are the intervals.

        Where the last phase ends early in the run, its beginning fills the figure; a double click
        shows all of it.
        """
        measured = {name: getattr(self.curves, name) for name in LOSSES}
        present = {name: series for name, series in measured.items() if series.steps.size}
        steps = np.unique(np.concatenate([series.steps for series in present.values()]))
        figure = plots.line(
            steps,
            {f"{name} loss": 10.0 ** series.at(steps) for name, series in present.items()},
            x_title="training step",
            y_title="loss, nats a pair",
            log_y=True,
        )
        figure.update_yaxes(**plots.POWERS_OF_TEN)
        figure.update_xaxes(title={"standoff": 8})
        return self.over(figure)

    def over(self, figure: go.Figure) -> go.Figure:
        """Put the phases behind another figure over the training's steps.

        Args:
            figure: A figure whose first panel shows the losses on a logarithmic axis.

        Returns:
            A copy with the phases shaded in all panels and the intervals in the first.
        """
        figure = go.Figure(figure)
        axes: Any = figure.select_xaxes()
        panels = [axis.plotly_name.removeprefix("xaxis") for axis in axes]
        figure.update_layout(shapes=[band for panel in panels for band in self._bands(panel)])
        figure.add_trace(self._whiskers())
        first, last = self._reach()
        seen = _SHOWN * np.nanmax(self.boundaries, initial=-np.inf)
        if first < seen < last:
            figure.update_xaxes(range=[first, seen])
        return figure

    def summary(self) -> str:
        """The verdict, the phases with their intervals, and the lead, in words."""
        parts = [f"{self.curves.name}: {self.verdict}."]
        for at, what in ((self.memorised_at, "Training"), (self.grokked_at, "Test")):
            parts.append(
                f"{what} loss is below {LEARNED} from step {at:,.0f} on."
                if np.isfinite(at)
                else f"{what} loss never stays below {LEARNED}."
            )
        for name, end, (lower, upper) in zip(
            self.names, self.boundaries, self.intervals, strict=True
        ):
            if np.isfinite(end):
                parts.append(
                    f"{name.capitalize()} ends at step {end:,.0f} ({self.confidence:.0%} interval "
                    f"{lower:,.0f} to {upper:,.0f})."
                )
        if np.isfinite(self.lead):
            parts.append(
                f"Restricted loss is below {LEARNED} from step {self.restricted_at:,.0f} on, "
                f"{abs(self.lead):,.0f} steps {'before' if self.lead >= 0 else 'after'} test loss."
            )
        before, after = 10.0 ** self.curves.squared_weights.at(self.boundaries[1:])
        if np.isfinite(before) and np.isfinite(after):
            parts.append(f"Over cleanup the squared weights change by {after / before - 1:+.0%}.")
        return " ".join((*parts, *self.notes))

    def _beginnings(self) -> Float[np.ndarray, " phase"]:
        """Where each phase begins: where the one before it ends, the first with the run."""
        memorising = self.verdict in {"grokked", "memorised only"}
        first = self.curves.train.steps[0] if memorising else np.nan
        return np.concatenate([[first], self.boundaries[:-1]])

    def _bands(self, panel: str) -> list[dict[str, Any]]:
        """The phases as shapes of one panel; those of the first are named beside the curves."""
        bands: list[dict[str, Any]] = []
        for name, colour, begin, end in zip(
            self.names, _SHADES, self._beginnings(), self.boundaries, strict=True
        ):
            # A phase that had begun and was not seen to end lasts until the run does.
            until = end if np.isfinite(end) else self._reach()[1]
            place = {"xref": f"x{panel}", "yref": f"y{panel} domain", "layer": "below"}
            area = {"type": "rect", "x0": begin, "x1": until, "y0": 0, "y1": 1}
            paint = {"fillcolor": colour, "opacity": 0.16, "line": {"width": 0}}
            if np.isfinite(begin):
                bands.append({**area, **place, **paint, "name": name, "showlegend": not panel})
            if not np.isfinite(end):
                break
        return bands

    def _reach(self) -> tuple[float, float]:
        """First and last step that anything was measured at."""
        measured = [getattr(self.curves, name).steps for name in LOSSES]
        steps = np.concatenate([every for every in measured if every.size])
        return float(steps.min()), float(steps.max())

    def _whiskers(self) -> go.Scatter:
        ends = self.boundaries
        heights = 10.0 ** self.curves.test.at(ends)
        if self.curves.excluded.steps.size:
            heights[0] = 10.0 ** self.curves.excluded.at(ends[:1])[0]
        return go.Scatter(
            x=ends,
            y=heights,
            mode="markers",
            name=f"end of a phase, {self.confidence:.0%} interval",
            marker={"color": _WHISKER, "symbol": "diamond", "size": 8},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": self.intervals[:, 1] - ends,
                "arrayminus": ends - self.intervals[:, 0],
            },
            text=list(self.names),
            hovertemplate="%{text} ends at %{x:,.0f}<extra></extra>",
        )


def phases(
    measures: Measures | Curves,
    *,
    confidence: float = 0.95,
    n_resamples: int = 400,
    seed: int = 0,
) -> Phases:
    """Read memorisation, circuit formation and cleanup off a run's measures.

    Args:
        measures: The progress measures of a run, or curves of any origin.
        confidence: Level of the intervals.
        n_resamples: Bootstrap resamples.
        seed: Equal seeds give equal bits.

    Returns:
        The phases with their boundaries, and a verdict: whether it grokked at all.

    Raises:
        ValueError: If training or test loss is measured at too few checkpoints, or a loss is
            negative, or an argument is out of range.
    """
    began = time.perf_counter()
    curves = measures if isinstance(measures, Curves) else _curves_of(measures)
    _require(curves, confidence, n_resamples)
    memorised_at, grokked_at, restricted_at = (
        _learned_at(series) for series in (curves.train, curves.test, curves.restricted)
    )
    verdict = _verdict(curves, memorised_at, grokked_at)
    level = evidence.Bootstrap(confidence=confidence, n_resamples=n_resamples, seed=seed)
    found, notes = _boundaries(curves, verdict, memorised_at, level)
    return Phases(
        provenance=_provenance(measures, curves, level, time.perf_counter() - began),
        names=NAMES,
        boundaries=np.array([boundary.step for boundary in found]),
        intervals=np.array([boundary.interval for boundary in found]),
        confidence=confidence,
        verdict=verdict,
        memorised_at=memorised_at,
        grokked_at=grokked_at,
        restricted_at=restricted_at,
        lead=grokked_at - restricted_at,
        notes=(*_left_out(measures), *notes),
        curves=curves,
    )


@dataclasses.dataclass(frozen=True)
class _Boundary:
    step: float = float("nan")
    interval: tuple[float, float] = (float("nan"), float("nan"))


_UNSEEN = _Boundary()


def _curves_of(measures: Measures) -> Curves:
    steps = measures.steps
    return Curves(
        name=measures.provenance.model,
        train=Series.of(steps, measures.train_loss),
        test=Series.of(steps, measures.test_loss),
        restricted=Series.of(steps, measures.restricted_loss),
        excluded=Series.of(steps, measures.excluded_loss),
        squared_weights=Series.of(steps, measures.squared_weights),
    )


def _require(curves: Curves, confidence: float, n_resamples: int) -> None:
    evidence.require_confidence(confidence)
    if n_resamples < 1:
        raise ValueError(f"n_resamples = {n_resamples}; expected at least 1")
    for name in ("train", "test"):
        count = getattr(curves, name).steps.size
        if count < _FEWEST:
            raise ValueError(
                f"{name} loss is known at {count} checkpoints; phases need at least {_FEWEST}"
            )
    for name in LOSSES:
        values = getattr(curves, name).values
        if values.size and values.min() < 0:
            raise ValueError(f"{name} loss reaches {values.min():.3g}; a loss is never negative")


def _left_out(measures: Measures | Curves) -> list[str]:
    if isinstance(measures, Curves):
        return []
    missing = int((~np.isfinite(measures.train_loss) | ~np.isfinite(measures.test_loss)).sum())
    return [f"{missing} checkpoints without a finite loss were left out."] if missing else []


def _provenance(
    measures: Measures | Curves, curves: Curves, level: evidence.Bootstrap, wall_time: float
) -> results.Provenance:
    mine = {"confidence": level["confidence"], "n_resamples": level["n_resamples"]}
    if isinstance(measures, Curves):
        return results.described(
            curves.name,
            _fingerprint(curves),
            analysis=ANALYSIS,
            parameters=mine,
            seed=level["seed"],
            wall_time=wall_time,
            dtype="float64",
        )
    # What the measures were made with is part of what made the phases.
    return dataclasses.replace(
        measures.provenance,
        analysis=ANALYSIS,
        parameters={**measures.provenance.parameters, **mine},
        seed=level["seed"],
        wall_time=wall_time,
    )


def _fingerprint(curves: Curves) -> str:
    digest = hashlib.sha256()
    for name in (*LOSSES, "squared_weights"):
        series = getattr(curves, name)
        digest.update(name.encode() + series.steps.tobytes() + series.values.tobytes())
    return digest.hexdigest()


def _learned_at(series: Series) -> float:
    """Step at which a loss falls below LEARNED to stay there; NaN if it never does."""
    below = series.values < LEARNED
    entered = np.flatnonzero(below & ~np.concatenate([[False], below[:-1]]))
    for i in entered:
        if below[i:].mean() >= SETTLED:
            return _crossing(series, int(i))
    return float("nan")


def _crossing(series: Series, i: int) -> float:
    """Where the log loss passes LEARNED between the checkpoint before `i` and `i`."""
    if i == 0:
        return float(series.steps[0])
    logs = series.at(series.steps[i - 1 : i + 1])
    share = (logs[0] - np.log10(LEARNED)) / (logs[0] - logs[1])
    return float(series.steps[i - 1] + share * (series.steps[i] - series.steps[i - 1]))


def _verdict(curves: Curves, memorised_at: float, grokked_at: float) -> Verdict:
    if not np.isfinite(grokked_at):
        return "memorised only" if np.isfinite(memorised_at) else "not memorised"
    if not np.isfinite(memorised_at) or _together(curves.test, memorised_at, grokked_at):
        return "generalised without delay"
    return "grokked"


def _together(test: Series, memorised_at: float, grokked_at: float) -> bool:
    """Whether test loss fell with training loss, instead of after it."""
    when_memorised = np.interp(memorised_at, test.steps, test.values)
    return bool(when_memorised < test.values[0] and grokked_at < DELAY * memorised_at)


def _boundaries(
    curves: Curves, verdict: Verdict, memorised_at: float, level: evidence.Bootstrap
) -> tuple[list[_Boundary], list[str]]:
    """The end of each phase, and what a reader must know about how it was read."""
    if verdict == "not memorised":
        return [_UNSEEN] * 3, ["Training loss was never learned: there are no phases."]
    if verdict == "generalised without delay":
        return [_UNSEEN] * 3, [
            "Test loss fell together with training loss: nothing was memorised first, and the "
            "phases overlap."
        ]
    rough = _fitted(curves.test, memorised_at)
    until = rough.start if rough else float("nan")
    formation, more = _formation(curves, memorised_at, until, level)
    refined = _fitted(curves.test, formation.step) if np.isfinite(formation.step) else None
    start, end, notes = _fall(curves.test, refined or rough, level)
    if verdict == "memorised only" and np.isfinite(start.step):
        end = _UNSEEN
        notes = [
            f"Test loss fell from step {start.step:,.0f} on, yet not below {LEARNED}: cleanup had "
            "begun and was not complete."
        ]
    return [formation, start, end], [*more, *notes]


def _formation(
    curves: Curves, memorised_at: float, fall: float, level: evidence.Bootstrap
) -> tuple[_Boundary, list[str]]:
    """Where memorisation ends and the circuit begins to form."""
    until = fall if np.isfinite(fall) else float(curves.test.steps[-1])
    if not _covers(curves.excluded, memorised_at, until):
        note = "Excluded loss is not known: "
        if not np.isfinite(fall):
            return _UNSEEN, [note + "whether a circuit formed cannot be said."]
        found = _extremum(curves.test, (memorised_at, fall), -1, level)
        return found, [note + "memorisation is taken to end where test loss is greatest."]
    found = _extremum(curves.excluded, (memorised_at, until), 1, level)
    least = 10 ** curves.excluded.at(np.array([found.step]))[0]
    later = curves.excluded.values[curves.excluded.steps >= found.step]
    if not later.size or later.max() < max(LEARNED, RISE * least):
        return _UNSEEN, ["Excluded loss does not rise after memorisation: no circuit formed."]
    return found, []


def _covers(series: Series, begin: float, end: float) -> bool:
    """Whether a series has points enough, and reaches into a span."""
    steps = series.steps
    return steps.size >= _FEWEST and bool(steps[0] < end and steps[-1] > begin)


# --- the extremum that ends memorisation ---


def _extremum(
    series: Series, span: tuple[float, float], sign: int, level: evidence.Bootstrap
) -> _Boundary:
    """Least (sign 1) or greatest (sign -1) value of a series within a span of steps."""
    low, high = max(span[0], series.steps[0]), min(span[1], series.steps[-1])
    grid = np.geomspace(1 + low, 1 + high, _EXTREMUM_POINTS) - 1
    grid[[0, -1]] = low, high
    logs = sign * series.at(series.steps)
    noise = _departures(series.steps, logs)
    rng = np.random.default_rng(level["seed"])

    def least(steps: Float[np.ndarray, " point"], values: Float[np.ndarray, " point"]) -> float:
        curve = np.interp(grid, steps, values)
        smooth = np.asarray(scipy.signal.savgol_filter(curve, _SMOOTHED, 2))
        return float(grid[np.argmin(smooth)])

    drawn: list[float] = []
    for _ in range(level["n_resamples"]):
        kept = _drawn_checkpoints(rng, series.steps)
        moved = logs[kept] + noise[kept] * rng.standard_normal(kept.size)
        drawn.append(least(series.steps[kept], moved))
    step = least(series.steps, logs)
    resolution = float(np.diff(grid)[min(np.searchsorted(grid, step), grid.size - 2)])
    around = [_bounded(step, drawn, series.steps, resolution, level)]
    # What smoothing moves belongs to the interval.
    unsmoothed = float(grid[np.argmin(np.interp(grid, series.steps, logs))])
    around.append(_bounded(unsmoothed, [], series.steps, resolution, level))
    lower, upper = np.array([boundary.interval for boundary in around]).T
    return _Boundary(step, (float(lower.min()), float(upper.max())))


def _departures(
    steps: Float[np.ndarray, " checkpoint"], logs: Float[np.ndarray, " checkpoint"]
) -> Float[np.ndarray, " checkpoint"]:
    """How far each checkpoint lies from the line between its neighbours, as a noise level."""
    before, at, after = steps[:-2], steps[1:-1], steps[2:]
    share = (at - before) / (after - before)
    line = logs[:-2] + share * (logs[2:] - logs[:-2])
    inner = np.abs(logs[1:-1] - line) / np.sqrt(_NEIGHBOUR_VARIANCE)
    return np.pad(inner, 1, mode="edge")


# --- the fall of test loss ---


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Continuous lines over a grid: bends at two points, or at one where the fall has no end."""

    bends: tuple[int, ...]
    error: float
    fitted: Float[np.ndarray, " point"]


@dataclasses.dataclass(frozen=True)
class _Fit:
    """Lines through log test loss on an even grid of steps."""

    grid: Float[np.ndarray, " point"]
    values: Float[np.ndarray, " point"]
    lines: _Lines

    @property
    def start(self) -> float:
        """Where the fall begins."""
        return float(self.grid[self.lines.bends[0]])


class _Design:
    """All fits of continuous lines with one or two bends to values over an even grid.

    With the straight line taken out of values and hinges, every pair of hinges is a regression on
    two columns, solved in closed form for all pairs at once.
    """

    def __init__(self, n_points: int) -> None:
        x = np.linspace(0, 1, n_points)
        self.x = x
        self.hinges = np.maximum(x[:, None] - x[None, 1:-1], 0)
        self.line = np.stack([np.ones_like(x), x], axis=1)
        self.solve = np.linalg.pinv(self.line)
        self.hinge_slopes = (self.solve @ self.hinges)[1]
        self.rest = self.hinges - self.line @ (self.solve @ self.hinges)
        self.gram = self.rest.T @ self.rest
        n = self.gram.shape[0]
        power = np.diag(self.gram)
        self.determinant = power[:, None] * power[None, :] - self.gram**2
        inner = x[1:-1]
        tail = (1 - inner)[None, :] >= TAIL * (inner[None, :] - inner[:, None])
        self.allowed = np.triu(np.ones((n, n), dtype=bool), 1) & tail
        self.determinant[~self.allowed] = 1.0

    def one_bend(self, y: Float[np.ndarray, " point"]) -> _Lines | None:
        """Best fit whose last line is the fall."""
        slope, rest = (self.solve @ y)[1], y - self.line @ (self.solve @ y)
        power, dot = np.diag(self.gram), self.rest.T @ rest
        bend = dot / power
        first = slope - bend * self.hinge_slopes
        fall = first + bend
        gain = np.where((fall < 0) & (first >= fall / STEEPER), dot**2 / power, -np.inf)
        return self._lines(y, (int(np.argmax(gain)),)) if np.isfinite(gain.max()) else None

    def two_bends(self, y: Float[np.ndarray, " point"]) -> _Lines | None:
        """Best fit whose middle line is the fall."""
        slope, rest = (self.solve @ y)[1], y - self.line @ (self.solve @ y)
        power, dot = np.diag(self.gram), self.rest.T @ rest
        u, v = dot[:, None], dot[None, :]
        left = (power[None, :] * u - self.gram * v) / self.determinant
        right = (power[:, None] * v - self.gram * u) / self.determinant
        first = slope - left * self.hinge_slopes[:, None] - right * self.hinge_slopes[None, :]
        fall = first + left
        steep = np.minimum(first, fall + right) >= fall / STEEPER
        gain = np.where(self.allowed & (fall < 0) & steep, left * u + right * v, -np.inf)
        if not np.isfinite(gain.max()):
            return None
        i, j = np.unravel_index(np.argmax(gain), gain.shape)
        return self._lines(y, (int(i), int(j)))

    def _lines(self, y: Float[np.ndarray, " point"], chosen: tuple[int, ...]) -> _Lines:
        columns = np.concatenate([self.line, self.hinges[:, list(chosen)]], axis=1)
        fitted = columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
        bends = tuple(i + 1 for i in chosen)
        return _Lines(bends, float(((y - fitted) ** 2).sum()), fitted)


_DESIGN = _Design(_FIT_POINTS)


def _fall(
    test: Series, fit: _Fit | None, level: evidence.Bootstrap
) -> tuple[_Boundary, _Boundary, list[str]]:
    """Where the steep fall of test loss begins and ends, with intervals."""
    if fit is None:
        return _UNSEEN, _UNSEEN, ["No fall of test loss stands out: cleanup was not reached."]
    resolution = float(fit.grid[1] - fit.grid[0])
    start, *ends = (
        _bounded(float(fit.grid[bend]), list(drawn), test.steps, resolution, level)
        for bend, drawn in zip(fit.lines.bends, _resampled(fit, test.steps, level).T, strict=True)
    )
    if ends:
        return start, ends[0], []
    return start, _UNSEEN, ["The fall of test loss had not ended at the last checkpoint."]


def _fitted(test: Series, since: float) -> _Fit | None:
    """Lines through log test loss around its fall; None where no fall stands out."""
    logs = scipy.ndimage.median_filter(test.at(test.steps), 3, mode="nearest")
    first, last = max(since, float(test.steps[0])), float(test.steps[-1])
    if first >= last:
        return None
    window = (first, last)
    fit = None
    for _ in range(_ROUNDS):
        grid = np.linspace(*window, _FIT_POINTS)
        values = np.interp(grid, test.steps, logs)
        lines = _chosen(values)
        if lines is None:
            return None
        fit = _Fit(grid, values, lines)
        window = _around(grid[list(lines.bends)], first, last)
    return fit if fit and _stands_out(fit) else None


def _chosen(values: Float[np.ndarray, " point"]) -> _Lines | None:
    """Two bends where the second one is worth it, else one."""
    one, two = _DESIGN.one_bend(values), _DESIGN.two_bends(values)
    if one is None or two is None:
        return two or one
    exact = values.size * _EXACT**2
    return two if max(one.error, exact) >= ENDED * max(two.error, exact) else one


def _around(bends: Float[np.ndarray, " bend"], first: float, last: float) -> tuple[float, float]:
    start, end = bends[0], bends[1] if bends.size > 1 else last
    reach = REACH * (end - start)
    return max(first, start - reach), min(last, end + reach)


def _stands_out(fit: _Fit) -> bool:
    fitted, bends = fit.lines.fitted, fit.lines.bends
    fall = fitted[bends[0]] - fitted[bends[1] if len(bends) > 1 else -1]
    return bool(fall >= max(LEAST_FALL, OUTSTANDING * np.std(fit.values - fitted)))


def _block(grid: Float[np.ndarray, " point"], steps: Float[np.ndarray, " checkpoint"]) -> int:
    """Points in a block: a tenth of the window, and no less than two checkpoints lie apart."""
    points = int(np.ceil(2 * np.median(np.diff(steps)) / (grid[1] - grid[0])))
    return int(np.clip(points, grid.size // _BLOCKS, grid.size // 2))


def _resampled(
    fit: _Fit, steps: Float[np.ndarray, " checkpoint"], level: evidence.Bootstrap
) -> Float[np.ndarray, "sample bend"]:
    """Bends of fits to resampled residuals, drawn in blocks because neighbours go together."""
    rng = np.random.default_rng(level["seed"])
    grid, lines = fit.grid, fit.lines
    residuals = fit.values - lines.fitted
    residuals = residuals - residuals.mean()
    inside = steps[(steps > grid[0]) & (steps < grid[-1])]
    inside = np.concatenate([grid[:1], inside, grid[-1:]])
    block = _block(grid, inside)
    n_blocks = -(-grid.size // block)
    solve = _DESIGN.one_bend if len(lines.bends) == 1 else _DESIGN.two_bends
    drawn: list[Float[np.ndarray, " bend"]] = []
    for _ in range(level["n_resamples"]):
        starts = rng.integers(0, grid.size - block + 1, size=n_blocks)
        places = (starts[:, None] + np.arange(block)).ravel()[: grid.size]
        at = inside[_drawn_checkpoints(rng, inside)]
        measured = np.interp(at, grid, lines.fitted + residuals[places])
        again = solve(np.interp(grid, at, measured))
        if again is not None:
            drawn.append(grid[list(again.bends)])
    return np.array(drawn).reshape(-1, len(lines.bends))


def _drawn_checkpoints(
    rng: np.random.Generator, steps: Float[np.ndarray, " checkpoint"]
) -> Int[np.ndarray, " point"]:
    """Checkpoints of a bootstrap sample, in order; the first and the last are always among them."""
    return np.unique([0, *rng.integers(0, steps.size, steps.size), steps.size - 1])


def _bounded(
    step: float,
    drawn: list[float],
    steps: Float[np.ndarray, " checkpoint"],
    resolution: float,
    level: evidence.Bootstrap,
) -> _Boundary:
    """Percentile interval, by the grid's resolution wider, rounded outward to checkpoints."""
    outside = (1 - level["confidence"]) / 2
    low, high = np.quantile([*drawn, step], [outside, 1 - outside])
    low, high = min(low, step) - resolution, max(high, step) + resolution
    before = max(int(np.searchsorted(steps, low, "right")) - 1, 0)
    after = min(int(np.searchsorted(steps, high, "left")), steps.size - 1)
    return _Boundary(step, (float(steps[before]), float(steps[after])))
