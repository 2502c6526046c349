"""Shares over many prompts: each prompt's own, with intervals, p-values and a control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench
from analyses import direct_attribution
from tests import families
from workbench import ContrastPairs
from workbench.core import evidence, results
from workbench.core.planted import known_circuits


@pytest.fixture(scope="module")
def induction() -> Any:
    case = known_circuits.induction()
    return case, case.pairs, direct_attribution.attribute_pairs(case.model, case.pairs)


def test_only_the_induction_head_writes_the_answers(induction: Any) -> None:
    _, _, found = induction
    head = found.names.index("a1.h0")
    others = np.delete(found.per_prompt, head, axis=1)
    assert not others.any()
    np.testing.assert_allclose(found.per_prompt[:, head], found.difference, atol=1e-5)
    # In the corrupted prompts it writes the wrong answers just as much.
    np.testing.assert_allclose(found.corrupted[:, head], -found.per_prompt[:, head], atol=1e-5)
    assert found.largest[0] == "a1.h0"
    # Six prompts of one sign: 2 of 64 sign patterns are as extreme, times the number of parts.
    assert found.adjusted_p[head] == pytest.approx(min(1, 2 / 64 * len(found.names)))
    assert np.delete(found.adjusted_p, head) == pytest.approx(1)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_each_prompt_has_the_shares_that_it_has_by_itself(family: str) -> None:
    model = families.bridge(family)
    # Pairs of two lengths, and one with several answers.
    pairs = ContrastPairs.from_text(
        model,
        ["ape bee cat", "dog elk ape bee", "bee cat dog"],
        ["ape dog cat", "dog elk bee bee", "bee ape dog"],
        [[" dog"], [" cat"], [" ape", " elk"]],
        [[" fox"], [" ape"], [" fox"]],
    )
    found = direct_attribution.attribute_pairs(model, pairs)
    assert found.error < 1e-5
    for side, shares, own in (
        (pairs.clean_tokens, found.per_prompt, found.difference),
        (pairs.corrupted_tokens, found.corrupted, found.corrupted_difference),
    ):
        for i, ids in enumerate(side):
            each = [
                direct_attribution.attribute(model, ids, answer, wrong=pairs.wrong_answers[i][0])
                for answer in pairs.answers[i]
            ]
            assert each[0].names == found.names
            np.testing.assert_allclose(shares[i], np.mean([one.here for one in each], 0), atol=1e-5)
            before_cap = np.mean([one.before_cap[-1] for one in each])
            assert own[i] == pytest.approx(before_cap, abs=1e-5)
    np.testing.assert_array_equal(found.interval, evidence.mean_interval(found.per_prompt))


def test_what_it_says_and_keeps(induction: Any, tmp_path: Path) -> None:
    case, pairs, found = induction
    said = found.summary()
    head = found.names.index("a1.h0")
    assert f"a1.h0 {found.mean[head]:+.3g}" in said
    assert "Over 6 clean prompts" in said
    frame = found.to_frame().set_index("part")
    assert frame.loc["a1.h0", "share"] == pytest.approx(found.mean[head])
    assert frame.loc["a1.h0", "gone in corrupted"] == pytest.approx(2 * found.mean[head])
    bars, control = found.figure().data
    assert bars.y[list(found.names).index("a1.h0")] == pytest.approx(found.mean[head])
    assert min(control.y) == pytest.approx(found.corrupted.mean(0)[head])
    again = results.Result.load(found.save(tmp_path / "pairs"))
    assert isinstance(again, direct_attribution.DirectAttributionOverPairs)
    np.testing.assert_array_equal(again.per_prompt, found.per_prompt)
    assert again.summary() == said
    same = direct_attribution.attribute_pairs(case.model, pairs)
    np.testing.assert_array_equal(same.interval, found.interval)
    np.testing.assert_array_equal(same.adjusted_p, found.adjusted_p)


def test_pairs_that_cannot_be_attributed_are_a_sentence(induction: Any) -> None:
    case, pairs, _ = induction
    without = ContrastPairs.from_text(case.model, case.clean, case.corrupted, case.answers)
    with pytest.raises(ValueError, match="no wrong answers"):
        direct_attribution.attribute_pairs(case.model, without)
    with pytest.raises(ValueError, match="confidence = 2"):
        direct_attribution.attribute_pairs(case.model, pairs, confidence=2.0)


def test_cancelling_ends_it_where_it_stands() -> None:
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=4)
    notes: list[str] = []

    def stop(fraction: float, note: str) -> None:
        notes.append(note)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        direct_attribution.attribute_pairs(model, pairs, progress=stop)
    assert notes == ["prompt 1 of 4"]
