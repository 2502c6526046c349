from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analyses.neuron_clusters.growth import widening
from workbench.core.engine import populations
from workbench.core.networks import architectures, sources
from workbench.core.planted import known_clusters

CONFIGS = {
    "mlp": architectures.Mlp(7, (5, 4), 3),
    "cnn1d": architectures.Cnn1d(20, (3, 4, 5), 3, 2, 4),
    "branches": architectures.BranchCnn(16, 4, (3, 2), 5),
}


def random_network(kind: str) -> Any:
    """All weights and biases random, so that no reader could read the wrong channel unnoticed."""
    torch.manual_seed(1)
    network = architectures.build(CONFIGS[kind])
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn_like(weight) * 0.4)
    return network


def inputs_of(network: Any) -> torch.Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randn((9, *network.cfg.input_shape), generator=random)


PLACES = [(kind, place) for kind in CONFIGS for place in widening.places(random_network(kind))]


@pytest.mark.parametrize(("kind", "place"), PLACES)
@torch.no_grad()
def test_every_place_can_be_widened_without_a_change_of_the_function(kind: str, place: str) -> None:
    network = random_network(kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = inputs_of(network)
    scores, seen = network.run_with_cache(inputs)
    grown: Any = widening.widened(network, {place: 3}, seed=4)
    new_scores, new_seen = grown.run_with_cache(inputs)
    assert torch.allclose(new_scores, scores, rtol=0, atol=1e-6 * float(scores.abs().max()))
    hook = f"{place}.hook_out"
    size = seen[hook].shape[1]
    assert new_seen[hook].shape[1] == size + 3
    assert torch.allclose(new_seen[hook][:, :size], seen[hook], atol=1e-5)
    assert (new_seen[hook][:, size:].flatten(2 if inputs.ndim > 2 else 1) > 0).any()
    assert set(grown.hook_dict) == set(network.hook_dict)
    assert grown.cfg == network.cfg
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("kind", "place"), PLACES)
@torch.no_grad()
def test_the_new_channels_are_read_from_where_they_are_written(kind: str, place: str) -> None:
    network = random_network(kind)
    grown: Any = widening.widened(network, {place: 2}, seed=4)
    inputs = inputs_of(network)
    hook = f"{place}.hook_out"
    size = network.run_with_cache(inputs)[1][hook].shape[1]
    # Zeros in the readers become ones: what was all zeros there is the only change.
    for name, weight in grown.named_parameters():
        old = dict(network.named_parameters())[name]
        if weight.ndim > 1 and weight.shape[1] > old.shape[1]:
            new_columns = (weight == 0).flatten(2).all(2) if weight.ndim > 2 else weight == 0
            weight[:, new_columns.all(0)] = 1.0
    with_them = grown(inputs)

    def silence(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
        changed = activation.clone()
        changed[:, size:] = 0
        return changed

    without = grown.run_with_hooks(inputs, fwd_hooks=[(hook, silence)])
    scores = network(inputs)
    assert not torch.allclose(with_them, scores, atol=1e-3)
    assert torch.allclose(without, scores, atol=1e-5 * float(scores.abs().max()))


@torch.no_grad()
def test_several_places_at_once_and_again() -> None:
    network = random_network("branches")
    scores = network(inputs_of(network))
    every = dict.fromkeys(widening.places(network), 2)
    twice: Any = widening.widened(widening.widened(network, every, seed=1), every, seed=2)
    assert torch.allclose(twice(inputs_of(network)), scores, atol=1e-5 * float(scores.abs().max()))
    assert twice.mixed1.branch3.conv.weight.shape == (2 + 4, 3 * (3 + 4), 3, 3)
    assert twice.mixed1.branch3.conv.in_channels == 3 * (3 + 4)


def test_new_weights_are_he_initialised_and_seeded() -> None:
    network, place = random_network("branches"), "mixed1.branch5"
    convolutions: list[Any] = [
        widening.widened(network, {place: 4_000}, seed=seed).get_submodule(f"{place}.conv")
        for seed in (0, 0, 1)
    ]
    fresh, again, different = (each.weight[2:].detach() for each in convolutions)
    assert torch.equal(fresh, again)
    assert not torch.equal(fresh, different)
    assert float(fresh.std()) == pytest.approx((2 / (9 * 25)) ** 0.5, rel=0.01)
    assert bool((convolutions[0].bias[2:] == 0).all())


@pytest.mark.parametrize("kind", CONFIGS)
def test_costs_are_those_that_torch_counts(kind: str) -> None:
    network: Any = random_network(kind)
    for channels in ({}, {widening.places(network)[1]: 3}):
        grown: Any = widening.widened(network, channels)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            grown(inputs_of(network)[:1])
        cost = widening.cost(grown)
        assert cost.multiply_adds == counter.get_total_flops() / 2
        assert cost.parameters == sum(weight.numel() for weight in grown.parameters())


def test_hand_worked_costs_of_the_bundled_branches() -> None:
    network = sources.load_network("shapes-branch")
    # 48 channels read by a kernel of 3 × 3 and a bias; six class scores read it.
    assert widening.added_parameters(network, {"mixed2.branch3": 12}) == 12 * (48 * 9 + 1 + 6)
    # 36 channels read by 5 × 5 and a bias; 24 channels of each branch behind read it.
    one = 36 * 25 + 1 + 24 * (1 + 9 + 25)
    assert widening.added_parameters(network, {"mixed1.branch5": 1}) == one
    assert widening.matched(network, "mixed1.branch5", 5268) == round(5268 / one) == 3


def test_matched_is_off_by_no_more_than_half_a_channel() -> None:
    network = random_network("branches")
    target = widening.added_parameters(network, {"stem": 5})
    for place in widening.places(network):
        one = widening.added_parameters(network, {place: 1})
        count = widening.matched(network, place, target)
        assert abs(widening.added_parameters(network, {place: count}) - target) <= one / 2


def test_evenly_gives_each_place_as_many_and_comes_near() -> None:
    network = random_network("mlp")
    # A channel of layer0 takes 7 + 1 + 4 parameters, one of layer1 takes 5 + 1 + 3, and there is a
    # weight between each new pair: 2 and 3 make 24 + 27 + 6 = 57, 3 and 3 make 36 + 27 + 9 = 72.
    both = ["layer0", "layer1"]
    assert widening.evenly(network, both, 57) == {"layer0": 2, "layer1": 3}
    assert widening.evenly(network, both, 64) == {"layer0": 2, "layer1": 3}
    assert widening.evenly(network, both, 65) == {"layer0": 3, "layer1": 3}
    assert widening.evenly(network, both, 4) == {"layer0": 0, "layer1": 0}


def test_wrong_arguments_are_told() -> None:
    network = random_network("mlp")
    with pytest.raises(ValueError, match="no place 'layer7' to widen; choose of layer0, layer1"):
        widening.widened(network, {"layer7": 1})
    with pytest.raises(ValueError, match="-1 more channels at layer0; expected 0 or more"):
        widening.widened(network, {"layer0": -1})
    with pytest.raises(ValueError, match="takes 12 parameters and the target is 5"):
        widening.matched(network, "layer0", 5)
    with pytest.raises(ValueError, match="a Planted whose cfg is a Config cannot be widened"):
        widening.places(known_clusters.planted({}))


def test_units_of_a_widened_network_can_be_read() -> None:
    grown = widening.widened(random_network("branches"), {"mixed0.branch3": 2})
    sizes = {place.name: place.size for place in populations.of_network(grown).places}
    assert sizes["mixed0.branch3"] == 5
    assert sizes["mixed0.branch1"] == 3
    assert list(sizes) == list(widening.places(grown))
