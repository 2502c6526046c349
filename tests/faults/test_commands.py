"""Commands where nothing can be kept: they compute, print, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer import testing

from tests.faults import system
from workbench import __main__
from workbench.core import runs

COMMAND = ["inspect", "modadd-113", "--prompt", "12 + 57 =", "--look", "lens"]


def invoke(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, [*arguments])


def test_results_are_printed_and_said_not_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = invoke(*COMMAND)
    assert usual.exit_code == 0 and len(runs.RunStore().runs()) == 1
    monkeypatch.setenv("WORKBENCH_RUNS", str(system.no_folder(tmp_path)))
    nowhere = invoke(*COMMAND)
    assert nowhere.exit_code == 0
    assert nowhere.stdout == usual.stdout
    assert "computed, but not kept among the runs: the run could not be kept in" in nowhere.stderr
    assert not runs.RunStore().not_kept


def test_an_output_folder_on_a_full_disk_is_one_sentence_and_not_half_there(
    tmp_path: Path,
) -> None:
    with system.no_file_beyond(3000):
        done = invoke(*COMMAND, "-o", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "larger than is allowed" in done.stderr
    assert "Traceback" not in done.output
    assert not list((tmp_path / "out").glob("*"))
    assert invoke(*COMMAND, "-o", str(tmp_path / "out")).exit_code == 0
