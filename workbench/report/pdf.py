"""A report as a PDF: typeset by Typst, with vector figures and fonts that are brought along.

1. Everything that is shown becomes plain JSON: words by `wording`, figures by `vector`. Typst reads
   it as data, so that no string in a report is ever markup or code.
2. `templates/report.typ` sets it: a first page with verdicts, a section a question, limits,
   manifest, appendix; headers and footers carry the fingerprint and the page.
3. Typst sees one temporary folder, no packages and no fonts but its own and matplotlib's DejaVu, so
   that the same report gives the same bytes. Its date is the report's.

Limits: a character that these fonts lack (Chinese, emoji) is shown as its code point. Figures that
only a browser can draw are said to be in the interactive report.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from workbench.report import document, figures, vector, wording

_TEMPLATE = Path(__file__).parent / "templates" / "report.typ"


def render(report: document.Report) -> bytes:
    """Write a report as a PDF.

    Args:
        report: The report.

    Returns:
        The PDF.

    Raises:
        ValueError: If it cannot be typeset.
    """
    return _compiled(report, "pdf")[0]


def pictures(report: document.Report, *, ppi: int = 80) -> list[bytes]:
    """The pages of the PDF as pictures, for a preview.

    Args:
        report: The report.
        ppi: Pixels an inch.

    Returns:
        A PNG a page.

    Raises:
        ValueError: If it cannot be typeset.
    """
    return _compiled(report, "png", ppi=float(ppi))


def _compiled(
    report: document.Report, form: Literal["pdf", "png"], *, ppi: float | None = None
) -> list[bytes]:
    import matplotlib as mpl
    import typst

    with tempfile.TemporaryDirectory(prefix="workbench-report-") as name:
        folder = Path(name)
        (folder / "report.typ").write_bytes(_TEMPLATE.read_bytes())
        shown = _printable(_contents(report, folder))
        (folder / "report.json").write_text(json.dumps(shown), encoding="utf-8")
        try:
            made = typst.compile(
                str(folder / "report.typ"),
                root=str(folder),
                font_paths=[str(Path(mpl.get_data_path()) / "fonts" / "ttf")],
                ignore_system_fonts=True,
                format=form,
                timestamp=int(report.created.timestamp()),
                ppi=ppi,
            )
        except typst.TypstError as error:
            raise ValueError(f"the report cannot be typeset as {form}: {error}") from error
    pages = made if isinstance(made, list) else [made]
    return [page for page in pages if isinstance(page, bytes)]


def _contents(report: document.Report, folder: Path) -> dict[str, Any]:
    """Everything that the template shows; pictures are written beside it."""
    labels = wording.labels(report)
    return {
        "title": wording.title(report),
        "verdict": report.verdict,
        "overall": wording.OVERALL[report.verdict],
        "signs": wording.SIGNS,
        "words": wording.WORDS,
        "counts": [[verdict, count] for verdict, count in wording.counts(report)],
        "examined": [list(row) for row in report.examined],
        "headlines": [_finding(one) for one in wording.headlines(report)],
        "groups": [
            {
                "title": group.title,
                "parts": [_part(part, report, labels, folder) for part in group.parts],
            }
            for group in wording.groups(report)
            if group.parts
        ],
        "unasked": [group.title for group in wording.groups(report) if not group.parts],
        "measured": list(wording.MEASURED_COLUMNS),
        "absent": sorted(wording.ABSENT),
        "confidence": f"{100 * report.manifest.spec.confidence:g}%",
        "limits": list(report.limits),
        "manifest": [
            {"title": title, "rows": [list(row) for row in rows]}
            for title, rows in wording.manifest_rows(report)
        ],
        "spec": wording.spec_text(report),
        "selftest": _selftest(report.selftest),
        "fingerprint": report.manifest.fingerprint,
        "created": report.manifest.created,
    }


def _finding(one: document.Finding) -> dict[str, Any]:
    return {
        "about": one.about,
        "verdict": one.verdict,
        "statement": one.statement,
        "evidence": one.evidence or "None is given.",
        "caveat": one.caveat or "None is given.",
        "reason": one.reason,
    }


def _part(
    part: wording.Part,
    report: document.Report,
    labels: dict[tuple[str, int], str],
    folder: Path,
) -> dict[str, Any]:
    finding, section = part.finding, part.section
    made: dict[str, Any] = {
        "anchor": part.anchor,
        "finding": None if finding is None else _finding(finding),
        "title": section.title if section else "" if finding is None else finding.about,
        "section": None,
    }
    if section is None:
        return made
    numbers = section.measured or (() if finding is None else finding.measured)
    made["section"] = {
        "asked": section.asked,
        "summary": section.summary,
        "method": section.method or "Not given.",
        "papers": list(section.papers),
        "exhibits": [
            _exhibit(one, labels[section.id, index], folder)
            for index, one in enumerate(section.exhibits)
        ],
        "measured": [list(wording.measured_row(one)) for one in numbers],
        "caveats": list(section.caveats),
        "runs": list(section.run_ids),
        "seconds": wording.seconds(section.seconds),
    }
    return made


def _exhibit(one: document.Exhibit, label: str, folder: Path) -> dict[str, Any]:
    picture, reason = "", ""
    if one.figure is not None:
        try:
            drawn = vector.draw(one.figure)
            picture = f"{label.replace(' ', '-')}.svg"
            (folder / picture).write_text(drawn, encoding="utf-8")
        except vector.CannotDraw:
            kinds = {figures.kind(trace) for trace in figures.traces(one.figure)}
            shown = kinds <= figures.INTERACTIVE
            reason = wording.INTERACTIVE_ONLY if shown else wording.NOT_DRAWN
    elif one.table is None:
        reason = wording.NOTHING_KEPT
    return {
        "label": label,
        "caption": one.caption,
        "picture": picture,
        "reason": reason,
        "table": None if one.table is None else _table(one.table),
    }


def _table(table: document.Table) -> dict[str, Any]:
    return {
        "columns": list(table.columns),
        "rows": [[wording.number(cell) for cell in row] for row in table.rows],
        "numbers": [_is_of_numbers(table, column) for column in range(len(table.columns))],
        "left_out": wording.number(table.left_out) if table.left_out else "",
    }


def _is_of_numbers(table: document.Table, column: int) -> bool:
    cells = [row[column] for row in table.rows if row[column] is not None]
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in cells)


def _selftest(made: document.SelfTest | None) -> dict[str, Any] | None:
    if made is None:
        return None
    return {
        "passed": made.passed,
        "seconds": wording.seconds(made.seconds),
        "rows": [
            {
                "verdict": "pass" if row.right else "fail",
                "cells": [
                    row.analysis,
                    row.planted,
                    row.recovered,
                    wording.number(row.measured),
                    row.bound or "none",
                ],
            }
            for row in made.rows
        ],
    }


def _printable(value: Any) -> Any:
    """The same data with every string as the fonts can print it."""
    if isinstance(value, str):
        return vector.printable(value)
    if isinstance(value, list):
        return [_printable(one) for one in value]
    if isinstance(value, dict):
        return {key: _printable(one) for key, one in value.items()}
    return value
