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
5. A drop also has to be at least `minimum` dex deep. It reaches as far as the loss keeps a quarter
   of its slope. Cut it out, and look at both sides again, each at the same level, until nothing is
   found. Neighbours with no pause between them are one drop; a foot flatter than a quarter of the
   drop's slope belongs to it, but not to its extent. Then measure each with the others cut out.
6. A drop that follows a sudden rise counts from where the loss stood before the rise: the recovery
   from a spike is no drop.

Source: Loader 1996 and Andrews 1993 for the two ingredients, jumps in a smooth regression and
simulated critical values; Caballero et al. 2022, arXiv 2210.14891 (broken power laws); Besag &
Clifford 1991 (sequential Monte Carlo p-values).

Units and sign: sizes in dex, factors of ten of the loss, positive when it falls; 0.1 dex is 21 %.
A size is what the smooth curve would not have given, and never more than the loss itself fell. The
points within a fall of up to half a decade of steps take no part in that smooth curve; a straight
ramp stands for a wider fall.
Sharpness is dex per decade of steps since the first one: 1 falls like 1/step.

Limits: a drop says that the loss moved, not that the model learned a new thing: a cut of the
learning rate drops it too; ask for a functional measure that moves at the same time. The first few
percent of a run are steep anyway, and hardly anything is sudden there: cut the curve to look
closer. Sudden is meant against the steps so far: a fall that takes 1.25 decades of them (10 % to
90 %) is smooth, one that takes a third of a decade sudden, and between it depends on the place. A
dip of more than three points that is undone again is a drop and a rise. Equal falls closer than
about 6 % of the run may be reported as one. A run that stops within its fall, or right after it,
shows no level that follows, so the fall is missed or its size too small: train on.
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
import scipy.ndimage
from jaxtyping import Float, Int

from analyses.grokking import curves, drop_scan
from workbench.core import plots, results

ANALYSIS = "grokking.detect_drops"
MOST_POINTS = 400
_SPIKE_POINTS, _SPIKE_DEVIATIONS, _LEAST_SPIKE = 7, 6.0, 0.02
# Falls closer than this share of the wider one, or one point, are one.
_NEAR = 0.25
# Two falls are one if the loss keeps this share of the flatter one's slope between them.
_NO_PAUSE = 0.5

# Of the picture: width of a label as a share of the curve's steps, its height in pixels.
_LABEL_WIDTH, _LABEL_HEIGHT = 0.22, 18
# Loss axes of more decades than this show powers of ten only, at most so many.
_FEW_DECADES, _MOST_TICKS = 3, 10

_NOISELESS = (
    "the curve has hardly any noise: a small p-value says that no smooth curve of this kind fits, "
    "not that noise could not have done it"
)

Progress = Callable[[float, str], None]

_SMOOTH = "smooth curve, 95 % band"


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
            {name: self.curve_values, _SMOOTH: self.smooth},
            x_title="step",
            y_title=f"{name} (logarithmic)",
            log_y=True,
            bands={_SMOOTH: self.band},
        )
        rows = _label_rows(self.steps, int(self.curve_steps[-1] - self.curve_steps[0]))
        for start, end in zip(self.starts, self.ends, strict=True):
            figure.add_vrect(
                x0=start, x1=end, fillcolor=plots.COLOURS[3], opacity=0.2, line_width=0
            )
        for step, size, row in zip(self.steps, self.sizes, rows, strict=True):
            figure.add_vline(x=step, line={"dash": "dot", "width": 1})
            figure.add_annotation(
                text=f"−{size:.2g} dex at {step:,}",
                x=step,
                y=1,
                yref="paper",
                yshift=-_LABEL_HEIGHT * row,
                yanchor="top",
                xanchor=self._label_side(step),
                showarrow=False,
            )
        return figure.update_yaxes(**plots.POWERS_OF_TEN, dtick=self._decades_a_tick())

    def _label_side(self, step: int) -> str:
        """Labels run to the right of their drop, and to the left where the plot would end."""
        first, last = self.curve_steps[0], self.curve_steps[-1]
        return "right" if (step - first) > (1 - _LABEL_WIDTH) * (last - first) else "left"

    def _decades_a_tick(self) -> int | None:
        decades = float(np.ptp(np.log10(self.curve_values)))
        return max(1, round(decades / _MOST_TICKS)) if decades > _FEW_DECADES else None

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
        if self.steps and self.correlation > drop_scan.CORRELATIONS[-1]:
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
    if correlation > drop_scan.CORRELATIONS[-1]:
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
    values = 10 ** (smooth - planted + noise * drop_scan.noise(rng, 1, n_points, correlation)[0])
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


