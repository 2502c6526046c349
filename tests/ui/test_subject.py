"""The picked model is the model of every page that is visited next, and stands in the address."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from streamlit.testing.v1 import AppTest

from tests.visiting import settled, texts, visit
from workbench.core.models import card
from workbench.core.planted import unplanted
from workbench.core.prompts.pairs import ContrastPairs
from workbench.ui import shown, subject

GONE = "was an object of a script that has ended or showed another one since"


def picking() -> None:
    import streamlit as st

    from workbench.ui import subject

    networks = st.toggle("networks", key="networks")
    if st.toggle("other page", key="other page"):
        # As navigation does: no picker is drawn, and the address is left bare.
        st.query_params.clear()
    elif networks:
        st.code(subject.pick_network(["first", "second"]))
    else:
        st.code(str(subject.pick()))


def opened(**query: str) -> AppTest:
    at = AppTest.from_function(picking, default_timeout=30.0)
    for name, value in query.items():
        at.query_params[name] = value
    return checked(at.run())


def checked(at: AppTest) -> AppTest:
    assert not at.exception, at.exception[0].value
    return at


def address(at: AppTest, name: str = "model") -> str:
    value = at.query_params.get(name, [""])
    return value if isinstance(value, str) else value[0]


def away_and_back(at: AppTest) -> AppTest:
    checked(at.toggle(key="other page").set_value(True).run())
    assert address(at) == ""
    return checked(at.toggle(key="other page").set_value(False).run())


@pytest.fixture
def exhibit() -> Generator[shown.Exhibit]:
    model = unplanted.randomised()
    pairs = ContrastPairs.from_text(model, ["ape bee"], ["cat bee"], ["dog"], ["elk"], name="mine")
    yield shown.put(model, pairs)
    shown.remove()


class TestCarrying:
    def test_the_default_stands_in_the_address_too(self) -> None:
        at = opened()
        assert at.code[0].value == address(at) == "grammar-4l"

    def test_a_pick_is_kept_where_no_picker_is_drawn(self) -> None:
        at = opened()
        checked(at.selectbox(key="model").set_value("modadd-113").run())
        assert at.code[0].value == address(at) == "modadd-113"
        at = away_and_back(at)
        assert at.code[0].value == address(at) == "modadd-113"

    def test_a_link_wins_over_what_was_picked(self) -> None:
        at = opened()
        checked(at.selectbox(key="model").set_value("modadd-113").run())
        checked(at.toggle(key="other page").set_value(True).run())
        at.query_params["model"] = "grammar-4l"
        at.toggle(key="other page").set_value(False)
        assert checked(at.run()).code[0].value == address(at) == "grammar-4l"

    def test_a_pick_wins_over_the_link_that_the_page_was_opened_by(self) -> None:
        at = opened(model="modadd-113")
        assert at.code[0].value == "modadd-113"
        checked(at.selectbox(key="model").set_value("grammar-4l").run())
        assert at.code[0].value == address(at) == "grammar-4l"
        assert checked(at.run()).code[0].value == "grammar-4l"

    def test_a_model_of_ones_own_from_a_link_is_opened_by_hand_and_then_kept(self) -> None:
        at = opened(model="somebody/own")
        assert "did not come with the workbench" in texts(at)
        checked(at.button[0].click().run())
        assert at.code[0].value == "somebody/own"
        assert away_and_back(at).code[0].value == address(at) == "somebody/own"

    def test_networks_are_carried_in_the_same_way(self) -> None:
        at = opened()
        checked(at.toggle(key="networks").set_value(True).run())
        assert at.code[0].value == address(at, "network") == "first"
        checked(at.selectbox(key="network").set_value("second").run())
        assert "grammar-4l" in at.selectbox(key="network").help.replace("\\", "")
        assert away_and_back(at).code[0].value == address(at, "network") == "second"

    def test_a_network_that_is_not_there_falls_back_visibly(self) -> None:
        at = AppTest.from_function(picking, default_timeout=30.0)
        at.session_state["networks"] = True
        at.query_params["network"] = "<b>none</b>"
        at.run()
        assert checked(at).code[0].value == address(at, "network") == "first"
        assert "There is no network '<b>none</b>'; this page shows first instead" in texts(at)


class TestShown:
    def test_what_a_script_shows_is_picked_by_default(self, exhibit: shown.Exhibit) -> None:
        at = opened()
        assert at.code[0].value == address(at) == exhibit.name
        checked(at.selectbox(key="model").set_value("grammar-4l").run())
        assert away_and_back(at).code[0].value == "grammar-4l"

    def test_it_is_open_at_once_and_never_let_go_of(self, exhibit: shown.Exhibit) -> None:
        assert subject.shelf().find(exhibit.name) is not None
        shown.remove()
        assert subject.shelf().find(exhibit.name) is None

    def test_a_link_to_what_is_shown_no_more_says_so(self, exhibit: shown.Exhibit) -> None:
        shown.remove()
        at = opened(model=exhibit.name)
        assert at.code[0].value == "None"
        assert GONE in texts(at)
        assert len(at.button) == 0

    def test_another_one_takes_its_place(self, exhibit: shown.Exhibit) -> None:
        model = unplanted.randomised(seed=1)
        model.cfg.model_name = "some/where/<b>second</b>"
        again = shown.put(model, None)
        assert again.name == "shown: b"
        assert subject.shelf().find(exhibit.name) is None
        assert subject.shelf().find(again.name) is model
        assert shown.pairs_of(again.name) is None


def test_weights_written_behind_pytorchs_back_are_seen_when_it_is_shown() -> None:
    model = unplanted.randomised()
    before = card.fingerprint(model)
    next(model.original_model.parameters()).data.mul_(2)
    shown.put(model, None)
    shown.remove()
    assert card.fingerprint(model) != before


def test_patching_offers_the_scripts_pairs_and_runs_on_them(exhibit: shown.Exhibit) -> None:
    at = visit("patching")
    assert at.selectbox(key="model").value == exhibit.name
    (pairs,) = at.segmented_control
    assert (pairs.value, pairs.options[0]) == ("from your script", "from your script")
    assert "mine: 1 pairs, as your script made them" in texts(at)
    settled(next(one for one in at.button if one.label.startswith("Run (")).click().run())
    assert f"of {exhibit.name}" in texts(at)
    assert exhibit.name in address(at)


@pytest.mark.usefixtures("exhibit")
def test_another_model_is_not_offered_the_scripts_pairs() -> None:
    at = visit("patching")
    settled(at.selectbox(key="model").set_value("modadd-113").run())
    (pairs,) = at.segmented_control
    assert (pairs.value, "as your script made them" in texts(at)) == ("named task", False)
