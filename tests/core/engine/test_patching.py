"""Both ways of patching against cells written by hand under TransformerLens hooks."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from tests import families
from workbench import ContrastPairs
from workbench.core.engine import (
    budget,
    cells,
    decoder,
    interventions,
    metrics,
    patching,
    plain,
    recompute,
    running,
    sites,
)
from workbench.core.planted import unplanted, word_level

EXACT = 1e-5
# A name, an index, several indices, and a name whose places differ in the two prompts.
SETS = ("middle", "last token", -2, (1, 3), "moved")
EVERY_FAMILY = (*families.CONFIGS, families.NATIVE)
SITES = tuple(sites.SITES)
NOISING = patching.Intervention(denoising=False)
INTERVENTIONS = {
    "denoising": patching.Intervention(),
    "noising": NOISING,
    "zero": patching.Intervention(denoising=False, ablation="zero"),
    "mean": patching.Intervention(denoising=False, ablation="mean"),
    "resample": patching.Intervention(denoising=False, ablation="resample"),
}


def pairs_for(model: TransformerBridge) -> ContrastPairs:
    """Pairs that agree in their first token, then differ from different positions on."""
    return ContrastPairs.from_text(
        model,
        ["ape bee cat dog elk", "ape cat cat fox ape", "ape cat bee bee dog"],
        ["ape bee dog dog elk", "ape fox cat elk bee", "ape cat bee dog ape"],
        ["bee", "cat", "dog"],
        ["cat", "fox", "elk"],
        spans={
            "middle": [slice(4, 11)] * 3,
            # The last word of the clean prompts stands for the third one of the corrupted ones.
            "moved": [(slice(16, 19), slice(8, 11))] * 3,
        },
    )


def unequal_pairs(model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_text(
        model,
        ["ape bee cat dog", "cat cat fox ape"],
        ["ape fox bee cat dog", "cat elk fox ape"],
        ["bee", "cat"],
        ["cat", "fox"],
        align=True,
    )


def swept(model: TransformerBridge, pairs: ContrastPairs, **options: Any) -> patching.Swept:
    chosen: dict[str, Any] = {
        "metric": "logit_difference",
        "intervention": patching.Intervention(),
        **options,
    }
    return patching.sweep(model, pairs, **chosen)


def by_hand(
    model: TransformerBridge,
    site: str,
    base: torch.Tensor,
    layer: int,
    index: tuple[Any, ...],
    value: torch.Tensor,
) -> torch.Tensor:
    """Logits at the last position with some entries of an activation written over."""
    name = sites.SITES[site].hook_name(layer)
    if site == "pattern" and not hasattr(model.original_model, "config"):
        # This bridge does not use what a hook makes of a pattern: its heads are written instead.
        v_name, z_name = (f"blocks.{layer}.attn.hook_{kind}" for kind in "vz")
        _, kept = running.run_and_keep(model, base, [name, v_name])
        pattern = kept[name].clone()
        pattern[index] = value
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, kept[v_name])
        return running.run(model, base, {z_name: lambda _: z})[:, -1]

    def write(activation: torch.Tensor) -> torch.Tensor:
        written = activation.clone()
        written[index] = value
        return written

    return running.run(model, base, {name: write})[:, -1]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", EVERY_FAMILY)
class TestEverySiteOfEveryFamily:
    """`engine="fast"` fails where a model cannot be taken apart, so these rows prove it."""

    def test_single_cells_are_what_hooks_give(self, family: str, site: str) -> None:
        denoising = site not in ("z", "k", "resid_post")
        model = families.bridge(family)
        pairs = pairs_for(model)
        tokens = pairs.batch(range(3))
        base, source = tokens[::-1] if denoising else tokens
        names = sites.resolve(model, site)[1]
        _, kept = running.run_and_keep(model, source, names)
        grouped = sites.resolve(model, site)[0].axes[-1] == "group"
        # The first and the last part take turns over layers and positions.
        cells_in_all = [
            (layer, position, 0 if grouped or (layer + position) % 2 else 3)
            for layer in range(2)
            for position in range(1, 5)
        ]
        target = metrics.targets(pairs, np.arange(3), running.run(model, tokens[0])[:, -1])
        how = patching.Intervention(denoising)
        fast, slow = (
            swept(model, pairs, site=site, intervention=how, engine=engine)
            for engine in ("fast", "plain")
        )
        for layer, position, part in cells_in_all:
            index: tuple[Any, ...] = (slice(None), position)
            cell: tuple[int, ...] = (layer, position)
            if site == "pattern":
                index = (slice(None), part, position)
            elif sites.SITES[site].part:
                index = (*index, part)
            if sites.SITES[site].part:
                cell = (*cell, part)
            logits = by_hand(model, site, base, layer, index, kept[names[layer]][index])
            expected = metrics.logit_difference(logits, target).numpy()
            for found in (fast, slow):
                np.testing.assert_allclose(found.patched[:, *cell], expected, atol=EXACT, rtol=0)

    def test_position_sets_and_all_positions_both_ways(self, family: str, site: str) -> None:
        # Every family and every site has both, in turns.
        if (EVERY_FAMILY.index(family) + SITES.index(site)) % 2:
            both_ways_agree(family, site, "all", "denoising")
        else:
            both_ways_agree(family, site, SETS, "noising")


@pytest.mark.parametrize("intervention", INTERVENTIONS)
@pytest.mark.parametrize("site", SITES)
def test_every_intervention_both_ways(site: str, intervention: str) -> None:
    # Every site and every intervention has both, in turns.
    if (SITES.index(site) + list(INTERVENTIONS).index(intervention)) % 2:
        both_ways_agree("llama", site, "each", intervention)
    else:
        both_ways_agree(families.NATIVE, site, SETS, intervention)


def both_ways_agree(family: str, site: str, positions: Any, intervention: str) -> None:
    model = families.bridge(family)
    pairs = pairs_for(model)
    options: dict[str, Any] = {
        "site": site,
        "positions": positions,
        "intervention": INTERVENTIONS[intervention],
        "metric": "kl_divergence",
    }
    fast, slow = (swept(model, pairs, **options, engine=e) for e in ("fast", "plain"))
    assert fast.axes == slow.axes and fast.patched.shape == slow.patched.shape
    np.testing.assert_allclose(fast.patched, slow.patched, atol=EXACT, rtol=0)
    assert fast.engine == patching.FAST
    assert slow.engine == "one forward pass a cell: it was asked for"


@pytest.mark.parametrize(
    ("family", "intervention"),
    [
        *itertools.product(["llama"], INTERVENTIONS),
        *itertools.product(["gpt2", families.NATIVE], ["denoising", "zero"]),
    ],
)
def test_one_attention_weight_at_a_time(family: str, intervention: str) -> None:
    model = families.bridge(family)
    pairs = pairs_for(model)
    how = INTERVENTIONS[intervention]
    options = {"site": "pattern", "positions": "pairs", "intervention": how}
    fast, slow = (swept(model, pairs, **options, engine=e) for e in ("fast", "plain"))
    assert fast.axes == ("layer", "query", "key", "head")
    np.testing.assert_allclose(fast.patched, slow.patched, atol=EXACT, rtol=0)
    if intervention == "zero":
        base = pairs.batch(range(3))[0]
        target = metrics.targets(pairs, np.arange(3), running.run(model, base)[:, -1])
        index = (slice(None), 2, 4, 1)
        logits = by_hand(model, "pattern", base, 1, index, torch.zeros(()))
        expected = metrics.logit_difference(logits, target).numpy()
        np.testing.assert_allclose(fast.patched[:, 1, 4, 1, 2], expected, atol=EXACT, rtol=0)


@pytest.mark.parametrize("site", [site for site in sites.SITES if site != "pattern"])
@pytest.mark.parametrize("intervention", ["denoising", "noising", "zero", "resample"])
def test_pairs_of_different_length(site: str, intervention: str) -> None:
    model = families.bridge("llama")
    pairs = unequal_pairs(model)
    how = INTERVENTIONS[intervention]
    if intervention == "resample":
        with pytest.raises(ValueError, match="there is only one prompt of"):
            swept(model, pairs, site=site, intervention=how, positions="all")
        return
    # Every site and every intervention has both, in turns.
    turn = (SITES.index(site) + list(INTERVENTIONS).index(intervention)) % 2
    positions = ("all", ["last token", "first difference", 0])[turn]
    fast, slow = (
        swept(model, pairs, site=site, intervention=how, positions=positions, engine=e)
        for e in ("fast", "plain")
    )
    np.testing.assert_allclose(fast.patched, slow.patched, atol=EXACT, rtol=0)


def test_only_matched_positions_of_unequal_pairs_are_written() -> None:
    model = families.bridge("gpt2")
    pairs = unequal_pairs(model).subset([0])
    assert pairs.columns(0) == ((0, 0), (1, 2), (2, 3), (3, 4))
    clean, corrupted = pairs.batch([0])
    _, kept = running.run_and_keep(model, clean, ["blocks.1.hook_resid_pre"])
    value = kept["blocks.1.hook_resid_pre"]

    def write(activation: torch.Tensor) -> torch.Tensor:
        written = activation.clone()
        written[:, [0, 2, 3, 4]] = value[:, [0, 1, 2, 3]]
        return written

    logits = running.run(model, corrupted, {"blocks.1.hook_resid_pre": write})[:, -1]
    target = metrics.targets(pairs, np.arange(1), running.run(model, clean)[:, -1])
    found = swept(model, pairs, site="resid_pre", positions="all")
    expected = metrics.logit_difference(logits, target).numpy()
    np.testing.assert_allclose(found.patched[:, 1], expected, atol=EXACT, rtol=0)
    assert abs(found.patched[0, 1] - found.corrupted[0]) > 1e-3


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_every_metric_both_ways(metric: str) -> None:
    model = families.bridge("gemma")
    fast, slow = (
        swept(model, pairs_for(model), site="z", metric=metric, engine=e) for e in ("fast", "plain")
    )
    np.testing.assert_allclose(fast.patched, slow.patched, atol=EXACT, rtol=0)
    np.testing.assert_allclose(fast.clean, slow.clean, atol=EXACT, rtol=0)
    np.testing.assert_allclose(fast.corrupted, slow.corrupted, atol=EXACT, rtol=0)


def test_a_users_metric_gets_the_logits_of_the_whole_vocabulary() -> None:
    model = families.bridge("gpt2")
    pairs = pairs_for(model)
    shapes: set[tuple[int, ...]] = set()

    def entropy(logits: torch.Tensor, targets: metrics.Targets) -> torch.Tensor:
        shapes.add(tuple(logits.shape[1:]))
        assert len(targets.answers) == len(logits)
        return -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)

    fast, slow = (
        swept(model, pairs, site="resid_post", metric=entropy, engine=e) for e in ("fast", "plain")
    )
    np.testing.assert_allclose(fast.patched, slow.patched, atol=EXACT, rtol=0)
    logits = running.run(model, pairs.batch(range(3))[0])[:, -1]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    np.testing.assert_allclose(fast.clean, expected.numpy(), atol=EXACT)
    assert shapes == {(16,)}


def test_a_users_metric_of_the_wrong_shape() -> None:
    model = families.bridge("gpt2")
    with pytest.raises(ValueError, match=r"the metric wrong \(\w{8}\) gave \(\) for 3 prompts"):

        def wrong(logits: torch.Tensor, targets: metrics.Targets) -> torch.Tensor:
            return logits.mean()

        swept(model, pairs_for(model), site="resid_pre", metric=wrong)


def test_directions_leave_what_is_orthogonal_to_them() -> None:
    model = families.bridge("pythia")
    pairs = pairs_for(model)
    generator = torch.Generator().manual_seed(1)
    directions = torch.randn(2, families.D_MODEL, generator=generator)
    place = cells.place(model, "resid_post", directions=directions)
    slots, columns = cells.slots(model, place), cells.columns(pairs, "each")
    found = {
        engine: patching.measure(
            model,
            pairs,
            place=place,
            slots=slots,
            columns=columns,
            metric=metrics.find("logit_difference"),
            intervention=NOISING,
            engine=engine,
        )
        for engine in ("fast", "plain")
    }
    np.testing.assert_allclose(found["fast"].patched, found["plain"].patched, atol=EXACT, rtol=0)
    clean, corrupted = pairs.batch(range(3))
    name = "blocks.0.hook_resid_post"
    unit = directions[1] / directions[1].norm()
    _, kept = running.run_and_keep(model, corrupted, [name])

    def write(activation: torch.Tensor) -> torch.Tensor:
        written = activation.clone()
        gap = (kept[name][:, 3] - activation[:, 3]) @ unit
        written[:, 3] += gap[:, None] * unit
        return written

    logits = running.run(model, clean, {name: write})[:, -1]
    target = metrics.targets(pairs, np.arange(3), running.run(model, clean)[:, -1])
    expected = metrics.logit_difference(logits, target).numpy()
    # Slots are (layer, direction), layer by layer.
    np.testing.assert_allclose(found["fast"].patched[:, 1, 3], expected, atol=EXACT, rtol=0)


def test_only_the_cells_that_are_asked_for_are_measured() -> None:
    model = families.bridge("llama")
    whole = swept(model, pairs_for(model), site="k")
    asked = [(0, 2, 1), (1, 4, 0)]
    some = swept(model, pairs_for(model), site="k", only=asked)
    assert np.isfinite(some.patched).sum() == 3 * len(asked)
    for cell in asked:
        np.testing.assert_allclose(some.patched[:, *cell], whole.patched[:, *cell], atol=EXACT)
    assert np.array_equal(some.clean, whole.clean)


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_a_small_budget_splits_the_run_and_changes_nothing(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.bridge("gpt2")
    pairs = pairs_for(model)
    whole = swept(model, pairs, site="z", engine=engine)
    packs: list[int] = []
    ends = recompute.ends

    def counted(parts: Any, base: Any, entries: Any) -> torch.Tensor:
        packs.append(sum(int((5 - entry.starts).sum()) for entry in entries))
        return ends(parts, base, entries)

    monkeypatch.setattr(recompute, "ends", counted)
    small = swept(model, pairs, site="z", engine=engine, memory=0.02)
    np.testing.assert_allclose(small.patched, whole.patched, atol=EXACT, rtol=0)
    most = budget.rows(model.cfg, 0.02)
    assert most < 40
    assert all(rows <= max(most, 5) for rows in packs)
    assert (len(packs) > 10) == (engine == "fast")


def test_a_model_that_cannot_be_taken_apart_runs_the_plain_way_and_says_so() -> None:
    config = transformers.BloomConfig(vocab_size=16, hidden_size=16, n_layer=2, n_head=4)
    network = transformers.BloomForCausalLM(config).eval()
    model = TransformerBridge.boot_transformers(
        "bloom",
        hf_model=network,
        tokenizer=word_level.word_tokenizer(word_level.WORDS, bos=False),
    ).eval()
    model.cfg.default_prepend_bos = False
    pairs = pairs_for(model)
    found = swept(model, pairs, site="resid_pre")
    assert found.engine.startswith("one forward pass a cell: 'bloom' cannot be taken apart: ")
    with pytest.raises(decoder.NotTakenApart):
        swept(model, pairs, site="resid_pre", engine="fast")
    clean, corrupted = pairs.batch(range(3))
    _, kept = running.run_and_keep(model, clean, ["blocks.1.hook_resid_pre"])
    index = (slice(None), 3)
    value = kept["blocks.1.hook_resid_pre"][index]
    logits = by_hand(model, "resid_pre", corrupted, 1, index, value)
    target = metrics.targets(pairs, np.arange(3), running.run(model, clean)[:, -1])
    expected = metrics.logit_difference(logits, target).numpy()
    np.testing.assert_allclose(found.patched[:, 1, 3], expected, atol=EXACT, rtol=0)


def test_somebodys_hook_on_the_model_is_part_of_the_model() -> None:
    model = unplanted.randomised(seed=4)
    pairs = pairs_for(model)
    before = swept(model, pairs, site="resid_pre")
    assert before.engine == patching.FAST

    def scale(value: torch.Tensor, hook: Any = None) -> torch.Tensor:
        return 1.5 * value

    model.add_hook("blocks.0.hook_mlp_out", scale)
    after = swept(model, pairs, site="resid_pre")
    assert "somebody's hooks are on it" in after.engine
    assert np.abs(after.patched - before.patched).max() > 1e-3
    model.reset_hooks()
    again = swept(model, pairs, site="resid_pre")
    assert again.engine == patching.FAST
    assert np.array_equal(again.patched, before.patched)


def test_progress_goes_up_and_cancelling_leaves_no_hook() -> None:
    class Stop(Exception):
        pass

    model = families.bridge("gpt2")
    for engine in ("fast", "plain"):
        seen: list[float] = []
        swept(
            model,
            pairs_for(model),
            site="z",
            engine=engine,
            memory=0.05,
            progress=lambda fraction, _, seen=seen: seen.append(fraction),
        )
        assert seen == sorted(seen) and seen[0] == 0.0 and len(seen) > 5
        assert seen[-1] == pytest.approx(1.0)

        def stop(fraction: float, note: str) -> None:
            if fraction > 0.3:
                raise Stop

        with pytest.raises(Stop):
            swept(model, pairs_for(model), site="z", engine=engine, memory=0.05, progress=stop)
        assert all(not point.fwd_hooks for point in model.hook_dict.values())
        assert running.lock_of(model).acquire(blocking=False)
        running.lock_of(model).release()


def test_threads_take_turns_on_one_model() -> None:
    model = families.bridge("llama")
    pairs = pairs_for(model)
    asked = list(itertools.product(("z", "k", "mlp_out"), ("fast", "plain")))
    serial = [swept(model, pairs, site=site, engine=engine).patched for site, engine in asked]
    found: list[Any] = [None] * len(asked)

    def work(i: int) -> None:
        site, engine = asked[i]
        found[i] = swept(model, pairs, site=site, engine=engine, memory=0.05).patched

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine, expected in zip(found, serial, strict=True):
        np.testing.assert_allclose(mine, expected, atol=EXACT, rtol=0)


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"engine": "quick"}, "engine = 'quick'; expected 'auto', 'fast' or 'plain'"),
            ({"memory": 0.0}, "memory = 0.0; expected a number of megabytes above 0"),
            ({"layers": [2]}, r"layers = \[2\]; expected some of 0 to 1"),
            ({"layers": []}, r"layers = \[\]; expected some of 0 to 1"),
            ({"positions": "first"}, "positions = 'first'; expected 'each', 'all'"),
            ({"positions": []}, r"positions = \[\]; expected 'each'"),
            ({"positions": ["the verb"]}, "no position set is called 'the verb'"),
            (
                {"positions": [7]},
                "position 7 is not in every prompt; expected indices from -5 to 4",
            ),
            ({"positions": [()]}, r"position \(\) is not in every prompt"),
            ({"positions": "pairs"}, "is for patterns, and not for resid_pre"),
            ({"metric": "loss"}, "unknown metric 'loss'"),
        ],
    )
    def test_a_sentence_says_what_would_be_right(
        self, options: dict[str, Any], message: str
    ) -> None:
        model = families.bridge("gpt2")
        with pytest.raises(ValueError, match=message):
            swept(model, pairs_for(model), **{"site": "resid_pre", **options})

    def test_patterns_of_prompts_of_different_length(self) -> None:
        model = families.bridge("llama")
        with pytest.raises(ValueError, match="have different keys"):
            swept(model, unequal_pairs(model), site="pattern", positions="all")

    def test_patterns_have_no_mean_over_texts(self) -> None:
        model = families.bridge("llama")
        how = patching.Intervention(denoising=False, ablation="mean", reference=("ape bee",))
        with pytest.raises(ValueError, match="leave out the reference texts"):
            swept(model, pairs_for(model), site="pattern", intervention=how)

    def test_a_mean_of_unequal_pairs_needs_texts(self) -> None:
        model = families.bridge("llama")
        pairs = unequal_pairs(model)
        how = patching.Intervention(denoising=False, ablation="mean")
        with pytest.raises(ValueError, match="give reference texts to average over"):
            swept(model, pairs, site="z", intervention=how, positions="all")
        texts = interventions.Intervention(
            denoising=False, ablation="mean", reference=("ape bee cat",)
        )
        fast, slow = (
            swept(model, pairs, site="z", intervention=texts, positions="all", engine=e)
            for e in ("fast", "plain")
        )
        np.testing.assert_allclose(fast.patched, slow.patched, atol=EXACT, rtol=0)

    def test_directions_of_heads_and_of_another_width(self) -> None:
        model = families.bridge("gpt2")
        with pytest.raises(ValueError, match="z is no single vector at each position"):
            cells.place(model, "z", directions=torch.eye(4))
        with pytest.raises(ValueError, match=r"have shape \(4, 4\); resid_pre of 'gpt2' needs"):
            cells.place(model, "resid_pre", directions=torch.eye(4))
        with pytest.raises(ValueError, match="a direction of length zero"):
            cells.place(model, "resid_pre", directions=torch.zeros(1, families.D_MODEL))


def test_a_pattern_that_is_only_shown_is_found_out() -> None:
    """The trap itself: a native bridge ignores what a hook makes of its pattern."""
    for family, expected in ((families.NATIVE, True), ("gpt2", False), ("llama", False)):
        model = families.bridge(family)
        place = cells.place(model, "pattern")
        runner = plain.Runner(
            model, pairs_for(model), place, [0, 1], metrics.find("logit_difference")
        )
        assert runner.is_shown_only == expected
