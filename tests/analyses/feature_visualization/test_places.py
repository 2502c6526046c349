"""Places of a corpus: against plain runs of single rows, and in a model without a tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import places
from workbench.core.planted import known_units, word_level
from workbench.core.prompts.corpus import Corpus


@pytest.fixture(scope="module")
def documents(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=40)


@pytest.mark.parametrize(
    ("hook", "layer"), [("blocks.1.mlp.hook_post", 1), ("blocks.3.hook_resid_post", 3)]
)
def test_what_is_read_is_what_a_run_of_the_row_shows(
    grammar: TransformerBridge, documents: Corpus, hook: str, layer: int
) -> None:
    rows, positions = np.array([7, 30, 7, 2]), np.array([5, 1, 2, 3])
    found = places.read(grammar, documents, hook, layer, documents.firsts[rows] + positions)
    assert found.dtype == np.float64
    for vector, row, position in zip(found, rows, positions, strict=True):
        ids = torch.as_tensor(documents.row(int(row)).astype(np.int64))[None]
        _, cache = grammar.run_with_cache(ids, names_filter=hook)
        np.testing.assert_allclose(vector, cache[hook][0, position].detach(), atol=1e-4)


def test_no_place_cannot_be_read(grammar: TransformerBridge, documents: Corpus) -> None:
    with pytest.raises(ValueError, match="no places to read: give at least one"):
        places.read(grammar, documents, "blocks.0.hook_resid_pre", 0, np.zeros(0, dtype=np.int64))


def test_what_is_drawn_is_of_use_and_nowhere_twice(documents: Corpus) -> None:
    rng = np.random.default_rng(0)
    found = places.drawn(
        documents, 50, rng, lambda numbers: places.counted(documents, numbers), tries=3
    )
    assert len(found) == len(set(found.tolist())) == 50
    assert not np.isin(documents.at(*documents.locate(found)), documents.special).any()
    every = np.arange(documents.n_tokens)
    assert places.counted(documents, every).sum() == documents.n_tokens - len(documents)
    # With few of use there are fewer, and all of these.
    starts = documents.firsts[:-1]
    few = places.drawn(documents, 10**6, rng, lambda numbers: np.isin(numbers, starts), tries=1)
    assert set(few.tolist()) == set(starts.tolist())


def test_a_sample_is_ascending_and_all_where_there_are_fewer(documents: Corpus) -> None:
    found = places.sample(documents, 30, np.random.default_rng(0))
    assert len(found) == 30
    assert (np.diff(found) > 0).all()
    every = places.sample(documents, 10**6, np.random.default_rng(0))
    assert every.tolist() == list(range(documents.n_tokens))


def test_tokens_are_written_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    model = known_units.detectors()
    dog = word_level.WORDS.index("dog")
    assert places.strings(model, [dog]) == ("dog",)
    assert places.text(model, [dog, dog]) == "dog dog"
    assert places.marked(["a", "dog", "ran"], 1) == "a ⟦dog⟧ ran"
    assert places.marked(["a", " dog", " ran"], 1) == "a⟦ dog⟧ ran"
    monkeypatch.setattr(model, "tokenizer", None)
    assert places.strings(model, [dog, 0]) == (str(dog), "0")
    assert places.text(model, [dog, 0]) == f"{dog} 0"
