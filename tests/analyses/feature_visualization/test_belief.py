"""Belief: a true description of a planted unit scores 1, of others 0; against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import (
    Belief,
    Pattern,
    TokenSet,
    believe,
    token_means,
)
from workbench.core import results
from workbench.core.planted import known_units
from workbench.core.prompts.corpus import Corpus


@pytest.fixture(scope="module")
def halves(grammar: TransformerBridge) -> tuple[Corpus, Corpus]:
    return Corpus.bundled(grammar, documents=600).split(0.5)


@pytest.fixture(scope="module")
def stops(grammar: TransformerBridge, halves: tuple[Corpus, Corpus]) -> Belief:
    return believe(grammar, halves[1], "neuron 0.31", TokenSet.of(grammar, ["."]))


class TestPlanted:
    def test_the_true_description_scores_one_and_no_other_unit_does(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = believe(planted, tokens, "neuron 0.0", TokenSet((known_units.DOG,), "dog"))
        assert found.correlation == pytest.approx(1, abs=1e-9)
        assert (found.precision, found.recall) == (1, 1)
        assert found.interval == pytest.approx((1, 1), abs=1e-9)
        # Neuron 1 fires by position, neuron 2 at a part of the dogs; the fourth is constant.
        assert len(found.others) == 2
        assert found.p_value == pytest.approx(1 / 3)
        position, part = found.others
        assert abs(position) < 0.1
        assert 0.3 < part < 0.7

    def test_tokens_that_are_shuffled_score_zero(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        other = TokenSet(((known_units.DOG + 1) % 6,), "another animal")
        found = believe(planted, tokens, "neuron 0.1", other)
        assert abs(found.correlation) < 0.1
        assert found.interval[0] < 0 < found.interval[1]

    def test_a_pattern_says_what_a_set_of_tokens_cannot(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        third = r"^\w+ \w+ dog"
        found = believe(planted, tokens, "neuron 0.2", Pattern(third))
        assert found.correlation == pytest.approx(1, abs=1e-9)
        assert (found.precision, found.recall) == (1, 1)
        dogs = believe(planted, tokens, "neuron 0.2", TokenSet.of(planted, ["dog"]))
        assert dogs.correlation < 0.7
        # A quarter of the dogs stand at position 2.
        assert dogs.precision == pytest.approx(0.25, abs=0.05)
        assert dogs.recall == 1

    def test_a_shuffled_unit_scores_by_chance(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        dog = TokenSet.of(planted, ["dog"])
        found = believe(planted, tokens, "neuron 0.2", dog)
        # Correlations of independent numbers have a deviation of one over the root of their count.
        assert len(found.shuffled) == 99
        assert found.shuffled.mean() == pytest.approx(0, abs=0.02)
        assert found.shuffled.std() == pytest.approx(found.n_tokens**-0.5, rel=0.3)
        # A sixth of the tokens are dogs, a quarter of these stand at position 2.
        assert found.predicted == pytest.approx(1 / 6, abs=0.03)
        assert found.fires == pytest.approx(1 / 24, abs=0.02)
        assert found.precision == pytest.approx(found.fires / found.predicted)
        (row,) = found.to_frame().to_dict("records")
        assert row["precision by chance"] == found.fires
        assert row["recall by chance"] == found.predicted
        assert row["largest shuffled"] == found.shuffled.max() < found.correlation
        again, other = (believe(planted, tokens, "neuron 0.2", dog, seed=seed) for seed in (0, 1))
        assert again.shuffled.tolist() == found.shuffled.tolist() != other.shuffled.tolist()

    def test_directions_are_believed_in_as_the_neurons_that_they_are(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        dog = TokenSet.of(planted, ["dog"])
        neuron = believe(planted, tokens, "neuron 0.2", dog)
        axes = torch.eye(4)[[2, 0, 1]] * 3
        found = believe(planted, tokens, "neuron 0.0", dog, directions=axes)
        assert (found.unit, found.correlation) == ("direction 0.0", neuron.correlation)
        assert sorted(found.others) == pytest.approx(sorted(neuron.others))
        assert found.provenance.parameters["site"] == "neuron"
        assert found.provenance.parameters["directions"] == results.mark(axes)

    def test_means_that_are_learned_elsewhere_predict_a_token_detector(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        first, second = tokens.split(0.5)
        learned = token_means(planted, first, "neuron 0.0")
        assert learned.means.tolist() == [float(i == known_units.DOG) for i in range(6)]
        assert believe(planted, second, "neuron 0.0", learned).correlation == pytest.approx(1)


class TestRealModel:
    def test_scores_are_those_of_the_whole_table(
        self, grammar: TransformerBridge, halves: tuple[Corpus, Corpus], stops: Belief
    ) -> None:
        values, stop = [], []
        full_stop = grammar.tokenizer.convert_tokens_to_ids(".")
        for i in range(len(halves[1])):
            row = torch.as_tensor(halves[1].row(i))[None].long()
            _, cache = grammar.run_with_cache(row, names_filter="blocks.0.mlp.hook_post")
            values.append(cache["blocks.0.mlp.hook_post"][0, 1:].detach().numpy())
            stop.append((row[0, 1:] == full_stop).numpy())
        table, said = np.concatenate(values), np.concatenate(stop)
        own = table[:, 31]
        assert stops.n_tokens == len(own)
        assert stops.correlation == pytest.approx(np.corrcoef(own, said)[0, 1], abs=1e-5)
        fires = own > own.max() / 2
        assert stops.precision == pytest.approx((fires & said).sum() / said.sum(), abs=1e-6)
        assert stops.recall == pytest.approx((fires & said).sum() / fires.sum(), abs=1e-6)
        others = [np.corrcoef(table[:, i], said)[0, 1] for i in (0, 200, 511)]
        found = [stops.others[i] for i in (0, 199, 510)]
        np.testing.assert_allclose(found, others, atol=1e-5)
        assert stops.p_value == (1 + (stops.others >= stops.correlation).sum()) / 512

    def test_its_interval_holds_the_correlation_of_other_text(
        self, grammar: TransformerBridge, halves: tuple[Corpus, Corpus], stops: Belief
    ) -> None:
        low, high = stops.interval
        assert low < stops.correlation < high
        assert high - low < 0.1
        other = believe(grammar, halves[0], "neuron 0.31", TokenSet.of(grammar, ["."]))
        assert abs(other.correlation - stops.correlation) < 0.05

    def test_it_comes_back_and_speaks(self, stops: Belief, tmp_path: Path) -> None:
        stops.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, Belief)
        assert back.summary() == stops.summary()
        assert "tokens '.' predicts neuron 0.31" in stops.summary()
        assert back.to_frame()["correlation"].tolist() == [stops.correlation]
        assert len(back.figure().to_dict()["data"]) == 1


class TestWrongInput:
    def test_descriptions_that_are_none(self, grammar: TransformerBridge) -> None:
        with pytest.raises(ValueError, match="is no regular expression"):
            Pattern("(")
        with pytest.raises(ValueError, match="at least one"):
            TokenSet.of(grammar, [])
        with pytest.raises(ValueError, match="outside the vocabulary"):
            TokenSet.of(grammar, ["zebra"])
        with pytest.raises(ValueError, match="2 tokens"):
            TokenSet.of(grammar, ["the king"])

    def test_what_cannot_be_scored(self, planted: TransformerBridge, tokens: Corpus) -> None:
        with pytest.raises(ValueError, match="predicts the same everywhere"):
            believe(planted, tokens, "neuron 0.0", TokenSet((), "nothing"))
        with pytest.raises(ValueError, match="neuron 0.3 is constant"):
            believe(planted, tokens, "neuron 0.3", TokenSet((1,), "bee"))
        with pytest.raises(ValueError, match="layers 0 to 1"):
            believe(planted, tokens, "neuron 5.3", TokenSet((1,), "bee"))
        with pytest.raises(ValueError, match="expected a level between 0 and 1"):
            believe(planted, tokens, "neuron 0.0", TokenSet((3,), "dog"), confidence=1.5)
        with pytest.raises(ValueError, match=r"direction 0\.0 has no other unit beside it"):
            believe(
                planted,
                tokens,
                "neuron 0.0",
                TokenSet((3,), "dog"),
                directions=torch.tensor([[1.0, 0, 0, 0]]),
            )
