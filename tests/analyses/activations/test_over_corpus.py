"""Distributions over a corpus: equal to what numpy says of all activations at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

import workbench
from analyses import activations
from analyses.activations import moments, outliers, over_corpus
from tests import families
from workbench import Corpus
from workbench.core.engine import running
from workbench.core.planted import unplanted, word_level
from workbench.core.prompts import corpus as corpora

HOOKS = (
    "blocks.1.hook_resid_post",
    "blocks.0.mlp.hook_post",
    "blocks.1.attn.hook_z",
    "blocks.0.ln1.hook_scale",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return families.bridge("native")


@pytest.fixture(scope="module")
def texts(model: Any) -> Corpus:
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(word_level.WORDS, rng.integers(2, 9))) for _ in range(150)]
    return Corpus.from_texts(model, words)


def at_once(model: Any, corpus: Corpus, hook: str, *, special: bool) -> np.ndarray:
    """Every activation, row by row, which nothing streams."""
    kept: list[np.ndarray] = []
    for number in range(len(corpus)):
        row = torch.as_tensor(corpus.row(number).astype(np.int64))
        _, seen = running.run_and_keep(model, row[None], [hook])
        own = torch.isin(row, torch.tensor(corpus.special)) if not special else torch.zeros(1)
        values = seen[hook][0].reshape(len(row), -1)
        kept.append(values[~own.bool().expand(len(row))].numpy())
    return np.concatenate(kept)


@pytest.mark.parametrize("hook", HOOKS)
def test_streaming_equals_all_at_once(
    model: Any, texts: Corpus, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several chunks, and so several shifts and merges.
    monkeypatch.setattr(corpora, "CHUNK", 100)
    found = activations.distribution(model, texts, hook)
    every = at_once(model, texts, hook, special=False).astype(np.float64)
    assert found.n_tokens == len(every)
    np.testing.assert_allclose(found.mean, every.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.standard_deviation, every.std(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.skewness, scipy.stats.skew(every), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.kurtosis, scipy.stats.kurtosis(every), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.least, every.min(0), atol=1e-5)
    np.testing.assert_allclose(found.most, every.max(0), atol=1e-5)
    np.testing.assert_allclose(found.zeros, (every == 0).mean(0), atol=1e-6)
    np.testing.assert_allclose(found.positive, (every > 0).mean(0), atol=1e-2)
    np.testing.assert_allclose(found.outliers.rms, np.sqrt((every**2).mean(0)), rtol=1e-4)
    expected, _ = np.histogram(every, found.edges)
    # Runs of other chunks differ by rounding, which may move a number over an edge.
    assert np.abs(found.counts - expected).sum() <= 2 * (hook == HOOKS[1]) + 4
    assert int(found.counts.sum()) + found.below + found.above == every.size
    edges, counts = found.own_histogram(0)
    clipped = np.clip(every[:, 0], edges[0], edges[-1])
    assert np.abs(counts - np.histogram(clipped, edges)[0]).sum() <= 4
    normed = np.linalg.norm(at_once(model, texts, hook, special=True), axis=1)
    assert found.n_normed == len(normed)
    assert found.median_norm == pytest.approx(np.median(normed), rel=0.02)


def test_attention_is_counted_over_pairs_of_query_and_key(model: Any, texts: Corpus) -> None:
    found = activations.distribution(model, texts, "blocks.1.attn.hook_pattern")
    total, count = np.zeros(4), 0
    for number in range(len(texts)):
        row = torch.as_tensor(texts.row(number).astype(np.int64))
        _, seen = running.run_and_keep(model, row[None], ["blocks.1.attn.hook_pattern"])
        pattern = seen["blocks.1.attn.hook_pattern"][0].numpy()
        own = np.flatnonzero(~np.isin(row.numpy(), texts.special))
        for query in own:
            total += pattern[:, query, : query + 1].sum(1)
            count += query + 1
    assert found.n_tokens == count
    np.testing.assert_allclose(found.mean, total / count, rtol=1e-4)
    # Each query's weights sum to one.
    queries = sum(int((~np.isin(texts.row(i), texts.special)).sum()) for i in range(len(texts)))
    np.testing.assert_allclose(found.mean * count, queries, rtol=1e-4)


# Between them these two have every kind of axis that there is.
@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_every_kind_of_hook_point_of_a_family_has_a_distribution_or_a_sentence(
    family: str,
) -> None:
    other = families.bridge(family)
    rows = np.random.default_rng(1).integers(0, 6, (6, 7))
    tokens = Corpus.from_tokens(other, rows)
    kinds = dict[tuple[Any, ...], str]()
    for name in other.hook_dict:
        try:
            layout = activations.Layout.of(other, name)
        except ValueError as error:
            assert "does not fire" in str(error), name
            continue
        kinds.setdefault((layout.axes, layout.sizes, layout.whole_numbers), name)
    measured = 0
    for name in kinds.values():
        try:
            found = activations.distribution(other, tokens, name, cells=4)
        except ValueError as error:
            assert "whole numbers" in str(error), name
            continue
        assert np.isfinite(found.mean).all(), name
        measured += 1
    assert measured > 5


class TestOutliers:
    """A coordinate is planted, in Gaussian activations and in a model."""

    def sums(self, planted: bool, seed: int = 0) -> tuple[moments.Moments, np.ndarray]:
        rng = np.random.default_rng(seed)
        table = rng.normal(size=(4000, 64)).astype(np.float32) * rng.uniform(0.8, 1.2, 64)
        if planted:
            table[:, 17] *= 30
        table = table.astype(np.float32)
        sums = moments.Moments(64, outliers.SIZE)
        for start in range(0, 4000, 500):
            part = torch.from_numpy(table[start : start + 500])
            half = np.arange(500) % 2
            sums.take(part, torch.ones_like(part, dtype=torch.bool), half)
        return sums, table[:500]

    def test_the_planted_one_is_found_and_no_other(self) -> None:
        found = outliers.of_sums(*self.sums(True), seed=0)
        assert found.found.tolist() == [17]
        assert found.by_size.tolist() == [17]
        assert found.p_value == pytest.approx(0.01)
        assert found.replicated > 0.9

    def test_where_none_is_planted_none_is_found(self) -> None:
        for seed in range(5):
            found = outliers.of_sums(*self.sums(False, seed), seed=seed)
            assert found.found.tolist() == []
            assert found.p_value == 1.0

    def test_none_remains_after_a_rotation(self) -> None:
        _, table = self.sums(True)
        null, counts = outliers.rotated(table, rounds=50, seed=0)
        assert counts.max() == 0 and null.max() < outliers.BEYOND
        rotation = scipy.stats.ortho_group.rvs(64, random_state=0)
        rotated = outliers.distances(np.sqrt(((table @ rotation) ** 2).mean(0)))
        assert rotated.max() < outliers.BEYOND

    def test_the_null_from_eigenvalues_is_that_of_real_rotations(self) -> None:
        _, table = self.sums(True)
        table = table[:40]
        null, _ = outliers.rotated(table, rounds=300, seed=0)
        real = [
            outliers.distances(
                np.sqrt(((table @ scipy.stats.ortho_group.rvs(64, random_state=i)) ** 2).mean(0))
            ).max()
            for i in range(100)
        ]
        assert np.median(null) == pytest.approx(np.median(real), rel=0.1)
        compared: Any = scipy.stats.ks_2samp(null, real)
        assert compared.pvalue > 0.001

    def test_a_coordinate_that_a_model_writes_is_found_in_every_layer(self) -> None:
        model = unplanted.randomised(seed=3)
        # Where every other size is alike, one coordinate gets a constant from the embedding on.
        unplanted.enlarge_coordinate(model, 5)
        rows = np.random.default_rng(0).integers(0, 6, (80, 8))
        corpus = Corpus.from_tokens(model, rows)
        found = activations.outlier_dimensions(model, corpus)
        assert found.found[0] == 5
        assert found.by_size[5]
        assert found.stands_out[:, 5].all()
        assert found.stands_out.sum() == len(found.layers)
        one = activations.distribution(model, corpus, "blocks.0.hook_resid_post")
        assert one.outliers.found.tolist() == [5]
        assert "coordinate 5" in one.summary()
        np.testing.assert_allclose(one.outliers.rms, found.layers[0].rms, rtol=1e-5)
        assert found.to_frame()["coordinate"].iloc[0] == 5
        found.figure()
        one.outlier_figure()

    def test_sizes_that_are_all_alike_but_one(self) -> None:
        found = outliers.distances(np.array([1.0] * 9 + [2.0, 0.0]))
        assert found[:9].tolist() == [0.0] * 9
        assert found[9] == np.inf and np.isnan(found[10])


def test_a_token_out_of_scale_is_found_where_it_stands(model: Any, texts: Corpus) -> None:
    planted = unplanted.randomised()
    plain = {
        name.replace("._original_component", ""): value
        for name, value in planted.original_model.named_parameters()
    }
    with torch.no_grad():
        plain["tok_embed.weight"][6, 3] = 5000.0
    found = activations.distribution(planted, texts, "blocks.0.hook_resid_pre")
    # BOS is token 6: each row begins with it, and it does not count for the histogram.
    assert found.n_massive == len(texts)
    assert {(one.position, one.token, one.coordinate) for one in found.massive} == {(0, "<bos>", 3)}
    assert found.most.max() < 100
    assert "have a norm of more than 50 medians" in found.summary()
    ordinary = activations.distribution(model, texts, "blocks.0.hook_resid_pre")
    assert ordinary.n_massive == 0


def test_sparsity_is_between_one_coordinate_and_all_alike() -> None:
    one_hot = over_corpus._hoyer(torch.eye(16))
    alike = over_corpus._hoyer(torch.ones(2, 16))
    np.testing.assert_allclose(one_hot, 1.0, atol=1e-6)
    np.testing.assert_allclose(alike, 0.0, atol=1e-6)
    drawn = torch.randn(4000, 512, generator=torch.Generator().manual_seed(1))
    expected = float(over_corpus._hoyer(drawn).mean())
    assert over_corpus._gaussian_hoyer(512, 0) == pytest.approx(expected, abs=0.005)


def test_moments_survive_a_mean_that_dwarfs_the_spread() -> None:
    rng = np.random.default_rng(0)
    table = (1e4 + rng.exponential(size=(2000, 3))).astype(np.float32)
    sums = moments.Moments(3, 6.0)
    for part in np.split(table, 4):
        given = torch.from_numpy(part)
        sums.take(given, torch.ones_like(given, dtype=torch.bool), np.arange(len(part)) % 2)
    wide = table.astype(np.float64)
    expected = [wide.mean(0), wide.std(0), scipy.stats.skew(wide), scipy.stats.kurtosis(wide)]
    np.testing.assert_allclose(sums.shape(), expected, rtol=1e-4)


def test_a_median_from_counts_is_right_to_two_percent() -> None:
    sizes = np.random.default_rng(0).lognormal(3, 2, 5001)
    counts = moments.LogHistogram()
    for part in np.array_split(sizes, 7):
        counts.take(part)
    assert counts.quantile(0.5) == pytest.approx(np.median(sizes), rel=0.02)
    counts.take(np.zeros(20_000))
    assert counts.quantile(0.5) == 0.0


def test_it_is_saved_and_read_back(model: Any, texts: Corpus, tmp_path: Any) -> None:
    found = activations.distribution(model, texts, HOOKS[0])
    back = activations.ActivationDistribution.load(found.save(tmp_path / "one"))
    assert back.summary() == found.summary()
    assert np.array_equal(back.own_counts[0], found.own_counts[0])
    assert back.to_frame().equals(found.to_frame())
    layers = activations.outlier_dimensions(model, texts)
    again = activations.OutlierDimensions.load(layers.save(tmp_path / "layers"))
    assert again.summary() == layers.summary()
    found.figure()
    found.own_figure(2)


def test_what_says_nothing_is_a_sentence(model: Any, texts: Corpus) -> None:
    with pytest.raises(ValueError, match="holds whole numbers"):
        activations.distribution(model, texts, "embed.hook_in")
    with pytest.raises(ValueError, match="no hook point"):
        activations.distribution(model, texts, "blocks.0.hook_nothing")
    with pytest.raises(ValueError, match="cells = 0"):
        activations.distribution(model, texts, HOOKS[0], cells=0)
    with pytest.raises(ValueError, match="unknown site"):
        activations.outlier_dimensions(model, texts, site="z")
    found = activations.distribution(model, texts, HOOKS[0])
    with pytest.raises(ValueError, match="coordinates 0 to 15"):
        found.own_histogram(99)
    bos = Corpus.from_tokens(model, np.full((3, 4), 6))
    with pytest.raises(ValueError, match="nothing counts"):
        activations.distribution(model, bos, HOOKS[0])


def test_the_bundled_model_has_no_outlier_dimension_beyond_random_directions() -> None:
    model = workbench.load_model("grammar-4l")
    corpus = Corpus.bundled(model, documents=120)
    found = activations.outlier_dimensions(model, corpus)
    assert found.found == ()
    assert max(one.null_count.max() for one in found.layers) == 0
