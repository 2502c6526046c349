from __future__ import annotations

import numpy as np
import pytest

from workbench.core.networks import mnist1d, shapes

PUBLISHED_LABELS = [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9]
PUBLISHED_FIRST = [-0.33201, -0.47191, -0.7787, -1.00974, -0.88235, 0.10393]
PUBLISHED_LAST = [-0.39591, -0.09865, 0.44723, 0.65988, 0.87773, 1.19315]


def test_the_published_seed_makes_the_published_data() -> None:
    # Values that the published package (mnist1d 0.0.2) makes of its own default settings.
    data = mnist1d.generate()
    assert data.train.shape == (4000, 40)
    assert data.test.shape == (1000, 40)
    assert data.train_labels[:12].tolist() == PUBLISHED_LABELS
    np.testing.assert_allclose(data.train[0, :6], PUBLISHED_FIRST, atol=1e-5)
    np.testing.assert_allclose(data.test[-1, -6:], PUBLISHED_LAST, atol=1e-5)


def test_sequences_have_mean_zero_deviation_one_and_every_digit_equally_often() -> None:
    data = mnist1d.generate(300, seed=3)
    every = np.concatenate([data.train, data.test])
    assert every.mean() == pytest.approx(0, abs=1e-6)
    assert every.std() == pytest.approx(1, abs=1e-6)
    labels = np.concatenate([data.train_labels, data.test_labels])
    assert np.bincount(labels).tolist() == [30] * 10


def test_equal_seeds_make_equal_sequences() -> None:
    first, second, other = (mnist1d.generate(50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train, second.train)
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize("n", [0, -10, 15])
def test_a_data_set_that_cannot_be_balanced_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="expected a positive multiple of 10"):
        mnist1d.generate(n)


def test_images_are_balanced_bounded_and_half_of_them_grey() -> None:
    rendered = shapes.render(600, seed=0)
    assert rendered.images.shape == (600, 3, 32, 32)
    assert rendered.images.min() >= 0
    assert rendered.images.max() <= 1
    assert np.bincount(rendered.labels).tolist() == [100] * 6
    assert 0.4 < rendered.coloured.mean() < 0.6
    spread = np.ptp(rendered.images, axis=1).max((1, 2))
    assert spread[~rendered.coloured].max() < 1e-6
    assert spread[rendered.coloured].min() > 0.02


def test_equal_seeds_render_equal_images() -> None:
    first, second, other = (shapes.render(12, seed=seed, size=16) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.images, second.images)
    assert not np.array_equal(first.images, other.images)


def test_lit_shapes_have_a_light_and_flat_ones_have_none() -> None:
    rendered = shapes.render(60, seed=0)
    lengths = np.linalg.norm(rendered.lights, axis=1)
    lit = rendered.labels < 3
    np.testing.assert_allclose(lengths[lit], 1)
    assert not lengths[~lit].any()


def test_a_sphere_is_brightest_where_it_faces_the_light() -> None:
    # Lambert: brightness is ambient plus the cosine between normal and light. Turned back into the
    # image's frame, the normal of a sphere is the place on the disc itself.
    scene = shapes._Scene(np.random.default_rng(0), 5, 64)
    shade, mask = shapes._sphere(scene)
    x = scene.cos * scene.u - scene.sin * scene.v
    y = scene.sin * scene.u + scene.cos * scene.v
    z = np.sqrt((1 - x**2 - y**2).clip(0))
    light = scene.light_used[:, :, None, None]
    expected = 0.25 + 0.75 * (x * light[:, 0] + y * light[:, 1] + z * light[:, 2]).clip(0)
    within = (mask == 1) & (x**2 + y**2 < 0.98)
    assert within.sum() > 500
    np.testing.assert_allclose(shade[within], expected[within], atol=1e-9)


def test_a_saddle_is_lit_by_the_normal_of_its_surface() -> None:
    # Flat in the middle, whatever the bend: brightness there is the height of the light.
    scene = shapes._Scene(np.random.default_rng(0), 40, 65)
    shade, _ = shapes._saddle(scene)
    distance = np.hypot(scene.u, scene.v).reshape(40, -1)
    middle = shade.reshape(40, -1)[np.arange(40), distance.argmin(1)]
    close = distance.min(1) < 0.02
    assert close.sum() > 5
    np.testing.assert_allclose(
        middle[close], (0.25 + 0.75 * scene.light_used[:, 2])[close], atol=0.05
    )


def test_images_too_small_to_draw_in_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image of at least 8 pixels"):
        shapes.render(3, size=4)
    with pytest.raises(ValueError, match="n = 0"):
        shapes.render(0)
