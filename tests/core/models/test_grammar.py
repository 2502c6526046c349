"""The grammar's probabilities are exact, and the bundled model reaches what its card says."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.core.models import card
from workbench.core.models.training import grammar, grammar_4l, grammar_measures
from workbench.core.prompts import lexicon, sentences, tasks

TINY = grammar_4l.SetUp(
    n_layers=1, d_model=16, n_heads=2, d_mlp=32, steps=30, documents=16, warm_up=5, groups=3
)


def documents(n: int, seed: int = 0) -> list[grammar.Document]:
    rng = random.Random(seed)
    return [grammar.sample(rng) for _ in range(n)]


@pytest.fixture(scope="module")
def many() -> list[grammar.Document]:
    """What several tests look at."""
    return documents(20_000)


# The probabilities


@pytest.mark.parametrize(
    "family", [sentences.PRONOUN_GENDER, sentences.PLAIN], ids=lambda f: f.name
)
def test_the_sentences_of_a_family_have_probabilities_that_sum_to_one(
    family: sentences.Family,
) -> None:
    everything = family.all_sentences()
    assert len({sentence.text for sentence in everything}) == len(everything)
    total = math.fsum(math.exp(sentence.log_probability) for sentence in everything)
    assert total == pytest.approx(1, abs=1e-9)
    surprise = math.fsum(
        -sentence.log_probability * math.exp(sentence.log_probability) for sentence in everything
    )
    assert family.entropy() == pytest.approx(surprise, abs=1e-9)


@pytest.mark.parametrize("family", sentences.FAMILIES, ids=lambda family: family.name)
def test_the_choices_of_one_frame_and_combination_sum_to_its_share(
    family: sentences.Family,
) -> None:
    for frame in family.frames:
        pool = family.pool(frame, "training")
        combination = pool[len(pool) // 2]
        choices = family.options(frame, combination)
        made = [
            family.sentence(frame, combination, dict(zip(choices, values, strict=True)))
            for values in itertools.product(*choices.values())
        ]
        assert len({sentence.text for sentence in made}) == len(made)
        total = math.fsum(math.exp(sentence.log_probability) for sentence in made)
        assert total == pytest.approx(1 / len(family.frames) / len(pool), rel=1e-9)


def test_a_sentence_worked_by_hand_has_its_probability() -> None:
    family = sentences.INDIRECT_OBJECT
    frame = family.frames[0]
    made = family.sentence(
        frame,
        ("John", "Mary"),
        {"first": "Mary", "giver_is": "second", "place": "store", "gift": "drink"},
    )
    assert made.text == "When Mary and John went to the store, John gave a drink to Mary."
    # 6 frames; 668 trained pairs of names; 2 orders; 2 givers; 16 places; 16 gifts.
    assert math.exp(-made.log_probability) == pytest.approx(6 * 668 * 2 * 2 * 16 * 16)


def test_a_held_out_sentence_has_probability_zero() -> None:
    drawn = sentences.INDIRECT_OBJECT.draw(random.Random(0), "held-out")
    assert drawn.log_probability == -math.inf


def _pattern(frame: sentences.Frame) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", frame.prompt + frame.rest)
    # Years are two pairs of digits without a space; the answer brings its own space.
    slot = {"century": r"\d\d", "start": r"\d\d", "answer": r" ?\w+"}
    return re.compile(
        "".join(
            slot.get(part, r"\w+") if index % 2 else re.escape(part)
            for index, part in enumerate(parts)
        )
    )


def test_every_sentence_fits_exactly_one_frame() -> None:
    patterns = [
        (family.name, frame.name, _pattern(frame))
        for family in sentences.FAMILIES
        for frame in family.frames
    ]
    rng = random.Random(0)
    for family in sentences.FAMILIES:
        for _ in range(300):
            drawn = family.draw(rng)
            fitting = [(f, name) for f, name, pattern in patterns if pattern.fullmatch(drawn.text)]
            assert fitting == [(family.name, drawn.frame.name)], drawn.text


@pytest.fixture
def five_words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A vocabulary in which random sequences can be enumerated; one neighbour is held out."""
    caches = (tasks.followers, tasks.leaders)
    monkeypatch.setattr(lexicon, "SEQUENCE_WORDS", ("key", "dog", "car", "cat", "box"))
    monkeypatch.setattr(sentences, "is_held_out", lambda c: c == ("induction", "dog", "cat"))
    monkeypatch.setattr(grammar, "BLOCK_LENGTHS", (3,))
    monkeypatch.setattr(grammar, "REPEATS", (2,))
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("five_words")
def test_random_sequences_occur_as_often_as_their_probability_says() -> None:
    rng = random.Random(0)
    drawn = [grammar.sample_sequence(rng) for _ in range(30_000)]
    counts = collections.Counter(document.words for document in drawn)
    probability = {
        document.words: math.exp(-document.neg_log_probability) / grammar.SEQUENCE_SHARE
        for document in drawn
    }
    # 5 * 4 * 3 blocks less the three places of (dog, cat) in a circle of three, 3 blocks each.
    assert len(probability) == 60 - 9
    assert math.fsum(probability.values()) == pytest.approx(1, abs=1e-9)
    chi_square = sum(
        (counts[words] - 30_000 * p) ** 2 / (30_000 * p) for words, p in probability.items()
    )
    # 50 degrees of freedom: 99.9 % of samples lie below 86.7.
    assert chi_square < 86.7


