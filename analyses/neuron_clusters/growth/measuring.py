"""What a network knows of a concept, and of the rest, from its class scores on held-out examples.

1. "log_loss" and "error" are of naming the right class, over the examples with the concept: among
   three-dimensional shapes, which of them it is.
2. "concept_log_loss" and "concept_auc" are of telling whether the concept is there at all, from the
   sum of the probabilities of the classes that have it. They exist where each class has the concept
   as a whole, or not at all.
3. "rest_log_loss" and "rest_error" are of naming the right class, over the examples without it.

Units: log loss in nats an example, error and AUC as shares from 0 to 1.

Limits: classes are all that is asked for; a concept that no class depends on cannot be measured so.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special
from jaxtyping import Bool, Float64, Int


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number about a network.

    Attributes:
        words: As a reader calls it.
        unit: Of it.
        sign: 1 where larger is better, -1 where smaller is.
        rest: What the same is of the examples without the concept.
    """

    words: str
    unit: str
    sign: int
    rest: str


MEASURES: dict[str, Measure] = {
    "log_loss": Measure(
        "log loss of the right class among examples with the concept", "nats", -1, "rest_log_loss"
    ),
    "error": Measure(
        "share of wrong classes among examples with the concept", "share", -1, "rest_error"
    ),
    "concept_log_loss": Measure(
        "log loss of whether the concept is there", "nats", -1, "rest_log_loss"
    ),
    "concept_auc": Measure("AUC of whether the concept is there", "AUC", 1, "rest_log_loss"),
    "rest_log_loss": Measure(
        "log loss of the right class among examples without the concept",
        "nats",
        -1,
        "rest_log_loss",
    ),
    "rest_error": Measure(
        "share of wrong classes among examples without the concept", "share", -1, "rest_error"
    ),
}
# What the experiment may be about, the default first.
METRICS = tuple(name for name in MEASURES if not name.startswith("rest"))


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """Held-out examples.

    Attributes:
        inputs: What the network reads.
        labels: The right class of each.
        has: Whether each has the concept.
    """

    inputs: np.ndarray
    labels: Int[np.ndarray, " example"]
    has: Bool[np.ndarray, " example"]

    @property
    def measures(self) -> tuple[str, ...]:
        """Which measures there are of these."""
        split = set(self.labels[self.has]).isdisjoint(self.labels[~self.has])
        return tuple(name for name in MEASURES if split or not name.startswith("concept"))


def measured(
    scores: Float64[np.ndarray, "example class"], held: Held
) -> Float64[np.ndarray, " measure"]:
    """All measures of one network.

    Args:
        scores: Class scores of the held-out examples.
        held: These.

    Returns:
        One number for each of `held.measures`.

    Raises:
        ValueError: If a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError(
            "the network's class scores are not finite numbers: its weights are broken, or it was "
            "fine-tuned at too large a rate"
        )
    logs = scipy.special.log_softmax(scores, axis=1)
    own = -logs[np.arange(len(logs)), held.labels]
    wrong = logs.argmax(1) != held.labels
    found = {
        "log_loss": own[held.has].mean(),
        "error": wrong[held.has].mean(),
        "rest_log_loss": own[~held.has].mean(),
        "rest_error": wrong[~held.has].mean(),
    }
    if "concept_auc" in held.measures:
        found |= _of_presence(logs, held)
    return np.array([found[name] for name in held.measures], dtype=np.float64)


def _of_presence(logs: Float64[np.ndarray, "example class"], held: Held) -> dict[str, float]:
    """How well the probabilities tell whether the concept is there."""
    from sklearn.metrics import roc_auc_score

    with_it = np.isin(np.arange(logs.shape[1]), held.labels[held.has])
    there = scipy.special.logsumexp(logs[:, with_it], axis=1)
    # Not 1 minus the other: that is 0 where the network is sure.
    not_there = scipy.special.logsumexp(logs[:, ~with_it], axis=1)
    return {
        "concept_log_loss": float(-np.where(held.has, there, not_there).mean()),
        "concept_auc": float(roc_auc_score(held.has, there - not_there)),
    }
