"""A task as addition in a cyclic group: what makes a table of answers a matter of waves.

Addition modulo p is addition in Z_p. Multiplication of the residues other than 0 is addition of
their discrete logarithms to a primitive root, in Z_(p-1). Subtraction and division are the same
with the second operand's elements run backwards. For these four every Fourier measure is written
once, over elements 0 … n - 1 of the group.

Source: Nanda et al. 2023, arXiv 2301.05217 (addition); Power et al. 2022, arXiv 2201.02177 (the
other operations).

Limits: other operations have no such view here; `why_not` says why in a sentence.
"""

from __future__ import annotations

import dataclasses
import typing

import numpy as np
import sympy.ntheory
from jaxtyping import Int64

from workbench.core.modular.tasks import Task

_REASONS = {
    "a^2+b^2": "a square has two roots, so the table is addition of squares and of no group of the "
    "residues themselves",
    "a^2+ab+b^2": "the answer is no sum of a function of a and a function of b",
    "a^3+ab": "the answer is no sum of a function of a and a function of b",
    "random": "the answers are drawn at random, so there is no group to find",
}


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """A task as addition in the cyclic group of n elements.

    Element i of a plus element j of b is element (i + j) mod n of the answer.

    Attributes:
        n: Size of the group: p for addition and subtraction, p - 1 for the two others.
        first: Residue a of each element.
        second: Residue b of each element.
        answer: Residue of the answer of each element.
        note: What the elements are, and what is left out.
    """

    n: int
    first: Int64[np.ndarray, " element"]
    second: Int64[np.ndarray, " element"]
    answer: Int64[np.ndarray, " element"]
    note: str


def cyclic(task: Task) -> Cyclic | None:
    """View a task as addition in a cyclic group.

    Args:
        task: Any task.

    Returns:
        The view, or None where the theory does not hold (`why_not` says why).
    """
    p = task.p
    if task.operation in ("add", "subtract"):
        elements = np.arange(p)
        sign = 1 if task.operation == "add" else -1
        note = "the residues themselves; all pairs take part"
        return Cyclic(p, elements, sign * elements % p, elements, note)
    if task.operation in ("multiply", "divide"):
        root = typing.cast("int", sympy.ntheory.primitive_root(p))
        powers = np.array([pow(root, i, p) for i in range(p - 1)], dtype=np.int64)
        # g**-j stands where g**(n - j) does.
        backwards = np.roll(powers[::-1], 1)
        note = f"discrete logarithms to base {root}; pairs with 0 are left out"
        second = powers if task.operation == "multiply" else backwards
        return Cyclic(p - 1, powers, second, powers, note)
    return None


def why_not(task: Task) -> str:
    """Why a task has no view as addition in a cyclic group, in one sentence.

    Args:
        task: A task for which `cyclic` gives None.

    Returns:
        The sentence.

    Raises:
        ValueError: If the task has such a view.
    """
    if cyclic(task) is not None:
        raise ValueError(f"{task.operation} modulo {task.p} is addition in a cyclic group")
    return (
        f"The Fourier terms do not apply to {task.operation} modulo {task.p}: "
        f"{_REASONS[task.operation]}."
    )
