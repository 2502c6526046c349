"""A report opened from disk in a real browser, with no network: closed, quiet, interactive."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

from tests.report import example
from workbench.report import html

# What a reader with an aid cannot work around.
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html.render(example.report()), encoding="utf-8")
    return path


def require_accessible(tab: sync_api.Page) -> None:
    found = Axe().run(tab).response["violations"]
    assert not [(one["id"], one["nodes"]) for one in found if one["impact"] in SERIOUS]


def test_a_report_asks_nobody_says_nothing_and_draws_its_figures_light_and_dark(
    browser: sync_api.Browser, file: Path
) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", service_workers="block"
    )
    asked: list[str] = []
    said: list[str] = []

    def guard(route: sync_api.Route) -> None:
        if route.request.url == file.as_uri():
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    context.route("**/*", guard)
    tab = context.new_page()
    # A violation of the page's policy is an error in the console.
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(file.as_uri())

    figures = tab.locator("figure:has(.drawn)")
    assert figures.count() == 7
    for index in range(figures.count()):
        figures.nth(index).scroll_into_view_if_needed()
        sync_api.expect(figures.nth(index).locator(".main-svg").first).to_be_visible()
        assert not figures.nth(index).locator("img.still").is_visible()

    # Interactive: the pointer over a cell shows its number.
    cell = figures.first.locator(".nsewdrag")
    cell.scroll_into_view_if_needed()
    box = cell.bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.5)
    sync_api.expect(figures.first.locator(".hovertext")).to_contain_text("layer 2")

    # Hostile strings are words: none ran, none became an element, none is a link out of the page.
    hostile = example.HOSTILE[1]
    assert tab.title() == f"Audit of a small grammar model ⟨U+202E⟩gnp.exe⟨U+202C⟩: {hostile}"
    assert tab.locator("main img:not(.still), main iframe, main [onerror]").count() == 0

    require_accessible(tab)
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.get_by_role("button", name="Switch to dark colours").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    sync_api.expect(figures.first.locator(".xtitle")).to_have_css("fill", "rgb(227, 232, 238)")
    require_accessible(tab)

    # Printed: light, with the still pictures, and nothing to press.
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == light
    sync_api.expect(figures.first.locator("img.still")).to_be_visible()
    sync_api.expect(tab.locator("#theme")).to_be_hidden()
    context.close()
    assert not asked
    assert not said


def test_a_comparison_asks_nobody_draws_its_figures_and_is_accessible(
    browser: sync_api.Browser, tmp_path: Path
) -> None:
    file = tmp_path / "comparison.html"
    file.write_text(html.render_comparison(example.comparison()), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    asked: list[str] = []
    said: list[str] = []
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(file.as_uri())
    figures = tab.locator("figure:has(.drawn)")
    assert figures.count() == 2
    for index in range(2):
        figures.nth(index).scroll_into_view_if_needed()
        sync_api.expect(figures.nth(index).locator(".main-svg").first).to_be_visible()
    assert tab.locator("main img:not(.still), main iframe, main [onerror]").count() == 0
    require_accessible(tab)
    tab.get_by_role("button", name="Switch to dark colours").click()
    require_accessible(tab)
    context.close()
    assert asked == [file.as_uri()]
    assert not said
