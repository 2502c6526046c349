"""Features in a real browser: from a token to a unit and its note; an input grows from noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright import sync_api

import workbench
from analyses import feature_visualization as features
from workbench import Corpus

Settle = Callable[..., None]


def test_from_a_token_to_a_unit_and_a_note_about_it(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    model = workbench.load_model("grammar-4l")
    seen, _ = Corpus.bundled(model).split(0.7)
    page.goto(f"{server}/features?model=grammar-4l&find=at+a+token&token=.")
    link = page.locator("[data-testid=stPageLink] a").first
    link.wait_for(timeout=120_000)
    settle(page)
    unit = link.inner_text()
    # Every token of a strip is text of its own, and the one that it is about has a frame.
    strip = page.locator("#strips .row").first
    assert strip.locator(".spot").inner_text() == "."
    assert len(strip.locator(".t").all()) > 3
    link.click()
    page.get_by_role("heading", name="What does this unit respond to").wait_for(timeout=60_000)
    scan = features.top_examples(model, seen, [unit])
    page.get_by_text(f"{unit} of grammar-4l: above zero at {scan.density[0]:.1%}").wait_for(
        timeout=120_000
    )
    settle(page)
    page.get_by_role("radio", name="Notes").click()
    note = page.get_by_role("textbox", name=f"What is {unit}?")
    note.fill("the end of a sentence <b>bold</b>")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("heading", name="All notes about grammar-4l").wait_for(timeout=60_000)
    with page.expect_download() as kept:
        page.get_by_role("button", name="Export (JSONL)").click()
    assert "the end of a sentence <b>bold</b>" in Path(kept.value.path()).read_text("utf-8")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.get_by_role("heading", name="All notes about grammar-4l").wait_for(timeout=60_000)
    note = page.get_by_role("textbox", name=f"What is {unit}?")
    # The field is drawn before its content comes.
    sync_api.expect(note).to_have_value("the end of a sentence <b>bold</b>", timeout=30_000)


def test_the_picture_of_an_input_grows_until_it_is_there(
    page: sync_api.Page, server: str, settle: Settle
) -> None:
    query = "network=shapes-branch&hook=mixed1.branch3.hook_out&channel=4"
    page.goto(f"{server}/inputs?{query}")
    page.get_by_role("button", name="Cancel").wait_for(timeout=120_000)
    page.locator(".js-plotly-plot .imagelayer image").first.wait_for(timeout=60_000)
    assert page.get_by_role("button", name="Cancel").count() == 1
    page.get_by_role("heading", name="How far outside of the data").wait_for(timeout=180_000)
    settle(page)
    assert page.get_by_text("With shuffled weights the same optimization reaches").count() == 1
