"""Workers of the app that die, and the app that goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import system
from workbench.core import runs
from workbench.core.modular import recipe, run, tasks, training
from workbench.ui import jobs, training_process

TASK = tasks.Task(p=11, fraction=0.6)
ENDLESS = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=24, steps=10_000_000)


@pytest.fixture
def manager() -> Iterator[jobs.Manager]:
    made = jobs.Manager(workers=1)
    yield made
    made.close()


def works(manager: jobs.Manager) -> bool:
    job = manager.submit("afterwards", lambda _: 42, label="afterwards")
    return job.wait(20) and job.result == 42


def leave(_: jobs.Report) -> None:
    sys.exit(3)


def take_all_memory(_: jobs.Report) -> None:
    # More than any address space: the system itself refuses.
    bytearray(1 << 62)


def interrupt(_: jobs.Report) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (leave, "Its worker ended before it was done (SystemExit)"),
        (take_all_memory, "The memory did not suffice"),
        (interrupt, "Its worker ended before it was done (KeyboardInterrupt)"),
    ],
)
def test_a_worker_that_ends_leaves_a_failed_job_and_its_place_to_the_next(
    manager: jobs.Manager, work: Callable[[jobs.Report], None], sentence: str
) -> None:
    waiting = [manager.submit("x", work, label="x"), manager.submit("y", lambda _: 1, label="y")]
    assert all(job.wait(20) for job in waiting)
    assert waiting[0].state == "failed"
    assert (waiting[0].error or "").startswith(sentence)
    assert waiting[1].result == 1
    assert works(manager)


def test_a_job_on_a_full_disk_says_so(manager: jobs.Manager, tmp_path: Path) -> None:
    def work(_: jobs.Report) -> None:
        (tmp_path / "file").write_bytes(b"0" * 100_000)

    with system.no_file_beyond(1000):
        job = manager.submit("x", work, label="x")
        assert job.wait(20)
    assert job.error is not None
    assert "could not be read or written: the file would be larger than is allowed" in job.error
    assert works(manager)


def test_threads_that_the_system_does_not_give_fail_one_job_only(
    manager: jobs.Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        job = manager.submit("x", lambda _: 1, label="x")
    assert job.state == "failed"
    assert "could not be begun (can't start new thread)" in (job.error or "")
    assert works(manager)


def stop(*_: object) -> None:
    raise jobs.Cancelled


def begun() -> Iterator[int]:
    """Process ids of the trainings that this process has started, as they appear."""
    me = str(os.getpid())
    while True:
        listed = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", me], text=True, capture_output=True, check=False
        )
        lines = [line for line in listed.stdout.splitlines() if "training_process" in line]
        yield from (int(line.split()[0]) for line in lines)
        time.sleep(0.02)


def test_a_training_whose_process_is_killed_says_so_and_goes_on_from_what_it_kept(
    manager: jobs.Manager, tmp_path: Path
) -> None:
    said: list[str] = []

    def work(report: jobs.Report) -> None:
        def heard(fraction: float, note: str) -> None:
            report(fraction, note)
            said.append(note)

        training_process.train(TASK, ENDLESS, folder=tmp_path, stop="never", report=heard)

    def until_said(job: jobs.Job) -> None:
        said.clear()
        deadline = time.monotonic() + 60
        while not said:
            assert time.monotonic() < deadline and not job.done, job.error
            time.sleep(0.01)

    # Stopped in good order first, so that there is a state to go on from.
    with pytest.raises(jobs.Cancelled):
        training.train(TASK, ENDLESS, folder=tmp_path, stop="never", progress=stop)
    kept = run.read_state(tmp_path)
    assert kept is not None and kept.step > 0
    job = manager.submit("train", work, label="Training")
    until_said(job)
    os.kill(next(begun()), signal.SIGKILL)
    assert job.wait(60) and job.state == "failed"
    assert "the training's process was killed by signal 9, perhaps because memory" in str(job.error)
    assert "starting it again goes on from there" in str(job.error)
    state = run.read_state(tmp_path)
    assert state is not None and state.step >= kept.step
    assert not run.is_training(tmp_path)
    assert works(manager)


def test_a_training_that_can_no_longer_be_kept_says_so_and_keeps_what_there_was(
    tmp_path: Path,
) -> None:
    short = dataclasses.replace(ENDLESS, steps=200)
    training.train(TASK, short, folder=tmp_path / "one", stop="never")
    other = dataclasses.replace(TASK, seed=1)
    with (
        system.no_file_beyond(2000),
        pytest.raises(run.RunError, match="larger than is allowed.*what was kept before is whole"),
    ):
        training.train(other, short, folder=tmp_path / "other", stop="never")
    assert run.read_state(tmp_path / "other") is None
    assert run.open_run(tmp_path / "one").step == 200
    # The same training again, once there is room.
    assert training.train(other, short, folder=tmp_path / "other", stop="never").step == 200


def test_results_of_jobs_are_shown_where_nothing_can_be_kept(
    manager: jobs.Manager, tmp_path: Path
) -> None:
    from tests.core import killed_writers

    store = runs.RunStore(system.no_folder(tmp_path))
    walk = killed_writers.walk(0, 0)
    job = manager.submit("x", lambda _: store.put(walk, title="x"), label="x")
    assert job.wait(20) and job.state == "finished"
    assert store.find(killed_writers.Walk, job.result) is not None
    assert store.not_kept
