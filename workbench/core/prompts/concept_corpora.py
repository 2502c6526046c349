"""Concepts in a corpus: a set of tokens, a regular expression, a variable that is known of it.

1. Rows are drawn in random order, whole, until the next one would give too many examples.
2. Each token is an example: 1 if it has the concept, 0 if not. Special tokens do not count; of a
   variable, neither do tokens where it is not defined.
3. Rows that stand twice are no independent evidence: the second is left out, and a caveat counts.

Units: positions are those in the row, with what stands in front of it.

Limits: a token has the concept of a pattern if any of its characters is in a match. A pattern whose
search takes longer than some seconds is refused: the time of some patterns grows without bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import regex
from jaxtyping import Int

from workbench.core.prompts import concept_confounds, concepts, tokenization

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.concepts import Concept
    from workbench.core.prompts.corpus import Corpus
    from workbench.core.prompts.grammar_variables import LabelledTokens

# Examples that are drawn if not said otherwise.
MOST = 4000
_SECONDS = 5.0
_SHOWN = 40
# Labels of a row: its number in the corpus and its tokens, to one number a token.
_Labels = Callable[[int, np.ndarray], np.ndarray]


def from_tokens(
    model: TransformerBridge,
    corpus: Corpus,
    tokens: Sequence[str | int],
    *,
    name: str | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Concept:
    """Which tokens are in a set; see `Concept.from_tokens`."""
    ids = sorted({_id(model, token) for token in tokens})
    if not ids:
        raise concepts.ConceptError("a set of tokens needs at least one")
    written = ", ".join(map(repr, tokens[:_SHOWN]))

    def labels(row: int, own: np.ndarray) -> np.ndarray:
        del row
        return np.isin(own, ids).astype(np.int64)

    return _drawn(corpus, labels, name or f"tokens {written}", most=most, seed=seed)


def from_pattern(
    model: TransformerBridge,
    corpus: Corpus,
    pattern: str,
    *,
    name: str | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Concept:
    """Which tokens are in a match of a regular expression; see `Concept.from_pattern`."""
    try:
        sought = regex.compile(pattern)
    except regex.error as error:
        raise concepts.ConceptError(f"{pattern!r} is no regular expression: {error}") from error
    if model.tokenizer is None:
        raise concepts.ConceptError(
            f"{model.cfg.model_name!r} has no tokenizer: a pattern needs text"
        )

    def labels(row: int, own: np.ndarray) -> np.ndarray:
        del row
        text, spans = spelled(model, own.tolist(), corpus.special)
        return overlapping(text, spans, _matches(sought, text))

    return _drawn(corpus, labels, name or f"pattern {pattern}", most=most, seed=seed)


def from_variable(
    labelled: LabelledTokens,
    variable: str,
    value: str,
    *,
    name: str | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Concept:
    """Where a variable of a corpus has a value; see `Concept.from_variable`."""
    known = {each.name: each for each in labelled.variables}
    if variable not in known:
        raise concepts.ConceptError(
            f"{labelled.corpus.name} has no variable {variable!r}: it has {', '.join(known)}"
        )
    found = known[variable]
    if value not in found.values:
        raise concepts.ConceptError(
            f"{variable} has no value {value!r}: it has {', '.join(found.values)}"
        )
    firsts, which = labelled.corpus.firsts, found.values.index(value)

    def labels(row: int, own: np.ndarray) -> np.ndarray:
        at = found.at[firsts[row] : firsts[row] + len(own)]
        return np.where(at < 0, -1, at == which).astype(np.int64)

    return _drawn(labelled.corpus, labels, name or f"{variable} = {value}", most=most, seed=seed)


def spelled(
    model: TransformerBridge, ids: Sequence[int], special: Sequence[int] = ()
) -> tuple[str, Int[np.ndarray, "token 2"]]:
    """The text of a row, and which characters of it each token adds.

    Args:
        model: Whose tokenizer to use.
        ids: The tokens.
        special: Tokens that are no text.

    Returns:
        The text, and the first character of each token with the one after its last.
    """
    text, spans, shown = "", list[tuple[int, int]](), list[int]()
    for token in ids:
        before = len(text)
        if token not in special:
            shown.append(token)
            # From the start, as a tokenizer puts spaces between words that no token holds.
            text = model.tokenizer.decode(shown)
        spans.append((min(before, len(text)), len(text)))
    return text, np.array(spans, dtype=np.int64).reshape(-1, 2)


def overlapping(
    text: str, spans: Int[np.ndarray, "token 2"], sought: Sequence[tuple[int, int]]
) -> Int[np.ndarray, " token"]:
    """Which tokens share a character with one of some parts of a text.

    Args:
        text: What the tokens spell.
        spans: Characters of each token.
        sought: Characters of each part.

    Returns:
        1 or 0 for each token; white space in front of a word is no character of its token, but
        for a token of nothing else.
    """
    inside = np.zeros(len(text) + 1, dtype=bool)
    for start, end in sought:
        inside[start:end] = True
    found = np.zeros(len(spans), dtype=np.int64)
    for number, (start, end) in enumerate(spans.tolist()):
        piece = text[start:end]
        blank = len(piece) - len(piece.lstrip()) if piece.strip() else 0
        found[number] = inside[start + blank : end].any()
    return found


def _matches(sought: regex.Pattern[str], text: str) -> list[tuple[int, int]]:
    try:
        return [match.span() for match in sought.finditer(text, timeout=_SECONDS)]
    except TimeoutError as error:
        raise concepts.ConceptError(
            f"{sought.pattern!r} takes longer than {_SECONDS:.0f} s on the {len(text):,} "
            f"characters of {text[:_SHOWN]!r}…: write it without repetitions or alternatives "
            "that overlap"
        ) from error


def _id(model: TransformerBridge, token: str | int) -> int:
    if not isinstance(token, str):
        if not 0 <= int(token) < int(model.cfg.d_vocab):
            raise concepts.ConceptError(
                f"there is no token {token}: the vocabulary has 0 to {int(model.cfg.d_vocab) - 1}"
            )
        return int(token)
    if model.tokenizer is None:
        raise concepts.ConceptError(
            f"{model.cfg.model_name!r} has no tokenizer: give tokens by number"
        )
    try:
        tokenization.require_known(model, token)
    except tokenization.TokenizationError as error:
        raise concepts.ConceptError(str(error)) from error
    ids = tokenization.bare(model, token)
    if len(ids) != 1:
        pieces = ", ".join(map(repr, tokenization.strings(model, ids)))
        raise concepts.ConceptError(
            f"{token!r} is {len(ids)} tokens ({pieces}): give single tokens"
        )
    return ids[0]


def _drawn(corpus: Corpus, label: _Labels, name: str, *, most: int, seed: int) -> Concept:
    """A concept of whole rows, until there are enough examples."""
    rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    seen: set[bytes] = set()
    twice = total = 0
    for row in np.random.default_rng(seed).permutation(len(corpus)).tolist():
        tokens = corpus.row(row).astype(np.int64)
        if tokens.tobytes() in seen:
            twice += 1
            continue
        seen.add(tokens.tobytes())
        labels = np.where(np.isin(tokens, corpus.special), -1, label(row, tokens))
        count = int((labels >= 0).sum())
        if total + count > most:
            break
        if count:
            rows[row], total = (tokens, labels), total + count
    if not rows:
        raise concepts.ConceptError(
            f"no row of {corpus.name} gives between 1 and {most:,} examples of {name!r}"
        )
    has = sum(int((labels == 1).sum()) for _, labels in rows.values())
    if has in (0, total):
        raise concepts.ConceptError(
            f"{name!r} is true of {'no' if not has else 'every'} token of the {total:,} that were "
            f"drawn from {corpus.name}: draw more (most = {most:,}), or look for something else"
        )
    caveat = f"{twice:,} rows of {corpus.name} stood there twice and were left out"
    kept = [rows[row] for row in sorted(rows)]
    concept = concepts.Concept(
        [tokens for tokens, _ in kept],
        [labels for _, labels in kept],
        name,
        caveats=(caveat,) if twice else (),
    )
    return concept_confounds.with_known(concept)
