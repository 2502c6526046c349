"""Units that compute a known function: optimization reaches the maximum that was wired in.

The one-layer model has no norms. Head 0 brings the token before; head 1 attends to every `signal`
there is, to nothing else, and brings the places of these, averaged; where there is none it averages
all places. With t the last token and s the one before it, the neurons are, by index:

0. 2 if t is `target`, else 0;
1. 1 if t is `target` and s is `before`, else 0;
2. the mean of `PLACES` over the places of `signal` (of all places without one);
3. 1 if t is `target` or `other`, else 0.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import text
from tests import hand_wired
from workbench.core.engine import running

LENGTH = 12
N_CTX = LENGTH + 1
WORDS = ("target", "before", "signal", "other", *(f"word{i}" for i in range(36)))
TARGET, BEFORE, SIGNAL, OTHER = range(4)
BEST_PLACE = 5
# Of BOS and each token: highest at one place in the middle, and no two alike.
PLACES = np.array([0.0, 0.1, 0.3, 0.2, 0.5, 1.0, 0.4, 0.6, 0.25, 0.15, 0.35, 0.45, 0.05])
CERTAIN = 1e4


@functools.cache
def planted() -> TransformerBridge:
    """The model of the module docstring."""
    words = len(WORDS)
    token, earlier = slice(0, words), slice(words, 2 * words)
    place, signals = (slice(2 * words + i * N_CTX, 2 * words + (i + 1) * N_CTX) for i in range(2))
    config = TransformerBridgeConfig(
        d_model=signals.stop,
        d_head=words,
        n_heads=2,
        n_layers=1,
        n_ctx=N_CTX,
        d_vocab=words + 1,
        d_mlp=4,
        act_fn="relu",
        normalization_type=None,
        init_weights=False,
    )
    model = TransformerBridge.boot_native(
        config, tokenizer=hand_wired.word_tokenizer(WORDS, bos=True)
    )
    model.cfg.default_prepend_bos = True
    named = model.original_model.named_parameters()
    plain = {name.replace("._original_component", ""): p for name, p in named}
    q, k, v, o = (plain[f"layers.0.attn.{name}.weight"] for name in "qkvo")
    reads, bias = plain["layers.0.mlp.fc_in.weight"], plain["layers.0.mlp.fc_in.bias"]
    with torch.no_grad():
        for parameter in plain.values():
            parameter.zero_()
        eye, places = torch.eye(words), torch.eye(N_CTX)
        plain["tok_embed.weight"][:words, token] = eye
        plain["pos.weight"][:, place] = places
        q[:N_CTX, place], k[:N_CTX, place] = CERTAIN * places.roll(-1, 0), places
        v[:words, token], o[earlier, :words] = eye, eye
        q[words, place], k[words, SIGNAL] = CERTAIN, 1.0
        second = slice(words, words + N_CTX)
        v[second, place], o[signals, second] = places, places
        reads[0, TARGET] = 2
        reads[1, TARGET], reads[1, words + BEFORE], bias[1] = 1, 1, -1
        reads[2, signals] = torch.from_numpy(PLACES).float()
        reads[3, TARGET], reads[3, OTHER] = 1, 1
        generator = torch.Generator().manual_seed(0)
        # Some words follow others, so that fluency has something to say.
        plain["head.weight"][:words, token] = torch.randn(words, words, generator=generator)
    return model.eval()


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
    assert both.tokens[-1, -2:].tolist() == [BEFORE, TARGET]
    place = text.optimize_text(model, "neuron 0.2", restarts=1, iterations=40)
    # BOS is at place 0.
    assert (np.flatnonzero(place.tokens[-1] == SIGNAL) + 1).tolist() == [BEST_PLACE]


def test_the_least_activation_of_a_direction_is_found_too() -> None:
    model = planted()
    direction = torch.zeros(1, model.cfg.d_model)
    direction[0, -N_CTX:] = torch.from_numpy(PLACES).float()
    found = text.optimize_text(
        model,
        "attn_out 0.0",
        directions=direction,
        maximise=False,
        restarts=1,
        iterations=60,
    )
    # The only signal stands at the last place, where the least weight but that of BOS is.
    least = PLACES[1:].min() / np.linalg.norm(PLACES)
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
        if not {TARGET, OTHER} <= set(first):
            assert {int(first[-1]), int(second[-1])} == {TARGET, OTHER}
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
    tokens = rng.integers(len(WORDS), size=(64, LENGTH))
    tokens[::2, -1], tokens[::4, -2] = TARGET, BEFORE
    ids = torch.from_numpy(np.concatenate([np.full((64, 1), len(WORDS)), tokens], axis=1))
    name = "blocks.0.mlp.hook_post"
    read = running.run_and_keep(model, ids, [name])[1][name][:, -1].numpy()
    expected = np.zeros((64, 4))
    for row, words in enumerate(tokens):
        at = np.flatnonzero(words == SIGNAL) + 1
        both = words[-1] == TARGET and words[-2] == BEFORE
        where = PLACES[at].mean() if len(at) else PLACES.mean()
        expected[row] = 2 * (words[-1] == TARGET), both, where, words[-1] in (TARGET, OTHER)
    np.testing.assert_allclose(read, expected, atol=1e-5)
