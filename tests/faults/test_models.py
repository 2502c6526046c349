"""Models that do not fit, files that are damaged, and the models that open all the same."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from workbench.core.models import card, checksums, memory, sources
from workbench.core.modular import bundle
from workbench.core.networks import sources as networks
from workbench.ui import shelf

MODELS = ("grammar-4l", "modadd-113")


def quietly(_fraction: float, _note: str) -> None:
    pass


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return {name: sources.load_model(name) for name in MODELS}


def sizes() -> list[int]:
    return [memory.stored_bytes(card.BUNDLED / name, 4) for name in MODELS]


class TestSizes:
    def test_headers_say_what_the_loaded_model_takes(self, loaded: dict[str, Any]) -> None:
        for name, expected in zip(MODELS, sizes(), strict=True):
            # Buffers that are computed, such as masks, are not stored.
            held = memory.held_bytes(loaded[name])
            assert expected <= held < 1.6 * expected

    def test_several_files_count_together_and_only_those_of_the_index(self, tmp_path: Path) -> None:
        for file in "abc":
            values = {file: np.zeros((3, 5), np.float16)}
            safetensors.numpy.save_file(values, tmp_path / f"{file}.safetensors")
        assert memory.stored_bytes(tmp_path, 4) == 3 * 15 * 4
        index = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert memory.stored_bytes(tmp_path, 4) == 2 * 15 * 4
        (tmp_path / "b.safetensors").unlink()
        with pytest.raises(memory.DamagedError, match="lacks b.safetensors"):
            memory.stored_bytes(tmp_path, 4)

    @pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", 3, None])
    def test_an_index_that_leads_elsewhere(self, name: object, tmp_path: Path) -> None:
        index = {"weight_map": {"a": name}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(memory.DamagedError, match="which is no file beside it"):
            memory.stored_bytes(tmp_path, 4)

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff" * 8,
            b"\x02" + b"\0" * 7 + b"[]",
            (9).to_bytes(8, "little") + b'{"a":{}}}',
            (40).to_bytes(8, "little") + b'{"a":{"shape":[-1],"data_offsets":[0,0]}}'[:40],
            (5000).to_bytes(8, "little") + b"[" * 5000,
        ],
    )
    def test_headers_that_are_none(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(memory.DamagedError, match="is damaged"):
            memory.stored_bytes(tmp_path, 4)

    def test_the_limit_of_a_control_group_counts(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv(memory.VARIABLE, raising=False)
        group = tmp_path / "groups" / "mine"
        group.mkdir(parents=True)
        (group / "memory.max").write_text("1000000\n")
        (group / "memory.current").write_text("700000\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
        (tmp_path / "groups" / "memory.max").write_text("max\n")
        (tmp_path / "own").write_text("0::/mine\n")
        monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
        monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "own")
        assert memory.budget() == 500_000
        # 300,000 are left, and 200,000 are copies of files.
        assert memory.free() == 500_000

    @pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "inf"])
    def test_a_budget_that_is_none(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(memory.VARIABLE, text)
        with pytest.raises(memory.NoRoomError, match="WORKBENCH_MODEL_MEMORY is .*expected gigab"):
            memory.budget()


class TestBudget:
    def test_a_model_that_exceeds_it_is_refused_before_it_is_read_and_others_open(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large, small = sizes()
        assert large > small
        monkeypatch.setenv(memory.VARIABLE, str(1.5 * small / 1e9))
        shelves = shelf.Shelf()
        opened = shelves.open("modadd-113", quietly)
        with monkeypatch.context() as patched:
            patched.setattr(sources, "_open", lambda *_: pytest.fail("it was read"))
            with pytest.raises(ValueError, match="takes 3.7 MB of memory and models may") as found:
                shelves.open("grammar-4l", quietly)
            with pytest.raises(sources.ModelSourceError, match=memory.VARIABLE):
                sources.load_model("grammar-4l")
        assert f"set {memory.VARIABLE} to more gigabytes" in str(found.value)
        # Nobody lost a model to one that would not have fitted.
        assert shelves.find("modadd-113") is opened
        monkeypatch.setenv(memory.VARIABLE, "1")
        assert shelves.open("grammar-4l", quietly) is shelves.find("grammar-4l")

    def test_a_model_that_is_larger_than_what_is_free_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2000 kB\n")
        monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
        with pytest.raises(sources.ModelSourceError, match=r"2\.0 MB of this machine's are free"):
            sources.load_model("grammar-4l")
        assert sources.load_model("modadd-113") is not None


class TestShelf:
    @pytest.fixture
    def room_for_one(self, loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        most = max(map(memory.held_bytes, loaded.values()))
        monkeypatch.setenv(memory.VARIABLE, str(1.1 * most / 1e9))

    @pytest.mark.usefixtures("room_for_one")
    def test_the_least_recently_used_is_let_go_by_bytes(self, loaded: dict[str, Any]) -> None:
        shelves = shelf.Shelf()
        for name in MODELS:
            shelves.put(name, loaded[name])
        assert [shelves.find(name) is not None for name in MODELS] == [False, True]
        assert shelves.held() == memory.held_bytes(loaded["modadd-113"])

    @pytest.mark.usefixtures("room_for_one")
    def test_a_pinned_one_is_never_let_go(self, loaded: dict[str, Any]) -> None:
        shelves = shelf.Shelf()
        shelves.put("mine", loaded["grammar-4l"], pinned=True)
        shelves.put("other", loaded["modadd-113"])
        assert shelves.find("mine") is loaded["grammar-4l"]
        with pytest.raises(ValueError, match="are taken for good"):
            shelves.open("grammar-4l", quietly)
        assert shelves.find("mine") is loaded["grammar-4l"]

    def test_two_that_ask_at_once_load_it_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, found = [], []
        original = sources.read_source

        def counted(*given: Any, **settings: Any) -> Any:
            read.append(given)
            return original(*given, **settings)

        monkeypatch.setattr(sources, "read_source", counted)
        shelves = shelf.Shelf()
        both = threading.Barrier(2)

        def ask() -> None:
            both.wait(10)
            found.append(shelves.open("modadd-113", quietly))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(read) == 1
        assert len(found) == 2 and found[0] is found[1]


class TestDamagedFiles:
    @pytest.fixture
    def bundled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A copy of everything that is bundled, in the place of the original."""
        for name, root in zip(("models", "networks"), checksums.ROOTS, strict=True):
            shutil.copytree(root, tmp_path / name)
        monkeypatch.setattr(checksums, "ROOTS", (tmp_path / "models", tmp_path / "networks"))
        monkeypatch.setattr(card, "BUNDLED", tmp_path / "models")
        monkeypatch.setattr(networks, "BUNDLED", tmp_path / "networks")
        yield tmp_path

    def test_the_lists_are_those_of_the_files(self) -> None:
        for root in checksums.ROOTS:
            listed = json.loads((root / checksums.NAME).read_text())
            # After a model was made anew: python -m workbench.core.models.checksums
            assert listed == checksums.made(root)

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
    @pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
    def test_a_damaged_bundled_model_is_refused_and_others_open(
        self, bundled: Path, file: str, damage: str
    ) -> None:
        path = bundled / "models" / "modadd-113" / file
        content = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "truncated":
            path.write_bytes(content[:-10])
        else:
            # One bit of a weight or of a word: every file still opens.
            content[-8] ^= 1
            path.write_bytes(content)
        with pytest.raises(sources.ModelSourceError, match=f"{file}.*install the workbench again"):
            sources.load_model("modadd-113")
        if damage == "flipped" and file == "model.safetensors":
            assert sources.load_model("grammar-4l") is not None
        if file == "model.safetensors":
            with pytest.raises(ValueError, match="restore the file with git"):
                trajectory = bundle.Trajectory.open(bundled / "models" / "modadd-113")
                trajectory.weights(trajectory.steps[-1])

    def test_a_damaged_bundled_network_is_refused_and_mended(self, bundled: Path) -> None:
        path = bundled / "networks" / "mnist1d-mlp" / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(networks.NetworkError, match="is damaged .its sha256"):
            networks.load_network("mnist1d-mlp")
        networks.load_network("mnist1d-cnn")
        path.write_bytes(content)
        networks.load_network("mnist1d-mlp")
