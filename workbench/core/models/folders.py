"""What every kind of model folder needs: its JSON read with care, and one error for a wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.core import reading

MAX_JSON_BYTES = 16_000_000
# Of what a library says; some print all that they were given.
_LONGEST = 400


class ModelSourceError(ValueError):
    """A model could not be opened; the message says why and what to do."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that somebody else wrote.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        ModelSourceError: If the file is too large, not JSON, or not an object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ModelSourceError(
                f"{path} has {size / 1e6:,.0f} MB; settings take {MAX_JSON_BYTES / 1e6:.0f} MB at "
                "most"
            )
        value = reading.json_of(path.read_bytes())
    except (OSError, reading.UnreadableError) as error:
        raise ModelSourceError(f"{path} is not readable JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelSourceError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return value


def first_line(error: BaseException) -> str:
    """What an error of somebody else's library says, as part of a sentence.

    Args:
        error: Any error.

    Returns:
        Its first line without the full stop, or its kind where it says nothing.
    """
    text = str(error).strip()
    first = text.splitlines()[0].rstrip(".:") if text else type(error).__name__
    return reading.plain(first, _LONGEST)
