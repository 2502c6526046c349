"""The graph: its parts add up, its shares are the ones of the definition, its routes the wired."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import contributions
from analyses.contributions import parts
from tests import families
from workbench.core import results
from workbench.core.engine import running
from workbench.core.planted import known_circuits, two_steps
from workbench.core.prompts.prompt import Prompt

FAMILIES = [*families.CONFIGS, families.NATIVE]
IDS = (5, 3, 1, 0, 4, 2, 3)
STORE = "When Mary and John went to the store, John gave a drink to"


@functools.cache
def bundled() -> Any:
    return workbench.load_model("grammar-4l")


def stream_of(family: str) -> parts.Stream:
    model = families.bridge(family)
    return parts.Stream.of(model, Prompt.of(model, IDS), -1)


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_the_parts_of_every_state_add_up_to_it(self, family: str) -> None:
        with torch.no_grad():
            stream = stream_of(family)
            for step, adds in enumerate(stream.layout.adds):
                pattern = None if adds == "mlp" else stream.pattern(stream.layout.layers[step])
                for position in range(len(IDS)):
                    moved = stream.moved(step, pattern, position).flatten(0, 1)
                    others = torch.stack(list(stream.others(step, position).values()))
                    found = torch.cat([moved, others]).sum(0)
                    expected = stream.state(step + 1)[position]
                    assert torch.allclose(found, expected, atol=1e-4)
                    update = found - others[0]
                    assert torch.allclose(stream.update(step, position), update, atol=1e-4)
            last = stream.state(len(stream.layout))
            assert torch.equal(last, stream.sum.kept.resid[-1][0])

    def test_shares_add_up_to_one_at_every_state(self, family: str) -> None:
        graph = contributions.trace(families.bridge(family), IDS, floor=0)
        # The last layer at the target alone; what attention reads there, at all positions.
        assert len(graph.states) == len(graph.layout) // 2 * (1 + len(IDS))
        for state, position, kept in zip(graph.states, graph.positions, graph.kept, strict=True):
            node = graph.layout.node(int(state), int(position))
            edges = graph.entering(node)
            assert graph.shares[edges].sum() == pytest.approx(1, abs=1e-5)
            assert kept == pytest.approx(1, abs=1e-5)
            assert np.nansum(graph.updates[edges]) == pytest.approx(1, abs=1e-4)
        # What flows into the target leaves at the input, or at biases.
        first = (graph.steps == 0) | np.isin(graph.kinds, [2, 3])
        assert graph.flows[first].sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "pythia", "gemma2"])
def test_a_floor_leaves_out_small_shares_and_nothing_else(family: str) -> None:
    model = families.bridge(family)
    whole = contributions.trace(model, IDS, floor=0)
    some = contributions.trace(model, IDS, floor=0.1)
    large = (whole.shares >= 0.1) | (np.abs(np.nan_to_num(whole.updates)) >= 0.1)
    reached = {(int(s), int(p)) for s, p in zip(some.states, some.positions, strict=True)}
    ends = zip(whole.steps + 1, whole.targets, strict=True)
    on_way = np.array([(int(s), int(p)) in reached for s, p in ends])
    expected = [whole.edge(i) for i in np.flatnonzero(large & on_way)]
    assert [some.edge(i) for i in range(len(some))] == expected
    for i, edge in enumerate(expected):
        index = whole.find(edge)
        assert index is not None
        assert some.shares[i] == pytest.approx(whole.shares[index], abs=1e-6)
    assert set(map(int, some.routes(0.3))) <= set(map(int, some.routes(0.1)))


def test_shares_are_those_of_the_definition_worked_out_from_hooks() -> None:
    model = families.bridge(families.NATIVE)
    tokens = torch.tensor([IDS])
    hooks = ["hook_resid_pre", "attn.hook_v", "attn.hook_pattern", "hook_attn_out"]
    _, kept = running.run_and_keep(model, tokens, [f"blocks.1.{hook}" for hook in hooks])
    before, v, pattern, out = (kept[f"blocks.1.{hook}"][0] for hook in hooks)
    weight = model.blocks[1].attn.W_O.detach()
    at = 4
    moved = torch.einsum("hk,khd,hdm->hkm", pattern[:, at], v, weight)
    pieces = {
        f"head 1.{head} from {key} to {at}": moved[head, key]
        for head in range(4)
        for key in range(at + 1)
    }
    pieces[f"attn bias 1 at {at}"] = out[at] - moved.sum((0, 1))
    pieces[f"past attn 1 at {at}"] = before[at]
    after, update = before[at] + out[at], out[at]
    near = {
        name: max(0.0, float(after.abs().sum() - (after - piece).abs().sum()))
        for name, piece in pieces.items()
    }
    graph = contributions.trace(model, IDS, target=at, floor=0)
    for name, piece in pieces.items():
        index = graph.find(name)
        assert index is not None
        assert graph.shares[index] == pytest.approx(near[name] / sum(near.values()), abs=1e-5)
        if name.startswith("past"):
            assert np.isnan(graph.updates[index])
        else:
            along = float(piece @ update / (update @ update))
            assert graph.updates[index] == pytest.approx(along, abs=1e-5)


class TestHandWired:
    def test_the_routes_of_the_two_layer_model_are_the_wired_ones_and_no_others(self) -> None:
        graph = contributions.trace(two_steps.two_layer(), "ape bee cat dog")
        found = {str(graph.edge(i)): float(graph.shares[i]) for i in graph.routes(0.02)}
        # Before: token and place, of length 1 each; then A beside them, then B beside these.
        expected = {
            "past mlp 1 at 3": 1.0,
            "past attn 1 at 3": 3 / 4,
            "head 1.1 from 3 to 3": 1 / 4,
            "past mlp 0 at 3": 1.0,
            "past attn 0 at 3": 2 / 3,
            "head 0.0 from 1 to 3": 1 / 3,
        }
        assert found == pytest.approx(expected, abs=1e-6)
        assert len(graph) == len(expected)
        assert graph.flows[graph.find("head 0.0 from 1 to 3")] == pytest.approx(1 / 3, abs=1e-6)
        nodes = [str(node) for node in graph.nodes(graph.routes(0.02))]
        assert nodes[:2] == ["input at 1", "input at 3"]
        assert nodes[-1] == "after mlp 1 at 3"
        assert [str(graph.edge(i)) for i in graph.routes(0.3, measure="update")] == [*expected]

    def test_the_route_of_induction_leads_to_the_copied_token_and_what_was_written_there(
        self,
    ) -> None:
        case = known_circuits.induction()
        # BOS ape bee cat dog ape: the last position copies what followed the first "ape".
        graph = contributions.trace(case.model, case.clean[0])
        found = {str(graph.edge(i)) for i in graph.routes(0.1)}
        assert found == {
            "past mlp 1 at 5",
            "past attn 1 at 5",
            "head 1.0 from 2 to 5",
            "past mlp 0 at 2",
            "past mlp 0 at 5",
            "past attn 0 at 2",
            "head 0.0 from 1 to 2",
            "past attn 0 at 5",
            "head 0.0 from 4 to 5",
        }

    def test_a_model_without_an_mlp_has_no_steps_of_one(self) -> None:
        config = TransformerBridgeConfig(
            d_model=8,
            d_head=4,
            n_heads=2,
            n_layers=2,
            n_ctx=6,
            d_vocab=7,
            attn_only=True,
            act_fn="relu",
            normalization_type=None,
            init_weights=False,
        )
        model = TransformerBridge.boot_native(config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.original_model.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        graph = contributions.trace(model, [1, 2, 3], floor=0)
        assert graph.layout.adds == ("attn", "attn")
        assert graph.shares[graph.entering("after attn 1 at 2")].sum() == pytest.approx(1)
        found = contributions.edge_effect(model, [1, 2, 3], "head 0.1 from 0 to 2", 4, others=3)
        assert found.change != 0


class TestLongPrompts:
    def test_only_what_most_passes_through_is_taken_apart_and_the_rest_is_counted(self) -> None:
        model = bundled()
        whole = contributions.trace(model, STORE)
        narrow = contributions.trace(model, STORE, widest=2)
        assert whole.cut == 0 and narrow.cut > 0
        assert np.unique(narrow.states, return_counts=True)[1].max() == 2
        assert f"{narrow.cut} states were reached and not taken apart" in narrow.summary()
        for i in range(len(narrow)):
            assert whole.find(narrow.edge(i)) is not None

    def test_what_comes_after_the_target_changes_nothing(self) -> None:
        model = bundled()
        prompt = Prompt.of(model, STORE)
        early = contributions.trace(model, prompt, target=6)
        alone = contributions.trace(model, prompt.up_to(model, 6))
        assert [early.edge(i) for i in range(len(early))] == [
            alone.edge(i) for i in range(len(alone))
        ]
        np.testing.assert_allclose(early.shares, alone.shares, atol=1e-6)


@pytest.fixture(scope="module")
def graph() -> contributions.ContributionGraph:
    return contributions.trace(bundled(), STORE)


class TestResult:
    def test_it_is_saved_and_read_back(
        self, graph: contributions.ContributionGraph, tmp_path: Path
    ) -> None:
        again = results.Result.load(graph.save(tmp_path / "graph"))
        assert isinstance(again, contributions.ContributionGraph)
        np.testing.assert_array_equal(again.routes(0.1), graph.routes(0.1))
        assert again.summary() == graph.summary()
        assert again.layout == graph.layout and again.prompt == graph.prompt

    def test_the_figure_has_one_marker_for_each_edge_and_node(
        self, graph: contributions.ContributionGraph
    ) -> None:
        for measure in contributions.MEASURES:
            routes = graph.routes(0.1, measure=measure)
            nodes = graph.nodes(routes)
            figure = graph.figure(0.1, measure=measure, selected=graph.edge(routes[3]))
            traces: Any = figure.data
            markers = traces[-1]
            assert list(markers.customdata) == list(range(len(routes) + len(nodes)))
            last = markers.x[-1], markers.y[-1]
            assert last == (graph.target, len(graph.layout))
            # The selected edge is drawn twice more, just beneath the markers.
            assert [len(trace.x) for trace in traces[-3:-1]] == [11, 11]
            lines = [trace for trace in traces if trace.mode == "lines" and trace.name]
            drawn = sum(int(np.isnan(np.array(trace.x)).sum()) for trace in lines)
            assert drawn == len(routes)
            # A share of the update has a sign, one of the state has not.
            signed = "negative share" in {trace.name for trace in lines}
            assert signed == (measure == "update")

    def test_tags_in_tokens_are_no_markup_in_the_figure(self) -> None:
        config = families.bridge(families.NATIVE)
        prompt = Prompt("", IDS, ("<a href=x>",) * len(IDS))
        figure: Any = contributions.trace(config, prompt).figure()
        assert "&lt;a·href=x&gt;" in figure.data[-1].text[0]
        said = [*figure.data[-1].text, *figure.layout.xaxis.ticktext]
        assert not any("<a" in text for text in said)

    def test_the_table_has_a_row_for_each_edge(
        self, graph: contributions.ContributionGraph
    ) -> None:
        frame = graph.to_frame()
        assert len(frame) == len(graph)
        assert contributions.Edge.of(list(frame["edge"])[5]) == graph.edge(5)

    def test_the_summary_names_the_heads_that_most_passes_through(
        self, graph: contributions.ContributionGraph
    ) -> None:
        said = graph.summary(0.05)
        routes = graph.routes(0.05)
        heads = [i for i in routes if graph.edge(i).kind == "head"]
        best = max(heads, key=lambda i: graph.flows[i])
        assert f"lead {len(routes)} of {len(graph)} edges" in said
        assert f"{graph.told(graph.edge(best))} ({graph.flows[best]:.1%} of it" in said
        assert "not what is used of it" in said
        assert "No head moved as much" in graph.summary(1)

    @pytest.mark.parametrize(
        ("threshold", "measure", "said"),
        [(0.001, "proximity", "0.01"), (1.5, "proximity", "to 1"), (0.1, "cosine", "no measure")],
    )
    def test_a_threshold_or_measure_that_makes_no_sense(
        self,
        graph: contributions.ContributionGraph,
        threshold: float,
        measure: str,
        said: str,
    ) -> None:
        with pytest.raises(ValueError, match=said):
            graph.routes(threshold, measure=measure)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["head 1.3 from 4 to 7", "mlp 1 at 7", "attn bias 0 at 2", "past layer 3 at 0"],
    )
    def test_an_edge_reads_as_it_is_written(self, name: str) -> None:
        assert str(contributions.Edge.of(name)) == name
        assert contributions.edge_or_node(name) == contributions.Edge.of(name)

    @pytest.mark.parametrize("name", ["input at 3", "after mlp 2 at 11", "after layer 0 at 0"])
    def test_a_node_reads_as_it_is_written(self, name: str) -> None:
        assert str(contributions.Node.of(name)) == name
        assert contributions.edge_or_node(name) == contributions.Node.of(name)

    @pytest.mark.parametrize("name", ["", "head 1.3", "mlp -1 at 2", "9" * 500, "after at 1"])
    def test_what_is_neither_is_a_sentence(self, name: str) -> None:
        with pytest.raises(ValueError, match="is no edge"):
            contributions.edge_or_node(name)
        with pytest.raises(ValueError, match="is no node"):
            contributions.Node.of(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"floor": 1.0}, "below 1"),
        ({"floor": -0.1}, "below 1"),
        ({"widest": 0}, "at least one"),
        ({"target": 99}, "positions 0 to 6"),
    ],
)
def test_bad_arguments_are_a_sentence(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        contributions.trace(families.bridge(families.NATIVE), IDS, **arguments)  # pyright: ignore[reportArgumentType]


def test_progress_is_told_and_can_stop_the_trace() -> None:
    class Stop(Exception):
        pass

    def stop(fraction: float, note: str) -> None:
        if fraction > 0.4:
            raise Stop(note)

    with pytest.raises(Stop):
        contributions.trace(families.bridge(families.NATIVE), IDS, progress=stop)


@pytest.mark.real_model
def test_a_pretrained_model(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    graph = contributions.trace(model, "Once upon a time, there was a little girl named", floor=0)
    for state, position in ((len(graph.layout), graph.target), (1, graph.target), (3, 0)):
        edges = graph.entering(graph.layout.node(state, position))
        assert graph.shares[edges].sum() == pytest.approx(1, abs=1e-5)
    assert len(graph.routes(0.04)) < len(graph.routes(0.01)) < len(graph)
