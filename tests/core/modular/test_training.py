"""Training: plain steps, exact resume, checkpoints, seeds side by side, and ways to end."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.core.modular.conftest import TINY, native, prompts
from workbench.core.engine import running
from workbench.core.modular import network, recipe, run, stepping, tasks, training

TASK = tasks.Task(p=7, fraction=0.5)
ROOT = Path(__file__).resolve().parents[3]


class Stopped(Exception):
    pass


def stop_after(reports: int) -> running.Progress:
    left = iter(range(reports))

    def progress(fraction: float, note: str) -> None:
        if next(left, None) is None:
            raise Stopped

    return progress


@pytest.fixture(autouse=True)
def _report_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_REPORT_SECONDS", 0.0)


def same_bits(one: run.TrainingRun, other: run.TrainingRun) -> bool:
    return all(
        torch.equal(value, other.weights(step)[name])
        for step in one.steps
        for name, value in one.weights(step).items()
    )


def test_steps_are_those_of_plain_automatic_differentiation(tmp_path: Path) -> None:
    found = training.train(TASK, recipe.recipe(**_tiny(steps=20)), folder=tmp_path, stop="never")
    weights = network.initial_weights(TINY, 7, 0)
    plain = native(7, weights)
    train, test = TASK.split()
    pairs, answers = TASK.pairs(), TASK.answers()
    trained = [value for value in plain.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1.0, betas=(0.9, 0.98))
    for step in range(20):
        optimizer.param_groups[0]["lr"] = 1e-3 if step else 0.0
        logits = plain(prompts(pairs, 7))[:, -1]
        loss = functional.cross_entropy(logits[train], answers[train])
        assert found.curves.train_loss[step] == pytest.approx(loss.item(), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        logits = plain(prompts(pairs, 7))[test][:, -1]
    expected = functional.cross_entropy(logits, answers[test]).item()
    assert found.curves.test_steps == [0, 20]
    assert found.curves.test_loss[-1] == pytest.approx(expected, rel=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found.weights(20)[name].double(), value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reports", [1, 49, 50, 77])
def test_a_training_that_was_stopped_anywhere_ends_in_the_same_bits(
    tmp_path: Path, reports: int
) -> None:
    made = recipe.recipe(**_tiny(), grokfast_lambda=2.0, constrain_norm=True)
    whole = training.train(TASK, made, folder=tmp_path / "whole", stop="never")
    with pytest.raises(Stopped):
        training.train(
            TASK, made, folder=tmp_path / "cut", stop="never", progress=stop_after(reports)
        )
    assert run.open_run(tmp_path / "cut").step == reports + 1
    resumed = training.train(TASK, made, folder=tmp_path / "cut", stop="never")
    assert resumed.curves == whole.curves
    assert resumed.steps == whole.steps
    assert same_bits(whole, resumed)
    assert resumed.fingerprint == whole.fingerprint


def test_a_training_that_was_killed_ends_in_the_same_bits(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, torch
        torch.set_num_threads(1)
        from pathlib import Path
        from workbench.core.modular import recipe, tasks, training
        training._SAVE_SECONDS = 0.05
        sizes = dict(d_model=8, n_heads=2, d_head=4, d_mlp=12, warm_up=1, steps=2000)
        training.train(tasks.Task(p=7, fraction=0.5), recipe.recipe(**sizes),
                       folder=Path(sys.argv[1]), stop="never")
        """
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "killed")], cwd=ROOT)
    state = tmp_path / "killed" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = run.read_state(tmp_path / "killed")
    assert before is not None and 0 < before.step < 2000, "it was killed on its way"
    sizes: dict[str, Any] = {
        "d_model": 8,
        "n_heads": 2,
        "d_head": 4,
        "d_mlp": 12,
        "warm_up": 1,
        "steps": 2000,
    }
    task, made = tasks.Task(p=7, fraction=0.5), recipe.recipe(**sizes)
    one, other = (
        training.train(task, made, folder=tmp_path / name, stop="never")
        for name in ("whole", "killed")
    )
    assert one.step == other.step == 2000
    assert one.curves == other.curves
    assert same_bits(one, other)


def test_what_a_killed_write_leaves_is_not_read(tmp_path: Path) -> None:
    found = training.train(TASK, TINY, folder=tmp_path, stop="never")
    (tmp_path / "checkpoints" / ".119.safetensors.abc").write_bytes(b"half")
    (tmp_path / ".state.safetensors.abc").write_bytes(b"half")
    assert run.open_run(tmp_path).steps == found.steps


