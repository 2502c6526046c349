"""Where does a subject's output tell a concept, and what else does it tell?

1. The logits of the clean run are centred and weighted by the square root of each output's mean
   probability: small changes then count as they change probabilities.
2. A linear readout of the labels (or targets) from these outputs: ridge regression, its penalty by
   leave-one-out. It is fitted on one half of the inputs and read on the other, both ways round.
3. The concept's behaviour is the covariance of the labels with the readout. The unrelated behaviour
   is how far the rest of the output (less what goes with the readout) still varies as in the clean
   run. Both are sums over examples, and zero for an output that is always the same.
4. What the output says of the concept is the readout itself.

Source: Alain & Bengio 2016, arXiv 1610.01644 (linear readouts); Haufe et al. 2014, doi
10.1016/j.neuroimage.2013.10.067 (what goes with a readout is not its weights). The regression is
scikit-learn's.

Units: squared standard deviations of the label (concept), squared weighted logits (unrelated);
`verify` divides each by what is lost without all units.

Limits: linear in the logits. A concept on which the output does not depend gives no readout. Logits
of all examples are held at once.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int

from analyses.neuron_clusters.behaviours import Reading, VerificationError
from workbench.core.engine import populations

_Table = Float[np.ndarray, "example width"]
# Share of the output's variance below which the rest of it is rounding.
_ROUNDING = 1e-9
# Penalties, in mean variances of the output along one of its directions.
_PENALTIES = np.logspace(-6, 3, 10)


@dataclasses.dataclass(frozen=True)
class Readout:
    """What the output tells of the concept, and all else that it tells."""

    @property
    def name(self) -> str:
        """What it is."""
        return "what the output tells of the concept"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Fit the readouts on the clean output.

        Args:
            bench: The concept's examples in front of the subject.
            row: Not used: the labels are those of the bench.

        Returns:
            How to score a run.

        Raises:
            VerificationError: If the output tells the concept and nothing else.
        """
        outputs = _Weighted(bench.scores(lambda logits, _: logits))
        follows, half = _targets(bench)
        clean = outputs.clean
        weights = np.stack([_fitted(clean[half != s], follows[half != s]) for s in (0, 1)])
        said = _read(weights, clean, half)
        goes_with = np.stack([np.linalg.pinv(said[half == s]) @ clean[half == s] for s in (0, 1)])
        rest = clean - _read(goes_with, said, half)
        for side in (0, 1):
            # An output that is always the same then goes with none of it.
            rest[half == side] -= rest[half == side].mean(0)
        if np.square(rest).sum() <= _ROUNDING * np.square(clean).sum():
            raise VerificationError(
                f"the output varies only with what tells {bench.concept.name!r}: there is no "
                "unrelated behaviour to compare with"
            )

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            found = outputs.of(logits.double().cpu().numpy())
            told = _read(weights, found, half[numbers])
            left = found - _read(goes_with, told, half[numbers])
            columns = [
                -(follows[numbers] * told).sum(1, keepdims=True),
                -(rest[numbers] * left).sum(1, keepdims=True),
                told,
            ]
            return torch.from_numpy(np.concatenate(columns, 1))

        return Reading(score, ("all else that the output tells",), half)


class _Weighted:
    """Logits as outputs whose squares count as changes of probability.

    Attributes:
        clean: Of the clean run, their mean taken off.
    """

    def __init__(self, logits: _Table) -> None:
        shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
        self._mean = (shifted / shifted.sum(1, keepdims=True)).mean(0)
        self._middle = 0.0
        table = self.of(logits.astype(np.float64))
        self._middle = table.mean(0)
        self.clean = table - self._middle

    def of(self, logits: _Table) -> _Table:
        """Of any run, the clean run's mean taken off."""
        return (logits - (logits @ self._mean)[:, None]) * np.sqrt(self._mean) - self._middle


def _targets(
    bench: populations.Bench,
) -> tuple[Float[np.ndarray, "example target"], Int[np.ndarray, " example"]]:
    """What the output should tell, standardised in each half of the inputs, and the halves."""
    examples = bench.examples
    given = examples.targets if bench.concept.graded else examples.labels[:, None]
    follows = np.array(given, dtype=np.float64)
    rows, inverse = np.unique(examples.row, return_inverse=True)
    level = np.bincount(inverse, weights=follows[:, 0]) / np.bincount(inverse)
    order = np.random.default_rng(0).permutation(len(rows))
    # Inputs of a kind lie side by side, so that both halves have as many of each.
    order = order[np.argsort(level[order], kind="stable")]
    side = np.zeros(len(rows), dtype=np.int64)
    side[order[1::2]] = 1
    half = side[inverse]
    for one in (0, 1):
        here = follows[half == one]
        if not len(here) or (np.ptp(here, axis=0) == 0).any():
            raise VerificationError(
                f"{bench.concept.name!r} has {len(rows):,} inputs, of which one half is all the "
                "same: give at least two inputs of each kind, or another behaviour"
            )
        follows[half == one] = (here - here.mean(0)) / here.std(0)
    return follows, half


def _fitted(
    outputs: _Table, follows: Float[np.ndarray, "example target"]
) -> Float[np.ndarray, "width target"]:
    """Weights of a readout."""
    from sklearn.linear_model import RidgeCV

    spread = np.square(outputs - outputs.mean(0)).sum() / min(outputs.shape)
    if spread == 0:
        raise VerificationError("the output is the same for all examples: it tells nothing")
    found = RidgeCV(alphas=_PENALTIES * spread).fit(outputs, follows)
    return np.asarray(found.coef_).reshape(follows.shape[1], -1).T


def _read(
    weights: Float[np.ndarray, "2 width target"], table: _Table, half: Int[np.ndarray, " example"]
) -> Float[np.ndarray, "example target"]:
    """Each example's row times its half's weights."""
    out = np.zeros((len(table), weights.shape[2]))
    for side in (0, 1):
        out[half == side] = table[half == side] @ weights[side]
    return out
