"""How far outside: distances by other means, what is inside lies inside, and what is far is far."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from transformer_lens.HookedRootModule import HookedRootModule
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import inputs, outside, text, top_examples
from analyses.feature_visualization.inputs import watching
from analyses.feature_visualization.outside import cloud, corpus_windows
from analyses.feature_visualization.outside import inputs as of_inputs
from analyses.feature_visualization.outside import texts as of_texts
from analyses.feature_visualization.text import candidates
from workbench.core import evidence, results
from workbench.core.engine import units
from workbench.core.networks import architectures
from workbench.core.planted import known_units, word_level
from workbench.core.prompts.corpus import Corpus

CAT, DOG = word_level.WORDS.index("cat"), word_level.WORDS.index("dog")


def drawn(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Draws whose deviation is another one along each axis."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) * np.arange(1, width + 1) ** 0.5


def same_distribution(one: np.ndarray, other: np.ndarray) -> bool:
    found: Any = scipy.stats.ks_2samp(one, other)
    return bool(found.pvalue > 0.01)


class TestCloud:
    # What LedoitWolf of scikit-learn 1.9.1 gives: shrinkage, and the distance of a first point.
    @pytest.mark.parametrize(
        ("count", "width", "shrinkage", "first"),
        [
            (30, 5, 0.3628013741799182, 2.733785345633929),
            (12, 40, 0.6972416123844143, 4.898571265788696),
            (2000, 3, 0.011790313673172643, 2.1367958670018203),
        ],
    )
    def test_it_is_the_distance_with_the_shrunk_covariance(
        self, count: int, width: int, shrinkage: float, first: float
    ) -> None:
        vectors = drawn(count, width)
        around = outside.Cloud.of(vectors)
        assert around.shrinkage == pytest.approx(shrinkage, rel=1e-12)
        points = 3 * np.random.default_rng(1).standard_normal((50, width))
        found = around.distance(points)
        assert found[0] == pytest.approx(first, rel=1e-12)
        plain = np.cov(vectors.T, bias=True)
        ball = np.trace(plain) / width * np.eye(width)
        inverse = np.linalg.inv((1 - shrinkage) * plain + shrinkage * ball)
        expected = [
            scipy.spatial.distance.mahalanobis(point, vectors.mean(0), inverse) for point in points
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-9)

    def test_neighbours_are_those_of_scipy(self) -> None:
        vectors, points = drawn(40, 6), drawn(300, 6, seed=1)
        around = outside.Cloud.of(vectors)
        cosines = 1 - scipy.spatial.distance.cdist(
            points - vectors.mean(0), vectors - vectors.mean(0), "cosine"
        )
        np.testing.assert_allclose(around.largest_cosine(points), cosines.max(1), rtol=1e-9)
        far = scipy.spatial.distance.cdist(points, vectors)
        np.testing.assert_allclose(around.nearest(points), far.min(1), rtol=1e-9)

    def test_what_is_drawn_from_the_data_has_a_uniform_quantile(self) -> None:
        ranks: list[int] = []
        for seed in range(500):
            vectors = drawn(80, 4, seed)
            around = outside.Cloud.of(vectors[:30])
            held, new = (around.distance(some) for some in (vectors[30:79], vectors[79:]))
            share = float(cloud.share_below(new, held)[0])
            ranks.append(round(share * 49))
            assert evidence.p_value(float(new[0]), held) == pytest.approx(1 - ranks[-1] / 50)
        # Each of the 50 ranks is as likely as any other; five of them make a bin.
        assert scipy.stats.chisquare(np.bincount(np.array(ranks) // 5)).pvalue > 0.01

    def test_what_is_far_has_quantile_one(self) -> None:
        around = outside.Cloud.of(drawn(100, 4))
        held = around.distance(drawn(99, 4, seed=1))
        far = around.distance(np.full((1, 4), 50.0))
        assert cloud.share_below(far, held).tolist() == [1]
        assert evidence.p_value(float(far[0]), held) == 0.01

    def test_what_the_data_never_do_is_far_however_small(self) -> None:
        vectors = drawn(20, 50)
        vectors[:, 0] = 0
        around = outside.Cloud.of(vectors)
        off = np.zeros((1, 50))
        off[0, 0] = 1
        away, along = (around.distance(around.mean + v)[0] for v in (off, around.axes[:1]))
        assert away == pytest.approx(around.floor**-0.5)
        assert along == pytest.approx(around.variances[0] ** -0.5)
        assert away > 1.5 * along

    def test_what_has_no_distribution_is_said(self) -> None:
        with pytest.raises(ValueError, match="9 vectors; expected at least 10"):
            outside.Cloud.of(drawn(9, 4))
        with pytest.raises(ValueError, match="finite"):
            outside.Cloud.of(np.full((20, 4), np.inf))
        with pytest.raises(ValueError, match="all data are the same"):
            outside.Cloud.of(np.ones((20, 4)))


@pytest.fixture(scope="module")
def planted() -> TransformerBridge:
    return known_units.pairs()


@pytest.fixture(scope="module")
def never(planted: TransformerBridge) -> Corpus:
    """A corpus in which no dog stands after a cat."""
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(word_level.WORDS, 8)) for _ in range(200)]
    return Corpus.from_texts(planted, [row.replace("cat dog", "cat ape") for row in rows])


@pytest.fixture(scope="module")
def pair(planted: TransformerBridge) -> text.OptimizedText:
    return text.optimize_text(planted, "neuron 0.0", length=3, restarts=1, iterations=15)


class TestPlanted:
    def test_an_optimum_that_the_corpus_does_not_hold_lies_outside(
        self, planted: TransformerBridge, never: Corpus, pair: text.OptimizedText
    ) -> None:
        assert pair.tokens[-1, -2:].tolist() == [CAT, DOG]
        found = outside.compare_with_examples(planted, never, pair, examples=5)
        assert (found.largest, found.optima.activation[-1]) == (0, 1)
        assert np.isnan(found.times)
        assert found.activation_quantile == 1
        # One of its two pairs is "cat dog".
        assert found.optima.unseen[-1] == 0.5
        assert found.windows.unseen.max() == 0
        cats = (np.array([t.split()[-2:] for t in found.random.texts]) == ["cat", "dog"]).all(1)
        assert (found.random.unseen[cats] >= 0.5).all()
        assert found.reads == "blocks.0.mlp.hook_in"

    def test_one_that_it_holds_lies_inside(self, planted: TransformerBridge) -> None:
        rng = np.random.default_rng(0)
        rows = [" ".join(rng.choice(word_level.WORDS, 3)) for _ in range(500)]
        corpus = Corpus.from_texts(planted, rows)
        dog = text.optimize_text(planted, "neuron 0.3", length=3, restarts=1, iterations=5)
        found = outside.compare_with_examples(planted, corpus, dog, examples=5)
        assert (found.times, found.activation_quantile) == (1, 1)
        assert found.optima.unseen[-1] == 0
        assert found.p_value > 0.05
        assert found.optima.cosine[-1] == pytest.approx(1)
        # Here random texts are what the corpus is made of.
        assert same_distribution(found.random.distance, found.windows.distance)
        assert same_distribution(found.random.cross_entropy, found.windows.cross_entropy)


@pytest.fixture(scope="module")
def corpus(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=300)


UNIT, LENGTH = "neuron 2.13", 5


@pytest.fixture(scope="module")
def optimized(grammar: TransformerBridge) -> text.OptimizedText:
    return text.optimize_text(
        grammar, UNIT, length=LENGTH, restarts=1, iterations=10, population=4, children=8
    )


@pytest.fixture(scope="module")
def compared(
    grammar: TransformerBridge, corpus: Corpus, optimized: text.OptimizedText
) -> outside.OptimumAgainstExamples:
    return outside.compare_with_examples(grammar, corpus, optimized, examples=10, windows=400)


class TestRealModel:
    def test_activations_are_those_of_the_scan(
        self,
        grammar: TransformerBridge,
        corpus: Corpus,
        optimized: text.OptimizedText,
        compared: outside.OptimumAgainstExamples,
    ) -> None:
        scan = top_examples(grammar, corpus, [UNIT], k=10, sample=10**6)
        assert compared.largest == pytest.approx(scan.top_values[0, 0], abs=1e-5)
        # Examples stand far enough in their rows to have a whole window.
        whole = np.sort(scan.sample_values[scan.sample_positions >= LENGTH, 0])[::-1]
        np.testing.assert_allclose(compared.examples.activation, whole[:10], atol=1e-5)
        np.testing.assert_allclose(compared.optima.activation, optimized.activation, atol=1e-5)
        np.testing.assert_allclose(
            compared.optima.cross_entropy, optimized.cross_entropy, atol=1e-5
        )
        assert compared.times == pytest.approx(optimized.optimum / compared.largest)
        assert compared.activation_quantile == pytest.approx(
            scan.quantile(UNIT, optimized.optimum), abs=1e-3
        )
        assert compared.n_fitted + len(compared.windows.texts) <= 400

    def test_what_is_read_and_how_likely_windows_are(
        self, grammar: TransformerBridge, corpus: Corpus
    ) -> None:
        family, index = units.family_of(grammar, UNIT)
        target = candidates.Target(family, index, 1, (int(corpus.row(0)[0]),))
        reader = of_texts._Reader(grammar, target, of_texts._reads(grammar, family))
        places = corpus.firsts[[7, 250, 3]] + np.array([5, 6, 2])
        found = reader.in_context(corpus, places)
        for vector, row, position in zip(found, (7, 250, 3), (5, 6, 2), strict=True):
            ids = torch.as_tensor(corpus.row(row).astype(np.int64))[None]
            _, cache = grammar.run_with_cache(ids, names_filter=reader.hook)
            np.testing.assert_allclose(vector, cache[reader.hook][0, position].detach(), atol=1e-4)
        # The beginning of a row by itself is what it is in the row.
        alone = reader.alone(corpus.row(7)[None, 1:6].astype(np.int64))
        np.testing.assert_allclose(alone[0], found[0], atol=1e-4)
        np.testing.assert_array_equal(
            corpus_windows.tokens_at(corpus, places[:1], 4)[0], corpus.row(7)[2:6]
        )

    def test_pairs_that_are_not_seen_are_counted(
        self, corpus: Corpus, compared: outside.OptimumAgainstExamples
    ) -> None:
        texts = np.concatenate([[corpus.row(i)[1:6]] * 2 for i in range(30)]).astype(np.int64)
        texts[1::2] = texts[::2, ::-1]
        rows = [corpus.row(i).tolist() for i in range(len(corpus))]
        pairs = [set(zip(row[:-1], row[1:], strict=True)) for row in rows]
        seen = set().union(*pairs)
        of = [list(zip(ids[:-1], ids[1:], strict=True)) for ids in texts.tolist()]
        expected = [np.mean([one not in seen for one in some]) for some in of]
        assert corpus_windows.unseen(corpus, texts, None).tolist() == expected
        assert 0 < np.mean(expected) < 1
        places = corpus.firsts[:30] + 5
        others = [set().union(*pairs[:i], *pairs[i + 1 :]) for i in range(30)]
        elsewhere = [
            np.mean([one not in others[i] for one in some]) for i, some in enumerate(of[::2])
        ]
        assert corpus_windows.unseen(corpus, texts[::2], places).tolist() == elsewhere
        assert compared.random.unseen.mean() > 0.9 > compared.windows.unseen.mean()

    def test_the_halves_share_no_row_and_no_top_example(self, corpus: Corpus) -> None:
        rng = np.random.default_rng(0)
        places = corpus_windows.drawn(corpus, LENGTH, 500, rng)
        assert len(np.unique(places)) == 500
        top = places[:7]
        fitted = corpus_windows.half(corpus, places, top, rng)
        rows = corpus.locate(places)[0]
        assert not np.intersect1d(rows[fitted], rows[~fitted]).size
        assert not np.intersect1d(rows[fitted], corpus.locate(top)[0]).size
        assert 0.3 < fitted.mean() < 0.6

    def test_random_texts_lie_farther_outside_than_the_corpus(
        self, compared: outside.OptimumAgainstExamples
    ) -> None:
        random, windows = compared.random, compared.windows
        for more, less in (
            (random.cross_entropy, windows.cross_entropy),
            (random.distance, windows.distance),
            (windows.cosine, random.cosine),
        ):
            assert scipy.stats.mannwhitneyu(more, less, alternative="greater").pvalue < 1e-4
        uniform = compared.quantiles("windows", "distance")
        assert np.sort(uniform) == pytest.approx(np.arange(1, len(uniform) + 1) / len(uniform))
        with pytest.raises(ValueError, match="expected a kind out of optima, examples"):
            compared.quantiles("optimum", "distance")

    def test_it_comes_back_and_speaks(
        self,
        grammar: TransformerBridge,
        corpus: Corpus,
        optimized: text.OptimizedText,
        compared: outside.OptimumAgainstExamples,
        tmp_path: Path,
    ) -> None:
        compared.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, outside.OptimumAgainstExamples)
        assert back.summary() == compared.summary()
        assert f"{compared.distance_quantile:.1%} of the tokens" in back.summary()
        assert back.to_frame().equals(compared.to_frame())
        assert set(back.to_frame()["kind"]) == set(of_texts._KINDS.values())
        assert len(back.figure().to_dict()["data"]) == 4
        again = outside.compare_with_examples(grammar, corpus, optimized, examples=10, windows=400)
        assert again.to_frame().equals(compared.to_frame())

    def test_a_direction_is_compared_at_its_site(
        self, grammar: TransformerBridge, corpus: Corpus
    ) -> None:
        vectors = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
        found = text.optimize_text(
            grammar,
            "resid_post 1.1",
            directions=vectors,
            length=3,
            restarts=1,
            iterations=2,
            maximise=False,
        )
        compared = outside.compare_with_examples(
            grammar, corpus, found, directions=vectors, windows=100, examples=3
        )
        assert (compared.unit, compared.reads) == ("direction 1.1", "blocks.1.hook_resid_post")
        assert compared.largest == compared.examples.activation.min() < 0
        assert "the smallest at" in compared.summary()
        for given in (None, vectors[:1]):
            with pytest.raises(ValueError, match="were optimized with (some|other) directions"):
                outside.compare_with_examples(grammar, corpus, found, directions=given)

    def test_what_cannot_be_compared_is_said(
        self,
        grammar: TransformerBridge,
        planted: TransformerBridge,
        corpus: Corpus,
        optimized: text.OptimizedText,
        pair: text.OptimizedText,
    ) -> None:
        with pytest.raises(ValueError, match="weights are not those of this model"):
            outside.compare_with_examples(grammar, corpus, pair)
        with pytest.raises(ValueError, match="give a larger corpus, or shorter texts"):
            outside.compare_with_examples(grammar, corpus.take(range(4)), optimized)
        with pytest.raises(ValueError, match="expected at least 1 and 20"):
            outside.compare_with_examples(grammar, corpus, optimized, windows=5)
        with pytest.raises(ValueError, match="optimized with none dictionary"):
            outside.compare_with_examples(
                grammar,
                corpus,
                optimized,
                dictionary=torch.nn.ParameterDict({"W_dec": torch.ones(2, 2)}),
            )


WIDTH = 8
TARGET = inputs.Target("layer0.hook_out", 1)


@pytest.fixture(scope="module")
def network() -> HookedRootModule:
    made = architectures.build(architectures.Mlp(WIDTH, (5,), 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    """Examples of which each entry has another mean: shuffled, they are none."""
    return (drawn(800, WIDTH) + 8 * np.arange(WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def climbed(network: HookedRootModule, data: np.ndarray) -> inputs.OptimizedInput:
    return inputs.optimize_input(network, TARGET, steps=60, lr=0.5, data=data, restarts=2)


class TestInputs:
    def test_an_optimum_in_another_direction_lies_outside(
        self, network: HookedRootModule, data: np.ndarray, climbed: inputs.OptimizedInput
    ) -> None:
        found = outside.compare_input_with_data(network, TARGET, climbed, data, examples=10)
        assert found.quantiles("optima", "distance")[found.best] == 1
        assert found.p_value("distance") == pytest.approx(1 / 401)
        assert np.median(found.quantiles("shuffled", "distance")) == 1
        values = watching.measured(network, TARGET, data)
        assert found.examples.activation.tolist() == np.sort(values)[::-1][:10].tolist()
        assert found.times == pytest.approx(climbed.activations.max() / values.max())
        assert found.n_fitted + len(found.held_out.activation) <= 800

    def test_distances_are_those_of_scipy(
        self, network: HookedRootModule, data: np.ndarray, climbed: inputs.OptimizedInput
    ) -> None:
        found = outside.compare_input_with_data(network, TARGET, climbed, data, examples=1)
        values = watching.measured(network, TARGET, data)
        order = np.random.default_rng(0).permutation(800)[:400]
        fitted = data[[i for i in order if i != values.argmax()]].astype(np.float64)
        first = network.get_parameter("layer0.linear.weight").detach().double().numpy()
        bias = network.get_parameter("layer0.linear.bias").detach().double().numpy()
        for which, start in (
            (lambda x: x, ""),
            (lambda x: np.maximum(x @ first.T + bias, 0), "layer_"),
        ):
            vectors, points = which(fitted), which(climbed.inputs.astype(np.float64))
            shrinkage = found.layer_shrinkage if start else found.shrinkage
            plain = np.cov(vectors.T, bias=True)
            ball = np.trace(plain) / len(plain) * np.eye(len(plain))
            inverse = np.linalg.inv((1 - shrinkage) * plain + shrinkage * ball)
            expected = [
                scipy.spatial.distance.mahalanobis(x, vectors.mean(0), inverse) for x in points
            ]
            np.testing.assert_allclose(
                getattr(found.optima, f"{start}distance"), expected, rtol=1e-4
            )
            near = scipy.spatial.distance.cdist(points, vectors).min(1)
            np.testing.assert_allclose(getattr(found.optima, f"{start}nearest"), near, rtol=1e-4)

    def test_what_is_drawn_from_the_data_lies_inside(
        self, network: HookedRootModule, data: np.ndarray, climbed: inputs.OptimizedInput
    ) -> None:
        new = (drawn(200, WIDTH, seed=5) + 8 * np.arange(WIDTH)).astype(np.float32)
        inside = dataclasses.replace(
            climbed, inputs=new, activations=np.zeros(200), trace=np.zeros((1, 200))
        )
        found = outside.compare_input_with_data(network, TARGET, inside, data, examples=5)
        for measure in ("distance", "nearest", "layer_distance", "layer_nearest"):
            values, held = (getattr(some, measure) for some in (found.optima, found.held_out))
            assert same_distribution(values, held), measure
            assert np.median(found.quantiles("optima", measure)) == pytest.approx(0.5, abs=0.1)

    def test_a_layer_is_read_at_the_units_place(self) -> None:
        network = architectures.build(architectures.Cnn1d(20, (3,), 5, 1, 2))
        data = drawn(40, 20).astype(np.float32)[:, None]
        with torch.no_grad():
            _, cache = network.run_with_cache(torch.from_numpy(data))
        held = cache["conv0.hook_out"].double().numpy()
        at = of_inputs._Layer(network, inputs.Target("conv0.hook_out", 1, 9)).of(data)
        np.testing.assert_allclose(at, held[:, :, 9], atol=1e-6)
        mean = of_inputs._Layer(network, inputs.Target("conv0.hook_out", 1)).of(data)
        np.testing.assert_allclose(mean, held.mean(2), atol=1e-6)

    def test_it_comes_back_and_speaks(
        self,
        network: HookedRootModule,
        data: np.ndarray,
        climbed: inputs.OptimizedInput,
        tmp_path: Path,
    ) -> None:
        found = outside.compare_input_with_data(network, TARGET, climbed, data)
        found.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, outside.InputAgainstData)
        assert back.summary() == found.summary()
        assert "no nearer than 100.0% of 400 held-out examples" in back.summary()
        assert back.to_frame().equals(found.to_frame())
        assert len(back.to_frame()) == 2 + 20 + 400 + 400
        assert len(back.figure().to_dict()["data"]) == 8
        again = outside.compare_input_with_data(network, TARGET, climbed, data)
        assert again.to_frame().equals(found.to_frame())

    def test_what_cannot_be_compared_is_said(
        self, network: HookedRootModule, data: np.ndarray, climbed: inputs.OptimizedInput
    ) -> None:
        compare = outside.compare_input_with_data
        with pytest.raises(ValueError, match="not for layer0.hook_out"):
            compare(network, inputs.Target("layer0.hook_out", 2), climbed, data)
        with pytest.raises(ValueError, match="weights are not those of this network"):
            compare(architectures.build(architectures.Mlp(WIDTH, (5,), 2)), TARGET, climbed, data)
        with pytest.raises(ValueError, match="examples have shape"):
            compare(network, TARGET, climbed, data[:, :3])
        with pytest.raises(ValueError, match="30 examples, 20 of them on top"):
            compare(network, TARGET, climbed, data[:30])
        with pytest.raises(ValueError, match="finite"):
            compare(network, TARGET, climbed, np.full_like(data, np.nan))
