"""Labels of heads: planted ones are found and no others, against independent computations."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import head_detector
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import attention
from analyses.attention import chance, sequences
from tests import families
from workbench.core.planted import known_circuits

# float32 means of a few thousand weights.
CLOSE = 1e-6
ROWS = 32


@functools.cache
def wired() -> TransformerBridge:
    return known_circuits.induction().model


@functools.cache
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


@functools.cache
def scores_of_grammar(length: int | None = None) -> attention.HeadScores:
    return attention.score_heads(grammar(), length=length)


def untrained(seed: int) -> TransformerBridge:
    torch.manual_seed(seed)
    config = TransformerBridgeConfig(
        d_model=32,
        d_head=8,
        n_heads=4,
        n_layers=2,
        n_ctx=24,
        d_vocab=40,
        d_mlp=64,
        act_fn="gelu",
        normalization_type="LN",
    )
    return TransformerBridge.boot_native(config).eval()


def labels(scores: attention.HeadScores) -> dict[str, tuple[tuple[int, int], ...]]:
    return {name: scores.heads(name) for name in scores.names if scores.heads(name)}


def by_loops(
    model: TransformerBridge, rows: torch.Tensor, offsets: tuple[int, ...], first: int
) -> np.ndarray:
    """Mean attention to fixed distances back: one head, row and query at a time."""
    found = np.zeros((len(offsets), model.cfg.n_layers, model.cfg.n_heads))
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        for row in rows:
            _, cache = model.run_with_cache(row[None], names_filter=names)
            for layer, head in np.ndindex(*found.shape[1:]):
                pattern = cache[names[layer]][0, head].numpy()
                for place, offset in enumerate(offsets):
                    looks = [float(pattern[q, q - offset]) for q in range(first, len(row))]
                    found[place, layer, head] += np.mean(looks)
    return found / len(rows)


@pytest.mark.parametrize("seed", range(4))
def test_of_a_hand_wired_model_exactly_the_wired_heads_are_labelled(seed: int) -> None:
    scores = attention.score_heads(wired(), seed=seed)
    assert labels(scores) == {"previous token": ((0, 0),), "induction": ((1, 0),)}
    assert scores.score[scores.place("previous token"), 0, 0] == pytest.approx(1, abs=CLOSE)
    # One match of 4.0 among the other positions, all of 0: e^4 / (e^4 + q) for queries 4 to 6.
    expected = np.mean([np.exp(4) / (np.exp(4) + q) for q in (4, 5, 6)])
    assert scores.score[scores.place("induction"), 1, 0] == pytest.approx(expected, abs=1e-5)
    # A uniform head looks 1 / (q + 1) at everything, repeat or not.
    uniform = np.mean([1 / (q + 1) for q in (4, 5, 6)])
    assert scores.null[scores.place("induction"), 1, 1] == pytest.approx(uniform, abs=CLOSE)
    assert np.abs(scores.excess[:, :, 1]).max() < CLOSE
    assert np.abs(scores.entropy[:, 1] - 1).max() < CLOSE
    assert "induction: 1.0 (0.92, null 0.17" in scores.summary()


@pytest.mark.parametrize("name", ["wired", "grammar"])
def test_scores_are_those_of_a_plain_loop(name: str) -> None:
    model = {"wired": wired, "grammar": grammar}[name]()
    scores = attention.score_heads(model, rows=16, rounds=99, seed=3)
    drawn = sequences.drawn(model, rows=16, length=None, tokens=None, seed=3)
    length, start = drawn.length, drawn.second[0]
    offsets = (length, length - 1)
    score = by_loops(model, drawn.repeated, offsets, start)
    null = by_loops(model, drawn.fresh, offsets, start)
    (previous,) = by_loops(model, drawn.fresh, (1,), 2)
    both = [scores.place("duplicate token"), scores.place("induction")]
    assert np.abs(scores.score[both] - score).max() < CLOSE
    assert np.abs(scores.null[both] - null).max() < CLOSE
    assert np.abs(scores.score[scores.place("previous token")] - previous).max() < CLOSE


@pytest.mark.parametrize("kind", ["induction", "duplicate token"])
def test_scores_are_those_of_transformer_lens_head_detector(kind: str) -> None:
    """It divides by all attention of a row, ours by that of the second half's queries."""
    model = grammar()
    scores = attention.score_heads(model, rows=16, rounds=99, seed=2)
    drawn = sequences.drawn(model, rows=16, length=None, tokens=None, seed=2)
    texts = [model.tokenizer.decode(row[1:]) for row in drawn.repeated]
    with torch.no_grad():
        found: Any = head_detector.detect_head(
            model,  # pyright: ignore[reportArgumentType]
            texts,
            "induction_head" if kind == "induction" else "duplicate_token_head",
        )
    theirs = found.numpy() * drawn.repeated.shape[1] / drawn.length
    assert np.abs(scores.score[scores.place(kind)] - theirs).max() < 1e-5


