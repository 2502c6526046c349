"""A package that two threads import for the first time at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.ui import importing

PROGRAM = """
import threading, time
from workbench.ui import importing

importing.wait_for_whole_packages({"slow"})
importing.wait_for_whole_packages({"slow"})
found = []

def whole():
    import slow
    found.append(slow.a.B)

def part():
    time.sleep(0.1)
    from slow.b import B
    found.append(B)

threads = [threading.Thread(target=target) for target in (whole, part)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found)
"""


def test_a_part_waits_for_the_package_that_another_thread_imports(tmp_path: Path) -> None:
    package = tmp_path / "slow"
    package.mkdir()
    (package / "__init__.py").write_text("from slow import a\n")
    # Each needs the other: without waiting, one thread holds each and sees half of the other.
    (package / "a.py").write_text("X = 1\nimport time\ntime.sleep(0.5)\nfrom slow.b import B\n")
    (package / "b.py").write_text("import time\nfrom slow.a import X\ntime.sleep(0.5)\nB = 2\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[2, 2]\n", "")


def test_what_pages_need_is_imported_once_in_the_background_and_what_is_missing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needed_by_pages.py").write_text("made = []\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("missing_from_here", "needed_by_pages")
    thread = importing.begin(names)
    assert importing.begin(names) is thread
    thread.join(30)
    assert sys.modules.pop("needed_by_pages").made == []
