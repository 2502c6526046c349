from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from streamlit.runtime.scriptrunner import magic
from streamlit.testing.v1 import AppTest

from tests.visiting import ROOT, visit
from workbench import app


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ('"""Patching: which component does this?\n\nMore: of it.\n"""', "Patching"),
        ('"""A page that asks nothing."""', "Logit lens"),
        ('"""Two\nlines: here."""', "Logit lens"),
        ("x = 1", "Logit lens"),
    ],
)
def test_a_page_is_named_by_what_its_docstring_opens_with(
    tmp_path: Path, source: str, title: str
) -> None:
    page = tmp_path / "logit_lens.py"
    page.write_text(source)
    assert app.page_title(page) == title


def test_a_page_that_is_dropped_in_is_found(tmp_path: Path) -> None:
    for folder in ("workbench", "pages"):
        (tmp_path / folder).mkdir()
    shutil.copy(app.__file__, tmp_path / "workbench" / "app.py")
    for name in ("model", "another"):
        text = f'"""{name.title()}: a page."""\nimport streamlit as st\nst.title("I am {name}")\n'
        (tmp_path / "pages" / f"{name}.py").write_text(text)
    at = AppTest.from_file(tmp_path / "workbench" / "app.py").run()
    assert not at.exception
    assert at.title[0].value == "I am model"
    at.switch_page("../pages/another.py").run()
    assert at.title[0].value == "I am another"


def test_pages_are_compiled_and_not_parsed_into_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    # That fails on Python 3.11 while another thread is parsing (gh-106905).
    settings = tomllib.loads((ROOT / "workbench" / ".streamlit" / "config.toml").read_text())
    assert settings["runner"]["magicEnabled"] is False
    parsed: list[str] = []
    monkeypatch.setattr(magic, "add_magic", lambda body, path: parsed.append(path) or body)
    assert visit("runs").title[0].value.endswith("?")
    assert parsed == []
