"""The Grokking page: trainings in the background, and what it shows is what the library gives."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from analyses import grokking
from analyses.grokking import changes, circuit, curves, drops, tracking
from tests.visiting import PATIENCE, ROOT, button, run_in, settled, texts, unfolded, visit
from workbench.core import runs
from workbench.core.modular import run as training_runs
from workbench.ui import jobs, subject, trainings

TASK = grokking.Task(p=13, fraction=0.7)
SMALL: dict[str, Any] = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 24}
RECIPE = grokking.recipe(**SMALL, steps=1000)
SHORT = dataclasses.replace(RECIPE, steps=300)


def stored(run: grokking.TrainingRun) -> str:
    """Put a copy of a run into the test's own run store."""
    place = training_runs.folder_of(run.task, run.recipe)
    shutil.copytree(run.folder, place)
    return place.name


def trained(folder: Path, task: grokking.Task, recipe: grokking.Recipe) -> grokking.TrainingRun:
    return grokking.train(task, recipe, folder=folder, stop="never")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> grokking.TrainingRun:
    return trained(tmp_path_factory.mktemp("ended"), TASK, RECIPE)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> grokking.TrainingRun:
    return trained(tmp_path_factory.mktemp("short"), TASK, SHORT)


@pytest.fixture
def name(ended: grokking.TrainingRun) -> str:
    return stored(ended)


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> grokking.TrainingRun:
    """Random answers: nothing to find."""
    task = dataclasses.replace(TASK, operation="random")
    return trained(tmp_path_factory.mktemp("control"), task, dataclasses.replace(RECIPE, steps=200))


def opened(name: str) -> grokking.TrainingRun:
    return grokking.open_run(training_runs.trainings_root() / name)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fill_in(at: AppTest, **values: Any) -> AppTest:
    labels = {"p": "p, a prime", "fraction": "Share trained on"}
    for name, value in values.items():
        label = labels.get(name)
        fields = [
            field
            for field in at.number_input
            if field.label == label or (field.key or "").startswith(f"{name} of ")
        ]
        fields[0].set_value(value)
    return at


def slider(at: AppTest, label: str) -> Any:
    (found,) = [item for item in at.select_slider if item.label == label]
    return found


def new_training(**changed: Any) -> AppTest:
    at = visit("grokking", run="new")
    return fill_in(at, **{"p": 13, "fraction": 0.7, **SMALL, "steps": 300, **changed})


