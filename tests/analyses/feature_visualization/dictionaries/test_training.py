"""Training dictionaries: known features are found, and stopping changes nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.activation_patching import units
from analyses.feature_visualization import dictionaries
from analyses.feature_visualization.dictionaries import stepping, training
from workbench.core import results
from workbench.core.models import dictionaries as stored
from workbench.core.prompts import corpus as corpora

Combined = Callable[..., Iterator[torch.Tensor]]
SMALL: dict[str, Any] = {"latents": 24, "k": 2, "steps": 40, "lr": 3e-3}


class Stopped(Exception):
    pass


def stop_at(share: float) -> Callable[[float, str], None]:
    def progress(fraction: float, note: str) -> None:
        if fraction >= share:
            raise Stopped

    return progress


def equal(one: training.TrainedDictionary, other: training.TrainedDictionary) -> None:
    assert set(one.weights) == set(other.weights)
    for name, value in one.weights.items():
        assert np.array_equal(value, other.weights[name]), name
    for name in ("steps", *stepping.MEASURES, "frequency"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.config == other.config


@pytest.mark.parametrize(
    ("kind", "k", "steps", "lr"),
    [("topk", 3, 800, 0.01), ("batchtopk", 1, 1_500, 0.02), ("jumprelu", 1, 1_500, 0.01)],
)
def test_known_features_in_superposition_are_found(
    features: torch.Tensor, combined: Combined, kind: str, k: int, steps: int, lr: float
) -> None:
    # 32 features in 16 dimensions, one of them at a time on average.
    made = dictionaries.train_on(
        combined(), 16, latents=48, batch=512, kind=kind, k=k, steps=steps, lr=lr
    )
    decoder = torch.nn.functional.normalize(made.dictionary.W_dec, dim=1)
    nearest = (features @ decoder.T).amax(1)
    assert (nearest >= 0.95).double().mean() >= 0.9
    assert made.explained[-1] > 0.9
    # Untrained, hardly any direction is a feature.
    untrained = made.dictionary.W_dec.shape
    random = torch.randn(untrained, generator=torch.Generator().manual_seed(1))
    chance = (features @ torch.nn.functional.normalize(random, dim=1).T).amax(1)
    assert (chance >= 0.95).double().mean() <= 0.1


@pytest.mark.parametrize("kind", stepping.KINDS)
def test_stopping_and_going_on_gives_the_same_bits(
    combined: Combined, tmp_path: Path, kind: str
) -> None:
    def train(**more: Any) -> training.TrainedDictionary:
        return dictionaries.train_on(combined(64), 16, batch=64, kind=kind, **SMALL, **more)

    whole = train()
    for share in (0.05, 0.3, 0.8, 0.95):
        with pytest.raises(Stopped):
            train(folder=tmp_path / "sae", progress=stop_at(share))
        assert (tmp_path / "sae" / "checkpoint.safetensors").is_file()
        assert not (tmp_path / "sae" / "cfg.json").exists()
    resumed = train(folder=tmp_path / "sae")
    equal(whole, resumed)
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
        "training",
    ]
    # A third call finds it finished.
    equal(whole, train(folder=tmp_path / "sae", progress=stop_at(0.0)))


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_a_site_of_a_model_stopped_and_gone_on_with(
    model: TransformerBridge, rows: corpora.Corpus, tmp_path: Path, site: str
) -> None:
    def train(**more: Any) -> training.TrainedDictionary:
        return dictionaries.train_dictionary(
            model, rows, site, layer=1, batch_tokens=128, **SMALL, **more
        )

    whole = train()
    with pytest.raises(Stopped):
        train(folder=tmp_path / "sae", progress=stop_at(0.5))
    equal(whole, train(folder=tmp_path / "sae"))
    assert whole.explained[-1] > whole.explained[0]
    other = dictionaries.train_dictionary(
        model, rows, site, layer=1, batch_tokens=128, **SMALL, seed=1
    )
    assert not np.array_equal(whole.weights["W_dec"], other.weights["W_dec"])


@pytest.mark.parametrize("kind", stepping.KINDS)
def test_the_folder_is_read_by_sae_lens_and_knows_its_site(
    model: TransformerBridge, rows: corpora.Corpus, tmp_path: Path, kind: str
) -> None:
    made = dictionaries.train_dictionary(
        model, rows, "mlp_out", layer=1, kind=kind, batch_tokens=128, folder=tmp_path, **SMALL
    )
    again = stored.load_dictionary(tmp_path)
    plain = sae_lens.SAE.load_from_disk(tmp_path)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for other in (again, plain):
            assert torch.equal(other.encode(x), made.dictionary.encode(x))
            assert torch.equal(other(x), made.dictionary(x))
    assert units.site_of(again, None) == ("mlp_out", 1)
    assert again.cfg.metadata.model_name == "gpt2"
    if kind == "topk":
        assert (again.encode(x) > 0).sum(1).max() <= 2


def test_scale_and_norms_are_folded_into_what_is_kept(combined: Combined) -> None:
    setup = stepping.SetUp("topk", 16, 24, 2, 30, 64, 0.003, 0, "x")
    run = stepping.Training(setup, {}, torch.device("cpu"), None)
    # Vectors a hundred times as long are scaled back, and reconstructed at their own length.
    run.go((100 * batch for batch in combined(64)), lambda fraction, note: None)
    batch = 100 * next(combined(64))
    with torch.no_grad():
        scale = run.trainer.activation_scaler.scaling_factor
        assert scale is not None
        expected = run.trainer.sae(batch * scale) / scale
    weights, config, frequency = run.finish()
    made = sae_lens.SAE.from_dict(config)
    made.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    with torch.no_grad():
        torch.testing.assert_close(made(batch), expected, atol=1e-3, rtol=1e-4)
    assert frequency.shape == (24,) and frequency.sum() <= 2 + 1e-6


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_a_step_is_that_of_sae_lens(
    combined: Combined, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = stepping.SetUp(kind, 16, 24, 2, 100, 64, 0.003, 0, "x")
    ours = stepping.Training(setup, {}, torch.device("cpu"), None)
    monkeypatch.setattr(stepping, "_norms_in_weights", lambda base: base)
    theirs = stepping.Training(setup, {}, torch.device("cpu"), None)
    assert type(theirs.trainer.sae).__module__.startswith("sae_lens")
    assert not type(ours.trainer.sae).__module__.startswith("sae_lens")
    batches = list(itertools.islice(combined(64), 12))
    for run in (ours, theirs):
        run.look(batches[:2])
        for batch in batches:
            run.take(batch)
    found = dict(ours.trainer.sae.named_parameters())
    for name, expected in theirs.trainer.sae.named_parameters():
        # Adam divides by the gradient's size, which lets rounding show.
        torch.testing.assert_close(found[name], expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(np.array(ours.curve), np.array(theirs.curve), atol=1e-4)


def test_the_curve_holds_what_was_said(combined: Combined) -> None:
    notes: list[tuple[float, str]] = []
    made = dictionaries.train_on(
        combined(64), 16, batch=64, **SMALL, progress=lambda f, note: notes.append((f, note))
    )
    assert [fraction for fraction, _ in notes][-1] == 1
    assert notes[-1][1] == (
        f"step 40 of 40: loss {made.loss[-1]:.4g}, explained variance {made.explained[-1]:.3f}, "
        f"L0 {made.l0[-1]:.1f}, dead {made.dead[-1]:.1%}"
    )
    assert list(made.steps) == list(range(1, 41))
    # Taken anew from the definition, on the first batch and the untrained dictionary.
    setup = stepping.SetUp("topk", 16, 24, 2, 40, 64, 0.003, 0, "activations")
    run = stepping.Training(setup, {}, torch.device("cpu"), None)
    first = list(itertools.islice(combined(64), 8))
    run.look(first)
    scale = run.trainer.activation_scaler.scaling_factor
    assert scale is not None
    x = first[0] * scale
    with torch.no_grad():
        error = (run.trainer.sae(x) - x).square().sum()
        explained = 1 - error / (x - x.mean(0)).square().sum()
    assert made.explained[0] == pytest.approx(float(explained), abs=1e-5)
    assert made.loss[0] == pytest.approx(float(error) / 64, rel=1e-4)
    assert made.l0[0] <= 2


def test_a_result_is_saved_and_shown(combined: Combined, tmp_path: Path) -> None:
    made = dictionaries.train_on(combined(64), 16, batch=64, **SMALL)
    made.save(tmp_path / "result")
    again = results.Result.load(tmp_path / "result")
    assert isinstance(again, training.TrainedDictionary)
    equal(made, again)
    x = next(combined(8))
    assert torch.equal(made.dictionary.encode(x), again.dictionary.encode(x))
    assert len(made.to_frame()) == 40
    traces: Any = made.figure().data
    assert len(traces) == 2
    assert "24 latents for vectors of 16 numbers" in made.summary()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gated"}, "unknown kind 'gated'; expected one of topk, jumprelu, batchtopk"),
        ({"k": 25}, "k = 25: expected 1 to 24, the number of latents"),
        ({"k": 0}, "k = 0: expected 1 to 24"),
        ({"steps": 0}, "expected each to be above 0"),
        ({"batch": 63}, r"a batch of activations has shape \(64, 16\); expected \(63, 16\)"),
        ({"lr": 1e30}, "training has diverged; lower the learning rate"),
    ],
)
def test_input_that_does_not_fit(combined: Combined, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"batch": 64} | SMALL | change
    with pytest.raises(ValueError, match=message):
        dictionaries.train_on(combined(64), 16, **given)


def test_activations_that_end_or_are_zero(combined: Combined) -> None:
    with pytest.raises(ValueError, match="the activations ended after 10 batches; 40 steps need"):
        dictionaries.train_on(itertools.islice(combined(64), 10), 16, batch=64, **SMALL)
    with pytest.raises(ValueError, match="there is nothing to learn"):
        dictionaries.train_on([torch.zeros(64, 16)] * 40, 16, batch=64, **SMALL)
    with pytest.raises(ValueError, match="there is nothing to learn"):
        dictionaries.train_on([], 16, batch=64, **SMALL)


def test_a_folder_of_another_training(combined: Combined, tmp_path: Path) -> None:
    def train(**more: Any) -> training.TrainedDictionary:
        given: dict[str, Any] = {"batch": 64, "folder": tmp_path} | SMALL | more
        return dictionaries.train_on(combined(64), 16, **given)

    with pytest.raises(Stopped):
        train(progress=stop_at(0.5))
    message = "holds another training: its k is 2, not 3; choose another folder"
    with pytest.raises(ValueError, match=message):
        train(k=3)
    train()
    with pytest.raises(ValueError, match=message):
        train(k=3)


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_checkpoint_that_is_damaged(combined: Combined, tmp_path: Path, damage: str) -> None:
    def train(**more: Any) -> training.TrainedDictionary:
        return dictionaries.train_on(combined(64), 16, batch=64, folder=tmp_path, **SMALL, **more)

    with pytest.raises(Stopped):
        train(progress=stop_at(0.5))
    file = tmp_path / "checkpoint.safetensors"
    content = file.read_bytes()
    file.write_bytes({"cut": content[:-100], "text": b"hello" * 20, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged: .*delete it to"):
        train()


def test_nothing_on_disk_is_a_pickle(combined: Combined, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        dictionaries.train_on(
            combined(64), 16, batch=64, folder=tmp_path, **SMALL, progress=stop_at(0.5)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    length = int.from_bytes((tmp_path / "checkpoint.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "checkpoint.safetensors").read_bytes()[8 : 8 + length])
    assert "described" in header["__metadata__"]


def test_a_caller_without_gradients_trains_all_the_same(combined: Combined) -> None:
    with torch.no_grad():
        without = dictionaries.train_on(combined(64), 16, batch=64, **SMALL)
    equal(without, dictionaries.train_on(combined(64), 16, batch=64, **SMALL))
