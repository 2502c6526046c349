"""How a command asks analyses: an equal command of before is answered from the run store.

Every result of a command is kept there, also without -o. What was answered from there, and when
that was computed, is said in one line on standard error, and so is why something was not kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.commands import terminal

if TYPE_CHECKING:
    from workbench.core.results import Result

AnyResult = TypeVar("AnyResult", bound="Result")


class Asking:
    """Asks analyses, and remembers what was answered from the store."""

    def __init__(self, *, again: bool) -> None:
        """Begin.

        Args:
            again: Compute everything anew, whatever is stored.
        """
        self._again = again
        self._answered: dict[str, list[str]] = {}
        self._problems: list[str] = []

    def __call__(
        self,
        analysis: Callable[..., AnyResult],
        subject: Any,
        /,
        *arguments: Any,
        aside: Mapping[str, Any] | None = None,
        progress: Callable[[float, str], None] | None = None,
        **options: Any,
    ) -> AnyResult:
        """What an analysis finds; see `runs.answer`.

        Args:
            analysis: A public function of an analysis.
            subject: What it looks at.
            *arguments: What else it takes by place.
            aside: Options that change no number.
            progress: Told how far it is.
            **options: What else it takes by name.

        Returns:
            The result.
        """
        from workbench.core import runs

        found = runs.ask(
            analysis,
            subject,
            *arguments,
            again=self._again,
            aside=aside,
            progress=progress,
            **options,
        )
        if found.stored:
            day = found.result.provenance.created[:10]
            self._answered.setdefault(day, []).append(found.run)
        elif found.problem:
            self._problems.append(found.problem)
        return found.result

    def keep(self, result: Result) -> None:
        """Keep what was made in another way, such as by a training that has a folder of its own.

        Args:
            result: The result.
        """
        from workbench.core import runs

        try:
            runs.RunStore().put(result, title="")
        except runs.RunStoreError as error:
            self._problems.append(str(error))

    def say_where_from(self) -> None:
        """Say what was answered from the store, and what could not be kept there."""
        for problem in dict.fromkeys(self._problems):
            terminal.complain(f"computed, but not kept among the runs: {problem}")
        if self._answered:
            which = " and ".join(
                f"{'run' if len(runs) == 1 else 'runs'} {', '.join(runs)} of {day}"
                for day, runs in self._answered.items()
            )
            terminal.remark(f"answered from {which}; --again computes anew")


@contextlib.contextmanager
def asking(*, again: bool) -> Generator[Asking]:
    """Ask analyses within, and say at the end what was answered from the store.

    Args:
        again: Compute everything anew, whatever is stored.

    Yields:
        What to ask with.
    """
    ask = Asking(again=again)
    yield ask
    ask.say_where_from()