def test_no_head_of_grammar_4l_is_an_induction_head_though_it_predicts_repeats() -> None:
    """Its layer-0 heads look far back wherever nothing repeats: without the null they are some."""
    for length in (4, 7, 10):
        scores = scores_of_grammar(length)
        assert scores.loss_repeated.mean() < 0.05
        assert scores.loss_fresh.mean() > 4
        assert scores.heads("induction") == scores.heads("duplicate token") == ()
    short = scores_of_grammar(4)
    place = short.place("induction")
    naive = short.score[place] >= short.least
    assert naive[0].any()
    assert not (short.excess[place] >= 0.3).any()
    assert "induction: no head" in scores_of_grammar(7).summary()


def test_heads_of_grammar_4l_look_three_behind_the_match_and_that_is_what_it_needs() -> None:
    scores = scores_of_grammar(5)
    assert {layer for layer, _ in scores.heads("match + 3")} == {1, 3}
    assert {(1, 0), (1, 2)} <= set(scores.heads("match + 3"))
    found = attention.verify_heads(grammar(), scores, name="match + 3", rows=16, n_random=39)
    assert found.rise > 1
    assert found.p_value <= 0.05
    assert found.random.max() < found.rise / 2
    assert found.interval[0] > 1


def test_taking_the_target_from_the_induction_head_takes_the_repeat_away() -> None:
    scores = attention.score_heads(wired())
    found = attention.verify_heads(wired(), scores)
    assert found.heads == ("1.0",)
    # Without the match the head looks elsewhere, and the logits tell nothing about the next token.
    assert found.rise == pytest.approx(found.loss_fresh - found.loss.mean(), abs=0.2)
    # No other head looks at the match in a way that is used.
    assert np.abs(found.random).max() < 0.01
    assert (len(found.random), found.p_value) == (3, 0.25)
    assert "only 3 other sets" in found.summary()
    found.figure()
    assert len(found.to_frame()) == 1 + 1 + 3


def test_labels_hold_in_both_halves_of_the_rows_whose_tokens_differ() -> None:
    scores = scores_of_grammar(5)
    drawn = sequences.drawn(grammar(), rows=64, length=5, tokens=None, seed=0)
    first, second = (set(part[:, 1:].ravel().tolist()) for part in drawn.fresh.split(32))
    assert not first & second
    has = scores.labelled()
    assert scores.halves[:, has].min() > scores.least / 2
    assert np.allclose(scores.halves.mean(0), scores.excess, atol=1e-6, equal_nan=True)


def test_untrained_models_have_no_labels() -> None:
    found = [attention.score_heads(untrained(seed), rows=16, rounds=199) for seed in range(20)]
    assert sum(bool(labels(scores)) for scores in found) <= 1


def test_corrected_p_values_find_something_in_noise_no_more_often_than_they_say() -> None:
    """A binomial of 200 and 0.05 exceeds 19 once in 170."""
    rng = np.random.default_rng(0)
    # Cells that go together and of different size, as heads do.
    noise = [
        (rng.standard_normal((32, 1)) + rng.standard_normal((32, 30))) * np.geomspace(0.01, 10, 30)
        for _ in range(200)
    ]
    least = [chance.family_p_values(one, rounds=199, seed=7).min() for one in noise]
    assert 2 <= sum(p <= 0.05 for p in least) <= 19
    planted = noise[0] + 10 * (np.arange(30) == 4)
    assert np.flatnonzero(chance.family_p_values(planted, rounds=999, seed=7) <= 0.05).tolist() == [
        4
    ]


