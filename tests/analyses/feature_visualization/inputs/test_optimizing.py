from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.HookedRootModule import HookedRootModule

from analyses.feature_visualization.inputs import (
    Ball,
    Box,
    Direction,
    Jitter,
    Layer,
    LogOdds,
    Objective,
    Target,
    interpolate,
    objectives,
    optimize_input,
    optimizing,
)
from workbench.core.networks import architectures, mnist1d, shapes, sources

# An eighth of lucid's steps at four times its rate: enough here, and the tests stay quick.
STEPS, QUICK = 64, 0.2


def random_weights(network: HookedRootModule, seed: int = 0) -> HookedRootModule:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return network


def linear_mlp() -> HookedRootModule:
    return random_weights(architectures.build(architectures.Mlp(12, (3,), 2)))


def and_gate(threshold: float) -> HookedRootModule:
    """Fires by how much relu(x₀) and relu(x₁) together exceed a threshold: neither does alone."""
    network = architectures.build(architectures.Mlp(d_input=6, widths=(2, 1), n_classes=1))
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        network.get_parameter("layer0.linear.weight")[:, :2] = torch.eye(2)
        network.get_parameter("layer1.linear.weight").fill_(1.0)
        network.get_parameter("layer1.linear.bias").fill_(-threshold)
    return network


def test_a_linear_unit_in_a_ball_reaches_its_maximum() -> None:
    network = linear_mlp()
    found = optimize_input(network, Target("layer0.hook_out", 1), constraint=Ball(2.5), steps=256)
    weight = network.get_parameter("layer0.linear.weight")[1].detach().numpy()
    bias = network.get_parameter("layer0.linear.bias")[1].item()
    maximum = 2.5 * np.linalg.norm(weight) + bias
    assert 0.99 * maximum <= found.activations.min() <= found.activations.max() <= maximum * 1.0001
    expected = 2.5 * weight / np.linalg.norm(weight)
    np.testing.assert_allclose(found.inputs[found.best], expected, atol=0.05)
    assert found.agreement == pytest.approx(1, abs=0.01)


def test_the_least_active_input_is_the_opposite() -> None:
    network = linear_mlp()
    unit = Direction("hook_logits", (1.0, 0.0))
    up = optimize_input(network, unit, constraint=Ball(1.0), steps=200, direction=1)
    down = optimize_input(network, unit, constraint=Ball(1.0), steps=200, direction=-1)
    negative = optimize_input(network, -unit, constraint=Ball(1.0), steps=200)
    assert down.activations[down.best] == down.activations.min() < up.activations.max()
    assert negative.activations.max() == pytest.approx(-down.activations.min(), rel=1e-3)
    assert "least active" in down.summary()


@pytest.mark.parametrize("threshold", [0.0, 2.0])
def test_a_gate_that_is_dead_at_the_start_reaches_its_maximum(threshold: float) -> None:
    network = and_gate(threshold)
    found = optimize_input(network, Target("layer1.hook_out", 0), constraint=Ball(2.0), steps=256)
    # √½ of the radius on each of both: √2 · 2 in sum. One alone reaches 2.
    maximum = 2 * math.sqrt(2) - threshold
    assert 0.99 * maximum <= found.activations.max() <= maximum * 1.0001


@pytest.mark.parametrize("parametrization", ["fourier", "pixel"])
def test_a_neuron_of_a_sequence_network_reaches_its_maximum(parametrization: str) -> None:
    network = random_weights(architectures.build(architectures.Cnn1d(20, (2,), 5, 1, 2)))
    unit = Target("conv0.hook_out", 1, 9)
    found = optimize_input(
        network, unit, constraint=Ball(3.0), parametrization=parametrization, steps=400, restarts=2
    )
    weight = network.get_parameter("conv0.conv.weight")[1].detach()
    maximum = 3 * float(weight.norm()) + network.get_parameter("conv0.conv.bias")[1].item()
    assert 0.99 * maximum <= found.activations.max() <= maximum * 1.0001


