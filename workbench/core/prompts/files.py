"""Contrast pairs in files, in the conventions that the field already uses.

CSV with columns `clean,corrupted,answer,wrong_answer`, or with token ids as `clean,corrupted,
correct_idx,incorrect_idx` (EAP-IG); JSONL with one object of the first form per line; JSON as
`{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}` (auto-circuit). An object may also
hold `spans`: position sets by name, each a text, `[first, end]` (a range of characters), or a list
of two of these for the clean and the corrupted prompt.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from workbench.core import reading
from workbench.core.prompts import positions
from workbench.core.prompts.encoding import Answer, PairsError

_EXPECTED = (
    "columns clean,corrupted,answer,wrong_answer (or clean,corrupted,correct_idx,incorrect_idx "
    'with token ids), the same as JSONL, or JSON with {"prompts": [{"clean", "corrupt", "answers", '
    '"wrong_answers"}]}'
)
_CLEAN = ("clean",)
_CORRUPTED = ("corrupted", "corrupt")
_ANSWERS = ("answer", "answers", "correct_idx")
_WRONG = ("wrong_answer", "wrong_answers", "incorrect_idx")


class Record(NamedTuple):
    """One pair as a file has it.

    Attributes:
        clean: Clean prompt.
        corrupted: Corrupted prompt.
        answers: Correct answers.
        wrong_answers: Wrong answers.
        spans: Place of each named position set.
    """

    clean: str
    corrupted: str
    answers: list[Answer]
    wrong_answers: list[Answer]
    spans: dict[str, positions.Place]


def records(name: str, text: str) -> list[Any]:
    """Split a file's text into records.

    Args:
        name: Its ending decides between CSV, JSONL and JSON.
        text: The content.

    Returns:
        The records as they stand there, not yet checked.

    Raises:
        PairsError: If the text is empty or not of its format.
    """
    if not text.strip():
        raise PairsError(f"{name} is empty: expected {_EXPECTED}")
    ending = Path(name).suffix.lower()
    try:
        if ending == ".csv":
            # A quote that is never closed would otherwise swallow the rest of the file unnoticed.
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if ending == ".jsonl":
            return [reading.json_of(line) for line in text.splitlines() if line.strip()]
        if ending == ".json":
            document = reading.json_of(text)
            records = document["prompts"] if isinstance(document, dict) else document
            if not isinstance(records, list):
                raise PairsError(f"{name} holds {type(records).__name__}: expected {_EXPECTED}")
            return records
    except KeyError as error:
        raise PairsError(
            f"{name} cannot be read (no list of prompts): expected {_EXPECTED}"
        ) from error
    except (csv.Error, reading.UnreadableError) as error:
        raise PairsError(f"{name} cannot be read ({error}): expected {_EXPECTED}") from error
    raise PairsError(f"{name} is neither .csv, .jsonl nor .json: expected {_EXPECTED}")


def read(i: int, record: Any) -> Record:
    """Check one record.

    Args:
        i: Its index, for messages.
        record: A mapping with the column names of any of the formats.

    Returns:
        Its columns.

    Raises:
        PairsError: If a column is missing or of the wrong kind.
    """
    if not isinstance(record, Mapping):
        raise PairsError(f"record {i + 1} is {type(record).__name__}: expected {_EXPECTED}")

    def column(names: tuple[str, ...]) -> tuple[str, Any] | None:
        return next(((n, record[n]) for n in names if record.get(n) is not None), None)

    clean, corrupted, answers = column(_CLEAN), column(_CORRUPTED), column(_ANSWERS)
    wrong = column(_WRONG)
    if clean is None or corrupted is None or answers is None:
        found = reading.listed(record)
        raise PairsError(f"record {i + 1} has columns {found}: expected {_EXPECTED}")
    if answers[0] == "correct_idx" and wrong is None:
        # Alone, this column holds other things than token ids in some of the field's files.
        raise PairsError(
            f"record {i + 1} has correct_idx without incorrect_idx: give both as token ids, or "
            "answer and wrong_answer as text"
        )
    texts = (clean[1], corrupted[1])
    if not all(isinstance(text, str) for text in texts):
        raise PairsError(
            f"record {i + 1}: clean and corrupted must be texts, found {reading.quoted(texts)}"
        )
    return Record(
        *texts,
        _answer_list(i, *answers),
        _answer_list(i, *wrong) if wrong else [],
        _spans(i, record.get("spans")),
    )


def spans(checked: Sequence[Record]) -> dict[str, list[positions.Place]]:
    """Named position sets of all records together.

    Args:
        checked: The pairs.

    Returns:
        For each name the place in each pair.

    Raises:
        PairsError: If the records do not all have the same names.
    """
    names = list(checked[0].spans) if checked else []
    for i, record in enumerate(checked):
        if set(record.spans) != set(names):
            raise PairsError(
                f"record {i + 1} has the spans {_listed(record.spans)} and record 1 "
                f"{_listed(names)}: name the same ones in every record"
            )
    return {name: [record.spans[name] for record in checked] for name in names}


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    return reading.listed(map(repr, found)) if found else "none"


def _spans(i: int, value: Any) -> dict[str, positions.Place]:
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping):
        raise PairsError(
            f"record {i + 1}: spans must be an object of names and texts, found "
            f"{reading.quoted(value)}"
        )
    return {str(name): _place(i, str(name), place) for name, place in value.items()}


def _place(i: int, name: str, value: Any) -> positions.Place:
    """A place as JSON has it: a text or range for both prompts, or a list of one for each."""
    one = _characters(value)
    if one is not None:
        return one
    if isinstance(value, (list, tuple)) and len(value) == 2:  # noqa: PLR2004 - clean, corrupted
        clean, corrupted = map(_characters, value)
        if clean is not None and corrupted is not None:
            return clean, corrupted
    raise PairsError(
        f"record {i + 1}: span {reading.quoted(name)} must be a text, [first, end] characters, or "
        f"a list of two of these for clean and corrupted, found {reading.quoted(value)}"
    )


def _characters(value: Any) -> positions.Characters | None:
    if isinstance(value, (str, slice)):
        return value
    match value:
        case [int(start), int(stop)]:
            return slice(start, stop)
        case _:
            return None


def _answer_list(i: int, column: str, value: Any) -> list[Answer]:
    """Answers of a record: texts as they stand, and token ids where the column is one of ids."""
    if column.endswith("_idx"):
        try:
            parsed = reading.json_of(value) if isinstance(value, str) else value
            return [int(item) for item in (parsed if isinstance(parsed, list) else [parsed])]
        except (ValueError, TypeError, OverflowError) as error:
            raise PairsError(
                f"record {i + 1}: {column} must be a token id or a list of them, found "
                f"{reading.quoted(value)}"
            ) from error
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int)) for item in items):
        raise PairsError(f"record {i + 1}: {column} must be text, found {reading.quoted(value)}")
    return items
