"""How long the first page takes in a real browser after the server is up, in seconds and as ratio.

Baseline: the same server's static health address, fetched by the same browser. Run by `make bench`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest
from playwright import sync_api

ROOT = Path(__file__).resolve().parents[2]
PORT = 8599
TRIALS = 5


@pytest.fixture
def address(tmp_path: Path) -> Generator[str]:
    """A server that has answered its health check and nothing else yet."""
    url = f"http://127.0.0.1:{PORT}"
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "workbench" / "app.py")]
    options = ["--server.port", str(PORT), "--server.headless", "true"]
    environment = os.environ | {"WORKBENCH_RUNS": str(tmp_path / "runs")}
    process = subprocess.Popen(
        command + options, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(300):
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                break
        except OSError:
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(timeout=30)


@pytest.mark.benchmark
def test_first_page(address: str) -> None:
    cold, warm, health = [], [], []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        for trial in range(TRIALS):
            tab = browser.new_context().new_page()
            started = time.perf_counter()
            tab.goto(f"{address}/_stcore/health")
            health.append(time.perf_counter() - started)
            started = time.perf_counter()
            tab.goto(address)
            # The card is what a newcomer reads first; it needs no model library.
            tab.get_by_text("What it does, on combinations").wait_for(timeout=60_000)
            (warm if trial else cold).append(time.perf_counter() - started)
            tab.context.close()
        browser.close()
    base = statistics.median(health)
    print(f"\nfirst page of a fresh server: {cold[0]:.2f} s")
    print(f"first page of a new browser: {statistics.median(warm):.2f} s (median of {len(warm)})")
    print(f"ratio to a bare request: {statistics.median(warm) / base:.0f}")
