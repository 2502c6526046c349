"""The grokked model that is bundled, and the script that trained it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import safetensors.torch
import torch
from jaxtyping import Float64, Int64
from torch.nn import functional

from tests.core.modular.conftest import TINY
from workbench.core.models import card, sources
from workbench.core.models.training import modadd_113
from workbench.core.modular import bundle, network, recipe, tasks, training

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

P = 113
FOLDER = card.BUNDLED / modadd_113.NAME


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
    for name in network.FROZEN:
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
    assert written.training.steps == modadd_113.RECIPE.steps
    assert written.training.tokens == 3 * 3830 * modadd_113.RECIPE.steps


def test_config_is_what_the_script_describes() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["format"] == "transformer-lens-native"
    assert config["config"] == network.bridge_settings(modadd_113.RECIPE, P) | {
        "default_prepend_bos": False
    }


def test_bundle_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 16_000_000


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
    bundle.build_tokenizer(P).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (FOLDER / "tokenizer.json").read_text()


# The script


def test_training_pairs_are_the_published_choice() -> None:
    train, test = modadd_113.TASK.split()
    assert train.tolist() == published_training_rows(0)
    assert len({*train.tolist(), *test.tolist()}) == 12_769


def test_the_set_up_is_the_published_one() -> None:
    assert modadd_113.RECIPE == recipe.RECIPES["nanda-2023"]
    assert modadd_113.TASK == tasks.Task(p=113, operation="add", fraction=0.3, seed=0)
    assert card.model_card("modadd-113").training.steps == 40_000


def test_written_bundle_loads_and_brings_its_trajectory(tmp_path: Path) -> None:
    task = tasks.Task(p=7, fraction=0.5)
    found = training.train(task, TINY, folder=tmp_path / "run", stop="never")
    written = modadd_113.write_bundle(tmp_path / "tiny", found, 1.5)
    bridge = sources.load_model(tmp_path / "tiny", device="cpu")
    snapshot = found.snapshot(120)
    with torch.inference_mode():
        logits = bridge("2 + 6 =")[0, -1, :7]
    np.testing.assert_allclose(logits.numpy(), snapshot.logits[2 * 7 + 6], rtol=1e-5, atol=1e-5)
    assert (written.training.steps, written.training.seconds) == (120, 1.5)
    packed = bundle.Trajectory.open(tmp_path / "tiny")
    assert packed.steps[0] == 0 and packed.steps[-1] == 120
    assert packed.task["p"] == 7
    for step in packed.steps:
        for name, value in packed.weights(step).items():
            exact = found.weights(step)[name]
            largest = exact.abs().amax(-1, keepdim=True)
            assert bool(((value - exact).abs() <= largest * 2.5e-4).all()), (step, name)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "tiny"]
