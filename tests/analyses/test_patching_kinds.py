"""Kinds of patches beyond layers and heads: units, directions, position sets, unequal pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from sae_lens.saes.sae import SAEMetadata
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses import activation_patching
from tests import families
from workbench import ContrastPairs
from workbench.core.engine import metrics, patching, running
from workbench.core.planted import two_steps, unplanted, word_level

EXACT = 1e-5
LAST = 4


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return unplanted.randomised()


@pytest.fixture(scope="module")
def pairs(model: TransformerBridge) -> ContrastPairs:
    return ContrastPairs.from_text(
        model,
        ["ape bee cat dog", "elk bee fox dog", "cat cat bee ape"],
        ["ape cat cat dog", "elk fox fox dog", "cat dog dog ape"],
        ["bee", "bee", "cat"],
        ["cat", "fox", "dog"],
        spans={"second word": [slice(4, 7)] * 3, "the pair": [slice(4, 11)] * 3},
    )


@pytest.fixture(scope="module")
def dictionary() -> Any:
    """An untrained sparse autoencoder of sae-lens, every parameter random."""
    config = sae_lens.StandardSAEConfig(
        d_in=16, d_sae=24, metadata=SAEMetadata(hook_name="blocks.1.hook_resid_pre")
    )
    made = sae_lens.StandardSAE(config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def measured(
    model: TransformerBridge,
    pairs: ContrastPairs,
    name: str,
    write: Any,
    denoising: bool = True,
) -> np.ndarray:
    """Logit difference with an activation edited by `write(activation, source)`."""
    clean, corrupted = pairs.batch(range(len(pairs)))
    base, other = (corrupted, clean) if denoising else (clean, corrupted)
    _, kept = running.run_and_keep(model, other, [name])
    target = metrics.targets(pairs, np.arange(len(pairs)), running.run(model, clean)[:, -1])
    logits = running.run(model, base, {name: lambda value: write(value.clone(), kept[name])})
    return metrics.logit_difference(logits[:, -1], target).numpy()


class TestNeurons:
    def test_named_neurons_are_patched_one_by_one(
        self, model: TransformerBridge, pairs: ContrastPairs
    ) -> None:
        units = [(1, 7), (0, 3)]
        result = activation_patching.patch(model, pairs, site="neuron", units=units)
        assert result.axes == ("position", "neuron")
        assert result.units == tuple(units)

        def write(value: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            value[:, LAST, 7] = source[:, LAST, 7]
            return value

        expected = measured(model, pairs, "blocks.1.mlp.hook_post", write)
        np.testing.assert_allclose(result.per_prompt[:, LAST, 0], expected, atol=EXACT)
        assert np.abs(result.changes[LAST, 0]) > 1e-4
        assert result.label((LAST, 0)).startswith("L1N7 at position 4")
        assert result.grid().rows == ("L1N7", "L0N3")

    def test_those_of_largest_effect_are_chosen(
        self, model: TransformerBridge, pairs: ContrastPairs
    ) -> None:
        """At the last layer the estimate is right up to the last norm's bend."""
        everything = activation_patching.patch(
            model, pairs, site="neuron", units=[(1, i) for i in range(32)], positions="all"
        )
        some = activation_patching.patch(
            model, pairs, site="neuron", layers=[1], top=4, positions="all"
        )
        assert len(some.units) == 4 and all(layer == 1 for layer, _ in some.units)
        best = np.argsort(-np.abs(everything.shown))[:8]
        assert {unit for _, unit in some.units} <= {int(i) for i in best}
        for i, (_, unit) in enumerate(some.units):
            np.testing.assert_allclose(
                some.per_prompt[:, i], everything.per_prompt[:, unit], atol=EXACT
            )
        assert some.provenance.parameters["top"] == 4

    def test_a_planted_neuron_is_the_one_that_is_chosen(self) -> None:
        """The hand-wired model with one neuron that reads what layer 0 wrote."""
        model = two_steps.two_layer()
        named = model.original_model.named_parameters()
        plain = {name.replace("._original_component", ""): p for name, p in named}
        words = len(word_level.WORDS)
        with torch.no_grad():
            # It is on where the copied token is "bee", and writes for "bee".
            plain["layers.1.mlp.fc_in.weight"][2, words + 1] = 1.0
            plain["layers.1.mlp.fc_out.weight"][2 * words + 1, 2] = 4.0
        pairs = ContrastPairs.from_text(
            model, ["ape bee cat dog"] * 2, ["ape cat cat dog"] * 2, ["bee"] * 2, ["cat"] * 2
        )
        result = activation_patching.patch(model, pairs, site="neuron", top=1, positions="all")
        assert result.units == ((1, 2),)
        # Logit difference: clean 1 + .75 · 4, corrupted −1; the neuron carries .75 · 4.
        np.testing.assert_allclose(result.clean, 4.0, atol=1e-6)
        np.testing.assert_allclose(result.effects, [3.0 / 5.0], atol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"site": "z", "top": 3}, "units and top choose neurons or latents; z has neither"),
            ({"site": "neuron", "top": 0}, "top = 0; expected at least 1"),
            ({"site": "neuron", "units": []}, "units is empty"),
            ({"site": "neuron", "units": [(0, 99)]}, "layer 0 has no neuron 99; expected 0 to 31"),
            ({"site": "neuron", "layers": [5]}, r"layers = \[5\]; expected some of 0 to 1"),
            ({"site": "neuron", "metric": "rank"}, "a rank has no gradient to choose units by"),
            ({"site": "latent"}, "site='latent' and dictionary= .* belong together"),
            (
                {"site": "neuron", "directions": torch.eye(16)},
                "single neurons and latents have no other directions",
            ),
            ({"site": "resid_pre", "positions": "pairs"}, "use site='pattern' with it"),
        ],
    )
    def test_bad_input(
        self,
        model: TransformerBridge,
        pairs: ContrastPairs,
        arguments: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            activation_patching.patch(model, pairs, **arguments)


class TestLatents:
    def test_one_latent_is_moved_and_the_error_kept(
        self, model: TransformerBridge, pairs: ContrastPairs, dictionary: Any
    ) -> None:
        result = activation_patching.patch(
            model, pairs, site="latent", dictionary=dictionary, units=[5, 11]
        )
        assert result.axes == ("position", "latent")
        assert result.units == ((1, 5), (1, 11))

        def write(value: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            here, there = (dictionary.encode(x[:, 2]) for x in (value, source))
            error = value[:, 2] - dictionary.decode(here)
            here[:, 11] = there[:, 11]
            value[:, 2] = dictionary.decode(here) + error
            return value

        with torch.no_grad():
            expected = measured(model, pairs, "blocks.1.hook_resid_pre", write)
        np.testing.assert_allclose(result.per_prompt[:, 2, 1], expected, atol=EXACT)
        assert np.abs(result.changes).max() > 1e-4
        assert result.grid().rows == ("L1F5", "L1F11")

    def test_both_ways_agree_and_an_ablation_takes_a_latent_to_zero(
        self, model: TransformerBridge, pairs: ContrastPairs, dictionary: Any
    ) -> None:
        options: dict[str, Any] = {
            "site": "latent",
            "dictionary": dictionary,
            "units": [5],
            "direction": "noising",
            "ablation": "zero",
        }
        fast, plain = (
            activation_patching.patch(model, pairs, **options, engine=e) for e in ("fast", "plain")
        )
        np.testing.assert_allclose(fast.per_prompt, plain.per_prompt, atol=EXACT)

        def write(value: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            value[:, LAST] -= dictionary.encode(value[:, LAST])[:, 5:6] * dictionary.W_dec[5]
            return value

        with torch.no_grad():
            expected = measured(model, pairs, "blocks.1.hook_resid_pre", write, denoising=False)
        np.testing.assert_allclose(fast.per_prompt[:, LAST, 0], expected, atol=EXACT)

    def test_the_strongest_latents_are_chosen_and_a_cell_can_be_inspected(
        self, model: TransformerBridge, pairs: ContrastPairs, dictionary: Any
    ) -> None:
        result = activation_patching.patch(
            model, pairs, site="latent", dictionary=dictionary, top=6
        )
        every = activation_patching.patch(
            model, pairs, site="latent", dictionary=dictionary, units=range(24)
        )
        strongest = {latent for _, latent in (every.units[c[1]] for c in every.strongest(2))}
        assert strongest <= {latent for _, latent in result.units}
        seen = activation_patching.inspect_cell(model, result, (2, 0), dictionary=dictionary)
        assert seen.label.startswith(f"L1F{result.units[0][1]} at position 2")
        with pytest.raises(ValueError, match="give that dictionary as dictionary="):
            activation_patching.inspect_cell(model, result, (2, 0))
        assert "# dictionary: " in result.script() and "dictionary=dictionary" in result.script()

    def test_a_dictionary_that_does_not_say_where_it_reads(
        self, model: TransformerBridge, pairs: ContrastPairs
    ) -> None:
        @dataclasses.dataclass
        class Own:
            W_dec: torch.Tensor

            def encode(self, x: torch.Tensor) -> torch.Tensor:
                return (x @ self.W_dec.T).relu()

        own = Own(torch.eye(16))
        with pytest.raises(ValueError, match="does not say at which hook point it reads"):
            activation_patching.patch(model, pairs, site="latent", dictionary=own, units=[0])
        result = activation_patching.patch(
            model, pairs, site="latent", dictionary=own, units=[0], at="blocks.0.hook_mlp_out"
        )
        assert result.units == ((0, 0),)
        with pytest.raises(ValueError, match="no site is at hook point 'blocks.0.hook_resid_mid'"):
            activation_patching.patch(
                model, pairs, site="latent", dictionary=own, at="blocks.0.hook_resid_mid"
            )
        with pytest.raises(ValueError, match=r"layer 0 has no latent 99; expected 0 to 15"):
            activation_patching.patch(
                model, pairs, site="latent", dictionary=own, units=[99], at="blocks.0.hook_mlp_out"
            )


class TestDirections:
    def test_the_whole_space_is_the_sum_of_what_directions_carry_where_it_is_linear(self) -> None:
        model = two_steps.two_layer()
        pairs = ContrastPairs.from_text(
            model, ["ape bee cat dog"] * 2, ["ape cat cat dog"] * 2, ["bee"] * 2, ["cat"] * 2
        )
        words = len(word_level.WORDS)
        width = int(model.cfg.d_model)
        # What the second layer's head writes: the directions of "bee", of "cat", and another one.
        directions = torch.zeros(3, width)
        for i, place in enumerate((2 * words + 1, 2 * words + 2, 0)):
            directions[i, place] = 5.0
        result = activation_patching.patch(
            model, pairs, site="attn_out", directions=directions, positions="all"
        )
        assert result.axes == ("layer", "direction")
        half = two_steps.INDIRECT / 2
        np.testing.assert_allclose(result.effects, [[0, 0, 0], [half, half, 0]], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(result.directions, axis=1), 1.0)
        assert "3 directions of the output of each attention layer" in result.summary()
        assert result.label((1, 2)) == "L1D2"

    def test_the_script_carries_them(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        directions = torch.eye(16)[:2]
        result = activation_patching.patch(model, pairs, site="resid_post", directions=directions)
        assert "directions=directions" in result.script()
        assert "torch.tensor([[1.0, 0.0" in result.script()


class TestPositionSets:
    def test_names_and_indices(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        by_token = activation_patching.patch(model, pairs, site="resid_pre")
        result = activation_patching.patch(
            model, pairs, site="resid_pre", positions=["second word", "last token", 2, -1]
        )
        assert result.columns == ("second word", "last token", "2", "-1")
        assert result.axes == ("layer", "position")
        for column, position in enumerate((2, LAST, 2, LAST)):
            np.testing.assert_allclose(
                result.per_prompt[:, :, column], by_token.per_prompt[:, :, position], atol=EXACT
            )
        assert result.label((1, 0)) == "L1 at second word"
        assert result.grid().columns == ("second word", "last token", "2", "-1")
        frame = result.to_frame()
        assert frame["token"].tolist()[:4] == list(result.columns)

    def test_a_set_is_patched_at_once(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        result = activation_patching.patch(model, pairs, site="mlp_out", positions=["the pair"])

        def write(value: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            value[:, 2:4] = source[:, 2:4]
            return value

        expected = measured(model, pairs, "blocks.0.hook_mlp_out", write)
        np.testing.assert_allclose(result.per_prompt[:, 0, 0], expected, atol=EXACT)

    def test_a_saved_result_is_whole_and_its_script_asks_the_same(
        self, model: TransformerBridge, pairs: ContrastPairs, tmp_path: Path
    ) -> None:
        result = activation_patching.patch(
            model, pairs, site="z", positions=["second word", (1, 2)]
        )
        result.save(tmp_path / "run")
        again = activation_patching.PatchingResult.load(tmp_path / "run")
        assert again.columns == result.columns and again.layers == (0, 1)
        assert again.columns_of() == result.columns_of()
        assert np.array_equal(again.per_prompt, result.per_prompt)
        assert "positions=['second word', (1, 2)]" in result.script()
        first, second = (
            activation_patching.inspect_cell(model, r, (1, 0, 2)).after for r in (result, again)
        )
        assert np.array_equal(first, second)

    def test_a_named_task_on_a_bundled_model(self) -> None:
        grammar = workbench.load_model("grammar-4l")
        asked = ContrastPairs.from_task(grammar, "agreement", n=8)
        result = activation_patching.patch(
            grammar, asked, positions=["the subject", "nearer noun", "last token"]
        )
        assert result.normalised
        # The number is with the subject before layer 0, and at the end after the layers.
        np.testing.assert_allclose(result.effects[0], [1.0, 0.0, 0.0], atol=1e-5)
        assert result.effects[-1, 2] > 0.5 > result.effects[-1, 0]


class TestPatterns:
    def test_axes_and_labels(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        result = activation_patching.patch(model, pairs, site="pattern", positions="pairs")
        assert result.axes == ("layer", "query", "key", "head")
        grid = result.grid()
        assert grid.values.shape == (2 * 4 * 5, 5)
        for cell in [(0, 0, 0, 0), (1, 4, 2, 3), (0, 3, 1, 2)]:
            assert result.from_grid(*result.to_grid(cell)) == cell
            assert grid.values[result.to_grid(cell)] == result.shown[cell]
        assert result.label((1, 4, 2, 3)).startswith('L1H3 from position 4 ("')
        # Nobody looks ahead, in either run.
        for query in range(5):
            assert not result.changes[:, query, query + 1 :].any()

    def test_queries_alone(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        result = activation_patching.patch(model, pairs, site="pattern")
        assert result.axes == ("layer", "query", "head")
        assert result.label((0, 3, 1)).startswith("L0H1 from position 3")
        assert result.grid().rows[5] == "L1H1" and len(result.grid().columns) == 5


class TestUnequalPairs:
    def test_matched_positions_are_patched_and_the_rest_stays(self) -> None:
        model = families.bridge("llama")
        pairs = ContrastPairs.from_text(
            model,
            ["ape bee cat dog", "ape cat cat dog"],
            ["ape fox bee cat dog", "ape fox cat cat dog"],
            ["bee", "cat"],
            ["cat", "bee"],
            align=True,
        )
        result = activation_patching.patch(model, pairs, metric="kl_divergence")
        assert result.effects.shape == (2, 4)
        assert len(result.columns) == 4
        seen = activation_patching.inspect_cell(model, result, (1, 3))
        assert seen.prompt == "ape fox bee cat dog"
        assert "of different length, aligned" in result.preflight.checks[0].detail


def test_a_users_metric_is_kept_by_name_and_mark(
    model: TransformerBridge, pairs: ContrastPairs
) -> None:
    def margin(logits: torch.Tensor, targets: metrics.Targets) -> torch.Tensor:
        best = logits.topk(2, dim=-1).values
        return best[:, 0] - best[:, 1]

    result = activation_patching.patch(model, pairs, metric=margin, site="mlp_out")
    assert result.metric.startswith("margin (")
    assert "own unit" in result.summary()
    assert "metric=metric" in result.script() and "# metric: your function" in result.script()
    logits = running.run(model, pairs.batch(range(3))[0])[:, -1]
    best = logits.topk(2, dim=-1).values
    np.testing.assert_allclose(result.clean, (best[:, 0] - best[:, 1]).numpy(), atol=EXACT)


def test_the_result_says_how_it_was_computed(
    model: TransformerBridge, pairs: ContrastPairs
) -> None:
    assert activation_patching.patch(model, pairs).provenance.notes == (patching.FAST,)
    plain = activation_patching.patch(model, pairs, engine="plain")
    assert plain.provenance.notes == ("one forward pass a cell: it was asked for",)


class TestComparison:
    def test_a_backup_is_flagged(self) -> None:
        """Two paths carry the token; each suffices for a part, and neither hides the other."""
        model = two_steps.two_layer()
        pairs = two_steps.pairs(model)
        found = activation_patching.compare(model, pairs, site="z", top=3)
        assert found.interventions == ("denoising", "noising", "zero", "mean", "resample")
        assert found.cells[:2] == ("L0H0", "L1H1")
        table = found.to_frame().set_index("cell")
        # Everything goes through layer 0; zero leaves nothing, which is half way to the corrupted.
        assert table.loc["L0H0", "denoising"] == pytest.approx(1.0, abs=1e-6)
        assert table.loc["L0H0", "noising"] == pytest.approx(1.0, abs=1e-6)
        assert table.loc["L0H0", "zero"] == pytest.approx(0.5, abs=1e-6)
        assert "every ablation destroys less" in table.loc["L0H0", "disagreement"]
        assert found.flagged[0] == "L0H0"
        assert "L0H0 (denoising 1.00, noising 1.00, zero 0.50" in found.summary()
        # A head that does nothing agrees with itself.
        assert found.reasons[2] == "" and not found.effects[2].any()

    def test_every_column_is_what_patch_gives(
        self, model: TransformerBridge, pairs: ContrastPairs
    ) -> None:
        found = activation_patching.compare(model, pairs, site="z", top=4, n_resamples=200)
        names = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
        for i, (name, how) in enumerate(activation_patching.INTERVENTIONS.items()):
            assert found.interventions[i] == name
            result = activation_patching.patch(
                model, pairs, site="z", positions="all", n_resamples=200, **how
            )
            bounds = result.interval if result.normalised else result.change_interval
            for row, cell in enumerate(found.cells):
                at = divmod(names.index(cell), 4)
                assert found.effects[row, i] == result.shown[at]
                assert np.array_equal(found.interval[:, row, i], bounds[:, *at])

    def test_redundant_heads_suffice_and_are_not_needed(self) -> None:
        """A saturating readout of two heads that both copy the token: either one is enough."""
        model = two_steps.two_layer()
        named = model.original_model.named_parameters()
        plain = {name.replace("._original_component", ""): p for name, p in named}
        words = len(word_level.WORDS)
        place = slice(3 * words, int(model.cfg.d_model))
        token, a, b = (slice(i * words, (i + 1) * words) for i in range(3))
        with torch.no_grad():
            # Both heads of layer 0 copy the token to A; the MLP asks whether any of them did.
            two_steps.wire(plain, layer=0, head=1, reads=token, writes=a, place=place, source=1)
            plain["head.weight"].zero_()
            plain["layers.1.attn.o.weight"].zero_()
            # min(x, 1) as relu(x) − relu(x − 1).
            plain["layers.0.mlp.fc_in.weight"][0, a.start + 1] = 1.0
            plain["layers.0.mlp.fc_in.weight"][1, a.start + 1] = 1.0
            plain["layers.0.mlp.fc_in.bias"][1] = -1.0
            plain["layers.0.mlp.fc_out.weight"][b.start + 1, 0] = 1.0
            plain["layers.0.mlp.fc_out.weight"][b.start + 1, 1] = -1.0
            plain["head.weight"][1, b.start + 1] = 1.0
        pairs = ContrastPairs.from_text(
            model, ["ape bee cat dog"] * 4, ["ape cat cat dog"] * 4, ["bee"] * 4, ["cat"] * 4
        )
        found = activation_patching.compare(model, pairs, site="z", top=2)
        assert set(found.cells) == {"L0H0", "L0H1"}
        np.testing.assert_allclose(found.effects[:, 0], 1.0, atol=1e-5)
        np.testing.assert_allclose(found.effects[:, 1], 0.0, atol=1e-5)
        assert all("redundancy or a backup" in reason for reason in found.reasons)

    def test_what_cannot_be_made_is_left_out_with_its_reason(self) -> None:
        model = two_steps.two_layer()
        pairs = ContrastPairs.from_text(
            model, ["ape bee cat dog"], ["ape cat cat dog"], ["bee"], ["cat"]
        )
        found = activation_patching.compare(model, pairs, site="z")
        assert "resample" not in found.interventions
        assert "Without resample: a resample ablation takes another" in found.summary()

    def test_it_can_be_saved_drawn_and_made_like_a_result(
        self, model: TransformerBridge, pairs: ContrastPairs, tmp_path: Path
    ) -> None:
        result = activation_patching.patch(model, pairs, site="attn_out", n_resamples=200)
        found = activation_patching.compare_like(model, result)
        assert found.provenance.parameters["site"] == "attn_out"
        found.save(tmp_path / "c")
        again = activation_patching.Comparison.load(tmp_path / "c")
        assert again.reasons == found.reasons
        assert np.array_equal(again.effects, found.effects)
        heat: Any = found.figure().data[0]
        assert np.array_equal(np.asarray(heat.z), found.effects[::-1])

    def test_units_are_not_compared(self, model: TransformerBridge, pairs: ContrastPairs) -> None:
        with pytest.raises(ValueError, match="each intervention would choose other units"):
            activation_patching.compare(model, pairs, site="neuron")
