"""What a question is given, and what it answers: the ground on which `questions/` stand.

Each module in `questions/` has one public function, `examine(examination, …) -> Answer`. It runs
analyses through `Examination.made`, so that an equal request is answered from the run store, and
raises `NotExamined` with a sentence where the question cannot be asked of this model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workbench.core import reading, results, runs
from workbench.core.engine import running
from workbench.report.document import Finding, Section
from workbench.report.spec import AuditSpec, Behaviour, Verdict

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

AnyResult = TypeVar("AnyResult", bound=results.Result)
# From the best to the worst, for a finding that rests on several thresholds.
_WORSE: tuple[Verdict, ...] = ("pass", "warn", "fail", "not examined")
_MINUTE = 60


class NotExamined(ValueError):
    """A question cannot be asked of this model; the message says why."""


def worst(*verdicts: Verdict) -> Verdict:
    """The verdict of a finding that rests on several thresholds.

    Args:
        *verdicts: One a threshold.

    Returns:
        The worst of them; what is not known is worse than a failure.
    """
    return max(verdicts, key=_WORSE.index)


def named_file(folder: Path, name: str) -> Path:
    """A file or folder that a spec names; a spec is not trusted with the rest of the disk.

    Args:
        folder: What paths of the spec are relative to.
        name: As the spec has it.

    Returns:
        Its path.

    Raises:
        NotExamined: If it lies outside of the folder, or is not there.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        there = path.exists()
    # A name that is too long, holds a zero, or leads around in a circle.
    except (OSError, ValueError, RuntimeError) as error:
        raise NotExamined(f"{reading.quoted(name)} is no name of a file beside the spec") from error
    if not path.is_relative_to(root):
        raise NotExamined(
            f"{reading.quoted(name)} lies outside of the folder of the spec, and an audit reads "
            "nothing there: put it beside the spec and name it by its relative path"
        )
    if not there:
        raise NotExamined(f"there is no file {reading.quoted(name)} beside the spec")
    return path


def digest(path: Path) -> str:
    """Sha256 over a file, or over the names and contents of all files of a folder.

    Args:
        path: The file or folder.

    Returns:
        64 hexadecimal digits.
    """
    if path.is_file():
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    made = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        made.update(f"{file.relative_to(path).as_posix()} {digest(file)}\n".encode())
    return made.hexdigest()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a question found.

    Attributes:
        finding: Its line of the verdict table.
        section: Its section.
    """

    finding: Finding
    section: Section


@dataclasses.dataclass
class Examination:
    """A model on the table.

    Attributes:
        model: The bridge.
        fingerprint: Of the model.
        spec: What is asked, with every choice made.
        folder: What paths of the spec are relative to.
        store: Where results are kept and found again; none to compute everything here and now.
        report: Told how far the present question is; may raise to cancel.
        deadline: Of `time.monotonic`, by which the present question must be answered.
        run_ids: Results of the present question, in the order in which they were made.
        drawn: Pairs of the behaviours that were asked about already.
        refused: Why some of them have no pairs.
    """

    model: TransformerBridge
    fingerprint: str
    spec: AuditSpec
    folder: Path
    store: runs.RunStore | None = None
    report: running.Progress = running.no_progress
    deadline: float = float("inf")
    run_ids: list[str] = dataclasses.field(default_factory=list[str])
    drawn: dict[Behaviour, ContrastPairs] = dataclasses.field(
        default_factory=dict[Behaviour, "ContrastPairs"]
    )
    refused: dict[Behaviour, str] = dataclasses.field(default_factory=dict[Behaviour, str])

    def pairs(self, behaviour: Behaviour) -> ContrastPairs:
        """The pairs of a behaviour, made once.

        Args:
            behaviour: Names a task or a file beside the spec.

        Returns:
            The pairs.

        Raises:
            NotExamined: If they cannot be made for this model; the message says why.
        """
        if behaviour in self.refused:
            raise NotExamined(self.refused[behaviour])
        if behaviour not in self.drawn:
            try:
                self.drawn[behaviour] = self._pairs(behaviour)
            except ValueError as error:
                self.refused[behaviour] = str(error)
                raise NotExamined(str(error)) from error
        return self.drawn[behaviour]

    def _pairs(self, behaviour: Behaviour) -> ContrastPairs:
        from workbench.core.prompts.pairs import ContrastPairs

        if behaviour.task is not None:
            return ContrastPairs.from_task(
                self.model, behaviour.task, n=behaviour.n, seed=self.spec.seed
            )
        path = named_file(self.folder, str(behaviour.pairs))
        return ContrastPairs.from_file(self.model, path, align=behaviour.align)

    @property
    def megabytes(self) -> float:
        """Memory above that of the model which the spec allows."""
        return self.spec.limits.gigabytes * 1000

    def require(self, *, seconds: float = 0.0, megabytes: float = 0.0) -> None:
        """Refuse to begin what would cost more than is left.

        Args:
            seconds: Estimated time.
            megabytes: Estimated memory above that of the model.

        Raises:
            NotExamined: If it is more than the limits of the spec leave for this question.
        """
        self.check_time()
        left = self.deadline - time.monotonic()
        if seconds > left:
            raise NotExamined(
                f"it would take about {_duration(seconds)}, and of the audit's limit of "
                f"{self.spec.limits.minutes:g} minutes {_duration(left)} are left for it"
            )
        if megabytes > self.megabytes:
            raise NotExamined(
                f"it would need about {megabytes / 1000:.1f} GB of memory, and the audit's limit "
                f"is {self.spec.limits.gigabytes:g} GB"
            )

    def made(
        self,
        kind: type[AnyResult],
        title: str,
        request: dict[str, Any],
        make: Callable[[running.Progress], AnyResult],
    ) -> AnyResult:
        """A result that an equal request has stored, or a new one, which is stored.

        Args:
            kind: Class of the result.
            title: What a reader of the run store calls it.
            request: Everything besides the model that determines it; JSON types only.
            make: Computes it.

        Returns:
            The result.
        """
        if self.store is None:
            return make(self.report)
        asked = runs.request_key(kind, self.fingerprint, request)
        found = self.store.answered(kind, asked)
        if found is None:
            result = make(self.report)
            self.run_ids.append(self.store.put(result, title=title, request=asked))
            return result
        run, result = found
        self.run_ids.append(run)
        return result

    def check_time(self) -> None:
        """Refuse to begin, or to go on with, what the audit has no time for.

        Raises:
            NotExamined: If the limit of the spec is reached.
        """
        if time.monotonic() > self.deadline:
            raise NotExamined(
                f"the audit's limit of {self.spec.limits.minutes:g} minutes was reached before it "
                "was answered"
            )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < _MINUTE else f"{seconds / _MINUTE:.1f} min"
