"""How grokking time depends on a setting: medians, censoring, evidence, and resuming."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from analyses.grokking.sweep import Sweep, _dependences, _medians, _said, sweep
from workbench.core import evidence
from workbench.core.modular import recipe, run, training
from workbench.core.modular.tasks import Task

SMALL = recipe.recipe(
    d_model=16, n_heads=2, d_head=8, d_mlp=16, steps=100, learning_rate=1e-2, warm_up=0
)
TASK = Task(p=5, fraction=0.8)
BOOTSTRAP = evidence.Bootstrap(confidence=0.95, n_resamples=500, seed=0)
NAN, INF = math.nan, math.inf


def changed_files() -> dict[Path, int]:
    """When each file of the stored trainings was last written; lock files hold nothing."""
    files = run.trainings_root().rglob("*.*")
    return {
        file: file.stat().st_mtime_ns for file in files if file.suffix in {".json", ".safetensors"}
    }


def test_a_sweep_holds_what_each_training_by_itself_says() -> None:
    found = sweep(TASK, SMALL, vary={"fraction": [0.5, 0.8]}, seeds=(0, 3))
    assert found.fields == ("fraction",)
    assert found.settings == ((0.5,), (0.8,))
    for i, fraction in enumerate((0.5, 0.8)):
        tasks = [Task(p=5, fraction=fraction, seed=seed) for seed in (0, 3)]
        for j, task in enumerate(tasks):
            alone = run.open_run(run.folder_of(task, SMALL))
            assert alone.task == task
            assert found.folders[i][j] == alone.folder.name
            np.testing.assert_equal(found.grokked_at[i, j], alone.grokked_at)
            assert found.test_accuracy[i, j] == alone.curves.test_accuracy[-1]
            below = [s for s, loss in enumerate(alone.curves.train_loss) if loss < 0.1]
            np.testing.assert_equal(found.memorised_at[i, j], below[0] if below else NAN)
    assert found.last_steps.tolist() == [100, 100]


def test_what_is_stored_is_not_trained_again_and_a_stopped_sweep_goes_on() -> None:
    reports = 0

    def stop_in_the_second(fraction: float, note: str) -> None:
        if "fraction = 0.8" in note:
            raise KeyboardInterrupt

    def count(fraction: float, note: str) -> None:
        nonlocal reports
        reports += 1

    vary = {"fraction": [0.5, 0.8]}
    with pytest.raises(KeyboardInterrupt):
        sweep(TASK, SMALL, vary=vary, seeds=(0, 1), progress=stop_in_the_second)
    first = [run.folder_of(Task(p=5, fraction=0.5, seed=seed), SMALL) for seed in (0, 1)]
    assert all(run.open_run(folder).step == 100 for folder in first)
    before = changed_files()
    found = sweep(TASK, SMALL, vary=vary, seeds=(0, 1), progress=count)
    assert reports
    after = changed_files()
    assert all(after[file] == before[file] for file in before if file.is_relative_to(first[0]))
    again = sweep(TASK, SMALL, vary=vary, seeds=(0, 1))
    assert changed_files() == after
    np.testing.assert_array_equal(again.grokked_at, found.grokked_at)
    np.testing.assert_array_equal(again.interval, found.interval)


def test_settings_side_by_side_are_the_same_as_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vary = {"weight_decay": [0.0, 1], "operation": ["add", "multiply"]}
    one = sweep(TASK, SMALL, vary=vary, seeds=(0, 1))
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "elsewhere"))
    fractions: list[float] = []
    two = sweep(
        TASK, SMALL, vary=vary, seeds=(0, 1), n_jobs=2, progress=lambda f, _: fractions.append(f)
    )
    assert one.settings == ((0.0, "add"), (0.0, "multiply"), (1.0, "add"), (1.0, "multiply"))
    np.testing.assert_array_equal(one.grokked_at, two.grokked_at)
    np.testing.assert_array_equal(one.test_accuracy, two.test_accuracy)
    assert one.provenance.fingerprint == two.provenance.fingerprint
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    # The recipe's own field is a fraction of the weights, whether it was typed 1 or 1.0.
    assert run.open_run(run.trainings_root() / one.folders[2][0]).recipe.weight_decay == 1.0


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_progress_raises_ends_all_settings(n_jobs: int) -> None:
    def interrupt(_fraction: float, _note: str) -> None:
        raise KeyboardInterrupt("by hand")

    long = recipe.recipe(
        d_model=16, n_heads=2, d_head=8, d_mlp=16, steps=30_000, learning_rate=1e-3
    )
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        sweep(
            TASK,
            long,
            vary={"fraction": [0.4, 0.6, 0.8]},
            seeds=(0,),
            stop="never",
            n_jobs=n_jobs,
            progress=interrupt,
        )
    assert all(one.step < 30_000 for one in run.stored_runs())


def test_the_median_is_not_known_where_half_of_the_seeds_are_censored() -> None:
    times = np.array(
        [
            [100.0, 200.0, 300.0, 400.0],
            [100.0, 200.0, 300.0, NAN],
            [100.0, 200.0, NAN, NAN],
            [NAN, NAN, NAN, NAN],
        ]
    )
    median, interval = _medians(times, np.full(4, 1000), BOOTSTRAP)
    np.testing.assert_array_equal(median, [250, 250, INF, INF])
    low, high = interval
    assert (low[0], high[0]) == (100, 400)
    # The mean of a step and of "later" is later: no such number is ever shown.
    assert low[1] == 100
    assert high[1] == INF
    assert low[2] == 100
    assert high[2] == INF
    assert low[3] == high[3] == INF


def test_the_interval_is_that_of_all_resamples() -> None:
    times = np.array([150.0, 300.0, 350.0])
    every = sorted(np.median(draw) for draw in itertools.product(times, repeat=3))
    _, interval = _medians(
        times[None],
        np.array([400]),
        evidence.Bootstrap(confidence=0.8, n_resamples=20_000, seed=1),
    )
    np.testing.assert_array_equal(interval[:, 0], [every[2], every[-3]])


def test_one_seed_has_no_interval() -> None:
    found = sweep(TASK, SMALL, vary={"fraction": [0.5, 0.8]}, seeds=(2,))
    assert np.isnan(found.interval).all()
    assert "settings of 1 seed each" in found.summary()
    assert "[" not in found.time_label(0)
    found.figure()


def test_a_larger_fraction_that_is_quicker_is_seen() -> None:
    times = np.array([[900.0, 800.0, NAN], [500.0, 600.0, 550.0], [100.0, 200.0, 150.0]])
    (found,) = _dependences(["fraction"], [(0.3,), (0.4,), (0.5,)], times)
    x = np.repeat([0.3, 0.4, 0.5], 3)
    y = np.where(np.isnan(times), 1e9, times).ravel()
    expected: Any = scipy.stats.spearmanr(x, y)
    assert found.statistic == pytest.approx(expected.statistic)
    assert found.statistic < -0.9
    assert found.p_value < 0.01
    assert (found.n, found.n_censored) == (9, 1)
    assert "Grokking takes less the larger fraction is" in _said(found)


def test_the_p_value_is_the_share_of_all_orders() -> None:
    times = np.array([[100.0], [200.0], [300.0], [400.0]])
    (found,) = _dependences(["p"], [(5,), (7,), (11,), (13,)], times)
    # Of 24 orders two are as extreme: rising and falling.
    assert found.p_value == pytest.approx(2 / 24)
    assert found.statistic == pytest.approx(1)
    assert "is not more than chance" in _said(found)


def test_names_are_compared_by_ranks() -> None:
    times = np.array([[100.0, 150.0, 200.0], [900.0, 950.0, NAN]])
    (found,) = _dependences(["operation"], [("add",), ("divide",)], times)
    assert found.test == "Kruskal-Wallis"
    assert found.statistic == pytest.approx(scipy.stats.kruskal([1, 2, 3], [4, 5, 6]).statistic)
    # Of the 20 ways to part six runs into threes, two are as far apart.
    assert found.p_value == pytest.approx(2 / 20)


def test_two_fields_are_each_ranked_within_the_other() -> None:
    # Twice the modulus takes ten times as long; within each modulus the decay halves the time.
    settings = [(p, decay) for p in (5, 11) for decay in (0.5, 1.0, 2.0)]
    times = np.array([[p**2 * 10 / decay + seed for seed in range(4)] for p, decay in settings])
    by_p, by_decay = _dependences(["p", "weight_decay"], settings, times)
    assert by_decay.statistic < -0.9
    assert by_p.statistic > 0.8
    assert max(by_p.p_value, by_decay.p_value) < 0.001


def test_nothing_depends_on_anything_where_no_run_grokked() -> None:
    (found,) = _dependences(["fraction"], [(0.3,), (0.4,)], np.full((2, 3), NAN))
    assert (found.statistic, found.p_value, found.n_censored) == (0.0, 1.0, 6)
    (single,) = _dependences(["fraction"], [(0.3,)], np.full((1, 3), 100.0))
    assert math.isnan(single.p_value)
    assert "says nothing" in _said(single)


def test_it_is_shown_with_every_run_and_censored_ones_apart(tmp_path: Path) -> None:
    short = recipe.recipe(
        d_model=24, n_heads=2, d_head=12, d_mlp=48, steps=150, learning_rate=1e-2, weight_decay=2.0
    )
    found = sweep(Task(p=7), short, vary={"fraction": [0.5, 0.9]}, seeds=(1, 2))
    assert math.isfinite(found.grokked_at[1, 1]), "the test needs a run that generalises"
    assert found.censored == 3
    drawn: Any = found.figure().data
    traces = {trace.name: trace for trace in drawn}
    assert list(traces["a run"].y) == [found.grokked_at[1, 1]]
    assert list(traces["not within the steps"].y) == [150, 150, 150]
    assert traces["not within the steps"].marker.symbol == "triangle-up-open"
    text = found.summary()
    assert "fraction = 0.5: not by step 150" in text
    assert "3 of 4 runs did not grok within their steps" in text
    frame = found.to_frame()
    assert list(frame["censored"]) == [True, True, True, False]
    assert frame["grokked_at"].iloc[3] - frame["memorised_at"].iloc[3] == frame["delay"].iloc[3]
    back = Sweep.load(found.save(tmp_path / "sweep"))
    np.testing.assert_array_equal(back.grokked_at, found.grokked_at)
    np.testing.assert_array_equal(back.interval, found.interval)
    assert back.dependences == found.dependences
    assert back.settings == found.settings
    assert back.summary() == text


def test_wrong_input_is_one_sentence_before_anything_is_trained() -> None:
    wrong = [
        (
            {"fractoin": [0.3]},
            r"'fractoin' cannot be varied: choose from p, .* \(of the task\), d_m",
        ),
        ({"seed": [1, 2]}, "'seed' cannot be varied"),
        ({}, "0 fields to vary; expected one or two"),
        ({"p": [5], "fraction": [0.5], "noise": [0.1]}, "3 fields to vary"),
        ({"p": []}, "values of p: expected a list"),
        ({"operation": "add"}, "values of operation: expected a list"),
        ({"p": [5, 5]}, "expected each only once"),
        ({"p": [5.5]}, "p = 5.5; expected a whole number"),
        ({"fraction": ["half"]}, "fraction = 'half'; expected a number"),
        ({"constrain_norm": [1]}, "constrain_norm = 1; expected true or false"),
        ({"fraction": [0.5, 1.5]}, "fraction = 1.5"),
        ({"weight_decay": [-1.0]}, "weight_decay = -1"),
        ({"operation": ["plus"]}, "operation 'plus' is not known"),
    ]
    for vary, words in wrong:
        with pytest.raises(ValueError, match=words):
            sweep(TASK, SMALL, vary=vary)
    for seeds in ((), (1, 1)):
        with pytest.raises(ValueError, match="expected one or more, each different"):
            sweep(TASK, SMALL, vary={"p": [5]}, seeds=seeds)
    assert not run.stored_runs()


def test_a_training_that_diverges_names_its_setting() -> None:
    with pytest.raises(ValueError, match=r"at learning_rate = 1e\+30: .*diverged"):
        sweep(TASK, SMALL, vary={"learning_rate": [1e30]}, seeds=(0,))


def test_a_run_that_is_trained_elsewhere_is_not_waited_for() -> None:
    task = Task(p=5, fraction=0.5)
    with (
        run.claimed([run.folder_of(task, SMALL)], [task], SMALL),
        pytest.raises(ValueError, match=r"at fraction = 0.5: another process trains"),
    ):
        sweep(TASK, SMALL, vary={"fraction": [0.5]}, seeds=(0,))
    assert training.train(task, SMALL).step == 100
