"""A step of a page: work that must be done before the page can go on, shown while it runs.

`step` returns the outcome once it is there. Until then it draws progress with a Cancel button, or
what went wrong with a button to try again, and returns None, so that a page reads as a list of
steps. Work that failed is not repeated by itself: a page reruns often.

`asked` is a step that begins with a click, for work whose outcome is kept elsewhere; `offer` is its
button.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from workbench.ui import jobs

Outcome = TypeVar("Outcome")

_QUICK = 0.3


def step(key: str, work: Callable[[jobs.Report], Outcome], *, label: str) -> Outcome | None:
    """Do work in the background once, whoever asks for it.

    Args:
        key: What determines the outcome; see `jobs.job_key`.
        work: Gets `report`, returns the outcome (never None); never calls Streamlit.
        label: What it is, in a few words.

    Returns:
        The outcome, or None while there is none.
    """
    job = jobs.manager().find(key) or jobs.manager().submit(key, work, label=label)
    # Quick work is done before there is anything to show.
    job.wait_since_asked(_QUICK)
    if _finished(job):
        return job.result
    jobs.job_panel(job)
    # It may have finished while it was being drawn, and then nothing would rerun the page.
    if _finished(job):
        return job.result
    if job.state in {"failed", "cancelled"}:
        offer(key, work, button="Try again", label=label)
    return None


def offer(key: str, work: Callable[[jobs.Report], object], *, button: str, label: str) -> None:
    """Draw the button that begins a work: the page is drawn anew once it has begun.

    Args:
        key: What determines the outcome; see `jobs.job_key`.
        work: As for `step`.
        button: What the button says.
        label: What it is, in a few words.
    """

    def begin() -> None:
        jobs.manager().submit(key, work, label=label)

    # Before the page is drawn: a second click, which stops the drawing, does not undo it.
    st.button(button, key=f"ask:{key}", on_click=begin)


def asked(
    key: str, work: Callable[[jobs.Report], Outcome], *, button: str, label: str
) -> Outcome | None:
    """Draw the button that begins a work, or how far it is.

    Args:
        key: What determines the outcome; see `jobs.job_key`.
        work: As for `step`; it stores what it makes.
        button: What the button says.
        label: What it is, in a few words.

    Returns:
        The outcome, once: what is deleted from where it is kept can be made again.
    """
    if jobs.manager().find(key) is None:
        offer(key, work, button=button, label=label)
        return None
    made = step(key, work, label=label)
    if made is not None:
        jobs.manager().forget(key)
    return made


def _finished(job: jobs.Job) -> bool:
    # Asked anew each time: the job runs in a thread of its own.
    return job.state == "finished"