class TestTraining:
    def test_a_training_is_started_from_the_form_and_is_the_one_the_library_makes(
        self, short: grokking.TrainingRun
    ) -> None:
        at = new_training()
        at.selectbox(key="stop of a new training").set_value("never")
        settled(button(at, "Start").click().run())
        name = run_in(at)
        made = opened(name)
        assert (made.task, made.recipe) == (TASK, SHORT)
        assert made.curves.arrays()["test_loss"].tolist() == short.curves.test_loss
        wait_for(lambda: not trainings.is_running(name))
        assert made.summary() in texts(settled(at.run()))

    def test_while_it_goes_on_its_curves_and_newest_checkpoint_are_shown_and_it_can_be_cancelled(
        self,
    ) -> None:
        at = new_training(steps=500_000)
        at.selectbox(key="stop of a new training").set_value("never")
        button(at, "Start").click().run()
        name = run_in(at)
        wait_for((training_runs.trainings_root() / name / "run.json").is_file)
        wait_for(lambda: len(opened(name).steps) > 1)
        wait_for(lambda: "Measured last at step" in texts(at.run()))
        # Another visit, as after a restart of the browser, finds it going on.
        other = AppTest.from_file(str(ROOT / "workbench" / "app.py"), default_timeout=PATIENCE)
        other.query_params["run"] = name
        other.switch_page("../pages/grokking.py").run()
        # What its checkpoints compute with is drawn for those who ask.
        assert not other.header
        other.toggle(key="look inside").set_value(True).run()
        assert [item.value for item in other.header] == [
            "3. Inside a checkpoint: which waves does it compute with?"
        ]
        button(other, "Cancel").click().run()
        wait_for(lambda: not trainings.is_running(name))
        settled(at.run())
        kept = opened(name)
        assert slider(at, "Checkpoint (step)").value == kept.steps[-1]
        assert 50 < kept.step < 500_000
        assert "cancelled" in texts(at)
        assert kept.summary() in texts(at)
        assert button(at, "Resume")

    def test_resuming_after_a_restart_of_the_server_ends_with_the_same_bits(
        self, short: grokking.TrainingRun
    ) -> None:
        def stop(fraction: float, _: str) -> None:
            if fraction > 0.3:
                raise jobs.Cancelled

        with contextlib.suppress(jobs.Cancelled):
            grokking.train(TASK, SHORT, stop="never", progress=stop)
        name = training_runs.folder_of(TASK, SHORT).name
        half = opened(name)
        assert half.step < 300
        at = visit("grokking", run=name)
        at.selectbox(key="stop of this training").set_value("never")
        settled(button(at, "Resume").click().run())
        wait_for(lambda: not trainings.is_running(name))
        assert opened(name).curves == short.curves
        assert not any(item.label == "Resume" for item in settled(at.run()).button)

    def test_a_training_of_another_process_is_shown_as_it_goes_on(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training_runs, "is_training", lambda _: True)
        at = visit("grokking", run=name)
        assert "Another process trains this run" in texts(at)
        assert not any(item.label == "Cancel" for item in at.button)
        monkeypatch.undo()

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("p", 60, "p = 60; expected a prime from 3 to 257"),
            ("fraction", 1.5, "expected a share between 0 and 1"),
            ("d_mlp", 0, "d_mlp = 0; expected at least 1"),
            ("learning_rate", -1.0, "learning_rate = -1.0; expected more than 0"),
        ],
    )
    def test_what_cannot_be_trained_is_one_sentence(
        self, field: str, value: float, message: str
    ) -> None:
        at = settled(button(new_training(**{field: value}), "Start").click().run())
        assert message in texts(at)
        assert len(at.error) == 1
        assert training_runs.stored_runs() == []

    def test_a_recipe_brings_its_own_values(self) -> None:
        at = visit("grokking", run="new")
        at.selectbox[1].set_value("omnigrok-2022").run()
        values = {field.label: field.value for field in at.number_input}
        assert values["Weight decay"] == 0.0
        assert values["Initial scale"] == 0.8
        assert at.checkbox[0].value

    def test_a_training_that_diverges_says_so_and_keeps_what_was_there(self) -> None:
        at = settled(button(new_training(learning_rate=1e30), "Start").click().run())
        name = run_in(at)
        wait_for(lambda: not trainings.is_running(name))
        settled(at.run())
        assert "it has diverged; lower the learning rate" in texts(at)
        assert button(at, "Resume")


class TestMeasures:
    def test_measures_and_phases_are_those_of_the_library(
        self, name: str, ended: grokking.TrainingRun
    ) -> None:
        at = unfolded(visit("grokking", run=name))
        measures = grokking.track(ended)
        assert measures.summary() in texts(at)
        assert grokking.phases(measures).summary() in texts(at)
        assert [item.value[:2] for item in at.header] == ["1.", "2.", "3.", "4.", "5.", "6."]

    def test_the_phases_are_drawn_behind_the_measures(self, name: str) -> None:
        at = visit("grokking", run=name)
        measures = grokking.track(opened(name))
        expected = grokking.phases(measures)
        shown = [json.loads(item.proto.spec) for item in at.get("plotly_chart")]
        (figure,) = [
            one for one in shown if any("restricted" in t.get("name", "") for t in one["data"])
        ]
        bands = [shape for shape in figure["layout"].get("shapes", ()) if shape["xref"] == "x"]
        own: Any = expected.figure().layout
        assert [(band["x0"], band["x1"]) for band in bands] == [
            (band.x0, band.x1) for band in own.shapes
        ]
        assert len(figure["layout"].get("shapes", ())) == 4 * len(bands)

    def test_stored_measures_are_shown_at_once_without_a_job(
        self, name: str, ended: grokking.TrainingRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measures = grokking.track(ended)
        runs.RunStore().put(measures, title="measures")
        monkeypatch.setattr(grokking, "track", None)
        assert measures.summary() in texts(unfolded(visit("grokking", run=name)))

    def test_the_code_on_the_page_gives_what_the_page_says(
        self, name: str, ended: grokking.TrainingRun
    ) -> None:
        at = visit("grokking", run=name)
        settled(button(at, "Test it (").click().run())
        settled(button(at, "Look for drops (").click().run())
        (code,) = [item.value for item in at.code if "grokking.track" in item.value]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, {})
        said = printed.getvalue().splitlines()
        assert len(said) == 5
        assert said[:2] == [ended.summary(), grokking.track(ended).summary()]
        shown = texts(unfolded(at))
        assert all(line in shown for line in said)

    def test_an_operation_without_a_theory_gets_the_reason_and_what_remains(
        self, control: grokking.TrainingRun
    ) -> None:
        at = unfolded(visit("grokking", run=stored(control)))
        shown = texts(at)
        assert "so there is no group to find" in shown
        assert grokking.track(control).summary() in shown
        assert not any(item.label.startswith("Test it") for item in at.button)
        assert "The test loss was measured 5 times; at least 20 are needed" in shown
        (code,) = [item.value for item in at.code if "grokking.track" in item.value]
        assert "fourier" not in code


