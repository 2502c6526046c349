"""A script shows its own model: the app opens on it, with its pairs, on every page."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from playwright import sync_api

from tests.serving import free_port

ROOT = Path(__file__).resolve().parents[2]
Settle = Callable[..., None]

# The script edits the model, so that no folder has it; it ends the server when it is told to.
SCRIPT = """
import sys
import workbench
model = workbench.load_model("modadd-113")
model.b_U.data[5] += 1
pairs = workbench.ContrastPairs.from_task(model, "modular-addition", n=4)
shown = workbench.show(model, pairs, port={port}, open_browser=False, block=False)
print(shown.url, flush=True)
sys.stdin.readline()
shown.stop()
print("stopped", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def script(tmp_path: Path) -> Generator[subprocess.Popen[str]]:
    """The script, waiting; its first line is the address."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(port=free_port())],
        cwd=tmp_path,
        env=os.environ | {"WORKBENCH_RUNS": str(tmp_path / "runs"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that the script itself prints."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(("http", "stopped"))).strip()


def answer(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def server(script: subprocess.Popen[str]) -> str:
    """Where the tab may go: the script's server, in place of the one that other journeys share."""
    return said(script)


def picked(tab: sync_api.Page) -> str:
    return tab.get_by_role("combobox", name="Model").input_value()


def test_a_script_opens_the_app_on_its_own_model_and_pairs(
    page: sync_api.Page, server: str, script: subprocess.Popen[str], settle: Settle
) -> None:
    page.goto(server)
    start = page.get_by_role("button", name="Run (")
    start.wait_for(timeout=60_000)
    assert "/patching?model=shown" in page.url
    assert picked(page) == "shown: modadd-113"
    page.get_by_text("4 pairs, as your script made them").wait_for()
    start.click()
    page.get_by_text("of shown: modadd-113").first.wait_for(timeout=60_000)
    settle(page)

    # Navigation leaves the address bare; the page writes the pick into it again.
    page.get_by_role("link", name="Weights").click()
    page.wait_for_url("**/weights?*model=shown*", timeout=60_000)
    settle(page)
    assert picked(page) == "shown: modadd-113"
    page.goto(server.replace("patching", "model").partition("?")[0] + "?model=grammar-4l")
    page.get_by_role("heading", name="What is this model").wait_for(timeout=60_000)
    settle(page)
    assert picked(page) == "grammar-4l"
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url("**/runs*", timeout=60_000)
    settle(page)
    page.get_by_role("link", name="Weights").click()
    page.wait_for_url("**/weights?*model=grammar-4l*", timeout=60_000)
    assert picked(page) == "grammar-4l"

    page.goto("about:blank")
    answer(script)
    assert said(script) == "stopped"
    place = server.removeprefix("http://").partition("/")[0].split(":")
    with socket.socket() as probe:
        assert probe.connect_ex((place[0], int(place[1]))) != 0
