"""The page of benchmarks says what was measured, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import numbers


def test_the_committed_page_is_made_from_the_committed_numbers() -> None:
    known = numbers.known()
    assert known
    assert numbers.PAGE.read_text(encoding="utf-8") == numbers.page(known)


def test_a_benchmark_that_was_run_again_replaces_its_own_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(numbers, "NUMBERS", tmp_path / "numbers.json")
    monkeypatch.setattr(numbers, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(numbers, "SAID", [])
    numbers.NUMBERS.write_text("[]", encoding="utf-8")
    numbers.say("one", "a scan", 2, "times as fast", checked="equal", seconds="1 s")
    numbers.say("one", "another", 3.14159, "times as fast")
    assert capsys.readouterr().out.splitlines() == [
        "a scan: 2 times as fast (equal; 1 s)",
        "another: 3.14 times as fast",
    ]
    numbers.keep(numbers.SAID)
    numbers.SAID.clear()
    numbers.say("one", "a scan", 4, "times as fast", checked="equal")
    numbers.keep(numbers.SAID)
    assert [(row.what, row.ratio) for row in numbers.known()] == [
        ("a scan", 4),
        ("another", 3.14159),
    ]
    said = numbers.PAGE.read_text(encoding="utf-8")
    assert "| a scan | 4 | times as fast | equal |" in said
    assert "1 s" not in said.split("Machines:")[0], "seconds are printed only"