class TestCheckpoints:
    def test_the_slider_stands_in_the_address(self, name: str, ended: grokking.TrainingRun) -> None:
        step = ended.steps[2]
        at = visit("grokking", run=name, step=str(step))
        assert slider(at, "Checkpoint (step)").value == step
        assert button(at, f"Open the checkpoint of step {step:,}")
        settled(slider(at, "Checkpoint (step)").set_value(ended.steps[1]).run())
        assert button(at, f"Open the checkpoint of step {ended.steps[1]:,}")

    def test_a_checkpoint_opens_as_a_model_on_the_other_pages(
        self, name: str, ended: grokking.TrainingRun
    ) -> None:
        step = ended.steps[3]
        at = visit("grokking", run=name, step=str(step))
        settled(button(at, "Open the checkpoint").click().run())
        folder = training_runs.trainings_root() / name / "models" / f"step-{step}"
        assert str(folder) in texts(at)
        links = [item.proto for item in at.get("page_link")]
        assert {"Model", "Patching", "Circuits"} <= {link.label for link in links}
        assert all(f"step-{step}" in link.query_string for link in links)
        there = visit("model", model=str(folder))
        assert not any(item.label == "Open it" for item in there.button)
        facts = next(frame.value for frame in there.dataframe if "fact" in frame.value)
        assert facts.set_index("fact").loc["d_model", "value"] == "16"

    def test_only_what_lies_among_the_trainings_opens_without_a_click(
        self, name: str, tmp_path: Path
    ) -> None:
        own = opened(name).save_model()
        models = own.parent
        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(own, elsewhere)
        (models / "link").symlink_to(elsewhere, target_is_directory=True)
        (tmp_path / "shortcut").symlink_to(own, target_is_directory=True)
        assert subject.is_own(str(own))
        assert subject.is_own(str(tmp_path / "shortcut"))
        outside = [elsewhere, models / "link", models, models.parent, models / "step-0", "/"]
        climbing = [f"{own}/../../../../../..", f"{models}/../../../trainings", "grammar-4l", "\0"]
        assert not any(subject.is_own(str(place)) for place in (*outside, *climbing))
        at = visit("model", model=str(models / "link"))
        assert "did not come with the workbench" in texts(at)
        assert button(at, "Open it")

    def test_changing_the_run_forgets_the_step(
        self, name: str, ended: grokking.TrainingRun, control: grokking.TrainingRun
    ) -> None:
        other = stored(control)
        at = visit("grokking", run=name, step=str(ended.steps[-2]))
        settled(at.selectbox(key="chosen run").set_value(other).run())
        assert run_in(at) == other
        assert slider(at, "Checkpoint (step)").value == control.steps[-1]

    def test_the_waves_of_a_checkpoint_are_tested_behind_a_button_and_stay(
        self, name: str, ended: grokking.TrainingRun
    ) -> None:
        at = settled(button(visit("grokking", run=name), "Test it (").click().run())
        (row,) = runs.RunStore().runs(circuit.ANALYSIS)
        found = runs.RunStore().find(circuit.FourierCircuit, row.id)
        assert found is not None
        expected = grokking.fourier(opened(name).model(), TASK)
        assert found.summary() == expected.summary()
        assert expected.summary() in texts(unfolded(at))
        again = unfolded(visit("grokking", run=name))
        assert expected.summary() in texts(again)
        assert not any(item.label.startswith("Test it") for item in again.button)


