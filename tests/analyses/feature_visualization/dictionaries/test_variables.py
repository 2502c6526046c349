"""Variables that are planted, and those of the grammar against the words, which say the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization.dictionaries import labels, variables
from workbench.core import results
from workbench.core.planted import known_units, two_steps, word_level
from workbench.core.prompts import lexicon
from workbench.core.prompts.corpus import Corpus

HOOK = "blocks.0.hook_resid_pre"
WORDS = word_level.WORDS
DOG = known_units.DOG
PLANTED = 7


class Dictionary:
    """Random directions, but for one that is the word "dog"."""

    def __init__(self, width: int, *, planted: bool = True) -> None:
        self.W_dec = torch.randn(12, width, generator=torch.Generator().manual_seed(0))
        if planted:
            self.W_dec[PLANTED] = 3 * torch.eye(width)[DOG]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_dec.T - 0.5).relu()


@pytest.fixture(scope="module")
def wired() -> TransformerBridge:
    """Its stream holds each word, and each position, by itself."""
    return known_units.detectors()


@pytest.fixture(scope="module")
def labelled(wired: TransformerBridge) -> labels.LabelledTokens:
    generator = np.random.default_rng(0)
    tokens = generator.integers(0, len(WORDS), (160, two_steps.N_CTX))
    corpus = Corpus.from_tokens(wired, tokens)
    at, run = tokens.ravel(), np.arange(tokens.size)
    # A coin for each row, which its four tokens share.
    coin = np.repeat(generator.integers(0, 2, len(tokens)), two_steps.N_CTX)
    rows = np.repeat(np.arange(len(tokens)), two_steps.N_CTX)
    return labels.LabelledTokens(
        corpus,
        (
            labels.Variable("word", WORDS, at, run),
            labels.Variable("coin", ("heads", "tails"), coin, rows),
        ),
    )


@pytest.fixture(scope="module")
def found(wired: TransformerBridge, labelled: labels.LabelledTokens) -> variables.VariableMatches:
    width = int(wired.cfg.d_model)
    return variables.match_variables(wired, labelled, Dictionary(width), at=HOOK, bar=0.99)


def test_a_planted_latent_is_found_and_a_coin_is_not(found: variables.VariableMatches) -> None:
    dog = found.value.index("dog")
    assert found.latents.chosen[dog] == PLANTED
    assert found.latents.auc[dog] == 1 and found.latents.f1[dog] == 1
    assert found.recovered[dog] and found.p_value[dog] <= 0.05
    np.testing.assert_array_equal(found.interval[:, dog], 1)
    coins = [i for i, name in enumerate(found.variable) if name == "coin"]
    assert len(coins) == 2 and not found.recovered[coins].any()
    assert (found.p_value[coins] > 0.05).all()
    every = (found.latents, *found.controls)
    assert all(abs(one.auc[coins] - 0.5).max() < 0.15 for one in every)
    # The stream's coordinates are the words themselves; random directions are not.
    by_name = {one.name: one for one in found.controls}
    words = [i for i, name in enumerate(found.variable) if name == "word"]
    assert (by_name["coordinates"].auc[words] == 1).all()
    assert by_name["random directions"].auc[dog] < 1
    # Neurons fire at "dog" only.
    assert by_name["neurons"].auc[dog] == 1 and by_name["neurons"].chosen[dog] == 0


def test_without_the_planted_latent_it_is_not_recovered(
    wired: TransformerBridge, labelled: labels.LabelledTokens
) -> None:
    bare = Dictionary(int(wired.cfg.d_model), planted=False)
    found = variables.match_variables(wired, labelled, bare, at=HOOK, bar=0.99, n_resamples=20)
    assert not found.recovered[found.value.index("dog")]


def test_auc_f1_and_p_values_by_another_way(
    wired: TransformerBridge,
    labelled: labels.LabelledTokens,
    found: variables.VariableMatches,
) -> None:
    dictionary = Dictionary(int(wired.cfg.d_model))
    rows = torch.stack([torch.from_numpy(labelled.corpus.row(i)) for i in range(160)])
    _, cache = wired.run_with_cache(rows, names_filter=[HOOK])
    values = dictionary.encode(cache[HOOK]).flatten(0, 1).detach().double().numpy()
    _, (first, second) = variables._halves(labelled, 0)
    assert not (first & second).any() and (first | second).all()
    assert len(np.unique(np.flatnonzero(first) // two_steps.N_CTX)) == 80
    by_name = {one.name: one for one in labelled.variables}
    for i, (name, value) in enumerate(zip(found.variable, found.value, strict=True)):
        variable = by_name[name]
        has = variable.at == variable.values.index(value)

        def auc(latent: int, half: np.ndarray, has: np.ndarray = has) -> float:
            x, y = values[half & has, latent], values[half & ~has, latent]
            return float(scipy.stats.mannwhitneyu(x, y).statistic) / (len(x) * len(y))

        every = [auc(latent, first) for latent in range(12)]
        chosen = int(found.latents.chosen[i])
        assert every[chosen] == pytest.approx(max(every))
        assert found.latents.auc[i] == pytest.approx(auc(chosen, second))
        # The best threshold of the first half, by trying all of them.
        x = values[:, chosen]

        def f1(bound: float, half: np.ndarray, x: np.ndarray = x, has: np.ndarray = has) -> float:
            said = half & (x >= bound)
            return 2 * (said & has).sum() / (said.sum() + (half & has).sum())

        bound = max(np.unique(x[first])[::-1], key=lambda b: round(f1(b, first), 12))
        assert found.latents.f1[i] == pytest.approx(f1(bound, second))
        assert found.n_positive[i] == (second & has).sum() and found.n_tokens[i] == second.sum()
    assert found.n_runs[0] == 320 and found.n_runs[-1] == 80 and found.n_rows == 80


def test_intervals_by_another_way(labelled: labels.LabelledTokens) -> None:
    generator = np.random.default_rng(1)
    variable = labelled.variables[0]
    rows, (_, half) = variables._halves(labelled, 0)
    values = generator.integers(0, 5, len(rows)) + (variable.at == 2)
    got = variables._interval(variable, 2, (values.astype(np.float32), rows), half, (0.9, 60, 3))
    several = np.unique(rows[half])

    def brute(drawn: np.ndarray) -> float:
        tokens = np.concatenate([np.flatnonzero(rows == several[i]) for i in drawn.astype(int)])
        has = variable.at[tokens] == 2
        x, y = values[tokens[has]], values[tokens[~has]]
        return float(scipy.stats.mannwhitneyu(x, y).statistic) / (len(x) * len(y))

    expected = scipy.stats.bootstrap(
        (np.arange(len(several)),),
        brute,
        n_resamples=60,
        vectorized=False,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert got == pytest.approx((expected.low, expected.high))


def test_random_directions_have_the_l0_of_the_dictionary() -> None:
    generator = np.random.default_rng(0)
    centred = generator.standard_normal((50, 8)).astype(np.float32)
    active = generator.integers(0, 5, 50)
    narrow = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    narrow[:, 3:] *= 1e-6
    made = variables._along_random(centred, active, narrow, 0)
    assert ((made > 0).sum(1) <= active).all() and ((made > 0).sum(1) == active).mean() > 0.9
    # They lie where the dictionary's own directions lie.
    only = centred.copy()
    only[:, 3:] = 0
    np.testing.assert_allclose(made, variables._along_random(only, active, narrow, 0), atol=1e-4)


def test_the_result_is_saved_and_shown(found: variables.VariableMatches, tmp_path: Path) -> None:
    again = results.Result.load(found.save(tmp_path / "matches"))
    assert isinstance(again, variables.VariableMatches)
    assert again.summary() == found.summary()
    frame = found.to_frame()
    assert frame.equals(again.to_frame()) and len(frame) == len(WORDS) + 2
    assert list(frame.loc[frame["value"] == "dog", "latent"]) == [PLANTED]
    traces: Any = found.figure().data
    assert len(traces) == 1 + len(found.controls)
    assert f"{found.recovered.sum()} of 8 values of 2 variables" in found.summary()


def test_equal_seeds_give_equal_bits(
    wired: TransformerBridge,
    labelled: labels.LabelledTokens,
    found: variables.VariableMatches,
) -> None:
    dictionary = Dictionary(int(wired.cfg.d_model))
    again = variables.match_variables(wired, labelled, dictionary, at=HOOK, bar=0.99)
    assert again.to_frame().equals(found.to_frame())


def test_input_that_does_not_fit(wired: TransformerBridge, labelled: labels.LabelledTokens) -> None:
    dictionary = Dictionary(int(wired.cfg.d_model))
    with pytest.raises(ValueError, match=r"bar = 0\.5, least = 5"):
        variables.match_variables(wired, labelled, dictionary, at=HOOK, bar=0.5)
    with pytest.raises(ValueError, match="no value stands in 100 rows of each half"):
        variables.match_variables(wired, labelled, dictionary, at=HOOK, least=100)
    with pytest.raises(ValueError, match="does not say at which hook point it reads"):
        variables.match_variables(wired, labelled, dictionary)
    one = labelled.variables[0]
    with pytest.raises(ValueError, match="no variables"):
        labels.LabelledTokens(labelled.corpus, ())
    with pytest.raises(ValueError, match="word is known at 160 tokens, tokens has 640"):
        cut = dataclasses.replace(one, at=one.at[:160], run=one.run[:160])
        labels.LabelledTokens(labelled.corpus, (cut,))
    with pytest.raises(ValueError, match="word has values 0 to 0, not 5"):
        dataclasses.replace(one, values=("ape",))
    with pytest.raises(ValueError, match="a run has one value, not several"):
        dataclasses.replace(one, run=np.zeros_like(one.run))
    with pytest.raises(ValueError, match="was not trained on the grammar"):
        labels.grammar_labels(wired)


@pytest.fixture(scope="module")
def speaker() -> TransformerBridge:
    return workbench.load_model("grammar-4l", device="cpu")


@pytest.fixture(scope="module")
def drawn(speaker: TransformerBridge) -> labels.LabelledTokens:
    return labels.grammar_labels(speaker, documents=300, seed=6)


@pytest.fixture(scope="module")
def words(speaker: TransformerBridge, drawn: labels.LabelledTokens) -> np.ndarray:
    tokens = np.concatenate([tokens for tokens, _ in drawn.corpus.pieces()])
    return np.array(speaker.tokenizer.convert_ids_to_tokens(tokens.tolist()))


def test_documents_are_those_of_the_bundled_corpus(
    speaker: TransformerBridge, drawn: labels.LabelledTokens
) -> None:
    plain = Corpus.bundled(speaker, documents=300, seed=6)
    assert drawn.corpus.fingerprint == plain.fingerprint


def test_what_decides_a_word_stands_before_it(
    drawn: labels.LabelledTokens, words: np.ndarray
) -> None:
    expected = {
        "number of the subject, where it decides": {"plural": {"are"}, "singular": {"is"}},
        "gender of the person, where it decides": {"female": {"she"}, "male": {"he"}},
        "century, where it decides": {year: {year} for year in lexicon.CENTURIES},
        "class of the next word": {
            "century": set(lexicon.CENTURIES),
            "name": set(lexicon.NAMES),
            "feeling": set(lexicon.FILLERS["feeling"]),
            "punctuation": {",", "."},
        },
    }
    for name, by_value in expected.items():
        variable = next(one for one in drawn.variables if one.name == name)
        following = np.roll(words, -1)
        for value, allowed in by_value.items():
            here = variable.at == variable.values.index(value)
            assert here.any()
            assert set(following[here]) <= allowed, (name, value)


def test_what_a_word_is_stands_at_it(drawn: labels.LabelledTokens, words: np.ndarray) -> None:
    nouns = set(lexicon.NOUNS)
    expected: dict[str, dict[str, set[str]]] = {
        f"number of the {role}, at its word": {
            "singular": nouns,
            "plural": set(lexicon.NOUNS.values()),
        }
        for role in ("subject", "distractor")
    }
    expected["gender of the person, at its word"] = {
        "female": {*lexicon.FEMALE_NAMES, *lexicon.FEMALE_PERSONS},
        "male": {*lexicon.MALE_NAMES, *lexicon.MALE_PERSONS},
    }
    expected["half of the first year's century, at its word"] = {
        "first": set(lexicon.TWO_DIGITS[:50]),
        "second": set(lexicon.TWO_DIGITS[50:]),
    }
    expected["sentence, at its full stop"] = dict.fromkeys(("first", "second", "third"), {"."})
    expected["class of the word"] = {
        "verb": {*"are was had".split(), *(w for w in words if w.endswith(("t", "d", "w")))}
        | set("gave likes knows began".split()),
        "sequence word": set(lexicon.SEQUENCE_WORDS),
        "person": set(lexicon.PERSONS),
        "pronoun": {"he", "she"},
    }
    for name, by_value in expected.items():
        variable = next(one for one in drawn.variables if one.name == name)
        for value, allowed in by_value.items():
            here = variable.at == variable.values.index(value)
            assert here.any() and set(words[here]) <= allowed, (name, value)


def test_roles_and_passes(drawn: labels.LabelledTokens, words: np.ndarray) -> None:
    by_name = {one.name: one for one in drawn.variables}
    role = by_name["role of the name"]
    at = {value: np.flatnonzero(role.at == i) for i, value in enumerate(role.values)}
    gives, first, second = (words[at[v]] for v in ("gives", "named first", "named second"))
    assert len(gives) > 50 and (words[at["receives"]] != gives).all()
    assert (np.where(gives == first, second, first) == words[at["receives"]]).all()
    mention = by_name["mention that gives, at its word"]
    assert (mention.at[at["gives"]] == (gives == second)).all()
    passes = by_name["pass through the sequence"]
    seen: dict[int, set[str]] = {}
    rows = np.repeat(np.arange(len(drawn.corpus)), drawn.corpus.lengths)
    for place in np.flatnonzero(passes.at >= 0):
        before = seen.setdefault(int(rows[place]), set())
        again = words[place] in before
        assert passes.values[passes.at[place]] == ("again" if again else "first")
        before.add(words[place])
    # Special tokens are labelled nowhere.
    special = np.isin(words, ["<bos>", "<eos>", "<pad>"])
    assert special.any()
    assert all((one.at[special] == -1).all() for one in drawn.variables)
