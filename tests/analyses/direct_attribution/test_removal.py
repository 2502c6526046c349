"""Removing a part is what hooks on the whole model make of it, and what was wired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import direct_attribution
from analyses.direct_attribution import parts as naming
from tests import families
from workbench.core import results
from workbench.core.engine import running
from workbench.core.planted import known_circuits, two_steps

IDS = (0, 3, 1, 2, 5, 4, 0, 1)
POSITION = 6
ANSWER, WRONG = 3, 4
TOLERANCE = 1e-5
# Families whose embeddings enter the stream as they leave their hook points.
PLAIN = ("gpt2", families.NATIVE)


def hook_of(part: str) -> tuple[str, int | slice]:
    """Hook point of a part, and where in the last axis (or the one of heads) it is."""
    layer, head = naming.layer_of(part), naming.head_of(part)
    if head is not None:
        return f"blocks.{layer}.attn.hook_z", head
    if layer is None:
        return f"hook_{part}", slice(None)
    own = naming.index_of(part) if naming.is_neuron(part) else slice(None)
    return f"blocks.{layer}.mlp.hook_post", own


def by_hooks(
    model: Any, part: str, at: slice, put: torch.Tensor | None, ids: tuple[int, ...] = IDS
) -> float:
    """Logit difference at the position, before a soft cap, with a part replaced by hooks."""
    hook, own = hook_of(part)
    seen: list[torch.Tensor] = []

    def replace(activation: torch.Tensor) -> torch.Tensor:
        changed = activation.clone()
        instead = torch.zeros(()) if put is None else put[own]
        changed[:, at, own] = instead
        return changed

    def look(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits[0, POSITION].clone())
        return logits

    running.run(model, torch.tensor([ids]), {hook: replace, "unembed.hook_out": look})
    return float(seen[0][ANSWER] - seen[0][WRONG])


@pytest.mark.parametrize("family", ["gpt2", "pythia", "gemma2", "qwen3", families.NATIVE])
@pytest.mark.parametrize("everywhere", [False, True])
def test_a_total_effect_is_that_of_a_zero_hooked_in(family: str, everywhere: bool) -> None:
    model = families.bridge(family)
    found = direct_attribution.attribute(model, IDS, ANSWER, wrong=WRONG, position=POSITION)
    check = direct_attribution.check(model, found, everywhere=everywhere, top=100, top_neurons=3)
    at = slice(0 if everywhere else POSITION, POSITION + 1)
    assert {"a0.h0", "a1.h3", "m0", "m1"} < set(check.names)
    assert sum(map(naming.is_neuron, check.names)) == 3
    # Some families scale or spread an embedding after its hook point: these cannot be hooked so.
    comparable = [one for one in check.names if one not in naming.EMBEDDINGS or family in PLAIN]
    for name in comparable:
        expected = check.before - by_hooks(model, name, at, None)
        assert check.total[check.names.index(name)] == pytest.approx(expected, abs=TOLERANCE)
        if not naming.is_neuron(name):
            share = found.share(name)
            assert check.direct[check.names.index(name)] == pytest.approx(share, abs=TOLERANCE)


@pytest.mark.parametrize("reference", [(), ("bee cat", "dog ape elk cat")])
def test_a_mean_is_that_over_the_prompt_or_over_reference_texts(reference: tuple[str, ...]) -> None:
    model = families.bridge("gpt2")
    found = direct_attribution.attribute(model, IDS, ANSWER, wrong=WRONG, position=POSITION)
    check = direct_attribution.check(
        model, found, ablation="mean", reference=reference, top=100, top_neurons=2
    )
    texts = [model.to_tokens(one)[0].tolist() for one in reference] or [list(IDS[: POSITION + 1])]
    at = slice(POSITION, POSITION + 1)
    for name in ("a0.h2", "a1.h1", "m1", check.names[0]):
        hook, _ = hook_of(name)
        kept = [running.run_and_keep(model, torch.tensor([ids]), [hook])[1][hook] for ids in texts]
        mean = torch.cat([one[0] for one in kept]).mean(0)
        expected = check.before - by_hooks(model, name, at, mean)
        assert check.total[check.names.index(name)] == pytest.approx(expected, abs=TOLERANCE)


def test_a_mean_has_a_share_too_which_is_taken_off() -> None:
    """With frozen norms, a mean's share is the mean of what a head writes where it is averaged."""
    model = two_steps.two_layer()
    found = direct_attribution.attribute(model, "ape bee cat dog", " bee")
    check = direct_attribution.check(model, found, ablation="mean")
    # Only the last position attends for certain; the first three look at all words up to them.
    weight = np.mean([0.0, 1 / 2, 1 / 3, 1.0])
    expected = two_steps.DIRECT * (1 - weight)
    assert check.direct[check.names.index("a0.h0")] == pytest.approx(expected, abs=1e-6)


