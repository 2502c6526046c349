"""What parts and states say about tokens: the direct path and the logit lens, done by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import contributions
from analyses.contributions import parts, reading
from tests import families
from workbench.core import results
from workbench.core.engine import running
from workbench.core.planted import two_steps
from workbench.core.prompts.prompt import Prompt

FAMILIES = [*families.CONFIGS, families.NATIVE]
IDS = (5, 3, 1, 0, 4, 2, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_direct_logits_of_all_parts_of_the_end_add_up_to_the_logits(family: str) -> None:
    """Up to the biases of final norm and unembedding, and a constant for all tokens."""
    model = families.bridge(family)
    logits = running.run(model, torch.tensor([IDS]))[0, -1]
    with parts.locked(model):
        stream = parts.Stream.of(model, Prompt.of(model, IDS), -1)
        step, last = len(stream.layout) - 1, len(IDS) - 1
        adds, layer = stream.layout.adds[step], stream.layout.layers[step]
        pattern = None if adds == "mlp" else stream.pattern(layer)
        moved = stream.moved(step, pattern, last).flatten(0, 1)
        pieces = torch.cat([moved, *(row[None] for row in stream.others(step, last).values())])
        found = reading._direct(stream, pieces, last).sum(0)
        weights, bias = stream.sum.decoder.unembedding()
        cap = stream.sum.decoder.logit_cap
        logits = cap * torch.atanh(logits / cap) if cap else logits
        expected = logits - weights @ stream.sum.final.bias
        expected = expected if bias is None else expected - bias
    assert torch.allclose(found, expected - expected.mean(), atol=1e-4)


def test_the_wired_head_promotes_the_token_that_it_copies() -> None:
    model = two_steps.two_layer()
    graph = contributions.trace(model, "ape bee cat dog")
    found = contributions.promoted(model, graph, "head 1.1 from 3 to 3", top=2)
    token, logit = found.promoted[0]
    assert token == "bee"
    # One token of six has it, so the mean is a sixth.
    assert logit == pytest.approx(two_steps.INDIRECT * 5 / 6, abs=1e-6)
    assert found.suppressed[0][1] == pytest.approx(-two_steps.INDIRECT / 6, abs=1e-6)
    assert found.p_value <= 0.01
    np.testing.assert_allclose(found.pattern, [0, 0, 0, 1], atol=1e-6)
    figure: Any = found.pattern_figure()
    assert figure is not None and list(figure.data[0].y) == list(found.pattern)


def test_a_part_that_no_token_reads_is_no_more_than_chance() -> None:
    model = two_steps.two_layer()
    graph = contributions.trace(model, "ape bee cat dog")
    found = contributions.promoted(model, graph, "past attn 0 at 3")
    # Token and place, neither of which the unembedding reads.
    assert found.p_value == 1
    assert "no larger than in random vectors" in found.summary()
    assert found.pattern_figure() is None


def test_a_state_is_read_as_the_last_one_is() -> None:
    model = workbench.load_model("grammar-4l")
    prompt = "When Mary and John went to the store, John gave a drink to"
    graph = contributions.trace(model, prompt)
    last = contributions.state_tokens(model, graph, "after mlp 3 at 14", top=5)
    logits = running.run(model, graph.prompt.batch)[0, -1].softmax(-1)
    np.testing.assert_allclose(last.probabilities, logits.topk(5).values, atol=1e-5)
    np.testing.assert_allclose(last.final, last.probabilities, atol=1e-7)
    assert last.tokens[0].strip() == "Mary"
    _, kept = running.run_and_keep(model, graph.prompt.batch, ["blocks.2.hook_resid_post"])
    with torch.inference_mode():
        normed = model.ln_final(kept["blocks.2.hook_resid_post"])
        lens = model.unembed(normed)[0, 9].softmax(-1)
    found = contributions.state_tokens(model, graph, "after mlp 2 at 9", top=3)
    assert list(found.token_ids) == lens.topk(3).indices.tolist()
    np.testing.assert_allclose(found.probabilities, lens.topk(3).values, atol=1e-5)


def test_results_are_saved_read_back_and_drawn(tmp_path: Path) -> None:
    model = workbench.load_model("grammar-4l")
    graph = contributions.trace(model, "Mary and John went to the store")
    found = contributions.promoted(model, graph, "head 1.2 from 3 to 5", top=4)
    state = contributions.state_tokens(model, graph, "after attn 1 at 5")
    for result in (found, state):
        again = results.Result.load(result.save(tmp_path / type(result).__name__))
        assert again.summary() == result.summary()
        figure: Any = result.figure()
        assert len(result.to_frame()) == len(figure.data[0].x) == 8
    assert len(found.promoted) == len(found.suppressed) == 4
    assert found.promoted[0][1] == found.logits.max()
    assert found.suppressed[0][1] == found.logits.min()
    assert len(found.pattern) == 6 and found.pattern.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("edge", "said"), [("mlp 9 at 0", "no edge"), ("mlp 0 at 9", "outside of"), ("x", "is no edge")]
)
def test_bad_parts_are_a_sentence(edge: str, said: str) -> None:
    model = families.bridge(families.NATIVE)
    graph = contributions.trace(model, IDS)
    with pytest.raises(ValueError, match=said):
        contributions.promoted(model, graph, edge)
    with pytest.raises(ValueError, match="top = 0"):
        contributions.promoted(model, graph, "mlp 0 at 1", top=0)
    with pytest.raises(ValueError, match="is no node"):
        contributions.state_tokens(model, graph, "mlp 0 at 1")
