"""Patterns: TransformerLens' own, and value-weighted ones by a naive loop."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import attention
from tests import families
from workbench.core.engine import decoder

CLOSE = 1e-5
IDS = (0, 3, 1, 5, 2, 3, 4, 1)
NAMES = [*families.CONFIGS, families.NATIVE]


@functools.cache
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


def cached(model: TransformerBridge, ids: tuple[int, ...]) -> Any:
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([ids]))[1]


@pytest.mark.parametrize("name", NAMES)
def test_patterns_are_those_of_the_cache_and_weights_those_of_a_loop(name: str) -> None:
    model = families.bridge(name)
    seen, cache = attention.look(model, IDS), cached(model, IDS)
    parts = decoder.taken_apart(model, torch.tensor([IDS]))
    heads, groups = model.cfg.n_heads, model.cfg.n_key_value_heads or model.cfg.n_heads
    for layer in range(model.cfg.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        assert np.abs(seen.pattern[layer] - pattern.numpy()).max() < CLOSE
        value = cache[f"blocks.{layer}.attn.hook_v"][0]
        written, _ = parts.layers[layer].attn_weights()
        for head in range(heads):
            one = attention.one_head(model, IDS, layer=layer, head=head)
            assert np.array_equal(one.pattern, seen.pattern[layer, head])
            for key in range(len(IDS)):
                own = value[key, head * groups // heads] @ written[head].detach()
                assert one.value_norm[key] == pytest.approx(float(own.norm()), rel=CLOSE)
            assert np.abs(one.weighted - seen.weighted[layer, head]).max() < CLOSE
            assert np.abs(one.weighted_share.sum(-1) - 1).max() < CLOSE


def test_a_query_that_sees_a_window_has_its_entropy_relative_to_the_window() -> None:
    model = families.bridge("mistral")
    one = attention.one_head(model, IDS, layer=0, head=1)
    pattern = cached(model, IDS)["blocks.0.attn.hook_pattern"][0, 1].double().numpy()
    for query in range(1, len(IDS)):
        seen = pattern[query][max(0, query - 2) : query + 1]
        expected = -(seen * np.log(seen)).sum() / np.log(len(seen))
        assert one.entropy[query] == pytest.approx(expected, abs=CLOSE)
    assert one.entropy[0] == 0


def test_only_the_layers_that_are_asked_for() -> None:
    whole = attention.look(grammar(), "When Mary and John went to the store")
    part = attention.look(grammar(), "When Mary and John went to the store", layers=[2, 0])
    assert part.layers == (2, 0)
    assert np.array_equal(part.pattern, whole.pattern[[2, 0]])
    assert np.array_equal(part.entropy, whole.entropy[[2, 0]])
    assert "2.2" in part.summary()


def test_a_long_prompt_is_shown_by_the_largest_of_each_block() -> None:
    ids = [1, *range(10, 60)]
    whole = attention.look(grammar(), ids, size=64)
    small = attention.look(grammar(), ids, size=20)
    assert (whole.pooled, small.pooled) == (1, 3)
    assert small.pattern.shape == (4, 4, 17, 17)
    for row, column in np.ndindex(17, 17):
        block = whole.pattern[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert np.array_equal(small.pattern[:, :, row, column], block.max((-1, -2)))
    assert np.allclose(small.entropy, whole.entropy)


def test_the_figure_of_a_long_prompt_has_at_most_96_rows_and_windows_show_each_position() -> None:
    one = attention.one_head(grammar(), [1, *range(10, 60)], layer=1, head=0)
    n, provenance = 200, one.provenance
    rng = np.random.default_rng(0)
    pattern = np.tril(rng.random((n, n))).astype(np.float32)
    long = attention.HeadAttention(
        provenance, "", ("<b>",) * n, 1, 0, pattern, np.ones(n, np.float32), np.zeros(n, np.float32)
    )
    figure: Any = long.figure()
    z = np.array(figure.data[0].z, dtype=float)
    assert z.shape == (67, 67)
    assert z[10, 3] == pattern[30:33, 9:12].max()
    assert np.isnan(z[3, 10])
    assert "&lt;b&gt;" in figure.layout.xaxis.ticktext[0]
    window: Any = long.figure("weighted", start=100, stop=110)
    assert np.array_equal(
        np.tril(np.array(window.data[0].z, dtype=float)), np.tril(pattern[100:110, 100:110])
    )
    with pytest.raises(ValueError, match="positions 5 to 300"):
        long.figure(start=5, stop=300)


def test_what_a_position_looks_at_most() -> None:
    one = attention.one_head(grammar(), "When Mary and John went to the store", layer=0, head=2)
    top = one.top(8, n=4)
    assert top["attention"].is_monotonic_decreasing
    assert top["attention"].iloc[0] == one.pattern[8].max()
    assert top["token"].iloc[0] == one.tokens[top["position"].iloc[0]].strip()
    with pytest.raises(ValueError, match="positions 0 to 8, not 9"):
        one.top(9)


def test_one_token_is_no_error() -> None:
    seen = attention.look(grammar(), [1])
    assert seen.pattern.shape == (4, 4, 1, 1)
    assert np.isnan(seen.first).all()
    one = attention.one_head(grammar(), [1], layer=0, head=0)
    assert "one token" in one.summary()
    one.figure()


def test_saving(tmp_path: Path) -> None:
    for number, made in enumerate(
        (
            attention.look(grammar(), "Mary went"),
            attention.one_head(grammar(), "Mary went", layer=1, head=1),
        )
    ):
        again = type(made).load(made.save(tmp_path / str(number)))
        assert again.summary() == made.summary()
        assert again.to_frame().equals(made.to_frame())
        made.figure()


@pytest.mark.real_model
def test_a_pretrained_model_with_a_long_prompt(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    ids = [1, *range(3, 200)]
    seen = attention.look(model, ids)
    pattern = cached(model, tuple(ids))["blocks.3.attn.hook_pattern"][0].numpy()
    step = seen.pooled
    assert seen.pattern.shape[-1] == -(-len(ids) // step) <= 48
    block = pattern[:, 10 * step : 11 * step, :step].max((-1, -2))
    assert np.abs(seen.pattern[3, :, 10, 0] - block).max() < CLOSE


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: attention.look(m, ()), "0 tokens"),
        (lambda m: attention.look(m, "zebra"), "outside the vocabulary"),
        (lambda m: attention.look(m, [1, 2], layers=[4]), "layers 0 to 3, not 4"),
        (lambda m: attention.look(m, [1, 2], layers=[]), "no layer"),
        (lambda m: attention.look(m, [1, 2], size=0), "at least one cell"),
        (lambda m: attention.one_head(m, [1, 2], layer=0, head=7), "heads 0 to 3, not 7"),
        (
            lambda m: attention.one_head(m, [1, 2], layer=0, head=0).figure("loud"),
            "no attention 'loud'",
        ),
    ],
)
def test_bad_input_is_one_sentence(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(grammar())
