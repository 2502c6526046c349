"""How well estimates agree with exact interventions on the same places."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

# Two points always lie on a line, so a correlation of fewer than three says nothing.
_LEAST = 3


@dataclasses.dataclass(frozen=True)
class Verification:
    """Estimates of the largest effects beside their exact values.

    Attributes:
        names: What was measured again, largest estimate first.
        estimated: The estimates, in the result's unit.
        exact: The same measured by an intervention on that place alone.
        exact_interval: Bootstrap interval of the exact values over prompts; NaN with one prompt.
        pearson: Correlation of estimated and exact; NaN for fewer than three.
        spearman: Correlation of their ranks; NaN for fewer than three.
        sign_agreement: Share of places where both have the same sign.
        largest_error: Largest absolute difference of estimated and exact.
    """

    names: tuple[str, ...]
    estimated: Float[np.ndarray, " node"]
    exact: Float[np.ndarray, " node"]
    exact_interval: Float[np.ndarray, "bound node"]
    pearson: float
    spearman: float
    sign_agreement: float
    largest_error: float

    def __post_init__(self) -> None:
        """Make the arrays read-only."""
        for array in (self.estimated, self.exact, self.exact_interval):
            array.setflags(write=False)

    def to_frame(self) -> pd.DataFrame:
        """One row a place: estimate, exact value with its interval, and the error."""
        return pd.DataFrame(
            {
                "name": self.names,
                "estimated": self.estimated,
                "exact": self.exact,
                "exact_low": self.exact_interval[0],
                "exact_high": self.exact_interval[1],
                "error": self.estimated - self.exact,
            }
        )

    def summary(self) -> str:
        """How many were measured again and how well they agree, in one sentence."""
        return (
            f"The {len(self.names)} largest were measured again exactly: Pearson "
            f"{self.pearson:.3f}, Spearman {self.spearman:.3f}, the same sign in "
            f"{self.sign_agreement:.0%}, largest error {self.largest_error:.3g}."
        )


def compare(
    names: Sequence[str],
    estimated: Float[np.ndarray, " node"],
    exact: Float[np.ndarray, " node"],
    exact_interval: Float[np.ndarray, "bound node"],
) -> Verification:
    """Put estimates beside their exact values.

    Args:
        names: What was measured.
        estimated: The estimates.
        exact: The exact values.
        exact_interval: Their intervals.

    Returns:
        Both, with how well they agree.
    """
    pearson = spearman = float("nan")
    if len(names) >= _LEAST and np.ptp(estimated) > 0 and np.ptp(exact) > 0:
        linear: Any = scipy.stats.pearsonr(estimated, exact)
        ranked: Any = scipy.stats.spearmanr(estimated, exact)
        pearson, spearman = float(linear.statistic), float(ranked.statistic)
    return Verification(
        names=tuple(names),
        estimated=estimated,
        exact=exact,
        exact_interval=exact_interval,
        pearson=pearson,
        spearman=spearman,
        sign_agreement=float((np.sign(estimated) == np.sign(exact)).mean()),
        largest_error=float(np.abs(estimated - exact).max()),
    )


def notes(verification: Verification | None) -> tuple[str, ...]:
    """What a reader must know about a comparison: why correlations are missing, if they are.

    Args:
        verification: The comparison, if one was made.

    Returns:
        No sentence or one.
    """
    if verification is None or np.isfinite(verification.pearson):
        return ()
    if len(verification.names) < _LEAST:
        return (
            f"Correlations need at least {_LEAST} verified estimates, and there are "
            f"{len(verification.names)}.",
        )
    return ("Correlations are not defined, because all estimates or all exact values are equal.",)
