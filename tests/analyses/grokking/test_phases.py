"""Phases: boundaries planted in synthetic runs, the published run, and runs without phases."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analyses.grokking.phases import (
    LOSSES,
    NOT_MEASURED,
    Curves,
    Phases,
    Series,
    _Design,
    phases,
)
from workbench.core import results
from workbench.core.planted import known_curves

DENSE = np.arange(0.0, 40_001.0, 50.0)
# 41 of them, uneven, over 40,000 steps.
COARSE = np.unique(np.concatenate([[0.0], np.round(np.geomspace(40, 40_000, 40))]))
# memorised, circuit begins to form, fall of test loss begins, and ends
PLANTED = [
    (200, 1_400, 9_400, 14_000),
    (150, 700, 2_000, 2_300),
    (400, 2_000, 20_000, 30_000),
    (250, 900, 5_000, 8_500),
]


def planted(
    steps: np.ndarray, at: tuple[int, int, int, int], noise: float = 0.0, seed: int = 0
) -> Curves:
    measured = known_curves.training(steps, at, noise=noise, seed=seed)
    return Curves("planted", **{name: Series(steps, values) for name, values in measured.items()})


def level(value: float, noise: float = 0.05, seed: int = 0) -> Series:
    """A loss that stays where it is, but for noise in dex."""
    rng = np.random.default_rng(seed)
    return Series(DENSE, 10 ** (np.log10(value) + noise * rng.standard_normal(DENSE.size)))


def memorising(seed: int = 0) -> Series:
    rng = np.random.default_rng(seed)
    logs = np.interp(DENSE, [0, 200, 800, 40_000], [0.68, -1, -6, -7])
    return Series(DENSE, 10 ** (logs + 0.05 * rng.standard_normal(DENSE.size)))


def published(refdata: Path) -> Curves:
    def read(name: str, series: str) -> Series:
        table: Any = pd.read_csv(refdata / f"nanda_mainline_{name}_digitised.csv")
        table = table[table["series"] == series]
        return Series.of(table["epoch"].to_numpy(), table["value"].to_numpy())

    return Curves(
        "mainline",
        train=read("loss_curve", "train"),
        test=read("loss_curve", "test"),
        restricted=read("restricted_loss", "trig_loss(all)"),
        excluded=read("excluded_loss_all_key", "excl_full"),
        squared_weights=read("sum_sq_weights_total", "sum_sq_total"),
    )


def without_theory(curves: Curves) -> Curves:
    return dataclasses.replace(curves, restricted=NOT_MEASURED, excluded=NOT_MEASURED)


def assert_order(found: Phases) -> None:
    assert 0 < found.boundaries[0] < found.boundaries[1] < found.boundaries[2]


def test_the_published_run_has_the_published_phases(refdata: Path) -> None:
    found = phases(published(refdata))
    assert found.verdict == "grokked"
    np.testing.assert_allclose(found.boundaries, [1_400, 9_400, 14_000], rtol=0.15)
    assert_order(found)
    # The intervals are of use only if they exclude the neighbouring phases.
    assert found.intervals[0, 1] < found.intervals[1, 0]
    assert found.intervals[1, 1] < found.intervals[2, 0]


def test_the_published_run_has_the_published_lead(refdata: Path) -> None:
    found = phases(published(refdata))
    assert found.restricted_at == pytest.approx(8_760, abs=20)
    assert found.grokked_at == pytest.approx(10_320, abs=20)
    assert found.lead == pytest.approx(1_560, abs=20)


def test_the_published_run_keeps_its_phases_without_the_theory(refdata: Path) -> None:
    found = phases(without_theory(published(refdata)))
    np.testing.assert_allclose(found.boundaries, [1_400, 9_400, 14_000], rtol=0.15)
    assert np.isnan(found.lead)
    assert any("test loss is greatest" in note for note in found.notes)


@pytest.mark.parametrize("at", PLANTED)
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_planted_boundaries_are_found_in_dense_checkpoints(
    at: tuple[int, int, int, int], noise: float
) -> None:
    found = phases(planted(DENSE, at, noise), n_resamples=200)
    assert found.verdict == "grokked"
    assert found.boundaries[0] == pytest.approx(at[1], rel=0.1)
    np.testing.assert_allclose(found.boundaries[1:], at[2:], rtol=0.02)
    assert np.all(found.intervals[:, 0] <= at[1:])
    assert np.all(found.intervals[:, 1] >= at[1:])


@pytest.mark.parametrize("at", PLANTED)
def test_planted_boundaries_are_found_in_forty_uneven_checkpoints(
    at: tuple[int, int, int, int],
) -> None:
    assert COARSE.size <= 41
    found = phases(planted(COARSE, at, 0.02), n_resamples=200)
    # Neighbouring checkpoints are a factor 1.19 apart.
    np.testing.assert_allclose(found.boundaries, at[1:], rtol=0.19)
    assert_order(found)
    assert np.all(found.intervals[:, 0] <= at[1:])
    assert np.all(found.intervals[:, 1] >= at[1:])


def test_intervals_cover_planted_boundaries_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    covered: list[np.ndarray] = []
    for seed in range(25):
        memorised = int(rng.integers(150, 400))
        formed = int(memorised * rng.uniform(3, 6))
        start = int(formed * rng.uniform(2, 8))
        at = (memorised, formed, start, int(start * rng.uniform(1.1, 1.7)))
        found = phases(planted(DENSE[::4], at, 0.1, seed), n_resamples=60)
        covered.append((found.intervals[:, 0] <= at[1:]) & (at[1:] <= found.intervals[:, 1]))
    assert np.mean(covered, axis=0).min() >= 0.92


def test_no_interval_is_narrower_than_the_checkpoints_around_its_boundary() -> None:
    found = phases(planted(COARSE, PLANTED[0]), n_resamples=20)
    for step, (lower, upper) in zip(found.boundaries, found.intervals, strict=True):
        assert lower <= COARSE[COARSE < step].max()
        assert upper >= COARSE[COARSE > step].min()


def test_more_noise_makes_wider_intervals() -> None:
    quiet, noisy = (
        phases(planted(DENSE, PLANTED[0], noise), n_resamples=100) for noise in (0.0, 0.3)
    )
    widths = [np.diff(found.intervals, axis=1).ravel() for found in (quiet, noisy)]
    assert np.all(widths[1] > 1.5 * widths[0])


def test_the_lead_lies_between_the_two_crossings_of_a_tenth() -> None:
    found = phases(planted(DENSE, (200, 1_400, 9_400, 14_000)))
    # By hand: log10 restricted falls from .5 at 1,400 to -1.2 at 9,400 and is -1 after 15/17 of
    # that; log10 test falls from 1 at 9,400 to -6 at 14,000 and is -1 after 2/7 of that.
    assert found.restricted_at == pytest.approx(1_400 + 8_000 * 15 / 17, abs=0.5)
    assert found.grokked_at == pytest.approx(9_400 + 4_600 * 2 / 7, abs=0.5)
    assert found.lead == pytest.approx(found.grokked_at - found.restricted_at)
    assert found.memorised_at == pytest.approx(200, abs=0.5)


def test_a_spike_of_one_checkpoint_moves_no_break_of_the_fall() -> None:
    calm = planted(DENSE, PLANTED[0])
    values = calm.test.values.copy()
    values[[350, 500, 700]] = 1.0
    spiked = dataclasses.replace(calm, test=Series(DENSE, values))
    found = [phases(curves, n_resamples=20) for curves in (calm, spiked)]
    np.testing.assert_array_equal(found[0].boundaries, found[1].boundaries)


def test_a_run_that_stops_within_the_fall_has_no_end_of_cleanup() -> None:
    whole = planted(DENSE, PLANTED[0], 0.02)
    kept = DENSE <= 12_500
    cut = dataclasses.replace(
        whole,
        **{
            name: Series(DENSE[kept], getattr(whole, name).values[kept])
            for name in (*LOSSES, "squared_weights")
        },
    )
    found = phases(cut, n_resamples=50)
    assert found.verdict == "grokked"
    assert found.boundaries[1] == pytest.approx(9_400, rel=0.02)
    assert np.isnan(found.boundaries[2])
    assert np.isnan(found.intervals[2]).all()
    assert any("had not ended" in note for note in found.notes)


def test_a_random_table_is_memorised_only() -> None:
    curves = Curves("random table", train=memorising(), test=level(25.0))
    found = phases(curves)
    assert found.verdict == "memorised only"
    assert np.isnan(found.boundaries).all()
    assert found.memorised_at == pytest.approx(200, abs=25)
    assert np.isnan(found.grokked_at)
    assert "memorised only" in found.summary()


@pytest.mark.parametrize("seed", range(8))
def test_strong_noise_of_test_loss_is_no_fall(seed: int) -> None:
    curves = Curves("noise", train=memorising(seed), test=level(25.0, noise=0.5, seed=seed))
    found = phases(curves, n_resamples=10)
    assert found.verdict == "memorised only"
    assert np.isnan(found.boundaries).all()


def test_a_slow_decline_of_test_loss_under_weight_decay_is_no_fall() -> None:
    logs = np.interp(DENSE, [0, 800, 40_000], [0.68, 1.5, 1.0])
    found = phases(Curves("decline", train=memorising(), test=Series(DENSE, 10**logs)))
    assert np.isnan(found.boundaries).all()


def test_a_circuit_that_forms_without_generalising_is_reported() -> None:
    grokked = planted(DENSE, PLANTED[0])
    found = phases(dataclasses.replace(grokked, test=level(25.0)), n_resamples=50)
    assert found.verdict == "memorised only"
    assert found.boundaries[0] == pytest.approx(1_400, rel=0.1)
    assert np.isnan(found.boundaries[1:]).all()


def test_excluded_loss_that_follows_training_loss_is_no_circuit() -> None:
    curves = Curves("no circuit", train=memorising(), test=level(25.0), excluded=memorising(1))
    found = phases(curves, n_resamples=20)
    assert np.isnan(found.boundaries).all()
    assert any("no circuit formed" in note for note in found.notes)


def test_a_fall_that_stays_above_a_tenth_is_cleanup_begun_not_complete() -> None:
    logs = np.interp(DENSE, [0, 1_000, 20_000, 24_000, 40_000], [0.68, 1.5, 1.4, -0.4, -0.5])
    curves = Curves("half way", train=memorising(), test=Series(DENSE, 10**logs))
    found = phases(curves, n_resamples=50)
    assert found.verdict == "memorised only"
    assert found.boundaries[1] == pytest.approx(20_000, rel=0.02)
    assert np.isnan(found.boundaries[2])
    assert any("not complete" in note for note in found.notes)


@pytest.mark.parametrize("seed", range(3))
def test_noise_around_guessing_is_not_even_memorised(seed: int) -> None:
    curves = Curves("noise", train=level(4.7, 0.2, seed), test=level(4.7, 0.2, seed + 100))
    found = phases(curves)
    assert found.verdict == "not memorised"
    assert np.isnan([found.memorised_at, found.grokked_at, *found.boundaries]).all()


@pytest.mark.parametrize("steps", [DENSE, COARSE])
def test_test_loss_that_falls_with_training_loss_is_no_grokking(steps: np.ndarray) -> None:
    train = np.interp(steps, [0, 300, 900, 40_000], [0.68, -1, -6, -7])
    test = np.interp(steps, [0, 375, 1_000, 40_000], [0.68, -1, -5, -6])
    found = phases(Curves("at once", Series(steps, 10**train), Series(steps, 10**test)))
    assert found.verdict == "generalised without delay"
    assert np.isnan(found.boundaries).all()
    assert found.memorised_at == pytest.approx(300, rel=0.05)
    assert found.grokked_at == pytest.approx(375, rel=0.05)


def test_a_network_that_ignores_wrong_training_labels_generalised_without_delay() -> None:
    test = np.interp(DENSE, [0, 2_000, 40_000], [0.68, -2, -3])
    found = phases(Curves("noisy labels", train=level(1.5), test=Series(DENSE, 10**test)))
    assert found.verdict == "generalised without delay"
    assert np.isnan(found.memorised_at)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The fields of progress measures that phases are read from."""

    provenance: results.Provenance
    steps: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray
    restricted_loss: np.ndarray
    excluded_loss: np.ndarray
    squared_weights: np.ndarray


