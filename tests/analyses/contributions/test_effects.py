"""Exact effects: those of naive hooks, in every family, with nulls that say what they claim."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import contributions
from analyses.contributions import parts
from analyses.contributions import runs as rest
from tests import families
from workbench.core import evidence, results
from workbench.core.engine import running
from workbench.core.planted import known_circuits, two_steps
from workbench.core.prompts.prompt import Prompt

FAMILIES = [*families.CONFIGS, families.NATIVE]
IDS = (5, 3, 1, 0, 4, 2, 3)
CORRUPTED = (5, 3, 2, 0, 1, 2, 3)
TOLERANCE = 1e-5
STORE = "When Mary and John went to the store, John gave a drink to"
NAMED = ("head 0.1 from 2 to 4", "head 1.3 from 4 to 6", "head 1.0 from 6 to 6")
NODES = ("input at 2",)
SEQUENTIAL = (
    *("mlp 0 at 3", "mlp 1 at 6", "attn bias 1 at 6", "mlp bias 0 at 4", "past attn 0 at 2"),
    *("past mlp 0 at 5", "past mlp 1 at 6", "after attn 0 at 4", "after mlp 1 at 6"),
)
PARALLEL = (
    *("mlp 0 at 3", "mlp 1 at 6", "attn bias 1 at 6", "mlp bias 0 at 4", "past layer 0 at 2"),
    *("past layer 1 at 6", "after layer 0 at 4"),
)


@functools.cache
def bundled() -> Any:
    return workbench.load_model("grammar-4l")


def kept_of(model: Any, ids: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """What hooks see of a run."""
    names = [f"blocks.{layer}.hook_{site}" for layer in range(2) for site in ("attn_out",)]
    for layer in range(2):
        names += [f"blocks.{layer}.{hook}" for hook in ("hook_resid_pre", "hook_mlp_out")]
        names += [f"blocks.{layer}.attn.hook_{site}" for site in ("v", "z", "pattern")]
    names.append("blocks.1.hook_resid_post")
    return running.run_and_keep(model, torch.tensor([ids]), names)[1]


def naive_part(model: Any, kept: dict[str, torch.Tensor], written: str) -> torch.Tensor:
    """What a part is, from hooks and weights alone."""
    part = contributions.edge_or_node(written)
    if isinstance(part, contributions.Node):
        if part.adds == "input":
            return kept["blocks.0.hook_resid_pre"][0, part.position]
        before = kept[f"blocks.{part.layer}.hook_resid_pre"][0, part.position]
        attn = kept[f"blocks.{part.layer}.hook_attn_out"][0, part.position]
        mlp = kept[f"blocks.{part.layer}.hook_mlp_out"][0, part.position]
        return before + attn + (0 if part.adds == "attn" else mlp)
    at = f"blocks.{part.layer}."
    attn, mlp = (kept[f"{at}hook_{site}_out"][0, part.target] for site in ("attn", "mlp"))
    before = kept[f"{at}hook_resid_pre"][0, part.target]
    attn_linear, mlp_linear = (
        inner.original_component
        for inner in (model.blocks[part.layer].attn.o, model.blocks[part.layer].mlp.out)
    )
    z = kept[f"{at}attn.hook_z"][0, part.target]
    weight = attn_linear.weight if hasattr(attn_linear, "nf") else attn_linear.weight.T
    weight = weight.detach().unflatten(0, tuple(z.shape))
    bias = torch.zeros_like(attn) if attn_linear.bias is None else attn_linear.bias.detach()
    # One number a coordinate where a norm follows attention; else nothing changes.
    factor = attn / (torch.einsum("hd,hdm->m", z, weight) + bias)
    factor = factor if hasattr(model.blocks[0], "ln1_post") else 1.0
    if part.kind == "head":
        v = kept[f"{at}attn.hook_v"][0, part.source].repeat_interleave(len(z) // _groups(kept), 0)
        seen = kept[f"{at}attn.hook_pattern"][0, part.head, part.target, part.source]
        return seen * v[part.head] @ weight[part.head] * factor
    mlp_bias = torch.zeros_like(mlp) if mlp_linear.bias is None else mlp_linear.bias.detach()
    return {
        "attn bias": bias * factor,
        "mlp bias": mlp_bias,
        "mlp": mlp - mlp_bias,
        "past attn": before,
        "past mlp": before + attn,
        "past layer": before,
    }[part.kind]


def _groups(kept: dict[str, torch.Tensor]) -> int:
    return kept["blocks.0.attn.hook_v"].shape[2]


def naive_logits(model: Any, written: str, vector: torch.Tensor) -> torch.Tensor:
    """Logits at the end with a vector taken out where a part was written, by a hook."""
    part = contributions.edge_or_node(written)
    if isinstance(part, contributions.Edge):
        site = "attn" if part.kind in {"head", "attn bias", "past attn"} else "mlp"
        name, position = f"blocks.{part.layer}.hook_{site}_out", part.target
    else:
        site = "attn" if part.adds == "attn" else "mlp"
        name, position = f"blocks.{part.layer}.hook_{site}_out", part.position
        name = "blocks.0.hook_resid_pre" if part.adds == "input" else name

    def take(activation: torch.Tensor) -> torch.Tensor:
        activation = activation.clone()
        activation[0, position] -= vector
        return activation

    return running.run(model, torch.tensor([IDS]), {name: take})[0, -1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("swapped", [False, True])
def test_effects_are_those_of_naive_hooks(family: str, swapped: bool) -> None:
    # Nothing is left of a state that is taken out, and a norm divides by nothing: what rounding
    # leaves there in float32 is blown up some hundred times.
    dtype = torch.float32 if swapped else torch.float64
    model = families.bridge(family, dtype)
    own, other = kept_of(model, IDS), kept_of(model, CORRUPTED)
    clean = running.run(model, torch.tensor([IDS]))[0, -1]
    asked = rest.Asked.of(
        model, IDS, 1, wrong=4, corrupted=CORRUPTED if swapped else None, target=-1
    )
    with parts.locked(model):
        runs = rest.Runs.of(model, asked)
        is_parallel = runs.stream.layout.adds[0] == "layer"
        names = [*NAMED, *(PARALLEL if is_parallel else SEQUENTIAL), *NODES]
        some = [contributions.edge_or_node(name) for name in names]
        changes, divergences = runs.changes(some, runs.taken(some))
    assert runs.before == pytest.approx(float(clean[1] - clean[4]), abs=TOLERANCE)
    before = clean.log_softmax(-1)
    for name, change, divergence in zip(names, changes, divergences, strict=True):
        vector = naive_part(model, own, name)
        vector = vector - naive_part(model, other, name) if swapped else vector
        changed = naive_logits(model, name, vector)
        expected = float((changed[1] - changed[4]) - (clean[1] - clean[4]))
        assert change == pytest.approx(expected, abs=TOLERANCE), name
        expected = float((before.exp() * (before - changed.log_softmax(-1))).sum())
        assert divergence == pytest.approx(expected, abs=TOLERANCE), name


@pytest.mark.parametrize("family", ["gpt2", "pythia", "gemma2"])
def test_effects_of_edges_in_float32_are_those_of_naive_hooks(family: str) -> None:
    model = families.bridge(family)
    own = kept_of(model, IDS)
    clean = running.run(model, torch.tensor([IDS]))[0, -1]
    for name in ("head 0.1 from 2 to 4", "mlp 0 at 3"):
        changed = naive_logits(model, name, naive_part(model, own, name))
        expected = float((changed[1] - changed[4]) - (clean[1] - clean[4]))
        found = contributions.edge_effect(model, IDS, name, 1, wrong=4, others=0)
        assert found.change == pytest.approx(expected, abs=TOLERANCE), name


class TestHandWired:
    def test_each_wired_edge_has_the_effect_that_it_was_wired_to_have(self) -> None:
        model = two_steps.two_layer()
        expected = {
            # Everything of the answer passes through the first head, 0.75 through the second.
            "head 0.0 from 1 to 3": -1.0,
            "head 1.1 from 3 to 3": -two_steps.INDIRECT,
            "past attn 1 at 3": -two_steps.DIRECT,
            "input at 1": -1.0,
            "past mlp 0 at 1": 0.0,
            "head 0.1 from 1 to 3": 0.0,
            "mlp 1 at 3": 0.0,
        }
        for edge, change in expected.items():
            found = contributions.edge_effect(model, "ape bee cat dog", edge, " bee", others=0)
            assert found.change == pytest.approx(change, abs=1e-6), edge

    def test_a_head_that_nobody_reads_has_a_share_and_no_effect(self) -> None:
        case = known_circuits.induction()
        graph = contributions.trace(case.model, case.clean[0])
        (read, unread) = ("head 0.0 from 1 to 2", "head 0.1 from 1 to 2")
        changes = [
            contributions.edge_effect(case.model, case.clean[0], edge, " bee", others=9).change
            for edge in (read, unread)
        ]
        assert graph.shares[graph.find(unread)] > 0.05
        assert changes[0] < -1
        assert changes[1] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def graph() -> contributions.ContributionGraph:
    return contributions.trace(bundled(), STORE)


@pytest.fixture(scope="module")
def effect(graph: contributions.ContributionGraph) -> contributions.EdgeEffect:
    route = [graph.edge(i) for i in graph.routes()]
    return contributions.edge_effect(
        bundled(),
        STORE,
        "head 1.0 from 10 to 14",
        " Mary",
        wrong=" John",
        route=route,
        others=40,
    )


class TestNull:
    def test_others_are_of_the_same_kind_at_the_same_position_and_not_on_the_route(
        self, graph: contributions.ContributionGraph, effect: contributions.EdgeEffect
    ) -> None:
        others = [contributions.Edge.of(name) for name in effect.others]
        route = {graph.edge(i) for i in graph.routes()}
        assert len(set(others)) == len(others) == len(effect.null) == 40
        assert {(edge.kind, edge.target) for edge in others} == {("head", 14)}
        assert not route & set(others)
        assert effect.compared == "'head' of any layer at its position, not on the route"

    def test_each_number_of_the_null_is_the_effect_of_that_part(
        self, effect: contributions.EdgeEffect
    ) -> None:
        model = bundled()
        for i in (0, 17):
            alone = contributions.edge_effect(
                model, STORE, effect.others[i], " Mary", wrong=" John", others=0
            )
            assert effect.null[i] == pytest.approx(alone.change, abs=1e-4)
        expected = evidence.p_value(abs(effect.change), np.abs(effect.null))
        assert effect.p_value == expected < 0.05

    def test_random_vectors_have_the_length_of_the_part(
        self, effect: contributions.EdgeEffect
    ) -> None:
        model = bundled()
        prompt = Prompt.of(model, STORE)
        with torch.no_grad():
            stream = parts.Stream.of(model, prompt, -1)
            (vector,) = stream.vectors([contributions.Edge.of(effect.part)])
        noise = torch.randn(40, len(vector), generator=torch.Generator().manual_seed(0))
        taken = noise[3] / noise[3].norm() * vector.norm()

        def take(activation: torch.Tensor) -> torch.Tensor:
            activation = activation.clone()
            activation[0, 14] -= taken
            return activation

        logits = running.run(model, prompt.batch, {"blocks.1.hook_attn_out": take})[0, -1]
        mary, john = (prompt.answer(model, name) for name in (" Mary", " John"))
        expected = float(logits[mary] - logits[john]) - effect.before
        assert effect.random[3] == pytest.approx(expected, abs=1e-4)

    def test_where_one_position_has_too_few_others_they_come_from_all(self) -> None:
        model = bundled()
        found = contributions.edge_effect(model, STORE, "mlp 2 at 14", " Mary", others=30)
        assert found.compared == "'mlp' of any layer at any position"
        assert len({contributions.Edge.of(name).target for name in found.others}) > 5

    def test_an_edge_without_any_others_says_so(self) -> None:
        model = workbench.load_model("modadd-113")
        found = contributions.edge_effect(
            model, "12 + 57 =", "mlp 0 at 2", "69", route=["mlp 0 at 0", "mlp 0 at 1"]
        )
        assert len(found.null) == 0 and found.p_value == 1
        assert "no other part to compare it with" in found.summary()


class TestResult:
    def test_summary_table_and_figure_say_the_same(
        self, effect: contributions.EdgeEffect, tmp_path: Path
    ) -> None:
        said = effect.summary()
        assert f"{effect.change:+.4f} logits" in said
        assert "logit of 'Mary' less that of 'John'" in said
        assert f"p = {effect.p_value:.2g}" in said
        frame = effect.to_frame()
        assert list(frame["change"])[0] == effect.change and len(frame) == 81
        figure: Any = effect.figure()
        assert [len(trace.x) for trace in figure.data] == [40, 40]
        again = results.Result.load(effect.save(tmp_path / "effect"))
        assert isinstance(again, contributions.EdgeEffect)
        assert again.summary() == said

    def test_a_swapped_part_is_told_as_one(self) -> None:
        found = contributions.edge_effect(
            families.bridge(families.NATIVE), IDS, "mlp 1 at 6", 1, corrupted=CORRUPTED, others=2
        )
        assert found.summary().startswith("Swapping 'mlp 1 at 6'")
        same = contributions.edge_effect(
            families.bridge(families.NATIVE), IDS, "mlp 1 at 6", 1, corrupted=IDS, others=0
        )
        assert same.change == pytest.approx(0, abs=TOLERANCE)

    def test_equal_seeds_give_equal_bits(self) -> None:
        model = families.bridge(families.NATIVE)
        one, two = (
            contributions.edge_effect(model, IDS, "mlp 1 at 6", 1, others=5) for _ in range(2)
        )
        np.testing.assert_array_equal(one.null, two.null)
        np.testing.assert_array_equal(one.random, two.random)


class TestAgreement:
    def test_shares_and_effects_are_those_of_the_graph_and_of_single_edges(
        self, graph: contributions.ContributionGraph, tmp_path: Path
    ) -> None:
        model = bundled()
        found = contributions.agreement(model, graph, " Mary", wrong=" John", edges=60)
        assert len(found.names) == 60
        for i in (0, 31):
            index = graph.find(found.names[i])
            assert index is not None
            assert found.shares[i] == graph.shares[index]
            alone = contributions.edge_effect(
                model, STORE, found.names[i], " Mary", wrong=" John", others=0
            )
            assert found.changes[i] == pytest.approx(alone.change, abs=1e-4)
        ranks = found.to_frame()[["share", "change"]].abs().rank()
        expected = float(np.corrcoef(ranks["share"], ranks["change"])[0, 1])
        assert found.rank_correlation == pytest.approx(expected, abs=1e-6)
        assert f"rank correlation of {expected:.2f}" in found.summary()
        figure: Any = found.figure()
        assert len(figure.data[0].x) == 60
        again = results.Result.load(found.save(tmp_path / "agreement"))
        assert again.summary() == found.summary()

    def test_where_shares_say_nothing_it_says_so(self) -> None:
        # Of a random model's edges, those of a state that is swapped for itself change nothing.
        model = families.bridge(families.NATIVE)
        graph = contributions.trace(model, IDS)
        found = contributions.agreement(model, graph, 1, corrupted=IDS)
        assert found.rank_correlation == 0 or found.p_value > 0.01
        assert np.abs(found.changes).max() < TOLERANCE

    def test_a_graph_with_few_edges_is_told_as_one(self) -> None:
        model = two_steps.two_layer()
        graph = contributions.trace(model, "ape bee cat dog")
        assert "too few" in contributions.agreement(model, graph, " bee").summary()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"edge": "head 0.9 from 1 to 2"}, "heads 0 to 3"),
        ({"edge": "head 0.1 from 3 to 2"}, "run forward"),
        ({"edge": "head 7.1 from 1 to 2"}, "the model has no edge"),
        ({"edge": "past layer 0 at 2"}, "the model has no edge"),
        ({"edge": "after layer 0 at 2"}, "the model has no state"),
        ({"edge": "input at 12"}, "positions 0 to 6"),
        ({"edge": "mlp 0 at 7"}, "positions 0 to 6"),
        ({"edge": "<b>"}, "is no edge"),
        ({"answer": 99}, "vocabulary"),
        ({"corrupted": (1, 2)}, "expected 7, as many"),
        ({"target": 20}, "positions 0 to 6"),
        ({"others": -1}, "0 or more"),
    ],
)
def test_bad_arguments_are_a_sentence(arguments: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"edge": "mlp 0 at 2", "answer": 1, **arguments}
    with pytest.raises(ValueError, match=said):
        contributions.edge_effect(families.bridge(families.NATIVE), IDS, **given)


def test_a_graph_of_another_model_is_refused(graph: contributions.ContributionGraph) -> None:
    other = families.bridge(families.NATIVE)
    for call in (
        lambda: contributions.agreement(other, graph, 1),
        lambda: contributions.promoted(other, graph, "mlp 0 at 2"),
        lambda: contributions.state_tokens(other, graph, "input at 2"),
    ):
        with pytest.raises(ValueError, match="other weights"):
            call()


@pytest.mark.real_model
def test_a_pretrained_model(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    text = "Once upon a time, there was a little girl named"
    prompt = Prompt.of(model, text)
    last = len(prompt) - 1
    found = contributions.edge_effect(model, text, f"mlp 2 at {last}", prompt.ids[1], others=5)

    def take(activation: torch.Tensor) -> torch.Tensor:
        activation = activation.clone()
        activation[0, last] = 0
        return activation

    clean = running.run(model, prompt.batch)[0, -1, prompt.ids[1]]
    changed = running.run(model, prompt.batch, {"blocks.2.hook_mlp_out": take})
    expected = float(changed[0, -1, prompt.ids[1]] - clean)
    assert found.change == pytest.approx(expected, abs=1e-4)
