"""Finished audit reports: kept in the run folder, found again by the id in an address.

A report is one JSON file in `reports/` beside the runs, named by the hash of its content, and
written under another name first: what has its final name is whole. Its link survives a restart.

Limits: nothing here is deleted; a person may delete files of that folder at any time.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.core import files, runs

if TYPE_CHECKING:
    from workbench.report.document import Report

# Reports that are listed, the newest first.
_LISTED = 20
_ID = re.compile(r"[0-9a-f]{16}")


def folder() -> Path:
    """Where reports are kept; files that a spec of a page names are looked for here, too."""
    return runs.RunStore().root / "reports"


def keep(report: Report) -> str:
    """Write a report.

    Args:
        report: Any report.

    Returns:
        Its id: 16 hexadecimal digits.

    Raises:
        OSError: If it cannot be written.
    """
    content = report.to_json().encode()
    name = hashlib.sha256(content).hexdigest()[:16]
    folder().mkdir(parents=True, exist_ok=True)
    files.write_whole(folder() / f"{name}.json", content)
    return name


def find(name: str) -> Report | None:
    """A kept report.

    Args:
        name: Its id, possibly from a link: anything but 16 hexadecimal digits is not found.

    Returns:
        The report; None where there is none, or what is there is no report.
    """
    place = folder() / f"{name}.json"
    if not _ID.fullmatch(name) or not place.is_file():
        return None
    return _opened(str(place), place.stat().st_mtime_ns)


def listed() -> dict[str, Report]:
    """Reports by id, the newest first."""
    found = ((name, find(name)) for name in _newest())
    return {name: report for name, report in found if report is not None}


def _newest() -> list[str]:
    places = [place for place in folder().glob("*.json") if _ID.fullmatch(place.stem)]
    places.sort(key=lambda place: place.stat().st_mtime_ns, reverse=True)
    return [place.stem for place in places[:_LISTED]]


@st.cache_resource(max_entries=2 * _LISTED, show_spinner=False)
def _opened(place: str, changed: int) -> Report | None:
    """A report, read once and not at every click."""
    del changed  # what the cache goes by
    # Not needed before there is a report.
    from workbench.report import reproducing

    try:
        return reproducing.read(Path(place))
    except ValueError:
        return None
