"""A training in a process of its own, with progress, that stops when it is told to.

A training makes thousands of short calls a second; in the server's own process each would wait for
whatever else Python does there, and drawing a page twice a second would slow it many times over.

1. The server starts `python -m workbench.ui.training_process` and writes what is asked as one line
   of JSON to its input.
2. The process answers with lines of JSON: the fraction done and a note, or an error.
3. When its input is closed, by a cancelled job or a server that is gone, it saves and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TextIO

from workbench.core.modular import recipe as recipes
from workbench.core.modular import run, tasks, training

_ROOT = Path(__file__).resolve().parents[2]
# Saving takes a moment; a process that has not ended by then hangs.
_PATIENCE = 60.0


class Stopped(Exception):
    """Raised within the training once its input is closed."""


def train(
    task: tasks.Task,
    recipe: recipes.Recipe,
    *,
    folder: Path,
    stop: training.Stop,
    report: Callable[[float, str], None],
) -> None:
    """Train in a process of its own and wait for its end.

    Args:
        task: What is learned.
        recipe: How.
        folder: Where the run is kept.
        stop: When it ends.
        report: Told the fraction done and what is going on; what it raises stops the training,
            which saves first.

    Raises:
        TrainingError: If it cannot go on, or the process has ended before it should; the message
            says why.
    """
    asked = {
        "task": dataclasses.asdict(task),
        "recipe": dataclasses.asdict(recipe),
        "folder": str(folder),
        "stop": stop,
    }
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    error: str | None = None
    with _ended(process):
        # Whose reader is gone by then has ended, and says below how.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            said = _heard(line)
            if "error" in said:
                error = said["error"]
            elif said:
                report(said["fraction"], said["note"])
    if error is not None:
        raise training.TrainingError(error)
    if process.returncode:
        raise training.TrainingError(_how_it_ended(process.returncode))


def _heard(line: str) -> dict[str, Any]:
    """What a line says; nothing where it is half a line, of a process that was killed."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _how_it_ended(code: int) -> str:
    kept = "what was trained up to its last save is kept, and starting it again goes on from there"
    if code < 0:
        memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
        return f"the training's process was killed by signal {-code}{memory}: {kept}"
    return f"the training's process ended with code {code}; the server's log says why: {kept}"


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Generator[None]:
    """Close the process's input at the end and wait until it has saved."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        hangs = threading.Timer(_PATIENCE, process.kill)
        hangs.daemon = True
        hangs.start()
        # What it still says is of no interest, but must not fill the pipe.
        with process.stdout as rest:
            rest.read()
        process.wait()
        hangs.cancel()


def main(asking: TextIO, answers: TextIO) -> None:
    """Train what a line asks for, until it has ended or the input is closed.

    Args:
        asking: Where the line is read from.
        answers: Where progress is written to.
    """
    asked = json.loads(asking.readline())
    closed = threading.Event()

    def watch() -> None:
        # Not through the text layer: its lock would be held when the interpreter shuts down.
        while os.read(asking.fileno(), 1):
            pass
        closed.set()

    threading.Thread(target=watch, daemon=True).start()

    def answer(**said: Any) -> None:
        try:
            print(json.dumps(said), file=answers, flush=True)  # noqa: T201 - the protocol
        except OSError:
            # Nobody listens any more, which is the end as well.
            closed.set()

    def report(fraction: float, note: str) -> None:
        if closed.is_set():
            raise Stopped
        answer(fraction=fraction, note=note)

    try:
        training.train(
            tasks.Task(**asked["task"]),
            recipes.Recipe(**asked["recipe"]),
            folder=asked["folder"],
            stop=asked["stop"],
            progress=report,
        )
    except Stopped:
        return
    except (training.TrainingError, run.RunError) as error:
        answer(error=str(error))


if __name__ == "__main__":
    main(sys.stdin, sys.stdout)
