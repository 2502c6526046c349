"""Long computations of a page, in the background, with progress and a way to stop them.

1. A page submits work under a key made from what determines its outcome (`job_key`). The same key
   finds the same job again: after a rerun, a reload, or from another browser tab, which then share
   one computation.
2. Browser sessions take turns: a session's first job that waits comes before another one's second.
   A job is placed by how many its session has submitted since the turn that is being served, so
   that who submits ten waits for all others' first ones, and nobody waits for ever.
3. The work runs in a thread and calls `report(fraction, note)`; once the job is cancelled that call
   raises `Cancelled`, which ends the work where it stands. However a thread ends, its job has ended
   with a sentence that says how, and the next one is begun.
4. `job_panel` shows it twice a second in a fragment of the page, and reruns the page when it ends.

Work never calls Streamlit: it runs outside of any page. Jobs live as long as the server; what
should outlive it goes into the run store. Limits: cancelling waits for the next report; a long job
is not interrupted for another session; the results of the most recent jobs only are kept, by their
number and by what their arrays take.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from workbench.core import files, runs
from workbench.ui import escaping

State = Literal["queued", "running", "finished", "failed", "cancelled"]
Report = Callable[[float, str], None]

_WORKERS = 2
# More than the steps of a visit to every page; their bytes are what bounds them.
_KEPT = 64
_KEPT_BYTES = 500_000_000
# Seconds in which the page that asked for a result certainly has fetched it.
_FETCHED = 10.0
_INTERVAL = 0.5
_EARLIEST_ESTIMATE = 0.02
_TINY = 0.1
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
        session: The browser session that asked for it first.
        turn: Those of a smaller turn come first while it waits.
        ahead: How many wait before it.
        size: Bytes of its result, once finished.
    """

    key: str
    label: str
    state: State = "queued"
    fraction: float = 0.0
    note: str = ""
    result: Any = None
    error: str | None = None
    session: str = ""
    turn: int = 0
    ahead: int = 0
    size: int = 0
    _asked: float = dataclasses.field(default_factory=time.monotonic)
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

    @property
    def since_end(self) -> float:
        """Seconds since it ended; none before."""
        return 0.0 if self._ended is None else time.monotonic() - self._ended

    def wait(self, seconds: float) -> bool:
        """Wait for the end.

        Args:
            seconds: How long at the most.

        Returns:
            Whether it has ended.
        """
        return self._end.wait(seconds)

    def wait_since_asked(self, seconds: float) -> bool:
        """Wait for the end of quick work, which needs no progress bar.

        Args:
            seconds: How long at the most after it was asked for; a page that asks again while long
                work goes on does not wait again, nor does it wait for each of several.

        Returns:
            Whether it has ended.
        """
        return self.wait(max(0.0, self._asked + seconds - time.monotonic()))

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
            with runs.spare_allowed():
                self.result = work(self.report)
            self.fraction, end = 1.0, "finished"
        except Cancelled:
            end = "cancelled"
        except BaseException as error:
            # SystemExit, too, and whatever else would end the thread and leave a job that never
            # ends: an interrupt by a person never comes here, as it is the main thread's.
            self.error, end = _sentence(error, self.label), "failed"
        self._ended = time.monotonic()
        self.size = size_of(self.result)
        # The state goes last: whoever sees the end may read the rest.
        self.state = end
        self._end.set()

    def fail(self, error: str) -> None:
        """End it before it has begun.

        Args:
            error: Why, in one sentence.
        """
        self.error, self.state = error, "failed"
        self._end.set()


