"""Does training do what a plain loop does, and does a sweep read off when networks have learnt?

1. The plain loop is automatic differentiation of TransformerLens's own network in double precision,
   and torch's AdamW; from the same initial weights, on the same pairs.
2. A table of random answers can be memorised, and nothing else: its test pairs stay unknown.

Limits: networks of 32 dimensions, and tasks modulo 5 or 7.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
import uuid
from pathlib import Path

import numpy as np
import torch

from analyses import grokking
from workbench.core.models import anatomy
from workbench.core.modular import network, run
from workbench.core.planted import word_level
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_most,
    both,
    same,
    within,
)

_RECIPE = grokking.recipe(
    d_model=32, n_heads=2, d_head=16, d_mlp=64, steps=60, learning_rate=1e-2, warm_up=0
)
_TASK = grokking.Task(p=5, fraction=0.8)
# Of a training loss in single precision after 60 steps.
_OFF = 1e-3
# Answers that are drawn at random, and the share of them that is guessed by chance at the most:
# five standard deviations above a seventh, of 24 held-out pairs.
_RANDOM, _GUESSED = grokking.Task(p=7, operation="random", fraction=0.5), 0.5
_RATES = (1e-2, 2e-2)


def _plain_losses(task: grokking.Task, recipe: grokking.Recipe) -> np.ndarray:
    """Training loss before each step of a plain loop."""
    p = task.p
    model = word_level.bridge(
        (*map(str, range(p)), "="),
        bos=False,
        d_model=recipe.d_model,
        d_head=recipe.d_head,
        n_heads=recipe.n_heads,
        n_layers=1,
        n_ctx=3,
        d_mlp=recipe.d_mlp,
        dtype=torch.float64,
    )
    parameters = anatomy.stored_parameters(model)
    initial = network.initial_weights(recipe, p, task.seed)
    with torch.no_grad():
        for name, value in parameters.items():
            # The unembedding of the paper has no bias; that of the bridge is zero, and stays so.
            value.copy_(initial.get(name, torch.zeros(())))
    optimizer = torch.optim.AdamW(
        [parameters[name] for name in initial if name not in network.FROZEN],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        betas=(recipe.beta1, recipe.beta2),
    )
    train, _ = task.split()
    pairs, answers = task.pairs()[train], task.labels()[train]
    prompts = torch.cat([pairs, torch.full((len(pairs), 1), p)], dim=1)
    losses: list[float] = []
    for _ in range(recipe.steps):
        logits = model.original_model(prompts)[:, -1]
        loss = torch.nn.functional.cross_entropy(logits, answers)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(losses)


def _said(losses: np.ndarray) -> str:
    return f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {len(losses)} steps"


def _trained(models: Models) -> Outcome:
    task = dataclasses.replace(_TASK, seed=models.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = grokking.train(task, _RECIPE, folder=folder, stop="never", device=models.device)
    losses = np.array(found.curves.train_loss)
    return within(losses, _plain_losses(task, _RECIPE), said=_said(losses), bound=_OFF)


def _side_by_side(models: Models) -> Outcome:
    tasks = [dataclasses.replace(_TASK, seed=models.seed + more) for more in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        found = grokking.train_seeds(
            tasks,
            _RECIPE,
            folders=[Path(folder) / str(task.seed) for task in tasks],
            stop="never",
            device=models.device,
        )
    losses = np.array([one.curves.train_loss for one in found])
    plain = [_plain_losses(task, _RECIPE) for task in tasks]
    return within(losses, plain, said=" and ".join(map(_said, losses)), bound=_OFF)


def _memorised(models: Models) -> Outcome:
    task = dataclasses.replace(_RANDOM, seed=models.seed)
    with tempfile.TemporaryDirectory() as folder:
        found = grokking.train(task, _RECIPE, folder=folder, device=models.device)
    loss, share = found.curves.train_loss[-1], found.curves.test_accuracy[-1]
    return both(
        at_most(loss, run.GROKKED_LOSS, f"training loss {loss:.3f}"),
        at_most(share, _GUESSED, f"{share:.0%} of the test pairs"),
    )


def _swept(models: Models, *, task: grokking.Task, rates: tuple[float, ...]) -> grokking.Sweep:
    """A sweep over learning rates whose trainings are no one else's, and are not kept."""
    recipe = dataclasses.replace(_RECIPE, name=f"self-test {uuid.uuid4().hex}")
    try:
        return grokking.sweep(
            task,
            recipe,
            vary={"learning_rate": rates},
            seeds=(models.seed,),
            device=models.device,
        )
    finally:
        for rate in rates:
            one = dataclasses.replace(recipe, learning_rate=rate)
            its = dataclasses.replace(task, seed=models.seed)
            shutil.rmtree(run.folder_of(its, one), ignore_errors=True)


def _when_memorised(models: Models) -> Outcome:
    found = _swept(models, task=_TASK, rates=_RATES)
    task = dataclasses.replace(_TASK, seed=models.seed)
    truth: list[list[int]] = []
    for rate in _RATES:
        losses = _plain_losses(task, dataclasses.replace(_RECIPE, learning_rate=rate))
        below = np.flatnonzero(losses < run.GROKKED_LOSS)
        truth.append([int(below[0]) if below.size else _RECIPE.steps])
    # One that has not learnt by then counts as the last step. The loss may cross the bar a step
    # earlier or later by rounding alone.
    steps = np.nan_to_num(found.memorised_at, nan=_RECIPE.steps)
    return within(steps, truth, said=f"at steps {steps.ravel().tolist()}", bound=1)


def _never(models: Models) -> Outcome:
    found = _swept(models, task=_RANDOM, rates=_RATES)
    (dependence,) = found.dependences
    return both(
        same([step for step in found.grokked_at.ravel() if math.isfinite(step)], []),
        within(found.censored, len(_RATES), said=f"{dependence.n_censored} of {dependence.n} late"),
    )


CHECKS = (
    Check("grokking.train", "each of 60 steps is that of a plain loop", _trained),
    Check(
        "grokking.train", "nothing: random answers are memorised, and tell no others", _memorised
    ),
    Check(
        "grokking.train_seeds", "two seeds side by side are each as by a plain loop", _side_by_side
    ),
    Check(
        "grokking.sweep",
        "at two learning rates the answers are memorised when a plain loop has them",
        _when_memorised,
    ),
    Check("grokking.sweep", "nothing: random answers are generalised at no learning rate", _never),
)
