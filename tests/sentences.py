"""What every command has to do with wrong input."""

from __future__ import annotations

from pathlib import Path

from typer import testing


def assert_one_sentence(result: testing.Result, words: str, out: Path) -> None:
    """One sentence on the error stream, exit code 2, nothing written."""
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("workbench: ")]
    assert result.stderr.strip().endswith(sentence)
    assert "Traceback" not in result.output
    assert not out.exists()
