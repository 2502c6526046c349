"""Processes that put results into a store until they are killed; used by test_runs_killed.py.

A program of its own, as importing torch would take longer than all that it does: it imports once,
and forks each writer, so that what happens in all of them takes milliseconds.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from workbench.core import results, runs

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WRITERS, MOST_SECONDS = 10, 0.12
# Runs that a writer replaces again and again.
IDS = 3
SIZE = 120


@dataclasses.dataclass(frozen=True)
class Walk(results.Result):
    """Powers of a random matrix: large enough that writing them takes a moment."""

    version: int
    values: np.ndarray

    def to_frame(self) -> pd.DataFrame:
        raise NotImplementedError("a walk is only saved and read")

    def figure(self) -> go.Figure:
        raise NotImplementedError("a walk is only saved and read")

    def summary(self) -> str:
        return f"version {self.version}"


def walk(number: int, version: int) -> Walk:
    """The analysis: the same numbers for the same arguments, to the bit."""
    values = np.random.default_rng([number, version]).normal(size=(SIZE, SIZE))
    for _ in range(5):
        values = np.sort(values @ values.T, axis=0)
        values /= np.abs(values).max()
    made = results.Provenance(
        model="m",
        fingerprint="f" * 64,
        analysis="tests.walk",
        parameters={"number": number},
        seed=0,
        versions={},
        device="cpu",
        dtype="float64",
        weight_processing="none",
        wall_time=0.1,
        created=f"2026-01-01T00:{version // 60 % 60:02}:{version % 60:02}+00:00",
    )
    return Walk(made, version, values)


def save_ready_results(store: runs.RunStore, say: Callable[[str], None]) -> None:
    """Nothing but saving, each run replaced by its next version."""
    ready = [[walk(number, version) for number in range(IDS)] for version in range(8)]
    version = 0
    while True:
        for found in ready[version % len(ready)]:
            run = store.put(found, title=f"version {found.version}", request=f"{found.version}")
            say(f"{run} {found.provenance.parameters['number']} {found.version}")
        version += 1


def run_and_save(store: runs.RunStore, say: Callable[[str], None]) -> None:
    """An analysis, saved under an id of its own, again and again."""
    number = os.getpid() * 10_000
    while True:
        found = walk(number, 0)
        say(f"{store.put(found, title='a walk', tags=['walked'])} {number} 0")
        number += 1


def put_fifty(store: runs.RunStore, say: Callable[[str], None]) -> None:
    """Fifty runs of its own, and between them one that the other writer puts, too."""
    for number in range(50):
        own = os.getpid() * 10_000 + number
        say(f"{store.put(walk(own, 0), title='own')} {own} 0")
        store.put(walk(-1 % 7, number % 8), title="both", tags=[f"writer {os.getpid() % 2}"])
    os._exit(0)


def start(work: Callable[[runs.RunStore, Callable[[str], None]], None], root: str) -> list[int]:
    """Fork a writer; its id, and where it says what is finished."""
    heard, said = os.pipe()
    child = os.fork()
    if child:
        os.close(said)
        return [child, heard]

    def say(line: str) -> None:
        os.write(said, f"{line}\n".encode())

    try:
        work(runs.RunStore(root), say)
    finally:
        os._exit(1)


def main(how: str, root: str, seed: str) -> None:
    """Print what writers said was finished: those that are killed, or two that are not."""
    moments = random.Random(seed)
    out = sys.stdout
    if how == "both":
        for child, heard in [start(put_fifty, root), start(put_fifty, root)]:
            with os.fdopen(heard) as lines:
                out.write(lines.read())
            _, status = os.waitpid(child, 0)
            assert status == 0, f"writer ended with {status}"
        return
    work = {"save": save_ready_results, "run": run_and_save}[how]
    for _ in range(WRITERS):
        child, heard = start(work, root)
        with os.fdopen(heard) as lines:
            first = lines.readline()
            time.sleep(moments.uniform(0, MOST_SECONDS))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            out.write(first + lines.read())
        out.write("killed\n")


if __name__ == "__main__":
    # Under the name by which the test imports it, as results are found by the name of their class.
    from tests.core import killed_writers

    killed_writers.main(*sys.argv[1:])
