from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from workbench.ui import jobs


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@pytest.fixture
def manager() -> Iterator[jobs.Manager]:
    made = jobs.Manager(workers=1, kept=2)
    yield made
    made.close()


class Gate:
    """Work that waits, reporting, until it is let through."""

    def __init__(self, result: object = "done") -> None:
        self.entered, self.open, self.result, self.runs = threading.Event(), False, result, 0

    def __call__(self, report: jobs.Report) -> object:
        self.runs += 1
        self.entered.set()
        while not self.open:
            report(0.25, "waiting")
            time.sleep(0.002)
        return self.result


def test_finished_work_keeps_its_result(manager: jobs.Manager) -> None:
    def work(report: jobs.Report) -> int:
        report(0.5, "half")
        return 42

    job = manager.submit("a", work, label="answer")
    until(lambda: job.done)
    assert (job.state, job.result, job.fraction, job.note) == ("finished", 42, 1.0, "half")
    assert job.error is None
    assert manager.find("a") is job


def test_the_same_key_shares_one_computation(manager: jobs.Manager) -> None:
    gate = Gate()
    first = manager.submit("a", gate, label="x")
    until(gate.entered.is_set)
    assert manager.submit("a", gate, label="x") is first
    gate.open = True
    until(lambda: first.done)
    assert manager.submit("a", gate, label="x") is first
    assert gate.runs == 1


def test_jobs_wait_for_their_turn(manager: jobs.Manager) -> None:
    first, second = Gate(), Gate()
    manager.submit("a", first, label="x")
    until(first.entered.is_set)
    waiting = manager.submit("b", second, label="y")
    assert waiting.state == "queued" and not second.entered.is_set()
    first.open = second.open = True
    until(lambda: waiting.state == "finished")


def test_a_running_job_stops_at_its_next_report(manager: jobs.Manager) -> None:
    gate = Gate()
    job = manager.submit("a", gate, label="x")
    until(gate.entered.is_set)
    job.cancel()
    until(lambda: job.done)
    assert job.state == "cancelled" and job.result is None


def test_a_waiting_job_is_cancelled_at_once_and_never_runs(manager: jobs.Manager) -> None:
    first, second = Gate(), Gate()
    running = manager.submit("a", first, label="x")
    until(first.entered.is_set)
    waiting = manager.submit("b", second, label="y")
    waiting.cancel()
    assert waiting.state == "cancelled"
    first.open = second.open = True
    until(lambda: running.done)
    third = manager.submit("c", lambda report: 3, label="z")
    until(lambda: third.done)
    assert second.runs == 0


def test_waiting_for_a_job_tells_whether_it_has_ended(manager: jobs.Manager) -> None:
    gate = Gate()
    running = manager.submit("a", gate, label="x")
    waiting = manager.submit("b", Gate(), label="y")
    assert not running.wait(0.01)
    waiting.cancel()
    assert waiting.wait(0)
    gate.open = True
    assert running.wait(10) and running.result == "done"


def test_an_ended_job_stays_as_it_ended(manager: jobs.Manager) -> None:
    job = manager.submit("a", lambda report: 1, label="x")
    until(lambda: job.done)
    job.cancel()
    assert job.state == "finished" and not job.stopping


def test_a_cancelled_job_can_be_started_again(manager: jobs.Manager) -> None:
    gate = Gate()
    job = manager.submit("a", gate, label="x")
    until(gate.entered.is_set)
    job.cancel()
    again = manager.submit("a", lambda report: 7, label="x")
    assert again is not job
    until(lambda: again.done)
    assert again.result == 7


def test_an_expected_error_keeps_its_sentence(manager: jobs.Manager) -> None:
    def work(report: jobs.Report) -> None:
        raise ValueError("the file is empty: give at least one pair")

    job = manager.submit("a", work, label="x")
    until(lambda: job.done)
    assert (job.state, job.error) == ("failed", "the file is empty: give at least one pair")


def test_an_unexpected_error_is_named_and_logged(
    manager: jobs.Manager, caplog: pytest.LogCaptureFixture
) -> None:
    def work(report: jobs.Report) -> None:
        raise KeyError("secret detail")

    job = manager.submit("a", work, label="x")
    until(lambda: job.done)
    assert job.state == "failed"
    assert job.error == "It stopped on an unexpected KeyError; the server's log has the details."
    assert "secret detail" in caplog.text


