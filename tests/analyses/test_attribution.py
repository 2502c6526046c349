"""Attribution against known circuits, gradients taken by other means, and exact patching."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import activation_patching, attribution
from analyses.attribution import edges, estimates, gradients, verification
from tests import families
from workbench import ContrastPairs
from workbench.core import results
from workbench.core.engine import decoder, graph, metrics, running, sites
from workbench.core.planted import known_circuits, two_steps, unplanted

# Same computation on the same machine, so float32 rounding only, as a fraction of the largest.
EXACT = 1e-5
ALL_SITES = estimates.SITES
FAMILIES = ("gpt2", "llama", "pythia", "mistral")
CLEAN = ["ape bee cat dog fox", "elk bee fox dog ape", "cat cat bee ape ape"]
CORRUPTED = ["ape cat cat dog ape", "elk fox fox dog fox", "cat dog dog ape ape"]
ANSWERS, WRONG = ["bee", "bee", "cat"], ["cat", "fox", "dog"]


def family(name: str, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A bridge of a family whose norms can be followed by finite differences."""
    model = families.build(name, dtype)
    for module in model.original_model.modules():
        if type(module).__name__.endswith("RMSNorm") and dtype == torch.float64:
            # Theirs rounds to float32 on the way, which no finite difference survives.
            norm: Any = module
            norm.forward = types.MethodType(root_mean_square_norm, module)
    return model


