"""A further study of a result that is shown: at once where it is stored, else behind a button.

A page that shows one result offers others that build on it. Each is looked for in the run store; if
it is not there, a button with its cost makes it in the background, and puts it there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from workbench.core import runs
from workbench.ui import jobs, steps

if TYPE_CHECKING:
    from workbench.core import results

AnyResult = TypeVar("AnyResult", bound="results.Result")


def alike(
    kind: type[AnyResult], analysis: str, like: results.Provenance, **parameters: Any
) -> AnyResult | None:
    """The newest stored result of the same model with certain parameters.

    Args:
        kind: Class of the result.
        analysis: Module and function that made it.
        like: Says which model, with which weights.
        **parameters: What it must have been made with; whatever else it was made with is free.

    Returns:
        The result, or None where there is none.
    """
    store = runs.RunStore()
    for run in store.runs(analysis):
        fits = all(run.parameters.get(name) == value for name, value in parameters.items())
        if run.model == like.model and fits:
            found = store.find(kind, run.id)
            if found is not None and found.provenance.fingerprint == like.fingerprint:
                return found
    return None


def offer(
    key: str, work: Callable[[jobs.Report], None], *, button: str, label: str, seconds: float
) -> None:
    """Draw the button that makes a result, or how far it is; ends with the page drawn anew.

    Args:
        key: What determines the outcome; see `jobs.job_key`.
        work: Makes the result and stores it; never calls Streamlit.
        button: What the button says.
        label: What is made, in a few words.
        seconds: How long it will take.
    """
    if jobs.manager().find(key) is None:
        if st.button(f"{button} (about {jobs.duration(seconds)})", key=f"offer:{key}"):
            jobs.manager().submit(key, lambda report: work(report) or True, label=label)
            st.rerun()
        return
    if steps.step(key, lambda report: work(report) or True, label=label):
        # From here on the store has it; what was deleted there can be made again.
        jobs.manager().forget(key)
        st.rerun()