def test_only_the_latest_ended_jobs_are_remembered(manager: jobs.Manager) -> None:
    for key in "abcd":
        job = manager.submit(key, lambda report: 1, label=key)
        until(lambda job=job: job.done)
    # A job that ends drops old ones, too: this one does not end before it was looked.
    gate = Gate()
    last = manager.submit("e", gate, label="e")
    until(gate.entered.is_set)
    assert [manager.find(key) is not None for key in "abcd"] == [False, False, True, True]
    gate.open = True
    until(lambda: last.done)


def test_a_forgotten_job_is_cancelled(manager: jobs.Manager) -> None:
    gate = Gate()
    job = manager.submit("a", gate, label="x")
    until(gate.entered.is_set)
    manager.forget("a")
    until(lambda: job.state == "cancelled")
    assert manager.find("a") is None


def test_the_time_left_follows_from_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0, 103.0, 104.0])
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    job = jobs.Job("a", "x")
    seen: list[float | None] = [job.remaining]

    def work(report: jobs.Report) -> None:
        seen.append(job.remaining)
        report(0.25, "")
        seen.append(job.remaining)
        seen.append(job.elapsed)

    job.run(work)
    # Three seconds for a quarter leave nine for the rest.
    assert seen == [None, None, 9.0, 3.0]
    assert job.elapsed == 4.0


def test_fractions_outside_of_the_range_are_moved_into_it() -> None:
    job = jobs.Job("a", "x")
    job.report(1.5)
    assert job.fraction == 1.0
    job.report(-1.0)
    assert job.fraction == 0.0


def test_long_work_is_waited_for_once_however_often_it_is_asked_for(manager: jobs.Manager) -> None:
    job = manager.submit("long", Gate(), label="long")
    patience: list[float] = []
    job.wait = lambda seconds: not patience.append(seconds)
    job.wait_since_asked(5.0)
    time.sleep(0.02)
    job.wait_since_asked(5.0)
    job.wait_since_asked(0.01)
    first, second, third = patience
    assert 5.0 >= first >= second + 0.02
    assert third == 0.0


