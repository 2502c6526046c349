"""Matrices, embeddings, neurons, waves and comparisons, where the answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import workbench
from analyses import grokking, weights
from analyses.weights import circuits, spectra
from tests import families
from workbench.core import results
from workbench.core.models import anatomy, card
from workbench.core.modular.tasks import Task
from workbench.core.planted import known_units, modular_adder, two_steps, unplanted

FAMILIES = (*families.CONFIGS, families.NATIVE)


@pytest.fixture(scope="module")
def grammar() -> Any:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def modadd() -> Any:
    return workbench.load_model("modadd-113")


class TestMatrices:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_names_and_shapes_are_the_checkpoints(self, family: str) -> None:
        model = families.bridge(family)
        table = weights.matrices(model)
        listed = anatomy.parameters(model).set_index("parameter")["shape"]
        shapes = dict(zip(table.names, table.shapes, strict=True))
        stored = {name for name in shapes if not name.startswith(("head ", "group "))}
        joint = {str(name) for name in listed.index if ".qkv." in str(name)}
        assert stored == {name for name in listed.index if "×" in listed[name]} - joint
        for name in stored:
            assert " × ".join(map(str, shapes[name])) == listed[name]

    def test_norms_and_ranks_are_those_of_numpy(self, grammar: Any) -> None:
        table = weights.matrices(grammar)
        row = table.to_frame().set_index("matrix").loc["layers.2.mlp.fc_in.weight"]
        plain = spectra.stored_matrices(grammar)["layers.2.mlp.fc_in.weight"].double().numpy()
        values = np.linalg.svd(plain, compute_uv=False)
        shares = values / values.sum()
        assert row["frobenius"] == pytest.approx(np.linalg.norm(plain), rel=1e-5)
        assert row["spectral"] == pytest.approx(values[0], rel=1e-5)
        assert row["stable_rank"] == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-4)
        assert row["effective_rank"] == pytest.approx(
            np.exp(-(shares * np.log(shares)).sum()), rel=1e-4
        )
        assert row["condition"] == pytest.approx(values[0] / values[-1], rel=1e-3)

    def test_heads_are_parts_of_the_attention(self, grammar: Any) -> None:
        part = spectra.matrix(grammar, "head 1.2 W_V")
        torch.testing.assert_close(part, grammar.W_V[1, 2].detach())
        assert "group 0.1 W_K" in weights.matrices(families.bridge("llama")).names

    def test_a_large_models_spectra_are_computed_when_asked_for(
        self, grammar: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(spectra, "ALL_UP_TO", 0)
        table = weights.matrices(grammar)
        assert not table.known.any() and (table.outside == -1).all()
        assert (table.frobenius > 0).all()
        assert "spectra of 0 of them" in table.summary()
        assert table.figure().to_dict()["data"][0]["x"].size == 0
        assert weights.matrices(grammar, spectra=True).known.all()

    def test_weights_at_random_lie_inside_what_random_weights_give(self) -> None:
        table = weights.matrices(unplanted.randomised(n_layers=6))
        # 102 matrices, one in twenty of them by chance: 5.1, give or take 2.2.
        assert (table.outside > 0).sum() <= 12
        near = table.effective_rank / table.random_rank
        assert abs(np.median(near) - 1) < 0.05

    def test_one_spectrum_and_its_random_counterpart(self, modadd: Any) -> None:
        found = weights.spectrum(modadd, "tok_embed.weight")
        frame = found.to_frame()
        assert len(frame) == 114
        # A wave is two directions: the embedding holds more than four waves, the map four.
        assert found.found.outside >= 8
        assert found.found.values[0] > found.edge > found.random[0] * 0.95
        assert "singular values lie beyond" in found.summary()

    def test_a_matrix_that_is_not_there(self, modadd: Any) -> None:
        with pytest.raises(ValueError, match="has no matrix 'W_X'; its matrices are 'tok_embed"):
            weights.spectrum(modadd, "W_X")


class TestEmbedding:
    def test_axes_are_those_of_numpy(self, grammar: Any) -> None:
        found = weights.embedding(grammar)
        rows = grammar.W_E.detach().double().numpy()
        values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        np.testing.assert_allclose(found.explained, (values / values.sum())[:100], atol=1e-5)
        np.testing.assert_allclose(found.lengths, np.linalg.norm(rows, axis=1), rtol=1e-5)
        spread = found.places.var(0)
        np.testing.assert_allclose(spread, values[:2] / len(rows), rtol=1e-3)

    def test_gaussian_vectors_have_no_axes_beyond_the_shuffles(self) -> None:
        model = families.build("gpt2")
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            model.W_E.copy_(torch.randn(model.W_E.shape, generator=generator))
        found = weights.embedding(model)
        assert found.beyond <= 1
        assert found.effective_dimension == pytest.approx(found.random_dimension, rel=0.1)

    def test_a_large_vocabulary_is_sampled(self, grammar: Any) -> None:
        found = weights.embedding(grammar, "unembedding", drawn=50)
        assert len(found.ids) == len(set(found.ids.tolist())) == 50
        assert len(found.lengths) == 440
        assert len(found.figure().to_dict()["data"][0]["customdata"]) == 50

    def test_residues_have_those_neighbours_that_their_waves_bring_near(self, modadd: Any) -> None:
        found = weights.neighbours(modadd, "5", k=4)
        rows = modadd.W_E.detach().numpy()
        rows = rows - rows.mean(0)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosines = unit @ unit[5]
        cosines[5] = -np.inf
        assert found.ids.tolist() == np.argsort(-cosines)[:4].tolist()
        np.testing.assert_allclose(found.cosines, np.sort(cosines)[::-1][:4], atol=1e-5)
        assert found.p_value[0] <= 0.005
        # Waves look the same from every residue: the same distances, mostly.
        distances = {abs(int(i) - 5) for i in found.ids}
        other = {abs(int(i) - 50) for i in weights.neighbours(modadd, "50", k=4).ids}
        assert len({min(d, 113 - d) for d in distances} & {min(d, 113 - d) for d in other}) >= 1

    @pytest.mark.parametrize(
        ("call", "said"),
        [
            (lambda model: weights.embedding(model, "W_E"), "use 'embedding' or 'unembedding'"),
            (lambda model: weights.embedding(model, drawn=1), "expected at least 2 tokens"),
            (lambda model: weights.neighbours(model, "apple"), "outside the vocabulary"),
            (lambda model: weights.neighbours(model, 3, k=0), "expected at least 1 neighbour"),
        ],
    )
    def test_bad_input(self, modadd: Any, call: Any, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            call(modadd)


class TestNeuron:
    def test_what_is_wired_is_found(self) -> None:
        model = known_units.detectors()
        found = weights.neuron(model, 0, 0, k=3)
        assert found.of("reads").most_ids[0] == known_units.DOG
        assert found.of("reads").most_values[0] == pytest.approx(1)
        assert found.of("writes").most_ids[0] == known_units.ELK
        assert found.of("writes").most_values[0] == pytest.approx(two_steps.DIRECT)
        assert found.cosine == 0 and found.cosine_p == pytest.approx(1)
        nothing = weights.neuron(model, 0, 3)
        assert nothing.of("writes").p_value == 1

    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_it_writes_moves_the_logits_so(self, family: str) -> None:
        model = families.bridge(family)
        found = weights.neuron(model, 1, 5, k=3)
        of = circuits.Circuits(model)
        logits = of.unembedding() @ of.neurons(1).write[5]
        assert found.of("writes").most_values[0] == pytest.approx(float(logits.max()), rel=1e-5)
        gated = bool(getattr(model.cfg, "gated_mlp", False))
        assert [ends.name for ends in found.ends] == (
            ["reads", "gate reads", "writes"] if gated else ["reads", "writes"]
        )
        assert len(found.gate_cosine) == int(gated)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_it_reads_is_what_the_mlp_gives_without_its_nonlinearity(
        self, family: str
    ) -> None:
        model = families.bridge(family)
        found = weights.neuron(model, 0, 5, k=16)
        block = model.blocks[0]
        norm = getattr(block, "ln2" if hasattr(block, "ln2") else "ln1")
        with torch.no_grad():
            rows = model.W_E
            read = norm(rows[None])[0] - norm(torch.zeros_like(rows)[None])[0]
            inside = read @ block.mlp.W_in[:, 5]
        ends = found.of("reads")
        # As many tokens as there are: all of them, sorted.
        mine = np.array(ends.most_values)[np.argsort(ends.most_ids)]
        np.testing.assert_allclose(mine, inside.numpy(), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ((0, 999), "layer 0 has neurons 0 to 511, not 999"),
            ((3, 0), "the model has layers 0 to 0, not 3"),
        ],
    )
    def test_bad_input(self, modadd: Any, asked: tuple[int, int], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            weights.neuron(modadd, *asked)


class TestFourier:
    def test_the_keys_are_the_cards(self, modadd: Any) -> None:
        found = weights.fourier(modadd)
        (measure,) = [
            m for m in card.model_card("modadd-113").measures if m.name == "key frequencies"
        ]
        assert f"k = {', '.join(map(str, found.keys))}" in measure.note
        assert set(found.beyond("neuron-logit map")) == set(found.keys)
        assert set(found.keys) <= set(found.beyond("embedding"))
        held = sum(found.neurons[key - 1] for key in found.keys)
        assert held == pytest.approx(0.997, abs=5e-4)

    def test_waves_that_are_wired_are_found_also_over_logarithms(self) -> None:
        task = Task(p=13, operation="multiply", fraction=0.5)
        model = modular_adder.adder(task)
        found = weights.fourier(model, task=task)
        assert found.keys == modular_adder.KEYS
        for key in found.keys:
            assert found.embedding[key - 1] == pytest.approx(0.5, abs=1e-5)
        assert set(np.unique(found.neuron_frequency)) == set(found.keys)
        assert found.neuron_share.min() > 0.99

    def test_random_weights_have_no_frequency_beyond_chance(self) -> None:
        hits = [
            bool(weights.fourier(modular_adder.randomised(29, seed=seed)).beyond("embedding"))
            for seed in range(6)
        ]
        assert sum(hits) <= 2

    def test_other_models_have_no_waves(self, grammar: Any, modadd: Any) -> None:
        with pytest.raises(ValueError, match="440 tokens, which is no prime and `=`"):
            weights.fourier(grammar)
        with pytest.raises(ValueError, match="do not apply"):
            weights.fourier(modadd, task=Task(p=113, operation="random"))
        with pytest.raises(ValueError, match="is not known: use embedding"):
            weights.fourier(modadd).beyond("W_E")


class TestCompare:
    def test_a_model_with_itself(self, grammar: Any) -> None:
        found = weights.compare(grammar, grammar)
        assert (found.change == 0).all()
        np.testing.assert_allclose(found.cosine, 1, atol=1e-6)
        np.testing.assert_allclose(found.overlap, 1, atol=1e-4)
        assert (found.overlap_p < 1e-3).all()
        assert "have the same matrices" in found.summary()

    def test_what_was_changed_is_what_moved_most(self, grammar: Any) -> None:
        other = workbench.load_model("grammar-4l")
        with torch.no_grad():
            weight = spectra.stored_matrices(other)["layers.2.attn.q.weight"]
            weight.mul_(1.5)
        found = weights.compare(grammar, other)
        first = found.to_frame().iloc[0]
        assert first["matrix"] == "layers.2.attn.q.weight"
        assert first["change"] == pytest.approx(0.5, rel=1e-4)
        assert first["cosine"] == pytest.approx(1, rel=1e-5)
        assert (np.sort(found.change)[:-1] == 0).all()

    def test_two_models_from_different_seeds_are_unrelated(self) -> None:
        found = weights.compare(unplanted.randomised(seed=1), unplanted.randomised(seed=2), k=3)
        assert (found.cosine_p <= 0.05).sum() == 0
        assert (found.overlap_p <= 0.05).sum() == 0
        wide = found.expected[0] < 1
        assert abs((found.overlap[0] - found.expected[0])[wide].mean()) < 0.1
        np.testing.assert_allclose(np.median(found.change), np.sqrt(2), rtol=0.1)

    def test_checkpoints_of_a_training_come_nearer_to_its_end(self, modadd: Any) -> None:
        run = grokking.bundled_run()
        early, late = (weights.compare(modadd, run.model(run.steps[i])) for i in (2, -3))
        assert np.median(late.change) < 0.1 * np.median(early.change)
        assert np.median(late.overlap) > np.median(early.overlap)

    def test_other_shapes_are_a_sentence(self, grammar: Any, modadd: Any) -> None:
        with pytest.raises(ValueError, match="are built differently"):
            weights.compare(modadd, grammar)
        with pytest.raises(ValueError, match="compare models of the same shapes"):
            weights.compare(modadd, modular_adder.adder(Task(p=13, fraction=0.5)))
        with pytest.raises(ValueError, match="expected at least 1 singular direction"):
            weights.compare(modadd, modadd, k=0)


def test_results_are_saved_and_opened_again(modadd: Any, tmp_path: Path) -> None:
    made = (
        weights.matrices(modadd),
        weights.spectrum(modadd, "head 0.1 W_V"),
        weights.embedding(modadd),
        weights.neighbours(modadd, 3),
        weights.neuron(modadd, 0, 3),
        weights.fourier(modadd),
        weights.compare(modadd, modadd),
    )
    for i, one in enumerate(made):
        again = results.Result.load(one.save(tmp_path / str(i)))
        assert again.summary() == one.summary()
        assert again.to_frame().equals(one.to_frame())
        assert again.figure().to_json() == one.figure().to_json()


def test_coarse_numbers_are_read_in_float32() -> None:
    coarse = families.build("llama", torch.bfloat16)
    fine = families.bridge("llama")
    mine, theirs = (weights.tokens(model, 0, 1).whole[0] for model in (coarse, fine))
    assert np.abs(mine - theirs).max() < 0.05 * np.abs(theirs).max()
