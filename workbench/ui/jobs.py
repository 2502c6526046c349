"""Long computations of a page, in the background, with progress and a way to stop them.

1. A page submits work under a key made from what determines its outcome (`job_key`). The same key
   finds the same job again: after a rerun, a reload, or from another browser tab, which then share
   one computation.
2. The work runs in a thread and calls `report(fraction, note)`; once the job is cancelled that call
   raises `Cancelled`, which ends the work where it stands.
3. `job_panel` shows it twice a second in a fragment of the page, and reruns the page when it ends.

Work never calls Streamlit: it runs outside of any page. Jobs live as long as the server; what
should outlive it goes into the run store. Limits: cancelling waits for the next report, and the
results of the most recent jobs only are kept.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import streamlit as st

from workbench.ui import escaping

State = Literal["queued", "running", "finished", "failed", "cancelled"]
Report = Callable[[float, str], None]

_WORKERS = 2
_KEPT = 16
_INTERVAL = 0.5
_EARLIEST_ESTIMATE = 0.02
_SHORT = 10
_MINUTE = 60

_log = logging.getLogger(__name__)


class Cancelled(Exception):
    """Raised within the work by its next report after the job was cancelled."""


@dataclasses.dataclass(eq=False)
class Job:
    """One piece of work: what it is, how far it is, and how it ended.

    Attributes:
        key: What determines its outcome.
        label: What it is, in a few words.
        state: Queued, running, or how it ended.
        fraction: How much is done, 0 to 1.
        note: What it is at, in a few words.
        result: What the work returned, once finished.
        error: Why it failed, in one sentence.
    """

    key: str
    label: str
    state: State = "queued"
    fraction: float = 0.0
    note: str = ""
    result: Any = None
    error: str | None = None
    _started: float | None = None
    _ended: float | None = None
    _end: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)
    _stop: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in {"finished", "failed", "cancelled"}

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop and has not yet."""
        return self._stop.is_set() and not self.done

    @property
    def elapsed(self) -> float:
        """Seconds that it has run."""
        if self._started is None:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._started

    @property
    def remaining(self) -> float | None:
        """Seconds left at the pace so far; None while that cannot be told."""
        if self.state != "running" or self.fraction < _EARLIEST_ESTIMATE:
            return None
        return self.elapsed * (1 - self.fraction) / self.fraction

    def wait(self, seconds: float) -> bool:
        """Wait for the end, so that quick work needs no progress bar.

        Args:
            seconds: How long at the most.

        Returns:
            Whether it has ended.
        """
        return self._end.wait(seconds)

    def report(self, fraction: float, note: str = "") -> None:
        """Tell how far the work is; the work calls this.

        Args:
            fraction: How much is done; what lies outside of 0 to 1 is moved to the nearer end.
            note: What it is at, in a few words.

        Raises:
            Cancelled: If the job was cancelled.
        """
        if self._stop.is_set():
            raise Cancelled
        self.fraction = min(1.0, max(0.0, float(fraction)))
        self.note = note

    def cancel(self) -> None:
        """Stop it: at once while it waits, at its next report while it runs."""
        self._stop.set()
        with self._lock:
            if self.state == "queued":
                self.state = "cancelled"
                self._end.set()

    def run(self, work: Callable[[Report], Any]) -> None:
        """Do the work in this thread and keep how it ends; it never raises.

        Args:
            work: Gets `report`, returns the result.
        """
        with self._lock:
            if self.state != "queued":
                return
            self.state, self._started = "running", time.monotonic()
        try:
            self.result = work(self.report)
            self.fraction, end = 1.0, "finished"
        except Cancelled:
            end = "cancelled"
        except ValueError as error:
            # What a person can mend is raised as a ValueError with a sentence that says how.
            self.error, end = str(error), "failed"
        except Exception as error:
            _log.exception("job %s failed", self.label)
            name = type(error).__name__
            self.error = f"It stopped on an unexpected {name}; the server's log has the details."
            end = "failed"
        self._ended = time.monotonic()
        # The state goes last: whoever sees the end may read the rest.
        self.state = end
        self._end.set()


