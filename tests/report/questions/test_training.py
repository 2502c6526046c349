"""The training story of modadd-113 is the one that is known of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import workbench
from analyses import grokking
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.questions import training
from workbench.report.spec import AuditSpec, Questions, Threshold, Training

# What its card and the README say: keys, and the ends of circuit formation and cleanup.
KEYS = "5, 6, 14 and 42"
FORMED, CLEANED = 4_998, 6_748


def on_the_table(name: str, folder: Path, asked: Training | None = None) -> Examination:
    model = workbench.load_model(name)
    spec = AuditSpec(questions=Questions(training=asked or Training()))
    return Examination(model, workbench.fingerprint(model), spec, folder)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_RUNS", str(folder / "runs"))
        patch.setattr(training, "RANDOM", 4)
        patch.setattr(training, "PAIRS", 64)
        patch.setattr(training, "SHUFFLES", 2)
        return training.examine(on_the_table("modadd-113", folder))


def number(told: Answer, start: str) -> float:
    (found,) = (one for one in told.section.measured if one.name.startswith(start))
    assert found.value is not None
    return found.value


def test_its_keys_phases_and_the_drop_are_the_known_ones(told: Answer) -> None:
    assert told.finding.verdict == "pass"
    assert f"frequencies {KEYS}" in told.finding.statement
    assert "by heart by step 150" in told.finding.statement
    assert round(number(told, "end of circuit formation")) == FORMED
    assert round(number(told, "end of cleanup")) == CLEANED
    assert number(told, "sudden drops") == 1
    (drop,) = (one for one in told.section.measured if one.name.startswith("depth of the drop"))
    # The fall lies between the ends of circuit formation and cleanup, as far as intervals tell.
    step = int(drop.name.split()[-1].replace(",", ""))
    assert FORMED < step < CLEANED
    assert drop.p_value is not None and drop.p_value < 0.01


def test_the_loss_at_the_end_is_that_of_the_card(told: Answer) -> None:
    card = workbench.model_card("modadd-113")
    (known,) = (one for one in card.measures if one.name == "test loss")
    # Float32 logits, summed in another order.
    assert np.isclose(number(told, "test loss at the end"), known.value, rtol=1e-3)
    (found,) = (one for one in told.section.measured if one.name == "test loss at the end")
    assert found.n == known.n
    assert found.threshold == "passes up to 0.01, fails above 0.5"
    assert found.low is not None and found.high is not None
    assert found.low < known.value < found.high


def test_what_changed_at_the_drop_is_said_with_its_interval(told: Answer) -> None:
    assert "where the change of the MLP of layer 0 alone brings" in told.finding.statement
    (share,) = (
        one for one in told.section.measured if one.name.endswith("with the MLP of layer 0")
    )
    assert share.n == 64
    assert share.low is not None and share.low > 0.9
    # It is not one component's doing: that must be said with it.
    assert "need not sum to 1" in told.finding.caveat
    assert sum(one.figure is not None for one in told.section.exhibits) == 4


def test_the_circuit_is_compared_with_random_frequencies(told: Answer) -> None:
    (keep,) = (one for one in told.section.measured if one.name.endswith("frequencies alone"))
    (without,) = (one for one in told.section.measured if one.name.endswith("without them"))
    assert keep.value is not None and keep.null_value is not None
    assert without.value is not None and without.null_value is not None
    assert keep.value < 1e-6 < keep.null_value
    assert without.null_value < 1e-6 < without.value


def test_the_threshold_of_the_spec_decides(told: Answer) -> None:
    (loss,) = (one for one in told.section.measured if one.name == "test loss at the end")
    assert loss.low is not None and loss.high is not None
    strict = Threshold.model_validate({"pass": 1e-9, "warn": 1e-8})
    assert strict.verdict(loss.low, loss.high) == "fail"


def test_a_model_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotExamined, match="grammar-4l has no checkpoints"):
        training.examine(on_the_table("grammar-4l", tmp_path))


def test_checkpoints_of_another_model_are_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(on_the_table("modadd-113", tmp_path), fingerprint="0" * 64)
    with pytest.raises(
        NotExamined, match="last checkpoint of modadd-113 .* the audited model 0000"
    ):
        training.examine(other)


def test_a_folder_that_is_no_training_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotExamined, match="no file 'nowhere' beside the spec"):
        training.examine(on_the_table("modadd-113", tmp_path, Training(run="nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotExamined, match="is not a training run or is damaged"):
        training.examine(on_the_table("modadd-113", tmp_path, Training(run="empty")))


def trained(folder: Path, steps: int) -> Examination:
    small = grokking.recipe("nanda-2023", d_model=16, d_head=8, n_heads=2, d_mlp=32, steps=steps)
    task = grokking.Task(p=7, fraction=0.5)
    model = grokking.train(task, small, folder=folder / "run", stop="never").model()
    asked = AuditSpec(questions=Questions(training=Training(run="run")))
    return Examination(model, workbench.fingerprint(model), asked, folder)


def test_a_training_that_never_generalises_fails_and_tells_what_it_can(tmp_path: Path) -> None:
    answer = training.examine(trained(tmp_path, steps=500))
    assert answer.finding.verdict == "fail"
    assert "never the others" in answer.finding.statement
    assert any("20 are needed to tell a sudden drop" in one for one in answer.section.caveats)


def test_too_few_checkpoints_are_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NotExamined, match="phases need at least 6"):
        training.examine(trained(tmp_path, steps=50))
