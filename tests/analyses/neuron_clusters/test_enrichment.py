from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from analyses.neuron_clusters import enrichment

REFDATA = Path(__file__).parents[2] / "refdata" / "branch_specialization.json"
PUBLISHED: list[dict[str, Any]] = json.loads(REFDATA.read_text())["branches"]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row["branch"])
def test_the_published_table_gives_its_p_values(row: dict[str, Any]) -> None:
    sizes = row["branch_units"], row["layer_units"]
    found = enrichment.hypergeometric(row["in_branch"], row["family_total"], *sizes)
    assert found == pytest.approx(row["hypergeometric_p"], rel=5e-4)
    assert found < row["below"]
    fisher: Any = scipy.stats.fisher_exact(
        [
            [row["in_branch"], row["family_total"] - row["in_branch"]],
            [
                sizes[0] - row["in_branch"],
                sizes[1] - sizes[0] - row["family_total"] + row["in_branch"],
            ],
        ],
        alternative="greater",
    )
    assert found == pytest.approx(fisher.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    "counts", [(3, 2, 20, 180), (3, 12, 2, 180), (0, 5, 190, 180), (0, 9, 9, 10)]
)
def test_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be true together"):
        enrichment.hypergeometric(*counts)


def test_enrichment_and_concentration_by_hand() -> None:
    sizes = np.array([20, 40])
    own = enrichment.enrichments(np.array([6, 2]), sizes, 8, 80)
    np.testing.assert_allclose(own, [3.0, 0.5])
    # Densities .3 and .05: shares 6/7 and 1/7.
    wanted = 1 - scipy.stats.entropy([6 / 7, 1 / 7], base=2)
    assert enrichment.concentration(np.array([6, 2]), sizes) == pytest.approx(wanted)
    np.testing.assert_allclose(
        enrichment.concentration(np.array([[2, 4], [0, 5]]), sizes), [0, 1], atol=1e-12
    )


def test_the_interval_of_the_concentration_is_the_bootstrap_over_hits() -> None:
    counts, sizes = np.array([9, 2, 1]), np.array([20, 20, 20])
    found = enrichment.concentration_interval(counts, sizes, seed=0)
    drawn = np.random.default_rng(1).multinomial(12, counts / 12, size=20_000)
    wanted = np.quantile(enrichment.concentration(drawn, sizes), (0.025, 0.975))
    np.testing.assert_allclose(found, wanted, atol=0.03)
    assert found == enrichment.concentration_interval(counts, sizes, seed=0)
    assert enrichment.concentration_interval(np.array([5, 0]), np.array([9, 9])) == (1.0, 1.0)
    assert np.isnan(enrichment.concentration_interval(np.array([1, 0]), np.array([9, 9]))).all()


def test_without_strata_permutations_give_the_hypergeometric_p_value() -> None:
    place = np.repeat([0, 1, 2, -1], [10, 20, 20, 10])
    hit = np.zeros(60, dtype=bool)
    hit[[0, 1, 2, 3, 15, 40, 55]] = True
    null = enrichment.permuted(hit, place, np.zeros(60, dtype=np.int64), 3, rounds=40_000, seed=0)
    counts = np.bincount(place[hit] + 1, minlength=4)[1:]
    exact = [
        enrichment.hypergeometric(int(c), 7, s, 60)
        for c, s in zip(counts, (10, 20, 20), strict=True)
    ]
    np.testing.assert_allclose(enrichment.single_p_values(counts, null), exact, atol=0.01)


def test_permutations_within_strata_equal_shuffling_by_hand() -> None:
    random = np.random.default_rng(0)
    place, stratum = random.integers(-1, 3, 90), random.integers(0, 4, 90)
    hit = random.random(90) < 0.2
    null = enrichment.permuted(hit, place, stratum, 3, rounds=3_000, seed=1)
    by_hand = np.zeros((3_000, 3), dtype=np.int64)
    for row in by_hand:
        for one in range(4):
            mine = np.flatnonzero(stratum == one)
            moved = place[mine[random.permutation(len(mine))[: int(hit[mine].sum())]]]
            row[:] += np.bincount(moved + 1, minlength=4)[1:]
    np.testing.assert_allclose(null.mean(0), by_hand.mean(0), atol=0.12)
    np.testing.assert_allclose(null.std(0), by_hand.std(0), atol=0.08)


def test_strata_hold_like_units_of_one_layer_and_enough_of_them() -> None:
    random = np.random.default_rng(0)
    layer = np.repeat([0, 1, 2], [100, 60, 5])
    rate, size = random.random(165), random.random(165)
    found = enrichment.strata(layer, rate, size, hits=3)
    for one in np.unique(found):
        assert len(set(layer[found == one])) == 1
        assert (found == one).sum() >= (8 if layer[found == one][0] < 2 else 5)
    assert len(np.unique(found[layer == 0])) >= 9
    # The first half by rate fires less than the second one.
    in_first = found[layer == 0]
    order = [rate[layer == 0][in_first == one].mean() for one in np.unique(in_first)]
    assert order[0] < 0.4
    assert order[-1] > 0.6
    assert len(np.unique(enrichment.strata(layer, rate, size, hits=60))) == 3


def test_a_place_that_cannot_change_its_count_has_no_p_value_below_one() -> None:
    null = np.array([[2, 1, 0], [2, 0, 1], [2, 0, 1], [2, 1, 0]])
    found = enrichment.family_p_values(np.array([2, 3, 0]), null)
    np.testing.assert_allclose(found, [1.0, 1 / 5, 1.0])
    assert (enrichment.family_p_values(np.array([2]), np.full((9, 1), 2)) == 1).all()


def test_family_wise_p_values_hold_their_level() -> None:
    # Of hits that were drawn from all units, the best place is below .05 in 5 % of all cases.
    random = np.random.default_rng(0)
    place = np.repeat(np.arange(9), 20)
    one = np.zeros(180, dtype=np.int64)
    best: list[float] = []
    for seed in range(200):
        hit = np.zeros(180, dtype=bool)
        hit[random.choice(180, 15, replace=False)] = True
        null = enrichment.permuted(hit, place, one, 9, rounds=499, seed=seed)
        best.append(enrichment.family_p_values(np.bincount(place[hit], minlength=9), null).min())
    assert scipy.stats.binomtest(sum(p < 0.05 for p in best), 200, 0.05, "greater").pvalue > 0.01
