"""The page of a report: read back, altered, hostile, valid, and closed to everything outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from typing import Any

import html5lib
import pytest

from tests.report import example
from workbench.report import html
from workbench.report.document import Report


@pytest.fixture(scope="module")
def page() -> str:
    return html.render(example.report())


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    """The page as a strict parser of HTML reads it, without the megabytes of Plotly."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(page.replace(html._plotly(), ""))


def of_page(tree: Any, name: str) -> list[Any]:
    return list(tree.iter(name))


def text_of(element: Any) -> str:
    return "".join(element.itertext())


def test_the_page_gives_back_the_report_and_the_report_the_page(page: str) -> None:
    report = Report.model_validate_json(html.read(page))
    assert report == example.report()
    assert html.render(report) == page


def test_a_number_altered_in_the_page_or_in_its_data_is_another_page(page: str) -> None:
    seen = page.replace("<bdi>[0.953, 1]", "<bdi>[0.999, 1]")
    assert seen != page
    # The data, and so the page that they give, are as they were.
    assert html.read(seen) == html.read(page)
    bare = html.render(example.bare())
    within = bare.replace('"seed":0', '"seed":1')
    assert within != bare
    assert html.render(Report.model_validate_json(html.read(within))) != within


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<p>no report</p>", "expected exactly one element .*found 0"),
        (html._OPENING + "{}</script>" + html._OPENING + "{}</script>", "found 2"),
        (html._OPENING + '{"format": 1', "cut off"),
        (html._OPENING + '{"format": </script>', "damaged"),
    ],
)
def test_a_page_that_holds_no_whole_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        html.read(text)


def test_hostile_strings_are_text_and_nothing_else(page: str, tree: Any) -> None:
    body = text_of(of_page(tree, "main")[0])
    for hostile in (*example.HOSTILE[:2], *example.HOSTILE[3:5]):
        assert hostile in body
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩" in body
    assert "⟨U+2028⟩⟨U+2029⟩⟨U+0000⟩⟨U+FEFF⟩⟨U+200B⟩" in body
    assert not re.search(
        "[\u202a-\u202e\u2066-\u2069\u2028\u2029\u0000\ufeff]", page.replace(html._plotly(), "")
    )
    # Every picture is one of ours, every link stays in the page, nothing listens.
    assert all(one.get("src").startswith("data:image/svg+xml;") for one in of_page(tree, "img"))
    assert all(one.get("href").startswith("#") for one in of_page(tree, "a"))
    assert not [one for one in tree.iter() for name in one.attrib if name.startswith("on")]
    assert Counter(one.get("type") for one in of_page(tree, "script")) == {
        "application/json": 2,
        None: 2,
    }


def test_the_page_refers_to_nothing_outside(tree: Any) -> None:
    loading = {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    assert not [one.tag for one in tree.iter() if one.tag in loading]
    assert not [one for one in tree.iter() if one.get("srcset") or one.get("style")]
    sheet = "".join(map(text_of, of_page(tree, "style")))
    assert "url(" not in sheet
    assert "@import" not in sheet


def test_the_policy_allows_the_inline_scripts_and_sheets_by_their_hash_alone(page: str) -> None:
    found = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    policy = dict(one.split(" ", 1) for one in found[1].replace("&#39;", "'").split("; "))
    assert policy["default-src"] == "'none'"
    scripts = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    sheets = re.findall("<style[^>]*>(.*?)</style>", page, re.DOTALL)
    for texts, name in ((scripts, "script-src"), (sheets, "style-src")):
        made = {hashlib.sha256(text.encode()).digest() for text in texts}
        assert set(policy[name].split()) == {
            f"'sha256-{base64.b64encode(one).decode()}'" for one in made
        }
    assert "unsafe-eval" not in found[1]
    assert policy["style-src-attr"] == "'unsafe-inline'"
    assert policy["img-src"] == "data: blob:"


def test_names_are_unique_and_all_that_is_named_is_there(tree: Any) -> None:
    ids = Counter(one.get("id") for one in tree.iter() if one.get("id"))
    assert max(ids.values()) == 1
    for one in of_page(tree, "a"):
        assert one.get("href")[1:] in ids
    for one in tree.iter():
        if one.get("aria-labelledby"):
            assert one.get("aria-labelledby") in ids


def test_headings_go_down_one_step_at_a_time(tree: Any) -> None:
    levels = [int(one.tag[1]) for one in tree.find(".//main").iter() if one.tag in HEADINGS]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))


HEADINGS = {f"h{level}" for level in range(1, 7)}


def test_every_table_has_a_caption_and_every_heading_cell_a_scope(tree: Any) -> None:
    tables = of_page(tree, "table")
    assert all(one.find("caption") is not None for one in tables)
    assert all(one.get("scope") in {"row", "col"} for one in of_page(tree, "th"))


def test_each_figure_has_a_picture_its_words_and_its_numbers(tree: Any) -> None:
    figures = of_page(tree, "figure")
    assert len(figures) == 8
    drawn = [one for one in figures if one.find(".//img") is not None]
    assert len(drawn) == 6
    for one in drawn:
        assert one.find(".//img").get("alt") in text_of(one.find("figcaption"))
        # A picture that waits to be scrolled to may be missing in print.
        assert one.find(".//img").get("loading") is None
        assert len(list(one.find("details").iter("tr"))) > 5
    box, places = figures[5], figures[6]
    # This file is the interactive report: it does not send its reader to another one.
    assert "Drawn on a screen by the script of this page" in text_of(box)
    assert "interactive report" not in text_of(box)
    assert "data-figure" in box.find("div").attrib
    assert "is not drawn; its numbers are in the report's JSON" in text_of(places)
    assert places.find("div") is None or "data-figure" not in places.find("div").attrib


def test_verdicts_are_told_by_sign_and_word(tree: Any) -> None:
    shown = {" ".join(text_of(one).split()) for one in of_page(tree, "span") if is_badge(one)}
    assert shown == {"✓ pass", "! warning", "✗ fail", "– not examined"}


def is_badge(element: Any) -> bool:
    return element.get("class", "").startswith("verdict ")


def test_a_report_of_nothing_says_what_is_absent() -> None:
    page = html.render(example.bare())
    assert html.render(Report.model_validate_json(html.read(page))) == page
    for said in (
        "Nothing was examined.",
        "There are no findings: nothing was asked of this model.",
        "The report names no limits. This does not mean that there are none.",
        "The self-test was not run with this audit",
        "Hardware: none.",
    ):
        assert said in page


def test_the_data_are_plain_json_that_ends_no_element(page: str) -> None:
    found = html.read(page)
    assert not set("<>&\u2028\u2029") & set(found)
    assert json.loads(found) == json.loads(example.report().model_dump_json(by_alias=True))


def test_the_answer_stands_before_what_leads_to_it(tree: Any) -> None:
    article = next(one for one in of_page(tree, "article") if one.find("figure") is not None)
    kinds = [(one.tag, one.get("class", "")) for one in article]
    finding = next(i for i, (tag, _) in enumerate(kinds) if tag == "dl")
    summary = next(i for i, kind in enumerate(kinds) if kind == ("p", "prose"))
    assert finding < summary < kinds.index(("figure", ""))
