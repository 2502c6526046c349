"""Browser sessions at once: no wrong number, no lost run, bounded memory, fair progress.

    python -m tests.load.sessions --browsers 8 --minutes 5

1. One browser alone goes through a list of visits, over two models and several pages, some of which
   start a run. Each text that is shown and each run that is stored are the reference.
2. Against a new server with an empty store, so many Chromium sessions go through the same visits at
   once, each in an order of its own, again and again until the time is over.
3. Compared: the words and numbers of each page with those of the reference; every stored run with
   the reference's, bit for bit; the runs that pages said were saved with those in the store.
4. The server's memory is sampled each second. A session's longest wait, from asking for a page
   until it is complete, is compared between sessions.

Exit code 1 if anything differs, is lost, fails, or takes more memory than is allowed.

Limits: times, sizes and where files lie are not compared. How fair it is depends on what else the
machine does; the ratio is printed, and only one beyond `--unfair` fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright import async_api

from tests import serving
from workbench.core import results, runs

_SETTLED = '[data-testid="stApp"][data-test-script-state="notRunning"]'
# Work, or what a busy browser has not drawn yet.
_BUSY = ", ".join(
    (
        '[data-testid="stProgress"]',
        '[data-testid="stSpinner"]',
        '[data-testid="stSkeleton"]',
        '[data-testid="stPlotlyChart"]:not(:has(.main-svg))',
        '[data-testid="stCode"]:not(:has(code))',
    )
)
_FAILED = '[data-testid="stException"], [data-testid="stAlertContentError"]'
_MAIN = '[data-testid="stMain"]'
_PATIENCE = 240_000
# Milliseconds in which a complete page does not change: longer than a busy browser draws a figure.
_STILL = 1_500
_SAVED = re.compile(r"Saved as run ([0-9a-f]{16})")
# What may differ between two servers: times, folders, and the address of the link.
_OF_THE_MOMENT = re.compile(
    r"Saved as run|done in|https?://|about \d|\d (min|s|ms)\b|20\d\d-\d\d-\d\d|UTC"
)
_NUMBER = re.compile(r"\d")


@dataclasses.dataclass(frozen=True)
class Visit:
    """A page to look at.

    Attributes:
        address: Below the server's.
        ends: Text that stands on the complete page.
        run: Whether a run has to be started, unless its result is already stored.
        compared: Whether what it shows does not depend on what else is in the store.
    """

    address: str
    ends: str
    run: bool = False
    compared: bool = True


def visits(minutes: float) -> list[Visit]:
    """Pages to look at; more of them, which each compute something, for a longer time."""
    many = max(2, round(2 * minutes))
    patched = [
        Visit(
            f"patching?model={model}&n={n}&seed={seed}&site={site}",
            "The code that reproduces it",
            run=True,
        )
        for model, n in (("grammar-4l", 4), ("modadd-113", 40))
        for site in ("resid_pre", "mlp_out")
        for seed in range(many)
    ]
    units = [
        Visit(f"unit?model=grammar-4l&unit=neuron+{i % 4}.{i}", "Examples from its whole range")
        for i in range(2 * many)
    ]
    return [
        *patched,
        *units,
        Visit("grokking", "The code that reproduces it"),
        Visit(
            "clusters?of=an+image+or+sequence+network&network=mnist1d-cnn&concept=digit+1",
            "The code that reproduces it",
        ),
        Visit("runs", "Runs", compared=False),
    ]


@dataclasses.dataclass
class Seen:
    """What sessions met.

    Attributes:
        texts: Lines with numbers, by the address of the visit.
        saved: Ids of runs that pages said were saved.
        waits: Seconds of each visit.
        problems: What was wrong, in a sentence each.
    """

    texts: dict[str, set[tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    saved: set[str] = dataclasses.field(default_factory=set)
    waits: list[float] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def numbers(text: str) -> tuple[str, ...]:
    """Lines of a page that have numbers which do not depend on the moment."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if _NUMBER.search(line) and not _OF_THE_MOMENT.search(line))


