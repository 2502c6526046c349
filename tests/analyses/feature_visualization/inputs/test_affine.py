from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformer_lens.hook_points import HookPoint
from transformer_lens.HookedRootModule import HookedRootModule

from analyses.feature_visualization.inputs import affine, linear_region
from analyses.feature_visualization.inputs.objectives import Direction, Layer, Target
from workbench.core.networks import architectures, sources


class Smooth(HookedRootModule):
    """A network whose nonlinearity is asked for."""

    def __init__(self, nonlinearity: Any) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)
        self.nonlinearity, self.hook_out = nonlinearity, HookPoint()
        self.setup()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.hook_out(self.second(self.nonlinearity(self.first(inputs))))


def random_mlp(seed: int = 0) -> HookedRootModule:
    torch.manual_seed(seed)
    network = architectures.build(architectures.Mlp(d_input=3, widths=(5, 4), n_classes=2))
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_()
    return network


def test_two_planted_neurons_give_their_map_and_boundaries() -> None:
    network = architectures.build(architectures.Mlp(d_input=2, widths=(2,), n_classes=1))
    with torch.no_grad():
        # Neurons relu(3x + 4y − 5), on at (3, 1), and relu(−x + 1), off there; logit 2 a − 7 b + 1.
        network.get_parameter("layer0.linear.weight").copy_(torch.tensor([[3.0, 4.0], [-1.0, 0.0]]))
        network.get_parameter("layer0.linear.bias").copy_(torch.tensor([-5.0, 1.0]))
        network.get_parameter("logits.weight").copy_(torch.tensor([[2.0, -7.0]]))
        network.get_parameter("logits.bias").fill_(1.0)
    found = linear_region(network, Target("hook_logits", 0), np.array([3.0, 1.0]))
    assert found.value == pytest.approx(17)
    np.testing.assert_allclose(found.gradient, [6, 8])
    assert found.offset == pytest.approx(-9)
    # 3x + 4y = 5 is (13 − 5)/5 = 1.6 away, x = 1 is 2 away.
    assert found.nearest == pytest.approx(1.6)
    assert (found.nearest_relu, found.nearest_neuron) == (0, 0)
    assert found.downward == pytest.approx(1.6)
    assert found.upward == math.inf
    assert (found.n_neurons, found.n_active) == (2, 1)
    assert "nearest boundary is 1.6 away" in found.summary()


