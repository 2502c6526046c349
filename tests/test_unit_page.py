"""The Unit page: one unit from all sides, each as the library says it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import attention, weights
from analyses import feature_visualization as features
from tests.visiting import button, code_of, few_documents, printed, settled, texts, visit
from workbench import ContrastPairs, Corpus
from workbench.core import notes, runs
from workbench.core.models import card, dictionaries

DOCUMENTS = 120
UNIT = "neuron 0.31"
# What comes before a unit is run once only when it is added at many strengths.
LATE = "neuron 3.31"


@pytest.fixture(autouse=True)
def _few_documents() -> Generator[None]:
    with few_documents(DOCUMENTS):
        yield


@pytest.fixture
def model() -> Any:
    return workbench.load_model("grammar-4l")


def opened(section: str, unit: str = UNIT, **more: str) -> AppTest:
    return visit("unit", model="grammar-4l", unit=unit, section=section, **more)


def test_its_whole_range(model: Any) -> None:
    at = opened("Range")
    seen, held_out = Corpus.bundled(model).split(0.7)
    scan = features.top_examples(model, seen, "neuron")
    view = features.view_unit(model, seen, scan, UNIT)
    assert view.summary() in texts(at)
    means = features.token_means(model, seen, UNIT)
    assert features.believe(model, held_out, UNIT, means).summary() in texts(at)
    assert view.triggers[0].text[0] in texts(at)
    assert f"features.view_unit(model, seen, scan, {UNIT!r})" in code_of(at)


def test_a_latent_of_a_dictionary_that_comes_along(model: Any) -> None:
    (place, *_) = dictionaries.list_dictionaries("grammar-4l")
    layer = place.split(".")[1]
    at = opened("Range", f"latent {layer}.0", dictionary=place)
    seen, _ = Corpus.bundled(model).split(0.7)
    dictionary = dictionaries.bundled_dictionary(model, place)
    site = place.split(".")[0]
    scan = features.top_examples(model, seen, site, layers=[int(layer)], dictionary=dictionary)
    view = features.view_unit(model, seen, scan, f"latent {layer}.0", dictionary=dictionary)
    assert view.summary() in texts(at)
    script = code_of(at)
    assert "dictionary = dictionaries.bundled_dictionary" in script
    printed(script)


def test_groups_of_its_largest_activations(model: Any) -> None:
    seen, _ = Corpus.bundled(model).split(0.7)
    found = features.separated_groups(model, seen, UNIT)
    at = opened("Groups")
    assert found.summary() in texts(at)
    assert f"Group {found.number}:" in texts(at)
    assert f"Group {found.number + 1}:" not in texts(at)


def test_a_description_is_scored_and_its_scores_go_with_a_note(model: Any) -> None:
    _, held_out = Corpus.bundled(model).split(0.7)
    scores = features.believe(model, held_out, UNIT, features.TokenSet.of(model, ["."]))
    at = opened("Description", **{"description-text": "."})
    assert scores.summary() in texts(at)
    box = next(item for item in at.text_input if item.key == "description-text")
    assert "outside the vocabulary" in settled(box.set_value("zebra").run()).error[0].value
    sections = next(group for group in at.button_group if group.key == "section")
    at = settled(sections.set_value("Notes").run())
    at.text_area[0].set_value("fires at the end of a sentence")
    settled(button(at, "Save").click().run())
    mark, root = card.fingerprint(model), runs.default_root()
    (note,) = notes.read(root, mark)
    assert (note.unit, note.text) == (UNIT, "fires at the end of a sentence")
    assert note.evidence is not None
    assert note.evidence.correlation == pytest.approx(scores.correlation)
    at = opened("Notes")
    assert at.text_area[0].value == note.text
    settled(button(at, "Delete").click().run())
    assert notes.read(root, mark) == ()


def test_texts_that_drive_it(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {"length": 4, "restarts": 1, "iterations": 5}
    plain = features.optimize_text

    def short(*arguments: Any, **settings: Any) -> Any:
        return plain(*arguments, **{**settings, **quick, "population": 2, "children": 8})

    monkeypatch.setattr(features, "optimize_text", short)
    at = opened("Optimized texts")
    shown = texts(at)
    assert "Pareto front" in shown
    assert "How far outside of the data is that?" in shown
    assert "held-out tokens with a correlation of" in shown
    assert "near = features.Neighbourhood.of(model" in code_of(at)


def test_steering_with_it(model: Any) -> None:
    at = opened("Steering", LATE, task="agreement", n="8")
    pairs = ContrastPairs.from_task(model, "agreement", n=8, seed=0)
    _, held_out = Corpus.bundled(model).split(0.7)
    found = features.steer(model, pairs, held_out, LATE)
    assert found.summary() in texts(at)
    slider: Any = next(item for item in at.select_slider if item.label == "Strength")
    assert np.isclose(float(slider.value), found.strongest)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("neuron 9.1", "the model has layers 0 to 3"),
        ("neuron 0.99999", "not 99999"),
        ("the third one", "is no unit"),
        ("latent 1.0", "pick the dictionary"),
        ("<img src=x>", "is no unit"),
    ],
)
def test_what_is_no_unit_is_a_sentence(unit: str, said: str) -> None:
    assert said in opened("Range", unit).error[0].value


@pytest.mark.parametrize("unit", ["neuron 3.7", "head 1.2"])
def test_what_its_weights_read_and_write(unit: str, model: Any) -> None:
    at = opened("Weights", unit)
    kind, _, number = unit.partition(" ")
    layer, index = map(int, number.split("."))
    ask: Any = weights.neuron if kind == "neuron" else weights.head
    assert ask(model, layer, index).summary() in texts(at)
    code = code_of(at)
    assert f"weights.{kind}(model, {layer}, {index})" in code
    assert "features" not in code
    assert "Corpus" not in code
    if kind == "head":
        settled(button(at, "Score every head").click().run())
        scores = attention.score_heads(model)
        assert f"{unit}: {', '.join(scores.labels(layer, index))}." in texts(at)
