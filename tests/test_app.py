from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from streamlit.runtime.scriptrunner import magic
from streamlit.testing.v1 import AppTest

from tests.visiting import PATIENCE, ROOT, settled, visit
from workbench import app


def test_a_page_that_is_dropped_in_is_found(tmp_path: Path) -> None:
    for folder in ("workbench", "pages"):
        (tmp_path / folder).mkdir()
    shutil.copy(app.__file__, tmp_path / "workbench" / "app.py")
    for name in ("start", "another"):
        text = f'"""{name.title()}: a page."""\nimport streamlit as st\nst.title("I am {name}")\n'
        (tmp_path / "pages" / f"{name}.py").write_text(text)
    at = AppTest.from_file(tmp_path / "workbench" / "app.py").run()
    assert not at.exception
    assert at.title[0].value == "I am start"
    at.switch_page("../pages/another.py").run()
    assert at.title[0].value == "I am another"


def test_the_app_opens_on_start_and_every_page_has_its_own_address() -> None:
    at = AppTest.from_file(ROOT / "workbench" / "app.py").run()
    assert not at.exception
    assert at.title[0].value == "What do you want to know?"
    assert visit("model").title[0].value.startswith("What is this model")


def test_a_link_from_when_the_model_page_was_the_first_leads_to_it() -> None:
    at = AppTest.from_file(ROOT / "workbench" / "app.py", default_timeout=PATIENCE)
    at.query_params["model"] = "modadd-113"
    at = settled(at.run())
    assert at.title[0].value.startswith("What is this model")
    assert at.selectbox(key="model").value == "modadd-113"


def test_pages_are_compiled_and_not_parsed_into_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    # That fails on Python 3.11 while another thread is parsing (gh-106905).
    settings = tomllib.loads((ROOT / "workbench" / ".streamlit" / "config.toml").read_text())
    assert settings["runner"]["magicEnabled"] is False
    parsed: list[str] = []
    monkeypatch.setattr(magic, "add_magic", lambda body, path: parsed.append(path) or body)
    assert visit("runs").title[0].value.endswith("?")
    assert parsed == []
