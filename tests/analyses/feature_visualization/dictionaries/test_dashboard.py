"""Dashboards of latents whose words are planted, and every number against brute force."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import dictionaries, examples
from analyses.feature_visualization.dictionaries import dashboard
from workbench.core import results
from workbench.core.planted import known_units, word_level
from workbench.core.prompts.corpus import Corpus

HOOK = "blocks.0.hook_resid_pre"
DOG, ELK = known_units.DOG, known_units.ELK
# What each latent is: "dog", "dog" or "elk", nothing, every word that is not "dog", "elk".
ONLY_DOG, EITHER, DEAD, DENSE, ONLY_ELK = range(5)
ROWS = 120


class Dictionary:
    def __init__(self, decoder: torch.Tensor, bias: torch.Tensor) -> None:
        self.W_dec, self._bias = decoder, bias

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_dec.T + self._bias).relu()


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    """Its stream holds each word, and each position, by itself."""
    return known_units.detectors()


@pytest.fixture(scope="module")
def corpus(model: TransformerBridge) -> Corpus:
    tokens = np.random.default_rng(0).integers(0, len(word_level.WORDS), (ROWS, 4))
    return Corpus.from_tokens(model, tokens)


@pytest.fixture(scope="module")
def dictionary(model: TransformerBridge) -> Dictionary:
    decoder = torch.zeros(5, int(model.cfg.d_model))
    decoder[ONLY_DOG, DOG] = 2
    decoder[EITHER, [DOG, ELK]] = 1
    decoder[DEAD, -1] = 0.1
    decoder[DENSE, DOG] = -1
    decoder[ONLY_ELK, ELK] = 1
    return Dictionary(decoder, torch.tensor([0.0, 0.0, -5.0, 0.5, 0.0]))


@pytest.fixture(scope="module")
def scanned(
    model: TransformerBridge, corpus: Corpus, dictionary: Dictionary
) -> examples.TopExamples:
    return examples.top_examples(
        model, corpus, "resid_pre", layers=[0], k=100, sample=480, dictionary=dictionary
    )


@pytest.fixture(scope="module")
def values(model: TransformerBridge, corpus: Corpus, dictionary: Dictionary) -> np.ndarray:
    """Every latent at every token, by the model's own cache."""
    tokens = torch.stack([torch.from_numpy(corpus.row(i)) for i in range(ROWS)])
    _, cache = model.run_with_cache(tokens, names_filter=[HOOK])
    return dictionary.encode(cache[HOOK]).flatten(0, 1).detach().double().numpy()


def shown(model: Any, corpus: Any, dictionary: Any, latent: int, **more: Any) -> Any:
    return dashboard.latent_dashboard(model, corpus, dictionary, latent, at=HOOK, **more)


def test_the_overview_by_brute_force(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Dictionary,
    scanned: examples.TopExamples,
    values: np.ndarray,
    tmp_path: Path,
) -> None:
    found = dashboard.latent_overview(
        model, corpus, dictionary, scanned=scanned, at=HOOK, dense_above=0.5
    )
    on = values > 0
    np.testing.assert_allclose(found.density, on.mean(0))
    np.testing.assert_allclose(found.largest, values.max(0), atol=1e-6)
    alive = [ONLY_DOG, EITHER, DENSE, ONLY_ELK]
    means = [values[on[:, i], i].mean() for i in alive]
    np.testing.assert_allclose(found.when_active[alive], means, rtol=1e-6)
    assert np.isnan(found.when_active[DEAD])
    assert list(np.flatnonzero(found.dead)) == [DEAD]
    assert list(np.flatnonzero(found.dense)) == [DENSE]
    said = found.summary()
    assert "1 (20.0%) are dead (active at none of the tokens" in said
    assert "1 (20.0%) are dense (above 50%)" in said
    again = results.Result.load(found.save(tmp_path / "overview"))
    assert again.summary() == said and again.to_frame().equals(found.to_frame())
    histogram: Any = found.figure().data[0]
    np.testing.assert_allclose(np.sort(10.0**histogram.x), np.sort(on.mean(0)[alive]))
    # Up to a higher bound, rarer ones are dead, too.
    more = dashboard.latent_overview(
        model, corpus, dictionary, scanned=scanned, at=HOOK, dead_up_to=0.25, dense_above=0.5
    )
    assert list(np.flatnonzero(more.dead)) == [ONLY_DOG, DEAD, ONLY_ELK]


