"""Exact patching against a hand-wired model, transformer_lens's own patching, and bad input."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import scipy.stats
import torch
import transformer_lens.patching
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import activation_patching
from workbench import ContrastPairs
from workbench.core.engine import interventions, metrics, patching, preflight, running, sites
from workbench.core.planted import two_steps, unplanted, word_level

SITES = tuple(sites.SITES)
# Same computation on the same machine, so float32 rounding only.
EXACT = 1e-5

TL_TABLES: dict[tuple[str, str], Callable[..., torch.Tensor]] = {
    ("resid_pre", "each"): transformer_lens.patching.get_act_patch_resid_pre,
    ("attn_out", "each"): transformer_lens.patching.get_act_patch_attn_out,
    ("mlp_out", "each"): transformer_lens.patching.get_act_patch_mlp_out,
    ("z", "each"): transformer_lens.patching.get_act_patch_attn_head_out_by_pos,
    ("z", "all"): transformer_lens.patching.get_act_patch_attn_head_out_all_pos,
    ("q", "each"): transformer_lens.patching.get_act_patch_attn_head_q_by_pos,
    ("q", "all"): transformer_lens.patching.get_act_patch_attn_head_q_all_pos,
    ("k", "each"): transformer_lens.patching.get_act_patch_attn_head_k_by_pos,
    ("k", "all"): transformer_lens.patching.get_act_patch_attn_head_k_all_pos,
    ("v", "each"): transformer_lens.patching.get_act_patch_attn_head_v_by_pos,
    ("v", "all"): transformer_lens.patching.get_act_patch_attn_head_v_all_pos,
}


@pytest.fixture(scope="module")
def two_layer() -> TransformerBridge:
    return two_steps.two_layer()


@pytest.fixture(scope="module")
def two_layer_pairs(two_layer: TransformerBridge) -> ContrastPairs:
    return two_steps.pairs(two_layer)


@pytest.fixture(scope="module")
def random_model() -> TransformerBridge:
    return unplanted.randomised()


@pytest.fixture(scope="module")
def random_pairs(random_model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_text(
        random_model,
        ["ape bee cat dog fox", "elk bee fox dog ape", "cat cat bee ape ape"],
        ["ape cat cat dog ape", "elk fox fox dog fox", "cat dog dog ape ape"],
        [" bee", " bee", " cat"],
        [" cat", " fox", " dog"],
    )


def grammar_pairs() -> tuple[TransformerBridge, ContrastPairs]:
    model = workbench.load_model("grammar-4l")
    return model, ContrastPairs.from_task(model, "indirect-object", n=4, seed=1)


def story_pairs(folder: Path) -> tuple[TransformerBridge, ContrastPairs]:
    model = workbench.load_model(folder)
    pairs = ContrastPairs.from_text(
        model,
        ["Once there was a girl. One day,", "Once there was a boy. One day,"],
        ["Once there was a boy. One day,", "Once there was a girl. One day,"],
        [" she", " he"],
        [" he", " she"],
    )
    return model, pairs


class TestHandWired:
    """Layer 0 moves the token, layer 1 carries three quarters of it; nothing else does anything."""

    EXPECTED = {
        "resid_pre": np.array([[0, 1, 0, 0], [0, 0, 0, 1]]),
        "resid_post": np.array([[0, 0, 0, 1], [0, 0, 0, 1]]),
        # Where the heads look depends on positions alone, so queries and keys carry nothing; the
        # values are read at position 1 in layer 0, and at the last position in layer 1.
        "q": np.zeros((2, 4, 2)),
        "k": np.zeros((2, 4, 2)),
        "v": np.array(
            [
                [[0, 0], [1, 0], [0, 0], [0, 0]],
                [[0, 0], [0, 0], [0, 0], [0, two_steps.INDIRECT]],
            ]
        ),
        "pattern": np.zeros((2, 4, 2)),
        "attn_out": np.array([[0, 0, 0, 1], [0, 0, 0, two_steps.INDIRECT]]),
        # There are four neurons a layer, chosen over both layers.
        "neuron": np.zeros((4, 8)),
        "mlp_out": np.zeros((2, 4)),
        "z": np.array(
            [
                [[0, 0], [0, 0], [0, 0], [1, 0]],
                [[0, 0], [0, 0], [0, 0], [0, two_steps.INDIRECT]],
            ]
        ),
    }

    @pytest.mark.parametrize("direction", activation_patching.DIRECTIONS)
    @pytest.mark.parametrize("site", SITES)
    def test_effects_are_the_analytic_ones(
        self,
        two_layer: TransformerBridge,
        two_layer_pairs: ContrastPairs,
        site: str,
        direction: str,
    ) -> None:
        result = activation_patching.patch(
            two_layer, two_layer_pairs, site=site, direction=direction
        )
        np.testing.assert_allclose(result.effects, self.EXPECTED[site], atol=1e-6)
        np.testing.assert_allclose(result.clean, 1.0, atol=1e-6)
        np.testing.assert_allclose(result.corrupted, -1.0, atol=1e-6)

    @pytest.mark.parametrize("site", SITES)
    def test_all_positions_at_once_drop_the_position_axis(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs, site: str
    ) -> None:
        result = activation_patching.patch(two_layer, two_layer_pairs, site=site, positions="all")
        # Layer 1 works from the last position alone, so together the positions do what one does;
        # the whole residual stream carries everything in either layer.
        expected = np.ones(2) if site.startswith("resid") else self.EXPECTED[site]
        expected = expected.max(int(site != "neuron")) if expected.ndim > 1 else expected
        np.testing.assert_allclose(result.effects, expected, atol=1e-6)
        assert "position" not in result.axes

    def test_agreeing_prompts_give_intervals_that_are_points(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = activation_patching.patch(two_layer, two_layer_pairs, site="attn_out")
        np.testing.assert_allclose(result.interval[0], result.effects, atol=1e-6)
        np.testing.assert_allclose(result.interval[1], result.effects, atol=1e-6)

    def test_inspecting_a_cell_shows_the_answer_coming_back(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = activation_patching.patch(two_layer, two_layer_pairs, site="z")
        seen = activation_patching.inspect_cell(two_layer, result, (0, 3, 0), prompt=1, k=3)
        logits = np.zeros(len(word_level.WORDS))
        logits[word_level.WORDS.index("bee")] = 1
        expected = np.exp(logits) / np.exp(logits).sum()
        assert seen.tokens[0] == "bee"
        np.testing.assert_allclose(seen.after[0], expected.max(), atol=1e-6)
        np.testing.assert_allclose(seen.before[0], expected.min(), atol=1e-6)
        assert "'fox'" in seen.summary() and "'bee'" in seen.summary()


# The same kinds once each: what is patched at every position, and what at all of them together.
EACH_SITE_ONCE = (
    ("resid_pre", "each"),
    ("attn_out", "each"),
    ("mlp_out", "each"),
    ("z", "each"),
    ("q", "all"),
    ("k", "all"),
    ("v", "all"),
)


def compare_with_transformer_lens(
    model: TransformerBridge, pairs: ContrastPairs, tables: Iterable[tuple[str, str]] = TL_TABLES
) -> None:
    """Sites of ours against the tables of transformer_lens.patching, on the raw metric."""
    clean, corrupted = pairs.batch(range(len(pairs)))
    rows = torch.arange(len(pairs))
    shared = sites.groups(model) < model.cfg.n_heads
    answers = torch.tensor([row[0] for row in pairs.answers])
    wrong = torch.tensor([row[0] for row in pairs.wrong_answers])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, -1, answers] - logits[rows, -1, wrong]).mean()

    with torch.inference_mode():
        _, clean_cache = model.run_with_cache(clean)
        for site, positions in tables:
            table = TL_TABLES[site, positions]
            if shared and site in "kv":
                # transformer_lens asks for a key and a value of every query head.
                continue
            expected = table(model, corrupted, clean_cache, metric).numpy()
            result = activation_patching.patch(model, pairs, site=site, positions=positions)
            measured = result.per_prompt.mean(0)
            assert measured.shape == expected.shape
            np.testing.assert_allclose(measured, expected, atol=EXACT, rtol=0, err_msg=site)


def test_every_site_agrees_with_transformer_lens_on_a_randomised_model(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    compare_with_transformer_lens(random_model, random_pairs)


def test_every_site_agrees_with_transformer_lens_on_grammar_4l() -> None:
    compare_with_transformer_lens(*grammar_pairs(), EACH_SITE_ONCE)


@pytest.mark.real_model
def test_every_site_agrees_with_transformer_lens_on_stories260k(stories: Path) -> None:
    compare_with_transformer_lens(*story_pairs(stories), EACH_SITE_ONCE)


# A native bridge shows its attention pattern and does not use what a hook makes of it.
@pytest.mark.parametrize("site", [site for site in SITES if site != "pattern"])
def test_editing_a_site_changes_everything_downstream(
    random_model: TransformerBridge, site: str
) -> None:
    """The hook's replacement is what an independent forward pass computes with."""
    place, names = sites.resolve(random_model, site)
    tokens = torch.tensor([[6, 0, 1, 2]])
    everything = [name for name in random_model.hook_dict if name.startswith("blocks.")]
    running.require_hooks(random_model, everything)
    generator = torch.Generator().manual_seed(5)
    logits, kept = running.run_and_keep(random_model, tokens, [names[1], "blocks.1.hook_resid_pre"])
    noise = 0.5 * torch.randn(kept[names[1]].shape, generator=generator)
    patched = running.run(random_model, tokens, {names[1]: lambda value: value + noise})
    expected = independent_forward(random_model, kept["blocks.1.hook_resid_pre"], site, noise)
    torch.testing.assert_close(patched, expected, atol=EXACT, rtol=0)
    assert float((patched - logits).abs().max()) > 0.01
    assert place.kind == site


