"""The `workbench grok` commands: what the library computes, resume, and one sentence for errors."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer import testing

from analyses.grokking import changes, curves, drops, tracking
from analyses.grokking.phases import Phases, phases
from analyses.grokking.sweep import Sweep, sweep
from tests import computing, sentences
from workbench import __main__
from workbench.core.modular import recipe, run, training
from workbench.core.modular.tasks import Task

SIZES = ("--set", "d_model=16", "--set", "n_heads=2", "--set", "d_head=8", "--set", "d_mlp=16")
HOW = (*SIZES, "--set", "learning_rate=0.01", "--steps", "100")
RECIPE = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=16, learning_rate=0.01, steps=100)
TASK = Task(p=7, fraction=0.8)
ASKED = ("--p", "7", "--fraction", "0.8")


def invoke(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, ["grok", *arguments])


def said_by(*arguments: str) -> str:
    """What a command that succeeds says, on one line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> run.TrainingRun:
    longer = recipe.recipe(
        d_model=16, n_heads=2, d_head=8, d_mlp=32, learning_rate=0.01, steps=1200
    )
    folder = tmp_path_factory.mktemp("trained")
    return training.train(TASK, longer, folder=folder, stop="never")


def test_train_trains_what_was_asked_for_and_keeps_it_among_the_stored_runs() -> None:
    said = said_by("train", *ASKED, "--seed", "3", *HOW, "--stop", "never")
    task = Task(p=7, fraction=0.8, seed=3)
    made = run.open_run(run.folder_of(task, RECIPE))
    assert (made.task, made.recipe, made.step) == (task, RECIPE, 100)
    assert " ".join(made.summary().split()) in said
    assert f"kept in {made.folder}" in said.replace(" ", "").replace("keptin", "kept in ")


def test_train_reads_every_field_as_its_kind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    more = ("--set", "weight_decay=0", "--set", "constrain_norm=true", "--noise", "0.5")
    said_by(
        "train", "--p", "5", "--operation", "subtract", "--fraction", "0.5", *HOW[:-2], *more,
        "--recipe", "omnigrok-2022", "--steps", "3", "-o", str(folder),
    )  # fmt: skip
    made = run.open_run(folder)
    assert made.task == Task(p=5, operation="subtract", fraction=0.5, noise=0.5)
    assert made.recipe == recipe.recipe(
        "omnigrok-2022", d_model=16, n_heads=2, d_head=8, d_mlp=16, learning_rate=0.01, steps=3
    )  # fmt: skip


def pressing_control_c(monkeypatch: pytest.MonkeyPatch, at_report: int) -> None:
    """Have the signal arrive while a training reports for the nth time."""
    trained: Callable[..., Any] = training.train_seeds

    def interrupted(*arguments: Any, progress: Callable[[float, str], None], **more: Any) -> Any:
        reports = 0

        def press(fraction: float, note: str) -> None:
            nonlocal reports
            reports += 1
            if reports == at_report:
                signal.raise_signal(signal.SIGINT)
            progress(fraction, note)

        return trained(*arguments, progress=press, **more)

    monkeypatch.setattr(training, "_REPORT_SECONDS", 0.0)
    monkeypatch.setattr(training, "train_seeds", interrupted)


def test_control_c_keeps_what_was_trained_and_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = ("train", *ASKED, *HOW, "--stop", "never", "-o", str(folder))
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        pressing_control_c(patched, at_report=37)
        result = invoke(*command)
    assert result.exit_code == 130
    assert "The same command goes on from there" in result.stdout
    assert signal.getsignal(signal.SIGINT) is handler
    state = run.read_state(folder)
    assert state is not None
    # The step that was under way was finished: weights and step belong together.
    assert state.step == 37
    said_by(*command)
    whole = training.train(TASK, RECIPE, folder=tmp_path / "whole", stop="never")
    resumed = run.open_run(folder)
    assert resumed.fingerprint == whole.fingerprint


