"""Next tokens and continuations."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

import workbench
from workbench.core.engine import continuation, running
from workbench.core.prompts import tokenization

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module")
def model() -> TransformerBridge:
    return workbench.load_model("grammar-4l")


def test_next_tokens_are_the_softmax_of_the_last_logits(model: TransformerBridge) -> None:
    ids = tokenization.encode(model, PROMPT)
    logits = running.run(model, torch.tensor([ids]))[0, -1]
    table = continuation.next_tokens(model, PROMPT, k=5)
    order = logits.argsort(descending=True)[:5].tolist()
    assert table["id"].tolist() == order
    expected = logits.softmax(-1)[order].tolist()
    assert table["probability"].tolist() == pytest.approx(expected)
    assert table.iloc[0]["token"] == "Mary"


def test_greedy_takes_the_top_token_each_time_and_stops_at_the_end(
    model: TransformerBridge,
) -> None:
    text = continuation.continue_text(model, PROMPT, n_tokens=20)
    assert text == PROMPT + " Mary."
    assert continuation.continue_text(model, PROMPT, n_tokens=1) == PROMPT + " Mary"


def test_sampling_depends_on_the_seed_alone(model: TransformerBridge) -> None:
    texts = [
        continuation.continue_text(model, "", n_tokens=12, temperature=1.0, seed=seed)
        for seed in (1, 1, 2, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_tokens_have_the_tempered_distribution(temperature: float) -> None:
    """2,000 draws from a known distribution, each share within four standard errors."""
    shares = torch.tensor([0.6, 0.3, 0.1])
    generator = torch.Generator().manual_seed(0)
    drawn = [continuation._choose(shares.log(), temperature, generator) for _ in range(2000)]
    tempered = shares ** (1 / temperature)
    for token, expected in enumerate((tempered / tempered.sum()).tolist()):
        error = (expected * (1 - expected) / 2000) ** 0.5
        assert abs(drawn.count(token) / 2000 - expected) < 4 * error


def test_the_last_token_may_stand_just_past_the_context() -> None:
    small = workbench.load_model("modadd-113")
    assert continuation.continue_text(small, "12 + 57 =", n_tokens=30).split()[-1] == "69"


def test_progress_may_cancel(model: TransformerBridge) -> None:
    class Stop(Exception):
        pass

    def stop(fraction: float, note: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        continuation.continue_text(model, PROMPT, progress=stop)


@pytest.mark.parametrize(
    ("prompt", "temperature", "message"),
    [
        ("When yaks", 0.0, "'yaks' is outside the vocabulary"),
        ("the " * 70, 0.0, "the prompt has 71 tokens and the context is 64"),
        (PROMPT, -1.0, "temperature = -1.0; expected 0 .greedy. or more"),
    ],
)
def test_bad_input(model: TransformerBridge, prompt: str, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        continuation.continue_text(model, prompt, temperature=temperature)