def measured(**changes: Any) -> Measured:
    curves = planted(DENSE, PLANTED[0], 0.02)
    made = results.described(
        "a run",
        "f" * 64,
        analysis="grokking.track",
        parameters={"keys": [1]},
        seed=3,
        wall_time=1.0,
    )
    fields: dict[str, Any] = {
        "steps": DENSE.astype(np.int64),
        "train_loss": curves.train.values,
        "test_loss": curves.test.values,
        "restricted_loss": curves.restricted.values,
        "excluded_loss": curves.excluded.values,
        "squared_weights": curves.squared_weights.values,
    }
    return Measured(made, **(fields | changes))


def test_measures_of_a_run_give_the_same_as_its_curves_and_their_own_provenance() -> None:
    found = phases(measured(), n_resamples=50)
    curves = planted(DENSE, PLANTED[0], 0.02)
    np.testing.assert_array_equal(found.boundaries, phases(curves, n_resamples=50).boundaries)
    assert found.provenance.model == "a run"
    assert found.provenance.fingerprint == "f" * 64
    assert found.provenance.analysis == "grokking.phases"
    assert found.provenance.parameters == {"keys": [1], "confidence": 0.95, "n_resamples": 50}
    assert found.provenance.seed == 0


def test_measures_without_a_theory_are_read_from_test_loss_alone() -> None:
    nothing = np.full(DENSE.size, np.nan)
    found = phases(measured(restricted_loss=nothing, excluded_loss=nothing), n_resamples=50)
    assert found.verdict == "grokked"
    np.testing.assert_allclose(found.boundaries[1:], [9_400, 14_000], rtol=0.02)
    assert found.intervals[0, 0] <= 1_400 <= found.intervals[0, 1]
    assert any("Excluded loss is not known" in note for note in found.notes)


