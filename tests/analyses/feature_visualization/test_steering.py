"""Steering: exact on wired models, and against a loop of TransformerLens hooks on random ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from analyses.activation_patching import answer_direction
from analyses.feature_visualization import steering
from analyses.feature_visualization.steering import adding
from tests import families
from workbench.core import results
from workbench.core.engine import continuation, running
from workbench.core.engine import units as engine_units
from workbench.core.planted import known_units, two_steps, unplanted, word_level
from workbench.core.prompts.corpus import Corpus
from workbench.core.prompts.pairs import ContrastPairs

DOSES = (-3.0, -0.5, 0.0, 2.0)
# Hook points of the sites, written down once more.
HOOKS = {
    "neuron": "blocks.{}.mlp.hook_post",
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_post": "blocks.{}.hook_resid_post",
    "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out",
}


@dataclasses.dataclass(frozen=True)
class Latents:
    """A dictionary whose latents are given vectors, of any length."""

    W_dec: Float[torch.Tensor, "latent width"]

    def encode(self, x: Float[torch.Tensor, "*row width"]) -> Float[torch.Tensor, "*row latent"]:
        return (x @ self.W_dec.T).relu()


@pytest.fixture(scope="module")
def elks(planted: TransformerBridge) -> ContrastPairs:
    clean = ["ape bee cat dog", "bee dog dog ape", "cat cat ape bee"]
    corrupted = ["ape cat cat dog", "bee ape dog ape", "cat dog ape bee"]
    return ContrastPairs.from_text(planted, clean, corrupted, ["elk"] * 3, ["fox"] * 3)


@pytest.fixture(scope="module")
def words(planted: TransformerBridge) -> Corpus:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(word_level.WORDS), (60, two_steps.N_CTX))
    return Corpus.from_tokens(planted, rows)


@pytest.fixture(scope="module")
def documents(grammar: TransformerBridge) -> Corpus:
    return Corpus.bundled(grammar, documents=100)


@pytest.fixture(scope="module")
def plural(grammar: TransformerBridge) -> ContrastPairs:
    pairs = ContrastPairs.from_task(grammar, "agreement", n=24)
    are = [i for i, said in enumerate(pairs.answer_strings) if said[0].strip() == "are"]
    return pairs.subset(are[:8])


@pytest.fixture(scope="module")
def answered(
    grammar: TransformerBridge, documents: Corpus, plural: ContrastPairs
) -> steering.Steering:
    """Steered by what the logit difference reads."""
    return steering.steer(
        grammar,
        plural,
        documents,
        "resid_post 3.0",
        directions=answer_direction(grammar, plural),
        tokens=200,
        controls=39,
    )


def uneven(model: TransformerBridge, n_ctx: int) -> Corpus:
    """Rows of several lengths, one of which predicts nothing; token 5 stands for a special one."""
    rng = np.random.default_rng(1)
    lengths = np.array([n_ctx, 2, 5, 1, 7])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(0, len(word_level.WORDS), int(lengths.sum())).astype(np.int32)
    return Corpus("uneven rows", tokens, starts, special=(5,))


def own_pairs(model: TransformerBridge) -> ContrastPairs:
    """Prompts of two lengths."""
    clean = ["ape bee cat dog elk", "fox dog ape", "cat fox elk"]
    corrupted = ["ape cat cat dog elk", "fox ape ape", "cat bee elk"]
    return ContrastPairs.from_text(
        model, clean, corrupted, ["elk", "ape", "bee"], ["fox", "cat", "dog"]
    )


Push = Callable[[torch.Tensor], torch.Tensor]


def naive(
    model: TransformerBridge, rows: list[list[int]], hook: str, push: Push
) -> list[Float[torch.Tensor, "position d_vocab"]]:
    """Log-probabilities and logits by the library's own hooks, a row at a time."""
    found = []
    for row in rows:
        with torch.no_grad():
            found.append(
                model.run_with_hooks(
                    torch.tensor([row]),
                    return_type="logits",
                    fwd_hooks=[(hook, lambda value, hook: push(value))],
                )[0]
            )
    return found


