"""The run store: the same question finds the same run, and nothing else is touched."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import sqlite3
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import workbench
from tests.core.test_results import Other, Small, small
from workbench.core import results, runs
from workbench.core.runs import comparing, identity


@dataclasses.dataclass(frozen=True)
class Tall(results.Result):
    names: tuple[str, ...]
    layers: np.ndarray
    effects: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        columns = {"name": self.names, "layer": self.layers, "effect": self.effects}
        return pd.DataFrame(columns)

    def figure(self) -> go.Figure:
        return go.Figure()

    def summary(self) -> str:
        return ""


@pytest.fixture
def store(tmp_path: Path) -> runs.RunStore:
    return runs.RunStore(tmp_path / "runs")


def made(number: int = 0, **changed: Any) -> Small:
    """A result whose parameters say which one it is."""
    result = small()
    parameters = {"number": number, "list": [1, 2]}
    origin = dataclasses.replace(result.provenance, **{"parameters": parameters, **changed})
    return dataclasses.replace(result, provenance=origin, extra=float(number))


def test_a_stored_run_is_found_by_what_made_it(store: runs.RunStore) -> None:
    result = small()
    origin = result.provenance
    run = store.put(result, title="a title", tags=[" a tag "])
    assert run == runs.run_id(origin.analysis, origin.fingerprint, origin.parameters)
    assert run == runs.id_of(origin)
    found = store.find(Small, run)
    assert found is not None and found.provenance == origin
    (row,) = store.runs()
    assert row == store.run(run)
    assert row == runs.Run(
        id=run,
        analysis="tests.small",
        kind="tests.core.test_results.Small",
        model="m",
        fingerprint="f" * 64,
        title="a title",
        parameters=origin.parameters,
        seed=0,
        created=origin.created,
        wall_time=0.5,
        tags=("a tag",),
        requests=(),
    )
    assert store.runs(analysis="tests.small") == [row]
    assert store.runs(analysis="another") == []


def test_the_order_of_parameters_does_not_matter_but_every_value_does() -> None:
    first = runs.run_id("a", "f", {"x": 1, "y": 2})
    assert first == runs.run_id("a", "f", {"y": 2, "x": 1})
    others = [
        runs.run_id("a", "f", {"x": 1, "y": 3}),
        runs.run_id("a", "g", {"x": 1, "y": 2}),
        runs.run_id("b", "f", {"x": 1, "y": 2}),
        runs.run_id("a", "f", {"x": 1, "y": 2}, seed=1),
    ]
    assert len({first, *others}) == 5


def test_two_seeds_are_two_runs_and_ids_of_before_are_as_they_were(store: runs.RunStore) -> None:
    # Computed by the version in which seeds did not count.
    assert runs.run_id("a", "f", {"x": 1}, seed=0) == "048898f497ec6e95"
    assert runs.run_id("a", "f", {"seed": 3}, seed=3) == runs.run_id("a", "f", {"seed": 3})
    ids = [store.put(made(seed=seed), title=f"seed {seed}") for seed in (0, 1, 2)]
    assert len(set(ids)) == 3
    assert {row.seed: row.id for row in store.runs()} == dict(enumerate(ids))


def test_putting_again_replaces_the_result_and_keeps_what_a_reader_said(
    store: runs.RunStore,
) -> None:
    run = store.put(small(), title="first", tags=["one"])
    assert store.put(dataclasses.replace(small(), extra=2.0), title="second", tags=["two"]) == run
    assert [(row.title, row.tags) for row in store.runs()] == [("second", ("one", "two"))]
    store.put(small(), title="")
    assert store.runs()[0].title == "second"
    found = store.find(Small, run)
    assert found is not None and found.extra == float("-inf")


def test_a_run_without_a_title_is_called_by_analysis_and_model(store: runs.RunStore) -> None:
    store.put(small(), title="")
    assert store.runs()[0].title == "tests.small, m"


@pytest.mark.parametrize(
    "run", ["", "..", "../../etc", "/etc/passwd", "0" * 16, "g" * 16, "A" * 16, "0" * 64, "0\n" * 8]
)
def test_what_is_no_id_is_not_found(store: runs.RunStore, run: str) -> None:
    store.put(small(), title="a")
    assert store.find(Small, run) is None
    assert store.open(run) is None
    assert store.run(run) is None
    for change in (
        lambda: store.tag(run, ["a"]),
        lambda: store.delete(run),
        lambda: store.export([run], store.root / "x.zip"),
    ):
        with pytest.raises(runs.RunStoreError, match="no run .* is stored in"):
            change()
    assert not (store.root / "x.zip").exists()
    assert len(store.runs()) == 1


def test_a_run_of_another_kind_or_damaged_or_deleted_is_not_found(store: runs.RunStore) -> None:
    run = store.put(small(), title="a")
    assert store.find(Other, run) is None
    (store.root / run / "result.json").write_text("{")
    assert store.find(Small, run) is None
    assert store.runs() == []
    assert "is no result folder or is damaged" in store.unreadable()[run]
    assert (store.root / run).is_dir(), "what is damaged is kept"
    shutil.rmtree(store.root / run)
    assert store.find(Small, run) is None
    assert store.runs() == []
    assert store.unreadable() == {}


def test_an_empty_store_writes_nothing(store: runs.RunStore) -> None:
    assert store.runs() == []
    assert store.known() == {"model": [], "analysis": [], "tag": []}
    assert store.find(Small, "0" * 16) is None
    assert store.answered(Small, "0" * 64) is None
    assert store.rebuild() == 0
    assert not store.root.exists()


def test_threads_may_put_at_once(store: runs.RunStore) -> None:
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(5):
                mine = runs.RunStore(store.root)
                mine.put(small(), title="of all", tags=[f"thread {i}"])
                mine.put(made(i), title=f"thread {i}")
                assert f"thread {i}" in [row.title for row in mine.runs()]
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    rows = {row.title: row for row in store.runs()}
    assert sorted(rows) == ["of all", "thread 0", "thread 1", "thread 2", "thread 3"]
    # Nobody's tag is lost, though each replaced what the others had put.
    assert sorted(rows["of all"].tags) == [f"thread {i}" for i in range(4)]
    assert all(store.find(Small, row.id) is not None for row in rows.values())


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(runs.RunStoreError, match="could not be kept in"):
        runs.RunStore(tmp_path / "file" / "runs").put(small(), title="a")


def test_the_default_root_is_the_users_to_choose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "mine"))
    assert workbench.runs.RunStore().root == tmp_path / "mine"
    monkeypatch.delenv("WORKBENCH_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert runs.default_root() == tmp_path / "data" / "workbench" / "runs"


class TestRequests:
    def test_an_equal_request_is_answered_and_no_other(self, store: runs.RunStore) -> None:
        asked = runs.request_key(Small, "f" * 64, {"site": "z", "n": 3})
        assert asked == runs.request_key(Small, "f" * 64, {"n": 3, "site": "z"})
        run = store.put(small(), title="a", request=asked)
        found = store.answered(Small, asked)
        assert found is not None and found[0] == run
        assert found[1].grid.tobytes() == small().grid.tobytes()
        for other in (
            runs.request_key(Small, "f" * 64, {"site": "z", "n": 4}),
            runs.request_key(Small, "e" * 64, {"site": "z", "n": 3}),
            runs.request_key(Other, "f" * 64, {"site": "z", "n": 3}),
        ):
            assert other != asked
            assert store.answered(Small, other) is None
        assert store.answered(Other, asked) is None

    def test_the_newest_answer_that_can_be_read_is_given(self, store: runs.RunStore) -> None:
        days = ["2026-01-03", "2026-01-01", "2026-01-02"]
        ids = [
            store.put(made(i, created=f"{day}T00:00:00+00:00"), title="a", request="asked")
            for i, day in enumerate(days)
        ]
        found = store.answered(Small, "asked")
        assert found is not None and found[0] == ids[0]
        (store.root / ids[0] / "arrays.safetensors").write_bytes(b"half")
        found = store.answered(Small, "asked")
        assert found is not None and found[0] == ids[2]

    def test_other_code_or_versions_do_not_answer(
        self, store: runs.RunStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = runs.request_key(Small, "f", {})
        store.put(small(), title="a", request=before)
        identity.code.cache_clear()
        monkeypatch.setattr(results, "versions", lambda: {"workbench": "another"})
        after = runs.request_key(Small, "f", {})
        assert after != before
        # The result is of the new code from now on, so it no longer answers the old one's request.
        store.put(small(), title="a", request=after)
        assert store.answered(Small, before) is None
        identity.code.cache_clear()

    @pytest.mark.parametrize("request_", [{"x": {1}}, {"x": float("nan")}, {"x": np.float32(1)}])
    def test_what_is_not_json_is_refused(self, request_: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="JSON types only"):
            runs.request_key(Small, "f", request_)


class TestFinding:
    def test_runs_are_found_by_everything_that_is_said_of_them(self, store: runs.RunStore) -> None:
        ids = [
            store.put(
                made(
                    i,
                    model=f"model-{i % 2}",
                    fingerprint=f"{i % 3}" * 64,
                    created=f"2026-01-0{i + 1}T12:00:00+00:00",
                ),
                title=f"Größe {i}" if i < 3 else "100% _like",
                tags=["even"] if i % 2 == 0 else [],
            )
            for i in range(6)
        ]

        def numbers(**asked: Any) -> list[int]:
            return [row.parameters["number"] for row in store.runs(**asked)]

        assert numbers() == [5, 4, 3, 2, 1, 0], "newest first"
        assert numbers(model="model-1") == [5, 3, 1]
        assert numbers(fingerprint="1" * 64) == numbers(fingerprint="11") == [4, 1]
        assert numbers(parameters={"number": 2, "list": (1, 2)}) == [2]
        assert numbers(parameters={"number": 2, "list": [1]}) == []
        assert numbers(parameters={"absent": None}) == [5, 4, 3, 2, 1, 0]
        assert numbers(tag="even", model="model-0") == [4, 2, 0]
        assert numbers(tag="odd") == []
        assert numbers(text="GRÖSSE even") == [2, 0], "ß is SS in capitals"
        assert numbers(text="%") == numbers(text="_like") == [5, 4, 3]
        assert numbers(beginning=ids[3][:8]) == [3]
        second, fourth = datetime.date(2026, 1, 2), datetime.date(2026, 1, 4)
        assert numbers(since=second, until=fourth) == [3, 2, 1]
        assert numbers(since=fourth, text="even") == [4]
        known = {"model": ["model-0", "model-1"], "analysis": ["tests.small"], "tag": ["even"]}
        assert store.known() == known

    def test_the_class_is_found_by_importing_the_workbench_only(
        self, store: runs.RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = store.put(small(), title="a")
        found = store.open(run)
        assert type(found) is Small
        (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(tmp_path)
        path = store.root / run / "result.json"
        document = json.loads(path.read_text())
        for kind in ("hostile.Kind", "workbench.core.gone.Kind", "workbench.core.results.Gone", ""):
            path.write_text(json.dumps({**document, "kind": kind}))
            assert store.open(run) is None
            (row,) = store.runs()
            assert row.kind == kind

    def test_half_a_character_from_a_file_is_no_obstacle(self, store: runs.RunStore) -> None:
        run = store.put(small(), title="a")
        path = store.root / run / "result.json"
        path.write_text(path.read_text().replace('"model": "m"', '"model": "\\ud800"'))
        assert [row.id for row in store.runs(text="tests")] == [run]
        assert store.known()["model"] == ["\\ud800"]


class TestChanging:
    def test_tags_are_joined_and_taken_away(self, store: runs.RunStore) -> None:
        run = store.put(small(), title="a")
        assert store.tag(run, ["b", "a", "b "]) == ("b", "a")
        assert store.tag(run, ["c"]) == ("b", "a", "c")
        assert store.tag(run, ["b", "none"], remove=True) == ("a", "c")
        assert store.runs()[0].tags == ("a", "c")

    @pytest.mark.parametrize("tag", ["", " ", "a\nb", "\u202e", "x" * 51])
    def test_what_is_no_tag_is_refused(self, store: runs.RunStore, tag: str) -> None:
        run = store.put(small(), title="a", tags=["before"])
        with pytest.raises(runs.RunStoreError, match="is no tag: expected 1 to 50 plain char"):
            store.tag(run, [tag])
        with pytest.raises(runs.RunStoreError, match="expected at most 50"):
            store.tag(run, [f"tag {i}" for i in range(50)])
        assert store.runs()[0].tags == ("before",)

    def test_an_archive_unpacked_into_another_store_is_runs_of_it(
        self, store: runs.RunStore, tmp_path: Path
    ) -> None:
        ids = [store.put(made(i), title=f"run {i}", tags=["t"], request=f"r{i}") for i in range(3)]
        written = store.export([ids[0], ids[2], ids[0]], tmp_path / "some.zip")
        other = runs.RunStore(tmp_path / "other")
        with zipfile.ZipFile(written) as archive:
            archive.extractall(other.root)
        assert {row.id for row in other.runs()} == {ids[0], ids[2]}
        for row in other.runs():
            assert row == store.run(row.id)
            here, there = store.find(Small, row.id), other.find(Small, row.id)
            assert here is not None and there is not None
            assert here.grid.tobytes() == there.grid.tobytes()

    def test_an_archive_that_fails_leaves_the_old_one(
        self, store: runs.RunStore, tmp_path: Path
    ) -> None:
        run = store.put(small(), title="a")
        target = tmp_path / "some.zip"
        target.write_text("the old one")
        with pytest.raises(runs.RunStoreError, match="no run"):
            store.export([run, "0" * 16], target)
        with pytest.raises(runs.RunStoreError, match="no run was named"):
            store.export([], target)
        with pytest.raises(runs.RunStoreError, match="cannot write"):
            store.export([run], tmp_path / "gone" / "some.zip")
        assert target.read_text() == "the old one"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "some.zip"]

    def test_a_deleted_run_is_gone_and_no_other(self, store: runs.RunStore) -> None:
        gone, stays = (store.put(made(i), title="a", tags=[f"{i}"]) for i in range(2))
        store.delete(gone)
        assert [row.id for row in store.runs()] == [stays]
        assert store.known()["tag"] == ["1"]
        assert not (store.root / gone).exists()

    def test_a_folder_that_a_script_saved_is_taken_in(
        self, store: runs.RunStore, tmp_path: Path
    ) -> None:
        folder = made(3, seed=5).save(tmp_path / "mine")
        run = store.add(folder, title="of a script")
        assert run == runs.id_of(made(3, seed=5).provenance)
        found = store.find(Small, run)
        assert found is not None and found.extra == 3.0
        assert [row.title for row in store.runs()] == ["of a script"]
        assert sorted(path.name for path in folder.iterdir()) == [
            "arrays.safetensors",
            "result.json",
        ]
        # Elsewhere's answers answer nothing here.
        other = runs.RunStore(tmp_path / "other")
        told = other.put(made(4), title="told", request="asked", tags=["t"])
        assert store.add(other.root / told) == told
        row = store.run(told)
        assert row is not None and (row.title, row.tags, row.requests) == ("told", ("t",), ())

    @pytest.mark.parametrize("name", ["result.json", "arrays.safetensors"])
    def test_a_damaged_folder_is_not_taken_in(
        self, store: runs.RunStore, tmp_path: Path, name: str
    ) -> None:
        folder = made().save(tmp_path / "mine")
        (folder / name).write_text("{")
        with pytest.raises(runs.RunStoreError, match="damaged"):
            store.add(folder)
        with pytest.raises(runs.RunStoreError, match="is no result folder"):
            store.add(tmp_path / "nowhere")
        assert store.runs() == []


class TestTheIndexIsOnlyACopy:
    def test_folders_that_come_and_go_by_hand(self, store: runs.RunStore, tmp_path: Path) -> None:
        run = store.put(made(1), title="a", tags=["t"])
        before = store.runs()
        shutil.move(store.root / run, tmp_path / run)
        assert store.runs() == []
        shutil.move(tmp_path / run, store.root / run)
        assert store.runs() == before
        made(2).save(store.root / "0123456789abcdef")
        by_hand = store.run("0123456789abcdef")
        assert by_hand is not None and by_hand.title == "tests.small, m"
        assert store.tag("0123456789abcdef", ["mine"]) == ("mine",)
        (store.root / run / "run.json").write_text("{")
        (store.root / run / "run.json").touch()
        store.rebuild()
        row = store.run(run)
        assert row is not None and (row.title, row.tags) == ("tests.small, m", ())

    @pytest.mark.parametrize(
        "content", [b"", b"no database", b"SQLite format 3\x00" + bytes(range(256)) * 40]
    )
    def test_a_damaged_or_missing_index_is_made_anew(
        self, store: runs.RunStore, content: bytes
    ) -> None:
        for i in range(3):
            store.put(made(i), title=f"run {i}", tags=["t"], request=f"asked {i}")
        before = store.runs()
        path = store.root / "index.sqlite"
        path.unlink()
        assert store.runs() == before
        path.write_bytes(content)
        assert store.runs() == before
        assert store.answered(Small, "asked 1") is not None
        path.write_bytes(content)
        assert store.rebuild() == 3
        assert store.runs() == before

    def test_a_table_that_is_missing_is_made_anew(self, store: runs.RunStore) -> None:
        store.put(small(), title="a", tags=["t"])
        before = store.runs()
        with sqlite3.connect(store.root / "index.sqlite") as index:
            index.execute("DROP TABLE tags")
        assert store.runs(tag="t") == before

    def test_the_index_of_before_is_moved_over_with_its_titles(self, store: runs.RunStore) -> None:
        # As the version wrote it in which only the index knew the titles.
        ids = [runs.id_of(made(i).provenance) for i in range(2)]
        for i, run in enumerate(ids):
            made(i).save(store.root / run)
        with sqlite3.connect(store.root / "index.sqlite") as index:
            index.execute(
                "CREATE TABLE runs (id TEXT PRIMARY KEY, analysis TEXT NOT NULL, model TEXT NOT "
                "NULL, title TEXT NOT NULL, parameters TEXT NOT NULL, created TEXT NOT NULL)"
            )
            index.executemany(
                "INSERT INTO runs VALUES (?, 'tests.small', 'm', ?, '{}', '2026')",
                [(ids[0], "its title"), ("f" * 16, "without a folder"), ("../x", "hostile")],
            )
        titles = {row.id: row.title for row in store.runs()}
        assert titles == {ids[0]: "its title", ids[1]: "tests.small, m"}
        (store.root / "index.sqlite").unlink()
        assert {row.id: row.title for row in store.runs()} == titles, "folders know it now"
        assert not (store.root.parent / "x").exists()

    def test_an_index_that_cannot_be_written_is_done_without(self, store: runs.RunStore) -> None:
        run = store.put(small(), title="a", request="asked")
        (store.root / "index.sqlite").mkdir()
        assert [row.id for row in store.runs()] == [run]
        assert store.answered(Small, "asked") is not None

    def test_a_link_to_a_folder_elsewhere_is_no_run(
        self, store: runs.RunStore, tmp_path: Path
    ) -> None:
        store.put(small(), title="a")
        outside = made(1).save(tmp_path / "outside")
        (store.root / "0123456789abcdef").symlink_to(outside)
        assert len(store.runs()) == 1
        assert store.find(Small, "0123456789abcdef") is None


class TestComparing:
    def test_rows_are_matched_by_what_they_are_about(self) -> None:
        first = Tall(
            small().provenance, ("a", "b", "b"), np.array([0, 0, 1]), np.array([1.0, 2, 3])
        )
        second = Tall(
            small().provenance, ("b", "a", "c"), np.array([1, 0, 0]), np.array([5.0, 1.5, 9])
        )
        found = comparing.differences(first, second)
        about = found[["name", "layer", "measure", "difference"]].astype(object)
        rows = about.where(about.notna(), "none").to_numpy().tolist()
        assert rows[:2] == [["b", "1", "effect", 2.0], ["a", "0", "effect", 0.5]]
        assert sorted(map(tuple, rows[2:])) == [
            ("b", "0", "effect", "none"),
            ("c", "0", "effect", "none"),
        ]

    def test_only_results_of_one_kind_are_compared(self) -> None:
        with pytest.raises(ValueError, match="a Small and a Other cannot be compared"):
            comparing.differences(small(), small(Other))
        wide = dataclasses.replace(small(), grid=np.zeros((2, 4)))
        with pytest.raises(ValueError, match=r"different columns \(3\)"):
            comparing.differences(small(), wide)

    def test_what_made_them_is_said_as_far_as_it_differs(self) -> None:
        first, second = made(1).provenance, made(2, seed=4, wall_time=9.0).provenance
        assert comparing.parted(first, second) == [
            ("parameters number", "1", "2"),
            ("seed", "0", "4"),
        ]
        assert comparing.parted(first, first) == []
