"""The Features page: a scan, its units in an order, by a token and by a description."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import feature_visualization as features
from tests.visiting import few_documents, settled, texts, visit
from workbench import Corpus
from workbench.core import runs

DOCUMENTS = 200


@pytest.fixture(autouse=True)
def _few_documents() -> Generator[None]:
    with few_documents(DOCUMENTS):
        yield


def gallery_of(at: AppTest) -> list[str]:
    """Units that are shown, in their order."""
    return [link.proto.label.strip("*") for link in at.get("page_link")]


def test_it_says_what_the_library_says() -> None:
    model = workbench.load_model("grammar-4l")
    seen, _ = Corpus.bundled(model).split(0.7)
    scan = features.top_examples(model, seen, "neuron")
    at = visit("features", model="grammar-4l")
    assert scan.summary() in texts(at)
    order = (-scan.top_values[:, 0]).argsort(kind="stable")
    assert gallery_of(at) == [scan.units[i] for i in order[:6]]
    (code,) = [item.value for item in at.code if "top_examples" in item.value]
    assert "seen, held_out = Corpus.bundled(model).split(0.7)" in code
    # What is shown is stored, and a second visit finds it.
    kinds = {row.analysis for row in runs.RunStore().runs()}
    assert "feature_visualization.top_examples" in kinds


def test_units_are_found_by_a_token_that_they_are_largest_at() -> None:
    model = workbench.load_model("grammar-4l")
    seen, _ = Corpus.bundled(model).split(0.7)
    at = visit("features", model="grammar-4l", find="at a token", token=".")
    (stop,) = features.TokenSet.of(model, ["."]).tokens
    scan = features.top_examples(model, seen, "neuron")
    share = dict(zip(scan.units, (scan.tokens_at_top(seen) == stop).mean(1), strict=True))
    shown = gallery_of(at)
    assert len(shown) == 6
    assert all(share[unit] == 1 for unit in shown)
    assert "2 tokens" in texts(
        visit("features", model="grammar-4l", find="at a token", token="the king")
    )


def test_units_are_found_by_a_description() -> None:
    asked = {"find": "by a description", "concept-kind": "hypothesis"}
    at = visit("features", model="grammar-4l", **asked, **{"concept-text": 'at "."'})
    model = workbench.load_model("grammar-4l")
    seen, _ = Corpus.bundled(model).split(0.7)
    found = features.find_units(model, seen, features.described(model, "hypothesis", 'at "."'))
    assert found.summary() in texts(at)
    assert gallery_of(at) == list(found.units[:6])
    (code,) = [item.value for item in at.code if "find_units" in item.value]
    assert "features.described(model, 'hypothesis', 'at \".\"')" in code
    text = next(item for item in at.text_input if item.key == "concept-text")
    assert "at" in settled(text.set_value("whenever it likes").run()).error[0].value


def test_heads_have_their_own_scan() -> None:
    at = visit("features", model="grammar-4l", kind="head")
    assert all(unit.startswith("head ") for unit in gallery_of(at))
    assert "16 units" in texts(at)