def compare(
    model: TransformerBridge,
    pairs: ContrastPairs,
    corpus: Corpus,
    found: steering.Steering,
    hook: str,
    vector: torch.Tensor,
) -> None:
    """Every number of the unit against the naive loop."""
    rows = [corpus.row(i).tolist() for i in range(len(corpus)) if corpus.lengths[i] > 1]
    prompts = [list(tokens) for tokens in pairs.clean_tokens]
    with torch.no_grad():
        plain = [model(torch.tensor([row]), return_type="logits")[0] for row in rows]
    for point, dose in enumerate(found.strengths.tolist()):

        def push(value: torch.Tensor, dose: float = dose) -> torch.Tensor:
            return value + dose * vector

        logits = torch.stack([one[-1] for one in naive(model, prompts, hook, push)])
        right = torch.tensor(pairs.answers)[:, 0, None]
        wrong = torch.tensor(pairs.wrong_answers)[:, 0, None]
        gap = (logits.gather(1, right) - logits.gather(1, wrong))[:, 0].numpy()
        np.testing.assert_allclose(found.values[:, point], gap, atol=1e-5)
        for row, (tokens, before, after) in enumerate(
            zip(rows, plain, naive(model, rows, hook, push), strict=True)
        ):
            loss = torch.nn.functional.cross_entropy(after[:-1], torch.tensor(tokens[1:]))
            kl = torch.nn.functional.kl_div(
                after[:-1].log_softmax(-1),
                before[:-1].log_softmax(-1),
                log_target=True,
                reduction="batchmean",
            )
            assert found.loss[row, point] == pytest.approx(float(loss), abs=1e-5)
            assert found.divergence[row, point] == pytest.approx(float(kl), abs=1e-5)


class TestWired:
    def test_a_neuron_raises_the_logit_that_it_writes_to_by_its_strength(
        self, planted: TransformerBridge, elks: ContrastPairs, words: Corpus
    ) -> None:
        found = steering.steer(planted, elks, words, "neuron 0.0", strengths=[-2, 0, 1.5, 3])
        assert found.unit == "neuron 0.0"
        # It writes a one, which is read once directly and once through the head of layer 1.
        assert found.length == 1
        assert found.seen == (0, 1)
        np.testing.assert_allclose(
            found.changes, np.tile([-2, 0, 1.5, 3], (len(elks), 1)), atol=1e-6
        )
        # All prompts agree, so each interval is a point.
        np.testing.assert_allclose(found.interval, [[-2, 0, 1.5, 3]] * 2, atol=1e-6)
        # No other neuron writes, so what is as long as this one is this one, either way.
        np.testing.assert_allclose(np.abs(found.control_effects), [[2, 0, 1.5, 3]] * 39, atol=1e-6)
        assert found.p_values.tolist() == [1] * 4

    def test_a_direction_is_added_at_unit_length(
        self, planted: TransformerBridge, elks: ContrastPairs, words: Corpus
    ) -> None:
        found = steering.steer(
            planted,
            elks,
            words,
            "resid_post 1.0",
            directions=7 * answer_direction(planted, elks),
            strengths=np.array([-1.0, 2.0]),
        )
        # The logits of elk and fox read A by 0.25 and B by 0.75 each: the gap is 2 (0.25² + 0.75²)
        # for a vector whose length is the root of that.
        reach = np.sqrt(2 * (two_steps.DIRECT**2 + two_steps.INDIRECT**2))
        assert found.strengths.tolist() == [-1, 0, 2]
        np.testing.assert_allclose(found.effects, reach * found.strengths, atol=1e-6)
        # In a space of 22 dimensions, no random vector lies along it.
        assert np.abs(found.control_effects[:, 2]).max() < 2 * reach
        assert found.p_values.tolist() == [1 / 40, 1, 1 / 40]
        assert found.adjusted_p.tolist() == [1 / 40, 1, 1 / 40]

    def test_a_latent_is_added_as_long_as_its_row_of_the_decoder(
        self, planted: TransformerBridge, elks: ContrastPairs, words: Corpus
    ) -> None:
        rows = torch.zeros(2, planted.cfg.d_model)
        rows[1, len(word_level.WORDS) + known_units.ELK] = 3
        found = steering.steer(
            planted,
            elks,
            words,
            "resid_post 1.1",
            dictionary=Latents(rows),
            strengths=[1],
            controls=3,
        )
        assert (found.unit, found.length) == ("latent 1.1", 3)
        np.testing.assert_allclose(found.effects, [0, 3 * two_steps.DIRECT], atol=1e-6)

    def test_without_strengths_the_grid_is_that_of_the_unit(
        self, planted: TransformerBridge, elks: ContrastPairs, words: Corpus
    ) -> None:
        found = steering.steer(planted, elks, words, "neuron 0.0", controls=1)
        # It is 1 at most.
        assert found.strengths.tolist() == [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2]
        _, cache = planted.run_with_cache(torch.as_tensor(words.tokens.reshape(-1, 4)))
        stream = cache["blocks.0.hook_resid_post"].norm(dim=-1).mean()
        assert found.stream == pytest.approx(float(stream), abs=1e-5)
        np.testing.assert_allclose(
            found.shares_of_stream, np.abs(found.strengths) / found.stream, rtol=1e-6
        )