def test_a_latent_shows_its_word(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Dictionary,
    scanned: examples.TopExamples,
) -> None:
    found = shown(model, corpus, dictionary, ONLY_DOG, scanned=scanned, dense_above=0.5)
    assert found.status == "sparse" and found.largest == 2
    at_top = [one for one in found.view.examples if one.kind == "largest"]
    n_dog = int((np.concatenate([corpus.row(i) for i in range(ROWS)]) == DOG).sum())
    # It is active at less tokens than are kept: the others are no examples.
    assert n_dog < 100 and len(at_top) == n_dog
    assert {one.tokens[one.spot] for one in at_top} == {"dog"}
    single = [one for one in found.view.triggers if len(one.text) == 1]
    assert [one.text for one in single] == [("dog",)] and single[0].count == n_dog
    assert found.view.density == pytest.approx(n_dog / (4 * ROWS))
    summary = found.summary()
    assert "Latent 0 is sparse" in summary and f"'dog' ({n_dog} of {n_dog}" in summary
    assert len(found.figure().data) == 3


def test_neighbours_by_direction_and_by_co_activation(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Dictionary,
    scanned: examples.TopExamples,
    values: np.ndarray,
) -> None:
    found = shown(model, corpus, dictionary, ONLY_DOG, scanned=scanned)
    near = found.near
    # The scan has sampled all tokens.
    assert near.n_tokens == len(values) == 480
    alive = np.array([ONLY_DOG, EITHER, DENSE, ONLY_ELK])
    expected = np.corrcoef(values[:, alive].T)[0]
    np.testing.assert_allclose(near.correlation[alive], expected, atol=1e-5)
    assert np.isnan(near.correlation[DEAD])
    on = values > 0
    np.testing.assert_allclose(near.together, on[on[:, ONLY_DOG]].mean(0))
    assert found.n_active == on[:, ONLY_DOG].sum()
    assert list(found.co_active()) == [EITHER]
    assert 0 < found.together_by_chance < expected[1]
    np.testing.assert_allclose(near.cosine, [1, 0.5**0.5, 0, -1, 0], atol=1e-6)
    assert near.nearest()[0] == EITHER
    # What the functions say that it is made of.
    alone = dictionaries.neighbours(dictionary, ONLY_DOG)
    np.testing.assert_array_equal(near.p_value, alone.p_value)
    whole = dictionaries.neighbours(dictionary, ONLY_DOG, model=model, corpus=corpus, at=HOOK)
    np.testing.assert_allclose(near.correlation[alive], whole.correlation[alive], atol=1e-5)
    assert "1 of these are correlated beyond shuffled tokens" in found.summary()


def test_dead_and_dense_latents_say_so(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Dictionary,
    scanned: examples.TopExamples,
) -> None:
    dead = shown(model, corpus, dictionary, DEAD, scanned=scanned)
    assert dead.status == "dead" and not dead.view.triggers and dead.n_active == 0
    assert "there are no examples" in dead.summary()
    assert not dead.co_active().size and np.isnan(dead.near.correlation).all()
    assert len(dead.figure().data) == 3
    dense = shown(model, corpus, dictionary, DENSE, scanned=scanned)
    assert dense.status == "dense" and "Latent 3 is dense" in dense.summary()


