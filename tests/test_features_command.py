"""The `workbench features` commands: what the library finds, and one sentence for errors."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer import testing

import workbench
from analyses.feature_visualization import (
    DictionaryQuality,
    OptimizedInput,
    OptimizedText,
    TopExamples,
    TrainedDictionary,
    UnitView,
    dictionary_quality,
    optimize_input,
    optimize_text,
    top_examples,
    train_dictionary,
    view_unit,
)
from analyses.feature_visualization.inputs import LogOdds, Target
from workbench import Corpus, __main__
from workbench.commands import terminal
from workbench.commands.features import optimize
from workbench.core import files, runs
from workbench.core.models import dictionaries
from workbench.core.models import sources as model_sources
from workbench.core.networks import mnist1d, sources
from workbench.core.prompts.corpus import CorpusError


def invoke(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, ["features", *arguments])


def said_by(done: testing.Result) -> str:
    return " ".join(done.stdout.split())


@pytest.fixture(scope="module")
def model() -> Any:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def digits() -> mnist1d.Mnist1d:
    return mnist1d.generate()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    words = "The boy left the garden .\n\nSarah gave a map to Thomas .\n\n"
    (tmp_path / "text.txt").write_text(words * 6)
    return tmp_path / "text.txt"


def test_a_scan_says_keeps_and_shows_what_the_library_finds(
    model: Any, file: Path, tmp_path: Path
) -> None:
    done = invoke(
        *("scan", "grammar-4l"),
        *("--corpus", str(file), "--units", "neuron,head", "--layers", "0,1", "-k", "3"),
        *("--sample", "20", "--show", "neuron 0.31", "-o", str(tmp_path / "out")),
    )
    assert done.exit_code == 0, done.output
    corpus = Corpus.open(model, file)
    expected = top_examples(model, corpus, ["neuron", "head"], layers=[0, 1], k=3, sample=20)
    found = TopExamples.load(tmp_path / "out")
    assert found.units == expected.units
    assert np.array_equal(found.top_values, expected.top_values)
    view = view_unit(model, corpus, expected, "neuron 0.31")
    kept = UnitView.load(tmp_path / "out" / "neuron-0.31")
    assert kept.examples == view.examples
    said = said_by(done)
    assert " ".join(view.summary().split()) in said
    assert " ".join(expected.summary().split()) in said
    assert "⟦.⟧" in said
    frame = pd.read_csv(tmp_path / "out" / "units.csv")
    assert len(frame) == 2 * (512 + 4)


def test_optimized_texts_are_those_of_the_library_with_the_corpus_beside_them(
    model: Any, file: Path, tmp_path: Path
) -> None:
    done = invoke(
        *("optimize", "grammar-4l", "neuron 0.31", "--corpus", str(file), "--length", "5"),
        *("--steps", "2", "--restarts", "2", "--seed", "3", "-o", str(tmp_path / "out")),
    )
    assert done.exit_code == 0, done.output
    corpus = Corpus.open(model, file)
    # The corpus' activations, from plain runs of single rows; BOS does not count.
    rows = [torch.tensor(corpus.row(i).astype(np.int64))[None] for i in range(len(corpus))]
    hook = "blocks.0.mlp.hook_post"
    seen = [model.run_with_cache(row, names_filter=hook)[1][hook][0, 1:, 31] for row in rows]
    reference = torch.cat(seen).double().numpy()
    expected = optimize_text(
        model, "neuron 0.31", length=5, iterations=2, restarts=2, seed=3, reference=reference
    )
    found = OptimizedText.load(tmp_path / "out")
    assert found.texts == expected.texts
    assert np.array_equal(found.activation, expected.activation)
    assert found.n_reference == len(reference) == corpus.n_tokens - len(corpus)
    assert np.allclose(found.quantile, expected.quantile, atol=2 / len(reference))
    said = said_by(done)
    assert " ".join(expected.summary().split()) in said
    largest = f"Largest activation at the {len(reference):,} tokens of text.txt: "
    assert f"{largest}{reference.max():.4g}." in said
    assert repr(expected.texts[-1]) in said
    frame = pd.read_csv(tmp_path / "out" / "texts.csv")
    assert list(frame["kind"]).count("front") == len(expected.texts)


def test_without_a_corpus_there_are_no_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_model: object) -> Corpus:
        raise CorpusError("brings no corpus along")

    monkeypatch.setattr(Corpus, "bundled", none)
    done = invoke(
        *("optimize", "grammar-4l", "neuron 0.31", "--method", "gcg", "--least"),
        *("--steps", "1", "--restarts", "1", "--length", "3"),
    )
    assert done.exit_code == 0, done.output
    said = said_by(done)
    assert "Greedy coordinate gradient of neuron 0.31" in said
    assert "lowest activation" in said
    assert "no quantiles: give one as --corpus FILE" in said
    assert " – " in said


def test_optimized_inputs_are_those_of_the_library_against_the_data(
    digits: mnist1d.Mnist1d, tmp_path: Path
) -> None:
    done = invoke(
        *("optimize", "mnist1d-mlp", "layer1.hook_out 3", "--steps", "20", "--restarts", "2"),
        *("--seed", "1", "-o", str(tmp_path / "out")),
    )
    assert done.exit_code == 0, done.output
    expected = optimize_input(
        sources.load_network("mnist1d-mlp"),
        Target("layer1.hook_out", 3),
        steps=20,
        restarts=2,
        seed=1,
        control=True,
        data=digits.test,
    )
    found = OptimizedInput.load(tmp_path / "out")
    assert np.array_equal(found.inputs, expected.inputs)
    assert np.array_equal(np.load(tmp_path / "out" / "inputs.npy"), expected.inputs)
    assert " ".join(expected.summary().split()) in said_by(done)
    assert f"{expected.best_example_activation:.4g}" in said_by(done)
    assert found.n_examples == 1000
    assert {"figure.html", "inputs.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_units_of_networks_as_they_are_written() -> None:
    assert optimize._objective("conv1.hook_out 3") == Target("conv1.hook_out", 3)
    assert optimize._objective("conv1.hook_out 3 at 7") == Target("conv1.hook_out", 3, 7)
    assert optimize._objective(" stem.hook_out 0 at 4,15 ") == Target("stem.hook_out", 0, (4, 15))
    assert optimize._objective("class 2") == LogOdds(2)


TRAINING = (
    *("--layer", "1", "--tokens", "640", "--batch", "32", "--latents", "16", "-k", "4"),
    *("--held-out", "0.25"),
)


@contextlib.contextmanager
def pressed_at_step_ten() -> Generator[Callable[[float, str], None]]:
    """Progress during which Ctrl-C is pressed once."""

    def report(_fraction: float, note: str) -> None:
        if note.startswith("step 10 "):
            signal.raise_signal(signal.SIGINT)

    yield report


def test_a_dictionary_that_was_stopped_goes_on_and_is_that_of_the_library(
    model: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "sae"
    command = ("sae", "grammar-4l", "resid_post", *TRAINING, "--corpus", str(file))
    with monkeypatch.context() as patch:
        patch.setattr(terminal, "progress", pressed_at_step_ten)
        stopped = invoke(*command, "--folder", str(place))
    assert stopped.exit_code == 130
    assert "The same command goes on from there." in said_by(stopped)
    assert [path.name for path in place.iterdir()] == ["checkpoint.safetensors"]

    done = invoke(*command, "-o", str(place))
    assert done.exit_code == 0, done.output
    train, test = Corpus.open(model, file).split(0.75)
    expected = train_dictionary(
        model, train, "resid_post", layer=1, latents=16, k=4, steps=20, batch_tokens=32
    )
    found = TrainedDictionary.load(place / "training")
    assert {name: value.tobytes() for name, value in found.weights.items()} == {
        name: value.tobytes() for name, value in expected.weights.items()
    }
    opened = dictionaries.load_dictionary(place)
    assert torch.equal(opened.W_dec, expected.dictionary.W_dec)
    quality = dictionary_quality(model, test, opened)
    kept = DictionaryQuality.load(place / "quality")
    assert kept.explained == quality.explained
    assert kept.n_rows == len(test) == 3
    said = said_by(done)
    assert " ".join(expected.summary().split()) in said
    assert " ".join(quality.summary().split()) in said
    assert f"kept in {place}" in said.replace(" ", "").replace("keptin", "kept in ")
    names = {path.relative_to(place).as_posix() for path in place.rglob("*.csv")}
    assert names == {"training/curve.csv", "quality/measures.csv"}
    assert not (place / "checkpoint.safetensors").exists()

    other = invoke(*command, "--seed", "1", "-o", str(place))
    assert other.exit_code == 2
    assert "holds another training: its seed is 0, not 1" in " ".join(other.stderr.split())

    searched = invoke(
        *("optimize", "grammar-4l", "resid_post 1.5", "--dictionary", str(place), "--length", "3"),
        *("--steps", "1", "--restarts", "1", "--corpus", str(file)),
    )
    assert searched.exit_code == 0, searched.output
    assert "latent 1.5" in said_by(searched)
    hook = "blocks.1.hook_resid_post"
    rows = [Corpus.open(model, file).row(i).astype(np.int64) for i in range(12)]
    caches = [model.run_with_cache(torch.tensor(row)[None], names_filter=hook)[1] for row in rows]
    largest = max(float(opened.encode(cache[hook])[0, 1:, 5].max()) for cache in caches)
    assert f"tokens of text.txt: {largest:.4g}." in said_by(searched)


def test_texts_for_a_latent_of_a_dictionary_that_the_model_brings_along(
    model: Any, file: Path
) -> None:
    done = invoke(
        *("optimize", "grammar-4l", "resid_post 2.5", "--dictionary", "resid_post.2"),
        *("--length", "3", "--steps", "1", "--restarts", "1", "--corpus", str(file)),
    )
    assert done.exit_code == 0, done.output
    opened = dictionaries.bundled_dictionary(model, "resid_post.2")
    hook = "blocks.2.hook_resid_post"
    rows = [Corpus.open(model, file).row(i).astype(np.int64) for i in range(12)]
    caches = [model.run_with_cache(torch.tensor(row)[None], names_filter=hook)[1] for row in rows]
    largest = max(float(opened.encode(cache[hook])[0, 1:, 5].max()) for cache in caches)
    said = said_by(done)
    assert "latent 2.5" in said
    assert f"tokens of text.txt: {largest:.4g}." in said


def test_what_a_result_is_saved_with_is_whole_or_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path, model: Any
) -> None:
    found = top_examples(model, Corpus.open(model, file), "head", layers=[0], k=2, sample=5)
    terminal.save(found, tmp_path / "out", {"units": found.to_frame()})
    assert (tmp_path / "out/units.csv").read_text() == found.to_frame().to_csv(index=False)
    assert "Plotly.newPlot" in (tmp_path / "out/figure.html").read_text(encoding="utf-8")
    whole = {path.name for path in (tmp_path / "out").iterdir()}

    def full(_old: object, new: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(ValueError, match=r"cannot write .*units\.csv: No space left on device"):
        terminal.save(found, tmp_path / "other", {"units": found.to_frame()})
    assert {path.name for path in (tmp_path / "other").iterdir()} == whole - {
        "units.csv",
        "figure.html",
    }


def test_a_dictionary_without_a_folder_is_kept_among_the_stored_ones(
    file: Path,
) -> None:
    done = invoke("sae", "grammar-4l", "mlp_out", *TRAINING, "--corpus", str(file))
    assert done.exit_code == 0, done.output
    (place,) = (runs.default_root() / "dictionaries").iterdir()
    made = TrainedDictionary.load(place / "training")
    assert made.hook == "blocks.1.hook_mlp_out"
    assert len(place.name) == 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scan", "grammar-4l", "--units", "neurons"), "is no unit: write kind layer.index"),
        (("scan", "grammar-4l", "--layers", "7"), "layers 0 to 3, not 7"),
        (("scan", "grammar-4l", "--corpus", "missing.txt"), "is not there"),
        (("scan", "grammar-4l", "--corpus", "picture.png"), "expected a file ending in"),
        (("scan", "grammar-4l", "-k", "0"), "k of at least 1"),
        (("scan", "grammar-5l"), "grammar-5l"),
        (("optimize", "grammar-5l", "neuron 0.1"), "grammar-5l"),
        (("optimize", "grammar-4l", "neuron 9.1"), "layers 0 to 3, not 9"),
        (("optimize", "grammar-4l", "layer0.hook_out 3"), "is no unit: write kind layer.index"),
        (("optimize", "grammar-4l", "neuron 0.1", "--corpus", "a.txt"), "a.txt is not there"),
        (("optimize", "grammar-4l", "neuron 0.1", "--dictionary", "no"), "no folder of a sparse"),
        (
            ("optimize", "grammar-4l", "resid_post 2.1", "--dictionary", "resid_post.3"),
            "grammar-4l brings along resid_post.2",
        ),
        (("optimize", "mnist1d-mlp", "neuron 0.1"), "is no unit of a network: write a hook point"),
        (("optimize", "mnist1d-mlp", "layer9.hook_out 1"), "layer9.hook_out"),
        (("optimize", "mnist1d-mlp", "layer0.hook_out 100"), "has 100 channels, counted from 0"),
        (("optimize", "mnist1d-mlp", "class 1", "--method", "gcg"), "leave out --method"),
        (("optimize", "mnist1d-mlp", "class 1", "--steps", "0"), "steps = 0"),
        (("sae", "grammar-4l", "resid_mid", "--layer", "1"), "resid_mid"),
        (("sae", "grammar-4l", "z", "--layer", "4"), "layers 0 to 3, not 4"),
        (("sae", "grammar-4l", "z", "--layer", "1", "--architecture", "gated"), "'gated'"),
        (("sae", "grammar-4l", "z", "--layer", "1", "--tokens", "9"), "enough tokens for one step"),
        (("sae", "grammar-4l", "z", "--layer", "1", "--held-out", "1"), "between 0 and 1"),
        (("sae", "grammar-4l", "z", "--layer", "1", "--latents", "9"), "expected 1 to 9"),
        (("sae", "grammar-4l", "z", "--layer", "1", "-o", "{here}"), "holds no training of a"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_two(
    arguments: tuple[str, ...],
    said: str,
    model: Any,
    digits: mnist1d.Mnist1d,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Loading the model and making all of the data takes seconds, at each of these.
    monkeypatch.setattr(mnist1d, "generate", lambda: digits)
    load = model_sources.load_model
    monkeypatch.setattr(
        model_sources,
        "load_model",
        lambda name, **how: model if name == "grammar-4l" else load(name, **how),
    )
    monkeypatch.setattr(Corpus, "bundled", functools.partial(Corpus.bundled, documents=30))
    done = invoke(*(word.format(here=file.parent) for word in arguments))
    assert done.exit_code == 2, done.output
    assert {path.name for path in file.parent.rglob("*")} <= {"text.txt"}, "nothing is written"
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
