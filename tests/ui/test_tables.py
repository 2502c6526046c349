"""Markdown tables."""

from __future__ import annotations

from workbench.ui import tables


def test_rows_become_lines_and_text_stays_text() -> None:
    rows = [{"name": "a|b", "value": 0.123456}, {"name": "![x](http://y)", "value": 3}]
    lines = tables.markdown(rows).splitlines()
    assert lines[:2] == ["| name | value |", "| --- | --- |"]
    assert lines[2] == r"| a\|b | 0\.1235 |"
    assert r"\!\[x\]\(http\://y\)" in lines[3]


def test_no_rows_are_no_table() -> None:
    assert tables.markdown([]) == ""
