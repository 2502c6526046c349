"""Preflight on a page: one line of ticks that opens to the sentences and the aligned tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from workbench.ui import escaping
from workbench.ui import pairs as choosing

if TYPE_CHECKING:
    from workbench.core.engine.preflight import Preflight
    from workbench.core.prompts.pairs import ContrastPairs


def show(checks: Preflight, pairs: ContrastPairs) -> None:
    """Draw the line of ticks.

    Args:
        checks: Outcome of the preflight.
        pairs: What it was made for; one of them is shown token by token.
    """
    line = "  ".join(f"{check.mark} {check.name}" for check in checks.checks)
    with st.expander(escaping.markdown(line), expanded=not checks.passed):
        for check in checks.checks:
            sentence = escaping.markdown(f"{check.name}: {check.detail}")
            st.markdown(f"{check.mark} {sentence}")
        which = st.number_input("Pair", 1, len(pairs), 1, key=f"aligned:{pairs.digest()}") - 1
        st.dataframe(choosing.alignment_frame(pairs, which))
        right = ", ".join(map(repr, pairs.answer_strings[which]))
        wrong = ", ".join(map(repr, pairs.wrong_strings[which])) or "none"
        st.caption(escaping.markdown(f"correct answer: {right}; wrong answer: {wrong}"))
