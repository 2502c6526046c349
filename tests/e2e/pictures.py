"""Pictures of the pages for the documentation: the app in a browser, as a person sees it.

1. Start the app on a run store of its own, which is empty.
2. Visit each page at an address that fills everything in, run what has to be run, and wait.
3. Write docs/NAME.png, 1280 pixels wide, in light colours, with a palette of its own.

Run it as `python -m tests.e2e.pictures [NAME …]`; it takes some minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright import sync_api

from tests import serving

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 1280, 900
MOST_BYTES = 200_000
PATIENCE = 300_000
# Colours of a palette, fewer of them until the picture is small enough.
PALETTES = (256, 128, 64, 32)
PROMPT = "When Mary and John went to the store, John gave a drink to"
_SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]'


def _nothing(tab: sync_api.Page) -> None:
    """Leave a page as it opens."""


def _press(label: str) -> Callable[[sync_api.Page], None]:
    """Press a button, and wait for what it makes."""

    def press(tab: sync_api.Page) -> None:
        button = tab.get_by_role("main").get_by_role("button", name=label).first
        button.wait_for(timeout=PATIENCE)
        button.click()
        # A run may be over before its panel is drawn.
        with contextlib.suppress(sync_api.TimeoutError):
            tab.get_by_role("button", name="Cancel").first.wait_for(timeout=5_000)

    return press


@dataclasses.dataclass(frozen=True)
class Picture:
    """A page to be drawn.

    Attributes:
        name: Of the file in docs/, without its ending.
        page: Of the app.
        query: Everything that the address fills in.
        act: What is done on the page before it is drawn.
        top: How far down the picture begins, in pixels.
        height: Of the picture.
    """

    name: str
    page: str
    query: dict[str, str] = dataclasses.field(default_factory=dict)
    act: Callable[[sync_api.Page], None] = _nothing
    top: int = 0
    height: int = HEIGHT


PICTURES = (
    Picture("start", ""),
    Picture(
        "patching",
        "patching",
        {"model": "grammar-4l", "task": "indirect-object", "cell": "1.9"},
        _press("Run ("),
        height=1500,
    ),
    Picture(
        "circuits",
        "circuits",
        {"model": "grammar-4l", "task": "indirect-object", "n": "16"},
        _press("Run ("),
        height=1300,
    ),
    Picture("unit", "unit", {"model": "grammar-4l", "unit": "neuron 0.31"}, height=1300),
    Picture(
        "clusters",
        "clusters",
        {"of": "an image or sequence network", "network": "shapes-branch"}
        | {"concept": "3D curvature"},
        _press("Is it in one place?"),
        height=1300,
    ),
    Picture("grokking-page", "grokking", height=1300),
    Picture(
        "inspector",
        "inspector",
        {"model": "grammar-4l", "prompt": PROMPT, "answer": " Mary", "wrong": " John"},
        height=1300,
    ),
    Picture("reports", "reports", {"model": "grammar-4l"}),
)


def settle(tab: sync_api.Page) -> None:
    """Wait until nothing is computed and nothing is drawn any more."""
    tab.wait_for_timeout(1_500)
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        tab.wait_for_selector(_SETTLED, state="attached", timeout=PATIENCE)
        if not tab.get_by_role("button", name="Cancel").count():
            break
        tab.wait_for_timeout(500)
    tab.wait_for_timeout(1_500)


def draw(tab: sync_api.Page, address: str, picture: Picture) -> bytes:
    """A page, as it is after what is done on it.

    Args:
        tab: Of the browser.
        address: Of the app.
        picture: What is to be drawn.

    Returns:
        A PNG.
    """
    tab.set_viewport_size({"width": WIDTH, "height": picture.top + picture.height})
    tab.goto(f"{address}/{picture.page}?{urlencode(picture.query)}")
    settle(tab)
    picture.act(tab)
    settle(tab)
    # The pointer is over nothing.
    tab.mouse.move(0, 0)
    clip: sync_api.FloatRect = {
        "x": 0,
        "y": picture.top,
        "width": WIDTH,
        "height": picture.height,
    }
    return tab.screenshot(clip=clip, animations="disabled")


def small(png: bytes) -> bytes:
    """The same picture with as many colours as fit.

    Args:
        png: As the browser drew it.

    Returns:
        A PNG with a palette.

    Raises:
        ValueError: If it is too large with the smallest palette.
    """
    image = Image.open(io.BytesIO(png)).convert("RGB")
    made = b""
    for colours in PALETTES:
        out = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        made = out.getvalue()
        if len(made) <= MOST_BYTES:
            return made
    raise ValueError(f"{len(made):,} bytes with {PALETTES[-1]} colours; expected {MOST_BYTES:,}")


def main(names: Sequence[str]) -> None:
    """Draw the pictures of these names, or all of them.

    Args:
        names: Of pictures.

    Raises:
        SystemExit: If a name is unknown, or there is no browser.
    """
    known = [picture.name for picture in PICTURES]
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"no pictures are called {', '.join(unknown)}; there are {known}")
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if browser is None:
        raise SystemExit("no browser: apt-get install chromium, or name one in CHROMIUM")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving.served(Path(folder)) as server,
        sync_api.sync_playwright() as playwright,
    ):
        launched = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for picture in PICTURES:
            if names and picture.name not in names:
                continue
            # Each in a tab without a history: what was picked on one page is picked on the next.
            tab = launched.new_page(color_scheme="light")
            made = small(draw(tab, server.address, picture))
            (ROOT / "docs" / f"{picture.name}.png").write_bytes(made)
            sys.stdout.write(f"docs/{picture.name}.png {len(made):,} bytes\n")
            tab.close()
        launched.close()


if __name__ == "__main__":
    main(sys.argv[1:])
