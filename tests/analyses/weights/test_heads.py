"""Heads by their weights: against known wiring, forward passes, and TransformerLens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import FactoredMatrix

import workbench
from analyses import weights
from analyses.weights import circuits
from tests import families
from workbench.core import results
from workbench.core.engine import decoder
from workbench.core.planted import known_circuits, unplanted, word_level

FAMILIES = (*families.CONFIGS, families.NATIVE)


@pytest.fixture(scope="module")
def induction() -> Any:
    return known_circuits.induction().model


@pytest.fixture(scope="module")
def grammar() -> Any:
    return workbench.load_model("grammar-4l")


def taken_apart(model: Any) -> decoder.Decoder:
    with torch.no_grad():
        return decoder.taken_apart(model, torch.tensor([[1, 2, 3]]))


class TestInduction:
    def test_the_second_head_copies_and_no_other_does(self, induction: Any) -> None:
        found = weights.copying(induction)
        assert found.copying[1, 0] == pytest.approx(1, abs=1e-6)
        assert found.copying_p[1, 0] <= 0.05
        others = np.delete(found.copying.ravel(), 2)
        assert np.abs(others).max() < 1e-6 and (np.delete(found.copying_p.ravel(), 2) == 1).all()
        assert "1 copy (1.0 (+1.00))" in found.summary()

    def test_its_table_moves_every_word_to_itself(self, induction: Any) -> None:
        table = weights.tokens(induction, 1, 0)
        words = len(word_level.WORDS)
        expected = known_circuits.GAIN * np.eye(words)
        np.testing.assert_allclose(table.whole[0][:words, :words], expected, atol=1e-6)
        assert table.own_rank[:words].tolist() == [0] * words
        assert table.top_tokens[2][0].strip() == "cat"

    def test_the_first_head_composes_with_its_keys_and_no_other_pair_does(
        self, induction: Any
    ) -> None:
        found = weights.composition(induction)
        # Six words through: six equal singular values on both sides, all of them matched.
        assert found.scores[1, 0, 0] == pytest.approx(1 / np.sqrt(6), abs=1e-6)
        assert found.expected[1, 0, 0] == pytest.approx(1 / np.sqrt(32), rel=0.02)
        assert found.p_value[1, 0, 0] < 1e-6
        assert int((found.p_value <= 0.05).sum()) == 1
        best = found.strongest(n=1).iloc[0]
        assert (best.kind, best.sender_layer, best.sender_head) == ("K", 0, 0)
        assert (best.receiver_layer, best.receiver_head) == (1, 0)

    def test_the_second_head_looks_for_what_the_first_wrote_not_for_its_own_token(
        self, induction: Any
    ) -> None:
        table = weights.tokens(induction, 1, 0, kind="qk")
        assert np.abs(table.whole[0]).max() == 0
        assert (table.p_value == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
class TestFamilies:
    def test_a_row_of_the_ov_table_is_what_the_head_writes_for_a_token(self, family: str) -> None:
        model = families.bridge(family)
        layer, head, token = 0, 2, 3
        table = weights.tokens(model, layer, head)
        # Through the model's own parts: the norm of the embedding less its bias, value, output.
        with torch.no_grad():
            parts = taken_apart(model)
            first = parts.layers[layer]
            rows = model.W_E[token][None]
            read = first.normed(rows) - first.normed(torch.zeros_like(rows))
            nothing = first.project("v", torch.zeros_like(read))
            value = first.project("v", read) - nothing
            value = value.repeat_interleave(families.HEADS // value.shape[1], dim=1)
            alone = torch.zeros_like(value)
            alone[:, head] = value[:, head]
            wrote = first.attn_projected(alone) - first.attn_projected(torch.zeros_like(alone))
            # With the scale of these norms at 1: their gain and centring, as a probe shows them.
            wrote = _scale_one(first.attn_post, wrote)
            logits = _scale_one(parts.final_norm, wrote) @ model.W_U
        np.testing.assert_allclose(table.whole[0][token], logits[0].numpy(), atol=1e-4, rtol=1e-4)

    def test_an_entry_of_the_qk_table_is_the_score_at_distance_zero(self, family: str) -> None:
        model = families.bridge(family)
        layer, head, query, key = 1, 3, 2, 5
        table = weights.tokens(model, layer, head, kind="qk")
        with torch.no_grad():
            one = taken_apart(model).layers[layer]
            rows = model.W_E[[query, key]]
            read = one.normed(rows) - one.normed(torch.zeros_like(rows))
            q, k = (
                one.project(name, read) - one.project(name, torch.zeros_like(read)) for name in "qk"
            )
            if family == "qwen3":
                # Norms on queries and keys: gains only.
                attention = model.blocks[layer].attn
                q = q * attention.q_norm.original_component.weight
                k = k * attention.k_norm.original_component.weight
            k = k.repeat_interleave(families.HEADS // k.shape[1], dim=1)
            score = float(q[0, head] @ k[1, head])
        assert table.whole[0][query, key] == pytest.approx(score, rel=1e-3, abs=1e-4)

    def test_the_eigenvalues_are_those_of_the_whole_table(self, family: str) -> None:
        model = families.bridge(family)
        found = weights.head(model, 1, 2, n_random=19)
        for kind, mine in (("ov", found.ov_eigenvalues), ("qk", found.qk_eigenvalues)):
            table = weights.tokens(model, 1, 2, kind=kind).whole[0].astype(np.float64)
            values = np.linalg.eigvals(table)
            size = np.abs(values).max()
            assert values.sum().real == pytest.approx(mine[0].sum(), abs=1e-3 * size)
            theirs = np.sort(np.abs(values))[::-1][: mine.shape[1]]
            np.testing.assert_allclose(np.hypot(*mine)[:3], theirs[:3], rtol=1e-3)
        total = np.hypot(*found.ov_eigenvalues).sum()
        assert found.copying == pytest.approx(found.ov_eigenvalues[0].sum() / total)

    def test_composition_is_that_of_transformer_lens_on_weights_as_they_are_stored(
        self, family: str
    ) -> None:
        model = families.bridge(family)
        found = weights.composition(model, folded=False)
        for i, kind in enumerate("QKV"):
            theirs = model.all_composition_scores(kind).scores.detach()[0, :, 1]
            np.testing.assert_allclose(found.scores[i], theirs.numpy(), atol=1e-4)


def _scale_one(norm: Any, rows: torch.Tensor) -> torch.Tensor:
    """Rows through a norm's gain and centring alone, read off what it does to single axes."""
    width = rows.shape[-1]
    bias = norm(torch.zeros(1, width))
    units = norm(torch.eye(width)) - bias
    shift = norm(torch.eye(width) + 5) - bias
    centred = bool(torch.allclose(units, shift, atol=1e-3 * float(units.abs().max())))
    inside = torch.eye(width) - (1 / width if centred else 0)
    scale = inside.square().mean(-1, keepdim=True).sqrt() if _normalises(norm, width) else 1.0
    return rows @ (units * scale)


