"""The component graph against TransformerLens's own split inputs, gradients and known circuits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from tests import families
from workbench.core.engine import decoder, graph, metrics, running
from workbench.core.planted import known_circuits, two_steps, unplanted

# Same computation on the same machine, so float32 rounding only.
EXACT = 1e-5
TOKENS = torch.tensor([[1, 2, 3, 4, 1], [5, 4, 3, 2, 2]])
OTHERS = torch.tensor([[3, 2, 1, 1, 5], [2, 2, 4, 5, 0]])
# Gemma 2 normalises attention's output, so it is no sum over heads and has no such graph.
FAMILIES = {name: config for name, config in families.CONFIGS.items() if name != "gemma2"}
CASES = {"induction": known_circuits.induction, "name mover": known_circuits.name_mover}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> TransformerBridge:
    return families.bridge(request.param)


@dataclasses.dataclass
class Runs:
    """A model in parts with the traces of two batches."""

    model: TransformerBridge
    decoder: decoder.Decoder
    graph: graph.Graph
    clean: graph.Traced
    other: graph.Traced

    def run(self, *masks: np.ndarray, **options: Any) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(masks))
        off = self.other.outputs
        return graph.run(self.decoder, self.graph, self.clean, off, stacked, **options)


def runs_of(
    model: TransformerBridge, tokens: torch.Tensor = TOKENS, others: torch.Tensor = OTHERS
) -> Runs:
    taken = decoder.taken_apart(model, tokens[:2])
    traces = [graph.trace(taken, batch) for batch in (tokens, others)]
    return Runs(model, taken, graph.Graph.of(taken), *traces)


def random_mask(whole: graph.Graph, seed: int, share: float = 0.5) -> np.ndarray:
    return whole.allowed & (np.random.default_rng(seed).random(whole.allowed.shape) < share)


class ByHooks:
    """A run with some edges off, through TransformerLens's split inputs: nothing of ours."""

    def __init__(self, model: TransformerBridge, whole: graph.Graph, off: torch.Tensor) -> None:
        self._model, self._graph, self._off = model, whole, off
        self.written: dict[str, torch.Tensor] = {}

    def end(self, tokens: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
        """The stream that the logits read at the last position."""
        self._mask = mask
        self.written.clear()
        hooks: list[Any] = []
        shared = "h" if self._graph.n_groups == self._graph.n_heads else "g"
        for layer in range(self._graph.n_layers):
            block = f"blocks.{layer}"
            hooks.append((f"{block}.hook_resid_pre", self._keep("input" if layer == 0 else "")))
            for read in "qkv":
                part = "h" if read == "q" else shared
                name = f"a{layer}.{part}{{}}<{read}>"
                hooks.append((f"{block}.attn.hook_{read}_input", self._split(name)))
            hooks.append((f"{block}.attn.hook_result", self._keep_heads(layer)))
            hooks.append((f"{block}.hook_mlp_in", self._whole(f"m{layer}")))
            hooks.append((f"{block}.hook_mlp_out", self._keep(f"m{layer}")))
        ends: list[torch.Tensor] = []
        last = f"blocks.{self._graph.n_layers - 1}.hook_resid_post"
        hooks.append((last, lambda value, hook: ends.append(value) or value))
        self._model.set_use_attn_result(True)
        self._model.set_use_split_qkv_input(True)
        self._model.set_use_hook_mlp_in(True)
        try:
            with torch.no_grad():
                self._model.run_with_hooks(tokens, fwd_hooks=hooks)
        finally:
            self._model.set_use_attn_result(False)
            self._model.set_use_split_qkv_input(False)
            self._model.set_use_hook_mlp_in(False)
        return (ends[0] + self._missing("logits"))[:, -1]

    def _missing(self, receiver: str) -> torch.Tensor:
        """What edges that are off bring in place of what was written."""
        j = self._graph.receiver_index[receiver]
        total = torch.zeros_like(self._off[0])
        for i in range(self._graph.sent_before(receiver)):
            if not self._mask[i, j]:
                total += self._off[i] - self.written[self._graph.senders[i]]
        return total

    def _keep(self, name: str) -> Callable[..., torch.Tensor]:
        def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
            self.written.setdefault(name, value.clone())
            return value

        return hook

    def _keep_heads(self, layer: int) -> Callable[..., torch.Tensor]:
        def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
            for head in range(value.shape[2]):
                self.written[f"a{layer}.h{head}"] = value[:, :, head].clone()
            return value

        return hook

    def _split(self, name: str) -> Callable[..., torch.Tensor]:
        def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
            own = [self._missing(name.format(part)) for part in range(value.shape[2])]
            return value + torch.stack(own, dim=2)

        return hook

    def _whole(self, name: str) -> Callable[..., torch.Tensor]:
        return lambda value, hook: value + self._missing(name)


# Names and sets of edges


def test_receivers_read_whatever_ran_before_them() -> None:
    whole = graph.Graph(n_layers=1, n_heads=2, n_groups=2)
    assert whole.senders == ("input", "a0.h0", "a0.h1", "m0")
    qkv = tuple(f"a0.h{head}<{read}>" for read in "qkv" for head in range(2))
    assert whole.receivers == (*qkv, "m0", "logits")
    into_attention = tuple(f"input->{name}" for name in qkv)
    assert whole.edges == (
        *into_attention,
        "input->m0",
        "input->logits",
        "a0.h0->m0",
        "a0.h0->logits",
        "a0.h1->m0",
        "a0.h1->logits",
        "m0->logits",
    )
    assert whole.n_edges == 13


def test_a_parallel_mlp_does_not_read_its_own_attention() -> None:
    whole = graph.Graph(n_layers=2, n_heads=1, n_groups=1, parallel=True)
    into = {edge.partition("->")[0] for edge in whole.edges if edge.endswith("->m1")}
    assert into == {"input", "a0.h0", "m0"}


def test_shared_keys_and_values_are_read_by_groups() -> None:
    whole = graph.Graph(n_layers=1, n_heads=4, n_groups=2)
    assert whole.receivers == (
        *(f"a0.h{head}<q>" for head in range(4)),
        *(f"a0.g{group}<{read}>" for read in "kv" for group in range(2)),
        "m0",
        "logits",
    )
    assert whole.heads_of("a0.g1") == ("a0.h2", "a0.h3")


def test_names_become_a_mask_and_names_again() -> None:
    whole = graph.Graph(n_layers=2, n_heads=2, n_groups=2)
    edges = ("input->m1", "a0.h1->a1.h0<k>", "m1->logits")
    mask = whole.mask(reversed(edges))
    assert whole.names(mask) == edges
    assert mask.sum() == 3
    np.testing.assert_array_equal(whole.mask(whole.edges), whole.allowed)


@pytest.mark.parametrize("name", ["a0.h1->a1.h7<k>", "m1->m0", "a0.h0->a0.h1<q>", "nonsense"])
def test_an_edge_that_does_not_exist_is_refused(name: str) -> None:
    whole = graph.Graph(n_layers=2, n_heads=2, n_groups=2)
    with pytest.raises(ValueError, match=f"no edge '{name}' .(nearest: |nothing has a similar)"):
        whole.mask([name])


def test_the_nearest_edge_is_named() -> None:
    whole = graph.Graph(n_layers=2, n_heads=2, n_groups=2)
    with pytest.raises(ValueError, match=r"nearest: a0\.h1->a1\.h1<k>"):
        whole.mask(["a0.h1->a1.h1<k"])


def test_a_node_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'b0' is no node"):
        graph.Graph(n_layers=2, n_heads=2, n_groups=2).kind_of("b0")


def test_only_edges_on_a_path_from_input_to_logits_stay() -> None:
    whole = graph.Graph(n_layers=2, n_heads=2, n_groups=2)
    path = ("input->a0.h1<v>", "a0.h1->a1.h0<k>", "a1.h0->logits")
    loose = ("input->a0.h0<q>", "m0->a1.h0<v>", "a0.h1->m1")
    assert whole.names(whole.connected(whole.mask([*path, *loose]))) == path
    assert not whole.connected(whole.mask(path[:2])).any()


def test_a_path_goes_on_from_a_group_to_its_heads_only() -> None:
    whole = graph.Graph(n_layers=1, n_heads=4, n_groups=2)
    edges = ["input->a0.g0<v>", "input->a0.g1<k>", "a0.h1->logits"]
    kept = whole.names(whole.connected(whole.mask(edges)))
    assert kept == ("input->a0.g0<v>", "a0.h1->logits")


def test_the_network_has_nodes_with_layer_and_kind_and_weights_of_largest_size() -> None:
    whole = graph.Graph(n_layers=2, n_heads=4, n_groups=2)
    mask = whole.mask(["input->a0.h1<q>", "a0.h1->a1.g0<k>", "a0.h1->a1.g0<v>", "a1.h1->logits"])
    weights = np.zeros(mask.shape)
    sender = whole.sender_index["a0.h1"]
    weights[sender, whole.receiver_index["a1.g0<k>"]] = 0.25
    weights[sender, whole.receiver_index["a1.g0<v>"]] = -0.75
    network = whole.to_networkx(mask, weights)
    assert {node: network.nodes[node]["kind"] for node in network} == {
        "input": "input",
        "logits": "logits",
        "a0.h1": "head",
        "a1.g0": "group",
        "a1.h1": "head",
    }
    assert network.nodes["input"]["layer"] == -1
    assert network.nodes["logits"]["layer"] == 2
    assert network.edges["a0.h1", "a1.g0"] == {"reads": "kv", "weight": -0.75}
    assert ("a1.g0", "a1.h1") in network.edges


def test_the_graph_of_a_model_has_its_counts(family: TransformerBridge) -> None:
    whole = graph.Graph.of_model(family)
    kind = type(family.original_model).__name__
    groups = {"GPT2LMHeadModel": 4, "GPTNeoXForCausalLM": 4, "GemmaForCausalLM": 1}.get(kind, 2)
    assert (whole.n_layers, whole.n_heads, whole.n_groups) == (2, 4, groups)
    assert whole.parallel == ("NeoX" in type(family.original_model).__name__)


# Runs


def test_outputs_and_biases_sum_to_the_stream(family: TransformerBridge) -> None:
    runs = runs_of(family)
    constants = [clean.resid[-1] - clean.outputs.sum(0) for clean in (runs.clean, runs.other)]
    torch.testing.assert_close(constants[0], constants[1], atol=EXACT, rtol=0)
    flat = constants[0].flatten(0, 1)
    torch.testing.assert_close(flat, flat[:1].expand_as(flat), atol=EXACT, rtol=0)


def test_every_edge_on_is_the_clean_run_and_every_edge_off_the_other(
    family: TransformerBridge,
) -> None:
    for model in (family, unplanted.randomised()):
        runs = runs_of(model)
        everything = np.ones(runs.graph.allowed.shape, dtype=bool)
        ends = runs.decoder.logits(runs.run(everything, runs.graph.allowed, ~everything))
        clean, other = (running.run(model, tokens)[:, -1] for tokens in (TOKENS, OTHERS))
        for end, expected in zip(ends, (clean, clean, other), strict=True):
            torch.testing.assert_close(end, expected, atol=EXACT, rtol=EXACT)
        assert float((clean - other).abs().max()) > 0.1


def test_the_run_with_one_edge_off_is_that_of_transformer_lens(family: TransformerBridge) -> None:
    runs = runs_of(family)
    reference = ByHooks(family, runs.graph, runs.other.outputs)
    masks = [runs.graph.allowed & ~runs.graph.mask([edge]) for edge in runs.graph.edges]
    ends = runs.run(*masks)
    for end, mask in zip(ends, masks, strict=True):
        torch.testing.assert_close(end, reference.end(TOKENS, mask), atol=EXACT, rtol=0)
    clean = runs.clean.resid[-1][:, -1]
    assert float((ends - clean).abs().amax((1, 2)).median()) > 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_any_set_of_edges_is_that_of_transformer_lens(family: TransformerBridge, seed: int) -> None:
    runs = runs_of(family)
    mask = random_mask(runs.graph, seed)
    expected = ByHooks(family, runs.graph, runs.other.outputs).end(TOKENS, mask)
    torch.testing.assert_close(runs.run(mask)[0], expected, atol=EXACT, rtol=0)


def test_chunks_give_what_one_batch_of_runs_gives(family: TransformerBridge) -> None:
    runs = runs_of(family)
    masks = [random_mask(runs.graph, seed) for seed in range(5)]
    for most in (1, 20_000):
        torch.testing.assert_close(
            runs.run(*masks, max_elements=most), runs.run(*masks), atol=EXACT, rtol=0
        )


def test_no_runs_give_nothing() -> None:
    runs = runs_of(unplanted.randomised())
    none = torch.zeros(0, *runs.graph.allowed.shape, dtype=torch.bool)
    ends = graph.run(runs.decoder, runs.graph, runs.clean, runs.other.outputs, none)
    assert ends.shape == (0, 2, 16)


def test_a_given_output_is_read_where_the_edge_is_on_and_a_given_input_instead_of_all() -> None:
    runs = runs_of(unplanted.randomised())
    on = torch.from_numpy(runs.graph.allowed.copy())[None].expand(2, -1, -1)
    value = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    given = [graph.Given(outputs={"a0.h2": value}), graph.Given(inputs={"m1": value})]
    watch = ("a1.h0<q>", "m1", "logits")
    read = graph.run_given(
        runs.decoder, runs.graph, runs.clean, runs.other.outputs, on, given=given, watch=watch
    )
    sender = runs.graph.sender_index["a0.h2"]
    middle = runs.clean.resid[0] + runs.clean.activations.attn_out[0]
    changed = middle + value - runs.clean.outputs[sender]
    expected = changed + runs.decoder.layers[0].mlp_out(changed)
    torch.testing.assert_close(read["a1.h0<q>"][0], expected, atol=EXACT, rtol=0)
    torch.testing.assert_close(read["a1.h0<q>"][1], runs.clean.resid[1], atol=EXACT, rtol=0)
    torch.testing.assert_close(read["m1"][1], value, atol=0, rtol=0)
    m1 = runs.decoder.layers[1].mlp_out(value)
    after = runs.clean.resid[-1] - runs.clean.outputs[-1] + m1
    torch.testing.assert_close(read["logits"][1], after, atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    ("given", "watch", "message"),
    [
        ([graph.Given()] * 2, ("logits",), "1 masks need as many given inputs, found 2"),
        (None, ("a0.h9<q>",), "no receiver 'a0.h9<q>'"),
        ([graph.Given(outputs={"a9.h0": torch.zeros(2, 5, 16)})], (), "no sender 'a9.h0'"),
        ([graph.Given(inputs={"a0.h0": torch.zeros(2, 5, 16)})], (), "no receiver 'a0.h0'"),
    ],
)
def test_what_is_not_in_the_graph_cannot_be_given_or_watched(
    given: list[graph.Given] | None, watch: tuple[str, ...], message: str
) -> None:
    runs = runs_of(unplanted.randomised())
    on = torch.from_numpy(runs.graph.allowed.copy())[None]
    with pytest.raises(ValueError, match=message):
        graph.run_given(
            runs.decoder, runs.graph, runs.clean, runs.other.outputs, on, given=given, watch=watch
        )


def test_attention_that_is_normalised_before_it_is_added_is_refused() -> None:
    model = families.bridge("gemma2")
    taken = decoder.taken_apart(model, TOKENS)
    with pytest.raises(ValueError, match="attention's output is normalised, so it is no sum"):
        graph.trace(taken, TOKENS)


# Gradients


def hooked_gradients(
    model: TransformerBridge, whole: graph.Graph, tokens: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Gradients at TransformerLens's own split inputs, of one logit at the last position."""
    shared = "h" if whole.n_groups == whole.n_heads else "g"
    seen: dict[str, torch.Tensor] = {}

    def keeper(name: str) -> Callable[..., torch.Tensor]:
        def hook(value: torch.Tensor, hook: object) -> torch.Tensor:
            seen[name] = value.clone()
            seen[name].retain_grad()
            return seen[name]

        return hook

    hooks: list[Any] = [("blocks.1.hook_resid_post", keeper("logits"))]
    for layer in range(whole.n_layers):
        for read in "qkv":
            part = "h" if read == "q" else shared
            hook = keeper(f"a{layer}.{part}{{}}<{read}>")
            hooks.append((f"blocks.{layer}.attn.hook_{read}_input", hook))
        hooks.append((f"blocks.{layer}.hook_mlp_in", keeper(f"m{layer}")))
    for switch in (model.set_use_split_qkv_input, model.set_use_hook_mlp_in):
        switch(True)
    try:
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        logits[:, -1, 3].sum().backward()
    finally:
        for switch in (model.set_use_split_qkv_input, model.set_use_hook_mlp_in):
            switch(False)
        model.zero_grad()
    found: dict[str, torch.Tensor] = {}
    for name, value in seen.items():
        assert value.grad is not None
        if "{}" not in name:
            found[name] = value.grad
            continue
        found |= {name.format(i): value.grad[:, :, i] for i in range(value.shape[2])}
    return found


def logit_of_token_three(taken: decoder.Decoder) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda last: taken.logits(last)[:, 3]


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_at_the_split_inputs_of_transformer_lens(name: str) -> None:
    # In float32 the tiny gradients of queries are mostly what rounding left.
    model = families.bridge(name, torch.float64)
    runs = runs_of(model)
    expected = hooked_gradients(model, runs.graph, TOKENS)
    _, found = graph.gradients(runs.decoder, runs.graph, TOKENS, logit_of_token_three(runs.decoder))
    assert set(expected) == set(runs.graph.receivers)
    for receiver, gradient in zip(runs.graph.receivers, found, strict=True):
        scale = float(expected[receiver].abs().max())
        torch.testing.assert_close(gradient, expected[receiver], atol=EXACT * scale, rtol=0)
        assert scale > 1e-6


def test_gradients_are_slopes_of_runs_with_a_given_input() -> None:
    model = unplanted.randomised(dtype=torch.float64)
    runs = runs_of(model)
    metric = logit_of_token_three(runs.decoder)
    _, found = graph.gradients(runs.decoder, runs.graph, TOKENS, metric)
    on = torch.from_numpy(runs.graph.allowed.copy())[None].expand(2, -1, -1)
    generator = torch.Generator().manual_seed(5)
    names = ("a0.h1<q>", "a0.h3<k>", "a0.h2<v>", "m0", "a1.h0<q>", "a1.h2<k>", "a1.h3<v>", "m1")
    watched = graph.run_given(
        runs.decoder, runs.graph, runs.clean, runs.clean.outputs, on[:1], watch=names
    )
    for name in names:
        step = 1e-5 * torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
        given = [graph.Given(inputs={name: watched[name][0] + s * step}) for s in (1, -1)]
        ends = graph.run_given(
            runs.decoder, runs.graph, runs.clean, runs.clean.outputs, on, given=given
        )["logits"][:, :, -1]
        up, down = (metric(end) for end in ends)
        slope = (found[runs.graph.receiver_index[name]] * step).sum((1, 2))
        torch.testing.assert_close(slope, (up - down) / 2, rtol=1e-5, atol=1e-12)


def test_gradients_can_be_taken_inside_of_inference_mode_and_from_embeddings() -> None:
    model = unplanted.randomised()
    runs = runs_of(model)
    metric = logit_of_token_three(runs.decoder)
    traced, expected = graph.gradients(runs.decoder, runs.graph, TOKENS, metric)
    with torch.inference_mode():
        embedding = runs.decoder.embed(TOKENS)
        _, found = graph.gradients(runs.decoder, runs.graph, embedding, metric)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)
    torch.testing.assert_close(traced.outputs, runs.clean.outputs, atol=EXACT, rtol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not traced.outputs.requires_grad and not found.requires_grad


def test_the_window_of_a_sliding_attention_is_in_the_parts() -> None:
    model = families.bridge("mistral")
    mask = runs_of(model).decoder.layers[0].mask
    assert mask is not None
    assert mask[-1].tolist() == [False, False, True, True, True]


# Known circuits


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_wired_edges_have_an_effect_and_a_gradient_score(name: str) -> None:
    case = CASES[name]()
    pairs = case.pairs
    tokens, corrupted = pairs.batch(range(len(pairs)))
    runs = runs_of(case.model, tokens, corrupted)
    taken, whole = runs.decoder, runs.graph
    goal = metrics.targets(pairs, np.arange(len(pairs)), taken.logits(runs.clean.resid[-1][:, -1]))

    def difference(last: torch.Tensor) -> torch.Tensor:
        return metrics.logit_difference(taken.logits(last), goal)

    _, found = graph.gradients(taken, whole, tokens, difference)
    change = runs.other.outputs - runs.clean.outputs
    scores = torch.einsum("sbpd,rbpd->sr", change, found).numpy()
    assert whole.names(scores != 0) == case.edges

    clean = difference(runs.clean.resid[-1][:, -1]).detach()
    off = runs.run(*(whole.allowed & ~whole.mask([edge]) for edge in whole.edges))
    effects = torch.stack([difference(end) - clean for end in off]).abs().detach()
    lost = [edge for edge, effect in zip(whole.edges, effects, strict=True) if effect.max() > 0]
    assert tuple(lost) == case.edges
    assert float(effects[[whole.edges.index(edge) for edge in case.edges]].min()) > 1.0

    torch.testing.assert_close(difference(runs.run(whole.mask(case.edges))[0]).detach(), clean)
    assert whole.names(whole.connected(whole.allowed & whole.mask(case.edges))) == case.edges


def test_the_induction_head_finds_the_token_as_certainly_as_it_was_wired() -> None:
    """Six positions, one of which scores `MATCH` and all others zero."""
    case = known_circuits.induction()
    pairs = case.pairs
    logits = running.run(case.model, pairs.batch(range(len(pairs)))[0])[:, -1]
    goal = metrics.targets(pairs, np.arange(len(pairs)), logits)
    match = np.exp(known_circuits.MATCH)
    expected = known_circuits.GAIN * match / (match + 5)
    answered = logits.gather(1, goal.answers)[:, 0]
    np.testing.assert_allclose(answered.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("edges", list(itertools.product([True, False], repeat=2)))
def test_the_two_paths_of_the_hand_wired_model_add_up(edges: tuple[bool, bool]) -> None:
    model = two_steps.two_layer()
    tokens, others = torch.tensor([[0, 1, 2, 3]] * 2), torch.tensor([[0, 4, 2, 3]] * 2)
    runs = runs_of(model, tokens, others)
    off = [
        edge for edge, on in zip(("a0.h0->logits", "a0.h0->a1.h1<v>"), edges, strict=True) if not on
    ]
    mask = runs.graph.allowed & ~runs.graph.mask(off)
    logits = runs.decoder.logits(runs.run(mask)[0])[0].detach()
    shares = np.array([two_steps.DIRECT, two_steps.INDIRECT])
    assert float(logits[1]) == pytest.approx((shares * edges).sum())
    assert float(logits[4]) == pytest.approx((shares * ~np.array(edges)).sum())


@pytest.mark.real_model
def test_a_real_model_with_shared_keys_agrees_with_transformer_lens(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    text = "Once upon a time, there was a little girl named Lily"
    tokens = model.to_tokens(text)
    others = tokens.flip(1)
    runs = runs_of(model, tokens, others)
    mask = random_mask(runs.graph, seed=3, share=0.9)
    expected = ByHooks(model, runs.graph, runs.other.outputs).end(tokens, mask)
    scale = float(expected.abs().max())
    torch.testing.assert_close(runs.run(mask)[0], expected, atol=EXACT * scale, rtol=0)


@pytest.mark.parametrize(
    ("node", "unit"),
    [("a3.h1", "head 3.1"), ("a3.h1<q>", "head 3.1"), ("m2", None), ("a0.g1", None)],
)
def test_a_head_by_its_node_is_a_unit(node: str, unit: str | None) -> None:
    assert graph.unit_of(node) == unit
