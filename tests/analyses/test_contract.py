"""What every analysis module must be like; a new module is found by itself."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest

from workbench.core import results

FOLDER = Path(__file__).resolve().parents[2] / "analyses"
# An analysis is a module, or a package of modules.
MODULES = sorted(
    path.stem
    for path in FOLDER.iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file()
)


def results_of(name: str) -> list[type[results.Result]]:
    module = importlib.import_module(f"analyses.{name}")
    classes = [value for _, value in inspect.getmembers(module, inspect.isclass)]
    return [
        kind
        for kind in classes
        if issubclass(kind, results.Result) and kind.__module__.startswith(module.__name__)
    ]


def test_the_modules_are_found() -> None:
    assert {"activation_patching", "attribution", "circuits", "path_patching"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_docstring_has_question_method_source_units_and_limits(name: str) -> None:
    file = FOLDER / name / "__init__.py" if (FOLDER / name).is_dir() else FOLDER / f"{name}.py"
    text = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert text.splitlines()[0].endswith("?"), "the first line is the question"
    for part in ("\n1. ", "\n2. ", "\nSource: ", "\nUnits and sign: ", "\nLimits: "):
        assert part in text, f"{part.strip()!r} is missing"


@pytest.mark.parametrize("name", MODULES)
def test_it_offers_a_frozen_result_with_table_figure_and_summary(name: str) -> None:
    found = results_of(name)
    assert found
    for kind in found:
        assert dataclasses.is_dataclass(kind)
        assert not inspect.isabstract(kind), "to_frame, figure and summary are there"
        assert kind.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", MODULES)
def test_it_is_on_a_page_and_has_tests_of_its_name(name: str) -> None:
    root = FOLDER.parent
    pages = [path.read_text() for path in (root / "pages").glob("*.py")]
    assert any(re.search(rf"^from analyses import .*\b{name}\b", page, re.M) for page in pages)
    tests = root / "tests" / "analyses"
    assert (tests / f"test_{name}.py").is_file() or (tests / name).is_dir()
