"""One unit from all sides: planted triggers and outputs, independent recomputation, wrong input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import (
    TopExamples,
    UnitView,
    output_tokens,
    token_triggers,
    top_examples,
    view_unit,
)
from analyses.feature_visualization.output_tokens import written
from workbench.core import results
from workbench.core.engine import units
from workbench.core.planted import known_units, two_steps
from workbench.core.prompts.corpus import Corpus


@pytest.fixture(scope="module")
def documents(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=500)


@pytest.fixture(scope="module")
def scanned(grammar: TransformerBridge, documents: Corpus) -> TopExamples:
    return top_examples(grammar, documents, ["neuron", "head"], k=12, sample=400)


@pytest.fixture(scope="module")
def view(grammar: TransformerBridge, documents: Corpus, scanned: TopExamples) -> UnitView:
    return view_unit(grammar, documents, scanned, "neuron 0.31")


class TestExamples:
    def test_every_activation_is_the_models_own(
        self, grammar: TransformerBridge, documents: Corpus, view: UnitView
    ) -> None:
        assert {one.kind for one in view.examples} == {"largest", "smallest", "quantile"}
        for one in view.examples[::6]:
            row = torch.as_tensor(documents.row(one.row))[None].long()
            _, cache = grammar.run_with_cache(row, names_filter="blocks.0.mlp.hook_post")
            seen = cache["blocks.0.mlp.hook_post"][0, :, 31].detach().numpy()
            shown = seen[one.first : one.first + len(one.tokens)]
            np.testing.assert_allclose(one.activations, shown, atol=1e-5)
            assert one.activation == pytest.approx(seen[one.position], abs=1e-5)
            ids = row[0, one.first : one.first + len(one.tokens)].tolist()
            assert list(one.tokens) == [grammar.tokenizer.decode([i]) for i in ids]

    def test_they_reach_over_the_whole_range(self, view: UnitView) -> None:
        values = [one.activation for one in view.examples if one.kind == "quantile"]
        assert values == sorted(values)
        assert (values[0], values[-1]) == (view.sample[0], view.sample[-1])
        largest = [one.activation for one in view.examples if one.kind == "largest"]
        assert min(largest) >= np.quantile(view.sample, 0.95)

    def test_a_full_stop_neuron_is_named_by_its_token(self, view: UnitView) -> None:
        assert view.triggers[0].text == (".",)
        assert view.triggers[0].count == view.triggers[0].places == 12
        assert view.triggers[0].p_value < 1e-9
        assert "At its largest activations: '.' (12 of 12" in view.summary()

    def test_a_head_has_examples_and_no_output_tokens(
        self, grammar: TransformerBridge, documents: Corpus, scanned: TopExamples
    ) -> None:
        found = view_unit(grammar, documents, scanned, "head 1.2")
        assert len(found.examples) == 12 + 12 + 13
        assert (found.promoted, found.suppressed) == ((), ())
        assert np.isnan(found.output_p_value)
        assert "promotes" not in found.summary()

    def test_directions_are_looked_at_with_what_they_were_scanned_with(
        self, grammar: TransformerBridge, documents: Corpus
    ) -> None:
        few = documents.take(range(60))
        given = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
        found = top_examples(grammar, few, "resid_post", layers=[1], k=3, directions=given)
        seen = view_unit(grammar, few, found, "direction 1.1", directions=given)
        assert seen.examples[0].activation == pytest.approx(float(found.top_values[1, 0]))
        with pytest.raises(ValueError, match="give these here, too"):
            view_unit(grammar, few, found, "direction 1.1")

    def test_it_comes_back_from_disk(self, view: UnitView, tmp_path: Path) -> None:
        view.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, UnitView)
        assert back.examples == view.examples
        assert back.summary() == view.summary()
        assert back.to_frame().equals(view.to_frame())

    def test_its_figure_shows_the_distribution_and_every_example(self, view: UnitView) -> None:
        figure: Any = view.figure()
        assert np.array_equal(figure.data[0].x, view.sample)
        assert sum(len(trace.x) for trace in figure.data[1:]) == len(view.examples)


class TestTriggers:
    def test_counts_and_chance_are_those_of_a_hypergeometric_draw(
        self, grammar: TransformerBridge, documents: Corpus
    ) -> None:
        rng = np.random.default_rng(0)
        rows = rng.integers(0, len(documents), 40)
        positions = np.array([1 + rng.integers(0, documents.lengths[row] - 1) for row in rows])
        flat = np.concatenate([documents.row(i)[1:] for i in range(len(documents))])
        inside = [documents.row(i).tolist() for i in range(len(documents))]
        pairs = [pair for row in inside for pair in zip(row[:-1], row[1:], strict=True)]
        for length in (1, 2):
            for one in token_triggers(documents, rows, positions, length=length)[:8]:
                if length == 1:
                    whole, total = int((flat == one.tokens[0]).sum()), len(flat)
                else:
                    whole, total = sum(pair == one.tokens for pair in pairs), len(pairs)
                assert one.share == pytest.approx(whole / total)
                chance = scipy.stats.hypergeom.sf(one.count - 1, total, whole, one.places)
                assert one.p_value >= chance * (1 - 1e-9)
                assert one.lift == pytest.approx(one.count / one.places / one.share)

    def test_random_places_have_no_sure_trigger(self, documents: Corpus) -> None:
        rng = np.random.default_rng(1)
        sure = 0
        for _ in range(40):
            rows, positions = documents.locate(rng.choice(documents.n_tokens, 20, replace=False))
            at = positions > 0
            found = token_triggers(documents, rows[at], positions[at])
            sure += any(one.p_value < 0.05 for one in found)
        # Two of 40 are expected at the most; six would be an accident of one in seventy.
        assert sure < 6

    def test_no_places_and_a_wrong_length(self, documents: Corpus) -> None:
        none = np.array([-1])
        assert token_triggers(documents, none, none) == ()
        with pytest.raises(ValueError, match="one or two tokens long, not 3"):
            token_triggers(documents, none, none, length=3)


class TestOutputs:
    def test_a_planted_output_is_found_and_is_beyond_chance(self) -> None:
        model = known_units.detectors()
        family, _ = units.family_of(model, "neuron 0.0")
        found = output_tokens(model, family, 0, top=2)
        assert found.promoted[0] == (known_units.ELK, two_steps.DIRECT)
        assert [logit for _, logit in found.promoted[1:]] == [0]
        # It writes nothing that any other token reads, but random vectors write to both halves.
        assert found.suppressed[0][1] == 0
        assert 0 < found.p_value <= 1
        # A neuron that writes nothing is not beyond anything.
        assert output_tokens(model, family, 1).p_value == 1

    def test_a_real_neuron_moves_the_logits_as_listed(self, grammar: TransformerBridge) -> None:
        family, _ = units.family_of(grammar, "neuron 3.7")
        found = output_tokens(grammar, family, 7, top=3)
        norm = grammar.ln_final.original_component
        vector = grammar.blocks[3].mlp.W_out[7].detach()
        centred = (vector - vector.mean()) * norm.weight.detach()
        logits = centred @ grammar.W_U.detach()
        for token, logit in (*found.promoted, *found.suppressed):
            assert logit == pytest.approx(float(logits[token]), abs=1e-5)
        assert found.promoted[0][0] == int(logits.argmax())
        assert found.suppressed[0][0] == int(logits.argmin())

    def test_a_head_has_none(self, grammar: TransformerBridge) -> None:
        family, _ = units.family_of(grammar, "head 0.1")
        with pytest.raises(ValueError, match="each token that it attends to"):
            output_tokens(grammar, family, 1)


class TestWrongInput:
    def test_another_corpus_model_or_unit(
        self, grammar: TransformerBridge, documents: Corpus, scanned: TopExamples
    ) -> None:
        with pytest.raises(ValueError, match="is not the corpus that was scanned"):
            view_unit(grammar, documents.take([0, 1]), scanned, "neuron 0.31")
        with pytest.raises(ValueError, match="was not scanned"):
            view_unit(grammar, documents, scanned, "resid_post 0.31")
        other = workbench.load_model("grammar-4l")
        with torch.no_grad():
            other.blocks[0].mlp.W_in[:, 31] *= 2
        with pytest.raises(ValueError, match="is not the model that was scanned"):
            view_unit(other, documents, scanned, "neuron 0.31")


def test_what_a_neuron_writes_is_of_the_models_kind() -> None:
    plain = known_units.detectors()
    double = known_units.detectors().to(torch.float64)
    expected = plain.blocks[0].mlp.W_out[0].detach()
    assert torch.equal(written(units.family(plain, "neuron", 0), plain, 0), expected)
    found = written(units.family(double, "neuron", 0), double, 0)
    assert found.dtype == torch.float64
    assert torch.equal(found, expected.double())
