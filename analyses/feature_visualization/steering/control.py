"""Does a unit do more than random directions of the same length, and how sure is that?

1. Runs are put in order: by direction, the unit first, and by strength.
2. The mean change of the metric and of the loss has a bootstrap interval over prompts or rows.
3. A strength's p-value is the share of all directions whose change is as large, the unit counted
   in; Benjamini-Hochberg over the strengths.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap"; Benjamini & Hochberg 1995.

Units: changes in the unit of what is measured.

Limits: no p-value is below one over the number of directions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from workbench.core import evidence

# What differs by less than this share is equal but for rounding.
_ROUNDING = 1e-6


def compared(  # noqa: PLR0913, PLR0917 -- what was measured, and how intervals are made of it
    values: Float[np.ndarray, "prompt run"],
    loss: Float[np.ndarray, "row run"],
    divergence: Float[np.ndarray, "row run"],
    predicted: Int[np.ndarray, " row"],
    doses: Float[np.ndarray, " point"],
    bootstrap: evidence.Bootstrap,
) -> dict[str, np.ndarray]:
    """The fields of a result that are made of the runs.

    Args:
        values: Metric of each prompt in each run.
        loss: Loss of each row.
        divergence: Divergence of each row.
        predicted: Tokens of each row that are predicted.
        doses: The strengths, 0 among them; runs are those of one direction after the other.
        bootstrap: How intervals are made.

    Returns:
        Fields of `Steering` by name.
    """
    zero = int(np.flatnonzero(doses == 0)[0])
    values, loss, divergence = (
        _by_direction(runs, len(doses), zero) for runs in (values, loss, divergence)
    )
    changes, loss_changes = (runs - runs[:, :, [zero]] for runs in (values, loss))
    effects = changes.mean(0)
    losses, divergences = (
        np.average(runs, axis=0, weights=predicted) for runs in (loss_changes, divergence)
    )
    p_values, loss_p_values = _share_beyond(np.abs(effects)), _share_beyond(losses)
    weights = predicted.astype(np.float64)
    return {
        "values": values[:, 0].copy(),
        "interval": evidence.mean_interval(changes[:, 0], **bootstrap),
        "p_values": p_values,
        "adjusted_p": _adjusted(p_values, zero),
        "control_effects": effects[1:],
        "loss": loss[:, 0].copy(),
        "divergence": divergence[:, 0].copy(),
        "loss_interval": evidence.ratio_interval(
            loss_changes[:, 0] * weights[:, None], weights, **bootstrap
        ),
        "divergence_interval": evidence.ratio_interval(
            divergence[:, 0] * weights[:, None], weights, **bootstrap
        ),
        "loss_p_values": loss_p_values,
        "adjusted_loss_p": _adjusted(loss_p_values, zero),
        "control_losses": losses[1:],
        "control_divergences": divergences[1:],
    }


def _by_direction(
    runs: Float[np.ndarray, "row run"], points: int, zero: int
) -> Float[np.ndarray, "row sample point"]:
    """Runs by direction and strength; the first, with nothing added, is all directions' own."""
    none, steered = runs[:, 0], runs[:, 1:].reshape(len(runs), -1, points - 1)
    return np.insert(steered, zero, none[:, None], axis=2)


def _share_beyond(values: Float[np.ndarray, "sample point"]) -> Float[np.ndarray, " point"]:
    """Share of all directions whose value is at least the unit's, which is the first of them."""
    own = values[0]
    return (values >= own - _ROUNDING * np.abs(own)).mean(0)


def _adjusted(p_values: Float[np.ndarray, " point"], zero: int) -> Float[np.ndarray, " point"]:
    """Over all strengths but 0, at which there is nothing to test."""
    others = evidence.adjusted_for_discoveries(np.delete(p_values, zero))
    return np.insert(others, zero, 1.0)
