"""ContrastPairs: aligned clean and corrupted prompts with their answers, tokenized for one model.

1. A prompt is tokenized as the model's bridge does it (its own BOS convention, recorded).
2. An answer is tokenized in its place, after its prompt: " Mary" and "Mary" differ for most models.
3. Each pair must have equal token length and single-token answers; what does not is refused with
   both tokenizations side by side and where they part. Nothing is padded, here or later: pairs of
   different lengths are grouped, and a group is run as one batch.
4. Positions have names as well as indices: "last token", "first difference", and whatever `spans`
   names in the prompts.
5. With `align=True` the two prompts of a pair may differ in length: their tokens are matched by a
   diff with the named spans as anchors (see `alignment`), and `matched` says which stand for which.

Files are read in the conventions that the field already uses (see `files` for the columns).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

from workbench.core.prompts import alignment, files, positions, tasks
from workbench.core.prompts.encoding import Answer, Encoder, PairsError
from workbench.core.prompts.positions import Span

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_FILE_BYTES = 5_000_000
MAX_PAIRS = 10_000
# How many of a task's texts are tried for each pair that is asked for: a vocabulary in which fewer
# than one in fifty fits does not hold the task's words.
_TRIES_PER_PAIR = 50

Answers = Sequence[Answer] | Sequence[Sequence[Answer]]
Spans = Mapping[str, Sequence[positions.Place]]

__all__ = ["Answer", "Answers", "ContrastPairs", "PairsError", "Span", "Spans"]


@dataclasses.dataclass(frozen=True)
class ContrastPairs:
    """Clean and corrupted prompts of equal token length, or aligned, with single-token answers.

    Attributes:
        name: What to call them in titles and reports.
        clean: Clean prompts.
        corrupted: Corrupted prompts.
        clean_tokens: Token ids of each clean prompt.
        corrupted_tokens: Token ids of each corrupted prompt, as many as the clean one's unless
            they are aligned.
        clean_strings: The clean tokens as text, one string a token.
        corrupted_strings: The corrupted tokens as text.
        answers: Token ids of the correct answers of each clean prompt, at least one.
        wrong_answers: Token ids of the wrong answers; may be empty.
        answer_strings: The correct answers as text.
        wrong_strings: The wrong answers as text.
        code: Python expression that makes these pairs again, given `model`.
        spans: Position sets that have a name in these prompts.
        matched: For each pair the matched (clean position, corrupted position), increasing in both
            and ending with both last positions; None where all lengths are equal, and each
            position is matched with itself.
    """

    name: str
    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    clean_tokens: tuple[tuple[int, ...], ...]
    corrupted_tokens: tuple[tuple[int, ...], ...]
    clean_strings: tuple[tuple[str, ...], ...]
    corrupted_strings: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    wrong_answers: tuple[tuple[int, ...], ...]
    answer_strings: tuple[tuple[str, ...], ...]
    wrong_strings: tuple[tuple[str, ...], ...]
    code: str
    spans: tuple[Span, ...] = ()
    # A saved result gives a list back, since JSON has no tuples; it never stays one.
    matched: tuple[alignment.Matching, ...] | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean)

    @classmethod
    def from_text(
        cls,
        model: TransformerBridge,
        clean: Sequence[str],
        corrupted: Sequence[str],
        answers: Answers,
        wrong_answers: Answers | None = None,
        *,
        name: str = "own pairs",
        prepend_bos: bool | None = None,
        spans: Spans | None = None,
        align: bool = False,
    ) -> ContrastPairs:
        """Tokenize texts for a model and check that each pair can be compared.

        Args:
            model: Whose tokenizer to use.
            clean: Prompts on which the behaviour appears.
            corrupted: Prompts that differ in what the behaviour depends on.
            answers: Correct next tokens of the clean prompts: one text (or token id) a prompt, or
                a list of them. Texts keep their leading space.
            wrong_answers: Wrong next tokens in the same form; optional for metrics other than the
                logit difference.
            name: What to call them.
            prepend_bos: None follows the model's own convention.
            spans: Position sets by name, one place a pair: a text that stands in the prompt once,
                a slice of the prompt's characters, or a tuple of two of these where clean and
                corrupted differ. Every token that overlaps the place belongs to the set.
            align: Match the tokens of prompts that differ in length, with the spans as anchors.

        Returns:
            The pairs.

        Raises:
            PairsError: If counts differ, a text is empty or too long, a word is outside the
                vocabulary, lengths differ within a pair and are not to be aligned, an answer is
                not one token, or a span is not in its prompt.
        """
        wrong = [()] * len(clean) if wrong_answers is None else wrong_answers
        counts = (len(clean), len(corrupted), len(answers), len(wrong))
        if len(set(counts)) != 1:
            raise PairsError(
                "every pair needs one clean prompt, one corrupted prompt and its answers; found "
                "{} clean, {} corrupted, {} answers, {} wrong answers".format(*counts)
            )
        if not clean:
            raise PairsError("there are no pairs: give at least one clean and corrupted prompt")
        if len(clean) > MAX_PAIRS:
            raise PairsError(f"{len(clean)} pairs are too many for one run; at most {MAX_PAIRS}")
        encoder = Encoder(model, prepend_bos)
        rows = zip(clean, corrupted, answers, wrong, strict=True)
        encoded = [encoder.pair(i, *row, align=align) for i, row in enumerate(rows)]
        texts = (list(clean), list(corrupted), list(answers), list(wrong))
        places = {label: list(where) for label, where in (spans or {}).items()}
        options = {
            "name": name,
            **({} if prepend_bos is None else {"prepend_bos": prepend_bos}),
            **({"spans": places} if places else {}),
            **({"align": True} if align else {}),
        }
        arguments = [*map(repr, texts), *(f"{key}={value!r}" for key, value in options.items())]
        code = f"ContrastPairs.from_text(model, {', '.join(arguments)})"
        columns = zip(*encoded, strict=True)
        pairs = cls(name, tuple(clean), tuple(corrupted), *columns, code=code)
        named = dataclasses.replace(pairs, spans=_named(encoder, pairs, places))
        return dataclasses.replace(named, matched=_matched(named))

    @classmethod
    def from_records(
        cls, model: TransformerBridge, records: Iterable[Any], *, name: str, align: bool = False
    ) -> ContrastPairs:
        """Pairs from records with the column names of any of the supported files.

        Args:
            model: Whose tokenizer to use.
            records: One mapping a pair.
            name: What to call them.
            align: Match the tokens of prompts that differ in length.

        Returns:
            The pairs.

        Raises:
            PairsError: If a column is missing, or as for `from_text`.
        """
        checked = [files.read(i, record) for i, record in enumerate(records)]
        return cls.from_text(
            model,
            [record.clean for record in checked],
            [record.corrupted for record in checked],
            [record.answers for record in checked],
            [record.wrong_answers for record in checked],
            name=name,
            spans=files.spans(checked),
            align=align,
        )

    @classmethod
    def from_file(
        cls, model: TransformerBridge, path: str | os.PathLike[str], *, align: bool = False
    ) -> ContrastPairs:
        """Read pairs from a CSV, JSONL or JSON file (see `files` for the columns).

        Args:
            model: Whose tokenizer to use.
            path: The file; its ending says which format.
            align: Match the tokens of prompts that differ in length.

        Returns:
            The pairs, named after the file.

        Raises:
            PairsError: If the file is missing, empty, too large or malformed, or as for
                `from_text`.
        """
        file = Path(path)
        try:
            size = file.stat().st_size
            data = file.read_bytes() if size <= MAX_FILE_BYTES else b""
        except OSError as error:
            raise PairsError(f"cannot read {file}: {error.strerror}") from error
        return cls.from_bytes(model, data, name=file.name, size=size, align=align)

    @classmethod
    def from_bytes(
        cls,
        model: TransformerBridge,
        data: bytes,
        *,
        name: str,
        size: int | None = None,
        align: bool = False,
    ) -> ContrastPairs:
        """Read pairs from a file's content, for example an upload.

        Args:
            model: Whose tokenizer to use.
            data: The content.
            name: The file's name; its ending says which format.
            size: The content's full size, where `data` was not read because of it.
            align: Match the tokens of prompts that differ in length.

        Returns:
            The pairs.

        Raises:
            PairsError: As for `from_file`.
        """
        size = len(data) if size is None else size
        if size > MAX_FILE_BYTES:
            raise PairsError(
                f"{name} has {size / 1e6:.1f} MB, more than the {MAX_FILE_BYTES / 1e6:.0f} MB that "
                "one run reads: split it, or keep fewer pairs"
            )
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise PairsError(f"{name} is not UTF-8 text (byte {error.start})") from error
        rows = files.records(name, text)
        return cls.from_records(model, rows, name=name, align=align)

    @classmethod
    def from_task(
        cls,
        model: TransformerBridge,
        task: str,
        *,
        n: int = 32,
        seed: int = 0,
        templates: str = "one",
    ) -> ContrastPairs:
        """Pairs of a named task whose words are single tokens for this model.

        Args:
            model: Whose tokenizer to use.
            task: One of `workbench.core.prompts.tasks.TASKS`.
            n: How many pairs.
            seed: Equal seeds give equal pairs.
            templates: "one" draws every pair from one sentence template, so that a position means
                the same in each of them; "all" mixes templates of any length.

        Returns:
            The pairs.

        Raises:
            PairsError: If the model's vocabulary does not hold enough of the task's words.
            ValueError: If the task is unknown.
        """
        chosen = tasks.get_task(task)
        if not 1 <= n <= MAX_PAIRS:
            raise PairsError(f"n = {n} pairs were asked for; expected 1 to {MAX_PAIRS}")
        if templates not in ("one", "all"):
            raise PairsError(f"templates = {templates!r}; expected 'one' or 'all'")
        encoder = Encoder(model, None)
        texts = _fitting(encoder, chosen.stream(seed), n, one_template=templates == "one")
        if len(texts) < n:
            raise PairsError(
                f"task {task!r} needs words that {model.cfg.model_name!r} has as single tokens, "
                f"and only {len(texts)} of the {n} pairs fit its vocabulary: choose another task, "
                "fewer pairs or your own"
            )
        mixed = templates == "all"
        pairs = cls.from_text(
            model,
            [text.clean for text in texts],
            [text.corrupted for text in texts],
            [text.answer for text in texts],
            [text.wrong_answer for text in texts],
            name=f"{task} (n={n}, seed={seed}{', all templates' if mixed else ''})",
            spans=_task_spans(texts),
        )
        how = ', templates="all"' if mixed else ""
        code = f'ContrastPairs.from_task(model, "{task}", n={n}, seed={seed}{how})'
        return dataclasses.replace(pairs, code=code)

    @property
    def aligned(self) -> bool:
        """Whether some pair has prompts of different length, matched by `matched`."""
        return self.matched is not None

    def columns(self, i: int) -> tuple[tuple[int, int], ...]:
        """Matched (clean position, corrupted position) of a pair, aligned or not."""
        if self.matched is not None:
            return self.matched[i]
        return tuple((position, position) for position in range(len(self.clean_tokens[i])))

    def lengths(self, i: int) -> tuple[int, int]:
        """Number of tokens of the clean and of the corrupted prompt of a pair."""
        return len(self.clean_tokens[i]), len(self.corrupted_tokens[i])

    def position_names(self) -> tuple[str, ...]:
        """Names that `position_set` knows: those of all pairs, then those of these prompts."""
        return (*positions.COMPUTED, *(span.name for span in self.spans))

    def position_set(self, name: str) -> Span:
        """Token positions of a named set in every prompt.

        Args:
            name: "last token"; "first difference", the first matched position whose tokens differ;
                "differing tokens", all of them; or the name of one of the pairs' spans.

        Returns:
            The set. A pair whose matched tokens are all the same has no differing position.

        Raises:
            PairsError: If these pairs have no set of that name; names those that they have.
        """
        if name in positions.COMPUTED:
            matchings = [self.columns(i) for i in range(len(self))]
            return positions.computed(name, self.clean_tokens, self.corrupted_tokens, matchings)
        for span in self.spans:
            if span.name == name:
                return span
        known = ", ".join(map(repr, self.position_names()))
        raise PairsError(f"no position set is called {name!r}; these pairs have {known}")

    def alignment_table(self, i: int) -> list[alignment.Row]:
        """How the tokens of a pair are matched, in reading order.

        Args:
            i: Index of the pair.

        Returns:
            Rows of (clean token, corrupted token, status); the status is "same", "substituted",
            "only in clean" or "only in corrupted", and a missing token is empty.
        """
        return alignment.table(
            list(zip(self.clean_tokens[i], self.clean_strings[i], strict=True)),
            list(zip(self.corrupted_tokens[i], self.corrupted_strings[i], strict=True)),
            self.columns(i),
        )

    def alignment_text(self, i: int) -> str:
        """Both token rows of a pair under each other, for a monospaced font.

        Args:
            i: Index of the pair.

        Returns:
            Two lines; a token without a partner stands against a gap.
        """
        return alignment.picture(self.alignment_table(i))

    def groups(self) -> list[Int[np.ndarray, " prompt"]]:
        """Indices of the pairs of each clean and corrupted length, shortest first.

        Each group is one batch.
        """
        lengths = np.array([self.lengths(i) for i in range(len(self))])
        return [
            np.flatnonzero((lengths == pair).all(axis=1)) for pair in np.unique(lengths, axis=0)
        ]

    def batches(self, most: int) -> list[Int[np.ndarray, " batch"]]:
        """The groups in pieces of at most so many pairs."""
        return [
            group[start : start + most]
            for group in self.groups()
            for start in range(0, len(group), most)
        ]

    def first_differences(self) -> Int[np.ndarray, " prompt"]:
        """First index at which clean and corrupted differ or one of them has ended.

        It is the length where they never do. In a causal model nothing at an index before it
        differs between the two runs.
        """
        return np.array(
            [
                next((p for p, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), shorter)
                for x, y in zip(self.clean_tokens, self.corrupted_tokens, strict=True)
                for shorter in [min(len(x), len(y))]
            ]
        )

    def batch(
        self, indices: Sequence[int] | Int[np.ndarray, " prompt"]
    ) -> tuple[Int[torch.Tensor, "batch _position"], Int[torch.Tensor, "batch _position"]]:
        """Clean and corrupted tokens of pairs of one group."""
        clean = torch.tensor([self.clean_tokens[i] for i in indices])
        return clean, torch.tensor([self.corrupted_tokens[i] for i in indices])

    def subset(self, indices: Sequence[int]) -> ContrastPairs:
        """Some of the pairs, in the given order."""
        whole = ("name", "code", "spans", "matched")
        columns = [f.name for f in dataclasses.fields(self) if f.name not in whole]
        picked = {c: tuple(getattr(self, c)[i] for i in indices) for c in columns}
        unequal = any(x != y for x, y in map(self.lengths, indices))
        return dataclasses.replace(
            self,
            **picked,
            spans=tuple(span.subset(indices) for span in self.spans),
            matched=tuple(self.columns(i) for i in indices) if unequal else None,
            code=f"{self.code}.subset({list(map(int, indices))})",
        )

    def position_labels(self) -> list[str]:
        """One label a position: the token where all prompts share it, else two of the tokens.

        Aligned pairs have one label a matched position, made from the clean tokens.

        Returns:
            The labels.

        Raises:
            PairsError: If the pairs have more than one length or alignment, so that positions do
                not line up.
        """
        lengths = sorted({self.lengths(i) for i in range(len(self))})
        if len(lengths) > 1:
            raise PairsError(
                f"positions do not line up: the prompts have {min(map(min, lengths))} to "
                f"{max(map(max, lengths))} tokens; use pairs of one length, name position sets, or "
                "patch all positions at once (positions='all')"
            )
        ways = set(self.matched or ())
        if len(ways) > 1:
            raise PairsError(
                f"positions do not line up: the pairs are aligned in {len(ways)} different "
                "ways; name position sets, or patch all positions at once (positions='all')"
            )
        shown = [clean for clean, _ in self.columns(0)]
        columns = zip(*([row[p] for p in shown] for row in self.clean_strings), strict=True)
        return [_shared_label(list(dict.fromkeys(column))) for column in columns]

    def digest(self) -> str:
        """Sha256 over everything that changes numbers: tokens, answers and how they are matched."""
        content = (self.clean_tokens, self.corrupted_tokens, self.answers, self.wrong_answers)
        matched = () if self.matched is None else (self.matched,)
        return hashlib.sha256(json.dumps((*content, *matched)).encode()).hexdigest()


def _named(
    encoder: Encoder, pairs: ContrastPairs, places: Mapping[str, Sequence[positions.Place]]
) -> tuple[Span, ...]:
    for name in places:
        if not name.strip() or name in positions.COMPUTED:
            raise PairsError(
                f"{name!r} cannot name a span: every set of pairs has {positions.COMPUTED}; choose "
                "another name"
            )
    texts = (pairs.clean, pairs.corrupted)
    tokens = (pairs.clean_tokens, pairs.corrupted_tokens)
    return tuple(encoder.span(name, texts, tokens, where) for name, where in places.items())


def _matched(pairs: ContrastPairs) -> tuple[alignment.Matching, ...] | None:
    """Matched positions of each pair, None where all have equal lengths.

    A pair of equal lengths keeps position by position, alone or beside others.
    """
    both = list(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True))
    if all(len(x) == len(y) for x, y in both):
        return None
    return tuple(
        pairs.columns(i) if len(x) == len(y) else _align(i, x, y, pairs.spans)
        for i, (x, y) in enumerate(both)
    )


def _align(
    i: int, clean: Sequence[int], corrupted: Sequence[int], spans: Sequence[Span]
) -> alignment.Matching:
    anchors = [(span.clean[i], span.corrupted[i]) for span in spans]
    try:
        return alignment.align(clean, corrupted, anchors)
    except alignment.AlignmentError as error:
        names = " and ".join(repr(spans[anchor].name) for anchor in error.anchors)
        raise PairsError(f"pair {i + 1}, spans {names}: {error}") from error


def _task_spans(texts: Sequence[tasks.TextPair]) -> Spans:
    """Where each text pair has what its task names."""
    return {
        span.name: [
            (slice(*place.clean), slice(*place.corrupted))
            for text in texts
            for place in text.spans
            if place.name == span.name
        ]
        for span in texts[0].spans
    }


def _shared_label(tokens: list[str]) -> str:
    return tokens[0] if len(tokens) == 1 else f"{tokens[0]}|{tokens[1].strip()}|…"[:24]


def _fitting(
    encoder: Encoder, stream: Iterator[tasks.TextPair], n: int, *, one_template: bool
) -> list[tasks.TextPair]:
    """The first n of a task's texts that the model's tokenizer can take, without repeats.

    With one template, the template of the first text that fits is the one; and the token length of
    the first is everybody's.
    """
    kept: dict[tuple[str, str], tasks.TextPair] = {}
    template, length = None, None
    for text in itertools.islice(stream, n * _TRIES_PER_PAIR):
        if one_template and template not in (None, text.template):
            continue
        try:
            tokens = encoder.pair(0, text.clean, text.corrupted, text.answer, text.wrong_answer)[0]
        except PairsError:
            continue
        if one_template and length not in (None, len(tokens)):
            continue
        template, length = text.template, len(tokens)
        kept[text.clean, text.corrupted] = text
        if len(kept) == n:
            break
    return list(kept.values())
