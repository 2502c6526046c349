"""Which sudden change in a row of points is the most significant, and how likely is it by chance?

1. `basis`: smooth curves, cubic splines over decades of steps with knots half a decade apart.
2. `Scan` fits every fall and rise (ramps of all widths at all places) together with the smooth
   curve, by generalised least squares for first-order autoregressive noise; its statistic is the
   largest |coefficient| over its standard error.
3. The p-value is the share of simulated null curves with as large a statistic anywhere.

Source: `analyses.grokking.drops`, which searches a loss with this and tells the method in full.

Units and sign: changes in dex, negative when the loss falls; places and widths in points.

Limits: at least 20 points; time and memory grow with the square of their number, so that callers
average to a few hundred first.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.interpolate
import scipy.signal
from jaxtyping import Float

# Knots of the smooth curve: a fall that takes this many decades of steps is smooth.
SPACING = 0.5
# Correlations at which noise is simulated; estimates are rounded to these.
CORRELATIONS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.985)
# A level needs this many points before and after a fall.
SIDE = 4
# No logged loss is smoother than this, in dex from point to point; keeps noise above rounding.
_LEAST_NOISE = 1e-4
# A fall of which the smooth curve leaves less than this share cannot be told from it.
_LEAST_LEFT = 1e-3
# Normal standard deviations in a median absolute deviation.
MAD = 1.4826
# Simulations are drawn by the batch and stop when this many are as large: p is then not small.
_BATCH, _ENOUGH = 100, 30
# The noise level is taken in stretches of this many points, at most so many of them.
_STRETCH, _MOST_STRETCHES = 50, 8
# The fall goes on beyond the fitted window while it keeps this share of the window's slope.
GOES_ON = 0.25


@dataclasses.dataclass(frozen=True)
class Jump:
    """A sudden change: positions among the searched points, dex (a rise is positive), evidence.

    Attributes:
        start: Last point before the change.
        end: First point after it.
        middle: Its middle, between points maybe.
        change: In dex; negative for a fall.
        p_value: Over all places and widths.
    """

    start: int
    end: int
    middle: float
    change: float
    p_value: float

    def moved(self, by: int) -> Jump:
        """Count the same change from another point.

        Args:
            by: Points to add to its places.

        Returns:
            The change at its new place.
        """
        return dataclasses.replace(
            self, start=self.start + by, end=self.end + by, middle=self.middle + by
        )


def basis(decades: Float[np.ndarray, " point"]) -> Float[np.ndarray, "point row"]:
    """Make cubic B-splines over decades of steps, or a straight line where there are few points.

    Args:
        decades: Decades of steps since the first point; rising from 0.

    Returns:
        One column a spline.
    """
    n, reach = len(decades), float(decades[-1])
    if n < 2 * SIDE:
        return np.stack([np.ones(n), decades], axis=1)[:, : max(1, n - 1)]
    # At least six points a coefficient.
    intervals = int(np.clip(round(reach / SPACING), 1, max(1, n // 6 - 3)))
    inner = np.linspace(0, reach, intervals + 1)
    knots = np.concatenate([[0.0] * 3, inner, [reach] * 3])
    return scipy.interpolate.BSpline.design_matrix(decades, knots, 3).toarray()


def orthonormal(columns: Float[np.ndarray, "point row"]) -> Float[np.ndarray, "point span"]:
    """Find orthonormal columns with the same span; those that no point tells apart fall together.

    Args:
        columns: Of any scale.

    Returns:
        As many columns as there are dimensions, or fewer.
    """
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    return u[:, s > s[0] * 1e-8]


def whitened(
    rows: Float[np.ndarray, "row point"], correlation: float
) -> Float[np.ndarray, "row point"]:
    """Turn rows so that autoregressive noise of this correlation becomes white.

    Args:
        rows: Curves, or columns of a design on their side.
        correlation: Of the noise between neighbouring points.

    Returns:
        The turned rows.
    """
    turned = rows.copy()
    turned[:, 1:] -= correlation * rows[:, :-1]
    turned[:, 0] *= np.sqrt(1 - correlation**2)
    return turned


def noise(
    rng: np.random.Generator, count: int, n: int, correlation: float
) -> Float[np.ndarray, "row point"]:
    """Draw autoregressive noise of standard deviation 1.

    Args:
        rng: Where chance comes from.
        count: Rows.
        n: Points a row.
        correlation: Between neighbouring points.

    Returns:
        The noise.
    """
    shocks = rng.standard_normal((count, n))
    shocks[:, 1:] *= np.sqrt(1 - correlation**2)
    return np.asarray(scipy.signal.lfilter([1.0], [1.0, -correlation], shocks, axis=1))


@functools.lru_cache(maxsize=8)
def scan_of(decades: bytes, n_simulations: int, seed: int) -> Scan:
    """Make the search of points, or give the one that was made for the same points before.

    Args:
        decades: Bytes of the decades of steps since the first point, in double precision.
        n_simulations: Most null curves for one p-value.
        seed: Of these.

    Returns:
        The search.
    """
    return Scan(np.frombuffer(decades), n_simulations, seed)


class Scan:
    """The search of points at given decades: what does not depend on the curve's values.

    Simulated null curves are kept, because curves with the same steps need the same ones.

    Args:
        decades: Decades of steps since the first point.
        n_simulations: Most null curves for one p-value.
        seed: Of these.
    """

    def __init__(self, decades: np.ndarray, n_simulations: int, seed: int) -> None:
        self.decades, self.n_simulations, self.seed = decades, n_simulations, seed
        self.basis = basis(decades)
        self.starts, self.widths = _windows(len(decades))
        self.templates = self._ramps(self.starts, self.widths)
        self.stretches = _stretches(len(decades), self.starts + self.widths / 2)
        self.plain = self._design(0.0)
        self.designs: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.maxima: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self.rho_grid = np.linspace(0, 0.995, 200)
        self.expected_rho = self._expected_correlations()

    def largest(self, y: np.ndarray, minimum: float) -> tuple[Jump | None, float]:
        """Find the most significant sudden change that is large enough.

        Args:
            y: log10 of the loss at the points.
            minimum: Least size of the change in dex.

        Returns:
            The change, or None, and the estimated correlation of the noise.
        """
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
        level = np.convolve(y, np.ones(SIDE) / SIDE, mode="valid")
        moved = level[self.starts + self.widths] - level[self.starts - SIDE + 1]
        return np.sign(sizes) * moved >= np.abs(sizes) / 2

    def correlations(self, rows: np.ndarray) -> np.ndarray:
        """Estimate the correlation of each row's noise, with the best sudden change taken out.

        Args:
            rows: Curves.

        Returns:
            One correlation a curve.
        """
        q, templates, _ = self.plain
        left = rows - (rows @ q) @ q.T
        fits = left @ templates.T
        best = np.abs(fits).argmax(1)
        left = left - np.take_along_axis(fits, best[:, None], 1) * templates[best]
        power = np.maximum((left**2).sum(1), 1e-300)
        raw = (left[:, 1:] * left[:, :-1]).sum(1) / power
        return np.interp(raw, self.expected_rho, self.rho_grid)

    def statistics(self, rows: np.ndarray, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit every sudden change to each row.

        Args:
            rows: Curves.
            rho: Correlation of the noise of each.

        Returns:
            Coefficient over standard error, and coefficient, for each curve and change.
        """
        t = np.empty((len(rows), len(self.starts)))
        sizes = np.empty_like(t)
        nodes = np.abs(np.array(CORRELATIONS)[None] - rho[:, None]).argmin(1)
        for node in np.unique(nodes):
            chosen = nodes == node
            if int(node) not in self.designs:
                self.designs[int(node)] = self._design(CORRELATIONS[node])
            q, templates, norms = self.designs[int(node)]
            turned = whitened(rows[chosen], CORRELATIONS[node])
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
        overall = np.maximum(MAD * np.median(sizes, axis=1, keepdims=True), _LEAST_NOISE)
        stretches = np.array_split(sizes, self.stretches.shape[0], axis=1)
        local = [MAD * np.median(stretch, axis=1) for stretch in stretches]
        return np.maximum(overall, np.stack(local, axis=1) @ self.stretches)

    def p_value(self, statistic: float, rho: float) -> float:
        """Count the null curves, this one counted in, with as large a statistic somewhere.

        Args:
            statistic: Largest of the curve, without its sign.
            rho: Estimated correlation of the curve's noise.

        Returns:
            Their share.
        """
        node = self.null_correlation(rho)
        above = drawn = 0
        while drawn < self.n_simulations and above < _ENOUGH:
            maxima, _ = self._null(node, drawn // _BATCH)
            maxima = maxima[: self.n_simulations - drawn]
            above += int((maxima >= statistic).sum())
            drawn += len(maxima)
        return (above + 1) / (drawn + 1)

    def null_correlation(self, rho: float) -> int:
        """Choose the least correlation that is estimated to be `rho` or more half of the time.

        Args:
            rho: Estimated correlation of the curve's noise.

        Returns:
            Its index in `CORRELATIONS`.
        """
        node, last = int(np.searchsorted(CORRELATIONS, rho)), len(CORRELATIONS) - 1
        while node < last and np.median(self._null(node, 0)[1]) < rho:
            node += 1
        return min(node, last)

    def _null(self, node: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Largest statistics, and estimated correlations, of a batch of simulated null curves."""
        if (node, batch) not in self.maxima:
            rng = np.random.default_rng([self.seed, node, batch])
            rows = noise(rng, _BATCH, len(self.decades), CORRELATIONS[node])
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
        q = orthonormal(whitened(self.basis.T, rho).T)
        turned = whitened(self.templates, rho)
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

    def _described(self, y: np.ndarray, best: int, change: float, p_value: float) -> Jump:
        start, width = int(self.starts[best]), int(self.widths[best])
        first, last = _extended(y, start, start + width, change)
        return Jump(first, last, start + width / 2, change, p_value)


def _windows(n: int) -> tuple[np.ndarray, np.ndarray]:
    """First points and widths of the sudden changes that are looked for."""
    pairs: list[tuple[int, int]] = []
    width = 1
    while width <= max(1, n // 4):
        stride = max(1, width // 4)
        pairs += [(s, width) for s in range(SIDE - 1, n - SIDE - width + 1, stride)]
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
    sign, least = np.sign(slope), GOES_ON * abs(slope) * max(1, width // 4)
    low, high = max(0, first - width), min(len(y) - 1, last + width)
    while first - block >= low and sign * (y[first] - y[first - block]) >= least:
        first -= block
    while last + block <= high and sign * (y[last + block] - y[last]) >= least:
        last += block
    return first, last