@pytest.mark.parametrize("threads", [1, 2])
def test_seeds_side_by_side_end_in_the_bits_that_each_ends_in_alone(
    tmp_path: Path, threads: int
) -> None:
    every = [tasks.Task(p=7, fraction=0.5, seed=seed) for seed in (0, 1, 2)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = training.train_seeds(
            every, TINY, folders=[tmp_path / f"together-{i}" for i in range(3)], stop="never"
        )
        assert torch.get_num_threads() == threads, "what was shared out is given back"
        torch.set_num_threads(1)
        for i, (task, found) in enumerate(zip(every, together, strict=True)):
            alone = training.train(task, TINY, folder=tmp_path / f"alone-{i}", stop="never")
            assert found.task == task
            assert found.curves == alone.curves
            assert same_bits(found, alone)
    finally:
        torch.set_num_threads(before)


def test_a_seed_that_has_ended_leaves_its_threads_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[run.State] = []

    def reached(state: run.State, stop: training.Stop) -> bool:
        if not ended:
            ended.append(state)
        return state is ended[0]

    shared: list[int] = []
    workers = training._workers

    def noted(count: int) -> Any:
        shared.append(count)
        return workers(count)

    monkeypatch.setattr(training, "_reached", reached)
    monkeypatch.setattr(training, "_workers", noted)
    every = [tasks.Task(p=7, fraction=0.5, seed=seed) for seed in (0, 1, 2)]
    folders = [tmp_path / str(task.seed) for task in every]
    found = training.train_seeds(every, TINY, folders=folders)
    assert [each.step for each in found] == [50, 120, 120]
    assert shared == [3, 2]
    for each in found:
        assert each.steps[-1] == each.step == len(each.curves.train_loss)


def test_networks_in_the_same_calls_learn_what_each_learns_alone() -> None:
    # As on a GPU, where all seeds are one network with a leading axis.
    every = [tasks.Task(p=7, fraction=0.5, seed=seed) for seed in (0, 1, 2)]
    made = recipe.recipe(**_tiny(steps=30), grokfast_lambda=2.0, constrain_norm=True)
    cpu = torch.device("cpu")

    def begin(some: list[tasks.Task]) -> tuple[stepping.Networks, list[run.State]]:
        states = [run.State.start(task, made) for task in some]
        return stepping.Networks(some, states, made, 0, cpu), states

    together, states = begin(every)
    losses = np.array([together.take_step(step) for step in range(30)])
    tested = np.array(together.test())
    for i, task in enumerate(every):
        alone, of_alone = begin([task])
        expected = [alone.take_step(step)[0] for step in range(30)]
        np.testing.assert_allclose(losses[:, i], expected, rtol=1e-4)
        np.testing.assert_allclose(tested[i], alone.test()[0], rtol=1e-4)
        together.store(i, states[i])
        alone.store(0, of_alone[0])
        for name, value in of_alone[0].weights.items():
            torch.testing.assert_close(states[i].weights[name], value, rtol=1e-3, atol=1e-5)


def test_a_seed_that_diverges_ends_all_and_says_which(tmp_path: Path) -> None:
    every = [tasks.Task(p=7, fraction=0.5, seed=seed) for seed in (0, 1)]
    made = recipe.recipe(**_tiny(), learning_rate=1e30)
    folders = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(
        training.TrainingError, match=r"of add mod 7, .*seed [01] is .* has diverged"
    ):
        training.train_seeds(every, made, folders=folders, stop="never")


def test_seeds_that_were_saved_at_different_steps_all_go_on(tmp_path: Path) -> None:
    every = [tasks.Task(p=7, fraction=0.5, seed=seed) for seed in (0, 1)]
    folders = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(Stopped):
        training.train(every[0], TINY, folder=folders[0], stop="never", progress=stop_after(30))
    both = training.train_seeds(every, TINY, folders=folders, stop="never")
    assert [found.step for found in both] == [120, 120]


def test_constrained_norm_keeps_the_initial_norm(tmp_path: Path) -> None:
    made = recipe.recipe(**_tiny(), constrain_norm=True, weight_decay=0.0)
    found = training.train(TASK, made, folder=tmp_path, stop="never")
    weights = found.curves.squared_weights
    np.testing.assert_allclose(weights, weights[0], rtol=1e-5)


def test_grokfast_adds_the_slow_gradient(tmp_path: Path) -> None:
    made = recipe.recipe(**_tiny(steps=3), grokfast_lambda=2.0, grokfast_alpha=0.5)
    found = training.train(TASK, made, folder=tmp_path, stop="never")
    state = run.read_state(tmp_path)
    assert state is not None
    weights = network.initial_weights(made, 7, 0)
    plain = native(7, weights)
    train, _ = TASK.split()
    trained = {n: v for n, v in plain.named_parameters() if v.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.0, weight_decay=1.0, betas=(0.9, 0.98))
    slow = {name: torch.zeros_like(value) for name, value in trained.items()}
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 1e-3 if step else 0.0
        optimizer.zero_grad()
        logits = plain(prompts(TASK.pairs()[train], 7))[:, -1]
        functional.cross_entropy(logits, TASK.answers()[train]).backward()
        for name, value in trained.items():
            assert value.grad is not None
            slow[name] = 0.5 * slow[name] + 0.5 * value.grad
            value.grad = value.grad + 2.0 * slow[name]
        optimizer.step()
    for name, value in slow.items():
        torch.testing.assert_close(state.slow_gradients[name].double(), value, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(
            found.weights(3)[name].double(), trained[name].detach(), rtol=1e-3, atol=1e-6
        )


def test_it_stops_when_it_has_grokked_and_says_when(tmp_path: Path) -> None:
    found = training.train(_quick(), _quick_recipe(), folder=tmp_path)
    assert math.isfinite(found.grokked_at)
    assert found.step == found.grokked_at == found.steps[-1]
    assert found.step < _quick_recipe().steps
    assert found.curves.test_accuracy[-1] >= 0.99 and found.curves.test_loss[-1] < 0.1
    assert "It grokked at step" in found.summary()
    bridge = found.model()
    task = _quick()
    with torch.inference_mode():
        logits = bridge(prompts(task.pairs(), task.p))[:, -1, : task.p]
    _, test = task.split()
    right = (logits.argmax(1) == task.answers())[test].double().mean()
    assert float(right) == pytest.approx(found.curves.test_accuracy[-1])


def _quick() -> tasks.Task:
    return tasks.Task(p=23, fraction=0.8)


def _quick_recipe() -> recipe.Recipe:
    # A small network on most of the pairs generalises within a few hundred steps.
    return recipe.recipe(
        d_model=64, n_heads=2, d_head=32, d_mlp=128, learning_rate=1e-2, steps=2_500
    )


def test_checkpoints_lie_where_something_moves(tmp_path: Path) -> None:
    found = training.train(_quick(), _quick_recipe(), folder=tmp_path)
    assert found.steps[0] == 0
    points = found.curves.at(np.array(found.steps))
    every = found.curves.at(np.array(found.curves.test_steps))
    # Between neighbouring checkpoints nothing has moved much further than between two tests.
    largest_jump = np.abs(np.diff(every, axis=0)).max(0)
    moved = np.abs(np.diff(points, axis=0)).max(0)
    assert (moved <= training._MOVES + largest_jump + 1e-9).all()
    few = training.checkpoints_evenly(found, 3)
    assert few[0] == 0 and few[-1] == found.steps[-1] and 2 <= len(few) <= 3


def test_random_answers_are_memorised_and_never_grokked(tmp_path: Path) -> None:
    task = tasks.Task(p=11, operation="random", fraction=0.5)
    made = recipe.recipe(**_tiny(steps=600), weight_decay=0.0, learning_rate=1e-2)
    found = training.train(task, made, folder=tmp_path)
    assert found.step == 600
    assert found.curves.train_loss[-1] < 0.3
    assert found.curves.test_accuracy[-1] < 0.3
    assert math.isnan(found.grokked_at)
    assert "has not generalised" in found.summary()


def test_a_training_that_diverges_says_so_and_keeps_what_was_whole(tmp_path: Path) -> None:
    made = recipe.recipe(**_tiny(), learning_rate=1e30)
    with pytest.raises(training.TrainingError, match="diverged; lower the learning rate"):
        training.train(TASK, made, folder=tmp_path, stop="never")
    assert run.read_state(tmp_path) is None


def test_only_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    with run.claimed([tmp_path], [TASK], TINY):
        assert run.is_training(tmp_path)
        with pytest.raises(run.RunError, match="another process trains in"):
            training.train(TASK, TINY, folder=tmp_path)
    assert not run.is_training(tmp_path)


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    training.train(TASK, recipe.recipe(**_tiny(steps=1)), folder=tmp_path)
    with pytest.raises(run.RunError, match="holds another run"):
        training.train(tasks.Task(p=11), TINY, folder=tmp_path)


def test_tasks_of_different_size_are_not_trained_side_by_side() -> None:
    with pytest.raises(training.TrainingError, match="need one modulus"):
        training.train_seeds([tasks.Task(p=7, fraction=0.5), tasks.Task(p=11)], TINY)


def test_the_same_task_and_recipe_find_their_run_again() -> None:
    first = training.train(TASK, TINY, stop="never")
    assert first.folder.parent == run.trainings_root()
    again = training.train(TASK, TINY, stop="never")
    assert again.folder == first.folder
    assert [found.folder for found in run.stored_runs()] == [first.folder]
    shutil.rmtree(first.folder)


def _tiny(steps: int = 120) -> dict[str, Any]:
    return {"d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 12, "warm_up": 1, "steps": steps}
