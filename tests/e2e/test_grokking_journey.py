"""Grokking in a real browser: the bundled run, then one of one's own, and a checkpoint of it.

One's own is started, left, and found again; the slider moves, a checkpoint opens elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright import sync_api

from analyses import grokking

Settle = Callable[..., None]
SMALL: dict[str, Any] = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 24, "steps": 1500}
LABELS = {
    "p, a prime": 13,
    "Share trained on": 0.7,
    "Width (d_model)": 16,
    "Heads": 2,
    "Width of a head": 8,
    "Neurons": 24,
    "Steps at the most": 1500,
}


# Points of the test loss, as plotly has unpacked them.
POINTS = "document.querySelector('.js-plotly-plot')?._fullData?.[1].x.length"


def test_from_a_new_training_to_a_checkpoint_on_another_page(
    page: sync_api.Page, server: str, settle: Settle, tmp_path: Path
) -> None:
    # The bundled run is there without a question, and is measured in the background.
    page.goto(f"{server}/grokking")
    bundled = grokking.bundled_run()
    page.get_by_text(bundled.summary()[:60]).wait_for(timeout=120_000)
    page.get_by_text("Memorisation ends at step").first.wait_for(timeout=60_000)
    page.get_by_text(f"{len(bundled.steps)} checkpoints").first.wait_for()

    # A page that is still drawing would close the list again.
    settle(page)
    page.get_by_label("Run", exact=False).first.click()
    page.get_by_role("option", name="New training").click()
    page.get_by_text("Everything else that the recipe says").click(timeout=120_000)
    for label, value in LABELS.items():
        page.get_by_label(label, exact=True).fill(str(value))
    page.get_by_role("button", name="Start").click()

    # Its curves grow while it goes on.
    page.get_by_role("button", name="Cancel").wait_for(timeout=60_000)
    page.wait_for_selector(".js-plotly-plot .scatterlayer path.js-line", timeout=60_000)
    before = page.evaluate(POINTS)
    # On a machine that draws late it may be at its end by then.
    ended = "document.body.innerText.includes('The code that reproduces it')"
    page.wait_for_function(f"{POINTS} > {before} || {ended}", timeout=60_000)
    address = page.url

    # It goes on while nobody looks, and ends where the library's own training does.
    page.goto("about:blank")
    page.goto(address)
    page.get_by_text("The code that reproduces it").wait_for(timeout=120_000)
    task = grokking.Task(p=13, fraction=0.7)
    expected = grokking.train(task, grokking.recipe(**SMALL), folder=tmp_path / "run")
    page.get_by_text(expected.summary()[:60]).wait_for(timeout=120_000)
    phases = grokking.phases(grokking.track(expected))
    page.get_by_text(phases.summary()[:60]).wait_for(timeout=60_000)
    settle(page)

    # The slider moves by a checkpoint a key; the pictures and the address follow.
    slider = page.get_by_role("slider", name="Checkpoint (step)")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    step = expected.steps[-2]
    page.get_by_role("button", name=f"Open the checkpoint of step {step:,}").wait_for()
    page.wait_for_url(re.compile(rf"[?&]step={step}(&|$)"))
    settle(page)

    page.get_by_role("button", name=f"Open the checkpoint of step {step:,}").click()
    page.get_by_role("main").get_by_role("link", name="Model").click(timeout=60_000)
    page.get_by_role("heading", name="What is this model").wait_for(timeout=60_000)
    assert re.search(rf"model=.*step-{step}", page.url)
    # What the app wrote itself opens without a question.
    page.get_by_text("fingerprint (sha256").wait_for(timeout=120_000)
