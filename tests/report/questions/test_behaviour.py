"""Whether a model shows a behaviour, against its own logits read off one by one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.report import tables
from workbench.core import runs
from workbench.core.engine import running
from workbench.report.examining import Examination, NotExamined
from workbench.report.questions import behaviour
from workbench.report.questions.behaviour import Behaving
from workbench.report.spec import Behaviour, Threshold

ADDITION = Behaviour(task="modular-addition", n=24)


@pytest.fixture(scope="module")
def adder() -> Examination:
    return tables.on_the_table("modadd-113")


@pytest.fixture(scope="module")
def grammar() -> Examination:
    return tables.on_the_table("grammar-4l")


@pytest.fixture(scope="module")
def later(grammar: Examination) -> Behaving:
    return behaviour.behaving(grammar, Behaviour(task="greater-than", n=24))


def test_a_prompt_is_right_where_the_answer_is_the_most_probable_token(
    grammar: Examination,
) -> None:
    asked = Behaviour(task="induction", n=24)
    found, pairs = behaviour.behaving(grammar, asked), grammar.pairs(asked)
    for i, tokens in enumerate(pairs.clean_tokens):
        logits = grammar.model(torch.tensor([tokens]))[0, -1].detach()
        assert found.right[i] == (int(logits.argmax()) in pairs.answers[i])
        gap = float(logits[pairs.answers[i][0]] - logits[pairs.wrong_answers[i][0]])
        assert found.differences[i] == pytest.approx(gap, abs=1e-4)
        share = float(logits.softmax(-1)[pairs.answers[i][0]])
        assert found.probabilities[i] == pytest.approx(share, abs=1e-5)
    assert found.accuracy == 1.0


def test_where_several_answers_are_right_it_has_to_beat_the_wrong_one(later: Behaving) -> None:
    assert later.criterion == "beats wrong answer"
    assert later.right.tolist() == (later.differences > 0).tolist()
    assert later.top.mean() < 0.5 < later.accuracy


def test_the_interval_of_an_accuracy_is_exact(adder: Examination) -> None:
    found = behaviour.behaving(adder, ADDITION)
    # All of 24 right: the lower bound is the accuracy of which that has a chance of 2.5 %.
    assert found.accuracy == 1.0
    assert found.interval == pytest.approx([0.025 ** (1 / 24), 1.0], abs=1e-9)


def test_the_null_is_how_often_answers_of_other_pairs_would_be_right(
    grammar: Examination,
) -> None:
    asked = Behaviour(task="agreement", n=24)
    found, pairs = behaviour.behaving(grammar, asked), grammar.pairs(asked)
    said = [int(grammar.model(torch.tensor([t]))[0, -1].argmax()) for t in pairs.clean_tokens]
    every = np.array([[one in answers for answers in pairs.answers] for one in said])
    # The mean of 199 random orders is the mean over all pairs of prompts and answers, but for a
    # standard error of about .005.
    assert found.others.mean() == pytest.approx(every.mean(), abs=0.02)
    assert 0.1 < found.others.mean() < 0.6
    assert found.p_value == pytest.approx(1 / 200)


def test_a_model_that_does_what_it_should_passes_only_if_the_whole_interval_does(
    adder: Examination,
) -> None:
    verdicts = {
        passes: behaviour.examine(
            adder, ADDITION.model_copy(update={"accuracy": Threshold(passes=passes, warns=0.5)})
        ).finding.verdict
        for passes in (0.8, 0.9)
    }
    # The interval is .857 to 1.
    assert verdicts == {0.8: "pass", 0.9: "warn"}


def test_the_worse_of_two_thresholds_is_the_verdict(adder: Examination) -> None:
    asked = ADDITION.model_copy(
        update={
            "accuracy": Threshold(passes=0.8, warns=0.5),
            "logit_difference": Threshold(passes=1000.0, warns=100.0),
        }
    )
    assert behaviour.examine(adder, asked).finding.verdict == "fail"


def test_a_model_whose_words_are_shuffled_fails_and_shows_no_behaviour() -> None:
    table = tables.on_the_table(tables.forgetful("modadd-113"))
    answer = behaviour.examine(table, ADDITION)
    assert answer.finding.verdict == "fail"
    assert "no more than the answers of other pairs" in answer.finding.caveat
    with pytest.raises(NotExamined, match="does not show this behaviour"):
        behaviour.require_shown(table, ADDITION)


def test_every_number_says_how_sure_it_is(later: Behaving, grammar: Examination) -> None:
    answer = behaviour.examine(grammar, Behaviour(task="greater-than", n=24))
    accuracy, gap = answer.finding.measured
    assert accuracy.name == behaviour.ACCURACY and gap.name == behaviour.LOGIT_DIFFERENCE
    for one in (accuracy, gap):
        assert one.low is not None and one.high is not None and one.value is not None
        assert one.low <= one.value <= one.high
        assert one.n == 24 and one.null and one.threshold
    assert accuracy.value == pytest.approx(later.accuracy)
    assert accuracy.null_value == pytest.approx(later.others.mean())
    assert "only" in answer.finding.caveat
    table = answer.section.exhibits[1].table
    assert table is not None and table.left_out == 4
    place = table.columns.index("probability")
    probabilities = [float(str(row[place])) for row in table.rows]
    assert probabilities == sorted(probabilities)


def test_pairs_without_wrong_answers_are_judged_by_their_most_probable_token(
    adder: Examination, tmp_path: Path
) -> None:
    (tmp_path / "sums.csv").write_text(
        'clean,corrupted,answer\n"1 + 2 =","1 + 3 ="," 3"\n"4 + 5 =","4 + 6 ="," 7"\n'
        '"7 + 8 =","7 + 9 ="," 15"\n"10 + 8 =","10 + 9 ="," 18"\n'
    )
    table = dataclasses.replace(adder, folder=tmp_path, drawn={})
    asked = Behaviour(pairs="sums.csv", accuracy=Threshold(passes=0.1, warns=0.0))
    found = behaviour.behaving(table, asked)
    # 4 + 5 is not 7.
    assert found.right.tolist() == [True, False, True, True]
    assert np.isnan(found.differences).all()
    assert behaviour.metric_of(found.pairs) == "probability"
    answer = behaviour.examine(table, asked)
    assert [one.name for one in answer.finding.measured] == [behaviour.ACCURACY]
    assert answer.finding.verdict == "pass"
    assert "'4 + 5 =' with '9'" in answer.finding.caveat
    assert "probability" in str(answer.section.exhibits[0].figure)


def test_a_file_outside_of_the_folder_of_the_spec_is_not_read(
    adder: Examination, tmp_path: Path
) -> None:
    (tmp_path / "secret.csv").write_text("clean,corrupted,answer\n")
    (tmp_path / "specs").mkdir()
    table = dataclasses.replace(adder, folder=tmp_path / "specs", drawn={})
    with pytest.raises(NotExamined, match="outside of the folder"):
        behaviour.behaving(table, Behaviour(pairs="../secret.csv"))


def test_an_equal_request_runs_nothing_and_is_the_same_run(
    adder: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = runs.RunStore(tmp_path)
    first = tables.on_the_table(adder.model, store=store)
    found = behaviour.behaving(first, ADDITION)

    def refuse(*arguments: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(running, "run", refuse)
    second = tables.on_the_table(adder.model, store=store)
    again = behaviour.behaving(second, ADDITION)
    assert second.run_ids == first.run_ids and len(first.run_ids) == 1
    assert again.said == found.said and again.right.tolist() == found.right.tolist()


def test_a_criterion_that_is_not_known_or_lacks_wrong_answers_is_refused(
    adder: Examination,
) -> None:
    pairs = dataclasses.replace(adder.pairs(ADDITION), wrong_answers=((),) * 24)
    with pytest.raises(ValueError, match="expected one of top token"):
        behaviour.run(adder.model, pairs, criterion="best")
    with pytest.raises(ValueError, match="needs wrong answers"):
        behaviour.run(adder.model, pairs, criterion="beats wrong answer")
