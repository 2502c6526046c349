"""A report as a PDF: typeset by Typst, with vector figures and fonts that are brought along.

1. Everything that is shown becomes plain JSON: words by `wording`, figures by `vector`. Typst reads
   it as data, so that no string in a report is ever markup or code.
2. `templates/report.typ` sets it: a first page with verdicts, a section a question, limits,
   manifest, appendix; headers and footers carry the fingerprint and the page. A comparison is
   `templates/comparison.typ`; what both have in common is `templates/look.typ`.
3. A page is for reading: of a long table the first rows are printed, and it is said how many more
   the HTML and the JSON have; figures are lower than on a screen.
4. Typst sees one temporary folder, no packages and no fonts but its own and matplotlib's DejaVu, so
   that the same report gives the same bytes. Its date is the report's.

Limits: a character that these fonts lack (Chinese, emoji) is shown as its code point. Figures that
only a browser can draw are said to be in the interactive report.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.report import document, figures, vector, wording

if TYPE_CHECKING:
    from workbench.report import changes
    from workbench.report.comparing import Comparison

_TEMPLATES = Path(__file__).parent / "templates"
_LOOK = "look.typ"
# Rows of a table that are printed, and of one that is printed whole.
_ROWS, _WHOLE = 8, 10
# Kinds of rows of which some each are printed.
_KINDS = 4
# Of the height that a figure has on a screen; less would push the labels of rows into one another.
_LOWER = 0.7
_PIXELS_OF_A_ROW, _PIXELS_AROUND = 15, 110


def render(report: document.Report) -> bytes:
    """Write a report as a PDF.

    Args:
        report: The report.

    Returns:
        The PDF.

    Raises:
        ValueError: If it cannot be typeset.
    """
    return _compiled(_of_report(report), "pdf")[0]


def render_comparison(comparison: Comparison) -> bytes:
    """Write a comparison as a PDF.

    Args:
        comparison: The comparison.

    Returns:
        The PDF.

    Raises:
        ValueError: If it cannot be typeset.
    """
    return _compiled(_of_comparison(comparison), "pdf")[0]


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
    return _compiled(_of_report(report), "png", ppi=float(ppi))


def pictures_of_comparison(comparison: Comparison, *, ppi: int = 80) -> list[bytes]:
    """The pages of the PDF of a comparison as pictures.

    Args:
        comparison: The comparison.
        ppi: Pixels an inch.

    Returns:
        A PNG a page.

    Raises:
        ValueError: If it cannot be typeset.
    """
    return _compiled(_of_comparison(comparison), "png", ppi=float(ppi))


@dataclasses.dataclass(frozen=True)
class _Document:
    """What is typeset.

    Attributes:
        template: Name of the template.
        what: What it is called where it cannot be typeset.
        created: When it was made.
        contents: Gives everything that the template shows; pictures are written into a folder.
    """

    template: str
    what: str
    created: datetime.datetime
    contents: Callable[[Path], dict[str, Any]]


def _of_report(report: document.Report) -> _Document:
    return _Document(
        "report.typ", "report", report.created, lambda folder: _contents(report, folder)
    )


def _of_comparison(comparison: Comparison) -> _Document:
    return _Document(
        "comparison.typ",
        "comparison",
        comparison.reports[1].created,
        lambda folder: _contents_of_both(comparison, folder),
    )


def _compiled(
    made: _Document, form: Literal["pdf", "png"], *, ppi: float | None = None
) -> list[bytes]:
    import matplotlib as mpl
    import typst

    with tempfile.TemporaryDirectory(prefix="workbench-report-") as name:
        folder = Path(name)
        for template in (_LOOK, made.template):
            (folder / template).write_bytes((_TEMPLATES / template).read_bytes())
        shown = _printable(made.contents(folder))
        (folder / "document.json").write_text(json.dumps(shown), encoding="utf-8")
        try:
            typeset = typst.compile(
                str(folder / made.template),
                root=str(folder),
                font_paths=[str(Path(mpl.get_data_path()) / "fonts" / "ttf")],
                ignore_system_fonts=True,
                format=form,
                timestamp=int(made.created.timestamp()),
                ppi=ppi,
            )
        except typst.TypstError as error:
            raise ValueError(f"the {made.what} cannot be typeset as {form}: {error}") from error
    pages = typeset if isinstance(typeset, list) else [typeset]
    return [page for page in pages if isinstance(page, bytes)]


def _contents(report: document.Report, folder: Path) -> dict[str, Any]:
    """Everything that the template shows; pictures are written beside it."""
    labels = wording.labels(report)
    return {
        **_common("Model audit", wording.title(report), (report,)),
        "verdict": report.verdict,
        "overall": wording.OVERALL[report.verdict],
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
        "confidence": f"{100 * report.manifest.spec.confidence:g}%",
        "limits": list(report.limits),
        "manifest": _manifest(report),
        "spec": wording.spec_text(report),
        "selftest": _selftest(report.selftest),
    }


def _contents_of_both(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Everything that the template of a comparison shows."""
    from workbench.report import changes

    story = changes.tell(comparison)
    first, second = comparison.reports
    return {
        **_common("Model comparison", story.title, comparison.reports),
        "outcome": story.outcome,
        "names": list(comparison.names),
        "headlines": [dataclasses.asdict(one) for one in story.headlines],
        "moved": [_judged(one) for one in story.moved],
        "unmoved": [_judged(one) for one in story.unmoved],
        "examined": [list(row) for row in story.examined],
        "confidence": story.confidence,
        "exhibits": [
            # What changed is what the document is about: all of it is printed.
            _exhibit(one, label, folder, whole=one is story.changed)
            for label, one in story.exhibits
        ],
        "left-out": list(story.left_out),
        "limits": list(story.limits),
        "manifests": [_manifest(first), _manifest(second)],
        "spec": wording.spec_text(second),
    }


