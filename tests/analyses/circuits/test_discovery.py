"""Discovery against models whose circuit is known edge by edge, and on a trained one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import attribution, circuits
from analyses.circuits import discovery
from workbench import ContrastPairs
from workbench.core import plots, results
from workbench.core.planted import known_circuits, two_steps

WIRED = {
    "induction": known_circuits.induction,
    "name mover": known_circuits.name_mover,
}


def wired(name: str) -> tuple[TransformerBridge, ContrastPairs, tuple[str, ...]]:
    case = WIRED[name]()
    return case.model, case.pairs, case.edges


@pytest.fixture(scope="module")
def grammar() -> tuple[TransformerBridge, ContrastPairs]:
    model = workbench.load_model("grammar-4l")
    return model, ContrastPairs.from_task(model, "indirect-object", n=16)


@pytest.fixture(scope="module")
def found(grammar: tuple[TransformerBridge, ContrastPairs]) -> circuits.Circuit:
    return circuits.discover(*grammar, n_random=9)


@pytest.fixture(scope="module")
def grown(grammar: tuple[TransformerBridge, ContrastPairs]) -> circuits.Circuit:
    """Grown first and then pruned: the quicker one to compute again."""
    return circuits.discover(*grammar, n_random=9, search="grow")


@pytest.mark.parametrize("name", WIRED)
@pytest.mark.parametrize("method", ["eap", "eap_ig"])
def test_it_returns_exactly_the_wired_edges(name: str, method: str) -> None:
    model, pairs, edges = wired(name)
    circuit = circuits.discover(model, pairs, target=1.0, method=method, held_out=0.0)
    assert set(circuit.edges) == set(edges)
    assert circuit.minimal
    assert circuit.reached == pytest.approx(1, abs=1e-5)


def test_wired_edges_are_found_on_one_half_and_carry_everything_on_the_other() -> None:
    model, pairs, edges = wired("induction")
    circuit = circuits.discover(model, pairs, target=1.0, n_random=20)
    assert set(circuit.edges) == set(edges)
    judged = circuit.faithfulness
    assert judged is not None
    assert judged.value == pytest.approx(1, abs=1e-5)
    assert judged.random.mean() < 0.3
    assert set(circuit.discovery_indices).isdisjoint(circuit.held_out_indices)
    assert judged.pairs.clean == tuple(pairs.clean[i] for i in circuit.held_out_indices)


def test_the_whole_two_layer_model_is_two_paths() -> None:
    model = two_steps.two_layer()
    pairs = two_steps.pairs(model)
    circuit = circuits.discover(model, pairs, target=1.0, method="eap", held_out=0.0)
    effects = dict(zip(circuit.edges, circuit.effects, strict=True))
    # DIRECT is what the logits read from the first head, INDIRECT what they read from the second.
    assert effects == pytest.approx(
        {
            "input->a0.h0<v>": 1,
            "a0.h0->a1.h1<v>": two_steps.INDIRECT,
            "a0.h0->logits": two_steps.DIRECT,
            "a1.h1->logits": two_steps.INDIRECT,
        },
        abs=1e-5,
    )
    # The metric is 2 logits less 0 in the clean run and the negative of that in the corrupted one.
    np.testing.assert_allclose(circuit.exact, -circuit.effects * 2, atol=1e-5)
    half = circuits.discover(model, pairs, target=0.7, method="eap", held_out=0.0)
    assert set(half.edges) == {"input->a0.h0<v>", "a0.h0->a1.h1<v>", "a1.h1->logits"}
    assert half.reached == pytest.approx(two_steps.INDIRECT, abs=1e-5)


def test_on_a_trained_model_it_meets_the_target_and_no_edge_can_go(
    grammar: tuple[TransformerBridge, ContrastPairs], found: circuits.Circuit
) -> None:
    model, _ = grammar
    assert 0.9 - 1e-4 <= found.reached <= 1.1 + 1e-4
    assert found.minimal
    assert len(found.edges) < found.counts.n_edges / 5
    for edge in found.edges:
        fewer = [other for other in found.edges if other != edge]
        left = circuits.faithfulness(model, found.discovered_on, fewer, n_random=0).value
        assert not 0.9 <= left <= 1.1, edge


def test_on_a_trained_model_held_out_prompts_agree_and_random_circuits_do_not(
    found: circuits.Circuit,
) -> None:
    judged = found.faithfulness
    assert judged is not None
    assert judged.value > 0.8
    assert judged.p_value == pytest.approx(0.1)
    assert judged.random.max() < 0.5


def test_every_edge_is_measured_exactly_in_the_full_model(
    grammar: tuple[TransformerBridge, ContrastPairs], found: circuits.Circuit
) -> None:
    model, _ = grammar
    whole = found.graph
    for i in (0, len(found.edges) - 1):
        others = [edge for edge in whole.edges if edge != found.edges[i]]
        judged = circuits.faithfulness(model, found.discovered_on, others, n_random=0)
        change = (judged.circuit - judged.full).mean()
        assert found.exact[i] == pytest.approx(change, abs=1e-5)
        assert found.effects[i] == pytest.approx(1 - judged.value, abs=1e-6)
        low, high = found.exact_interval[:, i]
        assert low < found.exact[i] < high


def test_its_script_computes_it_again_to_the_bit(grown: circuits.Circuit) -> None:
    space: dict[str, Any] = {"print": lambda text: None}
    exec(grown.script(), space)
    again = space["circuit"]
    for field in dataclasses.fields(circuits.Circuit):
        if field.name not in ("provenance", "judged"):
            mine, theirs = getattr(grown, field.name), getattr(again, field.name)
            assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs
    assert grown.faithfulness is not None
    np.testing.assert_array_equal(grown.faithfulness.random, again.faithfulness.random)
    assert grown.faithfulness.value == again.faithfulness.value


def test_another_seed_keeps_other_pairs_apart() -> None:
    first, second = discovery.split(10, 0.3, 0), discovery.split(10, 0.3, 1)
    assert first != second
    for chosen, kept in (first, second):
        assert len(kept) == 3
        assert sorted(chosen + kept) == list(range(10))


def test_it_is_saved_and_loaded_to_the_bit(found: circuits.Circuit, tmp_path: Path) -> None:
    found.save(tmp_path / "circuit")
    back = results.Result.load(tmp_path / "circuit")
    assert isinstance(back, circuits.Circuit)
    assert back.edges == found.edges
    assert back.pairs == found.pairs
    assert back.counts == found.counts
    np.testing.assert_array_equal(back.effect_interval, found.effect_interval)
    assert back.faithfulness is not None and found.faithfulness is not None
    np.testing.assert_array_equal(back.faithfulness.random, found.faithfulness.random)
    assert back.summary() == found.summary()


def test_a_circuit_without_held_out_pairs_is_saved_and_loaded(tmp_path: Path) -> None:
    model, pairs, _ = wired("induction")
    circuit = circuits.discover(model, pairs, held_out=0.0)
    back = circuits.Circuit.load(circuit.save(tmp_path / "circuit"))
    assert back.faithfulness is None
    assert back.held_out is None
    assert "not known" in back.summary()


def test_the_table_has_a_row_an_edge_strongest_first(found: circuits.Circuit) -> None:
    frame = found.to_frame()
    assert sorted(frame["edge"]) == sorted(found.edges)
    assert frame["effect"].abs().is_monotonic_decreasing
    first = frame.iloc[0]
    assert f"{first['sender']}->{first['receiver']}" == first["edge"]
    assert first["effect"] == found.effects[found.edges.index(first["edge"])]


def test_the_figure_has_a_clickable_marker_an_edge_and_layers_upward(
    found: circuits.Circuit,
) -> None:
    figure = cast("Any", found.figure(selected=1))
    markers = figure.data[-1]
    assert list(markers.customdata) == list(range(len(found.edges)))
    np.testing.assert_allclose(markers.marker.color, found.effects)
    assert figure.layout.yaxis.ticktext[0] == "input"
    assert figure.layout.yaxis.ticktext[-1] == "logits"
    nodes = figure.data[-2]
    height = dict(zip(nodes.text, nodes.y, strict=True))
    assert height["input"] == 0
    assert height["logits"] == 2 * found.counts.n_layers + 1
    assert height["m0"] == 2
    assert markers.marker.colorscale[0][1] != markers.marker.colorscale[-1][1]
    colours = [trace.line.color for trace in figure.data if trace.mode == "lines"]
    assert plots.COLOURS[0] in colours


def test_nodes_are_the_components_between_which_the_edges_run() -> None:
    model, pairs, _ = wired("induction")
    circuit = circuits.discover(model, pairs, target=1.0, held_out=0.0)
    assert circuit.nodes == ("input", "a0.h0", "a1.h0", "logits")
    assert circuit.share == 5 / circuit.counts.n_edges


def test_scores_are_put_beside_exact_changes(found: circuits.Circuit) -> None:
    agreement = found.agreement()
    assert agreement.largest_error == np.abs(found.weights - found.exact).max()
    assert agreement.pearson == pytest.approx(np.corrcoef(found.weights, found.exact)[0, 1])


def test_the_summary_names_size_faithfulness_and_null(found: circuits.Circuit) -> None:
    text = found.summary()
    assert f"{len(found.edges)} of 479 edges" in text
    assert "Held out:" in text
    assert "Random connected circuits of this size" in text
    assert "rank correlation" in text


def test_growing_finds_what_suffices_while_all_else_is_corrupted() -> None:
    model, pairs, _ = wired("induction")
    circuit = circuits.discover(model, pairs, target=1.0, search="grow", held_out=0.0)
    # Corrupted queries and keys match each other at the same positions, so the value is enough.
    assert set(circuit.edges) == {"input->a1.h0<v>", "a1.h0->logits"}
    assert circuit.reached == pytest.approx(1, abs=1e-5)


def test_growing_meets_the_target_on_a_trained_model(
    grown: circuits.Circuit, found: circuits.Circuit
) -> None:
    assert 0.9 - 1e-4 <= grown.reached <= 1.1 + 1e-4
    assert len(grown.edges) <= grown.began < found.began
    assert grown.runs < found.runs
    assert grown.minimal


def test_pruning_stops_at_the_limit_of_runs_and_says_so() -> None:
    model, pairs, _ = wired("induction")
    hurried = circuits.discover(model, pairs, held_out=0.0, max_runs=1)
    assert not hurried.minimal
    assert len(hurried.edges) == hurried.began == hurried.counts.n_edges
    assert "limit of runs" in hurried.summary()


@pytest.mark.real_model
def test_grouped_keys_are_edges_to_the_group_and_drawn(stories: Path) -> None:
    model = workbench.load_model(stories)
    pairs = ContrastPairs.from_text(
        model,
        ["Once there was a girl. One day,", "Once there was a boy. One day,"],
        ["Once there was a boy. One day,", "Once there was a girl. One day,"],
        [" she", " he"],
        [" he", " she"],
    )
    circuit = circuits.discover(model, pairs, target=0.8, held_out=0.0, search="grow")
    assert 0.8 - 1e-4 <= circuit.reached <= 1.2 + 1e-4
    assert any(".g" in edge for edge in circuit.edges)
    assert not any(".g" in node for node in circuit.nodes)
    shown = cast("Any", circuit.figure()).data[-2].text
    assert any(".g" in node for node in shown)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"target": 1.5}, "target = 1.5; expected a faithfulness above 0 and at most 1"),
        ({"target": 0.0}, "target = 0.0; expected a faithfulness above 0"),
        ({"method": "guess"}, "unknown method 'guess'; expected one of 'eap', 'eap_ig'"),
        ({"held_out": 1.0}, "held_out = 1.0; expected a share from 0 to below 1"),
        ({"held_out": 0.01}, "keeps 0 of them apart"),
        ({"search": "luck"}, "unknown search 'luck'; expected one of 'prune', 'grow', or None"),
        ({"max_runs": 0}, "max_runs = 0; expected 1 or more"),
        ({"metric": "nonsense"}, "unknown metric 'nonsense'"),
    ],
)
def test_bad_input_is_answered_in_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    model, pairs, _ = wired("induction")
    with pytest.raises(ValueError, match=sentence):
        circuits.discover(model, pairs, **arguments)


def test_pairs_between_which_the_metric_hardly_differs_are_refused() -> None:
    model, pairs, _ = wired("induction")
    same = dataclasses.replace(pairs, corrupted=pairs.clean, corrupted_tokens=pairs.clean_tokens)
    with pytest.raises(ValueError, match="too close to divide by"):
        circuits.discover(model, same, held_out=0.0)


def test_scores_that_are_at_hand_are_not_computed_again_and_change_nothing(
    grammar: tuple[TransformerBridge, ContrastPairs],
    grown: circuits.Circuit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, pairs = grammar
    chosen, _ = discovery.split(len(pairs), 0.5, 0)
    scores = attribution.attribute_edges(model, pairs.subset(chosen), method="eap_ig", verify_top=3)
    monkeypatch.setattr(attribution, "attribute_edges", None)
    again = circuits.discover(model, pairs, n_random=9, search="grow", scores=scores)
    assert again.edges == grown.edges
    assert again.provenance.parameters == grown.provenance.parameters
    for name in ("weights", "exact", "effects", "effect_interval"):
        assert np.array_equal(getattr(again, name), getattr(grown, name)), name


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"method": "eap", "held_out": 0.0},
            "method = 'eap_ig', and the circuit is asked for with 'eap'",
        ),
        ({"steps": 7, "held_out": 0.0}, "steps = 5, and the circuit is asked for with 7"),
        (
            {"metric": "probability", "held_out": 0.0},
            "metric = 'logit_difference', and the circuit is asked",
        ),
        ({"held_out": 0.5}, "the scores were made of other pairs"),
    ],
)
def test_scores_of_something_else_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    model, pairs, _ = wired("induction")
    scores = attribution.attribute_edges(model, pairs, method="eap_ig")
    with pytest.raises(ValueError, match=sentence):
        circuits.discover(model, pairs, scores=scores, **arguments)


def test_scores_of_a_model_with_other_weights_are_refused() -> None:
    model, pairs, _ = wired("induction")
    scores = attribution.attribute_edges(model, pairs, method="eap_ig")
    with torch.no_grad():
        next(iter(model.original_model.parameters())).mul_(1.25)
    with pytest.raises(ValueError, match="with other weights"):
        circuits.discover(model, pairs, held_out=0.0, scores=scores)


class Cancelled(Exception):
    """Raised by a progress function."""


@pytest.mark.parametrize("after", [0.0, 0.16, 0.2, 0.7, 0.85])
def test_it_can_be_cancelled_at_any_step_and_leaves_no_hook(after: float) -> None:
    model, pairs, _ = wired("induction")

    def cancel(fraction: float, note: str) -> None:
        if fraction >= after:
            raise Cancelled(note)

    with pytest.raises(Cancelled):
        circuits.discover(model, pairs, n_random=5, progress=cancel)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert all(parameter.grad is None for parameter in model.original_model.parameters())


def test_progress_never_runs_backward_and_ends_at_one() -> None:
    model, pairs, _ = wired("induction")
    told: list[float] = []
    circuits.discover(model, pairs, n_random=5, progress=lambda f, _: told.append(f))
    assert told == sorted(told)
    assert told[-1] == 1
    assert torch.is_grad_enabled()
