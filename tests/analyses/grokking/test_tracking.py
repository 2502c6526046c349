"""Progress measures over three checkpoints whose networks are known, against sums written out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from analyses.grokking import interventions, measuring, tracking
from workbench.core.modular import recipe, tasks, theory
from workbench.core.modular.network import Snapshot
from workbench.core.planted import modular_adder
from workbench.core.results import Result

KEYS = modular_adder.KEYS
ADDITION = dataclasses.replace(modular_adder.ADDITION, noise=0.25)
PRODUCT = tasks.Task(p=13, operation="multiply", fraction=0.5)


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """A training made up of networks at hand: two random ones, then the wired one."""

    task: tasks.Task
    name: str = "made up"
    fingerprint: str = "0" * 64
    recipe: recipe.Recipe = recipe.RECIPES["nanda-2023"]
    steps: tuple[int, ...] = (0, 100, 250)

    def snapshot(self, step: int) -> Snapshot:
        wired = step == self.steps[-1] and theory.cyclic(self.task) is not None
        model = (
            modular_adder.adder(self.task)
            if wired
            else modular_adder.randomised(self.task.p, seed=step)
        )
        return interventions.snapshot_of(model, self.task)


@pytest.fixture(scope="module")
def sums() -> tracking.ProgressMeasures:
    return tracking.track(Checkpoints(ADDITION))


@pytest.fixture(scope="module")
def products() -> tracking.ProgressMeasures:
    return tracking.track(Checkpoints(PRODUCT))


def traces(figure: go.Figure) -> dict[str, Any]:
    """What a figure draws, by name."""
    drawn: Any = figure.data
    return {trace.name: trace for trace in drawn}


def mean_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy by torch."""
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)))


