"""All heads of some layers as small maps, one of which can be chosen.

1. Each head is a tile: its attention from white to blue, the first query at the bottom as in all
   heat maps, with its number and badges for its labels. Layers are rows, the last one on top.
2. A click, or Enter on a tile, chooses the head; `chosen` then says which. The choice stands in the
   address, and is read from there when the page opens.
3. Text is set as text in the browser, never read as HTML, and nothing is fetched.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from workbench.ui import addresses

_CSS = """
#heads{font:12px/1.3 var(--st-font,sans-serif);color:var(--st-text-color)}
.row{display:flex;gap:8px;align-items:flex-start;margin-bottom:8px}
.layer{flex:0 0 4.2em;padding-top:4px;opacity:.8}
.tiles{display:flex;flex-wrap:wrap;gap:8px}
.tile{border:0;padding:3px;background:none;color:inherit;font:inherit;cursor:pointer;
  border-radius:4px;text-align:center;width:92px}
.tile:hover,.tile:focus-visible{background:rgba(128,128,128,.18)}
.tile.chosen{outline:2px solid var(--st-primary-color)}
canvas{image-rendering:pixelated;width:84px;height:84px;border:1px solid rgba(128,128,128,.4);
  display:block;margin:0 auto 2px;background:#fff}
.badge{display:inline-block;margin:1px;padding:0 5px;border-radius:8px;background:#2166ac;
  color:#fff;font-size:11px}
.none{opacity:.7}
"""
# The blue is that of plots.COLOURS.
_JS = """
export default function({data, parentElement, setStateValue}) {
  const root = parentElement.querySelector('#heads');
  root.replaceChildren();
  const bytes = Uint8Array.from(atob(data.maps), (x) => x.charCodeAt(0));
  const n = data.side;
  let at = 0;
  for (const layer of data.rows) {
    const row = document.createElement('div');
    row.className = 'row';
    const name = document.createElement('div');
    name.className = 'layer';
    name.textContent = layer.label;
    const tiles = document.createElement('div');
    tiles.className = 'tiles';
    for (const head of layer.tiles) {
      const tile = document.createElement('button');
      tile.type = 'button';
      tile.className = head.name === data.chosen ? 'tile chosen' : 'tile';
      tile.title = head.says;
      tile.setAttribute('aria-label', 'head ' + head.name + '. ' + head.says);
      tile.setAttribute('aria-pressed', head.name === data.chosen ? 'true' : 'false');
      const canvas = document.createElement('canvas');
      canvas.width = canvas.height = n;
      const drawing = canvas.getContext('2d'), image = drawing.createImageData(n, n);
      for (let i = 0; i < n * n; i++) {
        const share = bytes[at + i] / 255;
        image.data.set([255 - 222 * share, 255 - 153 * share, 255 - 83 * share, 255], 4 * i);
      }
      at += n * n;
      drawing.putImageData(image, 0, 0);
      const caption = document.createElement('div');
      caption.textContent = head.name;
      tile.append(canvas, caption);
      for (const text of head.badges) {
        const badge = document.createElement('span');
        badge.className = 'badge';
        badge.textContent = text;
        tile.append(badge);
      }
      tile.onclick = () => {
        for (const other of root.querySelectorAll('.chosen')) other.classList.remove('chosen');
        tile.classList.add('chosen');
        setStateValue('head', head.name);
      };
      tiles.append(tile);
    }
    if (!layer.tiles.length) {
      const none = document.createElement('div');
      none.className = 'none';
      none.textContent = 'no head';
      tiles.append(none);
    }
    row.append(name, tiles);
    root.append(row);
  }
}
"""
QUERY = "head"
# More at once are slow to draw: a page shows them some layers at a time.
MOST_TILES = 144
# Streamlit's own stubs leave out what it makes available as an attribute.
_components: Any = st.components
_draw = _components.v2.component("attention_grid", html='<div id="heads"></div>', css=_CSS, js=_JS)
Head = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Tile:
    """One head.

    Attributes:
        head: Its layer and number.
        map: Shares from 0 to 1, a row a query; all tiles have the same size.
        badges: Its labels, each in a word.
        says: What is shown while the pointer is over it.
    """

    head: Head
    map: np.ndarray
    badges: Sequence[str]
    says: str


def chosen(key: str, layers: int, heads: int) -> Head | None:
    """The head that was chosen last, else the address's; to be asked before the grid is drawn.

    Args:
        key: Name of the grid on its page.
        layers: Of the model.
        heads: Of a layer.

    Returns:
        Layer and head, or None where none was chosen or the address names no head of the model.
    """
    asked = st.query_params.get(QUERY, "")
    linked = addresses.cell(asked, (layers, heads))
    state: Any = st.session_state.get(key) or {}
    clicked = str(state.get("head") or "")
    if clicked:
        st.query_params[QUERY] = clicked
    found = addresses.cell(clicked, (layers, heads)) if clicked else linked
    name = "" if found is None else _name(found)
    why = "which is no head of this model"
    addresses.tell(QUERY, asked, name, known=linked is not None, why=why)
    return found


def show(tiles: Sequence[Tile], layers: Sequence[int], *, head: Head | None, key: str) -> None:
    """Draw the grid.

    Args:
        tiles: The heads that are shown.
        layers: The layers that have a row, if only an empty one.
        head: The chosen head, as `chosen` says.
        key: Name of the widget on its page.
    """
    rows: list[dict[str, Any]] = []
    maps: list[bytes] = []
    for layer in sorted(layers, reverse=True):
        row = [tile for tile in tiles if tile.head[0] == layer]
        maps += [_bytes(tile.map) for tile in row]
        shown = [
            {"name": _name(tile.head), "badges": list(tile.badges), "says": tile.says}
            for tile in row
        ]
        rows.append({"label": f"layer {layer}", "tiles": shown})
    _draw(
        data={
            "side": len(tiles[0].map) if tiles else 0,
            "maps": base64.b64encode(b"".join(maps)).decode(),
            "rows": rows,
            "chosen": None if head is None else _name(head),
        },
        key=key,
        on_head_change=lambda: None,
    )


def _bytes(values: np.ndarray) -> bytes:
    upward = np.clip(values, 0, 1)[::-1]
    return np.rint(255 * upward).astype(np.uint8).tobytes()


def _name(head: Head) -> str:
    return f"{head[0]}.{head[1]}"