async def look(tab: async_api.Page, server: str, visit: Visit, seen: Seen) -> None:
    """Make a visit and note what was seen."""
    started = time.monotonic()
    try:
        await tab.goto(f"{server}/{visit.address}", timeout=_PATIENCE)
        text = await _complete(tab, visit)
    except async_api.Error as error:
        shown = ""
        with contextlib.suppress(async_api.Error):
            shown = " ".join((await tab.locator(_MAIN).inner_text(timeout=1000)).split())[-300:]
        seen.problems.append(f"{visit.address}: {str(error).splitlines()[0]}; shown: {shown}")
        return
    seen.waits.append(time.monotonic() - started)
    seen.saved.update(_SAVED.findall(text))
    if await tab.locator(
        '[data-testid="stException"], [data-testid="stAlertContentError"]'
    ).count():
        seen.problems.append(f"{visit.address}: the page shows an error: {text[:300]!r}")
    elif visit.compared:
        seen.texts.setdefault(visit.address, set()).add(numbers(text))


async def _complete(tab: async_api.Page, visit: Visit) -> str:
    """Wait until a page is complete, starting its run where it asks; gives its text."""
    # An error ends a page as well.
    end = tab.get_by_text(visit.ends).or_(tab.locator(_FAILED)).first
    start = tab.get_by_role("button", name="Run (")
    if visit.run:
        await end.or_(start).first.wait_for(timeout=_PATIENCE)
        # It may have been stored by another session in this moment.
        if await start.count():
            with contextlib.suppress(async_api.TimeoutError):
                await start.click(timeout=5000)
    await end.wait_for(timeout=_PATIENCE)
    # Complete is what no longer changes, with nothing in progress.
    before = ""
    deadline = time.monotonic() + _PATIENCE / 1000
    while time.monotonic() < deadline:
        await tab.wait_for_selector(_SETTLED, state="attached", timeout=_PATIENCE)
        text = await tab.locator(_MAIN).inner_text()
        if text == before and not await tab.locator(_BUSY).count():
            return text
        before = text
        await tab.wait_for_timeout(_STILL)
    waiting = tab.locator(_BUSY).first
    shown = await waiting.evaluate("one => one.outerHTML") if await waiting.count() else "its text"
    raise async_api.TimeoutError(f"is never complete: {shown[:200]}")


async def session(
    browser: async_api.Browser, server: str, chosen: Sequence[Visit], seen: Seen, until: float
) -> None:
    """One session: all visits in their order, again and again until the time is over."""
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    tab = await context.new_page()
    while time.monotonic() < until:
        for visit in chosen:
            if time.monotonic() >= until:
                break
            await look(tab, server, visit, seen)
    await context.close()


async def watch(server: serving.Server, sizes: list[int]) -> None:
    """Sample the server's memory each second."""
    while True:
        sizes.append(server.memory())
        await asyncio.sleep(1)


async def drive(
    server: serving.Server, orders: Sequence[Sequence[Visit]], seconds: float | None
) -> tuple[list[Seen], list[int]]:
    """Let sessions go through visits at once.

    Args:
        server: The app.
        orders: The visits of each session.
        seconds: For how long; None for each visit once.

    Returns:
        What each session met, and the server's memory each second.
    """
    found, sizes = [Seen() for _ in orders], list[int]()
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        watching = asyncio.create_task(watch(server, sizes))
        if seconds is None:
            context = await browser.new_context(viewport={"width": 1280, "height": 900})
            tab = await context.new_page()
            for visit in orders[0]:
                await look(tab, server.address, visit, found[0])
        else:
            until = time.monotonic() + seconds
            each = zip(orders, found, strict=True)
            await asyncio.gather(
                *(session(browser, server.address, order, seen, until) for order, seen in each)
            )
        watching.cancel()
        await browser.close()
    return found, sizes


def differing(alone: Path, together: Path) -> list[str]:
    """Runs of a store that are not, bit for bit, those of the reference."""
    expected = {run.id for run in runs.RunStore(alone).runs()}
    return [
        f"run {run.id} ({run.title}) differs from the one computed alone"
        for run in runs.RunStore(together).runs()
        if run.id in expected and _content(alone / run.id) != _content(together / run.id)
    ]


def _content(folder: Path) -> tuple[object, bytes]:
    """What a run found: all arrays, and every word and number but those of the moment."""
    document = json.loads((folder / results.DOCUMENT).read_bytes())
    return _lasting(document), (folder / results.ARRAYS).read_bytes()


