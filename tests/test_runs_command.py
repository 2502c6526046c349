"""`workbench runs`: what is stored, from a terminal; and what a command saves is stored."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import pytest
from typer import testing

from tests.core.test_results import Small, small
from workbench import __main__
from workbench.commands import answering
from workbench.core import runs


def invoke(*arguments: str, typed: str = "") -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, ["runs", *arguments], input=typed)


def said_by(done: testing.Result) -> str:
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def result_of(seed: int, model: str = "m") -> Small:
    result = small()
    made = dataclasses.replace(result.provenance, seed=seed, model=model)
    return dataclasses.replace(result, provenance=made)


@pytest.fixture
def two() -> list[str]:
    store = runs.RunStore()
    return [
        store.put(result_of(1, "one"), title="a [bold]title[/bold]"),
        store.put(result_of(2, "two"), title="another", tags=["liked"]),
    ]


def test_runs_are_listed_by_what_is_asked_for(two: list[str]) -> None:
    said = said_by(invoke("list"))
    assert "a [bold]title[/bold]" in said and "2 runs in" in said
    for asked in (
        ("--model", "two"),
        ("--tag", "liked"),
        ("--text", "ANOTHER"),
        ("--analysis", "tests.small", "--since", "2026-01-01", "--tag", "liked"),
    ):
        said = said_by(invoke("list", *asked))
        assert two[1] in said and two[0] not in said
    assert "0 runs in" in said_by(invoke("list", "--until", "2025-12-31"))
    assert "2 runs in" in said_by(invoke("list", "--model", "ffff")), "how a fingerprint begins"
    plain = json.loads(invoke("list", "--model", "one", "--json").stdout)
    assert [(row["id"], row["seed"], row["tags"]) for row in plain] == [(two[0], 1, [])]


def test_a_run_is_shown_by_how_its_id_begins(two: list[str]) -> None:
    said = said_by(invoke("show", two[0][:6], "--top", "1"))
    assert "a [bold]title[/bold]" in said
    assert "fffffff" in said and "parameter site" in said
    assert f"│ {small().summary()} │" not in said and small().summary() in said
    assert "1 of 2 rows" in said and "│ 1 │ nan │ inf │" in said


def test_a_title_does_not_command_the_terminal() -> None:
    runs.RunStore().put(result_of(1), title="\x1b[2Jred\u202e")
    said = invoke("list").stdout
    assert "\x1b[2J" not in said and "\u202e" not in said
    assert r"\x1b[2Jred\u202e" in said


def test_a_run_is_tagged_and_untagged(two: list[str]) -> None:
    assert "has the tags liked, for the talk" in said_by(invoke("tag", two[1], "for the talk"))
    assert "has no tags" in said_by(invoke("tag", two[1], "liked", "for the talk", "--remove"))
    assert runs.RunStore().known()["tag"] == []


def test_runs_are_taken_along_and_taken_in(two: list[str], tmp_path: Path) -> None:
    said = said_by(invoke("export", *two, "-o", str(tmp_path / "both.zip")))
    assert "2 written to" in said
    with zipfile.ZipFile(tmp_path / "both.zip") as archive:
        archive.extractall(tmp_path / "out")
    said_by(invoke("delete", *two, "--yes"))
    assert runs.RunStore().runs() == []
    said = said_by(invoke("add", *(str(tmp_path / "out" / run) for run in two)))
    assert f"is run {two[0]}" in said
    assert [row.title for row in runs.RunStore().runs(tag="liked")] == ["another"]


def test_deleting_asks_first(two: list[str]) -> None:
    assert "nothing was deleted" in said_by(invoke("delete", two[0], typed="n\n"))
    assert len(runs.RunStore().runs()) == 2
    assert "1 deleted" in said_by(invoke("delete", two[0], two[0][:8], typed="y\n"))
    assert [row.id for row in runs.RunStore().runs()] == [two[1]]


def test_rebuilding_says_what_cannot_be_read(two: list[str]) -> None:
    root = runs.RunStore().root
    (root / "index.sqlite").write_text("damaged")
    (root / two[0] / "result.json").write_text("{")
    said = said_by(invoke("rebuild"))
    assert "1 run in" in said
    assert f"{two[0]} cannot be read" in said
    assert f"{two[0]} cannot be read" in said_by(invoke("list"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "0000"), "no run '0000' is stored"),
        (("show", ""), "2 runs begin with ''"),
        (("tag", "0000", "x"), "no run '0000' is stored"),
        (("list", "--since", "yesterday"), "--since 'yesterday': expected a day such as"),
        (("add", "nowhere"), "is no result folder or is damaged"),
        (("export", "../..", "-o", "x.zip"), "no run '../..' is stored"),
    ],
)
def test_bad_input_ends_with_one_sentence(
    two: list[str], arguments: tuple[str, ...], message: str
) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert message in " ".join(done.stderr.split())
    assert len(runs.RunStore().runs()) == len(two)


def test_what_a_command_keeps_has_the_title_that_a_page_gave_it() -> None:
    result = result_of(7)
    ask = answering.Asking(again=False)
    ask.keep(result)
    store = runs.RunStore()
    (row,) = store.runs()
    assert (row.id, row.title) == (runs.id_of(result.provenance), "tests.small, m")
    store.put(result, title="as a page calls it")
    ask.keep(result)
    assert [row.title for row in store.runs()] == ["as a page calls it"]


def test_a_store_that_cannot_be_written_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "file"))
    with answering.asking(again=False) as ask:
        ask.keep(result_of(7))
        ask.keep(result_of(7))
    said = capsys.readouterr()
    assert said.err.count("computed, but not kept among the runs: ") == 1
    assert said.err.startswith("workbench: computed")
    assert said.out == ""
