"""What the README shows works as it stands there, and so do the commands of the documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import workbench
from tests import documents
from workbench import ContrastPairs
from workbench.__main__ import app
from workbench.ui import serving

README = documents.read("README.md")
# What is run in a shell and is no command of the workbench.
FIRST, BY_HAND = (block.text for block in documents.blocks(README, "sh")[:2])


def test_the_two_commands_come_first() -> None:
    lines = FIRST.splitlines()
    assert [line.split("#")[0].strip() for line in lines] == ["make app", "make test"]
    assert README.index("make app") < 60


def test_the_script_runs_and_saves_a_result(tmp_path: Path) -> None:
    script = documents.scripts(README)[0]
    assert 8 <= len(script.strip().splitlines()) <= 12
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Denoising residual stream before each layer of grammar-4l" in run.stdout
    assert (tmp_path / "patching.html").stat().st_size > 1_000_000
    assert (tmp_path / "runs" / "indirect-object" / "result.json").is_file()


def test_a_model_of_ones_own_is_written_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.partition("## Your own model")[2].partition("\n## ")[0]
    (script,) = documents.scripts(section)
    asked: list[tuple[Any, ContrastPairs]] = []
    # What the real one does, a server and a browser, has tests of its own.
    monkeypatch.setattr(serving, "show", lambda *shown: asked.append(shown))
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "the README's script", "exec"), {})  # it must run as it stands
    ((model, pairs),) = asked
    assert len(pairs) == 32
    mark = workbench.fingerprint(model)
    assert workbench.fingerprint(workbench.load_model(tmp_path / "halved")) == mark
    assert workbench.fingerprint(workbench.load_model("grammar-4l")) != mark


def test_the_first_picture_comes_before_the_first_script() -> None:
    (first, *_) = documents.pictures(README)
    assert first == "docs/patching.png"
    assert README.index(first) < README.index("```python")


def commands() -> list[str]:
    """Every line of a document that runs the workbench, once."""
    paths = [Path("README.md"), *sorted((documents.ROOT / "docs").rglob("*.md"))]
    texts = [documents.read(str(path)) for path in paths]
    lines = [line for text in texts for line in documents.commands(text)]
    return list(dict.fromkeys(line for line in lines if line.startswith("workbench ")))


def test_the_documents_show_the_commands() -> None:
    shown = {line.split()[1] for line in commands()}
    assert {"app", "audit", "circuit", "inspect", "patch", "reproduce", "runs"} <= shown


@pytest.mark.parametrize("line", commands())
def test_the_commands_exist(line: str) -> None:
    words = line.split()
    command = words[1:3] if words[1] in ("grok", "features", "clusters", "runs") else words[1:2]
    run = CliRunner().invoke(app, [*command, "--help"], terminal_width=200)
    assert run.exit_code == 0, run.stderr
    for option in re.findall(r"--[a-z]+", line):
        assert option in run.stdout


def test_what_make_does_can_be_done_by_hand() -> None:
    lines = [line.split()[0] for line in BY_HAND.strip().splitlines()]
    assert lines == ["pip", "streamlit", "pytest"]
