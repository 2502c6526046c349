"""Is a sudden drop of a loss worth an alarm? Is it more than a smooth curve with its noise does?

1. Take log10 of the loss. Replace spikes of up to three points by the median around them, and
   average neighbours until at most 400 points are left.
2. The null: a smooth curve plus first-order autoregressive noise. Smooth is a broken power law: a
   cubic spline of log loss over log step with knots half a decade apart; a power law that runs into
   a floor is such a curve. Its coefficients are fitted by generalised least squares.
3. The statistic: for falls (and rises) of every width from one point to a quarter of the curve, at
   every place, fit the fall together with the smooth curve; take the largest |coefficient| over its
   standard error. The correlation is estimated with the best fall taken out and corrected for the
   bias that fitting a smooth curve causes. The noise level is a median, so other drops do not hide
   this one, and the local one where that is higher.
4. The p-value: the share of simulated null curves, this one counted in, whose largest statistic is
   as large, with everything refitted to every curve, so that it holds over all places and widths.
   Neither the smooth curve's coefficients nor the noise level matter to the statistic, so noise
   alone is simulated, at the correlation whose own estimates are as high as the curve's.
5. A drop also has to be at least `minimum` dex deep. Cut it out, and look at both sides again, each
   at the same level, until nothing is found. Then measure each drop with the others cut out.
6. A drop that follows a sudden rise counts from where the loss stood before the rise: the recovery
   from a spike is no drop.

Source: Loader 1996 and Andrews 1993 for the two ingredients, jumps in a smooth regression and
simulated critical values; Caballero et al. 2022, arXiv 2210.14891 (broken power laws); Besag &
Clifford 1991 (sequential Monte Carlo p-values).

Units and sign: sizes in dex, factors of ten of the loss, positive when it falls; 0.1 dex is 21 %.
A size is what the smooth curve would not have given, and never more than the loss itself fell.
Sharpness is dex per decade of steps since the first one: 1 falls like 1/step.

Limits: a drop says that the loss moved, not that the model learned a new thing: a cut of the
learning rate drops it too; ask for a functional measure that moves at the same time. The first few
percent of a run are steep anyway, and hardly anything is sudden there: cut the curve to look
closer. Sudden is meant against the steps so far: a fall that takes 1.25 decades of them (10 % to
90 %) is smooth, one that takes a third of a decade sudden, and between it depends on the place. A
dip of more than three points that is undone again is a drop and a rise.
Counted on simulated curves of 100 to 3,000 points at level 0.05 (`reliability`):
- False alarms: 1 % (4 % without the minimum). More where noise is not what is assumed: 10 % where
  its level falls sevenfold along the run, or is correlated in time with steps at random.
- A drop of 0.2 dex is found, and within 5 % of its step, in 95 % of the curves with noise up to
  0.02 dex (5 %), at any correlation up to 0.9, where it takes up to 3 % of the run (93 % where it
  takes 6 %); with noise of 0.03 dex where it takes 1 % of 200 points or more; with noise of
  0.05 dex where that is uncorrelated, from 200 points on. At 0.05 dex and a correlation of 0.9 it
  is missed in 20 to 85 % of the curves.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import scipy.interpolate
import scipy.ndimage
import scipy.signal
from jaxtyping import Float, Int

from analyses.grokking import curves
from workbench.core import plots, results

ANALYSIS = "grokking.detect_drops"
MOST_POINTS = 400
# Knots of the smooth curve: a fall that takes this many decades of steps is smooth.
SPACING = 0.5
# Correlations at which noise is simulated; estimates are rounded to these.
CORRELATIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.985)
# A level needs this many points before and after a fall.
_SIDE = 4
# No logged loss is smoother than this, in dex from point to point; keeps noise above rounding.
_LEAST_NOISE = 1e-4
# A fall of which the smooth curve leaves less than this share cannot be told from it.
_LEAST_LEFT = 1e-3
_SPIKE_POINTS, _SPIKE_DEVIATIONS, _LEAST_SPIKE = 7, 6.0, 0.02
# Normal standard deviations in a median absolute deviation.
_MAD = 1.4826
# Simulations are drawn by the batch and stop when this many are as large: p is then not small.
_BATCH, _ENOUGH = 100, 30
# The noise level is taken in stretches of this many points, at most so many of them.
_STRETCH, _MOST_STRETCHES = 50, 8
# Falls closer than this share of the wider one, or one point, are one.
_NEAR = 0.25
# The fall goes on beyond the fitted window while it keeps this share of the window's slope.
_GOES_ON = 0.25

_NOISELESS = (
    "the curve has hardly any noise: a small p-value says that no smooth curve of this kind fits, "
    "not that noise could not have done it"
)

Progress = Callable[[float, str], None]


class DropsError(ValueError):
    """A curve cannot be searched for drops; the message says why."""


@dataclasses.dataclass(frozen=True)
class Drops(results.Result):
    """The sudden drops of one curve.

    Attributes:
        name: What the curve is called.
        source: Where it comes from.
        curve_steps: Its steps.
        curve_values: Its values.
        smooth: The smooth curve at each step; NaN within drops.
        band: What 95 % of the points around it keep to; NaN within drops.
        steps: Step of the middle of each drop, in order.
        starts: Last step before each drop.
        ends: First step after each drop.
        sizes: Depth of each drop in dex below what the smooth curve would have given.
        sharpness: Dex per decade of steps, of each drop.
        p_values: Family-wise p-value of each drop, over all places and widths.
        rises: Steps of the sudden rises.
        recoveries: Steps of the falls that only made up for a rise before them.
        noise: Standard deviation of a point around the smooth curve, in dex.
        correlation: Of the noise between neighbours among the points that were searched.
        level: Largest p-value of a drop.
        minimum: Least size of a drop in dex.
        n_points: Points that were searched, after averaging.
        n_simulations: Most null curves for one p-value.
    """

    name: str
    source: str
    curve_steps: Int[np.ndarray, " point"]
    curve_values: Float[np.ndarray, " point"]
    smooth: Float[np.ndarray, " point"]
    band: Float[np.ndarray, "bound point"]
    steps: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    sizes: tuple[float, ...]
    sharpness: tuple[float, ...]
    p_values: tuple[float, ...]
    rises: tuple[int, ...]
    recoveries: tuple[int, ...]
    noise: float
    correlation: float
    level: float
    minimum: float
    n_points: int
    n_simulations: int

    def to_frame(self) -> pd.DataFrame:
        """One row a drop: where it is, how deep, how steep, and how sure."""
        return pd.DataFrame(
            {
                "step": self.steps,
                "start": self.starts,
                "end": self.ends,
                "size_dex": self.sizes,
                "sharpness": self.sharpness,
                "p_value": self.p_values,
            }
        )

    def figure(self) -> go.Figure:
        """The curve on a logarithmic axis, the smooth curve with its band, and the drops."""
        name = plots.escape(self.name)
        figure = plots.line(
            self.curve_steps,
            {name: self.curve_values, "smooth curve, 95 % band": self.smooth},
            x_title="step",
            y_title=f"{name} (logarithmic)",
            bands={"smooth curve, 95 % band": self.band},
            log_y=True,
        )
        for step, start, end, size in zip(
            self.steps, self.starts, self.ends, self.sizes, strict=True
        ):
            figure.add_vrect(
                x0=start, x1=end, fillcolor=plots.COLOURS[3], opacity=0.2, line_width=0
            )
            text = f"−{size:.2g} dex at {step:,}"
            figure.add_vline(x=step, line={"dash": "dot", "width": 1}, annotation_text=text)
        return figure

    def summary(self) -> str:
        """What was found, how sure, and what else was seen."""
        searched = f"{self.name}: {len(self.curve_steps):,} points searched"
        if not self.steps:
            found = (
                f"no sudden drop of {self.minimum:g} dex or more (family-wise p > {self.level:g}); "
                "a smooth curve with its noise does as much."
            )
        else:
            each = "; ".join(
                f"{size:.2g} dex at step {step:,} (from {start:,} to {end:,}, p = {p:.2g})"
                for step, start, end, size, p in zip(
                    self.steps, self.starts, self.ends, self.sizes, self.p_values, strict=True
                )
            )
            count = "one sudden drop" if len(self.steps) == 1 else f"{len(self.steps)} sudden drops"
            found = (
                f"{count} beyond a smooth curve: {each}. A drop is worth a look, not yet a cause."
            )
        more = ""
        if self.recoveries:
            at = ", ".join(f"{step:,}" for step in self.recoveries)
            more = f" Falls that only made up for a sudden rise before them: step {at}."
        if self.steps and self.correlation > CORRELATIONS[-1]:
            more += f" Note: {_NOISELESS}."
        return f"{searched}; {found}{more}"


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How often drops were found in simulated curves.

    Attributes:
        n_curves: Curves that were simulated.
        flagged: Curves with at least one drop.
        located: Curves with a drop within 5 % of the step of the planted one.
    """

    n_curves: int
    flagged: int
    located: int


