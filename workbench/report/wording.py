"""How a report says things: numbers, intervals, verdicts, and characters that cannot be seen.

1. HTML and PDF say everything through this module, so that both say the same.
2. Absent evidence is said in words ("no interval", "not known"), never left blank.
3. A string that comes from a model, a tokenizer or a file may hold characters that turn the
   direction of text around, break a line, or cannot be seen: `visible` writes their code points.

Units: numbers are shown with four significant digits; the JSON has all.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools

from workbench.core import reading
from workbench.report.document import Cell, Finding, Measured, Report, Section
from workbench.report.spec import QUESTIONS, VERDICTS, Question, Verdict

# A sign beside the word: a verdict is never told by its colour alone.
SIGNS: dict[Verdict, str] = {"pass": "✓", "warn": "!", "fail": "✗", "not examined": "–"}
WORDS: dict[Verdict, str] = {
    "pass": "pass",
    "warn": "warning",
    "fail": "fail",
    "not examined": "not examined",
}
OVERALL: dict[Verdict, str] = {
    "pass": "Everything that was examined passes.",
    "warn": "Nothing fails; some findings carry a warning.",
    "fail": "At least one finding fails.",
    "not examined": "Nothing was examined.",
}
TITLES: dict[Question, str] = {
    "behaviour": "Does the model do what it is meant to do?",
    "sites": "Which site carries the behaviour?",
    "localization": "Is it carried by few components?",
    "circuit": "How large is the circuit, and how faithful?",
    "units": "What makes single units fire?",
    "concepts": "Do clusters of neurons hold concepts?",
    "training": "When did it learn, and what changed then?",
}
MEASURED_COLUMNS = ("measured", "value", "interval", "n", "compared with", "p", "threshold")
MISSING = "not known"
# What a cell of those columns says where there is nothing to say.
ABSENT = frozenset({MISSING, "no interval", "no count", "no null", "no p", "none asked"})
INTERACTIVE_ONLY = "Drawn in the interactive report (HTML) only."
# What the interactive report itself says where its script draws nothing, as in print.
ON_SCREEN_ONLY = "Drawn on a screen by the script of this page, and by that alone."
NOT_DRAWN = "A figure of this kind is not drawn; its numbers are in the report's JSON."
NOTHING_KEPT = "Neither a figure nor a table was kept."
visible = reading.visible
_LARGE = 1e15


def number(value: Cell) -> str:
    """A number, or any cell of a table.

    Args:
        value: The cell.

    Returns:
        Counts in full with commas, other numbers with four significant digits.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if float(value).is_integer() and abs(value) < _LARGE:
        return f"{int(value):,}".replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def value(one: Measured) -> str:
    """What was measured, with its unit.

    Args:
        one: The number.

    Returns:
        Such as "0.913 nats".
    """
    shown = number(one.value)
    return f"{shown} {one.unit}" if one.unit and one.value is not None else shown


def interval(one: Measured) -> str:
    """Interval of a number.

    Args:
        one: The number.

    Returns:
        Such as "[0.9, 0.97]"; "no interval" where there is none.
    """
    if one.low is None or one.high is None:
        return "no interval"
    return f"[{number(one.low)}, {number(one.high)}]"


def null(one: Measured) -> str:
    """What a number is compared with.

    Args:
        one: The number.

    Returns:
        The null in words with its value; "no null" where there is none.
    """
    if not one.null:
        return "no null"
    return one.null if one.null_value is None else f"{one.null}: {number(one.null_value)}"


def measured_row(one: Measured) -> tuple[str, ...]:
    """A number with everything that says how sure it is.

    Args:
        one: The number.

    Returns:
        A cell for each of `MEASURED_COLUMNS`.
    """
    return (
        one.name,
        value(one),
        interval(one),
        "no count" if one.n is None else number(one.n),
        null(one),
        "no p" if one.p_value is None else number(one.p_value),
        one.threshold or "none asked",
    )


def seconds(value: float | int) -> str:
    """A wall time.

    Args:
        value: Seconds.

    Returns:
        Such as "3 min 20 s".
    """
    if value < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{value:.2g} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes:,} min {rest} s"


def left_out(unprinted: int, unkept: int) -> str:
    """How many rows of a table are not printed, and where they are.

    Args:
        unprinted: Rows that the report has and a page does not show.
        unkept: Rows that the report does not have.

    Returns:
        Such as "… 12 more rows in the interactive report (HTML) and in the JSON."; empty where
        there is nothing to say.
    """
    parts: list[str] = []
    if unprinted:
        rows = f"{number(unprinted)} more row{'' if unprinted == 1 else 's'}"
        parts.append(f"{rows} in the interactive report (HTML) and in the JSON")
    if unkept:
        rows = f"{number(unkept)} {'further' if parts else 'more'} row{'' if unkept == 1 else 's'}"
        parts.append(f"{rows} not kept in the report")
    return f"… {'; '.join(parts)}." if parts else ""


