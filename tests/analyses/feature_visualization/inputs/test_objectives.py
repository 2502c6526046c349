from __future__ import annotations

import numpy as np
import pytest
import torch

from analyses.feature_visualization.inputs import objectives
from analyses.feature_visualization.inputs.objectives import Direction, Layer, LogOdds, Target

IMAGES = torch.arange(2 * 3 * 2 * 2, dtype=torch.float64).reshape(2, 3, 2, 2)
VECTORS = torch.tensor([[3.0, 4.0], [1.0, -1.0]])
HELD = {"image": IMAGES, "vector": VECTORS}


def test_a_channel_is_the_mean_over_all_places() -> None:
    # Channel 1 of the first example holds 4, 5, 6, 7, of the second 16, 17, 18, 19.
    assert Target("image", 1).measure(HELD).tolist() == [5.5, 17.5]


def test_a_neuron_is_one_place_of_a_channel() -> None:
    assert Target("image", 2, (1, 0)).measure(HELD).tolist() == [10.0, 22.0]
    assert Target("vector", 1).measure(HELD).tolist() == [4.0, -1.0]


def test_a_direction_is_the_projection_on_the_unit_vector() -> None:
    found = Direction("vector", (0.0, 7.0)).measure(HELD)
    assert found.tolist() == [4.0, -1.0]


def test_a_power_of_the_cosine_weakens_what_points_elsewhere() -> None:
    found = Direction("vector", (0.0, 1.0), cosine_power=2.0).measure(HELD)
    # 4 · (4/5)², and −1 · .1² since the cosine is below its floor.
    np.testing.assert_allclose(found.numpy(), [4 * 0.64, -0.01], rtol=1e-6)


def test_the_log_odds_are_those_of_the_softmax() -> None:
    scores = torch.tensor([[1.0, 3.0, -2.0]])
    share = torch.softmax(scores, 1)[0, 1]
    found = LogOdds(1).measure({"hook_logits": scores})
    torch.testing.assert_close(found[0], torch.log(share / (1 - share)))


def test_a_layer_is_the_mean_square() -> None:
    assert Layer("vector").measure(HELD).tolist() == [12.5, 1.0]


def test_objectives_are_added_and_multiplied_like_numbers() -> None:
    a, b = Target("image", 0, (0, 0)), Target("vector", 0)
    pair = 0.5 * a - 2 * b
    # a is 0 and 12, b is 3 and 1.
    assert pair.measure(HELD).tolist() == [-6.0, 4.0]
    assert pair.hooks == ("image", "vector")
    assert (a + b + a).measure(HELD).tolist() == [3.0, 25.0]


def test_an_interpolation_goes_from_one_unit_to_the_other() -> None:
    a, b = Target("vector", 0), Target("vector", 1)
    found = [objectives.interpolate(a, b, share).measure(HELD)[0].item() for share in (0, 0.5, 1)]
    assert found == [3.0, 3.5, 4.0]
    with pytest.raises(ValueError, match="share = 1.5; expected a number from 0 to 1"):
        objectives.interpolate(a, b, 1.5)


def test_similarity_is_one_for_twins_and_zero_for_what_shares_no_channel() -> None:
    twins = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(objectives.similarity(twins)) == pytest.approx(1)
    assert float(objectives.similarity(apart)) == pytest.approx(0)


def test_similarity_compares_gram_matrices() -> None:
    values = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    grams = [(v @ v.T).flatten().numpy() for v in values]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = [
        grams[i] @ grams[j] / np.linalg.norm(grams[i]) / np.linalg.norm(grams[j]) for i, j in pairs
    ]
    assert float(objectives.similarity(values)) == pytest.approx(np.mean(cosines), rel=1e-5)


def test_units_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="channel 3 is out of range: 'image' has 3 channels"):
        Target("image", 3).measure(HELD)
    with pytest.raises(ValueError, match="channel -1 is out of range"):
        Target("image", -1).measure(HELD)
    with pytest.raises(ValueError, match=r"position \(2, 0\) is not in the activation of 'image'"):
        Target("image", 0, (2, 0)).measure(HELD)
    with pytest.raises(ValueError, match=r"position 0 is not in the activation of 'vector'"):
        Target("vector", 0, 0).measure(HELD)
    with pytest.raises(ValueError, match="direction has 3 entries, but 'vector' has 2 channels"):
        Direction("vector", (1.0, 2.0, 3.0)).measure(HELD)
    with pytest.raises(ValueError, match="finite numbers that are not all zero"):
        Direction("vector", (0.0, 0.0))
