"""A sweep says of each concept what `localize` says, corrected for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from analyses import neuron_clusters as clusters
from workbench.core import results
from workbench.core.planted import known_clusters as wired

PERMUTATIONS = 2000


@pytest.fixture(scope="module")
def network() -> Any:
    return wired.planted({"layer1.branch2": 12}, effect=2.5)


@pytest.fixture(scope="module")
def found(network: Any) -> clusters.ConceptSweep:
    planted = wired.concept(400)
    few = planted.replaced(labels=np.where(np.arange(400) < 2, 1, 0), name="two examples")
    return clusters.concept_sweep(
        network, [planted, planted.fake(1), few], permutations=PERMUTATIONS, verify=False
    )


def test_each_row_is_what_localize_says(network: Any, found: clusters.ConceptSweep) -> None:
    alone = clusters.localize(
        network, wired.concept(400), permutations=PERMUTATIONS, verify=False, controls=False
    )
    assert found.verdicts == ("localized", "not represented", "not looked at")
    assert found.best[0] == alone.place == "layer1.branch2"
    assert found.provenance.parameters["controls"] is True
    assert found.p_value[0] == alone.p_value
    assert found.n_hits[0] == len(alone.hits)
    assert found.share[0] == alone.places[0].share
    assert found.hits_by_place[0].sum() == len(alone.hits)
    assert "two examples" in found.concepts
    assert found.why[2]


def test_p_values_are_corrected_for_all_that_could_be_looked_at(
    found: clusters.ConceptSweep,
) -> None:
    assert found.adjusted_p[0] == pytest.approx(2 * found.p_value[0])
    assert found.adjusted_p[1] == 1
    assert "1 localized, 1 not represented, 1 not looked at" in found.summary()


def test_it_is_saved_and_drawn(found: clusters.ConceptSweep, tmp_path: Any) -> None:
    again = results.Result.load(found.save(tmp_path / "sweep"))
    assert isinstance(again, clusters.ConceptSweep)
    assert again.verdicts == found.verdicts
    assert again.to_frame().equals(found.to_frame())
    drawn: Any = found.figure().data[0]
    assert list(drawn.z[-1]) == pytest.approx(
        (found.hits_by_place[0] / found.hits_by_place[0].sum()).tolist()
    )


def test_a_sweep_over_many_concepts_needs_a_smaller_p(network: Any) -> None:
    planted = wired.concept(400)
    # With so few rounds no p-value can pass once it is multiplied by the number of concepts.
    several = [planted, *(planted.fake(i).replaced(name=f"fake {i}") for i in range(11))]
    found = clusters.concept_sweep(network, several, permutations=999, verify=False, n_jobs=2)
    assert found.adjusted_p[0] == pytest.approx(12 * found.p_value[0])
    assert found.verdicts[0] == "spread"
    assert "over all concepts" in found.why[0]


def test_concepts_need_names_of_their_own(network: Any) -> None:
    with pytest.raises(ValueError, match="2 concepts with 1 names"):
        clusters.concept_sweep(network, [wired.concept(100), wired.concept(100)])
    with pytest.raises(ValueError, match="0 concepts"):
        clusters.concept_sweep(network, [])
