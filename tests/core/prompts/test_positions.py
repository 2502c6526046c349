"""Positions by name: from words in the prompt to the tokens that stand for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench import ContrastPairs
from workbench.core.planted import two_steps, unplanted
from workbench.core.prompts import encoding, positions, tokenization
from workbench.core.prompts.pairs import PairsError, Span


class WithoutOffsets(transformers.PreTrainedTokenizerFast):
    """A tokenizer that, as those written in Python, cannot say where its tokens stand."""

    @property
    def is_fast(self) -> bool:
        return False


def byte_pairs(
    kind: type[transformers.PreTrainedTokenizerFast] = transformers.PreTrainedTokenizerFast,
) -> TransformerBridge:
    """A model whose tokens hold the space in front of them, as GPT-2's do."""
    vocabulary = {"a": 0, "b": 1, "Ġ": 2, "Ġa": 3, "Ġab": 4, "<bos>": 5, "<unk>": 6}
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [("Ġ", "a"), ("Ġa", "b")], unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 5)]
    )
    model = unplanted.randomised()
    model.tokenizer = kind(
        tokenizer_object=inner,
        bos_token="<bos>",
        unk_token="<unk>",
        add_bos_token=True,
        name_or_path="",
    )
    return model


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return unplanted.randomised()


@pytest.fixture(scope="module")
def pairs(model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_text(
        model,
        ["ape bee cat", "dog elk fox", "ape bee cat"],
        ["ape dog fox", "dog elk fox", "ape elk fox cat"],
        ["bee"] * 3,
        align=True,
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("Mary", (4, 8)),
        (" Mary ", (4, 8)),
        ("and Mary", (0, 8)),
        (slice(3, 9), (4, 8)),
        (slice(-4, None), (9, 13)),
        (slice(0, 99), (0, 13)),
    ],
)
def test_a_place_is_found_without_the_white_space_at_its_ends(
    where: positions.Characters, expected: tuple[int, int]
) -> None:
    assert positions.characters("and Mary went", where) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("Paul", "'Paul' does not occur in 'banana an'; expected once, or a slice"),
        ("an", "'an' occurs 3 times in 'banana an'; expected once, or a slice.start, stop."),
        ("ana", "'ana' occurs 2 times"),
        ("", "'' occurs 10 times"),
        (slice(3, 3), r"slice\(3, 3, None\) is empty in 'banana an'; expected at least one"),
        (slice(6, 7), "is empty"),
        (" ", "' ' is empty"),
    ],
)
def test_a_place_that_is_not_there_once_is_refused(
    where: positions.Characters, message: str
) -> None:
    with pytest.raises(positions.PositionError, match=message):
        positions.characters("banana an", where)


def test_a_span_covers_every_token_that_overlaps_it_and_no_neighbour() -> None:
    # "<bos>", "Ma", "ry", " ate", a token that stands for no character.
    offsets = [(0, 0), (0, 2), (2, 4), (4, 8), (8, 8)]
    assert positions.covering(offsets, 0, 4) == (1, 2)
    assert positions.covering(offsets, 1, 3) == (1, 2)
    assert positions.covering(offsets, 5, 8) == (3,)
    assert positions.covering(offsets, 0, 1) == (1,)


@pytest.mark.parametrize("kind", [transformers.PreTrainedTokenizerFast, WithoutOffsets])
def test_a_token_that_holds_the_space_before_a_word_stands_for_the_word(
    kind: type[transformers.PreTrainedTokenizerFast],
) -> None:
    model = byte_pairs(kind)
    pairs = ContrastPairs.from_text(
        model, ["ab aba b"], ["ab abb b"], ["a"], spans={"middle": [("aba", "abb")]}
    )
    assert pairs.clean_strings == (("<bos>", "a", "b", " ab", "a", " ", "b"),)
    assert pairs.position_set("middle") == Span("middle", ((3, 4),), ((3, 4),))
    ends = {"first": [slice(0, 2)], "last": [slice(7, 8)], "space and last": [slice(6, 8)]}
    pairs = ContrastPairs.from_text(model, ["ab aba b"], ["ab abb b"], ["a"], spans=ends)
    found = {span.name: span.clean for span in pairs.spans}
    assert found == {"first": ((1, 2),), "last": ((6,),), "space and last": ((6,),)}


def test_offsets_with_and_without_the_tokenizers_help_agree_but_for_spaces() -> None:
    text = "ab aba b"
    ids = tokenization.encode(byte_pairs(), text)
    reported = tokenization.offsets(byte_pairs(), text, ids)
    assert reported == ((0, 0), (0, 1), (1, 2), (2, 5), (5, 6), (6, 7), (7, 8))
    followed = tokenization.offsets(byte_pairs(WithoutOffsets), text, ids)
    assert followed == ((0, 0), (0, 1), (1, 2), (3, 5), (5, 6), (6, 6), (7, 8))


