"""The terminal: sentences and tables on standard output, progress and errors on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.console
import rich.measure
import rich.progress
import rich.table
import rich.text
import typer

from workbench.core import files

if TYPE_CHECKING:
    import pandas as pd

    from workbench.core.engine import preflight
    from workbench.core.results import Result

_out = rich.console.Console(emoji=False)
_err = rich.console.Console(emoji=False, stderr=True)
# Wide enough for any table: what is read by a program must not be folded.
_NO_LIMIT = 10_000
# Characters by which a title or a token could move the cursor, or turn text around.
_HIDDEN = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (
        *set(range(0x20)) - {0x09, 0x0A},
        *range(0x7F, 0xA0),
        *(0x200E, 0x200F),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        # Halves of characters, which no terminal takes.
        *range(0xD800, 0xE000),
    )
}


def say(text: str) -> None:
    """Print a sentence, as it stands.

    Args:
        text: What to print; brackets and colons in it are no markup.
    """
    _out.print(text.translate(_HIDDEN), markup=False, highlight=False)


def remark(text: str) -> None:
    """Print what is no result, such as where one comes from, on standard error.

    Args:
        text: What to print; brackets and colons in it are no markup.
    """
    _err.print(text.translate(_HIDDEN), markup=False, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print what is wrong on standard error; what would move the cursor is written out.

    Args:
        text: What to print; brackets and colons in it are no markup.
    """
    remark(f"workbench: {text}")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table.

    Args:
        titles: Titles of the columns.
        rows: Their cells; brackets in them are no markup.
        title: What stands above the table.
    """
    made = rich.table.Table(*titles, title=title or None, title_justify="left")
    for column in made.columns:
        column.overflow = "fold"
    for row in rows:
        made.add_row(*(rich.text.Text(cell.translate(_HIDDEN)) for cell in row))
    if _out.is_terminal:
        _out.print(made)
        return
    wide = _out.options.update(width=_NO_LIMIT)
    width = rich.measure.Measurement.get(_out, wide, made).maximum
    rich.console.Console(emoji=False, width=max(width, len(title))).print(made)


def say_json(content: object) -> None:
    """Print JSON on standard output, for a program to read.

    Args:
        content: JSON types only.
    """
    text = json.dumps(content, indent=1)
    _out.print(text, markup=False, highlight=False, soft_wrap=True)


def number(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """A number with its interval, if it has one.

    Args:
        value: The number.
        low: Lower bound.
        high: Upper bound.

    Returns:
        For example `0.912 [0.874, 0.951]`.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def checks(found: preflight.Preflight) -> None:
    """Print what was checked before a run.

    Args:
        found: The outcome.
    """
    for check in found.checks:
        say(f"{check.mark} {check.name}: {check.detail}")


def notes(result: Result) -> None:
    """Print how a result was computed, where there is something to know about it.

    Args:
        result: The result.
    """
    for note in result.provenance.notes:
        say(f"How it was run: {note}")


def save(result: Result, folder: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Save a result with its tables and its figure, for those who read no safetensors.

    Args:
        result: The result.
        folder: Where to.
        tables: CSV files by name.

    Raises:
        ValueError: If the place holds something else, or cannot be written.
    """
    saved = result.save(folder)
    for name, frame in tables.items():
        write(saved / f"{name}.csv", frame.to_csv(index=False).encode())
    write(saved / "figure.html", result.figure().to_html(include_plotlyjs=True).encode())


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Where to; its folder must be there.
        content: All of it.

    Raises:
        ValueError: If it cannot be written.
    """
    try:
        files.write_whole(path, content)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def one_sentence_for_bad_input() -> Generator[None]:
    """End with exit code 2 and one sentence where the input was wrong.

    Yields:
        Nothing.

    Raises:
        Exit: With code 2 for wrong input, 130 where a person interrupted.
    """
    try:
        yield
    except ValueError as error:
        complain(str(error))
        raise typer.Exit(2) from error
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        complain(f"{named}{files.reason(error)}")
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        _err.print("workbench: interrupted; no result folder was written")
        raise typer.Exit(130) from error


@contextlib.contextmanager
def says_how_to_go_on() -> Generator[None]:
    """Say, where a person stopped a training, that the same command goes on from there.

    Yields:
        Nothing.

    Raises:
        Exit: With code 130 where a person interrupted.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        say("Stopped; what was trained is kept. The same command goes on from there.")
        raise typer.Exit(130) from error


@contextlib.contextmanager
def stopping_between_steps(
    report: Callable[[float, str], None],
) -> Generator[Callable[[float, str], None]]:
    """Let Ctrl-C stop a training between two steps, where its state is whole.

    Args:
        report: Progress.

    Yields:
        Progress that raises KeyboardInterrupt once Ctrl-C was pressed.
    """
    pressed = False

    def press(_signal: int, _frame: Any) -> None:
        nonlocal pressed
        pressed = True

    def checked(fraction: float, note: str) -> None:
        report(fraction, note)
        if pressed:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield checked
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def progress() -> Generator[Callable[[float, str], None]]:
    """A rich progress bar on standard error; gone when the run is over.

    Yields:
        What to call with the fraction done and a note.
    """
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=_err, transient=True) as bar:
        row = bar.add_task("starting", total=1.0)
        yield lambda fraction, note: bar.update(row, completed=fraction, description=note)
