"""The folder of a run: what it says of itself, and what a killed writer leaves beside it.

1. `result.json` says what made the result; `run.json` what a reader calls it. A folder without the
   second, copied there by hand, is a run all the same.
2. A folder that begins with a dot is being written, or its writer was killed. `.ID.…/old` is what a
   replacement moved aside: where nothing stands in its place, it is put back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from workbench.core import files, results

FACTS = "run.json"
DELETED = ".deleted."
MOST_TAGS, LONGEST_TAG = 50, 50
_ID = re.compile(r"[0-9a-f]{16}")
_LEFT = re.compile(r"\.([0-9a-f]{16})\..+")


class RunStoreError(ValueError):
    """A run could not be stored or found; the message says why."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One stored result, without the result.

    Attributes:
        id: 16 hexadecimal digits, as they stand in a link.
        analysis: Module and function.
        kind: Class of the result, with its module.
        model: Name of the model.
        fingerprint: Of the model.
        title: What a reader calls it.
        parameters: What made it.
        seed: Seed of everything random.
        created: UTC, ISO 8601.
        wall_time: Seconds that it took.
        tags: Words to find it by.
        requests: Keys of the requests that it answers.
    """

    id: str
    analysis: str
    kind: str
    model: str
    fingerprint: str
    title: str
    parameters: dict[str, Any]
    seed: int
    created: str
    wall_time: float | int
    tags: tuple[str, ...]
    requests: tuple[str, ...]


class Facts(pydantic.BaseModel):
    """What `run.json` holds: all of a run that its result does not say.

    Attributes:
        title: What a reader calls it; empty for one from analysis and model.
        tags: Words to find it by.
        requests: Keys of the requests that it answers.
        code: Mark of the code that answered them.
    """

    model_config = pydantic.ConfigDict(frozen=True)

    title: str = ""
    tags: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    code: str = ""

    def after(self, old: Facts) -> Facts:
        """These facts for a run that takes the place of an equal one.

        Args:
            old: Of the run that is replaced.

        Returns:
            Both's tags; the new title, if there is one; the requests that the same code answered.
        """
        kept = old.requests if old.code == self.code else ()
        return Facts(
            title=self.title or old.title,
            tags=joined(old.tags, self.tags),
            requests=joined(kept, self.requests),
            code=self.code,
        )

    def write(self, folder: Path) -> None:
        """Write them into a run's folder, whole.

        Args:
            folder: Where to.

        Raises:
            OSError: If they cannot be written.
        """
        files.write_whole(folder / FACTS, self.model_dump_json(indent=1).encode())


class _Made(pydantic.BaseModel):
    """What a run says of its provenance, as far as it is listed by it."""

    model_config = pydantic.ConfigDict(from_attributes=True)

    model: str
    fingerprint: str
    analysis: str
    parameters: dict[str, Any]
    seed: int
    created: str
    wall_time: Annotated[float, pydantic.Field(allow_inf_nan=False)]


def is_id(text: str) -> bool:
    """Whether a text, possibly from a link, has the form of a run's id."""
    return _ID.fullmatch(text) is not None


