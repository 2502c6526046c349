from __future__ import annotations

import dataclasses
import types
from typing import Any

import numpy as np
import pytest
import scipy.stats

import workbench
from analyses.neuron_clusters import (
    localization,
    partitions,
    ranks,
    replication,
    verdict,
)
from tests.benchmarks import localization as simulated
from workbench.core import results
from workbench.core.engine import populations
from workbench.core.networks import sources
from workbench.core.planted import known_clusters as wired
from workbench.core.prompts.concepts import Concept

HOME = simulated.HOME


def looked(planted, effect=2.0, seed=3, n=600, **options):
    settings: dict[str, Any] = {"verify": False, "controls": False, "permutations": 1000} | options
    return localization.localize(
        wired.planted(planted, effect, seed), wired.concept(n, seed), **settings
    )


@pytest.fixture(scope="module")
def whole():
    return looked({HOME: 12}, n=300, verify=True, controls=True, n_random=24)


def test_a_planted_place_is_found_by_all_five_parts(whole) -> None:
    network = wired.planted({HOME: 12}, 2.0, 3)
    assert (whole.verdict, whole.place) == ("localized", HOME)
    assert sorted(whole.hits) == sorted(network.planted)
    assert whole.hit_places == (HOME,) * 12
    best = whole.places[0]
    assert (best.name, best.hits, best.size, best.share) == (HOME, 12, 20, 1.0)
    assert best.enrichment == pytest.approx(9)
    assert best.exact_p == pytest.approx(scipy.stats.hypergeom.sf(11, 180, 12, 20))
    assert best.units_p == best.p_value == whole.p_value == 1 / 1001
    assert whole.concentration == pytest.approx(1)
    assert whole.interval == pytest.approx((1, 1))
    assert whole.concentration_null < 0.4
    assert whole.verification[0].specific
    assert whole.verification[0].specificity > 0.8
    assert [each.name for each in whole.controls] == [
        "untrained network",
        "shuffled weights",
        "fake concept",
    ]
    assert {each.verdict for each in whole.controls} == {"not represented"}
    for number in range(1, 6):
        assert f"Part {number} holds" in whole.summary()


def test_effects_on_the_halves_are_mann_whitneys(whole) -> None:
    concept = wired.concept(300, 3)
    bench = populations.population_of(wired.planted({HOME: 12}, 2.0, 3)).bench(concept)
    a, b = replication.halves(bench.values, bench.examples, concept, 0)
    numbers = bench.population.numbers(whole.hits)
    for row, half in zip(whole.hit_effects, (a, b), strict=True):
        labels = half.examples.labels
        assert abs(int(labels.sum()) - 75) <= 1
        wanted = scipy.stats.mannwhitneyu(
            half.values[labels][:, numbers], half.values[~labels][:, numbers]
        ).statistic / (labels.sum() * (~labels).sum())
        np.testing.assert_allclose(row, wanted, atol=1e-12)
    assert not set(a.examples.row) & set(b.examples.row)
    assert len(a.examples) + len(b.examples) == 300


def test_a_saved_result_comes_back(whole, tmp_path) -> None:
    again = results.Result.load(whole.save(tmp_path / "found"))
    assert isinstance(again, verdict.Localization)
    assert again.summary() == whole.summary()
    assert again.places == whole.places
    np.testing.assert_array_equal(again.hit_effects, whole.hit_effects)
    assert again.to_frame().equals(whole.to_frame())
    assert again.figure().to_json() == whole.figure().to_json()
    assert again.provenance.parameters["concept"]["name"] == "planted concept"


def test_the_figure_shows_enrichment_null_and_bar(whole) -> None:
    figure = whole.figure()
    bars, band = figure.data
    assert list(bars.x) == [place.name for place in whole.places]
    np.testing.assert_allclose(bars.y, [place.enrichment for place in whole.places])
    np.testing.assert_allclose(
        np.array(band.y) + np.array(band.error_y.array), [place.high for place in whole.places]
    )
    assert figure.layout.shapes[0].y0 == 3.0


