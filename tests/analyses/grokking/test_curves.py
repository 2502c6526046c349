"""Reading training curves: every format gives the numbers that were written, bad input a reason."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch.utils import tensorboard

from analyses.grokking import curves

STEPS = [10 * i for i in range(1, 31)]
LOSS = [4.0 / i for i in range(1, 31)]
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return file


def table(header: str, *rows: str) -> str:
    return "\n".join([header, *rows]) + "\n"


def is_the_curve(curve: curves.Curve, scale: float = 1.0) -> bool:
    return curve.steps.tolist() == STEPS and np.allclose(curve.values, scale * np.array(LOSS))


def test_a_csv_file_gives_the_held_out_loss_unless_another_column_is_named(write: Write) -> None:
    rows = [f"{s},{v},{2 * v},0.5" for s, v in zip(STEPS, LOSS, strict=True)]
    path = write("run.csv", table("step,train_loss,test_loss,accuracy", *rows))
    assert curves.columns_of(path) == ("train_loss", "test_loss", "accuracy")
    assert curves.read_curve(path).name == "test_loss"
    assert is_the_curve(curves.read_curve(path), scale=2)
    assert is_the_curve(curves.read_curve(path, column="train_loss"))
    assert curves.read_curve(path).source == str(path)


def test_a_step_column_can_be_named_and_without_one_rows_are_counted(write: Write) -> None:
    rows = [f"{s};{v}" for s, v in zip(STEPS, LOSS, strict=True)]
    path = write("run.csv", table("tokens;loss", *rows))
    assert is_the_curve(curves.read_curve(path, step_column="tokens"))
    assert curves.read_curve(path, column="loss").steps.tolist() == list(range(30))


def test_one_row_a_value_is_sorted_into_its_series(write: Write) -> None:
    both = list(zip(STEPS, LOSS, strict=True))
    rows = [f"train,{s},{v}" for s, v in both] + [f"test,{s},{3 * v}" for s, v in both]
    path = write("long.csv", table("series,epoch,value", *rows))
    assert curves.columns_of(path) == ("train", "test")
    assert is_the_curve(curves.read_curve(path), scale=3)
    assert is_the_curve(curves.read_curve(path, column="train"))


def test_the_extremes_in_a_wandb_export_are_no_curves(write: Write) -> None:
    header = '"Step","run-1 - loss","run-1 - loss__MIN","run-1 - loss__MAX"'
    rows = [f'"{s}","{v}","0","9"' for s, v in zip(STEPS, LOSS, strict=True)]
    path = write("wandb.csv", table(header, *rows))
    assert curves.columns_of(path) == ("run-1 - loss",)
    assert is_the_curve(curves.read_curve(path))


def test_two_runs_in_one_export_have_to_be_told_apart(write: Write) -> None:
    rows = [f"{s},{v},{v}" for s, v in zip(STEPS, LOSS, strict=True)]
    path = write("wandb.csv", table("Step,a - loss,b - loss", *rows))
    with pytest.raises(curves.CurveError, match="name the one you mean: a - loss, b - loss"):
        curves.read_curve(path)


def test_json_lines_skip_rows_without_the_column_and_the_last_of_equal_steps_stands(
    write: Write,
) -> None:
    rows = [{"_step": s, "loss": v, "_runtime": 1.0} for s, v in zip(STEPS, LOSS, strict=True)]
    rows = [{"_step": 10, "loss": 99.0, "_runtime": 0.0}, *reversed(rows)]
    other = [{"_step": s, "accuracy": 0.1} for s in STEPS]
    path = write("history.jsonl", "\n".join(json.dumps(row) for row in [*rows, *other]))
    assert curves.columns_of(path) == ("loss", "accuracy")
    assert is_the_curve(curves.read_curve(path))


def test_the_state_of_a_trainer_offers_its_log(write: Write) -> None:
    history: list[dict[str, float]] = []
    for s, v in zip(STEPS, LOSS, strict=True):
        history += [{"epoch": s / 100, "loss": 5 * v, "step": s}, {"eval_loss": v, "step": s}]
    state = {"best_metric": None, "log_history": history, "global_step": 300}
    path = write("trainer_state.json", json.dumps(state, indent=1))
    assert curves.columns_of(path) == ("epoch", "loss", "eval_loss")
    assert is_the_curve(curves.read_curve(path))
    assert is_the_curve(curves.read_curve(path, column="loss"), scale=5)


def write_events(folder: Path) -> None:
    with tensorboard.SummaryWriter(str(folder)) as writer:
        for s, v in zip(STEPS, LOSS, strict=True):
            writer.add_scalar("eval/loss", v, s)


def test_tensorboard_events_are_read_from_the_file_or_its_folder(tmp_path: Path) -> None:
    write_events(tmp_path / "events")
    (file,) = (tmp_path / "events").iterdir()
    for path in (tmp_path / "events", file):
        assert curves.columns_of(path) == ("eval/loss",)
        assert is_the_curve(curves.read_curve(path))


def test_without_tensorboard_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing", None)
    with pytest.raises(curves.CurveError, match="pip install tensorboard"):
        curves.read_curve(tmp_path)


@pytest.mark.parametrize("spelt", ["nan", "NaN", "inf", "-Infinity"])
def test_a_diverged_run_is_an_error_with_its_step(write: Write, spelt: str) -> None:
    rows = [f"{s},{spelt if s == 70 else 1.0}" for s in STEPS]
    path = write("run.csv", table("step,loss", *rows))
    with pytest.raises(curves.CurveError, match="at step 70: the run diverged there"):
        curves.read_curve(path)


def test_empty_cells_are_skipped(write: Write) -> None:
    rows = [f"{s},{v}" for s, v in zip(STEPS, LOSS, strict=True)]
    path = write("run.csv", table("step,loss", "5,", *rows, ",7"))
    assert is_the_curve(curves.read_curve(path))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "step,loss\n", "a header and no rows"),
        ("a.csv", table("step,loss", *(f"{i},1" for i in range(19))), "19 points"),
        ("a.csv", table("step,name", "1,x", "2,y"), "no column of numbers"),
        ("a.csv", table("step,loss", *(f"{i}.5,1" for i in range(30))), "the step 0.5; expected"),
        ("a.csv", table("step,loss", *(f"{i}th,1" for i in range(30))), "'0th' .* is no number"),
        ("a.jsonl", '{"loss": 1}\n{"loss": ', "line 2 is no JSON object"),
        ("a.json", "[1, 2]", "expected one JSON object a line"),
        ("a.json", '{"log_history": 3}', "expected one JSON object a line"),
        ("a.csv", table("step,x,y", *(f"{i},1,2" for i in range(30))), "name the one you mean: x"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_reason(
    write: Write, name: str, text: str, reason: str
) -> None:
    with pytest.raises(curves.CurveError, match=reason):
        curves.read_curve(write(name, text))


def test_a_column_that_is_not_there_is_answered_with_those_that_are(write: Write) -> None:
    rows = [f"{s},1,2" for s in STEPS]
    path = write("run.csv", table("step,loss,accuracy", *rows))
    with pytest.raises(curves.CurveError, match="no column 'los'; there are: loss, accuracy"):
        curves.read_curve(path, column="los")
    with pytest.raises(curves.CurveError, match="no step column 'time'"):
        curves.read_curve(path, step_column="time")


def test_files_that_are_missing_too_large_or_no_text_are_refused(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(curves.CurveError, match="does not exist"):
        curves.read_curve(tmp_path / "none.csv")
    with pytest.raises(curves.CurveError, match="no TensorBoard event files"):
        curves.read_curve(tmp_path)
    (tmp_path / "weights.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(curves.CurveError, match="cannot be read as text"):
        curves.read_curve(tmp_path / "weights.csv")
    monkeypatch.setattr(curves, "LARGEST_FILE", 2**20)
    with pytest.raises(curves.CurveError, match="larger than 1 MB"):
        curves.read_curve(write("large.csv", "1" * (2**20 + 1)))


def test_the_published_curve_is_read(refdata: Path) -> None:
    path = refdata / "nanda_mainline_loss_curve_digitised.csv"
    assert set(curves.columns_of(path)) == {"train", "test"}
    curve = curves.read_curve(path)
    assert (curve.name, len(curve.steps), curve.steps[-1]) == ("test", 78, 49991)
    assert curve.values[[0, -1]] == pytest.approx([4.76877, 3.11808e-07])