def root_mean_square_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module.weight * x * (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()


def pairs_for(model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_text(model, CLEAN, CORRUPTED, ANSWERS, WRONG, prepend_bos=False)


@pytest.fixture(scope="module", params=["randomised", *FAMILIES])
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    return unplanted.randomised() if request.param == "randomised" else family(request.param)


@pytest.fixture(scope="module")
def random_model() -> TransformerBridge:
    return unplanted.randomised()


@pytest.fixture(scope="module")
def two_layer() -> TransformerBridge:
    return two_steps.two_layer()


@pytest.fixture(scope="module")
def two_layer_pairs(two_layer: TransformerBridge) -> ContrastPairs:
    return two_steps.pairs(two_layer)


def measured_with(
    model: TransformerBridge,
    pairs: ContrastPairs,
    tokens: torch.Tensor,
    metric: str,
    hooks: dict[str, Callable[[torch.Tensor], torch.Tensor]],
) -> torch.Tensor:
    """Metric of each prompt in a run of the bridge under hooks, with gradients on."""
    clean = running.run(model, pairs.batch(range(len(pairs)))[0])[:, -1].clone()
    goal = metrics.targets(pairs, np.arange(len(pairs)), clean)

    def adapted(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda activation, hook=None: function(activation)

    with torch.enable_grad():
        logits = model.run_with_hooks(
            tokens, fwd_hooks=[(name, adapted(hook)) for name, hook in hooks.items()]
        )
        return metrics.METRICS[metric](logits[:, -1], goal)


def slope(
    model: TransformerBridge, pairs: ContrastPairs, base: torch.Tensor, name: str, metric: str
) -> torch.Tensor:
    """Gradient with respect to something added to an activation: independent of who kept what."""
    _, kept = running.run_and_keep(model, base, [name])
    added = torch.zeros(kept[name].shape, dtype=kept[name].dtype, requires_grad=True)
    value = measured_with(model, pairs, base, metric, {name: lambda x: x + added})
    return torch.autograd.grad(value.sum(), added)[0]


def pattern_slope(
    model: TransformerBridge, pairs: ContrastPairs, base: torch.Tensor, layer: int
) -> torch.Tensor:
    """Gradient with respect to where heads attend."""
    if not hasattr(model.original_model, "config"):
        # A native bridge only shows its pattern: adding to it at the hook point changes nothing.
        names = [sites.SITES[kind].hook_name(layer) for kind in ("z", "v")]
        after = slope(model, pairs, base, names[0], "logit_difference")
        _, kept = running.run_and_keep(model, base, names)
        return torch.einsum("bqhd,bkhd->bhqk", after, kept[names[1]])
    name = sites.SITES["pattern"].hook_name(layer)
    return slope(model, pairs, base, name, "logit_difference")


def both_runs(pairs: ContrastPairs, direction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Source and base prompts."""
    clean, corrupted = pairs.batch(range(len(pairs)))
    return (clean, corrupted) if direction == "denoising" else (corrupted, clean)


def linear_estimate(
    model: TransformerBridge, pairs: ContrastPairs, kind: str, metric: str, direction: str
) -> np.ndarray:
    """(source − base) · gradient, hook point by hook point."""
    source, base = both_runs(pairs, direction)
    layers: list[torch.Tensor] = []
    for name in sites.resolve(model, kind)[1]:
        gap = running.run_and_keep(model, source, [name])[1][name].clone()
        gap = gap - running.run_and_keep(model, base, [name])[1][name]
        product = gap * slope(model, pairs, base, name, metric)
        layers.append(product if kind == "neuron" else product.sum(-1))
    stacked = torch.stack(layers, 1).numpy()
    return stacked if direction == "denoising" else -stacked


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert float(np.abs(expected).max()) > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT * np.abs(expected).max())


class TestNodesOfKnownModels:
    """In the two-layer model everything after the softmaxes is linear, so estimates are exact."""

    CARRIED = two_steps.INDIRECT
    EXPECTED = {
        "resid_pre": np.array([[0, 1, 0, 0], [0, 0, 0, 1]]),
        "resid_post": np.array([[0, 0, 0, 1], [0, 0, 0, 1]]),
        "attn_out": np.array([[0, 0, 0, 1], [0, 0, 0, CARRIED]]),
        "mlp_out": np.zeros((2, 4)),
        "z": np.array(
            [
                [[0, 0], [0, 0], [0, 0], [1, 0]],
                [[0, 0], [0, 0], [0, 0], [0, CARRIED]],
            ]
        ),
        "q": np.zeros((2, 4, 2)),
        "k": np.zeros((2, 4, 2)),
        "v": np.array(
            [
                [[0, 0], [1, 0], [0, 0], [0, 0]],
                [[0, 0], [0, 0], [0, 0], [0, CARRIED]],
            ]
        ),
    }

    @pytest.mark.parametrize("direction", estimates.DIRECTIONS)
    def test_the_direct_and_indirect_parts_come_out_exactly(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs, direction: str
    ) -> None:
        result = attribution.attribute_nodes(
            two_layer, two_layer_pairs, sites=tuple(self.EXPECTED), direction=direction
        )
        for site, expected in self.EXPECTED.items():
            np.testing.assert_allclose(result.scores(site).effects, expected, atol=1e-6)
            low, high = result.scores(site).interval
            np.testing.assert_allclose(low, expected, atol=1e-6)
            np.testing.assert_allclose(high, expected, atol=1e-6)

    def test_the_baselines_are_those_of_exact_patching(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        exact = activation_patching.patch(two_layer, two_layer_pairs)
        found = attribution.attribute_nodes(two_layer, two_layer_pairs)
        np.testing.assert_array_equal(found.clean, exact.clean)
        np.testing.assert_array_equal(found.corrupted, exact.corrupted)
        assert (found.clean.mean(), found.corrupted.mean()) == (1, -1)

    def test_a_query_that_saturates_its_softmax_is_found_only_with_the_correction(self) -> None:
        """A certain softmax has no gradient, although another query would look elsewhere."""
        model = two_steps.two_layer()
        parameters = {
            name.replace("._original_component", ""): value
            for name, value in model.original_model.named_parameters()
        }
        with torch.no_grad():
            # Token 1 at the last position asks for position 1, token 2 for position 0.
            parameters["layers.0.attn.q.weight"].zero_()
            parameters["layers.0.attn.q.weight"][0, 1] = 1e4
            parameters["layers.0.attn.q.weight"][0, 2] = -1e4
        pairs = ContrastPairs.from_text(
            model, ["ape bee cat bee"], ["ape bee cat cat"], ["bee"], ["ape"]
        )
        arguments: dict[str, Any] = {"sites": ["q"], "n_resamples": 100}
        plain = attribution.attribute_nodes(model, pairs, softmax_correction=False, **arguments)
        corrected = attribution.attribute_nodes(model, pairs, **arguments)
        exact = activation_patching.patch(model, pairs, site="q")
        assert np.abs(plain.scores("q").changes).max() == 0
        assert exact.changes[0, 3, 0] > 0.5
        np.testing.assert_allclose(corrected.scores("q").changes, exact.changes, atol=1e-6)


class TestNodeGradients:
    # Metric and direction meet in one formula only: each of either in every family is enough.
    @pytest.mark.parametrize(
        ("metric", "direction"), [("logit_difference", "noising"), ("probability", "denoising")]
    )
    def test_every_site_agrees_with_autograd_through_the_bridge(
        self, model: TransformerBridge, metric: str, direction: str
    ) -> None:
        pairs = pairs_for(model)
        found = estimates.estimate(
            model,
            pairs,
            kinds=ALL_SITES,
            metric=metric,
            direction=direction,
            softmax_correction=False,
        )
        assert found.notes == ()
        for kind in ALL_SITES:
            close(found.numerators[kind], linear_estimate(model, pairs, kind, metric, direction))

    @pytest.mark.parametrize("kind", ["q", "k"])
    def test_the_softmax_correction_agrees_with_patterns_of_patched_runs(
        self, model: TransformerBridge, kind: str
    ) -> None:
        pairs = pairs_for(model)
        found = estimates.estimate(model, pairs, kinds=[kind]).numerators[kind]
        source, base = both_runs(pairs, "denoising")
        expected = np.zeros_like(found)
        for layer, name in enumerate(sites.resolve(model, kind)[1]):
            pattern = sites.SITES["pattern"].hook_name(layer)
            weight = pattern_slope(model, pairs, base, layer)
            _, kept = running.run_and_keep(model, base, [pattern])
            other = running.run_and_keep(model, source, [name])[1][name]
            for position, part in itertools.product(*map(range, found.shape[2:])):
                seen: list[torch.Tensor] = []

                def patch(
                    value: torch.Tensor,
                    place: tuple[int, int] = (position, part),
                    by: torch.Tensor = other,
                ) -> torch.Tensor:
                    value = value.clone()
                    value[:, place[0], place[1]] = by[:, place[0], place[1]]
                    return value

                def look(value: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
                    seen.append(value.clone())
                    return value

                running.run(model, base, {name: patch, pattern: look})
                change = ((seen[0] - kept[pattern]) * weight).sum((1, 2, 3))
                expected[:, layer, position, part] = change.numpy()
        close(found, expected)

    def test_the_parts_of_the_stream_sum_to_the_stream(self, model: TransformerBridge) -> None:
        """Complete: before a layer, plus attention's and the MLP's part, is after the layer."""
        pairs = pairs_for(model)
        kinds = ("resid_pre", "resid_post", "attn_out", "mlp_out")
        found = estimates.estimate(model, pairs, kinds=kinds).numerators
        close(found["resid_pre"][:, 1], found["resid_post"][:, 0])
        # After the last layer the three parts are read by the same, linear, sum.
        source, base = both_runs(pairs, "denoising")
        name = sites.SITES["resid_post"].hook_name(1)
        weight = slope(model, pairs, base, name, "logit_difference")
        parts = torch.zeros(weight.shape)
        for kind in ("resid_pre", "attn_out", "mlp_out"):
            hook = sites.SITES[kind].hook_name(1)
            _, there = running.run_and_keep(model, source, [hook])
            _, here = running.run_and_keep(model, base, [hook])
            parts = parts + (there[hook] - here[hook])
        close(found["resid_post"][:, 1], (parts * weight).sum(-1).numpy())

    def test_a_small_step_changes_the_metric_as_estimated(
        self, random_model: TransformerBridge
    ) -> None:
        """Predicted against measured: a hundredth of the way to the other run's activation."""
        pairs = pairs_for(random_model)
        found = estimates.estimate(random_model, pairs, kinds=["z"]).numerators["z"]
        source, base = both_runs(pairs, "denoising")
        name = sites.SITES["z"].hook_name(1)
        there = running.run_and_keep(random_model, source, [name])[1][name].clone()

        def step(share: float) -> Callable[[torch.Tensor], torch.Tensor]:
            def part_of_the_way(value: torch.Tensor) -> torch.Tensor:
                moved = value.clone()
                moved[:, 4, 2] += share * (there[:, 4, 2] - value[:, 4, 2])
                return moved

            return part_of_the_way

        ahead, back = (
            measured_with(random_model, pairs, base, "logit_difference", {name: step(share)})
            for share in (0.01, -0.01)
        )
        measured = ((ahead - back) / 0.02).detach().numpy()
        np.testing.assert_allclose(found[:, 1, 4, 2], measured, rtol=2e-3)

    def test_batches_do_not_change_the_estimates(self, random_model: TransformerBridge) -> None:
        pairs = pairs_for(random_model)
        whole = estimates.estimate(random_model, pairs, kinds=ALL_SITES).numerators
        single = estimates.estimate(random_model, pairs, kinds=ALL_SITES, batch_size=1).numerators
        for kind in ALL_SITES:
            close(single[kind], whole[kind])

    def test_it_works_in_inference_mode_and_leaves_no_gradient_behind(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = pairs_for(random_model)
        outside = estimates.estimate(random_model, pairs, kinds=ALL_SITES).numerators
        with torch.inference_mode():
            inside = estimates.estimate(random_model, pairs, kinds=ALL_SITES).numerators
        for kind in ALL_SITES:
            np.testing.assert_array_equal(inside[kind], outside[kind])
        assert all(value.grad is None for value in random_model.original_model.parameters())


class TestHooksInstead:
    """A model that cannot be taken apart is differentiated through its own hooks."""

    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise decoder.NotTakenApart("its attention is not causal")

        monkeypatch.setattr(decoder, "taken_apart", refuse)

    @pytest.mark.usefixtures("refused")
    def test_estimates_are_the_same_and_the_notes_say_so(self, model: TransformerBridge) -> None:
        pairs = pairs_for(model)
        found = estimates.estimate(model, pairs, kinds=ALL_SITES)
        assert found.notes == (
            "The model could not be taken apart (its attention is not causal), so its own hooks "
            "were used: queries and keys have no softmax correction.",
        )
        for kind in ALL_SITES:
            expected = linear_estimate(model, pairs, kind, "logit_difference", "denoising")
            close(found.numerators[kind], expected)

    @pytest.mark.usefixtures("refused")
    def test_edges_are_refused(self, random_model: TransformerBridge) -> None:
        with pytest.raises(decoder.NotTakenApart, match="not causal"):
            attribution.attribute_edges(random_model, pairs_for(random_model))

    def test_a_model_in_bfloat16_is_refused_by_itself(self) -> None:
        model = unplanted.randomised(dtype=torch.bfloat16)
        result = attribution.attribute_nodes(model, pairs_for(model), n_resamples=100)
        exact = attribution.attribute_nodes(
            unplanted.randomised(), pairs_for(model), n_resamples=100
        )
        assert "bfloat16 numbers are too coarse" in result.notes[0]
        assert "softmax correction" not in result.notes[0]
        there, here = exact.scores("z").changes, result.scores("z").changes
        assert float(np.corrcoef(there.ravel(), here.ravel())[0, 1]) > 0.99


class TestAlignedPairs:
    def aligned(self, model: TransformerBridge) -> ContrastPairs:
        return ContrastPairs.from_text(
            model,
            ["ape bee cat dog fox", "elk bee fox dog fox"],
            ["ape cat cat cat dog fox", "elk fox fox fox dog fox"],
            [" bee", " bee"],
            [" cat", " fox"],
            align=True,
        )

    @pytest.mark.parametrize("direction", estimates.DIRECTIONS)
    def test_matched_positions_are_compared(
        self, random_model: TransformerBridge, direction: str
    ) -> None:
        pairs = self.aligned(random_model)
        found = estimates.estimate(random_model, pairs, kinds=["z"], direction=direction)
        columns = np.array(pairs.columns(0))
        takes = 0 if direction == "denoising" else 1
        source, base = both_runs(pairs, direction)
        for layer, name in enumerate(sites.resolve(random_model, "z")[1]):
            there = running.run_and_keep(random_model, source, [name])[1][name]
            here = running.run_and_keep(random_model, base, [name])[1][name]
            gap = there[:, columns[:, takes]] - here[:, columns[:, 1 - takes]]
            weight = slope(random_model, pairs, base, name, "logit_difference")
            expected = (gap * weight[:, columns[:, 1 - takes]]).sum(-1).numpy()
            close(found.numerators["z"][:, layer], expected if takes == 0 else -expected)

    def test_exact_patching_uses_the_same_positions(self, random_model: TransformerBridge) -> None:
        pairs = self.aligned(random_model)
        result = attribution.attribute_nodes(random_model, pairs, verify_top=4, n_resamples=100)
        assert result.scores("z").changes.shape[1] == len(pairs.position_labels())
        assert result.verified is not None
        assert result.verified.pearson > 0.5

    def test_edges_carry_whole_streams(self, random_model: TransformerBridge) -> None:
        with pytest.raises(ValueError, match="edges carry whole streams"):
            attribution.attribute_edges(random_model, self.aligned(random_model))


class TestEdgesOfKnownModels:
    def test_the_two_layer_model_has_its_wired_edges_and_no_other(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        """Corrupting takes the logit difference from 1 to −1; three quarters go the long way."""
        result = attribution.attribute_edges(two_layer, two_layer_pairs)
        long, short = -2 * two_steps.INDIRECT, -2 * two_steps.DIRECT
        expected = {
            "input->a0.h0<v>": -2.0,
            "a0.h0->a1.h1<v>": long,
            "a1.h1->logits": long,
            "a0.h0->logits": short,
        }
        frame = result.to_frame()
        scores = zip(frame["edge"], frame["score"], strict=True)
        found = {edge: score for edge, score in scores if abs(score) > 1e-6}
        assert found == pytest.approx(expected, abs=1e-6)
        assert len(frame) == result.allowed.sum() == graph.Graph(2, 2, 2).n_edges

    @pytest.mark.parametrize("make", ["induction", "name_mover"])
    @pytest.mark.parametrize("method", edges.METHODS)
    def test_exactly_the_wired_edges_have_a_score(self, make: str, method: str) -> None:
        case = getattr(known_circuits, make)()
        result = attribution.attribute_edges(case.model, case.pairs, method=method)
        largest = np.abs(result.scores).max()
        frame = result.to_frame()
        found = set(frame["edge"][frame["score"].abs() > 1e-5 * largest])
        assert found == set(case.edges)

    def test_edges_into_the_logits_sum_to_the_whole_change_where_they_are_linear(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = attribution.attribute_edges(two_layer, two_layer_pairs)
        change = (result.corrupted - result.clean).mean()
        np.testing.assert_allclose(result.scores[:, -1].sum(), change, atol=1e-6)


class TestEdges:
    @pytest.mark.parametrize("name", ["gpt2", "llama", "pythia"])
    @pytest.mark.parametrize("direction", estimates.DIRECTIONS)
    def test_scores_are_derivatives_along_single_edges(self, name: str, direction: str) -> None:
        """Each edge by itself is moved a little towards the other run, in float64."""
        model = family(name, torch.float64)
        pairs = pairs_for(model)
        result = attribution.attribute_edges(model, pairs, direction=direction)
        source, base = both_runs(pairs, "denoising" if direction == "denoising" else "noising")
        parts = decoder.taken_apart(model, base[:2])
        whole = graph.Graph.of(parts)
        here, there = graph.trace(parts, base), graph.trace(parts, source)
        goal = metrics.targets(
            pairs,
            np.arange(len(pairs)),
            running.run(model, pairs.batch(range(len(pairs)))[0])[:, -1],
        )
        masks = torch.ones(whole.n_edges, *whole.allowed.shape, dtype=torch.bool)
        for mask, edge in zip(masks, whole.edges, strict=True):
            mask[torch.as_tensor(whole.mask([edge]))] = False
        share = 1e-4
        ends: list[torch.Tensor] = []
        for sign in (1, -1):
            off = here.outputs + sign * share * (there.outputs - here.outputs)
            streams = graph.run(parts, whole, here, off, masks)
            with torch.no_grad():
                ends.append(
                    torch.stack(
                        [metrics.logit_difference(parts.logits(x), goal).mean() for x in streams]
                    )
                )
        derivative = ((ends[0] - ends[1]) / (2 * share)).numpy()
        close(result.scores[result.allowed], derivative)

    def test_intervals_are_those_of_students_t_over_prompts(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = pairs_for(random_model)
        result = attribution.attribute_edges(random_model, pairs, confidence=0.9, batch_size=2)
        single = [
            attribution.attribute_edges(random_model, pairs.subset([i])).scores
            for i in range(len(pairs))
        ]
        on = result.allowed
        each = np.array(single)[:, on]
        close(result.scores[on], each.mean(0))
        expected = scipy.stats.t.interval(
            0.9, len(pairs) - 1, loc=each.mean(0), scale=scipy.stats.sem(each)
        )
        close(result.interval[:, on], np.stack(expected))

    def test_one_prompt_has_no_interval(self, random_model: TransformerBridge) -> None:
        result = attribution.attribute_edges(random_model, pairs_for(random_model).subset([0]))
        assert np.isnan(result.interval).all()
        assert "one prompt says nothing" in result.summary()

    def test_integrated_gradients_with_one_step_are_the_plain_ones(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = pairs_for(random_model)
        plain = attribution.attribute_edges(random_model, pairs)
        one = attribution.attribute_edges(random_model, pairs, method="eap_ig", steps=1)
        np.testing.assert_array_equal(one.scores, plain.scores)

    def test_integrated_gradients_average_over_embeddings(
        self, random_model: TransformerBridge
    ) -> None:
        """Against gradients taken one embedding at a time, edge by edge."""
        pairs = pairs_for(random_model)
        result = attribution.attribute_edges(random_model, pairs, method="eap_ig", steps=3)
        clean, corrupted = pairs.batch(range(len(pairs)))
        parts = gradients.taken_apart(random_model, clean)
        whole = graph.Graph.of(parts)
        here, there = graph.trace(parts, clean), graph.trace(parts, corrupted)
        logits = running.run(random_model, clean)[:, -1].clone()
        goal = metrics.targets(pairs, np.arange(len(pairs)), logits)
        total = np.zeros(whole.allowed.shape)
        for share in (1 / 3, 2 / 3, 1):
            _, slopes = graph.gradients(
                parts,
                whole,
                there.resid[0] + share * (here.resid[0] - there.resid[0]),
                lambda last: metrics.logit_difference(parts.logits(last), goal),
            )
            for i, j in np.argwhere(whole.allowed):
                gap = there.outputs[i] - here.outputs[i]
                total[i, j] += float((gap * slopes[j]).sum()) / 3 / len(pairs)
        close(result.scores, total)

    def test_prompts_of_several_lengths_are_run_group_by_group(
        self, random_model: TransformerBridge
    ) -> None:
        both = [("ape bee cat", "ape cat cat"), ("elk bee fox dog ape", "elk fox fox dog ape")]
        clean, corrupted = zip(*both, strict=True)
        pairs = ContrastPairs.from_text(
            random_model, clean, corrupted, [" bee", " bee"], [" cat", " fox"]
        )
        single = [attribution.attribute_edges(random_model, pairs.subset([i])) for i in range(2)]
        result = attribution.attribute_edges(random_model, pairs)
        close(result.scores, np.mean([one.scores for one in single], axis=0))


class TestVerification:
    def test_exact_values_are_those_of_activation_patching(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = pairs_for(random_model)
        units = [(layer, neuron) for layer in range(2) for neuron in range(32)]
        for direction in estimates.DIRECTIONS:
            result = attribution.attribute_nodes(
                random_model,
                pairs,
                sites=("attn_out", "z", "neuron"),
                direction=direction,
                verify_top=6,
                n_resamples=200,
            )
            assert result.verified is not None
            patched = {
                site: activation_patching.patch(
                    random_model,
                    pairs,
                    site=site,
                    direction=direction,
                    units=units if site == "neuron" else None,
                    n_resamples=200,
                )
                for site in ("attn_out", "z", "neuron")
            }
            for i, (site, cell) in enumerate(result.strongest(6)):
                assert result.verified.names[i] == result.label(site, cell)
                assert result.verified.estimated[i] == result.shown(site)[cell]
                index = cell
                if site == "neuron":
                    layer, position, neuron = cell
                    index = (position, units.index((layer, neuron)))
                exact = patched[site].shown[index]
                np.testing.assert_allclose(result.verified.exact[i], exact, rtol=1e-5)

    def test_exact_changes_of_edges_are_runs_with_that_edge_off(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = pairs_for(random_model)
        result = attribution.attribute_edges(random_model, pairs, verify_top=4, batch_size=2)
        assert result.verified is not None
        clean, corrupted = pairs.batch(range(len(pairs)))
        parts = decoder.taken_apart(random_model, clean[:2])
        whole = graph.Graph.of(parts)
        here, there = graph.trace(parts, clean), graph.trace(parts, corrupted)
        goal = metrics.targets(
            pairs, np.arange(len(pairs)), running.run(random_model, clean)[:, -1]
        )
        for i, edge in enumerate(result.strongest(4)):
            off = torch.as_tensor(~whole.mask([edge]))[None]
            with torch.no_grad():
                end = graph.run(parts, whole, here, there.outputs, off)[0]
                measured = metrics.logit_difference(parts.logits(end), goal).numpy()
            change = (measured - result.clean).mean()
            np.testing.assert_allclose(result.verified.exact[i], change, atol=1e-5)

    def test_agreement_is_scipys(self) -> None:
        estimated = np.array([3.0, -2.0, 1.0, -0.5])
        exact = np.array([2.0, -2.5, -0.5, -0.25])
        found = verification.compare(list("abcd"), estimated, exact, np.zeros((2, 4)))
        linear: Any = scipy.stats.pearsonr(estimated, exact)
        ranked: Any = scipy.stats.spearmanr(estimated, exact)
        assert (found.pearson, found.spearman) == (linear.statistic, ranked.statistic)
        assert (found.sign_agreement, found.largest_error) == (0.75, 1.5)
        assert verification.notes(found) == ()
        assert list(found.to_frame()["error"]) == [1.0, 0.5, 1.5, -0.25]

    def test_two_places_have_no_correlation_and_a_note(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = attribution.attribute_nodes(two_layer, two_layer_pairs, verify_top=2)
        assert result.verified is not None
        assert np.isnan(result.verified.pearson)
        assert np.isnan(result.verified.spearman)
        assert result.verified.largest_error < 1e-6
        assert "need at least 3" in result.notes[0]


class TestResults:
    def test_nodes_are_saved_and_read_back_whole(
        self, random_model: TransformerBridge, tmp_path: Path
    ) -> None:
        pairs = pairs_for(random_model)
        made = attribution.attribute_nodes(
            random_model, pairs, sites=("resid_pre", "z"), verify_top=2, n_resamples=100
        )
        read = results.Result.load(made.save(tmp_path / "nodes"))
        assert isinstance(read, attribution.NodeAttribution)
        for mine, theirs in zip(made.sites, read.sites, strict=True):
            assert (mine.site, mine.axes) == (theirs.site, theirs.axes)
            np.testing.assert_array_equal(mine.effects, theirs.effects)
            np.testing.assert_array_equal(mine.per_prompt, theirs.per_prompt)
            np.testing.assert_array_equal(mine.interval, theirs.interval)
        assert read.summary() == made.summary()
        assert read.pairs == made.pairs
        assert made.verified is not None
        assert read.verified is not None
        assert read.verified.names == made.verified.names
        with pytest.raises(ValueError, match="read-only"):
            made.sites[0].effects[0, 0] = 1

    def test_edges_are_saved_and_read_back_whole(
        self, random_model: TransformerBridge, tmp_path: Path
    ) -> None:
        made = attribution.attribute_edges(random_model, pairs_for(random_model), verify_top=3)
        read = results.Result.load(made.save(tmp_path / "edges"))
        assert isinstance(read, attribution.EdgeAttribution)
        np.testing.assert_array_equal(made.scores, read.scores)
        np.testing.assert_array_equal(made.allowed, read.allowed)
        assert read.summary() == made.summary()
        assert read.to_frame().equals(made.to_frame())

    def test_equal_seeds_give_equal_bits(self, random_model: TransformerBridge) -> None:
        first, second = (
            attribution.attribute_nodes(random_model, pairs_for(random_model), sites=("z",))
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.scores("z").interval, second.scores("z").interval)

    def test_the_ranking_holds_every_node_largest_first(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = attribution.attribute_nodes(two_layer, two_layer_pairs, sites=("attn_out", "z"))
        ranking = result.ranking()
        assert len(ranking) == 2 * 4 + 2 * 4 * 2
        assert list(ranking["effect"].abs()) == sorted(ranking["effect"].abs(), reverse=True)
        assert list(ranking["name"][:2]) == [
            'attn_out L0 at position 3 ("dog")',
            'z L0H0 at position 3 ("dog")',
        ]
        assert list(result.ranking(3)["name"]) == list(ranking["name"][:3])

    @pytest.mark.parametrize("site", ["resid_pre", "z", "neuron"])
    def test_a_figure_shows_the_estimates(self, random_model: TransformerBridge, site: str) -> None:
        result = attribution.attribute_nodes(
            random_model, pairs_for(random_model), sites=(site,), n_resamples=100
        )
        drawn: Any = result.figure(site).data[0]
        shown = result.shown(site)
        if site == "z":
            assert drawn.z[1 * families.HEADS + 2][4] == shown[1, 4, 2]
        elif site == "neuron":
            assert abs(drawn.z[1][4]) == np.abs(shown[1, 4]).max()
        else:
            np.testing.assert_array_equal(drawn.z, shown)

    def test_a_figure_of_edges_leaves_blank_what_is_no_edge(
        self, random_model: TransformerBridge
    ) -> None:
        result = attribution.attribute_edges(random_model, pairs_for(random_model))
        heatmap: Any = result.figure().data[0]
        drawn = np.array(heatmap.z)
        np.testing.assert_array_equal(np.isfinite(drawn), result.allowed)
        np.testing.assert_array_equal(drawn[result.allowed], result.scores[result.allowed])

    def test_scripts_compute_the_same_again(self) -> None:
        model = workbench.load_model("grammar-4l")
        pairs = ContrastPairs.from_task(model, "indirect-object", n=3, seed=1)
        nodes_found = attribution.attribute_nodes(model, pairs, n_resamples=50)
        edges_found = attribution.attribute_edges(model, pairs, method="eap_ig", steps=2)
        for found in (nodes_found, edges_found):
            space: dict[str, Any] = {"print": lambda text: None}
            exec(found.script(), space)  # our own code
            assert space["result"].summary() == found.summary()

    def test_a_user_may_bring_a_metric(self, random_model: TransformerBridge) -> None:
        pairs = pairs_for(random_model)

        def doubled(logits: torch.Tensor, goal: metrics.Targets) -> torch.Tensor:
            return 2 * metrics.logit_difference(logits, goal)

        own = attribution.attribute_nodes(random_model, pairs, metric=doubled, n_resamples=100)
        known = attribution.attribute_nodes(random_model, pairs, n_resamples=100)
        close(own.scores("z").changes, 2 * known.scores("z").changes)
        assert own.metric.startswith("doubled (")

    def test_cancelling_leaves_the_model_as_it_was(self, random_model: TransformerBridge) -> None:
        class Cancelled(Exception):
            pass

        def cancel(fraction: float, note: str) -> None:
            if fraction > 0:
                raise Cancelled

        with pytest.raises(Cancelled):
            attribution.attribute_nodes(random_model, pairs_for(random_model), progress=cancel)
        assert not any(point.fwd_hooks for point in random_model.hook_dict.values())


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"metric": "rank"}, "a rank has no gradient"),
            ({"metric": "luck"}, "unknown metric 'luck'"),
            ({"sites": ("z", "pattern")}, "expected some of resid_pre"),
            ({"sites": ()}, "expected some of resid_pre"),
            ({"sites": ("z", "z")}, "each site once"),
            ({"direction": "sideways"}, "expected one of denoising, noising"),
            ({"confidence": 1.5}, "expected a level between 0 and 1"),
            ({"verify_top": -1}, "verify_top = -1"),
            ({"metric": "kl_divergence", "direction": "noising"}, "at its minimum in the clean"),
        ],
    )
    def test_nodes(
        self, random_model: TransformerBridge, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            attribution.attribute_nodes(random_model, pairs_for(random_model), **arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"metric": "rank"}, "a rank has no gradient"),
            ({"method": "acdc"}, "expected one of eap, eap_ig"),
            ({"method": "eap_ig", "steps": 0}, "steps = 0; expected at least 1"),
            ({"metric": "kl_divergence"}, "at its minimum in the clean"),
            ({"direction": "up"}, "expected one of denoising, noising"),
        ],
    )
    def test_edges(
        self, random_model: TransformerBridge, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            attribution.attribute_edges(random_model, pairs_for(random_model), **arguments)

    def test_positions_must_line_up(self, random_model: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(
            random_model,
            ["ape bee cat", "elk bee fox dog ape"],
            ["ape cat cat", "elk fox fox dog ape"],
            [" bee", " bee"],
            [" cat", " fox"],
        )
        with pytest.raises(ValueError, match="positions do not line up"):
            attribution.attribute_nodes(random_model, pairs)

    def test_asking_for_what_was_not_made_names_what_was(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = pairs_for(random_model)
        result = attribution.attribute_nodes(random_model, pairs, sites=("z",), n_resamples=100)
        with pytest.raises(ValueError, match="this result has z"):
            result.scores("q")
        found = attribution.attribute_edges(random_model, pairs)
        with pytest.raises(ValueError, match="no edge 'm1->m0'"):
            found.score("m1->m0")


@pytest.mark.real_model
def test_estimates_of_a_trained_model_agree_with_exact_patching(stories: Path) -> None:
    model = workbench.load_model(stories)
    texts = [f"Once there was a {who}. One day," for who in ("girl", "boy")]
    pairs = ContrastPairs.from_text(model, texts, texts[::-1], [" she", " he"], [" he", " she"])
    found = attribution.attribute_nodes(model, pairs, sites=("attn_out", "mlp_out", "z"))
    for site, least in {"attn_out": 0.9, "mlp_out": 0.9, "z": 0.9}.items():
        exact = activation_patching.patch(model, pairs, site=site, n_resamples=100).effects
        estimated = found.scores(site).effects
        assert np.corrcoef(exact.ravel(), estimated.ravel())[0, 1] > least
    wired = attribution.attribute_edges(model, pairs, method="eap_ig", verify_top=20)
    assert wired.verified is not None
    assert wired.verified.sign_agreement > 0.8
