"""Which pages there are is read from their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.ui import contents

PAGES = Path(__file__).resolve().parents[2] / "pages"


@pytest.mark.parametrize(
    ("source", "title", "question"),
    [
        ('"""Patching: which component?\n\nMore: of it.\n"""', "Patching", "which component?"),
        ('"""Runs: what is there?"""\nx = "a: b?"', "Runs", "what is there?"),
        ('"""Runs: all of them.\n"""', "Runs", ""),
        ('"""A page that asks nothing."""', "Logit lens", ""),
        ('"""Two\nlines: here?"""', "Logit lens", ""),
        ('x = 1\n"""Runs: late?"""', "Logit lens", ""),
        ("x = 1", "Logit lens", ""),
    ],
)
def test_a_page_is_what_its_docstring_opens_with(
    tmp_path: Path, source: str, title: str, question: str
) -> None:
    page = tmp_path / "logit_lens.py"
    page.write_text(source)
    assert contents.read(page) == contents.Page(page, title, question)


def test_pages_stand_under_their_questions_and_a_new_one_under_the_last(tmp_path: Path) -> None:
    for stem in ("start", "patching", "circuits", "zebra", "ant"):
        (tmp_path / f"{stem}.py").write_text(f'"""{stem.title()}: what?"""\n')
    found = {
        heading: [page.title for page in pages]
        for heading, pages in contents.grouped(tmp_path).items()
    }
    assert found == {
        "Which component carries it?": ["Patching", "Circuits"],
        contents.OTHERS: ["Ant", "Zebra"],
    }


def test_every_page_of_the_workbench_has_a_heading_of_its_own_and_asks_something() -> None:
    found = contents.grouped(PAGES)
    assert list(found) == list(contents.GROUPS)
    assert all(page.question for pages in found.values() for page in pages)