def test_tokens_that_are_no_pieces_of_the_text_are_said_to_be_none() -> None:
    with pytest.raises(tokenization.TokenizationError, match="token 'a' .* from character 1 on"):
        tokenization.offsets(byte_pairs(WithoutOffsets), "bb", (1, 0))


def test_positions_count_the_bos_token_where_there_is_one(model: TransformerBridge) -> None:
    texts = (["ape bee cat"], ["ape fox cat"], ["dog"])
    spans = {"the middle": [("bee", "fox")], "both ends": [slice(0, 7)]}
    with_bos = ContrastPairs.from_text(model, *texts, spans=spans)
    assert with_bos.spans == (
        Span("the middle", ((2,),), ((2,),)),
        Span("both ends", ((1, 2),), ((1, 2),)),
    )
    without = ContrastPairs.from_text(model, *texts, spans=spans, prepend_bos=False)
    assert without.position_set("the middle").clean == ((1,),)
    plain = ContrastPairs.from_text(two_steps.two_layer(), *texts, spans=spans)
    assert plain.position_set("the middle").clean == ((1,),)


@pytest.mark.real_model
def test_a_name_that_the_tokenizer_splits_is_all_of_its_tokens(stories: Path) -> None:
    model = workbench.load_model(stories)
    clean, corrupted = (
        "Once upon a time, Lily saw a dog and",
        "Once upon a time, Lily saw a cat and",
    )
    spans = {"animal": [("dog", "cat")], "girl": ["Lily"]}
    pairs = ContrastPairs.from_text(model, [clean], [corrupted], ["a"], spans=spans, align=True)

    def words(name: str) -> list[str]:
        span = pairs.position_set(name)
        sides = ((pairs.clean_tokens, span.clean), (pairs.corrupted_tokens, span.corrupted))
        return [
            model.tokenizer.decode([ids[0][p] for p in places[0]]).strip() for ids, places in sides
        ]

    assert words("animal") == ["dog", "cat"]
    assert words("girl") == ["Lily", "Lily"]


class TestComputed:
    def test_the_last_token_is_the_last_of_each_prompt(self, pairs: ContrastPairs) -> None:
        expected = Span("last token", ((3,), (3,), (3,)), ((3,), (3,), (4,)))
        assert pairs.position_set("last token") == expected

    def test_differing_tokens_are_the_matched_ones_that_differ(self, pairs: ContrastPairs) -> None:
        # In the third pair bee is matched with fox, the last of the two that replace it.
        differing = pairs.position_set("differing tokens")
        assert differing == Span("differing tokens", ((2, 3), (), (2,)), ((2, 3), (), (3,)))
        first = pairs.position_set("first difference")
        assert first == Span("first difference", ((2,), (), (2,)), ((2,), (), (3,)))

    def test_names_are_listed_and_an_unknown_one_is_refused(self, pairs: ContrastPairs) -> None:
        known = ("last token", "first difference", "differing tokens")
        assert pairs.position_names() == known
        with pytest.raises(
            PairsError,
            match="no position set is called 'the end'; these pairs have 'last token', "
            "'first difference', 'differing tokens'",
        ):
            pairs.position_set("the end")


class TestBadSpans:
    @pytest.mark.parametrize(
        ("spans", "message"),
        [
            ({"x": ["yak"]}, r"pair 1 .clean., span 'x': 'yak' does not occur in 'ape bee ape'"),
            ({"x": [("bee", "bee")]}, r"pair 1 .corrupted., span 'x': 'bee' does not occur"),
            ({"x": ["ape"]}, r"'ape' occurs 2 times in 'ape bee ape'; .* slice\(start, stop\)"),
            ({"x": [slice(3, 4)]}, "is empty in 'ape bee ape'"),
            ({"x": []}, "span 'x' has 0 places for 1 pairs; expected one a pair"),
            ({"last token": ["bee"]}, "'last token' cannot name a span"),
            ({" ": ["bee"]}, "' ' cannot name a span"),
        ],
    )
    def test_they_are_refused_in_words(
        self, model: TransformerBridge, spans: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(PairsError, match=message):
            ContrastPairs.from_text(model, ["ape bee ape"], ["ape cat ape"], ["dog"], spans=spans)

    @pytest.mark.parametrize("place", [3, None, ("ape",), ("ape", 3), (0, 3)])
    def test_what_is_no_place_is_refused(self, place: Any) -> None:
        # Called by itself, since the tests' check of types would stop these at the first function.
        with pytest.raises(PairsError, match="pair 1: span 'x' is .*; expected a text, a slice"):
            encoding._both_sides(0, "x", place)

    def test_characters_that_the_tokenizer_drops_are_no_place(self) -> None:
        model = unplanted.randomised()
        inner = model.tokenizer.backend_tokenizer
        inner.normalizer = tokenizers.normalizers.Replace("!", " ")
        with pytest.raises(PairsError, match="no token stands for '!'; expected characters"):
            ContrastPairs.from_text(model, ["ape !bee"], ["ape !cat"], ["dog"], spans={"x": ["!"]})
