"""Specs of audits, and reports that somebody else has made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz import corpus, drawing, effort, watching
from tests.report import example as reports
from workbench.core import runs
from workbench.report import html, reproducing, spec_files
from workbench.report import spec as specs

SPEC: dict[str, Any] = {
    **specs.AuditSpec(
        title="An audit",
        behaviours=(specs.Behaviour(task="agreement"), specs.Behaviour(pairs="pairs.csv")),
    ).plain()
}
REPORT: dict[str, Any] = json.loads(reports.bare().to_json())
WHOLE: dict[str, Any] = json.loads(reports.report().to_json())


def read_spec(folder: Path, content: bytes) -> None:
    file = folder / "audit.yaml"
    file.write_bytes(content)
    with watching.watched(hostile=folder):
        watching.refused(lambda: spec_files.read(file))
        text = content.decode("utf-8", "replace")
        found = watching.refused(lambda: spec_files.read_text(text, "audit.yaml"))
        if found is not None:
            assert spec_files.read_text(spec_files.to_yaml(found), "again") == found


def test_bad_specs_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, content in {**corpus.ANY_TEXT, **corpus.ANY_JSON, **corpus.SPECS}.items():
        with subtests.test(name):
            read_spec(tmp_path, content)
    assert not (Path.cwd() / "CANARY").exists()


@effort.inputs(25)
@given(spec=drawing.altered(SPEC))
def test_altered_specs_are_read_or_refused(tmp_path: Path, spec: Any) -> None:
    # JSON is YAML, so whatever JSON holds can stand in a spec.
    read_spec(tmp_path, drawing.json_bytes(spec))


@effort.inputs(20)
@given(content=drawing.damaged(spec_files.commented("grammar-4l").encode()))
@example(b"a: \xc2\x85\n")
def test_damaged_specs_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    read_spec(tmp_path, content)


def read_report(file: Path) -> None:
    with watching.watched(hostile=file.parent):
        opened = watching.refused(lambda: reproducing.open_file(file))
        if opened is not None:
            if not opened.report.sections:
                # Figures take long to draw.
                assert "<script>document.title" not in html.render(opened.report)
            watching.refused(lambda: reproducing.location(opened.report))
            assert all(row.same for row in reproducing.compared(opened.report, opened.report))


@pytest.mark.parametrize("ending", [".json", ".html"])
def test_bad_reports_are_refused(tmp_path: Path, ending: str, subtests: pytest.Subtests) -> None:
    opening = '<script type="application/json" id="report">'
    for name, content in {**corpus.ANY_TEXT, **corpus.ANY_JSON}.items():
        file = tmp_path / f"report{ending}"
        with subtests.test(name):
            file.write_bytes(content)
            read_report(file)
            file.write_bytes(opening.encode() + content + b"</script>")
            read_report(file)


@effort.inputs(20)
@given(data=st.data(), base=st.sampled_from((REPORT, WHOLE)))
def test_altered_reports_are_read_or_refused(
    tmp_path: Path, data: st.DataObject, base: dict[str, Any]
) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(drawing.json_bytes(data.draw(drawing.altered(base))))
    read_report(file)


@effort.inputs(8)
@given(report=drawing.altered({name: REPORT[name] for name in REPORT if name != "manifest"}))
def test_reproduce_says_in_a_sentence_what_is_wrong(tmp_path: Path, report: Any) -> None:
    whole = {**report, "manifest": REPORT["manifest"]} if isinstance(report, dict) else report
    file = tmp_path / "report.json"
    file.write_bytes(drawing.json_bytes(whole))
    with watching.watched(tmp_path, runs.default_root()):
        watching.command("reproduce", str(file), "--folder", str(tmp_path))


@effort.inputs(10)
@given(name=drawing.texts)
def test_a_report_about_any_model_is_read_without_asking_anyone(tmp_path: Path, name: str) -> None:
    manifest = {**REPORT["manifest"], "model": name}
    file = tmp_path / "report.json"
    file.write_bytes(drawing.json_bytes({**REPORT, "manifest": manifest}))
    with watching.watched(tmp_path, runs.default_root()):
        assert watching.command("reproduce", str(file)).exit_code == 2


def test_audit_says_in_a_sentence_what_is_wrong(tmp_path: Path) -> None:
    for name in ("an object of Python", "outside", "controls", "deep flow", "long path"):
        file = tmp_path / "audit.yaml"
        file.write_bytes({**corpus.ANY_TEXT, **corpus.SPECS}[name])
        output = tmp_path / "report.json"
        with watching.watched(tmp_path, runs.default_root()):
            found = watching.command("audit", "--spec", str(file), "-o", str(output))
        assert found.exit_code == 2 and not output.exists(), name
