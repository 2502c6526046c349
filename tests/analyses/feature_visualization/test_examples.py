"""Examples of all units in one pass: against a brute-force pass, planted units, a real model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import TopExamples, top_examples, view_unit
from workbench.core import results
from workbench.core.engine import decoder, running, scan, units
from workbench.core.models import dictionaries
from workbench.core.planted import known_units, two_steps, word_level
from workbench.core.prompts import corpus as corpora
from workbench.core.prompts.corpus import Corpus

# Of an activation computed another way, as a fraction of the largest one.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def documents(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=400)


@pytest.fixture(scope="module")
def scanned(grammar: TransformerBridge, documents: Corpus) -> TopExamples:
    return top_examples(grammar, documents, ["neuron", "head", "resid_post"], k=7, sample=300)


def whole_table(model: TransformerBridge, corpus: Corpus, kind: str) -> tuple[np.ndarray, ...]:
    """Every activation, with its row and position, in the order in which a scan meets them."""
    families = [units.family(model, kind, layer) for layer in range(model.cfg.n_layers)]
    reader = scan.Reader(model, corpus, families)
    tables: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    for chunk in corpus.chunks():
        made: list[np.ndarray] = []
        reader.read(chunk, lambda _, table, made=made: made.append(table.numpy().copy()))
        tables.append(np.concatenate(made, 1))
        numbers.append(corpus.numbers(chunk))
    return np.concatenate(tables), *corpus.locate(np.concatenate(numbers))


def of_kind(scanned: TopExamples, kind: str) -> slice:
    here = [i for i, name in enumerate(scanned.units) if name.startswith(f"{kind} ")]
    return slice(here[0], here[-1] + 1)


class TestAgainstBruteForce:
    @pytest.mark.parametrize("kind", ["neuron", "head", "resid_post"])
    def test_what_is_kept_is_that_of_the_whole_table_to_the_bit(
        self, grammar: TransformerBridge, documents: Corpus, scanned: TopExamples, kind: str
    ) -> None:
        table, rows, positions = whole_table(grammar, documents, kind)
        here = of_kind(scanned, kind)
        assert len(table) == scanned.n_tokens
        for sign, values, at, where in (
            (-1, scanned.top_values, scanned.top_rows, scanned.top_positions),
            (1, scanned.bottom_values, scanned.bottom_rows, scanned.bottom_positions),
        ):
            best = np.argsort(sign * table, axis=0, kind="stable")[:7].T
            assert np.array_equal(values[here], np.take_along_axis(table.T, best, 1))
            assert np.array_equal(at[here], rows[best])
            assert np.array_equal(where[here], positions[best])
        assert np.array_equal(scanned.density[here], (table > 0).mean(0))
        np.testing.assert_allclose(scanned.mean[here], table.mean(0, dtype=np.float64), atol=1e-6)
        spread = table.std(0, dtype=np.float64)
        np.testing.assert_allclose(scanned.standard_deviation[here], spread, rtol=1e-4, atol=1e-6)
        at = {place: i for i, place in enumerate(zip(rows, positions, strict=True))}
        sampled = zip(scanned.sample_rows, scanned.sample_positions, strict=True)
        found = [at[place] for place in sampled]
        assert np.array_equal(scanned.sample_values[:, here], table[found])
        assert 200 < len(found) <= 300

    def test_the_table_is_what_the_models_hooks_show(
        self, grammar: TransformerBridge, documents: Corpus, scanned: TopExamples
    ) -> None:
        hooks = {
            kind: f"blocks.2.{hook}"
            for kind, hook in (
                ("neuron", "mlp.hook_post"),
                ("head", "attn.hook_z"),
                ("resid_post", "hook_resid_post"),
            )
        }
        for kind, hook in hooks.items():
            unit = scanned.of(f"{kind} 2.3")
            for n in (0, 6):
                row = torch.as_tensor(documents.row(int(scanned.top_rows[unit, n])))[None].long()
                _, cache = grammar.run_with_cache(row, names_filter=hook)
                value = cache[hook][0, scanned.top_positions[unit, n]].detach()
                if kind == "head":
                    value = value[3] @ grammar.blocks[2].attn.W_O[3].detach()
                seen = float(value.norm() if kind == "head" else value[3])
                assert seen == pytest.approx(float(scanned.top_values[unit, n]), rel=ROUNDING)

    def test_a_model_that_is_not_taken_apart_is_read_under_hooks(
        self,
        grammar: TransformerBridge,
        documents: Corpus,
        scanned: TopExamples,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(*_: object) -> decoder.Decoder:
            raise decoder.NotTakenApart("it is not asked to be")

        monkeypatch.setattr(decoder, "taken_apart", refuse)
        found = top_examples(grammar, documents, ["neuron", "head", "resid_post"], k=7, sample=300)
        largest = np.abs(scanned.top_values).max()
        assert np.abs(found.top_values - scanned.top_values).max() < ROUNDING * largest
        assert np.abs(found.sample_values - scanned.sample_values).max() < ROUNDING * largest

    def test_ties_go_to_those_met_first(self) -> None:
        table = torch.tensor([[0.0, 3], [0, 1], [0, 3], [0, 3], [-1, 2]])
        best = scan.Extremes.none(2, 3, "cpu")
        best.meet(table[:2], torch.tensor([10, 11]))
        best.meet(table[2:], torch.tensor([12, 13, 14]))
        assert best.places.tolist() == [[10, 11, 12], [10, 12, 13]]
        once = scan.Extremes.none(2, 3, "cpu")
        once.meet(table.repeat(4, 1), torch.arange(20))
        assert once.places.tolist() == [[0, 1, 2], [0, 2, 3]]
        assert once.values.tolist() == [[0, 0, 0], [3, 3, 3]]


class TestGoingOn:
    def test_an_interrupted_scan_ends_in_the_same_bits(
        self,
        grammar: TransformerBridge,
        documents: Corpus,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(corpora, "CHUNK", 512)
        small = documents.take(range(150))
        expected = top_examples(grammar, small, "neuron", k=5, sample=50)

        def stop_at(least: float) -> Callable[[float, str], None]:
            def progress(fraction: float, _: str) -> None:
                if fraction >= least:
                    raise KeyboardInterrupt

            return progress

        for least in (0.3, 0.7):
            with pytest.raises(KeyboardInterrupt):
                top_examples(
                    grammar,
                    small,
                    "neuron",
                    k=5,
                    sample=50,
                    folder=tmp_path / "index",
                    progress=stop_at(least),
                )
        seen: list[float] = []
        found = top_examples(
            grammar,
            small,
            "neuron",
            k=5,
            sample=50,
            folder=tmp_path / "index",
            progress=lambda fraction, _: seen.append(fraction),
        )
        assert seen[0] >= 0.7
        for name in ("top_values", "top_rows", "bottom_positions", "mean", "sample_values"):
            assert np.array_equal(getattr(found, name), getattr(expected, name))

    def test_a_folder_of_another_scan_is_refused_and_a_damaged_one(
        self, grammar: TransformerBridge, documents: Corpus, tmp_path: Path
    ) -> None:
        few = documents.take(range(10))
        top_examples(grammar, few, "head", k=2, sample=5, folder=tmp_path / "index")
        with pytest.raises(ValueError, match="holds another scan"):
            top_examples(grammar, few, "head", k=2, sample=5, seed=1, folder=tmp_path / "index")
        (tmp_path / "index" / "state.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"nothing!")
        with pytest.raises(ValueError, match="is damaged"):
            top_examples(grammar, few, "head", k=2, sample=5, folder=tmp_path / "index")


class TestPlanted:
    def test_the_triggers_are_exactly_those_that_were_planted(
        self, planted: TransformerBridge
    ) -> None:
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, len(word_level.WORDS), (60, two_steps.N_CTX))
        found = top_examples(planted, Corpus.from_tokens(planted, tokens), "neuron", k=240)
        dogs = tokens == known_units.DOG
        third = np.arange(two_steps.N_CTX)[None] == 2
        third = np.broadcast_to(third, tokens.shape)
        for neuron, expected in enumerate((dogs, third, dogs & third)):
            unit = found.of(f"neuron 0.{neuron}")
            at = found.top_values[unit] > 0
            assert found.density[unit] == expected.mean()
            assert set(found.top_values[unit]) == {0, 1}
            where = zip(found.top_rows[unit][at], found.top_positions[unit][at], strict=True)
            assert set(where) == set(zip(*np.nonzero(expected), strict=True))

    def test_a_direction_is_what_it_projects_on(self, grammar: TransformerBridge) -> None:
        few = Corpus.bundled(grammar, documents=20)
        ones = torch.zeros(1, 128)
        ones[0, 5] = 3.0
        given = top_examples(grammar, few, "resid_pre", layers=[1], k=4, directions=ones)
        coordinate = top_examples(grammar, few, "resid_pre 1.5", k=4)
        assert given.units == ("direction 1.0",)
        np.testing.assert_allclose(given.top_values, coordinate.top_values, rtol=1e-6)

    def test_single_units_are_directions_and_latents_too(self, grammar: TransformerBridge) -> None:
        few = Corpus.bundled(grammar, documents=20)
        given = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
        dictionary = dictionaries.bundled_dictionary(grammar, "resid_post.2")
        ways: dict[str, dict[str, Any]] = {
            "direction": {"directions": given},
            "latent": {"dictionary": dictionary},
        }
        for kind, extra in ways.items():
            every = top_examples(grammar, few, "resid_post", layers=[2], k=4, sample=20, **extra)
            some = top_examples(
                grammar, few, ["resid_post 2.5", "resid_post 2.3"], k=4, sample=20, **extra
            )
            assert some.units == (f"{kind} 2.5", f"{kind} 2.3")
            at = [every.of(name) for name in some.units]
            assert np.array_equal(some.top_values, every.top_values[at])
            assert np.array_equal(some.top_rows, every.top_rows[at])
            assert np.array_equal(some.sample_values, every.sample_values[:, at])
            assert some.provenance.parameters["site"] == "resid_post"
            # A place that is shown is that of the latent, and not of the coordinate.
            view = view_unit(grammar, few, some, f"{kind} 2.3", **extra)
            assert view.examples[0].activation == some.top_values[1, 0]


class TestResult:
    def test_it_comes_back_from_disk(self, scanned: TopExamples, tmp_path: Path) -> None:
        scanned.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, TopExamples)
        assert np.array_equal(back.sample_values, scanned.sample_values)
        assert back.units == scanned.units
        assert back.summary() == scanned.summary()

    def test_its_table_figure_and_summary_hold_the_numbers(self, scanned: TopExamples) -> None:
        frame = scanned.to_frame()
        assert len(frame) == 4 * (512 + 4 + 128)
        assert frame["largest"].tolist() == scanned.top_values[:, 0].tolist()
        figure: Any = scanned.figure()
        assert sum(len(trace.x) for trace in figure.data) == len(frame)
        assert f"{scanned.n_tokens:,} tokens" in scanned.summary()

    def test_examples_come_from_the_whole_range(self, scanned: TopExamples) -> None:
        places = scanned.places_at("neuron 1.7", [0.0, 0.5, 1.0])
        values = scanned.sample_values[:, scanned.of("neuron 1.7")]
        assert [value for *_, value in places] == [
            values.min(),
            np.sort(values)[round(0.5 * (len(values) - 1))],
            values.max(),
        ]
        assert scanned.quantile("neuron 1.7", float(values.max())) == 1
        assert scanned.quantile("neuron 1.7", float(values.min()) - 1) == 0

    def test_units_that_respond_together_are_found_by_their_correlation(
        self, scanned: TopExamples
    ) -> None:
        found = scanned.co_firing("neuron 1.7", top=3).to_dict("records")
        place = scanned.of("neuron 1.7")
        every = np.asarray(np.corrcoef(scanned.sample_values.T.astype(np.float64)))
        expected = every[place]
        for row in found:
            other = scanned.of(str(row["unit"]))
            assert row["correlation"] == pytest.approx(expected[other], abs=1e-9)
        others = np.abs(np.delete(expected, place))
        assert abs(found[0]["correlation"]) == pytest.approx(others.max(), abs=1e-9)
        # More than shuffled tokens give any unit.
        assert abs(found[0]["correlation"]) > found[0]["chance"] > 0


class TestWrongInput:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ("neurons", "is no unit: write kind layer.index"),
            ("neuron 9.0", "layers 0 to 3, not 9"),
            ("neuron 0.512", "neuron 0 to 511, not 512"),
            ("beam 0.1", "unknown units 'beam'"),
            ([], "no units"),
            (["neuron", "neuron 0.1"], "named twice"),
        ],
    )
    def test_units_that_do_not_exist(
        self, grammar: TransformerBridge, documents: Corpus, asked: str | list[str], said: str
    ) -> None:
        with pytest.raises(ValueError, match=said):
            top_examples(grammar, documents, asked)

    def test_settings_and_directions_that_do_not_fit(
        self, grammar: TransformerBridge, documents: Corpus
    ) -> None:
        with pytest.raises(ValueError, match="k of at least 1"):
            top_examples(grammar, documents, k=0)
        with pytest.raises(ValueError, match=r"expected \[direction, 128\]"):
            top_examples(grammar, documents, "resid_post", directions=torch.ones(1, 5))
        with pytest.raises(ValueError, match="zero or not finite"):
            top_examples(grammar, documents, "resid_post", directions=torch.zeros(1, 128))
        with pytest.raises(ValueError, match="one kind of site: name one kind"):
            top_examples(
                grammar,
                documents,
                ["resid_post 1.0", "resid_pre 2.0"],
                directions=torch.ones(1, 128),
            )
        with pytest.raises(ValueError, match="layer 1 has direction 0 to 0, not 5"):
            top_examples(grammar, documents, "resid_post 1.5", directions=torch.ones(1, 128))

    def test_a_model_whose_numbers_went_wrong(self, documents: Corpus) -> None:
        model = workbench.load_model("grammar-4l")
        with torch.no_grad():
            model.blocks[1].mlp.W_in[0, 0] = torch.nan
        with pytest.raises(ValueError, match="not finite"):
            top_examples(model, documents.take(range(3)), "neuron", k=2)

    def test_a_unit_that_was_not_scanned(self, scanned: TopExamples) -> None:
        with pytest.raises(ValueError, match="was not scanned"):
            scanned.co_firing("mlp_out 0.1")


@pytest.mark.parametrize("kind", ["neuron", "head", "resid_pre"])
def test_a_real_models_examples_are_what_its_hooks_show(stories: Path, kind: str) -> None:
    model = workbench.load_model(stories)
    rng = np.random.default_rng(0)
    made = Corpus.from_tokens(model, rng.integers(3, model.cfg.d_vocab, (40, 48)))
    found = top_examples(model, made, kind, k=3, sample=100)
    hook = {"neuron": "mlp.hook_post", "head": "attn.hook_z", "resid_pre": "hook_resid_pre"}[kind]
    name = f"blocks.3.{hook}"
    tokens = torch.from_numpy(np.stack([made.row(i) for i in range(len(made))]))
    _, kept = running.run_and_keep(model, tokens, [name])
    value = kept[name][:, :, 5]
    if kind == "head":
        value = (kept[name][:, :, 5] @ model.blocks[3].attn.W_O[5].detach()).norm(dim=-1)
    else:
        value = kept[name][..., 5]
    largest = value.flatten().topk(3).values.numpy()
    np.testing.assert_allclose(found.top_values[found.of(f"{kind} 3.5")], largest, rtol=1e-4)