@pytest.mark.parametrize("parametrization", ["fourier", "pixel"])
def test_a_neuron_of_an_image_network_reaches_its_maximum(parametrization: str) -> None:
    network = architectures.build(architectures.BranchCnn(12, 2, (2,), 2))
    random_weights(network, seed=4)
    with torch.no_grad():
        # A grey unit: in decorrelated coordinates colours are learned more slowly than shades.
        weight = network.get_parameter("stem.conv.weight")
        weight.copy_(weight[:, :1].expand(-1, 3, -1, -1).clone())
    found = optimize_input(
        network,
        Target("stem.hook_out", 0, (5, 6)),
        parametrization=parametrization,
        transforms=(),
        # Ten times lucid's: the sigmoid comes near its ends by slow degrees only.
        lr=0.5,
        restarts=2,
    )
    weight = network.get_parameter("stem.conv.weight")[0].detach()
    # Every pixel is at the end of the box that its weight asks for.
    maximum = float(weight.clamp_min(0).sum()) + network.get_parameter("stem.conv.bias")[0].item()
    assert 0.99 * maximum <= found.activations.max() <= maximum


def test_inputs_obey_the_constraint_and_activations_are_those_of_the_network() -> None:
    network = sources.load_network("mnist1d-mlp")
    for constraint in (Ball(3.0), Box(-0.5, 0.5)):
        found = optimize_input(
            network, Target("layer1.hook_out", 2), constraint=constraint, steps=40, restarts=3
        )
        _, cache = network.run_with_cache(torch.tensor(found.inputs))
        expected = cache["layer1.hook_out"][:, 2].detach().double().numpy()
        np.testing.assert_allclose(found.activations, expected, rtol=1e-5)
        if isinstance(constraint, Ball):
            assert np.linalg.norm(found.inputs, axis=1).max() <= 3.0 + 1e-5
        else:
            assert np.abs(found.inputs).max() <= 0.5
    assert found.trace.shape == (40, 3)


def test_equal_seeds_give_equal_bits() -> None:
    network = sources.load_network("shapes-branch")
    first, second, other = (
        optimize_input(network, Target("stem.hook_out", 1), steps=8, restarts=2, seed=seed)
        for seed in (5, 5, 6)
    )
    assert first.inputs.tobytes() == second.inputs.tobytes()
    assert first.trace.tobytes() == second.trace.tobytes()
    assert first.inputs.tobytes() != other.inputs.tobytes()


def test_the_network_stays_as_it_is() -> None:
    network = linear_mlp().train()
    before = sources.network_fingerprint(network)
    optimize_input(network, Target("hook_logits", 0), steps=3, control=True)
    assert sources.network_fingerprint(network) == before
    assert network.training
    assert all(w.requires_grad and w.grad is None for w in network.parameters())
    assert not any(point.fwd_hooks for point in network.hook_dict.values())


def test_a_layer_and_a_pair_and_a_way_between_units_are_optimized() -> None:
    network = sources.load_network("mnist1d-mlp")
    a, b = Target("hook_logits", 3), Target("hook_logits", 7)

    def reached(unit: Objective) -> optimizing.OptimizedInput:
        return optimize_input(network, unit, constraint=Ball(5.0), steps=80, restarts=2)

    def logits(found: optimizing.OptimizedInput) -> np.ndarray:
        with torch.no_grad():
            return network(torch.tensor(found.inputs[found.best][None]))[0].numpy()

    pair = logits(reached(0.5 * a + 0.5 * b))
    alone = [logits(reached(unit)) for unit in (a, b)]
    assert pair[3] + pair[7] > max(one[3] + one[7] for one in alone)
    ends = [logits(reached(interpolate(a, b, share))) for share in (0.0, 0.5, 1.0)]
    assert ends[0][3] > ends[1][3] > ends[2][3]
    assert ends[0][7] < ends[1][7] < ends[2][7]
    layer = reached(Layer("layer0.hook_out"))
    assert layer.activations.max() > 10 * layer.trace[0].max() > 0


def test_diversity_sets_the_restarts_apart() -> None:
    network = sources.load_network("shapes-branch")
    unit = Target("mixed1.branch3.hook_out", 2)

    def likeness(diversity: float) -> float:
        found = optimize_input(
            network, unit, steps=48, restarts=3, diversity=diversity, transforms=(), seed=1
        )
        _, cache = network.run_with_cache(torch.tensor(found.inputs))
        values = cache["mixed1.branch3.hook_out"].detach()
        return float(objectives.similarity(values))

    assert likeness(20.0) < likeness(0.0) - 0.05


