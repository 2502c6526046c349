"""What does a subject's output do with a concept, and what does it do besides?

A behaviour scores every example from the logits:
1. one loss for the concept's behaviour,
2. a loss for each unrelated behaviour,
3. and what the output says of the concept, as one or more numbers, where it says something.
`verify` compares the losses of an edited run with those of a clean one. A loss may be anything that
grows as the behaviour is lost. It may be a number whose mean over the examples alone has a meaning,
such as the part of a covariance.

- `Readout`, the default (`readout`): along what the output tells the concept, and all other ways.
- `Outputs`: margins between outputs, such as two classes or two tokens.
- `Classes`: whether the class is in the concept's group, and which one within it.
- `Answers`: one set of tokens against another, and all other tokens.
- `NextToken`: loss of the true next token where the concept holds, and elsewhere.
- `Divergence`: change of the whole output where the concept holds, and elsewhere.
- `Frequencies`: a wave of modular addition, and other waves.

Source: Nanda et al. 2023, arXiv 2301.05217 (logits as waves).

Units: nats for losses and divergences; margins and coefficients as the logits have them, a loss
being their negative.

Limits: `Divergence` and `NextToken` look at the examples with the concept and at those without. A
cluster that tells these two apart may be needed at both alike; then they call it unspecific.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from workbench.core.engine import populations
from workbench.core.prompts import tokenization


class VerificationError(ValueError):
    """Nothing can be verified: the message says what the output lacks."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A behaviour in front of a concept's examples.

    Attributes:
        score: Logits and example numbers to [example, column]: the loss of the concept's behaviour,
            one of each unrelated behaviour, then what the output says of the concept. NaN where
            an example does not count.
        unrelated: Names of the unrelated behaviours.
        half: Of each example; what the output says is compared within a half only. None if it is
            comparable throughout.
    """

    score: populations.Score
    unrelated: tuple[str, ...]
    half: Int[np.ndarray, " example"] | None = None


@runtime_checkable
class Behaviour(Protocol):
    """What a subject's output does with a concept."""

    @property
    def name(self) -> str:
        """As a reader calls it."""
        ...

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Look at the clean subject.

        Args:
            bench: The concept's examples in front of it.
            row: Which of the inputs that were given each example is, or is of.

        Returns:
            How to score a run.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Margins between outputs: the first of a pair minus the second.

    The loss of a margin is its negative covariance with what it should follow: the concept's labels
    for the concept's pair, its own clean values for the others.

    Attributes:
        concept: The output that is larger with the concept, and the one that is larger without.
        unrelated: Other pairs of outputs.
    """

    concept: tuple[int, int]
    unrelated: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """The pair."""
        return f"output {self.concept[0]} minus output {self.concept[1]}"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Look at the clean margins."""
        pairs = (self.concept, *self.unrelated)
        need_labels(bench, self.name)
        first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))

        def margins(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            if int(max(first.max(), second.max())) >= logits.shape[-1] or not self.unrelated:
                raise VerificationError(
                    f"outputs {pairs} of {logits.shape[-1]}: give a pair for the concept, at least "
                    "one unrelated pair, and outputs that there are"
                )
            return logits[:, first] - logits[:, second]

        clean = bench.scores(margins)
        follows = np.column_stack([bench.examples.labels, clean[:, 1:]]).astype(np.float64)
        follows = torch.from_numpy((follows - follows.mean(0)).astype(np.float32))

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            found = margins(logits, numbers)
            return torch.cat([-follows[numbers].to(found) * found, found[:, :1]], 1)

        names = tuple(f"output {i} minus output {j}" for i, j in self.unrelated)
        return Reading(score, names)


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
    """Whether an input is in the concept's group of classes, and which one within its group.

    Attributes:
        group: Outputs that are classes with the concept; all others are without.
        classes: True class of each of the concept's inputs.
    """

    group: tuple[int, ...]
    classes: Int[np.ndarray, " row"]

    @property
    def name(self) -> str:
        """The group."""
        return f"whether the class is one of {', '.join(map(str, self.group))}"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Check that the classes fit the labels."""
        need_labels(bench, self.name)
        if row.max() >= len(self.classes):
            raise VerificationError(
                f"{len(self.classes):,} classes for inputs up to number {row.max():,}: give one "
                "for each input of the concept"
            )
        true = self.classes[row]
        inside = np.isin(true, self.group)
        if (inside != bench.examples.labels).any():
            raise VerificationError(
                f"{int((inside != bench.examples.labels).sum()):,} examples have a class in the "
                "group and no concept, or the other way round: the concept must be the group"
            )

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            if (
                not 0
                <= min(*self.group, *true.tolist())
                <= max(*self.group, *true.tolist())
                < (logits.shape[-1])
            ):
                raise VerificationError(
                    f"classes from {true.min()} to {true.max()} and group {self.group}: the "
                    f"subject has outputs 0 to {logits.shape[-1] - 1}"
                )
            member = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            member[list(self.group)] = True
            has = torch.from_numpy(inside[numbers]).to(logits.device)
            said = logits[:, member].logsumexp(1) - logits[:, ~member].logsumexp(1)
            own = torch.where(has, -said, said)
            within = torch.where(member == has[:, None], logits, -math.inf).log_softmax(1)
            which = torch.from_numpy(true[numbers]).to(logits.device)
            other = -within.gather(1, which[:, None])[:, 0]
            return torch.stack([torch.nn.functional.softplus(own), other, said], 1)

        return Reading(score, ("which class within its group",))


@dataclasses.dataclass(frozen=True)
class Answers:
    """One set of tokens against another at each example, and the output over all other tokens.

    The concept's loss is the negative covariance of the log odds of the two sets with the labels;
    the unrelated one is KL(clean || edited) of the probabilities of all other tokens.

    Attributes:
        with_concept: Tokens that are right where the concept holds.
        without: Tokens that are right where it does not.
    """

    with_concept: tuple[int, ...]
    without: tuple[int, ...]

    @property
    def name(self) -> str:
        """Both sets."""
        return f"tokens {list(self.with_concept)} against {list(self.without)}"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Look at the clean output."""
        need_labels(bench, self.name)
        ours = [*self.with_concept, *self.without]
        if not self.with_concept or not self.without or len(set(ours)) < len(ours):
            raise VerificationError(f"{self.name}: give two sets of tokens that share none")

        def others(logits: torch.Tensor) -> torch.Tensor:
            rest = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
            rest[ours] = False
            return logits[:, rest].log_softmax(1)

        clean = torch.from_numpy(bench.scores(lambda logits, _: others(logits)))
        labels = bench.examples.labels.astype(np.float32)
        follows = torch.from_numpy(labels - labels.mean())

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            chosen, rest = (logits[:, list(s)] for s in (self.with_concept, self.without))
            odds = chosen.logsumexp(1) - rest.logsumexp(1)
            apart = divergence(clean[numbers].to(logits), others(logits))
            return torch.stack([-follows[numbers].to(odds) * odds, apart, odds], 1)

        return Reading(score, ("all other tokens",))


@dataclasses.dataclass(frozen=True)
class Divergence:
    """KL(clean || edited) of the output, where the concept holds and where it does not."""

    @property
    def name(self) -> str:
        """What it is."""
        return "the output where the concept holds"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Keep the clean output."""
        need_labels(bench, self.name)
        clean = torch.from_numpy(bench.scores(lambda logits, _: logits.log_softmax(-1)))
        has = bench.examples.labels

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            apart = divergence(clean[numbers].to(logits), logits.log_softmax(-1))
            return _where(apart, has[numbers])

        return Reading(score, ("the output elsewhere",))


@dataclasses.dataclass(frozen=True)
class NextToken:
    """Loss of the true next token of a text, where the concept holds and where it does not."""

    @property
    def name(self) -> str:
        """What it is."""
        return "the next token where the concept holds"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Look up the next tokens."""
        need_labels(bench, self.name)
        if not bench.concept.is_text:
            raise VerificationError("arrays have no next token: give texts or rows of tokens")
        model: Any = getattr(bench.population, "model", None)
        rows: list[Sequence[int]] = [
            tokenization.encode(model, each) if isinstance(each, str) else each
            for each in bench.concept.inputs
        ]
        spots = zip(bench.examples.row.tolist(), bench.examples.position.tolist(), strict=True)
        following = np.array(
            [int(rows[r][p + 1]) if p + 1 < len(rows[r]) else -1 for r, p in spots]
        )
        known, has = following >= 0, bench.examples.labels
        if not (known & has).any() or not (known & ~has).any():
            raise VerificationError(
                f"{bench.concept.name!r} has no next token after any example with or without the "
                "concept: give longer texts, or another behaviour"
            )

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            right = torch.from_numpy(following[numbers].clip(0)).to(logits.device)
            loss = -logits.log_softmax(-1).gather(1, right[:, None])[:, 0]
            loss[torch.from_numpy(~known[numbers]).to(logits.device)] = math.nan
            return _where(loss, has[numbers])

        return Reading(score, ("the next token elsewhere",))


@dataclasses.dataclass(frozen=True)
class Frequencies:
    """A wave cos(w_k(a + b - c)) in the logits of modular addition, and other waves.

    An example's loss is minus its inner product with the wave over the residues c, times 2 / p. The
    mean over all pairs of residues is minus the logit coefficient of the wave.

    Attributes:
        p: The modulus.
        own: Frequency k of the concept.
        others: Frequencies of the unrelated waves.
    """

    p: int
    own: int
    others: tuple[int, ...]

    @property
    def name(self) -> str:
        """The wave."""
        return f"the wave of frequency {self.own}"

    def prepare(self, bench: populations.Bench, row: Int[np.ndarray, " example"]) -> Reading:
        """Look up the residues."""
        concept = bench.concept
        if not concept.is_text or isinstance(concept.inputs[0], str) or not self.others:
            raise VerificationError(
                "frequencies need rows of tokens [a, b, =] as inputs, and other frequencies"
            )
        if self.own in self.others:
            raise VerificationError(f"frequency {self.own} is the concept's own and an other one")
        pairs = np.stack([np.asarray(each)[:2] for each in concept.inputs])
        sums = pairs.sum(1)[bench.examples.row]
        waves = 2 * np.pi * np.array([self.own, *self.others]) / self.p
        residues = torch.from_numpy(np.exp(1j * np.outer(np.arange(self.p), waves)))
        turn = torch.from_numpy(np.exp(-1j * np.outer(sums, waves)))

        def score(logits: torch.Tensor, numbers: Int[np.ndarray, " example"]) -> torch.Tensor:
            if logits.shape[-1] < self.p:
                raise VerificationError(f"{logits.shape[-1]} outputs for {self.p} residues")
            classes = logits[:, : self.p].double().cpu().to(residues.dtype)
            said = 2 / self.p * classes @ residues
            aligned = (said * turn[numbers]).real
            return torch.cat([-aligned, said[:, :1].real, said[:, :1].imag], 1)

        return Reading(score, tuple(f"the wave of frequency {k}" for k in self.others))


def need_labels(bench: populations.Bench, name: str) -> None:
    """Refuse a graded concept.

    Raises:
        VerificationError: If the concept has targets instead of labels.
    """
    if bench.concept.graded:
        raise VerificationError(
            f"{bench.concept.name!r} has targets instead of labels: {name} needs examples with "
            "and without the concept; leave the behaviour out"
        )


def divergence(
    clean: Float[torch.Tensor, "example d_vocab"], edited: Float[torch.Tensor, "example d_vocab"]
) -> Float[torch.Tensor, " example"]:
    """KL(clean || edited) of log probabilities, in nats."""
    return (clean.exp() * (clean - edited)).sum(-1)


def _where(
    loss: Float[torch.Tensor, " example"], has: Bool[np.ndarray, " example"]
) -> Float[torch.Tensor, "example 2"]:
    """One loss as the concept's where the concept holds, as the unrelated one elsewhere."""
    mask = torch.from_numpy(has).to(loss.device)
    nothing = torch.full_like(loss, math.nan)
    return torch.stack([torch.where(mask, loss, nothing), torch.where(mask, nothing, loss)], 1)
