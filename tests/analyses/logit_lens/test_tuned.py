"""Tuned lenses: translators that are known by construction, and both lenses on held-out text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import logit_lens
from analyses.logit_lens import readout, texts
from tests import families
from workbench import Corpus
from workbench.core.engine import running
from workbench.core.models import card
from workbench.core.planted import unplanted


def random_corpus(model: Any, rows: int, *, seed: int = 0, name: str = "random") -> Corpus:
    """Rows of random tokens, of two lengths."""
    rng = np.random.default_rng(seed)
    width = min(6, int(model.cfg.n_ctx))
    tokens = rng.integers(0, min(6, int(model.cfg.d_vocab)), rows * width)
    starts = [0]
    while starts[-1] < len(tokens):
        starts.append(min(len(tokens), starts[-1] + (width if len(starts) % 2 else width - 2)))
    return Corpus(name, tokens, np.array(starts, dtype=np.int64))


def same(mine: Any, theirs: Any) -> bool:
    """Whether two results have equal bits but for how long they took."""
    fields = [field.name for field in dataclasses.fields(mine) if field.name != "provenance"]
    return all(
        np.array_equal(getattr(mine, name), getattr(theirs, name), equal_nan=True)
        if isinstance(getattr(mine, name), np.ndarray)
        else getattr(mine, name) == getattr(theirs, name)
        for name in fields
    )


@pytest.fixture(scope="module")
def trained(turning: tuple[Any, torch.Tensor]) -> logit_lens.TunedLens:
    corpus = random_corpus(turning[0], 200)
    return logit_lens.train(
        turning[0], corpus, steps=300, tokens=64, learning_rate=1, weight_decay=0
    )


class TestAKnownTranslator:
    def test_the_construction_holds(self, turning: tuple[Any, torch.Tensor]) -> None:
        model, turned = turning
        _, rows, final = readout.run(model, torch.tensor([[0, 4, 7, 1]]))
        assert torch.allclose(rows[1] @ turned, final, atol=1e-5)

    def test_with_the_known_translator_nothing_is_left(
        self, turning: tuple[Any, torch.Tensor], trained: logit_lens.TunedLens
    ) -> None:
        model, turned = turning
        known = np.stack([np.zeros((8, 8)), turned.numpy() - np.eye(8)]).astype(np.float32)
        exact = dataclasses.replace(trained, weights=known, biases=np.zeros((2, 8), np.float32))
        found = logit_lens.read(model, [1, 2, 3, 11], lens=exact)
        np.testing.assert_allclose(found.divergence[1], 0, atol=1e-5)

    def test_it_reads_what_the_logit_lens_does_not(
        self, turning: tuple[Any, torch.Tensor], trained: logit_lens.TunedLens
    ) -> None:
        model, _ = turning
        held_out = random_corpus(model, 40, seed=1)
        found = logit_lens.compare(model, held_out, trained, n_resamples=200)
        assert found.rows == ("embedding", "layer 0")
        assert found.tuned_divergence[1] < 1e-3
        assert found.logit_divergence[1] > 0.5
        assert found.believed[1] == "tuned lens"
        # What comes after the embedding is not affine, so there something is left.
        assert found.tuned_divergence[0] > 10 * found.tuned_divergence[1]
        assert found.tuned_agreement[1] > 0.97 > found.logit_agreement[1]
        tuned = logit_lens.read(model, [1, 2, 3], lens=trained)
        logit = logit_lens.read(model, [1, 2, 3])
        assert (tuned.lens, logit.lens) == ("tuned lens", "logit lens")
        assert tuned.divergence[1].max() < 1e-2 < logit.divergence[1].max()
        np.testing.assert_array_equal(tuned.divergence[-1], logit.divergence[-1])


class TestTraining:
    def test_equal_seeds_give_equal_bits_and_others_another_order(self) -> None:
        model = unplanted.randomised()
        corpus = random_corpus(model, 30)
        first, again, other = (
            logit_lens.train(model, corpus, steps=5, tokens=32, seed=seed) for seed in (0, 0, 1)
        )
        assert same(first, again)
        assert not np.array_equal(first.losses, other.losses)

    def test_the_first_loss_is_the_logit_lenss_own(self) -> None:
        model = families.bridge("pythia")
        corpus = random_corpus(model, 8)
        trained = logit_lens.train(model, corpus, steps=1, tokens=10_000)
        readings = [logit_lens.read(model, corpus.row(i).tolist()) for i in range(len(corpus))]
        every = np.concatenate([reading.divergence[:-1] for reading in readings], axis=1)
        np.testing.assert_allclose(trained.losses[0], every.mean(1), atol=1e-5)
        assert trained.n_tokens == corpus.n_tokens == every.shape[1]

    @pytest.mark.parametrize("family", [*families.CONFIGS, families.NATIVE])
    def test_every_family_is_brought_nearer(self, family: str) -> None:
        model = families.bridge(family)
        corpus = random_corpus(model, 20)
        trained = logit_lens.train(model, corpus, steps=12, tokens=64, learning_rate=0.2)
        assert (trained.losses[-3:].mean(0) < 0.8 * trained.losses[0]).all()

    def test_pieces_give_the_same_gradient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = unplanted.randomised()
        corpus = random_corpus(model, 30)
        whole = logit_lens.train(model, corpus, steps=5, tokens=32)
        monkeypatch.setattr(readout, "AT_ONCE", 50)
        pieces = logit_lens.train(model, corpus, steps=5, tokens=32)
        np.testing.assert_allclose(pieces.weights, whole.weights, atol=1e-5)
        np.testing.assert_allclose(pieces.losses, whole.losses, atol=1e-5)

    def test_what_stands_to_the_right_of_a_short_row_does_not_count(self) -> None:
        model = unplanted.randomised()
        long, short = np.array([1, 2, 3, 4, 5]), np.array([2, 2])
        both = Corpus("both", np.concatenate([long, short]), np.array([0, 5, 7]))
        trained = logit_lens.train(model, both, steps=1)
        alone = [logit_lens.read(model, ids.tolist()).divergence[:-1] for ids in (long, short)]
        np.testing.assert_allclose(trained.losses[0], np.concatenate(alone, 1).mean(1), atol=1e-5)

    def test_the_model_stays_as_it_is(self) -> None:
        model = unplanted.randomised()
        mark = card.fingerprint(model)
        needed = [p.requires_grad for p in model.original_model.parameters()]
        logit_lens.train(model, random_corpus(model, 10), steps=3, tokens=16)
        assert [p.requires_grad for p in model.original_model.parameters()] == needed
        assert all(p.grad is None for p in model.original_model.parameters())
        assert not any(point.fwd_hooks for point in model.hook_dict.values())
        assert card.fingerprint(model) == mark

    def test_it_tells_how_far_it_is_and_stops_when_told_to(self) -> None:
        model = unplanted.randomised()
        told: list[tuple[float, str]] = []

        def stop(fraction: float, note: str) -> None:
            told.append((fraction, note))
            if len(told) == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            logit_lens.train(model, random_corpus(model, 10), steps=4, progress=stop)
        assert [fraction for fraction, _ in told] == [0, 0.25, 0.5]
        assert told[2][1].startswith("step 2 of 4, mean KL ")

    def test_a_bfloat16_model_is_translated_in_float32(self) -> None:
        model = families.bridge("llama", torch.bfloat16)
        trained = logit_lens.train(model, random_corpus(model, 20), steps=10, tokens=64)
        assert trained.weights.dtype == np.float32
        assert np.isfinite(trained.losses).all()
        assert np.isfinite(logit_lens.read(model, [1, 2], lens=trained).divergence).all()

    def test_it_is_saved_and_opened_equal(self, tmp_path: Path) -> None:
        model = unplanted.randomised()
        corpus = random_corpus(model, 10)
        trained = logit_lens.train(model, corpus, steps=3)
        opened = logit_lens.TunedLens.load(trained.save(tmp_path / "lens"))
        assert same(opened, trained)
        assert opened.summary() == trained.summary()
        first, again = (logit_lens.read(model, [1, 2], lens=lens) for lens in (trained, opened))
        assert same(first, again)
        found = logit_lens.compare(model, random_corpus(model, 9, seed=1), trained)
        assert same(logit_lens.LensComparison.load(found.save(tmp_path / "compared")), found)

    def test_the_table_and_the_figure_have_every_step(self) -> None:
        model = unplanted.randomised()
        trained = logit_lens.train(model, random_corpus(model, 10), steps=3)
        frame = trained.to_frame().set_index(["step", "row"])
        assert len(frame) == 6
        assert frame.loc[(2, "layer 0"), "kl"] == pytest.approx(trained.losses[2, 1])
        traces: Any = trained.figure().data
        assert [trace.name for trace in traces] == ["embedding", "layer 0"]
        np.testing.assert_allclose(traces[1].y, trained.losses[:, 1])
        assert "trained for 3 steps" in trained.summary()

    def test_a_larger_training_is_said_to_take_longer(self) -> None:
        model = unplanted.randomised()
        short, long = (logit_lens.training_seconds(model, steps=steps) for steps in (10, 1000))
        assert 0 < short < long

    @pytest.mark.parametrize(
        "given", [{"steps": 0}, {"tokens": 0}, {"learning_rate": 0}, {"weight_decay": -1}]
    )
    def test_bad_numbers_are_one_sentence(self, given: dict[str, Any]) -> None:
        model = unplanted.randomised()
        with pytest.raises(ValueError, match=f"{next(iter(given))} = "):
            logit_lens.train(model, random_corpus(model, 5), **given)


class TestWhoseLensItIs:
    @pytest.fixture
    def others(self) -> logit_lens.TunedLens:
        model = unplanted.randomised(seed=5)
        return logit_lens.train(model, random_corpus(model, 5), steps=1)

    def test_another_models_lens_is_refused(self, others: logit_lens.TunedLens) -> None:
        model = unplanted.randomised()
        with pytest.raises(ValueError, match="train one for this model"):
            logit_lens.read(model, [1, 2], lens=others)
        with pytest.raises(ValueError, match="train one for this model"):
            logit_lens.compare(model, random_corpus(model, 5), others)

    @pytest.mark.parametrize("given", [{"source": "mlp_out"}, {"norm": "final"}])
    def test_it_reads_the_stream_only(
        self, others: logit_lens.TunedLens, given: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match="a tuned lens reads the stream"):
            logit_lens.read(unplanted.randomised(seed=5), [1, 2], lens=others, **given)


@pytest.fixture(scope="module")
def setting() -> tuple[Any, Corpus, logit_lens.TunedLens]:
    model = unplanted.randomised()
    corpus = random_corpus(model, 60)
    return model, corpus, logit_lens.train(model, corpus, steps=20, tokens=64)


class TestComparison:
    def test_means_are_those_of_the_readings_of_each_text(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, _, lens = setting
        other = random_corpus(model, 12, seed=1)
        other = dataclasses.replace(other, special=(3,))
        found = logit_lens.compare(model, other, lens, n_resamples=50)
        kept = [[], []]
        agreed = [[], []]
        outputs: list[np.ndarray] = []
        for i in range(len(other)):
            ids = other.row(i)
            counted = ids != 3
            for which, given in enumerate((None, lens)):
                read = logit_lens.read(model, ids.tolist(), lens=given)
                kept[which].append(read.divergence[:-1, counted])
                agreed[which].append((read.top_ids[:-1, :, 0] == read.final_ids)[:, counted])
            logits = running.run(model, torch.from_numpy(ids.astype(np.int64))[None])[0]
            outputs.append(logits.softmax(-1).double().numpy()[counted])
        means = [np.concatenate(each, 1).mean(1) for each in (*kept, *agreed)]
        np.testing.assert_allclose(found.logit_divergence, means[0], atol=1e-5)
        np.testing.assert_allclose(found.tuned_divergence, means[1], atol=1e-5)
        np.testing.assert_allclose(found.logit_agreement, means[2], atol=1e-9)
        np.testing.assert_allclose(found.tuned_agreement, means[3], atol=1e-9)
        np.testing.assert_allclose(found.difference, means[1] - means[0], atol=1e-5)
        said = np.concatenate(outputs)
        constant = (said * np.log(said / said.mean(0))).sum(1).mean()
        assert found.constant_divergence == pytest.approx(constant, abs=1e-5)
        low, high = found.difference_interval
        assert (low <= found.difference).all() and (found.difference <= high).all()
        np.testing.assert_allclose(
            found.logit_sums.sum(0) / found.tokens_of_text.sum(), found.logit_divergence
        )

    def test_an_untrained_lens_is_the_logit_lens_and_neither_is_believed(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, _, lens = setting
        plain = dataclasses.replace(
            lens, weights=np.zeros_like(lens.weights), biases=np.zeros_like(lens.biases)
        )
        found = logit_lens.compare(model, random_corpus(model, 12, seed=1), plain)
        np.testing.assert_allclose(found.difference, 0, atol=1e-6)
        assert "the logit lens in 0; in 2 they are not shown to differ" in found.summary()

    def test_a_spoiled_lens_is_not_believed(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, _, lens = setting
        rng = np.random.default_rng(0)
        noise = rng.normal(0, 3, lens.weights.shape).astype(np.float32)
        spoiled = dataclasses.replace(lens, weights=noise)
        found = logit_lens.compare(model, random_corpus(model, 40, seed=1), spoiled)
        # What is read after the embedding is far off in any case.
        assert found.believed[1] == "logit lens"
        assert found.difference_interval[0, 1] > 0
        assert (found.tuned_divergence > found.constant_divergence).all()
        assert (
            "The tuned lens says less of the output than that after embedding, layer 0."
            in found.summary()
        )

    def test_texts_that_it_was_trained_on_are_left_out(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, corpus, lens = setting
        other = random_corpus(model, 12, seed=1)
        both = Corpus(
            "both",
            np.concatenate([corpus.tokens, other.tokens]),
            np.concatenate([corpus.starts, corpus.starts[-1] + other.starts[1:]]),
        )
        assert set(texts.marks(corpus, range(len(corpus)))) == set(lens.trained_rows.tolist())
        found = logit_lens.compare(model, both, lens, n_resamples=50)
        alone = logit_lens.compare(model, other, lens, n_resamples=50)
        assert found.n_left_out == len(corpus) and found.is_held_out
        np.testing.assert_allclose(found.tuned_divergence, alone.tuned_divergence, atol=1e-6)
        assert f"{len(corpus)} texts on which the tuned lens was trained" in found.summary()
        assert "trained on none of these texts" in alone.summary()

    def test_training_text_alone_is_said_to_be_no_test(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, corpus, lens = setting
        found = logit_lens.compare(model, corpus, lens, n_resamples=50)
        assert not found.is_held_out
        assert found.summary().startswith("NOT HELD OUT")

    def test_the_table_and_the_figures(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, _, lens = setting
        found = logit_lens.compare(
            model, random_corpus(model, 12, seed=1), lens, tokens=30, n_resamples=50
        )
        assert 30 <= found.tokens_of_text.sum() < 36
        frame = found.to_frame().set_index("row")
        assert frame.loc["layer 0", "tuned kl"] == pytest.approx(found.tuned_divergence[1])
        assert frame.loc["layer 0", "believe"] == found.believed[1]
        for value, series in (("kl", found.logit_divergence), ("agreement", found.logit_agreement)):
            figure: Any = found.figure(value=value)
            named = {trace.name: trace for trace in figure.data if trace.name}
            np.testing.assert_allclose(named["logit lens"].y, series)
            assert set(named) == {"logit lens", "tuned lens"}
            assert figure.layout.xaxis.ticktext == ("embedding", "layer 0")
        with pytest.raises(ValueError, match="unknown value 'rank'"):
            found.figure(value="rank")

    def test_bad_input_is_one_sentence(
        self, setting: tuple[Any, Corpus, logit_lens.TunedLens]
    ) -> None:
        model, corpus, lens = setting
        other = random_corpus(model, 12, seed=1)
        with pytest.raises(ValueError, match="confidence = 2"):
            logit_lens.compare(model, other, lens, confidence=2)
        with pytest.raises(ValueError, match="tokens = 0"):
            logit_lens.compare(model, other, lens, tokens=0)
        with pytest.raises(ValueError, match="special tokens only"):
            logit_lens.compare(model, dataclasses.replace(corpus, special=tuple(range(7))), lens)


@pytest.fixture(scope="module")
def brief(teller: Any, told: tuple[Corpus, Corpus]) -> logit_lens.TunedLens:
    return logit_lens.train(teller, told[0], steps=40, tokens=256)


@pytest.mark.real_model
class TestStories:
    def test_the_tuned_lens_beats_the_logit_lens_at_every_layer_on_held_out_text(
        self, teller: Any, told: tuple[Corpus, Corpus], brief: logit_lens.TunedLens
    ) -> None:
        found = logit_lens.compare(teller, told[1], brief)
        assert found.is_held_out and found.n_left_out == 0
        assert found.rows == ("embedding", *(f"layer {layer}" for layer in range(4)))
        assert found.believed == ("tuned lens",) * 5
        assert (found.difference_interval[1] < 0).all()
        # Less than half of what the logit lens leaves up to layer 2, and 0.8 of it at layer 3.
        shares = found.tuned_divergence / found.logit_divergence
        assert (shares < [0.25, 0.35, 0.5, 0.7, 0.8]).all()
        assert (found.tuned_agreement > found.logit_agreement).all()

    def test_it_beats_it_on_text_that_the_model_did_not_tell(
        self, teller: Any, brief: logit_lens.TunedLens
    ) -> None:
        written = Corpus.from_texts(
            teller,
            [
                "Once upon a time there was a small boat. The boat wanted to see the big sea.",
                "Anna had a red ball. She threw it so high that it did not come down again.",
                "The old man sat on a chair in the sun. A bird came and sat on his hat.",
                "Ben was sad because it rained. His mother said that rain makes the flowers grow.",
                "One day a cat and a dog found a cake. They ate it together and went to sleep.",
                "There was a girl who did not like to share. One day nobody played with her.",
            ],
        )
        found = logit_lens.compare(teller, written, brief)
        assert (found.difference_interval[1] < 0).all()
