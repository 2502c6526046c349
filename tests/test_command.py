"""The `workbench` command: results, and one sentence with exit code 2 for wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from typer import testing

import workbench
from analyses import activation_patching, attribution, circuits, path_patching
from analyses.circuits import discovery
from tests import computing, sentences
from workbench import ContrastPairs, __main__
from workbench.core import runs

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

ROOT = Path(__file__).resolve().parents[1]
GRAMMAR = ("grammar-4l", "--task", "agreement", "-n", "6")
SUMS = ("modadd-113", "--task", "modular-addition", "-n", "4")


def run(*arguments: str) -> testing.Result:
    return testing.CliRunner().invoke(__main__.app, list(arguments))


def said_by(*arguments: str) -> str:
    """What a command that succeeds says, on one line."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def agreement(n: int = 6) -> tuple[TransformerBridge, ContrastPairs]:
    model = workbench.load_model("grammar-4l")
    return model, ContrastPairs.from_task(model, "agreement", n=n)


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


def test_patch_takes_positions_by_name_or_index_and_some_layers_only(tmp_path: Path) -> None:
    run("patch", *GRAMMAR, "--positions", "the subject, -1", "--layers", "1,3", "-o", str(tmp_path))
    saved = activation_patching.PatchingResult.load(tmp_path)
    model, pairs = agreement()
    expected = activation_patching.patch(model, pairs, positions=["the subject", -1], layers=(1, 3))
    np.testing.assert_array_equal(saved.per_prompt, expected.per_prompt)
    assert saved.layers == (1, 3)
    assert saved.columns[0] == "the subject"


def test_patch_measures_the_neurons_with_the_largest_estimates(tmp_path: Path) -> None:
    options = ("--site", "neuron", "--layers", "2", "--top", "3", "--positions", "all")
    said = said_by("patch", *GRAMMAR, *options, "-o", str(tmp_path))
    model, pairs = agreement()
    expected = activation_patching.patch(
        model, pairs, site="neuron", layers=(2,), top=3, positions="all"
    )
    assert expected.summary() in said
    for rank, cell in enumerate(expected.strongest(3), start=1):
        assert f"│ {rank} │ {expected.label(cell)} │ {expected.effects[cell]:.3f} [" in said
    assert "│ 4 │" not in said
    frame = pd.read_csv(tmp_path / "effects.csv")
    assert list(zip(frame["layer"], frame["neuron"], strict=True)) == list(expected.units)
    np.testing.assert_allclose(frame["effect"], expected.effects)


def test_patch_says_how_it_was_run_within_the_memory_it_was_given() -> None:
    said = said_by("patch", *SUMS, "--site", "z", "--memory", "1")
    assert "How it was run: recomputing only what each patch changes" in said


def test_a_mean_ablation_averages_over_the_texts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("The boxes behind the house are\n\n  The cat behind the cup is \n")
    options = ("--site", "z", "--positions", "all", "--direction", "noising", "--ablation", "mean")
    said = said_by("patch", *GRAMMAR, *options, "--reference", str(file))
    model, pairs = agreement()
    how: dict[str, Any] = {
        "site": "z",
        "positions": "all",
        "direction": "noising",
        "ablation": "mean",
    }
    texts = ("The boxes behind the house are", "The cat behind the cup is")
    assert activation_patching.patch(model, pairs, **how, reference=texts).summary() in said
    assert activation_patching.patch(model, pairs, **how).summary() not in said


def test_prompts_of_different_length_are_aligned_if_asked_to(tmp_path: Path) -> None:
    model, pairs = agreement(1)
    file = tmp_path / "pairs.jsonl"
    longer = f"{pairs.corrupted[0]} behind the house"
    record = {
        "clean": pairs.clean[0],
        "corrupted": longer,
        "answer": " are",
        "wrong_answer": " is",
    }
    file.write_text(json.dumps(record))
    refused = run("patch", "grammar-4l", "--pairs", str(file))
    assert refused.exit_code == 2
    assert "align=True" in refused.stderr
    said = said_by("patch", "grammar-4l", "--pairs", str(file), "--align")
    aligned = ContrastPairs.from_file(model, file, align=True)
    assert aligned.aligned
    assert activation_patching.patch(model, aligned).summary() in said