def _judged(one: changes.Judged) -> dict[str, Any]:
    return {
        "about": one.about,
        "question": one.question,
        "verdicts": [one.first, one.second],
        "statements": list(one.statements),
    }


def _common(kind: str, title: str, reports: Sequence[document.Report]) -> dict[str, Any]:
    """What `look.typ` shows on every page."""
    return {
        "kind": kind,
        "title": title,
        "of": "model" if len(reports) == 1 else "models",
        "fingerprints": [one.manifest.fingerprint for one in reports],
        "created": wording.when(reports[-1]),
        "signs": wording.SIGNS,
        "words": wording.WORDS,
        "absent": sorted(wording.ABSENT),
    }


def _manifest(report: document.Report) -> list[dict[str, Any]]:
    return [
        {"title": title, "rows": [list(row) for row in rows]}
        for title, rows in wording.manifest_rows(report)
    ]


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


def _exhibit(
    one: document.Exhibit, label: str, folder: Path, *, whole: bool = False
) -> dict[str, Any]:
    picture, reason = "", ""
    if one.figure is not None:
        try:
            drawn = vector.draw(_lower(one.figure))
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
        "table": None if one.table is None else _table(one.table, whole=whole),
    }


def _lower(figure: figures.Json) -> dict[str, Any]:
    """The same figure with less height, as far as the names on its vertical axes allow."""
    named = [
        len(figures.tick_texts(axis))
        for name, axis in figures.layout(figure).items()
        if name.startswith("yaxis") and isinstance(axis, dict)
    ]
    usual = vector.height(figure)
    least = _PIXELS_AROUND + _PIXELS_OF_A_ROW * max(named, default=0)
    height = min(usual, max(round(_LOWER * usual), least))
    return {**figure, "layout": {**figures.layout(figure), "height": height}}


def _table(table: document.Table, *, whole: bool) -> dict[str, Any]:
    printed = list(table.rows) if whole else _printed(table.rows)
    return {
        "columns": list(table.columns),
        "rows": [[wording.number(cell) for cell in row] for row in printed],
        "numbers": [_is_of_numbers(table, column) for column in range(len(table.columns))],
        "left_out": wording.left_out(len(table.rows) - len(printed), table.left_out),
    }


def _printed(rows: Sequence[tuple[document.Cell, ...]]) -> list[tuple[document.Cell, ...]]:
    """The rows that are printed: of each kind, where the first column names a few kinds."""
    if len(rows) <= _WHOLE:
        return list(rows)
    kinds = dict.fromkeys(row[0] for row in rows if row)
    if not 1 < len(kinds) <= _KINDS or not all(isinstance(one, str) for one in kinds):
        return list(rows[:_ROWS])
    most = _ROWS // len(kinds)
    return [row for kind in kinds for row in [one for one in rows if one[0] == kind][:most]]


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