def test_a_folder_by_itself_goes_on_with_its_own_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said_by("train", *ASKED, *HOW, "-o", str(folder), "--stop", "never")
    said = said_by("train", "-o", str(folder), "--stop", "never")
    assert "100 steps" in said
    assert run.open_run(folder).task == TASK
    refused = invoke("train", "--p", "5", "-o", str(folder))
    assert refused.exit_code == 2
    assert "holds another run" in refused.stderr


def test_track_shows_phases_keys_and_eight_checkpoints(
    trained: run.TrainingRun, tmp_path: Path
) -> None:
    said = said_by("track", str(trained.folder), "-o", str(tmp_path / "out"))
    expected = tracking.track(trained)
    assert " ".join(expected.summary().split()) in said
    found = phases(expected)
    assert " ".join(found.summary().split()) in said
    assert len(trained.steps) == 11, "the test needs a run of so many checkpoints"
    chosen = [trained.steps[i] for i in (0, 1, 3, 4, 6, 7, 9, 10)]
    for step in trained.steps:
        row = expected.steps.tolist().index(step)
        shown = f"│ {step:,} │ {expected.train_loss[row]:.3g} │ {expected.test_loss[row]:.3g} │"
        assert (shown in said) == (step in chosen)
    saved = tracking.ProgressMeasures.load(tmp_path / "out")
    np.testing.assert_array_equal(saved.restricted_loss, expected.restricted_loss)
    frame = pd.read_csv(tmp_path / "out" / "measures.csv")
    assert len(frame) == len(expected.to_frame())
    assert Phases.load(tmp_path / "out" / "phases").verdict == found.verdict


def test_track_finds_a_stored_run_by_its_id_and_says_where_there_is_no_theory() -> None:
    said_by("train", *ASKED, "--operation", "random", *HOW)
    (stored,) = run.stored_runs()
    said = said_by("track", stored.folder.name)
    assert "test loss" in said
    assert "restricted" not in said.partition("Σw²")[0]
    assert tracking.describe(stored.task) in said


def test_sweep_shows_the_medians_and_the_evidence(tmp_path: Path) -> None:
    command = ("sweep", "--p", "7", "--vary", "fraction=0.5,0.8", "--seeds", "2", *HOW)
    said = said_by(*command, "-o", str(tmp_path / "out"))
    expected = sweep(Task(p=7), RECIPE, vary={"fraction": [0.5, 0.8]}, seeds=(0, 1))
    assert " ".join(expected.summary().split()) in said
    assert f"│ fraction = 0.5 │ {expected.time_label(0)} │ 2 of 2 │" in said
    saved = Sweep.load(tmp_path / "out")
    np.testing.assert_array_equal(saved.grokked_at, expected.grokked_at)
    assert list(pd.read_csv(tmp_path / "out" / "runs.csv")["seed"]) == [0, 1, 0, 1]


def test_a_sweep_that_was_stopped_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("sweep", "--p", "7", "--vary", "fraction=0.5,0.8", "--seeds", "1", *HOW)
    with monkeypatch.context() as patched:
        pressing_control_c(patched, at_report=20)
        result = invoke(*command)
    assert result.exit_code == 130
    assert "The same command goes on from there" in result.stdout
    (begun,) = run.stored_runs()
    assert begun.step == 20
    assert "2 settings of 1 seed each" in said_by(*command)
    assert [one.step for one in run.stored_runs()] == [100, 100]


def test_drops_lists_the_drops_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = drops.simulate(300, drop=0.5, at=0.6, noise=0.01, seed=4)
    file = tmp_path / "log.csv"
    frame = pd.DataFrame({"step": curve.steps, "other": 1.0, "loss": curve.values})
    frame.to_csv(file, index=False)
    said = said_by("drops", str(file), "-o", str(tmp_path / "out"))
    expected = drops.detect_drops(curves.read_curve(file))
    assert len(expected.steps) == 1
    assert " ".join(expected.summary().split()) in said
    assert f"│ {expected.steps[0]:,} │ {expected.starts[0]:,} │ {expected.ends[0]:,} │" in said
    assert drops.Drops.load(tmp_path / "out").steps == expected.steps
    calls = computing.counted(monkeypatch, drops.detect_drops)
    again = invoke("drops", str(file))
    assert (" ".join(again.stdout.split()) in said, len(calls)) == (True, 0)
    assert "--again computes anew" in again.stderr
    deep = said_by("drops", str(file), "--minimum", "0.9", "--column", "loss")
    assert "no sudden drop of 0.9 dex" in deep


