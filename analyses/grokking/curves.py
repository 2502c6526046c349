"""Where do training curves come from? From the files that training programs leave behind.

1. The format is found by name and content: CSV (one column a curve, or one row a value with a
   `series` column), Weights & Biases' CSV export, JSON lines (one object a line), TensorBoard event
   files, Hugging Face `trainer_state.json`.
2. A file offers columns (`columns_of`); unless one is named, a loss is taken: on held-out data
   first, then any other, then whatever the only column is.
3. Rows without that column are skipped, of rows with the same step the last one stands, and what is
   left is sorted by step.

Units: as in the file. A value that is not a number (a run that diverged) is an error, not a gap.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.core import reading

LEAST_POINTS = 20
LARGEST_FILE = 200 * 2**20
# Names that training programs give to the step, in order of preference.
STEPS = ("step", "_step", "global_step", "steps", "iteration", "iter", "update", "epoch", "batch")
# In one row a value: names of the column that says which curve it belongs to.
_SERIES = ("series", "tag", "metric", "name")
# Bookkeeping that is no curve.
_IGNORED = re.compile(r"wall.?time|_?timestamp|_?runtime|__(min|max)$", re.IGNORECASE)
_HELD_OUT = re.compile(r"(^|[^a-z])(test|eval|evaluation|val|valid|validation|held.?out)([^a-z]|$)")
_LOSS = re.compile(r"loss|nll|cross.?entropy|perplexity")
# How programs spell what is not a number.
_SPELT = {
    "nan": math.nan,
    "inf": math.inf,
    "infinity": math.inf,
    "-inf": -math.inf,
    "-infinity": -math.inf,
}

# Steps and values of one column, in the order of the file.
_Column = tuple[list[float], list[float]]


class CurveError(ValueError):
    """A training curve could not be read; the message says why."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One number over the steps of a training run.

    Attributes:
        steps: Steps, rising.
        values: The number at each step.
        name: What it is called in the file.
        source: Where it comes from.
    """

    steps: Int[np.ndarray, " point"]
    values: Float[np.ndarray, " point"]
    name: str
    source: str


def columns_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """List what can be read from a file.

    Args:
        path: A file of a known format, or a folder of TensorBoard event files.

    Returns:
        The names that `read_curve` takes as `column`, in the order of the file.

    Raises:
        CurveError: If it cannot be read.
    """
    return tuple(_read(Path(path), None))


def read_curve(
    path: str | os.PathLike[str], *, column: str | None = None, step_column: str | None = None
) -> Curve:
    """Read one curve of a training run.

    Args:
        path: A file of a known format, or a folder of TensorBoard event files.
        column: Which curve; None takes a loss, on held-out data where there is one.
        step_column: Column of the steps; None takes the first usual name (`STEPS`), or else counts
            the rows. TensorBoard files have steps of their own.

    Returns:
        The curve, sorted by step, of at least 20 points.

    Raises:
        CurveError: If the file cannot be read, has no such column, or the curve is too short or
            not finite.
    """
    place = Path(path)
    columns = _read(place, step_column)
    name = _chosen(columns, column, place)
    steps, values = (np.array(part, dtype=np.float64) for part in columns[name])
    if len(values) == 0:
        raise CurveError(f"{place.name}: column {name!r} has no values")
    _require_finite(steps, values, name)
    # Of equal steps the last one stands: a resumed run writes some of them again.
    last = np.unique(steps[::-1], return_index=True)[1]
    order = len(steps) - 1 - last
    if len(order) < LEAST_POINTS:
        raise CurveError(
            f"{place.name}: column {name!r} has {len(order)} points at different steps; at least "
            f"{LEAST_POINTS} are needed"
        )
    return Curve(
        steps=steps[order].astype(np.int64), values=values[order], name=name, source=str(path)
    )


def _require_finite(steps: np.ndarray, values: np.ndarray, name: str) -> None:
    whole = np.isfinite(steps) & (np.abs(steps) < 2**53) & (steps == np.round(steps))
    if not whole.all():
        raise CurveError(
            f"{name!r} has the step {steps[~whole][0]:g}; expected whole numbers (name another "
            "column as step_column)"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise CurveError(
            f"{name!r} is {values[bad]} at step {int(steps[bad])}: the run diverged there; cut the "
            "file before that step"
        )


def _chosen(columns: Mapping[str, _Column], column: str | None, place: Path) -> str:
    """The column that was asked for, or else the one that is most likely meant."""
    there = ", ".join(columns) or "none"
    if column is not None:
        if column not in columns:
            raise CurveError(f"{place.name} has no column {column!r}; there are: {there}")
        return column
    if len(columns) == 1:
        return next(iter(columns))
    losses = [name for name in columns if _LOSS.search(name.lower())]
    held_out = [name for name in losses if _HELD_OUT.search(name.lower())]
    plain = [name for name in losses if name.lower() == "loss"]
    splits = [name for name in columns if _HELD_OUT.fullmatch(name.lower())]
    for candidates in (held_out, plain, losses, splits):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            break
    raise CurveError(f"{place.name} has several columns, name the one you mean: {there}")


def _read(place: Path, step_column: str | None) -> dict[str, _Column]:
    """All curves of a file or folder, by name."""
    files = _files(place)
    if sum(file.stat().st_size for file in files) > LARGEST_FILE:
        raise CurveError(f"{place.name} is larger than {LARGEST_FILE // 2**20} MB")
    if any("tfevents" in file.name for file in files):
        if step_column is not None:
            raise CurveError("TensorBoard files have steps of their own: leave step_column out")
        return _tensorboard(place)
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CurveError(f"{place.name} cannot be read as text: {error}") from error
    if not text.strip():
        raise CurveError(f"{place.name} is empty")
    if text.lstrip()[0] in "{[":
        return _from_rows(_json_rows(text, place), step_column, place)
    return _from_rows(_csv_rows(text, place), step_column, place)


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise CurveError(f"{place} does not exist")
    events = sorted(file for file in place.iterdir() if "tfevents" in file.name)
    if not events:
        raise CurveError(f"the folder {place.name} holds no TensorBoard event files: name a file")
    return events


def _csv_rows(text: str, place: Path) -> list[dict[str, Any]]:
    try:
        dialect = csv.Sniffer().sniff(text[:4096].partition("\n")[0], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    try:
        rows = list(csv.DictReader(io.StringIO(text), dialect=dialect))
    except csv.Error as error:
        raise CurveError(f"{place.name} is no CSV file: {error}") from error
    if not rows:
        raise CurveError(f"{place.name} has a header and no rows")
    return rows


def _json_rows(text: str, place: Path) -> list[dict[str, Any]]:
    """Rows of JSON lines, of a list of objects, or of a trainer's state."""
    try:
        whole = reading.json_of(text)
    except reading.UnreadableError:
        whole = [_json_line(line, n, place) for n, line in enumerate(text.splitlines(), 1)]
        whole = [row for row in whole if row is not None]
    if isinstance(whole, dict):
        whole = whole["log_history"] if "log_history" in whole else [whole]
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise CurveError(
            f"{place.name}: expected one JSON object a line, a list of objects, or a "
            "trainer_state.json with its log_history"
        )
    return whole


