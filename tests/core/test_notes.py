"""Notes: every version is kept whole, the newest is shown, and nothing else is believed."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.test_results import small
from workbench.core import notes, runs

MODEL, OTHER = "0123456789abcdef" * 4, "f" * 64
EVIDENCE = notes.Evidence(
    description="'.'", correlation=0.91, precision=0.67, recall=1.0, n_tokens=8000, run="a" * 16
)


def texts(root: Path, model: str = MODEL) -> list[str]:
    return [note.text for note in notes.read(root, model)]


def files(root: Path) -> list[Path]:
    return sorted((root / "notes" / MODEL).glob("*.json"))


def set_clock(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Clock:
            return cls(year, 1, 1, tzinfo=tz)

    monkeypatch.setattr(notes.datetime, "datetime", Clock)


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = notes.write(
        tmp_path,
        MODEL,
        "neuron 2.13",
        "fires at\r\n\tfull stops: é, 句点, ک‌ی",
        model="grammar-4l",
        tags=["syntax", "punctuation"],
        evidence=EVIDENCE,
    )
    assert made.text == "fires at\n\tfull stops: é, 句点, ک‌ی"
    assert notes.read(tmp_path, MODEL) == (made,)
    assert (made.model, made.tags, made.evidence) == (
        "grammar-4l",
        ("syntax", "punctuation"),
        EVIDENCE,
    )
    assert abs(made.written - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(hours=1)
    assert notes.read(tmp_path, OTHER) == ()


def test_the_newest_version_is_shown_and_all_are_kept(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        notes.write(tmp_path, MODEL, "neuron 0.1", text)
    assert texts(tmp_path) == ["third"]
    versions = notes.history(tmp_path, MODEL, "neuron 0.1")
    assert [note.text for note in versions] == ["first", "second", "third"]
    again = notes.write(tmp_path, MODEL, "neuron 0.1", "third")
    assert again == versions[-1]
    assert len(files(tmp_path)) == 3, "saying the same again is no edit"
    notes.write(tmp_path, MODEL, "neuron 0.1", "third", tags=["sure"])
    assert len(files(tmp_path)) == 4


def test_units_latents_and_models_have_notes_of_their_own_newest_first(tmp_path: Path) -> None:
    notes.write(tmp_path, MODEL, "latent 2.1", "of one", dictionary="a" * 16)
    notes.write(tmp_path, MODEL, "latent 2.1", "of another", dictionary="b" * 16)
    notes.write(tmp_path, MODEL, "neuron 2.1", "a neuron")
    notes.write(tmp_path, OTHER, "neuron 2.1", "elsewhere")
    notes.write(tmp_path, MODEL, "latent 2.1", "edited", dictionary="a" * 16)
    assert texts(tmp_path) == ["edited", "a neuron", "of another"]
    (only,) = notes.history(tmp_path, MODEL, "latent 2.1", dictionary="b" * 16)
    assert only.text == "of another"


def test_a_deleted_note_is_not_shown_but_remembered(tmp_path: Path) -> None:
    notes.write(tmp_path, MODEL, "neuron 0.1", "wrong", model="m")
    gone = notes.delete(tmp_path, MODEL, "neuron 0.1")
    assert gone.deleted and gone.model == "m"
    assert notes.read(tmp_path, MODEL) == ()
    assert [note.text for note in notes.history(tmp_path, MODEL, "neuron 0.1")] == ["wrong", ""]
    with pytest.raises(notes.NoteError, match="no note about 'neuron 0.1'"):
        notes.delete(tmp_path, MODEL, "neuron 0.1")
    notes.write(tmp_path, MODEL, "neuron 0.1", "wrong")
    assert texts(tmp_path) == ["wrong"], "what is written after a deletion is there"


def test_an_edit_comes_last_also_where_the_clock_was_turned_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        set_clock(patch, 2031)
        notes.write(tmp_path, MODEL, "neuron 0.1", "by a clock that is ahead")
    notes.write(tmp_path, MODEL, "neuron 0.1", "by a clock that is right")
    assert texts(tmp_path) == ["by a clock that is right"]


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    code = """
import sys
from workbench.core import notes
root, model, me = sys.argv[1:]
sys.stdin.readline()
for i in range(40):
    notes.write(root, model, "neuron 0.1", f"{me} {i}")
    notes.write(root, model, f"neuron 1.{i}", "the same words")
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), MODEL, me],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me in ("one", "two")
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in both] == ["", ""]
    said = [note.text for note in notes.history(tmp_path, MODEL, "neuron 0.1")]
    assert sorted(said) == sorted(f"{me} {i}" for me in ("one", "two") for i in range(40))
    for me in ("one", "two"):
        own = [text for text in said if text.startswith(me)]
        assert own == [f"{me} {i}" for i in range(40)], "each writer's versions are in its order"
    assert {note.unit for note in notes.read(tmp_path, MODEL)} == {
        "neuron 0.1",
        *(f"neuron 1.{i}" for i in range(40)),
    }


