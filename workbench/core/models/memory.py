"""How large is a model, and how much memory is there for models?

1. What a model will take is read from the headers of its safetensors files: the number of values of
   each tensor times the size of the number format that they are loaded as. No weight is read.
2. What models may take together is a share of the machine's memory, or of less where the control
   group of the process has a limit (a container); the environment variable WORKBENCH_MODEL_MEMORY,
   in gigabytes, says otherwise.
3. What is free now is what the system says can be had without swapping, within the same limits.

Units: bytes; gigabytes of 10^9 bytes in what is said to a reader.

Limits: activations come on top of the weights, and so does a second copy for the moment in which
weights change their number format. The memory of a GPU is not looked at. Where the system does not
say what is free, only the budget counts.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VARIABLE = "WORKBENCH_MODEL_MEMORY"

_SHARE = 0.5
_GIGABYTE = 10**9
# More is no header: safetensors itself refuses it.
_LONGEST_HEADER = 100_000_000
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_SYSTEM = Path("/proc/meminfo")


class DamagedError(ValueError):
    """A weights file is not what its header says; the message names it."""


class NoRoomError(ValueError):
    """A model is larger than the memory for it; the message says what would change that."""


def stored_bytes(folder: Path, value_bytes: int) -> int:
    """What the weights of a folder take once they are loaded.

    Args:
        folder: Holds safetensors files, with an index where there are several.
        value_bytes: Size of a value in the number format that they are loaded as.

    Returns:
        Bytes.

    Raises:
        DamagedError: If a header cannot be read, or the file is not as long as it says.
    """
    return sum(_values(path) for path in _weight_files(folder)) * value_bytes


def held_bytes(model: torch.nn.Module) -> int:
    """What the parameters and buffers of a loaded model take; what is shared counts once."""
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def budget() -> int:
    """What all loaded models may take together.

    Returns:
        Bytes.

    Raises:
        NoRoomError: If the environment variable is no number of gigabytes.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if not asked:
        return int(_SHARE * _machine())
    try:
        gigabytes = float(asked)
    except ValueError:
        gigabytes = math.nan
    if not (math.isfinite(gigabytes) and gigabytes > 0):
        raise NoRoomError(f"{VARIABLE} is {asked[:40]!r}: expected gigabytes, such as 8 or 0.5")
    return int(gigabytes * _GIGABYTE)


def free() -> int | None:
    """What can be had now without swapping; None where the system does not say."""
    found = [amount for amount in (_available(), *_left_in_groups()) if amount is not None]
    return max(0, min(found)) if found else None


def require_budget(needed: int, name: str, taken: int = 0) -> None:
    """Refuse a model that is larger than all that models may take.

    Args:
        needed: What it takes, in bytes.
        name: What the reader called it.
        taken: What models that cannot be let go of take already.

    Raises:
        NoRoomError: If it does not fit.
    """
    allowed = budget()
    if needed > allowed - taken:
        held = f", of which {_said(taken)} are taken for good" if taken else ""
        raise NoRoomError(
            f"{name!r} takes {_said(needed)} of memory and models may take {_said(allowed)} "
            f"together{held}: set {VARIABLE} to more gigabytes, or use a smaller model"
        )


def require_free(needed: int, name: str) -> None:
    """Refuse a model that is larger than the memory that is free now.

    Args:
        needed: What it takes, in bytes.
        name: What the reader called it.

    Raises:
        NoRoomError: If it does not fit.
    """
    there = free()
    if there is not None and needed > there:
        raise NoRoomError(
            f"{name!r} takes {_said(needed)} of memory and {_said(there)} of this machine's are "
            f"free now (models may take {_said(budget())} together, which {VARIABLE} changes): "
            "end other programs, or use a smaller model"
        )


def _said(amount: int) -> str:
    for size, unit in ((_GIGABYTE, "GB"), (10**6, "MB")):
        if amount >= size:
            return f"{amount / size:,.1f} {unit}"
    return f"{amount / 1000:,.1f} kB"


def _weight_files(folder: Path) -> list[Path]:
    """The files that are read: a single one, else those of the index, else all."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names: set[Any] = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{index} does not say in which files the weights are") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise DamagedError(f"{index} names {str(name)[:40]!r}, which is no file beside it")
        if not (folder / name).is_file():
            raise DamagedError(f"{folder} lacks {name}, which its index names: copy it there")
    return [folder / name for name in sorted(names)]


def _values(path: Path) -> int:
    """How many values a safetensors file holds, by its header."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(found, _LONGEST_HEADER):
                raise ValueError("no header")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        shapes = [tensor["shape"] for tensor in header.values()]
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if any(not isinstance(size, int) or size < 0 for shape in shapes for size in shape):
            raise ValueError("a shape that is none")
        values = sum(math.prod(shape) for shape in shapes)
        expected = 8 + length + int(end)
    except (
        OSError,
        struct.error,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise DamagedError(
            f"{path} is damaged (its header cannot be read): copy or download it again"
        ) from error
    if expected != found:
        raise DamagedError(
            f"{path} is damaged (its header speaks of {expected} bytes, it has {found}): copy or "
            "download it again"
        )
    return values


def _machine() -> int:
    """Memory of the machine, or the limit that this process has."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(limit for limit, _ in _groups())])


def _available() -> int | None:
    try:
        lines = _SYSTEM.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_in_groups() -> Iterator[int]:
    for limit, folder in _groups():
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        # Copies of files that are kept only as long as nobody needs the room.
        yield limit - max(0, (used or 0) - _reclaimable(folder / "memory.stat"))


def _reclaimable(path: Path) -> int:
    try:
        pairs = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(pair[1]) for pair in pairs if pair[0] == "inactive_file"), 0)


def _groups() -> Iterator[tuple[int, Path]]:
    """Control groups of this process that have a limit, with it: version 2 and version 1."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _GROUPS / controllers
        place = root / own.lstrip("/")
        # Within a container the path may be that of the host, and the limit stands at the root.
        for folder in [place, *place.parents] if place.is_relative_to(root) else [root]:
            limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
            if limit is not None:
                yield limit, folder
            if folder == root:
                break


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # Without a limit it says "max".
        return None
