"""The PDF of a report: whole, the same twice, hostile strings as text, errors as sentences."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from tests.report import example
from workbench.report import pdf
from workbench.report.document import Table


@pytest.fixture(scope="module")
def made() -> bytes:
    return pdf.render(example.report())


def streams(document: bytes) -> bytes:
    """Everything in the PDF's compressed streams."""
    found = re.findall(rb"stream\r?\n(.*?)endstream", document, re.DOTALL)
    opened: list[bytes] = []
    for one in found:
        try:
            opened.append(zlib.decompress(one))
        except zlib.error:
            opened.append(one)
    return b"\n".join(opened)


def test_it_is_a_pdf_of_several_pages_with_vector_figures(made: bytes) -> None:
    assert made.startswith(b"%PDF-")
    pages = re.findall(rb"/Type\s*/Page\b", made + streams(made))
    assert 5 < len(pages) < 20
    # Six figures drawn as paths; a picture would be an image object.
    assert b"/Subtype /Image" not in made + streams(made)


def test_the_same_report_gives_the_same_bytes(made: bytes) -> None:
    assert pdf.render(example.report()) == made


def test_it_is_dated_by_the_report_and_not_by_the_clock(made: bytes) -> None:
    assert b"D:20261122053000" in made + streams(made)


def test_it_runs_nothing_and_leads_nowhere(made: bytes) -> None:
    everything = made + streams(made)
    for name in (b"/JavaScript", b"/JS", b"/URI", b"/Launch", b"/EmbeddedFile", b"/OpenAction"):
        assert name not in everything


def test_a_report_of_nothing_is_set_as_well() -> None:
    assert len(pdf.pictures(example.bare(), ppi=20)) == 2


def test_what_cannot_be_typeset_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "report.typ"
    broken.write_text("#panic()")
    (tmp_path / "look.typ").write_text("")
    monkeypatch.setattr(pdf, "_TEMPLATES", tmp_path)
    with pytest.raises(ValueError, match="the report cannot be typeset as pdf: panicked"):
        pdf.render(example.bare())


def test_of_a_long_table_the_first_rows_are_printed_and_the_rest_is_said_to_be_elsewhere() -> None:
    rows = tuple((f"m{i}", i) for i in range(20))
    made = pdf._table(Table(columns=("unit", "rank"), rows=rows, left_out=44), whole=False)
    assert [row[0] for row in made["rows"]] == [f"m{i}" for i in range(8)]
    assert made["left_out"] == (
        "… 12 more rows in the interactive report (HTML) and in the JSON; 44 further rows not kept "
        "in the report."
    )
    short = pdf._table(Table(columns=("unit", "rank"), rows=rows[:10]), whole=False)
    assert len(short["rows"]) == 10
    assert short["left_out"] == ""


def test_of_a_table_of_a_few_kinds_each_kind_is_printed() -> None:
    rows = tuple((kind, i) for kind in ("largest", "quantile", "smallest") for i in range(8))
    made = pdf._table(Table(columns=("example", "rank"), rows=rows), whole=False)
    assert [row[0] for row in made["rows"]] == ["largest"] * 2 + ["quantile"] * 2 + ["smallest"] * 2
    assert made["left_out"].startswith("… 18 more rows")


def test_a_printed_figure_is_lower_but_no_lower_than_its_rows_need() -> None:
    flat = pdf._lower({"data": [], "layout": {"height": 400}})
    assert flat["layout"]["height"] == 280
    names = {"tickvals": list(range(20)), "ticktext": ["row"] * 20}
    tall = pdf._lower({"data": [], "layout": {"height": 460, "yaxis": names}})
    assert tall["layout"]["height"] == 410
    # Never higher than on a screen.
    assert (
        pdf._lower({"data": [], "layout": {"height": 300, "yaxis": names}})["layout"]["height"]
        == 300
    )
