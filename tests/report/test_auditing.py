"""A whole audit, on a small model and few prompts."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import pytest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from tests.report import tables
from workbench.core import runs
from workbench.core.planted import two_steps
from workbench.report import auditing
from workbench.report.document import Report, SelfTest
from workbench.report.spec import AuditSpec

ADDITION = {"task": "modular-addition", "n": 8}


def spec(**changed: Any) -> AuditSpec:
    """One behaviour, one kind of site and a circuit: what can be answered in a second."""
    off = {"ask": False}
    questions = {
        "sites": {"kinds": ["mlp_out"]},
        "circuit": {"random": 19},
        "units": off,
        "concepts": off,
        "training": off,
        **changed.pop("questions", {}),
    }
    plain = {
        "model": {"name": "modadd-113"},
        "behaviours": [ADDITION],
        "questions": questions,
        **changed,
    }
    return AuditSpec.model_validate(plain)


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return workbench.load_model("modadd-113")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> runs.RunStore:
    return runs.RunStore(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(model: TransformerBridge, store: runs.RunStore) -> Report:
    return auditing.audit(model, spec(), store=store)


def test_it_states_what_is_known_of_the_model(report: Report) -> None:
    shown = report.finding("behaviour/modular-addition")
    assert shown.measured[0].value == 1.0
    where = report.finding("sites/modular-addition")
    assert where.verdict == "pass" and "MLP L0" in where.statement
    assert ("neurons of a layer", "512") in report.examined
    assert ("parameters", "227,442") in report.examined


def test_findings_stand_in_the_order_of_the_questions_and_none_is_missing(report: Report) -> None:
    assert [one.id for one in report.findings] == [
        "behaviour/modular-addition",
        "sites/modular-addition",
        "localization/modular-addition",
        "circuit/modular-addition",
        "units",
        "concepts",
        "training",
    ]
    assert {one.id for one in report.sections} == {
        one.id for one in report.findings if one.verdict != "not examined"
    }


def test_what_is_switched_off_is_said_not_to_be_examined(report: Report) -> None:
    for question in ("units", "concepts", "training"):
        finding = report.finding(question)
        assert finding.verdict == "not examined" and finding.reason == "not asked for"
    assert any("It was not asked for: what makes a unit fire" in one for one in report.limits)
    assert "too few" in report.finding("localization/modular-addition").reason


def test_the_manifest_says_what_is_needed_to_make_it_again(
    report: Report, model: TransformerBridge
) -> None:
    made = report.manifest
    assert made.fingerprint == workbench.fingerprint(model)
    assert made.spec == spec() and made.model == "modadd-113"
    assert set(made.run_ids) == {one.id for one in report.sections}
    assert all(made.run_ids.values()) and all(one > 0 for one in made.seconds.values())
    assert {"torch", "workbench"} <= set(made.versions)
    assert {"processor", "cores", "memory", "device", "python"} <= set(made.hardware)
    assert Report.model_validate_json(report.to_json()) == report


def test_an_equal_audit_is_answered_from_the_store(
    report: Report, model: TransformerBridge, store: runs.RunStore
) -> None:
    again = auditing.audit(model, report.manifest.spec, store=store)
    assert again.manifest.run_ids == report.manifest.run_ids
    assert again.findings == report.findings
    assert [one.exhibits for one in again.sections] == [one.exhibits for one in report.sections]


def test_without_a_store_the_same_is_found(report: Report, model: TransformerBridge) -> None:
    again = auditing.audit(model, spec())
    assert again.findings == report.findings
    assert set(again.manifest.run_ids.values()) == {()}


def test_another_seed_is_another_audit(report: Report, model: TransformerBridge) -> None:
    off = {name: {"ask": False} for name in ("sites", "localization", "circuit")}
    again = auditing.audit(model, spec(seed=1, questions=off))
    id_ = "behaviour/modular-addition"
    assert again.finding(id_).measured[1].value != report.finding(id_).measured[1].value


def test_a_model_whose_words_are_shuffled_fails() -> None:
    found = auditing.audit(tables.forgetful("modadd-113"), spec())
    assert found.verdict == "fail"
    assert found.headlines[0] == "behaviour/modular-addition"
    for question in ("sites", "localization", "circuit"):
        finding = found.finding(f"{question}/modular-addition")
        assert finding.verdict == "not examined"
        assert "does not show this behaviour" in finding.reason


def test_another_model_than_the_spec_names_is_refused(model: TransformerBridge) -> None:
    named = {"name": "modadd-113", "fingerprint": "0" * 64}
    with pytest.raises(
        auditing.WrongModelError, match=f"{'0' * 64}.*{workbench.fingerprint(model)}"
    ):
        auditing.audit(model, spec(model=named))


def test_what_there_is_no_time_for_is_not_examined(model: TransformerBridge) -> None:
    found = auditing.audit(model, spec(limits={"minutes": 1e-9}))
    assert found.verdict == "not examined"
    reason = found.finding("circuit/modular-addition").reason
    assert reason == "the audit's limit of 1e-09 minutes was reached before it was answered"


def test_what_there_is_no_memory_for_is_not_examined(model: TransformerBridge) -> None:
    found = auditing.audit(model, spec(limits={"gigabytes": 1e-6}))
    assert "GB of memory" in found.finding("circuit/modular-addition").reason
    assert found.finding("behaviour/modular-addition").verdict != "not examined"


def test_a_question_that_cannot_be_asked_says_why_and_the_others_are_answered(
    model: TransformerBridge,
) -> None:
    found = auditing.audit(
        model,
        spec(
            behaviours=[{"task": "agreement", "n": 4}, ADDITION],
            questions={"sites": {"kinds": ["x"]}},
        ),
    )
    assert "agreement" in found.finding("behaviour/agreement").reason
    assert "unknown site 'x'" in found.finding("sites/modular-addition").reason
    assert found.finding("behaviour/modular-addition").verdict != "not examined"


def test_a_model_without_the_words_of_any_task_is_asked_nothing() -> None:
    found = auditing.audit(two_steps.two_layer(), spec(behaviours=[], model={}))
    assert found.verdict == "not examined"
    assert "no behaviour was named" in found.finding("behaviour").reason
    assert "no behaviour that it could be asked of" in found.finding("circuit").reason


def test_a_task_that_is_asked_about_twice_has_two_findings(model: TransformerBridge) -> None:
    off = {name: {"ask": False} for name in ("sites", "localization", "circuit")}
    twice = [ADDITION, {**ADDITION, "n": 12}]
    found = auditing.audit(model, spec(behaviours=twice, questions=off))
    ids = [one.id for one in found.findings]
    assert len(set(ids)) == len(ids)
    assert "behaviour/modular-addition (2)" in ids
    assert found.sections[1].id == "behaviour/modular-addition (2)"


def test_files_are_named_with_their_digest(model: TransformerBridge, tmp_path: Path) -> None:
    (tmp_path / "sums.csv").write_text(
        "clean,corrupted,answer,wrong_answer\n" + '1 + 2 =,1 + 3 =," 3"," 4"\n' * 2
    )
    off = {name: {"ask": False} for name in ("sites", "localization", "circuit")}
    asked = spec(behaviours=[{"pairs": "sums.csv"}], questions=off)
    found = auditing.audit(model, asked, folder=tmp_path)
    expected = hashlib.sha256((tmp_path / "sums.csv").read_bytes()).hexdigest()
    assert found.manifest.inputs == {"sums.csv": expected}
    assert found.finding("behaviour/sums.csv").measured[0].value == 1.0


def test_what_progress_raises_ends_the_audit(model: TransformerBridge) -> None:
    class Enough(Exception):
        pass

    def tell(fraction: float, note: str) -> None:
        if note.startswith("circuit"):
            raise Enough

    with pytest.raises(Enough):
        auditing.audit(model, spec(), progress=tell)


def test_progress_names_the_question_and_never_goes_back(model: TransformerBridge) -> None:
    told: list[tuple[float, str]] = []
    auditing.audit(model, spec(), progress=lambda fraction, note: told.append((fraction, note)))
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any(note.startswith("sites/modular-addition: ") for _, note in told)


def test_the_self_test_is_run_where_it_is_asked_for(
    model: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SelfTest(rows=(), seconds=1.0)
    # The function of that name hides its module.
    module = importlib.import_module("workbench.report.selftest")
    monkeypatch.setattr(module, "selftest", lambda progress=None: done)
    asked = spec(limits={"minutes": 1e-9})
    assert auditing.audit(model, asked, selftest=True).selftest == done
    assert auditing.audit(model, asked).selftest is None
