"""Are planted waves, drops and phases found, and none where there are none?

Limits: waves in a group of 13 elements; curves made of straight lines and power laws.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from analyses import grokking
from analyses.grokking import interventions
from analyses.grokking.phases import Series
from workbench.core.models import anatomy
from workbench.core.modular.curves import Curves
from workbench.core.modular.network import Snapshot
from workbench.core.planted import known_curves, modular_adder, unplanted, word_level
from workbench.report.selftest.checking import (
    Check,
    Models,
    Outcome,
    at_most,
    both,
    same,
    within,
)

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

_TASK, _KEYS = modular_adder.ADDITION, modular_adder.KEYS
# Random sets of frequencies, and resamples of an interval.
_FEW = 19
# Of the logits of random weights, what waves of sums explain at the most.
_CHANCE = 0.5
# Point and depth of the planted drop; three points are averaged, so its step is known to 30.
_PLACE, _DEPTH, _STEPS_OFF, _DEPTH_OFF = 600, -0.3, 30, 0.05
# Steps at which memorisation is done and the three phases end, and how far off they may be found.
_PHASES, _PHASE_OFF = (200, 1_400, 9_400, 14_000), 0.1
# The head that is drawn anew.
_HEAD = (1, 2)
_PROMPTS, _LENGTH = 40, 5


def _waves(models: Models) -> Outcome:
    model = word_level.on(modular_adder.adder(), models.device)
    found = grokking.fourier(model, _TASK, n_random=_FEW, seed=models.seed)
    return both(
        same(found.keys, _KEYS),
        within(found.key_share, 1, said=f"{found.key_share:.4f} of the logits' waves"),
    )


def _no_waves(models: Models) -> Outcome:
    model = word_level.on(modular_adder.randomised(_TASK.p, seed=models.seed), models.device)
    found = grokking.fourier(model, _TASK, n_random=_FEW, seed=models.seed)
    said = f"{found.logit_explained:.3f} of the logits' variance"
    return at_most(found.logit_explained, _CHANCE, said)


@dataclasses.dataclass(frozen=True)
class _Checkpoints:
    """A training made up of networks at hand: a random one, then the wired one."""

    device: str
    task: grokking.Task = _TASK
    name: str = "planted"
    fingerprint: str = "0" * 64
    recipe: grokking.Recipe = grokking.RECIPES["nanda-2023"]
    steps: tuple[int, ...] = (0, 100)

    def snapshot(self, step: int) -> Snapshot:
        model = modular_adder.adder() if step else modular_adder.randomised(self.task.p)
        return interventions.snapshot_of(word_level.on(model, self.device), self.task)


@dataclasses.dataclass(frozen=True)
class _Wired(grokking.TrainingRun):
    """A training made up of wired networks, of which the first may lack what its neurons write."""

    device: str = "cpu"
    silent_at_first: bool = False

    def model(self, step: int | None = None) -> TransformerBridge:
        made = modular_adder.adder()
        if step == self.steps[0] and self.silent_at_first:
            with torch.no_grad():
                anatomy.stored_parameters(made)["layers.0.mlp.fc_out.weight"].zero_()
        return word_level.on(made, self.device)


def _between(models: Models, *, silent_at_first: bool) -> grokking.Changes:
    run = _Wired(
        name="planted",
        task=_TASK,
        recipe=grokking.RECIPES["nanda-2023"],
        curves=Curves(),
        steps=(0, 100),
        grokked_at=math.nan,
        folder=Path(),
        read=lambda step: {},
        device=models.device,
        silent_at_first=silent_at_first,
    )
    return grokking.what_changed_at(run, 50, n_random=0, seed=models.seed)


def _tracked(models: Models) -> Outcome:
    found = grokking.track(_Checkpoints(models.device))
    return both(same(found.keys, _KEYS), within(found.test_accuracy[-1], 1))


def _loss(changes: tuple[tuple[int, float], ...], seed: int) -> grokking.Curve:
    steps, logs = known_curves.power_law(changes, seed=seed)
    return grokking.Curve(
        steps=steps.astype(np.int64), values=10.0**logs, name="loss", source="planted"
    )


def _drop(models: Models) -> Outcome:
    curve = _loss(((_PLACE, _DEPTH),), models.seed)
    found = grokking.detect_drops(curve, seed=models.seed)
    # Between the last point before it and the first one after it.
    step = known_curves.APART * (_PLACE + 1 / 2)
    return both(
        within(found.steps, [step], said=f"at step {found.steps}", bound=_STEPS_OFF),
        within(found.sizes, [-_DEPTH], bound=_DEPTH_OFF),
    )


def _no_drop(models: Models) -> Outcome:
    found = grokking.detect_drops(_loss((), models.seed), seed=models.seed)
    return at_most(len(found.steps), 0, f"{len(found.steps)} drops")


def _phases(models: Models) -> Outcome:
    steps = np.arange(0.0, 40_001.0, 50.0)
    measured = known_curves.training(steps, _PHASES, seed=models.seed)
    curves = grokking.Curves(
        "planted", **{name: Series(steps, values) for name, values in measured.items()}
    )
    found = grokking.phases(curves, n_resamples=_FEW, seed=models.seed)
    off = np.abs(found.boundaries / np.array(_PHASES[1:]) - 1)
    said = ", ".join(f"{one:,.0f}" for one in found.boundaries)
    return both(
        same([found.verdict], ["grokked"]), at_most(float(off.max()), _PHASE_OFF, f"ends at {said}")
    )


def _changed(models: Models) -> Outcome:
    before, after = unplanted.randomised(), unplanted.randomised()
    unplanted.redraw_head(after, *_HEAD, seed=models.seed)
    before, after = (word_level.on(model, models.device) for model in (before, after))
    generator = torch.Generator().manual_seed(models.seed)
    tokens = torch.randint(0, len(word_level.WORDS), (_PROMPTS, _LENGTH), generator=generator)
    with torch.inference_mode():
        logits = after(tokens.to(models.device), return_type="logits")
    # What the later model answers, so that its loss is lower than the earlier one's.
    found = grokking.what_changed(
        before, after, tokens=tokens, answers=logits[:, -1].argmax(1).cpu(), n_random=0
    )
    name = "a{}.h{}".format(*_HEAD)
    moved = dict(zip(found.components, found.weight_change, strict=True))
    return both(
        same([one for one, size in moved.items() if size], [name]),
        within(found.effect(name, mode="weights"), 1, bound=1e-3),
    )


def _changed_at(models: Models) -> Outcome:
    found = _between(models, silent_at_first=True)
    moved = dict(zip(found.components, found.weight_change, strict=True))
    return both(
        same([one for one, size in moved.items() if size], ["m0"]),
        within(found.effect("m0", mode="weights"), 1, bound=1e-3),
    )


def _unchanged(models: Models) -> Outcome:
    found = _between(models, silent_at_first=False)
    largest = float(np.abs(found.changes).max())
    return within(largest, 0, said=f"largest change {largest:.1e}")


CHECKS = (
    Check("grokking.fourier", "a network that adds by waves of frequencies 2 and 5", _waves),
    Check("grokking.fourier", "nothing: random weights do not add by waves", _no_waves),
    Check("grokking.track", "at the last of two checkpoints it adds by these waves", _tracked),
    Check("grokking.detect_drops", "a loss falls by 0.3 dex at step 6005", _drop),
    Check("grokking.detect_drops", "nothing: a smooth loss with noise has no drop", _no_drop),
    Check("grokking.phases", "phases end at steps 1,400, 9,400 and 14,000", _phases),
    Check("grokking.what_changed", "of all components, head 1.2 alone has changed", _changed),
    Check(
        "grokking.what_changed_at",
        "between steps 0 and 100 the neurons began to write, and nothing else",
        _changed_at,
    ),
    Check(
        "grokking.what_changed_at",
        "nothing: between checkpoints that are the same nothing has changed",
        _unchanged,
    ),
)
