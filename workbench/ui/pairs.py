"""Choosing contrast pairs: from a named task, typed in, from a file, or from the script that shows.

What is chosen is described by JSON types alone, so that it can be part of a job's key; the pairs
themselves are made in the job, since that needs the model's tokenizer. Prompts of different length
are refused unless the person asks for their alignment, which is then shown before the run.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from workbench.core.models import card
from workbench.core.prompts import tasks
from workbench.ui import addresses, escaping, shown

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

_SCRIPT = "from your script"
_SOURCES = ("named task", "typed", "file")
_COLUMNS = ["clean", "corrupted", "answer", "wrong_answer"]
_MARKS = {
    "same": "",
    "substituted": "≠",
    "only in clean": "clean only",
    "only in corrupted": "corrupted only",
}


@dataclasses.dataclass(frozen=True)
class Choice:
    """Pairs that were asked for, not yet tokenized.

    Attributes:
        description: JSON types; equal descriptions make equal pairs for one model.
        content: A file's content, where the pairs come from a file.
        made: The pairs themselves, where a script has made them.
    """

    description: dict[str, Any]
    content: bytes = b""
    made: ContrastPairs | None = None

    def make(self, model: TransformerBridge) -> ContrastPairs:
        """Tokenize the pairs for a model.

        Args:
            model: Whose tokenizer to use.

        Returns:
            The pairs.

        Raises:
            ValueError: If they cannot be compared; see `ContrastPairs`.
        """
        from workbench.core.prompts.pairs import ContrastPairs

        asked = self.description
        if self.made is not None:
            return self.made
        if "task" in asked:
            return ContrastPairs.from_task(model, asked["task"], n=asked["n"], seed=asked["seed"])
        align = asked.get("align", False)
        if "rows" in asked:
            rows = asked["rows"]
            return ContrastPairs.from_records(model, rows, name="typed pairs", align=align)
        return ContrastPairs.from_bytes(model, self.content, name=asked["file"], align=align)


def choose(model_name: str) -> Choice | None:
    """Draw the controls.

    Args:
        model_name: A bundled model's own tasks are offered first.

    Returns:
        What was chosen, or None while there is nothing to run.
    """
    made = shown.pairs_of(model_name)
    offered = [_SCRIPT, *_SOURCES] if made is not None else list(_SOURCES)
    if st.session_state.get("pairs", offered[0]) not in offered:
        # What a script had shown, before another model was picked.
        del st.session_state["pairs"]
    source = st.segmented_control(
        "Pairs", offered, key="pairs", default=offered[0], required=True, bind="query-params"
    )
    if made is not None and source == _SCRIPT:
        st.caption(escaping.markdown(f"{made.name}: {len(made)} pairs, as your script made them."))
        return Choice({"script": made.digest(), "name": made.name}, made=made)
    if source == "typed":
        return _typed(model_name)
    if source == "file":
        return _file()
    return _task(model_name)


def _task(model_name: str) -> Choice:
    own = card.model_card(model_name).tasks if model_name in card.list_models() else ()
    names = [*own, *(name for name in tasks.TASKS if name not in own)]
    task, n, seed = st.columns([3, 1, 1])
    name = addresses.pick("Task", names, query="task", place=task)
    count = n.number_input("Pairs", 1, 500, 32, key="n", bind=addresses.whole_number("n"))
    start = seed.number_input(
        "Seed", 0, 2**31 - 1, 0, key="seed", bind=addresses.whole_number("seed")
    )
    chosen = tasks.TASKS[name or names[0]]
    st.caption(escaping.markdown(f"{chosen.title}: {chosen.description}"))
    return Choice({"task": chosen.name, "n": int(count), "seed": int(start)})


def _typed(model_name: str) -> Choice | None:
    st.caption("One pair a row. Answers are the next token and keep their leading space.")
    start = pd.DataFrame([_example(model_name)], columns=_COLUMNS)
    table = st.data_editor(start, num_rows="dynamic", key=f"typed:{model_name}", hide_index=True)
    rows = table.fillna("").astype(str).to_dict("records")
    filled = [row for row in rows if any(value.strip() for value in row.values())]
    align = _ask_to_align()
    return Choice({"rows": filled, **align}) if filled else None


def _example(model_name: str) -> dict[str, str]:
    """A first row to start from: one that a bundled model understands, else an empty one."""
    if model_name not in card.list_models():
        return dict.fromkeys(_COLUMNS, "")
    (pair,) = tasks.get_task(card.model_card(model_name).tasks[0]).pairs(1)
    return {column: getattr(pair, column) for column in _COLUMNS}


def _file() -> Choice | None:
    uploaded = st.file_uploader(
        "CSV, JSONL or JSON",
        type=["csv", "jsonl", "json"],
        help="Columns clean,corrupted,answer,wrong_answer; or clean,corrupted,correct_idx,"
        "incorrect_idx with token ids; or JSON with prompts of clean, corrupt, answers and "
        "wrong_answers. JSONL and JSON may name positions: spans of names and texts. It is read on "
        "this machine and stays there.",
    )
    align = _ask_to_align()
    if uploaded is None:
        return None
    content = uploaded.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return Choice({"file": uploaded.name, "sha256": digest, **align}, content)


def _ask_to_align() -> dict[str, bool]:
    """What the toggle adds to a description: nothing while it is off."""
    on = st.toggle(
        "Align prompts of different length",
        key="align",
        bind="query-params",
        help="Match the tokens of the two prompts by their differences, with the spans of a file "
        "as anchors. Only matched positions are patched; the alignment is shown before the run.",
    )
    return {"align": True} if on else {}


def show_alignment(pairs: ContrastPairs) -> None:
    """Draw how the tokens of a chosen pair are matched; nothing where all lengths are equal.

    Args:
        pairs: What will be run; the first pair of different lengths is shown first.
    """
    if not pairs.aligned:
        return
    lengths = [pairs.lengths(i) for i in range(len(pairs))]
    unequal = [i for i, (clean, corrupted) in enumerate(lengths) if clean != corrupted]
    key, first = f"alignment:{pairs.digest()}", unequal[0] + 1
    which = st.number_input("Alignment of pair", 1, len(pairs), first, key=key) - 1
    st.dataframe(alignment_frame(pairs, which))
    count = len(pairs.columns(which))
    clean, corrupted = lengths[which]
    st.caption(
        escaping.markdown(
            f"{count} positions are matched, of {clean} clean and {corrupted} corrupted tokens; "
            f"only matched positions are patched. {len(unequal)} of {len(pairs)} pairs have "
            "prompts of different length."
        )
    )


def alignment_frame(pairs: ContrastPairs, which: int) -> pd.DataFrame:
    """Clean over corrupted tokens of a pair, matched ones above each other.

    Args:
        pairs: Any pairs; without an alignment each position is matched with itself.
        which: Index of the pair.

    Returns:
        A column for each matched position, named "2", or "2→3" where it has another index in the
        corrupted prompt, and for each token without a partner ("2→" clean, "→3" corrupted). Cells
        are text, which a dataframe shows as it is; the last row marks what differs.
    """
    table = pairs.alignment_table(which)
    columns: list[str] = []
    clean = corrupted = 0
    for row in table:
        in_clean, in_corrupted = row.status != "only in corrupted", row.status != "only in clean"
        same = in_clean and in_corrupted and clean == corrupted
        arrow = f"{clean if in_clean else ''}→{corrupted if in_corrupted else ''}"
        columns.append(str(clean) if same else arrow)
        clean, corrupted = clean + in_clean, corrupted + in_corrupted
    rows = [
        [row.clean for row in table],
        [row.corrupted for row in table],
        [_MARKS[row.status] for row in table],
    ]
    return pd.DataFrame(rows, index=["clean", "corrupted", ""], columns=columns)