def drop_at(step: int) -> Callable[..., drops.Drops]:
    """A detector that finds one drop there, whatever the curve."""
    found = drops.detect_drops

    def detect(curve: curves.Curve, **how: Any) -> drops.Drops:
        base = found(curve, **how)
        return dataclasses.replace(
            base,
            steps=(step,),
            starts=(step - 10,),
            ends=(step + 10,),
            sizes=(0.5,),
            sharpness=(2.0,),
            p_values=(0.01,),
        )

    return detect


def test_drops_of_a_run_say_what_changed_inside(
    trained: run.TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "detect_drops", drop_at(110))
    said = said_by("drops", "--run", str(trained.folder), "-o", str(tmp_path / "out"))
    expected = changes.what_changed_at(trained, (100, 120))
    assert "What changed inside at step 110" in said
    assert " ".join(expected.summary().split()) in said
    assert all(name in said for name in expected.components)
    saved = changes.Changes.load(tmp_path / "out" / "changes-110")
    np.testing.assert_array_equal(saved.per_prompt, expected.per_prompt)


def test_a_drop_without_checkpoints_around_it_is_listed_all_the_same(
    trained: run.TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drops, "detect_drops", drop_at(1200))
    said = said_by("drops", "--run", str(trained.folder))
    assert "Inside at step 1,200:" in said
    assert "has no checkpoints on both sides" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--p", "8"], "p = 8; expected a prime"),
        (["train", "--operation", "plus"], "operation 'plus' is not known"),
        (["train", "--recipe", "nanda"], "recipe 'nanda' is not known"),
        (["train", "--set", "width=3"], "a recipe has no 'width': choose from"),
        (["train", "--set", "d_mlp"], "--set 'd_mlp': expected a field and a value"),
        (["train", "--set", "d_mlp=x"], "'x' is not a whole number"),
        (["train", "--set", "weight_decay=x"], "'x' is not a number"),
        (["train", "--set", "constrain_norm=x"], "'x' is not true or false"),
        (["train", "--set", "d_mlp=4", "--set", "d_mlp=5"], "d_mlp is set twice"),
        (["train", "--set", "steps=4", "--steps", "5"], "steps is set twice"),
        (["train", "--stop", "soon"], "--stop 'soon': choose from grokked, settled, never"),
        (["train", "--device", "tpu9"], "device 'tpu9'"),
        (["track", "nothing"], "there is no run 'nothing': give a run's folder"),
        (["track", "0123456789abcdef"], "there is no run '0123456789abcdef'"),
        (["track", "tests"], "tests is not a training run"),
        (["sweep", "--vary", "fractoin=0.3"], "'fractoin' cannot be varied: choose from p"),
        (["sweep", "--vary", "fraction"], "--vary 'fraction': expected a field and a value"),
        (["sweep", "--vary", "p=5,x"], "'x' is not a whole number"),
        (["sweep", "--vary", "p=5", "--vary", "p=7"], "p is varied twice"),
        (["sweep", "--vary", "p=5", "--seeds", "0"], "seeds = (); expected one or more"),
        (["drops"], "give either a FILE or --run RUN, and not both"),
        (["drops", "a.csv", "--run", "b"], "give either a FILE or --run RUN, and not both"),
        (["drops", "--run", "b", "--column", "loss"], "--column chooses a curve of a FILE"),
        (["drops", "--run", "b"], "there is no run 'b'"),
        (["drops", "nothing.csv"], "nothing.csv"),
        (["drops", "README.md"], "README.md"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    result = invoke(*arguments, "-o", str(tmp_path / "out"))
    sentences.assert_one_sentence(result, words, tmp_path / "out")


def test_names_of_columns_are_printed_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "curve.csv").write_text(":x:,[b]\n1,2\n")
    result = invoke("drops", str(tmp_path / "curve.csv"), "--column", "zz")
    assert ":x:, [b]" in result.stderr
