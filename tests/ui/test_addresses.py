from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.visiting import errors


def page() -> None:
    import streamlit as st

    from workbench.ui import addresses

    addresses.turn_to(st.session_state.get("page", "one"))
    model = st.session_state.get("model", "small")
    heads = [(0, 1), (0, 2)] if model == "small" else [(4, 1)]
    names = [f"{layer}.{head}" for layer, head in heads]
    shown = addresses.pick("Head", names, query="head", key=f"head:{model}")
    way = addresses.pick("Way", ["plain", "fine"], query="way")
    last = 9 if model == "small" else 3
    count = addresses.number("Neuron", last, query="neuron", key=f"neuron:{model}")
    st.text(f"{shown} {way} {count}")


def opened(**query: str) -> AppTest:
    at = AppTest.from_function(page)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def test_what_the_address_asks_for_is_shown() -> None:
    at = opened(head="0.2", way="fine", neuron="7")
    assert at.text[0].value == "0.2 fine 7"
    assert not errors(at)


def test_without_an_address_the_first_is_shown_and_stands_in_it() -> None:
    at = opened()
    assert at.text[0].value == "0.1 plain 0"
    assert not errors(at)
    assert at.query_params["head"] in ("0.1", ["0.1"])
    assert at.query_params["neuron"] in ("0", ["0"])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"head": "9.9"}, "head = '9.9', which is not there. This is 0.1."),
        ({"way": "<b>"}, "way = '<b>', which is not there. This is plain."),
        ({"neuron": "10"}, "neuron = '10', which is no whole number from 0 to 9. This is 0."),
        ({"neuron": "²"}, "neuron = '²', which is no whole number from 0 to 9. This is 0."),
        ({"neuron": "9" * 5000}, "…, which is no whole number from 0 to 9. This is 0."),
    ],
)
def test_what_is_not_there_is_said_until_something_is_chosen(
    query: dict[str, str], said: str
) -> None:
    at = opened(**query)
    assert at.text[0].value == "0.1 plain 0"
    for _ in range(2):
        (error,) = errors(at)
        assert error.startswith("The address asks for ") and error.endswith(said)
        assert len(error) < 200
        at.run()
    if "neuron" in query:
        at.number_input[0].set_value(3).run()
    else:
        at.selectbox[0 if "head" in query else 1].select_index(1).run()
    assert not errors(at)
    at.run()
    assert not errors(at)


def test_what_a_page_wrote_for_another_model_is_not_said() -> None:
    at = opened(head="0.2", neuron="7")
    at.session_state["model"] = "large"
    at.run()
    assert at.text[0].value == "4.1 plain 0"
    assert not errors(at)


def test_another_page_does_not_say_what_one_was_asked_for() -> None:
    at = opened(head="9.9")
    assert errors(at)
    at.session_state["page"] = "two"
    at.run()
    assert not errors(at)
