"""The tutorials run as they stand there, and no number in them is only claimed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import documents

FOLDER = documents.ROOT / "docs" / "tutorials"
TUTORIALS = sorted(path.stem for path in FOLDER.glob("*.md"))
CAPABILITIES = ["audits", "circuits", "clusters", "features", "grokking", "inspector", "patching"]


def test_there_is_one_for_each_capability() -> None:
    assert TUTORIALS == CAPABILITIES


@pytest.mark.parametrize("name", TUTORIALS)
def test_it_says_what_its_code_prints(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = documents.read(f"docs/tutorials/{name}.md")
    # What a tutorial writes stays in a folder of its own; what it reads lies in the checkout.
    (tmp_path / "docs").symlink_to(documents.ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    said = documents.follow(text)
    unshown = [one for one in documents.claims(text) if not documents.is_shown(one, said)]
    assert unshown == []


@pytest.mark.parametrize("name", TUTORIALS)
def test_it_goes_from_a_question_to_a_control_and_to_what_is_not_said(name: str) -> None:
    text = documents.read(f"docs/tutorials/{name}.md")
    title = text.splitlines()[0]
    assert title.startswith("# ") and title.endswith("?")
    assert "write_html(" in text or "report.html" in text
    assert "## The control" in text
    assert "## What this does not say" in text
    assert len(text.splitlines()) <= 100


class TestTheCheck:
    """A check that lets everything pass would be no check."""

    @pytest.mark.parametrize(
        ("expected", "found"),
        [
            ("loss 0.31 [0.30, 0.32]", "loss 0.312 [0.299, 0.318]"),
            ("p = 4.1e-07", "p = 4.14e-07"),
            ("first ... 7 heads", "first of all: 7 heads"),
            ("-1.25", "-1.26"),
        ],
    )
    def test_what_is_the_same(self, expected: str, found: str) -> None:
        assert documents.first_difference(expected, found) is None

    @pytest.mark.parametrize(
        ("expected", "found"),
        [
            ("loss 0.31", "loss 0.35"),
            ("loss 0.31", "gain 0.31"),
            ("1.25", "-1.25"),
            ("7 heads", "9 heads"),
            ("7 heads", "7 heads more"),
            ("7 heads more", "7 heads"),
            ("first ... 7 heads", "first of all: 7 tails"),
            ("4.1e-07", "4.1e-06"),
        ],
    )
    def test_what_is_not(self, expected: str, found: str) -> None:
        assert documents.first_difference(expected, found) is not None

    def test_a_number_of_the_prose_must_be_among_those_printed(self) -> None:
        text = "It is .92 [.90, .95] of 26 (5.4 %), see [here](a-1.5.md), arXiv 2211.00593.\n"
        assert list(documents.claims(text)) == [".92", ".90", ".95", "5.4%"]
        printed = ["0.925 [0.897, 0.952] 0.0543"]
        assert all(documents.is_shown(one, printed) for one in documents.claims(text))
        assert not documents.is_shown(".97", printed)
        assert not documents.is_shown("6.1%", printed)
