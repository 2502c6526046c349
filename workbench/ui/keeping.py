"""Says on every page when results are not kept, because their folder cannot be written."""

from __future__ import annotations

import streamlit as st

from workbench.ui import escaping


def warn() -> None:
    """Draw the warning, where there is something to warn of."""
    # Slow to import: the title of the first page is not to wait for it.
    from workbench.core import runs

    reason = runs.RunStore().not_kept
    if reason:
        st.warning(
            f"Nothing is kept: {escaping.markdown(reason)}. What is computed is shown, and gone "
            "when the server ends; the download buttons take it along."
        )
