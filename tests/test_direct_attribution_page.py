"""The Direct attribution page says what the library says, and leads on to units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import direct_attribution
from tests.visiting import button, code_of, printed, settled, texts, visit
from workbench import ContrastPairs

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def model() -> Any:
    return workbench.load_model("grammar-4l")


def opened(**query: str) -> AppTest:
    return visit("direct_attribution", model="grammar-4l", **query)


def labels(at: AppTest) -> list[str]:
    return [str(link.proto.label).replace("\\", "") for link in at.get("page_link")]


def test_it_shows_the_sum_and_its_control_and_its_code_says_the_same(model: Any) -> None:
    at = opened()
    found = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John")
    check = direct_attribution.check(model, found)
    assert found.summary() in texts(at)
    assert check.summary() in texts(at)
    script = code_of(at)
    assert "ContrastPairs" not in script
    assert printed(script) == f"{found.summary()}\n{check.summary()}\n"
    # Waterfall, grid, and the check.
    assert len(at.get("plotly_chart")) == 3
    head = next(name for name in found.largest if direct_attribution.unit_of(name))
    unit = direct_attribution.unit_of(head)
    assert f"{unit} ({found.share(head):+.3g})" in labels(at)


def test_the_sum_is_also_told_by_heads_and_by_neurons(model: Any) -> None:
    found = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John")
    sources = found.sources()
    head = direct_attribution.unit_of(sources.rows[2])
    at = opened(section="Heads", source="2.2")
    assert f"{head} ({sources.values[2, 2]:+.3g})" in labels(at)
    # Waterfall, stacked heads, where they look, and the check.
    assert len(at.get("plotly_chart")) == 4
    at = settled(at.segmented_control(key="section").set_value("Neurons").run())
    neuron, share = next(iter(found.neurons().items()))
    assert f"{neuron} ({share:+.3g})" in labels(at)


def test_a_link_asks_about_another_position_and_one_answer_alone(model: Any) -> None:
    at = opened(position="9", answer=" Mary", wrong="", ablation="mean", everywhere="true")
    found = direct_attribution.attribute(model, PROMPT, " Mary", position=9)
    check = direct_attribution.check(model, found, ablation="mean", everywhere=True)
    assert found.summary() in texts(at)
    assert check.summary() in texts(at)
    assert printed(code_of(at)) == f"{found.summary()}\n{check.summary()}\n"


@pytest.mark.parametrize(("rows", "label"), [("layers", "MLP 1"), ("heads", "a1.h2")])
def test_a_chosen_cell_says_what_is_in_it(model: Any, rows: str, label: str) -> None:
    found = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John")
    grid = found.grid(rows)
    row = grid.rows.index(label)
    at = opened(rows=rows, cell=f"{row}.4")
    said = texts(at)
    assert f"{label} at position 4 (John): {grid.values[row, 4]:+.4g}" in said
    inside = found.inside(label, 4)
    part = next(name for name in inside if direct_attribution.unit_of(name))
    assert f"{direct_attribution.unit_of(part)} ({inside[part]:+.3g})" in labels(at)
    assert len(inside) == 1 or next(iter(inside)) in said


def test_many_prompts_come_after_a_click(model: Any) -> None:
    at = opened(task="agreement", n="8")
    pairs = ContrastPairs.from_task(model, "agreement", n=8)
    found = direct_attribution.attribute_pairs(model, pairs)
    assert found.summary() not in texts(at)
    at = settled(button(at, "Attribute all of them").click().run())
    assert found.summary() in texts(at)
    assert printed(code_of(at)).endswith(f"{found.summary()}\n")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"prompt": "When zebra"}, "outside the vocabulary"),
        ({"answer": "Mary John"}, "expected a single token"),
        ({"answer": " Mary", "wrong": " Mary"}, "the same token"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(query: dict[str, str], said: str) -> None:
    at = opened(**query)
    assert said in texts(at)
    assert len(at.error) == 1


@pytest.mark.real_model
def test_a_pretrained_model_whose_tokenizer_hides_spaces(stories: Path) -> None:
    at = visit("direct_attribution", model=str(stories), prompt="Once upon a")
    at = settled(button(at, "Open it").click().run())
    found = direct_attribution.attribute(
        workbench.load_model(str(stories)), "Once upon a", " time", wrong="re"
    )
    assert found.summary() in texts(at)
