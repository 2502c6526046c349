"""Values of hook points on a prompt: every hook point of every family, and what the axes mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import activations
from analyses.activations import layout as layouts
from analyses.activations import on_prompt
from tests import families
from workbench.core import results
from workbench.core.engine import running
from workbench.core.planted import two_steps, word_level

FAMILIES = [*families.CONFIGS, families.NATIVE]
IDS = (0, 3, 2, 1, 4)


@pytest.fixture(scope="module")
def grammar() -> Any:
    return workbench.load_model("grammar-4l")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_point_of_a_family_shows_what_the_run_had_there_or_is_refused(
    family: str,
) -> None:
    model = families.bridge(family)
    tokens = torch.tensor([IDS])
    once = {id(point): name for name, point in model.hook_dict.items()}
    seen: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> Any:
        return lambda activation: seen.setdefault(name, activation.clone())

    with running.observing(model, {name: keeper(name) for name in once.values()}):
        model(tokens, return_type="logits")
    refused = set[str]()
    for name in once.values():
        try:
            found = activations.values(model, IDS, name, top=2)
        except ValueError as error:
            assert "does not fire" in str(error), name
            refused.add(name)
            continue
        theirs = seen[name].float()
        layout = found.layout
        assert len(layout.axes) == theirs.ndim, name
        (mine,) = found.kept
        shown = np.nan_to_num(mine)
        expected = torch.where(layouts.unmasked(theirs), theirs, 0.0)
        # Only the order of the axes changes: norms of positions say which is which.
        at = layout.axes.index("query" if layout.attends else "position")
        expected = expected.movedim(at, 0).reshape(len(IDS), -1).numpy()
        assert np.array_equal(shown, expected), name
        np.testing.assert_allclose(found.norm, np.linalg.norm(expected, axis=1), rtol=1e-5)
    assert refused == {name for name in once.values() if name not in seen}
    assert len(seen) > 30


def test_axes_have_the_names_of_the_glossary(grammar: Any) -> None:
    def shape(hook: str) -> str:
        return activations.Layout.of(grammar, hook).shape

    assert shape("blocks.1.hook_resid_pre") == "batch × position × d_model 128"
    assert shape("blocks.1.attn.hook_z") == "batch × position × head 4 × d_head 32"
    assert shape("blocks.1.attn.hook_pattern") == "batch × head 4 × query × key"
    assert shape("blocks.1.mlp.hook_post") == "batch × position × neuron 512"
    assert shape("blocks.1.ln1.hook_scale") == "batch × position × 1"
    assert shape("embed.hook_in") == "batch × position"
    grouped = families.bridge("llama")
    keys = activations.Layout.of(grouped, "blocks.0.attn.hook_k")
    assert keys.shape == "batch × position × group 2 × d_head 4"
    assert keys.unit(3) == ""


def test_a_coordinate_is_named_as_a_unit_by_any_name_of_its_hook_point(grammar: Any) -> None:
    def unit(hook: str, coordinate: int, keys: int = 1) -> str:
        return activations.Layout.of(grammar, hook).unit(coordinate, keys)

    assert unit("blocks.2.mlp.hook_post", 13) == "neuron 2.13"
    assert unit("blocks.2.mlp.out.hook_in", 13) == "neuron 2.13"
    assert unit("blocks.2.hook_out", 5) == "resid_post 2.5"
    assert unit("blocks.2.attn.hook_z", 70) == "head 2.2"
    assert unit("blocks.2.attn.hook_pattern", 13, 6) == "head 2.2"
    assert unit("ln_final.hook_out", 5) == ""
    layout = activations.Layout.of(grammar, "blocks.2.attn.hook_pattern")
    assert layout.label(13, 6) == "head 2 · key 1"
    assert activations.Layout.of(grammar, "blocks.2.attn.hook_z").label(70) == "head 2 · d_head 6"


def test_an_alias_says_what_it_is_another_name_of(grammar: Any) -> None:
    found = activations.values(grammar, "The boxes are", "blocks.1.hook_resid_pre")
    assert found.layout.same_as == "blocks.1.hook_in"
    assert "another name of blocks.1.hook_in" in found.summary()
    same = activations.values(grammar, "The boxes are", "blocks.1.hook_in")
    assert np.array_equal(found.kept[0], same.kept[0])


def test_numbers_of_a_position_are_those_of_numpy(grammar: Any) -> None:
    prompt = "The boxes near the chair are"
    hook = "blocks.1.mlp.hook_post"
    found = activations.values(grammar, prompt, hook, top=3)
    ids = torch.tensor([found.ids])
    _, kept = running.run_and_keep(grammar, ids, [hook])
    expected = kept[hook][0].numpy()
    assert np.array_equal(found.kept[0], expected)
    np.testing.assert_allclose(found.norm, np.linalg.norm(expected, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.mean, expected.mean(1), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.zeros, (expected == 0).mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.positive, (expected > 0).mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.spread, expected.std(0), rtol=1e-4, atol=1e-7)
    order = np.argsort(-np.abs(expected), axis=1)[:, :3]
    assert np.array_equal(found.top_coordinates, order)
    assert np.array_equal(found.top_values, np.take_along_axis(expected, order, 1))
    part = found.window()
    assert set(part.coordinates) == set(np.argsort(-expected.std(0))[: on_prompt.SHOWN])
    assert np.array_equal(part.values, expected[:, part.coordinates].T)
    assert np.array_equal(found.along(31), expected[:, 31])


def test_the_hand_wired_model_shows_one_hot_tokens() -> None:
    model = two_steps.two_layer()
    found = activations.values(model, (0, 3, 2, 1), "blocks.0.hook_resid_pre")
    # A token and its place: two ones.
    np.testing.assert_allclose(found.norm, np.full(4, 2**0.5), rtol=1e-6)
    assert np.array_equal(np.nonzero(found.kept[0][1])[0], [3, 3 * len(word_level.WORDS) + 1])
    masked = activations.values(families.bridge("gpt2"), IDS, "blocks.0.attn.hook_attn_scores")
    assert masked.masked == families.HEADS * 10
    assert "only mask a softmax" in masked.summary()
    assert np.isnan(masked.kept[0][0, 1])


def test_what_is_large_is_kept_in_part_only(grammar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = activations.values(grammar, "The boxes are", "unembed.hook_out")
    monkeypatch.setattr(on_prompt, "KEPT", 100)
    found = activations.values(grammar, "The boxes are", "unembed.hook_out", top=4)
    assert found.kept == ()
    assert np.array_equal(found.top_values, whole.top_values[:, :4])
    part = found.window()
    for row, coordinate in enumerate(part.coordinates):
        own = part.values[row]
        expected = whole.along(int(coordinate))
        assert np.array_equal(own[~np.isnan(own)], expected[~np.isnan(own)])
    assert (~np.isnan(part.values)).sum() == found.top_values.size
    with pytest.raises(ValueError, match="more than the 100 that are kept"):
        found.along(0)
    assert "4 largest are kept" in found.summary()
    found.figure()


def test_it_is_saved_and_read_back(grammar: Any, tmp_path: Any) -> None:
    found = activations.values(grammar, "The boxes are", "blocks.1.attn.hook_pattern")
    back = activations.ActivationValues.load(found.save(tmp_path / "values"))
    assert back.layout == found.layout
    assert np.array_equal(back.kept[0], found.kept[0], equal_nan=True)
    assert back.summary() == found.summary()
    assert isinstance(back, results.Result)
    assert len(found.to_frame()) == len(found.ids)


@pytest.mark.parametrize(
    ("hook", "prompt", "more", "said"),
    [
        ("blocks.0.hook_residpost", "The box", {}, "nearest: blocks.0.hook_resid_post"),
        ("blocks.0.attn.hook_result", "The box", {}, r"set_use_attn_result\(True\)"),
        ("blocks.0.hook_resid_pre", "zebra", {}, "outside the vocabulary"),
        ("blocks.0.hook_resid_pre", "The box", {"top": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(
    grammar: Any, hook: str, prompt: str, more: dict[str, int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        activations.values(grammar, prompt, hook, **more)


def test_a_part_that_is_not_there_is_a_sentence(grammar: Any) -> None:
    found = activations.values(grammar, "The box", "blocks.0.hook_resid_pre")
    with pytest.raises(ValueError, match="positions 0 to 2, not 7"):
        found.window(7)
    with pytest.raises(ValueError, match="unknown order"):
        found.window(order="size")
    with pytest.raises(ValueError, match="coordinates 0 to 127, not 500"):
        found.along(500)


@pytest.mark.real_model
def test_a_pretrained_model_too(stories: Any) -> None:
    model = workbench.load_model(str(stories))
    hook = "blocks.3.hook_resid_post"
    found = activations.values(model, "Once upon a time", hook)
    _, cache = model.run_with_cache(torch.tensor([found.ids]))
    np.testing.assert_allclose(found.kept[0], cache[hook][0].detach().numpy(), atol=1e-5)
