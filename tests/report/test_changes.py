"""What a page about two models says: the right changes first, numbers as in its JSON, no harm."""

from __future__ import annotations

import json
import re
from typing import Any

import html5lib
import pytest

from tests.report import example
from workbench.report import changes, comparing, figures, html, pdf, vector, wording
from workbench.report.comparing import Change, Comparison
from workbench.report.document import Measured


@pytest.fixture(scope="module")
def page() -> str:
    return html.render_comparison(example.comparison())


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parse(page.replace(html._plotly(), ""))


def text_of(element: Any) -> str:
    return "".join(element.itertext())


def change(about: str, **fields: Any) -> Change:
    plain = {
        "id": f"circuit/{about}",
        "question": "circuit",
        "about": about,
        "name": "size",
        "first": Measured(name="size", value=0.5, low=0.4, high=0.6),
        "second": Measured(name="size", value=0.8, low=0.7, high=0.9),
        "difference": 0.3,
        "rule": "intervals",
        "changed": True,
    }
    return Change.model_validate(plain | fields)


def of(*made: Change, **fields: Any) -> Comparison:
    return example.comparison().model_copy(update={"changes": made, **fields})


def test_the_most_important_changes_are_told_with_interval_and_caveat() -> None:
    first, second = changes.important(example.comparison())
    assert first.statement == ("subject-verb agreement: accuracy fell by 0.25 [0.1406, 0.3594].")
    assert "0.9844 [0.9531, 1] became 0.7344 [0.625, 0.8281]" in first.evidence
    assert "the same 64 prompts (adjusted p = 0.01235)" in first.evidence
    assert first.evidence.endswith("The verdict was pass and is fail.")
    assert "two trainings alike" in first.caveat and "One template." in first.caveat
    assert second.statement.endswith("fell from 0.913 to 0.512.")
    assert "[0.882, 0.941]" in second.evidence and "[0.4321, 0.5987]" in second.evidence


def test_a_changed_verdict_comes_first_then_each_finding_once_the_largest_change_before() -> None:
    other = example.comparison().reports[0].findings[0].id
    wide = Measured(name="size", value=0.8, low=0.61, high=1.2)
    found = of(
        change("a"),
        change("a", name="wide", second=wide),
        change("b"),
        change("c", id=other, question="units"),
    )
    # Of two verdicts that changed, the one that fails now.
    pairs = [comparing.VerdictPair(id="circuit/b", first="pass", second="warn")]
    found = found.model_copy(update={"verdicts": (*found.verdicts, *pairs)})
    told = [one.statement.split(" ")[:2] for one in changes.important(found)]
    assert told == [["c:", "size"], ["b:", "size"], ["a:", "size"]]


def test_where_nothing_changed_the_page_says_that_this_is_no_proof() -> None:
    same = change("a", changed=False, first=Measured(name="size", value=0.8))
    quiet = tuple(
        one.model_copy(update={"second": one.first}) for one in example.comparison().verdicts
    )
    found = of(same, verdicts=quiet)
    story = changes.tell(found)
    assert story.headlines == () and story.changed is None and story.moved == ()
    assert story.outcome == f"0 of 7 verdicts and 0 of 1 numbers with intervals changed. {_NONE}"
    page = html.render_comparison(found)
    assert "No number was shown to change." in page and "No verdict changed." in page


_NONE = comparing.NO_CHANGE


def test_one_model_twice_is_said_to_be_one() -> None:
    one = example.comparison().reports[0]
    assert "one and the same model" in changes.tell(of(reports=(one, one))).outcome


def test_the_figures_show_the_numbers_of_the_comparison() -> None:
    found = example.comparison()
    forest, both = changes.differences(found), changes.both(found)
    assert forest is not None and forest.figure is not None
    assert both is not None and both.figure is not None
    moved, still = figures.traces(forest.figure)
    assert (moved["name"], moved["x"], moved["y"]) == ("changed", [-0.25], [0])
    assert moved["error_x"]["array"] == [pytest.approx(0.109375)]
    assert moved["error_x"]["arrayminus"] == [pytest.approx(0.109375)]
    assert (still["name"], still["x"], still["y"]) == ("not shown to change", [0.03125], [1])
    a, b = figures.traces(both.figure)
    assert (a["x"], b["x"]) == ([0.913], [0.512])
    # Both are drawn without a browser too.
    assert all("<svg" in vector.draw(one.figure or {}) for one in (forest, both))
    assert changes.differences(of()) is None and changes.both(of()) is None