def test_what_it_becomes_in_a_larger_dictionary(model: TransformerBridge, corpus: Corpus) -> None:
    width = int(model.cfg.d_model)

    def drawn(count: int, seed: int) -> torch.Tensor:
        return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))

    small = Dictionary(drawn(8, 0), torch.zeros(8))
    directions, across = drawn(30, 1), 0.4 * drawn(1, 2)[0]
    # Latent 2 became two, on either side of it.
    directions[4], directions[9] = small.W_dec[2] + across, small.W_dec[2] - across
    larger = Dictionary(directions, torch.zeros(30))
    scanned = examples.top_examples(model, corpus, "resid_pre", layers=[0], dictionary=small)
    found = shown(model, corpus, small, 2, scanned=scanned, larger=larger)
    (split,) = found.split
    whole = dictionaries.splitting(small, larger)
    assert set(split.nearest[:2]) == {4, 9} and split.nearest == tuple(whole.nearest[2])
    assert split.explained == pytest.approx(1)
    assert split.children == whole.children[2] == 2
    assert split.p_value == whole.p_value[2] <= 0.05
    assert "In the larger dictionary the nearest latents are" in found.summary()
    # One that was made before is taken as it is.
    given = shown(model, corpus, small, 2, scanned=scanned, larger=whole)
    assert given.split == found.split
    with pytest.raises(ValueError, match="the splitting is of another dictionary"):
        shown(model, corpus, larger, 2, larger=whole)


def test_it_is_saved_shown_and_the_same_each_time(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Dictionary,
    scanned: examples.TopExamples,
    tmp_path: Path,
) -> None:
    found = shown(model, corpus, dictionary, EITHER, scanned=scanned, larger=dictionary)
    again = results.Result.load(found.save(tmp_path / "latent"))
    assert isinstance(again, dashboard.LatentDashboard)
    assert again.summary() == found.summary() and again.split == found.split
    frame = again.to_frame()
    assert frame.equals(found.to_frame())
    assert frame.equals(
        shown(model, corpus, dictionary, EITHER, scanned=scanned, larger=dictionary).to_frame()
    )
    parts = {"density", "activation", "promotes", "suppresses", "trigger"}
    parts |= {"nearest direction", "active together", "splits into"}
    assert set(frame["part"]) == parts


def test_without_a_scan_one_is_made(
    model: TransformerBridge, corpus: Corpus, dictionary: Dictionary
) -> None:
    said: list[float] = []
    found = shown(model, corpus, dictionary, ONLY_ELK, progress=lambda f, _: said.append(f))
    assert said == sorted(said) and said[-1] <= 1
    assert {one.text for one in found.view.triggers if len(one.text) == 1} == {("elk",)}


def test_input_that_does_not_fit(
    model: TransformerBridge,
    corpus: Corpus,
    dictionary: Dictionary,
    scanned: examples.TopExamples,
) -> None:
    def refused(message: str, **changes: Any) -> None:
        given: dict[str, Any] = {"corpus": corpus, "dictionary": dictionary, "latent": 0}
        given |= {"scanned": scanned, "at": HOOK} | changes
        with pytest.raises(ValueError, match=message):
            dashboard.latent_dashboard(model, **given)

    refused("the dictionary has latents 0 to 4, not 5", latent=5)
    refused("expected shares of the tokens from 0 to 1", dead_up_to=0.2, dense_above=0.1)
    refused("is not the corpus that was scanned", corpus=corpus.take(range(50)))
    other = Dictionary(dictionary.W_dec + 1, torch.zeros(5))
    refused("the scan is none of this dictionary", dictionary=other)
    refused("the scan is none of this dictionary", at="blocks.0.hook_resid_post")
    refused("does not say at which hook point it reads", at=None)
    bare = examples.top_examples(
        model, corpus, "resid_pre", layers=[0], sample=0, dictionary=dictionary
    )
    refused("the scan holds no sample of tokens", scanned=bare)
    made = dataclasses.replace(scanned.provenance, fingerprint="0" * 64)
    refused("is not the one", scanned=dataclasses.replace(scanned, provenance=made))
