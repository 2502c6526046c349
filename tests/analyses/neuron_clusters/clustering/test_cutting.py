"""Cutting, similarity and connections against hand-made truth and independent libraries."""

from __future__ import annotations

from typing import Any

import networkx
import numpy as np
import pytest
import sklearn.cluster
import sklearn.metrics
import torch
from networkx.algorithms import cuts
from sklearn.metrics import pairwise

from analyses.neuron_clusters.clustering import connections, cutting, similarity
from tests import families
from workbench.core.engine import populations
from workbench.core.modular import fourier
from workbench.core.networks import architectures

ARI = sklearn.metrics.adjusted_rand_score


def blocks(strength: float, groups: int, size: int, n: int = 300, seed: int = 0) -> np.ndarray:
    """Values of groups of units of which every two in a group have this correlation."""
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.normal(size=(n, groups)), size, axis=1)
    own = rng.normal(size=shared.shape)
    values = np.sqrt(strength) * shared + np.sqrt(1 - strength) * own
    # A unit may be opposed to the others of its group.
    return (values * np.where(np.arange(groups * size) % 3 == 0, -1, 1)).astype(np.float32)


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.9])
def test_planted_groups_are_cut_apart_as_scikit_learn_does(strength: float) -> None:
    table = similarity.CoActivation(blocks(strength, 4, 15)).similarity()
    found = cutting.partitions(table, [2, 4])[1]
    assert ARI(np.repeat(np.arange(4), 15), found) == 1.0
    theirs = sklearn.cluster.SpectralClustering(4, affinity="precomputed", random_state=0)
    assert ARI(theirs.fit_predict(table + 1e-6), found) == 1.0


def test_similarity_is_the_squared_correlation() -> None:
    values = blocks(0.5, 2, 5)
    expected = np.square(np.corrcoef(values.T)) - np.eye(10)
    np.testing.assert_allclose(similarity.CoActivation(values).similarity(), expected, atol=1e-5)


def test_shuffled_values_keep_each_unit_and_lose_what_is_shared() -> None:
    values = blocks(0.9, 2, 10, n=2000)
    world = similarity.CoActivation(values).shuffled(np.random.default_rng(0))
    assert isinstance(world, similarity.CoActivation)
    np.testing.assert_array_equal(np.sort(world._values, 0), np.sort(values, 0))
    assert world.similarity().max() < 0.02


def test_cosines_are_those_of_scikit_learn_and_zero_weights_are_alike_to_nothing() -> None:
    rng = np.random.default_rng(0)
    read, write = rng.normal(size=(6, 9)), rng.normal(size=(6, 4))
    read[5] = 0
    place = np.zeros(6, dtype=np.int64)
    table = similarity.Cosines({"in": read, "out": write}, place).similarity()
    cosine = pairwise.cosine_similarity
    expected = (cosine(read) ** 2 + cosine(write) ** 2) / 2
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-6)
    np.testing.assert_allclose(table[5, :5], cosine(write)[5, :5] ** 2 / 2, atol=1e-6)


def test_the_normalised_cut_is_that_of_networkx() -> None:
    rng = np.random.default_rng(1)
    half = np.triu(rng.random((12, 12)) * (rng.random((12, 12)) < 0.5), 1)
    weights = half + half.T
    graph = networkx.from_numpy_array(weights)
    two = np.array([0] * 5 + [1] * 7)
    theirs = cuts.normalized_cut_size(graph, range(5), range(5, 12), weight="weight")
    assert cutting.normalised_cut(weights, two) == pytest.approx(theirs, rel=1e-9)
    three = np.arange(12) % 3
    parts = [np.flatnonzero(three == i).tolist() for i in range(3)]
    expected = sum(
        cuts.cut_size(graph, part, weight="weight") / cuts.volume(graph, part, weight="weight")
        for part in parts
    )
    assert cutting.normalised_cut(weights, three) == pytest.approx(expected, rel=1e-9)


def test_cohesion_by_hand() -> None:
    table = np.array([[0, 0.8, 0.1, 0.2], [0.8, 0, 0.3, 0], [0.1, 0.3, 0, 0.6], [0.2, 0, 0.6, 0]])
    own = cutting.cohesion(table, np.array([0, 0, 1, 1]))
    np.testing.assert_allclose(own, [0.8 - 0.15, 0.6 - 0.15])
    # A single unit has no pairs.
    assert np.isnan(cutting.cohesion(table, np.array([0, 0, 0, 1]))[1])