def _normalises(norm: Any, width: int) -> bool:
    one = torch.linspace(-1, 2, width)[None]
    bias = norm(torch.zeros_like(one))
    return not torch.allclose(norm(2 * one) - bias, 2 * (norm(one) - bias), rtol=1e-3)


def test_composition_with_norms_folded_is_that_of_compatibility_mode() -> None:
    model = families.build(families.NATIVE)
    mine = weights.composition(model)
    folded = families.build(families.NATIVE)
    folded.enable_compatibility_mode()
    for i, kind in enumerate("QKV"):
        theirs = folded.all_composition_scores(kind).scores.detach()[0, :, 1]
        np.testing.assert_allclose(mine.scores[i], theirs.numpy(), atol=1e-4)


def test_circuits_are_the_factored_matrices_of_transformer_lens(grammar: Any) -> None:
    of = circuits.Circuits(grammar, folded=False)
    heads = of.heads(2)
    ov, qk = (
        FactoredMatrix(heads.value, heads.output),
        FactoredMatrix(heads.query, heads.key.transpose(1, 2)),
    )
    torch.testing.assert_close(ov.AB, grammar.OV[2].AB.detach(), atol=1e-4, rtol=0)
    torch.testing.assert_close(qk.AB, grammar.QK[2].AB.detach(), atol=1e-4, rtol=0)
    folded = circuits.Circuits(grammar).heads(2)
    found = weights.head(grammar, 2, 1, n_random=19)
    whole = FactoredMatrix(folded.value[1], folded.output[1])
    np.testing.assert_allclose(found.ov_spectrum, whole.S.numpy(), atol=1e-4)
    inside = circuits.Circuits(grammar)
    read = inside.tokens(2)
    tokens = FactoredMatrix(read @ folded.value[1], folded.output[1] @ inside.unembedding().T)
    values = tokens.eigenvalues
    assert found.copying == pytest.approx(float(values.real.sum() / values.abs().sum()), abs=1e-4)


