"""Which site carries a behaviour, on a model whose every effect is known."""

from __future__ import annotations

import dataclasses

import pytest

from analyses import activation_patching
from tests.report import tables
from workbench.core import runs
from workbench.core.planted import two_steps
from workbench.report.examining import Answer, Examination, NotExamined
from workbench.report.questions import sites
from workbench.report.spec import AuditSpec, Behaviour, Questions, Sites, Threshold

PLANTED = Behaviour(pairs="two steps.csv")
AGREEMENT = Behaviour(task="agreement", n=12)


def asking(**how: object) -> AuditSpec:
    return AuditSpec(questions=Questions(sites=Sites.model_validate(how)))


@pytest.fixture(scope="module")
def planted() -> Examination:
    """Layer 0, head 0 carries everything; layer 1, head 1 three quarters of it."""
    model = two_steps.two_layer()
    spec = asking(kinds=("resid_pre", "z"), effect=Threshold(passes=0.9, warns=0.5))
    table = tables.on_the_table(model, spec=spec)
    table.drawn[PLANTED] = two_steps.pairs(model)
    return table


@pytest.fixture(scope="module")
def found(planted: Examination) -> Answer:
    return sites.examine(planted, PLANTED)


@pytest.fixture(scope="module")
def grammar(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    store = runs.RunStore(tmp_path_factory.mktemp("runs"))
    return tables.on_the_table("grammar-4l", spec=asking(kinds=("mlp_out",)), store=store)


def test_it_finds_the_head_that_carries_everything(found: Answer) -> None:
    effect = found.finding.measured[0]
    assert "L0H0 at position 3" in effect.name
    assert effect.value == pytest.approx(1, abs=1e-5)
    assert "head L0H0" in found.finding.statement


def test_the_prompt_itself_in_the_stream_is_no_site(found: Answer) -> None:
    # Patched in before layer 0 the differing token has all of the effect, in any model.
    assert "resid_pre" not in found.finding.measured[0].name
    assert any("resid_pre" in one.name for one in found.section.measured)


def test_with_three_prompts_nothing_is_more_than_chance_and_nothing_passes(found: Answer) -> None:
    # Of 2^3 patterns of signs two are as extreme, so no p-value is below .25.
    p_value = found.finding.measured[0].p_value
    assert p_value is not None and p_value >= 0.25
    assert found.finding.verdict == "warn"
    assert "may be chance" in found.finding.caveat


def test_the_strongest_cell_is_the_largest_of_an_exact_run(grammar: Examination) -> None:
    answer = sites.examine(grammar, AGREEMENT)
    pairs = grammar.pairs(AGREEMENT)
    exact = activation_patching.patch(grammar.model, pairs, site="mlp_out")
    effect = answer.finding.measured[0]
    assert effect.value == pytest.approx(float(exact.effects.max()))
    # Known of this model: its first MLP reads the subject's number.
    assert "L0 at position 2" in effect.name
    assert answer.finding.verdict == "pass"
    assert effect.null_value == pytest.approx(
        float((exact.effects.sum() - exact.effects.max()) / (exact.effects.size - 1))
    )
    assert effect.p_value is not None and effect.p_value <= 0.05
    assert any("the first layer" in one for one in answer.section.caveats)
    assert "destroys" in answer.finding.caveat


def test_a_threshold_that_is_not_met_fails(grammar: Examination) -> None:
    hard = Threshold(passes=3.0, warns=2.0)
    table = dataclasses.replace(grammar, spec=asking(kinds=("mlp_out",), effect=hard))
    assert sites.examine(table, AGREEMENT).finding.verdict == "fail"


def test_there_is_nothing_to_locate_where_the_model_does_not_do_it() -> None:
    table = tables.on_the_table(tables.forgetful("modadd-113"))
    with pytest.raises(NotExamined, match="nothing that could carry it"):
        sites.examine(table, Behaviour(task="modular-addition", n=8))


def test_a_site_that_does_not_exist_is_named(grammar: Examination) -> None:
    table = dataclasses.replace(grammar, spec=asking(kinds=("heads",)))
    with pytest.raises(ValueError, match="unknown site 'heads'"):
        sites.examine(table, AGREEMENT)
