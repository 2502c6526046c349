"""Choosing contrast pairs: from a named task, typed in, or from a file.

What is chosen is described by JSON types alone, so that it can be part of a job's key; the pairs
themselves are made in the job, since that needs the model's tokenizer.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from workbench.core.models import card
from workbench.core.prompts import tasks
from workbench.ui import escaping

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.core.prompts.pairs import ContrastPairs

_COLUMNS = ["clean", "corrupted", "answer", "wrong_answer"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Pairs that were asked for, not yet tokenized.

    Attributes:
        description: JSON types; equal descriptions make equal pairs for one model.
        content: A file's content, where the pairs come from a file.
    """

    description: dict[str, Any]
    content: bytes = b""

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
        if "task" in asked:
            return ContrastPairs.from_task(model, asked["task"], n=asked["n"], seed=asked["seed"])
        if "rows" in asked:
            return ContrastPairs.from_records(model, asked["rows"], name="typed pairs")
        return ContrastPairs.from_bytes(model, self.content, name=asked["file"])


def choose(model_name: str) -> Choice | None:
    """Draw the controls.

    Args:
        model_name: A bundled model's own tasks are offered first.

    Returns:
        What was chosen, or None while there is nothing to run.
    """
    source = st.segmented_control(
        "Pairs",
        ["named task", "typed", "file"],
        key="pairs",
        default="named task",
        required=True,
        bind="query-params",
    )
    if source == "typed":
        return _typed(model_name)
    if source == "file":
        return _file()
    return _task(model_name)


def _task(model_name: str) -> Choice:
    own = card.model_card(model_name).tasks if model_name in card.list_models() else ()
    names = [*own, *(name for name in tasks.TASKS if name not in own)]
    task, n, seed = st.columns([3, 1, 1])
    name = task.selectbox("Task", names, key="task", bind="query-params")
    count = n.number_input("Pairs", 1, 500, 32, key="n", bind="query-params")
    start = seed.number_input("Seed", 0, 2**31 - 1, 0, key="seed", bind="query-params")
    chosen = tasks.TASKS[name or names[0]]
    st.caption(escaping.markdown(f"{chosen.title}: {chosen.description}"))
    return Choice({"task": chosen.name, "n": int(count), "seed": int(start)})


def _typed(model_name: str) -> Choice | None:
    st.caption("One pair a row. Answers are the next token and keep their leading space.")
    start = pd.DataFrame([_example(model_name)], columns=_COLUMNS)
    table = st.data_editor(start, num_rows="dynamic", key=f"typed:{model_name}", hide_index=True)
    rows = table.fillna("").astype(str).to_dict("records")
    filled = [row for row in rows if any(value.strip() for value in row.values())]
    return Choice({"rows": filled}) if filled else None


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
        "wrong_answers. It is read on this machine and stays there.",
    )
    if uploaded is None:
        return None
    content = uploaded.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return Choice({"file": uploaded.name, "sha256": digest}, content)