class Manager:
    """Runs jobs, a few at a time, and finds them by key."""

    def __init__(self, workers: int = _WORKERS, kept: int = _KEPT) -> None:
        """Start without jobs.

        Args:
            workers: How many run at the same time.
            kept: How many ended ones are remembered, results included.
        """
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(workers)
        self._kept = kept

    def submit(self, key: str, work: Callable[[Report], Any], *, label: str) -> Job:
        """Start work, unless a job of this key waits, runs or has finished.

        Args:
            key: What determines the outcome; see `job_key`.
            work: Gets `report(fraction, note)`, returns the result, never calls Streamlit.
            label: What it is, in a few words.

        Returns:
            The job of this key, new or found; one that failed or was cancelled is replaced.
        """
        with self._lock:
            found = self._jobs.get(key)
            if found and not found.stopping and found.state not in {"failed", "cancelled"}:
                return found
            job = Job(key, label)
            self._jobs.pop(key, None)
            self._jobs[key] = job
            self._drop_old()
        # A daemon thread: Ctrl-C on the server does not wait for a computation to end.
        threading.Thread(target=self._take_turn, args=(job, work), daemon=True).start()
        return job

    def find(self, key: str) -> Job | None:
        """The job of this key, if it is remembered."""
        with self._lock:
            return self._jobs.get(key)

    def forget(self, key: str) -> None:
        """Drop a job from memory, and cancel it if it has not ended."""
        with self._lock:
            job = self._jobs.pop(key, None)
        if job is not None:
            job.cancel()

    def close(self) -> None:
        """Cancel everything; threads end at their next report."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()

    def _take_turn(self, job: Job, work: Callable[[Report], Any]) -> None:
        with self._turns:
            job.run(work)

    def _drop_old(self) -> None:
        """Forget the ended jobs submitted longest ago; each may hold large arrays."""
        ended = [key for key, job in self._jobs.items() if job.done]
        for key in ended[: max(0, len(ended) - self._kept)]:
            del self._jobs[key]


@st.cache_resource(show_spinner=False, on_release=Manager.close)
def manager() -> Manager:
    """The one manager of this server, shared by all of its pages and sessions."""
    made = Manager()
    atexit.register(made.close)
    return made


def job_key(*parts: Any) -> str:
    """Hash what determines an outcome: the same parts give the same key.

    Args:
        *parts: JSON types only, e.g. a model's fingerprint and a dictionary of parameters.

    Returns:
        A hexadecimal key; the order within dictionaries does not matter.

    Raises:
        TypeError: If a part is not of a JSON type.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def job_panel(job: Job) -> None:
    """Show how far a job is, with a button to stop it; the page reruns when it ends.

    A finished job leaves one line; a failed or cancelled one says so. The job may end at any time:
    a caller who looked at it before looks again afterwards.

    Args:
        job: What to show.
    """
    live = not job.done

    @st.fragment(run_every=_INTERVAL if live else None)
    def panel() -> None:
        if not job.done:
            _show_progress(job)
        elif live:
            st.rerun()
        else:
            _show_end(job)

    panel()


def _show_progress(job: Job) -> None:
    bar, button = st.columns([5, 1], vertical_alignment="center")
    bar.progress(job.fraction, text=escaping.markdown(_progress_text(job)))
    button.button(
        "Cancel",
        key=f"cancel:{job.key}",
        on_click=job.cancel,
        disabled=job.stopping,
        width="stretch",
    )


def _show_end(job: Job) -> None:
    label = escaping.markdown(job.label)
    if job.state == "finished":
        st.caption(f"{label}: done in {duration(job.elapsed)}")
    elif job.state == "cancelled":
        st.info(f"{label}: cancelled.")
    else:
        st.error(f"{label}: {escaping.markdown(job.error or 'failed')}")


def _progress_text(job: Job) -> str:
    if job.stopping:
        return f"{job.label}: stopping"
    if job.state == "queued":
        return f"{job.label}: waiting for its turn"
    parts = [job.label, job.note, duration(job.elapsed)]
    if job.remaining is not None:
        parts.append(f"about {duration(job.remaining)} left")
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Say a time in words: "4.2 s" below ten seconds, "38 s", "3 min 05 s" from a minute on."""
    if round(seconds) >= _MINUTE:
        minutes, rest = divmod(round(seconds), _MINUTE)
        return f"{minutes} min {rest:02d} s"
    return f"{seconds:.1f} s" if seconds < _SHORT else f"{seconds:.0f} s"
