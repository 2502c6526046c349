"""Random sets: as many units from the same places, alike in how they vary, never the cluster's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats

from analyses.neuron_clusters.random_sets import random_sets
from workbench.core.engine import populations
from workbench.core.planted import known_clusters

SETS = 60


@pytest.fixture(scope="module")
def population() -> populations.Population:
    return populations.population_of(known_clusters.planted({"layer1.branch2": 4}))


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Neurons that fire more or less often, and more or less strongly."""
    random = np.random.default_rng(0)
    shift = random.normal(size=known_clusters.N_UNITS)
    size = np.exp(random.normal(size=known_clusters.N_UNITS))
    noise = random.normal(size=(300, known_clusters.N_UNITS))
    return (np.maximum(noise + shift, 0) * size).astype(np.float32)


def test_each_place_gives_as_many_units_and_none_of_the_cluster(
    population: populations.Population, values: np.ndarray
) -> None:
    chosen = np.array([3, 7, 11, 45, 46, 170])
    drawn = random_sets(population, values, chosen, n=SETS, seed=1)
    assert drawn.sets.shape == (SETS, 6)
    for one in drawn.sets:
        assert len(set(one.tolist())) == 6
        assert not set(one.tolist()) & set(chosen.tolist())
        assert population.place[one].tolist() == [0, 0, 0, 2, 2, 8]
    assert "6 from the same place" in drawn.matching
    assert len({tuple(sorted(one)) for one in drawn.sets.tolist()}) > SETS // 2


def test_stand_ins_are_among_the_nearest(
    population: populations.Population, values: np.ndarray
) -> None:
    chosen = np.array([5])
    drawn = random_sets(population, values, chosen, n=200, seed=0)
    table = np.stack([(values[:, :20] > 0).mean(0), values[:, :20].astype(float).std(0)], 1)
    ranks = scipy.stats.rankdata(table, axis=0)
    away = scipy.spatial.distance.cdist(ranks, ranks[chosen], "cityblock")[:, 0]
    away[chosen] = np.inf
    allowed = np.sort(away)[7]
    assert away[np.unique(drawn.sets)].max() <= allowed
    assert len(np.unique(drawn.sets)) >= 7
    farther = np.delete(np.arange(20), [5, *np.unique(drawn.sets)])
    assert away[farther].min() >= away[np.unique(drawn.sets)].max()


def test_where_a_place_is_nearly_all_cluster_its_layer_stands_in(
    population: populations.Population, values: np.ndarray
) -> None:
    chosen = np.array([*range(12), 100])
    drawn = random_sets(population, values, chosen, n=SETS)
    assert "1 from the same place, 12 from the same layer" in drawn.matching
    assert (population.layer[drawn.sets[:, :12]] == 0).all()
    assert (population.place[drawn.sets[:, 12]] == 5).all()
    whole_layer = np.arange(60)
    drawn = random_sets(population, values, whole_layer, n=SETS)
    assert "60 from anywhere" in drawn.matching
    assert drawn.sets.min() >= 60
    assert all(len(set(one)) == 60 for one in drawn.sets.tolist())


def test_equal_seeds_give_equal_sets(
    population: populations.Population, values: np.ndarray
) -> None:
    chosen = np.array([8, 2, 61])
    first = random_sets(population, values, chosen, n=30, seed=4)
    assert (first.sets == random_sets(population, values, chosen, n=30, seed=4).sets).all()
    assert (first.sets != random_sets(population, values, chosen, n=30, seed=5).sets).any()
    assert chosen.tolist() == [8, 2, 61]


def test_a_cluster_of_most_units_is_refused(
    population: populations.Population, values: np.ndarray
) -> None:
    with pytest.raises(ValueError, match="the cluster has 80 of 180 units.*at most 40%"):
        random_sets(population, values, np.arange(80))