class Manager:
    """Runs jobs, a few at a time, and finds them by key."""

    def __init__(
        self, workers: int = _WORKERS, kept: int = _KEPT, kept_bytes: int = _KEPT_BYTES
    ) -> None:
        """Start without jobs.

        Args:
            workers: How many run at the same time.
            kept: How many ended ones are remembered, results included.
            kept_bytes: What their results take at the most; the latest ones are kept in any case.
        """
        self._jobs: dict[str, Job] = {}
        self._waiting: list[tuple[Job, Callable[[Report], Any]]] = []
        self._served: dict[str, int] = {}
        self._turn = 0
        self._lock = threading.RLock()
        self._free = workers
        self._kept, self._kept_bytes = kept, kept_bytes

    def submit(
        self, key: str, work: Callable[[Report], Any], *, label: str, session: str | None = None
    ) -> Job:
        """Start work, unless a job of this key waits, runs or has finished.

        Args:
            key: What determines the outcome; see `job_key`.
            work: Gets `report(fraction, note)`, returns the result, never calls Streamlit.
            label: What it is, in a few words.
            session: Who asks; the browser session of the page that calls, if none is given.

        Returns:
            The job of this key, new or found; one that failed or was cancelled is replaced.
        """
        asking = _session() if session is None else session
        with self._lock:
            found = self._jobs.get(key)
            if found and not found.stopping and found.state not in {"failed", "cancelled"}:
                if found.state == "queued":
                    # Another session's turn may come before that of whoever asked first.
                    found.turn = min(found.turn, self._next_turn(asking))
                    self._sort()
                return found
            job = Job(key, label, session=asking, turn=self._next_turn(asking))
            self._jobs.pop(key, None)
            self._jobs[key] = job
            self._waiting.append((job, work))
            self._drop_old()
            self._begin()
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

    def _next_turn(self, session: str) -> int:
        """The turn of a session's next job: after all of its others, and never in the past."""
        waiting = [job.turn for job, _ in self._waiting if job.session == session and not job.done]
        last = max(waiting, default=self._served.get(session, -1))
        return max(self._turn, last + 1)

    def _sort(self) -> None:
        """Put those that wait in order, without the cancelled; the lock is held."""
        self._waiting = [(job, work) for job, work in self._waiting if not job.done]
        # Of one turn, whoever came first.
        self._waiting.sort(key=lambda pair: pair[0].turn)
        for ahead, (job, _) in enumerate(self._waiting):
            job.ahead = ahead

    def _begin(self) -> None:
        """Begin as many jobs as there are free workers; the lock is held."""
        self._sort()
        while self._free and self._waiting:
            job, work = self._waiting.pop(0)
            self._turn = max(self._turn, job.turn)
            # Whoever was served before this turn has no claim less for it.
            self._served = {who: at for who, at in self._served.items() if at >= self._turn}
            self._served[job.session] = job.turn
            self._free -= 1
            try:
                # A daemon thread: Ctrl-C on the server does not wait for a computation to end.
                threading.Thread(target=self._take_turn, args=(job, work), daemon=True).start()
            except RuntimeError as error:
                # The system gives no more threads.
                self._free += 1
                job.fail(f"It could not be begun ({error}): close other programs and try again.")
        self._sort()

    def _take_turn(self, job: Job, work: Callable[[Report], Any]) -> None:
        try:
            job.run(work)
        finally:
            with self._lock:
                self._free += 1
                self._drop_old()
                self._begin()

    def _drop_old(self) -> None:
        """Forget the ended jobs submitted longest ago; each may hold large arrays."""
        ended = [job for job in self._jobs.values() if job.done]
        for job in ended[: max(0, len(ended) - self._kept)]:
            del self._jobs[job.key]
        held = sum(job.size for job in ended[-self._kept :])
        for job in ended[-self._kept : -1]:
            if held > self._kept_bytes and job.since_end > _FETCHED:
                held -= job.size
                del self._jobs[job.key]


def _session() -> str:
    """The browser session whose page calls; empty outside of any page."""
    context = get_script_run_ctx(suppress_warning=True)
    return "" if context is None else context.session_id


def _sentence(error: BaseException, label: str) -> str:
    """Why work failed, for a reader; what is no sentence goes to the server's log."""
    if isinstance(error, ValueError):
        # What a person can mend is raised as a ValueError with a sentence that says how.
        return str(error)
    _log.error("job %s failed", label, exc_info=error)
    name = type(error).__name__
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return "The memory did not suffice: ask for less at once, or use a smaller model."
    if isinstance(error, OSError):
        named = f" ({error.filename})" if error.filename else ""
        return f"A file{named} could not be read or written: {files.reason(error)}."
    if not isinstance(error, Exception):
        return f"Its worker ended before it was done ({name}); the server's log has the details."
    return f"It stopped on an unexpected {name}; the server's log has the details."


def size_of(value: Any) -> int:
    """Bytes of the arrays, tensors, tables and texts that a result holds, each counted once.

    Args:
        value: Any result of work.

    Returns:
        What is found within dataclasses, mappings and sequences; of other objects nothing.
    """
    seen: set[int] = set()
    found, left = 0, [value]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, (str, bytes, bytearray)):
            found += len(one)
        elif isinstance(getattr(one, "nbytes", None), int):
            found += one.nbytes
        elif hasattr(one, "columns") and hasattr(one, "memory_usage"):
            # A table. The first page needs this module, and does not wait for pandas.
            found += int(sum(one.memory_usage(deep=True)))
        elif dataclasses.is_dataclass(one) and not isinstance(one, type):
            left.extend(getattr(one, field.name) for field in dataclasses.fields(one))
        elif isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            left.extend(one)
    return found


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
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(job.fraction, text=escaping.markdown(_progress_text(job)))
        st.button(
            "Cancel",
            key=f"cancel:{job.key}",
            on_click=job.cancel,
            disabled=job.stopping,
            # As wide as its word, however narrow the column.
            width="content",
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
        return f"{job.label}: waiting for its turn, number {job.ahead + 1} in the queue"
    parts = [job.label, job.note, duration(job.elapsed)]
    if job.remaining is not None:
        parts.append(f"about {duration(job.remaining)} left")
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """Say a time in words: "0.03 s", "4.2 s" below ten seconds, "38 s", "3 min 05 s"."""
    if round(seconds) >= _MINUTE:
        minutes, rest = divmod(round(seconds), _MINUTE)
        return f"{minutes} min {rest:02d} s"
    if 0 < seconds < _TINY:
        return f"{max(seconds, _TINY / 10):.2f} s"
    return f"{seconds:.1f} s" if seconds < _SHORT else f"{seconds:.0f} s"