def share_beaten(network: HookedRootModule, units: list[Objective], data: np.ndarray) -> float:
    """Share of the units whose optimum is more active than the best example."""
    found = [
        optimize_input(network, unit, data=data, restarts=2, transforms=(), steps=STEPS, lr=QUICK)
        for unit in units
    ]
    return float(np.mean([bool(one.beats_the_data) for one in found]))


def test_optima_of_the_mnist1d_mlp_beat_the_best_example() -> None:
    # Every twentieth neuron of both hidden layers, against the 1,000 held-out examples; all units
    # of all three networks are in tests/benchmarks/optimized_inputs.py.
    network = sources.load_network("mnist1d-mlp")
    units: list[Objective] = [
        Target(f"layer{i}.hook_out", neuron) for i in (0, 1) for neuron in range(0, 100, 20)
    ]
    assert share_beaten(network, units, mnist1d.generate().test) >= 0.95


def test_optima_of_the_mnist1d_cnn_beat_the_best_example() -> None:
    # Every fifth channel of the three convolutions, against the 1,000 held-out examples.
    network = sources.load_network("mnist1d-cnn")
    units: list[Objective] = [
        Target(f"conv{i}.hook_out", channel) for i in range(3) for channel in range(0, 25, 5)
    ]
    assert share_beaten(network, units, mnist1d.generate().test[:, None]) >= 0.95


def test_optima_of_the_shapes_network_beat_the_best_example() -> None:
    # Channel 7 of the stem, and of a branch of every size, each in a stage of its own, against 300
    # fresh images.
    network = sources.load_network("shapes-branch")
    hooks = ["stem.hook_out"]
    hooks += [f"mixed{i}.branch{size}.hook_out" for i, size in enumerate((1, 3, 5))]
    units: list[Objective] = [Target(hook, 7) for hook in hooks]
    assert share_beaten(network, units, shapes.render(300, seed=2).images) >= 0.95


def held_out(name: str) -> np.ndarray:
    if name == "shapes-branch":
        return shapes.render(300, seed=2).images
    data = mnist1d.generate().test
    return data if name == "mnist1d-mlp" else data[:, None]


@pytest.mark.parametrize("name", ["mnist1d-mlp", "mnist1d-cnn", "shapes-branch"])
def test_the_optimum_of_a_class_is_classified_as_it_and_beats_the_best_example(name: str) -> None:
    # Every class of every bundled network, as log-odds: the optimum of a score by itself may be an
    # input at which another score is higher still (curve, of shapes-branch).
    network, data = sources.load_network(name), held_out(name)
    classes = range(len(sources.network_card(name).classes))
    answers: list[int] = []
    for label in classes:
        found = optimize_input(
            network, LogOdds(label), data=data, restarts=2, transforms=(), steps=STEPS, lr=QUICK
        )
        assert found.beats_the_data
        with torch.no_grad():
            answers.append(int(network(torch.tensor(found.inputs[found.best][None])).argmax()))
    assert answers == list(classes)


def test_shuffled_weights_are_the_control() -> None:
    network = sources.load_network("mnist1d-mlp")
    data = mnist1d.generate(500).test
    found = optimize_input(
        network, Target("hook_logits", 3), data=data, steps=80, restarts=2, control=True
    )
    assert found.control_activations is not None
    assert found.control_best_example is not None
    # The trained network has been made to answer; the shuffled one answers far less.
    assert found.activations.max() > 2 * found.control_activations.max()
    assert "With shuffled weights the same optimization reaches" in found.summary()


def test_the_best_example_and_the_quantile_are_those_of_the_data() -> None:
    network = linear_mlp()
    data = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    unit = Target("hook_logits", 0)
    found = optimize_input(network, unit, data=data, steps=2, restarts=1)
    with torch.no_grad():
        logits = network(torch.from_numpy(data))[:, 0].double().numpy()
    assert found.best_example == logits.argmax()
    assert found.best_example_activation == pytest.approx(logits.max())
    assert found.quantile == (logits < found.activations[0]).mean()
    assert found.constraint == f"norm at most {np.linalg.norm(data, axis=1).max():.4g}"
    assert found.agreement is None