def _lasting(value: object) -> object:
    # A preflight has estimates of the time and memory that a run will take.
    if isinstance(value, dict):
        passing = {"created", "wall_time", "preflight"}
        return {name: _lasting(item) for name, item in value.items() if name not in passing}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def traceback_in(log: str) -> str:
    """The first traceback of a log, as far as it is of interest; empty where there is none."""
    _, begins, rest = log.partition("Traceback (most recent call last)")
    return (begins + rest)[:4000]


def wrong(reference: Seen, found: Sequence[Seen]) -> list[str]:
    """Pages that did not show what the reference showed."""
    told: list[str] = []
    for seen in found:
        for address, texts in seen.texts.items():
            for text in texts - reference.texts.get(address, texts):
                here, alone = set(text), set(next(iter(reference.texts[address])))
                told.append(
                    f"{address} shows other numbers than alone: {sorted(here - alone)[:6]} in "
                    f"place of {sorted(alone - here)[:6]}"
                )
    return told


def main(given: Sequence[str] | None = None, say: Callable[[str], object] = print) -> int:
    """Run the load and print what was found.

    Args:
        given: Arguments of the command.
        say: Told each line.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.load.sessions", description=__doc__)
    parser.add_argument("--browsers", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0, help="of the order of each session's visits")
    parser.add_argument("--most-gigabytes", type=float, default=4.0, help="of the server's memory")
    parser.add_argument("--unfair", type=float, default=5.0, help="largest ratio of longest waits")
    asked = parser.parse_args(given)
    # Equal bits need equal numbers of threads in both servers.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = visits(asked.minutes)
    orders = [
        random.Random(f"{asked.seed} {i}").sample(chosen, len(chosen))
        for i in range(asked.browsers)
    ]
    with tempfile.TemporaryDirectory(prefix="workbench-load-") as scratch:
        place = Path(scratch)
        with serving.served(place / "alone") as server:
            began = time.monotonic()
            (reference,), _ = asyncio.run(drive(server, [chosen], None))
            say(f"alone: {len(reference.waits)} visits in {time.monotonic() - began:.0f} s")
            logs = [server.log()]
        with serving.served(place / "together") as server:
            began = time.monotonic()
            found, sizes = asyncio.run(drive(server, orders, 60 * asked.minutes))
            seconds = time.monotonic() - began
            logs.append(server.log())
        stored = {run.id for run in runs.RunStore(place / "together" / "runs").runs()}
        saved = set[str]().union(*(seen.saved for seen in found))
        problems = [
            *reference.problems,
            *(problem for seen in found for problem in seen.problems),
            *wrong(reference, found),
            *differing(place / "alone" / "runs", place / "together" / "runs"),
            *(f"run {run} was said to be saved and is lost" for run in saved - stored),
            *(f"the server's log has {told}" for log in logs if (told := traceback_in(log))),
        ]
    longest = [max(seen.waits, default=seconds) for seen in found]
    waits = [wait for seen in found for wait in seen.waits]
    ratio = max(longest) / statistics.median(longest)
    start, peak, end = (size / 1e9 for size in (sizes[0], max(sizes), sizes[-1]))
    counts = [len(seen.waits) for seen in found]
    say(
        f"together: {asked.browsers} sessions, {sum(counts)} visits in {seconds:.0f} s "
        f"({min(counts)} to {max(counts)} a session); {len(stored)} runs stored, "
        f"{len(saved)} said to be saved, {len(saved - stored)} lost"
    )
    say(
        f"waits: median {statistics.median(waits or [seconds]):.1f} s, longest {max(longest):.1f} s"
    )
    say(
        f"longest wait of each session: {', '.join(f'{one:.1f}' for one in longest)} s; the "
        f"longest is {ratio:.2f} times the median one"
    )
    say(f"memory of the server: {start:.2f} GB at first, {peak:.2f} GB at most, {end:.2f} GB last")
    if peak > asked.most_gigabytes:
        problems.append(f"{peak:.2f} GB of memory, expected at most {asked.most_gigabytes:g}")
    if ratio > asked.unfair:
        problems.append(f"one session waited {ratio:.2f} times as long as the median one")
    for problem in dict.fromkeys(problems):
        say(f"WRONG: {problem}")
    say("WRONG" if problems else "no wrong number, no lost run, no traceback")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
