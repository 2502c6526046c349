"""The Features page: a scan, a unit from all sides, a description and what it is worth."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import workbench
from analyses import feature_visualization as features
from tests.test_pages import settled, texts, visit
from workbench import Corpus
from workbench.core import runs
from workbench.core.prompts import corpus as corpora

DOCUMENTS = 200


@pytest.fixture(autouse=True)
def _few_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    st.cache_resource.clear()
    whole = Corpus.bundled
    monkeypatch.setattr(corpora.Corpus, "bundled", lambda model: whole(model, documents=DOCUMENTS))


@pytest.fixture
def page() -> AppTest:
    return visit("features", model="grammar-4l", unit="neuron 0.31")


def described(at: AppTest, text: str) -> AppTest:
    box = next(item for item in at.text_input if item.label.startswith("Tokens with spaces"))
    return settled(box.set_value(text).run())


def units_of(at: AppTest) -> Any:
    return next(item for item in at.selectbox if item.label.startswith("Unit ("))


def test_it_says_what_the_library_says(page: AppTest) -> None:
    model = workbench.load_model("grammar-4l")
    seen, held_out = Corpus.bundled(model).split(0.7)
    scan = features.top_examples(model, seen, "neuron")
    view = features.view_unit(model, seen, scan, "neuron 0.31")
    shown = texts(described(page, "."))
    assert scan.summary() in shown
    assert view.summary() in shown
    stops = features.TokenSet.of(model, ["."])
    assert features.believe(model, held_out, "neuron 0.31", stops).summary() in shown
    assert [len(table.value) for table in page.dataframe] == [20, 13, 20]
    (code,) = [item.value for item in page.code if "view_unit" in item.value]
    assert "description = features.TokenSet.of(model, ['.'])" in code
    # What is shown is stored, and a second visit finds it.
    kinds = {row.analysis for row in runs.RunStore().runs()}
    assert {"feature_visualization.top_examples", "feature_visualization.view_unit"} <= kinds


def test_units_are_found_by_a_token_that_they_are_largest_at(page: AppTest) -> None:
    box = next(item for item in page.text_input if item.label == "Largest at the token")
    at = settled(box.set_value(".").run())
    best = units_of(at).options[0]
    view = features.UnitView.load(
        next(
            runs.RunStore().root / row.id
            for row in runs.RunStore().runs()
            if row.title == f"{best} of grammar-4l"
        )
    )
    tops = [one for one in view.examples if one.kind == "largest"]
    assert all(one.tokens[one.spot] == "." for one in tops)
    assert len(units_of(at).options) < 2048


def test_what_is_wrong_is_said_in_a_sentence(page: AppTest) -> None:
    assert "outside the vocabulary" in described(page, "zebra").error[0].value
    page.selectbox[-1].set_value("matches of a pattern")
    assert "is no regular expression" in described(page, "(").error[0].value
    box = next(item for item in page.text_input if item.label == "Largest at the token")
    at = settled(box.set_value("the king").run())
    assert "2 tokens" in texts(at)


def test_heads_and_a_link_to_a_unit_of_another_kind() -> None:
    at = visit("features", model="grammar-4l", kind="head", unit="neuron 0.31")
    assert len(units_of(at).options) == 16
    assert units_of(at).value.startswith("head ")
    assert "A head writes something else" in texts(at)
