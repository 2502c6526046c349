"""Results: frozen, saved whole or not at all, and read back to the bit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import safetensors.numpy

import workbench
from workbench.core import results
from workbench.core.planted import two_steps


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    value: float | None


@dataclasses.dataclass(frozen=True)
class Small(results.Result):
    grid: np.ndarray
    names: tuple[tuple[str, ...], ...]
    parts: tuple[Part, ...]
    extra: float | None
    counts: dict[str, int]
    single: Part
    aliases: tuple[str, ...] | None = ("first", "second")

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.grid)

    def figure(self, order: str = "number") -> go.Figure:
        assert self.aliases is not None
        if order != "number":
            raise ValueError(f"order {order}: expected number")
        return go.Figure(layout_title_text=self.aliases[0])

    def summary(self) -> str:
        return self.single.name


@dataclasses.dataclass(frozen=True)
class Other(Small):
    """A result of another kind."""


def small(kind: type[Small] = Small) -> Small:
    made = results.Provenance(
        model="m",
        fingerprint="f" * 64,
        analysis="tests.small",
        parameters={"site": "z", "n": 3, "list": [1, 2]},
        seed=0,
        versions={"torch": "1"},
        device="cpu",
        dtype="float32",
        weight_processing="none",
        wall_time=0.5,
        created="2026-01-01T00:00:00+00:00",
    )
    return kind(
        provenance=made,
        grid=np.array([[1.0, np.nan, np.inf], [-0.0, 1e-300, -np.inf]]),
        names=(("a", "<b>"), ()),
        parts=(Part("x", 1.5), Part("y", None), Part("z", float("nan"))),
        extra=float("-inf"),
        counts={"one": 1},
        single=Part("whole", 0.1),
    )


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    before = small()
    assert before.save(tmp_path / "deep" / "run") == tmp_path / "deep" / "run"
    after = Small.load(tmp_path / "deep" / "run")
    assert type(after) is Small
    assert after.grid.tobytes() == before.grid.tobytes()
    for name in ("provenance", "names", "extra", "counts", "single", "aliases"):
        assert getattr(after, name) == getattr(before, name)
    assert after.parts[:2] == before.parts[:2]
    assert repr(after.parts[2].value) == "nan"


def altered(folder: Path, **fields: Any) -> Path:
    """A result folder in which somebody has written other values."""
    place = folder / "result.json"
    document = json.loads(place.read_text())
    document["fields"] |= fields
    place.write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("names", [["a"] * 50, ["b"] * 20 + [None] + ["b"] * 20]),
        ("names", [["a"] * 50 + [1]]),
        ("counts", {str(i): i for i in range(50)} | {"one": "1"}),
        ("aliases", ["a"] * 50 + [None]),
    ],
)
def test_one_item_of_many_that_is_of_another_type_is_found_each_time(
    tmp_path: Path, name: str, value: Any
) -> None:
    folder = altered(small().save(tmp_path / "run"), **{name: value})
    for _ in range(20):
        with pytest.raises(results.ResultError, match="holds what it should not"):
            Small.load(folder)


def test_a_loaded_result_whose_parts_do_not_fit_says_so(tmp_path: Path) -> None:
    folder = altered(small().save(tmp_path / "run"), aliases=[])
    with pytest.raises(IndexError):
        dataclasses.replace(small(), aliases=()).figure()
    with pytest.raises(results.ResultError, match=r"run is damaged: its parts do not fit"):
        Small.load(folder).figure()
    with pytest.raises(ValueError, match="^order value: expected number$"):
        Small.load(folder).figure("value")


@pytest.mark.parametrize("name", ["number", "array", "plain", "other"])
@pytest.mark.parametrize("value", [3, "nan", "/grid", {"plain": {"number": 1}}])
def test_parameters_may_be_called_anything(tmp_path: Path, name: str, value: Any) -> None:
    before = small()
    made = dataclasses.replace(before.provenance, parameters={name: value})
    dataclasses.replace(before, provenance=made).save(tmp_path / "run")
    assert Small.load(tmp_path / "run").provenance == made


def test_the_base_class_finds_the_kind_by_its_name(tmp_path: Path) -> None:
    small(Other).save(tmp_path / "run")
    assert type(results.Result.load(tmp_path / "run")) is Other
    assert type(Small.load(tmp_path / "run")) is Other


def test_json_and_safetensors_and_nothing_else(tmp_path: Path) -> None:
    folder = small().save(tmp_path / "run")
    assert sorted(file.name for file in folder.iterdir()) == ["arrays.safetensors", "result.json"]
    document = json.loads((folder / "result.json").read_text())
    assert document["fields"]["provenance"]["parameters"]["site"] == "z"
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_results_are_frozen() -> None:
    result = small()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.extra = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="read-only"):
        result.grid[0, 0] = 2.0


def test_saving_again_replaces_the_old_result(tmp_path: Path) -> None:
    small().save(tmp_path / "run")
    dataclasses.replace(small(), extra=3.0).save(tmp_path / "run")
    assert Small.load(tmp_path / "run").extra == 3.0
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("existing", ["folder", "file"])
def test_what_is_no_result_is_never_replaced(tmp_path: Path, existing: str) -> None:
    place = tmp_path / "thesis"
    if existing == "folder":
        place.mkdir()
        (place / "chapter.txt").write_text("years of work")
    else:
        place.write_text("years of work")
    with pytest.raises(results.ResultError, match="exists and is no result folder"):
        small().save(place)
    kept = place / "chapter.txt" if existing == "folder" else place
    assert kept.read_text() == "years of work"


@pytest.mark.parametrize("before", [False, True])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    if before:
        small().save(tmp_path / "run")

    def full(arrays: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(results.ResultError, match="the disk is full: free some space"):
        dataclasses.replace(small(), extra=9.0).save(tmp_path / "run")
    assert [file.name for file in tmp_path.iterdir()] == (["run"] if before else [])
    if before:
        assert Small.load(tmp_path / "run").extra == float("-inf")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(results.ResultError, match="cannot write to"):
        small().save(tmp_path / "file" / "run")


class TestDamaged:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return small().save(tmp_path / "run")

    @pytest.mark.parametrize("missing", ["result.json", "arrays.safetensors"])
    def test_a_missing_file(self, folder: Path, missing: str) -> None:
        (folder / missing).unlink()
        with pytest.raises(results.ResultError, match="is not a result folder or is damaged"):
            Small.load(folder)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"kind": 3}', '{"kind": []}'])
    def test_a_document_that_is_none(self, folder: Path, text: str) -> None:
        (folder / "result.json").write_text(text)
        with pytest.raises(results.ResultError):
            Small.load(folder)

    @pytest.mark.parametrize("name", ["grid", "parts", "provenance", "unknown"])
    def test_fields_that_do_not_fit(self, folder: Path, name: str) -> None:
        document = json.loads((folder / "result.json").read_text())
        document["fields"][name] = {"array": "/nothing"}
        (folder / "result.json").write_text(json.dumps(document))
        with pytest.raises(results.ResultError):
            Small.load(folder)

    def test_arrays_that_are_cut_off(self, folder: Path) -> None:
        arrays = folder / "arrays.safetensors"
        arrays.write_bytes(arrays.read_bytes()[:-5])
        with pytest.raises(results.ResultError, match="damaged"):
            Small.load(folder)

    def test_another_kind(self, folder: Path) -> None:
        with pytest.raises(results.ResultError, match="expected a Other"):
            Other.load(folder)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(results.ResultError, match="is not a result folder"):
            Small.load(tmp_path / "nothing")


def test_provenance_describes_the_model_and_the_machine() -> None:
    model = two_steps.two_layer()
    made = results.provenance(model, analysis="tests", parameters={"a": 1}, seed=4, wall_time=1.0)
    assert made.fingerprint == workbench.fingerprint(model)
    assert (made.device, made.dtype, made.weight_processing) == ("cpu", "float32", "none")
    assert made.versions["workbench"] == workbench.__version__
    assert made.versions["transformer-lens"].startswith("3.")
    assert made.created.endswith("+00:00")
