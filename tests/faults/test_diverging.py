"""Trainings whose numbers are no longer numbers, and full disks under them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import logit_lens
from analyses.feature_visualization import dictionaries
from analyses.feature_visualization.dictionaries import stepping
from tests.faults import system
from workbench import Corpus
from workbench.core.modular import recipe, run, tasks, training

TASK = tasks.Task(p=11, fraction=0.6)
RECIPE = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=24, steps=200)


class Stopped(Exception):
    pass


class TestModularNetworks:
    def test_it_says_at_which_step_and_what_to_try(self, tmp_path: Path) -> None:
        wild = dataclasses.replace(RECIPE, learning_rate=1e30)
        with pytest.raises(
            training.TrainingError, match=r"at step \d+: it has diverged; lower the learning rate"
        ):
            training.train(TASK, wild, folder=tmp_path / "wild", stop="never")
        # Whatever was kept before is made of numbers.
        for step in run.open_run(tmp_path / "wild").steps:
            kept = run.open_run(tmp_path / "wild").weights(step).values()
            assert all(bool(value.isfinite().all()) for value in kept)
        assert training.train(TASK, RECIPE, folder=tmp_path / "tame", stop="never").step == 200

    def test_what_was_kept_last_stays_the_last_good_state(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object) -> None:
            raise Stopped

        monkeypatch.setattr(training, "_REPORT_SECONDS", 0.0)
        with pytest.raises(Stopped):
            training.train(TASK, RECIPE, folder=tmp_path, stop="never", progress=stop)
        good = (tmp_path / "state.safetensors").read_bytes()
        # A bit that flips in memory: the gradients of the next step are infinite.
        backward = torch.autograd.backward

        def broken(tensors: object, gradients: list[torch.Tensor]) -> None:
            backward(tensors, [gradient * float("inf") for gradient in gradients])  # pyright: ignore[reportArgumentType] - as it was called

        with monkeypatch.context() as patched:
            patched.setattr(torch.autograd, "backward", broken)
            patched.setattr(training, "_SAVE_SECONDS", 0.0)
            with pytest.raises(training.TrainingError, match="is nan at step .* diverged"):
                training.train(TASK, RECIPE, folder=tmp_path, stop="never")
        assert (tmp_path / "state.safetensors").read_bytes() == good
        # Goes on from there, and ends with the bits of one that was never broken.
        mended = training.train(TASK, RECIPE, folder=tmp_path, stop="never")
        whole = training.train(TASK, RECIPE, folder=tmp_path.with_name("whole"), stop="never")
        assert mended.curves == whole.curves


def batches(broken_from: int = 10**9) -> Iterator[torch.Tensor]:
    noise = torch.Generator().manual_seed(0)
    for step in range(10**9):
        batch = torch.randn(64, 8, generator=noise)
        yield batch if step < broken_from else batch * float("nan")


class TestDictionaries:
    def test_it_says_at_which_step_and_keeps_the_last_good_checkpoint(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, Any] = {"latents": 16, "batch": 64, "k": 2, "steps": 60}
        monkeypatch.setattr(stepping, "_SAVE_SECONDS", 0.0)
        with pytest.raises(ValueError, match="at step 31: training has diverged; lower the"):
            dictionaries.train_on(batches(30), 8, folder=tmp_path / "broken", **given)
        # The checkpoint of step 30 is whole: the same training goes on from it.
        mended = dictionaries.train_on(batches(), 8, folder=tmp_path / "broken", **given)
        alone = dictionaries.train_on(batches(), 8, folder=tmp_path / "alone", **given)
        for name, value in alone.weights.items():
            assert np.array_equal(mended.weights[name], value), name

    def test_a_checkpoint_that_does_not_fit_on_the_disk(self, tmp_path: Path) -> None:
        given: dict[str, Any] = {"latents": 16, "batch": 64, "k": 2, "steps": 60}

        def stop(fraction: float, note: str) -> None:
            raise Stopped

        with pytest.raises(Stopped):
            dictionaries.train_on(batches(), 8, folder=tmp_path, progress=stop, **given)
        kept = (tmp_path / stepping.CHECKPOINT).read_bytes()
        with (
            system.no_file_beyond(1000),
            pytest.raises(ValueError, match="could not be kept as .*larger than is allowed"),
        ):
            dictionaries.train_on(batches(), 8, folder=tmp_path, **given)
        assert (tmp_path / stepping.CHECKPOINT).read_bytes() == kept
        assert dictionaries.train_on(batches(), 8, folder=tmp_path, **given).steps[-1] == 60


def test_a_tuned_lens_says_at_which_step_and_the_next_one_is_trained() -> None:
    model = workbench.load_model("modadd-113")
    tokens = np.random.default_rng(0).integers(0, 113, 300)
    corpus = Corpus("sums", tokens, np.arange(0, 301, 3))
    given: dict[str, Any] = {"steps": 6, "tokens": 60}
    with pytest.raises(ValueError, match=r"at step \d: training has diverged; lower the learning"):
        logit_lens.train(model, corpus, learning_rate=1e30, **given)
    lens = logit_lens.train(model, corpus, **given)
    assert np.isfinite(lens.weights).all()
