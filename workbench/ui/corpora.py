"""The corpus: text that comes with a model, or a file of the reader's own, opened once.

An own file is kept in the run folder under the hash of its content, so that the code on a page and
a link to another page find it there; nothing of it leaves the machine. Part of every corpus is held
out: what is scanned must not be what a description is tested on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from workbench.core import files, runs
from workbench.core.models import card
from workbench.ui import escaping

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.corpus import Corpus

QUERY = "corpus"
_KEPT_NAME = re.compile(r"[0-9a-f]{16}\.(txt|jsonl)")
# Share of the corpus that is scanned; descriptions are tested on the rest.
SEEN = 0.7


@dataclasses.dataclass(frozen=True)
class Parted:
    """A corpus in two parts.

    Attributes:
        seen: What is scanned.
        held_out: What descriptions are tested on.
        code: Code that makes both, as an expression.
        name: What stands for it in an address; empty for the one that comes with the model.
    """

    seen: Corpus
    held_out: Corpus
    code: str
    name: str = ""


def pick(model: TransformerBridge) -> Parted | None:
    """Draw the choice of a corpus.

    Args:
        model: Whose tokenizer reads it.

    Returns:
        Both parts, or None where there is nothing to read; the page says why.
    """
    # Brings torch, which a page that opens a model has by now.
    from workbench.core.prompts.corpus import CorpusError

    file = st.file_uploader(
        "Text of your own: .txt (documents between empty lines) or .jsonl (column text)",
        type=["txt", "jsonl"],
        help="It stays on this machine. Bundled models bring a corpus along.",
    )
    place = _linked() if file is None else _kept(file.getvalue(), Path(file.name).suffix)
    mark, name = card.fingerprint(model), "" if place is None else place.name
    try:
        corpus = _opened(mark, None if place is None else str(place), model)
        seen, held_out = _split(corpus, corpus.fingerprint)
    except CorpusError as error:
        show = st.info if place is None else st.error
        show(escaping.markdown(str(error)))
        return None
    except ValueError as error:
        st.error(escaping.markdown(f"{error}: give at least two documents."))
        return None
    if file is not None:
        st.query_params[QUERY] = name
    elif place is not None:
        st.button("Use the text that comes with the model instead", on_click=_leave)
    code = "bundled(model)" if place is None else f"open(model, {str(place)!r})"
    return Parted(seen, held_out, f"Corpus.{code}.split({SEEN})", name)


def _leave() -> None:
    """Take the own file out of the address."""
    st.query_params.pop(QUERY, None)


def _linked() -> Path | None:
    """The own file that the address names, if it is one that was kept here."""
    name = st.query_params.get(QUERY, "")
    place = _folder() / name
    return place if _KEPT_NAME.fullmatch(name) and place.is_file() else None


def _kept(content: bytes, suffix: str) -> Path:
    """Where a file of the reader's lies in the run folder."""
    place = _folder() / (hashlib.sha256(content).hexdigest()[:16] + suffix)
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(place, content)
    return place


def _folder() -> Path:
    return runs.default_root() / "corpora"


@st.cache_resource(max_entries=8, show_spinner=False)
def _opened(mark: str, path: str | None, _model: TransformerBridge) -> Corpus:
    """A corpus, made once and not at every click; a mark is the model's fingerprint."""
    del mark  # what the cache goes by
    from workbench.core.prompts.corpus import Corpus

    return Corpus.bundled(_model) if path is None else Corpus.open(_model, path)


@st.cache_resource(max_entries=8, show_spinner=False)
def _split(_corpus: Corpus, mark: str) -> tuple[Corpus, Corpus]:
    """Both parts, made once; a mark is the corpus's fingerprint."""
    del mark  # what the cache goes by
    return _corpus.split(SEEN)
