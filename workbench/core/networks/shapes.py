"""Images of simple shapes, rendered here: spheres, cylinders, saddles, textures, edges, curves.

1. A background is one shade. An image is grey or coloured, half of each.
2. Spheres, cylinders and saddles are surfaces of random pose and size, seen from above and lit from
   one side: brightness = ambient + diffuse · max(0, normal · light) (Lambert).
3. Textures are flat and fill a patch: stripes, checks or dots. Edges are straight borders between
   two shades; curves are arcs of a circle drawn with a soft pen.
4. A little noise on every pixel.

Source: Lambert's law of diffuse reflection; the choice of shapes follows the families of units in
Voss et al. 2021 (curves, edges, textures, three-dimensional geometry).

Units: pixel values from 0 to 1, channels red, green, blue; in a grey image all three are equal
before the noise, which is grey as well.

Limits: no perspective, no cast shadows, one object an image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

SIZE = 32
CLASSES = ("sphere", "cylinder", "saddle", "texture", "edge", "curve")
_NOISE = 0.02
# Below that a shape is a few pixels.
_SMALLEST = 8
# Of what a fair coin decides.
_HALF = 0.5
_AMBIENT = 0.25

# An image in the making: [example, row, column]; a number per image: [example, 1, 1].
_Plane = Float64[np.ndarray, "example row column"]


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Rendered images with what is known of them by construction.

    Attributes:
        images: Pixel values from 0 to 1.
        labels: Index into `CLASSES`.
        coloured: Whether the image has colours.
        lights: Unit vector towards the light (right, down, towards the viewer); zeros where
            the shape is flat.
    """

    images: Float32[np.ndarray, "example channel row column"]
    labels: Int64[np.ndarray, " example"]
    coloured: Bool[np.ndarray, " example"]
    lights: Float64[np.ndarray, "example axis"]


def render(n: int, *, seed: int = 0, size: int = SIZE) -> Shapes:
    """Render images, each class equally often, in random order.

    Args:
        n: Images.
        seed: Seed of everything random.
        size: Height and width in pixels.

    Returns:
        The images; equal seeds give equal bits.

    Raises:
        ValueError: If n or size is too small to make images.
    """
    if n < 1 or size < _SMALLEST:
        raise ValueError(
            f"n = {n}, size = {size}; expected at least one image of at least 8 pixels"
        )
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(n) % len(CLASSES)).astype(np.int64)
    coloured = random.random(n) < _HALF
    planes, masks, lights = np.zeros((n, size, size)), np.zeros((n, size, size)), np.zeros((n, 3))
    for label, name in enumerate(CLASSES):
        chosen = np.flatnonzero(labels == label)
        if chosen.size:
            scene = _Scene(random, len(chosen), size)
            planes[chosen], masks[chosen] = _PAINTERS[name](scene)
            lights[chosen] = scene.light_used
    images = _coloured(random, planes, masks, coloured)
    images += random.normal(0, _NOISE, (n, 1, size, size))
    return Shapes(images.clip(0, 1).astype(np.float32), labels, coloured, lights)


class _Scene:
    """Coordinates of every pixel in the frame of a randomly placed and turned object."""

    def __init__(self, random: np.random.Generator, n: int, size: int) -> None:
        self.random, self.n = random, n
        self.pixel = 2 / size
        axis = np.linspace(-1, 1, size)
        self.scale = self.uniform(0.4, 0.8)
        x = (axis[None, None, :] - self.uniform(-0.25, 0.25)) / self.scale
        y = (axis[None, :, None] - self.uniform(-0.25, 0.25)) / self.scale
        turn = self.uniform(0, 2 * np.pi)
        self.cos, self.sin = np.cos(turn), np.sin(turn)
        self.u, self.v = self.cos * x + self.sin * y, self.cos * y - self.sin * x
        self.light_used = np.zeros((n, 3))

    def uniform(
        self, low: int | float, high: int | float
    ) -> Float64[np.ndarray, "example one one"]:
        return self.random.uniform(low, high, (self.n, 1, 1))

    def chance(self) -> Bool[np.ndarray, "example one one"]:
        return self.random.random((self.n, 1, 1)) < _HALF

    def inside(self, distance: _Plane) -> _Plane:
        """Coverage of pixels by what lies at a negative distance, softened over one pixel."""
        return (0.5 - distance * self.scale / self.pixel).clip(0, 1)

    def lit(self, u: _Plane, v: _Plane, w: _Plane) -> _Plane:
        """Lambert shading of a surface whose normal is (u, v, w) in the object's frame."""
        around = self.uniform(0, 2 * np.pi)
        height = self.uniform(0.2, 1.1)
        light = np.cos(around) * np.cos(height), np.sin(around) * np.cos(height), np.sin(height)
        self.light_used = np.concatenate(light, axis=2)[:, 0]
        length = np.sqrt(u**2 + v**2 + w**2)
        x, y = self.cos * u - self.sin * v, self.sin * u + self.cos * v
        facing = (x * light[0] + y * light[1] + w * light[2]) / length
        return _AMBIENT + (1 - _AMBIENT) * facing.clip(0, None)


