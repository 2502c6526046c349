"""Pages where nothing can be kept, and with models that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st

from tests import visiting
from tests.faults import system
from workbench.core import runs
from workbench.core.models import memory


@pytest.fixture(autouse=True)
def _own_server() -> Iterator[None]:
    """No job and no model of another test, and none is left to another one."""
    st.cache_resource.clear()
    yield
    st.cache_resource.clear()


def test_a_page_computes_and_shows_and_says_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_RUNS", str(system.no_folder(tmp_path)))
    at = visiting.visit("patching", model="modadd-113", n="8", site="resid_pre")
    assert "Nothing is kept" not in visiting.texts(at)
    at = visiting.settled(visiting.button(at, "Run (").click().run())
    said = visiting.texts(at)
    store = runs.RunStore()
    [kept] = store.runs()
    assert f"Saved as run {kept.id} in {store.folder(kept.id)}" in said
    assert visiting.code_of(at)
    # From now on every page says it.
    at = visiting.visit("runs")
    assert "Nothing is kept: the run could not be kept in" in visiting.texts(at)
    assert not at.error


def test_a_model_that_does_not_fit_is_one_sentence_and_another_one_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(memory.VARIABLE, "0.002")
    at = visiting.visit("weights", model="grammar-4l")
    [error] = [one.value for one in at.error]
    assert "takes 3.7 MB of memory and models may take 2.0 MB together" in error.replace("\\", "")
    at = visiting.visit("weights", model="modadd-113")
    assert not at.error