def independent_forward(
    model: TransformerBridge, resid: torch.Tensor, site: str, noise: torch.Tensor
) -> torch.Tensor:
    """Last layer of the randomised model in plain torch, with noise added at a site."""
    named = model.original_model.named_parameters()
    w = {name.replace("._original_component", ""): p for name, p in named}

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5
        )

    def add(at: str, value: torch.Tensor) -> torch.Tensor:
        return value + noise if at == site else value

    batch, length, _ = resid.shape
    with torch.inference_mode():
        x = add("resid_pre", resid)
        normed = norm("layers.1.ln1", x)
        q, k, v = (
            add(c, linear(f"layers.1.attn.{c}", normed).view(batch, length, 4, 4)).transpose(1, 2)
            for c in "qkv"
        )
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = add("z", z.transpose(1, 2))
        x = x + add("attn_out", linear("layers.1.attn.o", z.reshape(batch, length, -1)))
        hidden = torch.nn.functional.gelu(linear("layers.1.mlp.fc_in", norm("layers.1.ln2", x)))
        hidden = add("neuron", hidden)
        x = x + add("mlp_out", linear("layers.1.mlp.fc_out", hidden))
        return linear("head", norm("ln_out", add("resid_post", x)))


class TestSharedPrefix:
    """Before the first difference clean and corrupted runs agree: patching there does nothing."""

    @pytest.mark.parametrize("direction", activation_patching.DIRECTIONS)
    @pytest.mark.parametrize("site", SITES)
    def test_effects_are_exactly_zero(
        self,
        random_model: TransformerBridge,
        random_pairs: ContrastPairs,
        site: str,
        direction: str,
    ) -> None:
        result = activation_patching.patch(
            random_model, random_pairs, site=site, direction=direction
        )
        assert random_pairs.first_differences().tolist() == [2, 2, 2]
        base = result.corrupted if direction == "denoising" else result.clean
        at = result.axes.index("query" if site == "pattern" else "position")
        prefix = np.moveaxis(result.per_prompt, at + 1, 1)[:, :2]
        unpatched = base.reshape(-1, *[1] * (prefix.ndim - 1))
        assert np.array_equal(prefix, np.broadcast_to(unpatched, prefix.shape))
        assert not np.moveaxis(result.changes, at, 0)[:2].any()

    def test_running_them_all_the_same_gives_zero_too(
        self, random_model: TransformerBridge, random_pairs: ContrastPairs
    ) -> None:
        clean, corrupted = random_pairs.batch(range(len(random_pairs)))
        base = running.run(random_model, corrupted)
        _, kept = running.run_and_keep(random_model, clean, ["blocks.1.hook_resid_pre"])

        def replace(value: torch.Tensor) -> torch.Tensor:
            patched = value.clone()
            patched[:, :2] = kept["blocks.1.hook_resid_pre"][:, :2]
            return patched

        patched = running.run(random_model, corrupted, {"blocks.1.hook_resid_pre": replace})
        torch.testing.assert_close(patched, base, atol=1e-6, rtol=0)

    def test_prompts_that_differ_from_different_positions_on(
        self, random_model: TransformerBridge
    ) -> None:
        pairs = ContrastPairs.from_text(
            random_model,
            ["ape bee cat", "dog elk fox"],
            ["ape dog cat", "dog elk ape"],
            ["bee", "bee"],
            ["cat", "cat"],
        )
        result = activation_patching.patch(random_model, pairs)
        alone = [activation_patching.patch(random_model, pairs.subset([i])) for i in range(2)]
        expected = np.concatenate([one.per_prompt for one in alone])
        np.testing.assert_allclose(result.per_prompt, expected, atol=1e-6)
        assert np.array_equal(result.per_prompt[1, :, :3], np.full((2, 3), result.corrupted[1]))


