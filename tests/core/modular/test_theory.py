"""The tasks that are addition in a cyclic group, element by element."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.core.modular import tasks, theory

BY_HAND = {
    "add": lambda a, b, p: (a + b) % p,
    "subtract": lambda a, b, p: (a - b) % p,
    "multiply": lambda a, b, p: a * b % p,
    "divide": lambda a, b, p: next(c for c in range(p) if c * b % p == a),
}


@pytest.mark.parametrize("p", [7, 13])
@pytest.mark.parametrize("operation", BY_HAND)
def test_elements_add_as_the_operation_says(operation: str, p: int) -> None:
    group = theory.cyclic(tasks.Task(p=p, operation=operation))
    assert group is not None
    for i in range(group.n):
        for j in range(group.n):
            a, b = int(group.first[i]), int(group.second[j])
            assert group.answer[(i + j) % group.n] == BY_HAND[operation](a, b, p)


@pytest.mark.parametrize("operation", ["multiply", "divide"])
def test_logarithms_leave_zero_out_and_reach_every_other_residue(operation: str) -> None:
    group = theory.cyclic(tasks.Task(p=7, operation=operation))
    assert group is not None
    assert group.n == 6
    for residues in (group.first, group.second, group.answer):
        assert sorted(residues) == [1, 2, 3, 4, 5, 6]
    assert group.note == "discrete logarithms to base 3; pairs with 0 are left out"


def test_powers_of_the_root_are_in_order() -> None:
    group = theory.cyclic(tasks.Task(p=7, operation="divide"))
    assert group is not None
    # 3 is a primitive root of 7: 1, 3, 9 = 2, 6, 18 = 4, 12 = 5; the inverse runs backwards.
    assert group.first.tolist() == [1, 3, 2, 6, 4, 5]
    assert group.second.tolist() == [1, 5, 4, 6, 2, 3]


@pytest.mark.parametrize("operation", sorted(set(tasks.OPERATIONS) - set(BY_HAND)))
def test_other_operations_have_no_group_and_a_reason(operation: str) -> None:
    task = tasks.Task(p=13, operation=operation)
    assert theory.cyclic(task) is None
    reason = theory.why_not(task)
    assert reason.startswith(f"The Fourier terms do not apply to {operation} modulo 13: ")
    assert reason.endswith(".")


def test_asking_why_not_where_it_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="add modulo 13 is addition in a cyclic group"):
        theory.why_not(tasks.Task(p=13))


def test_every_element_of_a_pair_is_a_pair_of_the_task() -> None:
    for operation in BY_HAND:
        task = tasks.Task(p=7, operation=operation)
        group = theory.cyclic(task)
        assert group is not None
        known = {(int(a), int(b)) for a, b in task.pairs()}
        assert {(int(a), int(b)) for a in group.first for b in group.second} <= known
        answers = dict(zip(map(tuple, task.pairs().tolist()), task.answers().tolist(), strict=True))
        table = np.array([[answers[int(a), int(b)] for b in group.second] for a in group.first])
        assert np.array_equal(table[0], group.answer)