class TestDrops:
    def test_drops_of_the_test_loss_are_looked_for_behind_a_button(
        self, name: str, ended: grokking.TrainingRun
    ) -> None:
        at = settled(button(visit("grokking", run=name), "Look for drops (").click().run())
        made = ended.curves.arrays()
        curve = curves.Curve(made["test_steps"], made["test_loss"], "test loss", ended.name)
        assert grokking.detect_drops(curve).summary() in texts(at)

    def test_what_changed_at_a_drop_is_swapped_between_the_checkpoints_around_it(
        self, name: str, ended: grokking.TrainingRun
    ) -> None:
        made = ended.curves.arrays()
        curve = curves.Curve(made["test_steps"], made["test_loss"], "test loss", ended.name)
        found = grokking.detect_drops(curve)
        stretch = (100, 300)
        planted = dataclasses.replace(
            found,
            steps=(200,),
            starts=stretch[:1],
            ends=stretch[1:],
            sizes=(0.5,),
            sharpness=(1.0,),
            p_values=(0.01,),
        )
        runs.RunStore().put(planted, title=f"drops of {name}, step {ended.step}")
        at = visit("grokking", run=name)
        before, after = changes.checkpoints_around(ended, stretch)
        asked = f"What changed inside between steps {before:,} and {after:,}?"
        assert asked in [item.value for item in at.subheader]
        settled(button(at, "Swap each component").click().run())
        assert grokking.what_changed_at(opened(name), stretch).summary() in texts(at)

    def test_a_curve_of_ones_own_is_searched_by_the_column_that_is_chosen(
        self, name: str, tmp_path: Path
    ) -> None:
        curve = drops.simulate(120, drop=0.6, at=0.6, seed=3)
        rows = zip(curve.steps.tolist(), curve.values.tolist(), strict=True)
        text = "\n".join(json.dumps({"step": step, "loss": loss}) for step, loss in rows)
        at = visit("grokking", run=name)
        upload = ("<b>curve.jsonl", text.encode(), "application/jsonl")
        settled(at.file_uploader[0].set_value(upload).run())
        (tmp_path / "curve.jsonl").write_text(text)
        expected = grokking.detect_drops(curves.read_curve(tmp_path / "curve.jsonl"))
        assert len(expected.steps) == 1
        assert expected.summary() in texts(at)

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", "curve.csv is empty"), (b"step,loss\n1,2\n2,1\n", "at least 20 are needed")],
    )
    def test_a_file_that_holds_no_curve_is_one_sentence(
        self, name: str, content: bytes, message: str
    ) -> None:
        at = visit("grokking", run=name)
        settled(at.file_uploader[0].set_value(("curve.csv", content, "text/csv")).run())
        assert message in texts(at)
        assert len(at.error) == 1


class TestRuns:
    def test_runs_are_compared_by_a_choice_that_stands_in_the_address(
        self, name: str, ended: grokking.TrainingRun, control: grokking.TrainingRun
    ) -> None:
        other = stored(control)
        at = visit("grokking", run=name, compare=other)
        table = next(item.value for item in at.markdown if "generalised at step" in item.value)
        rows = table.splitlines()[2:]
        assert [name in rows[0], other in rows[1], len(rows)] == [True, True, 2]
        settled(at.multiselect[0].set_value([]).run())
        assert "compare" not in at.query_params
        assert not any("generalised at step" in item.value for item in at.markdown)

    @pytest.mark.parametrize("asked", ["../../etc/passwd", "<b>"])
    def test_a_run_that_is_not_there_is_a_sentence(self, asked: str) -> None:
        at = visit("grokking", run=asked)
        assert "This run is not stored on this machine." in texts(at)
        assert at.selectbox(key="chosen run").value == trainings.BUNDLED

    def test_a_damaged_run_is_a_sentence(self, name: str) -> None:
        folder = training_runs.trainings_root() / name
        (folder / "live.safetensors").write_bytes(b"x")
        at = visit("grokking", run=name)
        assert "not stored on this machine" in texts(at)


def test_checkpoints_are_measured_one_at_a_time_and_seldom(
    ended: grokking.TrainingRun,
) -> None:
    asked: list[int] = []
    done = threading.Event()

    def measure(run: grokking.TrainingRun, step: int) -> tracking.ProgressMeasures:
        asked.append(step)
        made = grokking.track(dataclasses.replace(run, steps=(step,)))
        done.set()
        return made

    seen = trainings.Measured()
    early = dataclasses.replace(ended, steps=ended.steps[:2])
    for _ in range(3):
        seen.look(early, measure)
    assert done.wait(PATIENCE)
    wait_for(lambda: not seen._busy)
    # Newer checkpoints are there, but it is not yet time.
    assert seen._next > time.monotonic() + 5
    seen.look(ended, measure)
    assert asked == [ended.steps[1]]
    seen._next = 0.0
    seen.look(ended, measure)
    wait_for(lambda: len(seen.rows()) == 2)
    assert asked == [ended.steps[1], ended.steps[-1]]
    newest = seen.rows()[-1]
    whole = grokking.track(ended)
    assert newest.keys == whole.keys
    assert np.array_equal(newest.restricted_loss, whole.restricted_loss[-1:])
