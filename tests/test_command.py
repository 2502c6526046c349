"""The `workbench` command: results, and one sentence with exit code 2 for wrong input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer import testing

import workbench
from analyses import activation_patching
from workbench import ContrastPairs, __main__

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, list(arguments))


def test_models_lists_what_is_bundled() -> None:
    result = run("models")
    assert result.exit_code == 0
    for name in workbench.list_models():
        assert name in result.stdout
    assert "indirect-object" in result.stdout


def test_patch_saves_what_the_library_computes(tmp_path: Path) -> None:
    result = run(
        "patch", "modadd-113", "--task", "modular-addition", "--n", "8", "--site", "z",
        "--direction", "noising", "-o", str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    saved = activation_patching.PatchingResult.load(tmp_path / "out")
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=8)
    expected = activation_patching.patch(model, pairs, site="z", direction="noising")
    assert (saved.per_prompt == expected.per_prompt).all()
    said = " ".join(result.stdout.split())
    assert expected.summary() in said
    assert "✓ is the real model" in said
    assert (tmp_path / "out" / "effects.csv").read_text().startswith("layer,position,head,token")
    assert "plotly" in (tmp_path / "out" / "figure.html").read_text()[:20_000].lower()


def test_patch_reads_a_file_of_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("clean,corrupted,answer,wrong_answer\n1 + 2 =,1 + 5 =,3,6\n")
    result = run("patch", "modadd-113", "--pairs", str(file), "--positions", "all")
    assert result.exit_code == 0, result.output
    assert "on pairs.csv" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["grammer-4l", "--task", "agreement"], "did you mean 'grammar-4l'?"),
        (["modadd-113", "--task", "addition"], "no task is called 'addition'"),
        (["modadd-113", "--task", "modular-addition", "--site", "y"], "unknown site 'y'"),
        (["modadd-113", "--task", "modular-addition", "--metric", "y"], "unknown metric 'y'"),
        (["modadd-113", "--task", "modular-addition", "--direction", "y"], "direction = 'y'"),
        (["modadd-113", "--task", "modular-addition", "--positions", "y"], "positions = 'y'"),
        (["modadd-113", "--task", "modular-addition", "--n", "0"], "n = 0 pairs"),
        (
            ["modadd-113", "--task", "modular-addition", "--ablation", "zero"],
            "use direction='noising'",
        ),
        (["modadd-113", "--pairs", "nothing.csv"], "cannot read nothing.csv"),
        (["modadd-113"], "give either --task NAME or --pairs FILE, and not both"),
        (["modadd-113", "--task", "a", "--pairs", "b"], "give either --task NAME or --pairs FILE"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments: list[str], words: str) -> None:
    result = run("patch", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("workbench: ")
    assert "Traceback" not in result.output


def test_a_folder_that_is_no_result_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run(
        "patch", "modadd-113", "--task", "modular-addition", "--n", "4", "-o", str(tmp_path)
    )
    assert result.exit_code == 2
    assert "is no result folder: choose another name" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_as_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "workbench", "patch", "modadd-113", "--task", "nothing"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no task is called 'nothing'" in ended.stderr
    assert "Traceback" not in ended.stderr