@dataclasses.dataclass(frozen=True)
class _Jump:
    """A sudden change: positions among the searched points, dex (a rise is positive), evidence."""

    start: int
    end: int
    middle: float
    change: float
    p_value: float

    def moved(self, by: int) -> _Jump:
        """The same change, counted from another point."""
        return dataclasses.replace(
            self, start=self.start + by, end=self.end + by, middle=self.middle + by
        )


def detect_drops(
    curve: curves.Curve,
    *,
    level: float = 0.05,
    minimum: float = 0.1,
    n_simulations: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Drops:
    """Find sudden drops of a loss, each tested against smooth curves with noise.

    Args:
        curve: At least 20 positive values at rising steps.
        level: Largest family-wise p-value of a drop.
        minimum: Least size of a drop in dex (0.1 is a fall by 21 %).
        n_simulations: Null curves for one p-value, at least 1 / level.
        seed: Seed of the simulations.
        progress: Told a fraction and what is going on; may raise to cancel.

    Returns:
        The drops, in order of their steps, beside the smooth curve.

    Raises:
        DropsError: If the curve has too few points, values that are not positive, or steps that do
            not rise; or if level, minimum or n_simulations are out of range.
    """
    started = time.perf_counter()
    _require(curve, level, minimum, n_simulations)
    steps, log_loss, notes = _searched_points(curve)
    found, correlation = _search(
        steps,
        log_loss,
        level=level,
        minimum=minimum,
        n_simulations=n_simulations,
        seed=seed,
        progress=progress,
    )
    if correlation > CORRELATIONS[-1]:
        notes += (_NOISELESS,)
    drops, recovered = _beyond_recovery(found, minimum)
    smooth, noise = _smooth_between(curve, steps, log_loss, found)
    at = functools.partial(_step_at, steps)
    if progress is not None:
        progress(1.0, "done")
    return Drops(
        provenance=results.described(
            curve.source,
            _fingerprint(curve),
            analysis=ANALYSIS,
            parameters={
                "column": curve.name,
                "level": level,
                "minimum": minimum,
                "n_simulations": n_simulations,
            },
            seed=seed,
            wall_time=time.perf_counter() - started,
            dtype="float64",
            notes=notes,
        ),
        name=curve.name,
        source=curve.source,
        curve_steps=curve.steps.copy(),
        curve_values=curve.values.astype(np.float64),
        smooth=10**smooth,
        band=10 ** (smooth + 1.96 * noise * np.array([[-1.0], [1.0]])),
        steps=tuple(at(jump.middle) for jump in drops),
        starts=tuple(at(jump.start) for jump in drops),
        ends=tuple(at(jump.end) for jump in drops),
        sizes=tuple(-jump.change for jump in drops),
        sharpness=tuple(_sharpness(steps, jump) for jump in drops),
        p_values=tuple(jump.p_value for jump in drops),
        rises=tuple(at(jump.middle) for jump in found if jump.change > 0),
        recoveries=tuple(at(jump.middle) for jump in recovered),
        noise=noise,
        correlation=correlation,
        level=level,
        minimum=minimum,
        n_points=len(steps),
        n_simulations=n_simulations,
    )


def simulate(
    n_points: int,
    *,
    exponent: float = 0.5,
    floor: float = 0.1,
    noise: float = 0.02,
    correlation: float = 0.5,
    drop: float = 0.0,
    at: float = 0.5,
    width: float = 0.01,
    seed: int = 0,
) -> curves.Curve:
    """Simulate a curve of known truth: a power law that runs into a floor, noise, maybe a drop.

    Args:
        n_points: Points, ten steps apart.
        exponent: Of the power law.
        floor: Level under which the loss does not fall, as a fraction of its first value.
        noise: Standard deviation in dex.
        correlation: Of the noise between neighbouring points.
        drop: Depth of a planted drop in dex.
        at: Its place as a fraction of the run.
        width: Of the run, in which nearly all (96 %) of it happens: a sigmoid.
        seed: Of the noise.

    Returns:
        The curve.
    """
    x = np.arange(1, n_points + 1)
    smooth = np.log10((1 - floor) * x**-exponent + floor)
    # A logistic function takes 4 scales on either side of its middle for 96 % of its way.
    planted = drop / (1 + np.exp(-np.clip((x / n_points - at) * 8 / width, -500, 500)))
    rng = np.random.default_rng(seed)
    values = 10 ** (smooth - planted + noise * _noise(rng, 1, n_points, correlation)[0])
    return curves.Curve(steps=10 * x, values=values, name="loss", source="simulated")


def reliability(
    n_curves: int,
    *,
    lengths: tuple[int, ...] = (100, 300, 1000, 3000),
    noises: tuple[float, ...] = (0.01, 0.02, 0.05),
    correlations: tuple[float, ...] = (0.0, 0.5, 0.9),
    drop: float = 0.0,
    width: float = 0.01,
    level: float = 0.05,
    minimum: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reliability:
    """Count how often a drop is reported in simulated curves, with a planted drop or without.

    Power laws of exponents 0.1 to 1 with floors between 0.001 and 0.3 of the first value; the
    planted drop lies anywhere from 10 % to 90 % of the run.

    Args:
        n_curves: Curves to simulate, in turn over lengths, noises and correlations.
        lengths: Numbers of points.
        noises: Standard deviations in dex.
        correlations: Of the noise between neighbouring points.
        drop: Depth of the planted drop in dex; 0 for smooth curves.
        width: Of the planted drop, as a fraction of the run.
        level: As in `detect_drops`.
        minimum: As in `detect_drops`.
        seed: Of the curves.
        progress: Told a fraction and what is going on; may raise to cancel.

    Returns:
        The counts.
    """
    rng = np.random.default_rng(seed)
    cells = [(n, s, r) for n in lengths for s in noises for r in correlations]
    flagged = located = 0
    # Lengths in the outer loop: simulated null curves are kept for a length and used again.
    for index in range(n_curves):
        n_points, noise, correlation = cells[index * len(cells) // n_curves]
        place = float(rng.uniform(0.1, 0.9))
        curve = simulate(
            n_points,
            exponent=float(rng.uniform(0.1, 1)),
            floor=float(10 ** rng.uniform(-3, -0.5)),
            noise=noise,
            correlation=correlation,
            drop=drop,
            at=place,
            width=width,
            seed=int(rng.integers(2**32)),
        )
        found = detect_drops(curve, level=level, minimum=minimum)
        truth = place * 10 * n_points
        flagged += bool(found.steps)
        located += drop > 0 and any(abs(at - truth) <= 0.05 * truth for at in found.steps)
        if progress is not None:
            progress((index + 1) / n_curves, "simulated curves")
    return Reliability(n_curves=n_curves, flagged=flagged, located=located)


def _require(curve: curves.Curve, level: float, minimum: float, n_simulations: int) -> None:
    if not 0 < level < 1:
        raise DropsError(f"level = {level}; expected a number between 0 and 1")
    if not minimum >= 0:
        raise DropsError(f"minimum = {minimum}; expected a number of dex, 0 or more")
    if n_simulations < 1 / level:
        raise DropsError(
            f"n_simulations = {n_simulations} cannot show a p-value of {level}; expected at least "
            f"{int(np.ceil(1 / level))}"
        )
    if len(curve.steps) < curves.LEAST_POINTS:
        raise DropsError(
            f"the curve has {len(curve.steps)} points; expected at least {curves.LEAST_POINTS}"
        )
    if not (np.diff(curve.steps) > 0).all():
        raise DropsError("the steps of the curve do not rise; expected each one above the last")
    bad = ~(np.isfinite(curve.values) & (curve.values > 0))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DropsError(
            f"{curve.name} is {curve.values[first]:g} at step {curve.steps[first]}; drops are "
            "factors, so expected values above zero: add a constant that makes them so"
        )


def _fingerprint(curve: curves.Curve) -> str:
    content = hashlib.sha256(curve.steps.astype("<i8").tobytes())
    content.update(curve.values.astype("<f8").tobytes())
    return content.hexdigest()


def _searched_points(
    curve: curves.Curve,
) -> tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"], tuple[str, ...]]:
    """Steps and log10 loss as they are searched, and what was done to get them."""
    notes: list[str] = []
    steps, y = curve.steps.astype(np.float64), np.log10(curve.values.astype(np.float64))
    y, spikes = _without_spikes(y)
    if (size := -(-len(y) // MOST_POINTS)) > 1:
        notes.append(f"{size} neighbouring points each were averaged")
        edges = np.arange(0, len(y) - size + 1, size)
        counts = np.diff(np.append(edges, len(y)))
        steps, y = (np.add.reduceat(part, edges) / counts for part in (steps, y))
        y, more = _without_spikes(y)
        spikes += more
    if spikes:
        notes.append(f"points that were spikes, replaced by the median around them: {spikes}")
    return steps, y, tuple(notes)


def _without_spikes(y: np.ndarray) -> tuple[np.ndarray, int]:
    around = scipy.ndimage.median_filter(y, size=_SPIKE_POINTS, mode="nearest")
    off = np.abs(y - around)
    spikes = off > max(_SPIKE_DEVIATIONS * _MAD * float(np.median(off)), _LEAST_SPIKE)
    return np.where(spikes, around, y), int(spikes.sum())


def _gap(steps: np.ndarray) -> float:
    return float(np.median(np.diff(steps[:6])))


def _decades(steps: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Decades of steps since the start, the first point's distance from the second being one."""
    return np.log10((steps - steps[0]) / _gap(steps) + 1)


def _step_at(steps: np.ndarray, position: float | int) -> int:
    return round(float(np.interp(position, np.arange(len(steps)), steps)))


def _sharpness(steps: np.ndarray, jump: _Jump) -> float:
    decades = _decades(steps)
    return -jump.change / float(decades[jump.end] - decades[jump.start])


def _search(
    steps: np.ndarray,
    y: np.ndarray,
    *,
    level: float,
    minimum: float,
    n_simulations: int,
    seed: int,
    progress: Progress | None,
) -> tuple[list[_Jump], float]:
    """All sudden changes, each cut out before both its sides are searched again."""
    waiting, found = [(0, len(y))], list[_Jump]()
    # Points and correlation of the longest stretch without a sudden change.
    longest: tuple[int, float] | None = None
    done, rho = 0, float("nan")
    while waiting:
        first, stop = waiting.pop()
        if progress is not None:
            progress(done / len(y), f"searching {stop - first} of {len(y)} points")
        if stop - first < curves.LEAST_POINTS:
            done += stop - first
            continue
        scan = _scan(_decades(steps[first:stop]).round(9).tobytes(), n_simulations, seed)
        jump, rho = scan.largest(y[first:stop], minimum)
        if jump is None or jump.p_value > level:
            longest = max(longest or (0, 0.0), (stop - first, rho))
            done += stop - first
            continue
        jump = jump.moved(first)
        found.append(jump)
        waiting += [(first, jump.start + 1), (jump.end, stop)]
    rho = longest[1] if longest else rho
    return _remeasured(y, steps, _joined(sorted(found, key=lambda jump: jump.start)), rho), rho


def _remeasured(y: np.ndarray, steps: np.ndarray, jumps: list[_Jump], rho: float) -> list[_Jump]:
    """Sizes with the other changes out of sight, which bent the smooth curve when it was found."""
    sized: list[_Jump] = []
    for index, jump in enumerate(jumps):
        first = jumps[index - 1].end if index else 0
        stop = jumps[index + 1].start + 1 if index + 1 < len(jumps) else len(y)
        at = steps[first:stop]
        ramp = np.clip((at - steps[jump.start]) / (steps[jump.end] - steps[jump.start]), 0, 1)
        columns = np.column_stack([_basis(_decades(at)), ramp]).T
        fit = np.linalg.lstsq(_whitened(columns, rho).T, _whitened(y[None, first:stop], rho)[0])
        # Across a wide gap the smooth curve is a guess; what the loss itself did is not.
        before, after = (
            y[max(first, jump.start - _SIDE + 1) : jump.start + 1],
            y[jump.end :][:_SIDE],
        )
        moved = sorted(
            [0.0, float(after.mean() - before.mean()), float(y[jump.end] - y[jump.start])]
        )
        sized.append(
            dataclasses.replace(jump, change=float(np.clip(fit[0][-1], moved[0], moved[-1])))
        )
    return sized


def _joined(jumps: list[_Jump]) -> list[_Jump]:
    """Put together neighbouring changes of one sign: the foot of a large fall is part of it."""
    joined: list[_Jump] = []
    for jump in jumps:
        before = joined[-1] if joined else None
        if before is not None and before.change * jump.change > 0:
            wider = max(before.end - before.start, jump.end - jump.start)
            if jump.start - before.end <= max(_NEAR * wider, 1):
                main = max(before, jump, key=lambda one: abs(one.change))
                joined[-1] = dataclasses.replace(
                    main, start=before.start, end=jump.end, change=before.change + jump.change
                )
                continue
        joined.append(jump)
    return joined


def _beyond_recovery(jumps: list[_Jump], minimum: float) -> tuple[list[_Jump], list[_Jump]]:
    """Drops below where the loss stood before any sudden rise, and those that only made up."""
    risen, drops, recovered = 0.0, list[_Jump](), list[_Jump]()
    for jump in jumps:
        if jump.change > 0:
            risen += jump.change
            continue
        back = min(risen, -jump.change)
        risen -= back
        if -jump.change - back >= minimum:
            drops.append(dataclasses.replace(jump, change=jump.change + back))
        elif back > 0:
            recovered.append(jump)
    return drops, recovered


def _smooth_between(
    curve: curves.Curve, steps: np.ndarray, y: np.ndarray, jumps: list[_Jump]
) -> tuple[Float[np.ndarray, " point"], float]:
    """Smooth curve of each stretch between sudden changes, at the curve's own steps; its noise."""
    at = curve.steps.astype(np.float64)
    smooth = np.full(len(at), np.nan)
    first = 0
    for stop in [*(jump.start + 1 for jump in jumps), len(y)]:
        stretch = slice(first, stop)
        if stop - first > 1:
            q = _orthonormal(_basis(_decades(steps[stretch])))
            inside = (at >= steps[first]) & (at <= steps[stop - 1])
            inside |= (at < steps[0]) if first == 0 else False
            inside |= (at > steps[-1]) if stop == len(y) else False
            smooth[inside] = np.interp(at[inside], steps[stretch], q @ (q.T @ y[stretch]))
        first = next((jump.end for jump in jumps if jump.start + 1 == stop), stop)
    off = np.abs(np.log10(curve.values) - smooth)
    return smooth, float(_MAD * np.nanmedian(off)) if np.isfinite(off).any() else float("nan")


def _basis(decades: Float[np.ndarray, " point"]) -> Float[np.ndarray, "point row"]:
    """Cubic B-splines over decades of steps, or a straight line where there are few points."""
    n, reach = len(decades), float(decades[-1])
    if n < 2 * _SIDE:
        return np.stack([np.ones(n), decades], axis=1)[:, : max(1, n - 1)]
    # At least six points a coefficient.
    intervals = int(np.clip(round(reach / SPACING), 1, max(1, n // 6 - 3)))
    inner = np.linspace(0, reach, intervals + 1)
    knots = np.concatenate([[0.0] * 3, inner, [reach] * 3])
    return scipy.interpolate.BSpline.design_matrix(decades, knots, 3).toarray()


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns with the same span; splines that no point tells apart fall together."""
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > s[0] * 1e-8]


def _whitened(rows: np.ndarray, correlation: float) -> np.ndarray:
    """Rows turned so that autoregressive noise of this correlation becomes white."""
    turned = rows.copy()
    turned[:, 1:] -= correlation * rows[:, :-1]
    turned[:, 0] *= np.sqrt(1 - correlation**2)
    return turned


def _noise(rng: np.random.Generator, count: int, n: int, correlation: float) -> np.ndarray:
    """Autoregressive noise of standard deviation 1."""
    shocks = rng.standard_normal((count, n))
    shocks[:, 1:] *= np.sqrt(1 - correlation**2)
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -correlation], shocks, axis=1))


@functools.lru_cache(maxsize=8)
def _scan(decades: bytes, n_simulations: int, seed: int) -> _Scan:
    return _Scan(np.frombuffer(decades), n_simulations, seed)


class _Scan:
    """The search of points at given decades: what does not depend on the curve's values.

    Simulated null curves are kept, because curves with the same steps need the same ones.
    """

    def __init__(self, decades: np.ndarray, n_simulations: int, seed: int) -> None:
        self.decades, self.n_simulations, self.seed = decades, n_simulations, seed
        self.basis = _basis(decades)
        self.starts, self.widths = _windows(len(decades))
        self.templates = self._ramps(self.starts, self.widths)
        self.stretches = _stretches(len(decades), self.starts + self.widths / 2)
        self.plain = self._design(0.0)
        self.designs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.maxima: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self.rho_grid = np.linspace(0, 0.995, 200)
        self.expected_rho = self._expected_correlations()

    def largest(self, y: np.ndarray, minimum: float) -> tuple[_Jump | None, float]:
        """The most significant sudden change of at least `minimum` dex, and the correlation."""
        row = y[None]
        rho = float(self.correlations(row)[0])
        t, sizes = self.statistics(row, np.array([rho]))
        t, sizes = t[0], sizes[0]
        enough = (np.abs(sizes) >= minimum) & self._happens(y, sizes)
        if not enough.any():
            return None, rho
        best = int(np.argmax(np.where(enough, np.abs(t), -1)))
        p_value = self.p_value(abs(float(t[best])), rho)
        return self._described(y, best, float(sizes[best]), p_value), rho

    def _happens(self, y: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Whether the curve itself moves that way, by half as much at least, at each change.

        Where a curve bends sharply a fall can be fitted to make up for the smooth curve's error.
        """
        level = np.convolve(y, np.ones(_SIDE) / _SIDE, mode="valid")
        moved = level[self.starts + self.widths] - level[self.starts - _SIDE + 1]
        return np.sign(sizes) * moved >= np.abs(sizes) / 2

    def correlations(self, rows: np.ndarray) -> np.ndarray:
        """Correlation of each row's noise, with the best sudden change taken out."""
        q, templates, _ = self.plain
        left = rows - (rows @ q) @ q.T
        fits = left @ templates.T
        best = np.abs(fits).argmax(1)
        left = left - np.take_along_axis(fits, best[:, None], 1) * templates[best]
        power = np.maximum((left**2).sum(1), 1e-300)
        raw = (left[:, 1:] * left[:, :-1]).sum(1) / power
        return np.interp(raw, self.expected_rho, self.rho_grid)

    def statistics(self, rows: np.ndarray, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coefficient over standard error, and coefficient, of every sudden change in each row."""
        t = np.empty((len(rows), len(self.starts)))
        sizes = np.empty_like(t)
        nodes = np.abs(np.array(CORRELATIONS)[None] - rho[:, None]).argmin(1)
        for node in np.unique(nodes):
            chosen = nodes == node
            if int(node) not in self.designs:
                self.designs[int(node)] = self._design(CORRELATIONS[node])
            q, templates, norms = self.designs[int(node)]
            turned = _whitened(rows[chosen], CORRELATIONS[node])
            left = turned - (turned @ q) @ q.T
            fits = left @ templates.T
            best = np.abs(fits).argmax(1)
            rest = left - np.take_along_axis(fits, best[:, None], 1) * templates[best]
            t[chosen] = fits / self._scales(rest)
            sizes[chosen] = fits / norms
        return t, sizes

    def _scales(self, rest: np.ndarray) -> np.ndarray:
        """Noise level of each row at each change: the local one, and not less than the overall."""
        sizes = np.abs(rest)
        overall = np.maximum(_MAD * np.median(sizes, axis=1, keepdims=True), _LEAST_NOISE)
        stretches = np.array_split(sizes, self.stretches.shape[0], axis=1)
        local = [_MAD * np.median(stretch, axis=1) for stretch in stretches]
        return np.maximum(overall, np.stack(local, axis=1) @ self.stretches)

    def p_value(self, statistic: float, rho: float) -> float:
        """Share of null curves, this one counted in, with as large a statistic somewhere."""
        node = self.null_correlation(rho)
        above = drawn = 0
        while drawn < self.n_simulations and above < _ENOUGH:
            maxima, _ = self._null(node, drawn // _BATCH)
            maxima = maxima[: self.n_simulations - drawn]
            above += int((maxima >= statistic).sum())
            drawn += len(maxima)
        return (above + 1) / (drawn + 1)

    def null_correlation(self, rho: float) -> int:
        """Index of the least correlation that is estimated to be `rho` or more half of the time."""
        node, last = int(np.searchsorted(CORRELATIONS, rho)), len(CORRELATIONS) - 1
        while node < last and np.median(self._null(node, 0)[1]) < rho:
            node += 1
        return min(node, last)

    def _null(self, node: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Largest statistics, and estimated correlations, of a batch of simulated null curves."""
        if (node, batch) not in self.maxima:
            rng = np.random.default_rng([self.seed, node, batch])
            rows = _noise(rng, _BATCH, len(self.decades), CORRELATIONS[node])
            estimates = self.correlations(rows)
            t, _ = self.statistics(rows, estimates)
            self.maxima[node, batch] = np.abs(t).max(1), estimates
        return self.maxima[node, batch]

    def _ramps(self, starts: np.ndarray, widths: np.ndarray) -> np.ndarray:
        places = 10**self.decades
        first, last = places[starts, None], places[starts + widths, None]
        return np.clip((places - first) / (last - first), 0, 1)

    def _design(self, rho: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whitened smooth curves, what they leave of each change at norm 1, and the norm before."""
        q = _orthonormal(_whitened(self.basis.T, rho).T)
        turned = _whitened(self.templates, rho)
        left = turned - (turned @ q) @ q.T
        norms = np.linalg.norm(left, axis=1)
        absorbed = norms < _LEAST_LEFT * np.linalg.norm(turned, axis=1)
        # A change that the smooth curve can do itself takes no part: no fit, and no size.
        norms[absorbed], left[absorbed] = 1.0, 0.0
        return q, left / norms[:, None], norms

    def _expected_correlations(self) -> np.ndarray:
        """What residuals of the smooth curve show on average, for each true correlation.

        Fitting takes slow noise away. The ratio of expectations is exact: with M the projection
        off the smooth curves, S the mean of both shifts and T the noise's Toeplitz covariance, it
        is trace(M S M T) over trace(M T).
        """
        n = len(self.decades)
        q = self.plain[0]
        off = np.eye(n) - q @ q.T
        shift = (np.eye(n, k=1) + np.eye(n, k=-1)) / 2
        powers = self.rho_grid[:, None] ** np.arange(n)
        lagged, level = (powers @ _diagonal_sums(matrix) for matrix in (off @ shift @ off, off))
        return np.maximum.accumulate(lagged / level)

    def _described(self, y: np.ndarray, best: int, change: float, p_value: float) -> _Jump:
        start, width = int(self.starts[best]), int(self.widths[best])
        first, last = _extended(y, start, start + width, change)
        return _Jump(first, last, start + width / 2, change, p_value)


def _windows(n: int) -> tuple[np.ndarray, np.ndarray]:
    """First points and widths of the sudden changes that are looked for."""
    pairs: list[tuple[int, int]] = []
    width = 1
    while width <= max(1, n // 4):
        stride = max(1, width // 4)
        pairs += [(s, width) for s in range(_SIDE - 1, n - _SIDE - width + 1, stride)]
        width = max(width + 1, round(width * 1.5))
    starts, widths = np.array(pairs).T
    return starts, widths


def _stretches(n: int, middles: np.ndarray) -> np.ndarray:
    """Weights that interpolate from stretches of the curve to the middles of changes."""
    count = int(np.clip(n // _STRETCH, 1, _MOST_STRETCHES))
    centres = (np.arange(count) + 0.5) * n / count
    return np.stack([np.interp(middles, centres, row) for row in np.eye(count)])


def _diagonal_sums(matrix: np.ndarray) -> np.ndarray:
    """Sums of a symmetric matrix over all pairs of entries 0, 1, 2 … apart."""
    n = len(matrix)
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    return np.bincount(distance.ravel(), weights=matrix.ravel(), minlength=n)


def _extended(y: np.ndarray, first: int, last: int, change: float) -> tuple[int, int]:
    """Grow a window while the curve goes on as fast as a share of the window's slope."""
    width = last - first
    block, slope = max(1, width // 4), change / width
    sign, least = np.sign(slope), _GOES_ON * abs(slope) * max(1, width // 4)
    low, high = max(0, first - width), min(len(y) - 1, last + width)
    while first - block >= low and sign * (y[first] - y[first - block]) >= least:
        first -= block
    while last + block <= high and sign * (y[last + block] - y[last]) >= least:
        last += block
    return first, last
