"""Descriptions: sentences say what plain Python says, and an optimum's neighbourhood its unit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import Hypothesis, Neighbourhood, TokenSet, believe, token_means
from analyses.feature_visualization import text as texts
from workbench.core.planted import known_units, word_level
from workbench.core.prompts.corpus import Corpus

APE, BEE, CAT, DOG, ELK, FOX = range(6)
BOS = 6


@pytest.fixture(scope="module")
def planted() -> TransformerBridge:
    return known_units.pairs()


@pytest.fixture(scope="module")
def tokens(planted: TransformerBridge) -> Corpus:
    """Rows of different lengths, BOS in front of each."""
    rng = np.random.default_rng(0)
    rows = [rng.choice(word_level.WORDS, rng.integers(1, 12)) for _ in range(400)]
    return Corpus.from_texts(planted, [" ".join(row) for row in rows])


Truth = Callable[[Sequence[int], int], bool]


def ends(row: Sequence[int], at: int, sought: Sequence[int]) -> bool:
    return at + 1 >= len(sought) and list(row[at + 1 - len(sought) : at + 1]) == list(sought)


def within(row: Sequence[int], at: int, reach: int, sought: Sequence[int]) -> bool:
    return any(ends(row, at - back, sought) for back in range(1, reach + 1) if at >= back)


# Each sentence with what it says in Python: of a row of tokens, BOS included, and a position in it.
SENTENCES: dict[str, Truth] = {
    'at "cat"': lambda row, i: row[i] == CAT,
    'at one of "cat", "ape"': lambda row, i: row[i] in (CAT, APE),
    "at /^[ab]|x$/": lambda row, i: row[i] in (APE, BEE, FOX),
    "at position 3": lambda row, i: i == 3,
    "at positions 2 to 4": lambda row, i: 2 <= i <= 4,
    "at the first token": lambda row, i: i == 1,
    "at a repeated token": lambda row, i: row[i] in row[:i],
    "at a repeated pair": lambda row, i: any(
        list(row[j - 1 : j + 1]) == list(row[i - 1 : i + 1]) for j in range(1, i)
    ),
    'at a token that followed "dog" before': lambda row, i: any(
        row[j] == row[i] and row[j - 1] == DOG for j in range(1, i)
    ),
    'after "dog"': lambda row, i: i > 0 and row[i - 1] == DOG,
    'after "dog cat"': lambda row, i: ends(row, i - 1, [DOG, CAT]),
    'after one of "dog cat", "ape"': lambda row, i: (
        ends(row, i - 1, [DOG, CAT]) or ends(row, i - 1, [APE])
    ),
    "after /g$/": lambda row, i: i > 0 and row[i - 1] == DOG,
    "after a repeated token": lambda row, i: i > 0 and row[i - 1] in row[: i - 1],
    'within 3 tokens after "dog cat"': lambda row, i: within(row, i, 3, [DOG, CAT]),
    'within 1 token after "dog"': lambda row, i: i > 0 and row[i - 1] == DOG,
    'within 99 tokens after "dog"': lambda row, i: DOG in row[:i],
    'anywhere after "dog"': lambda row, i: DOG in row[:i],
    'not at "cat"': lambda row, i: row[i] != CAT,
    'at "cat" and not after "dog"': lambda row, i: row[i] == CAT and row[i - 1] != DOG,
    # "and" binds more than "or", "not" more than both.
    'at "cat" or at "dog" and after "ape"': lambda row, i: (
        row[i] == CAT or (row[i] == DOG and row[i - 1] == APE)
    ),
    '(at "cat" or at "dog") and after "ape"': lambda row, i: (
        row[i] in (CAT, DOG) and row[i - 1] == APE
    ),
    'not (at "cat" or after "ape") and not not at position 2': lambda row, i: (
        row[i] != CAT and row[i - 1] != APE and i == 2
    ),
    'AT "cat"  Or\nafter"dog"': lambda row, i: row[i] == CAT or row[i - 1] == DOG,
}


class TestSentences:
    @pytest.mark.parametrize("sentence", SENTENCES)
    def test_it_says_what_plain_python_says(
        self, planted: TransformerBridge, tokens: Corpus, sentence: str
    ) -> None:
        hypothesis = Hypothesis.of(planted, sentence)
        assert (hypothesis.name, hypothesis.threshold) == (sentence, 0.5)
        seen = 0
        for chunk in tokens.chunks():
            said = hypothesis.predict(planted, chunk)
            for line, row in enumerate(chunk.rows.tolist()):
                ids = tokens.row(row).tolist()
                expected = [float(SENTENCES[sentence](ids, i)) for i in range(1, len(ids))]
                assert said[line, 1 : len(ids)].tolist() == expected
                seen += int(sum(expected))
        assert 0 < seen < tokens.n_tokens, "it is true somewhere and false elsewhere"

    def test_the_true_sentence_scores_one_and_shuffled_units_nothing(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = believe(
            planted, tokens, "neuron 0.0", Hypothesis.of(planted, 'at "dog" and after "cat"')
        )
        assert found.correlation == pytest.approx(1, abs=1e-9)
        assert (found.precision, found.recall) == (1, 1)
        assert np.abs(found.shuffled).max() < 0.1
        assert found.shuffled.std() == pytest.approx(found.n_tokens**-0.5, rel=0.3)
        assert found.fires == found.predicted
        assert found.fires == pytest.approx(1 / 36, abs=0.01)
        # The pairs of the others exclude this one, and one of them is any dog.
        assert found.p_value == pytest.approx(1 / 6)
        assert (np.delete(found.others, 2) < 0.05).all()
        half = believe(planted, tokens, "neuron 0.0", Hypothesis.of(planted, 'at "dog"'))
        assert half.correlation < 0.5
        assert half.recall == 1
        assert half.precision == pytest.approx(1 / 6, abs=0.05)

    def test_quotation_marks_and_slashes_can_be_written(self, grammar: TransformerBridge) -> None:
        chunk = next(Corpus.from_texts(grammar, ["the king saw the cat . the dog ran"]).chunks())
        said = Hypothesis.of(grammar, r"at /^\/|\.$/").predict(grammar, chunk)
        stop = TokenSet.of(grammar, ["."]).predict(grammar, chunk)
        assert torch.equal(said, stop)
        assert said.sum() == 1
        with pytest.raises(ValueError, match=re.escape(r"outside the vocabulary")):
            Hypothesis.of(grammar, r'at "\"zebra\""')

    @pytest.mark.parametrize(
        ("sentence", "message"),
        [
            ("", r"expected \"at\", .* found the end"),
            ("dogs", "found 'dogs'"),
            ('at "dog" and', r"found the end\. Forms: at \"word\"; .*joined by and, or, not"),
            ('at "dog" after "cat"', r"expected \"and\", \"or\" or the end, found 'after'"),
            ('(at "dog"', r"expected \"\)\", found the end"),
            ('at "dog', "expected a word in quotation marks"),
            ("at the king", r"expected \"first\", found 'king'"),
            ('at one of "dog" "cat"', "found '\"cat\"'"),
            ('within three tokens after "dog"', "how many tokens as a whole number"),
            ('within 0 tokens after "dog"', "at least 1"),
            ("at positions 4 to 2", "write the smaller first"),
            ("at position 12", "outside the context, which has 0 to 11"),
            ('at "dog cat"', 'is 2 tokens.*write at "cat" and after "dog"'),
            ('at "zebra"', "'zebra' is outside the vocabulary"),
            ('at ""', "holds no token"),
            ('at "\\d"', "write a backslash"),
            ("at /(/", "no regular expression"),
            ("at /zzz/", "no token of the vocabulary matches"),
            ("(" * 31, "nested more than 30 times"),
            ("not " * 31, "nested more than 30 times"),
            ("at " * 1000, "2,000 are the most"),
        ],
    )
    def test_what_cannot_be_read_is_said(
        self, planted: TransformerBridge, sentence: str, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            Hypothesis.of(planted, sentence)


class TestNeighbourhood:
    def test_the_tokens_that_matter_weigh_what_is_lost_without_them(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        near = Neighbourhood.of(planted, "neuron 0.0", [FOX, ELK, CAT, DOG], corpus=tokens)
        # Without either the unit is silent; embeddings of different words have a cosine below 0.
        assert near.weights == ((0, 0, pytest.approx(1, abs=0.2), pytest.approx(1, abs=0.2)),)
        assert near.heights == (1,)
        assert "fox elk cat dog" in near.name
        chunk = next(tokens.take([0, 1, 2]).chunks())
        np.testing.assert_array_equal(near.alike.numpy()[:, :6], np.eye(7)[near.listed, :6])
        assert near.predict(planted, chunk).shape == chunk.tokens.shape

    def test_the_optimum_itself_is_predicted_one_and_its_parts_less(
        self, planted: TransformerBridge
    ) -> None:
        near = Neighbourhood.of(planted, "neuron 0.0", [FOX, CAT, DOG])
        rows = ["fox cat dog", "dog dog dog", "dog", "cat dog cat"]
        chunk = next(Corpus.from_texts(planted, rows).chunks())
        said = near.predict(planted, chunk)
        for line, row in enumerate(chunk.rows.tolist()):
            best = {0: 3, 3: 2}.get(row)
            expected = [float(i == best) for i in range(said.shape[1])]
            np.testing.assert_allclose(said[line], expected, atol=0.2)
        assert float(said[chunk.rows.tolist().index(0), 3]) == pytest.approx(1, abs=1e-6)

    def test_it_predicts_its_unit_and_no_other(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = texts.optimize_text(planted, "neuron 0.1", length=4, restarts=1, iterations=20)
        assert found.tokens[-1, -2:].tolist() == [BEE, ELK]
        near = Neighbourhood.of(planted, "neuron 0.1", found)
        own = believe(planted, tokens, "neuron 0.1", near)
        assert own.correlation > 0.95
        assert (own.precision, own.recall) == (1, 1)
        assert own.others.max() < 0.6
        assert np.median(own.others) < 0.1
        for other in ("neuron 0.0", "neuron 0.2", "neuron 0.3"):
            assert believe(planted, tokens, other, near).correlation < 0.1

    def test_several_texts_predict_together_each_by_its_height(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        # Twice any dog and once any elk: one text is half as high as the other.
        direction = torch.zeros(2, 6)
        direction[0, 3], direction[0, 4], direction[1, 5] = 2, 1, 1
        both = Neighbourhood.of(
            planted, "neuron 0.0", [[DOG], [ELK], [APE]], directions=direction, draws=500
        )
        assert [text[-1] for text in both.texts] == [ELK, DOG]
        low, high = both.heights
        # Random words give a sixth of 3 on average.
        assert (low, high) == (pytest.approx((1 - 0.5) / (2 - 0.5), abs=0.1), 1)
        found = believe(planted, tokens, "neuron 0.0", both, directions=direction)
        assert found.unit == "direction 0.0"
        assert found.correlation > 0.95
        assert "site" in found.provenance.parameters

    def test_equal_seeds_give_equal_bits(self, planted: TransformerBridge) -> None:
        one, same, other = (
            Neighbourhood.of(planted, "neuron 0.3", [CAT, DOG], draws=3, seed=seed)
            for seed in (0, 0, 1)
        )
        assert (one.weights, one.heights) == (same.weights, same.heights)
        assert one.weights != other.weights or one.heights == other.heights

    def test_what_is_no_neighbourhood_is_said(
        self, planted: TransformerBridge, grammar: TransformerBridge
    ) -> None:
        of = Neighbourhood.of
        with pytest.raises(ValueError, match="loses nothing"):
            of(planted, "neuron 0.0", [FOX, FOX])
        with pytest.raises(ValueError, match="0 tokens; expected 1 to 11"):
            of(planted, "neuron 0.0", [])
        with pytest.raises(ValueError, match="the vocabulary has 0 to 6"):
            of(planted, "neuron 0.0", [99])
        with pytest.raises(ValueError, match="draws = 0"):
            of(planted, "neuron 0.0", [DOG], draws=0)
        short: dict[str, Any] = {"length": 2, "restarts": 1, "iterations": 2, "population": 2}
        found = texts.optimize_text(planted, "neuron 0.3", **short)
        with pytest.raises(ValueError, match=r"for neuron 0\.3, not for neuron 0\.0"):
            of(planted, "neuron 0.0", found)
        with pytest.raises(ValueError, match="weights are not those"):
            of(grammar, "neuron 0.3", found)
        least = texts.optimize_text(planted, "neuron 0.3", maximise=False, **short)
        with pytest.raises(ValueError, match="give texts that were maximised"):
            of(planted, "neuron 0.3", least)


class Latents:
    """Two latents of the neurons' activation: any second word of a pair, and the pair of cats."""

    W_dec = torch.tensor([[0.0, 0, 0, 1, 1, 1], [1.0, 0, 0, 0, 0, 0]])

    def encode(self, activation: torch.Tensor) -> torch.Tensor:
        return (activation @ self.W_dec.T).relu()


