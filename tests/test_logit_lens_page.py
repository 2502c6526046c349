"""The Logit lens page says what the library says, and trains a tuned lens to compare it with."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import logit_lens
from tests.visiting import (
    button,
    code_of,
    errors,
    few_documents,
    printed,
    settled,
    texts,
    unfolded,
    visit,
)
from workbench import Corpus
from workbench.core import runs
from workbench.core.engine import continuation
from workbench.core.prompts.prompt import Prompt

PROMPT = "When Mary and John went to the store, John gave a drink to"
STEPS, DOCUMENTS = 6, 120


@pytest.fixture(scope="module")
def model() -> Any:
    return workbench.load_model("grammar-4l")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Few documents and few steps, for the page as for its code."""
    long = logit_lens.train

    def brief(*arguments: Any, **given: Any) -> logit_lens.TunedLens:
        return long(*arguments, **{"steps": STEPS, "tokens": 128, **given})

    monkeypatch.setattr(logit_lens, "train", brief)
    with few_documents(DOCUMENTS):
        yield


def opened(**query: str) -> AppTest:
    return visit("logit_lens", model="grammar-4l", **query)


def ids(model: Any, *words: str) -> list[int]:
    return [Prompt.of(model, PROMPT).answer(model, word) for word in words]


def test_it_says_what_the_library_says_and_its_code_prints_it(model: Any) -> None:
    at = opened()
    likely = continuation.likely_answers(model, PROMPT)
    found = logit_lens.read(model, PROMPT, tokens=likely)
    assert found.summary() in texts(at)
    # The grid, and the curves of both answers.
    assert len(at.get("plotly_chart")) == 2
    script = code_of(at)
    assert "Corpus" not in script
    assert printed(script) == f"{found.summary()}\n"
    assert {link.proto.label for link in at.get("page_link")} >= {"Overview", "Attention"}


def test_a_cell_a_source_and_more_tokens_stand_in_the_address(model: Any) -> None:
    at = opened(
        source="attention alone",
        colour="rank of the answer",
        cell="2.5",
        answer=" Mary",
        wrong="",
        follow=" is| are",
    )
    tokens = ids(model, " Mary", " is", " are")
    found = logit_lens.read(model, PROMPT, source="attn_out", tokens=tokens)
    said = texts(at)
    assert found.summary() in said
    assert "After layer 2, at position 5" in said
    cell = found.at(2, 5)
    assert f"entropy {cell.entropy:.2f} nats, KL of the final output {cell.divergence:.2f}" in said
    rows = {row.split("|")[1].strip(): row for row in said.splitlines() if row.startswith("| ")}
    for one in (*cell.top, *cell.asked):
        assert f"{one.probability:.3g} | {one.rank:,} |" in rows[one.text.replace(" ", "·")]
    assert printed(code_of(at)) == f"{found.summary()}\n"


def test_a_tuned_lens_is_trained_once_and_told_which_to_believe(model: Any) -> None:
    at = opened(**{"lens-kind": "tuned lens"})
    assert "This is the logit lens until a tuned one is trained" in texts(at)
    at = settled(settled(button(at, "Train a tuned lens").click().run()).run())
    seen, held_out = Corpus.bundled(model).split(0.7)
    lens = logit_lens.train(model, seen)
    compared = logit_lens.compare(model, held_out, lens, tokens=20_000)
    tokens = ids(model, *continuation.likely_answers(model, PROMPT))
    read = logit_lens.read(model, PROMPT, lens=lens, tokens=tokens)
    said = texts(unfolded(at))
    for result in (lens, compared, read):
        assert result.summary() in said
    assert read.summary().startswith("Tuned lens on the residual stream")
    assert len(at.get("plotly_chart")) == 5
    kept = {run.analysis for run in runs.RunStore().runs()}
    assert {"logit_lens.train", "logit_lens.compare"} <= kept
    printing = "\n".join(result.summary() for result in (lens, compared, read))
    assert printed(code_of(at)) == f"{printing}\n"
    # A second visit finds it, and what attention adds alone is read through the logit lens.
    again = opened(**{"lens-kind": "tuned lens", "source": "attention alone"})
    assert not any(item.label.startswith("Train") for item in again.button)
    assert "A tuned lens reads the stream only; this is the logit lens." in texts(again)
    assert "lens=lens" not in code_of(again)


def test_a_long_prompt_is_shown_in_part(model: Any) -> None:
    prompt = " ".join(["the boxes near the chair are"] * 5)
    at = opened(prompt=prompt, position="3")
    (slider,) = [item for item in at.slider if item.label.startswith("First position")]
    assert slider.value == 0
    assert "at position 3" in texts(at)
    settled(slider.set_value(4).run())
    assert not at.error


def test_a_model_of_numbers_without_a_norm() -> None:
    at = visit("logit_lens", model="modadd-113", colour="KL to the final output")
    model = workbench.load_model("modadd-113")
    found = logit_lens.read(
        model, "12 + 57 =", tokens=continuation.likely_answers(model, "12 + 57 =")
    )
    assert found.summary() in texts(at)
    assert "'69'" in found.summary()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"prompt": "When <b>zebras</b>"}, "outside the vocabulary"),
        ({"answer": " Mary John"}, "2 tokens"),
        ({"follow": " is|zebra"}, "outside the vocabulary"),
    ],
)
def test_bad_input_is_one_sentence(query: dict[str, str], words: str) -> None:
    at = opened(**query)
    assert len(at.error) == 1
    assert words in texts(at)


@pytest.mark.parametrize(
    "query",
    [
        {"cell": "99.99", "position": "99", "source": "nothing", "colour": "<b>"},
        {"cell": "../..", "lens-kind": "none", "value": "size"},
    ],
)
def test_a_broken_link_says_so_and_falls_back(query: dict[str, str]) -> None:
    at = visit("logit_lens", model="grammar-4l", **query)
    said = " ".join(errors(at))
    for name in {"cell", "position"} & set(query):
        assert f"The address asks for {name} = '{query[name]}'" in said
    assert "Logit lens on the residual stream" in texts(at)
