"""Faults of the system, as the system makes them: full disks, disks that may only be read."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest


@contextlib.contextmanager
def no_file_beyond(size: int) -> Generator[None]:
    """No file of this process may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def small_disk(place: Path) -> Generator[Path]:
    """A disk of 256 kB of its own; skips the test where one cannot be mounted."""
    place.mkdir()
    try:
        _mount("size=256k", place)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk of its own can be mounted by root only")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def allow_reading_only(place: Path) -> None:
    """From now on nothing can be written to a small disk."""
    _mount("remount,ro", place)


def _mount(options: str, place: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


def no_folder(near: Path) -> Path:
    """A path at which no folder can be made, whoever tries: a file stands in its way."""
    (near / "a file").write_text("")
    return near / "a file" / "runs"
