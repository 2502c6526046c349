"""What the paper says of its mainline run, on the bundled run: structure, never which keys."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import workbench
from analyses import grokking
from workbench.core.modular import recipe, tasks, training


@pytest.fixture(scope="module")
def measures() -> grokking.ProgressMeasures:
    return grokking.track(grokking.bundled_run())


@pytest.fixture(scope="module")
def found(measures: grokking.ProgressMeasures) -> grokking.Phases:
    return grokking.phases(measures)


def test_after_cleanup_every_pair_is_right(measures: grokking.ProgressMeasures) -> None:
    task = measures.task
    share = task.n_train / task.n_pairs
    every = share * measures.train_loss[-1] + (1 - share) * measures.test_loss[-1]
    assert every < 1e-6
    assert measures.train_accuracy[-1] == measures.test_accuracy[-1] == 1.0


def test_after_cleanup_a_few_waves_are_all_there_is(measures: grokking.ProgressMeasures) -> None:
    assert 4 <= len(measures.keys) <= 6
    assert measures.logit_explained[-1] >= 0.9
    assert float((measures.neuron_explained[-1] > 0.85).mean()) >= 0.75
    shares = measures.frequency_shares[-1]
    assert shares[np.array(measures.keys) - 1].sum() >= 0.99
    assert measures.gini_embedding[-1] > measures.gini_embedding[0] + 0.3


def test_keeping_the_waves_helps_and_removing_them_is_worse_than_guessing(
    measures: grokking.ProgressMeasures,
) -> None:
    assert measures.restricted_loss[-1] < measures.test_loss[-1]
    assert measures.excluded_loss[-1] > math.log(113)
    assert measures.trigonometric_loss[-1] < measures.test_loss[-1]


def test_the_phases_come_in_the_papers_order(found: grokking.Phases) -> None:
    assert found.verdict == "grokked"
    memorised, formed, cleaned = found.boundaries
    assert memorised < formed < cleaned
    low, high = found.intervals.T
    assert (low <= found.boundaries).all() and (found.boundaries <= high).all()


def test_the_circuit_is_there_long_before_the_test_loss_falls(found: grokking.Phases) -> None:
    assert found.lead >= 500
    assert found.restricted_at + found.lead == pytest.approx(found.grokked_at)


def test_the_frequencies_appear_while_the_test_loss_still_rises(
    measures: grokking.ProgressMeasures, found: grokking.Phases
) -> None:
    assert len(measures.appeared) == len(measures.keys)
    assert all(0 < step <= found.boundaries[1] for step in measures.appeared)


def test_its_last_checkpoint_is_the_bundled_model(measures: grokking.ProgressMeasures) -> None:
    card = workbench.model_card("modadd-113")
    stated = {row.name: row.value for row in card.measures}
    assert measures.test_loss[-1] == pytest.approx(stated["test loss"], rel=0.01)
    assert measures.logit_explained[-1] == pytest.approx(
        stated["logit variance explained"], abs=1e-3
    )


def test_a_random_table_is_never_said_to_generalise(tmp_path: Path) -> None:
    task = tasks.Task(p=11, operation="random", fraction=0.5)
    made = recipe.recipe(
        d_model=16, n_heads=2, d_head=8, d_mlp=48, steps=800, learning_rate=1e-2, weight_decay=0.0
    )
    run = training.train(task, made, folder=tmp_path)
    read = grokking.phases(grokking.track(run))
    assert read.verdict == "memorised only"
    assert math.isnan(read.grokked_at)
    assert "never" in read.summary() or "not" in read.summary()


def test_without_weight_decay_no_generalisation_is_said(tmp_path: Path) -> None:
    made = recipe.recipe(
        d_model=32, n_heads=2, d_head=16, d_mlp=64, steps=800, learning_rate=3e-3, weight_decay=0.0
    )
    run = training.train(tasks.Task(p=23, fraction=0.3), made, folder=tmp_path)
    read = grokking.phases(grokking.track(run))
    assert run.curves.train_loss[-1] < 0.01
    assert read.verdict == "memorised only"
    assert math.isnan(read.grokked_at)
