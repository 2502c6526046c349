"""Pairs, concepts, corpora and curves in files that somebody else has written."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import workbench
from analyses.grokking import curves, drops
from tests.fuzz import corpus, drawing, effort, watching
from workbench import Concept, ContrastPairs, Corpus
from workbench.core import runs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PAIR: dict[str, Any] = {
    "clean": "the dog near the cats",
    "corrupted": "the dogs near the cat",
    "answers": [" runs", 3],
    "wrong_answers": [" run"],
    "spans": {"noun": "dog", "both": [[0, 3], "the"]},
}
CONCEPT: list[dict[str, Any]] = [
    {"tokens": [3, 4], "labels": [1, 0]},
    {"text": "the cat runs", "spans": [[0, 3]]},
    {"text": "the cat runs", "label": True},
    {"text": "the cat runs", "labels": [1, 0, -1]},
]
JSON = {**corpus.ANY_TEXT, **corpus.ANY_JSON}


def written(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


@functools.cache
def model() -> TransformerBridge:
    """A bundled model with a tokenizer that knows few words.

    Not a fixture: Hypothesis would print all of it where a test fails.
    """
    return workbench.load_model("grammar-4l")


def read_pairs(name: str, content: bytes) -> None:
    with watching.watched():
        watching.refused(lambda: ContrastPairs.from_bytes(model(), content, name=name))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".txt"])
def test_bad_pairs_are_refused(ending: str, subtests: pytest.Subtests) -> None:
    every = {**JSON, **corpus.PAIRS_JSON, **corpus.PAIRS_CSV}
    for name, content in every.items():
        with subtests.test(name):
            read_pairs(f"pairs{ending}", content)


@effort.inputs(30)
@given(record=drawing.altered(PAIR), ending=st.sampled_from((".json", ".jsonl")))
def test_altered_pairs_are_read_or_refused(record: Any, ending: str) -> None:
    content = drawing.json_bytes([PAIR, record] if ending == ".json" else record)
    read_pairs(f"pairs{ending}", content)


@effort.inputs(20)
@given(content=drawing.damaged(b"clean,corrupted,answer,wrong_answer\nthe dog,the cat,runs,run\n"))
def test_damaged_tables_of_pairs_are_read_or_refused(content: bytes) -> None:
    read_pairs("pairs.csv", content)


def read_concept(file: Path) -> None:
    for value in (None, "1"):
        with watching.watched():
            watching.refused(functools.partial(Concept.from_file, file, model=model(), value=value))


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json"])
def test_bad_concepts_are_refused(tmp_path: Path, ending: str, subtests: pytest.Subtests) -> None:
    for name, content in {**JSON, **corpus.CONCEPTS_JSONL, **corpus.PAIRS_CSV}.items():
        with subtests.test(name):
            read_concept(written(tmp_path, f"concept{ending}", content))


@effort.inputs(30)
@given(data=st.data(), record=st.sampled_from(CONCEPT))
def test_altered_concepts_are_read_or_refused(
    tmp_path: Path, data: st.DataObject, record: dict[str, Any]
) -> None:
    lines = [record, data.draw(drawing.altered(record))]
    content = b"\n".join(map(drawing.json_bytes, lines))
    read_concept(written(tmp_path, "concept.jsonl", content))


def read_corpus(file: Path, cache: Path) -> None:
    with watching.watched(cache):
        made = watching.refused(lambda: Corpus.open(model(), file, cache=cache))
        if made is not None:
            assert sum(len(chunk.rows) for chunk in made.chunks()) == len(made)
    assert not [one for one in cache.glob(".*")], "what was begun is not left behind"


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".npy"])
def test_bad_corpora_are_refused(tmp_path: Path, ending: str, subtests: pytest.Subtests) -> None:
    for name, content in {**JSON, **corpus.CORPORA_JSONL}.items():
        with subtests.test(name):
            read_corpus(written(tmp_path, f"corpus{ending}", content), tmp_path / "cache")


@effort.inputs(20)
@given(data=st.data(), shape=st.sampled_from(((12,), (3, 4), (1, 0), (2, 2, 2))))
def test_damaged_arrays_of_tokens_are_read_or_refused(
    tmp_path: Path, data: st.DataObject, shape: tuple[int, ...]
) -> None:
    number = data.draw(st.sampled_from((np.int64, np.uint8, np.float32, np.dtype("U3"), object)))
    file = tmp_path / "tokens.npy"
    np.save(file, np.ones(shape, dtype=number), allow_pickle=True)
    read_corpus(file, tmp_path / "cache")
    file.write_bytes(data.draw(drawing.damaged(file.read_bytes())))
    read_corpus(file, tmp_path / "cache")


def read_curve(file: Path) -> None:
    with watching.watched():
        found = watching.refused(lambda: curves.read_curve(file))
        if found is not None:
            watching.refused(lambda: drops.detect_drops(found, n_simulations=20))


def test_bad_curves_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for name, content in {**JSON, **corpus.CURVES}.items():
        with subtests.test(name):
            read_curve(written(tmp_path, "curve.csv", content))
    for name, content in corpus.ANY_TEXT.items():
        with subtests.test(name, reader="TensorBoard"):
            read_curve(written(tmp_path, "events.out.tfevents.1", content))


@pytest.mark.parametrize(
    "arguments",
    [
        ("patch", "grammar-4l", "--pairs"),
        ("grok", "drops"),
        ("features", "scan", "grammar-4l", "--corpus"),
    ],
    ids=lambda words: words[0],
)
def test_a_command_says_in_a_sentence_what_is_wrong(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    names = {"patch": "x.json", "grok": "x.csv", "features": "x.jsonl"}
    name = names[arguments[0]]
    hostile = corpus.PAIRS_JSON["controls"] + b"\n" + corpus.CONCEPTS_JSONL["controls"]
    with watching.watched(tmp_path, runs.default_root()):
        assert watching.command(*arguments, str(written(tmp_path, name, hostile))).exit_code == 2
        assert watching.command(*arguments, str(tmp_path / f"{'a' * 300}{name}")).exit_code == 2
