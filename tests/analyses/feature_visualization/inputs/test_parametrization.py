from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from analyses.feature_visualization.inputs import constraints, parametrization


def test_the_spectrum_is_scaled_as_lucid_scales_it() -> None:
    # Independently: wave (row 3, column 2) of an 8 × 6 image has frequency (3/8, 2/6).
    scale = parametrization.spectrum_scale((8, 6))
    assert scale.shape == (8, 4)
    assert scale[3, 2] == pytest.approx(math.sqrt(48) / math.sqrt((3 / 8) ** 2 + (2 / 6) ** 2))
    assert scale[6, 1] == pytest.approx(math.sqrt(48) / math.sqrt((2 / 8) ** 2 + (1 / 6) ** 2))
    # The mean has no frequency and is scaled like the slowest wave of the longest side.
    assert scale[0, 0] == pytest.approx(math.sqrt(48) * 8)


def test_the_colour_matrix_is_lucids() -> None:
    matrix = parametrization.colour_matrix()
    # sqrt(.26² + .27² + .27²) is the largest column norm.
    norm = math.sqrt(0.0676 + 0.0729 + 0.0729)
    expected = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]) / norm
    np.testing.assert_allclose(matrix, expected, rtol=1e-12)
    assert matrix[0, 0] == pytest.approx(0.56283, abs=1e-5)


def test_an_image_is_the_sum_of_its_scaled_waves_over_four_in_decorrelated_colours() -> None:
    chosen = parametrization.choose("fourier", (3, 8, 8))
    coordinates = torch.zeros(1, 3, 8, 5, 2, dtype=torch.float64)
    coordinates[0, 0, 2, 1] = torch.tensor([0.5, 0.25])
    row, column = np.mgrid[:8, :8]
    phase = 2 * np.pi * (2 * row + column) / 8
    frequency = math.hypot(2 / 8, 1 / 8)
    # A real wave and its mirror image, over the 64 pixels of the inverse transform.
    wave = 2 * (0.5 * np.cos(phase) - 0.25 * np.sin(phase)) * (8 / frequency) / 64 / 4
    expected = parametrization.colour_matrix()[:, 0, None, None] * wave
    np.testing.assert_allclose(chosen.free(coordinates)[0].numpy(), expected, atol=1e-12)


def test_coordinates_start_with_deviation_one_hundredth() -> None:
    chosen = parametrization.choose("fourier", (3, 32, 32))
    start = chosen.start(8, torch.Generator().manual_seed(0))
    assert start.shape == (8, 3, 32, 17, 2)
    assert float(start.std()) == pytest.approx(0.01, rel=0.02)
    assert float(start.mean()) == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("shape", [(7,), (2, 9), (1, 6, 5), (3, 4, 7)])
@pytest.mark.parametrize("name", ["fourier", "pixel"])
def test_every_kind_of_input_comes_out_in_its_shape(shape: tuple[int, ...], name: str) -> None:
    chosen = parametrization.choose(name, shape)
    start = chosen.start(3, torch.Generator().manual_seed(0))
    assert chosen.free(start).shape == (3, *shape)


def test_vectors_are_pixels_and_others_waves_unless_asked_otherwise() -> None:
    assert parametrization.choose(None, (5,)).name == "pixel"
    assert parametrization.choose(None, (1, 5)).name == "fourier"
    assert not parametrization.choose(None, (1, 5, 5)).decorrelated
    assert parametrization.choose(None, (3, 5, 5)).decorrelated


def test_unknown_parametrizations_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="'wavelet'; expected one of fourier, pixel"):
        parametrization.choose("wavelet", (5,))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 3, 4\) is no vector"):
        parametrization.choose(None, (1, 2, 3, 4))


def test_a_ball_shortens_what_is_too_long_and_nothing_else() -> None:
    inputs = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    enforced = constraints.Ball(2.0).enforce(inputs)
    torch.testing.assert_close(enforced, torch.tensor([[1.2, 1.6], [0.3, 0.4]]))


def test_a_box_keeps_every_entry_between_its_ends() -> None:
    enforced = constraints.Box(-1.0, 3.0).enforce(torch.tensor([[-50.0, 0.0, 50.0]]))
    torch.testing.assert_close(enforced, torch.tensor([[-1.0, 1.0, 3.0]]))


def test_the_default_constraint_comes_from_the_data() -> None:
    data = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert constraints.default("vector", (2,), data) == constraints.Ball(5.0)
    assert constraints.default("vector", (16,), None) == constraints.Ball(4.0)
    images = np.full((1, 1, 2, 2), -0.5)
    assert constraints.default("image", (1, 2, 2), images) == constraints.Box(-0.5, 1.0)


def test_constraints_that_allow_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="radius = 0.0; expected a positive number"):
        constraints.Ball(0.0)
    with pytest.raises(ValueError, match="expected low below high"):
        constraints.Box(1.0, 1.0)
