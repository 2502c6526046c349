"""The `workbench features` commands: what the library finds, and one sentence for errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer import testing

import workbench
from analyses.feature_visualization import TopExamples, UnitView, top_examples, view_unit
from workbench import Corpus, __main__


def invoke(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, ["features", "scan", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    words = "The boy left the garden .\n\nSarah gave a map to Thomas .\n\n"
    (tmp_path / "text.txt").write_text(words * 6)
    return tmp_path / "text.txt"


def test_a_scan_says_keeps_and_shows_what_the_library_finds(file: Path, tmp_path: Path) -> None:
    done = invoke(
        "grammar-4l",
        *("--corpus", str(file), "--units", "neuron,head", "--layers", "0,1", "-k", "3"),
        *("--sample", "20", "--show", "neuron 0.31", "-o", str(tmp_path / "out")),
    )
    assert done.exit_code == 0, done.output
    model = workbench.load_model("grammar-4l")
    corpus = Corpus.open(model, file)
    expected = top_examples(model, corpus, ["neuron", "head"], layers=[0, 1], k=3, sample=20)
    found = TopExamples.load(tmp_path / "out")
    assert found.units == expected.units
    assert np.array_equal(found.top_values, expected.top_values)
    view = view_unit(model, corpus, expected, "neuron 0.31")
    kept = UnitView.load(tmp_path / "out" / "neuron-0.31")
    assert kept.examples == view.examples
    said = " ".join(done.stdout.split())
    assert " ".join(view.summary().split()) in said
    assert " ".join(expected.summary().split()) in said
    assert "⟦.⟧" in said
    frame = pd.read_csv(tmp_path / "out" / "units.csv")
    assert len(frame) == 2 * (512 + 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("grammar-4l", "--units", "neurons"), "is no unit: write kind layer.index"),
        (("grammar-4l", "--layers", "7"), "layers 0 to 3, not 7"),
        (("grammar-4l", "--corpus", "missing.txt"), "is not there"),
        (("grammar-4l", "--corpus", "picture.png"), "expected a file ending in"),
        (("grammar-4l", "-k", "0"), "k of at least 1"),
        (("grammar-5l",), "grammar-5l"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_two(
    arguments: tuple[str, ...], said: str
) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
