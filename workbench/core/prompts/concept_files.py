"""Concepts in files that somebody labelled: CSV or JSONL, one input a line.

1. Texts with a label: columns `text,label`, or {"text": …, "label": …}.
2. Tokens with labels: {"tokens": [ids], "labels": [one a token]}; {"tokens": [ids], "label": …}.
3. Texts with a label a token: {"text": …, "labels": [one a token]}, without what a model puts in
   front.
4. Texts with marked parts: {"text": …, "spans": [[first, end], …]}, in characters: a token has the
   concept if one of its characters is marked. This needs the model's tokenizer.

A label is 1, 0 or -1 (does not count), or true or false. With a value, a label is 1 where it is
this value, 0 where it is another, and does not count where it is empty.

Limits: all lines are of one of these forms, no input comes twice, and a file has at most 20 MB.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.core import reading
from workbench.core.prompts import concept_confounds, concept_corpora, concepts, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_FILE_BYTES = 20_000_000
_EXPECTED = (
    'columns text,label; or lines like {"text": …, "label": 1}, {"tokens": […], "labels": […]}, '
    '{"text": …, "labels": […]} or {"text": …, "spans": [[first, end], …]}'
)
_FORMS = (
    ("text", "label"),
    ("tokens", "labels"),
    ("tokens", "label"),
    ("text", "labels"),
    ("text", "spans"),
)
# More than any vocabulary has, and what an array can hold.
_LARGEST = 2**31 - 1
_WORDS = {"1": 1, "0": 0, "-1": -1, "true": 1, "false": 0}
# A label of a file to 1, 0 or -1; None where it is none of these.
_Read = Callable[[Any], int | None]


def from_file(
    path: str | os.PathLike[str],
    *,
    model: TransformerBridge | None = None,
    name: str | None = None,
    value: str | None = None,
) -> concepts.Concept:
    """Read a file; see `Concept.from_file`."""
    file = Path(path)
    try:
        size = file.stat().st_size
        data = file.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise concepts.ConceptError(f"cannot read {file}: {error.strerror}") from error
    return from_bytes(data, file.name, size=size, model=model, name=name, value=value)


def from_bytes(  # noqa: PLR0913 -- as for a file, whose content this is
    data: bytes,
    file: str,
    *,
    size: int | None = None,
    model: TransformerBridge | None = None,
    name: str | None = None,
    value: str | None = None,
) -> concepts.Concept:
    """Read a file's content, for example an upload.

    Args:
        data: The content.
        file: The file's name; its ending says which format.
        size: The content's full size, where `data` was not read because of it.
        model: As for `Concept.from_file`.
        name: As for `Concept.from_file`.
        value: As for `Concept.from_file`.

    Returns:
        The concept.

    Raises:
        ConceptError: If the content is too large, or a line is not as expected.
    """
    length = len(data) if size is None else size
    if length > MAX_FILE_BYTES:
        raise concepts.ConceptError(
            f"{file} has {length / 1e6:.1f} MB, more than the {MAX_FILE_BYTES / 1e6:.0f} MB that "
            "one run reads: keep a part of it"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise concepts.ConceptError(f"{file} is not UTF-8 text (byte {error.start})") from error
    return _concept(file, list(_lines(file, text)), model, name, value)


def _lines(file: str, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each record, with the file and line that it stands in."""
    ending = Path(file).suffix.lower()
    if ending not in (".csv", ".jsonl"):
        raise concepts.ConceptError(f"{file} is neither .csv nor .jsonl: expected {_EXPECTED}")
    where = file
    try:
        if ending == ".csv":
            # A quote that is never closed would otherwise swallow the rest of the file unnoticed.
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            for record in reader:
                where = f"{file}, line {reader.line_num}"
                yield where, record
            return
        for number, line in enumerate(text.splitlines(), 1):
            where = f"{file}, line {number}"
            if line.strip():
                record = reading.json_of(line)
                if not isinstance(record, dict):
                    raise concepts.ConceptError(
                        f"{where} is no object but {type(record).__name__}: expected {_EXPECTED}"
                    )
                yield where, record
    except (csv.Error, reading.UnreadableError) as error:
        after = where if ending == ".jsonl" else f"{where} or after it"
        raise concepts.ConceptError(f"{after} cannot be read: {error}") from error


