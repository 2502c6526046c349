"""Curves of trainings whose drops and phases are where one puts them.

1. `power_law`: a loss that falls as a power of the step, with correlated noise, and changes by a
   step at chosen places.
2. `training`: the losses of a network that groks, as straight lines on a logarithmic scale between
   chosen steps.

Units: values are losses, noise and changes in dex (decades of the loss).

Limits: noise is the same at all steps, as that of real trainings is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

PLACES = np.arange(1, 1001)
# Steps from one point to the next.
APART = 10
SMOOTH = -0.3 * np.log10(PLACES)
NOISE = 0.02
# Step at which the straight lines of `training` end.
LAST = 60_000


def noise(
    n: int, sd: float, seed: int, correlation: float = 0.5
) -> Float[np.ndarray, " checkpoint"]:
    """First-order autoregressive noise, point by point.

    Args:
        n: How many points.
        sd: Standard deviation of each.
        seed: Of the noise.
        correlation: Of neighbours.

    Returns:
        The noise.
    """
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal()]
    for _ in range(n - 1):
        values.append(
            correlation * values[-1] + np.sqrt(1 - correlation**2) * rng.standard_normal()
        )
    return sd * np.array(values)


def power_law(
    changes: Iterable[tuple[int, float | int]] = (), *, seed: int = 0
) -> tuple[Int[np.ndarray, " checkpoint"], Float[np.ndarray, " checkpoint"]]:
    """A loss over 1,000 points ten steps apart, with noise of 0.02 dex.

    Args:
        changes: Number of the point from which the loss is changed, and by how many dex.
        seed: Of the noise.

    Returns:
        Steps, and the logarithm of the loss to base ten.
    """
    logs = SMOOTH + noise(len(PLACES), NOISE, seed)
    for place, change in changes:
        logs[place:] += change
    return APART * PLACES, logs


def training(
    steps: Float[np.ndarray, " checkpoint"],
    at: tuple[int, int, int, int],
    *,
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, Float[np.ndarray, " checkpoint"]]:
    """Measures of a run whose phases begin and end at planted steps.

    Args:
        steps: Where it was measured.
        at: Steps at which the training data are memorised, the circuit begins to form, the fall of
            the test loss begins, and it ends.
        noise: Of each measurement, in dex.
        seed: Of the noise.

    Returns:
        `train`, `test`, `restricted` and `excluded` losses, and `squared_weights`.
    """
    rng = np.random.default_rng(seed)
    memorised, formed, start, end = at

    def measured(where: Sequence[int], logs: Sequence[float | int]) -> np.ndarray:
        return 10.0 ** (np.interp(steps, where, logs) + noise * rng.standard_normal(steps.size))

    return {
        # At `memorised` training loss is .1: this is where it counts as learned.
        "train": measured([0, memorised, 3 * memorised, LAST], [0.68, -1, -6, -7]),
        "test": measured([0, formed, start, end, LAST], [0.68, 1.4, 1.0, -6, -6.3]),
        "restricted": measured([0, formed, start, LAST], [0.68, 0.5, -1.2, -7]),
        "excluded": measured(
            [0, memorised, formed, start, end, LAST], [0.68, 0.3, -0.5, 1.1, 0.8, 0.78]
        ),
        "squared_weights": measured([0, formed, start, end, LAST], [3.2, 3.5, 3.3, 3.0, 2.98]),
    }
