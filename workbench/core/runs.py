"""The run store: results on disk, found again by what made them.

A run's key is a hash over analysis, model fingerprint and parameters, so asking for the same thing
again finds the stored result. Each run is a result folder under the store's root, named by its id
(the key's first 16 digits); a SQLite index beside the folders answers which runs there are. The
folder is renamed into place before the index learns of it, so an interrupted run leaves nothing
that looks finished.

The root is the folder named by the environment variable WORKBENCH_RUNS, or `workbench/runs` in the
user's data folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

from workbench.core import results

AnyResult = TypeVar("AnyResult", bound=results.Result)

_ID = re.compile(r"[0-9a-f]{16}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, analysis TEXT NOT NULL, model TEXT NOT NULL, title TEXT NOT NULL,
    parameters TEXT NOT NULL, created TEXT NOT NULL
)
"""


class RunStoreError(ValueError):
    """A run could not be stored or found; the message says why."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of the index.

    Attributes:
        id: 16 hexadecimal digits, as they stand in a link.
        analysis: Module and function.
        model: Name of the model.
        title: What a reader calls it.
        parameters: What made it.
        created: UTC, ISO 8601.
    """

    id: str
    analysis: str
    model: str
    title: str
    parameters: dict[str, Any]
    created: str


def run_id(analysis: str, fingerprint: str, parameters: dict[str, Any]) -> str:
    """Id of the run that these inputs make.

    Args:
        analysis: Module and function.
        fingerprint: Of the model.
        parameters: Every argument that changes numbers; JSON types only.

    Returns:
        16 hexadecimal digits.
    """
    content = json.dumps([analysis, fingerprint, parameters], sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def default_root() -> Path:
    """Where runs are kept unless a store is told otherwise."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("WORKBENCH_RUNS") or Path(data) / "workbench" / "runs").expanduser()


class RunStore:
    """Result folders under one root, with their index."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        """Open the store; nothing is written before the first `put`.

        Args:
            root: The folder; `default_root()` if none is given.
        """
        self.root = (Path(root) if root is not None else default_root()).resolve()

    def put(self, result: results.Result, *, title: str) -> str:
        """Store a result under the id of what made it; the same run again replaces itself.

        Args:
            result: Any result.
            title: What a reader calls it.

        Returns:
            The run's id.

        Raises:
            RunStoreError: If the folder cannot be written.
        """
        made = result.provenance
        key = run_id(made.analysis, made.fingerprint, made.parameters)
        row = (key, made.analysis, made.model, title, json.dumps(made.parameters), made.created)
        try:
            result.save(self.root / key)
            with self._index() as index:
                index.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", row)
        except (results.ResultError, sqlite3.Error, OSError) as error:
            raise RunStoreError(f"the run could not be kept in {self.root}: {error}") from error
        return key

    def find(self, kind: type[AnyResult], run: str) -> AnyResult | None:
        """A stored result, or None where there is none of that id and kind.

        Args:
            kind: Class of the result.
            run: Id, possibly from a link: anything but 16 hexadecimal digits is simply not found.

        Returns:
            The result; a damaged folder counts as not there.
        """
        if not _ID.fullmatch(run):
            return None
        try:
            return kind.load(self.root / run)
        except results.ResultError:
            return None

    def runs(self, analysis: str | None = None) -> list[Run]:
        """What is stored, newest first.

        Args:
            analysis: Only runs of this analysis.

        Returns:
            The index rows whose folders still exist.
        """
        if not (self.root / "index.sqlite").is_file():
            return []
        query = "SELECT * FROM runs WHERE ? IS NULL OR analysis = ? ORDER BY created DESC, id"
        with self._index() as index:
            rows = index.execute(query, (analysis, analysis)).fetchall()
        found = [Run(a, b, c, d, json.loads(e), f) for a, b, c, d, e, f in rows]
        return [run for run in found if (self.root / run.id / "result.json").is_file()]

    @contextlib.contextmanager
    def _index(self) -> Generator[sqlite3.Connection]:
        self.root.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.root / "index.sqlite", timeout=30)
        try:
            with connection:
                connection.execute(_SCHEMA)
                yield connection
        finally:
            connection.close()
