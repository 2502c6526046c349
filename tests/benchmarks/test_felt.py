"""How fast the app feels in a real browser, each time as a share of what it may take.

1. The first page of a fresh server, and of a new browser: until its title is read.
2. A click on each page of the navigation, everything it shows being known already: until what the
   window shows stands, and until what lies beneath it does, which is seen after scrolling. The
   browser itself takes the time, from the click that it sees to the last frame that it changed.
3. A click within a page, what it leads to being known: likewise.
4. Another model: until the page says what it is about now.
5. `import analyses` in a fresh interpreter, less the start of the interpreter.

Medians of several trials; the first page of a fresh server is one. Run by `make bench`.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from itertools import chain
from pathlib import Path

import pytest
from playwright import sync_api

from tests import serving
from tests.benchmarks import numbers
from workbench.ui import contents

ROOT = Path(__file__).resolve().parents[2]
TRIALS, CLICKS = 5, 3
FIRST, CLICK, IMPORT = 1.5, 0.3, 0.2
# Milliseconds after a click in which any page is drawn.
QUIET = 1500
SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]'
# Notes when a page's parts come, and when those within the window do. Work that a change sets off,
# such as drawing a figure, is over when the frame after it begins; where parts are is asked only
# there, as asking before it would make the browser lay out the page once more. What a table writes
# into its canvas for screen readers comes later and shows nothing.
WATCH = """
document.addEventListener('click', () => {
  window.felt = {clicked: performance.now(), seen: 0, whole: 0};
}, true);
new MutationObserver(changes => {
  if (!window.felt) return;
  requestAnimationFrame(() => {
    const shown = node => node?.isConnected && node.closest('[data-testid=stMain]')
      && !node.closest('canvas');
    const element = node => node.nodeType === Node.ELEMENT_NODE ? node : node.parentElement;
    const part = node => node.closest('.js-plotly-plot, .stElementContainer');
    const added = changes.flatMap(change => [...change.addedNodes]).map(element).filter(shown);
    const targets = changes.map(change => element(change.target)).filter(shown);
    // What is put into a container is no part of another one: it counts by itself.
    const parts = new Set([...added.map(node => part(node) ?? node), ...targets.map(part)]);
    const within = [...parts].some(part => {
      const place = part?.getBoundingClientRect();
      return place && place.height > 0 && place.top < innerHeight && place.bottom > 0;
    });
    if (added.length || targets.length) window.felt.whole = performance.now();
    if (within) window.felt.seen = performance.now();
  });
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
# Notes when a heading with some words comes.
SAID = """
words => new MutationObserver(() => {
  const headings = [...document.querySelectorAll('[data-testid=stMain] :is(h2, h3)')];
  if (!window.said && headings.some(one => one.textContent.includes(words))) {
    requestAnimationFrame(() => { window.said ||= performance.now(); });
  }
}).observe(document, {childList: true, subtree: true, characterData: true})
"""


@pytest.fixture
def address(tmp_path: Path) -> Generator[str]:
    """A server that has answered its health check and nothing else yet."""
    with serving.served(tmp_path) as served:
        yield served.address


@pytest.fixture
def browser() -> Generator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield launched
        launched.close()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def say(what: str, seconds: float, most: float, checked: str = "") -> None:
    numbers.say(
        "test_felt",
        what,
        seconds / most,
        f"of the {most:g} s it may take",
        seconds=f"{seconds:.2f} s",
        checked=checked,
    )


def felt(tab: sync_api.Page) -> tuple[float, float]:
    """Seconds from the last click until the window stood, and until all beneath it did."""
    clicked, seen, every = tab.evaluate("[felt.clicked, felt.seen, felt.whole]")
    assert every > clicked
    # What is changed may all lie beneath the window.
    return max(seen - clicked, 0.0) / 1000, (every - clicked) / 1000


def say_felt(what: str, times: list[tuple[float, float]]) -> None:
    seen, every = (statistics.median(column) for column in zip(*times, strict=True))
    say(
        f"{what}, all known, until the window shows it",
        seen,
        CLICK,
        checked=f"{every / CLICK:.2f} until all beneath it is drawn, too",
    )


def read(tab: sync_api.Page, heading: str = "") -> None:
    """Wait until a page's title is there."""
    tab.get_by_role("heading", level=1).filter(has_text=re.compile(heading)).wait_for(
        timeout=60_000
    )


def whole(tab: sync_api.Page) -> None:
    """Wait until the page is drawn and nothing of it is being computed."""
    while True:
        tab.wait_for_selector(SETTLED, timeout=120_000)
        if not tab.get_by_role("button", name="Cancel").count():
            return
        tab.wait_for_timeout(300)


@pytest.mark.benchmark
def test_the_first_page(address: str, browser: sync_api.Browser) -> None:
    found: list[float] = []
    for _ in range(TRIALS):
        tab = browser.new_context().new_page()

        def opened(tab: sync_api.Page = tab) -> None:
            tab.goto(address)
            read(tab)

        found.append(timed(opened))
        tab.context.close()
    say("first page of a fresh server", found[0], FIRST)
    say("first page of a new browser", statistics.median(found[1:]), FIRST)
    assert max(found) > 0


@pytest.mark.benchmark
def test_clicks_where_all_is_known(address: str, browser: sync_api.Browser) -> None:
    tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    tab.add_init_script(WATCH)
    pages = {
        page.title: page.path.stem for page in chain(*contents.grouped(ROOT / "pages").values())
    }
    for stem in pages.values():
        tab.goto(f"{address}/{stem}?model=grammar-4l")
        whole(tab)
    links = tab.get_by_test_id("stSidebarNav")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pages}
    # The first round draws what the browser has not loaded yet.
    for trial in range(CLICKS + 1):
        for name, stem in pages.items():
            links.get_by_role("link", name=name, exact=True).click()
            tab.wait_for_url(re.compile(f"/{stem}"))
            # Nothing asks the browser for anything meanwhile.
            tab.wait_for_timeout(QUIET)
            whole(tab)
            if trial:
                found[name].append(felt(tab))
    for name, times in found.items():
        say_felt(f"a click that leads to {name}", times)


@pytest.mark.benchmark
def test_clicks_within_a_page(address: str, browser: sync_api.Browser) -> None:
    tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    tab.add_init_script(WATCH)

    def measured(what: str, page: str, *clicks: Callable[[], None]) -> None:
        tab.goto(f"{address}/{page}")
        whole(tab)
        found: list[tuple[float, float]] = []
        for trial in range(CLICKS + 1):
            for click in clicks:
                click()
                tab.wait_for_timeout(QUIET)
                whole(tab)
                if trial:
                    found.append(felt(tab))
        say_felt(f"a click on {what}", found)

    def cell(share: float) -> Callable[[], None]:
        def click() -> None:
            drawn = tab.locator(".js-plotly-plot .nsewdrag").first
            drawn.scroll_into_view_if_needed()
            box = drawn.bounding_box()
            assert box is not None
            tab.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)

        return click

    def section(name: str) -> Callable[[], None]:
        return tab.get_by_role("radio", name=name, exact=True).click

    model = "model=grammar-4l"
    measured("a cell of a heat map (Logit lens)", f"logit_lens?{model}", cell(0.3), cell(0.7))
    sections = section("Heads"), section("Matrices")
    measured("a section (Weights)", f"weights?{model}", *sections)
    fold = tab.locator("summary").first
    measured("what is folded (Features)", f"features?{model}", fold.click)


@pytest.mark.benchmark
def test_another_model_is_said_at_once(address: str, browser: sync_api.Browser) -> None:
    tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    tab.add_init_script(WATCH)
    tab.goto(f"{address}/model?model=grammar-4l")
    whole(tab)
    tab.evaluate(SAID, "modulo 113")
    tab.get_by_role("combobox", name="Model").click()
    tab.get_by_role("option", name="modadd-113").click()
    tab.wait_for_function("window.said", timeout=60_000)
    milliseconds = tab.evaluate("window.said - window.felt.clicked")
    say("another model, not loaded yet, until it is said", milliseconds / 1000, CLICK)
    whole(tab)
    assert milliseconds > 0


@pytest.mark.benchmark
def test_importing_all_analyses() -> None:
    def started(code: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True))

    found = [started("import analyses") - started("pass") for _ in range(TRIALS)]
    say("`import analyses`", max(statistics.median(found), 0.0), IMPORT)
    assert len(found) == TRIALS