def test_it_is_saved_and_opened_with_table_and_figure(tmp_path: Path) -> None:
    network = sources.load_network("shapes-branch")
    data = shapes.render(12, seed=0).images
    found = optimize_input(network, Target("hook_logits", 0), data=data, steps=4, restarts=2)
    opened = optimizing.OptimizedInput.load(found.save(tmp_path / "optimum"))
    assert opened.inputs.tobytes() == found.inputs.tobytes()
    assert opened.summary() == found.summary()
    assert found.provenance.model == "shapes-branch"
    assert found.provenance.fingerprint == sources.network_fingerprint(network)
    assert found.to_frame()["source"].tolist() == ["optimum", "optimum", "best example"]
    pictures: Any = found.figure().data
    assert len(pictures) == 3
    expected = (255 * found.inputs[found.best].transpose(1, 2, 0)).round()
    np.testing.assert_array_equal(np.asarray(pictures[0].z), expected)


def test_sequences_are_drawn_as_lines() -> None:
    network = sources.load_network("mnist1d-cnn")
    found = optimize_input(network, Target("hook_logits", 0), steps=4, restarts=2)
    lines: Any = found.figure().data
    np.testing.assert_allclose(lines[0].y, found.inputs[found.best][0])
    assert found.kind == "sequence"


def test_progress_is_told_and_may_cancel() -> None:
    told: list[float] = []

    def cancel(fraction: float, note: str) -> None:
        told.append(fraction)
        if fraction >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimize_input(linear_mlp(), Target("hook_logits", 0), steps=64, progress=cancel)
    assert told == sorted(told)
    assert told[-1] == 0.5


@pytest.mark.parametrize(
    ("unit", "arguments", "message"),
    [
        (Target("layer9.hook_out", 0), {}, "no hook point 'layer9.hook_out' \\(nearest: layer0"),
        (Target("layer0.hook_out", 3), {}, "channel 3 is out of range: 'layer0.hook_out' has 3"),
        (Target("layer0.hook_out", 0, 2), {}, "position 2 is not in the activation"),
        (Direction("hook_logits", (1.0,)), {}, "direction has 1 entries"),
        (Target("hook_logits", 0), {"steps": 0}, "expected at least 1 of each"),
        (Target("hook_logits", 0), {"restarts": 0}, "expected at least 1 of each"),
        (Target("hook_logits", 0), {"lr": math.nan}, "lr = nan; expected a positive number"),
        (Target("hook_logits", 0), {"direction": 2}, "direction = 2; expected 1"),
        (Target("hook_logits", 0), {"diversity": -1.0}, "diversity = -1.0; expected"),
        (Target("hook_logits", 0), {"diversity": 1.0, "restarts": 1}, "at least 2 restarts"),
        (Target("hook_logits", 0), {"parametrization": "cppn"}, "expected one of fourier, pixel"),
        (Target("hook_logits", 0), {"transforms": (Jitter(1),)}, "vector have no neighbours"),
        (Target("hook_logits", 0), {"shape": (5,)}, "cannot read inputs of shape"),
        (Target("hook_logits", 0), {"data": np.zeros((3, 5))}, "cannot read inputs of shape"),
        (Target("hook_logits", 0), {"data": np.full((2, 12), np.inf)}, "finite numbers"),
        (Target("hook_logits", 0), {"data": np.zeros((0, 12))}, "at least one example"),
        (Target("hook_logits", 0), {"data": np.zeros((2, 12)), "shape": (5,)}, "examples have"),
    ],
)
def test_bad_input_is_refused(unit: Objective, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimize_input(linear_mlp(), unit, **arguments)


def test_a_network_that_answers_nan_is_refused() -> None:
    network = linear_mlp()
    with torch.no_grad():
        network.get_parameter("logits.bias").fill_(torch.nan)
    with pytest.raises(ValueError, match="not a finite number"):
        optimize_input(network, Target("hook_logits", 0))
