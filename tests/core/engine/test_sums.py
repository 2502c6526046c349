"""The stream as a sum: its terms add up to the stream and to the logits of every family."""

from __future__ import annotations

import pytest
import torch

from tests import families
from workbench.core.engine import decoder, frozen_norms, running, sums
from workbench.core.planted import two_steps, word_level

FAMILIES = [*families.CONFIGS, families.NATIVE]
TOLERANCE = 1e-5


def prompts() -> torch.Tensor:
    return torch.randint(0, 6, (2, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_terms_add_up_to_the_stream(self, family: str) -> None:
        stream = sums.StreamSum.of(families.bridge(family), prompts())
        eye = torch.eye(families.D_MODEL)
        total = torch.stack(list(stream.embedded.values())).sum(0)
        for layer in range(stream.n_layers):
            total = total + stream.heads(layer).sum(2)
            total = total + stream.attn_constant(layer) + stream.mlp_constant(layer)
            wrote = [
                stream.neuron_shares(layer, one.expand_as(total)).sum(-1) for one in eye.unbind()
            ]
            total = total + torch.stack(wrote, -1)
            assert torch.allclose(total, stream.kept.resid[layer + 1], atol=TOLERANCE)

    def test_a_direction_reads_the_logit_off_the_stream(self, family: str) -> None:
        model = families.bridge(family)
        stream = sums.StreamSum.of(model, prompts())
        weights, bias = stream.decoder.unembedding()
        logits = running.run(model, prompts())
        for token in (0, 3):
            read = (stream.kept.resid[-1] * stream.logit_direction(weights[token])).sum(-1)
            read = read + stream.final.bias @ weights[token]
            read = read if bias is None else read + bias[token]
            cap = stream.decoder.logit_cap
            read = cap * torch.tanh(read / cap) if cap else read
            assert torch.allclose(read, logits[..., token], atol=TOLERANCE)

    def test_a_head_is_the_sum_over_where_it_looks(self, family: str) -> None:
        stream = sums.StreamSum.of(families.bridge(family), prompts())
        for layer in range(stream.n_layers):
            pattern = stream.pattern(layer)
            assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:3]), atol=TOLERANCE)
            for query in (0, 5):
                found = stream.heads_by_key(layer, pattern, query).sum(2)
                assert torch.allclose(found, stream.heads(layer)[:, query], atol=TOLERANCE)


def test_the_hand_wired_model_writes_what_it_was_wired_to_write() -> None:
    words = len(word_level.WORDS)
    stream = sums.StreamSum.of(two_steps.two_layer(), torch.tensor([[0, 3, 2, 1]]))
    first, second = (stream.heads(layer)[0, -1] for layer in range(2))
    expected = torch.zeros(2, first.shape[-1])
    expected[0, words + 3] = 1.0
    assert torch.equal(first, expected)
    assert second[1, 2 * words + 3] == 1.0
    assert torch.equal(stream.final.scale, torch.ones(1, 4, 1))


class TestFrozenNorms:
    def test_layer_norm_is_centred_and_linear(self) -> None:
        norm = torch.nn.LayerNorm(7)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        rows = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)) + 2
        with torch.no_grad():
            frozen = frozen_norms.FrozenNorm.at(norm, rows)
            parts = [0.3 * rows, 0.7 * rows - 1, torch.ones_like(rows)]
            found = torch.stack([frozen.of(part) for part in parts]).sum(0) + frozen.bias
            assert frozen.centred
            assert torch.allclose(frozen.gain, norm.weight, atol=1e-5)
            assert torch.allclose(found, norm(rows), atol=1e-5)
            direction = torch.randn(7, generator=torch.Generator().manual_seed(1))
            pulled = frozen.pulled(direction.expand_as(rows))
            read = (pulled * rows).sum(-1) + frozen.bias @ direction
            assert torch.allclose(read, norm(rows) @ direction, atol=1e-5)

    def test_rms_norm_is_not_centred(self) -> None:
        norm = torch.nn.RMSNorm(6, eps=1e-5)
        torch.nn.init.normal_(norm.weight)
        rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            frozen = frozen_norms.FrozenNorm.at(norm, rows)
            assert not frozen.centred
            assert torch.allclose(frozen.gain, norm.weight, atol=1e-5)
            own = rows.square().mean(-1, keepdim=True).rsqrt()
            assert torch.allclose(frozen.scale, own, atol=1e-4)
            assert torch.allclose(frozen.of(rows), norm(rows), atol=1e-5)

    def test_what_bends_each_coordinate_is_no_norm(self) -> None:
        rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        with pytest.raises(decoder.NotTakenApart, match="no division by one number"):
            frozen_norms.FrozenNorm.at(torch.tanh, rows)
