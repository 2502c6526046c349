"""Packing weights into 12 bits, and the trajectory that is bundled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.core.models import sources
from workbench.core.modular import bundle, run


@pytest.mark.parametrize("shape", [(5, 8), (5, 7), (9,), (8,)])
def test_packed_values_come_back_within_half_a_step(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    packed, scale = bundle.pack(values)
    found = bundle.unpack(packed, scale)
    largest = np.abs(values).max(-1, keepdims=True)
    assert found.shape == values.shape
    assert (np.abs(found - values) <= largest / 2047 / 2 * 1.001).all()
    np.testing.assert_allclose(np.abs(found).max(-1, keepdims=True), largest, rtol=1e-6)
    assert packed.shape == (*shape[:-1], 3 * ((shape[-1] + 1) // 2) + 1)


def test_zeros_come_back_as_zeros() -> None:
    packed, scale = bundle.pack(np.zeros((3, 4), dtype=np.float32))
    np.testing.assert_array_equal(bundle.unpack(packed, scale), np.zeros((3, 4)))


def test_both_ends_of_the_range_come_back() -> None:
    values = np.array([[-1.0, 1.0, 0.0, 0.5]], dtype=np.float32)
    found = bundle.unpack(*bundle.pack(values))
    np.testing.assert_allclose(found, [[-1, 1, 0, 0.5]], atol=2.5e-4)


def test_the_bundled_trajectory_ends_in_the_bundled_model() -> None:
    found = run.bundled_run()
    model = sources.load_model("modadd-113", device="cpu")
    last = found.weights(found.steps[-1])
    assert torch.equal(last["head.weight"], model.W_U.T.cpu())
    assert found.step == found.steps[-1] == found.recipe.steps == 40_000
    assert found.task.p == 113 and found.recipe.name == "nanda-2023"
    assert 36 <= len(found.steps) <= 44


def test_its_first_checkpoint_is_where_training_starts() -> None:
    from workbench.core.modular import network

    found = run.bundled_run()
    start = network.initial_weights(found.recipe, 113, found.task.seed)
    for name, value in found.weights(0).items():
        step = value.abs().amax(-1, keepdim=True) / 2047
        assert bool(((value - start[name]).abs() <= step * 0.51).all()), name


def test_rounding_leaves_the_losses_what_they_were() -> None:
    found = run.bundled_run()
    tested = dict(zip(found.curves.test_steps, found.curves.test_loss, strict=True))
    _, test = found.task.split()
    answers = found.task.answers()[test].numpy()
    for step in found.steps[:: max(1, len(found.steps) // 6)]:
        logits = found.snapshot(step).logits[test.numpy()]
        shifted = logits - logits.max(1, keepdims=True)
        own = shifted[np.arange(len(answers)), answers]
        loss = float((np.log(np.exp(shifted).sum(1)) - own).mean())
        assert loss == pytest.approx(tested[step], rel=0.1), step
