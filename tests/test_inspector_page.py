"""The Inspector page: one prompt in one place, with the numbers of the library."""

from __future__ import annotations

from typing import Any

import pytest

import workbench
from analyses import contributions, direct_attribution
from tests.visiting import texts, visit

PROMPT = "When Mary and John went to the store, John gave a drink to"
ASKED = {"model": "grammar-4l", "prompt": PROMPT, "answer": " Mary", "wrong": " John"}


def test_one_prompt_in_one_place_and_its_code() -> None:
    at = visit("inspector", **ASKED)
    model = workbench.load_model("grammar-4l")
    parts = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John")
    assert parts.summary() in texts(at)
    heads = [name for name in parts.largest[:8] if direct_attribution.unit_of(name)]
    linked = [item.proto.label for item in at.get("page_link")]
    units = [direct_attribution.unit_of(name) for name in heads]
    assert {str(unit).replace(".", r"\.") for unit in units} <= set(linked)
    assert {"Logit lens", "Attention", "Contributions", "Activations"} <= set(linked)
    library: dict[str, Any] = {}
    exec(compile(at.code[-1].value, "the page's code", "exec"), library)  # it must run
    assert library["parts"].summary() == parts.summary()
    assert contributions.trace(model, PROMPT).summary()


def test_the_address_says_what_is_looked_at() -> None:
    at = visit("inspector", **ASKED, position="4")
    model = workbench.load_model("grammar-4l")
    parts = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John", position=4)
    assert parts.summary() in texts(at)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prompt": "xyzzy"}, "outside the vocabulary"),
        ({"answer": " Mary John"}, "expected a single token"),
        ({"wrong": " Mary"}, "the same token"),
        ({"answer": ""}, "expected a single token"),
    ],
)
def test_what_cannot_be_looked_at_is_a_sentence(changed: dict[str, str], message: str) -> None:
    at = visit("inspector", **{**ASKED, **changed})
    assert message in texts(at)


def test_a_position_that_is_not_there_is_the_last_one() -> None:
    at = visit("inspector", **ASKED, position="9999")
    assert "At position 14" in texts(at)
