"""ContrastPairs: aligned clean and corrupted prompts with their answers, tokenized for one model.

1. A prompt is tokenized as the model's bridge does it (its own BOS convention, recorded).
2. An answer is tokenized in its place, after its prompt: " Mary" and "Mary" differ for most models.
3. Each pair must have equal token length and single-token answers; what does not is refused with
   both tokenizations side by side and where they part. Nothing is padded, here or later: pairs of
   different lengths are grouped, and a group is run as one batch.

Files are read in the conventions that the field already uses: CSV with columns
`clean,corrupted,answer,wrong_answer`, or with token ids as `clean,corrupted,correct_idx,
incorrect_idx` (EAP-IG); JSONL with one object of the first form per line; JSON as
`{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}` (auto-circuit).
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int

from workbench.core.prompts import tasks, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

MAX_FILE_BYTES = 5_000_000
MAX_PAIRS = 10_000
# How many of a task's texts are tried for each pair that is asked for: a vocabulary in which fewer
# than one in fifty fits does not hold the task's words.
_TRIES_PER_PAIR = 50

Answer = str | int
Answers = Sequence[Answer] | Sequence[Sequence[Answer]]


class PairsError(ValueError):
    """Pairs that cannot be compared; the message shows which and why."""


@dataclasses.dataclass(frozen=True)
class ContrastPairs:
    """Clean and corrupted prompts of equal token length, with single-token answers.

    Attributes:
        name: What to call them in titles and reports.
        clean: Clean prompts.
        corrupted: Corrupted prompts.
        clean_tokens: Token ids of each clean prompt.
        corrupted_tokens: Token ids of each corrupted prompt, as many as the clean one's.
        clean_strings: The clean tokens as text, one string a token.
        corrupted_strings: The corrupted tokens as text.
        answers: Token ids of the correct answers of each clean prompt, at least one.
        wrong_answers: Token ids of the wrong answers; may be empty.
        answer_strings: The correct answers as text.
        wrong_strings: The wrong answers as text.
        code: Python expression that makes these pairs again, given `model`.
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

        Returns:
            The pairs.

        Raises:
            PairsError: If counts differ, a text is empty or too long, a word is outside the
                vocabulary, lengths differ within a pair, or an answer is not one token.
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
        encoder = _Encoder(model, prepend_bos)
        rows = zip(clean, corrupted, answers, wrong, strict=True)
        encoded = [encoder.pair(i, *row) for i, row in enumerate(rows)]
        texts = (list(clean), list(corrupted), list(answers), list(wrong))
        bos = "" if prepend_bos is None else f", prepend_bos={prepend_bos}"
        code = f"ContrastPairs.from_text(model, {', '.join(map(repr, texts))}, name={name!r}{bos})"
        columns = zip(*encoded, strict=True)
        return cls(name, tuple(clean), tuple(corrupted), *columns, code=code)

    @classmethod
    def from_records(
        cls, model: TransformerBridge, records: Iterable[Any], *, name: str
    ) -> ContrastPairs:
        """Pairs from records with the column names of any of the supported files.

        Args:
            model: Whose tokenizer to use.
            records: One mapping a pair.
            name: What to call them.

        Returns:
            The pairs.

        Raises:
            PairsError: If a column is missing, or as for `from_text`.
        """
        rows = [_columns(i, record) for i, record in enumerate(records)]
        clean, corrupted, answers, wrong = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls.from_text(model, clean, corrupted, answers, wrong, name=name)

    @classmethod
    def from_file(cls, model: TransformerBridge, path: str | os.PathLike[str]) -> ContrastPairs:
        """Read pairs from a CSV, JSONL or JSON file (see the module for the columns).

        Args:
            model: Whose tokenizer to use.
            path: The file; its ending says which format.

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
        return cls.from_bytes(model, data, name=file.name, size=size)

    @classmethod
    def from_bytes(
        cls, model: TransformerBridge, data: bytes, *, name: str, size: int | None = None
    ) -> ContrastPairs:
        """Read pairs from a file's content, for example an upload.

        Args:
            model: Whose tokenizer to use.
            data: The content.
            name: The file's name; its ending says which format.
            size: The content's full size, where `data` was not read because of it.

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
        if not text.strip():
            raise PairsError(f"{name} is empty: expected {_EXPECTED}")
        return cls.from_records(model, _records(name, text), name=name)

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
        encoder = _Encoder(model, None)
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
        )
        how = ', templates="all"' if mixed else ""
        code = f'ContrastPairs.from_task(model, "{task}", n={n}, seed={seed}{how})'
        return dataclasses.replace(pairs, code=code)

    def groups(self) -> list[Int[np.ndarray, " prompt"]]:
        """Indices of the pairs of each token length, shortest first; each group is one batch."""
        lengths = np.array([len(tokens) for tokens in self.clean_tokens])
        return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]

    def first_differences(self) -> Int[np.ndarray, " prompt"]:
        """First position at which clean and corrupted differ; the length where they never do.

        In a causal model nothing before it differs between the two runs.
        """
        return np.array(
            [
                next((p for p, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
                for x, y in zip(self.clean_tokens, self.corrupted_tokens, strict=True)
            ]
        )

    def batch(
        self, indices: Sequence[int] | Int[np.ndarray, " prompt"]
    ) -> tuple[Int[torch.Tensor, "batch position"], Int[torch.Tensor, "batch position"]]:
        """Clean and corrupted tokens of pairs that have one length."""
        clean = torch.tensor([self.clean_tokens[i] for i in indices])
        return clean, torch.tensor([self.corrupted_tokens[i] for i in indices])

    def subset(self, indices: Sequence[int]) -> ContrastPairs:
        """Some of the pairs, in the given order."""
        columns = [f.name for f in dataclasses.fields(self) if f.name not in ("name", "code")]
        picked = {c: tuple(getattr(self, c)[i] for i in indices) for c in columns}
        code = f"{self.code}.subset({list(map(int, indices))})"
        return dataclasses.replace(self, **picked, code=code)

    def position_labels(self) -> list[str]:
        """One label a position: the token where all prompts share it, else two of the tokens.

        Raises:
            PairsError: If the pairs have more than one length, so that positions do not line up.
        """
        lengths = sorted({len(tokens) for tokens in self.clean_tokens})
        if len(lengths) > 1:
            raise PairsError(
                f"positions do not line up: the prompts have {lengths[0]} to {lengths[-1]} tokens; "
                "use pairs of one length, or patch all positions at once (positions='all')"
            )
        columns = zip(*self.clean_strings, strict=True)
        return [_shared_label(list(dict.fromkeys(column))) for column in columns]

    def digest(self) -> str:
        """Sha256 over everything that changes numbers: tokens and answers."""
        content = (self.clean_tokens, self.corrupted_tokens, self.answers, self.wrong_answers)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _shared_label(tokens: list[str]) -> str:
    return tokens[0] if len(tokens) == 1 else f"{tokens[0]}|{tokens[1].strip()}|…"[:24]


def _fitting(
    encoder: _Encoder, stream: Iterator[tasks.TextPair], n: int, *, one_template: bool
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


_EXPECTED = (
    "columns clean,corrupted,answer,wrong_answer (or clean,corrupted,correct_idx,incorrect_idx "
    'with token ids), the same as JSONL, or JSON with {"prompts": [{"clean", "corrupt", "answers", '
    '"wrong_answers"}]}'
)
_CLEAN = ("clean",)
_CORRUPTED = ("corrupted", "corrupt")
_ANSWERS = ("answer", "answers", "correct_idx")
_WRONG = ("wrong_answer", "wrong_answers", "incorrect_idx")


def _records(name: str, text: str) -> list[Any]:
    """Records of a file's text; the name's ending decides between CSV, JSONL and JSON."""
    ending = Path(name).suffix.lower()
    try:
        if ending == ".csv":
            # A quote that is never closed would otherwise swallow the rest of the file unnoticed.
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        if ending == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        if ending == ".json":
            document = json.loads(text)
            records = document["prompts"] if isinstance(document, dict) else document
            if not isinstance(records, list):
                raise PairsError(f"{name} holds {type(records).__name__}: expected {_EXPECTED}")
            return records
    except (csv.Error, json.JSONDecodeError, KeyError, RecursionError) as error:
        raise PairsError(f"{name} cannot be read ({error}): expected {_EXPECTED}") from error
    raise PairsError(f"{name} is neither .csv, .jsonl nor .json: expected {_EXPECTED}")


def _columns(i: int, record: Any) -> tuple[str, str, list[Answer], list[Answer]]:
    if not isinstance(record, Mapping):
        raise PairsError(f"record {i + 1} is {type(record).__name__}: expected {_EXPECTED}")

    def column(names: tuple[str, ...]) -> tuple[str, Any] | None:
        return next(((n, record[n]) for n in names if record.get(n) is not None), None)

    clean, corrupted, answers = column(_CLEAN), column(_CORRUPTED), column(_ANSWERS)
    wrong = column(_WRONG)
    if clean is None or corrupted is None or answers is None:
        found = ", ".join(map(str, record)) or "none"
        raise PairsError(f"record {i + 1} has columns {found}: expected {_EXPECTED}")
    if answers[0] == "correct_idx" and wrong is None:
        # Alone, this column holds other things than token ids in some of the field's files.
        raise PairsError(
            f"record {i + 1} has correct_idx without incorrect_idx: give both as token ids, or "
            "answer and wrong_answer as text"
        )
    texts = (clean[1], corrupted[1])
    if not all(isinstance(text, str) for text in texts):
        raise PairsError(f"record {i + 1}: clean and corrupted must be texts, found {texts}")
    return *texts, _answer_list(i, *answers), _answer_list(i, *wrong) if wrong else []


def _answer_list(i: int, column: str, value: Any) -> list[Answer]:
    """Answers of a record: texts as they stand, and token ids where the column is one of ids."""
    if column.endswith("_idx"):
        try:
            parsed = json.loads(value) if isinstance(value, str) else value
            return [int(item) for item in (parsed if isinstance(parsed, list) else [parsed])]
        except (ValueError, TypeError) as error:
            raise PairsError(
                f"record {i + 1}: {column} must be a token id or a list of them, found {value!r}"
            ) from error
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (str, int)) for item in items):
        raise PairsError(f"record {i + 1}: {column} must be text, found {value!r}")
    return items


class _Encoder:
    """Tokenizes prompts and answers for one model and says in words what does not fit."""

    def __init__(self, model: TransformerBridge, prepend_bos: bool | None) -> None:
        self._model = model
        self._prepend_bos = prepend_bos
        self._d_vocab = int(model.cfg.d_vocab)

    def strings(self, ids: Sequence[int]) -> tuple[str, ...]:
        return tokenization.strings(self._model, ids)

    def prompt(self, i: int, kind: str, text: str) -> tuple[int, ...]:
        if not text.strip():
            raise PairsError(f"pair {i + 1}: the {kind} prompt is empty")
        try:
            return tokenization.encode(self._model, text, prepend_bos=self._prepend_bos)
        except tokenization.TokenizationError as error:
            raise PairsError(f"pair {i + 1} ({kind}): {error}") from error

    def answer(self, i: int, prompt: str, ids: Sequence[int], answer: Answer) -> int:
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
        longer = self._model.to_tokens(
            prompt + answer, prepend_bos=self._prepend_bos, truncate=False
        )[0].tolist()
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
    ) -> tuple[Any, ...]:
        """Columns of one pair, in the order of ContrastPairs' fields after the texts."""
        x, y = self.prompt(i, "clean", clean), self.prompt(i, "corrupted", corrupted)
        if len(x) != len(y):
            raise PairsError(self._unequal(i, x, y))
        right = [self.answer(i, clean, x, a) for a in _as_list(answers)]
        if not right:
            raise PairsError(f"pair {i + 1} has no answer: give the correct next token")
        other = [self.answer(i, clean, x, a) for a in _as_list(wrong)]
        ids = (x, y, self.strings(x), self.strings(y), tuple(right), tuple(other))
        return *ids, self.strings(right), self.strings(other)

    def _unequal(self, i: int, x: Sequence[int], y: Sequence[int]) -> str:
        part = next((p for p, (a, b) in enumerate(zip(x, y, strict=False)) if a != b), None)
        where = min(len(x), len(y)) if part is None else part
        clean, corrupted = (" ".join(f"[{s}]" for s in self.strings(ids)) for ids in (x, y))
        return (
            f"pair {i + 1}: clean has {len(x)} tokens and corrupted {len(y)}; a pair needs equal "
            f"lengths. They part at position {where}.\nclean:     {clean}\ncorrupted: {corrupted}"
        )


def _as_list(value: Answer | Sequence[Answer]) -> Sequence[Answer]:
    return [value] if isinstance(value, (str, int)) else value
