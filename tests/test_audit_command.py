"""`workbench audit`, `reproduce`, `compare` and `selftest`: files, tables, exit codes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import safetensors.torch
from typer import testing

from workbench import __main__, report
from workbench.core.models import card
from workbench.report import comparing, html, reproducing, selftest, spec_files
from workbench.report.document import Recovered, SelfTest
from workbench.report.spec import AuditSpec

ROOT = Path(__file__).resolve().parents[1]
NAME = "grammar-4l"
SPEC = """\
title: A small audit
behaviours:
  - task: agreement
    n: 8
questions:
  sites: {ask: false}
  localization: {ask: false}
  circuit: {ask: false}
  units: {ask: false}
  concepts: {ask: false}
  training: {ask: false}
"""


def invoke(*arguments: str | Path) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, list(map(str, arguments)))


def in_one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, testing.Result]:
    """A folder with a spec and the reports that the command made of it."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "audit.yaml").write_text(SPEC)
    asked = ("audit", NAME, "--spec", folder / "audit.yaml", "--no-selftest", "--no-store")
    outputs = ("-o", folder / "r.json", "-o", folder / "r.html")
    return folder, invoke(*asked, *outputs)


def altered(folder: Path, place: Path, **changes: Any) -> Path:
    """The report with other numbers at paths such as "manifest/seed"."""
    plain = json.loads((folder / "r.json").read_text())
    for path, value in changes.items():
        *above, last = path.split("/")
        node = plain
        for step in above:
            node = node[int(step)] if isinstance(node, list) else node[step]
        node[int(last) if isinstance(node, list) else last] = value
    file = place / "altered.json"
    file.write_text(json.dumps(plain))
    return file


def test_an_audit_shows_its_verdicts_and_writes_its_files(
    made: tuple[Path, testing.Result],
) -> None:
    folder, done = made
    assert done.exit_code == 0, done.output
    said = in_one_line(done.stdout)
    found = reproducing.read(folder / "r.json")
    assert reproducing.read(folder / "r.html") == found
    assert found.title == "A small audit"
    assert len(found.findings) == 7
    shown = found.finding("behaviour/agreement")
    assert shown.statement in said and shown.evidence in said
    assert "not asked for" in said
    assert f"saved in {folder / 'r.json'}" in said


