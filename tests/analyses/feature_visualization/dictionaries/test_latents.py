"""Neighbours and splitting, where directions and activations are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import dictionaries
from analyses.feature_visualization.dictionaries import latents
from workbench.core import results
from workbench.core.prompts import corpus as corpora

HOOK = "blocks.0.hook_resid_post"


class Dictionary:
    def __init__(self, decoder: torch.Tensor) -> None:
        self.W_dec = decoder
        self.b_dec = torch.zeros(decoder.shape[1])

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        found = (x @ self.W_dec.T).relu()
        # The last latent is the same at every token.
        found[..., -1] = 0.7
        return found

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents @ self.W_dec


def drawn(count: int, seed: int = 0, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_neighbours_by_direction() -> None:
    decoder = drawn(20)
    decoder[7] = 3 * decoder[4] + 0.1 * drawn(1, 1)[0]
    decoder[9] = -decoder[4]
    found = dictionaries.neighbours(Dictionary(decoder), 4, count=3)
    expected = torch.nn.functional.cosine_similarity(decoder, decoder[4][None])
    np.testing.assert_allclose(found.cosine, expected.numpy(), atol=1e-6)
    assert found.nearest()[0] == 7 and len(found.nearest()) == 3
    assert found.p_value[7] < 0.05 < found.p_value[9]
    assert np.isnan(found.p_value[4])
    # Directions that were drawn at random are not nearer than chance.
    assert (found.p_value[np.delete(np.arange(20), [4, 7])] > 0.05).all()
    assert "nearest decoder directions 7 (" in found.summary()
    with pytest.raises(ValueError, match="correlations need a corpus"):
        found.nearest("correlation")


def test_neighbours_by_activation(model: TransformerBridge, rows: corpora.Corpus) -> None:
    dictionary = Dictionary(drawn(12))
    found = dictionaries.neighbours(dictionary, 2, model=model, corpus=rows, at=HOOK)
    every = []
    for index in range(len(rows)):
        tokens = torch.from_numpy(rows.row(index).astype(np.int64))[None]
        _, cache = model.run_with_cache(tokens, names_filter=[HOOK])
        every.append(dictionary.encode(cache[HOOK][0][tokens[0] != 2]).detach())
    values = torch.cat(every).double().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.corrcoef(values.T)[2]
    np.testing.assert_allclose(found.correlation[:-1], expected[:-1], atol=1e-5)
    assert np.isnan(found.correlation[-1]), "it is the same at every token"
    on = values > 0
    np.testing.assert_allclose(found.together, on[on[:, 2]].mean(0))
    assert found.n_tokens == len(values)
    assert 11 not in found.nearest("correlation") and 2 not in found.nearest("correlation")
    assert "Most correlated over" in found.summary()


def test_splitting_of_a_planted_latent() -> None:
    small = drawn(6, width=64)
    large = drawn(40, 1, width=64)
    # Latent 1 is there again, latent 2 became two that lie on either side of it, 0 is gone.
    across = drawn(1, 2, width=64)[0]
    large[10] = 0.2 * small[1]
    large[20], large[21] = small[2] + 0.4 * across, small[2] - 0.4 * across
    found = dictionaries.splitting(Dictionary(small), Dictionary(large), count=3)
    assert found.nearest[1, 0] == 10 and found.cosine[1, 0] == pytest.approx(1)
    assert set(found.nearest[2, :2]) == {20, 21}
    assert found.explained[1] == pytest.approx(1) and found.explained[2] == pytest.approx(1)
    assert list(found.children[[1, 2]]) == [1, 2]
    assert list(np.flatnonzero(found.split)) == [2]
    assert (found.p_value[[1, 2]] < 0.05).all() and (found.p_value[[0, 3, 4, 5]] > 0.05).all()
    # The share by least squares, for one that nothing was planted for.
    unit = (small[0] / small[0].norm()).double().numpy()
    basis = large[found.nearest[0].copy()].double().numpy().T
    rest = unit - basis @ np.linalg.lstsq(basis, unit, rcond=None)[0]
    assert found.explained[0] == pytest.approx(1 - rest @ rest, abs=1e-6)
    assert found.explained[0] < 2 * found.chance_explained


def test_directions_that_are_the_same_are_counted_once() -> None:
    large = torch.cat([drawn(5), drawn(5)])
    found = dictionaries.splitting(Dictionary(drawn(5)), Dictionary(large), count=4)
    np.testing.assert_allclose(found.explained <= 1 + 1e-9, True)
    np.testing.assert_allclose(found.cosine[:, :2], 1, atol=1e-6)


def test_chance_has_the_second_moments_of_the_directions() -> None:
    narrow = drawn(50).numpy().astype(np.float64)
    narrow[:, 3:] *= 0.01
    made = latents._random(narrow, 4_000, [0])
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1)
    assert np.square(made[:, 3:]).sum(1).mean() < 0.01
    # Compared with such, two directions of the same narrow space are nothing special.
    found = dictionaries.neighbours(Dictionary(torch.tensor(narrow, dtype=torch.float32)), 0)
    assert np.nanmin(found.p_value) > 0.01


def test_results_are_saved_and_shown(tmp_path: Any) -> None:
    made: list[results.Result] = [
        dictionaries.neighbours(Dictionary(drawn(8)), 1),
        dictionaries.splitting(Dictionary(drawn(4)), Dictionary(drawn(9, 1))),
    ]
    for number, found in enumerate(made):
        again = results.Result.load(found.save(tmp_path / str(number)))
        assert again.summary() == found.summary()
        traces: Any = found.figure().data
        assert len(traces) == 1
    assert len(made[0].to_frame()) == 7 and len(made[1].to_frame()) == 4 * 5


def test_input_that_does_not_fit(model: TransformerBridge) -> None:
    one = Dictionary(drawn(8))
    with pytest.raises(ValueError, match="the dictionary has latents 0 to 7, not 8"):
        dictionaries.neighbours(one, 8)
    with pytest.raises(ValueError, match="co-activation needs both"):
        dictionaries.neighbours(one, 1, model=model)
    with pytest.raises(ValueError, match="read vectors of 16 and of 8 numbers"):
        dictionaries.splitting(one, Dictionary(drawn(8, width=8)))
    with pytest.raises(ValueError, match="count = 9: expected 1 to 8"):
        dictionaries.splitting(one, one, count=9)
    with pytest.raises(ValueError, match="unknown order 'size'"):
        dictionaries.neighbours(one, 1).nearest("size")
