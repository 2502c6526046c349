"""Which three findings come first."""

from __future__ import annotations

from workbench.report.document import Finding
from workbench.report.headlines import headlines
from workbench.report.spec import Question, Verdict


def finding(question: Question, about: str, verdict: Verdict) -> Finding:
    id_ = f"{question}/{about}"
    return Finding(id=id_, question=question, about=about, verdict=verdict, statement="Found.")


def test_what_fails_comes_before_a_warning_and_that_before_what_passes() -> None:
    found = [
        finding("behaviour", "a", "pass"),
        finding("behaviour", "b", "not examined"),
        finding("units", "neuron 0.1", "warn"),
        finding("sites", "a", "fail"),
    ]
    assert headlines(found) == ("sites/a", "units/neuron 0.1", "behaviour/a")


def test_of_equal_verdict_each_question_is_heard_before_one_is_heard_twice() -> None:
    found = [
        finding("behaviour", "a", "pass"),
        finding("sites", "a", "pass"),
        finding("circuit", "a", "pass"),
        finding("behaviour", "b", "pass"),
        finding("training", "sums", "pass"),
    ]
    assert headlines(found) == ("behaviour/a", "training/sums", "circuit/a")


def test_a_second_failure_of_a_question_comes_before_any_warning() -> None:
    found = [
        finding("circuit", "a", "warn"),
        finding("behaviour", "a", "fail"),
        finding("behaviour", "b", "fail"),
    ]
    assert headlines(found) == ("behaviour/a", "behaviour/b", "circuit/a")


def test_where_nothing_was_examined_that_is_what_is_said() -> None:
    assert headlines([finding("units", "u", "not examined")]) == ("units/u",)
    assert headlines([]) == ()
