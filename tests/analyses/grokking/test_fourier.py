"""Fourier circuits of networks whose waves are known, of a random one, and of the bundled one."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.grokking import circuit, interventions, measuring
from workbench.core.engine import running
from workbench.core.models import card, sources
from workbench.core.modular import tasks, theory
from workbench.core.planted import modular_adder, two_steps
from workbench.core.results import Result

ADDITION, KEYS = modular_adder.ADDITION, modular_adder.KEYS
PRODUCT = tasks.Task(p=13, operation="multiply", fraction=0.5)


@pytest.fixture(scope="module")
def found() -> circuit.FourierCircuit:
    return circuit.fourier(modular_adder.adder(), ADDITION, n_random=9)


@pytest.fixture(scope="module")
def bundled() -> circuit.FourierCircuit:
    return circuit.fourier(sources.load_model("modadd-113", device="cpu"), n_random=9)


def losses(logits: np.ndarray, task: tasks.Task) -> tuple[float, float]:
    """Mean loss of the test pairs and of all pairs of the group, logits over elements (i, j, c)."""
    group = theory.cyclic(task)
    assert group is not None
    n = group.n
    sums = torch.arange(n)[:, None] + torch.arange(n)
    flat = torch.tensor(logits).reshape(n * n, -1)
    each = torch.nn.functional.cross_entropy(flat, sums.ravel() % n, reduction="none").numpy()
    pairs = [tuple(pair) for pair in task.pairs()[task.split()[1]].tolist()]
    held_out = set(pairs)
    tested = [(int(a), int(b)) in held_out for a in group.first for b in group.second]
    return float(each[tested].mean()), float(each.mean())


def projected(logits: np.ndarray, keys: tuple[int, ...]) -> np.ndarray:
    """The part along cos(w(a + b)) and sin(w(a + b)), direction by direction."""
    n = len(logits)
    sums = np.arange(n)[:, None] + np.arange(n)
    part = np.zeros_like(logits)
    for k in keys:
        for wave in (np.cos, np.sin):
            direction = wave(2 * np.pi * k * sums / n)
            direction /= np.sqrt(np.square(direction).sum())
            part += direction[:, :, None] * np.einsum("ab,abc->c", direction, logits)
    return part


def test_the_hand_wired_network_has_the_logits_of_its_formula() -> None:
    snapshot = interventions.snapshot_of(modular_adder.adder(), ADDITION)
    expected = modular_adder.expected_logits(ADDITION)
    # The 14th harmonic of a rectified cosine has 1 / 65 of the second one's size.
    assert snapshot.logits.reshape(13, 13, 13) == pytest.approx(expected, abs=0.05 * 2 * 16)
    assert snapshot.logits.argmax(1).tolist() == ADDITION.answers().tolist()


def test_exactly_the_wired_frequencies_are_found(found: circuit.FourierCircuit) -> None:
    assert found.keys == found.keys_by_embedding == found.keys_by_neurons == KEYS
    assert found.frequency_shares[np.array(KEYS) - 1] == pytest.approx(np.array([0.5, 0.5]))
    assert found.key_share == pytest.approx(1)
    assert found.neuron_frequency.tolist() == [2] * 16 + [5] * 16
    assert found.neurons_explained == 1
    assert found.clusters[0].neurons == tuple(range(16))
    assert found.clusters[1].neurons == tuple(range(16, 32))


def test_terms_and_explained_logits_are_those_of_sums_written_out(
    found: circuit.FourierCircuit,
) -> None:
    logits = interventions.snapshot_of(modular_adder.adder(), ADDITION).logits
    cube = logits.reshape(13, 13, 13)
    a, b, c = np.ogrid[:13, :13, :13]
    explained = 0.0
    for k in KEYS:
        wave = np.cos(2 * np.pi * k * (a + b - c) / 13)
        size = (cube * wave).sum() / np.square(wave).sum()
        assert found.term_sizes[k - 1] == pytest.approx(size)
        # The mean of |2 cos| over the 13 angles is 2 / (13 sin(π / 26)), 4 / π for many angles.
        assert size == pytest.approx(8 * 2 / (13 * math.sin(math.pi / 26)), rel=0.02)
        explained += size * (cube * wave).sum()
    variance = np.square(cube - cube.mean(2, keepdims=True)).sum()
    assert found.logit_explained == pytest.approx(explained / variance)


def test_every_loss_is_that_of_the_edited_logits(found: circuit.FourierCircuit) -> None:
    logits = interventions.snapshot_of(modular_adder.adder(), ADDITION).logits
    cube = logits.reshape(13, 13, 13)
    part, mean = projected(cube, KEYS), cube.mean((0, 1))
    a, b, c = np.ogrid[:13, :13, :13]
    formula = sum(found.term_sizes[k - 1] * np.cos(2 * np.pi * k * (a + b - c) / 13) for k in KEYS)
    expected = {
        ("model", None): cube,
        ("keep", None): part + mean,
        ("remove", None): cube - part,
        ("remove one", 2): cube - projected(cube, (2,)),
        ("remove one", 5): cube - projected(cube, (5,)),
        ("formula", None): np.broadcast_to(formula, cube.shape),
    }
    for (kind, frequency), edited in expected.items():
        edit = found.edit(kind, frequency)
        assert (edit.test_loss, edit.loss) == pytest.approx(losses(edited, ADDITION), rel=1e-9)


def test_edits_in_the_model_do_what_the_wiring_says(found: circuit.FourierCircuit) -> None:
    # All of W_L lies in the key directions: nothing else is left without them.
    snapshot = interventions.snapshot_of(modular_adder.adder(), ADDITION)
    mean = np.broadcast_to(snapshot.logits.mean(0), (13, 13, 13))
    assert found.edit("map keep").loss == pytest.approx(found.edit("model").loss, rel=1e-4)
    for kind in ("map remove", "all neurons"):
        edit = found.edit(kind)
        assert edit.through == "model"
        assert (edit.test_loss, edit.loss) == pytest.approx(losses(mean, ADDITION), rel=1e-5)
    assert found.residual_share == pytest.approx(0, abs=1e-12)


def test_holding_the_neurons_of_one_key_leaves_the_other_keys_logits(
    found: circuit.FourierCircuit,
) -> None:
    alone = interventions.snapshot_of(modular_adder.adder(keys=(5,)), ADDITION).logits
    edit = found.edit("neurons", 2)
    without = alone.reshape(13, 13, 13)
    assert edit.loss == pytest.approx(losses(without, ADDITION)[1], rel=1e-3)
    for cluster in found.clusters:
        assert cluster.removed == pytest.approx(1, abs=1e-5)
        assert cluster.removed_elsewhere == pytest.approx(0, abs=1e-5)
        assert cluster.p_value == 0.1


def test_what_drives_each_direction_is_that_wave_of_the_sum(found: circuit.FourierCircuit) -> None:
    names = [(direction.frequency, direction.wave) for direction in found.directions]
    assert names == [(2, "cos"), (2, "sin"), (5, "cos"), (5, "sin")]
    logits = interventions.snapshot_of(modular_adder.adder(), ADDITION).logits
    for direction in found.directions:
        wave = {"cos": np.cos, "sin": np.sin}[direction.wave]
        angle = 2 * np.pi * direction.frequency / 13
        along = logits @ wave(angle * np.arange(13))
        driver = wave(angle * ADDITION.pairs().sum(1).numpy())
        correlation = np.corrcoef(along, driver)[0, 1]
        assert direction.explained == pytest.approx(correlation**2, rel=1e-6)
        assert direction.share == pytest.approx(0.25)


def test_random_frequencies_do_nothing_in_a_network_without_them(
    found: circuit.FourierCircuit,
) -> None:
    mean = interventions.snapshot_of(modular_adder.adder(), ADDITION).logits.mean(0)
    guess = losses(np.broadcast_to(mean, (13, 13, 13)), ADDITION)[0]
    # Nine sets: the keys are the most extreme of ten.
    assert found.edit("keep").p_value == found.edit("remove").p_value == 0.1
    assert len(found.edit("keep").random) == 9
    assert min(found.edit("keep").random) > 0.9 * guess
    unchanged = found.edit("model").test_loss
    assert found.edit("remove one", 2).p_value == pytest.approx(1 / 5)
    # Of the four other waves only aliases of high harmonics are there.
    assert max(found.edit("remove one", 2).random) == pytest.approx(unchanged, rel=0.2)


def test_a_product_is_explained_in_discrete_logarithms() -> None:
    model = modular_adder.adder(PRODUCT)
    found = circuit.fourier(model, PRODUCT, n_random=0)
    assert found.keys == KEYS
    assert found.n_pairs == 144
    assert found.theory == (
        "multiply modulo 13 is addition modulo 12 of discrete logarithms to base 2; pairs with 0 "
        "are left out. Restricted, excluded and formula loss are over the pairs without 0, the "
        "formula over the answers without 0."
    )
    expected = modular_adder.expected_logits(PRODUCT)
    variance = np.square(expected - expected.mean(2, keepdims=True)).sum()
    i, j, c = np.ogrid[:12, :12, :12]
    waves = [np.cos(2 * np.pi * k * (i + j - c) / 12) for k in KEYS]
    explained = sum((expected * w).sum() ** 2 / np.square(w).sum() for w in waves) / variance
    assert found.logit_explained == pytest.approx(explained, rel=0.02)


def test_in_a_random_network_the_keys_do_nothing_that_other_frequencies_do_not() -> None:
    task, model = tasks.Task(p=23, fraction=0.5), modular_adder.randomised(23)
    p_values: list[float] = []
    for keys in ((3, 10), (1, 2), (4, 7), (5, 11)):
        found = circuit.fourier(model, task, keys=keys, n_random=19)
        assert found.logit_explained < 0.01
        for kind in ("keep", "remove"):
            edit = found.edit(kind)
            assert edit.test_loss == pytest.approx(np.mean(edit.random), abs=0.05)
            p_values.append(edit.p_value)
        assert "a random one too" in found.summary()
    assert np.mean(p_values) > 0.2


def test_with_few_frequencies_all_are_keys_by_chance_and_nothing_is_left_to_compare_with() -> None:
    task = tasks.Task(p=11, fraction=0.5)
    found = circuit.fourier(modular_adder.randomised(11), task, n_random=3)
    assert found.keys == (1, 2, 3, 4, 5)
    assert found.edit("keep").random == ()
    assert math.isnan(found.edit("keep").p_value)
    assert "an even spread would give each 20.0%" in found.summary()


def test_projections_in_the_model_agree_with_the_linear_map_behind_the_neurons() -> None:
    model, task = modular_adder.randomised(13, seed=3), ADDITION
    found = circuit.fourier(model, task, keys=(1, 4), n_random=0)
    snapshot = interventions.snapshot_of(model, task)
    angle = 2 * np.pi * np.outer([1, 4], np.arange(13)) / 13
    writers = np.vstack([np.cos(angle), np.sin(angle)]) @ snapshot.neuron_logit
    hidden = snapshot.hidden - snapshot.hidden.mean(0)
    inside = hidden @ np.linalg.pinv(writers) @ writers @ snapshot.neuron_logit.T
    every = hidden @ snapshot.neuron_logit.T
    without = (snapshot.logits - inside).reshape(13, 13, 13)
    only = (snapshot.logits - every + inside).reshape(13, 13, 13)
    assert found.edit("map remove").loss == pytest.approx(losses(without, task)[1], rel=1e-5)
    assert found.edit("map keep").loss == pytest.approx(losses(only, task)[1], rel=1e-5)


def test_the_bundled_network_adds_by_the_waves_of_its_card(bundled: circuit.FourierCircuit) -> None:
    measures = {measure.name: measure for measure in card.model_card("modadd-113").measures}
    assert len(bundled.keys) == measures["key frequencies"].value
    assert ", ".join(map(str, bundled.keys)) in measures["key frequencies"].note
    explained = measures["logit variance explained"].value
    assert bundled.logit_explained == pytest.approx(explained, abs=1e-6)
    assert bundled.logit_explained > 0.9
    share = measures["neurons explained by one frequency"].value
    assert bundled.neurons_explained == pytest.approx(share, abs=1 / 512)
    assert bundled.neurons_explained >= 0.75
    assert bundled.key_share >= 0.99


def test_keeping_the_bundled_networks_waves_helps_and_removing_them_destroys(
    bundled: circuit.FourierCircuit,
) -> None:
    full = bundled.edit("model")
    assert full.loss < 1e-6
    assert bundled.edit("keep").test_loss < full.test_loss
    assert bundled.edit("remove").test_loss > math.log(113)
    assert bundled.edit("map keep").test_loss == pytest.approx(full.test_loss, rel=0.5)
    assert bundled.edit("map remove").test_loss > 2
    for kind in ("keep", "remove", "map keep", "map remove"):
        assert bundled.edit(kind).p_value == 0.1
    for cluster in bundled.clusters:
        assert cluster.removed > 0.6
        assert cluster.removed_elsewhere < 0.06
        assert cluster.p_value == 0.1
    assert all(direction.explained > 0.9 for direction in bundled.directions)
    assert full.test_low < full.test_loss < full.test_high


def test_a_task_without_a_group_is_refused_with_the_reason() -> None:
    task = tasks.Task(p=13, operation="a^2+b^2")
    with pytest.raises(
        ValueError, match="do not apply to a\\^2\\+b\\^2 modulo 13: a square has two"
    ):
        circuit.fourier(modular_adder.adder(), task)


def test_models_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="found 2 layers without normalisation, 4 positions"):
        circuit.fourier(two_steps.two_layer(), tasks.Task(p=5, fraction=0.5))
    with pytest.raises(ValueError, match="has 6 tokens, which is a prime and `=`|give the task"):
        circuit.fourier(modular_adder.randomised(9))


@pytest.mark.parametrize("keys", [(0,), (7,), (2, 2)])
def test_keys_that_are_no_frequencies_are_refused(keys: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected different frequencies from 1 to 6"):
        circuit.fourier(modular_adder.adder(), ADDITION, keys=keys)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="n_random = -1; expected 0 or more"):
        circuit.fourier(modular_adder.adder(), ADDITION, n_random=-1)
    with pytest.raises(ValueError, match="confidence = 2"):
        circuit.fourier(modular_adder.adder(), ADDITION, confidence=2.0)


def test_equal_seeds_give_equal_bits_and_the_model_is_left_as_it_was(
    found: circuit.FourierCircuit,
) -> None:
    model = modular_adder.adder()
    before = card.fingerprint(model)
    again = circuit.fourier(model, ADDITION, n_random=9)
    assert [dataclasses.astuple(edit)[4:11] for edit in again.edits] == [
        dataclasses.astuple(edit)[4:11] for edit in found.edits
    ]
    assert again.edit("remove").random == found.edit("remove").random
    assert card.fingerprint(model) == before
    tokens = torch.tensor([[1, 2, 13]])
    logits = running.run(model, tokens)[0, -1]
    assert int(logits.argmax()) == 3


def test_cancelling_leaves_no_hook_behind() -> None:
    model = modular_adder.adder()

    def stop(fraction: float, note: str) -> None:
        if fraction > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        circuit.fourier(model, ADDITION, progress=stop)
    assert int(running.run(model, torch.tensor([[4, 5, 13]]))[0, -1].argmax()) == 9


def test_a_saved_circuit_is_read_back_with_figure_table_and_code(
    found: circuit.FourierCircuit, tmp_path: Path
) -> None:
    again = Result.load(found.save(tmp_path / "circuit"))
    assert isinstance(again, circuit.FourierCircuit)
    assert again.clusters == found.clusters
    assert again.summary() == found.summary()
    assert again.to_frame().equals(found.to_frame())
    frame = found.to_frame().set_index("name")
    assert frame.loc["without k = 2", "test_loss"] == found.edit("remove one", 2).test_loss
    assert frame.loc["keys' waves only", "n_random"] == 9
    assert found.neurons_frame()["frequency"].tolist() == [2] * 16 + [5] * 16
    drawn: Any = found.figure().data
    shares, *clouds, points = drawn
    assert np.array_equal(shares.y, found.frequency_shares)
    assert np.array_equal(points.y, [edit.test_loss for edit in found.edits])
    assert len(clouds) == 6
    assert "task = grokking.Task(p=13, operation='add', fraction=0.5" in found.script()


def test_the_summary_says_what_was_kept_removed_and_compared(
    found: circuit.FourierCircuit,
) -> None:
    text = found.summary()
    assert "key frequencies 2, 5 hold 100.0% of the power" in text
    assert "32 of 32 neurons" in text
    assert f"{found.edit('remove').test_loss:.3g} [" in text
    assert "p = 0.1, 9 sets" in text
    assert "add modulo 13 is addition modulo 13 of the residues themselves" in text


def test_cross_entropy_agrees_with_torch_and_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    logits, labels = 30 * rng.normal(size=(50, 7)), rng.integers(0, 7, 50)
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(labels), reduction="none"
    )
    assert measuring.cross_entropies(logits, labels) == pytest.approx(expected.numpy(), abs=1e-12)
    small = measuring.cross_entropies(np.array([[25.0, 0.0]]), np.array([0]))
    assert small[0] == pytest.approx(math.log1p(math.exp(-25)), rel=1e-4)
