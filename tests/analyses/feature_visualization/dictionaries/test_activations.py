"""The stream of activations: what is in it, in which order, and going on in the middle of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization.dictionaries import activations
from workbench.core.prompts import corpus as corpora


def expected(model: TransformerBridge, rows: corpora.Corpus, hook: str) -> torch.Tensor:
    """Each row by itself, through TransformerLens' own cache."""
    found = []
    for index in range(len(rows)):
        tokens = torch.from_numpy(rows.row(index).astype(np.int64))
        _, cache = model.run_with_cache(tokens[None], names_filter=[hook])
        found.append(cache[hook][0].flatten(1)[tokens != 2].detach())
    return torch.cat(found)


def in_order(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors in an order of their own, so that sets of them can be compared."""
    return vectors[np.lexsort(vectors.numpy().round(3).T)]


@pytest.mark.parametrize(
    ("site", "layer", "width"), [("resid_post", 1, 16), ("mlp_out", 0, 16), ("z", 1, 16)]
)
def test_an_epoch_is_every_token_that_counts_once(
    model: TransformerBridge, rows: corpora.Corpus, site: str, layer: int, width: int
) -> None:
    where = activations.place(model, rows, site, layer)
    assert where.width == width
    reference = expected(model, rows, where.hook)
    stream = activations.Stream(model, rows, where, batch=len(reference), block=100)
    for _ in range(2):
        epoch = next(stream)
        assert epoch.shape == reference.shape and not epoch.is_inference()
        torch.testing.assert_close(in_order(epoch), in_order(reference), atol=1e-5, rtol=1e-5)


def test_tokens_are_shuffled_anew_in_each_epoch(
    model: TransformerBridge, rows: corpora.Corpus
) -> None:
    where = activations.place(model, rows, "resid_post", 0)
    count = len(expected(model, rows, where.hook))
    stream = activations.Stream(model, rows, where, batch=count)
    first, second = next(stream), next(stream)
    assert not torch.allclose(first, second, atol=0.01)
    other = next(activations.Stream(model, rows, where, batch=count, seed=1))
    assert not torch.allclose(first, other, atol=0.01)


@pytest.mark.parametrize("passed", [1, 3, 17, 40])
def test_going_on_in_the_middle_gives_the_same_bits(
    model: TransformerBridge, rows: corpora.Corpus, passed: int
) -> None:
    where = activations.place(model, rows, "resid_post", 0)

    def made() -> activations.Stream:
        return activations.Stream(model, rows, where, batch=37, block=100)

    whole = list(itertools.islice(made(), passed + 3))
    later = made()
    later.pass_over(passed)
    for at in range(passed, passed + 3):
        assert torch.equal(next(later), whole[at])
    # In two goes, with something read in between.
    pieces = made()
    next(pieces)
    pieces.pass_over(passed)
    assert torch.equal(next(pieces), whole[passed + 1])


def test_what_is_passed_over_is_not_computed(
    model: TransformerBridge, rows: corpora.Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = activations.place(model, rows, "resid_post", 0)
    stream = activations.Stream(model, rows, where, batch=50, block=100)
    read: list[int] = []
    original = activations.read

    def counting(*given: Any) -> torch.Tensor:
        found = original(*given)
        read.append(len(found))
        return found

    monkeypatch.setattr(activations, "read", counting)
    stream.pass_over(200)
    next(stream)
    total = int(rows.n_tokens)
    assert sum(read) <= 2 * total, "10,000 tokens were passed over, one or two blocks were read"


def test_no_more_than_a_block_is_held(model: TransformerBridge, rows: corpora.Corpus) -> None:
    where = activations.place(model, rows, "resid_post", 0)
    many = rows.take(np.tile(np.arange(len(rows)), 100))
    stream = activations.Stream(model, many, where, batch=64, block=5_000)
    next(stream)
    assert stream._held is not None
    assert len(stream._held) <= 5_000 + corpora.CHUNK


@pytest.mark.parametrize(
    ("site", "layer", "message"),
    [
        ("resid_post", 2, "the model has layers 0 to 1, not 2"),
        ("nowhere", 0, "unknown site 'nowhere'"),
        ("pattern", 0, "an attention pattern is as wide as its prompt is long"),
    ],
)
def test_places_that_do_not_exist(
    model: TransformerBridge, rows: corpora.Corpus, site: str, layer: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        activations.place(model, rows, site, layer)


def test_a_corpus_in_which_nothing_counts(model: TransformerBridge) -> None:
    special = corpora.Corpus("specials", np.full(6, 2, np.int32), np.array([0, 3, 6]), (2,))
    where = activations.place(model, special, "resid_post", 0)
    with pytest.raises(ValueError, match="no token of specials counts"):
        next(activations.Stream(model, special, where, batch=2))
