"""The network in tables against TransformerLens' native network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.core.modular.conftest import TINY, native, prompts, random_weights
from workbench.core.modular import network, recipe, tasks


@pytest.mark.parametrize("seed", [0, 1])
def test_logits_of_every_seed_are_the_native_networks(seed: int) -> None:
    task = tasks.Task(p=11)
    side_by_side = [random_weights(11, seed), random_weights(11, seed + 10)]
    pairs = torch.stack([task.pairs(), task.pairs().flip(0)])
    with torch.inference_mode():
        found = torch.cat(
            [part[0] for part in network.forward(network.stacked(side_by_side), pairs, 2)], 1
        )
        for at, weights in enumerate(side_by_side):
            plain = native(11, weights)(prompts(pairs[at], 11))[:, -1]
            torch.testing.assert_close(found[at].double(), plain, rtol=1e-5, atol=1e-5)


def test_a_snapshot_is_what_the_bridge_shows() -> None:
    from workbench.core.models import sources

    bridge = sources.load_model("modadd-113", device="cpu")
    task = tasks.Task()
    weights = {name: value.detach() for name, value in bridge.original_model.state_dict().items()}
    plain = {name.replace("._original_component", ""): value for name, value in weights.items()}
    kept = {name: plain[name] for name in network.initial_weights(recipe.recipe(), 113, 0)}
    found = network.snapshot(kept, task, 4)
    names = ["blocks.0.mlp.hook_post", "blocks.0.attn.hook_pattern"]
    with torch.inference_mode():
        logits, cache = bridge.run_with_cache(prompts(task.pairs(), 113), names_filter=names)
    np.testing.assert_allclose(found.logits, logits[:, -1, :113].numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.hidden, cache[names[0]][:, -1].numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.pattern, cache[names[1]][:, :, -1].numpy(), atol=1e-5)


def test_maps_of_a_snapshot_leave_the_equals_sign_out() -> None:
    weights = random_weights(7, 0)
    found = network.snapshot(weights, tasks.Task(p=7), 2)
    expected = weights["head.weight"].double() @ weights["layers.0.mlp.fc_out.weight"].double()
    np.testing.assert_allclose(found.neuron_logit, expected[:7].numpy(), rtol=1e-12)
    np.testing.assert_array_equal(found.embedding, weights["tok_embed.weight"][:7].double())
    assert found.logits.shape == (49, 7)


def test_initial_weights_have_the_published_scale() -> None:
    weights = network.initial_weights(recipe.recipe(), 113, 0)
    # 114 + 3 + 128 + 4 · 128 + 2 · 512 expected squares; the paper's run started from 1783.
    assert network.squared_weights(weights) == pytest.approx(1781, rel=0.02)
    assert float(weights["head.weight"].std()) == pytest.approx(1 / math.sqrt(114), rel=0.03)
    assert float(weights["pos.weight"].std()) == pytest.approx(1 / math.sqrt(128), rel=0.15)


def test_the_initial_scale_multiplies_every_weight() -> None:
    plain = network.initial_weights(TINY, 7, 0)
    scaled = network.initial_weights(recipe.recipe(**_sizes(), initial_scale=0.5), 7, 0)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], 0.5 * value, rtol=0, atol=0)


def _sizes() -> dict[str, Any]:
    return {"d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 12}
