"""Addresses of pages that somebody else has written: every parameter that a page knows."""

from __future__ import annotations

import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.fuzz import drawing, effort, watching
from workbench.core import runs
from workbench.ui import jobs
from workbench.ui.shelf import shelf

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.stem for path in (ROOT / "pages").glob("*.py"))
_READ = re.compile(r"query_params(?:\.get|\.get_all|\.pop)?[\[(]\"([\w-]+)\"")
_CONSTANT = re.compile(r"^(?:QUERY|POSITION|ANSWER|[A-Z, ]*WRONG) = (.*)$", re.MULTILINE)
_BOUND = re.compile(r"key=\"([\w-]+)\"(?:(?!key=)[^@])*?bind=\"query-params\"", re.DOTALL)
_PICKED = re.compile(r"query=\"([\w-]+)\"")
VALUES = (
    *(text for text in drawing.TEXTS if text and not re.search(r"[\ud800-\udfff]", text)),
    "-99999999999999999999",
    "99999999999999999999.5",
    "0.999.0",
    "1e309",
    "0123456789abcdef",
    "0123456789abcdef,fedcba9876543210",
    "../../../../etc/passwd.jsonl",
    "neuron 99.99",
    "resid_post.-1",
    "modadd-113@step-99999999999",
    "true,false",
)
# Reruns of a page while what it asks for is made in the background.
PATIENCE = 1 + (effort.TIMES > 1)
_MARKUP = re.compile(r"(?<!\\)(?:<(?:img|script)|!\[\]\(http|\]\(javascript:)")


def known() -> list[str]:
    """Every parameter that any page reads or writes."""
    found: set[str] = set()
    for path in (*(ROOT / "pages").glob("*.py"), *(ROOT / "workbench" / "ui").glob("*.py")):
        text = path.read_text()
        found.update(_READ.findall(text), _BOUND.findall(text), _PICKED.findall(text))
        for constant in _CONSTANT.findall(text):
            found.update(re.findall(r"\"(\w+)\"", constant))
    return sorted(found - {"model"})


@pytest.fixture(scope="module", autouse=True)
def _opened() -> Any:
    """A model that every page finds loaded; what pages have begun ends with the tests."""
    # A library of it asks git for its own version when it is imported.
    importlib.import_module("sae_lens")

    from workbench.core.models import sources

    shelf().put("grammar-4l", sources.load_model("grammar-4l"))
    yield
    begun = list(jobs.manager()._jobs.values())
    jobs.manager().close()
    # Torch ends a process badly in which it is still computing.
    assert all(job.wait(60) for job in begun)


def visit(page: str, query: dict[str, str]) -> None:
    at = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.switch_page(f"../pages/{page}.py")
    with watching.watched(runs.default_root()):
        for _ in range(PATIENCE):
            at.run()
            assert not at.exception, (
                page,
                query,
                at.exception[0].value,
                at.exception[0].stack_trace,
            )
            if not any(button.label == "Cancel" for button in at.button):
                break
    require_escaped(at)


def require_escaped(at: AppTest) -> None:
    """Nothing that came with an address is markup."""
    kinds = (at.title, at.header, at.subheader, at.markdown, at.caption, at.info, at.warning)
    for element in itertools.chain(*kinds, at.error, at.success):
        assert not _MARKUP.search(str(element.value)), element.value
        watching.require_plain(str(element.value).replace("\t", " "))


def test_every_page_has_parameters() -> None:
    assert {"prompt", "run", "corpus", "task", "n", "layer"} & set(known())
    assert len(known()) > 30


@pytest.mark.parametrize("page", PAGES)
def test_hostile_addresses_are_shown_as_text(page: str) -> None:
    names = known()
    turn = PAGES.index(page)
    for at in range(effort.TIMES):
        start = turn * 7 + at
        query = {name: VALUES[(start + i * 5) % len(VALUES)] for i, name in enumerate(names)}
        visit(page, {"model": "grammar-4l", **query})


@pytest.mark.parametrize("name", VALUES[::3], ids=range(len(VALUES[::3])))
def test_a_hostile_model_is_not_opened_by_a_link(name: str) -> None:
    visit("model", {"model": name})
