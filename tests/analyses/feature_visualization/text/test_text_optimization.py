"""Text optimization as it is called: real models, starts, chance, saving, and bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from analyses.feature_visualization import text
from tests import families
from workbench.core import results
from workbench.core.engine import running, units
from workbench.core.planted import unplanted
from workbench.core.prompts import tokenization

UNIT = "neuron 2.13"
SHORT: dict[str, Any] = {"iterations": 12, "restarts": 1, "children": 8, "population": 4}
EXAMPLE = "Because Rachel and Angela are good friends, Rachel brought a card to"


@pytest.fixture(scope="module")
def grammar() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


@pytest.fixture(scope="module")
def found(grammar: TransformerBridge) -> text.OptimizedText:
    """A search that knows a corpus, from an example."""
    ids = tokenization.encode(grammar, EXAMPLE)
    return text.optimize_text(
        grammar,
        UNIT,
        iterations=15,
        restarts=2,
        children=16,
        start=EXAMPLE,
        length=len(ids) - 1,
        reference=np.linspace(-1, 5, 601),
    )


def plain(model: TransformerBridge, unit: str, ids: list[int]) -> float:
    """The unit at the last token in a plain run."""
    family, index = units.family_of(model, unit)
    _, kept = running.run_and_keep(model, torch.tensor([ids]), [family.hook])
    return float(family.read(kept[family.hook])[0, -1, index])


@pytest.mark.parametrize("method", text.METHODS)
def test_the_optimum_is_beyond_all_random_texts(grammar: TransformerBridge, method: str) -> None:
    found = text.optimize_text(grammar, UNIT, method=method, iterations=20, restarts=1, children=16)
    assert found.beaten == 1
    assert found.optimum > 3 * found.random_activation.max()
    assert len(found.random_activation) == 256
    assert found.n_evaluations >= 256 + 21 * 128
    special = set(grammar.tokenizer.all_special_ids)
    assert not special & set(found.tokens.flatten().tolist())


@pytest.mark.real_model
def test_a_real_model_is_optimized(stories: Path) -> None:
    model = workbench.load_model(str(stories))
    found = text.optimize_text(model, "neuron 3.20", iterations=12, restarts=1, children=16)
    assert found.prefix == (1,)
    assert found.beaten == 1
    again = plain(model, "neuron 3.20", [*found.prefix, *found.tokens[-1].tolist()])
    assert found.optimum == pytest.approx(again, rel=1e-5, abs=1e-5)
    expected = [
        tokenization.encode(model, written) == (*found.prefix, *tokens)
        for written, tokens in zip(found.texts, found.tokens.tolist(), strict=True)
    ]
    assert found.retokenises.tolist() == expected


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_models_without_bos_are_optimized_too(name: str) -> None:
    model = families.bridge(name)
    found = text.optimize_text(model, "neuron 1.5", length=5, **SHORT)
    assert found.prefix == ()
    again = plain(model, "neuron 1.5", found.tokens[-1].tolist())
    assert found.optimum == pytest.approx(again, rel=1e-5, abs=1e-5)


def test_what_is_told_of_a_front_is_true(
    grammar: TransformerBridge, found: text.OptimizedText
) -> None:
    for i, tokens in enumerate(found.tokens):
        ids = [*found.prefix, *tokens.tolist()]
        assert found.activation[i] == pytest.approx(plain(grammar, UNIT, ids), rel=1e-5, abs=1e-5)
        with torch.no_grad():
            loss = grammar(torch.tensor([ids]), return_type="loss")
        assert found.cross_entropy[i] == pytest.approx(float(loss), rel=1e-5, abs=1e-5)
        assert tuple(ids) == tokenization.encode(grammar, found.texts[i])
    assert found.retokenises.all()


def test_quantiles_are_shares_of_the_corpus(found: text.OptimizedText) -> None:
    corpus = np.linspace(-1, 5, 601)
    expected = [(corpus <= value).mean() for value in found.activation]
    np.testing.assert_allclose(found.quantile, expected)
    start = (corpus <= found.start_activation).mean()
    assert found.start_quantile == pytest.approx(start)
    assert found.random_quantile.max() < found.quantile[-1]


def test_it_continues_from_the_example(
    grammar: TransformerBridge, found: text.OptimizedText
) -> None:
    ids = list(tokenization.encode(grammar, EXAMPLE))
    assert found.start_text == EXAMPLE
    assert found.start_activation == pytest.approx(plain(grammar, UNIT, ids), abs=1e-5)
    assert found.optimum > found.start_activation
    one = text.optimize_text(
        grammar, UNIT, start=ids, length=len(ids) - 1, iterations=1, restarts=1, children=8
    )
    changed = (one.tokens != np.array(ids[1:])).sum(axis=1)
    assert changed.max() == 1
    assert one.cross_entropy.min() <= found.start_cross_entropy + 1e-6


def test_a_shorter_example_stands_at_the_end(grammar: TransformerBridge) -> None:
    ids = tokenization.encode(grammar, "a card to")[1:]
    one = text.optimize_text(
        grammar, UNIT, start="a card to", iterations=1, restarts=1, children=2, population=1
    )
    assert (one.tokens[:, -len(ids) :] == np.array(ids)).sum() >= len(ids) * len(one.tokens) - 2
    same = text.optimize_text(
        grammar, UNIT, start=ids, iterations=1, restarts=1, children=2, population=1
    )
    np.testing.assert_array_equal(one.tokens, same.tokens)


def test_equal_seeds_give_equal_bits(grammar: TransformerBridge) -> None:
    one, same = (text.optimize_text(grammar, UNIT, seed=3, **SHORT) for _ in range(2))
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(same, field.name))
    other = text.optimize_text(grammar, UNIT, seed=4, **SHORT)
    assert not np.array_equal(one.best_tokens, other.best_tokens)


def test_only_allowed_tokens_are_used(grammar: TransformerBridge) -> None:
    allowed = [0, 1, *range(40, 60)]
    made = text.optimize_text(grammar, UNIT, allowed=allowed, **SHORT)
    assert set(made.tokens.flatten().tolist()) <= set(range(40, 60))


def test_a_single_token_can_be_all_that_is_allowed(grammar: TransformerBridge) -> None:
    made = text.optimize_text(grammar, UNIT, allowed=[50], **SHORT)
    assert made.tokens.tolist() == [[50] * 12]


def test_prices_get_better_until_they_start_anew(grammar: TransformerBridge) -> None:
    made = text.optimize_text(
        grammar, UNIT, iterations=20, restarts=1, children=8, population=4, restart_every=10
    )
    value = made.penalties * made.trace_cross_entropy[0] - made.trace_activation[0]
    # Below zero the search climbs something else as well.
    steps = np.diff(value, axis=0)[:9][(made.trace_activation[0] > 0)[1:10]]
    assert (steps <= 1e-9).mean() > 0.95
    np.testing.assert_allclose(made.penalties, np.geomspace(0.1, 10, 4))


def test_directions_and_latents_are_units_too(grammar: TransformerBridge) -> None:
    width = int(grammar.cfg.d_model)
    vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    by_direction = text.optimize_text(grammar, "resid_post 1.2", directions=vectors, **SHORT)
    assert by_direction.unit == "direction 1.2"

    class Dictionary:
        W_dec = torch.zeros(3, width)

        def encode(self, activation: torch.Tensor) -> torch.Tensor:
            return activation @ (vectors / vectors.norm(dim=1, keepdim=True)).T

    by_latent = text.optimize_text(grammar, "resid_post 1.2", dictionary=Dictionary(), **SHORT)
    assert by_latent.unit == "latent 1.2"
    np.testing.assert_allclose(by_latent.activation, by_direction.activation, rtol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    model = families.build(families.NATIVE)
    ids = torch.tensor([[6, 1, 2, 3]])
    before = running.run(model, ids)
    text.optimize_text(model, "neuron 1.5", length=5, **SHORT)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.original_model.parameters())
    torch.testing.assert_close(running.run(model, ids), before, rtol=0, atol=0)


def test_progress_rises_to_the_end_and_can_cancel(grammar: TransformerBridge) -> None:
    seen: list[float] = []

    def watch(fraction: float, note: str) -> None:
        seen.append(fraction)
        assert note

    text.optimize_text(grammar, UNIT, progress=watch, **SHORT)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)

    def cancel(fraction: float, note: str) -> None:
        if fraction > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        text.optimize_text(grammar, UNIT, progress=cancel, **SHORT)
    assert not any(point.fwd_hooks for point in grammar.hook_dict.values())


def test_the_result_tells_its_numbers_and_is_saved_whole(
    found: text.OptimizedText, tmp_path: Path
) -> None:
    opened = results.Result.load(found.save(tmp_path / "run"))
    assert isinstance(opened, text.OptimizedText)
    assert opened.texts == found.texts
    assert opened.prefix == found.prefix
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(opened, field.name))
    told = opened.summary()
    for part in (
        UNIT,
        "grammar-4l",
        f"{found.optimum:.4g}",
        f"{found.cross_entropy[-1]:.2f} nats",
        "256 random texts",
        "beyond 100% of them",
        "601 activations of the corpus",
        f"It started from {found.start_activation:.4g}",
    ):
        assert part in told
    frame = opened.to_frame()
    counts = frame["kind"].value_counts().to_dict()
    expected = {"front": len(found.texts), "best of restart": 2, "random": 256, "start": 1}
    assert counts == expected
    assert frame["activation"].to_numpy().max() == found.optimum


def test_the_figure_shows_front_chance_and_start(found: text.OptimizedText) -> None:
    figure = found.figure()
    random, front, start = cast("Any", figure.data)
    np.testing.assert_array_equal(front.y, found.activation)
    np.testing.assert_array_equal(front.x, found.cross_entropy)
    assert found.texts[-1] in front.customdata[-1]
    assert len(random.y) == 256
    assert start.y[0] == found.start_activation


def test_what_a_model_writes_is_no_markup(found: text.OptimizedText) -> None:
    odd = dataclasses.replace(
        found, texts=("<a>",) * len(found.texts), start_text="<b>", n_reference=0
    )
    _, front, start = cast("Any", odd.figure().data)
    assert front.customdata[0].startswith("&lt;a&gt;")
    assert start.customdata[0] == "&lt;b&gt;"


def test_the_script_computes_the_same(grammar: TransformerBridge) -> None:
    made = text.optimize_text(grammar, UNIT, start="a card to", allowed=range(4, 90), **SHORT)
    scope: dict[str, Any] = {}
    exec(made.script().replace("print(", "_ = ("), scope)
    np.testing.assert_array_equal(scope["result"].activation, made.activation)


def test_a_neuron_that_falls_can_be_asked_for(grammar: TransformerBridge) -> None:
    made = text.optimize_text(grammar, "resid_post 1.7", maximise=False, **SHORT)
    assert made.optimum < made.random_activation.min()
    assert "lowest activation" in made.summary()


@pytest.mark.parametrize(
    ("unit", "arguments", "message"),
    [
        ("neuron 9.0", {}, "layers 0 to 3, not 9"),
        ("neuron 1.9999", {}, "neuron 0 to 511, not 9999"),
        ("nonsense", {}, "is no unit"),
        (UNIT, {"method": "magic"}, "method = 'magic'; expected one of epo, gcg"),
        (UNIT, {"length": 64}, "takes 65 with what stands in front of it, and the context is 64"),
        (UNIT, {"length": 0}, "length = 0; expected at least 1"),
        (UNIT, {"iterations": 0}, "iterations = 0; expected at least 1"),
        (UNIT, {"restarts": 0}, "restarts = 0; expected at least 1"),
        (UNIT, {"population": 0}, "population = 0"),
        (UNIT, {"diversity": -1.0}, "diversity = -1.0; expected a number that is not negative"),
        (UNIT, {"penalties": (0.0, 1.0)}, "expected two numbers above 0"),
        (UNIT, {"start": EXAMPLE, "length": 3}, "the start has .* tokens and the text 3"),
        (UNIT, {"start": "qwertyuiop"}, "outside the vocabulary"),
        (UNIT, {"start": [999]}, "token 999 is outside the vocabulary"),
        (UNIT, {"start": []}, "the start is empty"),
        (UNIT, {"allowed": []}, "none of the 0 allowed tokens can be used"),
        (UNIT, {"allowed": [0, 1]}, "none of the 2 allowed tokens can be used"),
        (UNIT, {"allowed": [440]}, "token 440 is outside the vocabulary"),
        (UNIT, {"reference": np.array([])}, "the reference has shape"),
        (UNIT, {"reference": np.array([1.0, np.nan])}, "the reference has shape"),
        ("resid_post 1.3", {"directions": torch.ones(3, 128)}, "direction 0 to 2, not 3"),
        ("resid_post 1.0", {"directions": torch.ones(3, 5)}, "directions have shape"),
        (
            "resid_post 1.0",
            {"directions": torch.ones(3, 128), "dictionary": object()},
            "directions or a dictionary, not both",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    grammar: TransformerBridge, unit: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        text.optimize_text(grammar, unit, **arguments)
    assert "\n" not in str(caught.value)


def test_a_model_without_bos_needs_two_tokens() -> None:
    with pytest.raises(ValueError, match="length of at least 2"):
        text.optimize_text(families.bridge("gpt2"), "neuron 1.5", length=1)


def test_a_model_without_tokenizer_is_refused() -> None:
    model = unplanted.randomised()
    model.tokenizer = None
    with pytest.raises(ValueError, match="has no tokenizer"):
        text.optimize_text(model, "neuron 1.5", length=5)


def test_weights_that_overflow_are_named() -> None:
    model = families.build(families.NATIVE)
    with torch.no_grad():
        for parameter in model.original_model.parameters():
            parameter.fill_(float("inf"))
    with pytest.raises(ValueError, match="is not finite"):
        text.optimize_text(model, "neuron 1.5", length=5)
