"""Options of the `grok` commands, and how tasks, recipes and runs are read from what was typed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.core import files, reading

if TYPE_CHECKING:
    from workbench.core.modular.recipe import Recipe
    from workbench.core.modular.run import TrainingRun
    from workbench.core.modular.tasks import Task

Modulus = Annotated[int | None, typer.Option("--p", help="Modulus, a prime (113).")]
Operation = Annotated[
    str | None,
    typer.Option(
        help="add (default), subtract, multiply, divide, a^2+b^2, a^2+ab+b^2, a^3+ab or random."
    ),
]
Fraction = Annotated[float | None, typer.Option(help="Share of the pairs to train on (0.3).")]
Seed = Annotated[int | None, typer.Option(help="Seed of the split and of the initial weights (0).")]
Noise = Annotated[
    float | None, typer.Option(help="Share of the training labels drawn at random (0).")
]
RecipeName = Annotated[
    str | None,
    typer.Option("--recipe", help="nanda-2023 (default), omnigrok-2022 or grokfast-2024."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the recipe, KEY=VALUE; may be given several times."),
]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps at the most.")]
Stop = Annotated[str, typer.Option(help="When to end: grokked, settled or never.")]
Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder of the run; by default among the stored ones."),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a run, id of a stored one, or modadd-113.")
]
RunOption = Annotated[
    str | None,
    typer.Option("--run", help="Test loss of a training run, with what changed inside."),
]
Vary = Annotated[
    list[str],
    typer.Option(help="A field with its values, fraction=0.3,0.4; once or twice."),
]
Seeds = Annotated[int, typer.Option(help="Seeds of each setting, side by side.")]
Jobs = Annotated[int, typer.Option(help="Settings trained at the same time.")]
File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE", help="Training curve: CSV, JSONL, TensorBoard or trainer_state.json."
    ),
]
Column = Annotated[str | None, typer.Option(help="Which curve of the file (a loss).")]
Level = Annotated[float | None, typer.Option(help="Largest p-value of a drop (0.05).")]
Minimum = Annotated[float | None, typer.Option(help="Least size of a drop in dex (0.1).")]

STOPS = ("grokked", "settled", "never")
_STORED = re.compile(r"[0-9a-f]{16}")
# How many stored runs a message names.
_FEW = 5
_YES_OR_NO = {"true": True, "yes": True, "false": False, "no": False}


def read_task(**fields: Any) -> Task:
    """A task of the fields that were typed.

    Args:
        **fields: Fields of `Task`, None where nothing was said.

    Returns:
        The task, with defaults in the other fields.
    """
    from workbench.core.modular.tasks import Task

    return Task(**{name: value for name, value in fields.items() if value is not None})


def read_recipe(name: str | None, changes: Sequence[str] | None, steps: int | None) -> Recipe:
    """A published recipe, with what was typed in its place.

    Args:
        name: Of the recipe; None for the usual one.
        changes: KEY=VALUE each.
        steps: Steps at the most; None leaves them.

    Returns:
        The recipe.

    Raises:
        ValueError: If there is no such recipe, field or value.
    """
    from workbench.core.modular import recipe

    made = recipe.recipe(name) if name is not None else recipe.recipe()
    asked: dict[str, Any] = {} if steps is None else {"steps": steps}
    for text in changes or ():
        field, value = _split("--set", text)
        if field in asked:
            raise ValueError(f"--set {text!r}: {field} is set twice")
        asked[field] = _value(f"--set {text!r}", value, _kinds(made).get(field, str))
    return recipe.recipe(made.name, **asked)


def read_stop(text: str) -> Any:
    """When a training ends.

    Args:
        text: What was typed.

    Returns:
        The same.

    Raises:
        ValueError: If it is none of `STOPS`.
    """
    if text not in STOPS:
        raise ValueError(f"--stop {text!r}: choose from {', '.join(STOPS)}")
    return text


def read_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Fields to vary, with their values.

    Args:
        texts: FIELD=VALUE,VALUE each.

    Returns:
        Values by field; those of a field that does not exist stay texts.

    Raises:
        ValueError: If one has no values, or a value does not suit its field.
    """
    from workbench.core.modular.recipe import Recipe
    from workbench.core.modular.tasks import Task

    kinds = _kinds(Task()) | _kinds(Recipe())
    found: dict[str, list[Any]] = {}
    for text in texts:
        field, values = _split("--vary", text)
        if field in found:
            raise ValueError(f"--vary {text!r}: {field} is varied twice")
        kind = kinds.get(field, str)
        found[field] = [
            _value(f"--vary {text!r}", value.strip(), kind) for value in values.split(",")
        ]
    return found


def _split(option: str, text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not (field.strip() and equals and value.strip()):
        raise ValueError(f"{option} {text!r}: expected a field and a value, for example steps=2000")
    return field.strip(), value.strip()


def _kinds(made: Task | Recipe) -> dict[str, type]:
    """The type of each field, read off a value."""
    return {field.name: type(getattr(made, field.name)) for field in dataclasses.fields(made)}


def _value(what: str, text: str, kind: type) -> Any:
    try:
        return _YES_OR_NO[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        words = {int: "a whole number", float: "a number", bool: "true or false"}
        raise ValueError(f"{what}: {text!r} is not {words[kind]}") from None


def find_run(name: str) -> TrainingRun:
    """Open a run by what a person calls it.

    Args:
        name: Folder of a run, id of a stored one, or name of a bundled model.

    Returns:
        The run.

    Raises:
        ValueError: If there is none.
    """
    from workbench.core.models import card
    from workbench.core.modular import run

    if name in card.list_models():
        return run.bundled_run(name)
    folder = files.folder_of(name)
    if folder is not None:
        return run.open_run(folder)
    root = run.trainings_root()
    if _STORED.fullmatch(name) and (root / name).is_dir():
        return run.open_run(root / name)
    stored = [one.folder.name for one in run.stored_runs()][:_FEW]
    more = f" (the last stored ones: {', '.join(stored)})" if stored else ""
    raise ValueError(
        f"there is no run {reading.quoted(name)}: give a run's folder, the id of a stored "
        f"one{more}, or modadd-113"
    )
