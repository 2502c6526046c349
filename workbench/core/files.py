"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
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
