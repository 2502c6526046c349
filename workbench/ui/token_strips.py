"""Texts with one number a token as a coloured strip, several below each other on one scale.

1. Blue is above zero, red below; the strongest colour is the largest absolute value of all strips,
   so that one strip can be compared with another.
2. Hovering over a token shows its value; the token that a strip is about has a frame.
3. Tokens are set as text in the browser, never read as HTML, and nothing is fetched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import streamlit as st

from workbench.core import plots

_CSS = """
#strips{font:13px/1.9 var(--st-code-font,monospace);color:var(--st-text-color)}
.row{display:flex;gap:12px;align-items:baseline;padding:1px 0}
.label{flex:0 0 auto;min-width:4.5em;text-align:right;font-variant-numeric:tabular-nums;opacity:.8}
.tokens{flex:1 1 auto;min-width:0;overflow-wrap:anywhere}
.t{white-space:pre-wrap;padding:2px 1px;border-radius:3px}
.t+.t{margin-left:2px}
.spot{outline:2px solid var(--st-text-color);outline-offset:-1px}
"""
# The colours of plots.COLOURS, at a strength that leaves text readable on a light and a dark page.
_JS = """
export default function({data, parentElement}) {
  const root = parentElement.querySelector('#strips');
  root.replaceChildren();
  root.setAttribute('role', 'list');
  for (const strip of data.strips) {
    const row = document.createElement('div');
    row.className = 'row';
    row.setAttribute('role', 'listitem');
    const label = document.createElement('span');
    label.className = 'label';
    label.textContent = strip.label;
    const tokens = document.createElement('span');
    tokens.className = 'tokens';
    strip.tokens.forEach((token, i) => {
      const one = document.createElement('span');
      one.className = i === strip.spot ? 't spot' : 't';
      one.textContent = token;
      const share = data.most ? strip.values[i] / data.most : 0;
      const colour = share >= 0 ? '33,102,172' : '178,24,43';
      one.style.background = `rgba(${colour},${(0.6 * Math.abs(share)).toFixed(3)})`;
      one.title = strip.values[i].toPrecision(3);
      tokens.append(one);
    });
    row.append(label, tokens);
    root.append(row);
  }
}
"""
# Streamlit's own stubs leave out what it makes available as an attribute.
_components: Any = st.components
_draw = _components.v2.component("token_strips", html='<div id="strips"></div>', css=_CSS, js=_JS)


@dataclasses.dataclass(frozen=True)
class Strip:
    """One text.

    Attributes:
        label: What stands in front of it.
        tokens: Its tokens, each as text.
        values: One number each.
        spot: Which token it is about, if any.
    """

    label: str
    tokens: Sequence[str]
    values: Sequence[float]
    spot: int | None = None


def show(strips: Sequence[Strip], *, key: str) -> None:
    """Draw strips below each other, on one scale of colours.

    Args:
        strips: The texts.
        key: Name of the widget on its page.
    """
    most = max((abs(value) for strip in strips for value in strip.values), default=0.0)
    _draw(
        data={
            "most": most,
            "strips": [
                {
                    "label": strip.label,
                    "tokens": [plots.visible(token) for token in strip.tokens],
                    "values": [float(value) for value in strip.values],
                    "spot": strip.spot,
                }
                for strip in strips
            ],
        },
        key=key,
    )
