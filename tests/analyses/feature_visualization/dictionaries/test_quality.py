"""Quality of a dictionary: against plain hooks, row by row, and where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import dictionaries
from analyses.feature_visualization.dictionaries import quality
from workbench.core import results
from workbench.core.prompts import corpus as corpora


class Dictionary:
    """A dictionary with nothing of sae-lens: ReLU of some random directions."""

    def __init__(self, width: int = 16, latents: int = 24, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.W_dec = torch.randn(latents, width, generator=generator) / 4
        self.W_enc = self.W_dec.T + 0.1 * torch.randn(width, latents, generator=generator)
        self.b_enc = -0.5 + 0.3 * torch.randn(latents, generator=generator)
        # One latent that never fires and one that always does.
        self.b_enc[3], self.b_enc[5] = -1e6, 1e3
        self.W_dec[5] *= 1e-4
        self.b_dec = 0.1 * torch.randn(width, generator=generator)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_enc + self.b_enc).relu()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.W_dec + self.b_dec


class Identity:
    """Keeps everything."""

    W_dec = torch.eye(16)
    b_dec = torch.zeros(16)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Constant(Identity):
    """Says the same at every token."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.value.to(latents).expand_as(latents)


def plain(
    model: TransformerBridge, rows: corpora.Corpus, hook: str, dictionary: Any
) -> dict[str, float]:
    """The same measures with TransformerLens' own hooks, a row at a time, in its own order."""
    every, activations, losses = [], [], {"clean": 0.0, "spliced": 0.0, "mean": 0.0}
    for index in range(len(rows)):
        tokens = torch.from_numpy(rows.row(index).astype(np.int64))[None]
        _, cache = model.run_with_cache(tokens, names_filter=[hook])
        every.append(tokens)
        activations.append(cache[hook].flatten(2)[0][tokens[0] != 2].detach())
    stacked = torch.cat(activations).double()
    mean = stacked.mean(0)
    latents = [dictionary.encode(a) for a in activations]
    made = torch.cat([dictionary.decode(found) for found in latents]).double()
    for tokens in every:
        counted = tokens != 2

        def splice(x: torch.Tensor, hook: Any, counted: torch.Tensor = counted) -> torch.Tensor:
            flat = x.flatten(2)
            new = dictionary.decode(dictionary.encode(flat))
            return torch.where(counted[..., None], new, flat).view(x.shape)

        def ablate(x: torch.Tensor, hook: Any, counted: torch.Tensor = counted) -> torch.Tensor:
            flat = x.flatten(2)
            return torch.where(counted[..., None], mean.float(), flat).view(x.shape)

        every_hook: dict[str, list[Any]] = {
            "clean": [],
            "spliced": [(hook, splice)],
            "mean": [(hook, ablate)],
        }
        for name, hooks in every_hook.items():
            with torch.no_grad():
                logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
            said = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="sum")
            losses[name] += float(said)
    n = sum(tokens.shape[1] - 1 for tokens in every)
    active = (torch.cat(latents) != 0).double()
    return {
        **{name: value / n for name, value in losses.items()},
        "explained": 1 - float((stacked - made).square().sum() / (stacked - mean).square().sum()),
        "l0": float(active.sum(1).mean()),
        "dead": float((active.sum(0) == 0).double().mean()),
        "dense": float((active.mean(0) > 0.1).double().mean()),
        "n": len(stacked),
    }


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_post", "blocks.0.attn.hook_z"])
def test_it_equals_plain_hooks(model: TransformerBridge, rows: corpora.Corpus, hook: str) -> None:
    dictionary = Dictionary()
    expected = plain(model, rows, hook, dictionary)
    found = dictionaries.dictionary_quality(model, rows, dictionary, at=hook, n_resamples=200)
    for name, measure in {
        "clean": found.clean,
        "spliced": found.spliced,
        "mean": found.mean_ablated,
        "explained": found.explained,
        "l0": found.l0,
    }.items():
        assert measure.value == pytest.approx(expected[name], abs=1e-5), name
        assert measure.low <= measure.value <= measure.high
    assert expected["mean"] > expected["clean"], "the model knows something to lose"
    cost = expected["mean"] - expected["clean"]
    recovered = (expected["mean"] - expected["spliced"]) / cost
    assert found.recovered.value == pytest.approx(recovered, rel=1e-4)
    assert found.dead == pytest.approx(expected["dead"]) and found.dead > 0
    assert found.dense == pytest.approx(expected["dense"])
    assert found.frequency[3] == 0 and found.frequency[5] == 1
    assert found.n_tokens == expected["n"]
    # Every token has a number of active latents, and their mean is L0.
    assert found.l0_counts.sum() == found.n_tokens
    assert found.l0_counts @ np.arange(len(found.l0_counts)) / found.n_tokens == pytest.approx(
        found.l0.value
    )


