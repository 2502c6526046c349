"""Corpora: every way in, the order of the chunks, and every way to get them wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import httpx
import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.planted import unplanted
from workbench.core.prompts import corpus as corpora
from workbench.core.prompts import tokenization
from workbench.core.prompts.corpus import Corpus, CorpusError

TEXTS = ["ape bee cat", "dog elk", "", "fox ape bee cat dog"]


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return unplanted.randomised()


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


def rows(corpus: Corpus) -> list[list[int]]:
    return [corpus.row(i).tolist() for i in range(len(corpus))]


class TestWaysIn:
    def test_texts_become_what_the_model_reads_of_each(self, model: TransformerBridge) -> None:
        made = Corpus.from_texts(model, TEXTS)
        expected = [list(tokenization.encode(model, text)) for text in TEXTS if text]
        assert rows(made) == expected

    def test_a_long_document_goes_on_in_rows_with_bos_in_front(
        self, grammar: TransformerBridge
    ) -> None:
        words = ["the", "king"] * 70
        made = Corpus.from_texts(grammar, [" ".join(words)])
        assert [len(row) for row in rows(made)] == [64, 64, 15]
        assert all(row[0] == grammar.tokenizer.bos_token_id for row in rows(made))
        inside = [token for row in rows(made) for token in row[1:]]
        assert inside == tokenization.bare(grammar, " ".join(words))

    def test_files_hold_the_same_documents(self, model: TransformerBridge, tmp_path: Path) -> None:
        expected = rows(Corpus.from_texts(model, TEXTS))
        (tmp_path / "a.txt").write_text("\n\n".join(TEXTS) + "\n")
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
        for name in ("a.txt", "a.jsonl"):
            opened = Corpus.open(model, tmp_path / name, cache=tmp_path / "cache")
            assert rows(opened) == expected
            # The second time nothing is tokenized, and it is the same.
            again = Corpus.open(model, tmp_path / name, cache=tmp_path / "cache")
            assert again.fingerprint == opened.fingerprint
        assert len(list((tmp_path / "cache").iterdir())) == 2

    def test_records_are_read_by_column(self, model: TransformerBridge) -> None:
        records = [{"story": text} for text in TEXTS]
        made = Corpus.from_records(model, records, column="story")
        assert rows(made) == rows(Corpus.from_texts(model, TEXTS))

    def test_arrays_of_tokens_are_mapped_and_cut(
        self, model: TransformerBridge, tmp_path: Path
    ) -> None:
        stream = np.array([1, 2, 3, 4, 5, 0, 1], dtype=np.uint16)
        np.save(tmp_path / "a.npy", stream)
        made = Corpus.open(model, tmp_path / "a.npy", length=3)
        assert rows(made) == [[1, 2, 3], [4, 5, 0]]
        assert isinstance(made.tokens, np.memmap)
        table = Corpus.from_tokens(model, stream[:6].reshape(2, 3))
        assert table.fingerprint == made.fingerprint


class TestDatasets:
    def test_a_saved_dataset_holds_the_same_documents(
        self, model: TransformerBridge, tmp_path: Path
    ) -> None:
        table = datasets.Dataset.from_dict({"id": list(range(4)), "story": TEXTS})
        # Two files: their order is that of the documents.
        table.save_to_disk(tmp_path / "saved", num_shards=2)
        opened = Corpus.open(model, tmp_path / "saved", column="story", cache=tmp_path / "cache")
        assert opened.name == "saved"
        assert rows(opened) == rows(Corpus.from_texts(model, TEXTS))
        # The second time the tokens of before are opened; other documents are other tokens.
        again = Corpus.open(model, tmp_path / "saved", column="story", cache=tmp_path / "cache")
        assert again.fingerprint == opened.fingerprint
        assert len(list((tmp_path / "cache").iterdir())) == 1
        table.select([0, 1]).save_to_disk(tmp_path / "saved")
        fewer = Corpus.open(model, tmp_path / "saved", column="story", cache=tmp_path / "cache")
        assert rows(fewer) == rows(Corpus.from_texts(model, TEXTS[:2]))

    def test_a_folder_that_is_not_one_dataset_is_refused(
        self, model: TransformerBridge, tmp_path: Path
    ) -> None:
        table = datasets.Dataset.from_dict({"text": TEXTS, "number": [1, 2, 3, 4]})
        table.save_to_disk(tmp_path / "saved")
        parts = datasets.DatasetDict({"train": table, "test": table})
        parts.save_to_disk(tmp_path / "parts")
        (tmp_path / "folder").mkdir()
        (tmp_path / "damaged").mkdir()
        for file in (tmp_path / "saved").iterdir():
            content = file.read_bytes()
            damage = b"nothing" if file.suffix == ".arrow" else content
            (tmp_path / "damaged" / file.name).write_bytes(damage)
        for name, column, said in (
            ("parts", "text", r"open the folder of one of them \(test, train\)"),
            ("folder", "text", "expected a folder that datasets.Dataset.save_to_disk wrote"),
            ("damaged", "text", "damaged cannot be read: "),
            ("saved", "story", "saved has no column 'story': it has text, number"),
            ("saved", "number", "record 0 has no text in column 'number'"),
        ):
            with pytest.raises(CorpusError, match=said):
                Corpus.open(model, tmp_path / name, column=column, cache=tmp_path / "cache")
        assert not list((tmp_path / "cache").iterdir())
        whole = Corpus.open(model, tmp_path / "parts" / "test", cache=tmp_path / "cache")
        assert rows(whole) == rows(Corpus.from_texts(model, TEXTS))

    def test_a_stream_of_data_files_gives_its_first_documents(
        self, model: TransformerBridge, tmp_path: Path
    ) -> None:
        # The same reader as for the hub, on a folder that is laid out like one of its datasets.
        folder = tmp_path / "stories"
        folder.mkdir()
        lines = "\n".join(json.dumps({"text": text}) for text in TEXTS)
        (folder / "train.jsonl").write_text(lines)
        every = Corpus.from_dataset(model, str(folder))
        assert rows(every) == rows(Corpus.from_texts(model, TEXTS))
        assert every.name == f"{folder} (train)"
        first = Corpus.from_dataset(model, str(folder), limit=2)
        assert rows(first) == rows(Corpus.from_texts(model, TEXTS[:2]))
        with pytest.raises(CorpusError, match="record 0 has no text in column 'story'"):
            Corpus.from_dataset(model, str(folder), column="story")
        with pytest.raises(CorpusError, match=r"cannot be read from the hub: .*split"):
            Corpus.from_dataset(model, str(folder), split="dev")
        with pytest.raises(CorpusError, match="limit = 0; expected at least 1 document"):
            Corpus.from_dataset(model, str(folder), limit=0)

    def test_the_hub_is_asked_for_what_was_named_and_no_more_is_read_than_the_limit(
        self, model: TransformerBridge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []

        def load(*names: str | None, **options: Any) -> Iterator[dict[str, str]]:
            asked.append((names, options))
            for text in ["ape bee", "cat", "dog"]:
                asked.append(text)
                yield {"text": text}

        monkeypatch.setattr(datasets, "load_dataset", load)
        made = Corpus.from_dataset(model, "a/b", subset="small", split="test", limit=2)
        assert rows(made) == rows(Corpus.from_texts(model, ["ape bee", "cat"]))
        wanted = (("a/b", "small"), {"split": "test", "streaming": True})
        assert asked == [wanted, "ape bee", "cat"]

    def test_without_a_network_one_sentence_says_what_to_do(
        self, model: TransformerBridge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = "the hub cannot be reached for the dataset 'a/b': try again with a network, or save"
        # Tests run offline, so this is what the library itself does.
        with pytest.raises(CorpusError, match=said):
            Corpus.from_dataset(model, "a/b")

        def breaks(*names: str | None, **options: Any) -> Iterator[dict[str, str]]:
            yield {"text": "ape"}
            raise httpx.ReadTimeout("the read operation timed out")

        monkeypatch.setattr(datasets, "load_dataset", breaks)
        with pytest.raises(CorpusError, match="'a/b' cannot be read from the hub: the read opera"):
            Corpus.from_dataset(model, "a/b")


class TestRows:
    def test_numbers_and_places_are_inverse(self, model: TransformerBridge) -> None:
        made = Corpus.from_texts(model, TEXTS * 30).take([5, 2, 77, 30])
        every = np.arange(made.n_tokens)
        at, positions = made.locate(every)
        flat = [(i, j) for i in range(len(made)) for j in range(len(made.row(i)))]
        assert list(zip(at.tolist(), positions.tolist(), strict=True)) == flat
        assert made.locate(np.array([-1]))[0].tolist() == [-1]
        assert made.at(at, positions).tolist() == [int(made.row(i)[j]) for i, j in flat]
        assert made.at(np.array([-1]), np.array([0])).tolist() == [-1]

    def test_a_split_has_every_row_once(self, model: TransformerBridge) -> None:
        made = Corpus.from_texts(model, TEXTS * 20)
        first, second = made.split(0.3, seed=1)
        assert (len(first), len(second)) == (18, 42)
        assert sorted(rows(first) + rows(second)) == sorted(rows(made))
        assert first.fingerprint == made.split(0.3, seed=1)[0].fingerprint
        assert first.fingerprint != made.split(0.3, seed=2)[0].fingerprint

    def test_pieces_hold_every_token_in_order(
        self, model: TransformerBridge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(corpora, "_PIECE", 4)
        whole = Corpus.from_texts(model, TEXTS * 5)
        for made in (whole, whole.take([9, 2, 5, 0, 1, 14])):
            pieces = list(made.pieces())
            flat = [token for row in rows(made) for token in row]
            assert np.concatenate([tokens for tokens, _ in pieces]).tolist() == flat
            begins = np.flatnonzero(np.concatenate([first for _, first in pieces]))
            assert begins.tolist() == made.firsts[:-1].tolist()


class TestChunks:
    @pytest.mark.parametrize("size", [7, 16, 4096])
    def test_every_token_is_there_once_and_special_ones_do_not_count(
        self, model: TransformerBridge, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        monkeypatch.setattr(corpora, "CHUNK", size)
        monkeypatch.setattr(corpora, "WINDOW", 9)
        made = Corpus.from_texts(model, TEXTS * 11)
        chunks = list(made.chunks())
        assert made.n_chunks == len(chunks)
        assert sorted(np.concatenate([chunk.rows for chunk in chunks])) == list(range(len(made)))
        special = torch.tensor(model.tokenizer.all_special_ids)
        for chunk in chunks:
            assert chunk.tokens.numel() <= max(size, chunk.tokens.shape[1])
            for row, tokens, length in zip(chunk.rows, chunk.tokens, chunk.lengths, strict=True):
                assert tokens[:length].tolist() == made.row(int(row)).tolist()
                assert not tokens[length:].any()
            read = chunk.tokens[chunk.counted]
            assert not torch.isin(read, special).any()
            at, positions = made.locate(made.numbers(chunk))
            where = zip(at.tolist(), positions.tolist(), strict=True)
            assert read.tolist() == [int(made.row(i)[j]) for i, j in where]
        counted = sum(int(chunk.counted.sum()) for chunk in chunks)
        assert counted == sum(len(text.split()) for text in TEXTS) * 11

    def test_going_on_gives_the_rest(
        self, model: TransformerBridge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(corpora, "CHUNK", 12)
        made = Corpus.from_texts(model, TEXTS * 5)
        every = [chunk.rows.tolist() for chunk in made.chunks()]
        assert [chunk.rows.tolist() for chunk in made.chunks(3)] == every[3:]


class TestWrongInput:
    def test_what_is_no_corpus(self, model: TransformerBridge, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").write_text(" \n\n")
        (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
        (tmp_path / "bad.jsonl").write_text('{"text": "ape"\n')
        (tmp_path / "other.jsonl").write_text('{"story": "ape"}\n')
        (tmp_path / "bad.npy").write_bytes(b"no array")
        np.save(tmp_path / "floats.npy", np.zeros(5))
        np.save(tmp_path / "large.npy", np.full(20, 999))
        np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        for name, said in {
            "empty.txt": "holds no text",
            "bytes.txt": "cannot be read",
            "bad.jsonl": "cannot be read",
            "other.jsonl": "record 0 has no text in column 'text'",
            "bad.npy": "cannot be read as an array",
            "floats.npy": "expected whole numbers",
            "large.npy": "the vocabulary has 0 to",
            "objects.npy": "cannot be read as an array",
            "missing.txt": "is not there",
            "picture.png": "expected a file ending in",
        }.items():
            with pytest.raises(CorpusError, match=said):
                Corpus.open(model, tmp_path / name, length=5, cache=tmp_path / "cache")
        # Nothing half-written stays.
        assert not list((tmp_path / "cache").iterdir())

    def test_what_cannot_be_taken(self, model: TransformerBridge) -> None:
        made = Corpus.from_texts(model, TEXTS)
        with pytest.raises(CorpusError, match="rows 0 to 2"):
            made.take([3])
        with pytest.raises(CorpusError, match="does not split in two"):
            made.split(0.01)
        with pytest.raises(CorpusError, match="holds no text"):
            Corpus.from_texts(model, [" "])
        with pytest.raises(CorpusError, match="less than one row"):
            Corpus.from_tokens(model, np.array([1, 2]), length=3)
        with pytest.raises(CorpusError, match=r"expected \[row, position\]"):
            Corpus.from_tokens(model, np.zeros((1, 2, 3), dtype=np.int64))