def test_units_without_anything_in_common_and_equal_ones_make_no_warning() -> None:
    apart = np.zeros((9, 9))
    for start in (0, 3, 6):
        apart[start : start + 3, start : start + 3] = 1.0
    np.fill_diagonal(apart, 0)
    assert ARI(cutting.partitions(apart, [3])[0], np.repeat([0, 1, 2], 3)) == 1.0
    assert cutting.by_size(np.array([2, 0, 0, 2, 2, 1])).tolist() == [0, 1, 1, 0, 0, 2]


def test_units_that_are_opposed_are_turned_around() -> None:
    rows = np.outer([1.0, 2.0, -1.0, 0.5], [0.6, 0.8, 0.0])
    assert similarity.opposed(rows).tolist() == [1, 1, -1, 1]


def test_kernels_of_a_network_lie_in_the_middle_and_are_read_by_the_next_stage() -> None:
    torch.manual_seed(0)
    network = architectures.build(architectures.BranchCnn(8, 2, (2, 3), 4))
    population = populations.of_network(network)
    found = connections.spaces(population)
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    mixed = np.zeros((2, 2, 5, 5), dtype=np.float32)
    mixed[:, :, 2:3, 2:3] = weights["mixed0.branch1.conv.weight"]
    rows = found["in"][population.numbers(["mixed0.branch1.0", "mixed0.branch1.1"])]
    # The stem's three channels of 3 × 3 come first.
    np.testing.assert_array_equal(rows[:, 27 : 27 + 50], mixed.reshape(2, -1))
    assert not rows[:, :27].any()
    # The last stage writes to the class scores.
    last = population.numbers(["mixed1.branch5.2"])
    np.testing.assert_array_equal(found["out"][last][0, -4:], weights["logits.weight"][:, 8])
    graph = connections.graph(population).similarity()
    kernel = weights["mixed1.branch3.conv.weight"]
    reader, sender = population.numbers(["mixed1.branch3.1", "mixed0.branch5.0"])
    assert graph[reader, sender] == pytest.approx(np.abs(kernel[1, 4]).sum(), rel=1e-6)
    assert graph[sender, reader] == graph[reader, sender]
    stem, deep = population.numbers(["stem.0", "mixed1.branch3.0"])
    assert graph[stem, deep] == 0


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_neurons_are_connected_through_the_stream(name: str) -> None:
    model: Any = families.build(name)
    population = populations.of_model(model)
    graph = connections.graph(population).similarity()
    blocks = model.blocks
    gain = blocks[1].ln2.original_component.weight
    width = int(model.cfg.d_mlp)
    expected = torch.zeros(width, width)
    for weights in (blocks[1].mlp.W_in, getattr(blocks[1].mlp, "W_gate", None)):
        if weights is not None:
            expected += (blocks[0].mlp.W_out @ (gain[:, None] * weights)).abs()
    np.testing.assert_allclose(graph[:width, width:], expected.detach().numpy(), atol=1e-6)
    assert not graph[:width, :width].any()
    assert set(connections.spaces(population)) == (
        {"in", "out"} if name == "gpt2" else {"in", "gate", "out"}
    )


def test_shuffled_connections_are_the_same_weights() -> None:
    rng = np.random.default_rng(0)
    joined = connections.Joined(np.arange(3), np.arange(3, 7), rng.random((3, 4)))
    graph = connections.Graph(7, [joined])
    mixed = graph.shuffled(rng).similarity()
    np.testing.assert_allclose(np.sort(mixed.ravel()), np.sort(graph.similarity().ravel()))
    assert not np.allclose(mixed, graph.similarity())
    part = graph.resampled(np.random.default_rng(3))
    kept = part > 0
    np.testing.assert_allclose(part[kept], graph.similarity()[kept])
    smaller = graph.among(np.array([True, False, True, True, True, False, True]))
    inside = [0, 2, 3, 4, 6]
    np.testing.assert_allclose(smaller.similarity(), graph.similarity()[np.ix_(inside, inside)])


def test_spectra_of_the_null_are_those_of_values_in_random_order() -> None:
    rng = np.random.default_rng(0)
    values = rng.permuted(np.tile(np.arange(121.0) ** 2, (400, 1)), axis=1).T.reshape(11, 11, -1)
    real = fourier.explained_by_frequency(values)
    world = similarity.Spectra(real.T, 11).shuffled(rng)
    assert isinstance(world, similarity.Spectra)
    np.testing.assert_allclose(real.mean(1), 8 / 120, rtol=0.1)
    np.testing.assert_allclose(world._shares.mean(0), 8 / 120, rtol=0.1)
    np.testing.assert_allclose(world._shares.std(0), real.std(1), rtol=0.2)