class TestNormalisation:
    def test_effects_are_the_ratio_of_means(
        self, random_model: TransformerBridge, random_pairs: ContrastPairs
    ) -> None:
        result = activation_patching.patch(random_model, random_pairs, metric="cross_entropy")
        clean, corrupted = result.clean.mean(), result.corrupted.mean()
        recovered = (result.per_prompt.mean(0) - corrupted) / (clean - corrupted)
        if result.normalised:
            np.testing.assert_allclose(result.effects, recovered, atol=1e-12)
        np.testing.assert_allclose(
            result.changes, result.per_prompt.mean(0) - corrupted, atol=1e-12
        )

    def test_noising_is_one_where_the_corrupted_run_is_reached(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = activation_patching.patch(
            two_layer, two_layer_pairs, direction="noising", positions="all"
        )
        np.testing.assert_allclose(result.effects, 1.0, atol=1e-6)
        np.testing.assert_allclose(result.changes, 2.0, atol=1e-6)

    def test_baselines_too_close_are_not_divided_by(self, two_layer: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(
            two_layer, ["ape bee cat dog"], ["elk bee cat dog"], ["bee"], ["cat"]
        )
        result = activation_patching.patch(two_layer, pairs)
        assert not result.normalised
        assert np.isnan(result.effects).all() and np.isnan(result.interval).all()
        assert not result.changes.any()
        assert "not normalised" in result.unit
        assert "too close" in result.summary()

    @pytest.mark.parametrize("metric", metrics.METRICS)
    def test_every_metric_recovers_fully_when_everything_is_patched(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs, metric: str
    ) -> None:
        result = activation_patching.patch(
            two_layer, two_layer_pairs, metric=metric, positions="all"
        )
        assert result.normalised
        np.testing.assert_allclose(result.effects, 1.0, atol=1e-5)


class TestAblations:
    """On the hand-wired model: what the last position lacks is what the logits lack."""

    HEAD = (0, 3, 0)

    def ablate(
        self, model: TransformerBridge, pairs: ContrastPairs, ablation: str, **more: Any
    ) -> activation_patching.PatchingResult:
        return activation_patching.patch(
            model, pairs, site="z", direction="noising", ablation=ablation, **more
        )

    def test_zero(self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs) -> None:
        result = self.ablate(two_layer, two_layer_pairs, "zero")
        # Logit difference: clean 1, corrupted -1; without layer 0 it is 0, without layer 1 .25.
        expected = np.zeros((2, 4, 2))
        expected[0, 3, 0] = (1 - 0) / 2
        expected[1, 3, 1] = (1 - two_steps.DIRECT) / 2
        np.testing.assert_allclose(result.effects, expected, atol=1e-6)
        assert result.summary().startswith("Zero-ablating output of each attention head")

    def test_mean_over_the_pairs(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = self.ablate(two_layer, two_layer_pairs, "mean")
        # Position 1 holds bee, bee, cat in the clean and cat, fox, dog in the corrupted prompts.
        share = {"bee": 2 / 6, "cat": 2 / 6, "fox": 1 / 6, "dog": 1 / 6}
        asked = [("bee", "cat"), ("bee", "fox"), ("cat", "dog")]
        expected = [share[right] - share[wrong] for right, wrong in asked]
        np.testing.assert_allclose(result.per_prompt[:, *self.HEAD], expected, atol=1e-6)
        batches = self.ablate(two_layer, two_layer_pairs, "mean", batch_size=2)
        np.testing.assert_allclose(batches.per_prompt, result.per_prompt, atol=1e-6)

    def test_mean_over_reference_texts(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        texts = ["bee bee bee bee", "bee bee"]
        result = self.ablate(two_layer, two_layer_pairs, "mean", reference=texts)
        np.testing.assert_allclose(result.per_prompt[:, *self.HEAD], [1, 1, 0], atol=1e-6)
        assert result.provenance.parameters["reference"] == texts

    def test_reference_means_leave_the_bos_out(self, random_model: TransformerBridge) -> None:
        names = ["blocks.1.hook_resid_pre"]
        found = interventions._reference_means(
            random_model,
            lambda t: running.run_and_keep(random_model, t, names)[1],
            ("ape bee", "cat"),
        )
        rows = []
        for tokens in ([[6, 0, 1]], [[6, 2]]):
            _, kept = running.run_and_keep(random_model, torch.tensor(tokens), names)
            rows.append(kept[names[0]][0, 1:])
        torch.testing.assert_close(found[names[0]][0, 0], torch.cat(rows).mean(0))

    def test_resample_takes_the_corrupted_activation_of_another_prompt(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        taken = ["cat", "fox", "dog"]
        asked = [("bee", "cat"), ("bee", "fox"), ("cat", "dog")]
        for seed in range(3):
            result = self.ablate(two_layer, two_layer_pairs, "resample", seed=seed)
            how = patching.Intervention(False, "resample", seed=seed)
            donors = interventions._donors(two_layer_pairs, how)
            assert (donors != np.arange(3)).all() and sorted(donors) == [0, 1, 2]
            expected = [
                float(taken[donor] == right) - float(taken[donor] == wrong)
                for donor, (right, wrong) in zip(donors, asked, strict=True)
            ]
            np.testing.assert_allclose(result.per_prompt[:, *self.HEAD], expected, atol=1e-6)

    @pytest.mark.parametrize("ablation", [None, *activation_patching.ABLATIONS])
    @pytest.mark.parametrize("site", ["z", "resid_pre"])
    def test_inspecting_a_cell_shows_the_run_that_was_measured(
        self,
        random_model: TransformerBridge,
        random_pairs: ContrastPairs,
        site: str,
        ablation: str | None,
    ) -> None:
        result = activation_patching.patch(
            random_model,
            random_pairs,
            site=site,
            metric="probability",
            direction="noising",
            ablation=ablation,
            seed=1,
        )
        cell = (0, 3, 1)[: len(result.axes)]
        for prompt in range(3):
            seen = activation_patching.inspect_cell(random_model, result, cell, prompt=prompt, k=7)
            right = seen.tokens.index(random_pairs.answer_strings[prompt][0])
            assert seen.after[right] == pytest.approx(result.per_prompt[prompt, *cell], abs=1e-6)
            assert seen.before[right] == pytest.approx(result.clean[prompt], abs=1e-6)

    @pytest.mark.parametrize("ablation", activation_patching.ABLATIONS)
    def test_before_the_first_difference_too(
        self, random_model: TransformerBridge, random_pairs: ContrastPairs, ablation: str
    ) -> None:
        result = activation_patching.patch(
            random_model,
            random_pairs,
            site="mlp_out",
            direction="noising",
            ablation=ablation,
        )
        # In the last layer a position before the last is read by nobody.
        assert abs(result.changes[0, 1]) > 1e-4
        assert result.changes[1, 1] == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"ablation": "zero"}, "takes something away from the clean run: use direction='noi"),
            ({"ablation": "one", "direction": "noising"}, "ablation = 'one'; expected None or one"),
        ],
    )
    def test_bad_arguments(
        self,
        two_layer: TransformerBridge,
        two_layer_pairs: ContrastPairs,
        arguments: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            activation_patching.patch(two_layer, two_layer_pairs, **arguments)

    def test_one_prompt_has_no_other_to_take_from(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        with pytest.raises(ValueError, match="there is only one prompt of 4 tokens"):
            self.ablate(two_layer, two_layer_pairs.subset([0]), "resample")


@pytest.mark.real_model
@pytest.mark.parametrize("site", ["k", "v"])
def test_keys_and_values_of_shared_heads_have_an_axis_of_their_own(
    stories: Path, site: str
) -> None:
    """Eight query heads share four key/value heads: four columns, none of them padding."""
    model, pairs = story_pairs(stories)
    result = activation_patching.patch(model, pairs, site=site, positions="all")
    assert result.axes == ("layer", "group")
    assert result.effects.shape == (5, 4)
    assert result.grid().columns == ("G0", "G1", "G2", "G3")
    assert "L" in result.label((1, 2)) and "G2" in result.label((1, 2))
    assert result.unit_at((1, 2)) is None
    clean, corrupted = pairs.batch(range(2))
    name = f"blocks.1.attn.hook_{site}"
    _, kept = running.run_and_keep(model, clean, [name])

    def replace(value: torch.Tensor) -> torch.Tensor:
        return torch.cat([value[:, :, :2], kept[name][:, :, 2:3], value[:, :, 3:]], dim=2)

    logits = running.run(model, corrupted, {name: replace})[:, -1]
    right, wrong = (
        torch.tensor([row[0] for row in a]) for a in (pairs.answers, pairs.wrong_answers)
    )
    rows = torch.arange(2)
    expected = logits[rows, right] - logits[rows, wrong]
    np.testing.assert_allclose(result.per_prompt[:, 1, 2], expected.numpy(), atol=EXACT)


def test_more_than_chance_is_asked_of_every_cell_and_corrected_over_all() -> None:
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=16)
    result = activation_patching.patch(model, pairs, site="z")
    # Sixteen sums with the same sign everywhere, against one in 2^16 chances either way.
    changes = result.per_prompt - result.corrupted.reshape(-1, 1, 1, 1)
    theirs = scipy.stats.permutation_test(
        (changes[:, 0, 2, 2],),
        lambda values, axis: values.mean(axis),
        permutation_type="samples",
        n_resamples=9999,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).pvalue
    assert result.adjusted_p[0, 2, 2] >= theirs
    assert result.adjusted_p[0, 2, 2] < 0.01
    # The prefix and the positions that nothing is read from change to no bit.
    assert (result.adjusted_p[0, :2] == 1).all()
    drawn = result.figure(discoveries=0.05).data
    grey = [trace for trace in drawn if isinstance(trace, go.Heatmap)][1]
    hidden = np.isfinite(np.array(grey.z, dtype=float))
    assert np.array_equal(hidden, result.grid().adjusted_p > 0.05)
    assert f"{int((~hidden).sum())} of 12 cells change more than chance" in result.summary()


def test_pairs_of_several_lengths_run_as_groups_and_are_never_padded(
    random_model: TransformerBridge,
) -> None:
    texts = (["ape bee cat", "ape bee cat dog"], ["ape dog cat", "ape elk cat dog"])
    pairs = ContrastPairs.from_text(random_model, *texts, ["bee", "bee"], ["cat", "cat"])
    result = activation_patching.patch(random_model, pairs, positions="all")
    alone = [
        activation_patching.patch(random_model, pairs.subset([i]), positions="all").per_prompt
        for i in range(2)
    ]
    np.testing.assert_allclose(result.per_prompt, np.concatenate(alone), atol=1e-6)
    with pytest.raises(ValueError, match=r"positions do not line up.*4 to 5 tokens"):
        activation_patching.patch(random_model, pairs)


def test_batches_do_not_change_a_result(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    whole = activation_patching.patch(random_model, random_pairs, site="z")
    split = activation_patching.patch(random_model, random_pairs, site="z", batch_size=2)
    np.testing.assert_allclose(whole.per_prompt, split.per_prompt, atol=1e-6)


def test_equal_inputs_and_seed_give_equal_bits() -> None:
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=16)
    first, second = (activation_patching.patch(model, pairs, site="z") for _ in range(2))
    for name in ("effects", "interval", "changes", "change_interval", "per_prompt"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    other = activation_patching.patch(model, pairs, site="z", seed=1)
    assert np.array_equal(first.effects, other.effects)
    assert not np.array_equal(first.interval, other.interval)


def test_two_threads_on_one_model_get_the_serial_results(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    """Hooks are not thread-safe; the model's lock is what keeps two browser tabs apart."""
    asked = [("z", "denoising"), ("mlp_out", "noising"), ("resid_pre", "noising")]
    serial = [
        activation_patching.patch(random_model, random_pairs, site=site, direction=direction)
        for site, direction in asked
    ]
    found: dict[int, list[np.ndarray]] = {i: [] for i in range(len(asked))}

    def work(i: int) -> None:
        site, direction = asked[i]
        for _ in range(3):
            result = activation_patching.patch(
                random_model, random_pairs, site=site, direction=direction
            )
            found[i].append(result.per_prompt)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, expected in enumerate(serial):
        assert len(found[i]) == 3
        for values in found[i]:
            assert np.array_equal(values, expected.per_prompt)


def test_the_model_is_left_as_it_was(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    before = workbench.fingerprint(random_model)
    tokens = random_pairs.batch([0])[0]
    logits = running.run(random_model, tokens)
    activation_patching.patch(random_model, random_pairs, site="z")
    assert workbench.fingerprint(random_model) == before
    assert all(not point.fwd_hooks for point in random_model.hook_dict.values())
    assert torch.equal(running.run(random_model, tokens), logits)


def test_cancelling_leaves_nothing_behind(
    random_model: TransformerBridge, random_pairs: ContrastPairs
) -> None:
    class Stop(Exception):
        pass

    seen: list[float] = []

    def progress(fraction: float, note: str) -> None:
        seen.append(fraction)
        if fraction > 0.3:
            raise Stop

    with pytest.raises(Stop):
        activation_patching.patch(random_model, random_pairs, site="z", progress=progress)
    assert seen == sorted(seen) and seen[0] == 0.0
    assert all(not point.fwd_hooks for point in random_model.hook_dict.values())


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"site": "resid"}, r"unknown site 'resid'; expected one of resid_pre, resid_post"),
            (
                {"metric": "accuracy"},
                r"unknown metric 'accuracy'; expected one of logit_difference",
            ),
            ({"direction": "up"}, r"direction = 'up'; expected one of denoising, noising"),
            ({"positions": "some"}, r"positions = 'some'; expected one of each, all"),
            ({"confidence": 95.0}, r"confidence = 95.0; expected a level between 0 and 1"),
        ],
    )
    def test_unknown_arguments(
        self,
        random_model: TransformerBridge,
        random_pairs: ContrastPairs,
        arguments: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            activation_patching.patch(random_model, random_pairs, **arguments)

    def test_a_metric_that_needs_wrong_answers(self, random_model: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(random_model, ["ape bee"], ["cat bee"], ["dog"])
        with pytest.raises(preflight.PreflightError, match="no wrong answers"):
            activation_patching.patch(random_model, pairs)
        result = activation_patching.patch(random_model, pairs, metric="kl_divergence")
        assert result.clean[0] == pytest.approx(0, abs=1e-6)

    def test_weights_that_are_nan(self) -> None:
        model = unplanted.randomised(seed=3)
        with torch.no_grad():
            next(model.original_model.parameters())[0, 0] = torch.nan
        pairs = ContrastPairs.from_text(model, ["ape bee"], ["cat bee"], ["dog"], ["elk"])
        with pytest.raises(ValueError, match="logits that are NaN or infinite"):
            activation_patching.patch(model, pairs)

    @pytest.mark.parametrize("cell", [(0,), (5, 0), (0, -1)])
    def test_a_cell_that_is_not_there(
        self, random_model: TransformerBridge, random_pairs: ContrastPairs, cell: tuple[int, ...]
    ) -> None:
        result = activation_patching.patch(random_model, random_pairs)
        with pytest.raises(ValueError, match="is not in a grid"):
            activation_patching.inspect_cell(random_model, result, cell)
        with pytest.raises(ValueError, match="prompt 7 is not among the 3 pairs"):
            activation_patching.inspect_cell(random_model, result, (0, 0), prompt=7)


@pytest.fixture(scope="module")
def result(
    two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
) -> activation_patching.PatchingResult:
    return activation_patching.patch(two_layer, two_layer_pairs, site="z")


def trace_of(result: activation_patching.PatchingResult, kind: type[Any]) -> Any:
    return next(trace for trace in result.figure().data if isinstance(trace, kind))


class TestResult:
    def test_round_trip_through_a_folder(
        self, result: activation_patching.PatchingResult, tmp_path: Path
    ) -> None:
        result.save(tmp_path / "run")
        again = activation_patching.PatchingResult.load(tmp_path / "run")
        assert again.provenance == result.provenance
        assert again.pairs == result.pairs
        assert again.preflight == result.preflight
        assert again.axes == ("layer", "position", "head")
        for name in ("effects", "interval", "changes", "per_prompt", "clean", "corrupted"):
            assert np.array_equal(getattr(again, name), getattr(result, name), equal_nan=True)
        assert again.summary() == result.summary()

    def test_the_table_has_a_row_a_cell(self, result: activation_patching.PatchingResult) -> None:
        frame = result.to_frame()
        assert len(frame) == 2 * 4 * 2
        row = frame[(frame["layer"] == 1) & (frame["position"] == 3) & (frame["head"] == 1)].iloc[0]
        assert row["effect"] == pytest.approx(two_steps.INDIRECT, abs=1e-6)
        assert row["change"] == pytest.approx(2 * two_steps.INDIRECT, abs=1e-6)
        assert row["n"] == 3
        assert row["token"] == "dog"

    def test_the_figure_shows_heads_upward_and_positions_to_the_right(
        self, result: activation_patching.PatchingResult
    ) -> None:
        grid = result.grid()
        assert grid.rows == ("L0H0", "L0H1", "L1H0", "L1H1")
        assert grid.values[3, 3] == pytest.approx(two_steps.INDIRECT, abs=1e-6)
        drawn = trace_of(result, go.Heatmap)
        np.testing.assert_allclose(np.array(drawn.z, dtype=float), grid.values)
        for cell in np.ndindex(result.effects.shape):
            assert result.from_grid(*result.to_grid(cell)) == cell
            assert grid.values[result.to_grid(cell)] == result.effects[cell]

    def test_bars_where_only_the_layer_is_left(
        self, two_layer: TransformerBridge, two_layer_pairs: ContrastPairs
    ) -> None:
        result = activation_patching.patch(
            two_layer, two_layer_pairs, site="attn_out", positions="all"
        )
        bar = trace_of(result, go.Bar)
        np.testing.assert_allclose(np.array(bar.y, dtype=float), [1, two_steps.INDIRECT], atol=1e-6)

    def test_the_summary_names_the_strongest_cells_and_n(
        self, result: activation_patching.PatchingResult
    ) -> None:
        text = result.summary()
        assert 'L0H0 at position 3 ("dog") 1.000 [1.000, 1.000]' in text
        assert 'L1H1 at position 3 ("dog") 0.750' in text
        assert "n = 3" in text
        assert "L0H1" not in text

    def test_one_prompt_has_no_interval_and_says_so(self, two_layer: TransformerBridge) -> None:
        pairs = ContrastPairs.from_text(
            two_layer, ["ape bee cat dog"], ["ape cat cat dog"], ["bee"], ["cat"]
        )
        result = activation_patching.patch(two_layer, pairs)
        assert np.isnan(result.interval).all()
        assert result.effects[0, 1] == pytest.approx(1)
        assert "no interval" in result.summary().lower()

    def test_provenance_says_what_made_it(
        self, result: activation_patching.PatchingResult, two_layer: TransformerBridge
    ) -> None:
        made = result.provenance
        assert made.fingerprint == workbench.fingerprint(two_layer)
        assert made.parameters["site"] == "z"
        assert made.dtype == "float32"
        assert made.weight_processing == "none"
        assert made.versions["transformer-lens"].startswith("3.")
        assert made.wall_time > 0


def test_the_script_of_a_result_computes_it_again(tmp_path: Path) -> None:
    """Page and library say the same thing: the code shown on the page is run as it stands."""
    model = workbench.load_model("modadd-113")
    pairs = ContrastPairs.from_task(model, "modular-addition", n=8, seed=3)
    result = activation_patching.patch(model, pairs, site="z", metric="probability", seed=2)
    script = tmp_path / "script.py"
    script.write_text(result.script() + f"result.save({str(tmp_path / 'again')!r})\n")
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=None,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == result.summary()
    again = activation_patching.PatchingResult.load(tmp_path / "again")
    assert np.array_equal(again.per_prompt, result.per_prompt)
    assert again.pairs == result.pairs