class TestAgainstHooks:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            *((name, "neuron") for name in ("gpt2", "llama", "pythia", "gemma2", "native")),
            *(("native", kind) for kind in ("attn_out", "resid_pre", "mlp_out", "resid_post")),
            # Side by side with the MLP; and normalised before it is added.
            *((name, "attn_out") for name in ("pythia", "gemma2")),
            ("gemma2", "mlp_out"),
            ("llama", "resid_pre"),
        ],
    )
    def test_all_numbers_of_all_sites(self, name: str, kind: str) -> None:
        model = families.bridge(name)
        pairs, corpus = own_pairs(model), uneven(model, 9)
        found = steering.steer(
            model, pairs, corpus, f"{kind} 0.3", strengths=DOSES, controls=2, tokens=100
        )
        assert found.provenance.notes == ("what comes before the site was run once",)
        assert found.predicted.tolist() == [8, 1, 4, 6]
        hook = HOOKS[kind].format(0)
        _, cache = model.run_with_cache(torch.tensor([pairs.clean_tokens[0]]), names_filter=hook)
        vector = torch.zeros(cache[hook].shape[-1])
        vector[3] = 1
        compare(model, pairs, corpus, found, hook, vector)
        family, index = engine_units.family_of(model, f"{kind} 0.3")
        random = adding.vectors_of(model, family, index, 2, 0)
        assert torch.equal(random[0], vector)
        # The last of the random directions in the place of the unit.
        other = steering.steer(
            model,
            pairs,
            corpus,
            f"{kind} 0.0",
            directions=random[2:],
            strengths=[dose * float(random[2].norm()) for dose in DOSES],
            controls=1,
            tokens=100,
        )
        np.testing.assert_allclose(other.effects, found.control_effects[1], atol=1e-5)
        np.testing.assert_allclose(other.loss_changes, found.control_losses[1], atol=1e-5)
        np.testing.assert_allclose(other.divergences, found.control_divergences[1], atol=1e-5)

    @pytest.mark.parametrize("kind", ["neuron", "resid_pre"])
    def test_under_hooks_the_numbers_are_the_same(self, kind: str) -> None:
        model = families.bridge("native")
        pairs, corpus = own_pairs(model), uneven(model, 9)

        def found() -> steering.Steering:
            return steering.steer(
                model, pairs, corpus, f"{kind} 1.2", strengths=DOSES, controls=5, tokens=100
            )

        fast = found()
        # Somebody looks at the model, so it cannot be taken apart.
        with running.observing(model, {"blocks.0.hook_resid_post": lambda value: value}):
            slow = found()
        assert slow.provenance.notes[0].startswith("under hooks: somebody's hooks are on it")
        for field in ("values", "loss", "divergence", "control_effects", "control_losses"):
            np.testing.assert_allclose(getattr(slow, field), getattr(fast, field), atol=1e-5)

    def test_special_tokens_are_left_alone_if_asked_for(self) -> None:
        model = families.bridge("native")
        pairs, corpus = own_pairs(model), uneven(model, 9)
        found = steering.steer(
            model,
            pairs,
            corpus,
            "resid_pre 1.0",
            strengths=DOSES,
            positions="ordinary",
            controls=1,
            tokens=100,
        )
        tokens = list(pairs.clean_tokens[0])
        special = torch.tensor(tokens) == 5
        assert special.sum() == 0
        tokens = list(pairs.clean_tokens[1])
        special = torch.tensor(tokens) == 5
        assert special.sum() == 1

        def push(value: torch.Tensor) -> torch.Tensor:
            out = value.clone()
            out[:, ~special, 0] += 2
            return out

        logits = naive(model, [tokens], HOOKS["resid_pre"].format(1), push)[0][-1]
        gap = logits[pairs.answers[1][0]] - logits[pairs.wrong_answers[1][0]]
        assert found.values[1, -1] == pytest.approx(float(gap), abs=1e-5)
        everywhere = steering.steer(
            model, pairs, corpus, "resid_pre 1.0", strengths=DOSES, controls=1, tokens=100
        )
        assert abs(everywhere.values[1, -1] - found.values[1, -1]) > 1e-3

    @pytest.mark.parametrize("kind", ["neuron", "attn_out"])
    def test_random_directions_are_as_long_in_the_stream(self, kind: str) -> None:
        model = families.bridge("gpt2")
        family, index = engine_units.family_of(model, f"{kind} 1.7")
        vectors = adding.vectors_of(model, family, index, 200, 3)
        written = vectors @ model.W_out[1] if kind == "neuron" else vectors
        lengths = written.norm(dim=1)
        torch.testing.assert_close(lengths, lengths[:1].expand(201))
        # They point everywhere: of a random unit vector an entry's square is 1 / width on average.
        unit = torch.nn.functional.normalize(vectors[1:], dim=1)
        assert unit.mean(0).abs().max() < 4 / np.sqrt(200 * unit.shape[1])
        assert torch.equal(vectors, adding.vectors_of(model, family, index, 200, 3))
        assert not torch.equal(vectors[1:], adding.vectors_of(model, family, index, 200, 4)[1:])

    def test_a_random_direction_is_like_the_random_ones(self) -> None:
        model = families.bridge("native")
        pairs, corpus = own_pairs(model), uneven(model, 9)
        random = torch.randn(16, model.cfg.d_model, generator=torch.Generator().manual_seed(5))
        found = [
            steering.steer(
                model,
                pairs,
                corpus,
                f"resid_post 0.{i}",
                directions=random,
                strengths=[1],
                seed=i,
                tokens=1,
                controls=19,
            ).p_values[1]
            for i in range(len(random))
        ]
        assert set(np.round(np.array(found) * 20, 6)) <= set(range(1, 21))
        assert scipy.stats.kstest(found, scipy.stats.uniform.cdf).pvalue > 0.05


