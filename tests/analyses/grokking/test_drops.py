"""Sudden drops: how often a smooth curve raises an alarm, and what is found of a planted drop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import scipy.linalg
import scipy.stats

from analyses.grokking import curves, drop_scan, drops
from workbench.core.modular import run
from workbench.core.planted import known_curves


def a_curve(steps: np.ndarray, log_loss: np.ndarray) -> curves.Curve:
    return curves.Curve(
        steps=steps.astype(np.int64), values=10.0**log_loss, name="loss", source="made here"
    )


X, SMOOTH = known_curves.PLACES, known_curves.SMOOTH


def with_changes(*changes: tuple[int, float], seed: int = 0) -> curves.Curve:
    return a_curve(*known_curves.power_law(changes, seed=seed))


def test_of_500_smooth_curves_no_more_are_flagged_than_the_level_says() -> None:
    found = drops.reliability(500, level=0.05, seed=1)
    assert found.n_curves == 500
    assert found.flagged <= 0.05 * 500
    # Without the demand of a least size the p-value alone has to hold: binomial, 99.9 %.
    bare = drops.reliability(500, level=0.05, minimum=0.0, seed=2)
    assert 0 < bare.flagged <= scipy.stats.binom.ppf(0.999, 500, 0.05)


def test_a_planted_drop_is_found_within_5_percent_of_its_step_in_95_percent_of_curves() -> None:
    found = drops.reliability(108, drop=0.2, noises=(0.01, 0.02, 0.03), seed=3)
    assert found.located >= 0.95 * 108
    wide = drops.reliability(54, drop=0.2, noises=(0.01, 0.02), width=0.05, seed=4)
    assert wide.located >= 0.95 * 54


def test_a_drop_has_its_place_extent_depth_and_sharpness() -> None:
    found = drops.detect_drops(with_changes((600, -0.3)))
    (step,), (start,), (end,) = found.steps, found.starts, found.ends
    # Three points are averaged, so places are known to 30 steps.
    assert abs(step - 6005) <= 30
    assert 6005 - 60 <= start < 6005 < end <= 6005 + 60
    assert found.sizes[0] == pytest.approx(0.3, abs=0.05)
    decades = np.log10((end - 10) / 30 + 1) - np.log10((start - 10) / 30 + 1)
    assert found.sharpness[0] == pytest.approx(found.sizes[0] / decades, rel=0.05)
    # No simulated null curve of 500 was as large.
    assert found.p_values == (1 / 501,)
    assert found.noise == pytest.approx(0.02, rel=0.2)


def test_several_drops_are_found_one_after_the_other() -> None:
    found = drops.detect_drops(with_changes((300, -0.3), (600, -0.2), (800, -0.5)))
    assert np.allclose(found.steps, [3005, 6005, 8005], atol=30)
    assert np.allclose(found.sizes, [0.3, 0.2, 0.5], atol=0.06)
    assert list(found.steps) == sorted(found.steps)


@pytest.mark.parametrize("uneven", [False, True], ids=["even steps", "uneven steps"])
def test_grokking_is_one_drop(uneven: bool) -> None:
    steps = np.arange(0, 14001, 10)
    if uneven:
        steps = np.sort(np.random.default_rng(0).choice(steps, 120, replace=False))
    # A plateau, then six decades in a few hundred of 14,000 steps.
    y = (
        1.2
        - 6 / (1 + np.exp(-(steps - 9000) / 60))
        - 2e-5 * steps
        + known_curves.noise(len(steps), 0.01, 0)
    )
    found = drops.detect_drops(a_curve(steps, y))
    (step,), (size,) = found.steps, found.sizes
    assert abs(step - 9000) < 0.05 * 9000
    assert size == pytest.approx(6, abs=0.6)
    assert 8000 < found.starts[0] < found.ends[0] < 10000


def test_grokking_is_found_on_the_published_curve(refdata: Path) -> None:
    curve = curves.read_curve(refdata / "nanda_mainline_loss_curve_digitised.csv", column="test")
    found = drops.detect_drops(curve)
    deepest = int(np.argmax(found.sizes))
    # It falls below 0.1 at 10,320 and comes to rest at 14,000.
    assert 9400 < found.steps[deepest] < 11500
    assert found.sizes[deepest] > 2
    assert found.p_values[deepest] < 0.01
    cleanup = [size for size, step in zip(found.sizes, found.steps, strict=True) if step < 14000]
    assert 4 < sum(cleanup) < 8


def test_grokking_is_found_on_the_bundled_run() -> None:
    seen = run.bundled_run().curves
    steps, losses = np.array(seen.test_steps), np.array(seen.test_loss)
    curve = curves.Curve(steps=steps, values=losses, name="test loss", source="bundled")
    found = drops.detect_drops(curve)
    assert found.steps
    # Nearly noise-free: 1.9 at step 5,000, 7e-7 at 6,600, and then it settles for thousands.
    assert min(found.starts) >= 4500
    assert max(found.ends) <= 6800
    fell = np.log10(np.interp([found.starts[0], found.ends[-1]], steps, losses))
    assert 5.5 < sum(found.sizes) <= float(fell[0] - fell[1]) + 0.1
    assert found.rises == found.recoveries == ()
    assert "hardly any noise" in found.summary()


@pytest.mark.parametrize("middle", [4_000, 10_000, 20_000, 33_000])
@pytest.mark.parametrize(
    ("sd", "correlation"), [(0.0, 0.0), (0.01, 0.5), (0.05, 0.5), (0.05, 0.9)], ids=str
)
def test_six_decades_within_2000_of_40000_steps_are_one_drop(
    middle: int, sd: float, correlation: float
) -> None:
    steps = np.arange(0, 40001, 50)
    # Nearly all of a sigmoid (96 %) lies within eight scales.
    y = (
        0.8
        - 6 / (1 + np.exp(-(steps - middle) / 250))
        + known_curves.noise(801, sd, 1, correlation)
    )
    found = drops.detect_drops(a_curve(steps, y))
    (step,), (start,), (end,), (size,) = found.steps, found.starts, found.ends, found.sizes
    assert abs(step - middle) < 300
    assert middle - 1500 < start < middle - 400
    assert middle + 400 < end < middle + 1500
    assert size == pytest.approx(6, abs=0.6)


def test_a_slow_settling_after_the_fall_belongs_to_it_but_not_to_its_extent() -> None:
    steps = np.arange(0, 40001, 50)
    settling = 0.6 * (1 - np.exp(-np.clip(steps - 10_600, 0, None) / 1_500))
    y = 0.8 - 6 / (1 + np.exp(-(steps - 10_000) / 200)) - settling
    found = drops.detect_drops(a_curve(steps, y))
    (size,) = found.sizes
    assert 9_000 < found.starts[0] < found.ends[0] < 11_500
    assert size == pytest.approx(6, abs=0.6)


@pytest.mark.parametrize("last", [3_200, 4_000, 8_000, 14_000])
def test_a_fall_over_a_quarter_of_a_decade_has_its_size_wherever_the_run_ends(last: int) -> None:
    steps = np.arange(0, last + 1, 50)
    # 10 % to 90 % from step 1,260 to 2,140, after a rise of the loss and before a slow settling.
    start, settling = np.exp(-steps / 60), np.clip(steps - 2_500, 0, None) / 1_000
    y = 0.85 - 0.25 * start - 6 / (1 + np.exp(-(steps - 1_700) / 200))
    found = drops.detect_drops(a_curve(steps, y - 0.5 * (1 - np.exp(-settling))))
    deepest = int(np.argmax(found.sizes))
    assert 1_400 < found.steps[deepest] < 2_000
    assert 900 <= found.starts[deepest] < found.ends[deepest] <= 3_000
    assert 4 < found.sizes[deepest] < 6.5


def test_two_falls_with_a_pause_between_them_are_two_drops() -> None:
    found = drops.detect_drops(with_changes((300, -0.3), (380, -0.3)))
    assert np.allclose(found.steps, [3005, 3805], atol=30)
    assert np.allclose(found.sizes, 0.3, atol=0.06)


@pytest.mark.parametrize(
    "log_loss",
    [
        np.full(1000, 0.4),
        0.5 * np.log10(X),
        X / 500,
        SMOOTH,
        np.log10(X**-1.0 + 1e-2),
        np.log10(np.exp(-X / 100) + 1e-2),
        -8 * X / 1000,
        -6 / (1 + np.exp(-(np.log10(X) - 2) * 4.4 / 1.25)),
    ],
    ids=["constant", "rising", "exploding", "power", "floor", "exponential", "steep", "wide"],
)
def test_smooth_curves_have_no_drop_with_noise_and_without(log_loss: np.ndarray) -> None:
    assert drops.detect_drops(a_curve(10 * X, log_loss)).steps == ()
    noisy = log_loss + known_curves.noise(1000, 0.01, 7)
    assert drops.detect_drops(a_curve(10 * X, noisy)).steps == ()


@pytest.mark.parametrize("width", [1, 4, 20, 60, 200])
def test_the_recovery_from_a_spike_is_no_drop(width: int) -> None:
    y = SMOOTH + known_curves.noise(1000, 0.02, 1)
    y[500 : 500 + width] += 0.8
    found = drops.detect_drops(a_curve(10 * X, y))
    assert found.steps == ()
    if width >= 20:
        assert len(found.rises) == len(found.recoveries) == 1
        assert "only made up for a sudden rise" in found.summary()
    slow = SMOOTH + known_curves.noise(1000, 0.02, 2)
    slow[500:] += 0.8 * np.exp(-np.arange(500) / width)
    assert drops.detect_drops(a_curve(10 * X, slow)).steps == ()


def test_a_fall_below_where_the_loss_stood_before_a_spike_counts_from_there() -> None:
    found = drops.detect_drops(with_changes((500, 0.5), (560, -0.9)))
    assert len(found.steps) == 1
    assert found.sizes[0] == pytest.approx(0.4, abs=0.1)


def test_a_drop_below_the_least_size_is_not_reported() -> None:
    curve = a_curve(10 * X, SMOOTH + known_curves.noise(1000, 0.002, 3) - 0.05 * (X > 500))
    assert drops.detect_drops(curve).steps == ()
    assert drops.detect_drops(curve, minimum=0.03).sizes == (pytest.approx(0.05, abs=0.01),)


def test_long_curves_are_averaged_and_say_so() -> None:
    x = np.arange(50_000)
    y = -0.3 * np.log10(x + 1) + known_curves.noise(50_000, 0.05, 4) - 0.2 * (x >= 20_000)
    found = drops.detect_drops(a_curve(x, y))
    assert found.n_points == 400
    assert found.steps == (pytest.approx(20_000, abs=125),)
    assert found.provenance.notes[0] == "125 neighbouring points each were averaged"
    assert len(found.curve_steps) == 50_000


def test_the_statistic_is_that_of_generalised_least_squares() -> None:
    n, rho = 60, 0.6
    decades = np.log10(np.arange(1, n + 1))
    scan = drop_scan.Scan(decades, 100, 0)
    y = known_curves.noise(n, 1.0, 5, rho)
    _, sizes = scan.statistics(y[None], np.array([rho]))
    index = int(np.flatnonzero((scan.starts == 30) & (scan.widths == 4))[0])
    columns = np.column_stack([scan.basis, np.clip((np.arange(n) - 30) / 4, 0, 1)])
    inverse = np.linalg.inv(scipy.linalg.toeplitz(rho ** np.arange(n)))
    expected = np.linalg.solve(columns.T @ inverse @ columns, columns.T @ inverse @ y)[-1]
    # Decades are logarithms, so a ramp that is straight in steps is straight in points here.
    assert sizes[0, index] == pytest.approx(expected)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_null_curves_are_simulated_at_the_correlation_of_the_noise_or_the_next(
    correlation: float,
) -> None:
    scan = drop_scan.Scan(np.log10(np.arange(1, 201)), 100, 0)
    rows = np.stack([known_curves.noise(200, 0.1, seed, correlation) for seed in range(60)])
    nodes = [scan.null_correlation(float(rho)) for rho in scan.correlations(rows)]
    true = drop_scan.CORRELATIONS.index(correlation)
    assert true <= np.median(nodes) <= true + 1


def test_equal_seeds_give_equal_results_whatever_ran_before() -> None:
    curve = with_changes((600, -0.05))
    first = drops.detect_drops(curve, minimum=0.0, seed=5)
    drop_scan.scan_of.cache_clear()
    again = drops.detect_drops(curve, minimum=0.0, seed=5)
    assert (first.steps, first.p_values) == (again.steps, again.p_values)


def test_a_result_is_saved_drawn_and_told(tmp_path: Path) -> None:
    found = drops.detect_drops(with_changes((600, -0.3)))
    again = drops.Drops.load(found.save(tmp_path / "drops"))
    assert again.steps == found.steps
    assert np.array_equal(again.smooth, found.smooth, equal_nan=True)
    frame = found.to_frame()
    assert frame["size_dex"].tolist() == list(found.sizes)
    layout = json.loads(found.figure().to_json() or "")["layout"]
    assert layout["yaxis"]["type"] == "log"
    assert (layout["shapes"][0]["x0"], layout["shapes"][0]["x1"]) == (
        found.starts[0],
        found.ends[0],
    )
    assert layout["annotations"][0]["x"] == found.steps[0]
    assert f"at step {found.steps[0]:,}" in found.summary()
    assert found.provenance.fingerprint != ""
    assert "no sudden drop" in drops.detect_drops(with_changes()).summary()


def test_the_band_is_drawn_beside_the_drops_and_not_across_them() -> None:
    found = drops.detect_drops(with_changes((300, -0.3), (600, 0.4)))
    band = json.loads(found.figure().to_json() or "")["data"][0]
    known = np.isfinite(found.smooth)
    (outlines,) = [go.Scatter(found.figure().data[0])]
    x, y = np.array(outlines.x, float), np.array(outlines.y, float)
    assert band["fill"] == "toself"
    # Three stretches, each closed before the next one: forth on the low bound, back on the high.
    assert np.isnan(x).sum() == 3
    first = np.flatnonzero(~known)[0]
    assert np.array_equal(x[:first], found.curve_steps[:first])
    assert np.array_equal(y[:first], found.band[0, :first])
    assert np.array_equal(y[first : 2 * first], found.band[1, :first][::-1])
    assert np.isnan(x[2 * first])


def test_labels_of_neighbouring_drops_are_written_below_one_another() -> None:
    found = drops.detect_drops(with_changes((300, -0.3), (400, -0.3), (700, -0.4), (960, -0.4)))
    notes = json.loads(found.figure().to_json() or "")["layout"]["annotations"]
    shifts = [note.get("yshift", 0) for note in notes]
    assert [shift < 0 for shift in shifts] == [False, True, False, False]
    # The last one has no room on its right.
    assert [note["xanchor"] for note in notes] == ["left", "left", "left", "right"]


def test_the_fingerprint_is_that_of_the_numbers() -> None:
    one, other = with_changes((600, -0.3)), with_changes((600, -0.3), seed=1)
    prints = [drops.detect_drops(curve).provenance.fingerprint for curve in (one, one, other)]
    assert prints[0] == prints[1] != prints[2]


def test_progress_is_told_and_may_cancel() -> None:
    told: list[float] = []
    drops.detect_drops(with_changes((600, -0.3)), progress=lambda done, _: told.append(done))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)

    def cancel(done: float, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drops.detect_drops(with_changes(), progress=cancel)


def curve_of(steps: list[int], values: list[float]) -> curves.Curve:
    return curves.Curve(steps=np.array(steps), values=np.array(values), name="loss", source="here")


@pytest.mark.parametrize(
    ("curve", "options", "reason"),
    [
        (curve_of([*range(30)], [1.0] * 29 + [0.0]), {}, "loss is 0 at step 29; .* add a constant"),
        (curve_of([*range(30)], [-1.0] + [1.0] * 29), {}, "loss is -1 at step 0"),
        (curve_of([*range(30)], [float("nan")] + [1.0] * 29), {}, "loss is nan at step 0"),
        (curve_of([*range(19)], [1.0] * 19), {}, "19 points; expected at least 20"),
        (curve_of([0] * 30, [1.0] * 30), {}, "steps of the curve do not rise"),
        (curve_of([*range(30)], [1.0] * 30), {"level": 1.5}, "level = 1.5; expected"),
        (curve_of([*range(30)], [1.0] * 30), {"minimum": -0.1}, "minimum = -0.1; expected"),
        (curve_of([*range(30)], [1.0] * 30), {"n_simulations": 5}, "expected at least 20"),
    ],
)
def test_what_cannot_be_searched_is_an_error_with_its_reason(
    curve: curves.Curve, options: dict[str, float], reason: str
) -> None:
    with pytest.raises(drops.DropsError, match=reason):
        drops.detect_drops(curve, **options)  # pyright: ignore[reportArgumentType]
