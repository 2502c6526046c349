"""Two models under one spec: a change is found and named, and none is found where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformer_lens.model_bridge import TransformerBridge

from workbench.core.models import card, sources
from workbench.core.prompts.pairs import ContrastPairs
from workbench.report import comparing, spec
from workbench.report.document import Finding, Manifest, Measured, Report
from workbench.report.questions import behaviour
from workbench.report.spec import Verdict

NAME = "grammar-4l"
OFF: dict[str, Any] = {
    name: {"ask": False}
    for name in ("sites", "localization", "circuit", "units", "concepts", "training")
}


def tiny(task: str, n: int = 12) -> spec.AuditSpec:
    return spec.AuditSpec.model_validate({"behaviours": [{"task": task, "n": n}], "questions": OFF})


@pytest.fixture(scope="module")
def base() -> TransformerBridge:
    return sources.load_model(NAME)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the same model with noise on the weights of its first attention layer."""
    place = tmp_path_factory.mktemp("models") / "damaged"
    shutil.copytree(card.BUNDLED / NAME, place)
    file = place / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    noise = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if value.ndim == 2 and "embed" not in name:
            value.add_(torch.randn(value.shape, generator=noise) * value.std() * 1.5)
    safetensors.torch.save_file(weights, file)
    return place


@pytest.fixture(scope="module")
def worse(base: TransformerBridge, damaged: Path) -> comparing.Comparison:
    return comparing.compare(base, str(damaged), tiny("agreement"))


def test_a_model_has_not_changed_against_itself(base: TransformerBridge) -> None:
    found = comparing.compare(NAME, base, tiny("agreement"))
    assert not found.changed
    assert not any(one.changed for one in found.verdicts)
    assert {one.difference for one in found.changes} <= {0.0, None}
    assert all(one.changed is False for one in found.changes if one.difference == 0.0)
    assert found.names == (NAME, NAME)
    assert "No change was found" in found.summary()


def test_a_damaged_model_has_changed_by_what_its_prompts_say(
    base: TransformerBridge, damaged: Path, worse: comparing.Comparison
) -> None:
    gaps: list[np.ndarray] = []
    for model in (base, sources.load_model(damaged)):
        pairs = ContrastPairs.from_task(model, "agreement", n=12, seed=0)
        gap: list[float] = []
        for i in range(len(pairs)):
            with torch.no_grad():
                logits = model(pairs.batch(np.array([i]))[0], return_type="logits")[0, -1]
            gap.append(float(logits[pairs.answers[i][0]] - logits[pairs.wrong_answers[i][0]]))
        gaps.append(np.array(gap))
    expected = gaps[1] - gaps[0]
    (change,) = [one for one in worse.changes if one.name == behaviour.LOGIT_DIFFERENCE]
    assert change.rule == "paired"
    assert change.n == 12
    assert change.difference == pytest.approx(expected.mean(), abs=1e-4)
    assert change.changed
    assert change.low is not None and change.high is not None and change.p_value is not None
    assert change.low < expected.mean() < change.high < 0
    assert change.p_value <= 0.05
    assert worse.changes[0].changed
    assert change.sentence in worse.summary()
    assert "on the same 12 prompts" in change.sentence


def test_a_verdict_that_changed_comes_first(worse: comparing.Comparison) -> None:
    first = worse.verdicts[0]
    assert (first.id, first.changed) == ("behaviour/agreement", True)
    assert f"{first.id}: {first.first} became {first.second}." in worse.summary()
    assert worse.names[0] == NAME


def test_a_comparison_is_a_document_and_a_table(worse: comparing.Comparison) -> None:
    read = comparing.Comparison.model_validate_json(worse.to_json())
    assert read == worse
    frame = worse.to_frame()
    assert len(frame) == len(worse.changes)
    assert list(frame["difference"])[0] == worse.changes[0].difference
    json.loads(worse.to_json(), parse_constant=pytest.fail)


def test_a_checkpoint_before_the_end_cannot_add_yet() -> None:
    found = comparing.compare("modadd-113@step-0", "modadd-113", tiny("modular-addition"))
    (change,) = [one for one in found.changes if one.name == behaviour.ACCURACY]
    assert (change.first.value, change.second.value) == (0.0, 1.0)
    # Every prompt changed from wrong to right.
    assert (change.difference, change.low, change.high) == (1.0, 1.0, 1.0)
    assert change.changed
    assert found.names == ("modadd-113@step-0", "modadd-113")


def test_models_that_share_no_behaviour_say_so(base: TransformerBridge) -> None:
    found = comparing.compare(base, "modadd-113", tiny("agreement"))
    assert not [one for one in found.changes if one.about == "agreement"]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("behaviour/agreement was not examined in the second model:")
    assert found.left_out[0] in found.summary()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modadd-113@step-x", "number of a step"),
        ("modadd-113@step-1", "there is no checkpoint at step 1"),
        ("grammar-4l@step-0", "brings no trajectory"),
    ],
)
def test_checkpoints_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        comparing.open_model(name)


def hand_made(verdict: Verdict, *measured: Measured) -> Report:
    finding = Finding(
        id="circuit/x",
        question="circuit",
        about="x",
        verdict=verdict,
        statement="",
        measured=measured,
    )
    return Report(
        title="",
        examined=(),
        findings=(finding,),
        headlines=(),
        sections=(),
        limits=(),
        manifest=Manifest(
            model="m",
            fingerprint="0" * 64,
            spec=spec.AuditSpec(),
            seed=0,
            versions={},
            hardware={},
            created="2026-01-01",
        ),
    )


@pytest.mark.parametrize(
    ("first", "second", "rule", "changed"),
    [
        ((0.5, 0.4, 0.6), (0.7, 0.61, 0.8), "intervals", True),
        ((0.5, 0.4, 0.6), (0.7, 0.59, 0.8), "intervals", False),
        ((0.5, 0.4, 0.6), (0.3, 0.2, 0.39), "intervals", True),
        ((0.5, 0.4, 0.6), (0.7, None, None), "values", None),
        ((0.5, None, None), (0.5, None, None), "values", False),
        ((None, None, None), (0.5, 0.4, 0.6), "values", None),
    ],
)
def test_numbers_without_pairs_are_judged_by_their_intervals(
    first: tuple[float | None, ...],
    second: tuple[float | None, ...],
    rule: str,
    changed: bool | None,
) -> None:
    one, other = (
        hand_made("pass", Measured(name="size", value=value, low=low, high=high))
        for value, low, high in (first, second)
    )
    (change,) = comparing._changes(one, other, {}, set())
    assert (change.rule, change.changed) == (rule, changed)
    known = first[0] is not None
    assert change.difference == (pytest.approx(second[0] - first[0]) if known else None)  # pyright: ignore[reportOperatorIssue]
    if rule == "intervals":
        assert ("did not change" in change.sentence) is not changed
        assert "beyond both intervals" in change.sentence


def test_numbers_of_another_unit_are_not_compared() -> None:
    one, other = (
        hand_made("pass", Measured(name="size", value=1.0, unit=unit)) for unit in ("", "logits")
    )
    assert comparing._changes(one, other, {}, set()) == ()
    assert not comparing._verdicts(one, other)[0][0].changed
    assert comparing._verdicts(one, hand_made("fail"))[0][0].changed