def test_half_written_damaged_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    kept = notes.write(tmp_path, MODEL, "neuron 0.1", "kept")
    notes.write(tmp_path, MODEL, "neuron 0.2", "cut off")
    (cut,) = [file for file in files(tmp_path) if "cut off" in file.read_text(encoding="utf-8")]
    whole = cut.read_bytes()
    place = cut.parent
    (place / f".{cut.name}.x8s7").write_bytes(whole[:30])
    (place / f"{'0' * 32}.json").write_bytes(whole)
    (place / f"{'1' * 32}.json").mkdir()
    (place / "notes.txt").write_text("mine")
    cut.write_bytes(whole[:-9])
    assert notes.read(tmp_path, MODEL) == (kept,)
    assert notes.export(tmp_path) == f"{kept.line}\n"
    # What was damaged can come back from an export.
    assert [note.text for note in notes.load_export(tmp_path, whole)] == ["cut off"]
    assert cut.read_bytes() == whole


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    notes.write(tmp_path, MODEL, "neuron 0.1", "there")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(notes.NoteError, match="could not be kept in .*No space left"):
        notes.write(tmp_path, MODEL, "neuron 0.1", "more")
    assert sorted(tmp_path.rglob("*")) == before
    assert texts(tmp_path) == ["there"]


def test_an_export_brings_everything_over_and_twice_is_once(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    notes.write(here, MODEL, "neuron 0.1", "old")
    notes.write(here, MODEL, "neuron 0.2", "a line\nand another", tags=["x"], evidence=EVIDENCE)
    notes.write(here, MODEL, "neuron 0.1", "new")
    notes.write(here, OTHER, "neuron 0.1", "gone")
    notes.delete(here, OTHER, "neuron 0.1")
    shown = [json.loads(line) for line in notes.export(here).splitlines()]
    assert [(note["unit"], note["text"]) for note in shown] == [
        ("neuron 0.2", "a line\nand another"),
        ("neuron 0.1", "new"),
    ]
    assert shown[0]["evidence"]["precision"] == 0.67
    assert notes.export(here, OTHER) == ""
    every = notes.export(here, every_version=True)
    assert len(every.splitlines()) == 5
    assert len(notes.load_export(there, every.replace("\n", "\r\n"))) == 5
    assert notes.export(there, every_version=True) == every
    assert notes.load_export(there, every.encode()) == ()
    assert notes.read(there, MODEL) == notes.read(here, MODEL)


def test_notes_of_two_people_have_one_history(tmp_path: Path) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    notes.write(mine, MODEL, "neuron 0.1", "mine")
    notes.write(yours, MODEL, "neuron 0.1", "yours")
    notes.load_export(mine, notes.export(yours))
    notes.load_export(yours, notes.export(mine, every_version=True))
    assert texts(mine) == texts(yours) == ["yours"], "the later one, on both machines"
    assert notes.history(mine, MODEL, "neuron 0.1") == notes.history(yours, MODEL, "neuron 0.1")


def line(**changes: object) -> str:
    good = {
        "format": 1,
        "fingerprint": MODEL,
        "unit": "neuron 0.1",
        "text": "hostile",
        "written": "2026-01-01T00:00:00+00:00",
    }
    return json.dumps({key: value for key, value in (good | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "Invalid JSON"),
        ("[" * 100_001, "it has 100,001 bytes"),
        ("[" * 9000, "Invalid JSON"),
        ("[]", "should be an object"),
        (line(fingerprint=f"../../{'a' * 58}"), "'fingerprint': String should match"),
        (line(fingerprint=f"{MODEL}\n"), "'fingerprint': String should match"),
        (line(fingerprint=None), "'fingerprint': Field required"),
        (line(format=2), "'format'"),
        (line(unit=""), "the unit's name has 0 characters"),
        (line(unit="neuron 0.1\x1b[2J"), r"holds '\\x1b' at character 11"),
        (line(unit="a" * 201), "has 201 characters; expected 1 to 200"),
        (line(unit=" neuron 0.1"), "begins or ends with a space"),
        (line(dictionary="zz"), "'dictionary'"),
        (line(text=""), "the note has 0 characters; expected 1 to 4,000"),
        (line(text="a" * 4001), "has 4,001 characters"),
        (line(text="turned \u202e around"), r"holds '\\u202e' at character 8"),
        (line(text=7), "'text': Input should be a valid string"),
        ('{"text": "\\ud800"}', "Invalid JSON"),
        (line(tags=["a"] * 21), "21 tags; expected at most 20"),
        (line(tags=["a\nb"]), "a tag holds"),
        (line(written="2026-01-01T00:00:00"), "timezone"),
        (line(written="0001-01-01T00:00:00+14:00"), "written in the year 1;"),
        (line(written="8000-01-01T00:00:00Z"), "written in the future"),
        (line(evidence={"description": "x", "correlation": 2}), "'evidence.correlation'"),
        (line(evidence={"description": "x", "run": "../x"}), "'evidence.run'"),
        (line(deleted=True), "a deleted note says nothing"),
        (line(secret="x"), "'secret': Extra inputs are not permitted"),
        (line(**{"x" * 9000: 1}), f"'{'x' * 60}': Extra"),
    ],
)
def test_a_hostile_line_is_one_sentence_and_nothing_is_kept(
    tmp_path: Path, bad: str, said: str
) -> None:
    root = tmp_path / "store"
    with pytest.raises(notes.NoteError, match=said) as caught:
        notes.load_export(root, f"{line()}\n\n{bad}\n")
    message = str(caught.value)
    assert message.startswith("line 3 is no note: ")
    assert "\n" not in message and message.isprintable() and len(message) < 300
    assert list(tmp_path.iterdir()) == [], "not even the line that was good"


def test_an_export_that_is_too_large_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(notes.NoteError, match=r"has 20.0 MB; expected at most 20 MB"):
        notes.load_export(tmp_path, b" " * 20_000_001)
    with pytest.raises(notes.NoteError, match="more than 10,000 notes"):
        notes.load_export(tmp_path, f"{line()}\n" * 10_001)
    with pytest.raises(notes.NoteError, match=r"is no text \(character 0\)"):
        notes.load_export(tmp_path, "\ud800")
    with pytest.raises(notes.NoteError, match="line 1 is no note"):
        notes.load_export(tmp_path, b"\xff\xfe{}")
    assert list(tmp_path.iterdir()) == []
    assert len(notes.load_export(tmp_path, b"\xef\xbb\xbf" + line().encode())) == 1


@pytest.mark.parametrize(
    "mark", ["", "..", "../../etc", "/etc", "A" * 64, "a" * 63, "a" * 64 + "\n"]
)
def test_what_is_no_fingerprint_is_refused_everywhere(tmp_path: Path, mark: str) -> None:
    for ask in (
        lambda: notes.write(tmp_path, mark, "neuron 0.1", "x"),
        lambda: notes.read(tmp_path, mark),
        lambda: notes.history(tmp_path, mark, "neuron 0.1"),
        lambda: notes.delete(tmp_path, mark, "neuron 0.1"),
        lambda: notes.export(tmp_path, mark),
    ):
        with pytest.raises(notes.NoteError, match="no fingerprint of a model"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_where_a_link_leads_out_of_the_store(tmp_path: Path) -> None:
    root, outside = tmp_path / "store", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "notes").symlink_to(outside)
    with pytest.raises(notes.NoteError, match="leads out of the run store"):
        notes.write(root, MODEL, "neuron 0.1", "x")
    assert list(outside.iterdir()) == []


def test_what_a_person_typed_wrongly_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(notes.NoteError, match=r"^this is no note: the note has 0 characters"):
        notes.write(tmp_path, MODEL, "neuron 0.1", " \n ")
    with pytest.raises(notes.NoteError, match=r"^this is no note: the note has 5,000 characters"):
        notes.write(tmp_path, MODEL, "neuron 0.1", "a" * 5000)
    assert list(tmp_path.iterdir()) == []


def test_notes_and_runs_share_a_store(tmp_path: Path) -> None:
    store = runs.RunStore(tmp_path)
    run = store.put(small(), title="a run")
    notes.write(store.root, MODEL, "neuron 0.1", "a note")
    assert [row.id for row in store.runs()] == [run]
    (store.root / "index.sqlite").unlink()
    assert texts(store.root) == ["a note"], "no index is needed"
    store.put(small(), title="again")
    assert [row.id for row in store.runs()] == [run]
