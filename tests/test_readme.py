"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.visiting import printed
from workbench.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_two_commands_come_first() -> None:
    first = blocks("sh")[0].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make app", "make test"]
    assert README.index("make app") < 60


def test_the_script_runs_and_saves_a_result(tmp_path: Path) -> None:
    script = blocks("python")[0]
    assert 8 <= len(script.strip().splitlines()) <= 12
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "Denoising residual stream before each layer of grammar-4l" in run.stdout
    assert (tmp_path / "patching.html").stat().st_size > 1_000_000
    assert (tmp_path / "runs" / "indirect-object" / "result.json").is_file()


def test_the_neuron_script_says_what_is_told_of_it() -> None:
    said = printed(blocks("python")[1])
    assert "At its largest activations: '.' (20 of 20," in said
    assert "with a correlation of 0.91 (95% interval" in said
    assert "precision 67%" in said
    assert "(p = 0.002)" in said, "one of 512: no other neuron of the layer does better"


def test_the_concept_script_says_what_is_told_of_it() -> None:
    said = printed(blocks("python")[2])
    first = said.splitlines()[0]
    assert first.startswith("spread 16 [")
    assert "'localized'" not in first
    assert "16 have it in the other half" in said


def test_the_script_about_one_prompt_says_what_is_told_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: dict[str, Any] = {}
    exec(compile(blocks("python")[3], "the script", "exec"), shown)  # what is shown runs
    said = capsys.readouterr().out
    assert "which is at the top from layer 1 on" in said
    assert "gives 9.415 for the logit of 'Mary' less that of 'John'" in said
    assert "The largest: a1.h2 +2.86, a1.h0 +2.57" in said
    assert "correlate at 0.33 (p = 0.13" in said
    assert "through head 1.1 from position 9" in said
    assert (
        "of 7 tokens twice with 0.00 nats a token, and the same tokens after others with 7.52"
        in said
    )
    edge = "head 1.1 from 9 to 14"
    without = shown["contributions"].edge_effect(
        shown["model"], shown["prompt"], edge, " Mary", wrong=" John"
    )
    assert round(without.change, 1) == 2.7
    carried = said.partition("for: ")[2]
    assert [part.split()[0] for part in carried.split("), ")[:4]] == ["0.1", "0.0", "1.0", "0.2"]


def test_the_pictures_are_there() -> None:
    paths = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(paths) == 5
    for path in paths:
        assert (ROOT / path).read_bytes().startswith(b"\x89PNG")


COMMANDS = [line for block in blocks("sh")[2:] for line in block.strip().splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_exist(line: str) -> None:
    words = line.split()
    command = words[1:3] if words[1] in ("grok", "features", "clusters", "runs") else words[1:2]
    run = CliRunner().invoke(app, [*command, "--help"], terminal_width=200)
    assert run.exit_code == 0, run.stderr
    for option in re.findall(r"--[a-z]+", line):
        assert option in run.stdout
