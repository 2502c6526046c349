"""What an audit asks where the spec leaves it open."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.planted import two_steps
from workbench.core.prompts.pairs import ContrastPairs
from workbench.report import choosing
from workbench.report.examining import NotExamined
from workbench.report.questions import concepts, units
from workbench.report.spec import AuditSpec, Behaviour, Concepts, Questions, Subject, Units

NOTHING_MORE = Questions(units=Units(ask=False), concepts=Concepts(ask=False))


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


def names(spec: AuditSpec) -> list[str | None]:
    return [one.task for one in spec.behaviours]


def test_a_bundled_model_is_asked_what_its_card_says_that_it_can(
    grammar: TransformerBridge,
) -> None:
    choice = choosing.chosen(grammar, AuditSpec(questions=NOTHING_MORE), Path())
    known = workbench.model_card("grammar-4l").behaviours
    assert names(choice.spec) == [one.task for one in known]
    assert choice.missing == {}


def test_a_behaviour_that_is_named_stays_the_only_one(grammar: TransformerBridge) -> None:
    asked = AuditSpec(behaviours=(Behaviour(task="agreement"),), questions=NOTHING_MORE)
    assert choosing.chosen(grammar, asked, Path()).spec.behaviours == asked.behaviours


def test_a_model_that_nothing_is_known_of_is_asked_what_its_tokenizer_has(
    grammar: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing.card, "list_models", list[str])
    choice = choosing.chosen(grammar, AuditSpec(questions=NOTHING_MORE), Path())
    # Every task but the sums, of whose numbers and signs it has not all.
    assert len(names(choice.spec)) == 5
    assert "modular-addition" not in names(choice.spec)


def test_a_model_without_the_words_of_any_task_is_asked_nothing_and_says_why() -> None:
    model = two_steps.two_layer()
    choice = choosing.chosen(model, AuditSpec(questions=NOTHING_MORE), Path())
    assert choice.spec.behaviours == ()
    assert "no behaviour was named" in choice.missing["behaviour"]


def test_units_and_concepts_are_chosen_by_their_questions_and_named_in_the_spec(
    grammar: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ContrastPairs | None] = []

    def unit(model: object, spec: AuditSpec, pairs: ContrastPairs | None) -> tuple[str, ...]:
        seen.append(pairs)
        return ("neuron 1.2",)

    def concept(model: object, spec: AuditSpec) -> tuple[str, ...]:
        return ("gender",)

    monkeypatch.setattr(units, "choose", unit)
    monkeypatch.setattr(concepts, "choose", concept)
    asked = AuditSpec(behaviours=(Behaviour(task="agreement", n=4),), model=Subject(name="x"))
    made = choosing.chosen(grammar, asked, Path()).spec
    assert made.questions.units.units == ("neuron 1.2",)
    assert made.questions.concepts.concepts == ("gender",)
    assert made.model.name == "grammar-4l"
    assert seen[0] is not None and seen[0].name == "agreement (n=4, seed=0)"
    # Nothing is left to choose.
    assert choosing.chosen(grammar, made, Path()).spec == made
    assert len(seen) == 1


def test_what_cannot_be_chosen_is_left_open_with_its_reason(
    grammar: TransformerBridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> tuple[str, ...]:
        raise NotExamined("there are no neurons here")

    monkeypatch.setattr(units, "choose", refuse)
    asked = AuditSpec(questions=Questions(concepts=Concepts(ask=False)))
    choice = choosing.chosen(grammar, asked, Path())
    assert choice.missing == {"units": "there are no neurons here"}
    assert choice.spec.questions.units.units == ()