def _sphere(scene: _Scene) -> tuple[_Plane, _Plane]:
    radius = np.hypot(scene.u, scene.v)
    height = np.sqrt((1 - radius**2).clip(1e-6, None))
    return scene.lit(scene.u, scene.v, height), scene.inside(radius - 1)


def _cylinder(scene: _Scene) -> tuple[_Plane, _Plane]:
    width = scene.uniform(0.4, 0.7)
    across = scene.v / width
    height = np.sqrt((1 - across**2).clip(1e-6, None))
    outside = np.maximum(np.abs(scene.u) - 1.1, np.abs(scene.v) - width)
    return scene.lit(np.zeros_like(across), across, height), scene.inside(outside)


def _saddle(scene: _Scene) -> tuple[_Plane, _Plane]:
    # A square sheet: with a round outline its shading is nearly that of a sphere lit elsewhere.
    bend = scene.uniform(0.8, 2.0)
    outside = np.maximum(np.abs(scene.u + scene.v), np.abs(scene.u - scene.v)) * 0.75 - 0.9
    shade = scene.lit(-2 * bend * scene.u, 2 * bend * scene.v, np.ones_like(scene.u))
    return shade, scene.inside(outside)


def _texture(scene: _Scene) -> tuple[_Plane, _Plane]:
    frequency = scene.uniform(6, 12) * scene.scale
    phases = scene.uniform(0, 2 * np.pi), scene.uniform(0, 2 * np.pi)
    stripes = np.sin(frequency * scene.u / scene.scale + phases[0])
    others = np.sin(frequency * scene.v / scene.scale + phases[1])
    kind = scene.random.integers(3, size=(scene.n, 1, 1))
    dots = (stripes + others) / 2
    pattern = np.where(kind == 0, stripes, np.where(kind == 1, np.sign(stripes * others), dots))
    strength = scene.uniform(0.25, 0.45)
    outside = np.maximum(np.abs(scene.u), np.abs(scene.v)) - scene.uniform(0.9, 2.0)
    return 0.5 + strength * pattern, scene.inside(outside)


def _edge(scene: _Scene) -> tuple[_Plane, _Plane]:
    return np.broadcast_to(scene.uniform(0.05, 0.95), scene.u.shape), scene.inside(scene.v)


def _curve(scene: _Scene) -> tuple[_Plane, _Plane]:
    radius, pen = scene.uniform(0.5, 1.2), scene.uniform(0.08, 0.2)
    opening = scene.uniform(0.5 * np.pi, 1.2 * np.pi)
    # The circle goes through the middle of the frame, so that every arc is in view.
    u = scene.u + radius * 0.7
    ring = np.abs(np.hypot(u, scene.v) - radius) - pen
    beyond = (np.abs(np.arctan2(scene.v, u)) - opening / 2) * radius
    ink = np.broadcast_to(scene.uniform(0.05, 0.95), scene.u.shape)
    return ink, scene.inside(np.maximum(ring, beyond))


_PAINTERS: dict[str, Callable[[_Scene], tuple[_Plane, _Plane]]] = {
    "sphere": _sphere,
    "cylinder": _cylinder,
    "saddle": _saddle,
    "texture": _texture,
    "edge": _edge,
    "curve": _curve,
}


def _coloured(
    random: np.random.Generator,
    planes: _Plane,
    masks: _Plane,
    coloured: Bool[np.ndarray, " example"],
) -> Float64[np.ndarray, "example channel row column"]:
    """Tint object and background, and put one on the other; grey images get no tint."""
    n = len(planes)
    tints = random.uniform(0.3, 1, (2, n, 3, 1, 1))
    tints /= tints.max(2, keepdims=True)
    tints = np.where(coloured[None, :, None, None, None], tints, 1.0)
    # The background differs from the object's mean shade by enough to be seen.
    cover = masks.sum((1, 2)).clip(1e-9, None)
    mean = (planes * masks).sum((1, 2)) / cover
    gap = random.uniform(0.25, 0.45, n)
    shade = np.where(mean + gap > 1, mean - gap, np.where(mean - gap < 0, mean + gap, mean))
    sign = np.where(random.random(n) < _HALF, -1, 1)
    shade = np.where(shade == mean, mean + sign * gap, shade)[:, None, None, None]
    mask = masks[:, None]
    return mask * planes[:, None] * tints[0] + (1 - mask) * shade * tints[1]
