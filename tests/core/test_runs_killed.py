"""Writers of a run store that are killed at any moment, and several at once: nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.core import killed_writers
from workbench.core import runs

ROOT = Path(__file__).resolve().parents[2]


def finished(how: str, root: Path, seed: int) -> list[tuple[str, int, int]]:
    """What writers said had been put: id, number and version."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.killed_writers", how, str(root), str(seed)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    said = [(row[0], int(row[1]), int(row[2])) for row in rows if row[0] != "killed"]
    assert len(rows) - len(said) == (0 if how == "both" else killed_writers.WRITERS)
    return said


def assert_intact(store: runs.RunStore, run: str, number: int) -> int:
    """Found as one whole version, equal to the bit to the same one computed here."""
    found = store.find(killed_writers.Walk, run)
    assert found is not None, f"{run} is lost"
    expected = killed_writers.walk(number, found.version)
    assert found.values.tobytes() == expected.values.tobytes()
    assert found.provenance == expected.provenance
    return found.version


@pytest.mark.parametrize(("how", "seed"), [("save", 0), ("run", 1)])
def test_ten_writers_killed_at_random_moments_lose_nothing_that_was_finished(
    tmp_path: Path, how: str, seed: int
) -> None:
    said = finished(how, tmp_path, seed)
    numbers = {run: number for run, number, _ in said}
    assert len(said) > killed_writers.WRITERS
    store = runs.RunStore(tmp_path)
    listed = {row.id: row for row in store.runs()}
    # What was put whole, but not yet said when its writer was killed, is there, too.
    assert set(numbers) <= set(listed)
    assert len(listed) <= len(numbers) + killed_writers.WRITERS
    for run, number in numbers.items():
        version = assert_intact(store, run, number)
        row = listed[run]
        assert row.parameters == {"number": number}
        if how == "save":
            assert row.title == f"version {version}"
            assert str(version) in row.requests
        else:
            assert row.tags == ("walked",)
    for row in listed.values():
        assert_intact(store, row.id, row.parameters["number"])
    assert store.unreadable() == {}
    assert store.rebuild(abandoned=0) == len(listed)
    assert store.runs() == list(listed.values())
    left = {path.name for path in tmp_path.iterdir() if path.name not in listed}
    assert left <= {".lock", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm"}
    for run in listed:
        names = {path.name for path in (tmp_path / run).iterdir()}
        assert names == {"arrays.safetensors", "result.json", "run.json"}


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    said = finished("both", tmp_path, 0)
    store = runs.RunStore(tmp_path)
    listed = store.runs()
    own = {row.id for row in listed if row.title == "own"}
    assert own == {run for run, _, _ in said} and len(own) == 100
    (both,) = (row for row in listed if row.title == "both")
    for run, number, _ in said:
        assert_intact(store, run, number)
    # The last one stays, and each writer's tag with it.
    assert_intact(store, both.id, both.parameters["number"])
    found = store.find(killed_writers.Walk, both.id)
    assert found is not None and np.isfinite(found.values).all()
    assert {row.id for row in store.runs(tag=both.tags[0])} == {both.id}


def test_a_run_that_was_moved_aside_by_a_killed_writer_is_put_back(tmp_path: Path) -> None:
    store = runs.RunStore(tmp_path)
    kept = killed_writers.walk(1, 0)
    run = store.put(kept, title="kept", tags=["mine"])
    for look in (
        lambda: store.find(killed_writers.Walk, run) is not None,
        lambda: [row.id for row in store.runs()] == [run],
        lambda: store.rebuild() == 1,
        lambda: store.put(kept, title="kept") == run,
    ):
        # As it is between the two renames of a replacement.
        aside = tmp_path / f".{run}.abc"
        aside.mkdir()
        (tmp_path / run).rename(aside / "old")
        assert look()
        found = store.find(killed_writers.Walk, run)
        assert found is not None and found.values.tobytes() == kept.values.tobytes()
        assert [(row.title, row.tags) for row in store.runs()] == [("kept", ("mine",))]
        store.rebuild()
        assert not aside.exists()


def test_a_result_that_is_being_written_is_no_run_and_is_left_alone(tmp_path: Path) -> None:
    store = runs.RunStore(tmp_path)
    run = store.put(killed_writers.walk(1, 0), title="a")
    writing = tmp_path / ".0123456789abcdef.xyz"
    writing.mkdir()
    (writing / "result.json").write_text("{")
    assert [row.id for row in store.runs()] == [run]
    assert store.rebuild() == 1
    assert writing.is_dir(), "another process may be writing it"
    for path in (writing, writing / "result.json"):
        os.utime(path, (0, 0))
    assert store.rebuild() == 1
    assert not writing.exists()