def test_the_closed_form_of_the_entropy_agrees_with_a_large_sample(
    many: list[grammar.Document],
) -> None:
    surprise = [document.neg_log_probability for document in many]
    lengths = [document.predicted for document in many]
    error = statistics.stdev(lengths) / math.sqrt(len(lengths))
    assert abs(statistics.fmean(lengths) - grammar.mean_tokens()) < 4 * error
    entropy = grammar.entropy_per_token()
    per_document = entropy.value * grammar.mean_tokens()
    error = statistics.stdev(surprise) / math.sqrt(len(surprise))
    assert abs(statistics.fmean(surprise) - per_document) < 4 * error
    assert entropy.standard_error < 1e-4


# The corpus


def test_a_document_is_determined_by_its_seed_and_reads_as_english() -> None:
    assert documents(50) == documents(50) != documents(50, seed=1)
    prose = next(d for d in documents(50) if "." in d.words)
    assert prose.words[0] == grammar.BOS and prose.words[-2:] == (".", grammar.EOS)


def test_training_documents_hold_no_held_out_combination() -> None:
    rng = random.Random(0)
    for family in sentences.FAMILIES[:-1]:
        for _ in range(3_000):
            drawn = family.draw(rng)
            assert not sentences.is_held_out(family.identity(drawn.frame, drawn.combination))
    for _ in range(2_000):
        inner = grammar.sample_sequence(rng).words[1:-1]
        for left, right in itertools.pairwise(inner):
            assert not sentences.is_held_out(("induction", left, right))


def test_no_held_out_pair_of_names_is_read_in_the_corpus_itself(
    many: list[grammar.Document],
) -> None:
    tokenizer = grammar_4l.build_tokenizer()
    ids = {word: index for index, word in enumerate(grammar.vocabulary())}
    frame = sentences.INDIRECT_OBJECT.frames[0]
    pattern = re.compile(r"When (\w+) and (\w+) went to the \w+, (\w+) gave a \w+ to (\w+)\.")
    seen: set[tuple[str, ...]] = set()
    for document in many:
        if "went" in document.words:
            text = tokenizer.decode([ids[word] for word in document.words])
            for first, second, giver, receiver in pattern.findall(text):
                assert {giver, receiver} == {first, second}
                seen.add(tuple(sorted((first, second))))
    held_out = set(sentences.INDIRECT_OBJECT.pool(frame, "held-out"))
    assert len(held_out) == 112
    assert len(seen) > 400
    assert seen & held_out == set()


def test_the_longest_document_fits_the_context() -> None:
    rng = random.Random(0)
    longest = max(
        len(lexicon.split_words(family.draw_in(frame, rng).text))
        for family in sentences.FAMILIES
        for frame in family.frames
    )
    assert longest * grammar.MOST_SENTENCES + 2 <= grammar.N_CTX
    assert max(grammar.BLOCK_LENGTHS) * max(grammar.REPEATS) + 2 <= grammar.N_CTX


def test_the_vocabulary_is_what_documents_use(many: list[grammar.Document]) -> None:
    vocabulary = grammar.vocabulary()
    assert vocabulary[:4] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert len(set(vocabulary)) == len(vocabulary) == 440
    used = {word for document in many for word in document.words}
    assert used - set(vocabulary) == set()
    # Years begin at 02 and later ones at 03.
    assert set(vocabulary) - used <= {"<pad>", "<unk>", "00", "01", "02"}


def test_every_word_of_every_task_is_in_the_vocabulary() -> None:
    vocabulary = set(grammar.vocabulary())
    for name in grammar_4l.BEHAVIOURS:
        for pair in tasks.get_task(name).pairs(500, split="all"):
            text = f"{pair.clean} {pair.corrupted} {pair.answer} {pair.wrong_answer}"
            assert set(lexicon.split_words(text)) <= vocabulary


# The tokenizer