def joined(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    """Two lists as one, in order, nothing twice."""
    return tuple(dict.fromkeys([*first, *second]))


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags without the spaces around them, if they are tags.

    Args:
        tags: Words to find a run by.

    Returns:
        The same, none twice.

    Raises:
        RunStoreError: If one is empty, long, or holds what cannot be seen, or if there are many.
    """
    found = joined([tag.strip() for tag in tags], ())
    for tag in found:
        if not 0 < len(tag) <= LONGEST_TAG or not tag.isprintable():
            raise RunStoreError(
                f"{tag[:LONGEST_TAG]!a} is no tag: expected 1 to {LONGEST_TAG} plain characters on "
                "one line"
            )
    if len(found) > MOST_TAGS:
        raise RunStoreError(f"{len(found)} tags: expected at most {MOST_TAGS}")
    return found


def facts_of(folder: Path) -> Facts:
    """What a run's folder says besides its result; nothing where it does not, or is damaged."""
    try:
        return Facts.model_validate_json((folder / FACTS).read_bytes())
    except (OSError, ValueError):
        return Facts()


def read(folder: Path) -> Run:
    """What a run's folder says of itself.

    Args:
        folder: Any folder.

    Returns:
        The run, named by the folder.

    Raises:
        RunStoreError: If it is no result folder, or is damaged.
    """
    try:
        kind, provenance = results.what_made(folder)
        made = _Made.model_validate(provenance)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunStoreError(
            f"{folder} is no result folder or is damaged: {where}: {first['msg']}"
        ) from error
    except results.ResultError as error:
        raise RunStoreError(str(error)) from error
    facts = facts_of(folder)
    return Run(
        id=folder.name,
        analysis=made.analysis,
        kind=kind,
        model=made.model,
        fingerprint=made.fingerprint,
        title=facts.title or f"{made.analysis}, {made.model}",
        parameters=made.parameters,
        seed=made.seed,
        created=made.created,
        wall_time=made.wall_time,
        tags=facts.tags,
        requests=facts.requests,
    )


def is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same result, whenever and in what time each was made.

    Args:
        one: A result folder.
        other: Another one.

    Returns:
        False also where one cannot be read.
    """
    try:
        first, second = (json.loads((at / results.DOCUMENT).read_bytes()) for at in (one, other))
        for document in (first, second):
            for of_the_moment in ("created", "wall_time"):
                document["fields"]["provenance"].pop(of_the_moment)
        same = filecmp.cmp(one / results.ARRAYS, other / results.ARRAYS, shallow=False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return same and first == second


def mark(folder: str | os.PathLike[str]) -> str:
    """What changes whenever a run's folder or anything in it is replaced.

    Args:
        folder: Where a run is.

    Returns:
        A mark; empty where no folder is. A link to a folder elsewhere is none.
    """
    try:
        place = os.lstat(folder)
        if not stat.S_ISDIR(place.st_mode):
            return ""
    except OSError:
        return ""
    found = f"{place.st_ino}-{place.st_mtime_ns}"
    try:
        result = os.lstat(os.path.join(folder, results.DOCUMENT))
    except OSError:
        return found
    return f"{found}-{result.st_size}-{result.st_mtime_ns}"


def marks(root: Path) -> dict[str, str]:
    """Marks of all run folders of a store, by id."""
    found: dict[str, str] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            if is_id(entry.name) and (one := mark(entry.path)):
                found[entry.name] = one
    return found


def interrupted(root: Path, run: str | None = None) -> Iterator[Path]:
    """Runs that were moved aside by a replacement that did not come to its end.

    While somebody holds the store's lock, a replacement in progress looks the same.

    Args:
        root: Of the store.
        run: Only this one.

    Yields:
        The folders, such as `.ID.…/old`.
    """
    for left in _left(root):
        found = _LEFT.fullmatch(left.name)
        if found is not None and run in (None, found[1]) and not (root / found[1]).exists():
            old = left / results.OLD
            if old.is_dir():
                yield old


def put_back(root: Path) -> None:
    """Put every run back that a killed writer has moved aside; the lock must be held."""
    for old in list(interrupted(root)):
        # Of several, the first is put back: then the place is taken.
        with contextlib.suppress(OSError):
            old.rename(root / old.parent.name[1:17])
            old.parent.rmdir()


def remove_left(root: Path, after: float | int) -> None:
    """Remove what killed writers have left behind; the lock must be held.

    Args:
        root: Of the store.
        after: Seconds for which nothing was written to a new result, before it counts as left:
            new ones are written without the lock.
    """
    now = time.time()
    for left in list(_left(root)):
        # What was moved aside, or is being deleted, is so under the lock.
        ended = left.name.startswith(DELETED) or (left / results.OLD).exists()
        if ended or now - _last_written(left) >= after:
            shutil.rmtree(left, ignore_errors=True)
    for run in marks(root):
        for left in (root / run).glob(f".{FACTS}.*"):
            left.unlink(missing_ok=True)


def _left(root: Path) -> Iterator[Path]:
    """Folders of the store that are no runs."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    yield from (root / name for name in names if name.startswith(DELETED) or _LEFT.fullmatch(name))


def _last_written(folder: Path) -> float:
    times = [0.0]
    for path in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            times.append(path.lstat().st_mtime)
    return max(times)