def test_compare_shows_every_intervention_and_flags_what_disagrees(tmp_path: Path) -> None:
    options = ("--compare", "--top", "4", "--positions", "last token")
    said = said_by("patch", *GRAMMAR, *options, "-o", str(tmp_path))
    model, pairs = agreement()
    expected = activation_patching.compare(model, pairs, top=4, positions=["last token"])
    assert expected.flagged, "the test needs cells that disagree"
    for cell, reason in zip(expected.cells, expected.reasons, strict=True):
        assert (f"{cell} ⚑ │" in said) == bool(reason)
        assert (f"⚑ {cell}: {reason}." in said) == bool(reason)
    count = f"{len(expected.flagged)} of {len(expected.cells)} cells disagree by more than chance"
    assert f"{count} and by a tenth" in said
    for name in ("denoising", "noising", "zero", "mean", "resample"):
        assert name in said
    assert all(f"{effect:.3f}" in said for effect in expected.effects.ravel())
    saved = activation_patching.Comparison.load(tmp_path)
    np.testing.assert_array_equal(saved.effects, expected.effects)
    frame = pd.read_csv(tmp_path / "effects.csv", keep_default_na=False)
    assert list(frame["disagreement"]) == list(expected.reasons)


def test_attribute_ranks_nodes_beside_their_exact_effects(tmp_path: Path) -> None:
    options = ("--verify-top", "5", "--top", "7", "--sites", "z,mlp_out")
    said = said_by("attribute", *GRAMMAR, *options, "-o", str(tmp_path))
    model, pairs = agreement()
    expected = attribution.attribute_nodes(model, pairs, sites=("z", "mlp_out"), verify_top=5)
    assert expected.verified is not None
    ranking = expected.ranking(7)
    for rank, (name, effect) in enumerate(zip(ranking["name"], ranking["effect"], strict=True), 1):
        assert f"│ {rank} │ {name} │ {effect:.3f} [" in said
    exact = expected.verified.to_frame()
    first = exact.iloc[0]
    assert f"{first['exact']:.3f} [{first['exact_low']:.3f}, {first['exact_high']:.3f}]" in said
    assert "│ 8 │" not in said
    assert expected.verified.summary() in said
    saved = attribution.NodeAttribution.load(tmp_path)
    np.testing.assert_array_equal(saved.scores("z").effects, expected.scores("z").effects)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "verified.csv")["exact"], exact["exact"])
    whole = pd.read_csv(tmp_path / "ranking.csv")
    np.testing.assert_allclose(whole["effect"], expected.ranking()["effect"])
    assert (tmp_path / "figure.html").stat().st_size > 1_000_000


def test_attribute_ranks_edges_in_the_direction_and_by_the_method_asked_for() -> None:
    options = ("--edges", "--method", "eap_ig", "--direction", "denoising", "--verify-top", "0")
    said = said_by("attribute", *GRAMMAR, *options, "--top", "3")
    model, pairs = agreement()
    expected = attribution.attribute_edges(model, pairs, method="eap_ig", direction="denoising")
    for rank, edge in enumerate(expected.strongest(3), start=1):
        assert f"│ {rank} │ {edge} │ {expected.score(edge):.3f} [" in said
    assert "exact" not in said.partition("Edge attribution patching")[0]
    assert expected.summary() in said


def test_circuit_screens_verifies_and_explains(tmp_path: Path) -> None:
    options = ("--search", "grow", "--target", "0.8", "--verify-top", "4", "--curve")
    said = said_by("circuit", *GRAMMAR, *options, "-o", str(tmp_path))
    model, pairs = agreement()
    chosen, kept = discovery.split(len(pairs), 0.5, 0)
    assert (len(chosen), len(kept)) == (3, 3)
    screened = attribution.attribute_edges(
        model, pairs.subset(chosen), method="eap_ig", verify_top=4
    )
    expected = circuits.discover(model, pairs, target=0.8, search="grow")
    assert screened.verified is not None
    assert said.index("1. Screen: 479 edges") < said.index("2. Verify: ") < said.index("3. Explain")
    assert f"2. Verify: {screened.verified.summary()}" in said
    assert expected.summary() in said
    strongest = expected.strongest(1)[0]
    assert f"│ {expected.edges[strongest]} │ {expected.effects[strongest]:.3f} [" in said
    assert circuits.Circuit.load(tmp_path).edges == expected.edges
    assert list(pd.read_csv(tmp_path / "edges.csv")["edge"]) == list(expected.to_frame()["edge"])
    saved = attribution.EdgeAttribution.load(tmp_path / "attribution")
    np.testing.assert_array_equal(saved.scores, screened.scores)
    sizes = circuits.FaithfulnessCurve.load(tmp_path / "curve")
    assert sizes.summary() in said
    for folder in (tmp_path, tmp_path / "attribution", tmp_path / "curve"):
        assert (folder / "figure.html").stat().st_size > 1_000_000