def test_checkpoints_without_a_finite_loss_are_left_out_and_said() -> None:
    losses = planted(DENSE, PLANTED[0], 0.02).test.values.copy()
    losses[[600, 601]] = np.nan
    found = phases(measured(test_loss=losses), n_resamples=20)
    assert found.verdict == "grokked"
    assert found.notes[0].startswith("2 checkpoints")


def test_excluded_loss_known_only_after_the_fall_decides_nothing() -> None:
    curves = planted(DENSE, PLANTED[0])
    late = DENSE > 20_000
    found = phases(
        dataclasses.replace(curves, excluded=Series(DENSE[late], curves.excluded.values[late])),
        n_resamples=20,
    )
    assert found.boundaries[0] == pytest.approx(1_400, rel=0.1)
    assert any("Excluded loss is not known" in note for note in found.notes)


def test_the_table_has_a_row_a_phase_with_the_measures_at_its_end() -> None:
    found = phases(planted(DENSE, PLANTED[0]), n_resamples=20)
    table: Any = found.to_frame()
    assert table["phase"].tolist() == ["memorisation", "circuit formation", "cleanup"]
    np.testing.assert_array_equal(table["ends"], found.boundaries)
    np.testing.assert_array_equal(table["begins"], [0.0, *found.boundaries[:2]])
    assert table["squared_weights"][2] == pytest.approx(1_000, rel=0.02)


