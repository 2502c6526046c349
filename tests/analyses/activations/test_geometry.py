"""Growth and angles of the stream: known exactly, and equal to TransformerLens' own cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import activations
from analyses.activations import geometry
from tests import families
from workbench import Corpus
from workbench.core.planted import known_circuits, two_steps, unplanted


@pytest.fixture(scope="module")
def model() -> Any:
    return families.bridge("native")


@pytest.fixture(scope="module")
def rows(model: Any) -> Corpus:
    return Corpus.from_tokens(model, np.random.default_rng(0).integers(0, 6, (12, 9)))


def naive(model: Any, ids: list[int]) -> dict[str, Any]:
    """The same from a full cache of TransformerLens, position by position."""
    _, cache = model.run_with_cache(torch.tensor([ids]))
    layers = int(model.cfg.n_layers)
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(layers))]
    streams = torch.stack([cache[name][0].detach() for name in names]).double()
    inner = streams[:, 1:]
    cosine = torch.nn.functional.cosine_similarity(inner[:, None], inner[None], dim=-1).mean(-1)
    turn = np.full((2, layers), np.nan)
    relative = np.full((2, layers), np.nan)
    for layer in range(layers):
        onto = streams[layer]
        for part, hook in enumerate(("hook_attn_out", "hook_mlp_out")):
            update = cache[f"blocks.{layer}.{hook}"][0].detach().double()
            both = torch.nn.functional.cosine_similarity(update, onto, dim=-1)
            turn[part, layer] = float(both[1:].mean())
            relative[part, layer] = float((update.norm(dim=-1) / onto.norm(dim=-1))[1:].mean())
            onto = onto + update
    return {
        "norm": inner.norm(dim=-1).mean(1).numpy(),
        "first": streams[:, 0].norm(dim=-1).numpy(),
        "cosine": cosine.numpy(),
        "turn": turn,
        "relative": relative,
        "units": (inner / inner.norm(dim=-1, keepdim=True)).numpy(),
    }


@pytest.mark.parametrize("family", [*families.CONFIGS, families.NATIVE])
def test_a_prompt_of_every_family_equals_the_naive_computation(family: str) -> None:
    other = families.bridge(family)
    ids = [0, 3, 2, 1, 4, 5]
    found = activations.stream(other, ids)
    expected = naive(other, ids)
    np.testing.assert_allclose(found.norm, expected["norm"], rtol=1e-5)
    np.testing.assert_allclose(found.first_norm, expected["first"], rtol=1e-5)
    np.testing.assert_allclose(found.cosine, expected["cosine"], atol=1e-5)
    np.testing.assert_allclose(found.turn, expected["turn"], atol=1e-5)
    np.testing.assert_allclose(found.relative, expected["relative"], rtol=1e-4)
    # Every pair of two positions, one by one.
    units = expected["units"]
    pairs = [units[:, i] @ units[:, j].T for i in range(5) for j in range(i)]
    np.testing.assert_allclose(
        found.anisotropy, np.mean([np.diag(one) for one in pairs], axis=0), atol=1e-5
    )
    assert found.adds_up < 1e-5
    assert np.isnan(found.norm_interval).all() and np.isnan(found.turn_p).all()
    assert "No intervals" in found.summary()


def test_a_corpus_is_the_mean_over_its_rows(model: Any, rows: Corpus) -> None:
    found = activations.stream(model, rows)
    every = [naive(model, rows.row(i).tolist()) for i in range(len(rows))]
    assert found.n_rows == len(rows)
    np.testing.assert_allclose(found.norm, np.mean([one["norm"] for one in every], 0), rtol=1e-5)
    np.testing.assert_allclose(
        found.cosine, np.mean([one["cosine"] for one in every], 0), atol=1e-5
    )
    assert (found.norm_interval[0] <= found.norm).all()
    assert (found.norm_interval[1] >= found.norm).all()
    means = [one["units"].mean(1) for one in every]
    pairs = [(means[i] * means[j]).sum(-1) for i in range(12) for j in range(i)]
    np.testing.assert_allclose(found.anisotropy, np.mean(pairs, axis=0), atol=1e-5)
    some = activations.stream(model, rows, rows=5, seed=1)
    assert some.n_rows == 5


def test_the_hand_wired_stream_is_known_exactly() -> None:
    found = activations.stream(two_steps.two_layer(), (0, 3, 2, 1))
    # A token and its place are two ones. At the last position each layer adds a one; elsewhere
    # heads attend to all positions alike, so layer 0 adds the mean of the tokens so far, and layer
    # 1 the mean of what layer 0 added so far.
    eye = np.eye(4)
    first = np.array([eye[: position + 1].mean(0) for position in range(4)])
    second = np.array([first[: position + 1].mean(0) for position in range(4)])
    first[3] = second[3] = eye[1]
    squares = np.cumsum([np.full(4, 2), (first**2).sum(1), (second**2).sum(1)], axis=0)
    np.testing.assert_allclose(found.norm, np.sqrt(squares[:, 1:]).mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.first_norm, np.sqrt(squares[:, 0]), rtol=1e-6)
    # What is written is at right angles to what was there, so random updates give the same.
    np.testing.assert_allclose(found.norm_null, found.norm, rtol=1e-6)
    np.testing.assert_allclose(found.cosine_null, found.cosine, atol=1e-6)
    np.testing.assert_allclose(found.turn[0], 0.0, atol=1e-6)
    assert (found.relative[1] == 0).all()


def test_of_the_induction_model_only_what_is_written_again_turns_along() -> None:
    case = known_circuits.induction()
    found = activations.stream(case.model, case.clean[0])
    expected = naive(
        case.model,
        list(activations.values(case.model, case.clean[0], "blocks.0.hook_resid_pre").ids),
    )
    np.testing.assert_allclose(found.norm, expected["norm"], rtol=1e-5)
    assert (np.diff(found.norm) >= -1e-6).all()
    assert found.cosine[0, 0] == pytest.approx(1.0)


def test_the_null_is_what_updates_in_random_directions_give(model: Any, rows: Corpus) -> None:
    del model, rows
    rng = np.random.default_rng(0)
    width, sizes = 2048, (1.0, 2.0, 0.5, 3.0)
    streams = [rng.normal(size=(50, width)) / width**0.5]
    for size in sizes:
        step = rng.normal(size=(50, width))
        streams.append(streams[-1] + size * step / np.linalg.norm(step, axis=1, keepdims=True))
    told = torch.from_numpy(np.stack(streams)).float()
    row = object.__new__(geometry._Row)
    row._measure_null(told, told.norm(dim=-1))
    real = told.norm(dim=-1).mean(1).numpy()
    np.testing.assert_allclose(row.norm_null, real, rtol=0.01)
    units = told / told.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(row.cosine_null, geometry._between_depths(units), atol=0.01)


def test_one_coordinate_makes_streams_alike() -> None:
    model = unplanted.randomised(seed=3)
    plain = {
        name.replace("._original_component", ""): value
        for name, value in model.original_model.named_parameters()
    }
    with torch.no_grad():
        plain["tok_embed.weight"][:, 5] = 1e4
    rows = Corpus.from_tokens(model, np.random.default_rng(0).integers(0, 6, (8, 6)))
    found = activations.stream(model, rows)
    assert found.rogue == (5, 5, 5)
    assert found.anisotropy.min() > 0.9 and found.rogue_share.min() > 0.9
    assert "coordinate 5 makes" in found.summary()


def test_pictures_tables_and_saving(model: Any, rows: Corpus, tmp_path: Any) -> None:
    found = activations.stream(model, rows)
    back = activations.StreamGeometry.load(found.save(tmp_path / "one"))
    assert back.summary() == found.summary()
    assert list(found.to_frame()["depth"]) == ["embedding", "after 0", "after 1"]
    drawn: Any = found.cosine_figure(selected=(1, 2)).data
    assert np.array_equal(drawn[0].z, found.cosine)
    found.figure()
    found.updates_figure()


def test_what_cannot_be_measured_is_a_sentence(model: Any) -> None:
    with pytest.raises(ValueError, match="one token"):
        activations.stream(model, (1,))
    short = Corpus.from_tokens(model, np.zeros((3, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="no row of two tokens"):
        activations.stream(model, short)
    with pytest.raises(ValueError, match="rows = 0"):
        activations.stream(model, short, rows=0)


@pytest.mark.real_model
def test_a_pretrained_model_too(stories: Any) -> None:
    model = workbench.load_model(str(stories))
    prompt = "Once upon a time there was a girl"
    found = activations.stream(model, prompt)
    ids = activations.values(model, prompt, "blocks.0.hook_resid_pre").ids
    expected = naive(model, list(ids))
    np.testing.assert_allclose(found.cosine, expected["cosine"], atol=1e-5)
    np.testing.assert_allclose(found.norm, expected["norm"], rtol=1e-5)
