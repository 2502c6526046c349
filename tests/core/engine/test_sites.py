"""Sites on Hugging Face architectures: editing one really changes everything downstream of it."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from tests import families
from workbench.core.engine import running, sites

EXACT = 1e-5
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 4, 3, 2]])


@pytest.fixture(scope="module", params=families.CONFIGS)
def model(request: pytest.FixtureRequest) -> TransformerBridge:
    """A bridge around a small Hugging Face model whose every parameter is random."""
    return families.bridge(request.param)


def noise_for(value: torch.Tensor) -> torch.Tensor:
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", sites.SITES)
def test_every_site_exists_and_its_edit_reaches_the_logits(
    model: TransformerBridge, kind: str
) -> None:
    _, names = sites.resolve(model, kind)
    plain = running.run(model, TOKENS)
    for name in names:
        edited = running.run(model, TOKENS, {name: lambda value: value + noise_for(value)})
        assert float((edited - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["attn_out", "mlp_out"])
def test_an_edited_output_is_what_the_next_layer_reads(model: TransformerBridge, kind: str) -> None:
    """The stream after a layer is the stream before it plus attention output plus MLP output."""
    watched = {part: sites.SITES[part].hook_name(0) for part in ("attn_out", "mlp_out")}
    seen: dict[str, torch.Tensor] = {}

    def edit_and_keep(name: str) -> running.HookFunction:
        def hook(value: torch.Tensor) -> torch.Tensor:
            seen[name] = value + noise_for(value) if name == watched[kind] else value
            return seen[name]

        return hook

    before, after = (sites.SITES["resid_pre"].hook_name(layer) for layer in (0, 1))
    hooks = {name: edit_and_keep(name) for name in (before, *watched.values(), after)}
    running.run(model, TOKENS, hooks)
    _, plain = running.run_and_keep(model, TOKENS, [after])
    expected = seen[before] + seen[watched["attn_out"]] + seen[watched["mlp_out"]]
    torch.testing.assert_close(seen[after], expected, atol=EXACT, rtol=0)
    assert float((seen[after] - plain[after]).abs().max()) > 0.1


def test_a_head_is_edited_before_the_output_projection(model: TransformerBridge) -> None:
    """Silencing every head leaves what attention adds at every position the same: its bias."""
    name = sites.SITES["z"].hook_name(0)
    output = sites.SITES["attn_out"].hook_name(0)
    _, plain = running.run_and_keep(model, TOKENS, [name, output])
    assert plain[name].shape == (2, 4, families.HEADS, model.cfg.d_head)
    seen: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        seen.append(value)
        return value

    running.run(model, TOKENS, {name: torch.zeros_like, output: keep})
    bias = seen[0][0, 0]
    torch.testing.assert_close(seen[0], bias.expand_as(seen[0]), atol=EXACT, rtol=0)
    assert float((plain[output] - seen[0]).abs().max()) > 0.01


def test_an_unknown_site_names_the_known_ones(model: TransformerBridge) -> None:
    with pytest.raises(
        ValueError, match="unknown site 'hook_resid_mid'; expected one of resid_pre"
    ):
        sites.resolve(model, "hook_resid_mid")
