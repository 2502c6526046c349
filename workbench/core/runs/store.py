"""The store: results are put, found, listed, tagged, taken along and deleted."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import zipfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import safetensors
import safetensors.numpy

from workbench.core import files, results
from workbench.core.runs import folders, identity, spare
from workbench.core.runs.folders import Facts, Run, RunStoreError
from workbench.core.runs.index import Index, run_of, sayable

AnyResult = TypeVar("AnyResult", bound=results.Result)

# Classes whose module may be imported to open a result.
_OURS = re.compile(r"((?:analyses|workbench)(?:\.[a-z]\w*)+)\.[A-Z]\w*", re.ASCII)
# What the system says where a disk is full, or may only be read.
_UNWRITABLE = (OSError, safetensors.SafetensorError)
# Nothing is written to a new result for so long, in seconds, unless its writer was killed.
ABANDONED = 3600.0


def default_root() -> Path:
    """Where runs are kept unless a store is told otherwise."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("WORKBENCH_RUNS") or Path(data) / "workbench" / "runs").expanduser()


class RunStore:
    """Result folders under one root, with their index."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        """Open the store; nothing is written before something is put.

        Args:
            root: The folder; `default_root()` if none is given.
        """
        self.root = (Path(root) if root is not None else default_root()).resolve()
        self._index = Index(self.root)

    @property
    def not_kept(self) -> str:
        """Why new results are kept only as long as this process runs; empty where they are kept."""
        return spare.not_kept(self.root)

    def folder(self, run: str) -> Path:
        """Where a run is, or would be.

        Args:
            run: Its id.

        Returns:
            A folder of this store, or of its spare one.
        """
        other = None if self._mark(run) else self._spare()
        return self.root / run if other is None else other.folder(run)

    def put(
        self, result: results.Result, *, title: str, request: str = "", tags: Sequence[str] = ()
    ) -> str:
        """Store a result under the id of what made it; the same run again replaces itself.

        Args:
            result: Any result.
            title: What a reader calls it; empty for the title that the same run already has, or
                else one from analysis and model.
            request: Key of the request that it answers; see `request_key`.
            tags: Words to find it by, besides those that it has.

        Returns:
            The run's id.

        Raises:
            RunStoreError: If the folder cannot be written, or a tag is none.
        """
        tags = folders.checked_tags(tags)
        try:
            return self._put(result, title, request, tags)
        except RunStoreError as error:
            if not spare.is_allowed() or not isinstance(error.__cause__, _UNWRITABLE):
                raise
            try:
                other = RunStore(spare.make(self.root, str(error)))
                return other._put(result, title, request, tags)
            except (OSError, RunStoreError):
                raise error from error.__cause__

    def _put(self, result: results.Result, title: str, request: str, tags: tuple[str, ...]) -> str:
        run = identity.id_of(result.provenance)
        new = Facts(
            title=title,
            tags=tags,
            requests=(request,) if request else (),
            code=identity.code(),
        )
        try:
            with results.written_beside(result, self.root / run) as scratch:
                self._put_in_place(scratch, run, new)
        except results.ResultError as error:
            raise RunStoreError(f"the run could not be kept in {self.root}: {error}") from (
                error.__cause__ or error
            )
        except OSError as error:
            raise self._not_kept(error) from error
        return run

    def _not_kept(self, error: OSError) -> RunStoreError:
        return RunStoreError(f"the run could not be kept in {self.root}: {files.reason(error)}")

    def _spare(self) -> RunStore | None:
        root = spare.spare_of(self.root)
        return None if root is None else RunStore(root)

    def add(self, folder: str | os.PathLike[str], *, title: str = "") -> str:
        """Take in a folder that `Result.save` has written; the folder stays as it is.

        What it says of requests that it answers is not taken over: it was made elsewhere.

        Args:
            folder: A result folder; the class of its result need not be known here.
            title: What a reader calls it; empty for the title that it has, or else one from
                analysis and model.

        Returns:
            The run's id.

        Raises:
            RunStoreError: If it is no result folder, is damaged, or cannot be kept.
        """
        source = Path(folder)
        found = folders.read(source)
        try:
            run = identity.run_id(found.analysis, found.fingerprint, found.parameters, found.seed)
            # Read as a whole, so that a damaged one is refused.
            safetensors.numpy.load_file(source / results.ARRAYS)
        except (ValueError, safetensors.SafetensorError) as error:
            raise RunStoreError(f"{source} is damaged: {error}") from error
        old = folders.facts_of(source)
        tags = folders.checked_tags(old.tags)
        new = Facts(title=title or old.title, tags=tags, code=identity.code())
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{run}.", dir=self.root))
            try:
                for name in (results.DOCUMENT, results.ARRAYS):
                    shutil.copyfile(source / name, scratch / name)
                scratch.chmod(0o755)
                self._put_in_place(scratch, run, new)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError as error:
            raise self._not_kept(error) from error
        return run

    def _put_in_place(self, scratch: Path, run: str, new: Facts) -> None:
        with self._index.lock():
            folders.put_back(self.root)
            old = folders.facts_of(self.root / run)
            if not folders.is_same(scratch, self.root / run):
                # What was answered with the old one is not answered with this one.
                old = old.model_copy(update={"requests": ()})
            new.after(old).write(scratch)
            results.put_in_place(scratch, self.root / run)

    def find(self, kind: type[AnyResult], run: str) -> AnyResult | None:
        """A stored result, or None where there is none of that id and kind.

        Args:
            kind: Class of the result.
            run: Id, possibly from a link: anything but 16 hexadecimal digits is simply not found.

        Returns:
            The result; a damaged folder counts as not there.
        """
        while before := self._mark(run):
            try:
                found = kind.load(self.root / run)
            except results.ResultError:
                found = None
            # Of a folder that was replaced meanwhile, half may have been the other one's.
            if folders.mark(self.root / run) == before:
                return found
        other = self._spare()
        return None if other is None else other.find(kind, run)

    def open(self, run: str) -> results.Result | None:
        """A stored result of any kind.

        The module of its class is imported if it is one of the workbench; the class of a script
        must have been imported before.

        Args:
            run: Id, possibly from a link.

        Returns:
            The result, or None where there is none, or none whose class is known.
        """
        found = self.run(run)
        if found is None:
            return None
        ours = _OURS.fullmatch(found.kind)
        if ours is not None:
            # A class that this version no longer has is not known.
            with contextlib.suppress(ImportError):
                importlib.import_module(ours[1])
        return self.find(results.Result, run)

    def answered(self, kind: type[AnyResult], request: str) -> tuple[str, AnyResult] | None:
        """The newest stored answer to a request.

        Args:
            kind: Class of the result.
            request: Key of the request; see `request_key`.

        Returns:
            The run's id and the result, or None where there is none that can be read.
        """
        query = (
            "SELECT runs.id FROM requests JOIN runs ON runs.id = requests.run "
            "WHERE request = ? ORDER BY created DESC, id"
        )
        rows = self._index.ask(lambda index: index.execute(query, (request,)).fetchall())
        for (run,) in rows:
            found = self.find(kind, run)
            if found is not None:
                return run, found
        other = self._spare()
        return None if other is None else other.answered(kind, request)

    def run(self, run: str) -> Run | None:
        """What is known of a stored result without opening it.

        Args:
            run: Id, possibly from a link.

        Returns:
            The run, or None where there is none or it is damaged.
        """
        if not folders.is_id(run):
            return None
        query = "SELECT record FROM runs WHERE id = ? AND problem = ''"
        found = self._index.ask(lambda index: index.execute(query, (run,)).fetchone())
        if found:
            return run_of(found[0])
        other = self._spare()
        return None if other is None else other.run(run)

    def runs(
        self,
        analysis: str | None = None,
        *,
        fingerprint: str | None = None,
        model: str | None = None,
        parameters: dict[str, Any] | None = None,
        tag: str | None = None,
        text: str | None = None,
        since: datetime.date | None = None,
        until: datetime.date | None = None,
        beginning: str | None = None,
    ) -> list[Run]:
        """What is stored, newest first, as far as it fits all that is asked.

        Args:
            analysis: Module and function.
            fingerprint: Of the model, or how it begins.
            model: Name of the model.
            parameters: What it must have been made with, JSON types; other parameters are free. One
                that is None may also be missing.
            tag: One of its tags.
            text: Words, all of which stand in its title, id, model, analysis, tags or parameters.
            since: First day, UTC.
            until: Last day, UTC.
            beginning: How the id begins.

        Returns:
            The runs, without their results; damaged ones are not among them.
        """
        asked: list[tuple[str, str | None]] = [
            ("analysis = ?", analysis),
            ("model = ?", model),
            ("instr(fingerprint, ?) = 1", fingerprint),
            ("instr(id, ?) = 1", beginning),
            ("id IN (SELECT run FROM tags WHERE tag = ?)", tag),
            ("substr(created, 1, 10) >= ?", since and f"{since:%Y-%m-%d}"),
            ("substr(created, 1, 10) <= ?", until and f"{until:%Y-%m-%d}"),
            *(("instr(text, ?) > 0", word) for word in (text or "").casefold().split()),
        ]
        given = [(condition, sayable(value)) for condition, value in asked if value is not None]
        found = self._index.ask(lambda index: _records(index, given))
        fitting = json.loads(json.dumps(parameters or {}))
        chosen = [
            run
            for run in map(run_of, found)
            if all(run.parameters.get(name) == value for name, value in fitting.items())
        ]
        other = self._spare()
        if other is None:
            return chosen
        more = other.runs(
            analysis,
            fingerprint=fingerprint,
            model=model,
            parameters=parameters,
            tag=tag,
            text=text,
            since=since,
            until=until,
            beginning=beginning,
        )
        return sorted([*more, *chosen], key=lambda run: run.created, reverse=True)

    def known(self) -> dict[str, list[str]]:
        """What runs can be chosen by.

        Returns:
            All models, analyses and tags that there are, in order.
        """

        def ask(index: sqlite3.Connection) -> dict[str, list[str]]:
            queries = {
                "model": "SELECT DISTINCT model FROM runs WHERE problem = '' ORDER BY 1",
                "analysis": "SELECT DISTINCT analysis FROM runs WHERE problem = '' ORDER BY 1",
                "tag": "SELECT DISTINCT tag FROM tags ORDER BY 1",
            }
            return {
                name: [value for (value,) in index.execute(query)]
                for name, query in queries.items()
            }

        known = self._index.ask(ask)
        other = self._spare()
        more = {} if other is None else other.known()
        return {name: sorted({*found, *more.get(name, ())}) for name, found in known.items()}

    def unreadable(self) -> dict[str, str]:
        """Folders that are damaged, with the reason; they are kept, and in no list."""
        query = "SELECT id, problem FROM runs WHERE problem != '' ORDER BY id"
        return dict(self._index.ask(lambda index: index.execute(query).fetchall()))

    def tag(self, run: str, tags: Sequence[str], *, remove: bool = False) -> tuple[str, ...]:
        """Give tags to a run, or take them from it.

        Args:
            run: Id.
            tags: Words to find it by.
            remove: Take them away.

        Returns:
            The tags that it has now.

        Raises:
            RunStoreError: If there is no such run, a tag is none, or it cannot be written.
        """
        asked = folders.checked_tags(tags)
        with self._changing(run) as folder:
            old = folders.facts_of(folder)
            now = folders.joined(old.tags, asked)
            if remove:
                now = tuple(tag for tag in old.tags if tag not in asked)
            old.model_copy(update={"tags": folders.checked_tags(now)}).write(folder)
        return now

    def delete(self, run: str) -> None:
        """Delete a run with everything in its folder.

        Args:
            run: Id.

        Raises:
            RunStoreError: If there is no such run, or it cannot be deleted.
        """
        with self._changing(run) as folder:
            aside = Path(tempfile.mkdtemp(prefix=folders.DELETED, dir=folder.parent))
            folder.rename(aside / run)
            shutil.rmtree(aside)

    @contextlib.contextmanager
    def _changing(self, run: str) -> Generator[Path]:
        """The folder of a run that is there, while nobody else may change it."""
        other = self._spare()
        if not self._mark(run):
            if other is None:
                raise RunStoreError(f"no run {run[:40]!a} is stored in {self.root}")
            with other._changing(run) as folder:
                yield folder
            return
        try:
            with self._index.lock():
                yield self.root / run
        except OSError as error:
            raise RunStoreError(
                f"the run {run} could not be changed: {files.reason(error)}"
            ) from error

    def export(self, runs: Sequence[str], path: str | os.PathLike[str]) -> Path:
        """Write the folders of runs into a ZIP archive, which appears once it is whole.

        Unpacked into the folder of another store, they are runs of that one.

        Args:
            runs: Their ids.
            path: The archive; what stood there is replaced.

        Returns:
            The archive's path.

        Raises:
            RunStoreError: If one is not there, or the archive cannot be written.
        """
        target = Path(path)
        chosen = folders.joined(runs, ())
        if not chosen:
            raise RunStoreError("no run was named; name one or more by their ids")
        try:
            with (
                files.appearing_whole(target) as file,
                zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for run in chosen:
                    self._archive(run, archive)
        except OSError as error:
            raise RunStoreError(f"cannot write {target}: {files.reason(error)}") from error
        return target

    def _archive(self, run: str, archive: zipfile.ZipFile) -> None:
        while before := self._mark(run):
            with contextlib.ExitStack() as opened:
                content: dict[str, IO[bytes]] = {}
                with contextlib.suppress(FileNotFoundError):
                    for one in sorted((self.root / run).iterdir()):
                        if one.is_file() and not one.is_symlink() and one.name[0] != ".":
                            content[one.name] = opened.enter_context(one.open("rb"))
                # Files that are open stay what they are, also where the folder is replaced.
                if folders.mark(self.root / run) == before:
                    for name, source in content.items():
                        with archive.open(f"{run}/{name}", "w", force_zip64=True) as entry:
                            shutil.copyfileobj(source, entry)
                    return
        other = self._spare()
        if other is not None:
            return other._archive(run, archive)
        raise RunStoreError(f"no run {run[:40]!a} is stored in {self.root}")

    def rebuild(self, *, abandoned: float | int = ABANDONED) -> int:
        """Make the index anew from the folders, and remove what killed writers left behind.

        Args:
            abandoned: Seconds for which nothing was written to a new result before it counts as
                left behind.

        Returns:
            How many runs there are.

        Raises:
            RunStoreError: If the store cannot be written.
        """
        if not self.root.is_dir():
            return 0
        try:
            with self._index.lock():
                self._index.save_titles()
                self._index.remove()
                folders.put_back(self.root)
                folders.remove_left(self.root, abandoned)
        except OSError as error:
            raise RunStoreError(
                f"the store {self.root} cannot be rebuilt: {files.reason(error)}"
            ) from error
        return len(self.runs())

    def _mark(self, run: str) -> str:
        """Mark of a run's folder, which is put back first if a killed writer has moved it aside."""
        if not folders.is_id(run):
            return ""
        found = folders.mark(self.root / run)
        if not found and self.root.is_dir() and next(folders.interrupted(self.root, run), None):
            with self._index.lock():
                folders.put_back(self.root)
            found = folders.mark(self.root / run)
        return found


def _records(index: sqlite3.Connection, given: list[tuple[str, str]]) -> list[str]:
    conditions = " AND ".join(["problem = ''", *(condition for condition, _ in given)])
    query = f"SELECT record FROM runs WHERE {conditions} ORDER BY created DESC, id"
    return [record for (record,) in index.execute(query, [value for _, value in given])]