def test_the_figure_shades_each_phase_and_draws_each_interval() -> None:
    found = phases(planted(DENSE, PLANTED[0]), n_resamples=20)
    figure: Any = found.figure()
    assert figure.layout.yaxis.type == "log"
    assert [shape.x1 for shape in figure.layout.shapes] == list(found.boundaries)
    whiskers = figure.data[-1]
    np.testing.assert_allclose(whiskers.x + whiskers.error_x.array, found.intervals[:, 1])
    np.testing.assert_allclose(whiskers.x - whiskers.error_x.arrayminus, found.intervals[:, 0])
    names = [trace.name for trace in figure.data]
    assert names[:4] == ["train loss", "test loss", "restricted loss", "excluded loss"]


def test_a_run_without_phases_has_a_figure_and_a_table_too() -> None:
    found = phases(Curves("noise", train=level(4.7), test=level(4.7, seed=1)))
    figure: Any = found.figure()
    table: Any = found.to_frame()
    assert not figure.layout.shapes
    assert table["ends"].isna().all()
    assert "not memorised" in found.summary()


def test_a_phase_that_was_not_seen_to_end_is_shaded_to_the_end_of_the_run() -> None:
    found = phases(Curves("random table", train=memorising(), test=level(25.0)))
    figure: Any = found.figure()
    (band,) = figure.layout.shapes
    assert (band.x0, band.x1) == (0.0, 40_000.0)


