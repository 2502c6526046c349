"""Adding an analysis as the document says: its files written and its commands run, no more."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import documents

TEXT = documents.read("docs/adding-an-analysis.md")
COPIED = ("workbench", "analyses", "pages", "tests")
# Larger files are data that nobody writes.
SMALL = 100_000


def _place(source: str, target: str) -> None:
    if Path(source).stat().st_size < SMALL:
        shutil.copyfile(source, target)
    else:
        Path(target).symlink_to(source)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the workbench, with the three files of the document."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in COPIED:
        shutil.copytree(
            documents.ROOT / folder,
            root / folder,
            ignore=shutil.ignore_patterns("__pycache__"),
            copy_function=_place,
        )
    shutil.copyfile(documents.ROOT / "pyproject.toml", root / "pyproject.toml")
    for name, content in documents.files(TEXT).items():
        assert not (root / name).exists(), f"{name} is no new analysis"
        (root / name).write_text(content, encoding="utf-8")
    return root


def test_it_is_a_module_a_page_and_a_test() -> None:
    assert list(documents.files(TEXT)) == [
        "analyses/word_order.py",
        "pages/word_order.py",
        "tests/analyses/test_word_order.py",
    ]


def test_every_command_ends_well_and_the_files_are_formatted_as_they_stand(checkout: Path) -> None:
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(paths),
        "PYTEST_ADDOPTS": "-q -p no:cacheprovider",
        "PYTHONDONTWRITEBYTECODE": "1",
        "RUFF_NO_CACHE": "true",
    }
    lines = documents.commands(TEXT)
    assert [shlex.split(line)[0] for line in lines] == ["ruff", "ruff", "python"]
    said = ""
    for line in lines:
        run = subprocess.run(
            shlex.split(line),
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        said = run.stdout
        assert run.returncode == 0, f"{line}\n{said}\n{run.stderr}"
    # Of each kind at least one test was found, and none was passed over.
    assert "passed" in said and "skipped" not in said and "warning" not in said
    for name, content in documents.files(TEXT).items():
        assert (checkout / name).read_text(encoding="utf-8") == content
