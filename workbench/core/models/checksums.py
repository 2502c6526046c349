"""Are the files that came with the workbench still the ones that came with it?

1. Beside the bundled models and networks lies `checksums.json`: the sha256 of every file of
   weights, settings and vocabulary below it, by its path.
2. A bundled file is compared with it before it is read, once a process for each state of the file
   (size and time of its last change), which takes some milliseconds.
3. A file that differs is refused: a result from it would carry the model's name and not be its own.

After a bundled model was made anew: `python -m workbench.core.models.checksums`.

Limits: this tells of accidents, not of attacks: whoever can change the file can change the list.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from workbench.core import files

NAME = "checksums.json"
_CORE = Path(__file__).resolve().parents[1]
ROOTS = (_CORE / "models" / "bundled", _CORE / "networks" / "bundled")
_KINDS = (".safetensors", ".json")
# Written for readers; nothing is computed from it.
_NOT_LISTED = ("card.json", NAME)


class ChangedFileError(ValueError):
    """A bundled file is not what came with the workbench; the message says how to mend it."""


def require(place: Path) -> None:
    """Refuse a bundled file, or a folder of them, that is not as it came with the workbench.

    Args:
        place: A file or folder; of one that is not bundled nothing is known.

    Raises:
        ChangedFileError: If a file differs or is missing.
    """
    where = place.resolve()
    for root in ROOTS:
        if root in where.parents:
            for name, expected in _listed(root / NAME).items():
                path = root / name
                if path == where or where in path.parents:
                    _require_file(path, expected)


def _require_file(path: Path, expected: str) -> None:
    try:
        state = path.stat()
        found = _digest(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise ChangedFileError(
            f"{path} came with the workbench and cannot be read ({error.strerror}): {_MENDED}"
        ) from error
    if found != expected:
        raise ChangedFileError(
            f"{path} is damaged (its sha256 is not that of the file that came with the workbench): "
            f"{_MENDED}"
        )


_MENDED = "install the workbench again, or restore the file with git"


@functools.cache
def _listed(manifest: Path) -> dict[str, str]:
    return json.loads(manifest.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    """Sha256 of a file in a certain state; of JSON, however its lines end."""
    del size, changed
    if path.suffix == ".json":
        return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made(root: Path) -> dict[str, str]:
    """Sha256 of every file below a folder that is listed.

    Args:
        root: Holds the bundled models or networks.

    Returns:
        By path, in alphabetical order.
    """
    found = {path.relative_to(root).as_posix(): path for path in _files(root)}
    return {name: _digest(found[name], -1, -1) for name in sorted(found)}


def _files(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_file() and path.suffix in _KINDS and path.name not in _NOT_LISTED:
            yield path


def main() -> None:
    """Write the lists anew."""
    for root in ROOTS:
        files.write_whole(root / NAME, (json.dumps(made(root), indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
