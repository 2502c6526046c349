"""A spec with every choice made, so that a later audit with it asks exactly the same.

1. Behaviours: of a bundled model the tasks of its card that it is good at; of any other model the
   named tasks whose words are single tokens for it.
2. Units and concepts: what their questions choose (`questions.units`, `questions.concepts`).
3. What cannot be chosen is left open, with its reason.

Limits: the sums modulo 113 are asked of no model that is not known to do them, since nothing in
their prompts says "modulo 113".
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.core.models import card, sources
from workbench.core.prompts import tasks
from workbench.report.examining import Examination, NotExamined
from workbench.report.spec import AuditSpec, Behaviour, Concepts, Question, Units

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

_NEEDS_TRAINING = ("modular-addition",)
_FIRST_PAIRS = 2


@dataclasses.dataclass(frozen=True)
class Choice:
    """A spec with every choice made.

    Attributes:
        spec: The spec.
        missing: Why nothing could be chosen for a question.
    """

    spec: AuditSpec
    missing: dict[Question, str]


def chosen(model: TransformerBridge, spec: AuditSpec, folder: Path) -> Choice:
    """Make every choice that a spec leaves open.

    Args:
        model: The model.
        spec: What was asked.
        folder: What paths of the spec are relative to.

    Returns:
        The spec with behaviours, units and concepts by name, under the model's own name.
    """
    missing: dict[Question, str] = {}
    name = sources.source_of(model).name
    subject = spec.model.model_copy(update={"name": name})
    made = spec.model_copy(update={"model": subject})
    if not spec.behaviours:
        made = made.model_copy(update={"behaviours": _behaviours(model, name, spec.seed)})
        if not made.behaviours:
            missing["behaviour"] = (
                "no behaviour was named, and none of the named tasks "
                f"({', '.join(tasks.TASKS)}) is known of this model or has words that its "
                "tokenizer knows as single tokens"
            )
    asked = made.questions
    try:
        units = _units(model, made, folder)
    except ValueError as error:
        units, missing["units"] = asked.units, str(error)
    try:
        concepts = _concepts(model, made)
    except ValueError as error:
        concepts, missing["concepts"] = asked.concepts, str(error)
    questions = asked.model_copy(update={"units": units, "concepts": concepts})
    return Choice(made.model_copy(update={"questions": questions}), missing)


def _behaviours(model: TransformerBridge, name: str, seed: int) -> tuple[Behaviour, ...]:
    if name in card.list_models() and sources.source_of(model).kind == "bundled":
        good = Behaviour.model_fields["accuracy"].default.passes
        known = card.model_card(name).behaviours
        return tuple(Behaviour(task=one.task) for one in known if one.accuracy >= good)
    return tuple(
        behaviour
        for behaviour in (Behaviour(task=task) for task in tasks.TASKS)
        if behaviour.task not in _NEEDS_TRAINING and _fits(model, behaviour, seed)
    )


def _fits(model: TransformerBridge, behaviour: Behaviour, seed: int) -> bool:
    """Whether a task's words are single tokens for the model."""
    from workbench.core.prompts.pairs import ContrastPairs

    try:
        # Most vocabularies that lack a task's words lack them in the first pairs that are tried.
        for n in (_FIRST_PAIRS, behaviour.n):
            ContrastPairs.from_task(model, str(behaviour.task), n=n, seed=seed)
    except ValueError:
        return False
    return True


def _units(model: TransformerBridge, spec: AuditSpec, folder: Path) -> Units:
    from workbench.report.questions import units

    asked = spec.questions.units
    if not asked.ask or asked.units:
        return asked
    return asked.model_copy(
        update={"units": units.choose(model, spec, _first(model, spec, folder))}
    )


def _first(model: TransformerBridge, spec: AuditSpec, folder: Path) -> ContrastPairs | None:
    """Pairs of the first behaviour that has some for this model."""
    examination = Examination(model, "", spec, folder)
    for behaviour in spec.behaviours:
        try:
            return examination.pairs(behaviour)
        except NotExamined:
            continue
    return None


def _concepts(model: TransformerBridge, spec: AuditSpec) -> Concepts:
    from workbench.report.questions import concepts

    asked = spec.questions.concepts
    if not asked.ask or asked.concepts:
        return asked
    return asked.model_copy(update={"concepts": concepts.choose(model, spec)})
