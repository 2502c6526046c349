"""The run store on a full disk and in a folder that cannot be written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.core import killed_writers
from tests.faults import system
from workbench.core import results, runs

SMALL = killed_writers.walk(0, 0)
BIG = dataclasses.replace(
    killed_writers.walk(1, 0), values=np.random.default_rng(0).normal(size=(300, 300))
)


def same(found: killed_writers.Walk | None, expected: killed_writers.Walk) -> bool:
    return found is not None and np.array_equal(found.values, expected.values)


def test_a_result_that_does_not_fit_on_the_disk_leaves_the_others_and_no_half(
    tmp_path: Path,
) -> None:
    with system.small_disk(tmp_path / "disk") as disk:
        fill(runs.RunStore(disk / "runs"))


def fill(store: runs.RunStore) -> None:
    kept = store.put(SMALL, title="small")
    with pytest.raises(runs.RunStoreError, match="could not be kept.*the disk is full: free some"):
        store.put(BIG, title="big")
    assert [run.id for run in store.runs()] == [kept]
    assert same(store.find(killed_writers.Walk, kept), SMALL)
    assert not [path for path in store.root.iterdir() if path.name.startswith(f".{kept[:2]}")]
    assert {path.name for path in store.root.iterdir() if path.is_dir()} == {kept}
    # What is small enough is still taken.
    other = dataclasses.replace(killed_writers.walk(2, 0), values=np.zeros((4, 4)))
    assert store.put(other, title="tiny") in {run.id for run in store.runs()}


@pytest.mark.parametrize("limit", [0, 1000, 20_000, 100_000])
def test_wherever_writing_stops_a_replaced_result_stays_whole(tmp_path: Path, limit: int) -> None:
    store = runs.RunStore(tmp_path / "runs")
    kept = store.put(SMALL, title="kept", tags=["mine"])
    newer = dataclasses.replace(SMALL, values=BIG.values)
    with (
        system.no_file_beyond(limit),
        pytest.raises(runs.RunStoreError, match="larger than is allowed"),
    ):
        store.put(newer, title="newer")
    assert same(store.find(killed_writers.Walk, kept), SMALL)
    assert [(run.title, run.tags) for run in store.runs()] == [("kept", ("mine",))]
    assert {path.name for path in store.root.iterdir() if path.is_dir()} == {kept}
    assert store.put(newer, title="newer") == kept
    assert same(store.find(killed_writers.Walk, kept), newer)


def test_a_result_folder_is_replaced_whole_or_not_at_all(
    tmp_path: Path,
) -> None:
    SMALL.save(tmp_path / "result")
    with (
        system.no_file_beyond(5000),
        pytest.raises(results.ResultError, match="cannot write .*result"),
    ):
        BIG.save(tmp_path / "result")
    assert same(killed_writers.Walk.load(tmp_path / "result"), SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_an_export_that_does_not_fit_leaves_the_archive_that_was_there(
    tmp_path: Path,
) -> None:
    store = runs.RunStore(tmp_path / "runs")
    run = store.put(BIG, title="big")
    archive = tmp_path / "runs.zip"
    archive.write_bytes(b"before")
    with (
        system.no_file_beyond(5000),
        pytest.raises(runs.RunStoreError, match="cannot write .*runs.zip"),
    ):
        store.export([run], archive)
    assert archive.read_bytes() == b"before"
    assert not list(tmp_path.glob(".runs.zip*"))
    store.export([run], archive)
    assert archive.stat().st_size > 100_000


def test_what_cannot_be_kept_is_answered_all_the_same_by_the_spare_store(tmp_path: Path) -> None:
    store = runs.RunStore(system.no_folder(tmp_path))
    with pytest.raises(runs.RunStoreError, match="could not be kept in"):
        store.put(SMALL, title="told of")
    assert store.runs() == [] and not store.not_kept
    with runs.spare_allowed():
        run = store.put(SMALL, title="spare", request="asked")
    assert "could not be kept in" in store.not_kept
    assert same(store.find(killed_writers.Walk, run), SMALL)
    answered = store.answered(killed_writers.Walk, "asked")
    assert answered is not None and answered[0] == run
    found = store.run(run)
    assert found is not None and found.title == "spare"
    assert [run.title for run in store.runs()] == ["spare"]
    assert store.known()["model"] == ["m"]
    assert store.folder(run).is_dir()
    assert store.tag(run, ["tried"]) == ("tried",)
    store.export([run], tmp_path / "taken along.zip")
    assert (tmp_path / "taken along.zip").is_file()
    store.delete(run)
    assert store.runs() == []
    # Not of the app any more: told of again.
    with pytest.raises(runs.RunStoreError, match="could not be kept in"):
        store.put(SMALL, title="told of")


def test_a_store_that_may_only_be_read_is_read_and_says_so(tmp_path: Path) -> None:
    with system.small_disk(tmp_path / "disk") as disk:
        store = runs.RunStore(disk / "runs")
        old = store.put(SMALL, title="old")
        system.allow_reading_only(disk)
        assert [run.title for run in store.runs()] == ["old"]
        other = dataclasses.replace(killed_writers.walk(2, 0), values=np.zeros((4, 4)))
        with pytest.raises(runs.RunStoreError, match="may only be read: allow writing there"):
            store.put(other, title="x")
        with pytest.raises(runs.RunStoreError, match="may only be read"):
            store.tag(old, ["mine"])
        with runs.spare_allowed():
            new = store.put(other, title="new")
        assert same(store.find(killed_writers.Walk, new), other)
        assert same(store.find(killed_writers.Walk, old), SMALL)
        assert {run.title for run in store.runs()} == {"old", "new"}
        assert "may only be read" in store.not_kept
