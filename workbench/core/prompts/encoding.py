"""Prompts, answers and named places to token ids for one model; what does not fit, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.prompts import positions, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

Answer = str | int


class PairsError(ValueError):
    """Pairs that cannot be compared; the message shows which and why."""


class Encoder:
    """Tokenizes prompts, answers and places for one model and says in words what does not fit."""

    def __init__(self, model: TransformerBridge, prepend_bos: bool | None) -> None:
        """Take a model's tokenizer, and its own BOS convention where `prepend_bos` is None."""
        self._model = model
        self._prepend_bos = prepend_bos
        self._d_vocab = int(model.cfg.d_vocab)

    def strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token as text."""
        return tokenization.strings(self._model, ids)

    def prompt(self, i: int, kind: str, text: str) -> tuple[int, ...]:
        """Token ids of a prompt.

        Args:
            i: Index of its pair, for messages.
            kind: "clean" or "corrupted".
            text: The prompt.

        Returns:
            The ids, special tokens included.

        Raises:
            PairsError: If it is empty, too long, or holds a word outside the vocabulary.
        """
        if not text.strip():
            raise PairsError(f"pair {i + 1}: the {kind} prompt is empty")
        try:
            return tokenization.encode(self._model, text, prepend_bos=self._prepend_bos)
        except tokenization.TokenizationError as error:
            raise PairsError(f"pair {i + 1} ({kind}): {error}") from error

    def answer(self, i: int, prompt: str, ids: Sequence[int], answer: Answer) -> int:
        """Token id of an answer in its place.

        Args:
            i: Index of its pair, for messages.
            prompt: The prompt that it follows.
            ids: The prompt's token ids.
            answer: Text or token id.

        Returns:
            The id.

        Raises:
            PairsError: If it is not one token, or outside the vocabulary.
        """
        if isinstance(answer, int):
            if not 0 <= answer < self._d_vocab:
                raise PairsError(
                    f"pair {i + 1}: answer id {answer} is outside the vocabulary (0 to "
                    f"{self._d_vocab - 1})"
                )
            return answer
        try:
            tokenization.require_known(self._model, answer)
        except tokenization.TokenizationError as error:
            raise PairsError(f"pair {i + 1} (answer): {error}") from error
        added = self._added(prompt, ids, answer)
        if len(added) != 1 or not answer.strip():
            raise PairsError(self._not_one_token(i, prompt, answer, added))
        return added[0]

    def _added(self, prompt: str, ids: Sequence[int], answer: str) -> Sequence[int]:
        """Tokens that an answer adds after its prompt; its own where the two melt together."""
        longer = tokenization.whole(self._model, prompt + answer, prepend_bos=self._prepend_bos)
        after = tuple(longer[: len(ids)]) == tuple(ids)
        return longer[len(ids) :] if after else tokenization.bare(self._model, answer)

    def _not_one_token(self, i: int, prompt: str, answer: str, added: Sequence[int]) -> str:
        parts = " ".join(f"[{part}]" for part in self.strings(added)) or "nothing"
        hint = ""
        if answer[:1].strip() and len(self._added(prompt, self._ids(prompt), " " + answer)) == 1:
            hint = f" (did you mean {' ' + answer!r}, with its leading space?)"
        return (
            f"pair {i + 1}: the answer {answer!r} after '…{prompt[-20:]}' is {len(added)} tokens, "
            f"{parts}; expected a single token{hint}"
        )

    def _ids(self, text: str) -> tuple[int, ...]:
        return tokenization.encode(self._model, text, prepend_bos=self._prepend_bos)

    def pair(
        self,
        i: int,
        clean: str,
        corrupted: str,
        answers: Answer | Sequence[Answer],
        wrong: Answer | Sequence[Answer],
        *,
        align: bool = False,
    ) -> tuple[Any, ...]:
        """Columns of one pair, in the order of ContrastPairs' fields after the texts.

        Args:
            i: Index of the pair, for messages.
            clean: Clean prompt.
            corrupted: Corrupted prompt.
            answers: Correct answer, or several.
            wrong: Wrong answer, or several or none.
            align: Whether the prompts may differ in length.

        Returns:
            Token ids and token texts of both prompts, ids of the answers and of the wrong answers,
            and both as text.

        Raises:
            PairsError: If the pair cannot be compared.
        """
        x, y = self.prompt(i, "clean", clean), self.prompt(i, "corrupted", corrupted)
        if len(x) != len(y) and not align:
            raise PairsError(self._unequal(i, x, y))
        right = [self.answer(i, clean, x, a) for a in _as_list(answers)]
        if not right:
            raise PairsError(f"pair {i + 1} has no answer: give the correct next token")
        other = [self.answer(i, clean, x, a) for a in _as_list(wrong)]
        ids = (x, y, self.strings(x), self.strings(y), tuple(right), tuple(other))
        return *ids, self.strings(right), self.strings(other)

    def span(
        self,
        name: str,
        texts: tuple[Sequence[str], Sequence[str]],
        tokens: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
        places: Sequence[positions.Place],
    ) -> positions.Span:
        """Token positions of a named place in every prompt.

        Args:
            name: What it is called.
            texts: Clean and corrupted prompts.
            tokens: Their token ids.
            places: Where it is, in each pair.

        Returns:
            The named position set.

        Raises:
            PairsError: If there is not one place a pair, or a place is none or not in its prompt.
        """
        if len(places) != len(texts[0]):
            raise PairsError(
                f"span {name!r} has {len(places)} places for {len(texts[0])} pairs; expected one a "
                "pair"
            )
        both = [_both_sides(i, name, place) for i, place in enumerate(places)]
        clean, corrupted = (
            tuple(
                self._covered(f"pair {i + 1} ({kind}), span {name!r}", text, ids, place[side])
                for i, (text, ids, place) in enumerate(
                    zip(texts[side], tokens[side], both, strict=True)
                )
            )
            for side, kind in enumerate(("clean", "corrupted"))
        )
        return positions.Span(name, clean, corrupted)

    def _covered(
        self, label: str, text: str, ids: Sequence[int], where: positions.Characters
    ) -> tuple[int, ...]:
        try:
            start, stop = positions.characters(text, where)
            found = positions.covering(tokenization.offsets(self._model, text, ids), start, stop)
        except (positions.PositionError, tokenization.TokenizationError) as error:
            raise PairsError(f"{label}: {error}") from error
        if not found:
            raise PairsError(
                f"{label}: no token stands for {text[start:stop]!r}; expected characters that the "
                "tokenizer keeps"
            )
        return found

    def _unequal(self, i: int, x: Sequence[int], y: Sequence[int]) -> str:
        part = next((p for p, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), None)
        where = min(len(x), len(y)) if part is None else part
        clean, corrupted = (" ".join(f"[{s}]" for s in self.strings(ids)) for ids in (x, y))
        return (
            f"pair {i + 1}: clean has {len(x)} tokens and corrupted {len(y)}; a pair needs equal "
            "lengths, or align=True, which matches the tokens of both. They part at position "
            f"{where}.\nclean:     {clean}\ncorrupted: {corrupted}"
        )


def _as_list(value: Answer | Sequence[Answer]) -> Sequence[Answer]:
    return [value] if isinstance(value, (str, int)) else value


def _both_sides(
    i: int, name: str, place: object
) -> tuple[positions.Characters, positions.Characters]:
    """Where a place is in the clean and in the corrupted prompt."""
    match place:
        case str() | slice():
            return place, place
        case ((str() | slice()) as clean, (str() | slice()) as corrupted):
            return clean, corrupted
        case _:
            raise PairsError(
                f"pair {i + 1}: span {name!r} is {place!r}; expected a text, a slice(start, stop) "
                "of characters, or two of these for clean and corrupted"
            )
