"""A real server and a real browser.

The page fixture fails a test on any request to another host, on an error in the browser's console,
and on a script that broke.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright import sync_api

from tests import serving

_SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]'
_LOCAL_SCHEMES = {"data", "blob", "about"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's browser."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if found and Path(found).is_file():
        return found
    reason = "no browser: apt-get install chromium, or name one in CHROMIUM"
    if os.environ.get("WORKBENCH_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser(chromium: str) -> Generator[sync_api.Browser]:
    """One browser a test process."""
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--force-prefers-reduced-motion",
            ],
        )
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Address of the app, served for a test process, with a run store that is empty at first."""
    with serving.served(tmp_path_factory.mktemp("served")) as served:
        yield served.address


@pytest.fixture
def page(browser: sync_api.Browser, server: str) -> Generator[sync_api.Page]:
    """A fresh tab that fails the test on foreign requests and on console errors."""
    host = urlsplit(server).netloc
    context = browser.new_context(viewport={"width": 1280, "height": 900}, service_workers="block")
    tab = context.new_page()
    foreign: list[str] = []
    errors: list[str] = []

    def check(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _LOCAL_SCHEMES and parts.netloc != host:
            foreign.append(url)

    def guard(route: sync_api.Route) -> None:
        # Stopped as well as noted: a test leaves no trace on another host.
        if urlsplit(route.request.url).netloc == host:
            route.continue_()
        else:
            route.abort()

    def note_console(message: sync_api.ConsoleMessage) -> None:
        place = urlsplit(message.location.get("url", "")).path
        # Streamlit's client, opened at /page, first looks for its server at /page/_stcore, which
        # is not there, and then at /_stcore.
        lost = "404" in message.text and re.fullmatch(r"/\w+/_stcore/[\w-]+", place)
        if message.type == "error" and not lost:
            errors.append(f"{message.text} ({place})")

    context.on("request", lambda request: check(request.url))
    context.on("page", lambda opened: opened.on("websocket", lambda socket: check(socket.url)))
    tab.on("websocket", lambda socket: check(socket.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", note_console)
    context.route("**/*", guard)
    yield tab
    context.close()
    assert not foreign, f"the app asked another host: {foreign}"
    assert not errors, f"the browser reported: {errors}"


@pytest.fixture(scope="session")
def settle() -> Callable[..., None]:
    """Wait until the page's script has run to its end and its result is drawn."""

    def wait(tab: sync_api.Page, timeout: float = 60.0) -> None:
        # A rerun needs a moment to begin after what set it off.
        tab.wait_for_timeout(150)
        tab.wait_for_selector(_SETTLED, state="attached", timeout=timeout * 1000)

    return wait