def _json_line(line: str, number: int, place: Path) -> Any:
    if not line.strip():
        return None
    try:
        return reading.json_of(line)
    except reading.UnreadableError as error:
        raise CurveError(f"{place.name}, line {number} is no JSON object: {error}") from error


def _from_rows(
    rows: Sequence[Mapping[str, Any]], step_column: str | None, place: Path
) -> dict[str, _Column]:
    """Sort rows into curves: one a column, or one a name in the column of names."""
    names = list(dict.fromkeys(key for row in rows for key in row if key))
    step = _step_name(names, step_column, place)
    value = next((name for name in names if name.lower() == "value"), None)
    series = next((name for name in names if name.lower() in _SERIES), None)
    if value is not None and series is not None:
        return _long(rows, series=series, value=value, step=step)
    kept = (name for name in names if name != step and not _IGNORED.search(name))
    columns = {name: _numbers(rows, name, step) for name in kept}
    found = {name: column for name, column in columns.items() if column is not None}
    if not found:
        raise CurveError(f"{place.name} has no column of numbers; its columns: {', '.join(names)}")
    return found


def _step_name(names: Sequence[str], step_column: str | None, place: Path) -> str | None:
    if step_column is not None:
        if step_column not in names:
            raise CurveError(
                f"{place.name} has no step column {step_column!r}; there are: {', '.join(names)}"
            )
        return step_column
    lower = {name.lower().removeprefix("train/").strip(): name for name in reversed(names)}
    return next((lower[usual] for usual in STEPS if usual in lower), None)


def _long(
    rows: Iterable[Mapping[str, Any]], *, series: str, value: str, step: str | None
) -> dict[str, _Column]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(str(row.get(series)), []).append(row)
    columns = {name: _numbers(some, value, step) for name, some in by_name.items()}
    return {name: column for name, column in columns.items() if column is not None}


def _numbers(rows: Sequence[Mapping[str, Any]], name: str, step: str | None) -> _Column | None:
    """Steps and values of the rows that have both; None where the column holds other things."""
    steps: list[float] = []
    values: list[float] = []
    for position, row in enumerate(rows):
        raw, at = row.get(name), position if step is None else row.get(step)
        if raw is None or raw == "" or at is None or at == "":
            continue
        value, where = _number(raw), _number(at)
        if value is None:
            return None
        if where is None:
            raise CurveError(f"the step {at!r} in column {step!r} is no number")
        steps.append(where)
        values.append(value)
    return (steps, values) if values else None


def _number(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        return None
    if isinstance(raw, str) and (spelt := _SPELT.get(raw.strip().lower())) is not None:
        return spelt
    try:
        return float(raw)
    except (ValueError, OverflowError):
        return None


def _tensorboard(place: Path) -> dict[str, _Column]:
    try:
        from tensorboard.backend.event_processing import event_accumulator
        from tensorboard.util import tensor_util
    except ImportError as error:
        raise CurveError(
            "reading TensorBoard files needs the package tensorboard: pip install tensorboard"
        ) from error
    # Zero keeps all events; by default the reader samples them.
    keep = {event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0}
    events = event_accumulator.EventAccumulator(str(place), size_guidance=keep)
    try:
        events.Reload()
    except Exception as error:  # the reader raises whatever the damaged record leads it to
        raise CurveError(f"{place.name} is no readable TensorBoard file: {error}") from error
    tags: dict[str, Any] = events.Tags()
    columns: dict[str, _Column] = {}
    for tag in tags["scalars"]:
        points = events.Scalars(tag)
        columns[tag] = ([float(p.step) for p in points], [float(p.value) for p in points])
    for tag in tags["tensors"]:
        tensors = events.Tensors(tag)
        arrays = [tensor_util.make_ndarray(point.tensor_proto) for point in tensors]
        if all(array.size == 1 and array.dtype.kind in "fiu" for array in arrays):
            steps = [float(point.step) for point in tensors]
            columns[tag] = (steps, [float(array.item()) for array in arrays])
    if not columns:
        raise CurveError(f"{place.name} holds no scalars")
    return columns
