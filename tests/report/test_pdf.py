"""The PDF of a report: whole, the same twice, hostile strings as text, errors as sentences."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from tests.report import example
from workbench.report import pdf


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
    assert len(pdf.pictures(example.bare(), ppi=20)) == 3


def test_what_cannot_be_typeset_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "report.typ"
    broken.write_text("#panic()")
    monkeypatch.setattr(pdf, "_TEMPLATE", broken)
    with pytest.raises(ValueError, match="the report cannot be typeset as pdf: panicked"):
        pdf.render(example.bare())
