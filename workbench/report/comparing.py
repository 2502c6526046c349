"""What is different between two models, or two checkpoints of one, under the same spec?

1. The first model is audited. Its spec, with every choice made (behaviours, units, concepts), is
   put to the second model, so that both are asked the same.
2. Behaviours are compared prompt by prompt where both models read the same prompts: the mean of the
   differences has a bootstrap interval over prompts, and a p-value from random signs of each
   prompt's difference, corrected over all behaviours (Benjamini-Hochberg). A difference is a change
   where that p-value is at most .05 and the interval does not contain 0.
3. Every other number is a change where the intervals of the two models do not overlap. That is a
   stricter rule than a test of the difference, and needs no pairing. Of a number without an
   interval only the two values are given.
4. Verdicts that changed come first, then changes, then the rest.

Source: Efron & Tibshirani 1993 (intervals); Fisher 1935 (sign flips); Benjamini & Hochberg 1995;
Schenker & Gentleman 2001, "On judging the significance of differences by examining the overlap
between confidence intervals" (why overlap is the stricter rule).

Units and sign: differences are second minus first, in the unit of the number.

Limits: what the first model was not asked about is not compared. Where the second one is another
architecture, a unit or a site of the same name is another one.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from workbench.core import evidence, files
from workbench.report import wording
from workbench.report.document import Finding, Measured, Number, Report
from workbench.report.spec import AuditSpec, Frozen, Question, Verdict

if TYPE_CHECKING:
    import pandas as pd
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core import runs
    from workbench.core.engine.running import Progress
    from workbench.report.examining import Examination
    from workbench.report.questions.behaviour import Behaving

FORMAT = 1
Rule = Literal["paired", "intervals", "values"]
NO_CHANGE = (
    "No change was found; that is no proof that there is none, as only what the spec asks was "
    "looked at."
)


class ComparisonError(ValueError):
    """Two models cannot be compared; the message says why."""


def told(one: Measured) -> str:
    """A number with its interval, where it has one.

    Args:
        one: The number.

    Returns:
        For example "0.913 nats [0.9, 0.97]".
    """
    known = one.low is not None and one.high is not None
    return f"{wording.value(one)} {wording.interval(one)}" if known else wording.value(one)


class Change(Frozen):
    """One number of both models.

    Attributes:
        id: Of the findings that it belongs to.
        question: Which question it answers.
        about: The behaviour, unit or concept.
        name: What was measured.
        first: In the first model.
        second: In the second one.
        difference: Second minus first; none where one of them is not known.
        low: Lower bound of the difference's interval; none unless it is paired.
        high: Upper bound.
        n: Prompts that both models were run on; none unless it is paired.
        p_value: Of no difference, corrected; none unless it is paired.
        rule: How it was judged: "paired" by prompts, by both "intervals", or "values" alone.
        changed: Whether it changed; none where only the values are known.
    """

    id: str
    question: Question
    about: str
    name: str
    first: Measured
    second: Measured
    difference: Number | None
    low: Number | None = None
    high: Number | None = None
    n: int | None = None
    p_value: Number | None = None
    rule: Rule
    changed: bool | None

    @property
    def gap(self) -> Measured:
        """The difference with its interval."""
        return Measured(
            name=self.name,
            value=self.difference,
            unit=self.first.unit,
            low=self.low,
            high=self.high,
        )

    @property
    def sentence(self) -> str:
        """What changed, in words."""
        both = f"{told(self.first)} to {told(self.second)}"
        what = f"{self.name} ({self.about})"
        if self.rule == "paired":
            by = f"by {told(self.gap)} on the same {self.n} prompts"
            verb = "changed" if self.changed else "did not change beyond chance"
            return (
                f"{what} {verb}: from {both}, {by} (adjusted p = {wording.number(self.p_value)})."
            )
        if self.rule == "intervals":
            verb = "changed" if self.changed else "did not change"
            return f"{what} {verb} beyond both intervals: from {both}."
        return f"{what}: {both}, without intervals that would say whether that is a change."


class VerdictPair(Frozen):
    """The verdicts of both models on one finding.

    Attributes:
        id: Of the finding.
        first: Of the first model.
        second: Of the second one.
    """

    id: str
    first: Verdict
    second: Verdict

    @property
    def changed(self) -> bool:
        """Whether they differ."""
        return self.first != self.second


class Comparison(Frozen):
    """Two models under one spec.

    Attributes:
        format: Version of this format.
        names: What the models are called.
        reports: What was found in each.
        verdicts: Of findings that both have, those that changed first.
        changes: Every number that both have, those that changed first.
        left_out: What could not be compared, and why.
    """

    format: Literal[1] = FORMAT
    names: tuple[str, str]
    reports: tuple[Report, Report]
    verdicts: tuple[VerdictPair, ...]
    changes: tuple[Change, ...]
    left_out: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[Change, ...]:
        """The numbers that changed."""
        return tuple(one for one in self.changes if one.changed)

    @property
    def outcome(self) -> str:
        """How much changed, in a sentence."""
        moved = sum(one.changed for one in self.verdicts)
        judged = sum(one.changed is not None for one in self.changes)
        return (
            f"{moved} of {len(self.verdicts)} verdicts and {len(self.changed)} of {judged} "
            "numbers with intervals changed."
        )

    def summary(self) -> str:
        """What changed, in sentences."""
        moved = [one for one in self.verdicts if one.changed]
        lines = [f"{self.names[1]} against {self.names[0]}: {self.outcome}"]
        lines += [f"{one.id}: {one.first} became {one.second}." for one in moved]
        lines += [one.sentence for one in self.changed]
        if not moved and not self.changed:
            lines.append(NO_CHANGE)
        return "\n".join([*lines, *self.left_out])

    def to_frame(self) -> pd.DataFrame:
        """One row a number."""
        import pandas as pd

        return pd.DataFrame([_row(one) for one in self.changes], columns=list(_COLUMNS))

    def to_json(self) -> str:
        """Everything as JSON."""
        return self.model_dump_json(by_alias=True, indent=1)


_COLUMNS = (
    "id",
    "name",
    "unit",
    "first",
    "first low",
    "first high",
    "second",
    "second low",
    "second high",
    "difference",
    "low",
    "high",
    "n",
    "adjusted p",
    "rule",
    "changed",
)


def _row(one: Change) -> tuple[Any, ...]:
    first, second = one.first, one.second
    return (
        one.id,
        one.name,
        first.unit,
        *(first.value, first.low, first.high),
        *(second.value, second.low, second.high),
        *(one.difference, one.low, one.high, one.n, one.p_value),
        one.rule,
        one.changed,
    )


def open_model(name: str, *, device: str = "auto") -> TransformerBridge:
    """A model, or a checkpoint of a training run.

    Args:
        name: Bundled name, folder or hub name; "modadd-113@step-5000", or a run's folder with such
            an ending, for a checkpoint.
        device: Where it goes.

    Returns:
        The model.

    Raises:
        ValueError: If there is none.
    """
    from workbench.core.models import sources

    whole, mark, ending = name.rpartition("@step-")
    if not mark:
        return sources.load_model(name, device=device)
    if not ending.isdecimal():
        raise ComparisonError(f"{name!r}: expected the number of a step after '@step-'")
    from workbench.core.modular import run as trainings

    folder = files.folder_of(whole)
    run = None if folder is None else trainings.open_run(folder)
    run = run or trainings.bundled_run(whole)
    return sources.load_model(run.save_model(int(ending)), device=device)


def compare(
    a: str | TransformerBridge,
    b: str | TransformerBridge,
    spec: AuditSpec | None = None,
    *,
    store: runs.RunStore | None = None,
    folder: Path = Path("."),
    progress: Progress | None = None,
) -> Comparison:
    """Put two models under the same spec and say what changed.

    Args:
        a: The first model, such as the base: a name as `open_model` reads it, or the model.
        b: The second one, such as the fine-tuned.
        spec: What is asked; the default audit of the first model if none is given.
        store: Where results are kept and found again.
        folder: What paths of the spec are relative to.
        progress: Told how far it is; may raise to cancel.

    Returns:
        The comparison.

    Raises:
        ValueError: If a model cannot be opened or is not the one that the spec names.
    """
    from workbench.core.engine import running
    from workbench.core.models import sources
    from workbench.report import auditing, examining

    tell = progress or running.no_progress

    def audited(
        given: str | TransformerBridge, asked: AuditSpec, part: Progress
    ) -> tuple[str, Examination, Report]:
        model = given
        if isinstance(model, str):
            part(0.0, f"loading {model}")
            model = open_model(model)
        name = given if isinstance(given, str) else sources.source_of(model).name
        asked = asked.model_copy(
            update={"model": asked.model.model_copy(update={"name": sources.source_of(model).name})}
        )
        report = auditing.audit(model, asked, store=store, folder=folder, progress=part)
        made = report.manifest
        return (
            name,
            examining.Examination(model, made.fingerprint, made.spec, folder, store),
            report,
        )

    first = audited(a, spec or AuditSpec(), running.part(tell, 0.0, 0.48))
    chosen = first[-1].manifest.spec
    free = chosen.model.model_copy(update={"fingerprint": None})
    asked = chosen.model_copy(update={"model": free})
    second = audited(b, asked, running.part(tell, 0.48, 0.96))
    tell(0.96, "comparing prompt by prompt")
    reports = (first[-1], second[-1])
    paired = _paired(first[1], second[1])
    verdicts, left_out = _verdicts(*reports)
    return Comparison(
        names=(first[0], second[0]),
        reports=reports,
        verdicts=verdicts,
        changes=_changes(*reports, paired, {one.id for one in verdicts if one.changed}),
        left_out=left_out,
    )


def _verdicts(first: Report, second: Report) -> tuple[tuple[VerdictPair, ...], tuple[str, ...]]:
    """Verdicts of what both were asked, and why the rest cannot be compared."""
    pairs: list[VerdictPair] = []
    left_out: list[str] = []
    known = {one.id: one for one in second.findings}
    for one in first.findings:
        other = known.pop(one.id, None)
        if other is None:
            left_out.append(f"{one.id} was asked of the first model only.")
            continue
        pairs.append(VerdictPair(id=one.id, first=one.verdict, second=other.verdict))
        if reason := _why_not(one, other):
            left_out.append(f"{one.id} was not examined in {reason}.")
    left_out += [f"{id_} was asked of the second model only." for id_ in known]
    pairs.sort(key=lambda pair: not pair.changed)
    return tuple(pairs), tuple(left_out)


def _why_not(one: Finding, other: Finding) -> str:
    """In which model something was not examined, and why; empty where nobody asked for it."""
    from workbench.report import auditing

    if one.reason == other.reason:
        return "" if one.reason in ("", auditing.NOT_ASKED) else f"either model: {one.reason}"
    which = {"the first model": one.reason, "the second model": other.reason}
    said = [f"{model}: {reason.rstrip('.')}" for model, reason in which.items() if reason]
    return "; in ".join(said)


def _changes(
    first: Report,
    second: Report,
    paired: dict[tuple[str, str], _Paired],
    moved: set[str],
) -> tuple[Change, ...]:
    found: list[Change] = []
    known = {one.id: _numbers(second, one.id) for one in second.findings}
    for finding in first.findings:
        others = known.get(finding.id, {})
        for key, one in _numbers(first, finding.id).items():
            if key not in others or one.unit != others[key].unit:
                continue
            found.append(
                _change(
                    Change(
                        id=finding.id,
                        question=finding.question,
                        about=finding.about,
                        name=one.name,
                        first=one,
                        second=others[key],
                        difference=None,
                        rule="values",
                        changed=None,
                    ),
                    paired.get((finding.id, one.name)),
                )
            )
    # Sorting keeps the order of the report among equals.
    found.sort(key=lambda change: (not change.changed, change.id not in moved))
    return tuple(found)


def _numbers(report: Report, id_: str) -> dict[tuple[str, int], Measured]:
    """What was measured for a finding, by name; several of one name are counted."""
    section = next((one for one in report.sections if one.id == id_), None)
    made = report.finding(id_).measured if section is None else section.measured
    found: dict[tuple[str, int], Measured] = {}
    for one in made:
        again = sum(name == one.name for name, _ in found)
        found[one.name, again] = one
    return found


def _change(unjudged: Change, paired: _Paired | None) -> Change:
    """A pair of numbers with the strictest judgement that it allows."""
    one, other = unjudged.first, unjudged.second
    if one.value is None or other.value is None:
        return unjudged
    told: dict[str, Any] = {"difference": other.value - one.value}
    if paired is not None:
        told |= {"rule": "paired", "changed": paired.changed, **dataclasses.asdict(paired)}
    elif None not in (one.low, one.high, other.low, other.high):
        apart = _least(other.low) > _least(one.high) or _least(one.low) > _least(other.high)
        told |= {"rule": "intervals", "changed": apart}
    elif one.value == other.value:
        told["changed"] = False
    return unjudged.model_copy(update=told)


def _least(bound: float | None) -> float:
    return math.nan if bound is None else bound


@dataclasses.dataclass(frozen=True)
class _Paired:
    """A difference over prompts that both models were run on."""

    difference: float
    low: float | None
    high: float | None
    n: int
    p_value: float

    @property
    def changed(self) -> bool:
        """Whether it is more than chance."""
        if self.low is None or self.high is None:
            return False
        return self.p_value <= evidence.SURE and not self.low <= 0 <= self.high


def _paired(one: Examination, other: Examination) -> dict[tuple[str, str], _Paired]:
    """Differences prompt by prompt of each behaviour that both models read alike."""
    from workbench.report import examining
    from workbench.report.questions import behaviour

    kept: dict[tuple[str, str], Float[np.ndarray, " prompt"]] = {}
    for asked in one.spec.behaviours:
        try:
            found = [behaviour.behaving(each, asked) for each in (one, other)]
        except examining.NotExamined:
            continue
        if not _same_prompts(*found):
            continue
        id_ = f"behaviour/{asked.title}"
        first, second = found
        kept[id_, behaviour.ACCURACY] = second.right.astype(float) - first.right
        moved = second.differences - first.differences
        if np.isfinite(moved).all():
            kept[id_, behaviour.LOGIT_DIFFERENCE] = moved
    return _judged(kept, one.spec)


def _same_prompts(first: Behaving, second: Behaving) -> bool:
    """Whether both were asked the same: prompts, answers, and when these count as right."""
    return first.criterion == second.criterion and all(
        getattr(first.pairs, name) == getattr(second.pairs, name)
        for name in ("clean", "answer_strings", "wrong_strings")
    )


def _judged(
    kept: dict[tuple[str, str], Float[np.ndarray, " prompt"]], spec: AuditSpec
) -> dict[tuple[str, str], _Paired]:
    """Interval and corrected p-value of each mean difference."""
    if not kept:
        return {}
    columns = [values[:, None] for values in kept.values()]
    seed = spec.seed
    p_values = [evidence.sign_flip_p_values(values, seed=seed)[0] for values in columns]
    adjusted = evidence.adjusted_for_discoveries(np.array(p_values))
    made: dict[tuple[str, str], _Paired] = {}
    for key, values, p_value in zip(kept, columns, adjusted, strict=True):
        bounds = evidence.mean_interval(values, confidence=spec.confidence, seed=seed)[:, 0]
        low, high = (float(bound) if math.isfinite(bound) else None for bound in bounds)
        made[key] = _Paired(float(values.mean()), low, high, len(values), float(p_value))
    return made
