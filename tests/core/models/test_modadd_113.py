"""The grokked model that is bundled, and the script that trained it."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.torch
import torch
from jaxtyping import Float64, Int64
from torch.nn import functional

from workbench.core.models import card, sources
from workbench.core.models.training import fourier, modadd_113

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

P = 113
FOLDER = card.BUNDLED / modadd_113.NAME

# Small enough to take a step in a millisecond; the warm-up is over after the first step.
TINY = modadd_113.SetUp(p=7, n_heads=2, d_head=4, d_model=8, d_mlp=12, fraction=0.5, warm_up=1)


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return sources.load_model("modadd-113", device="cpu")


@pytest.fixture(scope="module")
def exact() -> tuple[Float64[np.ndarray, "batch d_vocab"], Float64[np.ndarray, "batch neuron"]]:
    """Logits and neurons at `=` for all pairs, row-major, by the bridge in float64 arithmetic."""
    bridge = sources.load_model("modadd-113", device="cpu", dtype=torch.float64)
    with torch.inference_mode():
        logits, cache = bridge.run_with_cache(prompts(P), names_filter="blocks.0.mlp.hook_post")
    return logits[:, -1].numpy(), cache["blocks.0.mlp.hook_post"][:, -1].numpy()


def prompts(p: int) -> Int64[torch.Tensor, "batch position"]:
    return torch.tensor([(a, b, p) for a in range(p) for b in range(p)])


def sums(p: int) -> Int64[np.ndarray, " batch"]:
    return np.add.outer(np.arange(p), np.arange(p)).ravel() % p


def published_training_rows(seed: int) -> list[int]:
    """Rows of the training pairs, chosen as the paper's own code does."""
    rows = list(range(P * P))
    random.Random(seed).shuffle(rows)
    return rows[:3830]


def measured(name: str) -> card.Measure:
    return next(row for row in card.model_card("modadd-113").measures if row.name == name)


def stored_weights() -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(FOLDER / "model.safetensors")


def key_frequencies_by_fft() -> tuple[int, ...]:
    stored = {name: value.double().numpy() for name, value in stored_weights().items()}
    neuron_logit = stored["head.weight"][:P] @ stored["layers.0.mlp.fc_out.weight"]
    power = np.square(np.abs(np.fft.rfft(neuron_logit, axis=0))).sum(1)[1:]
    return tuple(int(k) for k in np.flatnonzero(power / power.sum() >= 0.02) + 1)


# The committed model


def test_every_sum_is_right(model: TransformerBridge) -> None:
    with torch.inference_mode():
        logits = model(prompts(P))[:, -1]
    assert int((logits.argmax(1).numpy() == sums(P)).sum()) == 12_769


def test_text_goes_in_and_the_answer_comes_out(model: TransformerBridge) -> None:
    with torch.inference_mode():
        best = int(model("100 + 57 =")[0, -1].argmax())
    assert model.to_string([best]) == "44"


def test_attention_has_no_biases() -> None:
    stored = stored_weights()
    for name in modadd_113.FROZEN:
        assert torch.equal(stored[name], torch.zeros(128)), name
    assert float(stored["layers.0.mlp.fc_in.bias"].abs().max()) > 0.01


def test_a_few_waves_explain_the_logits(exact: tuple[np.ndarray, np.ndarray]) -> None:
    keys = key_frequencies_by_fft()
    cube = exact[0][:, :P].reshape(P, P, P)
    centred = cube - cube.mean(2, keepdims=True)
    a, b, c = np.ogrid[:P, :P, :P]
    explained = 0.0
    for k in keys:
        wave = np.cos(2 * np.pi * k * (a + b - c) / P)
        explained += float((centred * wave).sum() ** 2 / np.square(wave).sum())
    explained /= float(np.square(centred).sum())

    assert 3 <= len(keys) <= 8
    assert explained >= 0.9
    assert measured("key frequencies").value == len(keys)
    assert ", ".join(map(str, keys)) in measured("key frequencies").note
    assert measured("logit variance explained").value == pytest.approx(explained, rel=1e-9)