def test_what_is_carried_on_is_in_the_effect_and_not_in_the_share() -> None:
    model = two_steps.two_layer()
    found = direct_attribution.attribute(model, "ape bee cat dog", " bee")
    check = direct_attribution.check(model, found)
    both = dict(zip(check.names, zip(check.direct, check.total, strict=True), strict=True))
    assert both["a0.h0"] == (two_steps.DIRECT, two_steps.DIRECT + two_steps.INDIRECT)
    assert both["a1.h1"] == (two_steps.INDIRECT, two_steps.INDIRECT)
    assert both["m1"] == (0.0, 0.0)
    assert check.opposed == ()
    assert "No part moves it against" in check.summary()


def test_a_head_without_a_share_has_an_effect_where_it_is_removed_everywhere() -> None:
    case = known_circuits.induction()
    found = direct_attribution.attribute(
        case.model, case.clean[0], case.answers[0], wrong=case.wrong[0]
    )
    here, everywhere = (
        direct_attribution.check(case.model, found, everywhere=one) for one in (False, True)
    )
    assert found.share("a0.h0") == 0.0
    # What the first head writes at the last position is not read there; elsewhere it is.
    assert here.total[here.names.index("a0.h0")] == 0.0
    assert everywhere.total[everywhere.names.index("a0.h0")] > 0.5


@pytest.fixture(scope="module")
def check() -> direct_attribution.RemovalCheck:
    model = workbench.load_model("grammar-4l")
    text = "When Mary and John went to the store, John gave a drink to"
    found = direct_attribution.attribute(model, text, " Mary", wrong=" John")
    return direct_attribution.check(model, found)


class TestWhatACheckSays:
    def test_parts_that_go_against_their_share_are_listed(
        self, check: direct_attribution.RemovalCheck
    ) -> None:
        assert check.opposed
        for name in check.opposed:
            i = check.names.index(name)
            assert check.direct[i] * check.total[i] < 0
            assert name in check.summary() or len(check.opposed) > 5
        assert check.to_frame()["opposed"].tolist().count(True) == len(check.opposed)
        colours = check.figure().data[1].marker.color  # pyright: ignore[reportAttributeAccessIssue]
        assert len(set(colours)) == 2

    def test_the_correlation_leaves_neurons_out_and_has_a_null(
        self, check: direct_attribution.RemovalCheck
    ) -> None:
        whole = [not naming.is_neuron(name) for name in check.names]
        expected = np.corrcoef(check.direct[whole], check.total[whole])[0, 1]
        assert check.correlation == pytest.approx(expected)
        assert 1e-4 <= check.p_value <= 1
        assert f"{check.correlation:.2f} (p = {check.p_value:.2g}" in check.summary()

    def test_it_is_saved_and_read_again(
        self, check: direct_attribution.RemovalCheck, tmp_path: Path
    ) -> None:
        again = results.Result.load(check.save(tmp_path / "check"))
        assert isinstance(again, direct_attribution.RemovalCheck)
        np.testing.assert_array_equal(again.total, check.total)
        assert again.summary() == check.summary()


def test_two_parts_are_too_few_for_a_correlation() -> None:
    model = two_steps.two_layer()
    found = direct_attribution.attribute(model, "ape bee cat dog", " bee")
    check = direct_attribution.check(model, found, top=2, top_neurons=0)
    assert check.names == ("a1.h1", "a0.h0")
    assert np.isnan(check.correlation)
    assert "too few parts" in check.summary()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ablation": "resample"}, "expected one of zero, mean"),
        ({"top": 0}, "expected at least 1"),
        ({"ablation": "mean"}, "that position itself"),
        ({"ablation": "mean", "reference": ("zebra",)}, "outside the vocabulary"),
    ],
)
def test_what_cannot_be_checked_is_a_sentence(changed: dict[str, Any], said: str) -> None:
    model = two_steps.two_layer()
    found = direct_attribution.attribute(model, "ape bee cat dog", " bee", position=0)
    with pytest.raises(ValueError, match=said):
        direct_attribution.check(model, found, **changed)


def test_another_model_than_the_one_that_was_attributed_is_refused() -> None:
    found = direct_attribution.attribute(two_steps.two_layer(), "ape bee", " bee")
    with pytest.raises(ValueError, match="with other weights"):
        direct_attribution.check(families.bridge("gpt2"), found)
