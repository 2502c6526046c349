"""Faithfulness, completeness, minimality, the curve and one edge, against known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import circuits
from analyses.circuits import measuring, random_circuits
from workbench import ContrastPairs
from workbench.core.engine import graph, metrics, running
from workbench.core.planted import known_circuits

Wired = tuple[TransformerBridge, ContrastPairs, tuple[str, ...]]
Grammar = tuple[TransformerBridge, ContrastPairs]
# Heads of the circuit, and one that writes where nobody reads.
SPARE = "input->a0.h1<v>"


@pytest.fixture(scope="module")
def induction() -> Wired:
    case = known_circuits.induction()
    return case.model, case.pairs, case.edges


@pytest.fixture(scope="module")
def grammar() -> Grammar:
    model = workbench.load_model("grammar-4l")
    return model, ContrastPairs.from_task(model, "indirect-object", n=8)


def logit_difference(model: TransformerBridge, pairs: ContrastPairs, texts: str) -> np.ndarray:
    """The metric in ordinary runs of the bridge."""
    group = np.arange(len(pairs))
    clean, corrupted = pairs.batch(group)
    logits = running.run(model, clean if texts == "clean" else corrupted)[:, -1]
    goal = metrics.targets(pairs, group, logits)
    return metrics.logit_difference(logits, goal).cpu().numpy()


def test_all_edges_are_the_clean_run_and_none_the_corrupted_one(grammar: Grammar) -> None:
    model, pairs = grammar
    whole = graph.Graph.of_model(model)
    everything = circuits.faithfulness(model, pairs, whole.edges, n_random=0)
    nothing = circuits.faithfulness(model, pairs, [], n_random=0)
    assert everything.value == 1
    assert nothing.value == 0
    clean = logit_difference(model, pairs, "clean")
    corrupted = logit_difference(model, pairs, "corrupted")
    np.testing.assert_allclose(everything.circuit, clean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(nothing.circuit, corrupted, rtol=1e-5, atol=1e-5)


def test_the_wired_circuit_carries_everything_and_no_edge_can_go(induction: Wired) -> None:
    model, pairs, edges = induction
    whole = circuits.faithfulness(model, pairs, edges, n_random=50)
    assert whole.value == pytest.approx(1, abs=1e-6)
    as_close = int((np.abs(1 - whole.random) <= 1e-6 + abs(1 - whole.value)).sum())
    assert whole.p_value == (as_close + 1) / 51
    assert np.median(whole.random) < 0.1
    for edge in edges:
        fewer = [other for other in edges if other != edge]
        assert circuits.faithfulness(model, pairs, fewer, n_random=0).value < 0.7, edge


def test_faithfulness_is_the_ratio_of_means(grammar: Grammar) -> None:
    model, pairs = grammar
    edges = [edge for edge in graph.Graph.of_model(model).edges if not edge.startswith("a0")]
    found = circuits.faithfulness(model, pairs, edges, n_random=0)
    numerator = (found.circuit - found.nothing).mean()
    assert found.value == pytest.approx(numerator / (found.full - found.nothing).mean())
    assert found.interval[0] < found.value < found.interval[1]
    assert np.isnan(found.p_value)


def test_the_p_value_counts_random_circuits_that_come_as_close_to_one(induction: Wired) -> None:
    model, pairs, edges = induction
    found = circuits.faithfulness(model, pairs, edges[:-1], n_random=10)
    # Without the edge to the logits nothing is carried, so every random circuit is as close.
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.p_value == 1


def test_zero_and_mean_ablation_are_measured_from_their_own_nothing(induction: Wired) -> None:
    model, pairs, edges = induction
    for ablation in ("zero", "mean"):
        found = circuits.faithfulness(model, pairs, [], ablation=ablation, n_random=0)
        assert found.value == 0
        whole = graph.Graph.of_model(model).edges
        assert circuits.faithfulness(model, pairs, whole, ablation=ablation, n_random=0).value == 1
    # With all edges at zero nothing reaches the logits, which have no bias.
    zero = circuits.faithfulness(model, pairs, edges, ablation="zero", n_random=0)
    np.testing.assert_allclose(zero.nothing, 0, atol=1e-6)


def test_mean_ablation_carries_the_mean_of_both_runs(induction: Wired) -> None:
    model, pairs, _ = induction
    whole = graph.Graph.of_model(model).edges
    last = "a1.h0->logits"
    found = circuits.faithfulness(
        model, pairs, [e for e in whole if e != last], ablation="mean", n_random=0
    )
    # Only this head writes what the logits read, so the logits are its mean over all prompts.
    group = np.arange(len(pairs))
    clean, corrupted = (running.run(model, tokens)[:, -1] for tokens in pairs.batch(group))
    mean = ((clean.mean(0) + corrupted.mean(0)) / 2).expand_as(clean)
    expected = metrics.logit_difference(mean, metrics.targets(pairs, group, clean))
    np.testing.assert_allclose(found.circuit, expected.cpu().numpy(), atol=1e-5)


def test_pairs_of_several_lengths_give_what_each_gives_alone(grammar: Grammar) -> None:
    model, _ = grammar
    mixed = ContrastPairs.from_task(model, "indirect-object", n=12, templates="all")
    assert len(mixed.groups()) > 1
    edges = [e for e in graph.Graph.of_model(model).edges if not e.startswith("a1")]
    together = circuits.faithfulness(model, mixed, edges, n_random=0)
    for group in mixed.groups():
        alone = measuring.Measured(model, mixed.subset(group.tolist()))
        [value] = alone.under(alone.graph.mask(edges)[None])
        np.testing.assert_allclose(value, together.circuit[group], atol=1e-4)


def test_random_circuits_have_the_size_and_every_edge_on_a_path() -> None:
    whole = graph.Graph(n_layers=3, n_heads=4, n_groups=2)
    for n_edges in (5, 25, 100):
        for mask in random_circuits.sample(whole, n_edges, 10):
            assert mask.sum() == n_edges
            np.testing.assert_array_equal(whole.connected(mask), mask)
    first, second = random_circuits.sample(whole, 25, 2)
    assert (first != second).any()
    np.testing.assert_array_equal(random_circuits.sample(whole, 25, 2, seed=0)[0], first)


def test_a_circuit_that_holds_all_that_matters_is_complete(induction: Wired) -> None:
    model, pairs, edges = induction
    found = circuits.completeness(model, pairs, edges, n_sets=8)
    assert found.largest < 1e-5
    assert found.removed[0] == () and found.kinds[0] == "empty"
    np.testing.assert_allclose(found.circuit, found.model, atol=1e-5)
    # Without the head that the logits read nothing is left, in circuit and model.
    gone = [i for i, removed in enumerate(found.removed) if "a1.h0" in removed]
    assert gone
    for i in gone:
        np.testing.assert_allclose(found.model[i], found.nothing, atol=1e-5)


def test_what_a_circuit_leaves_out_shows_as_a_gap(induction: Wired) -> None:
    model, pairs, edges = induction
    found = circuits.completeness(model, pairs, edges[1:], n_sets=4)
    # Nothing removed: the model does everything, and the circuit lacks the previous token.
    assert found.gaps[0] > 0.3
    assert found.largest >= found.gaps[0]
    assert found.gaps[found.kinds.index("greedy")] >= found.gaps[0]
    text = found.summary()
    assert f"largest {found.largest:.3f}" in text


def test_every_wired_node_matters_and_a_spare_one_does_not(induction: Wired) -> None:
    model, pairs, edges = induction
    spare = (*edges, SPARE, "a0.h1->logits")
    found = circuits.minimality(model, pairs, spare, n_sets=5, n_random=20)
    changes = dict(zip(found.nodes, found.changes, strict=True))
    assert set(changes) == {"a0.h0", "a0.h1", "a1.h0"}
    assert changes["a0.h1"] < 1e-6
    assert changes["a1.h0"] == pytest.approx(1, abs=1e-5)
    without = [edge for edge in spare if not edge.startswith("a0.h0")]
    left = circuits.faithfulness(model, pairs, without, n_random=0).value
    assert changes["a0.h0"] >= 1 - left - 1e-6 > 0.3
    # No random node reads and writes what is wired, so each wired one beats them all.
    p_values = dict(zip(found.nodes, found.p_values, strict=True))
    assert p_values["a1.h0"] == pytest.approx(1 / 21)
    assert p_values["a0.h1"] > 0.5


def test_the_areas_are_those_of_trapezoids() -> None:
    fractions = np.array([0.1, 0.2, 0.5, 1.0])
    curve = np.array([0.0, 0.5, 1.5, 1.0])
    cpr, cmd = circuits.areas(fractions, curve)
    # 0.1 · (0 + 0.5)/2 + 0.3 · (0.5 + 1.5)/2 + 0.5 · (1.5 + 1)/2
    assert float(cpr) == pytest.approx(0.025 + 0.3 + 0.625)
    # |1 − f| is 1, 0.5, 0.5, 0: 0.1 · 1.5/2 + 0.3 · 1/2 + 0.5 · 0.5/2
    assert float(cmd) == pytest.approx(0.075 + 0.15 + 0.125)


def test_the_curve_runs_from_the_first_edges_to_the_clean_run(grammar: Grammar) -> None:
    model, pairs = grammar
    curve = circuits.faithfulness_curve(model, pairs, n_random=4)
    assert tuple(curve.fractions) == circuits.FRACTIONS
    # 479 edges, rounded down at each fraction.
    assert curve.sizes.tolist() == [0, 0, 2, 4, 9, 23, 47, 95, 239, 479]
    assert curve.faithfulness[0] == 0
    assert curve.faithfulness[-1] == 1
    cpr, cmd = circuits.areas(curve.fractions, curve.faithfulness)
    assert (curve.cpr, curve.cmd) == (float(cpr), float(cmd))
    assert curve.cpr_interval[0] <= curve.cpr <= curve.cpr_interval[1]
    assert curve.cmd_interval[0] <= curve.cmd <= curve.cmd_interval[1]
    assert curve.cpr > curve.random_cpr.max()
    assert curve.cpr_p == pytest.approx(1 / 5)
    assert curve.held_out
    assert sorted(curve.scored_indices + curve.measured_indices) == list(range(8))
    assert curve.per_prompt.shape == (10, 4)


def test_given_scores_are_ranked_by_absolute_value(induction: Wired) -> None:
    model, pairs, edges = induction
    whole = graph.Graph.of_model(model)
    scores = {edge: -1.0 - i for i, edge in enumerate(edges)}
    five = len(edges) / whole.n_edges
    curve = circuits.faithfulness_curve(
        model, pairs, scores=scores, fractions=(five / 5, five, 1.0), n_random=2
    )
    assert curve.sizes.tolist() == [1, 5, whole.n_edges]
    np.testing.assert_allclose(curve.faithfulness, [0, 1, 1], atol=1e-5)
    assert curve.scored_indices == ()
    assert curve.measured_indices == tuple(range(len(pairs)))
    array = np.zeros(whole.allowed.shape)
    for edge, score in scores.items():
        array[whole.mask([edge])] = score
    again = circuits.faithfulness_curve(
        model, pairs, scores=array, fractions=(five / 5, five, 1.0), n_random=2
    )
    np.testing.assert_array_equal(again.faithfulness, curve.faithfulness)


def test_every_result_is_saved_loaded_and_drawn(induction: Wired, tmp_path: Path) -> None:
    model, pairs, edges = induction
    circuit = circuits.discover(model, pairs, target=1.0, n_random=5)
    made = [
        circuits.faithfulness(model, pairs, circuit, n_random=5),
        circuits.completeness(model, pairs, circuit, n_sets=2),
        circuits.minimality(model, pairs, circuit, n_sets=2, n_random=3),
        circuits.faithfulness_curve(model, pairs, n_random=2),
        circuits.inspect_edge(model, circuit, edges[-1]),
    ]
    for i, result in enumerate(made):
        back = type(result).load(result.save(tmp_path / str(i)))
        assert back.summary() == result.summary()
        assert back.to_frame().equals(result.to_frame())
        assert cast("Any", result.figure()).to_json() == cast("Any", back.figure()).to_json()


def test_scripts_compute_the_results_again(grammar: Grammar) -> None:
    model, pairs = grammar
    edges = graph.Graph.of_model(model).edges[::2]
    for result in (
        circuits.faithfulness(model, pairs, edges, n_random=2),
        circuits.faithfulness_curve(model, pairs, n_random=2, fractions=(0.1, 1.0)),
    ):
        space: dict[str, Any] = {"print": lambda text: None}
        exec(result.script(), space)
        assert space["result"].summary() == result.summary()


def test_an_inspected_edge_shows_its_effect_and_where_its_reader_attends(induction: Wired) -> None:
    model, pairs, _ = induction
    circuit = circuits.discover(model, pairs, target=1.0, held_out=0.0)
    for i, edge in enumerate(circuit.edges):
        found = circuits.inspect_edge(model, circuit, i, prompt=1)
        assert found.edge == edge
        assert found.change == pytest.approx(circuit.exact[i], abs=1e-6)
        assert found.effect == pytest.approx(circuit.effects[i], abs=1e-6)
        np.testing.assert_allclose(found.effect_interval, circuit.effect_interval[:, i], atol=1e-6)
    found = circuits.inspect_edge(model, circuit, "a0.h0->a1.h0<k>", prompt=1)
    assert found.heads == ("a1.h0",)
    # "<bos> cat ape bee dog ape": the last ape attends to what came after the first one.
    assert found.clean_pattern[0, -1].argmax() == 3
    clean, _ = pairs.batch([1])
    _, kept = running.run_and_keep(model, clean, ["blocks.1.attn.hook_pattern"])
    pattern = kept["blocks.1.attn.hook_pattern"][0, 0].cpu().numpy()
    np.testing.assert_allclose(found.clean_pattern[0], pattern, atol=1e-6)
    writes = circuits.inspect_edge(model, circuit, "a1.h0->logits")
    assert writes.heads == ("a1.h0",)
    spare = circuits.inspect_edge(model, circuit, "m0->m1")
    assert spare.heads == ()
    assert spare.change == 0
    assert len(cast("Any", spare.figure()).data) == 1


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m, p: circuits.faithfulness(m, p, ["a0.h0->nowhere"]), "no edge 'a0.h0->nowhere'"),
        (lambda m, p: circuits.faithfulness(m, p, "input->m0"), "a sequence of edge names"),
        (lambda m, p: circuits.faithfulness(m, p, ["input->m0"] * 2), "named again: input->m0"),
        (
            lambda m, p: circuits.faithfulness(m, p, [], ablation="noise"),
            "unknown ablation 'noise'",
        ),
        (lambda m, p: circuits.faithfulness(m, p, [], n_random=-1), "n_random = -1; expected 0"),
        (lambda m, p: circuits.completeness(m, p, [], n_sets=0), "n_sets = 0; expected 1 or more"),
        (lambda m, p: circuits.minimality(m, p, ["input->logits"]), "has none but input, logits"),
        (
            lambda m, p: circuits.faithfulness_curve(m, p, fractions=(0.5, 0.1)),
            "expected two or more, increasing",
        ),
        (
            lambda m, p: circuits.faithfulness_curve(m, p, scores=np.zeros((2, 3))),
            "found an array of shape",
        ),
    ],
)
def test_bad_input_is_answered_in_a_sentence(induction: Wired, call: Any, sentence: str) -> None:
    model, pairs, _ = induction
    with pytest.raises(ValueError, match=sentence):
        call(model, pairs)


def test_an_edge_or_prompt_that_does_not_exist_cannot_be_inspected(induction: Wired) -> None:
    model, pairs, _ = induction
    circuit = circuits.discover(model, pairs, target=1.0, held_out=0.0)
    with pytest.raises(ValueError, match="edge 99 does not exist; the circuit has 5 edges"):
        circuits.inspect_edge(model, circuit, 99)
    with pytest.raises(ValueError, match="prompt 6 does not exist; there are 6 pairs"):
        circuits.inspect_edge(model, circuit, 0, prompt=6)


def test_aligned_pairs_are_refused(grammar: Grammar) -> None:
    model, pairs = grammar
    clean, corrupted = pairs.clean[0], pairs.corrupted[0].replace("good ", "")
    uneven = ContrastPairs.from_text(
        model, [clean], [corrupted], list(pairs.answer_strings[:1]), align=True
    )
    with pytest.raises(ValueError, match="these pairs are aligned"):
        circuits.faithfulness(model, uneven, [], metric="probability")
