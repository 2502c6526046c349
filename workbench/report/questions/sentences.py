"""Numbers in the sentences of a report, the same way in every question.

Shares are percentages with three digits, other numbers are written as everywhere in a report; an
interval that is not known is said to be missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from workbench.report import wording

Interval = Sequence[float | int] | np.ndarray


def share(value: float | int) -> str:
    """A share as a percentage.

    Args:
        value: The share.

    Returns:
        For example "98.4 %".
    """
    return f"{100 * value:.3g} %"


def sure(interval: Interval, confidence: float, *, shares: bool = True) -> str:
    """An interval in words.

    Args:
        interval: Its bounds.
        confidence: Its level.
        shares: Whether the bounds are shares.

    Returns:
        For example "95 % interval 91.2 % to 99.6 %", or that there is none.
    """
    low, high = map(float, interval)
    if math.isnan(low) or math.isnan(high):
        return "no interval: too few prompts"
    said = share if shares else wording.number
    return f"{share(confidence)} interval {said(low)} to {said(high)}"


def chance(p_value: float | int) -> str:
    """A p-value in words.

    Args:
        p_value: The p-value.

    Returns:
        For example "p = 0.005".
    """
    return f"p = {wording.number(p_value)}"