@pytest.mark.parametrize("case", [*simulated.PLANTED, simulated.ABSENT], ids=lambda case: case.name)
def test_what_was_planted_is_told(case) -> None:
    smaller = dataclasses.replace(case, n=200)
    found = [simulated.verdict(smaller, 2.0, seed) for seed in range(10)]
    assert [simulated.is_right(case, *each) for each in found] == [True] * 10


@pytest.mark.parametrize(
    "case", [case for case in simulated.NOTHING if case.n < 600], ids=lambda case: case.name
)
def test_nothing_is_localized_where_nothing_is(case) -> None:
    found = [simulated.verdict(case, 2.0, seed)[0] for seed in range(2)]
    assert "localized" not in found


def test_equal_seeds_give_equal_results_and_leave_the_network_alone() -> None:
    network = wired.planted({HOME: 12}, 2.0, 3)
    before = sources.network_fingerprint(network)
    options: dict[str, Any] = {"verify": False, "controls": False, "permutations": 1000}
    first, again, other = (
        localization.localize(network, wired.concept(200, 3), seed=seed, **options)
        for seed in (0, 0, 1)
    )
    assert sources.network_fingerprint(network) == before
    assert first.summary() == again.summary()
    assert not np.array_equal(first.hit_effects, other.hit_effects)


def test_a_control_that_is_localized_takes_the_verdict_away(monkeypatch) -> None:
    network = wired.planted({HOME: 12}, 2.0, 3)
    monkeypatch.setattr(localization.negative, "untrained", lambda subject, seed: network)
    found = looked({HOME: 12}, controls=True, n=200)
    assert (found.verdict, found.place) == ("spread", "")
    assert f"untrained network localized in {HOME}" in found.summary()
    assert "Part 5 does not hold" in found.summary()


def test_units_that_do_not_carry_the_concept_are_not_localized() -> None:
    # The readout of the planted units is cut off, so nothing depends on them.
    network = wired.planted({HOME: 12}, 2.0, 3)
    network.readout.weight.data[1] = 0
    network.readout.weight.data[0, :12] = 0.5
    options: dict[str, Any] = {"controls": False, "permutations": 1000, "n_random": 40}
    found = localization.localize(network, wired.concept(200, 3), **options)
    assert found.verdict == "spread"
    assert "Part 3 holds" in found.summary()
    assert "Part 4 does not hold" in found.summary()


def test_three_in_five_trainings_must_agree() -> None:
    here = [wired.planted({HOME: 12}, 2.0, seed) for seed in (4, 5)]
    there = [wired.planted({"layer0.branch0": 12}, 2.0, seed) for seed in (6, 7)]
    most = looked({HOME: 12}, retrained=[*here, *there], n=200)
    assert (most.verdict, most.place) == ("localized", HOME)
    assert "Of 5 trainings 3 have it in layer1.branch2 (asked: 3)" in most.summary()
    assert [each.place for each in most.trainings] == [HOME, HOME] + ["layer0.branch0"] * 2
    few = looked({HOME: 12}, retrained=[here[0], *there, there[0]], n=200)
    assert few.verdict == "spread"
    assert "Of 5 trainings 2 have it" in few.summary()


def test_a_graded_concept_is_told_by_its_variance() -> None:
    # Units follow the angle of a target: R² of a linear regression on its cosine and sine.
    random = np.random.default_rng(0)
    network = wired.planted({HOME: 12}, 2.0, 3)
    inputs = random.normal(size=(300, wired.D_INPUT)).astype(np.float32)
    inputs[:, wired.CONCEPT] = 4 + 1.5 * random.normal(size=300)
    inputs[:, wired.OTHER] = 0
    graded = Concept(inputs, inputs[:, [wired.CONCEPT]].astype(np.float64), "size")
    found = localization.localize(network, graded, verify=False, controls=False, permutations=1000)
    assert (found.verdict, found.place, found.graded) == ("localized", HOME, True)
    assert sorted(found.hits) == sorted(network.planted)
    bench = populations.population_of(network).bench(graded)
    first = replication.halves(bench.values, bench.examples, graded, 0)[0]
    from sklearn import linear_model

    unit = bench.population.numbers(found.hits[:1])[0]
    fitted = linear_model.LinearRegression().fit(first.examples.targets, first.values[:, unit])
    score = fitted.score(first.examples.targets, first.values[:, unit])
    assert found.hit_effects[0, 0] == pytest.approx(score, abs=1e-5)


