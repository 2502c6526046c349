"""A row of inputs from one unit to another: known answers, and a trained network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from transformer_lens.HookedRootModule import HookedRootModule

from analyses.feature_visualization.inputs import Ball, Box, Jitter, Objective, Target
from analyses.feature_visualization.inputs.interpolation import (
    InterpolatedInputs,
    Row,
    interpolated_inputs,
)
from workbench.core.networks import architectures, mnist1d, sources

RADIUS = 2.0
FIRST, SECOND = Target("hook_logits", 0), Target("hook_logits", 1)


def two_directions() -> tuple[HookedRootModule, np.ndarray]:
    """A network whose logits are w₀·x and w₁·x in a box around zero, and both w.

    What its hidden layer holds is x + 10, which is above zero in there.
    """
    network = architectures.build(architectures.Mlp(d_input=4, widths=(4,), n_classes=2))
    directions = np.array([[1.0, 2.0, 0.0, 0.5], [0.0, -1.0, 2.0, 0.5]])
    with torch.no_grad():
        network.get_parameter("layer0.linear.weight").copy_(torch.eye(4))
        network.get_parameter("layer0.linear.bias").fill_(10)
        network.get_parameter("logits.weight").copy_(torch.tensor(directions))
        network.get_parameter("logits.bias").copy_(torch.tensor(-10 * directions.sum(1)))
    return network, directions


def a_row(alignment: float, **options: Any) -> InterpolatedInputs:
    network, _ = two_directions()
    options = {"constraint": Ball(RADIUS), "steps": 200, "lr": 0.04, **options}
    return interpolated_inputs(network, FIRST, SECOND, alignment=alignment, **options)


def test_without_alignment_each_frame_is_the_direction_of_its_mixture() -> None:
    _, (first, second) = two_directions()
    found = a_row(0.0)
    mixtures = np.array([(1 - s) * first + s * second for s in (0, 0.25, 0.5, 0.75, 1)])
    expected = RADIUS * mixtures / np.linalg.norm(mixtures, axis=1, keepdims=True)
    np.testing.assert_allclose(found.aligned.inputs, expected, atol=0.02)
    np.testing.assert_allclose(found.aligned.first, expected @ first, atol=0.02)
    np.testing.assert_allclose(found.aligned.second, expected @ second, atol=0.02)
    # The control is the same then.
    np.testing.assert_array_equal(found.aligned.inputs, found.apart.inputs)
    assert found.weight == 0


@pytest.mark.parametrize("aligned_at", [None, "layer0.hook_out"])
def test_an_aligned_row_is_the_maximum_that_another_optimizer_finds(aligned_at: str | None) -> None:
    # The hidden layer holds the input plus a constant, so differences there are the same ones.
    _, directions = two_directions()
    found = a_row(0.5, frames=3, aligned_at=aligned_at)

    def loss(flat: np.ndarray) -> float:
        row = flat.reshape(3, 4)
        mixture = (1 - found.shares) * (row @ directions[0]) + found.shares * (row @ directions[1])
        apart = ((row[1:] - row[:-1]) ** 2).mean(1).sum()
        return float(found.weight * apart - mixture.sum())

    ball = {"type": "ineq", "fun": lambda x: RADIUS**2 - (x.reshape(3, 4) ** 2).sum(1)}
    best = scipy.optimize.minimize(
        loss, np.full(12, 0.1), constraints=[ball], method="SLSQP", options={"ftol": 1e-12}
    )
    assert best.success
    np.testing.assert_allclose(found.aligned.inputs.ravel(), best.x, atol=0.03)
    assert found.weight > 0
    # It is another row than the one without alignment.
    assert np.abs(found.aligned.inputs - found.apart.inputs).max() > 0.2


def test_the_more_alignment_the_smaller_are_the_differences_and_the_gain() -> None:
    made = [a_row(value) for value in (0.0, 0.3, 3.0)]
    apart = [float(np.square(np.diff(one.aligned.inputs, axis=0)).sum()) for one in made]
    gain = [float(one.mixture(one.aligned).sum()) for one in made]
    # A theorem where the maximum is found: a dearer difference is never a larger one.
    assert apart[0] > 2 * apart[1] > 4 * apart[2]
    assert gain[0] > gain[1] > gain[2]


def test_the_weight_is_the_gain_of_the_row_without_alignment_over_its_differences() -> None:
    found = a_row(0.7, steps=30)
    apart = found.apart.inputs.astype(np.float64)
    differences = ((apart[1:] - apart[:-1]) ** 2).mean(1).sum()
    gain = found.mixture(found.apart).sum()
    assert found.weight == pytest.approx(0.7 * abs(gain) / differences, rel=1e-4)


def test_blends_are_straight_and_likeness_is_the_centred_cosine() -> None:
    found = a_row(0.3, steps=30)
    ends = found.aligned.inputs[[0, -1]]
    np.testing.assert_allclose(found.blends.inputs[2], ends.mean(0), atol=1e-6)
    np.testing.assert_array_equal(found.blends.inputs[[0, -1]], ends)
    expected = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(found.aligned.inputs, found.aligned.inputs[1:], strict=False)
    ]
    np.testing.assert_allclose(found.aligned.likeness, expected, atol=1e-6)


@pytest.fixture(scope="module")
def digits() -> InterpolatedInputs:
    """From a 3 to a 7, on the trained network."""
    network = sources.load_network("mnist1d-mlp")
    units = Target("hook_logits", 3), Target("hook_logits", 7)
    return interpolated_inputs(network, *units, data=mnist1d.generate(500).test, steps=100, lr=0.2)


def test_on_a_trained_network_neighbours_are_alike_and_units_lose_little(
    digits: InterpolatedInputs,
) -> None:
    aligned, apart, blends = digits.aligned, digits.apart, digits.blends
    # Every pair of neighbours is more alike than in the row without alignment.
    assert (aligned.likeness > apart.likeness + 0.1).all()
    assert aligned.likeness.min() > 0.8
    # What it costs is little against what the middle of a straight blend lacks.
    cost = (digits.mixture(apart) - digits.mixture(aligned))[2]
    assert cost < 0.3 * (digits.mixture(apart) - digits.mixture(blends))[2]
    assert (np.diff(aligned.first) < 0).all()
    assert (np.diff(aligned.second) > 0).all()


def test_activations_are_those_of_the_network_and_inputs_keep_to_the_constraint(
    digits: InterpolatedInputs,
) -> None:
    network = sources.load_network("mnist1d-mlp")
    for row in (digits.aligned, digits.apart, digits.blends):
        with torch.no_grad():
            logits = network(torch.tensor(row.inputs)).double().numpy()
        np.testing.assert_allclose(row.first, logits[:, 3], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(row.second, logits[:, 7], rtol=1e-5, atol=1e-5)
        data = mnist1d.generate(500).test
        longest = np.linalg.norm(data.astype(np.float32), axis=1).max()
        assert np.linalg.norm(row.inputs, axis=1).max() <= longest * (1 + 1e-5)


def test_it_is_saved_and_shown_with_its_controls(
    digits: InterpolatedInputs, tmp_path: Path
) -> None:
    opened = InterpolatedInputs.load(digits.save(tmp_path / "row"))
    assert isinstance(opened.aligned, Row)
    np.testing.assert_array_equal(opened.apart.inputs, digits.apart.inputs)
    assert opened.summary() == digits.summary()
    assert f"{digits.aligned.likeness.mean():.2f} (aligned)" in digits.summary()
    assert f"{digits.apart.likeness.mean():.2f} (not aligned)" in digits.summary()
    frame = digits.to_frame()
    assert frame["row"].value_counts().to_dict() == {
        "aligned": 5,
        "not aligned": 5,
        "straight blends": 5,
    }
    np.testing.assert_array_equal(frame["first"][:5], digits.aligned.first)
    figure: Any = digits.figure()
    # Three rows of five lines, then both units along each row.
    assert len(figure.data) == 3 * 5 + 6
    np.testing.assert_allclose(figure.data[5].y, digits.apart.inputs[0])
    np.testing.assert_array_equal(figure.data[15].y, digits.aligned.first)
    assert figure.layout.annotations[1].text == "25 %"


def test_images_are_drawn_as_images_and_equal_seeds_give_equal_bits() -> None:
    network = sources.load_network("shapes-branch")
    units = Target("stem.hook_out", 1), Target("stem.hook_out", 2)
    options: dict[str, Any] = {"frames": 3, "steps": 4, "aligned_at": "stem.hook_out"}
    one, same, other = (
        interpolated_inputs(network, *units, seed=seed, **options) for seed in (3, 3, 4)
    )
    assert one.aligned.inputs.tobytes() == same.aligned.inputs.tobytes()
    assert one.aligned.inputs.tobytes() != other.aligned.inputs.tobytes()
    figure: Any = one.figure()
    expected = (255 * one.aligned.inputs[0].transpose(1, 2, 0)).round()
    np.testing.assert_array_equal(np.asarray(figure.data[0].z), expected)
    assert one.constraint == str(Box(0.0, 1.0))
    assert "alignment 0.3 at stem.hook_out" in one.summary()


def test_progress_is_told_and_may_cancel() -> None:
    told: list[float] = []
    a_row(0.3, steps=40, progress=lambda done, _: told.append(done))
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)

    def cancel(fraction: float, note: str) -> None:
        if fraction >= 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a_row(0.3, steps=40, progress=cancel)


@pytest.mark.parametrize(
    ("second", "arguments", "message"),
    [
        (SECOND, {"frames": 2}, "frames = 2; expected at least 3"),
        (SECOND, {"alignment": -1.0}, "alignment = -1.0; expected a number of at least 0"),
        (SECOND, {"aligned_at": "layer9"}, "no hook point 'layer9'"),
        (Target("hook_logits", 2), {}, "channel 2 is out of range: 'hook_logits' has 2"),
        (SECOND, {"steps": 0}, "expected at least 1 of each"),
        (SECOND, {"transforms": (Jitter(1),)}, "vector have no neighbours"),
        (SECOND, {"shape": (5,)}, "cannot read inputs of shape"),
    ],
)
def test_bad_input_is_refused(second: Objective, arguments: dict[str, Any], message: str) -> None:
    network, _ = two_directions()
    with pytest.raises(ValueError, match=message):
        interpolated_inputs(network, FIRST, second, **arguments)