def test_a_report_is_reproduced_in_a_fresh_process(made: tuple[Path, testing.Result]) -> None:
    folder, _ = made
    run = subprocess.run(
        [sys.executable, "-m", "workbench", "reproduce", str(folder / "r.html")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "The report is reproduced" in run.stdout
    row = re.search(r"measured\[accuracy\]\.value\s+│ 1\s+│ 1\s+│ 0 ", run.stdout)
    assert row, run.stdout


def test_an_altered_number_ends_with_1_and_is_listed(
    made: tuple[Path, testing.Result], tmp_path: Path
) -> None:
    file = altered(made[0], tmp_path, **{"findings/0/measured/1/value": 14.5})
    done = invoke("reproduce", file)
    assert done.exit_code == 1, done.output
    _, _, differences = done.stdout.partition("Differences")
    assert "✗" in differences and "14.5" in differences
    assert "findings[behaviour/agreement]" in differences
    assert "1 differ beyond a tolerance of 0.0001" in in_one_line(done.stdout)
    assert invoke("reproduce", file, "--tolerance", "0.1").exit_code == 0


def test_another_seed_ends_with_1(made: tuple[Path, testing.Result], tmp_path: Path) -> None:
    one = altered(made[0], tmp_path, **{"manifest/seed": 1})
    assert invoke("reproduce", one).exit_code == 1
    both = altered(made[0], tmp_path, **{"manifest/seed": 1, "manifest/spec/seed": 1})
    assert invoke("reproduce", both).exit_code == 1


def test_a_page_with_an_altered_number_ends_with_1(
    made: tuple[Path, testing.Result], tmp_path: Path
) -> None:
    page = (made[0] / "r.html").read_bytes()
    seen = page.replace(b"63.1 % to 100 %", b"93.1 % to 100 %", 1)
    assert seen != page
    file = tmp_path / "r.html"
    file.write_bytes(seen)
    done = invoke("reproduce", file)
    assert done.exit_code == 1, done.output
    assert "something else than what its data say" in done.stdout


def test_an_altered_weight_ends_with_3(made: tuple[Path, testing.Result], tmp_path: Path) -> None:
    place = tmp_path / "model"
    shutil.copytree(card.BUNDLED / NAME, place)
    weights = safetensors.torch.load_file(place / "model.safetensors")
    weights[min(weights)].view(-1)[0] += 1e-3
    safetensors.torch.save_file(weights, place / "model.safetensors")
    done = invoke("reproduce", made[0] / "r.json", "--model", place)
    assert done.exit_code == 3, done.output
    assert "not the same" in done.stderr
    assert f"read from {place}" in done.stdout.replace("\n", "")


def test_a_report_of_a_hub_model_downloads_nothing(
    made: tuple[Path, testing.Result], tmp_path: Path
) -> None:
    done = invoke("reproduce", altered(made[0], tmp_path, **{"manifest/model": "some/model"}))
    assert done.exit_code == 2
    assert "nothing is downloaded because a report says so" in done.stderr


def test_a_verdict_ends_with_1_only_if_that_is_asked_for(
    made: tuple[Path, testing.Result],
) -> None:
    asked = ("audit", "--spec", made[0] / "audit.yaml", "--no-selftest", "--no-store")
    # Eight prompts cannot pass: their interval reaches below the threshold.
    assert invoke(*asked, NAME, "--fail-on", "warn").exit_code == 1
    assert invoke(*asked, "--fail-on", "fail").exit_code == 0


def test_the_templates_are_written_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    assert invoke("audit", "modadd-113", "--init", "-o", file).exit_code == 0
    assert spec_files.read(file).model.name == "modadd-113"
    again = invoke("audit", "--init", "-o", file)
    assert again.exit_code == 2 and "already" in again.stderr
    shown = invoke("audit", "--init")
    assert spec_files.read_text(shown.stdout, "shown") == AuditSpec()
    assert json.loads(invoke("audit", "--schema").stdout) == spec_files.schema()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("audit",), "say which model"),
        (("audit", NAME, "-o", "report.docx"), "ends in .html, .pdf, .json"),
        (("audit", NAME, "-o", "/nowhere/report.html"), "a folder that is there"),
        (("audit", NAME, "--fail-on", "pass"), "expected warn or fail"),
        (("audit", NAME, "--spec", "absent.yaml"), "cannot read absent.yaml"),
        (("audit", NAME, "--seed", "-1"), "greater than or equal to 0"),
        (("audit", "gramar-4l", "--no-selftest"), "did you mean 'grammar-4l'?"),
        (("audit", "--init", "--schema"), "each stand alone"),
        (("audit", "--init", "-o", "audit.json"), "ends in .yaml, .yml"),
        (("reproduce", "report.pdf"), "no .json or .html file"),
        (("reproduce", "absent.json"), "cannot read absent.json"),
        (("compare", NAME, NAME, "-o", "table.xlsx"), "ends in .html, .pdf, .json, .csv"),
        (("compare", NAME, "modadd-113@step-7", "--top", "0"), "1 row or more"),
        (("compare", "modadd-113@step-7", NAME), "no checkpoint at step 7"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert message in in_one_line(done.stderr.replace("│", ""))
    assert "Traceback" not in done.output


def test_a_spec_with_a_mistake_is_told_by_line_and_field(tmp_path: Path) -> None:
    file = tmp_path / "audit.yaml"
    file.write_text("questions:\n  circuit:\n    random: 3\n")
    done = invoke("audit", NAME, "--spec", file)
    assert done.exit_code == 2
    assert "audit.yaml, line 3, column 13: questions.circuit.random is 3; expected" in done.stderr


def test_two_models_are_compared_and_kept(
    made: tuple[Path, testing.Result], tmp_path: Path
) -> None:
    names = ("c.json", "c.csv", "c.html", "c.pdf")
    outputs = [part for name in names for part in ("-o", tmp_path / name)]
    asked = ("compare", NAME, NAME, "--spec", made[0] / "audit.yaml", "--no-store")
    done = invoke(*asked, *outputs)
    assert done.exit_code == 0, done.output
    assert "No change was found" in in_one_line(done.stdout)
    kept = comparing.Comparison.model_validate_json((tmp_path / "c.json").read_text())
    assert not kept.changed
    assert len(pd.read_csv(tmp_path / "c.csv")) == len(kept.changes) > 0
    page = (tmp_path / "c.html").read_text()
    assert comparing.Comparison.model_validate_json(html.read_comparison(page)) == kept
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF-")
    assert reproducing.read(made[0] / "r.json").findings == kept.reports[0].findings


@pytest.mark.parametrize("right", [True, False])
def test_the_self_test_ends_with_1_where_something_was_not_recovered(
    right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (
        Recovered(analysis="patching", planted="head 0.1", recovered="head 0.1", right=True),
        Recovered(
            analysis="circuits", planted="3 edges", recovered="4 edges", right=right, measured=4.0
        ),
    )

    def found(*, progress: Any) -> SelfTest:
        progress(1.0, "done")
        return SelfTest(rows=rows)

    monkeypatch.setattr(selftest, "selftest", found)
    done = invoke("selftest")
    assert done.exit_code == (0 if right else 1), done.output
    assert f"{2 if right else 1} of 2 planted truths" in in_one_line(done.stdout)
    assert "4 edges" in done.stdout


def test_the_report_package_offers_its_names() -> None:
    assert report.AuditSpec is AuditSpec
    assert report.reproduce is reproducing.reproduce
    assert report.compare is comparing.compare