def test_a_first_position_head_is_told_from_one_that_looks_for_bos() -> None:
    scores = scores_of_grammar(5)
    (layer, head), *_ = scores.heads("first position")
    drawn = sequences.drawn(grammar(), rows=64, length=5, tokens=None, seed=0)
    with torch.no_grad():
        _, cache = grammar().run_with_cache(drawn.elsewhere)
    pattern = cache[f"blocks.{layer}.attn.hook_pattern"][:, head, 2:, 0]
    assert scores.first_elsewhere[layer, head] == pytest.approx(float(pattern.mean()), abs=CLOSE)
    assert (drawn.elsewhere[:, 0] != drawn.fresh[:, 0]).all()
    assert (drawn.elsewhere[:, 1:] == drawn.fresh[:, 1:]).all()


def test_what_has_no_room_is_not_measurable_and_not_zero() -> None:
    scores = attention.score_heads(workbench.load_model("modadd-113"))
    assert np.isnan(scores.score).all()
    assert np.isnan(scores.p_value).all()
    assert not scores.labelled().any()
    assert scores.summary().count("Not measurable") == 2
    scores.figure()
    with pytest.raises(ValueError, match="no head has the label 'induction'"):
        attention.verify_heads(workbench.load_model("modadd-113"), scores)


@pytest.mark.parametrize("name", [*families.CONFIGS, families.NATIVE])
def test_every_family_is_scored_and_random_weights_make_no_induction_heads(name: str) -> None:
    scores = attention.score_heads(families.bridge(name), rows=16, rounds=199)
    assert scores.heads("induction") == ()
    hidden = {"gemma2": (0,), "mistral": (0, 1)}.get(name, ())
    # A window of three hides what stands three tokens back.
    duplicate = scores.score[scores.place("duplicate token")]
    assert tuple(np.flatnonzero(np.isnan(duplicate).all(-1))) == hidden
    assert bool(scores.not_measurable) == bool(hidden)
    uniform = scores.null[scores.place("current token")]
    assert np.isfinite(uniform).all()


@pytest.mark.real_model
def test_of_the_pretrained_stories_model_labels_come_with_scores(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    scores = attention.score_heads(model, rows=16, rounds=499)
    for name, heads in labels(scores).items():
        for layer, head in heads:
            place = scores.place(name)
            assert scores.excess[place, layer, head] >= 0.3
            assert scores.p_value[place, layer, head] <= 0.05
    assert labels(scores)


def test_saving_table_and_figure(tmp_path: Path) -> None:
    scores = attention.score_heads(wired(), rows=16, rounds=99)
    again = attention.HeadScores.load(scores.save(tmp_path / "scores"))
    assert again.summary() == scores.summary()
    assert np.array_equal(again.per_row, scores.per_row, equal_nan=True)
    table = scores.to_frame()
    assert len(table) == 4 * len(scores.names)
    labelled = table[table["label"]]
    assert sorted(zip(labelled["head"], labelled["about"], strict=True)) == [
        ("0.0", "previous token"),
        ("1.0", "induction"),
    ]
    assert scores.labels(1, 0) == ("induction",)
    assert scores.labels(1, 0, least=0.95) == ()
    figure: Any = scores.figure("previous token")
    assert figure.data[0].z.shape == (2, 2)
    assert "labels: previous token" in figure.data[-1].customdata[0]
    repeated = attention.score_heads(wired(), rows=16, rounds=99)
    assert np.array_equal(repeated.p_value, scores.p_value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rows": 4}, "expected at least 16 rows"),
        ({"rows": 17}, "an even number"),
        ({"rounds": 0}, "at least one round"),
        ({"least": 0.0}, "a share above 0"),
        ({"length": 4}, "expected 3 to 3"),
        ({"length": 1}, "expected 3 to 3"),
        ({"tokens": [0, 99]}, "ids of the vocabulary"),
        ({"tokens": []}, "at least one"),
    ],
)
def test_bad_input_is_one_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        attention.score_heads(wired(), **arguments)


def test_bad_input_of_the_verification_is_one_sentence() -> None:
    scores = attention.score_heads(wired(), rows=16, rounds=99)
    with pytest.raises(ValueError, match="drew the sequences"):
        attention.verify_heads(wired(), scores, seed=0)
    with pytest.raises(ValueError, match="there is no score 'inductive'"):
        attention.verify_heads(wired(), scores, name="inductive")
    with pytest.raises(ValueError, match="at least one random set"):
        attention.verify_heads(wired(), scores, n_random=0)


def test_no_warning_where_a_model_is_unable(recwarn: pytest.WarningsRecorder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attention.score_heads(families.bridge("mistral"), rows=16, rounds=9).summary()