def test_a_row_of_the_ov_table_is_what_the_cache_of_transformer_lens_says(grammar: Any) -> None:
    """One token alone: the head attends to itself, and its result goes to the logits."""
    model, layer, head, token = grammar, 0, 1, 17
    position = model.original_model.pos.weight
    stored = position.detach().clone()
    with torch.no_grad():
        position.zero_()
    try:
        _, cache = model.run_with_cache(torch.tensor([[token]]))
        result = cache["z", layer][0, 0, head] @ model.W_O[layer, head]
        bias = (
            model.blocks[layer].attn.b_V[head]
            + model.blocks[layer].ln1.bias @ model.W_V[layer, head]
        )
        wrote = (result - bias @ model.W_O[layer, head]).detach()
    finally:
        with torch.no_grad():
            position.copy_(stored)
    gain = model.ln_final.weight.detach()
    logits = ((wrote - wrote.mean()) * gain) @ model.W_U.detach()
    row = weights.tokens(model, layer, head, rows=[token], k=440)
    mine = np.empty(440)
    mine[row.top_ids[0]] = row.top_values[0]
    np.testing.assert_allclose(mine, logits.numpy(), atol=1e-4)


class TestScores:
    def test_one_head_by_itself_has_the_score_that_it_has_among_all(self, grammar: Any) -> None:
        every = weights.copying(grammar, n_random=19)
        for layer, head in ((0, 3), (3, 1)):
            one = weights.head(grammar, layer, head, n_random=19)
            assert one.copying == pytest.approx(every.copying[layer, head], abs=1e-4)
            assert one.matching == pytest.approx(every.matching[layer, head], abs=1e-4)

    def test_a_scale_of_one_is_what_folding_the_norms_gives(self) -> None:
        model = families.build(families.NATIVE)
        mine = weights.tokens(model, 1, 2, scale="one").whole[0]
        folded = families.build(families.NATIVE)
        folded.enable_compatibility_mode()
        with torch.no_grad():
            theirs: Any = folded.W_E @ folded.blocks[1].attn.W_V[2]
            theirs = theirs @ folded.blocks[1].attn.W_O[2] @ folded.W_U
        # Compatibility mode takes the mean over tokens off the unembedding, which no softmax sees.
        mine = mine - mine.mean(1, keepdims=True)
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-4)

    def test_random_models_copy_no_more_often_than_chance(self) -> None:
        p_values = np.concatenate(
            [
                [
                    weights.head(model, layer, head, n_random=19, seed=seed).copying_p
                    for layer in range(2)
                    for head in range(4)
                ]
                for seed in range(3)
                for model in [unplanted.randomised(seed=seed)]
            ]
        )
        # 24 heads, one in twenty each: more than five would be a rarity of 1 in 1,000.
        assert (p_values <= 0.05).sum() <= 5
        assert 0.3 < p_values.mean() < 0.75

    def test_a_head_that_subtracts_its_token_has_a_score_of_minus_one(self) -> None:
        model = known_circuits.induction().model
        with torch.no_grad():
            model.blocks[1].attn.o.original_component.weight.neg_()
        found = weights.copying(model)
        assert found.copying[1, 0] == pytest.approx(-1, abs=1e-6)
        assert "1 do the opposite" in found.summary()

    def test_equal_seeds_give_equal_scores(self, induction: Any) -> None:
        one, two = (weights.copying(induction, seed=3) for _ in range(2))
        np.testing.assert_array_equal(one.copying_spread, two.copying_spread)
        assert one.copying_spread[1, 0] != weights.copying(induction, seed=4).copying_spread[1, 0]


