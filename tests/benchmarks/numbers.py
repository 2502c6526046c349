"""Ratios that the benchmarks measured, each with its machine and day, as a table in the docs.

1. A benchmark calls `say` for each of its ratios: it is printed, with the seconds behind it.
2. `make bench` writes what was said into numbers.json, a row a ratio; rows that were not measured
   this time stay as they were, with their own machine and day.
3. docs/benchmarks.md is made from it. Seconds are not in it: they are of one machine, and those of
   the baseline stand in the same process as ours.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import pydantic
import torch

from workbench.core import files

HERE = Path(__file__).resolve().parent
NUMBERS = HERE / "numbers.json"
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"
_HEAD = """\
# Benchmarks

`make bench` measures every row again and writes this page. A ratio compares with the baseline that
is named beside it, both measured in one process on one machine; "checked" says what was found to be
the same, because a fast wrong number is worth nothing. Seconds are of one machine and left out.
"""


class Row(pydantic.BaseModel, frozen=True):
    """One ratio.

    Attributes:
        benchmark: Module that measures it.
        what: What was measured, on what.
        ratio: The number.
        meaning: What it is a ratio to, to be read after the number.
        checked: What was found to be the same, or how sure the number is.
        machine: Processor, cores, and versions.
        day: When, as YYYY-MM-DD.
    """

    benchmark: str
    what: str
    ratio: float
    meaning: str
    checked: str
    machine: str
    day: str


SAID: list[Row] = []


def say(
    benchmark: str,
    what: str,
    ratio: float,
    meaning: str,
    *,
    checked: str = "",
    seconds: str = "",
) -> None:
    """Print a ratio, and remember it for the page.

    Args:
        benchmark: Module that measures it.
        what: What was measured, on what.
        ratio: The number.
        meaning: What it is a ratio to, to be read after the number.
        checked: What was found to be the same, or how sure the number is.
        seconds: What it was made from, printed only.
    """
    row = Row(
        benchmark=benchmark,
        what=what,
        ratio=float(ratio),
        meaning=meaning,
        checked=checked,
        machine=machine(),
        day=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    SAID.append(row)
    more = "; ".join(filter(None, (checked, seconds)))
    print(f"{what}: {ratio:.3g} {meaning}" + (f" ({more})" if more else ""), flush=True)


def machine() -> str:
    """The processor, how many of its cores this process may use, and the versions that matter."""
    try:
        told = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        told = None
    name = told[1].strip() if told else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = platform.python_version()
    return f"{name}, {cores} cores, Python {python}, torch {torch.__version__}"


def known() -> list[Row]:
    """The rows that are kept."""
    return [Row.model_validate(row) for row in json.loads(NUMBERS.read_text(encoding="utf-8"))]


def keep(said: Sequence[Row]) -> None:
    """Put new rows in place of old ones of the same thing, and make the page.

    Args:
        said: Rows that were measured just now.
    """
    rows = {(row.benchmark, row.what): row for row in [*known(), *said]}
    ordered = [rows[key] for key in sorted(rows)]
    text = json.dumps([row.model_dump() for row in ordered], indent=1) + "\n"
    files.write_whole(NUMBERS, text.encode())
    files.write_whole(PAGE, page(ordered).encode())


def page(rows: Sequence[Row]) -> str:
    """The page, a table a benchmark.

    Args:
        rows: Ordered by benchmark.

    Returns:
        Markdown.
    """
    lines = [_HEAD]
    machines = sorted({row.machine for row in rows})
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        lines += [
            f"## `tests/benchmarks/{benchmark}.py`",
            "",
            "| measured | ratio | | checked | day | machine |",
            "|---|---:|---|---|---|---|",
        ]
        lines += [
            f"| {row.what} | {row.ratio:.3g} | {row.meaning} | {row.checked} | {row.day} | "
            f"{machines.index(row.machine) + 1} |"
            for row in rows
            if row.benchmark == benchmark
        ]
        lines.append("")
    lines += ["Machines:", ""]
    lines += [f"{number}. {name}" for number, name in enumerate(machines, start=1)]
    return "\n".join(lines) + "\n"
