"""Is a network better for having grown in one place and not in others? Compared seed by seed.

1. A seed decides new weights and batches, for all variants alike: so each seed gives one difference
   between two of them, and the seeds are independent of each other.
2. The p-value is that of a permutation test, two-sided: within each seed the two change places, in
   all ways there are (for more than 13 seeds: in 9,999 random ways).
3. The interval of the mean difference is Student's.
4. The smallest difference that would have been found is the one that a paired t-test at the same
   level finds in 80 % of all experiments with so many seeds and such a spread. It stands in for the
   permutation test, whose power it comes close to.

Source: Fisher 1935, "The Design of Experiments" (permutation within pairs); Cohen 1988,
"Statistical Power Analysis" (the smallest effect that is found).

Units and sign: those of the measure; above 0 the first of the two is the better one.

Limits: fewer than 6 seeds cannot give a two-sided p below .05: there are too few ways to change
places.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Float64

from workbench.core import evidence
from workbench.core.evidence import SURE

Verdict = Literal["add here", "it makes no difference", "elsewhere is better"]
VERDICTS: tuple[Verdict, ...] = ("add here", "it makes no difference", "elsewhere is better")
# With fewer seeds no two-sided p-value of changing places within pairs is below the level.
FEWEST_SEEDS = 6
_POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One variant against another, or against the mean of several.

    Attributes:
        against: Which other.
        measure: By which measure.
        differences: Of each seed; above 0 the first is better.
        mean: Over seeds.
        interval: Of the mean; NaN with one seed.
        p_value: Two-sided, of the permutation within pairs, uncorrected.
        detectable: Smallest mean difference that such an experiment finds in 80 % of all cases;
            infinite where no p-value can be below .05.
    """

    against: str
    measure: str
    differences: Float64[np.ndarray, " seed"]
    mean: float
    interval: tuple[float, float]
    p_value: float
    detectable: float


def contrast(
    against: str,
    measure: str,
    differences: Float64[np.ndarray, " seed"],
    *,
    confidence: float | int = 0.95,
) -> Contrast:
    """Compare seed by seed.

    Args:
        against: What the other is called.
        measure: What was measured.
        differences: Of each seed; above 0 the first is better.
        confidence: Of the interval.

    Returns:
        The comparison.
    """
    return Contrast(
        against=against,
        measure=measure,
        differences=differences,
        mean=float(differences.mean()),
        interval=_interval(differences, float(confidence)),
        p_value=float(evidence.sign_flip_p_values(differences[:, None])[0]),
        detectable=detectable(differences),
    )


def detectable(differences: Float64[np.ndarray, " seed"]) -> float:
    """Smallest mean difference that a paired t-test finds in 80 % of such experiments.

    Args:
        differences: Of each seed; only their number and spread count.

    Returns:
        The difference; infinite with fewer than 6 seeds.
    """
    n = len(differences)
    if n < FEWEST_SEEDS:
        return math.inf
    critical = scipy.stats.t.ppf(1 - SURE / 2, n - 1)

    def missing(noncentrality: float) -> float:
        distribution: Any = scipy.stats.nct(n - 1, noncentrality)
        return float(distribution.sf(critical) + distribution.cdf(-critical)) - _POWER

    noncentrality: Any = scipy.optimize.brentq(missing, 1.0, 8.0)
    return float(noncentrality * differences.std(ddof=1) / math.sqrt(n))


def verdict(primary: Contrast, rest: Contrast, nowhere: Contrast) -> Verdict:
    """What an experiment found.

    Args:
        primary: The place against the mean elsewhere, by the metric.
        rest: The same by what is measured on examples without the concept.
        nowhere: The place against the same fine-tuning without any addition, by the metric.

    Returns:
        "add here" if the concept gains against elsewhere and against adding nothing, and the rest
        is not harmed; "elsewhere is better" if it loses against elsewhere; else "it makes no
        difference".
    """
    if primary.p_value >= SURE:
        return "it makes no difference"
    if primary.mean < 0:
        return "elsewhere is better"
    helps = nowhere.mean > 0 and nowhere.p_value < SURE
    return "add here" if helps and not harmed(rest) else "it makes no difference"


def harmed(rest: Contrast) -> bool:
    """Whether the rest is worse than by chance."""
    return rest.mean < 0 and rest.p_value < SURE


def _interval(differences: Float64[np.ndarray, " seed"], confidence: float) -> tuple[float, float]:
    if len(differences) == 1:
        return math.nan, math.nan
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    if error == 0:
        # All seeds agree to the bit.
        return float(differences[0]), float(differences[0])
    low, high = scipy.stats.t.interval(
        confidence, len(differences) - 1, loc=differences.mean(), scale=error
    )
    return float(low), float(high)
