"""Contrast pairs: every way in, and every way to get them wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from tests import hand_wired
from workbench import ContrastPairs
from workbench.core.prompts.pairs import PairsError

CLEAN = ["ape bee cat", "dog elk fox"]
CORRUPTED = ["ape fox cat", "dog bee fox"]
CSV = (
    "clean,corrupted,answer,wrong_answer\nape bee cat,ape fox cat,bee,fox\n"
    'dog elk fox,dog bee fox," elk"," bee"\n'
)


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return hand_wired.randomised()


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def modadd() -> TransformerBridge:
    return workbench.load_model("modadd-113")


@pytest.fixture(scope="module")
def expected(model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_text(model, CLEAN, CORRUPTED, ["bee", "elk"], ["fox", "bee"])


def read(model: TransformerBridge, name: str, content: str | bytes) -> ContrastPairs:
    data = content.encode() if isinstance(content, str) else content
    return ContrastPairs.from_bytes(model, data, name=name)


class TestFromText:
    def test_tokens_follow_the_models_own_convention(self, expected: ContrastPairs) -> None:
        assert expected.clean_tokens == ((6, 0, 1, 2), (6, 3, 4, 5))
        assert expected.corrupted_tokens == ((6, 0, 5, 2), (6, 3, 1, 5))
        assert expected.clean_strings[0] == ("<bos>", "ape", "bee", "cat")
        assert expected.answers == ((1,), (4,))
        assert expected.wrong_strings == (("fox",), ("bee",))
        assert len(expected) == 2

    def test_bos_can_be_left_out(self, model: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(model, CLEAN, CORRUPTED, ["bee", "elk"], prepend_bos=False)
        assert pairs.clean_tokens == ((0, 1, 2), (3, 4, 5))
        assert pairs.wrong_answers == ((), ())
        assert eval(pairs.code) == pairs

    def test_several_answers_and_token_ids(self, model: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(
            model, CLEAN[:1], CORRUPTED[:1], [["bee", "cat"]], [[5, "dog"]]
        )
        assert pairs.answers == ((1, 2),)
        assert pairs.wrong_answers == ((5, 3),)

    def test_the_code_makes_them_again(
        self, model: TransformerBridge, expected: ContrastPairs
    ) -> None:
        assert eval(expected.code) == expected
        assert eval(expected.subset([1]).code) == expected.subset([1])


class TestViews:
    def test_groups_hold_one_length_each_and_nothing_is_padded(
        self, model: TransformerBridge
    ) -> None:
        clean = ["ape bee", "ape bee cat", "dog elk"]
        corrupted = ["ape fox", "ape fox cat", "dog fox"]
        pairs = ContrastPairs.from_text(model, clean, corrupted, ["bee"] * 3)
        groups = [group.tolist() for group in pairs.groups()]
        assert groups == [[0, 2], [1]]
        clean_batch, corrupted_batch = pairs.batch(groups[0])
        assert clean_batch.tolist() == [[6, 0, 1], [6, 3, 4]]
        assert corrupted_batch.tolist() == [[6, 0, 5], [6, 3, 5]]
        with pytest.raises(PairsError, match="the prompts have 3 to 4 tokens"):
            pairs.position_labels()

    def test_first_differences(self, model: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(
            model, ["ape bee", "ape bee", "ape bee"], ["cat bee", "ape dog", "ape bee"], ["ape"] * 3
        )
        assert pairs.first_differences().tolist() == [1, 2, 3]

    def test_labels_show_shared_tokens_and_two_of_the_others(self, expected: ContrastPairs) -> None:
        assert expected.position_labels() == ["<bos>", "ape|dog|…", "bee|elk|…", "cat|fox|…"]

    def test_the_digest_depends_on_what_changes_numbers_only(
        self, model: TransformerBridge, expected: ContrastPairs
    ) -> None:
        renamed = ContrastPairs.from_text(
            model, CLEAN, CORRUPTED, ["bee", "elk"], ["fox", "bee"], name="another name"
        )
        assert renamed.digest() == expected.digest()
        assert expected.subset([0]).digest() != expected.digest()


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("a.csv", CSV),
            ("a.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
            (
                "a.csv",
                "index,clean,corrupted,correct_idx,incorrect_idx\n"
                '0,ape bee cat,ape fox cat,1,5\n1,dog elk fox,dog bee fox,"[4]","[1]"\n',
            ),
            (
                "a.jsonl",
                '{"clean": "ape bee cat", "corrupted": "ape fox cat", "answer": "bee", '
                '"wrong_answer": "fox"}\n\n{"clean": "dog elk fox", "corrupted": "dog bee fox", '
                '"answer": "elk", "wrong_answer": "bee"}\n',
            ),
            (
                "a.json",
                json.dumps(
                    {
                        "word_idxs": {"end": 3},
                        "prompts": [
                            {
                                "clean": clean,
                                "corrupt": corrupted,
                                "answers": [answer],
                                "wrong_answers": [wrong],
                            }
                            for clean, corrupted, answer, wrong in zip(
                                CLEAN, CORRUPTED, ["bee", "elk"], ["fox", "bee"], strict=True
                            )
                        ],
                    }
                ),
            ),
        ],
        ids=["csv", "csv-windows", "eap-ig", "jsonl", "auto-circuit"],
    )
    def test_every_convention_of_the_field_gives_the_same_pairs(
        self, model: TransformerBridge, expected: ContrastPairs, name: str, content: str
    ) -> None:
        pairs = read(model, name, content)
        assert pairs.digest() == expected.digest()
        assert pairs.clean == expected.clean
        assert pairs.name == name

    def test_a_file_on_disk(
        self, model: TransformerBridge, expected: ContrastPairs, tmp_path: Path
    ) -> None:
        (tmp_path / "pairs.csv").write_text(CSV)
        pairs = ContrastPairs.from_file(model, tmp_path / "pairs.csv")
        assert pairs.digest() == expected.digest()
        assert eval(pairs.code).digest() == expected.digest()

    def test_several_answers_in_auto_circuit_json(self, model: TransformerBridge) -> None:
        record = {"clean": "ape bee", "corrupt": "ape cat", "answers": ["bee", "cat"]}
        pairs = read(model, "a.json", json.dumps([record]))
        assert pairs.answers == ((1, 2),)
        assert pairs.wrong_answers == ((),)


class TestFromTask:
    @pytest.mark.parametrize(
        "task", ["indirect-object", "pronoun-gender", "agreement", "induction", "greater-than"]
    )
    def test_every_task_of_grammar_4l(self, grammar: TransformerBridge, task: str) -> None:
        pairs = ContrastPairs.from_task(grammar, task, n=12, seed=3)
        assert len(pairs) == 12
        assert len({*zip(pairs.clean, pairs.corrupted, strict=True)}) == 12
        assert len(pairs.groups()) == 1
        assert pairs == ContrastPairs.from_task(grammar, task, n=12, seed=3)
        assert pairs.digest() != ContrastPairs.from_task(grammar, task, n=12, seed=4).digest()
        assert eval(pairs.code, {"ContrastPairs": ContrastPairs, "model": grammar}) == pairs

    def test_all_templates_mix_lengths(self, grammar: TransformerBridge) -> None:
        pairs = ContrastPairs.from_task(grammar, "indirect-object", n=40, templates="all")
        assert len(pairs.groups()) > 1
        assert eval(pairs.code, {"ContrastPairs": ContrastPairs, "model": grammar}) == pairs

    def test_modular_addition(self, modadd: TransformerBridge) -> None:
        pairs = ContrastPairs.from_task(modadd, "modular-addition", n=20)
        for clean, corrupted, right, wrong in zip(
            pairs.clean_tokens, pairs.corrupted_tokens, pairs.answers, pairs.wrong_answers,
            strict=True,
        ):  # fmt: skip
            assert (clean[0] + clean[1]) % 113 == right[0]
            assert (corrupted[0] + corrupted[1]) % 113 == wrong[0]
            assert clean[2] == corrupted[2] == 113

    @pytest.mark.real_model
    def test_a_model_with_other_words_takes_what_fits(self, stories: Path) -> None:
        model = workbench.load_model(stories)
        with pytest.raises(PairsError, match="only 0 of the 8 pairs fit its vocabulary"):
            ContrastPairs.from_task(model, "indirect-object", n=8)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"task": "indirect-objet"}, "no task is called 'indirect-objet'"),
            ({"task": "agreement", "n": 0}, "n = 0 pairs were asked for; expected 1 to"),
            ({"task": "agreement", "templates": "two"}, "expected 'one' or 'all'"),
            ({"task": "modular-addition"}, "needs words that 'grammar-4l' has as single tokens"),
        ],
    )
    def test_what_cannot_be_asked(
        self, grammar: TransformerBridge, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ContrastPairs.from_task(grammar, **arguments)


class TestBadInput:
    @pytest.mark.parametrize(
        ("clean", "corrupted", "answer", "message"),
        [
            ("ape bee", "ape bee cat", "dog", "clean has 3 tokens and corrupted 4"),
            ("ape bee", "ape", "dog", "They part at position 2"),
            ("ape bee", "ape cat", "dog elk", r"is 2 tokens, \[dog\] \[elk\]; expected a single"),
            ("ape bee", "ape cat", "", "is 0 tokens, nothing; expected a single token"),
            ("ape yak", "ape cat", "dog", r"pair 1 .clean.: 'yak' is outside the vocabulary"),
            ("ape bee", "ape cat", "yak", r"pair 1 .answer.: 'yak' is outside the vocabulary"),
            ("", "ape cat", "dog", "the clean prompt is empty"),
            ("ape bee", "  ", "dog", "the corrupted prompt is empty"),
            ("ape " * 12, "ape cat", "dog", "the prompt has 13 tokens and the context is 12"),
            ("ape " * 4000, "ape cat", "dog", "the prompt has 16,000 characters"),
            ("ape bee", "ape cat", 7, "answer id 7 is outside the vocabulary .0 to 6."),
            ("ape bee", "ape cat", -1, "answer id -1 is outside the vocabulary"),
            ("ape bee", "ape cat", [], "pair 1 has no answer"),
        ],
    )
    def test_one_pair(
        self, model: TransformerBridge, clean: str, corrupted: str, answer: Any, message: str
    ) -> None:
        with pytest.raises(PairsError, match=message):
            ContrastPairs.from_text(model, [clean], [corrupted], [answer])

    def test_unequal_lengths_show_both_tokenizations(self, model: TransformerBridge) -> None:
        with pytest.raises(PairsError) as caught:
            ContrastPairs.from_text(model, ["ape bee cat"], ["ape dog"], ["elk"])
        lines = str(caught.value).splitlines()
        assert lines[0].endswith("They part at position 2.")
        assert lines[1] == "clean:     [<bos>] [ape] [bee] [cat]"
        assert lines[2] == "corrupted: [<bos>] [ape] [dog]"

    @pytest.mark.real_model
    def test_an_answer_without_its_leading_space_gets_the_hint(self, stories: Path) -> None:
        model = workbench.load_model(stories)
        clean, corrupted = "Once there was a", "Once there was the"
        with pytest.raises(PairsError, match="did you mean ' little', with its leading space"):
            ContrastPairs.from_text(model, [clean], [corrupted], ["little"])
        pairs = ContrastPairs.from_text(model, [clean], [corrupted], [" little"])
        assert pairs.answer_strings[0][0].strip() == "little"

    def test_words_that_a_model_of_numbers_does_not_have(self, modadd: TransformerBridge) -> None:
        with pytest.raises(PairsError, match="'apple', '113' is outside the vocabulary"):
            ContrastPairs.from_text(modadd, ["apple 113 ="], ["1 2 ="], ["3"])

    @pytest.mark.parametrize(
        ("count", "message"),
        [((1, 2, 1, 1), "found 1 clean, 2 corrupted, 1 answers"), ((0, 0, 0, 0), "no pairs")],
    )
    def test_counts(self, model: TransformerBridge, count: tuple[int, ...], message: str) -> None:
        columns = [[text] * n for text, n in zip(("ape", "bee", "cat", "dog"), count, strict=True)]
        with pytest.raises(PairsError, match=message):
            ContrastPairs.from_text(model, *columns)

    def test_too_many(self, model: TransformerBridge) -> None:
        with pytest.raises(PairsError, match="10001 pairs are too many"):
            ContrastPairs.from_text(model, *[["ape"] * 10_001] * 3)

    def test_a_model_without_a_tokenizer(self) -> None:
        model = hand_wired.randomised()
        model._tokenizer = None
        with pytest.raises(PairsError, match="has no tokenizer"):
            ContrastPairs.from_text(model, ["ape"], ["bee"], ["cat"])

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.csv", "", "a.csv is empty: expected columns clean,corrupted,answer"),
            ("a.csv", " \n\n", "a.csv is empty"),
            ("a.csv", "clean,corrupted,answer\n", "there are no pairs"),
            ("a.csv", "prompt,answer\nape,bee\n", "record 1 has columns prompt, answer: expected"),
            ("a.csv", "clean,corrupted,answer\nape,bee\n", "record 1 has columns"),
            ("a.csv", 'clean,corrupted,answer\n"ape,bee,cat\n', "cannot be read"),
            (
                "a.csv",
                "clean,corrupted,correct_idx,incorrect_idx\nape,bee,one,2\n",
                "correct_idx must be a token id or a list of them, found 'one'",
            ),
            (
                "a.csv",
                "clean,corrupted,correct_idx\nape,bee,1\n",
                "correct_idx without incorrect_idx",
            ),
            ("a.jsonl", "{not json}\n", "a.jsonl cannot be read"),
            ("a.jsonl", "[1, 2]\n", "record 1 is list"),
            ("a.json", '{"pairs": []}', "a.json cannot be read"),
            ("a.json", "3", "holds int"),
            ("a.json", '{"prompts": 3}', "holds int"),
            ("a.json", "[" * 100_000, "a.json cannot be read"),
            ("a.json", '[{"clean": 1, "corrupted": "a", "answer": "b"}]', "must be texts"),
            (
                "a.json",
                '[{"clean": "ape", "corrupted": "bee", "answer": {"a": 1}}]',
                "answer must be text",
            ),
            ("a.txt", "ape bee", "a.txt is neither .csv, .jsonl nor .json"),
            ("a.csv", b"\xff\xfe\x00", "is not UTF-8 text"),
            ("a.csv", b"x" * 10_000_000, "a.csv has 10.0 MB, more than the 5 MB"),
        ],
    )
    def test_files(
        self, model: TransformerBridge, name: str, content: str | bytes, message: str
    ) -> None:
        with pytest.raises(PairsError, match=message):
            read(model, name, content)

    def test_files_that_cannot_be_opened(self, model: TransformerBridge, tmp_path: Path) -> None:
        with pytest.raises(PairsError, match="cannot read .*No such file"):
            ContrastPairs.from_file(model, tmp_path / "nothing.csv")
        with pytest.raises(PairsError, match="cannot read .*Is a directory"):
            ContrastPairs.from_file(model, tmp_path)
        big = tmp_path / "big.csv"
        big.write_bytes(b"x" * 10_000_000)
        with pytest.raises(PairsError, match="10.0 MB, more than the 5 MB"):
            ContrastPairs.from_file(model, big)
