"""The task: pairs of residues, their answers under an operation, and which are trained on.

Sources: Power et al. 2022, arXiv 2201.02177 (operations); Nanda et al. 2023, arXiv 2301.05217 (the
split); Zhang et al. 2017, arXiv 1611.03530 (label noise, random labels).
"""

from __future__ import annotations

import dataclasses
import functools
import random

import numpy as np
import sympy
import torch
from jaxtyping import Int64
from torch import Tensor

SMALLEST, LARGEST = 3, 257
OPERATIONS = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "a^2+b^2",
    "a^2+ab+b^2",
    "a^3+ab",
    "random",
)


class TaskError(ValueError):
    """A task that does not exist; the message says what would."""


@dataclasses.dataclass(frozen=True)
class Task:
    """An operation modulo a prime, learned from a share of its pairs.

    Attributes:
        p: The modulus, a prime from 3 to 257.
        operation: One of `OPERATIONS`. "random" is a table of random answers: the control that can
            be memorised and never generalised.
        fraction: Share of the pairs that is trained on.
        seed: Of the split, the random table, the label noise, and the network's initial weights.
        noise: Share of the training labels that are drawn anew at random; 1 is random labels.
    """

    p: int = 113
    operation: str = "add"
    fraction: float = 0.3
    seed: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            TaskError: If there is no such task.
        """
        if not (SMALLEST <= self.p <= LARGEST and sympy.isprime(self.p)):
            raise TaskError(f"p = {self.p}; expected a prime from {SMALLEST} to {LARGEST}")
        if self.operation not in OPERATIONS:
            raise TaskError(
                f"operation {self.operation!r} is not known: choose from {', '.join(OPERATIONS)}"
            )
        if not 0 <= self.noise <= 1:
            raise TaskError(f"noise = {self.noise}; expected a share from 0 to 1")
        if not 0 < self.fraction < 1 or not 0 < self.n_train < self.n_pairs:
            raise TaskError(
                f"fraction = {self.fraction} of {self.n_pairs} pairs; expected a share between 0 "
                "and 1 that leaves pairs to train on and pairs to test with"
            )
        if self.seed < 0:
            raise TaskError(f"seed = {self.seed}; expected a number from 0 on")

    @property
    def name(self) -> str:
        """What a reader calls it."""
        extra = f", {self.noise:g} noise" if self.noise else ""
        return (
            f"{self.operation} mod {self.p}, {self.fraction:.0%} of pairs, seed {self.seed}{extra}"
        )

    @property
    def n_pairs(self) -> int:
        """Pairs in all; nothing is divided by zero."""
        return self.p * (self.p - 1) if self.operation == "divide" else self.p**2

    @property
    def n_train(self) -> int:
        """Pairs that are trained on."""
        return int(self.fraction * self.n_pairs)

    def pairs(self) -> Int64[Tensor, "pair 2"]:
        """All pairs (a, b), row by row."""
        residues = torch.arange(self.p)
        return torch.cartesian_prod(
            residues, residues[1:] if self.operation == "divide" else residues
        )

    def answers(self) -> Int64[Tensor, " pair"]:
        """The true answer of each pair."""
        if self.operation == "random":
            generator = np.random.default_rng([self.seed, 1])
            return torch.from_numpy(generator.integers(0, self.p, self.n_pairs))
        a, b = self.pairs().T
        return answer(self.operation, a, b, self.p)

    def split(self) -> tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]:
        """Which pairs are for training and which for testing, as places in `pairs()`.

        As in the paper's code: Python's generator of that seed shuffles the list, and the first
        share of it is for training.
        """
        train, test = _shuffled(self.n_pairs, self.seed, self.n_train)
        return train.clone(), test.clone()

    def labels(self) -> Int64[Tensor, " pair"]:
        """The answers that are trained towards: true ones but for the noise."""
        labels = self.answers().clone()
        if self.noise:
            generator = np.random.default_rng([self.seed, 2])
            train, _ = self.split()
            count = round(self.noise * len(train))
            chosen = train[torch.from_numpy(generator.permutation(len(train))[:count])]
            labels[chosen] = torch.from_numpy(generator.integers(0, self.p, count))
        return labels


def answer(
    operation: str, a: Int64[Tensor, " pair"], b: Int64[Tensor, " pair"], p: int
) -> Int64[Tensor, " pair"]:
    """The operation on residues.

    Args:
        operation: One of `OPERATIONS` but "random".
        a: First operands.
        b: Second operands, none of them 0 where it divides.
        p: The modulus.

    Returns:
        Residues modulo p.
    """
    if operation == "divide":
        inverse = torch.tensor([0, *(pow(i, -1, p) for i in range(1, p))])
        return a * inverse[b] % p
    results = {
        "add": a + b,
        "subtract": a - b,
        "multiply": a * b,
        "a^2+b^2": a * a + b * b,
        "a^2+ab+b^2": a * a + a * b + b * b,
        "a^3+ab": a**3 + a * b,
    }
    return results[operation] % p


@functools.lru_cache(maxsize=32)
def _shuffled(count: int, seed: int, n_train: int) -> tuple[Tensor, Tensor]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return torch.tensor(order[:n_train]), torch.tensor(order[n_train:])
