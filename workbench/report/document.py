"""What an audit found, as one document: every number with its interval, null and n.

1. JSON is the report. HTML and PDF are drawn from it and hold nothing that it does not.
2. Numbers that are not known are null, never NaN, and absent evidence is said: a finding that was
   not examined has a reason in place of evidence.
3. The document is read back by the same classes, so a damaged or hostile one is refused with the
   field that is wrong.

Limits: a figure is kept as Plotly's own JSON with plain numbers; nothing in it is run.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import pydantic

from workbench.report.spec import FORMAT, AuditSpec, Frozen, Question, Verdict

Number = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Cell = str | int | Number | bool | None
# Of a report file that is read.
LARGEST = 200_000_000


class Measured(Frozen):
    """One number, with everything that says how sure it is.

    Attributes:
        name: What was measured, in words.
        value: The number; none where it is not known.
        unit: Of the number; empty for a share or a count.
        low: Lower bound of its interval; none where there is no interval.
        high: Upper bound of its interval.
        n: How many prompts, inputs or tokens it is a mean over.
        p_value: Of the null, corrected over everything that was looked at.
        null: What it is compared with, in words; empty where nothing is.
        null_value: What the null gives.
        threshold: Where it passes and fails, in words; empty where nothing is asked of it.
    """

    name: str
    value: Number | None
    unit: str = ""
    low: Number | None = None
    high: Number | None = None
    n: int | None = None
    p_value: Number | None = None
    null: str = ""
    null_value: Number | None = None
    threshold: str = ""


class Finding(Frozen):
    """One line of the verdict table.

    Attributes:
        id: Unlike any other finding's of the report, such as "circuit/indirect-object".
        question: Which question it answers.
        about: The behaviour, unit or concept that it is about.
        verdict: What the thresholds make of it.
        statement: What was found, in plain words.
        evidence: The strongest evidence for it, in a sentence with its numbers.
        caveat: What speaks most against relying on it.
        measured: The numbers that the verdict rests on.
        reason: Why it was not examined; empty where it was.
    """

    id: str
    question: Question
    about: str
    verdict: Verdict
    statement: str
    evidence: str = ""
    caveat: str = ""
    measured: tuple[Measured, ...] = ()
    reason: str = ""


class Table(Frozen):
    """A table: titles of its columns, and rows.

    Attributes:
        columns: Their titles.
        rows: Cells, as many in each row as there are columns.
        left_out: Rows that the whole table has besides.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int = 0


class Exhibit(Frozen):
    """A figure or a table, with what one sees.

    Attributes:
        caption: What is shown, in a sentence; also read aloud in place of a figure.
        figure: Plotly's JSON, with plain lists; none for a table alone.
        table: The table; none for a figure alone.
    """

    caption: str
    figure: dict[str, Any] | None = None
    table: Table | None = None


class Section(Frozen):
    """The answer to one question about one thing.

    Attributes:
        id: As of its finding.
        question: Which question it answers.
        title: A few words.
        asked: The question, in plain words.
        summary: The answer, as the analyses put it.
        method: How it was measured, in two sentences.
        papers: Where the method comes from, such as "Wang et al. 2022, arXiv 2211.00593".
        exhibits: Figures and tables.
        measured: All numbers that the summary and the finding state.
        caveats: What it does not say.
        run_ids: Stored results that it is made of.
        seconds: Wall time.
    """

    id: str
    question: Question
    title: str
    asked: str
    summary: str
    method: str
    papers: tuple[str, ...] = ()
    exhibits: tuple[Exhibit, ...] = ()
    measured: tuple[Measured, ...] = ()
    caveats: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    seconds: Number = 0.0


class Recovered(Frozen):
    """One planted truth, and what an analysis made of it.

    Attributes:
        analysis: Module and function.
        planted: What is true by construction.
        recovered: What was found.
        right: Whether that is the same.
        measured: The number that decides, beside its bound.
        bound: What it must not exceed, or must reach, in words.
    """

    analysis: str
    planted: str
    recovered: str
    right: bool
    measured: Number | None = None
    bound: str = ""


class SelfTest(Frozen):
    """What the workbench recovered of what is known by construction, on this machine.

    Attributes:
        rows: One a planted truth.
        seconds: Wall time.
    """

    rows: tuple[Recovered, ...]
    seconds: Number = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything was recovered."""
        return all(row.right for row in self.rows)


class Manifest(Frozen):
    """What is needed to compute the report again.

    Attributes:
        model: Name that the model was loaded by.
        fingerprint: Sha256 over its configuration and weights.
        spec: What was asked, with every choice made: behaviours, units and concepts by name.
        inputs: Sha256 of each file that the spec names, by its path there.
        seed: Of everything random.
        versions: Of packages whose numerics matter, and of the workbench.
        hardware: Processor, memory, device and its number format.
        run_ids: Stored results behind the report, by section.
        seconds: Wall time of each section.
        created: When, UTC, ISO 8601.
    """

    model: str
    fingerprint: str
    spec: AuditSpec
    inputs: dict[str, str] = {}
    seed: int
    versions: dict[str, str]
    hardware: dict[str, str]
    run_ids: dict[str, tuple[str, ...]] = {}
    seconds: dict[str, Number] = {}
    created: str


class Report(Frozen):
    """What was asked of a model, what was found, how sure it is, and what was not looked at.

    Attributes:
        format: Version of this format.
        title: What it is called.
        examined: Facts of the model: name and value.
        findings: The verdict table.
        headlines: Ids of the three most important findings.
        sections: One a question and thing.
        limits: What this audit cannot tell.
        manifest: What is needed to compute it again.
        selftest: What the workbench recovered on this machine; none if it was not run.
    """

    format: Literal[1] = FORMAT
    title: str
    examined: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]
    headlines: tuple[str, ...]
    sections: tuple[Section, ...]
    limits: tuple[str, ...]
    manifest: Manifest
    selftest: SelfTest | None = None

    def finding(self, id_: str) -> Finding:
        """The finding of an id.

        Args:
            id_: Its id.

        Returns:
            The finding.

        Raises:
            KeyError: If there is none.
        """
        for one in self.findings:
            if one.id == id_:
                return one
        raise KeyError(id_)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all findings that were examined."""
        found = {one.verdict for one in self.findings}
        for verdict in ("fail", "warn", "pass"):
            if verdict in found:
                return verdict
        return "not examined"

    def to_json(self) -> str:
        """The report as JSON; `read` takes it back."""
        return self.model_dump_json(by_alias=True, indent=1)

    @property
    def created(self) -> datetime.datetime:
        """When it was made."""
        return datetime.datetime.fromisoformat(self.manifest.created)