def test_the_tokenizer_cuts_as_the_grammar_does_and_decodes_to_english() -> None:
    tokenizer = grammar_4l.build_tokenizer()
    for document in documents(200):
        inner = document.words[1:-1]
        ids = tokenizer(" ".join(inner))["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == [grammar.BOS, *inner]
    text = "The war lasted from the year 1732 to the year 1745. When Mary went, John stayed."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer(" Mary", add_special_tokens=False)["input_ids"] == [
        grammar.vocabulary().index("Mary")
    ]
    padded = tokenizer(["The keys", "The keys near the door"], padding=True)["input_ids"]
    assert padded[0][-3:] == [0, 0, 0]
    assert tokenizer.unk_token_id in tokenizer("xyzzy")["input_ids"]


# The training


def test_fused_attention_gives_native_models_logits() -> None:
    network = grammar_4l.new_network(grammar_4l.SetUp(n_layers=2, d_model=32, n_heads=4, d_mlp=64))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    tokens = torch.randint(0, 440, (5, 33), generator=generator)
    torch.testing.assert_close(
        grammar_measures.fast_logits(network, tokens), network(tokens), atol=1e-4, rtol=1e-5
    )


def test_the_summed_loss_counts_every_word_once_and_padding_never() -> None:
    network = grammar_4l.new_network(TINY)
    first, second = documents(2)
    tokens, real = grammar_measures.encode([first.words, second.words])
    losses = grammar_measures.summed_loss(network, tokens, real)
    for document, loss in zip((first, second), losses, strict=True):
        alone, _ = grammar_measures.encode([document.words])
        log_probabilities = network(alone)[0].log_softmax(-1)
        by_hand = -sum(
            log_probabilities[position, alone[0, position + 1]].item()
            for position in range(document.predicted)
        )
        assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_equal_seeds_train_equal_weights() -> None:
    once, again = grammar_4l.train(TINY), grammar_4l.train(TINY)
    assert once.tokens == again.tokens > 0
    other = grammar_4l.train(dataclasses.replace(TINY, seed=1))
    same = [
        (torch.equal(a, b), torch.equal(a, c))
        for a, b, c in zip(
            *(x.network.state_dict().values() for x in (once, again, other)), strict=True
        )
    ]
    assert all(equal for equal, _ in same)
    assert not all(equal for _, equal in same)


def test_training_lowers_the_loss() -> None:
    before = grammar_measures.excess_loss(grammar_4l.new_network(TINY), 200)
    after = grammar_measures.excess_loss(grammar_4l.train(TINY).network, 200)
    assert after.value < before.value - 0.25
    assert after.n == 200


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    setup = grammar_4l.SetUp(steps=1_000, warm_up=100, learning_rate=1.0)
    rates = [grammar_4l.learning_rate(setup, step) for step in (0, 49, 99, 100, 550, 1_000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_a_written_bundle_can_be_read_back(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    network = grammar_4l.new_network(TINY)
    trained = grammar_4l.Trained(network, 1, 1.0)
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "old").write_text("left from before")
    grammar_4l.write_bundle(folder, TINY, trained, {"name": "tiny"})
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tiny")] == []
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "transformer-lens-native"
    assert config["config"]["d_model"] == 16
    weights = load_file(folder / "model.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(weights[name], value)


# The bundled model


@pytest.fixture(scope="module")
def bundled() -> Any:
    from safetensors.torch import load_file

    network = grammar_4l.new_network(grammar_4l.SetUp())
    network.load_state_dict(load_file(grammar_4l.BUNDLE / "model.safetensors"))
    return network.eval()


def test_the_bundle_is_small_and_its_card_is_valid() -> None:
    known = card.model_card("grammar-4l")
    assert (grammar_4l.BUNDLE / "model.safetensors").stat().st_size < 4_000_000
    assert known.tasks == grammar_4l.BEHAVIOURS
    assert [b.task for b in known.behaviours] == list(grammar_4l.BEHAVIOURS)
    assert all(b.accuracy >= 0.97 and b.n >= 1_000 for b in known.behaviours)


@pytest.mark.parametrize("name", grammar_4l.BEHAVIOURS)
def test_the_bundled_model_knows_each_behaviour_on_held_out_combinations(
    bundled: Any, name: str
) -> None:
    # Another seed than the card's, so that other pairs are measured.
    assert grammar_measures.accuracy(bundled, name, 1_000, seed=1) >= 0.97


def _measure(name: str) -> card.Measure:
    return next(m for m in card.model_card("grammar-4l").measures if m.name == name)


def test_the_card_states_the_grammars_entropy() -> None:
    stated = _measure("entropy of the grammar")
    assert stated.value == pytest.approx(grammar.entropy_per_token().value, abs=1e-9)


def test_the_excess_loss_is_what_the_card_says(bundled: Any) -> None:
    measured = grammar_measures.excess_loss(bundled, 2_000, seed=1)
    stated = _measure("excess loss")
    assert abs(measured.value - stated.value) < 4 * measured.standard_error
    # No model of a language can beat the language's own probabilities.
    assert measured.value > 0
    assert _measure("loss").value - _measure("entropy of the grammar").value == pytest.approx(
        stated.value, abs=0.02
    )


def test_greater_years_get_the_probability_mass(bundled: Any) -> None:
    mass = grammar_measures.mass_on_greater(bundled, 1_000, seed=1)
    assert mass == pytest.approx(_measure("probability on greater years").value, abs=0.02)


def test_the_bridge_runs_the_same_model_on_text(bundled: Any) -> None:
    from workbench.core.models import sources

    model = sources.load_model("grammar-4l", device="cpu")
    prompt = "When Mary and John went to the store, John gave a drink to"
    tokens = model.to_tokens(prompt)
    assert model.tokenizer.convert_ids_to_tokens(tokens[0]) == [
        grammar.BOS,
        *lexicon.split_words(prompt),
    ]
    with torch.inference_mode():
        logits = model(tokens)
    torch.testing.assert_close(logits, bundled(tokens), atol=1e-4, rtol=1e-5)
    assert model.tokenizer.decode([logits[0, -1].argmax().item()]) == "Mary"
