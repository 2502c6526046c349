from __future__ import annotations

import numpy as np
import pytest
import torch

from analyses.feature_visualization.inputs import transforms
from analyses.feature_visualization.inputs.transforms import Jitter, Pad, Rotate, Scale


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "chosen",
    [(), (Pad(3),), (Jitter(4),), (Scale(0.5, 2.0),), (Rotate(45.0),), (Pad(1), Jitter(5))],
)
def test_images_keep_their_shape(chosen: tuple[transforms.Transform, ...]) -> None:
    images = torch.rand(2, 3, 9, 12, generator=generator())
    assert transforms.apply(chosen, images, generator(1), grey=0.5).shape == images.shape


@pytest.mark.parametrize("chosen", [(Pad(3),), (Jitter(4),), (Scale(0.5, 2.0),)])
def test_sequences_keep_their_shape(chosen: tuple[transforms.Transform, ...]) -> None:
    sequences = torch.rand(2, 1, 11, generator=generator())
    assert transforms.apply(chosen, sequences, generator(1), grey=0.0).shape == sequences.shape


def test_the_standard_is_lucids_in_proportion_to_the_size() -> None:
    expected = (Pad(12), Jitter(8), Scale(0.9, 1.1), Rotate(10.0), Jitter(4))
    assert transforms.standard("image", (3, 128, 128)) == expected
    assert transforms.standard("image", (3, 32, 32))[:2] == (Pad(3), Jitter(2))
    assert transforms.standard("sequence", (1, 40)) == ()


def test_padding_and_a_window_shift_the_image_and_fill_with_grey() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = transforms.apply((Pad(2), Jitter(4)), image, generator(3), grey=-1.0)
    padded = np.pad(image[0, 0].numpy(), 2, constant_values=-1.0)
    windows = [padded[i : i + 4, j : j + 4] for i in range(5) for j in range(5)]
    assert any((found[0, 0].numpy() == window).all() for window in windows)


def test_no_magnification_and_no_turn_change_nothing() -> None:
    images = torch.rand(2, 3, 8, 8, generator=generator())
    same = transforms.apply((Scale(1.0, 1.0), Rotate(0.0)), images, generator(), grey=0.5)
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    image = torch.rand(1, 1, 8, 8, generator=generator())
    turned = transforms._resampled(image, 1.0, np.pi / 2, 0.5)
    quarter = [torch.rot90(image, k, (2, 3)) for k in (1, 3)]
    assert min(float((turned - other).abs().max()) for other in quarter) < 1e-4


def test_twice_the_size_shows_the_middle_half() -> None:
    ramp = torch.linspace(-1, 1, 8).expand(1, 1, 8, 8)
    larger = transforms._resampled(ramp, 2.0, 0.0, 0.0)
    middle = larger[0, 0, 4]
    # A slope of half the steepness.
    steps = (middle[1:] - middle[:-1])[1:-1]
    torch.testing.assert_close(steps, torch.full((5,), 1 / 7), atol=1e-4, rtol=0)


def test_equal_seeds_give_equal_draws() -> None:
    images = torch.rand(2, 3, 32, 32, generator=generator())
    chosen = transforms.standard("image", (3, 32, 32))
    first, second, other = (
        transforms.apply(chosen, images, generator(seed), grey=0.5) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_transforms_that_an_input_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="entries of a vector have no neighbours"):
        transforms.require((Jitter(1),), "vector")
    with pytest.raises(ValueError, match="only images can be rotated"):
        transforms.require((Rotate(),), "sequence")
    with pytest.raises(ValueError, match="jitter by -1"):
        Jitter(-1)
    with pytest.raises(ValueError, match="pad by -2"):
        Pad(-2)
    with pytest.raises(ValueError, match="expected 0 < low <= high"):
        Scale(1.2, 1.0)
