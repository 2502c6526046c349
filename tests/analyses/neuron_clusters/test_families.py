"""Families of units by branch: the planted ones are counted, and their p-value is scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from analyses import neuron_clusters as clusters
from workbench.core import results
from workbench.core.engine import populations
from workbench.core.planted import known_clusters as wired
from workbench.core.prompts.concepts import Concept


def concepts() -> list[Concept]:
    planted = wired.concept(400)
    other = planted.replaced(
        labels=(planted.inputs[:, wired.OTHER] > 0.5).astype(int), name="other property"
    )
    return [planted, other]


def test_planted_units_are_counted_where_they_are_and_tested_within_their_layer() -> None:
    network = wired.planted({"layer1.branch2": 10}, effect=2.5)
    found = clusters.families(network, concepts())
    of = dict(zip(found.names, found.family, strict=True))
    assert all(of[name] == 0 for name in network.planted)
    assert all(of[name] == 1 for name in network.others)
    assert (found.family >= 0).sum() == len(network.planted) + len(network.others)
    at = found.places.index("layer1.branch2")
    assert found.counts[0, at] == 10
    assert found.counts[0].sum() == 10
    best = found.rows[0]
    assert (best.family, best.place, best.in_place, best.in_layer) == (
        "planted concept",
        "layer1.branch2",
        10,
        10,
    )
    expected = scipy.stats.hypergeom.sf(9, 60, 10, 20)
    assert best.p_value == pytest.approx(expected, rel=1e-12)
    assert best.adjusted_p == pytest.approx(expected * len(found.rows), rel=1e-12)
    assert "10 of the 10 planted concept units of layer 1 are in layer1.branch2" in found.summary()


def test_spread_units_are_in_no_branch_more_than_chance(tmp_path) -> None:
    network = wired.planted(
        {f"layer{i}.branch{j}": 3 for i in range(3) for j in range(3)}, effect=2.5
    )
    found = clusters.families(network, concepts())
    assert found.counts[0].tolist() == [3] * 9
    assert all(row.adjusted_p > 0.05 for row in found.rows)
    assert "No place has more" in found.summary()
    again = results.Result.load(found.save(tmp_path / "families"))
    assert isinstance(again, clusters.Families)
    np.testing.assert_array_equal(again.family, found.family)
    assert again.rows == found.rows
    assert len(found.to_frame()) == len(found.rows)
    assert found.figure().data


def test_layers_of_one_place_have_nothing_to_compare() -> None:
    network = wired.planted({"layer1.branch2": 10}, effect=2.5)
    hooks = [f"layer{i}.branch2.hook_out" for i in range(wired.LAYERS)]
    found = clusters.families(populations.of_network(network, hooks), concepts())
    assert found.rows == ()
    assert "No layer has several places" in found.summary()


def test_what_is_no_list_of_families_gets_a_sentence() -> None:
    network = wired.planted({})
    with pytest.raises(ValueError, match="1 concepts with 1 names"):
        clusters.families(network, concepts()[:1])
    with pytest.raises(ValueError, match="2 concepts with 1 names"):
        clusters.families(network, [wired.concept(100), wired.concept(100)])
    graded = wired.concept(100).replaced(labels=np.random.default_rng(0).normal(size=(100, 2)))
    with pytest.raises(ValueError, match="has targets"):
        clusters.families(network, [wired.concept(100), graded.replaced(name="waves")])
