"""Searching units: planted ones come first, scores are those of the whole table, chance is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from transformer_lens.model_bridge import TransformerBridge

from analyses.feature_visualization import Pattern, TokenSet, believe, correlation, search
from workbench.core import results
from workbench.core.planted import known_units
from workbench.core.prompts.corpus import Chunk, Corpus


@dataclasses.dataclass(frozen=True)
class Marked:
    """Predicts what is written beside each row, whatever the row says."""

    table: np.ndarray
    name: str = "a table"
    threshold: float = 0.5

    def predict(self, model: TransformerBridge, chunk: Chunk) -> torch.Tensor:
        del model
        return torch.as_tensor(self.table[chunk.rows, : chunk.tokens.shape[1]]).float()


@pytest.fixture(scope="module")
def documents(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=150)


@pytest.fixture(scope="module")
def stops(grammar: TransformerBridge, documents: Corpus) -> search.FoundUnits:
    return search.find_units(
        grammar,
        documents,
        TokenSet.of(grammar, ["."]),
        ["neuron", "head"],
        layers=[0, 2],
        best=2,
        resamples=39,
    )


def dogs() -> TokenSet:
    return TokenSet((known_units.DOG,), "dog")


class TestPlanted:
    def test_a_token_detector_is_found_first(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = search.find_units(planted, tokens, dogs(), ["neuron", "head"], resamples=99)
        assert len(found.units) == 2 * (4 + 2)
        assert found.units[0] == "neuron 0.0"
        assert found.correlation[0] == pytest.approx(1, abs=1e-9)
        assert found.difference[0] == pytest.approx(1, abs=1e-6)
        assert found.interval[:, 0] == pytest.approx([1, 1], abs=1e-9)
        assert found.p_value[0] == 1 / 100
        assert list(np.abs(found.correlation[:3])) == sorted(
            np.abs(found.correlation[:3]), reverse=True
        )
        # Neurons that are zero everywhere come last, and nothing is claimed of them.
        silent = [i for i, name in enumerate(found.units) if name in {"neuron 0.3", "neuron 1.0"}]
        assert np.isnan(found.correlation[silent]).all()
        assert np.isnan(found.p_value[silent]).all()
        assert min(silent) > int((~np.isnan(found.correlation)).sum()) - 1

    def test_a_unit_of_two_conditions_is_found_by_a_pattern(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        found = search.find_units(planted, tokens, Pattern(r"^\w+ \w+ dog"), resamples=99)
        assert found.units[:3] == ("neuron 0.2", "neuron 0.0", "neuron 0.1")
        assert found.correlation[0] == pytest.approx(1, abs=1e-9)
        assert found.p_value[:2].tolist() == [0.01, 0.01]
        # It fires at position 2, whatever is there: the null keeps positions, so it is not found.
        assert found.correlation[2] > 0.3
        assert found.p_value[2] > 0.5

    def test_directions_are_searched_too(self, planted: TransformerBridge, tokens: Corpus) -> None:
        given = torch.zeros(2, planted.cfg.d_model)
        given[0, 1] = given[1, known_units.DOG] = 2
        found = search.find_units(
            planted, tokens, dogs(), "resid_pre", layers=[0], directions=given, resamples=19
        )
        assert found.units[0] == "direction 0.1"
        assert found.correlation[0] == pytest.approx(1, abs=1e-9)


class TestChance:
    def test_a_description_of_other_rows_finds_nothing_more_often_than_it_may(
        self, planted: TransformerBridge, tokens: Corpus
    ) -> None:
        flat = np.stack([tokens.row(i) for i in range(len(tokens))]) == known_units.DOG
        smallest: list[float] = []
        for seed in range(40):
            shuffled = np.random.default_rng(100 + seed).permutation(flat)
            found = search.find_units(
                planted, tokens, Marked(shuffled), resamples=39, best=0, seed=seed
            )
            smallest.append(float(np.nanmin(found.p_value)))
        # Two of 40 are expected; seven would be an accident of one in 200.
        assert sum(p <= 0.05 for p in smallest) < 7
        # Nor are p-values all near one, as they are where a null is too wide.
        assert scipy.stats.kstest(smallest, "uniform").pvalue > 0.001

    def test_rows_get_the_predictions_of_rows_of_their_length(self) -> None:
        lengths = np.repeat([5, 3, 9, 8], [40, 50, 4, 33])
        donors = search._donors(lengths, 30, 0)
        assert (np.sort(donors, 1) == np.arange(len(lengths))).all()
        assert (lengths[donors[:, :90]] == lengths[:90]).all()
        # Four rows are too few for a block: they change places with the next ones.
        assert set(lengths[donors[:, 90:94]].ravel()) == {8, 9}
        assert (donors != np.arange(len(lengths))).mean() > 0.9
        assert np.array_equal(donors, search._donors(lengths, 30, 0))


class TestRealModel:
    def test_scores_are_those_of_the_whole_table(
        self, grammar: TransformerBridge, documents: Corpus, stops: search.FoundUnits
    ) -> None:
        stop = grammar.tokenizer.convert_tokens_to_ids(".")
        said, neurons, heads = [], [], []
        hooks = ["blocks.2.mlp.hook_post", "blocks.2.attn.hook_z"]
        for i in range(len(documents)):
            row = torch.as_tensor(documents.row(i))[None].long()
            _, cache = grammar.run_with_cache(row, names_filter=hooks)
            said.append((row[0, 1:] == stop).numpy())
            neurons.append(cache[hooks[0]][0, 1:].detach().double().numpy())
            written = cache[hooks[1]][0, 1:, 3].detach() @ grammar.blocks[2].attn.W_O[3].detach()
            heads.append(written.norm(dim=-1).double().numpy())
        fires, table, head = (np.concatenate(one) for one in (said, neurons, heads))
        assert (stops.n_tokens, stops.n_fires) == (len(fires), fires.sum())
        at = {name: i for i, name in enumerate(stops.units)}
        assert len(at) == 2 * (512 + 4)
        every = np.corrcoef(table.T, fires)[-1, :-1]
        mine = [stops.correlation[at[f"neuron 2.{i}"]] for i in range(512)]
        np.testing.assert_allclose(mine, every, atol=1e-5)
        own = stops.correlation[at["head 2.3"]]
        assert own == pytest.approx(np.corrcoef(head, fires)[0, 1], abs=1e-5)
        gaps = table[fires].mean(0) - table[~fires].mean(0)
        found = [stops.difference[at[f"neuron 2.{i}"]] for i in range(512)]
        np.testing.assert_allclose(found, gaps, atol=1e-4)
        size = np.abs(stops.correlation)
        assert (np.diff(size) <= 0).all()
        # The null is summed up in float32: what is as large but for that counts as large.
        beaten = (stops.null[:, None] >= size - 1e-4).sum(0)
        np.testing.assert_allclose(stops.p_value, (1 + beaten) / 40)

    def test_the_full_stop_neuron_is_found_as_belief_scores_it(
        self, grammar: TransformerBridge, documents: Corpus, stops: search.FoundUnits
    ) -> None:
        place = stops.units.index("neuron 0.31")
        assert place < 5
        assert stops.p_value[place] == 1 / 40
        score = believe(grammar, documents, "neuron 0.31", TokenSet.of(grammar, ["."]))
        assert stops.correlation[place] == pytest.approx(score.correlation, abs=1e-6)
        first = believe(grammar, documents, stops.units[0], TokenSet.of(grammar, ["."]))
        assert stops.interval[:, 0] == pytest.approx(first.interval, abs=1e-6)
        assert not np.isnan(stops.interval[:, :2]).any()
        assert np.isnan(stops.interval[:, 2:]).all()

    def test_it_comes_back_and_speaks(self, stops: search.FoundUnits, tmp_path: Path) -> None:
        stops.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, search.FoundUnits)
        assert back.summary() == stops.summary()
        assert back.to_frame().equals(stops.to_frame())
        assert f"Best: {stops.units[0]} ({stops.correlation[0]:.2f}" in stops.summary()
        figure: Any = back.figure()
        assert list(figure.data[0].x) == list(stops.units[:30])
        assert np.array_equal(figure.data[0].y, stops.correlation[:30])


class TestCorrelation:
    def test_it_is_numpys_and_has_none_for_a_constant(self) -> None:
        rng = np.random.default_rng(0)
        # Small beside its mean, as coordinates of a stream are.
        x, y = rng.normal(size=400), 20 + 0.5 * rng.normal(size=400)
        y += 0.1 * x
        sums = np.array([400, x.sum(), x @ x, y.sum(), y @ y, x @ y])
        assert correlation.from_sums(sums) == pytest.approx(np.corrcoef(x, y)[0, 1])
        same = np.full(400, 0.1)
        flat = np.array([400, x.sum(), x @ x, same.sum(), same @ same, x @ same])
        assert np.isnan(correlation.from_sums(flat))

    def test_the_interval_covers_what_is_true(self) -> None:
        covered = 0
        x, y = np.zeros(400), np.zeros(400)
        for seed in range(60):
            rng = np.random.default_rng(seed)
            x = rng.normal(size=400)
            y = 0.6 * x + 0.8 * rng.normal(size=400)
            low, high = correlation.row_interval(x, y, np.repeat(np.arange(100), 4), seed=seed)
            covered += low < 0.6 < high
        # 57 are expected; 50 or fewer would be an accident of less than one in 100.
        assert covered > 50
        one = correlation.row_interval(x, y, np.zeros(400, dtype=int))
        assert np.isnan(one).all()


class TestWrongInput:
    def test_what_cannot_be_searched(self, planted: TransformerBridge, tokens: Corpus) -> None:
        with pytest.raises(ValueError, match="predicts the same everywhere"):
            search.find_units(planted, tokens, TokenSet((), "nothing"))
        with pytest.raises(ValueError, match="not finite"):
            search.find_units(planted, tokens, Marked(np.full((300, 4), np.nan)))
        with pytest.raises(ValueError, match="has 5 rows; at least 32"):
            search.find_units(planted, tokens.take(range(5)), dogs())
        with pytest.raises(ValueError, match="at least 19 resamples"):
            search.find_units(planted, tokens, dogs(), resamples=5)
        with pytest.raises(ValueError, match="confidence = 2"):
            search.find_units(planted, tokens, dogs(), confidence=2.0)

    def test_units_that_are_none(self, planted: TransformerBridge, tokens: Corpus) -> None:
        with pytest.raises(ValueError, match="no units: name kinds"):
            search.find_units(planted, tokens, dogs(), [])
        with pytest.raises(ValueError, match="unknown units 'neurons'"):
            search.find_units(planted, tokens, dogs(), "neurons")
        with pytest.raises(ValueError, match="layers 0 to 1, not 7"):
            search.find_units(planted, tokens, dogs(), layers=[7])
        with pytest.raises(ValueError, match="name one kind"):
            search.find_units(
                planted,
                tokens,
                dogs(),
                ["resid_pre", "resid_post"],
                directions=torch.ones(1, planted.cfg.d_model),
            )