def test_a_figure_of_many_numbers_says_how_many_it_leaves_to_the_tables() -> None:
    many = [change(f"a{i}", name=f"number {i}") for i in range(9)]
    both = changes.both(of(*many))
    assert both is not None and both.figure is not None
    assert both.caption.endswith("3 more are in the tables alone.")
    assert len(figures.traces(both.figure)) == 12


def test_the_page_gives_back_the_comparison_and_shows_its_numbers(page: str, tree: Any) -> None:
    found = example.comparison()
    read = Comparison.model_validate_json(html.read_comparison(page))
    assert read == found
    assert html.render_comparison(read) == page
    assert json.loads(html.read_comparison(page)) == json.loads(found.to_json())
    cells = {" ".join(text_of(one).split()) for one in tree.iter("td")}
    for one in found.changes:
        for shown in (one.first, one.second, one.gap):
            assert comparing.told(shown) in cells
    with pytest.raises(ValueError, match="no report of the workbench"):
        html.read(page)
    with pytest.raises(ValueError, match="no comparison of the workbench"):
        html.read_comparison("<p>nothing</p>")


def test_verdicts_that_changed_stand_apart_from_those_that_did_not(tree: Any) -> None:
    moved, same = (one for one in tree.iter("table") if one.get("class", "") == "verdicts two")
    assert [text_of(one).split()[0] for one in moved.iter("th")][3:] == ["subject-verb"]
    badges = [
        text_of(one).split()[1]
        for one in moved.iter("span")
        if one.get("class", "")[:8] == "verdict "
    ]
    assert badges == ["pass", "fail"]
    assert len(list(same.iter("tr"))) == 1 + 6


def test_hostile_strings_are_text_and_nothing_else(page: str, tree: Any) -> None:
    body = text_of(next(tree.iter("main")))
    for hostile in example.HOSTILE[:2]:
        assert hostile in body
    assert "⟨U+202E⟩gnp.exe⟨U+202C⟩" in body
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", page.replace(html._plotly(), ""))
    assert all(one.get("src").startswith("data:image/svg+xml;") for one in tree.iter("img"))
    assert all(one.get("href").startswith("#") for one in tree.iter("a"))
    assert not [one for one in tree.iter() for name in one.attrib if name.startswith("on")]
    loading = {"link", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    assert not [one.tag for one in tree.iter() if one.tag in loading]


def test_the_page_has_the_policy_of_a_report(page: str) -> None:
    policy = re.compile('http-equiv="Content-Security-Policy" content="([^"]*)"')
    found, of_report = policy.search(page), policy.search(html.render(example.bare()))
    assert found is not None and of_report is not None
    assert found[1] == of_report[1]


def test_headings_names_and_tables_are_in_order(tree: Any) -> None:
    ids = [one.get("id") for one in tree.iter() if one.get("id")]
    assert len(ids) == len(set(ids))
    assert all(one.get("href")[1:] in ids for one in tree.iter("a"))
    levels = [int(one.tag[1]) for one in next(tree.iter("main")).iter() if one.tag in _HEADINGS]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in zip(levels, levels[1:], strict=False))
    assert all(one.find("caption") is not None for one in tree.iter("table"))
    assert all(one.get("scope") in {"row", "col"} for one in tree.iter("th"))


_HEADINGS = {f"h{level}" for level in range(1, 7)}


def test_a_comparison_is_typeset_the_same_twice() -> None:
    made = pdf.render_comparison(example.comparison())
    assert made.startswith(b"%PDF-")
    assert pdf.render_comparison(example.comparison()) == made
    assert 2 < len(pdf.pictures_of_comparison(example.comparison(), ppi=20)) < 9


def test_all_that_changed_is_printed_and_of_the_rest_the_first_rows() -> None:
    found = of(*(change(f"a{i}") for i in range(15)), *(_same(i) for i in range(15)))
    story = changes.tell(found)
    assert story.changed is not None and story.changed.table is not None
    assert story.others is not None and story.others.table is not None
    printed = pdf._table(story.changed.table, whole=True)
    rest = pdf._table(story.others.table, whole=False)
    assert len(printed["rows"]) == 15 and printed["left_out"] == ""
    assert len(rest["rows"]) == 8
    assert rest["left_out"] == "… 7 more rows in the interactive report (HTML) and in the JSON."
    assert rest["rows"][0][-1] == "not shown to change"
    assert wording.left_out(0, 0) == ""


def _same(index: int) -> Change:
    return change(f"b{index}", changed=False)