def test_what_keeps_everything_recovers_everything(
    model: TransformerBridge, rows: corpora.Corpus
) -> None:
    found = dictionaries.dictionary_quality(
        model, rows, Identity(), at="blocks.0.hook_resid_post", n_resamples=100
    )
    for measure in (found.recovered, found.explained):
        assert (measure.value, measure.low, measure.high) == (1, 1, 1)
    assert found.spliced == found.clean
    assert found.l0.value == pytest.approx(16)


def test_the_mean_recovers_and_explains_nothing(
    model: TransformerBridge, rows: corpora.Corpus
) -> None:
    hook = "blocks.0.hook_resid_post"
    stream = dictionaries.Stream(
        model, rows, dictionaries.Place("resid_post", 0, hook, 16), batch=1
    )
    count = sum(int((rows.row(i) != 2).sum()) for i in range(len(rows)))
    mean = torch.cat([next(stream) for _ in range(count)]).double().mean(0)
    found = dictionaries.dictionary_quality(model, rows, Constant(mean), at=hook, n_resamples=100)
    assert found.recovered.value == pytest.approx(0, abs=1e-5)
    assert found.explained.value == pytest.approx(0, abs=1e-5)
    assert found.l0.value == 0 and found.dead == 1


def test_where_ablation_costs_nothing_there_is_nothing_to_recover(
    model: TransformerBridge,
) -> None:
    # Tokens that the model did not choose: it is as bad at them with its activations as without.
    rng = np.random.default_rng(0)
    random = corpora.Corpus(
        "random", rng.integers(0, 16, 90).astype(np.int32), np.arange(0, 91, 15)
    )
    found = dictionaries.dictionary_quality(
        model, random, Dictionary(), at="blocks.1.attn.hook_z", n_resamples=200
    )
    assert np.isnan(found.recovered.value) and np.isnan(found.control_recovered.value)
    assert "there is nothing to recover" in found.summary()


def test_the_control_is_the_best_of_so_many_random_directions(
    model: TransformerBridge, rows: corpora.Corpus
) -> None:
    hook = "blocks.0.hook_resid_post"
    found = dictionaries.dictionary_quality(model, rows, Dictionary(), at=hook, n_resamples=100)
    # Its scale is a least-squares fit along one line, so it cannot do worse than the mean.
    assert 0 < found.control_explained.value < 1
    given = torch.tensor([[3.0, 4.0], [1.0, -2.0]])
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    made = quality._along_random(given, axes, torch.tensor([1, 2]))
    # The first uses its larger projection only; the second has but one that is positive.
    torch.testing.assert_close(made, torch.tensor([[0.0, 4.0], [1.0, 0.0]]))
    skewed = torch.tensor([[0.6, 0.8]])
    made = quality._along_random(torch.tensor([[0.0, 2.0]]), skewed, torch.tensor([1]))
    torch.testing.assert_close(made, torch.tensor([[0.96, 1.28]]))
    none = quality._along_random(given, axes, torch.tensor([0, 0]))
    assert not none.any()


def test_a_trained_dictionary_is_better_than_its_control(
    model: TransformerBridge, rows: corpora.Corpus
) -> None:
    made = dictionaries.train_dictionary(
        model, rows, "resid_post", layer=0, latents=48, k=3, steps=400, batch_tokens=128, lr=0.01
    )
    found = dictionaries.dictionary_quality(model, rows, made.dictionary, n_resamples=200)
    assert found.explained.low > found.control_explained.high
    assert found.recovered.value > found.control_recovered.value
    assert found.l0.value <= 3


def test_it_is_saved_and_shown(
    model: TransformerBridge, rows: corpora.Corpus, tmp_path: Any
) -> None:
    hook = "blocks.0.hook_resid_post"
    found = dictionaries.dictionary_quality(model, rows, Dictionary(), at=hook, n_resamples=100)
    again = results.Result.load(found.save(tmp_path / "quality"))
    assert isinstance(again, dictionaries.DictionaryQuality)
    assert again.recovered == found.recovered and again.summary() == found.summary()
    frame = found.to_frame().set_index("measure")
    assert frame.loc["variance explained", "value"] == found.explained.value
    assert frame.loc["cross-entropy recovered", "control"] == found.control_recovered.value
    traces: Any = found.figure().data
    assert len(traces) == 1
    assert f"{found.dead:.1%} of 24 latents are active at no token" in found.summary()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "the dictionary does not say at which hook point it reads"),
        ({"at": "blocks.0.hook_nothing"}, "no site is at hook point"),
        ({"at": "blocks.7.hook_resid_post"}, "the model has layers 0 to 1, not 7"),
        ({"at": "blocks.0.mlp.hook_post"}, "the dictionary reads vectors of 16 numbers, blocks.0"),
        ({"at": "blocks.0.hook_mlp_out", "dense": 2.0}, "dense = 2.0: expected a share"),
        ({"at": "blocks.0.hook_mlp_out", "confidence": 1.0}, "confidence = 1.0"),
    ],
)
def test_input_that_does_not_fit(
    model: TransformerBridge, rows: corpora.Corpus, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dictionaries.dictionary_quality(model, rows, Dictionary(), **more)