def test_a_key_depends_on_every_part_and_not_on_order_within() -> None:
    key = jobs.job_key("f00", {"site": "z", "seed": 0})
    assert key == jobs.job_key("f00", {"seed": 0, "site": "z"})
    assert key != jobs.job_key("f00", {"seed": 1, "site": "z"})
    assert key != jobs.job_key("f01", {"seed": 0, "site": "z"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        jobs.job_key(object())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (0.0312, "0.03 s"),
        (0.001, "0.01 s"),
        (4.23, "4.2 s"),
        (38.4, "38 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert jobs.duration(seconds) == words


def page() -> None:
    import streamlit as st

    from workbench.ui import jobs

    job = jobs.manager().find("page")
    if job is None:
        st.text("nothing")
    else:
        jobs.job_panel(job)
        st.text(f"{job.state} {job.result}")


@pytest.fixture
def shared() -> Iterator[jobs.Manager]:
    st.cache_resource.clear()
    yield jobs.manager()
    st.cache_resource.clear()


def test_a_page_shows_a_job_and_its_end(shared: jobs.Manager) -> None:
    gate = Gate(result=5)
    job = shared.submit("page", gate, label="Patching ![x](http://a)")
    until(lambda: job.note == "waiting")
    at = AppTest.from_function(page).run()
    assert not at.exception
    assert at.text[0].value == "running None"
    [bar] = at.get("progress")
    assert bar.proto.value == 25  # pyright: ignore[reportAttributeAccessIssue]
    assert r"\!\[x\]" in bar.proto.text  # pyright: ignore[reportAttributeAccessIssue]
    gate.open = True
    until(lambda: job.done)
    at.run()
    assert at.text[0].value == "finished 5"
    assert "done in" in at.caption[0].value


def test_cancel_on_a_page_stops_the_job_which_another_session_finds(shared: jobs.Manager) -> None:
    gate = Gate()
    job = shared.submit("page", gate, label="Patching")
    until(gate.entered.is_set)
    first, second = AppTest.from_function(page).run(), AppTest.from_function(page).run()
    first.button[0].click().run()
    until(lambda: job.done)
    second.run()
    assert not second.exception
    assert second.text[0].value == "cancelled None"
    assert "cancelled" in second.info[0].value


def test_a_page_says_why_a_job_failed(shared: jobs.Manager) -> None:
    def work(report: jobs.Report) -> None:
        raise ValueError("12 tokens against 13")

    job = shared.submit("page", work, label="Patching")
    until(lambda: job.done)
    at = AppTest.from_function(page).run()
    assert at.error[0].value == "Patching: 12 tokens against 13"


class TestTurns:
    """With one worker, who is begun when?"""

    @pytest.fixture
    def begun(self) -> list[str]:
        return []

    @pytest.fixture
    def gate(self, manager: jobs.Manager) -> Gate:
        """A job of nobody that holds the worker until all others wait."""
        gate = Gate()
        manager.submit("first", gate, label="first", session="nobody")
        until(gate.entered.is_set)
        return gate

    def ask(
        self, manager: jobs.Manager, begun: list[str], session: str, count: int
    ) -> list[jobs.Job]:
        return [
            manager.submit(
                f"{session}{i}", lambda _, i=i: begun.append(f"{session}{i}"), label="x",
                session=session,
            )
            for i in range(count)
        ]  # fmt: skip

    def test_a_session_with_ten_jobs_lets_others_have_their_turn(
        self, manager: jobs.Manager, gate: Gate, begun: list[str]
    ) -> None:
        many = self.ask(manager, begun, "a", 10)
        few = [*self.ask(manager, begun, "b", 2), *self.ask(manager, begun, "c", 1)]
        # A page says its place, which is the one that it gets.
        assert [job.ahead for job in few] == [1, 4, 2]
        assert "number 2 in the queue" in jobs._progress_text(few[0])
        gate.open = True
        until(lambda: all(job.done for job in (*many, *few)))
        assert begun == ["a0", "b0", "c0", "a1", "b1", *(f"a{i}" for i in range(2, 10))]

    def test_whoever_comes_while_another_works_off_its_jobs_comes_next(
        self, manager: jobs.Manager, gate: Gate, begun: list[str]
    ) -> None:
        self.ask(manager, begun, "a", 3)
        holds = Gate()
        manager.submit("holds", holds, label="x", session="a")
        last = self.ask(manager, begun, "d", 6)
        for job in last[:5]:
            job.cancel()
        gate.open = True
        until(holds.entered.is_set)
        assert begun[:3] == ["a0", "a1", "a2"]
        [late] = self.ask(manager, begun, "late", 1)
        # The cancelled ones of the other no longer count.
        assert late.ahead == 0
        holds.open = True
        until(lambda: last[5].done and late.done)
        assert begun[3:] == ["late0", "d5"]

    def test_nobody_waits_for_ever_behind_one_who_asks_again_and_again(
        self, manager: jobs.Manager, gate: Gate, begun: list[str]
    ) -> None:
        patient = self.ask(manager, begun, "patient", 4)

        def again(_: jobs.Report) -> None:
            begun.append("again")
            if not all(job.done for job in patient):
                manager.submit(f"again{len(begun)}", again, label="x", session="again")

        manager.submit("again", again, label="x", session="again")
        gate.open = True
        until(lambda: all(job.done for job in patient))
        assert begun.count("again") <= 5

    def test_a_waiting_job_that_another_session_wants_too_takes_the_earlier_turn(
        self, manager: jobs.Manager, gate: Gate, begun: list[str]
    ) -> None:
        many = self.ask(manager, begun, "a", 5)
        assert many[4].ahead == 4
        shared = manager.submit("a4", lambda _: 0, label="x", session="b")
        assert shared is many[4] and shared.ahead == 1
        gate.open = True
        until(lambda: all(job.done for job in many))
        assert begun == ["a0", "a4", "a1", "a2", "a3"]


def test_results_are_bounded_by_their_bytes_and_the_latest_one_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "_FETCHED", 0.0)
    manager = jobs.Manager(workers=1, kept_bytes=2_500)
    for key in "abc":
        job = manager.submit(key, lambda _: {"values": np.zeros(125)}, label=key)
        until(lambda job=job: job.done)
        assert job.size == 1_000
    assert manager.submit("large", lambda _: np.zeros(9_000), label="large").wait(10)
    until(lambda: manager.find("b") is None)
    assert [manager.find(key) is not None for key in ("a", "b", "c", "large")] == [
        False,
        False,
        False,
        True,
    ]


def test_sizes_count_what_results_hold_once() -> None:
    shared = np.zeros(100)
    held = {"one": shared, "two": [shared, (b"12345", "six")], "three": None, "four": 4}
    assert jobs.size_of(held) == 800 + 5 + 3
    assert jobs.size_of(jobs.Job("a", "bc", result=shared)) == 800 + 1 + 2 + len("queued")
    assert jobs.size_of(object()) == 0
    loop: list[object] = []
    loop.append(loop)
    assert jobs.size_of(loop) == 0
