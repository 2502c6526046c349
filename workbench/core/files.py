"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its own, then rename it.

    Args:
        path: Where to; its folder must be there. What stood there is replaced.
        content: All of it.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    with appearing_whole(path) as file:
        file.write(content)


@contextlib.contextmanager
def appearing_whole(path: Path) -> Generator[IO[bytes]]:
    """Write a large file in parts under a temporary name, renamed once all is written.

    Args:
        path: Where to; its folder must be there. What stood there is replaced.

    Yields:
        The file to write to.

    Raises:
        OSError: If it cannot be written; nothing is left behind then.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).chmod(0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def folder_of(name: str | os.PathLike[str]) -> Path | None:
    """The folder of a name that somebody typed, or that came with a link or a file.

    Args:
        name: Anything; `~` is the home folder.

    Returns:
        Its path; None where there is no such folder, or the text can be no name of one.
    """
    try:
        place = Path(name).expanduser()
        return place if place.is_dir() else None
    # It is too long, holds a zero, or names the home of nobody.
    except (OSError, ValueError, RuntimeError):
        return None


_FULL = {errno.ENOSPC, errno.EDQUOT}
# As Rust's libraries tell it.
_NUMBER = re.compile(r"\(os error (\d+)\)")
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def reason(error: Exception) -> str:
    """Why a file could not be read or written, and what would help, without a full stop.

    Args:
        error: What the system said, or safetensors, which tells the system's number in its text.

    Returns:
        For example "the disk is full: free some space there". The file is not named.
    """
    number = getattr(error, "errno", None)
    told = _NUMBER.search(str(error))
    if number is None and told is not None:
        number = int(told[1])
    if number in _FULL:
        return "the disk is full: free some space there"
    if number == errno.EFBIG:
        return "the file would be larger than is allowed here: raise the limit (ulimit -f)"
    if number in _READ_ONLY:
        return "it may only be read: allow writing there, or name another folder"
    return os.strerror(number) if number else str(error)
