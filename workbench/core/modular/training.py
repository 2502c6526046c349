"""Train networks on a task, with exact resume; one seed, or several side by side.

1. A step is `stepping`'s: full batches, AdamW, cross-entropy in float64. Several seeds share the
   processor's threads, or on a GPU the same calls (`Training`).
2. Test loss and accuracy are measured every `TEST_EVERY` steps. A checkpoint is kept where a
   measure has moved since the last one: dense where something happens, sparse where nothing does.
3. Everything that the rest depends on (weights, optimizer, curves, what the last checkpoint was
   compared with) is saved together under one name and renamed into place. A training that was
   killed at any step goes on from there and ends with the same bits as one that was not.
4. What is going on can be read by others meanwhile: the run's folder is the only interface
   (`run.open_run`).

Sources: Nanda et al. 2023, arXiv 2301.05217; Liu et al. 2022, arXiv 2210.01117 (constrained norm);
Lee et al. 2024, arXiv 2405.20233 (Grokfast-EMA).

Units: losses in nats a pair. Limits: equal bits on one machine with one number of threads for each
seed; on a GPU, seeds side by side go through batched products, whose rounding differs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import queue
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from workbench.core.engine import running
from workbench.core.models import sources
from workbench.core.modular import network, run, stepping, tasks
from workbench.core.modular import recipe as recipes

Stop = Literal["grokked", "settled", "never"]

TEST_EVERY = 50
# Settled: grokked, and the squared weights have changed by less than this share in so many steps.
SETTLED_SHARE, SETTLED_STEPS = 0.005, 2_000
# A checkpoint is due when a measure has moved by so much: decades of train and of test loss, test
# accuracy, and the logarithm of the squared weights (`Curves.at`); or after so many steps.
_MOVES = np.array([0.5, 0.25, 0.1, 0.04])
_LONGEST_GAP = 1_000
# Steps of several groups between two moments at which all stand at the same step.
_STRIDE = 10
# Wall time between two states on disk, between two looks at the curves, and between two reports.
_SAVE_SECONDS, _LIVE_SECONDS, _REPORT_SECONDS = 15.0, 0.5, 0.1


class TrainingError(ValueError):
    """A training that cannot go on; the message says why."""


def train(
    task: tasks.Task,
    recipe: recipes.Recipe | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    stop: Stop = "grokked",
    device: str = "auto",
    progress: running.Progress | None = None,
) -> run.TrainingRun:
    """Train a network, or go on with a training that was stopped.

    Args:
        task: What is learned.
        recipe: How; the published set-up of Nanda et al. if none is given.
        folder: Where the run is kept; by default a folder of its own among the stored runs, so that
            the same task and recipe find it again.
        stop: "grokked" once the test loss has fallen, "settled" once the weights have also ceased
            to shrink, "never" before the recipe's last step.
        device: "auto" takes a GPU where there is one, else the CPU; or a torch device name.
        progress: Told the fraction done and what is going on; may raise to stop, after which the
            run can be resumed.

    Returns:
        The run, ended.

    Raises:
        ValueError: If the folder belongs to another run or another process trains in it, there is
            no such device, or the loss is no longer a number.
    """
    recipe = recipe or recipes.recipe()
    place = run.folder_of(task, recipe) if folder is None else Path(folder)
    return train_seeds(
        [task], recipe, folders=[place], stop=stop, device=device, progress=progress
    )[0]


def train_seeds(
    every: Sequence[tasks.Task],
    recipe: recipes.Recipe | None = None,
    *,
    folders: Sequence[Path] | None = None,
    stop: Stop = "grokked",
    device: str = "auto",
    progress: running.Progress | None = None,
) -> tuple[run.TrainingRun, ...]:
    """Train several tasks side by side that differ in seed and operation only.

    Args:
        every: The tasks, of one modulus and with equally many training pairs.
        recipe: How they are trained.
        folders: Where each is kept.
        stop: When each ends; one that has ended leaves the others to themselves.
        device: Where they are trained.
        progress: Told the fraction done and what is going on; may raise to stop.

    Returns:
        The runs, ended, in the order of the tasks.

    Raises:
        ValueError: As for `train`; or if the tasks cannot be trained side by side.
    """
    recipe = recipe or recipes.recipe()
    places = folders or [run.folder_of(task, recipe) for task in every]
    if len({(task.p, task.n_train, task.n_pairs) for task in every}) != 1:
        raise TrainingError(
            "tasks that are trained side by side need one modulus and equally many training pairs"
        )
    where = torch.device(sources.torch_device(device))
    with run.claimed(places, every, recipe):
        states = [run.read_state(place) for place in places]
        steps = [0 if state is None else state.step for state in states]
        for step in sorted(set(steps)):
            # A training that was killed while it saved may have left its seeds at two steps.
            group = [
                i
                for i, at in enumerate(steps)
                if at == step and not _ended(states[i], recipe, stop)
            ]
            if group:
                chosen = [(every[i], places[i], states[i]) for i in group]
                Training(chosen, recipe, stop, where).go(progress or running.no_progress)
    return tuple(run.open_run(place) for place in places)


def _ended(state: run.State | None, recipe: recipes.Recipe, stop: Stop) -> bool:
    """Whether a run that was read back has nothing left to do."""
    if state is None:
        return False
    return state.step >= recipe.steps or _reached(state, stop)


def _reached(state: run.State, stop: Stop) -> bool:
    if stop == "never" or not math.isfinite(state.grokked_at):
        return False
    return stop == "grokked" or _settled(state)


def _settled(state: run.State) -> bool:
    curves = state.curves
    before = np.searchsorted(curves.test_steps, state.step - SETTLED_STEPS)
    weights = curves.squared_weights
    long_enough = state.step - max(state.grokked_at, 0) >= SETTLED_STEPS and before < len(weights)
    return bool(long_enough and abs(weights[-1] / weights[before] - 1) < SETTLED_SHARE)


@dataclasses.dataclass(eq=False)
class _Seed:
    """One of the networks that are trained side by side."""

    task: tasks.Task
    folder: Path
    state: run.State


class _Group:
    """Seeds whose networks are trained in the same calls."""

    def __init__(
        self, seeds: list[_Seed], recipe: recipes.Recipe, step: int, device: torch.device
    ) -> None:
        self.seeds, self.step = seeds, step
        self._recipe, self._device = recipe, device
        its_tasks, states = [seed.task for seed in seeds], [seed.state for seed in seeds]
        self._networks = stepping.Networks(its_tasks, states, recipe, step, device)

    def advance(self) -> None:
        """Take a step, and test where it is time."""
        if not self.step:
            self._measure()
        for seed, value in zip(self.seeds, self._networks.take_step(self.step), strict=True):
            _require_finite(value, "training loss", seed, self.step)
            seed.state.curves.add_train(value)
        self.step += 1
        if self.step % TEST_EVERY == 0 or self.step == self._recipe.steps:
            self._measure()

    def _measure(self) -> None:
        """Test every seed, and keep a checkpoint of those that have moved."""
        for i, (test_loss, accuracy) in enumerate(self._networks.test()):
            seed, weights = self.seeds[i], self._networks.weights(i)
            # Before anything is kept: what was kept last is what can be gone on from.
            _require_finite(test_loss, "test loss", seed, self.step)
            seed.state.step = self.step
            squares = network.squared_weights(weights)
            seed.state.curves.add_test(self.step, test_loss, accuracy, squares)
            if seed.state.checkpoint_due(_MOVES, _LONGEST_GAP) or self.step == self._recipe.steps:
                run.write_checkpoint(seed.folder, self.step, weights)
                seed.state.remember_checkpoint()

    def still_training(self, stop: Stop) -> list[_Group]:
        """The group, without the seeds that have ended, which are saved; none if all have."""
        ended = [seed for seed in self.seeds if _reached(seed.state, stop)]
        if not ended:
            return [self]
        self.save()
        for seed in ended:
            run.write_checkpoint(seed.folder, self.step, seed.state.weights)
        others = [seed for seed in self.seeds if seed not in ended]
        return [_Group(others, self._recipe, self.step, self._device)] if others else []

    def save(self) -> None:
        """Write everything that going on depends on."""
        for i, seed in enumerate(self.seeds):
            seed.state.step = self.step
            self._networks.store(i, seed.state)
            # A step whose loss was a number may have led to weights that are none.
            _require_finite(
                network.squared_weights(seed.state.weights),
                "sum of squared weights",
                seed,
                self.step,
            )
            run.write_state(seed.folder, seed.state)


def _require_finite(value: float, what: str, seed: _Seed, step: int) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} of {seed.task.name} is {value} at step {step}: it has diverged; lower the "
            "learning rate or the initial scale (what was kept before this step is whole)"
        )


# Takes turns with groups that wait, until each stands at a step.
_Work = Callable[["queue.SimpleQueue[_Group]", int], None]


class Training:
    """The loop over networks that stand at the same step.

    On a GPU all of them are one network with a leading axis, which takes hardly longer than one of
    them. On a CPU each goes through its own calls, as many at a time as there are threads: that
    uses the processor better than splitting each small call among them.
    """

    def __init__(
        self,
        chosen: Sequence[tuple[tasks.Task, Path, run.State | None]],
        recipe: recipes.Recipe,
        stop: Stop,
        device: torch.device,
    ) -> None:
        """Load the networks.

        Args:
            chosen: Tasks, their folders, and where each stands; None before its first step.
            recipe: How they are trained.
            stop: When each ends.
            device: Where they are trained.
        """
        self._recipe = recipe
        self._stop: Stop = stop
        seeds = [
            _Seed(task, folder, state or run.State.start(task, recipe))
            for task, folder, state in chosen
        ]
        self.step = seeds[0].state.step
        together = [[seed] for seed in seeds] if device.type == "cpu" else [seeds]
        self._groups = [_Group(group, recipe, self.step, device) for group in together]

    @property
    def seeds(self) -> list[_Seed]:
        """Those that have not ended."""
        return [seed for group in self._groups for seed in group.seeds]

    def go(self, progress: running.Progress) -> None:
        """Train until every seed has ended.

        Whatever `progress` raises ends the training, with everything up to there kept. What ends it
        in the middle of a step leaves the state that was last kept.

        Args:
            progress: Told the fraction done and what is going on.

        Raises:
            TrainingError: If the loss is no longer a number.
        """
        saved = shown = reported = time.monotonic()
        between_steps = False
        try:
            with contextlib.closing(self._rounds()) as rounds:
                for _ in rounds:
                    between_steps = True
                    now = time.monotonic()
                    if now - saved >= _SAVE_SECONDS:
                        self._save()
                        saved = shown = now
                    elif now - shown >= _LIVE_SECONDS:
                        self._show()
                        shown = now
                    if now - reported >= _REPORT_SECONDS and self._groups:
                        progress(self.step / self._recipe.steps, self._note())
                        reported = now
                    between_steps = False
            between_steps = True
        finally:
            if between_steps:
                self._save()

    def _rounds(self) -> Generator[int]:
        """Advance until every seed has ended, and give the step each time that all stand at it."""
        while self._groups and self.step < self._recipe.steps:
            count = len(self._groups)
            # Those that are left share all threads.
            with _workers(count) as work:
                while len(self._groups) == count and self.step < self._recipe.steps:
                    self.advance(work)
                    yield self.step

    def advance(self, work: _Work) -> None:
        """Take a step, or a few where there are several groups, and let those go that have ended.

        Args:
            work: Takes turns with the groups.

        Raises:
            TrainingError: If the loss is no longer a number.
        """
        stride = _STRIDE if len(self._groups) > 1 else 1
        until_test = TEST_EVERY - self.step % TEST_EVERY
        target = min(self.step + min(stride, until_test), self._recipe.steps)
        waiting: queue.SimpleQueue[_Group] = queue.SimpleQueue()
        for group in self._groups:
            waiting.put(group)
        work(waiting, target)
        self.step = target
        if self.step % TEST_EVERY == 0:
            left = [group.still_training(self._stop) for group in self._groups]
            self._groups = [group for groups in left for group in groups]

    def _note(self) -> str:
        seeds = self.seeds
        more = f"{len(seeds)} seeds, the first at " if len(seeds) > 1 else ""
        return more + seeds[0].state.curves.note()

    def _save(self) -> None:
        for group in self._groups:
            group.save()

    def _show(self) -> None:
        for seed in self.seeds:
            run.write_live(seed.folder, seed.state.curves)


@contextlib.contextmanager
def _workers(count: int) -> Generator[_Work]:
    """Share torch's threads out among several groups; each group's steps follow one another."""
    threads = torch.get_num_threads()
    workers = min(threads, count)
    if workers == 1:
        yield _take_turns
        return
    # Torch counts threads for each thread that calls it, its matrix products for all of them.
    share = threads // workers
    torch.set_num_threads(share)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(share,))

    def work(waiting: queue.SimpleQueue[_Group], step: int) -> None:
        for ended in [pool.submit(_take_turns, waiting, step) for _ in range(workers)]:
            ended.result()

    try:
        yield work
    finally:
        pool.shutdown()
        torch.set_num_threads(threads)


def _take_turns(waiting: queue.SimpleQueue[_Group], step: int) -> None:
    """Advance whichever group waits longest by one step, so that all workers end together."""
    with contextlib.suppress(queue.Empty):
        while True:
            group = waiting.get_nowait()
            group.advance()
            if group.step < step:
                waiting.put(group)


def checkpoints_evenly(found: run.TrainingRun, count: int) -> tuple[int, ...]:
    """Choose checkpoints of a run so that its measures move about equally from one to the next.

    Args:
        found: A run.
        count: How many at the most; the first and the last are among them.

    Returns:
        Their steps, in order.
    """
    steps = np.array(found.steps)
    points = found.curves.at(steps) / _MOVES
    moved = np.abs(np.diff(points, axis=0)).max(1) + np.diff(steps) / _LONGEST_GAP
    travelled = np.concatenate([[0.0], np.cumsum(moved)])
    targets = np.linspace(0, travelled[-1], count)
    chosen = {int(np.abs(travelled - target).argmin()) for target in targets}
    return tuple(steps[sorted(chosen)].tolist())