class TestLargeVocabularies:
    def test_asked_rows_keep_their_largest_entries_only(self, grammar: Any) -> None:
        whole = weights.tokens(grammar, 1, 2)
        some = weights.tokens(grammar, 1, 2, rows=[7, 100], k=5)
        assert not some.whole and some.top_ids.shape == (2, 5)
        order = np.argsort(-whole.whole[0][100], kind="stable")[:5]
        assert some.top_ids[1].tolist() == order.tolist()
        np.testing.assert_allclose(some.low_values[0], np.sort(whole.whole[0][7])[:5], rtol=1e-5)
        assert some.own_rank[1] == (whole.whole[0][100] > whole.whole[0][100, 100]).sum()
        assert some.figure().data

    def test_beyond_the_limit_an_even_sample_of_rows_is_looked_at(
        self, grammar: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("analyses.weights.token_tables.WHOLE_UP_TO", 100)
        table = weights.tokens(grammar, 0, 0, k=3)
        assert not table.whole and len(table.ids) == 256
        assert (table.ids[0], table.ids[-1]) == (0, 439)

    @pytest.mark.real_model
    def test_shared_keys_and_values_of_a_real_model(self, stories: Path) -> None:
        model = workbench.load_model(str(stories))
        found = weights.composition(model, layers=[0, 1], folded=False)
        for i, kind in enumerate("QKV"):
            theirs = model.all_composition_scores(kind).scores.detach()[0, :, 1]
            np.testing.assert_allclose(found.scores[i], theirs.numpy(), atol=1e-4)
        assert "among the 10 largest" in weights.tokens(model, 0, 1, rows=[300]).summary()


class TestComposition:
    def test_random_heads_do_not_compose(self) -> None:
        found = weights.composition(unplanted.randomised(n_layers=4))
        # Benjamini-Hochberg over 288 pairs of which none is true: mostly none is found.
        assert (found.p_value <= 0.05).sum() <= 1
        assert abs(np.nanmean(found.z)) < 0.3

    def test_only_later_layers_receive(self, grammar: Any) -> None:
        found = weights.composition(grammar, layers=[3, 1])
        assert found.senders[:, 0].tolist() == [1] * 4 and found.receivers[:, 0].tolist() == [3] * 4
        whole = weights.composition(grammar)
        assert np.isnan(whole.scores[0, 4:, :4]).all()
        np.testing.assert_allclose(found.scores[2], whole.scores[2, 4:8, 8:], rtol=1e-5)
        assert len(whole.to_frame()) == 3 * 6 * 16

    def test_many_heads_are_drawn_by_layer(
        self, grammar: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = weights.composition(grammar)
        monkeypatch.setattr("analyses.weights.composing.DRAWN", 4)
        values, rows, columns = found.grid("K")
        assert (rows, columns) == (["L1", "L2", "L3"], ["L0", "L1", "L2"])
        assert values[2, 0] == found.excess[1, :4, 8:].max() and np.isnan(values[0, 1])
        one, later, earlier = found.grid("K", (0, 3))
        np.testing.assert_array_equal(one, found.excess[1, :4, 8:].T)
        assert (later[0], earlier[-1]) == ("3.0", "0.3")
        with pytest.raises(ValueError, match="no scores from layer 3 to layer 0"):
            found.grid("K", (3, 0))


def test_results_are_saved_and_opened_again(induction: Any, tmp_path: Path) -> None:
    made = (
        weights.copying(induction),
        weights.head(induction, 1, 0, n_random=19),
        weights.tokens(induction, 1, 0),
        weights.composition(induction),
    )
    for i, one in enumerate(made):
        again = results.Result.load(one.save(tmp_path / str(i)))
        assert again.summary() == one.summary()
        assert again.to_frame().equals(one.to_frame())
        assert again.figure().to_json() == one.figure().to_json()


class TestBadInput:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"layer": 9, "head": 0}, "the model has layers 0 to 1, not 9"),
            ({"layer": 0, "head": -1}, "layer 0 has heads 0 to 1, not -1"),
            ({"layer": 0, "head": 0, "kind": "vo"}, "kind 'vo' is not known"),
            ({"layer": 0, "head": 0, "scale": "two"}, "scale 'two' is not known"),
            ({"layer": 0, "head": 0, "rows": ["zebra"]}, "outside the vocabulary"),
            ({"layer": 0, "head": 0, "rows": ["ape bee"]}, "is 2 tokens"),
            ({"layer": 0, "head": 0, "rows": [99]}, "token id 99 is outside the vocabulary"),
            ({"layer": 0, "head": 0, "rows": []}, "no tokens were asked for"),
            ({"layer": 0, "head": 0, "k": 0}, "k = 0; expected at least 1"),
        ],
    )
    def test_of_a_table(self, induction: Any, asked: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            weights.tokens(induction, **asked)

    def test_of_the_others(self, induction: Any) -> None:
        with pytest.raises(ValueError, match="expected at least 19 random turns"):
            weights.copying(induction, n_random=5)
        with pytest.raises(ValueError, match="there is one layer to look at"):
            weights.composition(induction, layers=[1])
        with pytest.raises(ValueError, match="kind 'X' is not known"):
            weights.composition(induction).figure("X")
        with pytest.raises(ValueError, match="kind 'both' is not known"):
            weights.copying(induction).figure("both")
