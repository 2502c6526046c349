"""The concept: one that is known by name, tokens, a pattern, or a labelled file of one's own."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from workbench.core import files, runs
from workbench.ui import addresses, corpora, escaping

if TYPE_CHECKING:
    from workbench.core.prompts.concepts import Concept

BY_NAME, BY_TOKENS, BY_PATTERN, BY_FILE = "by name", "tokens", "a pattern", "a file"
QUERY = "concept-file"
_Asked = tuple[tuple[str, ...], Callable[[], "Concept"]]
_KEPT_NAME = re.compile(r"[0-9a-f]{16}\.(csv|jsonl)")


@dataclasses.dataclass(frozen=True)
class Picked:
    """A concept and the code that makes it.

    Attributes:
        concept: The concept.
        code: Lines of a script, after which it is called `concept`.
    """

    concept: Concept
    code: tuple[str, ...]


def pick(name: str, subject: Any, mark: str, *, is_model: bool) -> Picked | None:
    """Draw the choice of a concept.

    Args:
        name: Of the model or network, as it is loaded by.
        subject: The model or network.
        mark: Tells it from others.
        is_model: Whether it is a language model, which reads texts.

    Returns:
        What was picked, or None where there is nothing yet; the page says why.
    """
    ways = (BY_NAME, BY_TOKENS, BY_PATTERN, BY_FILE) if is_model else (BY_NAME,)
    way = BY_NAME
    if len(ways) > 1:
        way = st.segmented_control(
            "A concept", ways, default=BY_NAME, key="way", required=True, bind="query-params"
        )
    try:
        asked = _asked(way or BY_NAME, name, subject, is_model)
        if asked is None:
            return None
        code, make = asked
        concept = _made(code, mark, make)
    except ValueError as error:
        st.error(escaping.markdown(str(error)))
        return None
    if concept.confounds and not concept.graded:
        said = ", ".join(concept.confounds)
        balance = st.checkbox(
            f"Choose examples that are alike in {escaping.markdown(said)}",
            key="balance",
            bind="query-params",
            help="Examples with and without the concept differ in these, too; a unit that tells "
            "one of them would seem to tell the concept.",
        )
        if balance:
            code = (*code, "concept = concept.balanced()")
            try:
                concept = _made(code, mark, concept.balanced)
            except ValueError as error:
                st.error(escaping.markdown(str(error)))
                return None
    _say(concept)
    return Picked(concept, code)


def _say(concept: Concept) -> None:
    """How many examples, and what a reader must know of them."""
    examples = concept.examples()
    have = "" if concept.graded else f", {int(examples.labels.sum()):,} of them with the concept"
    st.caption(
        f"{len(examples):,} examples of {len(concept.inputs):,} inputs{have}. "
        + escaping.markdown(" ".join(concept.caveats))
    )


def _asked(way: str, name: str, subject: Any, is_model: bool) -> _Asked | None:
    """What is asked for: the lines of a script, and the same as a function."""
    if way == BY_NAME:
        return _by_name(name, subject, is_model)
    # Brings torch, which a page that opens a model has by now.
    from workbench.core.prompts.concepts import Concept

    if way == BY_FILE:
        place = _file()
        if place is None:
            return None
        return (
            (f"concept = Concept.from_file({str(place)!r}, model=model)",),
            lambda: Concept.from_file(place, model=subject),
        )
    says = "Tokens, with spaces between them" if way == BY_TOKENS else "Regular expression"
    text = st.text_input(says, key=f"concept-{way}", bind="query-params").strip()
    corpus = corpora.pick(subject)
    if not text or corpus is None:
        return None
    first = f"seen, held_out = {corpus.code}"
    if way == BY_TOKENS:
        return (
            (first, f"concept = Concept.from_tokens(model, seen, {text.split()!r})"),
            lambda: Concept.from_tokens(subject, corpus.seen, text.split()),
        )
    return (
        (first, f"concept = Concept.from_pattern(model, seen, {text!r})"),
        lambda: Concept.from_pattern(subject, corpus.seen, text),
    )


def _by_name(name: str, subject: Any, is_model: bool) -> _Asked | None:
    from workbench.core.prompts import named_concepts

    known = named_concepts.named_concepts(name)
    if not known:
        st.info(
            f"No concept of {escaping.markdown(name)} is known by name: label inputs of it in a "
            "script (Concept.of_images)."
        )
        return None
    chosen = addresses.pick("Concept", list(known), query="concept")
    st.caption(escaping.markdown(known[chosen]))
    called = "model" if is_model else "network"
    return (
        (f"concept = named_concepts.named_concept({called}, {chosen!r})",),
        lambda: named_concepts.named_concept(subject, chosen),
    )


def _file() -> Path | None:
    """A file of the reader's own, kept in the run folder under the hash of its content."""
    file = st.file_uploader(
        "CSV with the columns text and label, or JSONL with labels or spans",
        type=["csv", "jsonl"],
        help="label is 1 (has it), 0 (has it not) or -1 (does not count). It stays here.",
    )
    folder = runs.default_root() / "concepts"
    if file is None:
        name = st.query_params.get(QUERY, "")
        linked = folder / name
        return linked if _KEPT_NAME.fullmatch(name) and linked.is_file() else None
    content = file.getvalue()
    place = folder / (hashlib.sha256(content).hexdigest()[:16] + Path(file.name).suffix)
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(place, content)
    st.query_params[QUERY] = place.name
    return place


@st.cache_resource(max_entries=32, show_spinner="Drawing the examples")
def _made(code: tuple[str, ...], mark: str, _make: Callable[[], Concept]) -> Concept:
    """A concept, made once and not at every click; code and mark are what it depends on."""
    del code, mark  # what the cache goes by
    return _make()
