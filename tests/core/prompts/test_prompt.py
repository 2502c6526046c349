"""One prompt: read from text, from ids, or as it is; what does not fit, in words."""

from __future__ import annotations

import pytest

from workbench.core.planted import unplanted
from workbench.core.prompts.prompt import Prompt

MODEL = unplanted.randomised()


def test_text_and_ids_give_the_same_prompt() -> None:
    written = Prompt.of(MODEL, "ape bee cat")
    assert written.tokens == ("<bos>", "ape", "bee", "cat")
    given = Prompt.of(MODEL, written.ids)
    assert (given.ids, given.tokens, given.text) == (written.ids, written.tokens, "")
    assert Prompt.of(MODEL, written) is written
    assert written.batch.tolist() == [list(written.ids)]
    assert len(written) == 4


def test_positions_count_from_either_end() -> None:
    prompt = Prompt.of(MODEL, "ape bee cat")
    assert prompt.position(-1) == 3
    assert prompt.up_to(MODEL, 1).tokens == ("<bos>", "ape")
    with pytest.raises(ValueError, match="positions 0 to 3, not 4"):
        prompt.position(4)


def test_answers_are_single_tokens() -> None:
    prompt = Prompt.of(MODEL, "ape bee")
    assert prompt.answer(MODEL, " cat") == Prompt.of(MODEL, "cat").ids[-1]
    assert prompt.answer(MODEL, 2) == 2
    with pytest.raises(ValueError, match=r"^the answer ' cat dog' .* is 2 tokens"):
        prompt.answer(MODEL, " cat dog")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "<bos>"),
        ([], "0 tokens; expected 1 to 12"),
        ([0] * 13, "13 tokens; expected 1 to 12"),
        ([0, 99], "token id 99 is outside the vocabulary"),
        ("cow", "outside the vocabulary"),
    ],
)
def test_what_is_no_prompt_is_said_in_a_sentence(given: str | list[int], message: str) -> None:
    if given == "":
        assert Prompt.of(MODEL, given).tokens == (message,)
        return
    with pytest.raises(ValueError, match=message):
        Prompt.of(MODEL, given)


def test_a_model_without_a_tokenizer_reads_ids() -> None:
    model = unplanted.randomised()
    model.tokenizer = None
    assert Prompt.of(model, [1, 2]).tokens == ("1", "2")
    with pytest.raises(ValueError, match="no tokenizer"):
        Prompt.of(model, "ape")
