"""Results that a page builds on: at once where they are stored, else made in the background.

What a page cannot do without is made as soon as it is needed (`made`). What a reader may want
besides is offered behind a button that says what it costs (`offer`). Both put it into the store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from workbench.core import runs
from workbench.core.models import card
from workbench.ui import jobs, steps

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core import results
    from workbench.core.prompts.corpus import Corpus

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
    for run in store.runs(
        analysis, model=like.model, fingerprint=like.fingerprint, parameters=parameters
    ):
        found = store.find(kind, run.id)
        if found is not None:
            return found
    return None


def title(
    what: str, model: TransformerBridge, corpus: Corpus | None = None, dictionary: str = ""
) -> str:
    """Name of a stored result, the same on every page that needs it.

    Args:
        what: What it is, with its settings.
        model: What it is of.
        corpus: What was read for it.
        dictionary: Mark of the dictionary that was used.

    Returns:
        The name, in which models, corpora and dictionaries are told apart by their marks.
    """
    parts = [what, f"model {card.fingerprint(model)[:16]}"]
    parts += [f"dictionary {dictionary}"] if dictionary else []
    parts += [f"corpus {corpus.fingerprint[:16]}"] if corpus is not None else []
    return ", ".join(parts)


def titled(kind: type[AnyResult], analysis: str, name: str) -> AnyResult | None:
    """A stored result by its title.

    Args:
        kind: Class of the result.
        analysis: Module and function that made it.
        name: Its title in the store; see `title`.

    Returns:
        The result, or None where there is none.
    """
    store = runs.RunStore()
    for run in store.runs(analysis):
        found = _opened(str(store.root), run.id, kind) if run.title == name else None
        if found is not None:
            return found
    return None


def offered(
    kind: type[AnyResult],
    analysis: str,
    name: str,
    work: Callable[[jobs.Report], AnyResult],
    *,
    button: str,
    label: str,
    seconds: float,
) -> AnyResult | None:
    """A stored result by its title; else the button that makes it.

    Args:
        kind: Class of the result.
        analysis: Module and function that makes it.
        name: Its title in the store; see `title`.
        work: Makes it; never calls Streamlit.
        button: What the button says.
        label: What is made, in a few words.
        seconds: How long it will take.

    Returns:
        The result, or None while there is none.
    """
    found = titled(kind, analysis, name)
    if found is None:
        offer(
            jobs.job_key(analysis, name),
            lambda report: _put(work(report), name),
            button=button,
            label=label,
            seconds=seconds,
        )
    return found


def _put(result: results.Result, name: str) -> None:
    runs.RunStore().put(result, title=name)


def made(
    kind: type[AnyResult],
    analysis: str,
    name: str,
    work: Callable[[jobs.Report], AnyResult],
    *,
    label: str,
) -> AnyResult | None:
    """A stored result by its name; else it is made and stored, which the page shows.

    Args:
        kind: Class of the result.
        analysis: Module and function that makes it.
        name: Its title in the store, which says what determines it; see `title`.
        work: Makes it; never calls Streamlit.
        label: What is made, in a few words.

    Returns:
        The result, or None while there is none.
    """
    found = titled(kind, analysis, name)
    if found is not None:
        return found

    def kept(report: jobs.Report) -> AnyResult:
        result = work(report)
        runs.RunStore().put(result, title=name)
        return result

    return steps.step(jobs.job_key(analysis, name), kept, label=label)


def kept(
    kind: type[AnyResult], analysis: str, name: str, make: Callable[[], AnyResult]
) -> tuple[str, AnyResult]:
    """Run and result of a title, made and stored where there is none: for work in the background.

    Args:
        kind: Class of the result.
        analysis: Module and function that makes it.
        name: Its title in the store; see `title`.
        make: Makes it.

    Returns:
        The run's id, and the result.
    """
    store = runs.RunStore()
    for run in store.runs(analysis):
        found = store.find(kind, run.id) if run.title == name else None
        if found is not None:
            return run.id, found
    result = make()
    return store.put(result, title=name), result


@st.cache_resource(max_entries=16, show_spinner=False)
def _opened(root: str, run: str, _kind: type[AnyResult]) -> AnyResult | None:
    """A stored result, read once and not at every click."""
    return runs.RunStore(root).find(_kind, run)


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
    cost = f"about {jobs.duration(seconds)}"
    if steps.asked(
        key, lambda report: work(report) or True, button=f"{button} ({cost})", label=label
    ):
        st.rerun()


def reopen(run: str) -> None:
    """Put a run into the address and start the page anew with it.

    Args:
        run: Its id.
    """
    st.query_params["run"] = run
    st.rerun()