def test_paths_end_at_the_receivers_and_go_through_what_is_named(tmp_path: Path) -> None:
    options = ("--to", "a3.h1<q>,a3.h1<k>", "--through", "m1", "--from", "a0.h0,m0", "--top", "1")
    said = said_by("paths", *GRAMMAR, *options, "-o", str(tmp_path))
    model, pairs = agreement()
    expected = path_patching.path_patch(
        model,
        pairs,
        senders=("a0.h0", "m0"),
        receivers=("a3.h1<q>", "a3.h1<k>"),
        through=("m1",),
    )
    best = expected.strongest(1)[0]
    assert f"│ 1 │ {best} │" in said
    assert "│ 2 │" not in said
    assert expected.summary() in said
    assert "✓ is the real model" in said
    saved = path_patching.PathPatchingResult.load(tmp_path)
    np.testing.assert_array_equal(saved.per_prompt, expected.per_prompt)
    frame = pd.read_csv(tmp_path / "effects.csv")
    np.testing.assert_allclose(frame["effect"], expected.effects)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["patch", "grammer-4l", "--task", "agreement"], "did you mean 'grammar-4l'?"),
        (["patch", "modadd-113", "--task", "addition"], "no task is called 'addition'"),
        (["patch", *SUMS, "--site", "y"], "unknown site 'y'"),
        (["patch", *SUMS, "--metric", "y"], "unknown metric 'y'"),
        (["patch", *SUMS, "--direction", "y"], "direction = 'y'"),
        (["patch", *SUMS, "--positions", "y"], "no position set is called 'y'; these pairs have"),
        (["patch", *SUMS, "--positions", "0,,1"], "expected names with single commas"),
        (["patch", *SUMS, "--positions", "pairs"], "use site='pattern' with it"),
        (["patch", *SUMS, "--positions", "9"], "position 9 is not in every prompt"),
        (["patch", *SUMS, "--layers", "first"], "--layers 'first': expected numbers with commas"),
        (["patch", *SUMS, "--layers", "1"], "layers = [1]; expected some of 0 to 0"),
        (["patch", *SUMS, "--top", "3"], "units and top choose neurons or latents"),
        (["patch", *SUMS, "--memory", "0"], "--memory 0: expected megabytes above 0"),
        (["patch", "modadd-113", "--task", "modular-addition", "--n", "0"], "n = 0 pairs"),
        (["patch", *SUMS, "--ablation", "zero"], "use direction='noising'"),
        (["patch", *SUMS, "--compare", "--direction", "noising"], "so --direction has no place"),
        (["patch", *SUMS, "--compare", "--layers", "0"], "so --layers has no place beside it"),
        (["patch", *SUMS, "--compare", "--site", "neuron"], "would choose other units"),
        (["patch", *SUMS, "--reference", "README.md"], "use it with --direction noising"),
        (["patch", *SUMS, "--compare", "--reference", "no.txt"], "cannot read no.txt"),
        (["patch", *SUMS, "--align"], "--align is for --pairs FILE"),
        (["patch", "modadd-113", "--pairs", "nothing.csv"], "cannot read nothing.csv"),
        (["patch", "modadd-113", "--pairs", "a.csv", "-n", "3"], "-n draws pairs from a --task"),
        (["patch", "modadd-113"], "give either --task NAME or --pairs FILE, and not both"),
        (["patch", "modadd-113", "--task", "a", "--pairs", "b"], "give either --task NAME or"),
        (["attribute", "modadd-113"], "give either --task NAME or --pairs FILE, and not both"),
        (["attribute", *SUMS, "--metric", "rank"], "a rank has no gradient"),
        (["attribute", *SUMS, "--edges", "--metric", "rank"], "a rank has no gradient"),
        (["attribute", *SUMS, "--method", "eap"], "use it with --edges"),
        (["attribute", *SUMS, "--edges", "--method", "eep"], "method = 'eep'"),
        (["attribute", *SUMS, "--edges", "--sites", "z"], "leave it out with --edges"),
        (["attribute", *SUMS, "--sites", "pattern"], "expected some of resid_pre"),
        (["attribute", *SUMS, "--verify-top", "-1"], "verify_top = -1"),
        (["attribute", *SUMS, "--top", "0"], "--top 0: expected 1 row or more"),
        (["circuit", "grammar-4l", "--task", "a", "--pairs", "b"], "give either --task NAME or"),
        (["circuit", *SUMS, "--target", "1.5"], "target = 1.5"),
        (["circuit", *SUMS, "--metric", "rank"], "a rank has no gradient"),
        (["circuit", *SUMS, "--method", "eep"], "unknown method 'eep'"),
        (["circuit", *SUMS, "--search", "luck"], "unknown search 'luck'"),
        (["circuit", *SUMS, "--held-out", "1"], "held_out = 1.0"),
        (["circuit", *SUMS, "-n", "1"], "keeps 0 of them apart, and both parts"),
        (["paths", *SUMS, "--to", "a9.h0<q>"], "the model has no receiver 'a9.h0<q>'"),
        (["paths", *SUMS, "--from", "a9.h0"], "the model has no sender a9.h0"),
        (["paths", *SUMS, "--to", "logits,m0"], "would hide the others"),
        (["paths", *SUMS, "--through", "a0.h0,"], "--through 'a0.h0,': expected names"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path
) -> None:
    result = run(*arguments, "-o", str(tmp_path / "out"))
    sentences.assert_one_sentence(result, words, tmp_path / "out")


