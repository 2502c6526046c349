"""Train networks on a task, with exact resume; one seed, or several side by side.

1. Full batches, AdamW, cross-entropy in float64 (`loss`). Several seeds are one network with a
   leading axis, so that they share every call.
2. Test loss and accuracy are measured every `TEST_EVERY` steps. A checkpoint is kept where a
   measure has moved since the last one: dense where something happens, sparse where nothing does.
3. Everything that the rest depends on (weights, optimizer, curves, what the last checkpoint was
   compared with) is saved together under one name and renamed into place. A training that was
   killed at any step goes on from there and ends with the same bits as one that was not.
4. What is going on can be read by others meanwhile: the run's folder is the only interface
   (`run.open_run`).

Sources: Nanda et al. 2023, arXiv 2301.05217; Liu et al. 2022, arXiv 2210.01117 (constrained norm);
Lee et al. 2024, arXiv 2405.20233 (Grokfast-EMA).

Units: losses in nats a pair. Limits: equal bits on one machine with one number of threads; seeds
that are trained side by side go through batched products, whose rounding differs from that of a
single one.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.core.engine import running
from workbench.core.models import sources
from workbench.core.modular import loss, network, run, tasks
from workbench.core.modular import recipe as recipes

Stop = Literal["grokked", "settled", "never"]

TEST_EVERY = 50
# Settled: grokked, and the squared weights have changed by less than this share in so many steps.
SETTLED_SHARE, SETTLED_STEPS = 0.005, 2_000
# A checkpoint is due when a measure has moved by so much: decades of train and of test loss, test
# accuracy, and the logarithm of the squared weights (`Curves.at`); or after so many steps.
_MOVES = np.array([0.5, 0.25, 0.1, 0.04])
_LONGEST_GAP = 1_000
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
                _Training(chosen, recipe, stop, where).go(progress or running.no_progress)
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


@dataclasses.dataclass
class _Seed:
    """One of the networks that are trained side by side."""

    task: tasks.Task
    folder: Path
    state: run.State


class _Training:
    """The loop over networks that stand at the same step."""

    def __init__(
        self,
        chosen: Sequence[tuple[tasks.Task, Path, run.State | None]],
        recipe: recipes.Recipe,
        stop: Stop,
        device: torch.device,
    ) -> None:
        self._recipe, self._device = recipe, device
        self._stop: Stop = stop
        self._seeds = [
            _Seed(task, folder, state or run.State.start(task, recipe))
            for task, folder, state in chosen
        ]
        self.step = self._seeds[0].state.step
        self._load()

    def _load(self) -> None:
        """Put the seeds' states side by side on the device."""
        states = [seed.state for seed in self._seeds]

        def side_by_side(kind: str) -> network.Weights:
            made = network.stacked([getattr(state, kind) for state in states])
            return {name: value.to(self._device) for name, value in made.items()}

        self._weights = side_by_side("weights")
        self._trained = sorted(name for name in self._weights if name not in network.FROZEN)
        for name in self._trained:
            self._weights[name].requires_grad_(True)
        parameters = [self._weights[name] for name in self._trained]
        self._optimizer = torch.optim.AdamW(
            parameters,
            lr=self._recipe.learning_rate,
            weight_decay=self._recipe.weight_decay,
            betas=(self._recipe.beta1, self._recipe.beta2),
            fused=True,
        )
        first, second = side_by_side("first_moments"), side_by_side("second_moments")
        for name, parameter in zip(self._trained, parameters, strict=True):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step), device=self._device),
                "exp_avg": first[name],
                "exp_avg_sq": second[name],
            }
        self._slow = side_by_side("slow_gradients")
        self._norms = [math.sqrt(state.initial_squared_weights) for state in states]
        self._batch, self._tests = self._pairs()

    def _pairs(self) -> tuple[loss.Batch, tuple[Tensor, Tensor]]:
        """The training batch of all seeds, and the pairs and answers to test with."""
        taught: list[tuple[Tensor, Tensor]] = []
        held_out: list[tuple[Tensor, Tensor]] = []
        for seed in self._seeds:
            pairs, (train, test) = seed.task.pairs(), seed.task.split()
            taught.append((pairs[train], seed.task.labels()[train]))
            held_out.append((pairs[test], seed.task.answers()[test]))
        pairs, labels = (torch.stack(kind).to(self._device) for kind in zip(*taught, strict=True))
        tests = tuple(torch.stack(kind).to(self._device) for kind in zip(*held_out, strict=True))
        batch = loss.Batch(*network.lookup_rows(pairs, self._seeds[0].task.p), labels)
        return batch, (tests[0], tests[1])

    def go(self, progress: running.Progress) -> None:
        """Train until every seed has ended.

        Whatever `progress` raises ends the training, with everything up to there kept. What ends it
        in the middle of a step leaves the state that was last kept.
        """
        last = self._recipe.steps
        saved = shown = reported = time.monotonic()
        between_steps = False
        try:
            if not self.step:
                self._measure()
            while self._seeds and self.step < last:
                between_steps = False
                self._take_step()
                if self.step % TEST_EVERY == 0 or self.step == last:
                    self._measure()
                    self._let_go()
                between_steps = True
                now = time.monotonic()
                if now - saved >= _SAVE_SECONDS:
                    self._save()
                    saved = shown = now
                elif now - shown >= _LIVE_SECONDS:
                    self._show()
                    shown = now
                if now - reported >= _REPORT_SECONDS and self._seeds:
                    progress(self.step / last, self._note())
                    reported = now
        finally:
            if between_steps:
                self._save()

    def _note(self) -> str:
        curves = self._seeds[0].state.curves
        more = f" ({len(self._seeds)} seeds)" if len(self._seeds) > 1 else ""
        return (
            f"step {self.step:,}{more}: train {curves.train_loss[-1]:.2g}, "
            f"test {curves.test_loss[-1]:.2g}"
        )

    def _take_step(self) -> None:
        recipe = self._recipe
        rate = recipe.learning_rate
        if self.step < recipe.warm_up:
            rate *= self.step / recipe.warm_up
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.zero_grad()
        dtype = torch.float32 if recipe.precision == "float32" else torch.bfloat16
        made = network.tables(self._weights, recipe.n_heads)
        losses = loss.mean_losses(made, self._batch, dtype)
        # Each seed has its own weights: the gradient of the sum is each one's own.
        losses.sum().backward()
        if recipe.grokfast_lambda:
            self._amplify_slow_gradients()
        self._optimizer.step()
        if recipe.constrain_norm:
            self._restore_norms()
        for seed, value in zip(self._seeds, losses.detach().tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the training loss of {seed.task.name} is {value} at step {self.step}: it has "
                    "diverged; lower the learning rate or the initial scale"
                )
            seed.state.curves.add_train(value)
        self.step += 1

    def _amplify_slow_gradients(self) -> None:
        alpha = self._recipe.grokfast_alpha
        for name in self._trained:
            gradient = self._weights[name].grad
            assert gradient is not None
            slow = self._slow[name].mul_(alpha).add_(gradient, alpha=1 - alpha)
            gradient.add_(slow, alpha=self._recipe.grokfast_lambda)

    @torch.no_grad()
    def _restore_norms(self) -> None:
        squares = sum(self._weights[name].square().flatten(1).sum(1) for name in self._trained)
        target = torch.tensor(self._norms, device=self._device)
        factors = target / torch.as_tensor(squares).sqrt()
        for name in self._trained:
            weight = self._weights[name]
            weight.mul_(factors.view(-1, *[1] * (weight.dim() - 1)))

    @torch.inference_mode()
    def _measure(self) -> None:
        """Test every seed, and keep a checkpoint of those that have moved."""
        pairs, answers = self._tests
        losses = torch.zeros(len(self._seeds), dtype=torch.float64, device=self._device)
        correct = torch.zeros_like(losses)
        start = 0
        for logits, _, _ in network.forward(self._weights, pairs, self._recipe.n_heads):
            wanted = answers[:, start : start + logits.shape[1]]
            start += logits.shape[1]
            flat = torch.nn.functional.cross_entropy(
                logits.double().flatten(0, 1), wanted.flatten(), reduction="none"
            )
            losses += flat.view(wanted.shape).sum(1)
            correct += (logits.argmax(2) == wanted).sum(1)
        tested = torch.stack([losses, correct]).cpu().numpy() / pairs.shape[1]
        for i, seed in enumerate(self._seeds):
            weights = self._of_seed(self._weights, i)
            seed.state.step = self.step
            curves = seed.state.curves
            test_loss, accuracy = tested[:, i].tolist()
            curves.add_test(self.step, test_loss, accuracy, network.squared_weights(weights))
            if seed.state.checkpoint_due(_MOVES, _LONGEST_GAP) or self.step == self._recipe.steps:
                run.write_checkpoint(seed.folder, self.step, weights)
                seed.state.remember_checkpoint()

    def _let_go(self) -> None:
        """Save the seeds that have ended, and go on with the others."""
        ended = [i for i, seed in enumerate(self._seeds) if _reached(seed.state, self._stop)]
        if not ended:
            return
        self._save()
        for i in ended:
            seed = self._seeds[i]
            run.write_checkpoint(seed.folder, self.step, seed.state.weights)
        self._seeds = [seed for i, seed in enumerate(self._seeds) if i not in ended]
        if self._seeds:
            self._load()

    def _of_seed(self, every: network.Weights, i: int) -> network.Weights:
        return {name: value[i].detach().cpu().contiguous() for name, value in every.items()}

    def _save(self) -> None:
        moments = {
            name: (found["exp_avg"], found["exp_avg_sq"])
            for name in self._trained
            if (found := self._optimizer.state[self._weights[name]])
        }
        for i, seed in enumerate(self._seeds):
            state = seed.state
            state.step = self.step
            state.weights = self._of_seed(self._weights, i)
            state.first_moments = self._of_seed({n: m[0] for n, m in moments.items()}, i)
            state.second_moments = self._of_seed({n: m[1] for n, m in moments.items()}, i)
            state.slow_gradients = self._of_seed(self._slow, i)
            run.write_state(seed.folder, state)

    def _show(self) -> None:
        for seed in self._seeds:
            run.write_live(seed.folder, seed.state.curves)


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
