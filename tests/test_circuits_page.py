"""The Circuits page: what it shows is what the library gives, stored runs come at once."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import threading
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import attribution, circuits
from analyses.circuits import measuring
from tests.visiting import PATIENCE, button, run_in, settled, texts, visit
from workbench import ContrastPairs
from workbench.core import plots, runs
from workbench.core.engine import decoder
from workbench.core.prompts import tasks
from workbench.ui import agreement, graphs

# Growing is the quicker search, and what the page does with either is the same.
ASKED = {"model": "grammar-4l", "n": "8", "n_random": "9", "search": "grow"}


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def circuit(model: TransformerBridge) -> circuits.Circuit:
    """What the library finds for the address above."""
    pairs = ContrastPairs.from_task(model, "indirect-object", n=8)
    return circuits.discover(model, pairs, n_random=9, search="grow")


@pytest.fixture(scope="module")
def screen(model: TransformerBridge, circuit: circuits.Circuit) -> attribution.EdgeAttribution:
    """All edges scored on the pairs that chose the circuit."""
    return attribution.attribute_edges(model, circuit.discovered_on, method="eap_ig", verify_top=30)


@pytest.fixture
def stored(circuit: circuits.Circuit, screen: attribution.EdgeAttribution) -> str:
    """Both in the store, as a run of the page leaves them."""
    runs.RunStore().put(screen, title="edges")
    return runs.RunStore().put(circuit, title="circuit")


def said(at: AppTest) -> str:
    """What the page says; `texts` leaves the escapes of underscores, as in eap_ig."""
    return texts(at).replace("\\_", "_")


def metrics_of(at: AppTest) -> dict[str, str]:
    return {item.label: item.value for item in at.metric}


def test_a_run_screens_verifies_and_explains_with_the_numbers_of_the_library(
    circuit: circuits.Circuit, screen: attribution.EdgeAttribution
) -> None:
    at = visit("circuits", **ASKED)
    start = button(at, "Run (")
    assert re.fullmatch(r"Run \(about .+ s, 479 edges\)", start.label)
    settled(start.click().run())
    shown = said(at)
    assert screen.verified is not None
    assert circuit.faithfulness is not None
    assert [item.value[:9] for item in at.header] == ["1. Screen", "2. Verify", "3. Explai"]
    assert f"{screen.strongest(1)[0]} {screen.score(screen.strongest(1)[0]):.3f}" in shown
    assert screen.verified.summary() in shown
    assert circuit.summary() in shown
    assert metrics_of(at) == {
        "Edges": f"{len(circuit.edges)} of 479",
        "Held-out faithfulness": f"{circuit.faithfulness.value:.3f}",
        "Random circuits of this size": f"{circuit.faithfulness.random.mean():.3f}",
    }
    kept = runs.RunStore().find(circuits.Circuit, run_in(at))
    assert kept is not None
    assert kept.edges == circuit.edges
    assert kept.provenance.parameters == circuit.provenance.parameters
    assert np.array_equal(kept.effect_interval, circuit.effect_interval)
    (scored,) = runs.RunStore().runs("attribution.attribute_edges")
    again = runs.RunStore().find(attribution.EdgeAttribution, scored.id)
    assert again is not None
    assert np.array_equal(again.scores, screen.scores)


def test_the_code_on_the_page_gives_what_the_page_says(
    circuit: circuits.Circuit, screen: attribution.EdgeAttribution, stored: str
) -> None:
    at = visit("circuits", **ASKED, run=stored)
    (code,) = [item.value for item in at.code if "circuits.discover" in item.value]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue().splitlines() == [circuit.summary(), screen.summary()]


def test_a_stored_run_is_shown_at_once_without_a_job(
    circuit: circuits.Circuit, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuits, "discover", None)
    monkeypatch.setattr(attribution, "attribute_edges", None)
    by_link = visit("circuits", run=stored)
    assert circuit.summary() in said(by_link)
    by_controls = visit("circuits", **ASKED)
    assert run_in(by_controls) == stored
    assert circuit.summary() in said(by_controls)
    for at in (by_link, by_controls):
        assert not any(item.label.startswith("Run (") for item in at.button)


def test_a_circuit_without_its_screening_offers_to_make_it(
    circuit: circuits.Circuit, screen: attribution.EdgeAttribution
) -> None:
    run = runs.RunStore().put(circuit, title="circuit")
    at = visit("circuits", run=run)
    assert at.header[0].value == "1. Screen and 2. Verify"
    settled(button(at, "Screen and verify (").click().run())
    assert screen.verified is not None
    assert screen.verified.summary() in said(at)


def test_an_edge_in_the_address_shows_its_effect_and_attention(
    model: TransformerBridge, circuit: circuits.Circuit, stored: str
) -> None:
    edge = next(circuit.edges[i] for i in circuit.strongest(9) if ".h" in circuit.edges[i])
    at = visit("circuits", **ASKED, run=stored, edge=edge)
    assert circuits.inspect_edge(model, circuit, edge).summary() in said(at)
    settled(at.selectbox(key="prompt").set_value(2).run())
    assert circuits.inspect_edge(model, circuit, edge, prompt=2).summary() in said(at)


def test_an_edge_that_the_circuit_does_not_have_is_passed_over(stored: str) -> None:
    at = visit("circuits", **ASKED, run=stored, edge="<b>->nowhere")
    assert at.selectbox(key="edge").value is None


def test_faithfulness_at_every_size_is_made_by_a_button_and_stays(
    model: TransformerBridge, circuit: circuits.Circuit, stored: str
) -> None:
    at = visit("circuits", **ASKED, run=stored)
    settled(button(at, "Measure every size (").click().run())
    expected = circuits.faithfulness_curve(model, circuit.pairs)
    assert expected.summary() in said(at)
    again = visit("circuits", run=stored)
    assert expected.summary() in said(again)
    assert not any(item.label.startswith("Measure every size") for item in again.button)
    assert "print(circuits.faithfulness_curve(model, pairs, method='eap_ig'" in at.code[0].value


def test_completeness_and_minimality_are_of_the_pairs_kept_apart(
    model: TransformerBridge,
    circuit: circuits.Circuit,
    stored: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {
        "completeness": functools.partial(circuits.completeness, n_sets=3),
        "minimality": functools.partial(circuits.minimality, n_sets=1, n_random=4),
    }
    for name, function in few.items():
        monkeypatch.setattr(circuits, name, function)
    at = visit("circuits", **ASKED, run=stored)
    settled(button(at, "Test completeness and minimality (").click().run())
    assert circuit.held_out is not None
    for function in few.values():
        assert function(model, circuit.held_out, circuit).summary() in said(at)


def test_changing_a_control_forgets_run_and_edge(circuit: circuits.Circuit, stored: str) -> None:
    at = visit("circuits", **ASKED, run=stored, edge=circuit.edges[0])
    settled(at.number_input(key="target").set_value(0.5).run())
    assert "run" not in at.query_params
    assert "edge" not in at.query_params
    assert button(at, "Run (")


def test_cancelling_leaves_nothing_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def slow(*_: Any, progress: Any, **__: Any) -> None:
        progress(0.5, "half way")
        reached.set()
        go_on.wait(PATIENCE)
        progress(0.6, "further")

    at = visit("circuits", **{**ASKED, "n": "9"})
    monkeypatch.setattr(circuits, "discover", slow)
    button(at, "Run (").click().run()
    assert reached.wait(PATIENCE)
    button(at.run(), "Cancel").click().run()
    go_on.set()
    settled(at)
    assert "cancelled" in said(at)
    assert runs.RunStore().runs() == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"pairs": "typed"}, "held_out = 0.5 of 1 pairs keeps 0 of them apart"),
        ({"task": "modular-addition"}, "needs words that 'grammar-4l' has as single tokens"),
        ({"metric": "kl_divergence", "method": "eap"}, "its gradient there is zero"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(query: dict[str, str], message: str) -> None:
    at = visit("circuits", model="grammar-4l", **query)
    assert message in said(at)
    assert len(at.error) == 1
    assert not any(item.label.startswith("Run (") for item in at.button)


@pytest.mark.parametrize(
    ("corrupt", "wrong", "message"),
    [
        ("{corrupted}", [], "these pairs have no wrong answers"),
        ("{clean}", [" Thomas"], "which is too close to divide by"),
        ("Then {corrupted}", [" Thomas"], "need clean and corrupted prompts of equal token length"),
    ],
)
def test_pairs_that_cannot_be_asked_about_are_one_sentence(
    corrupt: str, wrong: list[str], message: str
) -> None:
    prompts = [
        {
            "clean": pair.clean,
            "corrupt": corrupt.format(clean=pair.clean, corrupted=pair.corrupted),
            "answers": [pair.answer],
            "wrong_answers": wrong,
        }
        for pair in tasks.get_task("indirect-object").pairs(4)
    ]
    at = visit("circuits", model="grammar-4l", pairs="file", align="true")
    content = json.dumps({"prompts": prompts}).encode()
    settled(at.file_uploader[0].set_value(("pairs.json", content, "application/json")).run())
    assert message in said(at)
    assert len(at.error) == 1


def test_a_model_that_cannot_be_taken_apart_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise decoder.NotTakenApart("its attention is not causal")

    monkeypatch.setattr(measuring.decoder, "taken_apart", refuse)
    at = visit("circuits", **{**ASKED, "n": "10"})
    assert "circuits need a model that can be taken apart" in said(at)
    assert "its attention is not causal" in said(at)
    assert len(at.error) == 1


@pytest.mark.parametrize(
    "query",
    [
        {"run": "../../etc/passwd"},
        {"run": "0" * 16, "edge": "a0.h0->m0"},
        {"metric": "rank", "method": "<b>", "target": "7", "search": "up", "held_out": "x"},
    ],
)
def test_a_broken_link_falls_back(query: dict[str, str]) -> None:
    at = visit("circuits", model="modadd-113", n="8", **query)
    assert at.selectbox(key="metric").value == "logit_difference"
    assert at.number_input(key="target").value == 0.9
    assert button(at, "Run (")


@pytest.mark.parametrize(
    ("event", "edge"),
    [
        (None, None),
        ({"selection": {"points": []}}, None),
        ({"selection": {"points": [{"x": 1.0, "y": 2.0}]}}, None),
        ({"selection": {"points": [{"customdata": 3}]}}, 3),
        ({"selection": {"points": [{"customdata": [4]}]}}, 4),
    ],
)
def test_a_click_is_an_edge_only_on_an_edge(event: Any, edge: int | None) -> None:
    assert graphs.clicked_edge(event) == edge


def test_a_graph_on_a_dark_page_has_brighter_edges_and_is_a_copy(
    circuit: circuits.Circuit,
) -> None:
    figure = circuit.figure()
    assert _lines(figure) <= {plots.COLOURS[0], plots.COLOURS[1]}
    assert _lines(graphs.readable(figure, "dark")).isdisjoint(plots.COLOURS)
    assert _lines(graphs.readable(figure, "light")) == _lines(figure)


def test_the_scatter_has_estimates_across_and_measurements_up(
    screen: attribution.EdgeAttribution,
) -> None:
    assert screen.verified is not None
    points: Any = agreement.scatter(screen.verified, "logits").data[1]
    assert np.array_equal(points.x, screen.verified.estimated)
    assert np.array_equal(points.y, screen.verified.exact)
    np.testing.assert_allclose(
        points.y + points.error_y.array, screen.verified.exact_interval[1], atol=1e-12
    )


def _lines(figure: go.Figure) -> set[str]:
    traces: Any = figure.data
    return {trace.line.color for trace in traces if trace.mode == "lines"}
