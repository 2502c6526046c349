"""The Attention page: every head, one head large, and labels, each as the library says it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import workbench
from analyses import attention
from analyses.attention import patterns
from tests.visiting import button, code_of, errors, printed, settled, texts, unfolded, visit
from workbench.core import runs
from workbench.core.models import card
from workbench.ui import attention_grid

MODEL = "grammar-4l"


@pytest.fixture(scope="module")
def model() -> Any:
    return workbench.load_model(MODEL)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    st.cache_resource.clear()


def opened(**query: str) -> AppTest:
    at = visit("attention", model=MODEL, **query)
    assert not at.error
    return at


def test_it_opens_with_labels_and_shows_a_labelled_head(model: Any) -> None:
    at = unfolded(opened())
    scores = attention.score_heads(model)
    assert scores.summary() in texts(at)
    (layer, head), *_ = scores.heads("match + 4")
    prompt = card.model_card(MODEL).default_prompt
    one = attention.one_head(model, prompt, layer=layer, head=head)
    assert one.summary() in texts(at)
    assert "16 of 16 heads are shown" in texts(at)
    assert one.tokens[-1].strip() in texts(at)
    stored = runs.RunStore().runs("attention.score_heads")
    assert len(stored) == 1


def test_a_link_opens_a_head_a_cell_and_a_kind_of_attention(model: Any) -> None:
    at = opened(prompt="Mary went to the store", head="2.1", cell="3.1", kind="weighted")
    one = attention.one_head(model, "Mary went to the store", layer=2, head=1)
    said = texts(at)
    assert one.summary() in said
    assert "What position 3 (to) looks at most" in said
    assert f"{one.top(3)['attention'].iloc[0]:.4g}" in said
    assert "one.figure('weighted').show()" in code_of(at)
    at = visit("attention", model=MODEL, prompt="Mary went to the store", head="99.1", cell="x")
    assert "What position 5 (store) looks at most" in texts(at)
    assert errors(at) == [
        "The address asks for head = '99.1', which is no head of this model.",
        "The address asks for cell = 'x', which is no cell of this picture.",
    ]


def test_the_filter_hides_heads_below_the_threshold(model: Any) -> None:
    scores = attention.score_heads(model)
    place = scores.place("first position")
    at = opened(by="first position", least="0.6")
    for least in (0.6, 0.3):
        settled(at.slider[0].set_value(least).run())
        n = int((scores.excess[place] >= least).sum())
        assert 0 < n < 16
        assert f"{n} of 16 heads are shown" in texts(at)


def test_a_click_on_a_head_chooses_it(model: Any) -> None:
    at = opened()
    at.session_state[f"heads:{MODEL}"] = {"head": "3.2"}
    settled(at.run())
    assert [item.value for item in at.subheader][0] == "Head 3.2"
    assert at.query_params["head"] in ("3.2", ["3.2"])


def test_what_the_model_needs_is_asked_after_a_click_and_the_code_says_the_same(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = attention.verify_heads
    monkeypatch.setattr(attention, "verify_heads", functools.partial(plain, n_random=5, rows=4))
    at = opened()
    settled(button(at, "Take the attention").click().run())
    scores = attention.score_heads(model)
    name = next(box.value for box in at.selectbox if box.label == "Heads labelled")
    assert name == "match + 4"
    found = attention.verify_heads(model, scores, name=name)
    assert found.summary() in texts(at)
    script = code_of(at).replace(".show()", "")
    said = printed(script)
    assert scores.summary() in said
    assert found.summary() in said


def test_a_model_without_room_for_a_repeat_says_so() -> None:
    at = unfolded(visit("attention", model="modadd-113", by="induction"))
    said = texts(at)
    assert "induction is not measurable in this model: all heads are shown" in said
    assert "4 of 4 heads are shown" in said
    assert "Not measurable: duplicate token, induction" in said


def test_a_prompt_that_cannot_be_read_is_a_sentence() -> None:
    at = visit("attention", model=MODEL, prompt="zebra")
    assert "outside the vocabulary" in at.error[0].value


def test_a_large_model_is_scored_after_a_click_and_shown_layer_by_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Limits of a small model for that of a large one.
    monkeypatch.setattr(attention_grid, "MOST_TILES", 8)
    monkeypatch.setattr(patterns, "MOST_CELLS", 4)
    monkeypatch.setattr(attention, "scoring_seconds", lambda model: 100.0)
    at = opened(layers="2 to 3")
    assert "8 of 8 heads are shown" in texts(at)
    assert next(box.value for box in at.selectbox if box.label == "Layers") == "2 to 3"
    assert [item.value for item in at.subheader][0] == "Head 2.0"
    assert next(item.value for item in at.slider if item.label == "Positions") == (13, 15)
    assert "Labels of all heads" not in [item.label for item in at.expander]
    settled(button(at, "Score every head").click().run())
    assert "16 heads of grammar-4l on 64 random sequences" in texts(unfolded(at))
