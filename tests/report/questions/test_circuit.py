"""The circuit of a behaviour: what the report says of it is what the analyses find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from analyses import circuits
from tests.report import tables
from workbench.core import runs
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.questions import circuit
from workbench.report.spec import AuditSpec, Behaviour, Circuit, Limits, Questions, Threshold

AGREEMENT = Behaviour(task="agreement", n=16)
ADDITION = Behaviour(task="modular-addition", n=16)


def asking(**how: object) -> AuditSpec:
    return AuditSpec(questions=Questions(circuit=Circuit.model_validate({"random": 19, **how})))


@pytest.fixture(scope="module")
def grammar() -> Answer:
    return circuit.examine(tables.on_the_table("grammar-4l"), AGREEMENT)


@pytest.fixture(scope="module")
def adder() -> Examination:
    return tables.on_the_table("modadd-113")


def test_the_circuit_of_the_grammar_model_is_small_and_faithful(grammar: Answer) -> None:
    faithful, size = grammar.finding.measured
    assert size.value is not None and size.value < 0.1
    assert faithful.low is not None and faithful.low > 0.8
    assert faithful.null_value == pytest.approx(0, abs=0.05)
    assert faithful.p_value == pytest.approx(1 / 20)
    assert faithful.n == 8
    assert grammar.finding.verdict == "pass"
    assert "479 connections" in grammar.finding.statement


def test_every_number_is_that_of_the_analysis(adder: Examination) -> None:
    answer = circuit.examine(adder, ADDITION)
    found = circuits.discover(adder.model, adder.pairs(ADDITION), n_random=19)
    judged = found.faithfulness
    assert judged is not None
    faithful, size = answer.finding.measured
    assert faithful.value == pytest.approx(judged.value)
    assert (faithful.low, faithful.high) == pytest.approx(tuple(judged.interval))
    assert faithful.null_value == pytest.approx(judged.random.mean())
    assert size.value == pytest.approx(found.share)
    numbers = {one.name: one.value for one in answer.section.measured}
    assert numbers["connections in the circuit"] == len(found.edges)
    assert numbers["connections in the model"] == 23
    table = next(one.table for one in answer.section.exhibits if one.table is not None)
    assert [row[0] for row in table.rows] == found.to_frame()["edge"].tolist()


def test_a_circuit_of_nearly_half_of_the_model_is_a_warning(adder: Examination) -> None:
    # Addition modulo 113 goes through all four heads and the MLP of a model of one layer.
    answer = circuit.examine(adder, ADDITION)
    size = answer.finding.measured[1].value
    assert size is not None and 0.25 < size < 0.75
    assert answer.finding.verdict == "warn"


def test_the_caveat_is_where_the_circuit_and_the_model_differ_most(adder: Examination) -> None:
    answer = circuit.examine(adder, ADDITION)
    gap = next(one for one in answer.section.measured if one.name.startswith("largest gap"))
    assert gap.value is not None and gap.value > 0.1
    assert "not complete" in answer.finding.caveat


def test_a_threshold_that_is_not_met_fails(adder: Examination) -> None:
    hard = Threshold(passes=1.5, warns=1.2)
    table = dataclasses.replace(adder, spec=asking(faithfulness=hard))
    assert circuit.examine(table, ADDITION).finding.verdict == "fail"


def test_a_model_whose_words_are_shuffled_has_no_circuit() -> None:
    table = tables.on_the_table(tables.forgetful("modadd-113"))
    with pytest.raises(NotExamined, match="does not show this behaviour"):
        circuit.examine(table, ADDITION)


def test_what_needs_more_memory_than_is_allowed_is_not_begun(adder: Examination) -> None:
    spec = asking().model_copy(update={"limits": Limits(gigabytes=1e-6)})
    with pytest.raises(NotExamined, match="GB of memory, and the audit's limit is 1e-06 GB"):
        circuit.examine(dataclasses.replace(adder, spec=spec), ADDITION)


def test_three_pairs_are_too_few(adder: Examination) -> None:
    with pytest.raises(NotExamined, match="needs 4 pairs; there are 3"):
        circuit.examine(adder, Behaviour(task="modular-addition", n=3))


def test_an_equal_request_finds_circuit_and_completeness_again(
    adder: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = runs.RunStore(tmp_path)
    first = tables.on_the_table(adder.model, store=store)
    found = circuit.examine(first, ADDITION)

    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("it was computed again")

    monkeypatch.setattr(circuits, "discover", refuse)
    monkeypatch.setattr(circuits, "completeness", refuse)
    second = tables.on_the_table(adder.model, store=store)
    assert circuit.examine(second, ADDITION) == found
    assert second.run_ids == first.run_ids
    # Whether it is shown, the circuit, and its completeness.
    assert len(first.run_ids) == 3