def test_latents_and_directions_have_descriptions_too(
    planted: TransformerBridge, tokens: Corpus
) -> None:
    first, second = tokens.split(0.5)
    learned = token_means(planted, first, "neuron 0.0", dictionary=Latents())
    assert learned.means[:6].tolist() == [1, 0, 0, 1, 1, 0]
    found = believe(planted, second, "neuron 0.0", learned, dictionary=Latents())
    assert (found.unit, found.correlation) == ("latent 0.0", pytest.approx(1))
    pair = Hypothesis.of(planted, 'at "dog" and after "cat"')
    assert believe(planted, second, "neuron 0.1", pair, dictionary=Latents()).correlation > 0.999
    same = token_means(planted, first, "neuron 0.0", directions=Latents.W_dec[:1] * 3**0.5)
    np.testing.assert_allclose(same.means[:6], learned.means[:6] / 3**0.5, rtol=1e-5)
    with pytest.raises(ValueError, match="no other unit beside it"):
        believe(planted, second, "neuron 0.0", learned, directions=Latents.W_dec[:1])


def test_a_real_neuron_is_described_by_a_sentence(grammar: TransformerBridge) -> None:
    corpus = Corpus.bundled(grammar, documents=200)
    stops = believe(grammar, corpus, "neuron 0.31", Hypothesis.of(grammar, 'at "."'))
    as_set = believe(grammar, corpus, "neuron 0.31", TokenSet.of(grammar, ["."]))
    assert stops.correlation == as_set.correlation > 0.8
    never = Hypothesis.of(grammar, 'not at "."')
    opposite = believe(grammar, corpus, "neuron 0.31", never)
    assert opposite.correlation == pytest.approx(-stops.correlation)
    near = Neighbourhood.of(
        grammar, "neuron 0.31", grammar.tokenizer("the red letter .")["input_ids"], corpus=corpus
    )
    found = believe(grammar, corpus, "neuron 0.31", near)
    assert found.correlation > 0.7
    assert found.correlation > np.abs(found.shuffled).max() + 0.5
