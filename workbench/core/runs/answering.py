"""Has this been asked before? An equal request is answered from the store, any other is computed.

1. A request is the name of an analysis and all that determines what it makes of its arguments
   (`telling`). Defaults are filled in, so that one that is given equals one that is left out.
2. Where the store has an answer by the same code and versions, that is given, equal to the bit.
3. Else the analysis is run, and its result is put into the store with the request.
4. What cannot be told completely, and what has changed while the analysis ran, is stored without a
   request: it is computed again each time, and never answered wrongly.

Limits: only analyses of this project are answered, since of others nobody sees when their code
changes; of them, too, every result is kept. Two that ask the same at once both compute it.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from workbench.core import results
from workbench.core.runs import identity, telling
from workbench.core.runs.folders import RunStoreError
from workbench.core.runs.store import RunStore

AnyResult = TypeVar("AnyResult", bound=results.Result)

_PROGRESS = "progress"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answer(Generic[AnyResult]):
    """A result, and where it comes from.

    Attributes:
        result: The result.
        run: Id of the run that it is kept as; empty where it could not be kept.
        stored: Whether it was in the store already.
        problem: Why it could not be kept; empty where it is.
    """

    result: AnyResult
    run: str
    stored: bool
    problem: str = ""


def answer(
    analysis: Callable[..., AnyResult],
    subject: Any,
    /,
    *arguments: Any,
    store: RunStore | None = None,
    title: str = "",
    again: bool = False,
    aside: Mapping[str, Any] | None = None,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> AnyResult:
    """What an analysis finds: from the store where it was asked before, else computed and stored.

    A store that cannot be written costs nothing but a line in the log.

    Args:
        analysis: A public function of an analysis.
        subject: What it looks at: a model, a network, a training run, a curve, a result.
        *arguments: What else it takes by place.
        store: Where results are kept; the usual one if none is given.
        title: What a reader of the store calls it; empty for one from analysis and model.
        again: Compute it whatever is stored.
        aside: Options that change no number, such as a folder for what is unfinished: an answer
            does not depend on them.
        progress: Told how far it is; may raise to cancel.
        **options: What else it takes by name.

    Returns:
        The result.
    """
    found = ask(
        analysis,
        subject,
        *arguments,
        store=store,
        title=title,
        again=again,
        aside=aside,
        progress=progress,
        **options,
    )
    if found.problem:
        _log.warning("%s", found.problem)
    return found.result


def ask(
    analysis: Callable[..., AnyResult],
    subject: Any,
    /,
    *arguments: Any,
    store: RunStore | None = None,
    title: str = "",
    again: bool = False,
    aside: Mapping[str, Any] | None = None,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> Answer[AnyResult]:
    """The same as `answer`, with where the result comes from.

    Args:
        analysis: A public function of an analysis.
        subject: What it looks at.
        *arguments: What else it takes by place.
        store: Where results are kept; the usual one if none is given.
        title: What a reader of the store calls it.
        again: Compute it whatever is stored.
        aside: Options that change no number.
        progress: Told how far it is; may raise to cancel.
        **options: What else it takes by name.

    Returns:
        The result, its run, and whether it was there.
    """
    runs = RunStore() if store is None else store

    def request() -> str:
        return _request(analysis, (subject, *arguments), options, tuple(aside or ()))

    asked = request()
    found = None if again or not asked else _answered(runs, asked)
    if found is not None:
        run, known = found
        # The request says which function made it, and so of which class it is.
        return Answer[Any](known, run, stored=True)
    reported = {} if progress is None else {_PROGRESS: progress}
    result = analysis(subject, *arguments, **options, **(aside or {}), **reported)
    # What has become another one meanwhile, such as a file, is not what was answered.
    same = asked if request() == asked else ""
    try:
        return Answer(result, runs.put(result, title=title, request=same), stored=False)
    except (TypeError, ValueError, OSError) as error:
        return Answer(result, "", stored=False, problem=str(error))


def _answered(store: RunStore, request: str) -> tuple[str, results.Result] | None:
    try:
        return store.answered(results.Result, request)
    except (RunStoreError, OSError):
        # What cannot be looked up is computed; whether it can be kept is seen then.
        return None


def _request(
    analysis: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    aside: tuple[str, ...],
) -> str:
    """Key of a request; empty for one that cannot be told."""
    try:
        name = telling.name_of(analysis)
        given = inspect.signature(analysis).bind_partial(*arguments, **options)
        given.apply_defaults()
        # The first is the subject, which has a place of its own.
        rest = list(given.arguments.items())[1:]
        told = [[key, telling.told(item)] for key, item in rest if key not in (_PROGRESS, *aside)]
        fingerprint = telling.fingerprint(arguments[0])
        request = {"analysis": name, "arguments": told}
        return identity.request_key(results.Result, fingerprint, request)
    except (telling.Untold, TypeError, ValueError, RecursionError) as error:
        _log.debug("computed without looking into the store: %s", error)
        return ""
