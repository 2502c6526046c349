"""The journey of a newcomer in a real browser: open, run, click a cell, reopen the link."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright import sync_api

import workbench
from analyses import activation_patching
from workbench import ContrastPairs

ROOT = Path(__file__).resolve().parents[2]
MODEL, TASK = "grammar-4l", "indirect-object"
Settle = Callable[..., None]


def click_cell(tab: sync_api.Page, row: int, column: int, columns: int) -> None:
    """Click a cell of the heat map by its invisible marker, as a person would hit the cell."""
    tab.wait_for_selector(".js-plotly-plot .points path.point", state="attached", timeout=60_000)
    tab.wait_for_timeout(500)
    marker = tab.locator(".js-plotly-plot").first.locator(".points path.point")
    cell = marker.nth(row * columns + column)
    cell.scroll_into_view_if_needed()
    box = cell.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.wait_for_timeout(150)
    tab.mouse.click(x, y)


def run(tab: sync_api.Page, settle: Settle) -> None:
    """Press Run once the preflight is through, and wait for the result."""
    start = tab.get_by_role("button", name="Run (")
    start.wait_for(timeout=120_000)
    start.click()
    tab.get_by_text("The code that reproduces it").wait_for(timeout=120_000)
    settle(tab)


def test_from_the_first_page_to_a_patched_cell_and_back_by_link(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    pairs = ContrastPairs.from_task(workbench.load_model(MODEL), TASK, n=32)
    expected = activation_patching.patch(workbench.load_model(MODEL), pairs)

    page.goto(server)
    page.get_by_role("heading", name="What do you want to know?").wait_for(timeout=60_000)
    page.get_by_role("link", name="Patching").click()
    page.get_by_role("heading", name="Which layer and position").wait_for(timeout=60_000)
    page.goto(f"{server}/patching?model={MODEL}")
    run(page, settle)
    page.get_by_text(expected.summary()[:80]).wait_for()

    row, column = expected.to_grid(expected.strongest(1)[0])
    click_cell(page, row, column, expected.effects.shape[1])
    page.get_by_role("heading", name=expected.label((row, column))).wait_for(timeout=60_000)
    settle(page)
    assert f"cell={row}.{column}" in page.url
    seen = activation_patching.inspect_cell(
        workbench.load_model(MODEL), expected, (row, column), prompt=0
    )
    page.get_by_text(seen.summary()[:60]).wait_for(timeout=30_000)

    link = page.locator("[data-testid=stCode]").last.inner_text().strip()
    page.goto("about:blank")
    page.goto(link)
    page.get_by_role("heading", name=expected.label((row, column))).wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Run (").count() == 0


def test_two_tabs_patching_the_same_model_get_the_serial_results(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=200)
    other = page.context.new_page()
    tabs = {"z": page, "mlp_out": other}
    for site, tab in tabs.items():
        tab.goto(f"{server}/patching?model=modadd-113&n=200&site={site}")
    for tab in tabs.values():
        tab.get_by_role("button", name="Run (").wait_for(timeout=120_000)
    for tab in tabs.values():
        tab.get_by_role("button", name="Run (").click()
    for site, tab in tabs.items():
        expected = activation_patching.patch(model, pairs, site=site)
        tab.get_by_text("The code that reproduces it").wait_for(timeout=120_000)
        settle(tab)
        assert expected.summary() in tab.locator("[data-testid=stMain]").inner_text()


def test_a_model_that_is_not_there_is_a_sentence_without_a_traceback(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    page.goto(f"{server}/?model=grammer-4l")
    page.get_by_role("button", name="Open it").click(timeout=60_000)
    page.get_by_text("the hub cannot be asked").wait_for(timeout=60_000)
    settle(page)
    assert "Traceback" not in page.locator("[data-testid=stMain]").inner_text()


def test_the_first_readme_command_serves_the_app(tmp_path: Path) -> None:
    """`make app` in this checkout: installs nothing that is there, and starts the server."""
    log = tmp_path / "app.log"
    environment = os.environ | {
        "STREAMLIT_SERVER_HEADLESS": "true",
        "STREAMLIT_SERVER_PORT": "0",
        "WORKBENCH_RUNS": str(tmp_path / "runs"),
    }
    if not (ROOT / ".venv" / ".installed").is_file():
        pytest.skip("`make app` would install everything: run `make test` to have it tested")
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "app"], cwd=ROOT, env=environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "You can now view" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        assert "You can now view" in log.read_text()
        assert "127.0.0.1" in log.read_text()
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=30)
