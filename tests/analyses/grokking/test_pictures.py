"""Pictures of checkpoints: each shows the numbers that it says it shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analyses.grokking import pictures, tracking
from workbench.core.models import anatomy
from workbench.core.modular import network, recipe, run, tasks, theory, training
from workbench.core.modular.curves import Curves
from workbench.core.planted import modular_adder

ADDITION = modular_adder.ADDITION
KEYS = modular_adder.KEYS
GROUPS = [
    tasks.Task(p=13, operation=operation, fraction=0.5)
    for operation in ("add", "subtract", "multiply", "divide")
]


def adder(task: tasks.Task = ADDITION) -> network.Snapshot:
    """What the network that is wired to add by two waves does at every pair."""
    model = modular_adder.adder(task)
    weights = anatomy.stored_parameters(model)
    return network.snapshot(weights, task, model.cfg.n_heads)


def random_network(p: int, *, seed: int = 0) -> network.Snapshot:
    """A network whose every parameter is random."""
    model = modular_adder.randomised(p, seed=seed)
    weights = anatomy.stored_parameters(model)
    return network.snapshot(weights, tasks.Task(p=p, fraction=0.5), model.cfg.n_heads)


def traces(figure: go.Figure) -> Any:
    return figure.data


class TestOrder:
    @pytest.mark.parametrize("task", GROUPS, ids=lambda task: task.operation)
    def test_pairs_of_elements_have_the_answer_of_their_sum(self, task: tasks.Task) -> None:
        ordered = pictures.order(task)
        n = ordered.n
        assert ordered.applies
        element = np.arange(n)
        answers = ordered.table(task.answers().numpy().astype(float))
        sums = (element[:, None] + element) % n
        assert np.array_equal(answers, ordered.answer[sums])

    def test_without_a_group_pairs_are_in_the_order_of_the_residues(self) -> None:
        task = tasks.Task(p=7, operation="a^3+ab", fraction=0.5)
        ordered = pictures.order(task)
        assert not ordered.applies
        a, b = np.indices((7, 7))
        answers = ordered.table(task.answers().numpy().astype(float))
        assert np.array_equal(answers, (a**3 + a * b) % 7)

    def test_axes_say_what_the_elements_are(self) -> None:
        assert pictures.order(GROUPS[0]).elements == "residue"
        assert pictures.order(GROUPS[2]).elements == "discrete logarithm of"


class TestEmbedding:
    @pytest.mark.parametrize("task", GROUPS, ids=lambda task: task.operation)
    def test_only_the_waves_that_are_wired_stand_out(self, task: tasks.Task) -> None:
        figure = pictures.embedding(adder(task), pictures.order(task))
        cosines, sines = traces(figure)
        n = pictures.order(task).n
        expected = np.zeros(n // 2)
        # cos(w_k i) over n elements has the norm √(n / 2).
        expected[np.array(KEYS) - 1] = np.sqrt(n / 2)
        np.testing.assert_allclose(cosines.y, expected, atol=1e-5)
        np.testing.assert_allclose(sines.y, expected[: len(sines.y)], atol=1e-5)
        assert [cosines.name, sines.name] == ["cosine", "sine"]
        assert len(cosines.y) + len(sines.y) == n - 1


class TestAttention:
    def test_each_head_shows_its_attention_to_a_at_every_pair(self) -> None:
        seen = random_network(7)
        seen = dataclasses.replace(seen, pattern=np.concatenate([seen.pattern] * 3, 1))
        heads = [trace.z for trace in traces(pictures.attention(seen, pictures.order(_plain(7))))]
        assert len(heads) == 3
        # Row by row of b, a runs to the right.
        assert heads[1][4, 2] == pytest.approx(seen.pattern[2 * 7 + 4, 1, 0], abs=1e-7)

    def test_the_title_names_the_frequency_that_explains_most(self) -> None:
        a = np.arange(7).repeat(7)
        pattern = np.zeros((49, 1, 3))
        pattern[:, 0, 0] = 0.5 + 0.3 * np.cos(2 * np.pi * 3 * a / 7)
        seen = dataclasses.replace(random_network(7), pattern=pattern)
        figure: Any = pictures.attention(seen, pictures.order(_plain(7)))
        assert figure.layout.annotations[0].text == "head 0: k = 3, 100%"


class TestNeurons:
    def test_neurons_are_sorted_by_frequency_and_then_by_how_much_it_explains(self) -> None:
        figure = pictures.neurons(adder(), pictures.order(ADDITION))
        (drawn,) = traces(figure)
        best = drawn.z.argmax(0) + 1
        assert best.tolist() == [KEYS[0]] * 16 + [KEYS[1]] * 16
        for key in KEYS:
            assert (np.diff(drawn.z.max(0)[best == key]) <= 1e-6).all()
        assert sorted(drawn.customdata[0]) == list(range(32))
        shares = pictures.neuron_shares(adder(), pictures.order(ADDITION))
        np.testing.assert_allclose(drawn.z, shares[:, drawn.customdata[0]], atol=1e-6)

    def test_one_neuron_is_drawn_over_a_to_the_right_and_b_upward(self) -> None:
        seen = adder()
        values, power = traces(pictures.neuron(seen, pictures.order(ADDITION), 3))
        assert values.z[9, 4] == pytest.approx(seen.hidden[4 * 13 + 9, 3], abs=1e-6)
        assert power.z.sum() == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("index", [-1, 32])
    def test_a_neuron_that_does_not_exist_is_refused(self, index: int) -> None:
        with pytest.raises(ValueError, match="there are 32, from 0 on"):
            pictures.neuron(adder(), pictures.order(ADDITION), index)


class TestLogits:
    def test_the_terms_of_the_formula_have_their_sizes_by_projection_the_keys_the_largest(
        self,
    ) -> None:
        seen = adder()
        _, bars = traces(pictures.logits(seen, pictures.order(ADDITION), 5))
        logits = seen.logits.reshape(13, 13, 13)
        i, j, c = np.indices((13, 13, 13))
        for k in range(1, 7):
            # The mean square of a cosine is a half.
            expected = 2 * (logits * np.cos(2 * np.pi * k * (i + j - c) / 13)).mean()
            assert bars.y[k - 1] == pytest.approx(expected, abs=1e-9)
        assert set(np.argsort(-bars.y)[:2] + 1) == set(KEYS)

    def test_an_answer_that_is_no_residue_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected a residue from 0 to 12"):
            pictures.logits(adder(), pictures.order(ADDITION), 13)

    def test_the_power_is_that_of_the_chosen_answer(self) -> None:
        seen = random_network(7)
        power, _ = traces(pictures.logits(seen, pictures.order(_plain(7)), 2))
        table = seen.logits[:, 2].reshape(7, 7)
        expected = pictures.power_by_frequencies(table).T
        np.testing.assert_allclose(power.z, expected, atol=1e-6)


class TestPower:
    @pytest.mark.parametrize("n", [6, 7])
    def test_a_wave_of_a_and_one_of_b_lie_where_they_should(self, n: int) -> None:
        a, b = np.indices((n, n))
        waves = [2 * np.pi * k / n for k in range(n)]
        table = 4.0 + 3 * np.cos(waves[2] * a) + np.cos(waves[1] * a) * np.sin(waves[2] * b)
        power = pictures.power_by_frequencies(table)
        expected = np.zeros((n // 2 + 1, n // 2 + 1))
        # Mean squares: 9 / 2 and 1 / 4.
        expected[2, 0], expected[1, 2] = 4.5 / 4.75, 0.25 / 4.75
        np.testing.assert_allclose(power, expected, atol=1e-12)

    def test_it_is_that_of_the_two_dimensional_fourier_transform(self) -> None:
        table = np.random.default_rng(0).normal(size=(7, 7))
        squared = np.square(np.abs(np.fft.fft2(table)))
        folded = squared[:4] + np.pad(squared[:3:-1], ((1, 0), (0, 0)))
        folded = folded[:, :4] + np.pad(folded[:, :3:-1], ((0, 0), (1, 0)))
        folded[0, 0] = 0
        power = pictures.power_by_frequencies(table)
        np.testing.assert_allclose(power, folded / folded.sum(), atol=1e-12)

    def test_what_never_changes_has_none(self) -> None:
        assert not pictures.power_by_frequencies(np.full((5, 5), 3.7)).any()


def curves(n_tests: int, every: int = 50) -> Curves:
    steps = [every * i for i in range(n_tests)]
    return Curves(
        train_loss=[1 / (1 + i) for i in range(steps[-1])],
        test_steps=steps,
        test_loss=[5.0 - 0.001 * i for i in range(n_tests)],
        test_accuracy=[i / n_tests for i in range(n_tests)],
        squared_weights=[100.0 + i for i in range(n_tests)],
    )


class TestProgress:
    def test_curves_are_drawn_where_they_were_tested(self) -> None:
        by_name = {trace.name: trace for trace in traces(pictures.progress(curves(4)))}
        assert set(by_name) == {"train loss", "test loss", "test accuracy", "Σw²"}
        assert by_name["train loss"].x.tolist() == [0, 50, 100, 150]
        # The loss of the step after the last one is not known yet.
        expected = [1, 1 / 51, 1 / 101, np.nan]
        np.testing.assert_allclose(by_name["train loss"].y, expected)
        assert by_name["test loss"].y.tolist() == [5.0, 4.999, 4.998, 4.997]

    def test_long_curves_are_thinned_to_500_points_with_both_ends(self) -> None:
        test = traces(pictures.progress(curves(801)))[1]
        assert len(test.x) == 500
        assert [test.x[0], test.x[-1]] == [0, 40_000]
        assert test.y[-1] == pytest.approx(4.2)

    def test_curves_that_are_being_written_may_be_tested_ahead_of_their_losses(self) -> None:
        early = dataclasses.replace(curves(1), train_loss=[])
        train, test = traces(pictures.progress(early))[:2]
        assert np.isnan(train.y).all()
        assert test.y.tolist() == [5.0]

    def test_measures_of_single_checkpoints_are_points_at_their_steps(
        self, tiny: run.TrainingRun
    ) -> None:
        measured = [
            tracking.track(dataclasses.replace(tiny, steps=(step,))) for step in tiny.steps[:2]
        ]
        figure = pictures.progress(tiny.curves, measured)
        by_name = {trace.name: trace for trace in traces(figure)}
        restricted = by_name["restricted loss"]
        assert restricted.x.tolist() == list(tiny.steps[:2])
        assert restricted.y.tolist() == [one.restricted_loss[0] for one in measured]
        gini = by_name["Gini of the neuron-logit map"]
        assert gini.y.tolist() == [one.gini_neuron_logit[0] for one in measured]

    def test_measures_that_are_not_there_are_left_out(self, tiny: run.TrainingRun) -> None:
        task = dataclasses.replace(tiny.task, operation="random")
        assert theory.cyclic(task) is None
        control = dataclasses.replace(tiny, task=task, steps=tiny.steps[:1])
        figure = pictures.progress(control.curves, [tracking.track(control)])
        names = {trace.name for trace in traces(figure)}
        assert names == {"train loss", "test loss", "test accuracy", "Σw²"}

    def test_runs_are_compared_by_their_test_losses(self) -> None:
        figure = pictures.comparison({"<b>one</b>": curves(3), "two": curves(5)})
        one, two = traces(figure)
        assert one.name == "&lt;b&gt;one&lt;/b&gt;"
        assert two.x.tolist() == [0, 50, 100, 150, 200]
        assert one.line.color != two.line.color


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> run.TrainingRun:
    """A few steps of a small network."""
    small = recipe.recipe(d_model=16, n_heads=2, d_head=8, d_mlp=24, steps=100)
    task = tasks.Task(p=11, fraction=0.6)
    return training.train(task, small, folder=tmp_path_factory.mktemp("run"), stop="never")


def _plain(p: int) -> tasks.Task:
    return tasks.Task(p=p, fraction=0.5)
