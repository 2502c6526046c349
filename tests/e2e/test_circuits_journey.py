"""Screen, verify, explain in a real browser: run, click an edge of the graph, reopen the link."""

from __future__ import annotations

from collections.abc import Callable

from playwright import sync_api

import workbench
from analyses import circuits
from workbench import ContrastPairs

Settle = Callable[..., None]


def click_edge(tab: sync_api.Page, edge: int) -> None:
    """Click the dot of an edge, as a person would hit it."""
    graph = tab.locator(".js-plotly-plot", has_text="fraction destroyed")
    # The dots of the edges are the last trace of the figure.
    dots = graph.locator(".scatterlayer .trace").last.locator("path.point")
    dots.nth(edge).scroll_into_view_if_needed(timeout=60_000)
    tab.wait_for_timeout(500)
    box = dots.nth(edge).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.wait_for_timeout(150)
    tab.mouse.click(x, y)


def test_from_the_question_to_the_attention_at_an_edge_and_back_by_link(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    model = workbench.load_model("grammar-4l")
    pairs = ContrastPairs.from_task(model, "indirect-object", n=4)
    expected = circuits.discover(model, pairs, n_random=9)

    page.goto(server)
    page.get_by_role("heading", name="What do you want to know?").wait_for(timeout=60_000)
    titles = page.locator("[data-testid=stSidebarNavLink]").all_inner_texts()
    assert titles.index("Model") < titles.index("Patching") < titles.index("Circuits")
    page.get_by_role("link", name="Circuits").click()
    page.get_by_role("heading", name="Which connections carry").wait_for(timeout=60_000)

    page.goto(f"{server}/circuits?model=grammar-4l&n=4&n_random=9")
    start = page.get_by_role("button", name="Run (")
    start.wait_for(timeout=120_000)
    start.click()
    page.get_by_text("The code that reproduces it").wait_for(timeout=120_000)
    settle(page)
    page.get_by_text(expected.summary()[:80]).wait_for()

    # An edge into a head, which has attention to show.
    edge = next(i for i in expected.strongest(9) if expected.edges[i].startswith("m0->a1"))
    click_edge(page, edge)
    page.get_by_role("heading", name=expected.edges[edge]).wait_for(timeout=60_000)
    seen = circuits.inspect_edge(model, expected, edge)
    page.get_by_text(seen.summary()[:60]).wait_for(timeout=60_000)
    settle(page)
    assert "edge=m0-%3Ea1" in page.url

    link = page.locator("[data-testid=stCode]").last.inner_text().strip()
    page.goto("about:blank")
    page.goto(link)
    page.get_by_role("heading", name=expected.edges[edge]).wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Run (").count() == 0
