"""Every page as a demanding visitor meets it: whole, in both colours, with the keyboard alone.

Each page is opened once and looked at in several ways, since opening one costs the most. The page
fixture fails a test on a request to another host and on errors in the console.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

from workbench.ui import contents

PAGES = sorted((Path(__file__).resolve().parents[2] / "pages").glob("*.py"))
# What a reader with an aid cannot work around.
SERIOUS = {"serious", "critical"}
# What Streamlit draws by itself, which a page cannot mend: the rule, what it is found within, why.
OF_STREAMLIT = (
    ("list", "[data-testid=stSidebarNavItems]", "groups of links stand in its list as <div>"),
    ("listitem", "[data-testid=stSidebarNavItems]", "the links of a group stand in that <div>"),
    (
        "scrollable-region-focusable",
        "[data-testid=stCode] pre",
        "it is no stop of the Tab key, which Chromium itself makes it",
    ),
    ("color-contrast", "[data-testid=stCode] .token", "no theme sets the colours of code's words"),
    (
        "color-contrast",
        ".stElementContainer:has(:disabled, [aria-disabled=true], [data-disabled=true])",
        "the label of a widget that is switched off is outside of the widget's own element",
    ),
)
# Tab stops before the first example: the links of the navigation and of the questions, and a few.
MOST_STOPS = 80

# Their figures are there at once, and stay as they are.
STILL = {"logit_lens", "attention", "direct_attribution"}
# Each drawing announces itself; the first one before anybody can listen, as it begins.
COUNT = """
window.drawn = new Map();
new MutationObserver(() => {
  for (const chart of document.querySelectorAll('.js-plotly-plot')) {
    if (drawn.has(chart) || !chart.on) continue;
    drawn.set(chart, 1);
    chart.on('plotly_beforeplot', () => { drawn.set(chart, drawn.get(chart) + 1); });
  }
}).observe(document, {childList: true, subtree: true, attributes: true});
"""

# Sides of a drawn figure where labels needed more room than its margin gave them, by pixels.
PUSHED = """
[...drawn.keys()].filter(chart => chart.isConnected).flatMap(chart =>
  Object.entries(chart.layout.margin)
    .map(([side, given]) => [side, chart._fullLayout._size[side] - given])
    .filter(([side, more]) => more > 2))
"""


def wait_until_done(tab: sync_api.Page, settle: Callable[..., None]) -> None:
    """Wait until the page's script has ended and no work is shown any more."""
    settle(tab)
    cancel = tab.get_by_role("button", name="Cancel")
    while cancel.count():
        cancel.first.wait_for(state="detached", timeout=120_000)
        settle(tab)


def require_accessible(tab: sync_api.Page, **options: Any) -> None:
    """Fail on what axe calls serious, but for what Streamlit alone could mend."""
    # Of drawings, thousands of nodes each, axe judges nothing.
    context = {"exclude": [[".js-plotly-plot"]]}
    asked = {"resultTypes": ["violations"], **options}
    found = Axe().run(tab, context, asked).response["violations"]
    ours = [
        (one["id"], node["html"], node["failureSummary"])
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
        if not any(
            one["id"] == rule
            and tab.evaluate(
                "([at, within]) => !!document.querySelector(at)?.closest(within)",
                [node["target"][0], within],
            )
            for rule, within, _ in OF_STREAMLIT
        )
    ]
    assert not ours


def require_drawn_once(tab: sync_api.Page) -> None:
    """Fail if a figure was drawn again, which is most of what a click takes.

    A version of Streamlit or plotly.js that takes a figure for changed does so, and a margin that
    is too narrow for its labels. See `workbench.ui.charts`.
    """
    tab.locator(".js-plotly-plot").first.wait_for()
    tab.wait_for_timeout(500)
    counts = tab.evaluate("[...drawn].filter(([chart]) => chart.isConnected).map(one => one[1])")
    assert counts
    assert set(counts) == {1}
    assert tab.evaluate(PUSHED) == []


