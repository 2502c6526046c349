"""The Dictionaries page: what one keeps of the model, its latents, and a training."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import workbench
from analyses import feature_visualization as features
from tests.visiting import button, few_documents, printed, texts, visit
from tests.visiting import settled as settled_page
from workbench import Corpus
from workbench.core.models import dictionaries

DOCUMENTS = 200


@pytest.fixture(autouse=True)
def _few_documents() -> Generator[None]:
    with few_documents(DOCUMENTS):
        yield


@pytest.fixture
def model() -> Any:
    return workbench.load_model("grammar-4l")


def opened(section: str, **more: str) -> AppTest:
    return visit("dictionaries", model="grammar-4l", section=section, **more)


def test_quality_is_what_the_library_says(model: Any) -> None:
    _, held_out = Corpus.bundled(model).split(0.7)
    dictionary = dictionaries.bundled_dictionary(model)
    found = features.dictionary_quality(model, held_out, dictionary)
    at = opened("Quality")
    assert found.summary() in texts(at)
    (code,) = [item.value for item in at.code if "load_model" in item.value]
    assert "dictionary = dictionaries.bundled_dictionary(model, " in code


def test_a_latent_is_shown_from_all_sides_and_its_code_runs(model: Any) -> None:
    (place, *_) = dictionaries.list_dictionaries("grammar-4l")
    site, layer = place.split(".")
    seen, _ = Corpus.bundled(model).split(0.7)
    dictionary = dictionaries.bundled_dictionary(model)
    scan = features.top_examples(model, seen, site, layers=[int(layer)], dictionary=dictionary)
    latent = int(scan.density.argmax())
    found = features.latent_dashboard(model, seen, dictionary, latent, scanned=scan)
    at = opened("Latents", latent=str(latent))
    assert found.summary() in texts(at)
    assert features.latent_overview(model, seen, dictionary, scanned=scan).summary() in texts(at)
    (link,) = at.get("page_link")
    assert "unit" in link.proto.page
    (code,) = [item.value for item in at.code if "load_model" in item.value]
    printed(code)


def test_a_dictionary_is_trained_and_looked_at(model: Any) -> None:
    at = opened("Train another")
    for label, value in (("Latents", 16), ("Steps", 50), ("Active at a token (k)", 4)):
        next(item for item in at.number_input if item.label == label).set_value(value)
    at = settled_page(button(at, "Train").click().run())
    assert "16 latents" in texts(at) or "16" in at.markdown[-1].value
    at = settled_page(button(at, "Look at it").click().run())
    box: Any = next(item for item in at.selectbox if item.label == "Dictionary")
    assert box.value.startswith("resid_post.0-topk-16-4-50-0-")
    found = dictionaries.load_dictionary(
        next(iter((workbench.core.runs.default_root() / "dictionaries").glob(f"*/{box.value}")))
    )
    assert found.W_dec.shape == (16, model.cfg.d_model)


def test_a_folder_of_somebody_else_is_opened_and_a_wrong_one_refused(tmp_path: Path) -> None:
    (place, *_) = dictionaries.list_dictionaries("grammar-4l")
    given = shutil.copytree(dictionaries.folder_of("grammar-4l", place), tmp_path / "of a friend")
    at = opened("Train another")
    field: Any = next(item for item in at.text_input if item.label.startswith("Or open"))
    field.set_value(str(tmp_path / "nowhere")).run()
    at = settled_page(button(at, "Open").click().run())
    assert "is no folder of a sparse autoencoder" in at.error[0].value
    field = next(item for item in at.text_input if item.label.startswith("Or open"))
    field.set_value(str(given)).run()
    at = settled_page(button(at, "Open").click().run())
    box: Any = next(item for item in at.selectbox if item.label == "Dictionary")
    assert box.value == f"{place}-of_a_friend"
    assert "explains" in texts(at)
