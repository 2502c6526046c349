"""What a check of the self-test is: a planted truth, and a number that says whether it was found.

1. `Models` builds each planted model once, on the device that was asked for.
2. A `Check` names an analysis, says what is true by construction, and runs the analysis.
3. Its `Outcome` is what was found, and the one number that decides, beside its bound: the largest
   deviation from what was planted, how many names are missing or besides, or a share.
4. `row` runs a check. An analysis that raises has not found what was planted: its error becomes the
   row, and the other checks go on.

Limits: a bound is that of float32 on any device; that an analysis is right on planted models does
not say that it is right on all others.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from workbench.core.planted import (
    known_circuits,
    known_units,
    two_steps,
    unplanted,
    word_level,
)
from workbench.core.prompts.corpus import Corpus
from workbench.core.prompts.pairs import ContrastPairs
from workbench.report.document import Recovered

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

# Numbers of any shape.
Numbers = float | int | np.generic | np.ndarray | Sequence[Any]
# Of numbers that are known exactly: rounding of float32 over a few layers, on any device.
EXACT = 1e-4
# Of an error that a row shows.
LONGEST_ERROR = 300
# Names that a row lists.
LISTED = 12


class Outcome(NamedTuple):
    """What an analysis made of a planted truth.

    Attributes:
        recovered: What was found, in words.
        right: Whether it is what was planted.
        measured: The number that decides.
        bound: What it must not exceed, or must reach, in words.
    """

    recovered: str
    right: bool
    measured: float | None
    bound: str


class Check(NamedTuple):
    """One planted truth, and how an analysis is asked for it.

    Attributes:
        analysis: Module and function.
        planted: What is true by construction, in plain words.
        examine: Asks the analysis.
    """

    analysis: str
    planted: str
    examine: Callable[[Models], Outcome]


@dataclasses.dataclass
class Models:
    """The planted models that several checks share, each built when it is first needed.

    Attributes:
        device: Where models are put; a torch device name.
        seed: Of everything random.
    """

    device: str
    seed: int = 0

    @functools.cached_property
    def two_steps(self) -> TransformerBridge:
        """The two-step copier."""
        return word_level.on(two_steps.two_layer(), self.device)

    @functools.cached_property
    def pairs(self) -> ContrastPairs:
        """Pairs for the two-step copier."""
        return two_steps.pairs(self.two_steps)

    @functools.cached_property
    def induction(self) -> known_circuits.Case:
        """The induction pair."""
        return self._moved(known_circuits.induction())

    @functools.cached_property
    def name_mover(self) -> known_circuits.Case:
        """The name mover."""
        return self._moved(known_circuits.name_mover())

    @functools.cached_property
    def detectors(self) -> TransformerBridge:
        """Neurons that fire at a word, at a place, or at both."""
        return word_level.on(known_units.detectors(), self.device)

    @functools.cached_property
    def words(self) -> Corpus:
        """Random words for the detectors."""
        rng = np.random.default_rng(self.seed)
        rows = rng.integers(0, len(word_level.WORDS), (300, two_steps.N_CTX))
        return Corpus.from_tokens(self.detectors, rows)

    @functools.cached_property
    def unplanted(self) -> TransformerBridge:
        """A model in which nothing was planted."""
        return word_level.on(unplanted.randomised(seed=self.seed), self.device)

    def _moved(self, case: known_circuits.Case) -> known_circuits.Case:
        return case._replace(model=word_level.on(case.model, self.device))


def within(
    found: Numbers, planted: Numbers, *, said: str = "", bound: float | int = EXACT
) -> Outcome:
    """Numbers must be those that were planted.

    Args:
        found: What the analysis says.
        planted: What is true, of the same shape.
        said: What was found, in words; none to show the numbers.
        bound: Largest deviation of any.

    Returns:
        The outcome.

    Raises:
        ValueError: If there are more or fewer numbers than were planted.
    """
    numbers, truth = np.asarray(found, dtype=float), np.asarray(planted, dtype=float)
    if numbers.shape != truth.shape:
        raise ValueError(f"found numbers of shape {numbers.shape}; expected {truth.shape}")
    off = float(np.abs(numbers - truth).max())
    shown = said or ", ".join(f"{one:.4g}" for one in numbers.ravel()[:LISTED])
    return Outcome(f"{shown}; off by at most {off:.1e}", off <= bound, off, f"within {bound:g}")


def same(found: Iterable[object], planted: Iterable[object]) -> Outcome:
    """Names must be those that were planted, in any order.

    Args:
        found: What the analysis names.
        planted: What is true.

    Returns:
        The outcome.
    """
    names, truth = [str(one) for one in found], {str(one) for one in planted}
    wrong = len(set(names) ^ truth)
    shown = ", ".join(names[:LISTED]) or "nothing"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return Outcome(f"{shown}{more}", wrong == 0, wrong, "none missing, none besides")


def at_least(value: float | int, bound: float | int, said: str) -> Outcome:
    """A number must be large enough.

    Args:
        value: The number.
        bound: The least that is right.
        said: What was found, in words.

    Returns:
        The outcome.
    """
    return Outcome(said, bool(value >= bound), float(value), f"at least {bound:g}")


def at_most(value: float | int, bound: float | int, said: str) -> Outcome:
    """A number must be small enough.

    Args:
        value: The number.
        bound: The most that is right.
        said: What was found, in words.

    Returns:
        The outcome.
    """
    return Outcome(said, bool(value <= bound), float(value), f"at most {bound:g}")


def both(first: Outcome, second: Outcome) -> Outcome:
    """Two things must be right; the number shown is that of what is wrong, or of the second.

    Args:
        first: Named first.
        second: Named second.

    Returns:
        The outcome.
    """
    decides = second if first.right else first
    return Outcome(
        f"{first.recovered}; {second.recovered}",
        first.right and second.right,
        decides.measured,
        decides.bound,
    )


def row(check: Check, models: Models) -> Recovered:
    """Run one check.

    Args:
        check: The check.
        models: The planted models.

    Returns:
        Its row; one that is not right, with the error's sentence, where the analysis raised.
    """
    try:
        outcome = check.examine(models)
    # Whatever an analysis raises is what the self-test has to report.
    except Exception as error:
        said = " ".join(str(error).split())[:LONGEST_ERROR]
        outcome = Outcome(f"{type(error).__name__}: {said}", False, None, "no error")
    number = outcome.measured
    return Recovered(
        analysis=check.analysis,
        planted=check.planted,
        recovered=outcome.recovered,
        right=outcome.right,
        measured=None if number is None or not math.isfinite(number) else float(number),
        bound=outcome.bound,
    )
