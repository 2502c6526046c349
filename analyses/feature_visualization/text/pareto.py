"""The Pareto front: the texts that no other text beats in both activation and fluency.

A text beats another if it is at least as good in both and better in one. Of texts that are equal in
both, the one that was found first stays.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from analyses.feature_visualization.text import candidates


def front(
    gain: Float[np.ndarray, " candidate"], cross_entropy: Float[np.ndarray, " candidate"]
) -> Int[np.ndarray, " point"]:
    """Which candidates nobody beats.

    Args:
        gain: What is to be large.
        cross_entropy: What is to be small.

    Returns:
        Their indices, the most fluent first, so that gain rises from one to the next.
    """
    # Stable, so that among equals the first stays first.
    order = np.lexsort((-gain, cross_entropy))
    reached = np.maximum.accumulate(np.concatenate([[-np.inf], gain[order][:-1]]))
    return order[gain[order] > reached]


@dataclasses.dataclass(frozen=True)
class Front:
    """Texts that nobody has beaten so far.

    Attributes:
        texts: Token ids, the most fluent text first.
        measured: What they give.
        found_in: In which restart each was found.
    """

    texts: Int[np.ndarray, "point position"]
    measured: candidates.Measured
    found_in: Int[np.ndarray, " point"]

    @classmethod
    def empty(cls, length: int) -> Front:
        """No texts yet."""
        nothing = candidates.Measured(*np.empty((3, 0)))
        return cls(np.empty((0, length), dtype=np.int64), nothing, np.empty(0, dtype=np.int64))

    def joined(
        self,
        texts: Int[np.ndarray, "candidate position"],
        measured: candidates.Measured,
        *,
        sign: int,
        restart: int,
    ) -> Front:
        """The front of these texts and more.

        Args:
            texts: Token ids.
            measured: What they give.
            sign: 1 where large activations are wanted, -1 where small ones are.
            restart: In which restart they were found.

        Returns:
            The front of all; it holds no text twice.
        """
        every = np.concatenate([self.texts, texts])
        values = candidates.Measured.joined([self.measured, measured])
        found_in = np.concatenate([self.found_in, np.full(len(texts), restart)])
        kept = front(sign * values.activation, values.cross_entropy)
        # One text measured in two batches differs in the last bits, and neither beats the other.
        once = np.unique(every[kept], axis=0, return_index=True)[1]
        kept = kept[np.sort(once)]
        return Front(every[kept], values.take(kept), found_in[kept])
