"""The index of a store: SQLite beside the folders, and never out of step with them.

1. Each row has the mark of the folder that it was read from. A question compares the marks of all
   folders with those of the rows, which takes milliseconds for thousands of runs, and reads what
   differs under the store's lock, so that nobody is replacing a folder meanwhile.
2. A folder that cannot be read has a row with the reason and is in no list.
3. An index of another schema is made anew; titles, which the oldest one alone knew, are first
   written into the folders. So is one that is damaged.
4. Where the index cannot be written, one in memory is made for the question.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import filelock

from workbench.core.runs import folders

Outcome = TypeVar("Outcome")

NAME = "index.sqlite"
_SCHEMA_VERSION = 2
_SCHEMA = """
DROP TABLE IF EXISTS runs;
DROP TABLE IF EXISTS tags;
DROP TABLE IF EXISTS requests;
CREATE TABLE runs (
    id TEXT PRIMARY KEY, mark TEXT NOT NULL, problem TEXT NOT NULL DEFAULT '',
    analysis TEXT NOT NULL DEFAULT '', model TEXT NOT NULL DEFAULT '',
    fingerprint TEXT NOT NULL DEFAULT '', created TEXT NOT NULL DEFAULT '',
    text TEXT NOT NULL DEFAULT '', record TEXT NOT NULL DEFAULT ''
);
CREATE TABLE tags (tag TEXT NOT NULL, run TEXT NOT NULL, PRIMARY KEY (tag, run)) WITHOUT ROWID;
CREATE TABLE requests (
    request TEXT NOT NULL, run TEXT NOT NULL, PRIMARY KEY (request, run)
) WITHOUT ROWID;
CREATE INDEX by_analysis ON runs (analysis, created);
"""
_DAMAGED = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_PATIENCE = 60.0


class Index:
    """The index of one store."""

    def __init__(self, root: Path) -> None:
        """Name it; nothing is written before something is stored.

        Args:
            root: Folder of the store.
        """
        self._root = root
        self._path = root / NAME

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Keep others from replacing folders.

        Yields:
            Nothing.

        Raises:
            RunStoreError: If another process has held the lock for a minute.
        """
        held = filelock.FileLock(self._root / ".lock", timeout=_PATIENCE)
        try:
            held.acquire(poll_interval=0.005)
        except filelock.Timeout as error:
            raise folders.RunStoreError(
                f"another process has been writing to {self._root} for {_PATIENCE:.0f} seconds: "
                "end it or try again"
            ) from error
        try:
            yield
        finally:
            held.release()

    def ask(self, question: Callable[[sqlite3.Connection], Outcome]) -> Outcome:
        """Answer a question from an index that is in step with the folders.

        Args:
            question: Reads from the connection.

        Returns:
            Its answer.

        Raises:
            RunStoreError: If another process keeps the index busy.
        """
        if not self._root.is_dir():
            return self._ask_memory(question)
        try:
            try:
                with self._in_step() as index:
                    return question(index)
            except sqlite3.DatabaseError as error:
                if _code(error) not in _DAMAGED:
                    raise
            with self.lock():
                self.save_titles()
                self.remove()
            with self._in_step() as index:
                return question(index)
        except sqlite3.DatabaseError as error:
            if _code(error) in _BUSY:
                raise folders.RunStoreError(f"the index {self._path} is busy: {error}") from error
            return self._ask_memory(question)
        except OSError:
            return self._ask_memory(question)

    def remove(self) -> None:
        """Remove it, as the folders are the truth; the lock must be held."""
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(NAME + suffix).unlink(missing_ok=True)

    def save_titles(self) -> None:
        """Write titles into the folders that have none, from the oldest index, which alone knew.

        The lock must be held.
        """
        if not self._path.is_file():
            return
        with contextlib.suppress(sqlite3.Error), _connected(self._path) as index:
            if _version(index) != 0:
                return
            for run, title in index.execute("SELECT id, title FROM runs").fetchall():
                folder = self._root / run
                if (
                    folders.is_id(run)
                    and folders.mark(folder)
                    and not (folder / folders.FACTS).exists()
                ):
                    folders.Facts(title=title).write(folder)

    @contextlib.contextmanager
    def _in_step(self) -> Generator[sqlite3.Connection]:
        if not self._path.is_file():
            with self.lock():
                self._make()
        with _connected(self._path) as index:
            if _version(index) != _SCHEMA_VERSION:
                with self.lock():
                    self.save_titles()
                    self._make()
            if self._differing(index) or next(folders.interrupted(self._root), None):
                with self.lock():
                    folders.put_back(self._root)
                    self._catch_up(index)
            yield index

    def _make(self) -> None:
        """Make the tables, if nobody has made them meanwhile."""
        with _connected(self._path) as index:
            if _version(index) != _SCHEMA_VERSION:
                index.execute("PRAGMA journal_mode = WAL")
                index.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
                )

    def _differing(self, index: sqlite3.Connection) -> dict[str, str]:
        """Marks of the folders that rows do not agree with; empty for what is gone."""
        # Rows first: a folder that is added meanwhile is then only read once more.
        rows = dict(index.execute("SELECT id, mark FROM runs").fetchall())
        there = folders.marks(self._root)
        changed = {run: mark for run, mark in there.items() if rows.get(run) != mark}
        return changed | {run: "" for run in rows if run not in there}

    def _catch_up(self, index: sqlite3.Connection) -> None:
        changed = self._differing(index)
        index.execute("BEGIN IMMEDIATE")
        with index:
            for run, mark in changed.items():
                for table, column in (("runs", "id"), ("tags", "run"), ("requests", "run")):
                    index.execute(f"DELETE FROM {table} WHERE {column} = ?", (run,))
                if mark:
                    _add(index, run, mark, self._root / run)

    def _ask_memory(self, question: Callable[[sqlite3.Connection], Outcome]) -> Outcome:
        with _connected(":memory:") as index:
            index.executescript(_SCHEMA)
            if self._root.is_dir():
                self._catch_up(index)
            return question(index)


