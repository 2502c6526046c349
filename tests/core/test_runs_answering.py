"""Answering from the store: what is equal is not computed again, and nothing else is answered."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import direct_attribution
from analyses.feature_visualization.inputs import objectives
from analyses.grokking import curves, drops
from tests import computing
from workbench.core import results, runs
from workbench.core.models import dictionaries
from workbench.core.modular import recipe, training
from workbench.core.modular.run import TrainingRun, bundled_run, open_run
from workbench.core.modular.tasks import Task
from workbench.core.networks import sources as networks
from workbench.core.planted import two_steps
from workbench.core.prompts.concepts import Concept
from workbench.core.prompts.corpus import Corpus
from workbench.core.runs import identity, telling

# As few null curves as the level allows: what they are about is not tested here.
QUICK: dict[str, Any] = {"n_simulations": 20}


def curve(low: float = 0.02) -> curves.Curve:
    """A loss that falls at once, from 2 to a low value."""
    noise = np.random.default_rng(0).uniform(0.99, 1.01, 60)
    values = np.where(np.arange(60) < 30, 2.0, low) * noise
    return curves.Curve(np.arange(60) * 10, values, "loss", "a file")


@pytest.fixture
def store(tmp_path: Path) -> runs.RunStore:
    return runs.RunStore(tmp_path / "runs")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return computing.counted(monkeypatch, drops.detect_drops)


@contextlib.contextmanager
def kept_back(array: np.ndarray) -> Generator[None]:
    """Undo what happens to an array within."""
    before = array.copy()
    yield
    array[:] = before


class TestAnswering:
    def test_an_equal_request_is_answered_to_the_bit_and_not_computed(
        self, store: runs.RunStore, computed: list[int]
    ) -> None:
        first = runs.ask(drops.detect_drops, curve(), store=store, title="drops", **QUICK)
        assert (first.stored, first.problem) == (False, "")
        second = runs.ask(drops.detect_drops, curve(), store=store, **QUICK)
        assert (second.stored, second.run) == (True, first.run)
        assert len(computed) == 1
        assert second.result.provenance == first.result.provenance
        assert second.result.smooth.tobytes() == first.result.smooth.tobytes()
        assert (second.result.steps, second.result.p_values) == (
            first.result.steps,
            first.result.p_values,
        )
        assert len(first.result.steps) == 1, "the curve has a drop"
        assert [row.title for row in store.runs()] == ["drops"]

    def test_the_result_alone_is_what_answer_gives_from_the_usual_store(
        self, computed: list[int]
    ) -> None:
        first = workbench.runs.answer(drops.detect_drops, curve(), **QUICK)
        second = workbench.runs.answer(drops.detect_drops, curve(), **QUICK)
        assert second.provenance == first.provenance
        assert len(computed) == len(runs.RunStore().runs()) == 1

    def test_a_default_that_is_given_equals_one_that_is_left_out(
        self, store: runs.RunStore, computed: list[int]
    ) -> None:
        runs.answer(drops.detect_drops, curve(), store=store, **QUICK)
        runs.answer(
            drops.detect_drops, curve(), store=store, seed=0, minimum=0.1, level=0.05, **QUICK
        )
        assert len(computed) == 1

    @pytest.mark.parametrize(
        ("other", "options"),
        [
            (curve(), {"seed": 1}),
            (curve(), {"minimum": 0.2}),
            (curve(), {"n_simulations": 21}),
            (curve(0.021), {}),
            (dataclasses.replace(curve(), name="another"), {}),
        ],
    )
    def test_any_other_option_or_content_is_computed(
        self,
        store: runs.RunStore,
        computed: list[int],
        other: curves.Curve,
        options: dict[str, Any],
    ) -> None:
        runs.answer(drops.detect_drops, curve(), store=store, **QUICK)
        found = runs.ask(drops.detect_drops, other, store=store, **QUICK | options)
        assert (found.stored, len(computed)) == (False, 2)

    def test_progress_and_what_changes_no_number_are_not_part_of_it(
        self, store: runs.RunStore, computed: list[int]
    ) -> None:
        told: list[float] = []
        aside = {"level": 0.05}
        for progress in (None, lambda fraction, _: told.append(fraction)):
            runs.answer(
                drops.detect_drops, curve(), store=store, aside=aside, progress=progress, **QUICK
            )
        runs.answer(drops.detect_drops, curve(), store=store, aside={"level": 0.06}, **QUICK)
        assert len(computed) == 1
        runs.answer(
            drops.detect_drops,
            curve(),
            store=store,
            again=True,
            aside=aside,
            progress=lambda fraction, _: told.append(fraction),
            **QUICK,
        )
        assert told, "an analysis that is computed tells how far it is"

    def test_again_computes_it_and_puts_it_in_the_place_of_the_old_one(
        self, store: runs.RunStore, computed: list[int]
    ) -> None:
        first = runs.ask(drops.detect_drops, curve(), store=store, **QUICK)
        second = runs.ask(drops.detect_drops, curve(), store=store, again=True, **QUICK)
        assert (second.stored, second.run, len(computed)) == (False, first.run, 2)
        assert runs.ask(drops.detect_drops, curve(), store=store, **QUICK).stored

    def test_other_code_or_versions_do_not_answer(
        self, store: runs.RunStore, computed: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs.answer(drops.detect_drops, curve(), store=store, **QUICK)
        with monkeypatch.context() as changed:
            changed.setattr(identity, "code", lambda: "another mark")
            runs.answer(drops.detect_drops, curve(), store=store, **QUICK)
        assert len(computed) == 2

    def test_a_function_of_a_script_is_computed_each_time_and_kept(
        self, store: runs.RunStore
    ) -> None:
        calls: list[int] = []

        def mine(given: curves.Curve) -> drops.Drops:
            calls.append(1)
            return drops.detect_drops(given, **QUICK)

        answers = [runs.ask(mine, curve(), store=store) for _ in range(2)]
        assert [one.stored for one in answers] == [False, False]
        assert len(calls) == 2
        assert [row.requests for row in store.runs()] == [()]

    def test_what_changes_while_it_is_computed_answers_nothing_later(
        self, store: runs.RunStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared = curve()
        computing.counted(monkeypatch, drops.detect_drops)

        def change(fraction: float, note: str) -> None:
            shared.values[-1] = 0.5

        with kept_back(shared.values):
            runs.answer(drops.detect_drops, shared, store=store, progress=change, **QUICK)
        assert not runs.ask(drops.detect_drops, shared, store=store, **QUICK).stored

    def test_a_store_that_cannot_be_written_costs_no_result(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        nowhere = runs.RunStore(tmp_path / "file" / "runs")
        found = runs.ask(drops.detect_drops, curve(), store=nowhere, **QUICK)
        assert found.result.steps == drops.detect_drops(curve(), **QUICK).steps
        assert (found.run, found.stored) == ("", False)
        assert "the run could not be kept in" in found.problem
        with caplog.at_level(logging.WARNING):
            runs.answer(drops.detect_drops, curve(), store=nowhere, **QUICK)
        assert "the run could not be kept in" in caplog.text

    def test_wrong_arguments_are_the_matter_of_the_analysis(self, store: runs.RunStore) -> None:
        with pytest.raises(ValueError, match="level"):
            runs.answer(drops.detect_drops, curve(), store=store, level=2.0)
        with pytest.raises(TypeError):
            runs.answer(drops.detect_drops, curve(), store=store, no_such_option=1)
        assert store.runs() == []

    def test_a_model_is_answered_for_until_a_weight_of_it_changes(
        self, store: runs.RunStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = computing.counted(monkeypatch, direct_attribution.attribute, direct_attribution)
        model = two_steps.two_layer()

        def attribute(prompt: str = "ape bee cat dog") -> direct_attribution.DirectAttribution:
            return runs.answer(direct_attribution.attribute, model, prompt, "bee", store=store)

        first, second = attribute(), attribute()
        assert len(calls) == 1
        assert first.largest == second.largest
        attribute("elk bee fox dog")
        assert len(calls) == 2
        with torch.no_grad():
            next(model.original_model.parameters()).mul_(2.0)
        attribute()
        assert len(calls) == 3


class TestTelling:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (1, True),
            (1, 1.0),
            (1, "1"),
            (None, "None"),
            ((1, 2), [1, 2]),
            ([1, 2], [[1, 2]]),
            (["list", 1], [["list", 1]]),
            ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
            ({1: "a"}, {"1": "a"}),
            (math.inf, -math.inf),
            (math.nan, "nan"),
            (range(3), [0, 1, 2]),
            (np.zeros(2), np.zeros(2, np.float32)),
            (np.zeros((2, 3)), np.zeros((3, 2))),
            (np.zeros(2), np.array([0.0, -0.0])),
            (np.array(["a"]), np.array(["b"])),
            (np.float32(1), np.float64(1)),
            (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
            (torch.zeros(2), torch.ones(2)),
            (torch.zeros(2), np.zeros(2, np.float32)),
            (torch.float32, torch.float64),
            (objectives.Target("a", 1), objectives.Target("a", 2)),
            (Task(p=7), Task(p=11)),
            (drops.detect_drops, drops.Drops),
            (Concept(["a", "b", "c", "d"], [1, 1, 0, 0], "x"),
             Concept(["a", "b", "c", "d"], [1, 0, 1, 0], "x")),
        ],
    )  # fmt: skip
    def test_what_differs_is_told_differently(self, one: Any, other: Any) -> None:
        # Python holds 1, 1.0 and True for equal; their texts are not.
        assert json.dumps(telling.told(one)) != json.dumps(telling.told(other))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: [1, 2.5, "a", None, (True,), {"x": slice(0, 3)}],
            lambda: math.nan,
            lambda: np.arange(6.0).reshape(2, 3)[:, ::2],
            lambda: torch.arange(3),
            lambda: Task(p=7),
            lambda: Concept(["a", "b", "c", "d"], [1, 1, 0, 0], "x"),
            lambda: Corpus("c", np.arange(3, dtype=np.int32), np.array([0, 3])),
            two_steps.two_layer,
            lambda: two_steps.pairs(two_steps.two_layer()),
            lambda: networks.load_network("mnist1d-mlp"),
        ],
    )
    def test_what_is_equal_is_told_equally(self, make: Callable[[], Any]) -> None:
        assert telling.told(make()) == telling.told(make())

    @pytest.mark.parametrize(
        "value",
        [
            lambda x: x,
            len,
            object(),
            {1, 2},
            np.array([object()]),
            np.ma.masked_array([1.0, 2.0], [True, False]),
            np.random.default_rng(0),
            torch.nn.Linear(2, 2),
            torch.zeros(2).to_sparse(),
            Path("no such file"),
            Path(__file__).parent,
            Task(p=7).__init__,
        ],
    )
    def test_what_cannot_be_told_is_not(self, value: Any) -> None:
        with pytest.raises(telling.Untold):
            telling.told([value])

    def test_a_class_of_a_script_is_not_told_by_its_fields(self) -> None:
        @dataclasses.dataclass(frozen=True)
        class Mine:
            number: int

        with pytest.raises(telling.Untold, match="Mine"):
            telling.told(Mine(1))

    def test_a_subject_is_no_name(self) -> None:
        with pytest.raises(telling.Untold, match="may mean something else tomorrow"):
            telling.fingerprint("grammar-4l")

    def test_a_file_is_told_by_its_content(self, tmp_path: Path) -> None:
        file = tmp_path / "pairs.csv"
        file.write_text("one")
        before = telling.told(file)
        assert telling.told(file) == before
        file.write_text("two")
        assert telling.told(file) != before

    def test_a_result_is_told_by_all_but_the_moment_in_which_it_was_made(self) -> None:
        found = drops.detect_drops(curve(), **QUICK)
        made = found.provenance

        def with_made(**changed: Any) -> Any:
            origin = dataclasses.replace(made, **changed)
            return telling.told(dataclasses.replace(found, provenance=origin))

        assert with_made(created="2000-01-01", wall_time=9.0) == telling.told(found)
        assert with_made(seed=9) != telling.told(found)
        assert telling.told(dataclasses.replace(found, name="another")) != telling.told(found)

    def test_what_a_corpus_does_not_count_is_told(self) -> None:
        corpus = Corpus("c", np.arange(3, dtype=np.int32), np.array([0, 3]))
        other = dataclasses.replace(corpus, special=(1,))
        assert telling.told(other) != telling.told(corpus)

    def test_whatever_a_model_reads_and_computes_with_is_told(self) -> None:
        model = two_steps.two_layer()
        before = telling.told(model)
        model.tokenizer.add_tokens(["yak"])
        tokens = telling.told(model)
        assert tokens != before
        model.cfg.eps *= 2
        configured = telling.told(model)
        assert configured not in (before, tokens)
        model.train()
        assert telling.told(model) != configured

    def test_how_a_tokenizer_was_used_last_is_not_told(self) -> None:
        model = two_steps.two_layer()
        before = telling.told(model)
        model.tokenizer.backend_tokenizer.enable_padding(length=9)
        assert telling.told(model) == before

    def test_a_model_that_carries_hooks_is_not_told(self) -> None:
        model = two_steps.two_layer()
        model.add_hook("blocks.0.hook_resid_post", lambda value, hook: value)
        with pytest.raises(telling.Untold, match="hooks"):
            telling.fingerprint(model)

    def test_dictionaries_differ_by_every_weight(self) -> None:
        model = workbench.load_model("grammar-4l")
        one, other = (dictionaries.bundled_dictionary(model) for _ in range(2))
        assert telling.told(one) == telling.told(other)
        with torch.no_grad():
            other.b_enc[0] += 1.0
        assert telling.told(one) != telling.told(other)

    def test_a_training_run_is_told_with_the_weights_of_its_checkpoints(
        self, tmp_path: Path
    ) -> None:
        small = recipe.recipe(d_model=4, n_heads=1, d_head=4, d_mlp=4, steps=10)
        made: TrainingRun = training.train(
            Task(p=5, fraction=0.8), small, folder=tmp_path / "run", stop="never", device="cpu"
        )
        before = telling.told(made)
        assert telling.told(open_run(tmp_path / "run")) == before
        made.save_model(folder=tmp_path / "run" / "model")
        assert telling.told(made) == before
        file = tmp_path / "run" / "checkpoints" / f"{made.steps[-1]}.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert telling.told(made) != before
        with pytest.raises(telling.Untold):
            telling.told(dataclasses.replace(made, read=lambda step: {}))

    def test_the_run_that_a_bundled_model_brings_along_is_told(self) -> None:
        assert telling.fingerprint(bundled_run()) == telling.fingerprint(bundled_run())


def test_a_run_that_is_replaced_by_another_result_answers_what_the_other_answers(
    store: runs.RunStore,
) -> None:
    found = drops.detect_drops(curve(), **QUICK)
    later = dataclasses.replace(found.provenance, created="2100-01-01T00:00:00+00:00")
    run = store.put(found, title="", request="first")
    assert store.put(dataclasses.replace(found, provenance=later), title="", request="same") == run
    assert all(store.answered(results.Result, asked) for asked in ("first", "same"))
    assert store.put(dataclasses.replace(found, name="another"), title="", request="other") == run
    assert store.answered(results.Result, "first") is None
    assert store.answered(results.Result, "same") is None
    assert store.answered(results.Result, "other") is not None