def _label_rows(steps: tuple[int, ...], reach: int) -> list[int]:
    """Row of each label from the top: the first one where no label before it is in the way."""
    taken: list[int] = []
    rows: list[int] = []
    for step in steps:
        free = [row for row, at in enumerate(taken) if step - at > _LABEL_WIDTH * reach]
        row = free[0] if free else len(taken)
        taken[row : row + 1] = [step]
        rows.append(row)
    return rows


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
    spikes = off > max(_SPIKE_DEVIATIONS * drop_scan.MAD * float(np.median(off)), _LEAST_SPIKE)
    return np.where(spikes, around, y), int(spikes.sum())


def _gap(steps: np.ndarray) -> float:
    return float(np.median(np.diff(steps[:6])))


def _decades(steps: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Decades of steps since the start, the first point's distance from the second being one."""
    return np.log10((steps - steps[0]) / _gap(steps) + 1)


def _step_at(steps: np.ndarray, position: float | int) -> int:
    return round(float(np.interp(position, np.arange(len(steps)), steps)))


def _sharpness(steps: np.ndarray, jump: drop_scan.Jump) -> float:
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
) -> tuple[list[drop_scan.Jump], float]:
    """All sudden changes, each cut out before both its sides are searched again."""
    waiting, found = [(0, len(y))], list[drop_scan.Jump]()
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
        scan = drop_scan.scan_of(
            _decades(steps[first:stop]).round(9).tobytes(), n_simulations, seed
        )
        jump, rho = scan.largest(y[first:stop], minimum)
        if jump is None or jump.p_value > level:
            longest = max(longest or (0, 0.0), (stop - first, rho))
            done += stop - first
            continue
        jump = jump.moved(first)
        found.append(jump)
        waiting += [(first, jump.start + 1), (jump.end, stop)]
    rho = longest[1] if longest else rho
    joined = _joined(y, steps, sorted(found, key=lambda jump: jump.start))
    return _remeasured(y, steps, joined, rho), rho


def _remeasured(
    y: np.ndarray, steps: np.ndarray, jumps: list[drop_scan.Jump], rho: float
) -> list[drop_scan.Jump]:
    """Sizes with the other changes out of sight, which bent the smooth curve when it was found."""
    sized: list[drop_scan.Jump] = []
    for index, jump in enumerate(jumps):
        first = jumps[index - 1].end if index else 0
        stop = jumps[index + 1].start + 1 if index + 1 < len(jumps) else len(y)
        change = _excess(y[first:stop], steps[first:stop], jump.moved(-first), rho)
        # Across a wide gap the smooth curve is a guess; what the loss itself did is not.
        before, after = (
            y[max(first, jump.start - drop_scan.SIDE + 1) : jump.start + 1],
            y[jump.end :][: drop_scan.SIDE],
        )
        moved = sorted(
            [0.0, float(after.mean() - before.mean()), float(y[jump.end] - y[jump.start])]
        )
        sized.append(dataclasses.replace(jump, change=float(np.clip(change, moved[0], moved[-1]))))
    return sized


