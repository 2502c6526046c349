"""`workbench inspect`: what the library finds, and one sentence for bad input."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer import testing

import workbench
from analyses import attention, contributions, direct_attribution, logit_lens, weights
from tests import computing
from workbench import __main__
from workbench.core import runs

PROMPT = "When Mary and John went to the store, John gave a drink to"
MODEL = "grammar-4l"


def invoke(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, ["inspect", *arguments])


def said_by(done: testing.Result) -> str:
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def test_a_prompt_is_laid_open_and_kept(tmp_path: Path) -> None:
    looked = "lens,attribution,contributions,weights"
    asked = ("--wrong", " John", "--look", looked, "-o", str(tmp_path))
    said = said_by(invoke(MODEL, "--prompt", PROMPT, *asked))
    model = workbench.load_model(MODEL)
    lens = logit_lens.read(model, PROMPT, tokens=[" Mary", " John"])
    parts = direct_attribution.attribute(model, PROMPT, " Mary", wrong=" John")
    graph = contributions.trace(model, PROMPT)
    assert lens.summary() in said
    assert parts.summary() in said
    assert graph.summary() in said
    best = parts.largest[0]
    assert f"{best} │ {parts.share(best):+.3f}" in said
    kept = weights.CopyingScores.load(tmp_path / "copying")
    assert kept.summary() in said
    assert list(pd.read_csv(tmp_path / "matrices" / "matrices.csv")["matrix"])
    for folder in ("lens", "attribution", "contributions", "matrices", "copying"):
        assert (tmp_path / folder / "figure.html").stat().st_size > 1_000_000


def test_a_model_over_residues_says_what_cannot_be_measured(tmp_path: Path) -> None:
    asked = ("--look", "attention,activations", "-o", str(tmp_path))
    said = said_by(invoke("modadd-113", "--prompt", "12 + 57 =", *asked))
    kept = attention.HeadScores.load(tmp_path / "head-scores")
    assert kept.not_measurable
    assert kept.summary() in said
    assert "Residual stream" in said


def test_equal_views_are_answered_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computing.counted(monkeypatch, weights.matrices, weights)
    command = ("modadd-113", "--prompt", "12 + 57 =", "--look", "lens,weights")
    first, second = invoke(*command), invoke(*command)
    assert said_by(first) == said_by(second)
    assert len(calls) == 1
    kept = [row.id for row in runs.RunStore().runs()]
    assert len(kept) == 3
    assert all(run in second.stderr for run in kept)
    assert not any(run in first.stderr for run in kept)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "xyzzy"), "outside the vocabulary"),
        (("--prompt", PROMPT, "--look", "everything"), "expected some of lens, attribution"),
        (("--prompt", PROMPT, "--position", "99"), "positions 0 to 14, not 99"),
        (("--prompt", PROMPT, "--answer", " Mary John"), "expected a single token"),
        (("--prompt", PROMPT, "--top", "0"), "expected 1 row or more"),
    ],
)
def test_bad_input_ends_with_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(MODEL, *arguments)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert message in " ".join(done.stderr.split())
