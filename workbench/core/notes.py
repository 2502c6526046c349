"""Notes: what a person says that a unit does, kept beside the runs, with the evidence for it.

1. A note is about one unit of one model: a neuron, or a latent of the dictionary whose mark it
   carries. Writing again edits it: the newest version is shown, the older ones are its history, and
   deleting is a version, too.
2. Each version is a small JSON file of its own, `notes/FINGERPRINT/NAME.json` under the run store's
   root, named by a hash of its content and renamed into place whole. Two processes never write the
   same file, so neither loses anything; there is no index that could be out of step with the files.
3. A version is dated after every version that its writer saw, so an edit comes last even where a
   clock was turned back. Two edits at once are both kept, and the later date is shown.
4. `export` gives JSON lines; `load_export` checks those of somebody else, all before the first is
   kept. Versions of both then have one history.

Limits: notes are read from disk at each call, which suits thousands, not millions. A file whose
content does not fit its name is damaged and is passed over. Nothing says who wrote a note.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from workbench.core import files

FOLDER = "notes"
LONGEST_TEXT, LONGEST_NAME, LONGEST_TAG, MOST_TAGS = 4000, 200, 50, 20
# Of an export that is read.
LARGEST_EXPORT, MOST_NOTES = 20_000_000, 10_000
# No version is larger, whatever its characters are.
_LARGEST_FILE = 100_000
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_KEPT = re.compile(r"[0-9a-f]{32}\.json")
_TICK = datetime.timedelta(microseconds=1)
# Clocks of two machines differ, but not by more.
_AHEAD = datetime.timedelta(days=1)
_FIRST = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_LAST = datetime.datetime(9000, 1, 1, tzinfo=datetime.UTC)
# Controls, surrogates, separators of lines and paragraphs, and marks that turn text around; the
# joiners that some scripts need are among the last kind, and are allowed.
_NOT_PLAIN = frozenset({"Cc", "Cs", "Zl", "Zp", "Cf"})
_JOINERS = "\u200c\u200d"
_SHOWN = 60


class NoteError(ValueError):
    """A note could not be kept or read; the message says why."""


def _plain(what: str, text: str, longest: int, *, least: int = 1, lines: bool = False) -> str:
    """Check that a text is short, and holds nothing but characters that can be seen."""
    if not least <= len(text) <= longest:
        raise ValueError(f"{what} has {len(text):,} characters; expected {least} to {longest:,}")
    allowed = _JOINERS + ("\n\t" if lines else "")
    for place, sign in enumerate(text):
        if unicodedata.category(sign) in _NOT_PLAIN and sign not in allowed:
            raise ValueError(
                f"{what} holds {sign!a} at character {place + 1}; expected plain text"
                + ("" if lines else " on one line")
            )
    if text != text.strip() or (least and not text.strip()):
        raise ValueError(f"{what} begins or ends with a space: {text[:_SHOWN]!a}")
    return text


def _name(what: str, least: int = 1) -> Any:
    return pydantic.AfterValidator(lambda text: _plain(what, text, LONGEST_NAME, least=least))


def _utc(written: datetime.datetime) -> datetime.datetime:
    if not _FIRST <= written < _LAST:
        raise ValueError(f"written in the year {written.year}; expected 2000 to 8999")
    return written.astimezone(datetime.UTC)


def _tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    if len(tags) > MOST_TAGS:
        raise ValueError(f"{len(tags)} tags; expected at most {MOST_TAGS}")
    for tag in tags:
        _plain("a tag", tag, LONGEST_TAG)
    return tags


_Strict = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class Evidence(pydantic.BaseModel):
    """How well a description predicts the unit on text that it was not made from.

    Attributes:
        description: What was tested.
        correlation: Between its prediction and the unit; None where it was not measured.
        precision: Share of the tokens that it names at which the unit fires.
        recall: Share of the unit's firings that it names.
        p_value: Share of other units that it predicts as well.
        n_tokens: Tokens that this was measured on.
        run: Id of the stored run that holds it; empty for none.
    """

    model_config = _Strict

    description: Annotated[str, _name("the description")]
    correlation: Annotated[float, pydantic.Field(ge=-1, le=1)] | None = None
    precision: _Share | None = None
    recall: _Share | None = None
    p_value: _Share | None = None
    n_tokens: Annotated[int, pydantic.Field(ge=0, lt=2**53)] = 0
    run: Annotated[str, pydantic.Field(pattern=r"^([0-9a-f]{16})?$")] = ""


class Note(pydantic.BaseModel):
    """One version of the note about a unit.

    Attributes:
        format: Of the file.
        fingerprint: Of the model, 64 hexadecimal digits.
        model: Its name, for readers.
        unit: As `str(Unit)` gives it, "neuron 2.13".
        dictionary: Mark of the dictionary whose latent it is; empty for none.
        text: What is said of the unit; empty for a deleted note.
        tags: Words to find it by.
        evidence: What speaks for it, if that was measured.
        written: When, UTC.
        deleted: Whether the note was deleted by this version.
    """

    model_config = _Strict

    format: Literal[1] = 1
    fingerprint: Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{64}$")]
    model: Annotated[str, _name("the model's name", 0)] = ""
    unit: Annotated[str, _name("the unit's name")]
    dictionary: Annotated[str, pydantic.Field(pattern=r"^([0-9a-f]{16})?$")] = ""
    text: str
    tags: Annotated[tuple[str, ...], pydantic.AfterValidator(_tags)] = ()
    evidence: Evidence | None = None
    written: Annotated[pydantic.AwareDatetime, pydantic.AfterValidator(_utc)]
    deleted: bool = False

    @pydantic.model_validator(mode="after")
    def _says_something(self) -> Note:
        if self.deleted:
            if self.text or self.tags or self.evidence:
                raise ValueError("a deleted note says nothing: expected no text, tags or evidence")
        else:
            _plain("the note", self.text, LONGEST_TEXT, lines=True)
        return self

    @property
    def line(self) -> str:
        """The version as a line of JSON, the same for equal content."""
        plain = self.model_dump(mode="python") | {
            "written": self.written.isoformat(timespec="microseconds")
        }
        return json.dumps(plain, ensure_ascii=False, allow_nan=False)

    @property
    def about(self) -> tuple[str, str, str]:
        """Model, dictionary and unit: what versions of one note have in common."""
        return self.fingerprint, self.dictionary, self.unit


def write(  # noqa: PLR0913 - one argument a field of the note
    root: str | os.PathLike[str],
    fingerprint: str,
    unit: str,
    text: str,
    *,
    model: str = "",
    dictionary: str = "",
    tags: Sequence[str] = (),
    evidence: Evidence | None = None,
) -> Note:
    """Write a note about a unit, or edit the one that is there.

    Args:
        root: Of the run store.
        fingerprint: Of the model.
        unit: As `str(Unit)` gives it.
        text: What is said of it.
        model: Name of the model, for readers.
        dictionary: Mark of the dictionary whose latent it is.
        tags: Words to find it by.
        evidence: What speaks for it.

    Returns:
        The note as it is kept; the one that is there already if it says the same.

    Raises:
        NoteError: If a part of it is too long or no plain text, or it cannot be kept.
    """
    before = history(root, fingerprint, unit, dictionary=dictionary)
    made = _made(
        fingerprint=fingerprint,
        model=model,
        unit=unit,
        dictionary=dictionary,
        text=text.replace("\r\n", "\n").strip(),
        tags=tuple(tags),
        evidence=evidence,
        written=_after(before),
    )
    if before and before[-1].model_copy(update={"written": made.written}) == made:
        return before[-1]
    _keep(Path(root), made)
    return made


def delete(
    root: str | os.PathLike[str], fingerprint: str, unit: str, *, dictionary: str = ""
) -> Note:
    """Delete the note about a unit; its history stays.

    Args:
        root: Of the run store.
        fingerprint: Of the model.
        unit: As `str(Unit)` gives it.
        dictionary: Mark of the dictionary whose latent it is.

    Returns:
        The version that says so.

    Raises:
        NoteError: If there is no note, or this cannot be kept.
    """
    before = history(root, fingerprint, unit, dictionary=dictionary)
    if not before or before[-1].deleted:
        raise NoteError(f"there is no note about {unit!a} that could be deleted")
    made = _made(
        fingerprint=fingerprint,
        model=before[-1].model,
        unit=unit,
        dictionary=dictionary,
        text="",
        written=_after(before),
        deleted=True,
    )
    _keep(Path(root), made)
    return made


def read(root: str | os.PathLike[str], fingerprint: str) -> tuple[Note, ...]:
    """The notes about a model's units.

    Args:
        root: Of the run store.
        fingerprint: Of the model.

    Returns:
        The newest version of each note that is not deleted, newest first.

    Raises:
        NoteError: If this is no fingerprint.
    """
    return _newest(_versions(Path(root), fingerprint))[::-1]


def history(
    root: str | os.PathLike[str], fingerprint: str, unit: str, *, dictionary: str = ""
) -> tuple[Note, ...]:
    """Every version of the note about a unit.

    Args:
        root: Of the run store.
        fingerprint: Of the model.
        unit: As `str(Unit)` gives it.
        dictionary: Mark of the dictionary whose latent it is.

    Returns:
        The versions, oldest first, those that deleted it included.

    Raises:
        NoteError: If this is no fingerprint.
    """
    about = (fingerprint, dictionary, unit)
    return tuple(note for note in _versions(Path(root), fingerprint) if note.about == about)


def export(
    root: str | os.PathLike[str], fingerprint: str | None = None, *, every_version: bool = False
) -> str:
    """Notes as JSON lines.

    Args:
        root: Of the run store.
        fingerprint: Only of this model.
        every_version: Older versions and deletions, too, so that nothing is lost on the way.

    Returns:
        One note a line, by model and then by date; empty where there is none.

    Raises:
        NoteError: If this is no fingerprint.
    """
    place = Path(root) / FOLDER
    found = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
    every = [name for name in found if _FINGERPRINT.fullmatch(name)]
    lines: list[str] = []
    for mark in every if fingerprint is None else [fingerprint]:
        kept = _versions(Path(root), mark)
        lines += [note.line for note in (kept if every_version else _newest(kept))]
    return "".join(f"{line}\n" for line in lines)


def load_export(root: str | os.PathLike[str], content: str | bytes) -> tuple[Note, ...]:
    """Keep the notes of an export; those that are there already stay as they are.

    Args:
        root: Of the run store.
        content: What `export` gave, possibly elsewhere.

    Returns:
        The versions that were not there before, in the order of the export.

    Raises:
        NoteError: If it is too large or a line is no note, in which case none is kept; or they
            cannot be kept.
    """
    notes = list(_parsed(_encoded(content)))
    return tuple(note for note in notes if _keep(Path(root), note))


def _encoded(content: str | bytes) -> bytes:
    try:
        plain = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        raise NoteError(f"the export is no text (character {error.start})") from error
    if len(plain) > LARGEST_EXPORT:
        raise NoteError(
            f"the export has {len(plain) / 1e6:.1f} MB; expected at most "
            f"{LARGEST_EXPORT / 1e6:.0f} MB: load it in parts"
        )
    return plain.removeprefix(b"\xef\xbb\xbf")


def _parsed(content: bytes) -> Iterator[Note]:
    """Notes of an export, each checked."""
    latest = datetime.datetime.now(datetime.UTC) + _AHEAD
    count = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        count += 1
        if count > MOST_NOTES:
            raise NoteError(f"the export has more than {MOST_NOTES:,} notes: load it in parts")
        if len(line) > _LARGEST_FILE:
            raise NoteError(f"line {number} is no note: it has {len(line):,} bytes")
        try:
            note = Note.model_validate_json(line)
        except pydantic.ValidationError as error:
            raise NoteError(f"line {number} is no note: {_reason(error)}") from error
        if note.written > latest:
            raise NoteError(
                f"line {number} is no note: it was written in the future ({note.written:%Y-%m-%d})"
            )
        yield note


def _made(**fields: Any) -> Note:
    try:
        return Note(**fields)
    except pydantic.ValidationError as error:
        raise NoteError(f"this is no note: {_reason(error)}") from error


def _reason(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong, on one line; what is shown of the input is short."""
    first = error.errors(include_url=False, include_input=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    where = ".".join(map(str, first["loc"]))
    return said if first["type"] == "value_error" or not where else f"{where[:_SHOWN]!a}: {said}"


def _after(before: Sequence[Note]) -> datetime.datetime:
    """A date after all that was seen."""
    now = datetime.datetime.now(datetime.UTC)
    return now if not before else max(now, before[-1].written + _TICK)


def _folder(root: Path, fingerprint: str) -> Path:
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise NoteError(
            f"{fingerprint[:_SHOWN]!a} is no fingerprint of a model: expected 64 hexadecimal digits"
        )
    return root / FOLDER / fingerprint


def _versions(root: Path, fingerprint: str) -> list[Note]:
    """All versions of all notes about a model, oldest first."""
    folder = _folder(root, fingerprint)
    try:
        names = [name for name in os.listdir(folder) if _KEPT.fullmatch(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [note for name in names if (note := _opened(folder / name)) is not None]
    mine = [note for note in found if note.fingerprint == fingerprint]
    return sorted(mine, key=lambda note: (note.written, note.line))


def _opened(file: Path) -> Note | None:
    """A version from its file; None where it is damaged."""
    try:
        if file.stat().st_size > _LARGEST_FILE:
            return None
        content = file.read_bytes()
        return Note.model_validate_json(content) if _named(content) == file.name else None
    except (OSError, pydantic.ValidationError):
        return None


def _newest(versions: Iterable[Note]) -> tuple[Note, ...]:
    """The last version of each note that is not deleted, oldest first."""
    last: dict[tuple[str, str, str], Note] = {}
    for note in versions:
        # Taken out first, so that it goes to the end.
        last.pop(note.about, None)
        last[note.about] = note
    return tuple(note for note in last.values() if not note.deleted)


def _named(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:32]}.json"


def _keep(root: Path, note: Note) -> bool:
    """Write a version, and say whether it was not there before."""
    content = f"{note.line}\n".encode()
    folder = _folder(root, note.fingerprint)
    file = folder / _named(content)
    try:
        if not folder.resolve().is_relative_to(root.resolve()):
            raise NoteError(f"{folder} leads out of the run store {root}: nothing was written")
        folder.mkdir(parents=True, exist_ok=True)
        if _opened(file) is not None:
            return False
        files.write_whole(file, content)
    except OSError as error:
        raise NoteError(
            f"the note could not be kept in {root}: {error.strerror or error}"
        ) from error
    return True
