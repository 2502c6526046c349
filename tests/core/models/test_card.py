"""Cards of the bundled models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import workbench
from workbench.core.models import card
from workbench.core.prompts import tasks


def test_both_models_are_bundled_and_small() -> None:
    assert workbench.list_models() == ["grammar-4l", "modadd-113"]
    files = [file for file in card.BUNDLED.rglob("*") if file.is_file()]
    models = [file for file in files if file.name != "trajectory.safetensors"]
    assert sum(file.stat().st_size for file in models) < 8_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}


@pytest.mark.parametrize("name", workbench.list_models())
def test_a_card_states_what_a_user_needs(name: str) -> None:
    known = workbench.model_card(name)
    assert known.name == name
    assert set(known.tasks) == {behaviour.task for behaviour in known.behaviours}
    assert set(known.tasks) <= set(tasks.TASKS)
    assert all(behaviour.accuracy >= 0.97 for behaviour in known.behaviours)
    assert all(behaviour.n >= 1000 for behaviour in known.behaviours)
    assert known.training.seconds > 0 and known.training.script.startswith("python -m workbench.")
    assert any("loss" in measure.name for measure in known.measures)


def test_the_grammars_card_states_entropy_and_excess_loss() -> None:
    measures = {m.name: m.value for m in workbench.model_card("grammar-4l").measures}
    assert 0 < measures["excess loss"] < 0.1
    # Loss and excess are measured on the same documents, whose own entropy varies a little.
    gap = measures["loss"] - measures["excess loss"] - measures["entropy of the grammar"]
    assert abs(gap) < 0.02


def test_an_unknown_card() -> None:
    with pytest.raises(ValueError, match="the bundled models are grammar-4l, modadd-113"):
        workbench.model_card("gpt2")


def test_a_card_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    document = json.loads((card.BUNDLED / "modadd-113" / "card.json").read_text())
    document["colour"] = "blue"
    with pytest.raises(ValueError, match="colour"):
        card.ModelCard.model_validate(document)
