"""How is a sentence about a unit written, so that it says one thing only and can be tested?

1. A `Hypothesis` is a written sentence, such as `at "cat" and not after "the"`, in a small language
   of its own: its forms are those of the class, and of `FORMS`.
2. Words become token ids as it is read, so that no model is needed to say where it is true: each
   part is a function of a chunk of a corpus.

Source: Bills et al. 2023, "Language models can explain neurons in language models" (a description
is a predictor). The language is this project's own.

Units: predictions are 0 or 1.

Limits: a word is read as the model's tokenizer reads it by itself: where a space is part of a
token, write it (`at " cat"`). A sentence is of one row of text, and of what stands up to the token,
never after it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int

from analyses.feature_visualization.descriptions import FIRES, expression, known_ids
from workbench.core.prompts import tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Chunk

Tensor = torch.Tensor
# Where a condition holds. It knows tokens by their ids, so it needs no model any more.
Condition = Callable[["Chunk"], Bool[torch.Tensor, "row position"]]

FORMS = (
    'at "word"',
    'at one of "word", "other"',
    "at /regular expression/",
    "at position 3",
    "at positions 3 to 7",
    "at the first token",
    "at a repeated token",
    "at a repeated pair",
    'at a token that followed "word" before',
    'after "some words"',
    'within 5 tokens after "some words"',
    'anywhere after "some words"',
)
_LEXEMES = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<regex>/(?:[^/\\]|\\.)+/)|(?P<number>\d+)|(?P<word>[A-Za-z]+)'
    r"|(?P<mark>[(),])|(?P<space>\s+)|(?P<other>.)",
    re.DOTALL,
)
# Python's own stack holds some thousand calls, and nobody reads a deeper sentence.
_DEEPEST, _LONGEST = 30, 2000


@dataclasses.dataclass(frozen=True, eq=False)
class Hypothesis:
    r"""The unit fires where a written sentence is true, and only there.

    A sentence is made of these, joined by `and`, `or` (which binds less), `not` and parentheses:

    - `at "word"`, `at one of "word", "other"`, `at /regular expression/`: which token it is. A word
      is one token; an expression is searched for in the token's own text.
    - `at position 3`, `at positions 3 to 7`, `at the first token`: where it stands. Positions count
      from 0 and include BOS; the first token is the first that is not special.
    - `at a repeated token`: it stood earlier in the row. `at a repeated pair`: it stood earlier
      after the same token as here. `at a token that followed "word" before`: it stood earlier in
      the row directly after the word.
    - `after "some words"`: these tokens stand directly before, in this order.
      `within 5 tokens after …`: they end 1 to 5 tokens before. `anywhere after …`: they end
      somewhere before in the row. Instead of words, `one of …`, `/regular expression/` and
      `a repeated token` may stand here.

    A quotation mark within quotation marks is written `\"`, a slash within an expression `\/`.

    Attributes:
        name: The sentence.
        condition: What it says, as a function of a chunk of a corpus.
        threshold: From which prediction on it says that the unit fires.
    """

    name: str
    condition: Condition
    threshold: float = FIRES

    @classmethod
    def of(cls, model: TransformerBridge, sentence: str) -> Hypothesis:
        """Read a sentence.

        Args:
            model: Whose tokens it is about.
            sentence: In the forms that the class describes.

        Returns:
            The description.

        Raises:
            ValueError: If it cannot be read, names no known token, or a position outside of the
                context.
        """
        return cls(sentence.strip(), _Parser(model, sentence).sentence())

    def predict(
        self, model: TransformerBridge, chunk: Chunk
    ) -> Float[torch.Tensor, "row position"]:
        """1 where the sentence is true, 0 elsewhere."""
        del model
        return self.condition(chunk).float()


class _Parser:
    """Recursive descent: a method a level of the language, beginning with what binds least.

    sentence  = both {"or" both}
    both      = single {"and" single}
    single    = "not" single | "(" sentence ")" | "at" place | ["within" N "tokens"] "after" what
              | "anywhere" "after" what
    what      = text | "one" "of" text {"," text} | regex | "a" "repeated" "token"
    """

    def __init__(self, model: TransformerBridge, sentence: str) -> None:
        self._model, self._written, self._depth = model, sentence, 0
        if model.tokenizer is None:
            raise ValueError(
                f"{model.cfg.model_name!r} has no tokenizer: a written hypothesis needs words"
            )
        if len(sentence) > _LONGEST:
            raise ValueError(
                f"the hypothesis has {len(sentence):,} characters: {_LONGEST:,} are the most"
            )
        found = [(str(one.lastgroup), one[0]) for one in _LEXEMES.finditer(sentence)]
        self._left = [one for one in found if one[0] != "space"]

    def sentence(self) -> Condition:
        """The whole, up to its end."""
        found = self._either()
        if self._left:
            raise self._unreadable('"and", "or" or the end')
        return found

    def _either(self) -> Condition:
        parts = [self._both()]
        while self._took("or"):
            parts.append(self._both())
        return lambda chunk: torch.stack([part(chunk) for part in parts]).any(0)

    def _both(self) -> Condition:
        parts = [self._single()]
        while self._took("and"):
            parts.append(self._single())
        return lambda chunk: torch.stack([part(chunk) for part in parts]).all(0)

    def _single(self) -> Condition:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(
                f"the hypothesis is nested more than {_DEEPEST} times: make it simpler"
            )
        found = self._unnested()
        self._depth -= 1
        return found

    def _unnested(self) -> Condition:
        if self._took("not"):
            part = self._single()
            return lambda chunk: ~part(chunk)
        if self._took("("):
            part = self._either()
            self._expect(")")
            return part
        if self._took("at"):
            return self._place()
        if self._took("after"):
            return _earlier(self._what(), 1)
        if self._took("within"):
            reach = self._number("how many tokens")
            if not reach:
                raise ValueError("within 0 tokens there is nothing: write at least 1")
            if not self._took("token"):
                self._expect("tokens")
            self._expect("after")
            return _earlier(self._what(), reach)
        if self._took("anywhere"):
            self._expect("after")
            return _earlier(self._what(), None)
        raise self._unreadable('"at", "after", "within", "anywhere", "not" or "("')

    def _place(self) -> Condition:
        if self._took("position"):
            at = self._position()
            return _positions(at, at)
        if self._took("positions"):
            first = self._position()
            self._expect("to")
            last = self._position()
            if last < first:
                raise ValueError(f"positions {first} to {last} are none: write the smaller first")
            return _positions(first, last)
        if self._took("the"):
            self._expect("first", "token")
            return _first
        if self._took("a"):
            return self._returning()
        return self._what(single=True)

    def _returning(self) -> Condition:
        """What is left after `at a`: conditions on what stood earlier in the row."""
        if self._took("repeated"):
            if self._took("pair"):
                return _repeated_pair
            self._expect("token")
            return _repeated
        self._expect("token", "that", "followed")
        what = self._what()
        self._expect("before")
        return _followed(what)

    def _what(self, *, single: bool = False) -> Condition:
        """Tokens that end here: words, one of several, an expression, or a repeated token."""
        if self._took("one"):
            self._expect("of")
            texts = [self._text(single)]
            while self._took(","):
                texts.append(self._text(single))
            return _ends_one_of(texts)
        if self._took("a"):
            self._expect("repeated", "token")
            return _repeated
        if self._kind() == "regex":
            return _token_in(self._matching(self._next()[1:-1].replace("\\/", "/")))
        return _ends_one_of([self._text(single)])

    def _text(self, single: bool) -> list[int]:
        """Tokens of a text in quotation marks."""
        if self._kind() != "text":
            raise self._unreadable('a word in quotation marks, "one of" or a /regular expression/')
        written = self._next()
        try:
            word = json.loads(written, strict=False)
        except json.JSONDecodeError as error:
            raise ValueError(f'{written} cannot be read: write a backslash as "\\\\"') from error
        ids = known_ids(self._model, word)
        if not ids:
            raise ValueError(f"{written} holds no token: write a word in quotation marks")
        if single and len(ids) > 1:
            *before, last = tokenization.strings(self._model, ids)
            raise ValueError(
                f"{written} is {len(ids)} tokens, and a unit is at one: write "
                f"at {json.dumps(last)} and after {json.dumps(' '.join(before))}"
            )
        return ids

    def _matching(self, pattern: str) -> list[int]:
        """Tokens whose own text holds a match."""
        sought = expression(pattern)
        every = range(min(int(self._model.cfg.d_vocab), len(self._model.tokenizer)))
        strings = tokenization.strings(self._model, every)
        found = [token for token, string in enumerate(strings) if sought.search(string)]
        if not found:
            raise ValueError(f"no token of the vocabulary matches /{pattern}/")
        return found

    def _position(self) -> int:
        at = self._number("a position")
        if at >= self._model.cfg.n_ctx:
            raise ValueError(
                f"position {at} is outside the context, which has 0 to {self._model.cfg.n_ctx - 1}"
            )
        return at

    def _number(self, what: str) -> int:
        if self._kind() != "number":
            raise self._unreadable(f"{what} as a whole number")
        return int(self._next())

    def _kind(self) -> str:
        return self._left[0][0] if self._left else "end"

    def _next(self) -> str:
        return self._left.pop(0)[1]

    def _took(self, word: str) -> bool:
        """Whether a word or mark stands here; then it is passed over."""
        here = self._kind() in ("word", "mark") and self._left[0][1].lower() == word
        if here:
            self._left.pop(0)
        return here

    def _expect(self, *words: str) -> None:
        for word in words:
            if not self._took(word):
                raise self._unreadable(f'"{word}"')

    def _unreadable(self, expected: str) -> ValueError:
        found = repr(self._left[0][1]) if self._left else "the end"
        forms = "; ".join(FORMS)
        return ValueError(
            f"the hypothesis {self._written.strip()!r} cannot be read: expected {expected}, found "
            f"{found}. Forms: {forms}; joined by and, or, not, and parentheses"
        )


def _shifted(mask: Bool[Tensor, "row position"], by: int) -> Bool[Tensor, "row position"]:
    """What holds so many tokens before."""
    out = torch.zeros_like(mask)
    out[:, by:] = mask[:, : mask.shape[1] - by]
    return out


def _token_in(ids: Sequence[int]) -> Condition:
    known = torch.tensor(ids)
    return lambda chunk: torch.isin(chunk.tokens, known)


def _ends_one_of(texts: Sequence[Sequence[int]]) -> Condition:
    """The last token of one of some texts is here, and the others stand before it."""

    def holds(chunk: Chunk) -> Bool[Tensor, "row position"]:
        out = torch.zeros(chunk.tokens.shape, dtype=torch.bool)
        for ids in texts:
            back = [
                _shifted(chunk.tokens == token, by)
                for by, token in enumerate(reversed(ids))
                if by < chunk.tokens.shape[1]
            ]
            if len(back) == len(ids):
                out |= torch.stack(back).all(0)
        return out

    return holds


def _earlier(what: Condition, reach: int | None) -> Condition:
    """Something ended at most so many tokens before; anywhere before for None."""

    def holds(chunk: Chunk) -> Bool[Tensor, "row position"]:
        # How many there were up to the token before each.
        count = _count_before(what(chunk))
        if reach is None or reach >= count.shape[1]:
            return count > 0
        recent = count.clone()
        recent[:, reach:] -= count[:, : count.shape[1] - reach]
        return recent > 0

    return holds


def _count_before(mask: Bool[Tensor, "row position"]) -> Int[Tensor, "row position"]:
    whole = mask.long().cumsum(1)
    return whole - mask.long()


def _positions(first: int, last: int) -> Condition:
    def holds(chunk: Chunk) -> Bool[Tensor, "row position"]:
        at = torch.arange(chunk.tokens.shape[1])
        return ((at >= first) & (at <= last)).expand(chunk.tokens.shape)

    return holds


def _first(chunk: Chunk) -> Bool[Tensor, "row position"]:
    return chunk.counted & (_count_before(chunk.counted) == 0)


def _same_before(chunk: Chunk) -> Bool[Tensor, "row position key"]:
    """Which earlier tokens of the row are the same."""
    tokens = chunk.tokens
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def _repeated(chunk: Chunk) -> Bool[Tensor, "row position"]:
    return _same_before(chunk).any(-1)


def _repeated_pair(chunk: Chunk) -> Bool[Tensor, "row position"]:
    same = _same_before(chunk)
    out = torch.zeros(chunk.tokens.shape, dtype=torch.bool)
    out[:, 1:] = (same[:, 1:, 1:] & same[:, :-1, :-1]).any(-1)
    return out


def _followed(what: Condition) -> Condition:
    """The same token stood earlier, directly after something."""
    return lambda chunk: (_same_before(chunk) & _shifted(what(chunk), 1)[:, None, :]).any(-1)
