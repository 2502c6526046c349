"""Each check in its good and in its bad state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench import ContrastPairs
from workbench.core.engine import cells, plain, preflight, running, sites
from workbench.core.models import sources
from workbench.core.planted import two_steps, unplanted


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def pairs(model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_task(model, "agreement", n=6)


def found(name: str, model: TransformerBridge, pairs: ContrastPairs, **options: Any) -> Any:
    checks = preflight.check(model, pairs, **options).checks
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize("site", sites.SITES)
def test_everything_is_well_on_a_bundled_model(
    model: TransformerBridge, pairs: ContrastPairs, site: str
) -> None:
    notes: list[tuple[float, str]] = []
    outcome = preflight.check(
        model, pairs, site=site, progress=lambda fraction, note: notes.append((fraction, note))
    )
    assert [check.status for check in outcome.checks] == ["ok"] * 8
    assert [check.name for check in outcome.checks] == [
        "alignment",
        "answers",
        "baselines",
        "batch equals single",
        "is the real model",
        "hooks fired",
        "way of running",
        "time and memory",
    ]
    assert outcome.passed and outcome.normalisable
    assert notes[0][0] == 0.0 and notes[-1][0] == 1.0


def test_baselines_say_the_metric_with_n_and_how_often_the_model_is_right(
    model: TransformerBridge, pairs: ContrastPairs
) -> None:
    check = found("baselines", model, pairs)
    clean, corrupted = pairs.batch(range(6))
    rows = torch.arange(6)
    right = torch.tensor([row[0] for row in pairs.answers])
    wrong = torch.tensor([row[0] for row in pairs.wrong_answers])
    means = [
        float((logits[rows, -1, right] - logits[rows, -1, wrong]).mean())
        for logits in (running.run(model, clean), running.run(model, corrupted))
    ]
    assert f"clean {means[0]:.3f}, corrupted {means[1]:.3f} logits (n = 6)" in check.detail
    assert "top token in 6 of 6" in check.detail
    assert check.value == pytest.approx(means[0] - means[1], abs=1e-5)


class TestBaselines:
    def test_too_close_to_divide_by_is_a_warning(self) -> None:
        model = two_steps.two_layer()
        pairs = ContrastPairs.from_text(
            model, ["ape bee cat dog"], ["elk bee cat dog"], ["bee"], ["cat"]
        )
        outcome = preflight.check(model, pairs)
        check = outcome.checks[2]
        assert check.status == "warning" and "too close to divide by" in check.detail
        assert not outcome.normalisable
        assert outcome.passed

    @pytest.mark.parametrize(
        ("clean", "corrupted", "expected"),
        [
            ([5.0, 5.1, 4.9], [1.0, 1.1, 0.9], False),
            ([5.0, 5.0], [4.99, 4.99], True),
            ([5.0], [5.0], True),
            ([5.0], [1.0], False),
            # The means differ, but the prompts do not agree on the sign.
            ([3.0, -3.0, 3.0, -2.5], [0.0, 0.0, 0.0, 0.0], True),
            ([1e-5], [0.0], True),
        ],
    )
    def test_the_rule(self, clean: list[float], corrupted: list[float], expected: bool) -> None:
        assert preflight.too_close(np.array(clean), np.array(corrupted)) is expected

    def test_no_wrong_answers(self, model: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(model, ["The boxes"], ["The box"], ["are"])
        with pytest.raises(preflight.PreflightError, match="these pairs have no wrong answers"):
            preflight.check(model, pairs)
        assert preflight.check(model, pairs, metric="rank").passed

    def test_an_unknown_metric(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        with pytest.raises(preflight.PreflightError, match="unknown metric 'loss'; expected one"):
            preflight.check(model, pairs, metric="loss")


def test_identical_prompts_are_pointed_out_and_fail_the_hook_check(
    model: TransformerBridge,
) -> None:
    pairs = ContrastPairs.from_text(model, ["The boxes"], ["The boxes"], ["are"], ["is"])
    outcome = preflight.check(model, pairs)
    assert outcome.checks[0].status == "warning"
    assert "1 pairs do not differ at all" in outcome.checks[0].detail
    assert next(c for c in outcome.checks if c.name == "hooks fired").status == "failed"
    assert not outcome.passed


def test_an_answer_that_is_right_and_wrong_is_pointed_out(model: TransformerBridge) -> None:
    pairs = ContrastPairs.from_text(model, ["The boxes"], ["The box"], [["are", "is"]], ["is"])
    assert found("answers", model, pairs, metric="probability").status == "warning"


def test_positions_that_do_not_line_up(model: TransformerBridge) -> None:
    pairs = ContrastPairs.from_task(model, "indirect-object", n=40, templates="all")
    with pytest.raises(ValueError, match="positions do not line up"):
        preflight.check(model, pairs)
    assert preflight.check(model, pairs, positions="all").passed


def test_a_batch_that_differs_from_its_prompts_fails(
    model: TransformerBridge, pairs: ContrastPairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = running.run

    def padded(model: Any, tokens: torch.Tensor, hooks: Any = None) -> torch.Tensor:
        return plain(model, tokens, hooks) * (1 + 0.01 * (len(tokens) > 1))

    monkeypatch.setattr(running, "run", padded)
    check = preflight._batch_equals_single(model, pairs)
    assert check.status == "failed"
    assert check.value is not None and check.value > preflight.BATCH_TOLERANCE


class TestRealModel:
    def test_a_changed_weight_is_found(
        self, pairs: ContrastPairs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = workbench.load_model("grammar-4l")
        assert found("is the real model", model, pairs).status == "ok"
        with torch.no_grad():
            for name, parameter in model.original_model.named_parameters():
                if name.endswith("fc_out.weight") or "out._original_component.weight" in name:
                    parameter.mul_(1.05)
        check = found("is the real model", model, pairs)
        assert check.status == "failed"
        assert "weight processing: none" in check.detail and "float32" in check.detail

    def test_another_plain_model_is_found(
        self, pairs: ContrastPairs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = workbench.load_model("grammar-4l")
        plain = sources.plain_model(model)
        assert plain is not None
        monkeypatch.setattr(
            sources, "plain_model", lambda _: lambda tokens: plain(tokens) + torch.arange(440) / 9
        )
        assert found("is the real model", model, pairs).status == "failed"

    def test_a_bridge_without_files_is_skipped_with_its_reason(self) -> None:
        model = unplanted.randomised()
        pairs = ContrastPairs.from_text(model, ["ape bee"], ["ape cat"], ["dog"], ["elk"])
        check = found("is the real model", model, pairs)
        assert check.status == "skipped"
        assert "files behind this bridge are not known" in check.detail


@pytest.mark.parametrize(
    ("site", "positions", "ablation", "expected"),
    [
        ("resid_pre", "each", None, 4 * 4),
        ("z", "each", None, 4 * 4 * 4),
        ("z", "all", None, 4 * 4),
        ("resid_pre", "each", "zero", 4 * 6),
        ("resid_pre", ("last token", "the subject"), None, 4 * 2),
        ("resid_pre", "all", "resample", 4),
    ],
)
def test_the_estimate_counts_the_patched_runs_of_the_plain_way(
    model: TransformerBridge,
    site: str,
    positions: Any,
    ablation: str | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from analyses import activation_patching

    pairs = ContrastPairs.from_task(model, "agreement", n=6)
    assert set(pairs.first_differences()) <= {1, 2}
    options: dict[str, Any] = {"site": site, "positions": positions, "ablation": ablation}
    checks = preflight.check(model, pairs, **options)
    assert checks.runs == expected
    assert checks.seconds > 0 and checks.megabytes > 0
    count = 0
    logits = plain.Batch.logits

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return logits(*arguments)

    monkeypatch.setattr(plain.Batch, "logits", counted)
    direction = "denoising" if ablation is None else "noising"
    activation_patching.patch(
        model, pairs, direction=direction, checks=checks, engine="plain", **options
    )
    assert count == expected


def test_what_is_recomputed_is_worth_fewer_passes_than_there_are_cells(
    model: TransformerBridge, pairs: ContrastPairs
) -> None:
    """A run costs its rows: 4 of 6 positions at the first difference, down to 1 at the last."""
    columns = cells.columns(pairs, "each")
    assert (pairs.first_differences() == 2).all()
    runs, equivalents = preflight._work(model, pairs, columns, [0, 1, 2, 3], own=True)
    assert runs == 16
    layers = 1 + 3 / 4 + 2 / 4 + 1 / 4
    assert equivalents == pytest.approx(layers * (4 + 3 + 2 + 1) / 6)


def test_a_model_that_runs_the_plain_way_says_why(pairs: ContrastPairs) -> None:
    model = workbench.load_model("grammar-4l", dtype=torch.bfloat16)
    check = found("way of running", model, pairs)
    assert check.detail.startswith("one forward pass a cell, since in this model its bfloat16")


def test_unequal_pairs_say_how_they_are_aligned(model: TransformerBridge) -> None:
    pairs = ContrastPairs.from_text(
        model,
        ["The boxes near the chair"],
        ["The box near the old chair"],
        ["are"],
        ["is"],
        align=True,
    )
    check = preflight._alignment(pairs)
    assert check.status == "ok"
    assert check.detail.startswith("1 pairs of different length, aligned (6 to 7 tokens)")
    assert "tokens without a partner, which are not patched: 1" in check.detail
