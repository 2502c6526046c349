"""Run folders that somebody else has made, and what is said of them."""

from __future__ import annotations

import functools
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import workbench
from analyses import activation_patching
from tests.fuzz import corpus, drawing, effort, watching
from workbench import ContrastPairs
from workbench.core import results, runs
from workbench.core.runs import folders

ID = "0123456789abcdef"
KINDS = (
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "workbench.app.Main",
    "workbench.__main__.App",
    "analyses.nowhere.Result",
    "analyses.grokking.drops.curves",
    "workbench.core.results.Result",
    "workbench.core.results.Provenance",
    "analyses..x.Y",
    "canary.Result",
    "../../canary.Result",
    *drawing.TEXTS,
)


@functools.cache
def patched() -> results.Result:
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=3)
    return activation_patching.patch(model, pairs)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a result in which everything is right."""
    return patched().save(tmp_path_factory.mktemp("sound") / "result")


@pytest.fixture
def store(tmp_path: Path) -> runs.RunStore:
    """A store with one run, whose folder the tests replace."""
    made = runs.RunStore(tmp_path / "store")
    made.root.mkdir()
    return made


def put(store: runs.RunStore, sound: Path, **files: bytes) -> Path:
    """Lay a folder into a store by hand, as an archive of somebody else's is unpacked."""
    folder = store.root / ID
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    for name, content in files.items():
        (folder / {"document": "result.json", "arrays": "arrays.safetensors"}[name]).write_bytes(
            content
        )
    return folder


def read(store: runs.RunStore) -> None:
    """Everything that pages and commands do with a run before they draw it."""
    with watching.watched(store.root, hostile=store.root / ID):
        listed = store.runs(text="patch")
        for why in store.unreadable().values():
            watching.require_sentence(why)
        opened = store.open(ID)
        assert opened is None or listed or store.run(ID) is not None
        watching.refused(lambda: results.Result.load(store.root / ID))
        watching.refused(lambda: folders.read(store.root / ID))
        store.known()
        watching.refused(lambda: store.add(store.root / ID))


@pytest.mark.parametrize(
    ("part", "files"),
    [("document", {**corpus.ANY_TEXT, **corpus.ANY_JSON}), ("arrays", corpus.ARRAYS)],
    ids=["documents", "arrays"],
)
def test_bad_files_of_runs_are_refused(
    store: runs.RunStore,
    sound: Path,
    subtests: pytest.Subtests,
    part: str,
    files: dict[str, bytes],
) -> None:
    for name, content in files.items():
        with subtests.test(name):
            put(store, sound, **{part: content})
            read(store)
            assert store.open(ID) is None


def test_kinds_of_results_that_are_none_run_nothing(
    store: runs.RunStore, sound: Path, subtests: pytest.Subtests
) -> None:
    document = json.loads((sound / "result.json").read_text())
    for kind in (*KINDS, 1, None, ["a"], {"a": 1}):
        with subtests.test(repr(kind)[:40]):
            put(store, sound, document=drawing.json_bytes({**document, "kind": kind}))
            (store.root / ID / "canary.py").write_text("raise SystemExit('run')\n")
            read(store)
            assert store.open(ID) is None


@effort.inputs(15)
@given(data=st.data())
def test_altered_runs_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sound: Path, data: st.DataObject
) -> None:
    made = runs.RunStore(tmp_path_factory.mktemp("store"))
    document = json.loads((sound / "result.json").read_text())
    put(made, sound, document=drawing.json_bytes(data.draw(drawing.altered(document))))
    read(made)


@effort.inputs(12)
@given(data=st.data(), number=st.sampled_from((np.float32, np.int64, np.bool_, np.uint8)))
def test_altered_arrays_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sound: Path, data: st.DataObject, number: Any
) -> None:
    made = runs.RunStore(tmp_path_factory.mktemp("store"))
    arrays = safetensors.numpy.load_file(sound / "arrays.safetensors")
    name = data.draw(st.sampled_from(sorted(arrays)))
    shape = data.draw(st.sampled_from(((), (0,), (1,), (7,), (2, 3), (1, 1, 1, 1))))
    arrays[name] = np.ones(shape, dtype=number)
    put(made, sound, arrays=safetensors.numpy.save(arrays))
    read(made)


def test_links_of_run_folders_lead_nowhere(
    store: runs.RunStore, sound: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(sound, outside)
    secret = tmp_path / "secret"
    (tmp_path / "out").mkdir()
    secret.write_text("secret")
    # The folder itself, a file in it, a folder in it, a circle.
    (store.root / ID).symlink_to(outside)
    assert store.run(ID) is None and store.open(ID) is None
    with watching.watched(store.root):
        watching.refused(lambda: store.delete(ID))
        watching.refused(lambda: store.tag(ID, ["a"]))
    (store.root / ID).unlink()
    folder = put(store, sound)
    for name, target in {"run.json": secret, "more": outside, "circle": folder}.items():
        (folder / name).symlink_to(target)
    read(store)
    with watching.watched(store.root, tmp_path / "out"):
        archive = store.export([ID], tmp_path / "out" / "runs.zip")
        with zipfile.ZipFile(archive) as content:
            assert sorted(content.namelist()) == [
                f"{ID}/arrays.safetensors",
                f"{ID}/result.json",
            ]
    with watching.watched(store.root):
        store.tag(ID, ["tagged"])
        store.delete(ID)
        store.rebuild()
    assert secret.read_text() == "secret"
    assert sorted(os.listdir(outside)) == ["arrays.safetensors", "result.json"]


def test_ids_are_no_way_out(store: runs.RunStore, sound: Path, tmp_path: Path) -> None:
    put(store, sound)
    names = (
        *drawing.TEXTS,
        f"../store/{ID}",
        f"{ID}/",
        f"{ID}/.",
        f"./{ID}",
        f"{ID}\n",
        ID.upper(),
    )
    out = tmp_path / "out"
    out.mkdir()
    with watching.watched(store.root, out):
        for name in names:
            assert store.open(name) is None and store.run(name) is None
            for change in (
                functools.partial(store.delete, name),
                functools.partial(store.tag, name, ["a"]),
                functools.partial(store.export, [name], out / "runs.zip"),
            ):
                with pytest.raises(runs.RunStoreError):
                    change()
    assert not list(out.iterdir())


@effort.inputs(5)
@given(data=st.data())
def test_runs_show_says_in_a_sentence_what_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, sound: Path, data: st.DataObject
) -> None:
    made = runs.RunStore(tmp_path_factory.mktemp("store"))
    document = json.loads((sound / "result.json").read_text())
    put(made, sound, document=drawing.json_bytes(data.draw(drawing.altered(document))))
    with pytest.MonkeyPatch.context() as patch, watching.watched(made.root):
        patch.setenv("WORKBENCH_RUNS", str(made.root))
        watching.command("runs", "list")
        watching.command("runs", "show", ID)
