"""The inspector in a real browser: from one prompt to a head, an edge, a layer, and a unit."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlencode

from playwright import sync_api

import workbench
from analyses import attention, contributions, direct_attribution, logit_lens

Settle = Callable[..., None]
PROMPT = "When Mary and John went to the store, John gave a drink to"
ASKED = urlencode({"model": "grammar-4l", "prompt": PROMPT, "answer": " Mary", "wrong": " John"})
PATIENCE = 120_000


def click_dot(tab: sync_api.Page, dot: sync_api.Locator) -> None:
    """Click a marker of a figure, as a person would hit it."""
    dot.scroll_into_view_if_needed(timeout=60_000)
    tab.wait_for_timeout(500)
    box = dot.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.wait_for_timeout(150)
    tab.mouse.click(x, y)


def dots(tab: sync_api.Page, says: str) -> sync_api.Locator:
    """The markers of a figure that can be clicked: those of its last trace."""
    figure = tab.locator(".js-plotly-plot", has_text=says)
    return figure.locator(".scatterlayer .trace").last.locator("path.point")


def test_one_prompt_from_page_to_page(page: sync_api.Page, server: str, settle: Settle) -> None:
    model = workbench.load_model("grammar-4l")
    parts = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John")
    page.goto(f"{server}/inspector?{ASKED}")
    page.get_by_text(parts.summary()[:60]).wait_for(timeout=PATIENCE)
    settle(page)

    # The same prompt, elsewhere: a head is chosen from the grid, and leads to its own page.
    page.get_by_role("main").get_by_role("link", name="Attention", exact=True).click()
    page.get_by_role("heading", name="Where does each head look").wait_for(timeout=PATIENCE)
    tile = page.get_by_role("button", name=re.compile(r"^head 1\.2\."))
    tile.wait_for(timeout=PATIENCE)
    tile.click()
    page.wait_for_url(re.compile(r"[?&]head=1\.2(&|$)"))
    one = attention.one_head(model, PROMPT, layer=1, head=2)
    page.get_by_text(one.summary()[:60]).wait_for(timeout=PATIENCE)
    settle(page)
    address = page.url
    page.get_by_role("main").get_by_role("link", name="head 1.2: all of it").click()
    page.get_by_role("heading", name="What does this unit respond to").wait_for(timeout=PATIENCE)
    assert "unit=head" in page.url
    page.goto("about:blank")
    page.goto(address)
    page.get_by_text(one.summary()[:60]).wait_for(timeout=PATIENCE)


def test_an_edge_and_a_cell_are_clicked(page: sync_api.Page, server: str, settle: Settle) -> None:
    model = workbench.load_model("grammar-4l")
    graph = contributions.trace(model, PROMPT)
    page.goto(f"{server}/contributions?{ASKED}")
    page.get_by_text(graph.summary()[:60]).wait_for(timeout=PATIENCE)
    settle(page)
    edge = next(i for i, at in enumerate(graph.routes()) if graph.edge(at).kind == "mlp")
    click_dot(page, dots(page, "the stream after").nth(edge))
    told = graph.told(graph.edge(graph.routes()[edge]))
    page.get_by_role("heading", name=told).wait_for(timeout=PATIENCE)
    page.get_by_text("What the model does without it, exactly").wait_for()
    settle(page)

    page.goto(f"{server}/logit_lens?{ASKED}")
    said = logit_lens.read(model, PROMPT, tokens=[" Mary", " John"])
    page.get_by_text(said.summary()[:60]).first.wait_for(timeout=PATIENCE)
    settle(page)
    # The second cell of the lowest row: what the embedding alone says after "When".
    click_dot(page, dots(page, "position and token that is read at").nth(1))
    page.wait_for_url(re.compile(r"[?&]cell=0\.1(&|$)"))
    settle(page)


def test_weights_lead_to_units(page: sync_api.Page, server: str, settle: Settle) -> None:
    page.goto(f"{server}/weights?model=grammar-4l&section=Heads")
    page.locator(".js-plotly-plot").first.wait_for(timeout=PATIENCE)
    settle(page)
    click_dot(page, dots(page, "copying score").first)
    page.get_by_role("main").get_by_role("link", name="head 0.0: all of it").wait_for(
        timeout=PATIENCE
    )
    settle(page)
