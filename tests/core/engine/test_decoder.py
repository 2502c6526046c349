"""A bridge taken apart: the parts are the model, or there are no parts."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from tests import families
from workbench.core.engine import decoder, running, sites
from workbench.core.planted import unplanted, word_level

EXACT = 1e-5
TOKENS = torch.tensor([[1, 2, 3, 4, 1], [5, 4, 3, 2, 2]])


@pytest.mark.parametrize("name", (*families.CONFIGS, families.NATIVE))
def test_every_activation_is_the_bridges(name: str) -> None:
    model = families.bridge(name)
    parts = decoder.taken_apart(model, TOKENS)
    with torch.inference_mode():
        made = parts.run(parts.embed(TOKENS), ("pattern", "neuron"))
        logits = parts.logits(made.resid[-1])
    torch.testing.assert_close(logits, running.run(model, TOKENS), atol=EXACT, rtol=EXACT)
    for kind in sites.SITES:
        _, names = sites.resolve(model, kind)
        _, kept = running.run_and_keep(model, TOKENS, names)
        for layer, hook in enumerate(names):
            if kind in ("resid_pre", "resid_post"):
                mine = made.resid[layer + (kind == "resid_post")]
            else:
                mine = getattr(made, kind)[layer]
            torch.testing.assert_close(mine, kept[hook], atol=EXACT, rtol=EXACT, msg=kind)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", families.NATIVE])
def test_some_tokens_logits_are_those_of_the_whole_vocabulary(name: str) -> None:
    model = families.bridge(name)
    parts = decoder.taken_apart(model, TOKENS)
    some = torch.tensor([1, 4, 2])
    with torch.inference_mode():
        stream = parts.run(parts.embed(TOKENS)).resid[-1][:, -1]
        whole, few = parts.logits(stream), parts.logits(stream, some)
    torch.testing.assert_close(few, whole[:, some], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama", families.NATIVE])
def test_head_outputs_and_a_bias_make_what_attention_adds(name: str) -> None:
    model = families.bridge(name)
    parts = decoder.taken_apart(model, TOKENS)
    with torch.inference_mode():
        made = parts.run(parts.embed(TOKENS))
        for layer, block in enumerate(parts.layers):
            left = made.attn_out[layer] - block.head_outputs(made.z[layer]).sum(-2)
            torch.testing.assert_close(left, left[:1, :1].expand_as(left), atol=EXACT, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", families.NATIVE])
def test_each_head_may_read_a_stream_of_its_own(name: str) -> None:
    block = decoder.taken_apart(families.bridge(name), TOKENS).layers[1]
    generator = torch.Generator().manual_seed(1)
    with torch.inference_mode():
        for kind in ("q", "k", "v"):
            whole = block.project(kind, torch.zeros(1, families.D_MODEL))
            streams = torch.randn(3, whole.shape[1], families.D_MODEL, generator=generator)
            found = block.project_per_head(kind, streams)
            for part in range(whole.shape[1]):
                expected = block.project(kind, streams[:, part])[:, part]
                torch.testing.assert_close(found[:, part], expected, atol=EXACT, rtol=0)


class TestRefusals:
    def test_other_position_schemes(self) -> None:
        config = transformers.BloomConfig(vocab_size=16, hidden_size=16, n_layer=2, n_head=4)
        model = TransformerBridge.boot_transformers(
            "bloom",
            hf_model=transformers.BloomForCausalLM(config).eval(),
            tokenizer=word_level.word_tokenizer(word_level.WORDS, bos=False),
        ).eval()
        with pytest.raises(decoder.NotTakenApart, match="differs by|built differently"):
            decoder.taken_apart(model, TOKENS)

    def test_coarse_numbers(self) -> None:
        model = unplanted.randomised(dtype=torch.bfloat16)
        with pytest.raises(decoder.NotTakenApart, match="bfloat16 numbers are too coarse"):
            decoder.taken_apart(model, TOKENS)

    def test_hooks_of_somebody_else(self) -> None:
        model = unplanted.randomised()
        decoder.taken_apart(model, TOKENS)
        model.add_hook("blocks.0.hook_mlp_out", lambda value, hook: value)
        with pytest.raises(
            decoder.NotTakenApart, match=r"somebody's hooks are on it \(.*blocks.0.hook_mlp_out\)"
        ):
            decoder.taken_apart(model, TOKENS)
        model.reset_hooks()
        decoder.taken_apart(model, TOKENS)

    def test_a_block_that_does_something_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = unplanted.randomised()
        inner: Any = model.blocks[1].mlp.original_component
        plain = type(inner).forward
        # It looks at its neighbours, which no MLP does.
        monkeypatch.setattr(
            inner, "forward", lambda x: plain(inner, x) + 0.1 * x.roll(1, dims=1), raising=False
        )
        with pytest.raises(decoder.NotTakenApart, match="layer 1 differs by"):
            decoder.taken_apart(model, TOKENS)


class TestRemembering:
    def test_a_proof_is_made_once_for_a_length(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = unplanted.randomised()
        first = decoder.taken_apart(model, TOKENS)
        assert decoder.taken_apart(model, TOKENS.flip(0)) is first
        assert decoder.taken_apart(model, TOKENS[:, :3]) is not first

    def test_other_weights_are_the_parts_weights(self) -> None:
        model = unplanted.randomised()
        first = decoder.taken_apart(model, TOKENS)
        with torch.no_grad():
            for parameter in model.original_model.parameters():
                parameter.mul_(0.9)
        parts = decoder.taken_apart(model, TOKENS)
        assert parts is first
        with torch.inference_mode():
            logits = parts.logits(parts.run(parts.embed(TOKENS)).resid[-1])
        torch.testing.assert_close(logits, running.run(model, TOKENS), atol=EXACT, rtol=EXACT)

    def test_another_module_is_another_model(self) -> None:
        model = unplanted.randomised()
        first = decoder.taken_apart(model, TOKENS)
        inner: Any = model.blocks[0].mlp.original_component
        inner.extra = torch.nn.Identity()
        assert decoder.taken_apart(model, TOKENS) is not first

    def test_a_model_that_goes_is_forgotten(self) -> None:
        model = unplanted.randomised()
        parts = decoder.taken_apart(model, TOKENS)
        alive = weakref.ref(model)
        del model
        gc.collect()
        assert alive() is None
        with pytest.raises(ReferenceError, match="is gone"):
            parts.embed(TOKENS)
