"""The dependency list holds what is imported and nothing else, each with reason and version."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib

from tests.test_layering import LIBRARY, ROOT, imported, sources

OWN = {"workbench", "analyses", "pages", "tests"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {normalised(re.split(r"[<>=]", one)[0]) for one in project["dependencies"]}


def pinned(name: str) -> set[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {normalised(line.split("==")[0]) for line in lines if "==" in line}


def test_what_is_declared_is_imported_and_what_is_imported_is_declared() -> None:
    names = {name.split(".")[0] for path in sources(*LIBRARY) for name in imported(path)}
    foreign = names - OWN - set(sys.stdlib_module_names)
    installed = importlib.metadata.packages_distributions()
    assert {normalised(installed[name][0]) for name in foreign} == declared()


def test_each_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.split("dependencies = [")[1].split("\n]")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert len(lines) == len(declared())
    assert [line for line in lines if not re.search(r"# \w", line)] == []


def test_each_dependency_is_pinned_where_it_is_installed_from() -> None:
    assert declared() <= pinned("requirements.txt")
    assert pinned("requirements.txt") <= pinned("constraints.txt")
