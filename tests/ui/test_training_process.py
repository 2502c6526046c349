"""Trainings in a process of their own: the same bits, errors as sentences, an end when told to."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.core.modular import recipe, run, tasks, training
from workbench.ui import jobs, training_process

TASK = tasks.Task(p=11, fraction=0.6)
RECIPE = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=24, steps=100)


def test_it_ends_with_the_bits_of_a_training_here_and_reports_on_the_way(tmp_path: Path) -> None:
    said: list[tuple[float, str]] = []
    training_process.train(
        TASK,
        dataclasses.replace(RECIPE, steps=400),
        folder=tmp_path / "there",
        stop="never",
        report=lambda fraction, note: said.append((fraction, note)),
    )
    here = training.train(
        TASK, dataclasses.replace(RECIPE, steps=400), folder=tmp_path / "here", stop="never"
    )
    assert run.open_run(tmp_path / "there").curves == here.curves
    assert all(0 < fraction <= 1 and note.startswith("step ") for fraction, note in said)


def test_what_its_report_raises_stops_it_after_it_has_saved(tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise jobs.Cancelled

    endless = dataclasses.replace(RECIPE, steps=1_000_000)
    with pytest.raises(jobs.Cancelled):
        training_process.train(TASK, endless, folder=tmp_path, stop="never", report=stop)
    state = run.read_state(tmp_path)
    assert state is not None
    assert 0 < state.step == run.open_run(tmp_path).step < 1_000_000
    assert not run.is_training(tmp_path)


def test_a_training_that_cannot_go_on_says_why(tmp_path: Path) -> None:
    training.train(TASK, RECIPE, folder=tmp_path, stop="never")
    other = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(training.TrainingError, match="has diverged; lower the learning rate"):
        training_process.train(
            TASK, other, folder=tmp_path / "other", stop="never", report=lambda *_: None
        )


def test_it_saves_and_ends_when_its_server_is_gone(tmp_path: Path) -> None:
    asked = {
        "task": dataclasses.asdict(TASK),
        "recipe": dataclasses.asdict(dataclasses.replace(RECIPE, steps=1_000_000)),
        "folder": str(tmp_path),
        "stop": "never",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "workbench.ui.training_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    assert "fraction" in json.loads(process.stdout.readline())
    process.stdin.close()
    process.stdout.close()
    assert process.wait(60) == 0
    state = run.read_state(tmp_path)
    assert state is not None
    assert state.step > 0
