"""A training on disk, as others read it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.modular.conftest import TINY, prompts
from workbench.core.models import sources
from workbench.core.modular import network, run, tasks, training

TASK = tasks.Task(p=7, fraction=0.5)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> run.TrainingRun:
    return training.train(TASK, TINY, folder=tmp_path_factory.mktemp("run"), stop="never")


def test_a_run_tells_what_was_asked_for(found: run.TrainingRun) -> None:
    opened = run.open_run(found.folder)
    assert (opened.task, opened.recipe, opened.step) == (TASK, TINY, 120)
    assert opened.name == "add mod 7, 50% of pairs, seed 0"
    assert opened.steps[0] == 0 and opened.steps[-1] == 120
    assert math.isnan(opened.grokked_at)
    assert opened == found


def test_a_checkpoint_opens_as_a_model_that_computes_the_same(found: run.TrainingRun) -> None:
    folder = found.save_model(120)
    bridge = sources.load_model(folder)
    with torch.inference_mode():
        logits = bridge(prompts(TASK.pairs(), 7))[:, -1]
        (expected, _, _) = next(
            network.forward(network.stacked([found.weights(120)]), TASK.pairs()[None], 2)
        )
    torch.testing.assert_close(logits, expected[0], rtol=1e-5, atol=1e-5)
    assert bridge.to_tokens("2 + 6 =").tolist() == [[2, 6, 7]]


def test_a_checkpoint_that_is_not_there_names_the_nearest(found: run.TrainingRun) -> None:
    with pytest.raises(run.RunError, match="no checkpoint at step 118; the nearest is at 120"):
        found.weights(118)


def test_table_and_figure_show_the_curves(found: run.TrainingRun) -> None:
    table = found.to_frame()
    losses = table[table.measure == "train loss"]
    assert losses.value.tolist() == found.curves.train_loss
    tested = table[table.measure == "test loss"]
    assert tested.step.tolist() == found.curves.test_steps == [0, 50, 100, 120]
    drawn: Any = found.figure()
    traces = {trace.name: trace for trace in drawn.data}
    assert list(traces["test loss"].y) == found.curves.test_loss
    assert traces["train loss"].y[1] == found.curves.train_loss[50]


def test_a_run_in_progress_can_be_read(tmp_path: Path) -> None:
    with run.claimed([tmp_path], [TASK], TINY):
        opened = run.open_run(tmp_path)
    assert (opened.step, opened.steps) == (0, ())
    assert opened.summary().endswith("not begun.")


@pytest.mark.parametrize("content", ["{}", "no json", '{"task": {"p": 4}, "recipe": {}}'])
def test_a_damaged_run_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(run.RunError, match="is not a training run or is damaged"):
        run.open_run(tmp_path)


def test_a_damaged_state_or_checkpoint_says_so(tmp_path: Path) -> None:
    made = training.train(TASK, TINY, folder=tmp_path, stop="never")
    (tmp_path / "checkpoints" / "120.safetensors").write_bytes(b"damaged")
    with pytest.raises(run.RunError, match="checkpoint of step 120 .* is damaged"):
        made.weights(120)
    (tmp_path / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(run.RunError, match=r"state\.safetensors is damaged"):
        run.read_state(tmp_path)


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(run.RunError, match="cannot write to"):
        training.train(TASK, TINY, folder=tmp_path / "file" / "run")


def test_damaged_runs_are_not_listed() -> None:
    (run.trainings_root() / "abc").mkdir(parents=True)
    (run.trainings_root() / "abc" / "run.json").write_text("{}")
    assert run.stored_runs() == []


def test_a_model_without_a_trajectory_is_refused() -> None:
    with pytest.raises(run.RunError, match="'grammar-4l' brings no trajectory along"):
        run.bundled_run("grammar-4l")
