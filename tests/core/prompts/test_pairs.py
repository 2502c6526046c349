"""Contrast pairs: every way in, and every way to get them wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench import ContrastPairs
from workbench.core import results
from workbench.core.planted import unplanted
from workbench.core.prompts import tasks
from workbench.core.prompts.pairs import PairsError, Span

CLEAN = ["ape bee cat", "dog elk fox"]
CORRUPTED = ["ape fox cat", "dog bee fox"]
CSV = (
    "clean,corrupted,answer,wrong_answer\nape bee cat,ape fox cat,bee,fox\n"
    'dog elk fox,dog bee fox," elk"," bee"\n'
)


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return unplanted.randomised()


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


class TestAligned:
    CLEAN = ("ape bee cat", "ape bee cat", "ape bee")
    CORRUPTED = ("ape dog elk cat", "ape fox cat", "fox ape bee")
    SPANS = {"middle": [("bee", "dog elk"), ("bee", "fox"), "bee"]}
    MATCHED = (
        ((0, 0), (1, 1), (2, 3), (3, 4)),
        ((0, 0), (1, 1), (2, 2), (3, 3)),
        ((0, 0), (1, 2), (2, 3)),
    )

    @pytest.fixture
    def aligned(self, model: TransformerBridge) -> ContrastPairs:
        return ContrastPairs.from_text(
            model, self.CLEAN, self.CORRUPTED, ["bee"] * 3, spans=self.SPANS, align=True
        )

    def test_matched_positions_are_kept_for_each_pair(self, aligned: ContrastPairs) -> None:
        assert aligned.aligned
        assert aligned.matched == self.MATCHED
        assert tuple(map(aligned.columns, range(3))) == self.MATCHED
        assert [aligned.lengths(i) for i in range(3)] == [(4, 5), (4, 4), (3, 4)]
        middle = Span("middle", ((2,), (2,), (2,)), ((2, 3), (2,), (3,)))
        assert aligned.position_set("middle") == middle
        assert aligned.position_names()[-1] == "middle"

    def test_equal_lengths_need_no_alignment(
        self, model: TransformerBridge, expected: ContrastPairs
    ) -> None:
        wrong = ["fox", "bee"]
        pairs = ContrastPairs.from_text(model, CLEAN, CORRUPTED, ["bee", "elk"], wrong, align=True)
        assert not pairs.aligned and pairs.matched is None
        assert pairs.columns(0) == ((0, 0), (1, 1), (2, 2), (3, 3))
        assert pairs.digest() == expected.digest()

    def test_without_asking_for_it_unequal_lengths_are_refused_and_the_way_out_is_named(
        self, model: TransformerBridge
    ) -> None:
        with pytest.raises(PairsError, match="needs equal lengths, or align=True, which matches"):
            ContrastPairs.from_text(model, self.CLEAN, self.CORRUPTED, ["bee"] * 3)

    def test_spans_that_swap_places_are_refused_by_their_names(
        self, model: TransformerBridge
    ) -> None:
        spans = {"one": ["bee"], "two": ["cat"]}
        texts = (["ape bee cat dog"], ["ape cat fox bee dog"], ["elk"])
        with pytest.raises(PairsError, match="pair 1, spans 'one' and 'two': .* another order"):
            ContrastPairs.from_text(model, *texts, spans=spans, align=True)

    def test_the_code_makes_them_again(
        self, model: TransformerBridge, aligned: ContrastPairs
    ) -> None:
        assert eval(aligned.code) == aligned
        assert eval(aligned.subset([2, 0]).code) == aligned.subset([2, 0])
        with_slices = {"start": [slice(0, 3)] * 3}
        pairs = ContrastPairs.from_text(
            model, self.CLEAN, self.CORRUPTED, ["bee"] * 3, spans=with_slices, align=True
        )
        assert eval(pairs.code) == pairs

    def test_a_subset_keeps_spans_and_matches_of_its_pairs(self, aligned: ContrastPairs) -> None:
        some = aligned.subset([2, 0])
        assert some.matched == (self.MATCHED[2], self.MATCHED[0])
        assert some.spans == (Span("middle", ((2,), (2,)), ((3,), (2, 3))),)
        assert aligned.subset([1]).matched is None
        assert aligned.subset([1]).columns(0) == self.MATCHED[1]

    def test_groups_are_of_one_clean_and_one_corrupted_length(self, aligned: ContrastPairs) -> None:
        # The first two clean prompts are of one length, the corrupted ones are not.
        assert [group.tolist() for group in aligned.groups()] == [[2], [1], [0]]
        clean, corrupted = aligned.batch([0])
        assert clean.tolist() == [[6, 0, 1, 2]]
        assert corrupted.tolist() == [[6, 0, 3, 4, 2]]

    def test_first_differences_are_where_the_token_rows_part(
        self, model: TransformerBridge, aligned: ContrastPairs
    ) -> None:
        assert aligned.first_differences().tolist() == [2, 2, 1]
        longer = ContrastPairs.from_text(model, ["ape bee"], ["ape bee cat"], ["dog"], align=True)
        assert longer.first_differences().tolist() == [3]

    def test_labels_are_the_matched_clean_tokens_where_all_pairs_are_aligned_in_one_way(
        self, model: TransformerBridge, aligned: ContrastPairs
    ) -> None:
        clean, corrupted = ["ape bee dog cat", "ape fox dog cat"], ["ape elk cat", "ape cat bee"]
        spans = {"names": [("bee dog", "elk"), ("fox dog", "cat")]}
        pairs = ContrastPairs.from_text(
            model, clean, corrupted, ["bee"] * 2, spans=spans, align=True
        )
        assert pairs.columns(0) == pairs.columns(1) == ((0, 0), (1, 1), (3, 2), (4, 3))
        assert pairs.position_labels() == ["<bos>", "ape", "dog", "cat"]
        with pytest.raises(PairsError, match="the prompts have 3 to 5 tokens; .* name position"):
            aligned.position_labels()

    def test_labels_are_refused_where_pairs_of_one_length_are_aligned_in_two_ways(
        self, model: TransformerBridge
    ) -> None:
        clean, corrupted = ["ape bee cat", "ape bee cat"], ["ape dog bee cat", "ape bee dog cat"]
        pairs = ContrastPairs.from_text(model, clean, corrupted, ["elk"] * 2, align=True)
        assert pairs.columns(0) != pairs.columns(1)
        with pytest.raises(PairsError, match="aligned in 2 different ways; name position sets, or"):
            pairs.position_labels()

    def test_it_is_shown_before_a_run(self, aligned: ContrastPairs) -> None:
        assert aligned.alignment_table(0) == [
            ("<bos>", "<bos>", "same"),
            ("ape", "ape", "same"),
            ("", "dog", "only in corrupted"),
            ("bee", "elk", "substituted"),
            ("cat", "cat", "same"),
        ]
        assert aligned.alignment_text(2).splitlines() == [
            "clean:     [<bos>]       [ape] [bee]",
            "corrupted: [<bos>] [fox] [ape] [bee]",
        ]
        assert aligned.alignment_text(1).splitlines()[1] == "corrupted: [<bos>] [ape] [fox] [cat]"

    def test_the_digest_holds_the_matches_and_not_the_names(
        self, model: TransformerBridge, aligned: ContrastPairs
    ) -> None:
        content = (
            aligned.clean_tokens, aligned.corrupted_tokens, aligned.answers, aligned.wrong_answers
        )  # fmt: skip
        as_before = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        assert dataclasses.replace(aligned, matched=None).digest() == as_before
        assert aligned.digest() != as_before
        assert dataclasses.replace(aligned, spans=()).digest() == aligned.digest()
        other = (self.MATCHED[0][:2] + self.MATCHED[0][3:], *self.MATCHED[1:])
        assert dataclasses.replace(aligned, matched=other).digest() != aligned.digest()

    @pytest.mark.parametrize("ending", ["jsonl", "json"])
    def test_files_may_name_spans(
        self, model: TransformerBridge, aligned: ContrastPairs, tmp_path: Path, ending: str
    ) -> None:
        places: list[Any] = [["bee", "dog elk"], [[4, 7], "fox"], "bee"]
        records = [
            {"clean": clean, "corrupted": corrupted, "answer": "bee", "spans": {"middle": place}}
            for clean, corrupted, place in zip(self.CLEAN, self.CORRUPTED, places, strict=True)
        ]
        lines = "\n".join(map(json.dumps, records))
        content = lines if ending == "jsonl" else json.dumps({"prompts": records})
        file = tmp_path / f"own.{ending}"
        file.write_text(content)
        pairs = ContrastPairs.from_file(model, file, align=True)
        assert pairs.spans == aligned.spans
        assert pairs.digest() == aligned.digest()
        assert eval(pairs.code) == pairs
        with pytest.raises(PairsError, match="or align=True"):
            ContrastPairs.from_file(model, file)

    def test_a_csv_can_be_aligned(self, model: TransformerBridge) -> None:
        content = b"clean,corrupted,answer\nape bee,ape dog bee,cat\n"
        pairs = ContrastPairs.from_bytes(model, content, name="a.csv", align=True)
        assert pairs.matched == (((0, 0), (1, 1), (2, 3)),)

    @pytest.mark.parametrize(
        ("spans", "message"),
        [
            (
                [{"x": "ape"}, {"y": "dog"}],
                "record 2 has the spans 'y' and record 1 'x': name the same ones in every record",
            ),
            ([{"x": "ape"}, None], "record 2 has the spans none and record 1 'x'"),
            (["ape", "dog"], "record 1: spans must be an object of names and texts, found 'ape'"),
            (
                [{"x": 3}, {"x": "dog"}],
                "record 1: span 'x' must be a text, .first, end. characters, or a list",
            ),
            ([{"x": ["ape", 3]}, {"x": "dog"}], "record 1: span 'x' must be a text"),
        ],
    )
    def test_spans_in_files_that_are_refused(
        self, model: TransformerBridge, spans: list[Any], message: str
    ) -> None:
        records = [
            {"clean": clean, "corrupted": corrupted, "answer": "bee", "spans": span}
            for clean, corrupted, span in zip(CLEAN, CORRUPTED, spans, strict=True)
        ]
        with pytest.raises(PairsError, match=message):
            ContrastPairs.from_records(model, records, name="own")


@dataclasses.dataclass(frozen=True)
class Holder(results.Result):
    """A result that keeps its pairs, as every analysis of pairs does."""

    pairs: ContrastPairs

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame()

    def figure(self) -> go.Figure:
        return go.Figure()

    def summary(self) -> str:
        return self.pairs.name


class TestSaved:
    def saved(self, model: TransformerBridge, pairs: ContrastPairs, folder: Path) -> Path:
        made = results.provenance(
            model, analysis="tests.holder", parameters={}, seed=0, wall_time=0.0
        )
        return Holder(made, pairs).save(folder)

    def test_spans_and_matches_come_back(self, model: TransformerBridge, tmp_path: Path) -> None:
        before = ContrastPairs.from_text(
            model,
            TestAligned.CLEAN,
            TestAligned.CORRUPTED,
            ["bee"] * 3,
            spans=TestAligned.SPANS,
            align=True,
        )
        after = Holder.load(self.saved(model, before, tmp_path / "run")).pairs
        assert after == before
        assert after.matched == TestAligned.MATCHED
        assert after.spans == before.spans
        assert after.digest() == before.digest()

    def test_pairs_without_them_come_back(
        self, model: TransformerBridge, expected: ContrastPairs, tmp_path: Path
    ) -> None:
        assert Holder.load(self.saved(model, expected, tmp_path / "run")).pairs == expected

    def test_pairs_that_were_saved_before_there_were_any_come_back(
        self, model: TransformerBridge, expected: ContrastPairs, tmp_path: Path
    ) -> None:
        file = self.saved(model, expected, tmp_path / "run") / "result.json"
        document = json.loads(file.read_text())
        del document["fields"]["pairs"]["spans"], document["fields"]["pairs"]["matched"]
        file.write_text(json.dumps(document))
        assert Holder.load(tmp_path / "run").pairs == expected


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

    @pytest.mark.parametrize("templates", ["one", "all"])
    @pytest.mark.parametrize(
        "task", ["indirect-object", "pronoun-gender", "agreement", "induction", "greater-than"]
    )
    def test_named_places_decode_to_the_words_that_the_task_names(
        self, grammar: TransformerBridge, task: str, templates: str
    ) -> None:
        pairs = ContrastPairs.from_task(grammar, task, n=20, seed=1, templates=templates)
        texts = {
            (text.clean, text.corrupted): text for text in tasks.get_task(task).pairs(1_000, seed=1)
        }
        for i, both in enumerate(zip(pairs.clean, pairs.corrupted, strict=True)):
            for place in texts[both].spans:
                span = pairs.position_set(place.name)
                ends = (place.clean, place.corrupted)
                rows = (pairs.clean_strings[i], pairs.corrupted_strings[i])
                found = (span.clean[i], span.corrupted[i])
                for text, end, row, positions in zip(both, ends, rows, found, strict=True):
                    assert "".join(row[p].strip() for p in positions) == text[slice(*end)]
                    # BOS stands in front, and no word comes before its place in the text.
                    assert positions[0] > 0
                    before = "".join(row[p].strip() for p in range(1, positions[0]))
                    assert before == text[: end[0]].replace(" ", "")

    def test_named_places_of_modular_addition(self, modadd: TransformerBridge) -> None:
        pairs = ContrastPairs.from_task(modadd, "modular-addition", n=20)
        assert pairs.position_names()[-2:] == ("first number", "second number")
        assert set(pairs.position_set("first number").clean) == {(0,)}
        assert set(pairs.position_set("second number").corrupted) == {(1,)}

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
        with pytest.raises(PairsError, match="'apple', '113' are outside the vocabulary"):
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
        model = unplanted.randomised()
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
