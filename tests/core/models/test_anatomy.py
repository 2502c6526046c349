"""What a model is made of, read off models whose make is known."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.models import anatomy
from workbench.core.planted import unplanted


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return unplanted.randomised()


def test_architecture(model: TransformerBridge) -> None:
    table = anatomy.architecture(model)
    facts = dict(zip(table["fact"], table["value"], strict=True))
    assert facts["layers"] == "2" and facts["d_model"] == "16" and facts["d_mlp"] == "32"
    assert facts["query heads"] == facts["key/value heads"] == "4"
    block = 4 * (16 * 16 + 16) + 16 * 32 + 32 + 32 * 16 + 16 + 2 * 2 * 16
    assert facts["parameters"] == f"{7 * 16 + 12 * 16 + 2 * block + 2 * 16 + 16 * 7 + 7:,}"


def test_parameters_are_listed_once_by_the_checkpoints_names(model: TransformerBridge) -> None:
    table = anatomy.parameters(model)
    rows = {row["parameter"]: row for row in table.to_dict("records")}
    assert len(rows) == len(table)
    assert not any("_original_component" in name for name in rows)
    assert rows["tok_embed.weight"]["shape"] == "7 × 16"
    named = model.original_model.named_parameters()
    weight = next(p for name, p in named if name.startswith("tok_embed")).detach()
    assert rows["tok_embed.weight"]["mean"] == pytest.approx(float(weight.mean()), abs=1e-6)
    assert rows["tok_embed.weight"]["largest"] == pytest.approx(float(weight.abs().max()))
    assert sum(table["count"]) == sum(p.numel() for p in model.original_model.parameters())


def test_hook_points_have_symbolic_shapes(model: TransformerBridge) -> None:
    rows = {row["hook point"]: row for row in anatomy.hook_points(model).to_dict("records")}
    assert set(rows) == set(model.hook_dict)
    assert rows["blocks.1.hook_resid_pre"]["shape"] == "batch × position × 16"
    assert rows["blocks.0.attn.hook_z"]["shape"] == "batch × position × 4 × 4"
    assert rows["blocks.0.attn.hook_pattern"]["shape"] == "batch × 4 × position × position"
    assert not rows["blocks.0.attn.hook_result"]["fires"]
    assert rows["blocks.0.attn.hook_result"]["shape"] == ""
    alias = rows["blocks.0.hook_resid_pre"]["same as"]
    if alias:
        assert model.hook_dict[alias] is model.hook_dict["blocks.0.hook_resid_pre"]


def test_looking_changes_nothing(model: TransformerBridge) -> None:
    before = workbench.fingerprint(model)
    tokens = torch.tensor([[6, 0, 1]])
    logits = model(tokens)
    anatomy.hook_points(model)
    assert torch.equal(model(tokens), logits)
    assert workbench.fingerprint(model) == before
    assert all(not point.fwd_hooks for point in model.hook_dict.values())