class TestRealModel:
    def test_strength_zero_is_the_model_itself(
        self, grammar: TransformerBridge, plural: ContrastPairs, answered: steering.Steering
    ) -> None:
        zero = answered.strengths.tolist().index(0)
        with torch.no_grad():
            logits = torch.stack(
                [grammar(torch.tensor([row]))[0, -1] for row in plural.clean_tokens]
            )
        gap = [
            float(row[right[0]] - row[wrong[0]])
            for row, right, wrong in zip(logits, plural.answers, plural.wrong_answers, strict=True)
        ]
        np.testing.assert_allclose(answered.values[:, zero], gap, atol=1e-5)
        for exact in (
            answered.changes[:, zero],
            answered.interval[:, zero],
            answered.divergence[:, zero],
            answered.loss_interval[:, zero],
            answered.control_effects[:, zero],
            answered.control_losses[:, zero],
        ):
            assert not exact.any()
        assert (answered.p_values[zero], answered.loss_p_values[zero]) == (1, 1)

    def test_what_the_metric_reads_beats_every_random_direction(
        self, answered: steering.Steering
    ) -> None:
        effects = answered.effects
        assert (np.diff(effects) > 0).all()
        assert answered.p_values.tolist() == [1 / 40] * 4 + [1] + [1 / 40] * 4
        assert answered.adjusted_p.tolist() == pytest.approx(answered.p_values.tolist())
        low, high = answered.interval
        assert (low <= effects).all()
        assert (effects <= high).all()
        by_hand = scipy.stats.bootstrap(
            (answered.changes[:, -1],),
            np.mean,
            method="percentile",
            n_resamples=2000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert (low[-1], high[-1]) == pytest.approx((by_hand.low, by_hand.high), rel=0.02)

    def test_the_side_effect_is_weighted_by_tokens_and_bounded(
        self, answered: steering.Steering
    ) -> None:
        assert 200 <= answered.predicted.sum() < 200 + 64
        assert len(set(answered.predicted.tolist())) > 3
        total = (answered.loss * answered.predicted[:, None]).sum(0) / answered.predicted.sum()
        zero = answered.strengths.tolist().index(0)
        np.testing.assert_allclose(answered.loss_changes, total - total[zero], atol=1e-9)
        # The loss of a model that is pushed far away from what it says.
        assert answered.loss_changes[[0, -1]].min() > 0.1
        bearable = answered.bearable
        inside = np.isin(answered.strengths, bearable)
        assert 1 < inside.sum() < len(inside)
        assert (answered.loss_interval[1][inside] < 0.1).all()
        first, last = np.flatnonzero(inside)[[0, -1]]
        assert answered.loss_interval[1][first - 1] >= 0.1 or first == 0
        assert last == len(inside) - 1 or answered.loss_interval[1][last + 1] >= 0.1
        assert abs(answered.strongest) == np.abs(bearable).max()

    def test_a_slider_reads_what_was_measured(self, answered: steering.Steering) -> None:
        dose = answered.at(float(answered.strengths[-1]))
        frame = answered.to_frame()
        last = frame.iloc[-1]
        assert len(frame) == len(answered.strengths)
        assert dose.effect == last["effect"] == answered.effects[-1]
        assert dose.interval == (last["low"], last["high"])
        assert dose.loss_change == last["loss change"]
        assert dose.share_of_stream == last["share of stream"]
        assert dose.share_of_stream == pytest.approx(dose.strength / answered.stream)
        assert dose.control_effect == pytest.approx(
            tuple(np.quantile(answered.control_effects[:, -1], [0.025, 0.975]))
        )
        with pytest.raises(ValueError, match="was not measured; choose one of"):
            answered.at(dose.strength * 1.01)

    def test_it_comes_back_and_speaks(self, answered: steering.Steering, tmp_path: Path) -> None:
        answered.save(tmp_path / "run")
        back = results.Result.load(tmp_path / "run")
        assert isinstance(back, steering.Steering)
        assert back.summary() == answered.summary()
        assert back.to_frame().equals(answered.to_frame())
        assert back.at(0) == answered.at(0)
        said = answered.summary()
        dose = answered.at(answered.strongest)
        assert f"direction 3.0 of grammar-4l, added at strength {dose.strength:+.3g}" in said
        assert f"changes the logit difference by {dose.effect:+.3g} [" in said
        assert "further than chance: 39 random directions" in said
        assert "adjusted p = 0.025)" in said
        none = dataclasses.replace(answered, loss_bound=1e-12)
        assert none.bearable.tolist() == [0]
        assert none.summary().startswith("No measured strength of direction 3.0")

    def test_the_figure_shows_both_curves_with_bands_over_one_axis(
        self, answered: steering.Steering
    ) -> None:
        figure = answered.figure()
        traces: Any = figure.data
        curves = [trace for trace in traces if trace.name]
        assert [trace.name for trace in curves] == ["direction 3.0", "39 random directions"] * 2
        assert [trace.showlegend for trace in curves] == [True, True, False, False]
        np.testing.assert_array_equal(curves[0].y, answered.effects)
        np.testing.assert_array_equal(curves[2].y, answered.loss_changes)
        assert sum(trace.fill == "toself" for trace in traces) == 4
        assert figure.layout.xaxis.matches == "x2"
        assert figure.layout.yaxis.title.text == "change of<br>logit difference (logits)"

    def test_equal_seeds_give_equal_bits_and_another_metric_works(
        self, grammar: TransformerBridge, documents: Corpus, plural: ContrastPairs
    ) -> None:
        def found(seed: int) -> steering.Steering:
            return steering.steer(
                grammar,
                plural,
                documents,
                "neuron 2.5",
                strengths=[-1, 4],
                metric="probability",
                controls=3,
                tokens=60,
                seed=seed,
            )

        one, again, other = found(0), found(0), found(1)
        assert one.to_frame().equals(again.to_frame())
        assert (one.values == again.values).all()
        assert (other.control_effects[:, 0] != one.control_effects[:, 0]).all()
        # The unit itself does not depend on the seed.
        assert (other.values == one.values).all()
        assert ((one.values >= 0) & (one.values <= 1)).all()

    def test_stopping_leaves_the_model_as_it_was(
        self, grammar: TransformerBridge, documents: Corpus, plural: ContrastPairs
    ) -> None:
        seen: list[float] = []

        def stop(fraction: float, note: str) -> None:
            seen.append(fraction)
            if "unrelated" in note:
                raise KeyboardInterrupt(note)

        with pytest.raises(KeyboardInterrupt, match="unrelated text"):
            steering.steer(
                grammar, plural, documents, "neuron 3.5", controls=2, tokens=99, progress=stop
            )
        assert seen == sorted(seen)
        assert not any(point.fwd_hooks for point in grammar.hook_dict.values())


class TestText:
    def test_a_neuron_makes_the_model_say_what_it_writes(self, planted: TransformerBridge) -> None:
        plain = continuation.continue_text(planted, "bee cat", n_tokens=3)
        assert steering.steered_text(planted, "bee cat", "neuron 0.0", 0) == plain
        assert "elk" not in plain
        steered = steering.steered_text(planted, "bee cat", "neuron 0.0", 9, n_tokens=3)
        assert steered == "bee cat elk elk elk"
        assert continuation.continue_text(planted, "bee cat", n_tokens=3) == plain

    @pytest.mark.parametrize("positions", ["all", "ordinary"])
    def test_against_a_naive_loop(self, positions: str) -> None:
        model = unplanted.randomised()
        ids = model.to_tokens("cat elk").tolist()[0]
        assert ids[0] == model.tokenizer.bos_token_id
        start = int(positions == "ordinary")

        def push(value: torch.Tensor) -> torch.Tensor:
            out = value.clone()
            out[:, start:, 4] += 6
            return out

        for _ in range(4):
            logits = naive(model, [ids], "blocks.0.hook_resid_pre", push)[0]
            ids.append(int(logits[-1].argmax()))
        found = steering.steered_text(
            model, "cat elk", "resid_pre 0.4", 6, n_tokens=4, positions=positions
        )
        assert found == model.tokenizer.decode(ids, skip_special_tokens=True)


class TestWrongInput:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"positions": "last"}, "positions = 'last'; expected one of all, ordinary"),
            ({"controls": 0}, "controls = 0; expected at least 1"),
            ({"tokens": 0}, "tokens = 0; expected at least 1"),
            ({"loss_bound": 0}, "loss_bound = 0; expected a number of nats above 0"),
            ({"strengths": [0]}, "strengths holds nothing but 0"),
            ({"strengths": []}, "strengths holds nothing but 0"),
            ({"strengths": [1, float("nan")]}, "expected finite numbers"),
            ({"confidence": 1.0}, "confidence = 1.0; expected a level between 0 and 1"),
            ({"metric": "accuracy"}, "unknown metric 'accuracy'"),
        ],
    )
    def test_arguments_out_of_their_range(
        self,
        planted: TransformerBridge,
        elks: ContrastPairs,
        words: Corpus,
        changed: dict[str, object],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            steering.steer(planted, elks, words, "neuron 0.0", **changed)  # pyright: ignore[reportArgumentType]

    @pytest.mark.parametrize(
        ("unit", "message"),
        [
            ("head 0.1", "a head has no vector to add"),
            ("neuron 0.3", "neuron 0.3 writes nothing into the stream"),
            ("neuron 7.3", "the model has layers 0 to 1, not 7"),
            ("neuron three", "is no unit"),
        ],
    )
    def test_units_that_cannot_be_added(
        self,
        planted: TransformerBridge,
        elks: ContrastPairs,
        words: Corpus,
        unit: str,
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            steering.steer(planted, elks, words, unit)
        with pytest.raises(ValueError, match=message):
            steering.steered_text(planted, "bee", unit, 1)

    def test_what_the_model_cannot_say_anything_about(
        self, planted: TransformerBridge, elks: ContrastPairs, words: Corpus
    ) -> None:
        silent = torch.zeros(1, planted.cfg.d_model)
        silent[0, 2 * len(word_level.WORDS)] = -1
        with pytest.raises(ValueError, match="latent 0.0 is 0 on all of the text"):
            steering.steer(planted, elks, words, "resid_post 0.0", dictionary=Latents(silent))
        single = Corpus.from_tokens(planted, np.zeros((3, 1), dtype=np.int64))
        with pytest.raises(ValueError, match="no row of tokens has two tokens"):
            steering.steer(planted, elks, single, "neuron 0.0")
        one_sided = dataclasses.replace(elks, wrong_answers=((),) * 3)
        with pytest.raises(ValueError, match="these pairs have no wrong answers"):
            steering.steer(planted, one_sided, words, "neuron 0.0")
        model = families.bridge("native")
        with pytest.raises(ValueError, match="choose smaller strengths"):
            steering.steer(
                model,
                own_pairs(model),
                uneven(model, 9),
                "resid_post 1.0",
                strengths=[1e39],
                controls=1,
            )

    def test_texts_that_cannot_be_continued(self, planted: TransformerBridge) -> None:
        with pytest.raises(ValueError, match="n_tokens = 0; expected at least 1"):
            steering.steered_text(planted, "bee", "neuron 0.0", 1, n_tokens=0)
        with pytest.raises(ValueError, match="strength = inf; expected a finite number"):
            steering.steered_text(planted, "bee", "neuron 0.0", float("inf"))
        with pytest.raises(ValueError, match="outside the vocabulary"):
            steering.steered_text(planted, "zebra", "neuron 0.0", 1)
