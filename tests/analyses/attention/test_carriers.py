"""Which heads carry a repeat: the wired ones, those of grammar-4l, and none where none is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import workbench
from analyses import attention
from analyses.attention import sequences
from workbench.core.planted import known_circuits, unplanted

# Rounding of a loss in float32 over a dozen layers.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def grammar() -> attention.RepeatCarriers:
    return attention.repeat_carriers(workbench.load_model("grammar-4l"))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_wired_heads_carry_it_and_no_others(seed: int) -> None:
    model = known_circuits.induction().model
    found = attention.repeat_carriers(model, rows=16, seed=seed)
    assert set(found.heads) == {(0, 0), (1, 0)}
    assert np.allclose(found.rise[[0, 1], [1, 1]], 0, atol=1e-6)
    # Without the copy the second half is as hard as after other tokens.
    assert found.rise[1, 0] == pytest.approx(found.worth, abs=TOLERANCE)


def test_in_grammar_4l_three_heads_of_layer_0_and_one_of_layer_1_carry_it(
    grammar: attention.RepeatCarriers,
) -> None:
    assert set(grammar.heads) == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert grammar.heads[:3] == ((0, 1), (0, 0), (1, 0))
    again = attention.repeat_carriers(workbench.load_model("grammar-4l"), seed=1)
    assert again.heads == grammar.heads
    assert "carry" in grammar.summary()
    assert int(grammar.to_frame()["carries"].to_numpy().sum()) == 4


def test_a_rise_is_that_of_plain_hooks_in_transformer_lens(
    grammar: attention.RepeatCarriers,
) -> None:
    model = workbench.load_model("grammar-4l")
    rows = sequences.drawn(model, rows=32, length=None, tokens=None, seed=0)
    start, end = rows.second
    name = "blocks.0.attn.hook_z"
    with torch.inference_mode():
        _, cache = model.run_with_cache(rows.fresh, names_filter=[name])

        def swap(z: torch.Tensor, hook: object) -> torch.Tensor:
            z[:, :, 1] = cache[name][:, :, 1]
            return z

        logits = model.run_with_hooks(rows.repeated, fwd_hooks=[(name, swap)])
    said = logits[:, start : end - 1].log_softmax(-1)
    loss = -said.gather(-1, rows.repeated[:, start + 1 : end, None])[..., 0].mean(1).numpy()
    assert np.allclose(loss - grammar.loss_repeated, grammar.per_row[:, 0, 1], atol=TOLERANCE)


def test_what_makes_no_use_of_a_repeat_has_no_carriers() -> None:
    found = attention.repeat_carriers(unplanted.randomised(), rows=16, length=3)
    assert not found.used
    assert found.heads == ()
    assert "does not make use of the repeat" in found.summary()


def test_it_is_saved_whole(grammar: attention.RepeatCarriers, tmp_path: Path) -> None:
    kept = attention.RepeatCarriers.load(grammar.save(tmp_path / "kept"))
    assert kept.heads == grammar.heads
    assert np.array_equal(kept.per_row, grammar.per_row)
    assert kept.figure().data


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"rows": 4}, "at least 16 rows"),
        ({"least": 0.0}, "a share above 0"),
        ({"length": 2}, "length = 2; expected 3"),
        ({"tokens": [9999]}, "ids of the vocabulary"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(asked: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention.repeat_carriers(workbench.load_model("grammar-4l"), **asked)  # pyright: ignore[reportArgumentType]


def test_a_context_without_room_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="no room for 3 tokens twice"):
        attention.repeat_carriers(workbench.load_model("modadd-113"))