def test_units_that_share_noise_gather_in_the_null_of_shuffled_labels() -> None:
    random = np.random.default_rng(0)
    place = np.repeat(np.arange(5), 20)
    values = random.normal(size=(200, 100))
    values[:, :20] = 0.3 * values[:, :20] + random.normal(size=(200, 1))
    labels = np.arange(200) % 2
    concept = Concept(values.astype(np.float32), labels, "nothing")
    examples = concept.examples()
    counts = replication.shuffled_places(
        replication.Half(values, examples), place, 5, 10, rounds=1000, seed=0
    )
    assert (counts.sum(1) == 10).all()
    # By place alone 10 of 10 in one of five has a chance of 1e-8.
    assert scipy.stats.hypergeom.sf(9, 100, 10, 20) < 2e-8
    assert (counts[:, 0] == 10).mean() > 0.005
    assert (counts[:, 1] == 10).mean() == 0
    # What units share through the concept is not part of the null.
    shared = random.normal(size=(200, 100))
    shared[:, :20] += 4 * labels[:, None]
    counts = replication.shuffled_places(
        replication.Half(shared, examples), place, 5, 10, rounds=1000, seed=0
    )
    assert counts.mean(0) == pytest.approx(2.0, abs=0.15)
    assert (counts[:, 0] >= 8).mean() < 0.002


def test_units_without_the_concept_are_rarely_chosen() -> None:
    random = np.random.default_rng(0)
    chosen = 0
    for seed in range(10):
        values = random.normal(size=(60, 200)).astype(np.float32)
        concept = Concept(values, np.arange(60) % 2, "nothing")
        halves = replication.halves(values, concept.examples(), concept, seed)
        chosen += len(replication.chosen(*halves, rounds=1000, seed=seed).units)
    assert chosen <= 3


def test_p_values_from_the_shared_null_are_mann_whitneys() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(80, 200)).astype(np.float32)
    labels = np.arange(80) % 2
    values[:, :30] += 0.8 * labels[:, None]
    half = replication.Half(values, Concept(values, labels, "some").examples())
    size = np.abs(ranks.aucs(ranks.centred(values), (labels == 1)[None])[0] - 0.5)
    found = replication._p_values(
        replication._Measure(half), size, 4000, 0, lambda done, text: None
    )
    wanted = scipy.stats.mannwhitneyu(values[labels == 1], values[labels == 0]).pvalue
    # Scales are from 256 rounds, so known to 4 %: that is .02 of a p-value around one third.
    np.testing.assert_allclose(found, wanted, atol=0.06)
    assert abs((found - wanted).mean()) < 0.01
    related: Any = scipy.stats.spearmanr(found, wanted)
    assert related.statistic > 0.995
    assert found[wanted < 1e-4].max() < 5e-4
    assert found.min() >= 1 / (1 + 4000 * 200)


def test_what_a_place_is() -> None:
    population = populations.population_of(sources.load_network("shapes-branch"))
    by_place = partitions.declared(population, "place")
    assert by_place.names[:2] == ("stem", "mixed0.branch1")
    by_layer = partitions.declared(population, "layer")
    assert by_layer.names == ("stem", "mixed0", "mixed1", "mixed2")
    assert by_layer.sizes.tolist() == [12, 36, 48, 72]
    assert by_place.within_layers().tolist() == [False] + [True] * 9
    assert not by_layer.within_layers().any()
    given = partitions.declared(population, {"a": ["stem.0", "stem.3"], "b": ["mixed0.branch1.0"]})
    assert given.sizes.tolist() == [2, 1]
    assert (given.number == -1).sum() == len(population) - 3
    language = populations.population_of(workbench.load_model("grammar-4l"), ("neuron", "head"))
    assert partitions.declared(language, "layer").names == tuple(f"layer {i}" for i in range(4))
    assert partitions.declared(language, "kind").names == ("neuron", "head")


