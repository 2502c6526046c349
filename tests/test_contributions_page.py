"""The Contributions page: the picture, its clicks and its numbers are the library's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import workbench
from analyses import contributions
from tests.visiting import button, code_of, printed, settled, texts, visit
from workbench.ui import graphs

STORE = "When Mary and John went to the store, John gave a drink to"


@functools.cache
def bundled() -> Any:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def graph() -> contributions.ContributionGraph:
    return contributions.trace(bundled(), STORE)


def opened(**query: str) -> AppTest:
    return visit("contributions", model="grammar-4l", prompt=STORE, **query)


def written_in(at: AppTest, key: str) -> Any:
    return next(item for item in at.text_input if item.key == key)


def test_the_first_view_says_what_the_library_says_and_its_code_prints_it(
    graph: contributions.ContributionGraph,
) -> None:
    at = opened()
    said = texts(at)
    assert graph.summary() in said
    lines = printed(code_of(at)).splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line in said
    # It begins with the head's edge into the target that most passes through.
    edges = [graph.edge(i) for i in (-graph.flows).argsort(kind="stable")]
    first = next(edge for edge in edges if edge.kind == "head" and edge.target == graph.target)
    assert graph.told(first) in said
    assert any(
        link.proto.label == f"**head {first.layer}.{first.head}**: all of it" for link in links(at)
    )


def links(at: AppTest) -> list[Any]:
    return list(at.get("page_link"))


def test_a_click_on_an_edge_or_a_node_shows_it_and_puts_it_into_the_address(
    graph: contributions.ContributionGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = graph.routes(0.1)
    edge = next(graph.edge(i) for i in routes if graph.edge(i).kind == "mlp")
    node = graph.nodes(routes)[2]
    markers = [[graph.edge(i) for i in routes].index(edge), len(routes) + 2]

    def as_buttons(figure: Any, *, key: str, on_click: Callable[[int], None]) -> None:
        """The driver cannot click charts: what a marker reports, a button does."""
        for marker in markers:
            assert figure.data[-1].customdata[marker] == marker
            st.button(f"marker {marker}", key=f"{key}{marker}", on_click=on_click, args=(marker,))

    monkeypatch.setattr(graphs, "clickable", as_buttons)
    at = opened(threshold="0.1")
    at = settled(button(at, f"marker {markers[0]}").click().run())
    assert written_in(at, "part").value == str(edge)
    assert at.query_params["part"] in (str(edge), [str(edge)])
    model = bundled()
    assert contributions.promoted(model, graph, edge).summary() in texts(at)
    at = settled(button(at, f"marker {markers[1]}").click().run())
    assert written_in(at, "part").value == str(node)
    assert contributions.state_tokens(model, graph, node).summary() in texts(at)


def test_sliding_the_threshold_traces_nothing_anew(
    graph: contributions.ContributionGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = opened(part="head 1.1 from 9 to 14")
    before = [line for line in texts(at).splitlines() if line.startswith("Taking out")]

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("computed again")

    for name in ("trace", "promoted", "edge_effect", "agreement", "state_tokens"):
        monkeypatch.setattr(contributions, name, refuse)
    settled(at.slider(key="threshold").set_value(0.1).run())
    assert graph.summary(0.1) in texts(at)
    assert before and before[0] in texts(at)


def test_a_node_of_an_earlier_target_is_read_taken_apart_and_taken_out() -> None:
    at = opened(part="after attn 2 at 9", position="9")
    model = bundled()
    graph = contributions.trace(model, STORE, target=9)
    said = texts(at)
    assert graph.summary() in said
    assert contributions.state_tokens(model, graph, "after attn 2 at 9").summary() in said
    largest = graph.edge(graph.entering("after attn 2 at 9")[0])
    assert f"| {graph.told(largest)} |" in said
    assert "Taking out 'after attn 2 at 9'" in said


def test_parts_are_swapped_with_a_corrupted_prompt_of_the_same_length() -> None:
    other = "When Mary and John went to the store, Mary gave a drink to"
    edge = "head 1.1 from 9 to 14"
    at = opened(part=edge, corrupted=other, answer="Mary", wrong="John", share="update")
    model = bundled()
    graph = contributions.trace(model, STORE)
    route = [graph.edge(i) for i in graph.routes()]
    found = contributions.edge_effect(
        model, STORE, edge, "Mary", wrong="John", corrupted=other, route=route
    )
    said = texts(at)
    assert found.summary() in said
    assert graph.summary(measure="update") in said
    assert found.summary() in printed(code_of(at))
    settled(written_in(at, "corrupted").set_value("Mary and John").run())
    assert "the corrupted prompt has" in at.error[0].value
    assert "Taking out" not in texts(at)


def test_what_is_no_part_of_this_prompt_is_a_sentence() -> None:
    at = opened(part="<img src=x>")
    for part, said in (
        (None, "is no edge"),
        ("head 9.1 from 1 to 2", "the model has no edge"),
        ("mlp 0 at 99", "outside of positions 0 to 14"),
    ):
        if part is not None:
            settled(written_in(at, "part").set_value(part).run())
        assert said in texts(at)
        assert len(at.warning) == 1 and not at.error
