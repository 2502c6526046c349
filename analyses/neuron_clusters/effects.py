"""How large is the effect of an edit, as a share of all there is to lose or to move?

1. Losses of a clean run, of an edited one, and of one in which every unit that is looked at has its
   mean (the floor).
2. Effect of a behaviour: (edited - clean) / (floor - clean), each a mean over the examples that
   count; 0 is nothing, 1 all that these units do for it.
3. Necessity is the effect on the concept's behaviour. The unrelated effect is the mean over the
   unrelated behaviours of the absolute effect. Specificity is necessity minus that.
4. Sufficiency: how far what the output says of the concept goes from the recipient's to the
   donor's. It is the sum of inner products with that way, over the sum of its squared lengths.
5. Intervals: percentile bootstrap over inputs, an input's tokens staying together.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap"; the resampling is scipy's.

Units: shares, 0 nothing, 1 all; an effect below 0 means that the behaviour got better.

Limits: intervals take the directions and the floor's units as they are.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.stats
from jaxtyping import Float, Int

from analyses.neuron_clusters.behaviours import VerificationError
from workbench.core import evidence

QUANTITIES = ("specificity", "necessity", "unrelated")
_VALUES_AT_ONCE = 4_000_000


class Sums:
    """Sums over the examples of each input: what is resampled as a whole."""

    def __init__(self, row: Int[np.ndarray, " example"]) -> None:
        rows, self._row = np.unique(row, return_inverse=True)
        self._rows = len(rows)

    def of(
        self, values: Float[np.ndarray, "example behaviour"]
    ) -> Float[np.ndarray, "row behaviour"]:
        """Sum up, leaving out what does not count (NaN)."""
        out = np.zeros((self._rows, values.shape[1]))
        np.add.at(out, self._row, np.nan_to_num(values.astype(np.float64)))
        return out


class Scale:
    """What there is to lose of each behaviour.

    Attributes:
        lost: Of the concept's behaviour and each unrelated one: sums over each input of the floor's
            loss minus the clean one.
    """

    def __init__(
        self,
        clean: Float[np.ndarray, "row behaviour"],
        floor: Float[np.ndarray, "row behaviour"],
        names: tuple[str, ...],
    ) -> None:
        """Check that the units do something for each behaviour.

        Raises:
            VerificationError: If the loss of a behaviour is not higher without all units.
        """
        self.lost = floor - clean
        low = evidence.mean_interval(self.lost)[0]
        for name, least, mean in zip(names, low, self.lost.mean(0), strict=True):
            # NaN where there is one input only: nothing is known of the spread.
            if not least > 0:
                raise VerificationError(
                    f"the loss of {name!r} rises by {mean:.3g} for each of {len(clean):,} inputs "
                    f"when all units have their mean (95 % interval from {least:.3g}): these units "
                    "do nothing for it that could be lost"
                )

    def each(self, changes: Float[np.ndarray, "row behaviour"]) -> Float[np.ndarray, " behaviour"]:
        """Effect on each behaviour."""
        return changes.sum(0) / self.lost.sum(0)

    def measures(
        self, changes: Float[np.ndarray, "row behaviour"]
    ) -> Float[np.ndarray, " quantity"]:
        """Specificity, necessity and the unrelated effect."""
        return np.array(_measures(*changes.T, *self.lost.T, axis=0))

    def intervals(
        self, changes: Float[np.ndarray, "row behaviour"], confidence: float, seed: int
    ) -> Float[np.ndarray, "quantity bound"]:
        """Bootstrap intervals of the three, from the same resamples."""
        return bootstrap((*changes.T, *self.lost.T), _measures, confidence, seed)


def _measures(*columns: Float[np.ndarray, "*cell"], axis: int) -> tuple[Any, Any, Any]:
    half = len(columns) // 2
    with np.errstate(divide="ignore", invalid="ignore"):
        effects = [
            change.sum(axis) / lost.sum(axis)
            for change, lost in zip(columns[:half], columns[half:], strict=True)
        ]
    unrelated = np.mean([np.abs(effect) for effect in effects[1:]], axis=0)
    return effects[0] - unrelated, effects[0], unrelated


def share(*columns: Float[np.ndarray, "*cell"], axis: int) -> Any:
    """Sum of the first column over the sum of the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return columns[0].sum(axis) / columns[1].sum(axis)


def bootstrap(
    columns: tuple[Float[np.ndarray, " row"], ...], statistic: Any, confidence: float, seed: int
) -> Float[np.ndarray, "*quantity bound"]:
    """Percentile interval of a statistic over inputs, whose columns stay together."""
    rows = len(columns[0])
    with warnings.catch_warnings():
        # Inputs that all agree have a degenerate distribution; its interval is a point.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        found = scipy.stats.bootstrap(
            columns,
            statistic,
            paired=True,
            vectorized=True,
            axis=-1,
            method="percentile",
            confidence_level=confidence,
            n_resamples=2000,
            batch=max(1, _VALUES_AT_ONCE // (rows * len(columns))),
            rng=np.random.default_rng(seed),
        )
    interval = found.confidence_interval
    return np.stack([interval.low, interval.high], -1)
