"""Which pairs a task has, what their answers are, and which are trained on."""

from __future__ import annotations

import random

import pytest
import torch

from workbench.core.modular import tasks

FORMULAS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a * pow(b, -1, 7),
    "a^2+b^2": lambda a, b: a**2 + b**2,
    "a^2+ab+b^2": lambda a, b: a**2 + a * b + b**2,
    "a^3+ab": lambda a, b: a**3 + a * b,
}


@pytest.mark.parametrize("operation", FORMULAS)
def test_answers_are_the_formulas(operation: str) -> None:
    task = tasks.Task(p=7, operation=operation)
    for (a, b), answer in zip(task.pairs().tolist(), task.answers().tolist(), strict=True):
        assert answer == FORMULAS[operation](a, b) % 7, (a, b)


def test_every_operation_has_a_formula_but_the_random_table() -> None:
    assert set(tasks.OPERATIONS) == {*FORMULAS, "random"}


def test_nothing_is_divided_by_zero() -> None:
    task = tasks.Task(p=5, operation="divide")
    assert task.n_pairs == len(task.pairs()) == 20
    assert 0 not in task.pairs()[:, 1]


def test_the_largest_products_do_not_overflow() -> None:
    task = tasks.Task(p=257, operation="a^3+ab")
    assert task.answers()[-1] == (256**3 + 256 * 256) % 257


def test_the_split_is_the_published_one() -> None:
    rows = list(range(113 * 113))
    random.Random(3).shuffle(rows)
    train, test = tasks.Task(seed=3).split()
    assert train.tolist() == rows[:3830]
    assert test.tolist() == rows[3830:]


def test_a_random_table_is_its_seeds_own_and_stays() -> None:
    tables = [tasks.Task(p=11, operation="random", seed=seed).answers() for seed in (0, 0, 1)]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert set(tables[0].tolist()) == set(range(11))


def test_noise_redraws_its_share_of_the_training_labels_only() -> None:
    task = tasks.Task(p=31, fraction=0.5, noise=0.4)
    train, test = task.split()
    labels, answers = task.labels(), task.answers()
    assert torch.equal(labels[test], answers[test])
    changed = int((labels[train] != answers[train]).sum())
    # 192 of the 480 are redrawn; about one in 31 of them hits its own answer again.
    assert 175 <= changed <= 192
    assert torch.equal(labels, task.labels())


def test_full_noise_is_random_labels() -> None:
    task = tasks.Task(p=31, fraction=0.5, noise=1.0)
    train, _ = task.split()
    assert float((task.labels()[train] == task.answers()[train]).double().mean()) < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"p": 4}, "p = 4; expected a prime from 3 to 257"),
        ({"p": 263}, "p = 263; expected a prime"),
        ({"operation": "power"}, "'power' is not known: choose from add, subtract"),
        ({"fraction": 1.0}, "fraction = 1.0 of 12769 pairs"),
        ({"fraction": 1e-9}, "leaves pairs to train on"),
        ({"noise": 1.5}, "noise = 1.5; expected a share"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_a_task_that_does_not_exist_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(tasks.TaskError, match=message):
        tasks.Task(**changes)  # pyright: ignore[reportArgumentType]
