"""The run store: the same question finds the same run, and nothing else is touched."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from tests.core.test_results import Other, Small, small
from workbench.core import runs


@pytest.fixture
def store(tmp_path: Path) -> runs.RunStore:
    return runs.RunStore(tmp_path / "runs")


def test_a_stored_run_is_found_by_what_made_it(store: runs.RunStore) -> None:
    result = small()
    made = result.provenance
    run = store.put(result, title="a title")
    assert run == runs.run_id(made.analysis, made.fingerprint, made.parameters)
    found = store.find(Small, run)
    assert found is not None and found.provenance == made
    (row,) = store.runs()
    assert (row.id, row.title, row.model, row.parameters) == (run, "a title", "m", made.parameters)
    assert store.runs(analysis="tests.small") == [row]
    assert store.runs(analysis="another") == []


def test_the_order_of_parameters_does_not_matter_but_every_value_does() -> None:
    first = runs.run_id("a", "f", {"x": 1, "y": 2})
    assert first == runs.run_id("a", "f", {"y": 2, "x": 1})
    others = [
        runs.run_id("a", "f", {"x": 1, "y": 3}),
        runs.run_id("a", "g", {"x": 1, "y": 2}),
        runs.run_id("b", "f", {"x": 1, "y": 2}),
    ]
    assert len({first, *others}) == 4


def test_putting_again_replaces(store: runs.RunStore) -> None:
    run = store.put(small(), title="first")
    assert store.put(small(), title="second") == run
    assert [row.title for row in store.runs()] == ["second"]


@pytest.mark.parametrize(
    "run", ["", "..", "../../etc", "/etc/passwd", "0" * 16, "g" * 16, "A" * 16, "0" * 64, "0\n" * 8]
)
def test_what_is_no_id_is_not_found(store: runs.RunStore, run: str) -> None:
    store.put(small(), title="a")
    assert store.find(Small, run) is None


def test_a_run_of_another_kind_or_damaged_or_deleted_is_not_found(store: runs.RunStore) -> None:
    run = store.put(small(), title="a")
    assert store.find(Other, run) is None
    (store.root / run / "result.json").write_text("{")
    assert store.find(Small, run) is None
    shutil.rmtree(store.root / run)
    assert store.find(Small, run) is None
    assert store.runs() == []


def test_an_empty_store_writes_nothing(store: runs.RunStore) -> None:
    assert store.runs() == []
    assert store.find(Small, "0" * 16) is None
    assert not store.root.exists()


def test_threads_may_put_at_once(store: runs.RunStore) -> None:
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(5):
                runs.RunStore(store.root).put(small(), title=f"thread {i}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    (row,) = store.runs()
    assert store.find(Small, row.id) is not None


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(runs.RunStoreError, match="could not be kept in"):
        runs.RunStore(tmp_path / "file" / "runs").put(small(), title="a")


def test_the_default_root_is_the_users_to_choose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "mine"))
    assert runs.RunStore().root == tmp_path / "mine"
    monkeypatch.delenv("WORKBENCH_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert runs.default_root() == tmp_path / "data" / "workbench" / "runs"
