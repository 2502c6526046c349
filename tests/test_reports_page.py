"""The Reports page builds a spec, runs it as a job, and shows what the library found."""

from __future__ import annotations

import contextlib
import importlib
import io
import threading
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.visiting import PATIENCE, button, settled, texts, visit
from workbench.report import AuditSpec, auditing, document, spec_files, wording
from workbench.ui import reports

MODEL = "modadd-113"
# Imported here: under the import hook of the tests, a thread that imports while another one parses
# a page can make Python 3.11 fail (gh-106905).
for _question in ("behaviour", "concepts", "training", "units"):
    importlib.import_module(f"workbench.report.questions.{_question}")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    st.cache_resource.clear()


def asked_for(at: AppTest) -> AuditSpec:
    """The spec that the page shows."""
    text = next(item.value for item in at.code if item.value.startswith("format:"))
    return spec_files.read_text(text, "the page")


def tiny() -> AppTest:
    """A whole audit that takes a second: one behaviour, and no other question."""
    at = visit("reports", model=MODEL, behaviours="modular-addition", n="8", selftest="false")
    asked = next(item for item in at.button_group if item.key == "asked")
    return settled(asked.set_value([]).run())


def code_of(at: AppTest) -> str:
    return next(item.value for item in at.code if "import AuditSpec, audit" in item.value)


def test_what_is_chosen_is_what_the_spec_says() -> None:
    at = visit("reports", model=MODEL)
    spec = asked_for(at)
    # As it stands it is the default audit.
    assert spec == AuditSpec.model_validate({"model": {"name": MODEL}})
    at = tiny()
    settled(at.number_input(key="pass:accuracy").set_value(0.5).run())
    settled(at.number_input(key="minutes").set_value(2.0).run())
    settled(at.text_input(key="unit-names").set_value("neuron 0.1, head 0.2").run())
    spec = asked_for(at)
    (behaviour,) = spec.behaviours
    assert (behaviour.task, behaviour.n, behaviour.accuracy.passes) == ("modular-addition", 8, 0.5)
    assert not any(getattr(spec.questions, name).ask for name in type(spec.questions).model_fields)
    assert spec.limits.minutes == 2
    assert spec.questions.units.units == ("neuron 0.1", "head 0.2")
    assert reports.listed() == {}


def test_an_audit_from_the_button_to_the_report_its_link_and_its_code() -> None:
    at = settled(button(tiny(), "Run the audit").click().run())
    ((name, report),) = reports.listed().items()
    assert at.query_params["report"] in (name, [name])
    shown = texts(at)
    assert wording.OVERALL[report.verdict] in shown
    for finding in report.findings:
        assert " ".join((finding.reason or finding.statement).split()) in shown
    assert report.sections[0].asked in shown
    assert all(limit in shown for limit in report.limits)
    # After a restart, the link opens it at once.
    st.cache_resource.clear()
    again = visit("reports", report=name)
    assert wording.OVERALL[report.verdict] in texts(again)
    said = io.StringIO()
    library: dict[str, object] = {}
    with contextlib.redirect_stdout(said):
        exec(compile(code_of(again), "the page's code", "exec"), library)
    made = library["report"]
    assert isinstance(made, document.Report)
    assert made.findings == report.findings
    assert report.findings[0].statement in said.getvalue()


def test_a_spec_from_a_file_names_its_line_and_its_model() -> None:
    at = visit("reports", model=MODEL, spec="from a file")
    upload = at.file_uploader[0]
    broken = b"model:\n  name: modadd-113\nquestons: {}\n"
    settled(upload.set_value(("audit.yaml", broken, "application/yaml")).run())
    assert "line 3" in texts(at) and "questons" in texts(at)
    other = b"model:\n  name: grammar-4l\n"
    settled(at.file_uploader[0].set_value(("audit.yaml", other, "application/yaml")).run())
    assert "pick the model that the spec is about" in texts(at)
    own = b"title: <img src=x onerror=alert(1)>\nmodel:\n  name: modadd-113\n"
    settled(at.file_uploader[0].set_value(("audit.yaml", own, "application/yaml")).run())
    assert not at.error
    assert asked_for(at).title == "<img src=x onerror=alert(1)>"


def test_it_can_be_cancelled_and_leaves_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(*arguments: object, **options: object) -> None:
        report = options["progress"]
        assert callable(report)
        report(0.5, "half of it")
        reached.set()
        go_on.wait(PATIENCE)
        report(0.6, "further")

    at = tiny()
    monkeypatch.setattr(auditing, "audit", slow)
    button(at, "Run the audit").click().run()
    assert reached.wait(PATIENCE)
    button(at.run(), "Cancel").click().run()
    go_on.set()
    settled(at)
    assert "cancelled" in texts(at)
    assert reports.listed() == {}


def planted() -> document.Report:
    """A report with hostile strings and a figure that is none."""
    hostile = "![x](http://evil.example/a.png) <script>\u202e"
    finding = document.Finding(
        id="units/x",
        question="units",
        about=hostile,
        verdict="warn",
        statement=hostile,
        evidence=hostile,
        caveat=hostile,
    )
    section = document.Section(
        id="units/x",
        question="units",
        title=hostile,
        asked=hostile,
        summary=hostile,
        method=hostile,
        exhibits=(
            document.Exhibit(caption=hostile, figure={"data": [{"type": "none"}]}),
            document.Exhibit(
                caption=hostile, table=document.Table(columns=("a",), rows=((hostile,),))
            ),
        ),
        measured=(document.Measured(name=hostile, value=None),),
    )
    return document.Report(
        title=hostile,
        examined=(),
        findings=(finding,),
        headlines=("units/x",),
        sections=(section,),
        limits=(hostile,),
        manifest=document.Manifest(
            model=MODEL,
            fingerprint="0" * 64,
            spec=AuditSpec(),
            seed=0,
            versions={},
            hardware={},
            created="2026-01-02T03:04:05+00:00",
        ),
    )


def test_hostile_strings_of_a_report_are_shown_as_they_are() -> None:
    at = visit("reports", report=reports.keep(planted()))
    kinds = (at.title, at.header, at.subheader, at.markdown, at.caption)
    said = "\n".join(str(element.value) for kind in kinds for element in kind)
    assert "evil" in said
    assert "![x]" not in said and "<script>" not in said and "\u202e" not in said
    assert "cannot be drawn" in said


@pytest.mark.parametrize("name", ["../../etc/passwd", "0" * 16, "x"])
def test_a_link_to_no_report_falls_back_to_a_new_audit(name: str) -> None:
    at = visit("reports", report=name, model=MODEL)
    assert "not stored on this machine" in texts(at)
    assert button(at, "Run the audit")


def test_a_file_that_is_no_report_is_not_listed(tmp_path: Path) -> None:
    kept = reports.keep(planted())
    (reports.folder() / f"{'a' * 16}.json").write_text("{}")
    (reports.folder() / "notes.json").write_text("{}")
    assert list(reports.listed()) == [kept]
    assert reports.find("a" * 16) is None