def _excess(y: np.ndarray, steps: np.ndarray, jump: drop_scan.Jump, rho: float) -> float:
    """What a change adds to the smooth curve that is fitted with it, and around it if that goes."""
    decades = _decades(steps)
    smooth = drop_scan.basis(decades)
    ramp = np.clip((steps - steps[jump.start]) / (steps[jump.end] - steps[jump.start]), 0, 1)
    columns = [ramp, smooth]
    both_sides = min(jump.start + 1, len(y) - jump.end) >= drop_scan.SIDE
    if both_sides and decades[jump.end] - decades[jump.start] <= drop_scan.SPACING:
        # A column for each point within takes it out of the fit: whatever the shape of the fall,
        # it does not bend the smooth curve, and knots this far apart carry that across.
        columns.append(np.eye(len(y))[:, jump.start + 1 : jump.end])
    design = np.column_stack(columns).T
    fit = np.linalg.lstsq(drop_scan.whitened(design, rho).T, drop_scan.whitened(y[None], rho)[0])
    return float(fit[0][0])


def _joined(y: np.ndarray, steps: np.ndarray, jumps: list[drop_scan.Jump]) -> list[drop_scan.Jump]:
    """Put together neighbouring changes of one sign: the foot of a large fall is part of it."""
    joined: list[drop_scan.Jump] = []
    for jump in jumps:
        before = joined[-1] if joined else None
        if before is not None and _belong_together(y, steps, before, jump):
            joined[-1] = _one_change(y, steps, before, jump)
        else:
            joined.append(jump)
    return joined


def _belong_together(
    y: np.ndarray, steps: np.ndarray, one: drop_scan.Jump, after: drop_scan.Jump
) -> bool:
    """Whether a change goes on in the one after it: of its sign, and close or without a pause."""
    if one.change * after.change <= 0:
        return False
    gap = after.start - one.end
    wider = max(one.end - one.start, after.end - after.start)
    if gap <= max(_NEAR * wider, 1):
        return True
    between = float(np.sign(one.change)) * _slope(y, steps, one.end, after.start)
    flatter = min(abs(_slope(y, steps, at.start, at.end)) for at in (one, after))
    return gap <= wider and between >= _NO_PAUSE * flatter


def _one_change(
    y: np.ndarray, steps: np.ndarray, one: drop_scan.Jump, after: drop_scan.Jump
) -> drop_scan.Jump:
    """Two changes as one, which lies where the larger does if the other is but its flat foot."""
    main, other = sorted((one, after), key=lambda at: -abs(at.change))
    change = one.change + after.change
    main_slope, other_slope = (abs(_slope(y, steps, at.start, at.end)) for at in (main, other))
    if other_slope < drop_scan.GOES_ON * main_slope:
        return dataclasses.replace(main, change=change)
    return dataclasses.replace(main, start=one.start, end=after.end, change=change)


def _slope(y: np.ndarray, steps: np.ndarray, first: int, last: int) -> float:
    return float((y[last] - y[first]) / (steps[last] - steps[first]))


def _beyond_recovery(
    jumps: list[drop_scan.Jump], minimum: float
) -> tuple[list[drop_scan.Jump], list[drop_scan.Jump]]:
    """Drops below where the loss stood before any sudden rise, and those that only made up."""
    risen, drops, recovered = 0.0, list[drop_scan.Jump](), list[drop_scan.Jump]()
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
    curve: curves.Curve, steps: np.ndarray, y: np.ndarray, jumps: list[drop_scan.Jump]
) -> tuple[Float[np.ndarray, " point"], float]:
    """Smooth curve of each stretch between sudden changes, at the curve's own steps; its noise."""
    at = curve.steps.astype(np.float64)
    smooth = np.full(len(at), np.nan)
    first = 0
    for stop in [*(jump.start + 1 for jump in jumps), len(y)]:
        stretch = slice(first, stop)
        if stop - first > 1:
            q = drop_scan.orthonormal(drop_scan.basis(_decades(steps[stretch])))
            inside = (at >= steps[first]) & (at <= steps[stop - 1])
            inside |= (at < steps[0]) if first == 0 else False
            inside |= (at > steps[-1]) if stop == len(y) else False
            smooth[inside] = np.interp(at[inside], steps[stretch], q @ (q.T @ y[stretch]))
        first = next((jump.end for jump in jumps if jump.start + 1 == stop), stop)
    off = np.abs(np.log10(curve.values) - smooth)
    typical = np.nanmedian(off) if np.isfinite(off).any() else np.nan
    return smooth, float(drop_scan.MAD * typical)
