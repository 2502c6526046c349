"""Evidence: how sure a mean over prompts is, and whether it is more than chance.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap" (percentile intervals);
Fisher 1935, "The Design of Experiments" (sign flips); Benjamini & Hochberg 1995 (false discovery
rate). The resampling and the correction themselves are scipy's.
"""

from __future__ import annotations

import warnings
from typing import Any, TypedDict

import numpy as np
import scipy.stats
from jaxtyping import Float

# Largest p-value, corrected over all that was looked at, of what is said to be more than chance.
SURE = 0.05
# Cells × resamples × prompts are held at once; this bounds the product to some tens of megabytes.
_VALUES_AT_ONCE = 4_000_000


class Bootstrap(TypedDict):
    """How the intervals are made."""

    confidence: float
    n_resamples: int
    seed: int


DEFAULT_BOOTSTRAP = Bootstrap(confidence=0.95, n_resamples=2000, seed=0)


def require_confidence(confidence: float) -> None:
    """Check the level of an interval.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence}; expected a level between 0 and 1")


def ratio_interval(
    numerator: Float[np.ndarray, "prompt cell"],
    denominator: Float[np.ndarray, " prompt"],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "bound cell"]:
    """Percentile bootstrap interval, over prompts, of mean(numerator) / mean(denominator).

    Prompts are resampled as whole: a prompt's numerator and denominator stay together, and every
    cell sees the same resamples.

    Args:
        numerator: Per-prompt numerators.
        denominator: Per-prompt denominators.
        confidence: Level between 0 and 1.
        n_resamples: Bootstrap resamples.
        seed: Equal seeds give equal bits.

    Returns:
        Lower and upper bounds; NaN where there are fewer than two prompts, because one prompt
        says nothing about the spread over prompts.
    """
    n_prompts, n_cells = numerator.shape
    if n_prompts == 1 or n_cells == 0:
        return np.full((2, n_cells), np.nan)
    top = numerator.T.astype(np.float64)
    bottom = np.broadcast_to(denominator.astype(np.float64), top.shape)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A cell whose prompts all agree has a degenerate distribution; its interval is a point.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        result = scipy.stats.bootstrap(
            (top, bottom),
            lambda a, b, axis: a.mean(axis) / b.mean(axis),
            paired=True,
            axis=-1,
            vectorized=True,
            method="percentile",
            confidence_level=confidence,
            n_resamples=n_resamples,
            batch=max(1, _VALUES_AT_ONCE // top.size),
            rng=np.random.default_rng(seed),
        )
    interval = result.confidence_interval
    return np.stack([interval.low, interval.high])


def mean_interval(
    values: Float[np.ndarray, "prompt cell"],
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Float[np.ndarray, "bound cell"]:
    """Percentile bootstrap interval, over prompts, of the mean of each cell.

    Args:
        values: Per-prompt values.
        confidence: Level between 0 and 1.
        n_resamples: Bootstrap resamples.
        seed: Equal seeds give equal bits.

    Returns:
        Lower and upper bounds; NaN where there are fewer than two prompts.
    """
    return ratio_interval(
        values,
        np.ones(len(values)),
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )


def sign_flip_p_values(
    values: Float[np.ndarray, "prompt cell"], *, n_resamples: int = 9999, seed: int = 0
) -> Float[np.ndarray, " cell"]:
    """Two-sided p-value of each cell's mean, against a random sign for every prompt's value.

    The null: a prompt's value is as likely to have the other sign. It is exact where all 2^n sign
    patterns are no more than the resamples, else (r + 1) / (resamples + 1), which is never zero.

    Args:
        values: Per-prompt values, for example patched minus unpatched.
        n_resamples: Random sign patterns, the same for every cell.
        seed: Equal seeds give equal bits.

    Returns:
        Uncorrected p-values; 1 where a cell's values are all zero, or there is one prompt only.
    """
    if len(values) == 1 or values.size == 0:
        return np.ones(values.shape[1])
    result: Any = scipy.stats.permutation_test(
        (values.astype(np.float64),),
        lambda sample, axis: sample.mean(axis),
        permutation_type="samples",
        vectorized=True,
        axis=0,
        n_resamples=n_resamples,
        batch=max(1, _VALUES_AT_ONCE // values.size),
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.pvalue)


def p_value(value: float, null: Float[np.ndarray, " sample"]) -> float:
    """Of a value at least as large, were it one of the null.

    Args:
        value: What was measured.
        null: The same where there is nothing to find.

    Returns:
        The share of these that are as large, the value counted in; so it is never 0.
    """
    return float((1 + (null >= value).sum()) / (1 + len(null)))


def adjusted_for_discoveries(p_values: Float[np.ndarray, "*cell"]) -> Float[np.ndarray, "*cell"]:
    """Benjamini-Hochberg adjusted p-values over every cell that was looked at.

    Calling all cells with an adjusted value of at most q discoveries makes a share of at most q of
    them false, on average.

    Args:
        p_values: Uncorrected ones, of any shape.

    Returns:
        Adjusted ones, of the same shape.
    """
    return scipy.stats.false_discovery_control(p_values.ravel()).reshape(p_values.shape)


def changes(
    per_prompt: Float[np.ndarray, "prompt *cell"],
    clean: Float[np.ndarray, " prompt"],
    corrupted: Float[np.ndarray, " prompt"],
    direction: str,
) -> Float[np.ndarray, "prompt *cell"]:
    """Each prompt's change in the direction of an effect, in the metric's unit.

    Args:
        per_prompt: Metric in each patched run.
        clean: Metric of each clean prompt.
        corrupted: Metric of each corrupted prompt.
        direction: "denoising" for what is recovered, "noising" for what is destroyed.

    Returns:
        Patched minus corrupted, or clean minus patched.
    """

    def over_cells(values: Float[np.ndarray, " prompt"]) -> np.ndarray:
        return values.reshape(-1, *[1] * (per_prompt.ndim - 1))

    if direction == "denoising":
        return per_prompt - over_cells(corrupted)
    return over_cells(clean) - per_prompt


def effects(
    moved: Float[np.ndarray, "prompt *cell"],
    gaps: Float[np.ndarray, " prompt"],
    normalised: bool,
    bootstrap: Bootstrap,
) -> tuple[Float[np.ndarray, "*cell"], Float[np.ndarray, "bound *cell"]]:
    """Ratio of means with its interval.

    Args:
        moved: Each prompt's change.
        gaps: Each prompt's clean minus corrupted metric.
        normalised: Whether the gaps are far enough from zero to divide by.
        bootstrap: How the interval is made.

    Returns:
        The effects and their intervals; NaN throughout where not normalised.
    """
    shape = moved.shape[1:]
    if not normalised:
        return np.full(shape, np.nan), np.full((2, *shape), np.nan)
    interval = ratio_interval(moved.reshape(len(gaps), -1), gaps, **bootstrap)
    return moved.mean(0) / gaps.mean(), interval.reshape(2, *shape)
