"""How localized a behaviour is, on a model with two components that carry all of it."""

from __future__ import annotations

import numpy as np
import pytest

from analyses.circuits import measuring
from tests.report import tables
from workbench import ContrastPairs
from workbench.core import runs
from workbench.core.planted import two_steps
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.questions import localization
from workbench.report.questions.localization import Localizing
from workbench.report.spec import Behaviour

AGREEMENT = Behaviour(task="agreement", n=16)


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    store = runs.RunStore(tmp_path_factory.mktemp("runs"))
    return tables.on_the_table("grammar-4l", store=store)


@pytest.fixture(scope="module")
def answer(grammar: Examination) -> Answer:
    return localization.examine(grammar, AGREEMENT)


@pytest.fixture(scope="module")
def found(grammar: Examination, answer: Answer) -> Localizing:
    """What the answer is made of, as the run store gives it back."""
    assert answer.finding.verdict != "not examined"
    assert grammar.store is not None
    kept = grammar.store.find(Localizing, grammar.run_ids[-1])
    assert kept is not None
    return kept


@pytest.fixture(scope="module")
def two() -> ContrastPairs:
    pairs = two_steps.pairs(two_steps.two_layer())
    # Both halves of the pairs need some that differ.
    return pairs.subset([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(("share", "needed"), [(0.2, 1), (0.25, 1), (0.3, 2), (1.0, 2)])
def test_a_quarter_needs_one_planted_head_and_everything_two(
    two: ContrastPairs, share: float, needed: int
) -> None:
    # The direct path through layer 0 carries a quarter, that through both heads the rest.
    found = localization.localize(two_steps.two_layer(), two, share=share)
    assert found.components[:2] == ("a0.h0", "a1.h1")
    assert found.needed == needed
    assert found.faithfulness == pytest.approx([0, 0.25, 1, 1, 1, 1, 1], abs=1e-5)
    assert found.needed_interval.tolist() == [needed, needed]


def test_random_orders_need_more_where_two_components_carry_everything(two: ContrastPairs) -> None:
    found = localization.localize(two_steps.two_layer(), two)
    # The later of two places out of six is 14 / 3 on average.
    assert found.random_needed.mean() == pytest.approx(14 / 3, abs=0.8)
    assert found.random_needed.min() >= 2


def test_it_is_what_running_the_first_components_alone_gives(
    found: Localizing, grammar: Examination
) -> None:
    pairs = grammar.pairs(AGREEMENT).subset(found.measured_indices)
    measured = measuring.Measured(grammar.model, pairs)
    whole = measured.graph
    for size in (found.needed - 1, found.needed):
        off = set(found.components[size:])
        edges = [edge for edge in whole.edges if edge.partition("->")[0] not in off]
        (value,) = measured.faithfulness(whole.mask(edges)[None])
        assert value == pytest.approx(found.faithfulness[size], abs=1e-5)
        assert (value >= found.share) == (size == found.needed)


def test_agreement_is_carried_by_a_third_of_the_components(
    found: Localizing, answer: Answer
) -> None:
    assert found.needed < 0.5 * len(found.components)
    assert answer.finding.verdict == "pass"
    (number,) = answer.finding.measured
    assert number.value == pytest.approx(found.fraction)
    assert number.p_value == pytest.approx(1 / 21)
    assert number.null_value is not None and number.null_value > 0.7
    assert number.n == 8 and set(found.scored_indices).isdisjoint(found.measured_indices)


def test_the_order_and_the_number_are_in_the_report(found: Localizing, answer: Answer) -> None:
    assert f"{found.needed} of 20 heads and MLPs" in answer.finding.statement
    curve, table = answer.section.exhibits
    assert curve.figure is not None and table.table is not None
    assert [row[1] for row in table.table.rows][1:4] == list(found.components[:3])
    curves = {one.get("name"): one["y"] for one in curve.figure["data"] if one.get("name")}
    assert curves["by score"] == pytest.approx(found.faithfulness.tolist())


def test_of_five_components_no_choice_is_rarer_than_chance() -> None:
    table = tables.on_the_table("modadd-113")
    with pytest.raises(NotExamined, match="5 heads and MLPs, too few"):
        localization.examine(table, Behaviour(task="modular-addition", n=8))


def test_two_pairs_are_too_few(grammar: Examination) -> None:
    with pytest.raises(NotExamined, match="needs 4 pairs; there are 2"):
        localization.examine(grammar, Behaviour(task="agreement", n=2))


def test_a_large_model_is_tried_at_forty_sizes_from_none_to_all() -> None:
    sizes = localization._sizes(1000)
    assert sizes[0] == 0 and sizes[-1] == 1000
    assert len(sizes) <= 41 and (np.diff(sizes) > 0).all()
    assert localization._sizes(5).tolist() == [0, 1, 2, 3, 4, 5]
