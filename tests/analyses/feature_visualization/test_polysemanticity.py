"""Separated groups: planted units of one and of two things, known Gaussians, wrong input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import grouping, polysemanticity
from workbench.core import results
from workbench.core.engine import running, scan, units
from workbench.core.planted import known_units, two_steps, word_level
from workbench.core.prompts.corpus import Corpus

FEW: dict[str, Any] = {"draws": 19, "resamples": 10}


@pytest.fixture(scope="module")
def planted() -> TransformerBridge:
    """The detectors, with neuron 3 firing at "dog" and at "elk" alike."""
    model = known_units.detectors()
    weight = parameter(model, "layers.0.mlp.fc_in.weight")
    with torch.no_grad():
        weight[3, [known_units.DOG, known_units.ELK]] = 1
    return model


@pytest.fixture(scope="module")
def tokens(planted: TransformerBridge) -> Corpus:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(word_level.WORDS), (150, two_steps.N_CTX))
    return Corpus.from_tokens(planted, rows)


@pytest.fixture(scope="module")
def both(planted: TransformerBridge, tokens: Corpus) -> polysemanticity.SeparatedGroups:
    return polysemanticity.separated_groups(planted, tokens, "neuron 0.3", k=120, **FEW)


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    """The real model, with neurons 0.7 to 0.9 planted: least-squares detectors of words."""
    model = workbench.load_model("grammar-4l")
    documents = Corpus.bundled(model, documents=300)
    inputs, seen = mlp_inputs(model, documents)
    mean = inputs.mean(0)
    spread = torch.cov(inputs.T.double()) + 1e-3 * torch.eye(inputs.shape[1]).double()
    weight, bias = (parameter(model, f"layers.0.mlp.fc_in.{name}") for name in ("weight", "bias"))
    for neuron, words in ((7, ["the"]), (8, ["the", "."]), (9, ["."])):
        here = torch.isin(seen, torch.tensor(model.tokenizer.convert_tokens_to_ids(words)))
        said = here.double()
        off = (inputs - mean).double()
        found = torch.linalg.solve(spread, (off * (said - said.mean())[:, None]).mean(0))
        scale = 5 / (off @ found)[here].mean()
        with torch.no_grad():
            weight[neuron] = (scale * found).float()
            bias[neuron] = -float(scale * (found @ mean.double())) - 2
    return model


@pytest.fixture(scope="module")
def documents(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=300, seed=5)


def parameter(model: TransformerBridge, name: str) -> torch.nn.Parameter:
    named = model.original_model.named_parameters()
    return {one.replace("._original_component", ""): p for one, p in named}[name]


def mlp_inputs(model: TransformerBridge, corpus: Corpus) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, seen = list[torch.Tensor](), list[torch.Tensor]()
    for chunk in corpus.chunks():
        _, kept = running.run_and_keep(model, chunk.tokens, ["blocks.0.mlp.hook_in"])
        inputs.append(kept["blocks.0.mlp.hook_in"][chunk.counted])
        seen.append(chunk.tokens[chunk.counted])
    return torch.cat(inputs), torch.cat(seen)


def gaussians(count: int, seed: int, *, places: int = 120, width: int = 30) -> np.ndarray:
    """Directions that are far apart, with noise as long as they are; labels come in turn."""
    rng = np.random.default_rng(seed)
    means = np.linalg.qr(rng.normal(size=(width, width)))[0][:count]
    return means[np.arange(places) % count] + rng.normal(size=(places, width)) / np.sqrt(2 * width)


class TestPlanted:
    def test_a_unit_of_one_token_is_one_group_wherever_it_stands(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = polysemanticity.separated_groups(planted, tokens, "neuron 0.0", k=80, **FEW)
        assert (found.number, found.interval) == (1, (1, 1))
        assert len(set(found.positions.tolist())) == two_steps.N_CTX
        assert (found.groups[0].size, found.groups[0].mean_activation) == (80, 1)
        assert [(one.text, one.share) for one in found.groups[0].tokens] == [("dog", 1)]
        assert math.isnan(found.groups[0].tokens[0].elsewhere)
        assert "one group among 80 places" in found.summary()
        assert "The unit reads the same at all of them" in found.summary()

    def test_without_its_weights_what_it_does_not_read_makes_groups(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = polysemanticity.separated_groups(
            planted, tokens, "neuron 0.0", k=80, weighted=False, **FEW
        )
        # One a position: "dog" is half of the input only.
        assert found.number >= two_steps.N_CTX - 1
        assert {one.tokens[0].text for one in found.groups} == {"dog"}

    def test_a_unit_of_two_tokens_is_two_groups_with_exactly_these_members(
        self, tokens: Corpus, both: polysemanticity.SeparatedGroups
    ) -> None:
        assert (both.number, both.interval) == (2, (2, 2))
        assert both.grouping.p_value == 1 / 20
        assert both.grouping.silhouette == pytest.approx(1)
        assert (both.grouping.agreement == 1).all()
        at = tokens.at(both.rows, both.positions)
        members = {frozenset(at[both.grouping.labels == label].tolist()) for label in (0, 1)}
        assert members == {
            frozenset({known_units.DOG}),
            frozenset({known_units.ELK}),
        }
        assert sum(one.size for one in both.groups) == 120
        for one in both.groups:
            assert (one.tokens[0].share, one.tokens[0].elsewhere) == (1, 0)
            assert one.tokens[0].lift == math.inf
            assert f"⟦{one.tokens[0].text}⟧" in one.examples[0]

    def test_a_direction_and_a_head_read_the_stream(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        given = torch.zeros(1, planted.cfg.d_model)
        given[0, known_units.DOG] = 1
        found = polysemanticity.separated_groups(
            planted, tokens, "resid_pre 0.0", k=40, directions=given, **FEW
        )
        assert found.unit == "direction 0.0"
        assert found.reads == "the residual stream at the start of layer 0"
        assert (tokens.at(found.rows, found.positions) == known_units.DOG).all()
        head = polysemanticity.separated_groups(planted, tokens, "head 0.0", k=40, **FEW)
        assert head.activations[0] > 0


class TestRealModel:
    def test_one_word_is_one_group_in_all_its_contexts(
        self, grammar: TransformerBridge, documents: Corpus
    ) -> None:
        for unit, word in (("neuron 0.7", "the"), ("neuron 0.9", ".")):
            found = polysemanticity.separated_groups(grammar, documents, unit, k=100, **FEW)
            assert found.number == 1
            assert found.groups[0].tokens[0].text == word
            assert len({one.text for one in found.groups[0].before}) > 1

    def test_two_words_are_two_groups(self, grammar: TransformerBridge, documents: Corpus) -> None:
        found = polysemanticity.separated_groups(grammar, documents, "neuron 0.8", k=150, **FEW)
        assert (found.number, found.interval) == (2, (2, 2))
        at = documents.at(found.rows, found.positions)
        texts = np.array([grammar.tokenizer.decode([one]) for one in at])
        for label, one in enumerate(found.groups):
            assert set(texts[found.grouping.labels == label]) == {one.tokens[0].text}
        assert {one.tokens[0].text for one in found.groups} == {"the", "."}

    def test_places_and_what_is_read_are_the_models_own(
        self, grammar: TransformerBridge, documents: Corpus
    ) -> None:
        found = polysemanticity.separated_groups(grammar, documents, "neuron 0.31", k=30, **FEW)
        family, _ = units.family_of(grammar, "neuron 0.31")
        every = [table[:, 31].numpy() for _, table in scan.tables(grammar, documents, family)]
        largest = -np.sort(-np.concatenate(every))[:30]
        np.testing.assert_array_equal(found.activations, largest)
        places = documents.firsts[found.rows[:7]] + found.positions[:7]
        said, vectors = polysemanticity._read(grammar, documents, family, 31, places, True)
        assert said == "the input of the MLP of layer 0 times its weights"
        # The parts add up to the pre-activation, of which the activation is the GELU.
        before = vectors.sum(1) + float(parameter(grammar, "layers.0.mlp.fc_in.bias").detach()[31])
        after = torch.nn.functional.gelu(torch.as_tensor(before))
        np.testing.assert_allclose(after, found.activations[:7], rtol=1e-3)

    def test_a_gated_mlp_reads_with_both_of_its_weights(self, stories: Path) -> None:
        model = workbench.load_model(str(stories))
        texts = ["Once upon a time there was a little girl. She had a red ball."] * 3
        texts += ["The dog ran to the tree. The cat saw the dog and it was happy."] * 3
        corpus = Corpus.from_texts(model, texts)
        found = polysemanticity.separated_groups(
            model, corpus, "neuron 2.3", least=0.0, k=40, **FEW
        )
        assert found.number >= 1
        family, _ = units.family_of(model, "neuron 2.3")
        places = corpus.firsts[found.rows] + found.positions
        _, parts = polysemanticity._read(model, corpus, family, 3, places, True)
        opens, says = np.split(parts.astype(np.float64), 2, axis=1)
        gate = opens.sum(1)
        np.testing.assert_allclose(
            gate / (1 + np.exp(-gate)) * says.sum(1), found.activations, rtol=1e-3, atol=1e-5
        )


class TestGroups:
    @pytest.mark.parametrize("count", [2, 3, 4])
    def test_known_groups_are_counted_and_told_apart(self, count: int) -> None:
        for seed in range(2):
            found = grouping.group(gaussians(count, seed), seed=seed, **FEW)
            assert found.number == count
            truth = np.arange(120) % count
            assert metrics.adjusted_rand_score(found.labels, truth) > 0.95
            assert found.agreement.mean() > 0.9
            assert np.median(found.numbers) == count

    def test_one_group_is_one_as_often_as_the_null_says(self) -> None:
        wrong = 0
        for seed in range(10):
            rng = np.random.default_rng(seed)
            # As long as they are apart in any direction, some places share little with others.
            spread = np.exp(rng.normal(size=10))
            vectors = rng.normal(size=(40, 10)) * spread
            found = grouping.group(vectors, seed=seed, draws=19, resamples=1)
            wrong += found.number > 1
        # One of 20 is expected to be wrong; four of ten would be an accident of one in 900.
        assert wrong < 4

    def test_outliers_are_set_aside_and_are_no_group(self) -> None:
        vectors = gaussians(2, 0)
        vectors[:3] = -5 * vectors[[4, 5, 6]] + np.eye(30)[20:23] * 9
        found = grouping.group(vectors, **FEW)
        assert found.number == 2
        assert (found.labels[:3] == -1).all()

    def test_equal_inputs_and_seed_give_equal_bits(self) -> None:
        first, second, other = (
            grouping.group(gaussians(2, 0, places=40), seed=seed, **FEW) for seed in (1, 1, 2)
        )
        assert np.array_equal(first.null, second.null)
        assert np.array_equal(first.agreement, second.agreement)
        assert not np.array_equal(first.null, other.null)


class TestResult:
    def test_it_comes_back_and_speaks(
        self, both: polysemanticity.SeparatedGroups, tmp_path: Path
    ) -> None:
        both.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, polysemanticity.SeparatedGroups)
        assert back.summary() == both.summary()
        assert back.groups == both.groups
        assert back.to_frame().equals(both.to_frame())
        assert "2 separated groups among 120 places" in both.summary()
        assert "there are 2 to 2 (95% interval)" in both.summary()
        assert "(p = 0.05)" in both.summary()
        assert "'dog' (100%, elsewhere 0%)" in both.summary()
        figure: Any = back.figure()
        assert [len(one.x) for one in figure.data] == [one.size for one in both.groups]
        assert "⟦" in figure.data[0].customdata[0]


class TestWrongInput:
    def test_units_with_too_few_places(self, planted: TransformerBridge, tokens: Corpus) -> None:
        with pytest.raises(ValueError, match="neuron 1.0 is never above zero"):
            polysemanticity.separated_groups(planted, tokens, "neuron 1.0")
        with pytest.raises(ValueError, match=r"at \d of 40 tokens: at least 10 such places"):
            polysemanticity.separated_groups(planted, tokens.take(range(10)), "neuron 0.2")
        with pytest.raises(ValueError, match="layers 0 to 1, not 5"):
            polysemanticity.separated_groups(planted, tokens, "neuron 5.0")

    def test_limits_that_make_no_sense(self, planted: TransformerBridge, tokens: Corpus) -> None:
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"k": 3}, "3 places; at least 10"),
            ({"most": 1}, "most = 1"),
            ({"smallest": 0.5}, "smallest = 0.5"),
            ({"least": 1.0}, "least = 1.0"),
            ({"draws": 5}, "at least 19 draws"),
            ({"resamples": 0}, "at least one resample"),
            ({"confidence": 0.0}, "confidence = 0.0"),
        )
        for wrong, message in cases:
            with pytest.raises(ValueError, match=message):
                polysemanticity.separated_groups(planted, tokens, "neuron 0.0", **wrong)

    def test_whoever_watches_may_stop_it(self, planted: TransformerBridge, tokens: Corpus) -> None:
        told: list[float] = []

        def stop(fraction: float, note: str) -> None:
            del note
            told.append(fraction)
            if fraction > 0.6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            polysemanticity.separated_groups(planted, tokens, "neuron 0.3", progress=stop)
        assert told == sorted(told)
