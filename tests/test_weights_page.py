"""The Weights page: each section says what the library says, and its code prints the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import workbench
from analyses import grokking, weights
from analyses.weights import composing, spectra
from tests.visiting import button, code_of, errors, printed, settled, texts, unfolded, visit

GRAMMAR, MODADD = "grammar-4l", "modadd-113"


@pytest.fixture(autouse=True, scope="module")
def _fresh() -> None:
    st.cache_resource.clear()


def opened(section: str, model: str = GRAMMAR, **query: str) -> AppTest:
    return visit("weights", model=model, section=section, **query)


def says(at: AppTest, *results: Any) -> None:
    """The page says it, and so does its code, in this order."""
    for result in results:
        assert result.summary() in texts(at)
    assert printed(code_of(at)) == "".join(f"{result.summary()}\n" for result in results)


@pytest.fixture(scope="module")
def grammar() -> Any:
    return workbench.load_model(GRAMMAR)


@pytest.fixture(scope="module")
def modadd() -> Any:
    return workbench.load_model(MODADD)


def test_matrices_and_the_spectrum_of_the_one_in_the_address(grammar: Any) -> None:
    at = opened("Matrices", matrix="head 1.2 W_V")
    says(at, weights.matrices(grammar), weights.spectrum(grammar, "head 1.2 W_V"))
    frame = next(item.value for item in unfolded(at).dataframe if "effective_rank" in item.value)
    assert len(frame) == len(weights.matrices(grammar).names)


def test_a_large_models_matrices_are_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectra, "ALL_UP_TO", 0)
    st.cache_resource.clear()
    at = opened("Matrices", MODADD)
    assert "spectra are computed one by one" in texts(at)
    assert "effective rank" in texts(at)
    st.cache_resource.clear()


def test_heads_with_the_one_in_the_address_and_a_token(grammar: Any) -> None:
    at = opened("Heads", head="2.1", token="cat")
    one = weights.head(grammar, 2, 1)
    row = weights.tokens(grammar, 2, 1, rows=["cat"])
    says(at, weights.copying(grammar), one, row)
    frame = next(item.value for item in at.dataframe if "most" in item.value)
    assert frame["token"].tolist() == ["cat"]
    assert row.top_tokens[0][0].strip() in frame["most"][0]


def test_a_click_on_a_head_opens_it_and_goes_into_the_address(grammar: Any) -> None:
    at = opened("Heads")
    key = f"heads:{GRAMMAR}:copying"
    at.session_state[key] = {"selection": {"points": [{"x": 3, "y": 1}]}}
    settled(at.run())
    assert weights.head(grammar, 1, 3).summary() in texts(at)
    assert at.query_params["head"] in ("1.3", ["1.3"])


def test_matching_and_the_qk_circuit(modadd: Any) -> None:
    shown = {"score": "matching (QK)", "circuit": "QK: what it looks at", "head": "0.2"}
    at = opened("Heads", MODADD, **shown)
    assert weights.tokens(modadd, 0, 2, kind="qk").summary() in texts(at)


def test_a_model_of_many_heads_waits_for_a_click(
    grammar: Any, modadd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyses.weights.heads.copying_seconds", lambda *_: 600.0)
    monkeypatch.setattr("analyses.weights.composing.composition_seconds", lambda *_: 600.0)
    at = opened("Heads", MODADD, head="0.1")
    assert weights.head(modadd, 0, 1).summary() in texts(at)
    settled(button(at, "Compute scores of all heads").click().run())
    assert weights.copying(modadd).summary() in texts(at)
    at = opened("Composition")
    settled(button(at, "Compute composition of heads").click().run())
    assert weights.composition(grammar).summary() in texts(at)


def test_composition_and_the_pair_in_the_address(grammar: Any) -> None:
    # Row 5 is the receiver 2.1, column 3 the sender 0.3.
    at = opened("Composition", pair="5.3")
    found = weights.composition(grammar)
    says(at, found)
    assert "From head 0.3 to head 2.1" in texts(at)
    frame = next(item.value for item in at.dataframe if len(item.value) == 3)
    mine = found.to_frame()
    chosen = mine[
        (mine.sender_layer == 0)
        & (mine.sender_head == 3)
        & (mine.receiver_layer == 2)
        & (mine.receiver_head == 1)
    ]
    assert frame["score"].tolist() == chosen["score"].tolist()
    at = opened("Composition", pair="0.9")
    assert "is not later than head 2.1" in texts(at)


def test_many_heads_are_shown_by_layer_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composing, "DRAWN", 4)
    at = opened("Composition", pair="2.1", heads="0.2")
    assert "From head 1.2 to head 3.0" in texts(at)


def test_one_layer_composes_with_nothing() -> None:
    assert "no head reads what another wrote" in texts(opened("Composition", MODADD))


def test_the_embedding_and_neighbours(modadd: Any) -> None:
    at = opened("Embedding", MODADD, near="5")
    says(at, weights.embedding(modadd), weights.neighbours(modadd, "5"))
    at = opened("Embedding", MODADD, which="unembedding", near="id 7")
    assert weights.neighbours(modadd, 7, which="unembedding").summary() in texts(at)
    at = opened("Embedding", MODADD, near="apple")
    assert "outside the vocabulary" in texts(at)


def test_a_neuron(grammar: Any) -> None:
    at = opened("Neurons", layer="2", neuron="17")
    says(at, weights.neuron(grammar, 2, 17))
    at = opened("Neurons", layer="99", neuron="99999999")
    assert weights.neuron(grammar, 0, 0).summary() in texts(at)


def test_waves_where_there_are_residues(modadd: Any) -> None:
    at = opened("Fourier", MODADD)
    says(at, weights.fourier(modadd))
    at = opened("Fourier")
    assert "which is no prime and `=`" in texts(at) and not at.error


def test_a_checkpoint_of_the_same_training(modadd: Any) -> None:
    run = grokking.bundled_run()
    step = run.steps[4]
    at = opened("Compare", MODADD, **{"with": f"step {step:,} of its training"})
    says(at, weights.compare(run.model(step), modadd))


def test_another_model_is_compared_and_other_shapes_are_a_sentence(grammar: Any) -> None:
    at = opened("Compare", other=GRAMMAR)
    assert weights.compare(grammar, grammar).summary() in texts(at)
    at = opened("Compare", other=MODADD)
    assert "are built differently" in texts(at)


@pytest.mark.real_model
def test_a_folder_from_a_link_is_opened_after_a_click_only(stories: Path) -> None:
    at = opened("Compare", other=str(stories))
    assert "did not come with the workbench" in texts(at) and not at.error
    settled(button(at, "Open it").click().run())
    assert "are built differently" in texts(at)


@pytest.mark.parametrize(
    ("section", "model", "query", "said"),
    [
        ("Matrices", MODADD, {"matrix": "<img src=x>"}, ["matrix = '<img src=x>', which is not"]),
        ("Heads", MODADD, {"head": "99.99", "score": "no"}, ["head = '99.99', which is no cell"]),
        ("Composition", GRAMMAR, {"pair": "a.b", "reads": "<b>"}, ["pair = 'a.b', which is no"]),
        ("Neurons", MODADD, {"layer": "7", "neuron": "-1"}, ["layer = '7'", "neuron = '-1'"]),
        ("nothing", MODADD, {}, []),
    ],
)
def test_a_broken_link_says_what_it_asks_for_in_vain_and_falls_back(
    section: str, model: str, query: dict[str, str], said: list[str]
) -> None:
    at = opened(section, model, **query)
    assert len(errors(at)) == len(said)
    for error, words in zip(errors(at), said, strict=True):
        assert f"The address asks for {words}" in error


def test_a_token_that_is_none_is_a_sentence() -> None:
    at = opened("Heads", MODADD, token="1 2")
    assert "is 2 tokens" in texts(at)