def directions(task: tasks.Task, keys: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors over the pairs of the group along cos and sin of w(i + j), and those pairs."""
    group = theory.cyclic(task)
    assert group is not None
    pairs = {tuple(pair): row for row, pair in enumerate(task.pairs().tolist())}
    rows = [pairs[int(a), int(b)] for a in group.first for b in group.second]
    total = np.add.outer(np.arange(group.n), np.arange(group.n)).ravel()
    waves = [wave(2 * np.pi * k * total / group.n) for k in keys for wave in (np.cos, np.sin)]
    return np.array([wave / np.linalg.norm(wave) for wave in waves]), np.array(rows)


@pytest.mark.parametrize("task", [ADDITION, PRODUCT], ids=["add", "multiply"])
def test_losses_are_those_of_projections_written_out(
    task: tasks.Task, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue("sums" if task is ADDITION else "products")
    answers, labels = task.answers().numpy(), task.labels().numpy()
    train, test = (part.numpy() for part in task.split())
    for i, step in enumerate((0, 100, 250)):
        logits = Checkpoints(task).snapshot(step).logits
        assert found.train_loss[i] == pytest.approx(mean_loss(logits[train], labels[train]))
        assert found.test_loss[i] == pytest.approx(mean_loss(logits[test], answers[test]))
        right = logits.argmax(1) == answers
        assert found.test_accuracy[i] == right[test].mean()
        assert found.train_accuracy[i] == (logits.argmax(1) == labels)[train].mean()
        units, rows = directions(task, KEYS)
        own = logits[rows]
        part = units.T @ (units @ own)
        tested, trained = np.isin(rows, test), np.isin(rows, train)
        kept = part + (own - part).mean(0)
        expected = mean_loss(kept[tested], answers[rows][tested])
        assert found.restricted_loss[i] == pytest.approx(expected)
        expected = mean_loss((own - part)[trained], labels[rows][trained])
        assert found.excluded_loss[i] == pytest.approx(expected)
        for j, key in enumerate(KEYS):
            units, _ = directions(task, (key,))
            left = own - units.T @ (units @ own)
            expected = mean_loss(left[trained], labels[rows][trained])
            assert found.excluded_by_key[i, j] == pytest.approx(expected)


@pytest.mark.parametrize("task", [ADDITION, PRODUCT], ids=["add", "multiply"])
def test_the_formula_is_fitted_by_sums_over_all_triples(
    task: tasks.Task, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue("sums" if task is ADDITION else "products")
    group = theory.cyclic(task)
    assert group is not None
    _, rows = directions(task, KEYS)
    n = group.n
    i, j, c = np.ogrid[:n, :n, :n]
    waves = [np.cos(2 * np.pi * k * (i + j - c) / n) for k in KEYS]
    for at, step in enumerate((0, 100, 250)):
        logits = Checkpoints(task).snapshot(step).logits[rows][:, group.answer]
        cube = logits.reshape(n, n, n)
        sizes = [(cube * wave).sum() / np.square(wave).sum() for wave in waves]
        formula = np.tensordot(sizes, waves, axes=1)
        answers = (np.add.outer(np.arange(n), np.arange(n)) % n).ravel()
        expected = mean_loss(formula.reshape(n * n, n), answers)
        assert found.trigonometric_loss[at] == pytest.approx(expected)
        variance = np.square(cube - cube.mean(2, keepdims=True)).sum()
        power = sum((cube * wave).sum() ** 2 / np.square(wave).sum() for wave in waves)
        assert found.logit_explained[at] == pytest.approx(power / variance)


def test_neurons_heads_and_weights_are_measured(products: tracking.ProgressMeasures) -> None:
    group = theory.cyclic(PRODUCT)
    assert group is not None
    _, rows = directions(PRODUCT, KEYS)
    snapshot = Checkpoints(PRODUCT).snapshot(100)
    for found_frequency, found_share, values in (
        (products.neuron_frequency, products.neuron_explained, snapshot.hidden),
        (products.attention_frequency, products.attention_explained, snapshot.pattern[:, :, 0]),
    ):
        cube = values[rows].reshape(12, 12, -1).astype(np.float64)
        power = np.square(np.abs(np.fft.fft2(cube, axes=(0, 1))))
        power[0, 0] = 0
        blocks = [np.ix_(*[sorted({0, k, 12 - k})] * 2) for k in range(1, 7)]
        moving = power.sum((0, 1))
        # A neuron that never fires has no variance to explain.
        shares = np.array([power[block].sum((0, 1)) for block in blocks])
        expected = np.where(moving > 1e-9, shares / np.maximum(moving, 1e-9), 0.0)
        assert found_share[1] == pytest.approx(expected.max(0), abs=1e-5)
        # A neuron that fires for one pair only has as much of every frequency.
        clear = np.ptp(np.sort(expected, axis=0)[-2:], axis=0) > 1e-6
        assert np.array_equal(found_frequency[1][clear], expected.argmax(0)[clear] + 1)
        assert clear.mean() > 0.8
    weights = modular_adder.randomised(13, seed=100).original_model.parameters()
    squares = sum(float(weight.detach().double().square().sum()) for weight in weights)
    assert products.squared_weights[1] == pytest.approx(squares)
    singular = np.linalg.svd(snapshot.neuron_logit, compute_uv=False)
    shares = singular / singular.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    assert products.effective_rank[1] == pytest.approx(rank)
    # The wired map is cos and sin of two frequencies, all four of one size.
    assert products.effective_rank[2] == pytest.approx(4, abs=0.01)


def test_gini_coefficients_are_of_the_fourier_components(sums: tracking.ProgressMeasures) -> None:
    # Four of the 13 components, all of one size: (10 + 11 + 12 + 13) 2 / (13 · 4) - 14 / 13.
    expected = 2 * 46 / 52 - 14 / 13
    assert sums.gini_embedding[2] == pytest.approx(expected, abs=1e-6)
    assert sums.gini_neuron_logit[2] == pytest.approx(expected, abs=1e-6)
    assert sums.gini_embedding[0] < 0.4


def test_keys_are_fixed_by_the_last_checkpoint_and_appear_when_clear(
    sums: tracking.ProgressMeasures,
) -> None:
    assert sums.keys == sums.keys_by_embedding == sums.keys_by_neurons == KEYS
    assert sums.frequency_shares[2][[1, 4]] == pytest.approx(np.array([0.5, 0.5]))
    # In the random networks each of six frequencies has about a sixth: key by share, not clear.
    assert (sums.frequency_shares[0] > 0.02).all()
    assert sums.appeared == (250, 250)
    assert sums.embedding_shares[2].sum() == pytest.approx(1)


def test_appearing_asks_for_a_share_that_stays() -> None:
    shares = np.zeros((4, 6))
    shares[:, 0] = (0.5, 0.1, 0.5, 0.6)
    shares[:, 2] = (0.4, 0.4, 0.4, 0.4)
    shares[:, 4] = (0.4, 0.4, 0.4, 0.1)
    found = tracking._appeared(np.array([0, 10, 20, 30]), shares, (1, 3, 5))
    assert found == (20, 0, -1)


def test_other_keys_can_be_asked_for() -> None:
    found = tracking.track(Checkpoints(PRODUCT), keys=[6, 1])
    assert found.keys == (1, 6)
    # Frequency 6 of 12 is (-1)^(i + j): a cosine only.
    units, rows = directions(PRODUCT, (6,))
    logits = Checkpoints(PRODUCT).snapshot(100).logits[rows]
    left = logits - units[:1].T @ (units[:1] @ logits)
    train, _ = PRODUCT.split()
    trained = np.isin(rows, train.numpy())
    expected = mean_loss(left[trained], PRODUCT.labels().numpy()[rows][trained])
    assert found.excluded_by_key[1, 1] == pytest.approx(expected)


def test_an_operation_without_a_group_keeps_what_needs_none() -> None:
    task = tasks.Task(p=7, operation="a^2+b^2", fraction=0.5)
    found = tracking.track(Checkpoints(task))
    assert np.isfinite(found.test_loss).all()
    assert (found.effective_rank > 1).all()
    assert found.keys == found.appeared == found.keys_by_embedding == found.keys_by_neurons == ()
    for name in ("restricted_loss", "excluded_loss", "logit_explained", "frequency_shares"):
        assert np.isnan(getattr(found, name)).all()
    assert (found.neuron_frequency == -1).all()
    assert np.isnan(found.neurons_explained).all()
    assert not found.applies
    assert found.theory == theory.why_not(task)
    assert found.summary().endswith(theory.why_not(task))
    assert list(traces(found.figure()))[:3] == ["train", "test", "Σw²"]


def test_progress_is_told_in_order_and_may_cancel() -> None:
    told: list[tuple[float, str]] = []
    tracking.track(Checkpoints(ADDITION), progress=lambda done, note: told.append((done, note)))
    assert told[0] == (0.0, "reading the last checkpoint")
    assert told[-1] == (1.0, "checkpoint 3 of 3")
    assert told == sorted(told)

    def stop(done: float, note: str) -> None:
        if done > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracking.track(Checkpoints(ADDITION), progress=stop)


def test_what_cannot_be_tracked_is_refused() -> None:
    with pytest.raises(ValueError, match="made up has no checkpoint"):
        tracking.track(dataclasses.replace(Checkpoints(ADDITION), steps=()))
    with pytest.raises(ValueError, match="keys = \\(7,\\); expected different frequencies"):
        tracking.track(Checkpoints(ADDITION), keys=(7,))


def test_the_table_holds_every_measure(sums: tracking.ProgressMeasures) -> None:
    frame = sums.to_frame()
    losses = frame[(frame.measure == "restricted_loss")]
    assert losses.step.tolist() == [0, 100, 250]
    assert losses.value.to_numpy() == pytest.approx(sums.restricted_loss)
    assert losses.frequency.isna().all()
    one = frame[(frame.measure == "excluded_by_key") & (frame.frequency == 5)]
    assert one.value.to_numpy() == pytest.approx(sums.excluded_by_key[:, 1])
    shares = frame[(frame.measure == "frequency_share") & (frame.step == 250)]
    assert shares.frequency.tolist() == [1, 2, 3, 4, 5, 6]
    head = frame[(frame.measure == "attention_explained") & (frame.step == 0)]
    assert head["head"].tolist() == [0]
    assert head.frequency.tolist() == [sums.attention_frequency[0, 0]]


def test_the_figures_show_the_measures(sums: tracking.ProgressMeasures) -> None:
    drawn = traces(sums.figure())
    assert np.array_equal(drawn["restricted (test pairs)"].y, sums.restricted_loss)
    assert np.array_equal(drawn["Σw²"].y, sums.squared_weights)
    assert np.array_equal(drawn["Gini of the embedding"].y, sums.gini_embedding)
    assert np.array_equal(drawn["logits, by the keys' formula"].y, sums.logit_explained)
    heat: Any = sums.frequencies_figure().data
    assert np.array_equal(heat[0].z, sums.frequency_shares.T)
    by_key = traces(sums.keys_figure())
    assert np.array_equal(by_key["without k = 5"].y, sums.excluded_by_key[:, 1])


def test_saved_measures_are_read_back(sums: tracking.ProgressMeasures, tmp_path: Path) -> None:
    again = Result.load(sums.save(tmp_path / "measures"))
    assert isinstance(again, tracking.ProgressMeasures)
    assert again.task == ADDITION
    assert again.keys == KEYS
    assert np.array_equal(again.neuron_frequency, sums.neuron_frequency)
    assert again.summary() == sums.summary()


def test_the_summary_has_the_numbers(sums: tracking.ProgressMeasures) -> None:
    text = sums.summary()
    assert text.startswith("add modulo 13, 3 checkpoints from step 0 to 250")
    assert "Key frequencies 2, 5: 100.0% of the power" in text
    assert "Clear of an even spread: k = 2 since step 250, k = 5 since step 250." in text
    assert f"excluded {sums.excluded_loss[-1]:.3g}" in text


def test_the_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(measuring.mean_or_nan(np.zeros(0)))