def run_of(record: str) -> folders.Run:
    """A run as it was written into its row."""
    plain: dict[str, Any] = json.loads(record)
    lists: dict[str, Any] = {name: tuple(plain[name]) for name in ("tags", "requests")}
    return folders.Run(**{**plain, **lists})


def _add(index: sqlite3.Connection, run: str, mark: str, folder: Path) -> None:
    try:
        found = folders.read(folder)
    except folders.RunStoreError as error:
        values = (run, mark, sayable(str(error)))
        index.execute("INSERT INTO runs (id, mark, problem) VALUES (?, ?, ?)", values)
        return
    plain: dict[str, Any] = dataclasses.asdict(found)
    record = json.dumps(plain)
    searched = [found.id, found.title, found.model, found.analysis, *found.tags]
    text = "\n".join([*searched, json.dumps(found.parameters, ensure_ascii=False)]).casefold()
    index.execute(
        "INSERT INTO runs VALUES (?, ?, '', ?, ?, ?, ?, ?, ?)",
        (
            run,
            mark,
            *map(sayable, (found.analysis, found.model, found.fingerprint, found.created, text)),
            record,
        ),
    )
    for table, values in (("tags", found.tags), ("requests", found.requests)):
        rows = [(sayable(value), run) for value in dict.fromkeys(values)]
        index.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", rows)


def sayable(text: str) -> str:
    """Text that UTF-8 has: half a character, which JSON may hold, becomes its number."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _connected(path: Path | str) -> Generator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    try:
        # A process that is killed loses nothing by it, and each row can be read again.
        connection.execute("PRAGMA synchronous = NORMAL")
        yield connection
    finally:
        connection.close()


def _version(index: sqlite3.Connection) -> int:
    return index.execute("PRAGMA user_version").fetchone()[0]


def _code(error: sqlite3.DatabaseError) -> int:
    # The lower byte is the kind of error; the rest says more about it.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