def test_a_folder_that_is_no_result_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run(
        "patch", "modadd-113", "--task", "modular-addition", "--n", "4", "-o", str(tmp_path)
    )
    assert result.exit_code == 2
    assert "is no result folder: choose another name" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_an_equal_command_is_answered_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = computing.counted(monkeypatch, activation_patching.patch, activation_patching)
    command = ("patch", *SUMS, "--site", "z", "--positions", "all")
    first, second = run(*command), run(*command, "--metric", "logit_difference")
    assert len(calls) == 1
    assert first.stdout == second.stdout
    (row,) = runs.RunStore().runs()
    assert "answered" not in first.stderr
    said = f"answered from run {row.id} of {row.created[:10]}; --again computes anew\n"
    assert second.stderr.endswith(said)
    third = run(*command, "-o", str(tmp_path / "out"))
    assert third.stderr.endswith(said)
    saved = activation_patching.PatchingResult.load(tmp_path / "out")
    assert runs.id_of(saved.provenance) == row.id
    assert len(runs.RunStore().runs()) == 1
    fourth = run(*command, "--again")
    assert (fourth.stdout, len(calls)) == (first.stdout, 2)
    assert "answered" not in fourth.stderr
    for other in (("--seed", "1"), ("--metric", "probability")):
        run(*command, *other)
    assert len(calls) == 4


def test_a_file_of_pairs_answers_until_its_content_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = computing.counted(monkeypatch, path_patching.path_patch, path_patching)
    file = tmp_path / "pairs.csv"
    for content in ("1 + 2 =,1 + 5 =,3,6", "1 + 2 =,1 + 5 =,3,6", "1 + 2 =,1 + 7 =,3,8"):
        file.write_text(f"clean,corrupted,answer,wrong_answer\n{content}\n")
        said_by("paths", "modadd-113", "--pairs", str(file))
    assert len(calls) == 2


def test_every_analysis_of_a_command_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (attribution.attribute_edges, circuits.discover, circuits.faithfulness_curve)
    packages = (attribution, circuits, circuits)
    calls = [computing.counted(monkeypatch, *both) for both in zip(asked, packages, strict=True)]
    command = ("circuit", *GRAMMAR, "--target", "0.5", "--search", "grow", "--verify-top", "2")
    first, second = run(*command), run(*command)
    assert (first.exit_code, first.stdout) == (0, second.stdout)
    assert [len(one) for one in calls] == [1, 1, 0]
    assert all(row.id in second.stderr for row in runs.RunStore().runs())
    # What both commands ask is answered, what only one asks is computed.
    third = run(*command, "--curve")
    assert "Faithfulness of the top edges at each size" in third.stdout
    assert [len(one) for one in calls[1:]] == [1, 1]


def test_a_store_that_cannot_be_written_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "file"))
    command = ("attribute", *SUMS, "--sites", "z", "-o", str(tmp_path / "out"))
    result = run(*command)
    assert result.exit_code == 0, result.output
    saved = attribution.NodeAttribution.load(tmp_path / "out")
    assert saved.summary() in " ".join(result.stdout.split())
    (sentence,) = [line for line in result.stderr.splitlines() if line.strip()]
    assert sentence.startswith("workbench: computed, but not kept among the runs: ")


def test_as_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "workbench", "patch", "modadd-113", "--task", "nothing"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "no task is called 'nothing'" in ended.stderr
    assert "Traceback" not in ended.stderr
