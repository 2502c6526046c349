"""Batched measurements and token gradients, against independent computations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization.text import candidates, token_gradients
from tests import families
from workbench.core.engine import running, units

Tensor = torch.Tensor
LENGTH, D_MODEL = 6, families.D_MODEL


def target_of(
    model: TransformerBridge,
    unit: str,
    *,
    prefix: tuple[int, ...] = (),
    sign: int = 1,
    before: str | None = None,
) -> candidates.Target:
    return candidates.Target(*units.family_of(model, unit), sign, prefix, before)


def some_texts(model: TransformerBridge, n: int = 7, least: int = 0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(least, model.cfg.d_vocab, size=(n, LENGTH))


def one_at_a_time(
    model: TransformerBridge, target: candidates.Target, text: np.ndarray
) -> tuple[float, float]:
    """Activation and cross-entropy of one text in a plain run, by their definitions."""
    ids = torch.tensor([[*target.prefix, *text.tolist()]])
    name = target.family.hook
    with torch.no_grad():
        _, cache = model.run_with_cache(ids, names_filter=[name])
        logits = model(ids)[0].double()
    family = target.family
    if family.kind == "head":
        written = (
            cache[name][0, -1, target.index] @ model.blocks[family.layer].attn.W_O[target.index]
        )
        activation = written.detach().norm().item()
    else:
        activation = float(cache[name][0, -1, target.index])
    losses = [
        float(logits[place - 1].logsumexp(0) - logits[place - 1, ids[0, place]])
        for place in range(max(len(target.prefix), 1), ids.shape[1])
    ]
    return activation, float(np.mean(losses))


@pytest.mark.parametrize("unit", ["neuron 1.5", "head 0.2", "resid_post 1.3", "attn_out 0.0"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", families.NATIVE])
@pytest.mark.parametrize("megabytes", [0.02, 1024.0])
def test_a_batch_is_its_texts_one_at_a_time(name: str, unit: str, megabytes: float) -> None:
    model = families.bridge(name)
    target = target_of(model, unit, prefix=(6,) if name == families.NATIVE else ())
    texts = some_texts(model)
    reader = candidates.Reader(model, target, megabytes=megabytes)
    found = reader.measure(texts)
    expected = np.array([one_at_a_time(model, target, text) for text in texts])
    np.testing.assert_allclose(found.activation, expected[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, expected[:, 1], rtol=1e-5, atol=1e-5)
    assert reader.evaluations == len(texts)
    short = reader.measure(texts, fluency=False)
    np.testing.assert_allclose(short.activation, expected[:, 0], rtol=1e-5, atol=1e-5)
    assert np.isnan(short.cross_entropy).all()


@pytest.mark.parametrize("unit", ["neuron 2.13", "head 3.1", "resid_pre 0.4", "mlp_out 1.9"])
def test_the_bundled_model_in_a_batch_is_itself_one_at_a_time(unit: str) -> None:
    model = workbench.load_model("grammar-4l")
    target = target_of(model, unit, prefix=(1,))
    texts = some_texts(model, n=40, least=4)
    found = candidates.Reader(model, target).measure(texts)
    expected = np.array([one_at_a_time(model, target, text) for text in texts])
    np.testing.assert_allclose(found.activation, expected[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.cross_entropy, expected[:, 1], rtol=1e-5, atol=1e-5)


def test_a_silent_neuron_is_climbed_by_what_goes_into_it() -> None:
    model = families.bridge(families.NATIVE)
    before = "blocks.1.mlp.hook_pre"
    target = target_of(model, "neuron 1.6", prefix=(6,), before=before)
    texts = some_texts(model, n=30)
    found = candidates.Reader(model, target).measure(texts)
    ids = torch.from_numpy(np.insert(texts, 0, 6, axis=1))
    goes_in = running.run_and_keep(model, ids, [before])[1][before][:, -1, 6].numpy()
    assert (goes_in < 0).any()
    assert (goes_in > 0).any()
    expected = found.activation + np.minimum(goes_in, 0)
    np.testing.assert_allclose(found.height, expected, atol=1e-6)


def relaxed(
    model: TransformerBridge,
    target: candidates.Target,
    one_hot: Tensor,
    penalties: Tensor,
    *,
    costs: Tensor,
) -> Tensor:
    """The objective of each text as a function of its one-hot rows; embeddings go in from outside.

    The network is called with embedded tokens where it takes them, else the embedding's output is
    replaced: neither is how the gradients under test are computed.
    """
    prefix = len(target.prefix)
    front = torch.nn.functional.one_hot(
        torch.tensor(target.prefix, dtype=torch.long), one_hot.shape[-1]
    )
    rows = torch.cat([front.to(one_hot).expand(len(one_hot), -1, -1), one_hot], dim=1)
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: object = None) -> None:
        kept["unit"] = activation

    named = model.original_model.named_parameters()
    table = next(p for n, p in named if "embed" in n or "wte" in n).detach()
    settings = getattr(model.original_model, "config", None)
    # Gemma's embedding is scaled before it is an input.
    scale = D_MODEL**0.5 if getattr(settings, "model_type", "") == "gemma" else 1.0
    embedded = rows @ table * scale

    def replace(activation: Tensor, hook: object = None) -> Tensor:
        return embedded

    hooks: list[tuple[str, Callable[..., Any]]] = [(target.family.hook, keep)]
    if hasattr(settings, "vocab_size"):
        with model.hooks(fwd_hooks=hooks):
            logits = model.original_model(inputs_embeds=embedded).logits
    else:
        with model.hooks(fwd_hooks=[*hooks, ("embed.hook_out", replace)]):
            logits = model(rows.argmax(-1))
    activation = kept["unit"][:, -1, target.index]
    first = max(prefix, 1)
    said = logits[:, first - 1 : -1].log_softmax(-1)
    entropy = -(said * rows[:, first:]).sum(-1).mean(-1)
    return penalties * entropy - target.sign * activation + (one_hot @ costs).mean(-1)


@pytest.mark.parametrize("unit", ["neuron 1.5", "resid_post 0.3"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", families.NATIVE])
def test_token_gradients_are_those_through_one_hot_rows(name: str, sign: int, unit: str) -> None:
    model = families.bridge(name, torch.float64)
    target = target_of(model, unit, prefix=(6,) if name == families.NATIVE else (), sign=sign)
    texts = some_texts(model, n=3)
    penalties = np.array([0.1, 1.0, 10.0])
    costs = np.random.default_rng(1).uniform(size=model.cfg.d_vocab)
    found = token_gradients.TokenGradients(model, target).of(texts, penalties, costs)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(texts), model.cfg.d_vocab).double()
    one_hot.requires_grad_()
    given = {"costs": torch.from_numpy(costs)}
    total = relaxed(model, target, one_hot, torch.from_numpy(penalties), **given)
    expected = torch.autograd.grad(total.sum(), one_hot)[0]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["gpt2", families.NATIVE])
def test_token_gradients_are_finite_differences(name: str) -> None:
    model = families.bridge(name, torch.float64)
    target = target_of(model, "neuron 1.5", prefix=(6,) if name == families.NATIVE else ())
    texts, penalties = some_texts(model, n=1), np.array([0.7])
    found = token_gradients.TokenGradients(model, target).of(texts, penalties)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(texts), model.cfg.d_vocab).double()
    step = 1e-5
    none = torch.zeros(int(model.cfg.d_vocab), dtype=torch.float64)
    for place in range(LENGTH):
        for token in range(0, int(model.cfg.d_vocab), 3):
            ends: list[float] = []
            for side in (step, -step):
                moved = one_hot.clone()
                moved[0, place, token] += side
                with torch.no_grad():
                    ends.append(
                        float(
                            relaxed(model, target, moved, torch.tensor([0.7]).double(), costs=none)
                        )
                    )
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(found[0, place, token]) == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_without_a_price_the_gradient_is_that_of_the_activation_alone() -> None:
    model = families.bridge("gpt2", torch.float64)
    target = target_of(model, "neuron 1.5")
    texts = some_texts(model, n=2)
    gradients = token_gradients.TokenGradients(model, target)
    alone = gradients.of(texts, np.zeros(2))
    each = [gradients.of(texts, np.full(2, price)) for price in (1.0, 2.0)]
    torch.testing.assert_close(alone, 2 * each[0] - each[1])


def test_what_is_not_finite_is_named() -> None:
    model = families.build(families.NATIVE)
    plain = dict(model.original_model.named_parameters())
    name = next(name for name in plain if "layers.1" in name and "fc_in" in name and "bias" in name)
    with torch.no_grad():
        plain[name][5] = float("nan")
    reader = candidates.Reader(model, target_of(model, "neuron 1.5", prefix=(6,)))
    with pytest.raises(
        ValueError, match=r"activation of neuron 1\.5 is not finite for 7 of 7 texts"
    ):
        reader.measure(some_texts(model))
