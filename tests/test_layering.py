"""Who may import whom, proven on the source and in fresh interpreters."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = [ROOT / "workbench", ROOT / "analyses", ROOT / "pages"]
TRAINING = ("workbench.core.models.training", "workbench.core.networks.training")


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, at whatever depth, by its full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package: str) -> set[str]:
    found = {
        path
        for path in sources(*LIBRARY)
        if any(name.split(".")[0] == package for name in imported(path))
    }
    return {path.relative_to(ROOT).as_posix() for path in found}


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running some code."""
    ask = "\nimport json, sys\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    run = subprocess.run(
        [sys.executable, "-c", code + ask], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_the_scan_reads_real_files() -> None:
    names = {module_name(path) for path in sources(*LIBRARY)}
    assert {"workbench.app", "workbench.core", "analyses", "pages.model"} <= names


def test_streamlit_is_imported_by_the_app_its_widgets_and_the_pages_only() -> None:
    elsewhere = {
        name
        for name in importers("streamlit")
        if name != "workbench/app.py" and not name.startswith(("workbench/ui/", "pages/"))
    }
    assert elsewhere == set()


def test_only_the_command_and_the_reports_import_analyses() -> None:
    inside = {name for name in importers("analyses") if name.startswith("workbench/")}
    allowed = ("workbench/__main__.py", "workbench/commands/", "workbench/report/")
    assert {name for name in inside if not name.startswith(allowed)} == set()


def test_workbench_itself_holds_only_its_entry_points_and_packages() -> None:
    # Streamlit puts this folder first on sys.path: a module here would shadow one of that name.
    modules = {path.name for path in (ROOT / "workbench").glob("*.py")}
    assert modules <= {"__init__.py", "__main__.py", "app.py"}


def test_packages_of_the_workbench_shadow_no_module_that_is_installed() -> None:
    packages = {path.parent.name for path in (ROOT / "workbench").glob("*/__init__.py")}
    assert packages & set(sys.stdlib_module_names) == set()


def test_importing_the_library_loads_no_streamlit() -> None:
    # Training scripts are programs of their own; nothing imports them.
    modules = [
        name
        for path in sources(ROOT / "workbench" / "core", ROOT / "analyses")
        if not (name := module_name(path)).startswith(TRAINING)
    ]
    loaded = loaded_after("\n".join(f"import {name}" for name in ["workbench", *modules]))
    assert "workbench" in loaded
    assert loaded & {"streamlit", "transformer_lens", "sae_lens"} == set()


def test_importing_all_analyses_loads_none_until_one_is_named() -> None:
    loaded = loaded_after("import analyses")
    assert loaded & {"torch", "numpy", "pandas", "plotly", "scipy"} == set()
    assert "torch" in loaded_after("import analyses\nanalyses.logit_lens.read")


@pytest.mark.parametrize("names", ["list_models", "list_models, model_card"])
def test_listing_the_models_loads_no_model_library(names: str) -> None:
    loaded = loaded_after(f"from workbench import {names}\nlist_models()")
    assert loaded & {"torch", "transformers", "transformer_lens", "streamlit"} == set()


def test_the_first_page_waits_for_no_model_library() -> None:
    # What the page starts in the background loads the libraries after it is shown: jobs are held
    # back here, so that what is loaded is what the page itself asked for.
    code = """
from streamlit.testing.v1 import AppTest
from workbench.ui import importing, jobs
jobs.Manager._take_turn = lambda *arguments: None
importing.begin = lambda: None
at = AppTest.from_file("workbench/app.py", default_timeout=60).run()
assert not at.exception, [e.value for e in at.exception]
assert at.title[0].value.endswith("?"), "a page opens with a question"
"""
    loaded = loaded_after(code)
    assert "streamlit" in loaded
    assert loaded & {"transformer_lens", "sae_lens", "transformers", "torch"} == set()
