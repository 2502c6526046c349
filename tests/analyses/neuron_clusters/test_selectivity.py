"""Selectivity, against planted units, scipy, and the null that it must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

import workbench
from analyses.neuron_clusters import selectivity_intervals, selectivity_strata
from analyses.neuron_clusters.selectivity import Selectivity, selectivity
from analyses.neuron_clusters.selectivity_chance import Ranked, against_chance
from workbench.core.engine import populations
from workbench.core.networks import shapes, sources
from workbench.core.planted import known_clusters
from workbench.core.prompts import lexicon
from workbench.core.prompts.concepts import Concept, Examples
from workbench.core.prompts.corpus import Corpus
from workbench.core.results import Result

EFFECT = 2.0


@pytest.fixture(scope="module")
def network() -> Any:
    return known_clusters.planted({"layer1.branch2": 12}, effect=EFFECT, seed=0)


@pytest.fixture(scope="module")
def concept() -> Concept:
    return known_clusters.concept(n=600, seed=1)


@pytest.fixture(scope="module")
def found(network: Any, concept: Concept) -> Selectivity:
    return selectivity(network, concept, probes=(1, 4), seed=3)


def test_exactly_the_planted_units_are_found(network: Any, found: Selectivity) -> None:
    strongest = found.best(12)
    assert set(strongest) == set(network.planted)
    selected = {found.names[i] for i in found.selective()}
    assert set(network.planted) <= selected
    # At most a twentieth false on average; of 168 others.
    assert len(selected - set(network.planted)) <= 3
    planted = np.isin(found.names, network.planted)
    assert (found.family_p[planted] == 1 / 1001).all()
    assert (found.family_p[~planted] > 0.05).sum() >= 165


def test_the_auc_is_what_the_effect_size_gives(network: Any) -> None:
    # Units are relus: values below 0 are ties, so AUC is that of the normal, clipped at 0.
    concept = known_clusters.concept(n=8000, seed=2)
    result = selectivity(network, concept, probes=(), permutations=19, best=0, confidence=0.9)
    planted = np.isin(result.names, network.planted)
    before_relu = scipy.stats.norm.cdf(EFFECT / np.sqrt(2))
    # A pair of ties loses half of what it would count: at most the chance of two values below 0.
    low, high = scipy.stats.norm.cdf(-0.5), scipy.stats.norm.cdf(-0.5 - EFFECT)
    assert np.abs(result.effect[planted] - before_relu).max() < 0.02 + low * high / 2
    difference = result.difference[planted]

    def mean(shift: float) -> float:
        return float(shift * scipy.stats.norm.cdf(shift) + scipy.stats.norm.pdf(shift))

    np.testing.assert_allclose(difference, mean(0.5 + EFFECT) - mean(0.5), atol=0.08)


def test_every_unit_has_the_statistic_of_scipy(
    network: Any, concept: Concept, found: Selectivity
) -> None:
    values = populations.population_of(network).bench(concept).values
    labels = concept.examples().labels
    u = scipy.stats.mannwhitneyu(values[labels], values[~labels], axis=0)
    pairs = labels.sum() * (~labels).sum()
    np.testing.assert_allclose(found.effect, u.statistic / pairs, rtol=0, atol=1e-12)
    # The asymptotic p-value of scipy, where permutations resolve it.
    clear = u.pvalue > 0.02
    np.testing.assert_allclose(found.p_value[clear], u.pvalue[clear], atol=0.06)
    assert found.discovery_p == pytest.approx(
        scipy.stats.false_discovery_control(found.p_value), abs=1e-12
    )


def test_a_p_value_is_that_of_all_permutations() -> None:
    # Seven examples have 35 labellings: scipy goes through all of them.
    random = np.random.default_rng(0)
    values = random.normal(size=(7, 5)).astype(np.float32)
    inputs = np.concatenate([values, np.zeros((7, 1))], 1).astype(np.float32)
    labels = np.array([1, 1, 1, 0, 0, 0, 0])
    network = _reader(5)
    result = selectivity(network, Concept(inputs, labels, "seven"), permutations=20_000, probes=())
    exact = scipy.stats.mannwhitneyu(values[:3], values[3:], axis=0, method="exact").pvalue
    np.testing.assert_allclose(result.p_value, exact, atol=0.015)


def test_p_values_of_a_concept_that_is_not_there_are_uniform() -> None:
    result = _fake(tokens=False, seed=0)
    assert scipy.stats.kstest(result.p_value, "uniform").pvalue > 0.05
    assert len(result.selective()) == 0
    assert (result.family_p > 0.05).all()


def test_whole_rows_are_shuffled_where_tokens_depend_on_each_other() -> None:
    # Units and labels are both the same throughout a row: tokens taken alone would all be found.
    result = _fake(tokens=True, seed=1)
    assert scipy.stats.kstest(result.p_value, "uniform").pvalue > 0.01
    alone = scipy.stats.mannwhitneyu
    values, examples = _clustered(seed=1)
    naive = alone(values[examples.labels], values[~examples.labels], axis=0).pvalue
    assert (naive < 0.05).mean() > 0.4


def test_the_largest_of_all_units_keeps_the_family_wise_error() -> None:
    false = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        labels = random.permutation(np.arange(60) % 2 == 0)
        values = random.normal(size=(60, 30)).astype(np.float32)
        values[:, ::2] = np.maximum(values[:, ::2] - 1, 0)
        chance = _chance(values, _independent(labels), 199, seed)
        false += bool((chance.family_p <= 0.05).any())
    # 95 % of the time a rate of .05 gives at most 9 of 100.
    assert false <= 9


def test_one_unit_among_thousands_can_be_discovered() -> None:
    # 1,000 rounds are too few to tell one of 3,000 by Benjamini-Hochberg.
    random = np.random.default_rng(0)
    labels = random.permutation(np.arange(200) % 2 == 0)
    values = random.normal(size=(200, 3000)).astype(np.float32)
    values[:, 1234] += 3 * labels
    chance = _chance(values, _independent(labels), 1000, 0)
    adjusted = scipy.stats.false_discovery_control(chance.p_value)
    assert np.flatnonzero(adjusted <= 0.05).tolist() == [1234]
    assert chance.rounds[1234] > 30_000
    assert chance.p_value[1234] == 1 / (1 + chance.rounds[1234])
    assert np.median(chance.rounds) == 1000


def test_a_confound_is_taken_out_and_the_concept_stays() -> None:
    random = np.random.default_rng(0)
    n = 2000
    length = random.normal(size=n)
    labels = (length + 0.6 * random.normal(size=n) > 0).astype(int)
    inputs = random.normal(size=(n, 5)).astype(np.float32)
    inputs[:, 0] = length + 0.3 * inputs[:, 0]
    inputs[:, 1] += 2 * labels
    concept = Concept(inputs, labels, "long", confounds={"length": length, "coin": inputs[:, 4]})
    result = selectivity(_reader(4), concept, confounds=("length",), permutations=199, probes=())
    part = result.partial[0]
    assert result.effect[0] > 0.8
    assert part.effect[0] == pytest.approx(0.5, abs=0.05)
    assert part.effect[1] == pytest.approx(scipy.stats.norm.cdf(2 / np.sqrt(2)), abs=0.03)
    assert part.p_value[1] == 1 / 200
    assert 100 < part.n_examples < n
    assert "Given length" in result.summary()
    assert "long given" not in " ".join(result.to_frame().columns)
    assert "AUC given length" in result.to_frame().columns
    # van Elteren by hand, one stratum after another.
    strata = selectivity_strata.strata(concept.examples(), ("length", "coin"))
    here = selectivity_strata.mixed(strata, labels == 1)
    both = selectivity(
        _reader(4), concept, confounds=("length", "coin"), permutations=19, probes=()
    )
    total = weight = 0.0
    for stratum in np.unique(strata[here]):
        own = strata == stratum
        yes, no = inputs[own & (labels == 1), 2], inputs[own & (labels == 0), 2]
        share = len(yes) * len(no) / (own.sum() + 1)
        total += share * scipy.stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no))
        weight += share
    assert both.partial[0].effect[2] == pytest.approx(total / weight, abs=1e-12)
    assert both.partial[0].n_examples == here.sum()


def test_partial_p_values_are_uniform_where_only_the_confound_tells() -> None:
    random = np.random.default_rng(4)
    stratum = random.integers(0, 4, 400)
    labels = (random.random(400) < 0.2 + 0.2 * stratum).astype(int)
    inputs = random.normal(size=(400, 150)).astype(np.float32)
    inputs[:, :149] += stratum[:, None]
    concept = Concept(inputs, labels, "stratified", confounds={"stratum": stratum})
    result = selectivity(_reader(149), concept, confounds=("stratum",), permutations=199, probes=())
    assert len(result.selective()) == 149
    assert scipy.stats.kstest(result.partial[0].p_value, "uniform").pvalue > 0.05
    assert (result.partial[0].discovery_p <= 0.05).sum() == 0


def test_graded_concepts_have_the_share_explained() -> None:
    random = np.random.default_rng(0)
    angle = random.uniform(0, 2 * np.pi, 500)
    targets = np.stack([np.cos(angle), np.sin(angle)], 1)
    inputs = random.normal(size=(500, 40)).astype(np.float32)
    inputs[:, 3] = np.cos(angle + 0.7) + 0.5 * inputs[:, 3]
    concept = Concept(inputs, targets, "angle", confounds={"side": np.sign(targets[:, 0])})
    result = selectivity(_reader(39), concept, confounds=("side",), permutations=499)
    assert result.graded
    assert result.best(1) == ("layer.3",)
    # Half of the power of a wave against noise of a quarter.
    assert result.effect[3] == pytest.approx(0.5 / 0.75, abs=0.04)
    assert result.interval[0, 3] < 0.5 / 0.75 < result.interval[1, 3]
    assert np.isnan(result.difference).all()
    assert np.flatnonzero(result.family_p <= 0.05).tolist() == [3]
    assert 3 in result.selective()
    others = np.delete(result.p_value, 3)
    assert scipy.stats.kstest(others, "uniform").pvalue > 0.05
    assert result.partial[0].effect[3] < result.effect[3]
    assert result.partial[0].p_value[3] <= 1 / 500
    assert result.probes == ()
    assert "R²" in result.summary()
    with pytest.raises(ValueError, match="no probes of 'angle'"):
        result.probes_figure()


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth, inside = scipy.stats.norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = np.arange(160) % 2 == 0
        values = (random.normal(size=(160, 10)) + labels[:, None]).astype(np.float32)
        low, high = selectivity_intervals.of_auc(
            values, labels, np.arange(160), confidence=0.9, resamples=300, seed=seed
        )
        inside += int(((low < truth) & (truth < high)).sum())
    assert 168 <= inside <= 192


def test_the_interval_of_a_few_resamples_is_that_of_scipy_by_hand() -> None:
    random = np.random.default_rng(0)
    row = np.repeat(np.arange(30), 3)
    labels = random.random(90) < 0.4
    values = np.round(random.normal(size=(90, 1)) + labels[:, None], 1).astype(np.float32)

    def auc(rows: np.ndarray) -> float:
        chosen = (rows[:, None] * 3 + np.arange(3)).ravel()
        own, has = values[chosen, 0], labels[chosen]
        pairs = has.sum() * (~has).sum()
        return float(scipy.stats.mannwhitneyu(own[has], own[~has]).statistic / pairs)

    made = scipy.stats.bootstrap(
        (np.arange(30),),
        auc,
        vectorized=False,
        method="percentile",
        n_resamples=200,
        rng=np.random.default_rng(5),
        confidence_level=0.8,
    ).confidence_interval
    found = selectivity_intervals.of_auc(values, labels, row, confidence=0.8, resamples=200, seed=5)
    np.testing.assert_allclose(found[:, 0], [made.low, made.high], rtol=0, atol=1e-12)


def test_it_is_saved_and_read_back_and_equal_seeds_give_equal_bits(
    network: Any, concept: Concept, found: Selectivity, tmp_path: Path
) -> None:
    loaded = Result.load(found.save(tmp_path / "selectivity"))
    assert isinstance(loaded, Selectivity)
    again = selectivity(network, concept, probes=(1, 4), seed=3)
    for other in (loaded, again):
        assert np.array_equal(other.effect, found.effect)
        assert np.array_equal(other.p_value, found.p_value)
        assert np.array_equal(other.interval, found.interval, equal_nan=True)
        assert other.probes[0].each[1].units == found.probes[0].each[1].units
        assert np.array_equal(other.probes[0].each[0].random_f1, found.probes[0].each[0].random_f1)
        assert other.summary() == found.summary()
    assert loaded.probes[0].whole.auc == found.probes[0].whole.auc
    assert found.provenance.parameters["concept"]["name"] == "planted concept"


def test_what_it_says_and_shows(network: Any, found: Selectivity) -> None:
    frame: Any = found.to_frame()
    assert list(frame["unit"][:12]) == list(found.best(12))
    assert frame["low"][0] < frame["AUC"][0] < frame["high"][0]
    assert frame["low"].notna().sum() == 10
    said = found.summary()
    assert "600 examples" in said
    assert "300 of them with the concept" in said
    assert found.best(1)[0] in said
    assert "Probes of k units" in said
    drawn: list[Any] = [found.figure(order).data[0] for order in ("number", "value")]
    grid = drawn[0].z
    assert grid.shape == (9, 20)
    place = found.places.index("layer1.branch2")
    assert np.array_equal(grid[place], (found.effect - 0.5)[found.place == place])
    ordered = drawn[1].z
    assert (np.diff(ordered, axis=1) <= 0).all()
    assert (ordered[place, :12] > 0.3).all()
    with pytest.raises(ValueError, match="order = 'size'"):
        found.figure("size")


def test_constant_units_have_no_effect_and_are_counted() -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(100, 6)).astype(np.float32)
    inputs[:, 1] = 0.7
    labels = np.arange(100) % 2
    inputs[:, 2] += 2 * labels
    result = selectivity(_reader(5), Concept(inputs, labels, "odd"), permutations=199, probes=(1,))
    for values in (result.effect, result.p_value, result.discovery_p, result.difference):
        assert np.flatnonzero(np.isnan(values)).tolist() == [1]
    assert "4 units of" in result.summary()
    assert "1 more are constant" in result.summary()
    assert result.best(10) == tuple(result.names[i] for i in result.order[:4])
    inputs[:, :5] = 0.7
    with pytest.raises(ValueError, match="each of the 5 units is constant over all 100 examples"):
        selectivity(_reader(5), Concept(inputs, labels, "odd"), permutations=19)


def test_what_cannot_be_measured_gets_a_sentence(network: Any) -> None:
    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 3)).astype(np.float32)
    labels = np.arange(60) % 2
    concept = Concept(inputs, labels, "odd", confounds={"same": labels})
    with pytest.raises(ValueError, match="no confound 'length': the concept has 'same'"):
        selectivity(_reader(2), concept, confounds=("length",), permutations=19)
    with pytest.raises(ValueError, match="leave 0 examples with the concept and 0 without"):
        selectivity(_reader(2), concept, confounds=("same",), permutations=19)
    with pytest.raises(ValueError, match="at least 19 permutations"):
        selectivity(_reader(2), concept, permutations=10)
    with pytest.raises(ValueError, match="confidence = 1"):
        selectivity(_reader(2), concept, confidence=1)
    few = Concept(inputs[:5], labels[:5], "five")
    result = selectivity(_reader(2), few, permutations=99)
    assert result.probes == ()
    assert "No probes: 2 examples with the concept and 3 without" in result.summary()
    with pytest.raises(ValueError, match="has no units"):
        selectivity("grammar-4l", concept)


def test_it_stops_when_told_to(network: Any, concept: Concept) -> None:
    told: list[float] = []

    def stop(fraction: float, note: str) -> None:
        assert note
        told.append(fraction)
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        selectivity(network, concept, progress=stop)
    assert told == sorted(told)


def test_curved_shapes_have_channels_in_the_bundled_network() -> None:
    pictures = shapes.render(240, seed=5)
    concept = Concept(
        np.asarray(pictures.images),
        (np.asarray(pictures.labels) < 3).astype(int),
        "curved in three dimensions",
    )
    result = selectivity(
        sources.load_network("shapes-branch"), concept, permutations=199, probes=(4,)
    )
    # The class scores read the last stage: units of it must tell the classes apart.
    assert result.strength[result.order[0]] > 0.4
    assert result.probes[0].each[0].f1 > 0.85
    assert 10 < len(result.selective()) < len(result.names)


def test_names_of_the_grammar_have_neurons_and_a_fake_concept_has_none() -> None:
    model = workbench.load_model("grammar-4l")
    corpus = Corpus.bundled(model, documents=60)
    rows = list({row.tobytes(): row for row in map(corpus.row, range(60))}.values())
    names = [int(model.to_single_token(name)) for name in lexicon.FEMALE_NAMES]
    labels = [np.isin(row, names).astype(int) for row in rows]
    options: dict[str, Any] = {"layers": [0, 3], "permutations": 199, "probes": ()}
    result = selectivity(model, Concept(rows, labels, "female name"), **options)
    assert result.n_examples == sum(map(len, rows))
    assert result.n_with == sum(int(row.sum()) for row in labels)
    assert result.places == ("neuron 0", "neuron 3")
    assert set(np.unique(result.layer)) == {0, 3}
    assert result.strength[result.order[0]] > 0.42
    assert len(result.selective()) > 100
    random = np.random.default_rng(1)
    turned = [np.roll(row, random.integers(len(row))) for row in labels]
    fake = selectivity(model, Concept(rows, turned, "fake"), **options)
    assert len(fake.selective()) == 0
    # Each row has one label: its own ones turned are the same ones.
    same = [np.full(len(row), i % 2) for i, row in enumerate(rows[:5])]
    with pytest.raises(ValueError, match="shuffling changes no label"):
        selectivity(model, Concept(rows[:5], same, "same"), layers=[0])


def _reader(units: int) -> Any:
    """A network whose one layer hands on the first of its inputs."""
    import dataclasses

    import torch
    from torch import nn
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.HookedRootModule import HookedRootModule

    @dataclasses.dataclass(frozen=True)
    class Config:
        input_shape: tuple[int, ...]

    class Reader(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.cfg = Config((units + 1,))
            self.layer = nn.Sequential()
            self.layer.add_module("hook_out", HookPoint())
            self.scores = nn.Linear(units + 1, 2)
            self.hook_logits = HookPoint()
            self.setup()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.layer(inputs[:, :units])
            return self.hook_logits(self.scores(inputs))

    return Reader()


def _independent(labels: np.ndarray) -> Examples:
    count = len(labels)
    return Examples(np.arange(count), np.full(count, -1), labels, np.zeros((count, 0)), {})


def _clustered(seed: int) -> tuple[np.ndarray, Examples]:
    random = np.random.default_rng(seed)
    row = np.repeat(np.arange(40), 6)
    labels = np.repeat(random.permutation(np.arange(40) % 2 == 0), 6)
    values = np.repeat(random.normal(size=(40, 150)), 6, axis=0).astype(np.float32)
    position = np.tile(np.arange(6), 40)
    return values, Examples(row, position, labels, np.zeros((240, 0)), {})


def _chance(values: np.ndarray, examples: Examples, rounds: int, seed: int) -> Any:
    from analyses.neuron_clusters import ranks, shuffles

    expected = shuffles.expected(examples, examples.labels.astype(np.float64))
    return against_chance(
        Ranked(ranks.centred(values), examples.labels, expected),
        lambda count, start: shuffles.orders(examples, count, start),
        len(examples),
        rounds=rounds,
        seed=seed,
    )


class _Found:
    def __init__(self, chance: Any) -> None:
        self.p_value, self.family_p = chance.p_value, chance.family_p
        self._adjusted = scipy.stats.false_discovery_control(self.p_value)

    def selective(self) -> np.ndarray:
        return np.flatnonzero(self._adjusted <= 0.05)


def _fake(*, tokens: bool, seed: int) -> _Found:
    """Chance of many independent units for labels that have nothing to do with them."""
    if tokens:
        return _Found(_chance(*_clustered(seed), 499, seed))
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(120) % 3 == 0)
    values = random.normal(size=(120, 200)).astype(np.float32)
    return _Found(_chance(values, _independent(labels), 499, seed))
