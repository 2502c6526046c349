"""Nothing leaves the machine: opening a local model makes no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Without HF_HUB_OFFLINE, as a user has it; every attempt to connect or to look up a name is noted.
CODE = """
import socket, sys
tried = []
def refuse(*arguments, **keywords):
    tried.append(repr(arguments)[:200])
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
from workbench import load_model
from workbench.core.engine import continuation
for name in sys.argv[1:]:
    continuation.continue_text(load_model(name), "12 + 57 =" if "add" in name else "", n_tokens=2)
print(tried)
"""


def connections(*names: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    run = subprocess.run(
        [sys.executable, "-c", CODE, *names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


def test_bundled_models_make_no_connection() -> None:
    assert connections("grammar-4l", "modadd-113") == "[]"


@pytest.mark.real_model
def test_a_folder_makes_no_connection(stories: Path) -> None:
    assert connections(str(stories)) == "[]"
