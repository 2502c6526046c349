"""Tokenization by the model's own convention, on vocabularies that share ids as GPT-2's does."""

from __future__ import annotations

import sys
import threading

import pytest
import transformers
from transformer_lens.model_bridge import TransformerBridge

from workbench.core.planted import two_steps, unplanted, word_level
from workbench.core.prompts import tokenization


@pytest.fixture(scope="module")
def shared() -> TransformerBridge:
    """A model with one id for beginning, end and unknown, put in front of every text."""
    model = unplanted.randomised()
    inner = word_level.word_tokenizer(word_level.WORDS, bos=True).backend_tokenizer
    inner.model.unk_token = "<bos>"
    model.tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<bos>",
        eos_token="<bos>",
        unk_token="<bos>",
        add_bos_token=True,
        name_or_path="",
    )
    return model


def test_a_bos_that_is_also_the_unknown_token_is_no_unknown_word(
    shared: TransformerBridge,
) -> None:
    assert tokenization.encode(shared, "ape bee") == (6, 0, 1)
    assert tokenization.encode(shared, "") == (6,)
    assert tokenization.encode(shared, "<bos> ape", prepend_bos=False)[-1] == 0


@pytest.mark.parametrize("text", ["ape yak", "yak ape", "yak"])
def test_an_unknown_word_is_named_wherever_it_stands(shared: TransformerBridge, text: str) -> None:
    with pytest.raises(tokenization.TokenizationError, match="'yak' is outside the vocabulary"):
        tokenization.encode(shared, text)
    with pytest.raises(tokenization.TokenizationError, match="'yak' is outside the vocabulary"):
        tokenization.encode(unplanted.randomised(), text)


def test_an_empty_text_without_a_bos_is_refused() -> None:
    with pytest.raises(tokenization.TokenizationError, match="the prompt is empty"):
        tokenization.encode(two_steps.two_layer(), "")


def test_each_token_as_text(shared: TransformerBridge) -> None:
    assert tokenization.strings(shared, (6, 0, 3)) == ("<bos>", "ape", "dog")


def test_threads_that_read_at_once_do_not_get_the_padding_of_each_other() -> None:
    # Rows of different lengths, while two others ask for a batch that is padded.
    model = unplanted.randomised()
    texts = [" ".join(word_level.WORDS[: 1 + length]) for length in range(4)]
    alone = tokenization.rows(model, texts)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            tokenization.whole(model, texts[0])

    usual = sys.getswitchinterval()
    others = [threading.Thread(target=read) for _ in range(2)]
    for one in others:
        one.start()
    try:
        # Threads take turns as often as they can.
        sys.setswitchinterval(1e-5)
        found = [tokenization.rows(model, texts) for _ in range(1000)]
    finally:
        sys.setswitchinterval(usual)
        done.set()
        for one in others:
            one.join()
    assert all(one == alone for one in found)
