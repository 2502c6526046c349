"""What bad input must never do, seen by Python's own audit hook while it is read.

1. `watched` notes each file that is written, made, renamed or removed outside of the folders that
   are allowed; each process that is started, each pickled class that is looked up, each module or
   code of a hostile folder that is run; and each request to another host.
2. `refused` and `command` read something: all that may come of it is a result, or one sentence.

Limits: what is written by a library that is no Python (safetensors is one) is not seen.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

from typer import testing

from workbench import __main__

Outcome = TypeVar("Outcome")

ROOT = Path(__file__).resolve().parents[2]
# A message is read by a person. A spec has a line a problem; unequal pairs show both below.
LONGEST, MOST_LINES = 3_000, 25
_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "pickle.find_class",
    "socket.connect",
    "socket.getaddrinfo",
}
# Where their paths stand, and the folder descriptors that these are relative to.
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.utime": ((0, 3),),
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_watches: list[_Watch] = []
_hooked: list[bool] = []


class _Watch:
    """One call that is watched."""

    def __init__(self, allowed: tuple[Path, ...], hostile: Path | None) -> None:
        self.allowed: list[str] = [os.path.realpath(path) for path in allowed]
        self.hostile = os.path.realpath(hostile) if hostile is not None else None
        self.seen: list[str] = []
        self.temporary: list[str] = []

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "tempfile.mkdtemp" and os.path.dirname(args[0]) == tempfile.gettempdir():
            # What a call makes for itself must be gone when it ends.
            self.temporary.append(args[0])
            self.allowed.append(os.path.realpath(args[0]))
        elif event == "pickle.find_class" and args[0].startswith("streamlit."):
            # Its cache keeps copies of what it has made itself.
            return
        elif event in _STARTS:
            self.seen.append(f"{event} {args!r:.200}")
        elif event == "open":
            path, mode, flags = args
            # Of a file that Python opens itself, the flags say what the mode means.
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (flags or 0) & _WRITES:
                self._written(event, path, None)
        elif event in _CHANGES:
            for path, folder in _CHANGES[event]:
                self._written(event, args[path], None if folder is None else args[folder])
        elif event == "import" and len(args) > 1:
            self._ran(event, args[1])
        elif event == "exec" and args:
            self._ran(event, getattr(args[0], "co_filename", None))

    def _written(self, event: str, path: Any, folder: int | None) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        base = "" if folder is None or folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
        whole = os.path.abspath(os.path.join(base, os.fsdecode(path)))
        above, name = os.path.split(whole)
        # A link that is renamed or removed is so itself, and not what it leads to.
        own = event in ("os.rename", "os.remove", "os.rmdir", "os.symlink")
        real = os.path.join(os.path.realpath(above), name) if own else os.path.realpath(whole)
        # Modules that are imported for the first time are compiled beside their sources.
        # Torch makes a folder for what it compiles, once.
        if re.match(r"/dev/|.*/__pycache__|.*/torchinductor_", real):
            return
        if not any(real == one or real.startswith(f"{one}/") for one in self.allowed):
            self.seen.append(f"{event} {real}")

    def _ran(self, event: str, file: Any) -> None:
        if isinstance(file, str) and self.hostile is not None:
            if os.path.realpath(file).startswith(f"{self.hostile}/"):
                self.seen.append(f"{event} {file}")


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for watch in tuple(_watches):
        watch.note(event, args)


@contextlib.contextmanager
def watched(*allowed: Path, hostile: Path | None = None) -> Generator[None]:
    """See to it that nothing but reading happens.

    Args:
        *allowed: Folders that may be written to.
        hostile: A folder of which nothing may be run.

    Yields:
        Nothing.
    """
    if not _hooked:
        # A hook cannot be taken off again; without a watch it does nothing.
        sys.addaudithook(_hook)
        _hooked.append(True)
    watch = _Watch(allowed, hostile)
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)
    assert not watch.seen, watch.seen
    assert not [left for left in watch.temporary if os.path.exists(left)]


def refused(read: Callable[[], Outcome]) -> Outcome | None:
    """Read something that may be bad.

    Args:
        read: Reads it; a `ValueError` with a sentence of ours is all that it may raise.

    Returns:
        What was read, or None where it was refused.
    """
    try:
        return read()
    except ValueError as error:
        # A library's own message does not say what would be right.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        raised = Path("" if trace is None else trace.tb_frame.f_code.co_filename)
        assert raised.is_relative_to(ROOT) and ".venv" not in raised.parts, (raised, error)
        require_sentence(str(error))
        return None


def command(*arguments: str) -> testing.Result:
    """What a person sees who gives something bad to the command.

    Args:
        *arguments: As typed.

    Returns:
        The outcome: done, or one sentence and exit code 2.
    """
    result = testing.CliRunner().invoke(__main__.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2, 3), (result.exit_code, result.output)
    if result.exit_code == 2:
        # A progress bar may have left an empty line before it.
        said = result.stderr.lstrip()
        assert said.startswith("workbench: "), said
        require_sentence(said.removeprefix("workbench: "))
    require_plain(result.output)
    return result


def require_sentence(text: str) -> None:
    """Check that a message is for a person: not empty, not endless, without control characters."""
    assert text.strip()
    assert len(text) <= LONGEST and len(text.splitlines()) <= MOST_LINES, text[:LONGEST]
    assert "Traceback" not in text
    require_plain(text)


def require_plain(text: str) -> None:
    """Check that a text moves no cursor and turns no direction."""
    found = _CONTROLS.search(text)
    assert found is None, (found, text[max(0, found.start() - 60) :][:120])
