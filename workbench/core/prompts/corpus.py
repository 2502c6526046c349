"""Corpus: documents as tokens on disk, read in an order that never changes.

1. A document is split into rows of at most the context's length; where the model puts BOS in front
   of a text, each row begins with it, as the model was trained.
2. Rows lie one after another in one array, which is memory-mapped: a corpus may be larger than the
   memory. Texts and files are tokenized once, in a stream, into a folder found again by what made
   it (the text's and the tokenizer's sha256).
3. `chunks` reads the rows in windows, sorts each window by length and cuts it into chunks of about
   `CHUNK` tokens, padded on the right. Which rows meet in a chunk depends on the corpus alone. A
   forward pass of the same chunk gives the same bits, so whatever goes over a corpus does, too,
   however it is interrupted.
4. Hugging Face datasets come in as a folder of their `save_to_disk` (offline), or as a stream from
   the hub; nothing but `from_dataset` uses a network.

Padding stands on the right and no position of a causal model sees what is to the right of it, so
what is computed for real tokens does not depend on it. Special tokens (BOS, EOS, padding) are read
like all others, but do not count: many units are largest at BOS, which says nothing about text.
`Chunk.counted` says which tokens count.

Limits: rows of one document do not see each other. What is streamed from the hub is held in memory
and read anew each time; for more than that, save the dataset and open its folder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer

from workbench.core import reading, runs
from workbench.core.models import sources
from workbench.core.models.training import grammar
from workbench.core.modular import tasks as modular
from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Tokens of a forward pass, padding included; more are no faster together.
CHUNK = 4096
# Rows that are sorted by length together.
WINDOW = 512
# Rows that are counted together.
_PIECE = 4096
# Texts that are tokenized together, and characters of a document that go together at the most.
_TEXTS, _LONGEST = 256, 100_000
_ARRAY = b"\x93NUMPY"
_ENDINGS = (".txt", ".jsonl", ".npy")
# What marks a folder as one dataset, and as several of them (splits), to Hugging Face's library.
_DATASET, _SPLITS = "state.json", "dataset_dict.json"


class CorpusError(ValueError):
    """A corpus could not be read; the message says what was expected."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that go through a model together.

    Attributes:
        rows: Which rows of the corpus.
        tokens: Their tokens, padded on the right with token 0.
        lengths: How many tokens of each row are its own.
        counted: Where a token is the row's own and not special.
    """

    rows: Int[np.ndarray, " row"]
    tokens: Int[torch.Tensor, "row position"]
    lengths: Int[np.ndarray, " row"]
    counted: Bool[torch.Tensor, "row position"]


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Rows of tokens.

    Attributes:
        name: What a reader calls it.
        tokens: All rows, one after another; possibly memory-mapped.
        starts: Where each row begins in `tokens`, and after them where the last one ends.
        special: Tokens that do not count.
        chosen: Which rows belong to this corpus, in order; None for all.
    """

    name: str
    tokens: Integer[np.ndarray, " token"]
    starts: Int[np.ndarray, " row_and_end"]
    special: tuple[int, ...] = ()
    chosen: Int[np.ndarray, " chosen"] | None = None

    @classmethod
    def from_texts(
        cls, model: TransformerBridge, texts: Iterable[str], *, name: str = "texts"
    ) -> Corpus:
        """Tokenize texts in memory, one document each.

        Args:
            model: Whose tokenizer and context to use.
            texts: Any number of them; empty ones are passed over.
            name: What a reader calls it.

        Returns:
            The corpus.

        Raises:
            CorpusError: If nothing is left of them, or the model has no tokenizer.
        """
        pieces = list(_rows(model, texts))
        lengths = [len(piece) for piece in pieces]
        if not pieces:
            raise CorpusError(f"{name} holds no text: give at least one that is not empty")
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(name, np.concatenate(pieces), starts, _special(model))

    @classmethod
    def from_tokens(
        cls,
        model: TransformerBridge,
        tokens: Integer[np.ndarray, "..."],
        *,
        name: str = "tokens",
        length: int | None = None,
    ) -> Corpus:
        """Take tokens as they are: nothing is put in front of a row.

        Args:
            model: Whose vocabulary they must be of.
            tokens: Rows, or one stream that is cut into rows.
            name: What a reader calls it.
            length: Of the rows of a stream; the context's if not given. The rest is left out.

        Returns:
            The corpus.

        Raises:
            CorpusError: If they have another shape, are longer than the context or no tokens.
        """
        n_ctx = int(model.cfg.n_ctx)
        wide = (length or n_ctx) if tokens.ndim == 1 else tokens.shape[-1]
        if tokens.shape not in ((tokens.size,), (len(tokens), wide)) or not 1 <= wide <= n_ctx:
            raise CorpusError(
                f"tokens of shape {tuple(tokens.shape)} with rows of {wide}: expected [row, "
                f"position] or one stream, with 1 to {n_ctx} positions a row"
            )
        count = tokens.size // wide
        if not count:
            raise CorpusError(f"{name} holds {tokens.size} tokens, less than one row of {wide}")
        flat = tokens.reshape(-1)[: count * wide]
        # By pieces: of a memory-mapped array only one is in memory at a time.
        for start in range(0, len(flat), 1 << 20):
            piece = flat[start : start + (1 << 20)]
            if piece.min() < 0 or piece.max() >= model.cfg.d_vocab:
                raise CorpusError(
                    f"{name} holds tokens from {piece.min()} to {piece.max()}: the vocabulary has "
                    f"0 to {model.cfg.d_vocab - 1}"
                )
        starts = np.arange(count + 1, dtype=np.int64) * wide
        return cls(name, flat, starts, _special(model))

    @classmethod
    def from_records(
        cls,
        model: TransformerBridge,
        records: Iterable[Any],
        *,
        column: str = "text",
        name: str = "records",
    ) -> Corpus:
        """Tokenize one column of a Hugging Face dataset, or of any stream of such records.

        Args:
            model: Whose tokenizer and context to use.
            records: Each a mapping with the column.
            column: Its name.
            name: What a reader calls it.

        Returns:
            The corpus.

        Raises:
            CorpusError: If a record lacks the column or holds something else than text there.
        """
        return cls.from_texts(
            model, (_text(r, column, i) for i, r in enumerate(records)), name=name
        )

    @classmethod
    def from_dataset(
        cls,
        model: TransformerBridge,
        name: str,
        *,
        split: str = "train",
        column: str = "text",
        subset: str | None = None,
        limit: int | None = None,
    ) -> Corpus:
        """Stream a dataset of the Hugging Face hub: its first documents, or all of them.

        Args:
            model: Whose tokenizer and context to use.
            name: Of the dataset on the hub, or of a folder of data files.
            split: Which part of it.
            column: The column that holds the text.
            subset: Which of its configurations, where it has several.
            limit: How many documents are read; None for all. They are held in memory.

        Returns:
            The corpus.

        Raises:
            CorpusError: If there is no network, the hub has no such dataset, subset, split or
                column, the column holds no text, or the limit is below 1.
        """
        if limit is not None and limit < 1:
            raise CorpusError(f"limit = {limit}; expected at least 1 document, or None for all")
        records = itertools.islice(_streamed(name, subset, split), limit)
        return cls.from_records(model, records, column=column, name=f"{name} ({split})")

    @classmethod
    def open(
        cls,
        model: TransformerBridge,
        path: str | os.PathLike[str],
        *,
        column: str = "text",
        length: int | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> Corpus:
        """Open text (documents between empty lines), JSON lines, an array of tokens, or a dataset.

        Args:
            model: Whose tokenizer and context to use.
            path: Ends in .txt, .jsonl or .npy (memory-mapped, never unpickled), or is a folder that
                `datasets.Dataset.save_to_disk` wrote.
            column: Of JSON lines and datasets.
            length: Of the rows that a stream of tokens is cut into.
            cache: Where tokenized files are kept; a folder beside the run store's results if not
                given.

        Returns:
            The corpus.

        Raises:
            CorpusError: If the file or folder is missing, empty, or something else.
        """
        file = Path(path)
        if file.is_dir():
            _require_dataset(file)
        elif file.suffix not in _ENDINGS:
            raise CorpusError(
                f"{file.name} is no corpus: expected a file ending in .txt, .jsonl or .npy, or the "
                "folder of a saved dataset"
            )
        elif not file.is_file():
            raise CorpusError(f"{file} is not there")
        if file.suffix == ".npy":
            try:
                # NumPy leaves a file open that is an archive and no array.
                with file.open("rb") as content:
                    if content.read(len(_ARRAY)) != _ARRAY:
                        raise ValueError("it does not begin as one")
                array = np.load(file, mmap_mode="r", allow_pickle=False)
            # A damaged header is parsed as an expression, and comes as any kind of error.
            except Exception as error:
                why = reading.plain(str(error))
                raise CorpusError(f"{file.name} cannot be read as an array: {why}") from error
            if array.dtype.kind not in "iu":
                raise CorpusError(
                    f"{file.name} holds {array.dtype}: expected whole numbers (tokens)"
                )
            return cls.from_tokens(model, array, name=file.name, length=length)
        place = Path(cache) if cache is not None else runs.default_root() / "corpora"
        folder = place / _mark(model, file, column)
        if not (folder / "starts.npy").is_file():
            texts = _saved(file, column) if file.is_dir() else _documents(file, column)
            _tokenize(model, texts, folder, file.name)
        return cls(
            file.name,
            np.load(folder / "tokens.npy", mmap_mode="r"),
            np.load(folder / "starts.npy", mmap_mode="r"),
            _special(model),
        )

    @classmethod
    def bundled(cls, model: TransformerBridge, *, documents: int = 4000, seed: int = 1) -> Corpus:
        """What a bundled model was made to read: nothing need be there but the project.

        Args:
            model: `grammar-4l`, of whose grammar documents are drawn, or `modadd-113`, of which
                every pair is there.
            documents: How many are drawn.
            seed: Of the draw; the model was trained with another one.

        Returns:
            The corpus.

        Raises:
            CorpusError: If the model is none of these.
        """
        name = sources.source_of(model).name
        if name == "grammar-4l":
            rng = random.Random(seed)
            drawn = (grammar.sample(rng).words[1:-1] for _ in range(documents))
            return cls.from_texts(model, map(" ".join, drawn), name=f"documents of {name}")
        if name == "modadd-113":
            task = modular.Task()
            equals = np.full((task.p**2, 1), task.p)
            pairs = np.indices((task.p, task.p)).reshape(2, -1).T
            return cls.from_tokens(model, np.hstack([pairs, equals]), name="every a + b =")
        raise CorpusError(
            f"{name} brings no corpus along: open a file ending in {', '.join(_ENDINGS)}"
        )

    def __len__(self) -> int:
        """How many rows."""
        return len(self.starts) - 1 if self.chosen is None else len(self.chosen)

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " row"]:
        """Tokens of each row."""
        every = np.diff(self.starts)
        return every if self.chosen is None else every[self.chosen]

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows together."""
        return int(self.lengths.sum())

    @functools.cached_property
    def firsts(self) -> Int[np.ndarray, " row_and_end"]:
        """Number of each row's first token, where tokens are numbered in the order of the rows."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def numbers(self, chunk: Chunk) -> Int[np.ndarray, " token"]:
        """Number of every counted token of a chunk, in the order in which `counted` selects."""
        at, position = np.nonzero(chunk.counted.numpy())
        return self.firsts[chunk.rows[at]] + position

    def locate(
        self, numbers: Int[np.ndarray, "*any"]
    ) -> tuple[Int[np.ndarray, "*any"], Int[np.ndarray, "*any"]]:
        """Row and position of tokens by number; row -1 for the number -1, which is none."""
        rows = np.searchsorted(self.firsts, numbers, side="right") - 1
        return rows, np.where(rows < 0, 0, numbers - self.firsts[rows.clip(min=0)])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sha256 over the tokens of all rows and where they begin."""
        digest = hashlib.sha256(self.lengths.astype("<i8").tobytes())
        for tokens, _ in self.pieces():
            digest.update(tokens.astype("<i4").tobytes())
        return digest.hexdigest()

    def row(self, index: int) -> Integer[np.ndarray, " position"]:
        """Tokens of one row."""
        at = index if self.chosen is None else int(self.chosen[index])
        return np.asarray(self.tokens[self.starts[at] : self.starts[at + 1]])

    def at(
        self, rows: Int[np.ndarray, "*any"], positions: Int[np.ndarray, "*any"]
    ) -> Int[np.ndarray, "*any"]:
        """Tokens by row and position; -1 for row -1, which is none."""
        clipped = rows.clip(min=0)
        begins = self.starts[clipped if self.chosen is None else self.chosen[clipped]]
        return np.where(rows < 0, -1, self.tokens[begins + positions].astype(np.int64))

    def take(self, rows: Sequence[int] | Int[np.ndarray, " row"]) -> Corpus:
        """Some of the rows as a corpus of their own; they are not copied.

        Args:
            rows: Which, as this corpus counts them.

        Returns:
            The smaller corpus.

        Raises:
            CorpusError: If there is none, or one does not exist.
        """
        at = np.asarray(rows, dtype=np.int64)
        if not len(at) or at.min() < 0 or at.max() >= len(self):
            raise CorpusError(
                f"{self.name} has rows 0 to {len(self) - 1}: choose at least one of these"
            )
        return dataclasses.replace(self, chosen=at if self.chosen is None else self.chosen[at])

    def split(self, share: float, *, seed: int = 0) -> tuple[Corpus, Corpus]:
        """Draw rows at random into one corpus, and leave the others in a second one.

        Args:
            share: Of the rows that go into the first, above 0 and below 1.
            seed: Of the draw.

        Returns:
            Both, each in the order of this corpus.

        Raises:
            CorpusError: If one of them would be empty.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise CorpusError(
                f"{self.name} has {len(self)} rows, which {share} does not split in two"
            )
        first = np.zeros(len(self), dtype=bool)
        first[np.random.default_rng(seed).permutation(len(self))[:count]] = True
        return self.take(np.flatnonzero(first)), self.take(np.flatnonzero(~first))

    def pieces(self) -> Iterator[tuple[Int[np.ndarray, " token"], Bool[np.ndarray, " token"]]]:
        """All tokens in order, some rows at a time, with where a row begins."""
        for start in range(0, len(self), _PIECE):
            end = min(start + _PIECE, len(self))
            first = np.zeros(int(self.firsts[end] - self.firsts[start]), dtype=bool)
            first[self.firsts[start:end] - self.firsts[start]] = True
            if self.chosen is None:
                # Rows lie one after another, so there is nothing to put together.
                tokens = np.asarray(self.tokens[self.starts[start] : self.starts[end]])
            else:
                tokens = np.concatenate([self.row(i) for i in range(start, end)])
            yield tokens.astype(np.int64), first

    def chunks(self, start: int = 0) -> Iterator[Chunk]:
        """All rows, in chunks that are always the same.

        Args:
            start: How many chunks to pass over, which were read before.

        Yields:
            The chunks.
        """
        at = 0
        for window in range(0, len(self), WINDOW):
            lengths = np.asarray(self.lengths[window : window + WINDOW])
            order = np.argsort(-lengths, kind="stable")
            taken = 0
            while taken < len(order):
                # The first of them is the longest, so it says how wide the chunk is.
                count = max(1, CHUNK // int(lengths[order[taken]]))
                if at >= start:
                    yield self._chunk(window + order[taken : taken + count])
                taken, at = taken + count, at + 1

    @functools.cached_property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        count = 0
        for window in range(0, len(self), WINDOW):
            lengths = -np.sort(-np.asarray(self.lengths[window : window + WINDOW]))
            taken = 0
            while taken < len(lengths):
                taken, count = taken + max(1, CHUNK // int(lengths[taken])), count + 1
        return count

    def _chunk(self, rows: Int[np.ndarray, " row"]) -> Chunk:
        lengths = np.asarray(self.lengths[rows])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : lengths[place]] = torch.from_numpy(self.row(int(row)).astype(np.int64))
        real = torch.arange(tokens.shape[1]) < torch.as_tensor(lengths)[:, None]
        special = torch.isin(tokens, torch.tensor(self.special, dtype=torch.long))
        return Chunk(rows, tokens, lengths, real & ~special)


def _special(model: TransformerBridge) -> tuple[int, ...]:
    return () if model.tokenizer is None else tuple(sorted(set(model.tokenizer.all_special_ids)))


def _rows(
    model: TransformerBridge, texts: Iterable[str]
) -> Iterator[Integer[np.ndarray, " position"]]:
    """Texts as rows of tokens, each with BOS in front where the model puts one."""
    if model.tokenizer is None:
        raise CorpusError(
            f"{model.cfg.model_name!r} has no tokenizer, so texts cannot become tokens: give tokens"
        )
    front = tokenization.front(model)
    room = int(model.cfg.n_ctx) - len(front)
    for several in _batched((text for text in texts if text.strip()), _TEXTS):
        for ids in tokenization.rows(model, several):
            for start in range(0, len(ids), room):
                yield np.array([*front, *ids[start : start + room]], dtype=np.int32)


def _batched(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _documents(file: Path, column: str) -> Iterator[str]:
    """Texts of a file, read in a stream."""
    try:
        with file.open(encoding="utf-8") as lines:
            if file.suffix == ".jsonl":
                for number, line in enumerate(lines):
                    if line.strip():
                        yield _text(reading.json_of(line), column, number)
                return
            held: list[str] = []
            length = 0
            for line in lines:
                if not line.strip() or length > _LONGEST:
                    yield "".join(held)
                    held, length = [], 0
                if line.strip():
                    held.append(line)
                    length += len(line)
            yield "".join(held)
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is not UTF-8 text"
        raise CorpusError(f"{file.name} cannot be read: {why}") from error
    except reading.UnreadableError as error:
        raise CorpusError(f"{file.name} cannot be read: {error}") from error


def _require_dataset(folder: Path) -> None:
    """Refuse a folder that holds no dataset, or several."""
    if (folder / _SPLITS).is_file():
        splits = sorted(path.parent.name for path in folder.glob(f"*/{_DATASET}"))
        raise CorpusError(
            f"{folder.name} holds the splits of a dataset: open the folder of one of them "
            f"({', '.join(splits)})"
        )
    if not (folder / _DATASET).is_file():
        raise CorpusError(
            f"{folder.name} is no corpus: expected a folder that datasets.Dataset.save_to_disk "
            f"wrote, which holds {_DATASET}"
        )


def _saved(folder: Path, column: str) -> Iterator[str]:
    """Texts of a saved dataset, read in a stream."""
    import datasets

    try:
        dataset = datasets.load_from_disk(os.fspath(folder))
        if column not in dataset.column_names:
            raise CorpusError(
                f"{folder.name} has no column {column!r}: it has {', '.join(dataset.column_names)}"
            )
        for number, record in enumerate(dataset.select_columns(column)):
            yield _text(record, column, number)
    except CorpusError:
        raise
    # Arrow says in its own kinds of error what is wrong with a file, the library in others.
    except Exception as error:
        raise CorpusError(f"{folder.name} cannot be read: {_first_line(error)}") from error


def _streamed(name: str, subset: str | None, split: str) -> Iterator[Any]:
    """Records of a dataset on the hub; the only use of a network."""
    import datasets

    try:
        yield from datasets.load_dataset(name, subset, split=split, streaming=True)
    except ConnectionError as error:
        raise CorpusError(
            f"the hub cannot be reached for the dataset {name!r}: try again with a network, or "
            "save it with datasets.Dataset.save_to_disk where there is one and open its folder"
        ) from error
    # A stream goes through several libraries, each with its own kinds of error.
    except Exception as error:
        raise CorpusError(
            f"the dataset {name!r} cannot be read from the hub: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _text(record: Any, column: str, number: int) -> str:
    text = record.get(column) if hasattr(record, "get") else None
    if not isinstance(text, str):
        raise CorpusError(
            f"record {number} has no text in column {column!r}: expected an object like "
            f'{{"{column}": "…"}}'
        )
    return text


def _mark(model: TransformerBridge, file: Path, column: str) -> str:
    """What the tokens of a file, or of all files of a folder, depend on."""
    digest = hashlib.sha256()
    for part in sorted(file.glob("*")) if file.is_dir() else [file]:
        with part.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    vocabulary = model.tokenizer.get_vocab() if model.tokenizer is not None else {}
    front = tokenization.front(model) if model.tokenizer is not None else ()
    digest.update(json.dumps([sorted(vocabulary.items()), model.cfg.n_ctx, front, column]).encode())
    return digest.hexdigest()[:16]


def _tokenize(model: TransformerBridge, texts: Iterable[str], folder: Path, name: str) -> None:
    """Write the tokens of a stream of texts, under another name until they are whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CorpusError(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        starts = [0]
        with (scratch / "raw").open("wb") as raw:
            for piece in _rows(model, texts):
                raw.write(piece.astype("<i4").tobytes())
                starts.append(starts[-1] + len(piece))
        if len(starts) == 1:
            raise CorpusError(f"{name} holds no text: expected at least one document")
        made = np.lib.format.open_memmap(
            scratch / "tokens.npy", mode="w+", dtype=np.int32, shape=(starts[-1],)
        )
        made[:] = np.memmap(scratch / "raw", dtype="<i4", mode="r")
        made.flush()
        (scratch / "raw").unlink()
        np.save(scratch / "starts.npy", np.array(starts, dtype=np.int64))
        # Somebody else may have made the same in the meantime.
        if not folder.exists():
            scratch.rename(folder)
    except OSError as error:
        raise CorpusError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