def test_most_neurons_follow_one_frequency(exact: tuple[np.ndarray, np.ndarray]) -> None:
    power = np.square(np.abs(np.fft.fft2(exact[1].reshape(P, P, -1), axes=(0, 1))))
    power[0, 0] = 0
    best = np.zeros(power.shape[2])
    for k in range(1, P // 2 + 1):
        block = power[np.ix_([0, k, P - k], [0, k, P - k])].sum((0, 1))
        best = np.maximum(best, block / power.sum((0, 1)))
    share = float((best >= 0.85).mean())
    assert share >= 0.6
    assert measured("neurons explained by one frequency").value == share


def test_card_states_the_losses_of_the_committed_weights(
    exact: tuple[np.ndarray, np.ndarray],
) -> None:
    logits = torch.from_numpy(exact[0])
    losses = functional.cross_entropy(logits, torch.from_numpy(sums(P)), reduction="none").numpy()
    trained_on = np.zeros(P * P, dtype=bool)
    trained_on[published_training_rows(card.model_card("modadd-113").training.seed)] = True

    assert measured("train loss").value == pytest.approx(losses[trained_on].mean(), rel=1e-6)
    assert measured("test loss").value == pytest.approx(losses[~trained_on].mean(), rel=1e-6)
    assert measured("test loss").value < 1e-5
    assert (measured("train loss").n, measured("test loss").n) == (3830, 8939)


def test_card_states_accuracy_weights_and_steps() -> None:
    written = card.model_card("modadd-113")
    total = sum(float(value.double().square().sum()) for value in stored_weights().values())
    assert measured("squared weights").value == pytest.approx(total, rel=1e-9)
    assert (measured("accuracy").value, measured("accuracy").n) == (1.0, 12_769)
    assert written.behaviours[0].accuracy == 1.0
    assert written.behaviours[0].chance == pytest.approx(1 / 113)
    assert written.training.steps == modadd_113.EPOCHS
    assert written.training.tokens == 3 * 3830 * modadd_113.EPOCHS


def test_config_is_what_the_script_describes() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["format"] == "transformer-lens-native"
    assert config["config"] == modadd_113.SetUp().bridge_settings() | {"default_prepend_bos": False}


def test_bundle_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1_000_000


# Its tokenizer


@pytest.mark.parametrize("text", ["12 + 57 =", "12+57=", "  12 57   ="])
def test_sums_become_three_tokens_without_bos(model: TransformerBridge, text: str) -> None:
    assert model.to_tokens(text).tolist() == [[12, 57, 113]]
    assert model.to_str_tokens(text) == ["12", "57", "="]


def test_answers_are_single_tokens(model: TransformerBridge) -> None:
    assert model.to_single_token("69") == 69
    assert model.to_single_token(" 69") == 69
    assert model.to_string([12, 57, 113, 69]) == "12 57 = 69"


@pytest.mark.parametrize("text", ["113 + 5 =", "apple + 5 =", "012 + 5 =", "-1 + 5 =", "<pad> 5 ="])
def test_unknown_words_lie_outside_the_vocabulary(model: TransformerBridge, text: str) -> None:
    tokens = model.to_tokens(text)
    assert int((tokens >= 114).sum()) == 1
    assert model.cfg.d_vocab == 114
    with pytest.raises(IndexError, match="out of range"):
        model(text)


def test_booting_adds_no_token(model: TransformerBridge) -> None:
    assert len(model.tokenizer) == 116
    assert model.tokenizer.unk_token_id == 114
    assert model.tokenizer.pad_token_id == model.tokenizer.eos_token_id == 115
    assert (model.cfg.tokenizer_prepends_bos, model.cfg.tokenizer_appends_eos) == (False, False)


def test_committed_tokenizer_is_the_scripts(tmp_path: Path) -> None:
    modadd_113.build_tokenizer(P).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (FOLDER / "tokenizer.json").read_text()


# The script


def random_weights(setup: modadd_113.SetUp, seed: int) -> modadd_113.Weights:
    """Float64 weights, all random, biases of the MLP included."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in modadd_113.initial_weights(setup).items():
        drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64) / 3
        frozen = name in modadd_113.FROZEN
        weights[name] = torch.zeros_like(drawn) if frozen else drawn.requires_grad_()
    return weights


def native(setup: modadd_113.SetUp, weights: modadd_113.Weights) -> torch.nn.Module:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    network = NativeModel(TransformerBridgeConfig(**setup.bridge_settings())).double()
    network.load_state_dict({name: value.detach() for name, value in weights.items()})
    for name, value in network.named_parameters():
        value.requires_grad_(name not in modadd_113.FROZEN)
    return network


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fast_logits_are_the_networks(seed: int) -> None:
    setup = modadd_113.SetUp()
    weights = {k: v.detach().float() for k, v in random_weights(setup, seed).items()}
    tokens = prompts(P)[torch.randperm(P * P, generator=torch.Generator().manual_seed(seed))[:500]]
    with torch.inference_mode():
        plain = native(setup, weights).float()(tokens)[:, -1]
        fast = modadd_113.last_logits(weights, tokens[:, :2], setup)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


def test_fast_steps_are_plain_autograd_steps() -> None:
    weights = random_weights(TINY, 0)
    network = native(TINY, weights)
    training, _ = modadd_113.split_pairs(TINY)
    tokens = torch.cat([training, torch.full((len(training), 1), 7)], dim=1)
    trained = [value for value in network.parameters() if value.requires_grad]
    plain = torch.optim.AdamW(trained, lr=0.0, weight_decay=1.0, betas=(0.9, 0.98))
    fast = modadd_113.optimizer_for(weights, TINY)

    for step, rate in enumerate([0.0, 1e-3, 1e-3]):
        loss = modadd_113.training_step(weights, fast, training, step, TINY)
        expected = functional.cross_entropy(network(tokens)[:, -1], training.sum(1) % 7)
        plain.param_groups[0]["lr"] = rate
        plain.zero_grad()
        expected.backward()
        plain.step()
        assert loss == pytest.approx(expected.item(), rel=1e-12)

    for name, value in network.state_dict().items():
        torch.testing.assert_close(weights[name].detach(), value, rtol=1e-9, atol=1e-12)


def test_training_pairs_are_the_published_choice() -> None:
    training, held_out = modadd_113.split_pairs(modadd_113.SetUp(seed=0))
    assert (training[:, 0] * P + training[:, 1]).tolist() == published_training_rows(0)
    assert len({*map(tuple, training.tolist()), *map(tuple, held_out.tolist())}) == 12_769


def test_initial_weights_have_the_published_scale() -> None:
    weights = {k: v.detach() for k, v in modadd_113.initial_weights(modadd_113.SetUp()).items()}
    # 114 + 3 + 128 + 4 · 128 + 2 · 512 expected squares; the paper's run started from 1783.
    assert modadd_113.squared_weights(weights) == pytest.approx(1781, rel=0.02)
    assert float(weights["head.weight"].std()) == pytest.approx(1 / math.sqrt(114), rel=0.03)
    assert float(weights["pos.weight"].std()) == pytest.approx(1 / math.sqrt(128), rel=0.15)


def test_interrupted_training_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = modadd_113.train(TINY, 6)
    modadd_113.train(TINY, 3, tmp_path / "half.pt")
    resumed = modadd_113.train(TINY, 6, tmp_path / "half.pt")
    assert resumed.step == 6
    for name, value in whole.weights.items():
        assert torch.equal(value, resumed.weights[name]), name
    assert [file.name for file in tmp_path.iterdir()] == ["half.pt"]


def test_another_seed_trains_another_network() -> None:
    other = dataclasses.replace(TINY, seed=1)
    difference = (
        modadd_113.train(TINY, 2).weights["head.weight"]
        - modadd_113.train(other, 2).weights["head.weight"]
    )
    assert float(difference.detach().abs().max()) > 0.1


def test_written_bundle_loads_and_computes_the_same(tmp_path: Path) -> None:
    progress = modadd_113.train(TINY, 3)
    written = modadd_113.write_bundle(tmp_path / "tiny", progress, TINY)
    bridge = sources.load_model(tmp_path / "tiny", device="cpu")
    with torch.inference_mode():
        logits = bridge("2 + 6 =")[0, -1]
        expected = modadd_113.last_logits(progress.weights, torch.tensor([[2, 6]]), TINY)[0]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert written.training.steps == 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tiny"]


# Waves


def test_basis_is_orthonormal() -> None:
    basis = fourier.fourier_basis(7)
    np.testing.assert_allclose(basis @ basis.T, np.eye(7), atol=1e-12)
    np.testing.assert_allclose(basis[3], np.cos(4 * np.pi * np.arange(7) / 7) * math.sqrt(2 / 7))


def test_planted_frequencies_are_found() -> None:
    residue = np.arange(11)
    first = 3 * np.cos(2 * np.pi * 2 * residue / 11 + 0.4)
    second = 4 * np.sin(2 * np.pi * 5 * residue / 11 + 1.0)
    shares = fourier.frequency_shares(np.stack([first + 7.0, second], axis=1))
    np.testing.assert_allclose(shares, [0, 9 / 25, 0, 0, 16 / 25], atol=1e-12)
    assert fourier.key_frequencies(shares) == (2, 5)


def test_planted_logits_are_explained_by_their_own_frequency() -> None:
    a, b, c = np.ogrid[:11, :11, :11]
    logits = 3 * np.cos(2 * np.pi * 2 * (a + b - c) / 11) + 4 * np.cos(2 * np.pi * 5 * (a - b) / 11)
    # The second term is the same for all answers: it drops out.
    assert fourier.explained_logits(logits, (2,)) == pytest.approx(1.0)
    assert fourier.explained_logits(logits, (3, 5)) == pytest.approx(0.0, abs=1e-12)


def test_planted_neurons_are_explained_by_one_frequency() -> None:
    a, b = 2 * np.pi * np.arange(11)[:, None] / 11, 2 * np.pi * np.arange(11)[None] / 11
    pure = 5 + np.cos(3 * a) * np.sin(3 * b) + 0 * b
    mixed = 3 * np.cos(2 * a) + 4 * np.cos(4 * b)
    still = np.full((11, 11), 2.0)
    shares = fourier.explained_neurons(np.stack([pure, mixed, still], axis=2))
    np.testing.assert_allclose(shares, [1.0, 16 / 25, 0.0], atol=1e-12)