def test_the_map_is_the_network_up_to_the_nearest_boundary_and_not_beyond() -> None:
    network, target = random_mlp(), Target("hook_logits", 1)
    point = np.array([0.3, -0.8, 0.5])
    found = linear_region(network, target, point)
    double = network.double()

    def pattern(at: np.ndarray) -> list[bool]:
        """Independently: the signs of both layers' inputs."""
        weights = [w.detach().numpy() for w in double.parameters()]
        first = weights[0] @ at + weights[1]
        second = weights[2] @ first.clip(0) + weights[3]
        return [*(first > 0), *(second > 0)]

    directions = np.random.default_rng(1).standard_normal((4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inside = point + 0.999 * found.nearest * directions
    assert all(pattern(at) == pattern(point) for at in inside)
    with torch.no_grad():
        values = double(torch.from_numpy(inside))[:, 1].numpy()
    np.testing.assert_allclose(found.at(inside), values, atol=1e-12)
    outside = point + 1.02 * found.nearest * directions
    assert any(pattern(at) != pattern(point) for at in outside)


def test_a_direction_ends_where_the_first_neuron_switches() -> None:
    network = random_mlp(0)
    point = np.array([0.3, -0.8, 0.5])
    found = linear_region(network, Target("hook_logits", 0), point)
    assert found.random.min() >= found.nearest
    slope = found.gradient / np.linalg.norm(found.gradient)
    with torch.no_grad():
        network.double()
        for distance, sign in ((found.upward, 1), (found.downward, -1)):
            if math.isinf(distance):
                continue
            steps = np.array([0.99, 1.01, 1.05])[:, None] * distance * sign
            reached = torch.from_numpy(point + steps * slope)
            error = np.abs(network(reached)[:, 0].numpy() - found.at(reached.numpy()))
            assert error[0] < 1e-12
            assert error[2] > 1e-6


@pytest.mark.parametrize("name", ["mnist1d-mlp", "mnist1d-cnn"])
def test_bundled_networks_are_exactly_affine_around_an_input(name: str) -> None:
    network = sources.load_network(name)
    shape = (40,) if name == "mnist1d-mlp" else (1, 40)
    point = np.random.default_rng(0).standard_normal(shape)
    found = linear_region(network, Target("hook_logits", 3), point, directions=16)
    assert found.worst_error < 1e-10
    assert 0 < found.nearest <= min(found.upward, found.downward, found.random.min())
    assert found.nearest == found.margins.min()
    assert found.n_neurons == {"mnist1d-mlp": 200, "mnist1d-cnn": 25 * (20 + 10 + 5)}[name]


def test_only_the_layers_before_the_unit_end_its_region() -> None:
    network = sources.load_network("mnist1d-mlp")
    point = np.random.default_rng(0).standard_normal(40)
    found = linear_region(network, Target("layer0.hook_out", 3), point)
    assert found.n_neurons == 100
    weight = network.get_parameter("layer0.linear.weight").detach().double().numpy()
    bias = network.get_parameter("layer0.linear.bias").detach().double().numpy()
    expected = (np.abs(weight @ point + bias) / np.linalg.norm(weight, axis=1)).min()
    assert found.nearest == pytest.approx(expected)


def test_the_branches_of_an_image_network_are_affine_too() -> None:
    torch.manual_seed(0)
    network = architectures.build(
        architectures.BranchCnn(size=8, stem=3, mixed=(2, 2), n_classes=2)
    )
    point = np.random.default_rng(0).random((3, 8, 8))
    found = linear_region(network, Target("mixed1.branch5.hook_out", 1), point, directions=8)
    # Stem 3 × 8², mixed0 6 × 4² and the branches 1, 3 and 5 of mixed1 up to here, 2 × 2² each.
    assert found.n_neurons == 3 * 64 + 6 * 16 + 3 * 2 * 4
    assert found.worst_error < 1e-10


@pytest.mark.parametrize("nonlinearity", [functional.gelu, torch.tanh, functional.silu])
def test_networks_with_other_nonlinearities_are_refused(nonlinearity: Any) -> None:
    with pytest.raises(ValueError, match="needs a network of linear layers, average pooling and"):
        linear_region(Smooth(nonlinearity), Target("hook_out", 0), np.zeros(4))


def test_a_product_of_activations_is_found_out_by_comparison() -> None:
    with pytest.raises(ValueError, match="not affine where no ReLU switches"):
        linear_region(Smooth(lambda x: x * x), Target("hook_out", 0), np.full(4, 0.3))


def test_an_objective_that_is_not_affine_is_refused() -> None:
    with pytest.raises(ValueError, match="the network or the objective has another nonlinearity"):
        linear_region(random_mlp(), Layer("hook_logits"), np.array([0.3, -0.8, 0.5]))


def test_a_plain_relu_function_is_seen_as_well_as_a_module() -> None:
    found = linear_region(Smooth(torch.relu), Target("hook_out", 0), np.full(4, 0.3))
    assert found.n_neurons == 6


@pytest.mark.parametrize(
    ("target", "point", "message"),
    [
        (Target("hook_logit", 0), np.zeros(3), "no hook point 'hook_logit'"),
        (Target("hook_logits", 9), np.zeros(3), "channel 9 is out of range"),
        (Target("hook_logits", 0), np.zeros(5), "cannot read an input of shape"),
        (Target("hook_logits", 0), np.array([0.0, np.nan, 0.0]), "must hold finite numbers"),
    ],
)
def test_bad_input_is_refused(target: Target, point: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_region(random_mlp(), target, point)


def test_the_network_stays_as_it_is_and_equal_seeds_give_equal_bits() -> None:
    network = random_mlp()
    before = sources.network_fingerprint(network)
    point = np.array([0.3, -0.8, 0.5])
    unit = Direction("layer1.hook_out", (1.0, -1.0, 0.5, 0.0))
    first, second = (linear_region(network, unit, point) for _ in range(2))
    np.testing.assert_array_equal(first.random, second.random)
    assert sources.network_fingerprint(network) == before
    assert not any(point.fwd_hooks for point in network.hook_dict.values())


def test_it_is_saved_and_opened_with_table_and_figure(tmp_path: Path) -> None:
    found = linear_region(random_mlp(), Target("hook_logits", 1), np.array([0.3, -0.8, 0.5]))
    opened = affine.LinearRegion.load(found.save(tmp_path / "region"))
    np.testing.assert_array_equal(opened.gradient, found.gradient)
    assert opened.nearest == found.nearest
    frame = found.to_frame()
    assert list(frame["boundary"][:5]) == ["nearest", "upward", "downward", "relu 0", "relu 1"]
    assert len(frame) == 5 + 64
    bars: Any = found.figure().data[0]
    assert list(itertools.islice(bars.y, 1)) == [found.nearest]