def clusters(**more):
    labels = np.array([0, 0, 1, -1])
    names = ("layer0.branch0.0", "layer0.branch0.1", "layer1.branch0.0", "layer1.branch0.1")
    return types.SimpleNamespace(names=names, labels=labels, **more)


def test_places_that_say_nothing_are_refused() -> None:
    population = populations.population_of(wired.planted({}, 2.0, 0))
    made = partitions.declared(population, clusters(from_weights=True))
    assert made.names == ("cluster 0", "cluster 1")
    assert made.sizes.tolist() == [2, 1]
    for places, message in (
        (clusters(from_weights=False), "were fitted from activations"),
        ("index", "expected one of place, layer, kind"),
        ("kind", "there is one place only"),
        ({}, "there are no places"),
        ({"a": ["layer0.branch0.0"], "b": []}, "holds no unit"),
        ({"a": ["layer0.branch0.0"], "b": ["layer0.branch0.0"]}, "that another place holds"),
        ({"a": ["layer0.branch0.99"], "b": ["layer0.branch0.0"]}, "there is no unit"),
        (3, "places is a int"),
    ):
        with pytest.raises(ValueError, match=message):
            partitions.declared(population, places)


def test_small_inputs_get_a_sentence() -> None:
    network = wired.planted({HOME: 12}, 2.0, 3)
    with pytest.raises(ValueError, match="expected at least 8 in each"):
        localization.localize(network, wired.concept(20, 0))
    with pytest.raises(ValueError, match="expected at least 999"):
        localization.localize(network, wired.concept(200, 0), permutations=100)
    with pytest.raises(ValueError, match="level between 0 and 1"):
        localization.localize(network, wired.concept(200, 0), confidence=2)
    with pytest.raises(ValueError, match="say nothing about other trainings"):
        localization.localize(
            network,
            wired.concept(200, 0),
            places=clusters(from_weights=True),
            retrained=[network],
        )
    with pytest.raises(RuntimeError, match="stop"):
        localization.localize(network, wired.concept(200, 0), progress=_stop)
    # Constant units have no concept and break nothing.
    for parameter in network.layer0.parameters():
        parameter.data.zero_()
    found = localization.localize(
        network, wired.concept(200, 0), verify=False, controls=False, permutations=1000
    )
    assert (found.verdict, found.place) == ("localized", HOME)


def _stop(done: float, text: str) -> None:
    if done > 0.1:
        raise RuntimeError("stop")


def test_a_place_that_is_too_large_is_said_to_be() -> None:
    names = [f"{place}.{i}" for place in simulated.PLACES for i in range(20)]
    found = looked({HOME: 12}, places={"large": names[60:160], "rest": names[:60]}, n=200)
    assert found.verdict == "spread"
    assert found.places[0].share == 1
    assert "no enrichment of 3 is possible there" in found.summary()
    assert "no place is larger" in found.summary()


def test_curvature_in_the_network_of_shapes_is_spread() -> None:
    from workbench.core.networks import shapes

    data = shapes.render(240, seed=5)
    concept = Concept(data.images, (data.labels < 3).astype(int), "three-dimensional curvature")
    network = sources.load_network("shapes-branch")
    options: dict[str, Any] = {"verify": False, "controls": False, "permutations": 1000}
    found = localization.localize(network, concept, **options)
    assert found.verdict == "spread"
    assert len(found.hits) >= 12
    assert max(place.share for place in found.places) < 0.5
