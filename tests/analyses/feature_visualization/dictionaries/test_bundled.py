"""The dictionary that grammar-4l brings along: what made it, and what it knows of the grammar."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import sae_lens
import safetensors.numpy
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import dictionaries, examples
from analyses.feature_visualization.dictionaries import bundled, dashboard, labels, variables
from workbench.core.models import card
from workbench.core.models import dictionaries as stored
from workbench.core.prompts.corpus import Corpus

FOLDER = stored.folder_of("grammar-4l", bundled.SETUP.place)
# Documents of seeds that neither the model nor the dictionary was trained on.
MEASURED_SEED, CHECKED_SEED = 3, 5


@pytest.fixture(scope="module")
def speaker() -> TransformerBridge:
    return workbench.load_model("grammar-4l", device="cpu")


@pytest.fixture(scope="module")
def known(speaker: TransformerBridge) -> labels.LabelledTokens:
    return labels.grammar_labels(speaker, documents=500, seed=CHECKED_SEED)


@pytest.fixture(scope="module")
def matches(speaker: TransformerBridge, known: labels.LabelledTokens) -> variables.VariableMatches:
    found = stored.bundled_dictionary(speaker)
    return variables.match_variables(speaker, known, found, n_resamples=100)


@pytest.fixture(scope="module")
def scanned(speaker: TransformerBridge, known: labels.LabelledTokens) -> examples.TopExamples:
    found = stored.bundled_dictionary(speaker)
    return examples.top_examples(
        speaker, known.corpus, "resid_post", layers=[2], sample=1000, dictionary=found
    )


def test_the_folder_says_what_made_it_and_no_more(speaker: TransformerBridge) -> None:
    said = json.loads((FOLDER / "cfg.json").read_text())
    metadata = said["metadata"]
    assert metadata["setup"] == dataclasses.asdict(bundled.SETUP)
    assert metadata["model_fingerprint"] == card.fingerprint(speaker)
    assert metadata["script"] == bundled.SCRIPT
    assert metadata["hook_name"] == "blocks.2.hook_resid_post"
    assert said["architecture"] == "topk" and said["k"] == bundled.SETUP.k
    files = sorted(FOLDER.iterdir())
    assert [file.name for file in files] == ["cfg.json", "sae_weights.safetensors"]
    assert sum(file.stat().st_size for file in files) < 1_000_000
    # No path of the machine that made it.
    text = (FOLDER / "cfg.json").read_text()
    assert str(Path.home()) not in text and str(FOLDER.parents[5]) not in text
    assert not any(value.startswith("/") for value in _strings(said))


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in _strings(one)]
    return [value] if isinstance(value, str) else []


def test_it_is_opened_by_name_and_by_sae_lens(speaker: TransformerBridge) -> None:
    assert stored.list_dictionaries("grammar-4l") == ["resid_post.2"]
    found = stored.bundled_dictionary(speaker)
    assert found.W_dec.shape == (bundled.SETUP.latents, 128)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    named = stored.bundled_dictionary(speaker, "resid_post.2")
    assert torch.equal(named.W_dec, found.W_dec)
    plain = sae_lens.SAE.load_from_disk(FOLDER, device="cpu")
    assert torch.equal(plain.W_enc, found.W_enc)


def test_models_and_places_that_have_none(speaker: TransformerBridge) -> None:
    with pytest.raises(ValueError, match=r"no dictionary of 'resid_post\.0' along; expected resid"):
        stored.bundled_dictionary(speaker, "resid_post.0")
    other = workbench.load_model("modadd-113", device="cpu")
    with pytest.raises(ValueError, match=r"modadd-113 brings no dictionary along \(these do: gram"):
        stored.bundled_dictionary(other)
    assert stored.list_dictionaries("modadd-113") == stored.list_dictionaries("gpt2") == []


def test_the_script_trains_and_writes_such_a_folder(
    speaker: TransformerBridge, tmp_path: Path
) -> None:
    few = dataclasses.replace(bundled.SETUP, steps=2, batch_tokens=64, documents=20)
    made = bundled.train(speaker, few)
    bundled.write(made, tmp_path / "one")
    bundled.write(bundled.train(speaker, few), tmp_path / "two")
    weights = "sae_weights.safetensors"
    assert (tmp_path / "one" / weights).read_bytes() == (tmp_path / "two" / weights).read_bytes()
    said = json.loads((tmp_path / "one" / "cfg.json").read_text())
    kept = json.loads((FOLDER / "cfg.json").read_text())
    assert said["metadata"].pop("setup") == dataclasses.asdict(few)
    kept["metadata"].pop("setup")
    measured = ("l0", "num_dead_features", "context_size")
    for one in (said, kept):
        for name in measured:
            one["metadata"].pop(name, None)
    assert said == kept
    # Trained arrays of the same names and shapes.
    mine, theirs = (safetensors.numpy.load_file(f / weights) for f in (tmp_path / "one", FOLDER))
    assert {n: a.shape for n, a in mine.items()} == {n: a.shape for n, a in theirs.items()}
    assert not np.array_equal(mine["W_dec"], theirs["W_dec"])


def test_it_keeps_what_the_model_does(speaker: TransformerBridge) -> None:
    corpus = Corpus.bundled(speaker, documents=150, seed=MEASURED_SEED)
    found = dictionaries.dictionary_quality(
        speaker, corpus, stored.bundled_dictionary(speaker), n_resamples=200
    )
    # Measured on 400 documents: 0.959 and 0.996; random directions of the same L0: 0.61 and 0.90.
    assert found.explained.low > 0.94 and found.control_explained.high < 0.7
    assert found.recovered.low > 0.98 and found.control_recovered.high < 0.95
    assert found.l0.value == bundled.SETUP.k
    assert found.dead < 0.1 and found.dense < 0.05


def test_its_latents_are_the_grammars_variables(matches: variables.VariableMatches) -> None:
    found = matches
    # Measured: latents 0.60, random directions through the same TopK 0.35.
    shares = found.share_at_bar()
    assert found.recovered.mean() > 0.5
    assert shares["random directions"] < min(0.45, shares["latents"] - 0.1)
    frame = found.to_frame().set_index(["variable", "value"])
    # What the model must know at the word before its answer.
    for variable in ("number of the subject", "gender of the person"):
        decides = frame.loc[f"{variable}, where it decides"]
        assert (decides["auc"] > 0.95).all() and decides["recovered"].all()
    # What it has no use for is not there, neither in latents nor in any control.
    assert not frame.loc["mention that gives, where it decides", "recovered"].any()
    # At the same bar, latents have better F1 than neurons and coordinates.
    f1 = {one.name: np.median(one.f1) for one in (found.latents, *found.controls)}
    assert f1["latents"] > max(value for name, value in f1.items() if name != "latents")


@pytest.mark.parametrize(
    ("variable", "value", "answer"),
    [
        ("number of the subject", "plural", "are"),
        ("number of the subject", "singular", "is"),
        ("gender of the person", "female", "she"),
    ],
)
def test_the_latent_of_what_decides_a_word_promotes_that_word(
    speaker: TransformerBridge,
    known: labels.LabelledTokens,
    matches: variables.VariableMatches,
    scanned: examples.TopExamples,
    variable: str,
    value: str,
    answer: str,
) -> None:
    frame = matches.to_frame().set_index(["variable", "value"])
    latent = int(frame.loc[(f"{variable}, where it decides", value), "latent"])
    found = dashboard.latent_dashboard(
        speaker, known.corpus, stored.bundled_dictionary(speaker), latent, scanned=scanned
    )
    assert found.status == "sparse"
    assert found.view.promoted[0][0] == answer and found.view.output_p_value <= 0.05
    assert f"promotes '{answer}'" in found.summary()