def require_no_overflow(tab: sync_api.Page, width: int) -> None:
    """Fail if something of the page lies to the right of the window."""
    tab.set_viewport_size({"width": width, "height": 900})
    # Figures follow the window after a moment.
    tab.wait_for_function(
        "[document.documentElement, document.querySelector('[data-testid=stMain]')]"
        ".every(one => one.scrollWidth <= one.clientWidth)",
        timeout=10_000,
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_whole_accessible_and_in_its_window(
    page: sync_api.Page, server: str, settle: Callable[..., None], path: Path
) -> None:
    known = contents.read(path)
    page.emulate_media(color_scheme="light")
    page.add_init_script(COUNT)
    page.goto(f"{server}/{'' if path.stem == contents.FIRST else path.stem}")
    page.get_by_role("heading", level=1).wait_for(timeout=60_000)
    wait_until_done(page, settle)
    heading = known.question[0].upper() + known.question[1:]
    assert page.get_by_role("heading", level=1).all_inner_texts() == [heading]
    assert page.title() == known.title
    for sign in ("stException", "stAlertContentError"):
        assert page.get_by_test_id(sign).count() == 0
    assert "Traceback" not in page.locator("[data-testid=stMain]").inner_text()
    if path.stem in STILL:
        require_drawn_once(page)
    require_no_overflow(page, 1920)
    require_no_overflow(page, 1280)
    require_accessible(page)
    light = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "was => getComputedStyle(document.querySelector('.stApp')).backgroundColor !== was",
        arg=light,
    )
    # What else there is does not depend on the colours.
    require_accessible(page, runOnly=["color-contrast"])


def tab_to(tab: sync_api.Page, text: str) -> None:
    """Press the Tab key until the button or link with this text is focused."""
    focused = "document.activeElement.matches('a, button') ? document.activeElement.innerText : ''"
    for _ in range(MOST_STOPS):
        tab.keyboard.press("Tab")
        # Before the text of a link stands the name of its icon.
        if tab.evaluate(focused).strip().endswith(text):
            return
    pytest.fail(f"{text!r} is not reached with the Tab key")


def test_the_first_example_is_run_and_opened_with_the_keyboard_alone(
    page: sync_api.Page, server: str, settle: Callable[..., None]
) -> None:
    page.goto(server)
    page.get_by_role("button", name="Find the head").wait_for(timeout=60_000)
    settle(page)
    tab_to(page, "Find the head")
    page.keyboard.press("Enter")
    # A status is read out by a screen reader when it appears.
    page.get_by_role("status").filter(has_text="L1H2 at position 13").wait_for(timeout=120_000)
    settle(page)
    tab_to(page, "Open it on the page Patching")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Which layer and position").wait_for(timeout=60_000)
    page.get_by_text("The code that reproduces it").wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Run (").count() == 0


# Presses buttons by what they say, one right after the other.
PRESS = """
labels => {
  const all = [...document.querySelectorAll('[data-testid=stMain] button')];
  labels.forEach(label => all.find(one => one.innerText.trim() === label).click());
}
"""


def test_examples_that_are_clicked_right_after_one_another_all_begin(
    page: sync_api.Page, server: str, settle: Callable[..., None]
) -> None:
    page.goto(server)
    page.get_by_text("Four answers in seconds").wait_for(timeout=60_000)
    wait_until_done(page, settle)
    # What a page before this one has found stands there already.
    labels = page.locator("[data-testid=stMain] button").all_inner_texts()
    asked = [label for label in labels if label.startswith(("Find", "Read", "Watch"))][-2:]
    assert len(asked) == 2
    page.evaluate(PRESS, asked)
    for label in asked:
        # In its place stands how far the work is, or the answer.
        sync_api.expect(page.get_by_role("button", name=label)).to_have_count(0)
    wait_until_done(page, settle)
    assert page.get_by_role("status").count() >= len(asked)
