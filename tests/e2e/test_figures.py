"""Figures in a browser: each is drawn once, because drawing them is most of what a click takes.

A version of Streamlit or plotly.js that takes a figure for changed draws it again; so does a margin
that is too narrow for its labels. See `workbench.ui.charts`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright import sync_api

# Each drawing announces itself; the first one before anybody can listen, as it begins.
_COUNT = """
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
_PUSHED = """
[...drawn.keys()].filter(chart => chart.isConnected).flatMap(chart =>
  Object.entries(chart.layout.margin)
    .map(([side, given]) => [side, chart._fullLayout._size[side] - given])
    .filter(([side, more]) => more > 2))
"""


@pytest.mark.parametrize("path", ["logit_lens", "attention", "direct_attribution"])
def test_every_figure_is_drawn_once(
    page: sync_api.Page, server: str, settle: Callable[..., None], path: str
) -> None:
    page.add_init_script(_COUNT)
    page.goto(f"{server}/{path}?model=grammar-4l")
    page.get_by_text("The code that reproduces it").wait_for(timeout=60_000)
    settle(page)
    page.locator(".js-plotly-plot").first.wait_for()
    page.wait_for_timeout(500)
    counts = page.evaluate("[...drawn].filter(([chart]) => chart.isConnected).map(one => one[1])")
    assert counts
    assert set(counts) == {1}
    assert page.evaluate(_PUSHED) == []
