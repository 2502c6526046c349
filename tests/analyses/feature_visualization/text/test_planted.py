"""Units that compute a known function: optimization reaches the maximum that was wired in."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import text
from workbench.core.engine import running
from workbench.core.planted import known_texts


@functools.cache
def planted() -> TransformerBridge:
    return known_texts.units()


@pytest.mark.parametrize(
    ("unit", "maximum"), [("neuron 0.0", 2.0), ("neuron 0.1", 1.0), ("neuron 0.2", 1.0)]
)
@pytest.mark.parametrize("method", text.METHODS)
def test_the_known_maximum_is_reached(method: str, unit: str, maximum: float) -> None:
    found = text.optimize_text(planted(), unit, method=method, restarts=1, iterations=50)
    assert maximum * 0.99 <= found.optimum <= maximum * (1 + 1e-6)


def test_the_optimum_is_the_text_that_was_wired_in() -> None:
    model = planted()
    both = text.optimize_text(model, "neuron 0.1", restarts=1, iterations=30)
    assert both.tokens[-1, -2:].tolist() == [known_texts.BEFORE, known_texts.TARGET]
    place = text.optimize_text(model, "neuron 0.2", restarts=1, iterations=40)
    # BOS is at place 0.
    assert (np.flatnonzero(place.tokens[-1] == known_texts.SIGNAL) + 1).tolist() == [
        known_texts.BEST_PLACE
    ]


def test_the_least_activation_of_a_direction_is_found_too() -> None:
    model = planted()
    direction = torch.zeros(1, model.cfg.d_model)
    direction[0, -known_texts.N_CTX :] = torch.from_numpy(known_texts.PLACES).float()
    found = text.optimize_text(
        model,
        "attn_out 0.0",
        directions=direction,
        maximise=False,
        restarts=1,
        iterations=60,
    )
    # The only signal stands at the last place, where the least weight but that of BOS is.
    least = known_texts.PLACES[1:].min() / np.linalg.norm(known_texts.PLACES)
    assert found.optimum == pytest.approx(least, rel=1e-5)
    assert (np.diff(found.activation) < 0).all(), "less fluent texts have lower activations"
    assert found.random_activation.min() >= found.optimum - 1e-6


def test_the_front_reaches_from_fluent_to_active() -> None:
    found = text.optimize_text(planted(), "neuron 0.0", restarts=1, iterations=40)
    assert (np.diff(found.cross_entropy) > 0).all()
    assert (np.diff(found.activation) > 0).all()
    assert found.cross_entropy[0] < found.random_cross_entropy.min()


def test_diversity_makes_restarts_find_different_tokens() -> None:
    def best(diversity: float, seed: int) -> np.ndarray:
        found = text.optimize_text(
            planted(),
            "neuron 0.3",
            method="gcg",
            length=4,
            children=8,
            restarts=2,
            iterations=20,
            diversity=diversity,
            allowed=range(16),
            seed=seed,
        )
        assert found.best_activation.tolist() == [1.0, 1.0]
        return found.best_tokens

    seeds = range(2)
    apart, alike = ([best(value, seed) for seed in seeds] for value in (0.5, 0.0))
    for first, second in apart:
        # A first text that has both of the tokens leaves the second one no choice.
        if not {known_texts.TARGET, known_texts.OTHER} <= set(first):
            assert {int(first[-1]), int(second[-1])} == {known_texts.TARGET, known_texts.OTHER}
            assert not set(first) & set(second)
    assert any(not set(first) & set(second) for first, second in apart)
    shared = [sum(len(set(a) & set(b)) for a, b in texts) for texts in (apart, alike)]
    assert shared[0] < shared[1]


def test_the_first_restart_knows_nothing_of_diversity() -> None:
    either = [
        text.optimize_text(planted(), "neuron 0.2", restarts=2, iterations=8, diversity=value)
        for value in (0.0, 2.0)
    ]
    np.testing.assert_array_equal(*(found.trace_activation[0] for found in either))
    assert not np.array_equal(either[0].best_tokens[1], either[1].best_tokens[1])


def test_the_planted_units_are_what_they_are_said_to_be() -> None:
    model = planted()
    rng = np.random.default_rng(0)
    tokens = rng.integers(len(known_texts.WORDS), size=(64, known_texts.LENGTH))
    tokens[::2, -1], tokens[::4, -2] = known_texts.TARGET, known_texts.BEFORE
    ids = torch.from_numpy(
        np.concatenate([np.full((64, 1), len(known_texts.WORDS)), tokens], axis=1)
    )
    name = "blocks.0.mlp.hook_post"
    read = running.run_and_keep(model, ids, [name])[1][name][:, -1].numpy()
    expected = np.zeros((64, 4))
    for row, words in enumerate(tokens):
        at = np.flatnonzero(words == known_texts.SIGNAL) + 1
        both = words[-1] == known_texts.TARGET and words[-2] == known_texts.BEFORE
        where = known_texts.PLACES[at].mean() if len(at) else known_texts.PLACES.mean()
        expected[row] = (
            2 * (words[-1] == known_texts.TARGET),
            both,
            where,
            words[-1] in (known_texts.TARGET, known_texts.OTHER),
        )
    np.testing.assert_allclose(read, expected, atol=1e-5)