def test_the_summary_has_the_numbers() -> None:
    found = phases(planted(DENSE, PLANTED[0]), n_resamples=20)
    text = found.summary()
    assert f"Cleanup ends at step {found.boundaries[2]:,.0f}" in text
    assert f"{found.lead:,.0f} steps before test loss" in text
    # log10 of the squared weights goes from 3.3 to 3.0: half of them are gone.
    assert "squared weights change by -50%" in text


def test_equal_seeds_give_equal_bits_and_saving_keeps_them(tmp_path: Path) -> None:
    curves = planted(COARSE, PLANTED[1], 0.05)
    first, second = (phases(curves, n_resamples=30, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.intervals, second.intervals)
    loaded = Phases.load(first.save(tmp_path / "phases"))
    np.testing.assert_array_equal(loaded.boundaries, first.boundaries)
    np.testing.assert_array_equal(loaded.curves.test.values, curves.test.values)
    assert loaded.summary() == first.summary()
    missing = phases(without_theory(curves), n_resamples=30)
    again = Phases.load(missing.save(tmp_path / "missing"))
    assert again.summary() == missing.summary()
    assert again.curves.excluded.steps.size == 0


def test_all_fits_at_once_equal_fits_one_by_one() -> None:
    rng = np.random.default_rng(2)
    design = _Design(24)
    x = design.x
    y = np.interp(x, [0, 0.4, 0.7, 1], [1, 0.8, -3, -3.2]) + 0.1 * rng.standard_normal(24)
    best: tuple[float, tuple[int, int]] = (np.inf, (0, 0))
    for i in range(1, 22):
        for j in range(i + 1, 23):
            columns = np.stack([np.ones(24), x, *(np.maximum(x - x[k], 0) for k in (i, j))], axis=1)
            weights = np.linalg.lstsq(columns, y, rcond=None)[0]
            first, fall, last = np.cumsum(weights[1:])
            error = float(((columns @ weights - y) ** 2).sum())
            fair = fall < 0 and min(first, last) >= fall / 2
            if fair and 1 - x[j] >= 0.1 * (x[j] - x[i]) and error < best[0]:
                best = error, (i, j)
    found = design.two_bends(y)
    assert found is not None
    assert found.bends == best[1]
    assert found.error == pytest.approx(best[0], rel=1e-9)


def test_bad_input_is_refused_in_one_sentence() -> None:
    good = planted(DENSE, PLANTED[0])
    few = Series(DENSE[:4], good.test.values[:4])
    with pytest.raises(ValueError, match="test loss is known at 4 checkpoints"):
        phases(dataclasses.replace(good, test=few))
    with pytest.raises(ValueError, match="never negative"):
        phases(dataclasses.replace(good, train=Series(DENSE, good.train.values - 1)))
    with pytest.raises(ValueError, match="confidence"):
        phases(good, confidence=95.0)
    with pytest.raises(ValueError, match="n_resamples"):
        phases(good, n_resamples=0)
    with pytest.raises(ValueError, match="must ascend"):
        Series.of(np.array([0, 2, 1]), np.array([1.0, 2.0, 3.0]))
