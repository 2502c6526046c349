"""Reading a prompt after each layer: known answers, every family, another library."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens import ActivationCache

from analyses import logit_lens
from analyses.logit_lens import readout
from tests import families
from workbench.core.engine import running
from workbench.core.planted import two_steps, unplanted, word_level

FAMILIES = [*families.CONFIGS, families.NATIVE]
IDS = [0, 3, 2, 1, 4, 4]
# Of probabilities and nats, in float32.
TOLERANCE = 1e-5


def output(model: Any, ids: list[int]) -> torch.Tensor:
    return running.run(model, torch.tensor([ids]))[0].float()


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_the_last_row_is_the_models_output(self, family: str) -> None:
        model = families.bridge(family)
        everything = int(model.cfg.d_vocab)
        found = logit_lens.read(model, IDS, tokens=range(everything), top=everything)
        logits = output(model, IDS)
        assert found.rows == ("embedding", "layer 0", "layer 1")
        np.testing.assert_allclose(found.asked_logits[-1], logits, atol=TOLERANCE)
        said = logits.softmax(-1)
        np.testing.assert_allclose(found.asked_probabilities[-1], said, atol=TOLERANCE)
        np.testing.assert_allclose(
            found.top_probabilities[-1], said.sort(descending=True).values, atol=TOLERANCE
        )
        np.testing.assert_array_equal(found.top_ids[-1, :, 0], logits.argmax(-1))
        np.testing.assert_array_equal(found.final_ids, logits.argmax(-1))
        np.testing.assert_allclose(found.divergence[-1], 0, atol=TOLERANCE)
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        np.testing.assert_allclose(found.entropy[-1], entropy, atol=TOLERANCE)

    def test_every_row_is_the_output_of_the_model_with_that_stream_put_at_its_end(
        self, family: str
    ) -> None:
        model = families.bridge(family)
        tokens = torch.tensor([IDS])
        for source in readout.SOURCES:
            found = logit_lens.read(model, IDS, source=source, tokens=range(6), top=1)
            _, rows, _ = readout.run(model, tokens, source)
            for row, stream in enumerate(rows):
                last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
                logits = running.run(model, tokens, {last: lambda _, to=stream: to})[0]
                np.testing.assert_allclose(found.asked_logits[row], logits[:, :6], atol=TOLERANCE)

    def test_the_numbers_of_a_row_follow_from_its_logits(self, family: str) -> None:
        model = families.bridge(family)
        everything = int(model.cfg.d_vocab)
        found = logit_lens.read(model, IDS, tokens=range(everything), top=3)
        logits = torch.from_numpy(found.asked_logits.copy()).double()
        final = output(model, IDS).double().log_softmax(-1)
        said = logits.log_softmax(-1)
        kl = torch.nn.functional.kl_div(
            said, final.expand_as(said), reduction="none", log_target=True
        )
        np.testing.assert_allclose(found.divergence, kl.sum(-1), atol=TOLERANCE, rtol=TOLERANCE)
        np.testing.assert_allclose(
            found.entropy, torch.special.entr(said.exp()).sum(-1), atol=TOLERANCE
        )
        for row, position in np.ndindex(*found.entropy.shape):
            order = sorted(range(everything), key=lambda i: -float(logits[row, position, i]))
            assert found.top_ids[row, position].tolist() == order[:3]
            ranks = found.asked_ranks[row, position]
            assert [int(ranks[i]) for i in order] == list(range(everything))


@pytest.mark.parametrize("family", ["gpt2", "llama", "pythia", "gemma", families.NATIVE])
def test_transformer_lens_reads_the_same(family: str) -> None:
    model = families.bridge(family)
    everything = range(int(model.cfg.d_vocab))
    found = logit_lens.read(model, IDS, tokens=everything)
    with torch.inference_mode():
        _, cache = model.run_with_cache(torch.tensor([IDS]))
        assert isinstance(cache, ActivationCache)
        stack = cache.accumulated_resid()
        assert isinstance(stack, torch.Tensor)
        # Theirs begins before layer 0 and ends after the last layer, as ours does.
        logits = torch.stack(
            [model.unembed(row) for row in cache.apply_ln_to_stack(stack, recompute_ln=True)]
        )
        np.testing.assert_allclose(found.asked_logits, logits[:, 0], atol=TOLERANCE)
        # With the scale of the final stream instead, theirs leaves gain and bias of the norm out.
        scaled = cache.apply_ln_to_stack(stack)
        weight = model.ln_final.weight
        weight = 1 + weight if getattr(model.cfg, "rmsnorm_uses_offset", False) else weight
        bias = getattr(model.ln_final.original_component, "bias", None)
        normed = scaled * weight + (0 if bias is None else bias)
        logits = torch.stack([model.unembed(row) for row in normed])
    held = logit_lens.read(model, IDS, norm="final", tokens=everything)
    np.testing.assert_allclose(held.asked_logits, logits[:, 0], atol=5 * TOLERANCE)
    np.testing.assert_allclose(held.asked_logits[-1], found.asked_logits[-1], atol=TOLERANCE)
    assert np.abs(held.asked_logits[0] - found.asked_logits[0]).max() > 0.01


def test_held_scales_make_the_parts_add_up_to_the_whole() -> None:
    model = unplanted.randomised()
    everything = range(int(model.cfg.d_vocab))

    def logits(source: str) -> np.ndarray:
        found = logit_lens.read(model, IDS, source=source, norm="final", tokens=everything)
        return found.asked_logits

    # Each row carries the norm's and the unembedding's bias, which count once in the whole.
    with torch.inference_mode():
        constant = model.unembed(model.ln_final(torch.zeros(1, 1, 16)))[0, 0].numpy()
    parts = [logits("resid")[:1], logits("attn_out"), logits("mlp_out")]
    total = sum((part - constant).sum(0) for part in parts) + constant
    np.testing.assert_allclose(total, output(model, IDS), atol=5 * TOLERANCE)


class TestTheHandWiredModel:
    """Its logits at the last position: 0.25 after layer 0 and 1 after layer 1, for the token at 1.

    It has no norm, so what a layer writes reads as it is.
    """

    ids = (0, 3, 2, 1)

    def test_the_stream(self) -> None:
        found = logit_lens.read(two_steps.two_layer(), self.ids, tokens=["dog", "ape"])
        np.testing.assert_array_equal(found.asked_logits[:, -1, 0], [0, 0.25, 1])
        np.testing.assert_array_equal(found.asked_logits[:, -1, 1], [0, 0, 0])
        np.testing.assert_array_equal(found.asked_ranks[:, -1], [[0, 0], [0, 1], [0, 1]])
        dog = np.exp([0, 0.25, 1]) / (np.exp([0, 0.25, 1]) + 5)
        np.testing.assert_allclose(found.asked_probabilities[:, -1, 0], dog, atol=TOLERANCE)
        np.testing.assert_allclose(found.entropy[0], np.log(6), atol=TOLERANCE)
        other = (1 - dog) / 5
        kl = dog[2] * np.log(dog[2] / dog) + 5 * other[2] * np.log(other[2] / other)
        np.testing.assert_allclose(found.divergence[:, -1], kl, atol=TOLERANCE)
        assert found.text_of(found.final_ids[-1]) == "dog"

    def test_what_attention_writes_alone(self) -> None:
        found = logit_lens.read(
            two_steps.two_layer(), self.ids, source="attn_out", tokens=["dog", "elk"]
        )
        assert found.rows == ("layer 0", "layer 1")
        np.testing.assert_array_equal(found.asked_logits[:, -1], [[0.25, 0], [0.75, 0]])

    def test_what_the_mlps_write_alone_is_nothing(self) -> None:
        found = logit_lens.read(two_steps.two_layer(), self.ids, source="mlp_out", tokens=["dog"])
        np.testing.assert_array_equal(found.asked_logits, 0)
        np.testing.assert_allclose(found.entropy, np.log(6), atol=TOLERANCE)

    def test_a_cell_and_from_where_on_the_answer_stands(self) -> None:
        found = logit_lens.read(two_steps.two_layer(), self.ids, tokens=["dog", 0], top=2)
        cell = found.at("layer 0", -1)
        assert (cell.row, cell.position, cell.token, cell.final) == ("layer 0", 3, "bee", "dog")
        assert cell.top[0].text == "dog"
        assert cell.top[0].probability == pytest.approx(np.exp(0.25) / (np.exp(0.25) + 5))
        assert [(one.text, one.rank, one.logit) for one in cell.asked] == [
            ("dog", 0, 0.25),
            ("ape", 1, 0.0),
        ]
        assert found.at(1, 3) == found.at("layer 0", -1)
        assert found.settled(-1) == (0 if found.at(0, -1).top[0].text == "dog" else 1)
        assert "the model says 'dog'" in found.summary()


def test_a_long_prompt_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.bridge("gemma2")
    whole = logit_lens.read(model, IDS, tokens=[1, 5])
    monkeypatch.setattr(readout, "AT_ONCE", 2 * int(model.cfg.d_vocab))
    pieces = logit_lens.read(model, IDS, tokens=[1, 5])
    for field in dataclasses.fields(whole):
        mine, theirs = getattr(whole, field.name), getattr(pieces, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_allclose(theirs, mine, atol=TOLERANCE)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_model_in_bfloat16_is_read_in_its_own_numbers(family: str) -> None:
    model = families.bridge(family, torch.bfloat16)
    everything = int(model.cfg.d_vocab)
    found = logit_lens.read(model, IDS, tokens=range(everything))
    # One bfloat16 has 8 bits: a soft cap, which we compute in float32, differs by that.
    np.testing.assert_allclose(found.asked_logits[-1], output(model, IDS), rtol=1e-2, atol=1e-2)


def test_it_tells_how_far_it_is_and_stops_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unplanted.randomised()
    monkeypatch.setattr(readout, "AT_ONCE", 3 * int(model.cfg.d_vocab))
    told: list[float] = []

    def stop(fraction: float, note: str) -> None:
        told.append(fraction)
        if fraction >= 0.5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        logit_lens.read(model, IDS, progress=stop)
    np.testing.assert_allclose(told, [0, 0, 1 / 6, 2 / 6, 3 / 6])


def test_nothing_is_left_on_the_model() -> None:
    model = unplanted.randomised()
    before = {name: p.clone() for name, p in model.original_model.named_parameters()}
    logit_lens.read(model, IDS, source="attn_out", tokens=[1])
    assert all(torch.equal(p, before[n]) for n, p in model.original_model.named_parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_it_is_saved_and_opened_equal(tmp_path: Path) -> None:
    model = unplanted.randomised()
    found = logit_lens.read(model, "ape bee cat", tokens=["dog"])
    again = logit_lens.LensReading.load(found.save(tmp_path / "reading"))
    assert again.prompt == found.prompt
    for field in dataclasses.fields(found):
        mine, theirs = getattr(found, field.name), getattr(again, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(theirs, mine)
    assert again.summary() == found.summary()
    assert again.at(-1, -1) == found.at(-1, -1)


class TestTablesAndFigures:
    def test_the_table_has_every_top_token_and_every_asked_one(self) -> None:
        model = unplanted.randomised()
        found = logit_lens.read(model, IDS, tokens=["dog", "fox"], top=3)
        frame = found.to_frame()
        assert len(frame) == 3 * 6 * (3 + 2)
        place = (frame["row"] == "layer 0") & (frame["position"] == 4) & (frame["id"] == 5)
        row = frame[place & (frame["of"] == "asked")].iloc[0]
        cell = found.at("layer 0", 4)
        assert (row["predicted"], row["rank"]) == ("fox", cell.asked[1].rank)
        assert row["logit"] == pytest.approx(cell.asked[1].logit)
        assert row["kl"] == pytest.approx(cell.divergence)
        assert len(logit_lens.read(model, IDS, top=3).to_frame()) == 3 * 6 * 3

    @pytest.mark.parametrize("colour", ["probability", "entropy", "kl", "rank"])
    def test_the_grid_has_the_top_token_in_each_cell(self, colour: str) -> None:
        found = logit_lens.read(unplanted.randomised(), IDS, tokens=["dog"])
        figure: Any = found.figure(colour=colour, selected=(1, 2))
        cells = figure.data[0]
        assert cells.text[1][2] == found.at(1, 2).top[0].text
        tables = {
            "probability": found.top_probabilities[:, :, 0],
            "entropy": found.entropy,
            "kl": found.divergence,
            "rank": np.log10(1 + found.asked_ranks[:, :, 0]),
        }
        np.testing.assert_allclose(cells.z, tables[colour], rtol=1e-6)
        assert len(figure.data[-1].x) == 18

    def test_a_window_of_a_long_prompt(self) -> None:
        found = logit_lens.read(families.bridge("gpt2"), [1, 2, 3] * 5)
        figure: Any = found.figure(positions=(4, 9))
        np.testing.assert_allclose(figure.data[0].z, found.top_probabilities[:, 4:9, 0])
        assert figure.layout.xaxis.ticktext[0].startswith("4 ")
        with pytest.raises(ValueError, match="within 0 to 15"):
            found.figure(positions=(4, 16))

    def test_text_of_tokens_is_not_markup(self) -> None:
        model = unplanted.randomised()
        found = logit_lens.read(model, IDS, tokens=[word_level.WORDS.index("dog")])
        found = dataclasses.replace(found, listed_texts=tuple("<b>x" for _ in found.listed_texts))
        figure: Any = found.figure()
        assert figure.data[0].text[0][0] == "&lt;b&gt;x"
        assert "<b>x" not in str(figure.data[-1].customdata)
        assert found.curves().data[0]["name"] == "&lt;b&gt;x"

    @pytest.mark.parametrize("value", ["rank", "probability", "logit"])
    def test_curves_of_the_asked_tokens(self, value: str) -> None:
        found = logit_lens.read(unplanted.randomised(), IDS, tokens=["dog", "fox"])
        figure: Any = found.curves(2, value=value)
        assert [trace.name for trace in figure.data] == ["dog", "fox"]
        tables = {
            "rank": found.asked_ranks,
            "probability": found.asked_probabilities,
            "logit": found.asked_logits,
        }
        np.testing.assert_allclose(figure.data[1].y, tables[value][:, 2, 1], rtol=1e-6)

    def test_large_ranks_are_drawn_as_logarithms(self) -> None:
        found = logit_lens.read(unplanted.randomised(), IDS, tokens=["dog"])
        far = np.full_like(found.asked_ranks, 999)
        figure: Any = dataclasses.replace(found, asked_ranks=far).curves()
        np.testing.assert_allclose(figure.data[0].y, 3)
        assert "log10" in figure.layout.yaxis.title.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "neuron"}, "unknown source 'neuron'; expected one of resid, attn_out"),
        ({"norm": "none"}, "unknown norm 'none'"),
        ({"tokens": ["zebra"]}, "outside the vocab"),
        ({"tokens": ["dog fox"]}, "2 tokens"),
        ({"tokens": [99]}, "99"),
        ({"top": 0}, "top = 0"),
        ({"top": 100}, "logits of 7 tokens"),
    ],
)
def test_bad_input_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        logit_lens.read(unplanted.randomised(), "ape bee", **given)
    assert "\n" not in str(caught.value)


def test_places_that_are_not_there() -> None:
    found = logit_lens.read(unplanted.randomised(), IDS)
    for call, words in (
        (lambda: found.at("layer 2", 0), "no row 'layer 2'"),
        (lambda: found.at(3, 0), "no row 3"),
        (lambda: found.at(0, 6), "positions 0 to 5, not 6"),
        (lambda: found.figure(colour="size"), "unknown colour 'size'"),
        (lambda: found.figure(colour="rank"), "no asked token 0"),
        (found.curves, "no token was asked for"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_a_model_whose_output_is_something_else_is_refused() -> None:
    model = unplanted.randomised()
    # A scale behind the unembedding, which some families have.
    inner = model.forward
    model.forward = lambda *args, **kwargs: 3 * inner(*args, **kwargs)
    with pytest.raises(ValueError, match="is not its final norm and unembedding"):
        logit_lens.read(model, IDS)


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = unplanted.randomised()
    with torch.no_grad():
        next(iter(model.ln_final.parameters()))[0] = torch.nan
    with pytest.raises(ValueError, match="is not finite"):
        logit_lens.read(model, IDS)
