"""Visits to pages of the app under Streamlit's test driver, shared by the tests of pages."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from workbench import Corpus

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120.0


def visit(page: str, **query: str) -> AppTest:
    """Open a page of the app with an address, and wait until nothing is loading."""
    at = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=PATIENCE)
    for name, value in query.items():
        at.query_params[name] = value
    at.switch_page(f"../pages/{page}.py")
    return settled(at.run())


def settled(at: AppTest) -> AppTest:
    """Rerun until no job is in progress: the browser's polling, by hand."""
    deadline = time.monotonic() + PATIENCE
    while any(button.label == "Cancel" for button in at.button):
        assert time.monotonic() < deadline, "the page is still busy"
        time.sleep(0.1)
        at.run()
    assert not at.exception, at.exception[0].value
    return at


@contextlib.contextmanager
def few_documents(most: int) -> Generator[None]:
    """Let all read the beginning of a bundled corpus; what pages remember of another is dropped."""
    whole = Corpus.bundled
    st.cache_resource.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Corpus, "bundled", lambda model: whole(model, documents=most))
        yield
    st.cache_resource.clear()


def run_in(at: AppTest) -> str:
    """The run that stands in a page's address."""
    value = at.query_params["run"]
    return value if isinstance(value, str) else value[0]


def button(at: AppTest, label: str) -> Any:
    return next(item for item in at.button if item.label.startswith(label))


def unfolded(at: AppTest) -> AppTest:
    """The same page with everything open that is folded."""
    for fold in at.expander:
        at.session_state[f"fold:{fold.label}"] = True
    return settled(at.run())


def texts(at: AppTest) -> str:
    """Everything that the page says, with Markdown's escapes taken out."""
    kinds = (at.title, at.subheader, at.markdown, at.caption, at.info, at.warning, at.error)
    return "\n".join(_plain(str(element.value)) for kind in kinds for element in kind)


def errors(at: AppTest) -> list[str]:
    """What the page says is wrong, with Markdown's escapes taken out."""
    return [_plain(str(error.value)) for error in at.error]


def _plain(markdown: str) -> str:
    return re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", markdown)


def code_of(at: AppTest) -> str:
    """The script at the end of a page, which says the same as the page."""
    return next(item.value for item in at.code if "from analyses import" in item.value)


def printed(script: str) -> str:
    """What a page's script prints; it must run as it stands."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(script, "the page's code", "exec"), {})
    return said.getvalue()
