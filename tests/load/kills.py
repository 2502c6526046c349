"""Kill writers, workers and the server at random moments: what was finished is whole.

    python -m tests.load.kills --rounds 5

1. Processes that put results into a store are killed while they write (`killed_writers`);
   whatever they said was finished must be there, equal to the bit.
2. The app trains networks in processes of their own. A training's process is killed: the page must
   say so, and the training must go on from what it kept.
3. The app patches models, and the whole server is killed. A new one on the same store must open,
   with every run that a page had shown as saved, and compute what is missing with the same bits.

Every moment follows from `--seed`. Exit code 1 if anything is lost, differs or does not open.

Limits: which instruction a kill meets depends on the machine, so that two runs with one seed are
not the same. A power cut is not tried.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from playwright import async_api

from tests import serving
from tests.core import killed_writers
from tests.load import sessions
from workbench.core import runs
from workbench.core.modular import recipe, run, tasks
from workbench.core.runs import folders
from workbench.ui import jobs, training_process

_TASK = tasks.Task(p=11, fraction=0.6)
_ENDLESS = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=24, steps=10_000_000)
_LONGEST = 6.0


def kill_writers(place: Path, seed: int, rounds: int) -> tuple[str, list[str]]:
    """Kill processes while they put results.

    Args:
        place: Gets the stores.
        seed: Of the moments.
        rounds: How often.

    Returns:
        What was done, in a sentence, and what was wrong.
    """
    problems, finished, killed = list[str](), 0, 0
    for turn in range(rounds):
        how, root = ("save", "run")[turn % 2], place / f"writers-{turn}"
        command = [sys.executable, "-m", "tests.core.killed_writers", how, str(root)]
        made = subprocess.run(
            [*command, str(seed + turn)], capture_output=True, text=True, check=True
        )
        said = [line.split() for line in made.stdout.splitlines() if line != "killed"]
        killed += killed_writers.WRITERS
        finished += len(said)
        store = runs.RunStore(root)
        latest = {run: int(number) for run, number, _ in said}
        for one, number in latest.items():
            found = store.find(killed_writers.Walk, one)
            if found is None:
                problems.append(f"run {one} was finished and is lost")
            elif not np.array_equal(
                found.values, killed_writers.walk(number, found.version).values
            ):
                problems.append(f"run {one} is not what was put")
        if store.unreadable():
            problems.append(f"{len(store.unreadable())} runs of {root.name} are damaged")
        listed = {one.id for one in store.runs()}
        problems += [f"run {one} is in no list" for one in latest.keys() - listed]
        store.rebuild(abandoned=0)
        left = [path.name for path in root.iterdir() if folders.DELETED in path.name]
        problems += [f"{name} was left behind" for name in left]
    return f"{killed} writers killed, {finished} results finished before", problems


def kill_trainings(place: Path, seed: int, rounds: int) -> tuple[str, list[str]]:
    """Kill trainings of jobs, each of which is then gone on with.

    Args:
        place: Gets the training.
        seed: Of the moments.
        rounds: How often.

    Returns:
        What was done, in a sentence, and what was wrong.
    """
    moments, problems = random.Random(f"trainings {seed}"), list[str]()
    manager, folder, reached = jobs.Manager(workers=1), place / "training", 0

    def work(report: jobs.Report) -> None:
        training_process.train(_TASK, _ENDLESS, folder=folder, stop="never", report=report)

    for _ in range(rounds):
        job = manager.submit("train", work, label="Training")
        while not job.note and not job.done:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 1))
        for child in _trainings():
            os.kill(child, signal.SIGKILL)
        if not job.wait(60) or "was killed by signal 9" not in str(job.error):
            problems.append(f"a killed training left a job that is {job.state}: {job.error}")
        # Once in good order, so that the next one has something to go on from.
        job = manager.submit("train", work, label="Training")
        while not job.note and not job.done:
            time.sleep(0.01)
        job.cancel()
        job.wait(60)
        state = run.read_state(folder)
        if state is None or state.step < reached:
            problems.append(f"after a kill the training stands at {state and state.step}")
            continue
        reached = state.step
        found = run.open_run(folder)
        for step in found.steps:
            found.weights(step)
    return f"{rounds} trainings killed, gone on with up to step {reached:,}", problems


def _trainings() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task")
    found = [int(x) for task in children.iterdir() for x in (task / "children").read_text().split()]
    return [x for x in found if b"training_process" in Path(f"/proc/{x}/cmdline").read_bytes()]


async def kill_servers(place: Path, seed: int, rounds: int) -> tuple[str, list[str]]:
    """Kill the app while sessions patch models in it, and start it anew on the same store.

    Args:
        place: Gets the store.
        seed: Of the moments and of what is patched.
        rounds: How often.

    Returns:
        What was done, in a sentence, and what was wrong.
    """
    moments, problems, saved = random.Random(f"servers {seed}"), list[str](), set[str]()
    chosen = [visit for visit in sessions.visits(1) if visit.run]
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        for _ in range(rounds):
            server = serving.Server(place / "app")
            seen = sessions.Seen()
            context = await browser.new_context()
            tab = await context.new_page()
            # Loaded first, so that kills meet work and not only the start.
            await sessions.look(tab, server.address, chosen[0], seen)
            working = asyncio.create_task(
                sessions.session(
                    browser,
                    server.address,
                    moments.sample(chosen, len(chosen)),
                    seen,
                    time.monotonic() + 600,
                )
            )
            await asyncio.sleep(moments.uniform(0.2, _LONGEST))
            server.kill()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await context.close()
            saved |= seen.saved
            store = runs.RunStore(server.runs)
            listed = {one.id for one in store.runs()}
            problems += [f"run {one} was shown as saved and is lost" for one in saved - listed]
            problems += [f"run {one} is damaged: {why}" for one, why in store.unreadable().items()]
            problems += [f"run {one} does not open" for one in listed if store.open(one) is None]
            if told := sessions.traceback_in(server.log()):
                problems.append(f"the server's log has {told}")
        await browser.close()
    # All of it again, in two servers that nobody kills: the one that was killed, and a new one.
    for folder in ("app", "alone"):
        with serving.served(place / folder) as server:
            (seen,), _ = await sessions.drive(server, [chosen], None)
            problems += seen.problems
    problems += sessions.differing(place / "alone" / "runs", place / "app" / "runs")
    return f"{rounds} servers killed, {len(saved)} runs saved before", problems


def main(given: Sequence[str] | None = None, say: Callable[[str], object] = print) -> int:
    """Kill, and print what was found.

    Args:
        given: Arguments of the command.
        say: Told each line.

    Returns:
        Exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.load.kills", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(given)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    problems = list[str]()
    with tempfile.TemporaryDirectory(prefix="workbench-kills-") as scratch:
        place = Path(scratch)
        for told, wrong in (
            kill_writers(place, asked.seed, asked.rounds),
            kill_trainings(place, asked.seed, asked.rounds),
            asyncio.run(kill_servers(place, asked.seed, asked.rounds)),
        ):
            say(f"{told}; {len(wrong)} problems")
            problems += wrong
    for problem in dict.fromkeys(problems):
        say(f"WRONG: {problem}")
    say("WRONG" if problems else "every finished result is whole")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