def when(report: Report) -> str:
    """When a report was made.

    Args:
        report: The report.

    Returns:
        Such as "2026-11-22 05:30 UTC"; what the report says where that is no time with a zone.
    """
    try:
        made = report.created
    except ValueError:
        return report.manifest.created
    if made.tzinfo is None:
        return report.manifest.created
    return f"{made.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def title(report: Report) -> str:
    """What a report is called: its title, and the model that it is about.

    Args:
        report: The report.

    Returns:
        For example "Audit: grammar-4l".
    """
    return f"{report.title}: {report.manifest.model}"


def counts(report: Report) -> tuple[tuple[Verdict, int], ...]:
    """How often each verdict was reached.

    Args:
        report: The report.

    Returns:
        Every verdict, worst last but "not examined", with its count.
    """
    return tuple(
        (verdict, sum(one.verdict == verdict for one in report.findings)) for verdict in VERDICTS
    )


@dataclasses.dataclass(frozen=True)
class Part:
    """A finding with the section behind it.

    Attributes:
        anchor: Where it stands in a document.
        finding: The line of the verdict table; none for a section that no finding rests on.
        section: What it rests on; none where nothing was examined.
    """

    anchor: str
    finding: Finding | None
    section: Section | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Everything about one question.

    Attributes:
        question: Which.
        title: The question, in words.
        parts: Findings with their sections, in the order of the report.
    """

    question: Question
    title: str
    parts: tuple[Part, ...]


def groups(report: Report) -> tuple[Group, ...]:
    """Findings and sections of a report by question.

    Args:
        report: The report.

    Returns:
        Every question in its order; one that the report says nothing of has no parts.
    """
    sections = {one.id: one for one in report.sections}
    known = {one.id for one in report.findings}
    count = itertools.count(1)
    made: list[Group] = []
    for question in QUESTIONS:
        pairs: list[tuple[Finding | None, Section | None]] = [
            (one, sections.get(one.id)) for one in report.findings if one.question == question
        ]
        pairs += [
            (None, one)
            for one in report.sections
            if one.question == question and one.id not in known
        ]
        parts = tuple(Part(f"part-{next(count)}", *pair) for pair in pairs)
        made.append(Group(question, TITLES[question], parts))
    return tuple(made)


def headlines(report: Report) -> tuple[Finding, ...]:
    """The most important findings.

    Args:
        report: The report.

    Returns:
        Those that it names and has.
    """
    known = {one.id: one for one in report.findings}
    return tuple(known[one] for one in report.headlines if one in known)


def manifest_rows(report: Report) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Everything of the manifest but the spec.

    Args:
        report: The report.

    Returns:
        Tables by title, each of names and values; a table may be empty.
    """
    made = report.manifest
    return (
        (
            "Made of",
            (
                ("model", made.model),
                ("fingerprint (sha256)", made.fingerprint),
                ("created (UTC)", made.created),
                ("seed", str(made.seed)),
                ("confidence of intervals", f"{made.spec.confidence:g}"),
                ("wall time of all sections", seconds(sum(made.seconds.values()))),
            ),
        ),
        ("Versions", tuple(made.versions.items())),
        ("Hardware", tuple(made.hardware.items())),
        ("Input files (sha256)", tuple(made.inputs.items())),
        ("Stored runs", tuple((name, ", ".join(ids)) for name, ids in made.run_ids.items() if ids)),
        ("Wall times", tuple((name, seconds(spent)) for name, spent in made.seconds.items())),
    )


def labels(report: Report) -> dict[tuple[str, int], str]:
    """What each exhibit is called.

    Args:
        report: The report.

    Returns:
        "Figure 3" or "Table 2" by the id of a section and the place of the exhibit in it; counted
        in the order in which a reader meets them.
    """
    shown = [part.section for group in groups(report) for part in group.parts if part.section]
    kinds: dict[str, itertools.count[int]] = {}
    return {
        (section.id, index): f"{name} {next(kinds.setdefault(name, itertools.count(1)))}"
        for section in shown
        for index, one in enumerate(section.exhibits)
        for name in ["Table" if one.figure is None else "Figure"]
    }


def spec_text(report: Report) -> str:
    """What was asked, as the YAML file that asks it again.

    Args:
        report: The report.

    Returns:
        YAML.
    """
    import yaml

    return yaml.safe_dump(report.manifest.spec.plain(), sort_keys=False, width=96)