def _concept(
    file: str,
    lines: list[tuple[str, Mapping[str, Any]]],
    model: TransformerBridge | None,
    name: str | None,
    value: str | None,
) -> concepts.Concept:
    if not lines:
        raise concepts.ConceptError(f"{file} holds no input: expected {_EXPECTED}")
    form = _form(*lines[0])
    if form[1] == "spans" and model is None:
        raise concepts.ConceptError(
            f"{file} marks characters, and which tokens these are depends on the model: give model="
        )
    inputs, labels = list[Any](), list[Any]()
    seen: dict[Any, str] = {}
    for where, record in lines:
        if _form(where, record) != form:
            raise concepts.ConceptError(
                f"{where} has {' and '.join(_form(where, record))}, and the first line "
                f"{' and '.join(form)}: all lines must be of one form"
            )
        each = _text(where, record) if form[0] == "text" else _tokens(where, record["tokens"])
        mark = each if isinstance(each, str) else each.tobytes()
        if mark in seen:
            raise concepts.ConceptError(
                f"{where}: this input stands in {seen[mark]} already, and would count as evidence "
                "twice: leave it out"
            )
        seen[mark] = where
        inputs.append(each)
        labels.append(_label_of(where, record, form, each, model, value))
    made = concepts.Concept(inputs, labels, name or _name(file, value))
    return concept_confounds.with_known(made, model)


def _name(file: str, value: str | None) -> str:
    return Path(file).stem if value is None else f"{Path(file).stem} = {value}"


def _form(where: str, record: Mapping[str, Any]) -> tuple[str, str]:
    for form in _FORMS:
        if all(record.get(column) is not None for column in form):
            return form
    raise concepts.ConceptError(f"{where} has {reading.listed(record)}: expected {_EXPECTED}")


def _text(where: str, record: Mapping[str, Any]) -> str:
    text = record["text"]
    if not isinstance(text, str) or not text.strip():
        raise concepts.ConceptError(f"{where}: the text is {reading.quoted(text)}: expected words")
    return text


def _tokens(where: str, value: Any) -> np.ndarray:
    good = isinstance(value, list) and all(
        type(token) is int and 0 <= token <= _LARGEST for token in value
    )
    if not good or not value:
        raise concepts.ConceptError(
            f"{where}: tokens are {reading.plain(str(value))}: expected a list of whole numbers "
            f"from 0 to {_LARGEST}"
        )
    return np.array(value, dtype=np.int64)


def _label_of(  # noqa: PLR0913, PLR0917 -- all that one line's label depends on
    where: str,
    record: Mapping[str, Any],
    form: tuple[str, str],
    each: str | np.ndarray,
    model: TransformerBridge | None,
    value: str | None,
) -> Any:
    """The label of a line, or its row of labels."""
    given = record[form[1]]
    if form[1] == "label":
        return _label(where, given, value)
    if not isinstance(given, list):
        raise concepts.ConceptError(
            f"{where}: {form[1]} are {reading.plain(str(given))}: expected a list"
        )
    if form[1] == "spans":
        assert isinstance(each, str) and model is not None, "checked before"
        return _marked(where, each, given, model)
    row = np.array([_label(where, label, value) for label in given], dtype=np.int64)
    wanted = len(each) if form[0] == "tokens" else len(row)
    if form[0] == "text" and model is not None:
        wanted = len(_encoded(where, each, model)[0])
    if len(row) != wanted:
        raise concepts.ConceptError(
            f"{where} has {len(row)} labels and {wanted} tokens: give one label a token"
        )
    return row


def _label(where: str, given: Any, value: str | None) -> int:
    if value is not None:
        written = "" if given is None else str(given).strip()
        return int(written == value.strip()) if written else -1
    if isinstance(given, bool):
        return int(given)
    if isinstance(given, str):
        number = _WORDS.get(given.strip().lower())
    else:
        number = int(given) if isinstance(given, (int, float)) and given in (1, 0, -1) else None
    if number is None:
        raise concepts.ConceptError(
            f"{where}: label {reading.plain(str(given))}: expected 1, 0, -1, true or false, or say "
            "which value is the concept's (value=…)"
        )
    return number


def _marked(where: str, text: str, given: list[Any], model: TransformerBridge) -> np.ndarray:
    """One label a token: whether one of its characters is marked."""
    spans: list[tuple[int, int]] = []
    for each in given:
        match each:
            case [int(start), int(end)] if 0 <= start < end <= len(text):
                spans.append((start, end))
            case _:
                raise concepts.ConceptError(
                    f"{where}: span {reading.plain(str(each))}: expected [first, end] within the "
                    f"{len(text)} characters of the text"
                )
    return concept_corpora.overlapping(text, _encoded(where, text, model)[1], spans)


def _encoded(where: str, text: Any, model: TransformerBridge) -> tuple[tuple[int, ...], np.ndarray]:
    """Tokens of a text without what stands in front, and the characters of each."""
    try:
        ids = tokenization.encode(model, text)
        front = len(tokenization.front(model))
        spans = tokenization.offsets(model, text, ids)[front:]
    except tokenization.TokenizationError as error:
        raise concepts.ConceptError(f"{where}: {error}") from error
    return ids[front:], np.array(spans, dtype=np.int64).reshape(-1, 2)
